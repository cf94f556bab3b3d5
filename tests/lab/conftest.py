"""The quickstart lab, up once for all tests of a module, with each data plane; and the order of files.

`tests/run lab` has two workers, and gives them whole files in this order: most of the time labs wait. The two that keep
CPUs busy themselves, or bear no busy ones, come one after the other on one worker.
"""

import shutil
from pathlib import Path

import pytest

from appliance.lab.runner import Lab

ORDER = ("test_quickstart", "test_flows", "test_fleet_store", "test_topologies", "test_tier2")

TOPOLOGY = Path(__file__).resolve().parents[2] / "containerlab" / "quickstart.clab.yml"
PLANES = ("raw", "xdp")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.stem in ORDER else len(ORDER))


@pytest.fixture(scope="module", params=PLANES)
def plane(request):
    return request.param


@pytest.fixture(scope="module")
def lab(plane, tmp_path_factory):
    folder = tmp_path_factory.mktemp(plane)
    topology = Path(shutil.copy(TOPOLOGY, folder))
    shutil.copytree(TOPOLOGY.parent / "quickstart", folder / "quickstart")
    for config in folder.glob("quickstart/d?/onward.toml"):
        config.write_text(config.read_text().replace("[director]", f'[director]\nplane = "{plane}"'))
    with Lab.up(topology, name="quickstart-tests", reconfigure=True) as running:
        running.wait()
        yield running

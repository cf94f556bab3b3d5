"""The quickstart lab, up once for all tests of a module, with each data plane."""

import shutil
from pathlib import Path

import pytest

from appliance.lab.runner import Lab

TOPOLOGY = Path(__file__).resolve().parents[2] / "containerlab" / "quickstart.clab.yml"
PLANES = ("raw", "xdp")


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

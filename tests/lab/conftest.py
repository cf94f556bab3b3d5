"""The quickstart lab, up once for all tests of a module."""

from pathlib import Path

import pytest

from appliance.lab.runner import Lab

TOPOLOGY = Path(__file__).resolve().parents[2] / "containerlab" / "quickstart.clab.yml"


@pytest.fixture(scope="module")
def lab():
    with Lab.up(TOPOLOGY, name="quickstart-tests", reconfigure=True) as running:
        running.wait()
        yield running

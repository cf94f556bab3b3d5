"""The doctor on a lab with real members, tunnels and faults: the short form of `tests/run doctor`."""

import json
from pathlib import Path

import pytest

from appliance.cli.root import call
from tests.doctor.faults import FAULTS
from tests.doctor.lab import lab
from tests.doctor.run import failures, run

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def test_faults_are_named_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Faults that differ in kind are named on the first run; before the first and behind the last there is nothing."""
    faults = [fault for fault in FAULTS if fault.short]
    assert len(faults) >= 5
    with lab(tmp_path, other=False) as made:
        assert call(["doctor", "-o", "json", "--socket", str(made.socket)]) == 0
        document = json.loads(capsys.readouterr().out)
        assert failures(document) == frozenset()
        assert {one["member"]: one["dsr_capable"] for one in document["members"]} == dict.fromkeys(
            ("web/near", "web/far", "echo/near", "flat/near"), "yes"
        )
        for outcome in run(made, faults, afterwards=False):
            assert outcome.found == outcome.fault.named, (outcome.fault.what, outcome.texts)
        assert failures(made.doctor()) == frozenset()

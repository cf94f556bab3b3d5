"""The doctor on a lab with real members, tunnels and faults: the short form of `tests/run doctor`."""

from pathlib import Path

import pytest

from tests.doctor.faults import FAULTS
from tests.doctor.lab import lab
from tests.doctor.run import failures, run

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def test_faults_are_named_and_nothing_else(tmp_path: Path) -> None:
    """Faults that differ in kind are named on the first run; before and after each of them nothing is."""
    faults = [fault for fault in FAULTS if fault.short]
    assert len(faults) >= 5
    with lab(tmp_path, other=False) as made:
        document = made.doctor()
        assert failures(document) == frozenset(), document
        assert {one["member"]: one["dsr_capable"] for one in document["members"]} == dict.fromkeys(
            ("web/near", "web/far", "echo/near", "flat/near"), "yes"
        )
        for outcome in run(made, faults):
            assert (outcome.found, outcome.after) == (outcome.fault.named, frozenset()), (
                outcome.fault.what,
                outcome.texts,
            )

"""Random packets through the reference, the raw plane's paths and the XDP program: `tests/run fuzz` in short."""

import random
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from appliance.dataplane.raw.rules import FATES, KEEP_SHIFT, NOTHING
from appliance.packet.action import By
from appliance.packet.forward import forward
from tests.fuzz.compare import FRAMES, Comparison, draw_case
from tests.fuzz.findings import reduced, report, vector_file
from tests.fuzz.mutants import FEW, MUTANTS, Mutant, compile_mutant, hunt, mistaken
from tests.fuzz.run import run
from tests.vector_schema import violations
from tests.vectors_io import read, read_sequences

pytestmark = pytest.mark.root

FIXED = 1
PACKETS = 50_000
"""Of each of two runs; with --long three times as many."""
QUICKLY = 30 * FRAMES
"""Packets within which a gross mistake is found."""


@pytest.fixture(scope="module")
def comparison() -> Iterator[Comparison]:
    made = Comparison()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.timeout(300)
def test_nobody_disagrees(pytestconfig: pytest.Config) -> None:
    """Whatever the tables and the bytes: one verdict, reason, member and frame, and the same counters."""
    packets = PACKETS * (3 if pytestconfig.getoption("--long") else 1)
    chosen = random.SystemRandom().randrange(1 << 40)
    print(f"tests/run fuzz --seed {chosen} --packets {packets}")
    for first in (FIXED, chosen):
        total = run(first, packets, jobs=2)
        assert not total.reports, total.reports[0]
        assert total.packets >= packets
        slow = sum(count for way_out, count in total.exits.items() if way_out.startswith("slow_"))
        assert total.exits["transmit"] > total.packets // 10
        assert slow < total.packets // 2
        if first == FIXED:  # of few cases that chance has chosen there may be none with connection IDs, say
            seen = {"malformed", "no_service", "no_member", "too_big", "ttl_expired", "loop", "fragment"}
            seen |= {f"transmit by {by}" for by in By}
            assert seen <= {kind for kind, count in total.kinds.items() if count > 10}


@pytest.mark.timeout(600)  # looking for a simpler example takes minutes
@seed(20240607)
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(choices=st.randoms(use_true_random=False))
def test_nobody_disagrees_about_small_cases(comparison: Comparison, choices: random.Random) -> None:
    """The same with every choice made by Hypothesis, which looks for the simplest tables and frame that disagree."""
    case = draw_case(choices, 0, 12)
    findings = comparison.run(case)
    assert not findings, report(comparison, case, findings[0])


@pytest.mark.parametrize("name", FEW)
def test_mistakes_are_found(name: str, tmp_path: Path) -> None:
    """A program with a mistake is found out, and the few frames that show it say what is right."""
    mutant = next(one for one in MUTANTS if one.name == name)
    with mistaken(compile_mutant(mutant, tmp_path)) as wrong:
        case, finding, _ = hunt(wrong, FIXED, QUICKLY)
        assert finding is not None
        small, found = reduced(wrong, case, finding)
    assert len(small.frames) <= 3
    assert len(small.raw_tables[0]["services"]) <= len(case.raw_tables[0]["services"])
    text = vector_file(small, found)
    if len(small.frames) == 1:
        assert violations(text) == []
        (vector,) = read(text)
        assert forward(vector.frame, vector.tables, vector.ingress, vector.ident) == vector.action
    else:
        assert violations(text, "sequenceFile") == []
        (sequence,) = read_sequences(text)
        assert [step.frame for step in sequence.steps if step.action is not None] == small.frames


FORGETFUL = FATES & ~np.uint8(7 << KEEP_SHIFT) | np.uint8(NOTHING << KEEP_SHIFT)
"""Who takes each frame, and nothing is to be remembered of any."""

RAW_MISTAKES = {
    "vector._DONT_FRAGMENT": 0,
    "single._DONT_FRAGMENT": 0,
    "rules.RETRANSMISSION_TICKS": 4,
    "placing.RETRANSMISSION_TICKS": 4,
    "placing.FATES": FORGETFUL,
    "placing.FATE_LIST": FORGETFUL.tolist(),
}
"""Where in the raw plane, and what stands there wrongly. The first of each pair is for batches, the second for single
frames, which batches end in as well."""


@pytest.mark.parametrize("place", RAW_MISTAKES)
def test_mistakes_of_the_raw_plane_are_found(place: str) -> None:
    """Neither does a mistake in one of the raw plane's ways go unnoticed."""
    comparison = Comparison(compiled=None)
    with patch(f"appliance.dataplane.raw.{place}", RAW_MISTAKES[place]):
        _, finding, _ = hunt(comparison, FIXED, QUICKLY)
    assert finding is not None
    assert finding.implementation in ("vector", "single")


def test_mistakes_have_their_places(tmp_path: Path) -> None:
    """A seeded mistake whose line is not in the source any more is named instead of passing for one that was found."""
    with pytest.raises(ValueError, match=r"nowhere: balance\.bpf\.c has no 'no such text' any more"):
        compile_mutant(Mutant("nowhere", "balance.bpf.c", "no such text", ""), tmp_path)

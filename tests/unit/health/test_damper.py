"""The rise and fall filter."""

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from health.damper import Damper
from health.spec import Verdict


def verdicts(damper: Damper, results: str) -> list[str]:
    """The verdict after each result; `+` is a good one."""
    steps = accumulate(results, lambda state, result: state.after(result == "+"), initial=damper)
    return [state.verdict.value for state in list(steps)[1:]]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ("++", ["unknown", "up"]),
        ("---", ["unknown", "unknown", "down"]),
        ("+-+-++", ["unknown"] * 5 + ["up"]),
        ("++--+---", ["unknown", "up", "up", "up", "up", "up", "up", "down"]),
        ("---+-++", ["unknown", "unknown", "down", "down", "down", "down", "up"]),
    ],
)
def test_turns_after_a_run(results: str, expected: list[str]) -> None:
    """A verdict turns with the rise-th good or fall-th bad result in a row, and not before."""
    assert verdicts(Damper(rise=2, fall=3), results) == expected


def test_one_and_one_follows_every_result() -> None:
    """With rise and fall of one, each result is the verdict."""
    assert verdicts(Damper(rise=1, fall=1), "+-+") == ["up", "down", "up"]


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.lists(st.booleans(), max_size=200))
def test_turns_only_on_a_full_run(rise: int, fall: int, results: list[bool]) -> None:
    """Whatever came before, a turn to UP ends in `rise` good results, a turn to DOWN in `fall` bad ones."""
    damper = Damper(rise, fall)
    for count, good in enumerate(results, 1):
        after = damper.after(good)
        if after.verdict is not damper.verdict:
            needed = rise if after.verdict is Verdict.UP else fall
            assert results[max(0, count - needed) : count] == [after.verdict is Verdict.UP] * needed
            assert after.settled
        damper = after


def test_settled_means_that_the_latest_results_suffice() -> None:
    """An inherited verdict is not settled before its own run is complete."""
    inherited = Damper(rise=2, fall=2, verdict=Verdict.UP)
    assert not inherited.settled
    assert not inherited.after(True).settled
    assert inherited.after(True).after(True).settled
    assert inherited.after(False).verdict is Verdict.UP

"""The rise and fall filter."""

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from health.damper import Damper
from health.spec import Code, Result, Verdict

RESULTS = {
    "+": Result(Code.OK),
    "-": Result(Code.CONNECTION_REFUSED),
    "m": Result(Code.MAINTENANCE_RESPONSE_CODE_MATCH),
}


def verdicts(damper: Damper, results: str) -> list[str]:
    """The verdict after each result; `+` is a good one, `-` a bad one, in `m` the member says that it is worked on."""
    steps = accumulate(results, lambda state, result: state.after(RESULTS[result]), initial=damper)
    return [state.verdict.value for state in list(steps)[1:]]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ("++", ["unknown", "up"]),
        ("---", ["unknown", "unknown", "down"]),
        ("+-+-++", ["unknown"] * 5 + ["up"]),
        ("++--+---", ["unknown", "up", "up", "up", "up", "up", "up", "down"]),
        ("---+-++", ["unknown", "unknown", "down", "down", "down", "down", "up"]),
        ("++mmm", ["unknown", "up", "up", "up", "maintenance"]),
        ("++m-m", ["unknown", "up", "up", "up", "maintenance"]),
        ("++mm-", ["unknown", "up", "up", "up", "down"]),
        ("mmm--m---", ["unknown", "unknown", *["maintenance"] * 6, "down"]),
        ("---m", ["unknown", "unknown", "down", "maintenance"]),
        ("mmm++", ["unknown", "unknown", "maintenance", "maintenance", "up"]),
    ],
)
def test_turns_after_a_run(results: str, expected: list[str]) -> None:
    """A verdict turns with the rise-th good or fall-th bad result in a row, and not before."""
    assert verdicts(Damper(rise=2, fall=3), results) == expected


def test_one_and_one_follows_every_result() -> None:
    """With rise and fall of one, each result is the verdict."""
    assert verdicts(Damper(rise=1, fall=1), "+-+") == ["up", "down", "up"]


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.text("+-m", max_size=200))
def test_turns_only_on_a_full_run(rise: int, fall: int, results: str) -> None:
    """Whatever came before: to UP lead `rise` good results; away from it `fall` others, of which the last names the
    verdict; and from MAINTENANCE to DOWN `fall` bad ones."""
    damper = Damper(rise, fall)
    for count, result in enumerate(results, 1):
        after = damper.after(RESULTS[result])
        if after.verdict is not damper.verdict:
            needed = rise if after.verdict is Verdict.UP else fall
            run = results[max(0, count - needed) : count]
            assert len(run) == needed
            assert set(run) == {"+"} if after.verdict is Verdict.UP else "+" not in run
            if after.verdict is not Verdict.UP:
                assert (after.verdict is Verdict.MAINTENANCE) == (result == "m")
            if (damper.verdict, after.verdict) == (Verdict.MAINTENANCE, Verdict.DOWN):
                assert set(run) == {"-"}
            assert after.settled
        damper = after


def test_settled_means_that_the_latest_results_suffice() -> None:
    """An inherited verdict is not settled before its own run is complete."""
    inherited = Damper(rise=2, fall=2, verdict=Verdict.UP)
    assert not inherited.settled
    good, bad = RESULTS["+"], RESULTS["-"]
    assert not inherited.after(good).settled
    assert inherited.after(good).after(good).settled
    assert inherited.after(bad).verdict is Verdict.UP

"""What keeps us from asking."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.strain import AT_ONCE, BOUNDS_S, FILES, OTHER_FILES, Durations, Stalls, room


@pytest.mark.parametrize(("files", "expected"), [(1024, 256), (100, 1), (1 << 20, AT_ONCE)])
def test_room_follows_from_files(files: int, expected: int) -> None:
    """There is room for as many probes as files allow, never for more than the limit, and for one at least."""
    assert room(files) == expected


@given(st.integers(0, 1 << 20))
def test_room_never_takes_all_files(files: int) -> None:
    """Whatever the process may open, the rest of it keeps its own."""
    assert room(files) == 1 or room(files) * FILES + OTHER_FILES <= files


def test_lateness_counts_from_a_moment() -> None:
    """Beats that came too late are summed since a moment, without what was before it."""
    stalls = Stalls()
    for now, late_s in ((10.0, 1.0), (12.0, 0.01), (15.0, 2.0)):
        stalls.note(now, late_s)
    assert stalls.since(0.0) == 3.0
    assert stalls.since(9.5) == 2.5
    assert stalls.since(14.0) == 1.0
    assert stalls.since(15.0) == 0.0


@given(st.lists(st.floats(0, 100), max_size=50))
def test_durations_are_all_in_one_bucket_each(durations: list[float]) -> None:
    """Every duration is in the first bucket whose bound it does not exceed."""
    kept = Durations()
    for duration_s in durations:
        kept.add(duration_s)
    upper = [*BOUNDS_S, float("inf")]
    assert sum(kept.buckets) == len(durations)
    for count, bound in enumerate(upper):
        assert sum(kept.buckets[: count + 1]) == sum(duration_s <= bound for duration_s in durations)

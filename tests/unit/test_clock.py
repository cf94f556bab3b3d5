"""The time that decisions are made by."""

import time

from appliance.clock import steady


def test_it_begins_with_the_time_of_day_and_counts_on():
    """Whatever the machine's clock is set to afterwards, forwards or back."""
    wall, passed = 1_000_000.0, 50.0
    now = steady(lambda: wall, lambda: passed)
    assert now() == 1_000_000.0
    passed += 2.5
    wall += 1000
    assert now() == 1_000_002.5
    wall -= 5000
    assert now() == 1_000_002.5


def test_without_a_step_it_is_the_time_of_day():
    """By the machine's own clocks."""
    assert abs(steady()() - time.time()) < 1

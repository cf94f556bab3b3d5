"""What is missing of a peer's datagrams, by their numbers."""

import random

import pytest

from appliance.fleet.arrivals import PERIOD_NS, SILENCE_NS, Arrivals

MS = 1_000_000


@pytest.mark.parametrize("every", [2, 5, 20])
def test_the_share_that_is_lost(every):
    """Every so many numbers one is missing, which is known while they come, and forgotten when no more are."""
    arrivals = Arrivals()
    now = 0
    for number in range(7000, 9000):
        now += 5 * MS
        if number % every:
            arrivals.note(number, now)
            arrivals.missing(now)
    assert arrivals.missing(now) == pytest.approx(1 / every, abs=0.01)
    for number in range(9000, 9000 + 1000):
        now += 5 * MS
        arrivals.note(number, now)
        arrivals.missing(now)
    assert arrivals.missing(now) == 0


def test_order_does_not_matter():
    """Datagrams that overtake each other are not missing once all are here."""
    chance = random.Random(4)
    numbers = [base + step for base in range(100, 3000, 20) for step in chance.sample(range(20), 20)]
    arrivals = Arrivals()
    for at, number in enumerate([99, *numbers]):
        arrivals.note(number, at * MS)
    assert arrivals.missing(len(numbers) * MS) == 0


def test_one_alone_may_still_be_on_its_way():
    """Two are missing."""
    arrivals = Arrivals()
    arrivals.note(1, 0)
    arrivals.note(3, MS)
    assert arrivals.missing(2 * MS) == 0
    arrivals.note(5, 3 * MS)
    assert arrivals.missing(4 * MS) == 0.5


def test_silence():
    """A peer says something every second, so when nothing comes, all is lost; and there is none before the first."""
    arrivals = Arrivals()
    assert arrivals.missing(10 * PERIOD_NS) == 0
    arrivals.note(1, 0)
    assert arrivals.missing(SILENCE_NS) == 0
    assert arrivals.missing(SILENCE_NS + 1) == 1


def test_numbers_that_jump():
    """A peer that had us out of its configuration goes on with much higher numbers: nothing is missing."""
    arrivals = Arrivals()
    arrivals.note(1, 0)
    arrivals.note(1 << 40, MS)
    assert arrivals.missing(2 * MS) == 0
    arrivals.note((1 << 40) + 1, 3 * MS)
    assert arrivals.missing(4 * MS) == 0

"""Members that come and go."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.flapping import PENALTY, flapped, held, penalty, reuse_at, went_down
from appliance.model import Flapping

TERMS = Flapping()
GAPS = st.lists(st.floats(0.1, 5000), min_size=1, max_size=40)
ANY = st.builds(
    lambda half_life_s, reuse, above: Flapping(half_life_s, reuse + above, reuse),
    st.floats(1, 3600),
    st.floats(1, 5000),
    st.floats(1, 5000),
)


@pytest.mark.parametrize(
    ("downs", "is_held"),
    [
        ((0,), False),
        ((0, 40), False),  # a restart that had to be repeated
        ((0, 40, 80), True),
        ((0, 300, 600), False),
        ((0, 100, 200, 300), True),
        (tuple(range(0, 36_000, 600)), False),  # once in ten minutes, for ever
    ],
)
def test_what_the_defaults_hold(downs, is_held):
    """A restart or two is not held against a member; going down three times within some minutes is."""
    flap = flapped(downs, TERMS)
    assert flap is not None
    assert (reuse_at(flap, TERMS) > downs[-1]) is is_held


def test_a_penalty_halves_and_the_member_returns():
    """After a half-life half of a penalty is left; a held member is taken again when it falls below the threshold."""
    flap = flapped((0.0, 10.0, 20.0), TERMS)
    assert penalty(flap, TERMS, 20.0 + TERMS.half_life_s) == pytest.approx(flap.penalty / 2)
    ends = reuse_at(flap, TERMS)
    assert penalty(flap, TERMS, ends) == pytest.approx(TERMS.reuse)
    assert held({"a": flap}, TERMS, frozenset("abc"), ends - 1) == {"a": flap}
    assert held({"a": flap}, TERMS, frozenset("abc"), ends) == {}


def test_who_is_held_stays_so_until_the_lower_threshold():
    """Between the thresholds it depends on where a member comes from."""
    flap = flapped((0.0, 10.0, 20.0), TERMS)
    between = 20.0 + TERMS.half_life_s
    assert TERMS.reuse < penalty(flap, TERMS, between) < TERMS.suppress
    assert reuse_at(flap, TERMS) > between
    once = flapped((0.0,), Flapping(300.0, 2500.0, 500.0))
    assert penalty(once, TERMS, 0.0) == PENALTY > 500.0
    assert reuse_at(once, Flapping(300.0, 2500.0, 500.0)) < 0.0


@given(ANY, GAPS)
def test_nobody_is_held_for_ever(terms, gaps):
    """However often a member goes down, the penalty stays within bounds, and once it has been well for as many
    half-lives as lead from the ceiling to the threshold, it is taken."""
    flap = None
    for now in accumulate(gaps):
        before = flap
        flap = went_down(flap, terms, now)
        assert PENALTY <= flap.penalty <= max(2 * terms.suppress, PENALTY)
        if before is not None:
            assert flap.penalty >= penalty(before, terms, now)
        assert not (flap.penalty > terms.suppress and not flap.suppressed)
        assert reuse_at(flap, terms) <= now + 60 * terms.half_life_s
        calm = now + 60 * terms.half_life_s
        assert held({"a": flap}, terms, frozenset("ab"), calm) == {}


@given(ANY, GAPS)
def test_time_only_forgives(terms, gaps):
    """Without further downs a penalty never grows, and who is not held is not held later."""
    flap = flapped(accumulate(gaps), terms)
    moments = [flap.at + passed for passed in accumulate([0.0, *gaps])]
    left = [penalty(flap, terms, now) for now in moments]
    assert left == sorted(left, reverse=True)
    holds = [bool(held({"a": flap}, terms, frozenset("ab"), now)) for now in moments]
    assert holds == sorted(holds, reverse=True)


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_most_of_a_pool_is_never_held(flapping, up):
    """When more than half of the members that are up would be held, none is."""
    flap = flapped((0.0, 1.0, 2.0), TERMS)
    flaps = {str(number): flap for number in flapping}
    names = frozenset(map(str, up))
    found = held(flaps, TERMS, names, 3.0)
    assert found == (flaps if 2 * len(flapping & up) <= len(up) else {})
    assert 2 * len(found.keys() & names) <= len(names)


def test_a_pool_may_take_members_as_they_are():
    """Without terms nobody is held."""
    assert held({"a": flapped((0.0, 1.0, 2.0), TERMS)}, None, frozenset("ab"), 3.0) == {}

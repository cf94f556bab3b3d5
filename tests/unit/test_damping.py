"""VIPs that come and go: withdrawn at once each time, and announced again only when they have been well for a while."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from appliance.damping import FLAPS, WITHIN_S, Record, follow, held_until
from appliance.decide import Desired, Why, decide
from appliance.model import Drain, Health
from tests.builders import config, snapshot

DOWN = {f"web/web{number}": Health.DOWN for number in (1, 2, 3)}
HOLD_S = 10.0


class Vip:
    """One director's only VIP over time."""

    def __init__(self, hold_down_s: float = HOLD_S) -> None:
        given_config = config()
        assert given_config.bgp is not None
        self.config = replace(given_config, bgp=replace(given_config.bgp, hold_down_s=hold_down_s))
        self.now = 1000.0
        self.desired: Desired | None = None

    def is_(self, health: dict[str, Health], after: float = 1.0, **changes: object) -> Why | None:
        self.now += after
        self.desired = decide(snapshot(self.config, health, **changes), self.desired, self.now)
        (view,) = self.desired.vips
        assert bool(self.desired.routes) == (view.no is None)
        return view.no.why if view.no else None

    def flaps(self, times: int) -> None:
        for _ in range(times):
            assert self.is_({}) is None
            assert self.is_(DOWN) is Why.BELOW_MIN_MEMBERS


def test_the_third_time_within_a_minute_it_has_to_be_well_first():
    """Two are free; then the decision says when it is announced, and comes back to it by itself."""
    vip = Vip()
    vip.flaps(FLAPS - 1)
    assert vip.is_({}) is None
    assert vip.is_(DOWN) is Why.BELOW_MIN_MEMBERS
    assert vip.is_({}) is Why.HELD_DOWN
    assert vip.desired is not None
    assert vip.desired.recheck_at == vip.desired.vips[0].held_until == vip.now + HOLD_S
    assert "withdrawn 3 times in a minute; to be well for 10 s first" in str(vip.desired.vips[0].no)
    assert vip.is_({}, HOLD_S - 0.1) is Why.HELD_DOWN
    assert vip.is_({}, 0.2) is None
    assert vip.is_({}, 1.0) is None


def test_trouble_while_it_is_held_down_begins_the_time_anew():
    """It has to be well for all of the time."""
    vip = Vip()
    vip.flaps(FLAPS)
    assert vip.is_({}) is Why.HELD_DOWN
    assert vip.is_(DOWN, HOLD_S - 1) is Why.BELOW_MIN_MEMBERS
    assert vip.is_({}) is Why.HELD_DOWN
    assert vip.is_({}, HOLD_S - 0.1) is Why.HELD_DOWN
    assert vip.is_({}, 0.2) is None


def test_what_is_long_ago_does_not_count():
    """Once a minute is no flapping."""
    vip = Vip()
    for _ in range(5):
        assert vip.is_({}, WITHIN_S / 2) is None
        assert vip.is_(DOWN) is Why.BELOW_MIN_MEMBERS
    assert vip.is_({}) is None


def test_orders_and_configurations_are_no_trouble():
    """Whoever drains and undrains a director is not kept waiting; and without a hold-down nobody is."""
    vip = Vip()
    over = Vip(0.0)
    over.flaps(5)
    assert over.is_({}) is None
    for _ in range(5):
        assert vip.is_({}) is None
        assert vip.is_({}, drain=Drain(0.0, 0.0, "over")) is Why.DRAINED
    assert vip.is_({}) is None


def test_an_order_ends_what_is_held_against_a_vip():
    """Who has flapped once is not kept waiting after every maintenance from then on."""
    vip = Vip()
    vip.flaps(FLAPS)
    assert vip.is_({}) is Why.HELD_DOWN
    assert vip.is_({}, HOLD_S) is None
    assert vip.is_({}, 3600.0, drain=Drain(0.0, 0.0, "over")) is Why.DRAINED
    assert vip.is_({}) is None
    assert vip.is_(DOWN) is Why.BELOW_MIN_MEMBERS
    assert vip.is_({}) is None


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 40.0)), max_size=60))
def test_it_is_never_held_longer_than_it_was_well(course):
    """Whatever happens: who has been well for the hold-down is announced, and who is not well is not held but down."""
    record, announced, now, well_since = Record(), False, 0.0, None
    for well, passed in course:
        now += passed
        well_since = (now if well_since is None else well_since) if well else None
        record = follow(record, now, well=well, fell=announced and not well)
        held = held_until(record, HOLD_S, now)
        announced = well and held is None
        if well_since is None:
            assert held is None
        elif now - well_since >= HOLD_S:
            assert announced
        else:
            assert held in (None, well_since + HOLD_S)

"""Clients' handshakes as one direction shows them, on a real table of pins; and members that differ from their pool."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from appliance.dataplane.pins import PinTable
from appliance.decide import decide
from appliance.forwarding import NO_MEMBER
from appliance.packet.placement import FlowFacts, Pin, PinState
from appliance.passive import BUCKET_NS, BUCKETS, HOLD_S, LEAST, PATIENCE_NS, Handshakes, Held, Passive, outliers
from tests.builders import config, pool, service, snapshot

SECOND = 1_000_000_000
VIP = bytes([198, 51, 100, 7])
KEY = "web", "web/web1"


class Plane:
    """Pins, a clock, and somebody who looks at them."""

    def __init__(self) -> None:
        self.now_ns = 100 * SECOND
        self.pins = PinTable.in_memory(64, lambda: self.now_ns)
        self.passive = Passive()

    def packet(self, port: int, state: PinState, *, opened: bool = True) -> None:
        flow = FlowFacts(bytes([192, 0, 2, 5]), VIP, port.to_bytes(2, "big") + b"\0\x50", 6, port << 33 | port, 0, 300)
        self.pins.keep(Pin(1, state), replace(flow, opened=int(opened)), self.pins.now())

    def look(self, after_s: float = 1.0) -> Handshakes:
        self.now_ns += int(after_s * SECOND)
        live = self.pins.live()
        services = np.zeros(len(live), np.int64)
        self.passive.look(live, services, {0: "web"}, {1: "web/web1"}, self.pins.delays, self.now_ns)
        return self.passive.handshakes().get(KEY, Handshakes())


def test_a_handshake_that_comes_about_is_counted_once() -> None:
    """With the time from SYN to ACK, however often it is looked at, and nothing before it is known."""
    plane = Plane()
    plane.packet(4000, PinState.NEW)
    assert plane.look(0.25).begun == 0
    plane.packet(4000, PinState.OPEN)
    assert plane.look() == Handshakes(1, 1, response_s=0.25)
    assert plane.look() == Handshakes(1, 1, response_s=0.25)
    plane.packet(4000, PinState.RST)
    assert plane.look() == Handshakes(1, 1, reset=1, response_s=0.25)
    assert plane.look(0.5).reset == 1


def test_a_client_that_repeats_its_syn_has_got_no_answer() -> None:
    """Counted once, however often it tries, and also when it succeeds in the end."""
    plane = Plane()
    for wait_s in (4.0, 4.0, 8.0):
        plane.packet(4000, PinState.NEW)
        plane.look(wait_s)
    plane.packet(4000, PinState.OPEN)
    seen = plane.look()
    assert (seen.begun, seen.repeated, seen.stuck, seen.completed) == (1, 1, 0, 0)


def test_a_client_that_falls_silent_after_one_syn_is_stuck() -> None:
    """Not before it had the time to repeat it."""
    plane = Plane()
    plane.packet(4000, PinState.NEW)
    assert plane.look(PATIENCE_NS / SECOND - 1).begun == 0
    assert plane.look(2.0) == Handshakes(1, stuck=1)
    assert plane.look() == Handshakes(1, stuck=1)


def test_flows_from_before_are_no_handshakes() -> None:
    """What is remembered in the middle of a connection says nothing of how it began."""
    plane = Plane()
    plane.packet(4000, PinState.NEW, opened=False)
    plane.packet(4001, PinState.OPEN, opened=False)
    assert plane.look(20) == Handshakes()


def test_what_is_old_is_forgotten() -> None:
    """The last minutes count."""
    plane = Plane()
    plane.packet(4000, PinState.NEW)
    plane.look()
    plane.packet(4000, PinState.OPEN)
    assert plane.look().completed == 1
    assert plane.look(BUCKET_NS * (BUCKETS + 1) / SECOND) == Handshakes()


def test_a_part_of_the_slots_is_remembered_where_it_is_anyway() -> None:
    """The same part on every director, at the members that have them, and the same array as long as nothing changes."""
    watched = replace(pool(), passive_share=0.01)
    plain, seen = (decide(snapshot(config(service(pool=one)))) for one in (pool(), watched))
    before, after = plain.tables.services[0].slots, seen.tables.services[0].slots
    assert np.array_equal(before & 0xFFFF, after & 0xFFFF)
    changed = np.flatnonzero(before != after)
    assert np.array_equal(changed, np.arange(0, len(before), 100))
    assert set((after[changed] >> 16).tolist()) == {NO_MEMBER}
    again = decide(snapshot(config(service(pool=watched))), seen)
    assert again.tables.services[0].slots is after
    assert decide(snapshot(config(service(pool=watched)))).tables.same(seen.tables)


TIMES = st.floats(0.0005, 2.0)
COUNTS = st.integers(0, 200)


def sample(begun: int, repeated: int, stuck: int, reset: int, seconds: float | None) -> Handshakes:
    begun = max(begun, repeated + stuck)
    return Handshakes(begun, begun - repeated - stuck, repeated, stuck, reset, seconds)


SAMPLES = st.builds(sample, COUNTS, st.integers(0, 20), st.integers(0, 20), COUNTS, st.one_of(st.none(), TIMES))
POOLS = st.dictionaries(st.sampled_from([f"web/web{n}" for n in range(12)]), SAMPLES, max_size=12)


@given(one=SAMPLES, count=st.integers(0, 10))
def test_equal_members_are_no_outliers(one: Handshakes, count: int) -> None:
    """However bad all of them are: that is not a member's doing."""
    assert outliers({f"web/web{n}": one for n in range(count)}) == {}


@given(members=POOLS)
def test_outliers_are_the_fewer_and_have_enough_handshakes(members: Mapping[str, Handshakes]) -> None:
    """By each measure at most half of those that can be compared; and the order of members does not matter."""
    found = outliers(members)
    known = {name for name, one in members.items() if one.begun >= LEAST}
    assert set(found) <= known
    for word in ("fail", "reset", "take"):
        assert 2 * sum(word in text for text in found.values()) <= len(known)
    assert outliers(dict(reversed(members.items()))) == found


@given(
    count=st.integers(4, 12), times=st.lists(st.floats(0.001, 0.002), min_size=12, max_size=12), late=st.floats(0.1, 2)
)
def test_one_that_is_late_is_found(count: int, times: list[float], late: float) -> None:
    """Among members that are alike, one that takes many times as long, and nobody else."""
    alike = {f"web/web{n}": Handshakes(50, 50, response_s=times[n]) for n in range(count)}
    assert set(outliers(alike | {"web/late": Handshakes(50, 50, response_s=late)})) == {"web/late"}


@given(first=SAMPLES, second=SAMPLES)
def test_sums_keep_counts_and_the_mean_time(first: Handshakes, second: Handshakes) -> None:
    """Sums of parts are what the whole would be."""
    both = first + second
    assert both.begun == first.begun + second.begun
    if both.response_s is not None and first.response_s is not None and second.response_s is not None:
        low, high = sorted((first.response_s, second.response_s))
        assert low * 0.999 <= both.response_s <= high * 1.001


def test_an_outlier_is_held_until_it_was_none_for_a_while() -> None:
    """With the reason from the beginning; members that nobody wants to hold are not."""
    fine, bad = Handshakes(100, 100), Handshakes(100, 10, 90)
    worse = Handshakes(100, 5, 95)
    members = [f"web/web{n}" for n in range(4)]
    wanted, keys = set(members), [("web", member) for member in members]
    well = dict.fromkeys(keys, fine)
    held = Held()
    assert held.look(well, wanted, 0.0) == {}
    why = held.look(well | {keys[0]: bad}, wanted, 1.0)["web/web0"]
    assert why == "90% of its handshakes fail, 0% at the median member"
    assert held.look(well | {keys[0]: worse}, wanted, 100.0) == {"web/web0": why}
    assert held.look(well, wanted, 99.9 + HOLD_S) == {"web/web0": why}
    assert held.look(well, wanted, 100.0 + HOLD_S) == {}
    assert held.look(well | {keys[0]: bad}, set(), 500.0) == {}

"""The table of pins, against a dictionary that does the same without sets, words and columns."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.dataplane.pins import (
    FLOW,
    JOURNAL,
    LOCAL,
    REMOTE,
    WAYS,
    WHEN_MASK,
    PinTable,
    addresses,
    layout,
    lifetime,
    lifetimes,
    pack,
)
from appliance.packet.placement import FlowFacts, Pin, PinState, is_live

TICK_NS = 1 << 30
IDLES = (0, 2, 10, 70)
CLIENT, VIP = b"\xc0\0\2\1", bytes.fromhex("20010db8000f00000000000000000007")


class Clock:
    def __init__(self, tick: int = 30000) -> None:
        self.ns = tick * TICK_NS

    def __call__(self) -> int:
        return self.ns

    @property
    def tick(self) -> int:
        return self.ns // TICK_NS


def flow_of(number: int) -> int:
    """The hash of some flow; they are spread over all sets."""
    return number * 0x9E3779B97F4A7C15 + 0x1234567890ABCDEF & (1 << 64) - 1


def facts(hash64: int, idle: int = 10, *, opened: bool = False, origin: int = LOCAL) -> FlowFacts:
    return FlowFacts(CLIENT, CLIENT, b"\0\1\0\2", 6, hash64, hash64 >> 40, idle, opened, origin)


def contents(pins: PinTable, clock: Clock) -> dict[int, Pin]:
    """All entries by flow, as `find` has them."""
    flows = pins.flows["hash64"][np.flatnonzero(pins.words)].tolist()
    found = {hash64: pins.find(hash64, clock.tick) for hash64 in flows}
    assert len(found) == len(flows)
    return {hash64: entry[1] for hash64, entry in found.items() if entry is not None}


def records(
    told: Sequence[tuple[int, int, PinState, int, int]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Columns for `merge`, from (hash64, member, state, age, idle)."""
    flows = np.zeros(len(told), FLOW)
    flows["hash64"] = [one[0] for one in told]
    flows["idle"] = [one[4] for one in told]
    flows["protocol"], flows["opened"] = 6, 1
    return (
        np.array([one[1] for one in told], np.uint16),
        np.array([one[2] for one in told], np.uint8),
        np.array([one[3] for one in told], np.int64),
        flows,
    )


def goes_first(pin: Pin, idle: int) -> tuple[int, int]:
    """What is given up first has the highest."""
    if not is_live(pin, idle):
        return 4, pin.age
    return {PinState.RST: 3, PinState.FIN: 2, PinState.NEW: 1, PinState.OPEN: 0}[pin.state], pin.age


@dataclass
class Model:
    """What is remembered, and what may be given up for it."""

    sets: int
    entries: dict[int, tuple[int, PinState, int, int]] = field(default_factory=dict)
    """By flow: member, state, tick of last use, idle timeout."""

    def pin(self, hash64: int, tick: int) -> Pin:
        member, state, when, _ = self.entries[hash64]
        return Pin(member, state, tick - when)

    def set_of(self, hash64: int) -> int:
        return (hash64 >> 32) * self.sets >> 32

    def keep(self, hash64: int, pin: Pin, idle: int, tick: int, there: set[int]) -> None:
        """*there*: flows of the table afterwards."""
        neighbours = [one for one in self.entries if self.set_of(one) == self.set_of(hash64)]
        if hash64 not in self.entries and len(neighbours) == WAYS:
            gone = set(neighbours) - there
            assert len(gone) == 1
            (victim,) = gone
            worth = {one: goes_first(self.pin(one, tick), self.entries[one][3]) for one in neighbours}
            assert worth[victim] == max(worth.values())
            del self.entries[victim]
        _, _, _, known_idle = self.entries.get(hash64, (0, 0, 0, idle))
        # The idle timeout is written down with the flow: when it gets a place, another member, or begins anew.
        rewritten = (
            hash64 not in self.entries
            or self.entries[hash64][0] != pin.member
            or (pin.state is PinState.NEW and pin.age == 0)
        )
        self.entries[hash64] = pin.member, pin.state, tick - pin.age, idle if rewritten else known_idle


KEEP = st.tuples(
    st.just("keep"), st.integers(0, 20), st.integers(0, 5), st.sampled_from(PinState), st.sampled_from(IDLES)
)
OPERATIONS = st.lists(
    KEEP | KEEP | KEEP | st.tuples(st.just("wait"), st.integers(0, 40)) | st.tuples(st.just("sweep")), max_size=80
)
FILLED = st.permutations([("keep", number, 1, PinState.OPEN, 70) for number in range(WAYS)])


@given(st.just([]) | FILLED, OPERATIONS, st.sampled_from((1, 2)), st.sampled_from((30000, WHEN_MASK - 5)))
def test_any_sequence_of_operations_does_what_a_dictionary_does(
    first: list[tuple], operations: list[tuple], sets: int, begin: int
) -> None:
    """Flows are found with what was last said of them; full sets give up the right one; sweeps take what is over."""
    clock = Clock(begin)
    pins, model = PinTable.in_memory(sets * WAYS, clock), Model(sets)
    for operation in [*first, *operations]:
        match operation:
            case "keep", number, member, state, idle:
                hash64, pin = flow_of(number), Pin(member, state)
                pins.keep(pin, facts(hash64, idle), clock.tick)
                model.keep(hash64, pin, idle, clock.tick, set(contents(pins, clock)))
            case "wait", ticks:
                clock.ns += ticks * TICK_NS
            case _:
                over = [
                    hash64
                    for hash64, (member, state, when, idle) in model.entries.items()
                    if not is_live(Pin(member, state, max(0, clock.tick - when - 1)), idle)
                ]
                assert pins.sweep() == len(over)
                for hash64 in over:
                    del model.entries[hash64]
        assert contents(pins, clock) == {hash64: model.pin(hash64, clock.tick) for hash64 in model.entries}
    live = pins.live()
    wanted = {one for one, (*_, idle) in model.entries.items() if is_live(model.pin(one, clock.tick), idle)}
    assert dict(
        zip(live.flows["hash64"].tolist(), zip(live.member, live.state, live.age, strict=True), strict=True)
    ) == {one: (pin.member, pin.state, pin.age) for one in wanted for pin in [model.pin(one, clock.tick)]}
    serves = np.zeros(1 << 16, np.bool_)
    serves[2] = True
    assert set(pins.live(serves).member.tolist()) <= {2}
    assert len(pins.live(serves)) == live.member.tolist().count(2)


@given(st.sampled_from(PinState), st.integers(0, 0xFFFF), st.integers(0, WHEN_MASK))
def test_lifetimes_are_those_of_the_rules(state: PinState, idle: int, age: int) -> None:
    """One by one and as columns, an entry counts as long as `is_live` says."""
    wanted = is_live(Pin(1, state, age), idle)
    assert (age <= lifetime(state, idle)) == wanted
    column = lifetimes(np.array([state, PinState.RST], np.uint8), np.array([idle, 5], np.uint16))
    assert bool(age <= column[0]) == wanted


def test_what_is_given_up_is_counted_by_state() -> None:
    """Live entries that make room are counted, empty places and entries that are over are not."""
    clock = Clock()
    pins = PinTable.in_memory(WAYS, clock)
    for number in range(WAYS):
        pins.keep(Pin(1, PinState.NEW), facts(flow_of(number)), clock.tick)
    assert sum(pins.evicted.values()) == 0
    pins.keep(Pin(1, PinState.FIN), facts(flow_of(3)), clock.tick)
    pins.keep(Pin(1, PinState.NEW), facts(flow_of(100)), clock.tick)
    pins.keep(Pin(1, PinState.NEW), facts(flow_of(101)), clock.tick)
    assert pins.find(flow_of(3), clock.tick) is None
    assert pins.evicted == {PinState.NEW: 1, PinState.OPEN: 0, PinState.FIN: 1, PinState.RST: 0}
    assert (pins.made, pins.told) == (WAYS + 2, 0)
    clock.ns += 20 * TICK_NS
    pins.keep(Pin(1, PinState.NEW), facts(flow_of(102)), clock.tick)
    assert sum(pins.evicted.values()) == 2


def test_the_journal_has_what_is_new() -> None:
    """Flows that get a place, another member or begin anew are in it; those that merely go on are not."""
    clock = Clock()
    pins = PinTable.in_memory(64, clock)
    cursors = np.zeros(1, np.uint64)

    def news() -> tuple[list[int], bool]:
        nonlocal cursors
        positions, cursors, lost = pins.changes(cursors)
        return pins.flows["hash64"][positions].tolist(), lost

    pins.keep(Pin(1, PinState.NEW), facts(flow_of(1)), clock.tick)
    pins.keep(Pin(1, PinState.NEW), facts(flow_of(2)), clock.tick)
    assert news() == ([flow_of(1), flow_of(2)], False)
    pins.keep(Pin(1, PinState.OPEN), facts(flow_of(1)), clock.tick)
    assert news() == ([], False)
    pins.keep(Pin(2, PinState.OPEN), facts(flow_of(1)), clock.tick)
    pins.keep(Pin(1, PinState.NEW), facts(flow_of(2)), clock.tick)
    assert news() == ([flow_of(1), flow_of(2)], False)
    for number in range(JOURNAL + 10):
        pins.keep(Pin(number % 2, PinState.NEW), facts(flow_of(3)), clock.tick)
    flows, lost = news()
    assert lost
    assert set(flows) == {flow_of(3)}


def test_handshakes_are_timed() -> None:
    """From the SYN that opened a flow to the client's next packet; flows that were met in the middle do not count."""
    clock = Clock()
    pins = PinTable.in_memory(64, clock)
    pins.keep(Pin(7, PinState.NEW), facts(flow_of(1), opened=True), clock.tick)
    pins.keep(Pin(7, PinState.NEW), facts(flow_of(2)), clock.tick)
    clock.ns += 250
    for number in (1, 2, 1):
        pins.keep(Pin(7, PinState.OPEN), facts(flow_of(number)), clock.tick)
    assert pins.delays[7].tolist() == (1, 250)


def test_an_entry_of_the_next_tick_is_young() -> None:
    """Who looked at the clock a little later may write while we still count: that is no flow from hours ago."""
    clock = Clock()
    pins = PinTable.in_memory(WAYS, clock)
    pins.keep(Pin(7, PinState.OPEN), facts(flow_of(1)), clock.tick + 1)
    pins.keep(Pin(7, PinState.OPEN), facts(flow_of(2)), clock.tick)
    assert pins.sweep() == 0
    assert pins.live().age.tolist() == [0, 0]
    assert pins.find(flow_of(1), clock.tick) == (pins.find_word(flow_of(1))[0], Pin(7, PinState.OPEN))
    for number in range(3, 3 + WAYS - 1):
        pins.keep(Pin(7, PinState.OPEN), facts(flow_of(number)), clock.tick)
    assert pins.evicted[PinState.OPEN] == 1
    assert len(pins.live()) == WAYS


def test_a_record_of_another_flow_is_not_told() -> None:
    """Where word and record do not belong together, as they may for a moment, the entry is left out."""
    clock = Clock()
    pins = PinTable.in_memory(64, clock)
    for number in (1, 2):
        pins.keep(Pin(7, PinState.NEW), facts(flow_of(number)), clock.tick)
    place, _ = pins.find_word(flow_of(1))
    pins.flows[place]["hash64"] = flow_of(9)
    live = pins.live()
    assert live.flows["hash64"].tolist() == [flow_of(2)]
    assert len(live.member) == len(live.state) == len(live.age) == len(live.position) == 1


def test_addresses_come_out_as_they_went_in() -> None:
    """Both families, from the records' columns."""
    pins = PinTable.in_memory(64, Clock())
    for number, address in enumerate((CLIENT, VIP)):
        flow = FlowFacts(address, address, bytes(4), 6, flow_of(number), 0, 10)
        pins.keep(Pin(1, PinState.NEW), flow, 30000)
    assert sorted(addresses(pins.live().flows["source"])) == sorted([CLIENT, VIP])


def test_the_program_s_memory_is_used_as_it_is() -> None:
    """A table over given arrays writes into them, with the last of several journals."""
    clock = Clock()
    memory = {name: np.zeros(count, dtype) for name, (dtype, count) in layout(100, 3).items()}
    pins = PinTable(memory, writer=2, clock_ns=clock)
    assert pins.capacity == 104
    pins.keep(Pin(5, PinState.OPEN), facts(flow_of(1)), clock.tick)
    (place,) = np.flatnonzero(memory["words"]).tolist()
    assert int(memory["words"][place]) == pack(flow_of(1) & 0xFFFFFFFF, 5, PinState.OPEN, clock.tick)
    assert memory["heads"].tolist() == [0, 0, 1]
    memory["journal"].reshape(3, JOURNAL)[0, 0] = 17
    memory["heads"][0] = 1
    positions, cursors, lost = pins.changes(np.zeros(3, np.uint64))
    assert (positions.tolist(), cursors.tolist(), lost) == ([17, place], [1, 0, 1], False)


def test_of_two_entries_of_a_flow_the_first_counts() -> None:
    """A program and we may both have put a flow into its set: one by one and as columns the same one is found."""
    clock = Clock()
    pins = PinTable.in_memory(WAYS, clock)
    pins.words[2] = pack(flow_of(1) & 0xFFFFFFFF, 5, PinState.OPEN, clock.tick)
    pins.words[6] = pack(flow_of(1) & 0xFFFFFFFF, 6, PinState.OPEN, clock.tick)
    found = pins.find_all(np.array([flow_of(2), flow_of(1)], np.uint64))
    assert found.positions()[1] == 2
    assert found.word.tolist() == [0, int(pins.words[2])]
    assert pins.find_word(flow_of(1)) == (2, int(pins.words[2]))


def test_a_hash_without_a_lower_half_is_a_flow_like_others() -> None:
    """Its tag would be that of an empty place."""
    clock = Clock()
    pins = PinTable.in_memory(WAYS, clock)
    hashes = np.array([5 << 32, flow_of(1)], np.uint64)
    assert pins.find_all(hashes).word.tolist() == [0, 0]
    pins.keep(Pin(5, PinState.OPEN), facts(5 << 32), clock.tick)
    assert pins.find_all(hashes).word.tolist() == [pins.find_word(5 << 32)[1], 0]
    assert len(pins.live()) == 1


# Told by another director

TOLD = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 3), st.sampled_from(PinState)), min_size=1, max_size=30
).map(
    # No two of the same age, and none of them over.
    lambda rows: [
        (flow_of(flow), member, state, age if state is not PinState.RST else age % 3, 0)
        for age, (flow, member, state) in enumerate(rows)
    ]
)


def without_birth(pins: PinTable, clock: Clock) -> dict[int, tuple[int, str, int, int]]:
    """What is remembered, but for what depends on the order: NEW and OPEN are one."""
    names = {PinState.NEW: "open", PinState.OPEN: "open", PinState.FIN: "fin", PinState.RST: "rst"}
    return {
        hash64: (pin.member, names[pin.state], pin.age, int(pins.flows[pins.find_word(hash64)[0]]["origin"]))
        for hash64, pin in contents(pins, clock).items()
    }


@given(TOLD, st.randoms(use_true_random=False))
def test_it_makes_no_difference_how_often_and_in_which_order_one_is_told(
    told: list[tuple], chance: random.Random
) -> None:
    """At once, one by one, in any order, twice: the same is remembered, and the last user is right."""
    told = [one for one in told if one[2] is not PinState.RST]  # of these, too few ages count to be all different
    if not told:
        return
    clock = Clock()
    at_once, one_by_one = PinTable.in_memory(256, clock), PinTable.in_memory(256, clock)
    at_once.merge(*records(told))
    for one in chance.sample(told, len(told)) + chance.choices(told, k=5):
        one_by_one.merge(*records([one]))
    assert without_birth(at_once, clock) == without_birth(one_by_one, clock)
    before = contents(at_once, clock)
    assert at_once.merge(*records(chance.sample(told, len(told)))) == 0
    assert contents(at_once, clock) == before
    for hash64 in {one[0] for one in told}:
        latest = min((one for one in told if one[0] == hash64), key=lambda one: one[3])
        assert (before[hash64].member, before[hash64].age) == (latest[1], latest[3])


@given(
    st.lists(st.tuples(st.sampled_from(PinState), st.booleans()), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_a_full_set_ends_with_the_best_of_all(rows: list[tuple[PinState, bool]], chance: random.Random) -> None:
    """Whoever told, and whoever came first: those that would go last are there, with flows of our own among them."""
    clock = Clock()
    pins = PinTable.in_memory(WAYS, clock)
    entries = [
        (flow_of(number), 1, state, number % 3 if state is PinState.RST else number, 0)
        for number, (state, _) in enumerate(rows)
    ]
    own = [one for one, (_, mine) in zip(entries, rows, strict=True) if mine][:WAYS]
    for hash64, member, state, age, idle in own:
        pins.keep(Pin(member, state, age), facts(hash64, idle), clock.tick)
    told = [one for one in entries if one not in own]
    for one in chance.sample(told, len(told)):
        pins.merge(*records([one]))
    worth = {one[0]: goes_first(Pin(one[1], one[2], one[3]), 0) for one in (*own, *told)}
    best = sorted(worth.values())[:WAYS]
    assert sorted(worth[hash64] for hash64 in contents(pins, clock)) == best


def test_the_last_user_of_a_flow_is_right() -> None:
    """Another member counts when its director has used the flow later; of the same member only the age changes."""
    clock = Clock()
    pins = PinTable.in_memory(64, clock)
    cursors = pins.heads.copy()
    for number in range(4):
        pins.keep(Pin(1, PinState.OPEN, 5), facts(flow_of(number), 10), clock.tick)
    assert pins.changes(cursors)[0].size == 4
    cursors = pins.heads.copy()
    told = [
        (flow_of(0), 2, PinState.NEW, 3, 10),  # later, elsewhere
        (flow_of(1), 2, PinState.OPEN, 6, 10),  # earlier
        (flow_of(2), 1, PinState.NEW, 2, 10),  # later, the same
        (flow_of(3), 1, PinState.FIN, 1, 10),  # closed meanwhile
        (flow_of(8), 2, PinState.OPEN, 11, 10),  # over
        (flow_of(9), 2, PinState.OPEN, 10, 10),
    ]
    assert pins.merge(*records(told)) == 2
    assert contents(pins, clock) == {
        flow_of(0): Pin(2, PinState.NEW, 3),
        flow_of(1): Pin(1, PinState.OPEN, 5),
        flow_of(2): Pin(1, PinState.OPEN, 2),
        flow_of(3): Pin(1, PinState.FIN, 1),
        flow_of(9): Pin(2, PinState.OPEN, 10),
    }
    live = pins.live()
    origins = dict(zip(live.flows["hash64"].tolist(), live.flows["origin"].tolist(), strict=True))
    assert origins == {flow_of(n): REMOTE if n in (0, 9) else LOCAL for n in (0, 1, 2, 3, 9)}
    assert pins.changes(cursors)[0].size == 0
    assert (pins.made, pins.told) == (4, 2)
    clock.ns += 1000
    pins.keep(Pin(2, PinState.OPEN), facts(flow_of(0)), clock.tick)
    assert pins.delays[2].tolist() == (0, 0)  # its SYN was not seen here


def test_an_entry_that_is_over_makes_room_for_what_is_told() -> None:
    """However late it was used by its clock, a flow that has ended here is not in the way of what is told of it."""
    clock = Clock()
    pins = PinTable.in_memory(64, clock)
    pins.keep(Pin(1, PinState.RST), facts(flow_of(1), 100), clock.tick)
    clock.ns += 5 * TICK_NS
    assert pins.merge(*records([(flow_of(1), 2, PinState.OPEN, 50, 100)])) == 1
    assert contents(pins, clock) == {flow_of(1): Pin(2, PinState.OPEN, 50)}


@pytest.mark.parametrize("state", [PinState.NEW, PinState.OPEN])
def test_flows_of_our_own_in_use_stay_when_another_tells_of_more(state: PinState) -> None:
    """A full set of young open flows takes none that others have used less lately, and counts nobody as evicted."""
    clock = Clock()
    pins = PinTable.in_memory(WAYS, clock)
    for number in range(WAYS):
        pins.keep(Pin(1, PinState.OPEN, 3), facts(flow_of(number), 100), clock.tick)
    told = [(flow_of(100 + number), 2, state, 4, 100) for number in range(50)]
    assert pins.merge(*records(told)) == 0
    assert set(contents(pins, clock)) == {flow_of(number) for number in range(WAYS)}
    assert sum(pins.evicted.values()) == 0


def test_many_flows_are_merged_at_once() -> None:
    """Thousands of flows, more than a set takes here and there: all that have room are there, in one go."""
    clock = Clock()
    pins = PinTable.in_memory(1 << 14, clock)
    told = [(flow_of(number), number % 5, PinState.OPEN, number % 60, 100) for number in range(10000)]
    changed = pins.merge(*records(told))
    found = contents(pins, clock)
    assert changed == pins.told >= len(found) > 9000
    assert all(found[one[0]] == Pin(one[1], one[2], one[3]) for one in told if one[0] in found)
    crowded = pins.evicted[PinState.OPEN]
    assert changed - crowded == len(found)

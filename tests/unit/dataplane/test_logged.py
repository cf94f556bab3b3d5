"""The table of logged flows, and what the raw plane puts into it."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from appliance.dataplane import logged
from appliance.dataplane.logged import LOGGED, PLACES, SETS, LoggedFlows, Sighting, below
from appliance.dataplane.raw import bpf
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.layout import Columns
from appliance.dataplane.raw.logging import MOST, log_rows
from appliance.dataplane.raw.single import SinglePath
from appliance.dataplane.raw.vector import VectorPath
from appliance.dataplane.raw.worker import count
from appliance.forwarding import ForwardingTables
from appliance.model import HashMode
from appliance.packet.action import Verdict
from appliance.packet.forward import PacketPath
from appliance.packet.placement import FlowFacts
from appliance.ring.hash import derive_pin_keys, flow_words, pin_hash
from tests.unit.dataplane.frames import INGRESS, random_frame, random_tables
from tests.unit.dataplane.test_vector_path import BATCH, plain_program, slots_with

SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.ns = 5 * SECOND

    def __call__(self) -> int:
        return self.ns


def flow(number: int, set_number: int = 3) -> FlowFacts:
    """A flow of one set of the table."""
    hash64 = -(-(set_number << 32) // SETS) << 32 | number
    return FlowFacts(bytes((192, 0, 2, 9)), bytes((198, 51, 100, 7)), b"\x9c\x40\x00\x50", 6, hash64, 0, 0)


def syn() -> Sighting:
    return Sighting(1, 60, 0x02, 1)


def everything(flows: np.ndarray, _now: int) -> list[bool]:
    return [True] * len(flows)


def test_a_connection_is_added_up() -> None:
    """Packets, bytes and flags of a flow; the handshake is from its SYN to the client's first ACK."""
    clock = Clock()
    table = LoggedFlows.in_memory(clock)
    table.sample(1)
    for seen, after in (
        (syn(), 20_000_000),
        (Sighting(1, 52, 0x10, 0, answers=True), SECOND),
        (Sighting(3, 4000, 0x19, 0, answers=True), 0),
    ):
        table.see(flow(1), 7, seen)
        clock.ns += after
    (found,) = table.take(everything)
    got = {name: found[name].tolist() for name in LOGGED.names or ()}
    assert (got["packets"], got["bytes"], got["flags"], got["syns"], got["member"]) == (5, 4112, 0x1B, 1, 7)
    assert got["answered_ns"] - got["first_ns"] == 20_000_000
    assert got["last_ns"] - got["first_ns"] == SECOND + 20_000_000
    assert (got["moves"], got["protocol"], got["ports"]) == (0, 6, int.from_bytes(b"\x9c\x40\x00\x50", "little"))
    assert table.live == 0


def test_a_handshake_within_one_batch() -> None:
    """SYN and ACK that came together: it took no time that could be seen; a SYN that came twice has no answer."""
    table = LoggedFlows.in_memory(Clock())
    table.see(flow(1), 7, Sighting(2, 100, 0x12, 1, answers=True))
    table.see(flow(2), 7, Sighting(3, 150, 0x12, 2, answers=True))
    one, two = sorted(table.take(everything), key=lambda row: int(row["syns"]))
    assert int(one["answered_ns"]) == int(one["first_ns"])
    assert int(two["answered_ns"]) == 0


def test_a_flow_that_goes_to_another_member_says_so() -> None:
    """How often the member was another one; the last one counts."""
    table = LoggedFlows.in_memory(Clock())
    for member in (7, 7, 9, 7):
        table.see(flow(1), member, Sighting(1, 40, 0x10, 0))
    (found,) = table.take(everything)
    assert (int(found["moves"]), int(found["member"]), int(found["syns"])) == (2, 7, 0)


def test_nobody_is_pushed_out() -> None:
    """A full set takes no more flows, and counts what it has not taken; other sets do."""
    table = LoggedFlows.in_memory(Clock())
    for number in range(1, PLACES + 3):
        table.see(flow(number), 7, Sighting(2, 80, 0x10, 0))
    table.see(flow(1, set_number=4), 7, syn())
    assert (table.live, table.missed) == (PLACES + 1, 4)
    assert len(table.take(everything)) == PLACES + 1
    table.see(flow(PLACES + 2), 7, syn())
    assert (table.live, table.missed) == (1, 4)
    (found,) = table.take(everything)
    assert (int(found["packets"]), int(found["flags"])) == (1, 0x02)  # and nothing of whoever was there before


def test_only_what_is_over_is_taken() -> None:
    """The others stay, and go on."""
    table = LoggedFlows.in_memory(Clock())
    for number in (1, 2):
        table.see(flow(number), number, syn())
    (taken,) = table.take(lambda flows, _: (flows["member"] == 1).tolist())
    assert int(taken["member"]) == 1
    table.see(flow(2), 2, Sighting(1, 40, 0x10, 0))
    (rest,) = table.take(everything)
    assert (int(rest["member"]), int(rest["packets"])) == (2, 2)


@pytest.mark.parametrize(("one_of", "limit"), [(0, 0), (1, 1 << 32), (2, 1 << 31), (1000, 4294968), (1 << 30, 4)])
def test_the_sample(one_of: int, limit: int) -> None:
    """The lower half of the hash says who is in it: all, none, or a share of them."""
    table = LoggedFlows.in_memory(Clock())
    table.sample(one_of)
    assert table.below == below(one_of) == limit
    assert not one_of or logged.one_of(limit - 1) == one_of
    assert table.wants(0xFFFFFFFF_00000000) is bool(one_of)
    assert table.wants(0xFFFFFFFF) is (one_of == 1)


def test_one_of_so_many() -> None:
    """Of many random flows, that share is chosen."""
    table, rnd = LoggedFlows.in_memory(Clock()), random.Random(3)
    table.sample(100)
    keys = derive_pin_keys(bytes(16))
    chosen = sum(
        table.wants(pin_hash(keys, flow_words(rnd.randbytes(4), b"\1\2\3\4", rnd.randbytes(4), 6, HashMode.FIVE_TUPLE)))
        for _ in range(20_000)
    )
    assert 140 <= chosen <= 260  # four standard deviations


def compiled(tables: ForwardingTables) -> Compiled:
    logged = LoggedFlows.in_memory(Clock())
    logged.sample(1)
    return Compiled(tables, [INGRESS], logged=logged)


def by_reference(tables: ForwardingTables, frames: list[bytes]) -> Compiled:
    """What the slow path would log of frames that the plane simply transmits."""
    path, made = PacketPath(tables), compiled(tables)
    for frame in frames:
        action = path.forward(frame, INGRESS)
        if action.verdict is Verdict.TRANSMIT and not action.further:
            count(made, action, frame)
    return made


def by_vector(tables: ForwardingTables, frames: list[bytes]) -> Compiled:
    made = compiled(tables)
    VectorPath(Columns(slots_with(frames)), answers=BATCH).forward(slice(0, len(frames)), 0, made)
    return made


def one_by_one(tables: ForwardingTables, frames: list[bytes]) -> Compiled:
    made = compiled(tables)
    single = SinglePath(slots_with(frames))
    for row in range(len(frames)):
        single.forward(row, 0, made)
    return made


def records(made: Compiled) -> set[tuple[object, ...]]:
    assert made.logged is not None
    # In a batch the order of packets is not looked at: a SYN that came again behind the first ACK.
    names = [name for name in LOGGED.names or () if name != "answered_ns"]
    return {tuple(str(row[name]) for name in names) for row in made.logged.take(everything)}


@pytest.mark.parametrize("way", [by_vector, one_by_one])
@pytest.mark.parametrize("seed", range(12))
def test_all_ways_log_the_same(seed: int, way: Callable[[ForwardingTables, list[bytes]], Compiled]) -> None:
    """In batches, one by one, and by the reference: the same flows with the same numbers."""
    rnd = random.Random(seed)
    tables = random_tables(rnd)
    program = plain_program(tables)
    some = [random_frame(rnd, tables) for _ in range(BATCH // 2)]
    frames = [frame for frame in rnd.choices(some, k=3 * BATCH) if bpf.run(program, frame)][:BATCH]
    if not frames:
        return
    expected = records(by_reference(tables, frames))
    assert records(way(tables, frames)) == expected
    forwarded = sum(int(record[5]) for record in expected)  # type: ignore[call-overload]
    assert forwarded == by_vector(tables, frames).traffic.service_packets.sum()


def test_nothing_is_logged_that_is_only_tried_out() -> None:
    """Explaining a packet, and proving that a plane forwards, leaves nothing behind."""
    rnd = random.Random(1)
    tables = random_tables(rnd)
    frames = [
        frame for frame in (random_frame(rnd, tables) for _ in range(BATCH)) if bpf.run(plain_program(tables), frame)
    ]
    made = compiled(tables)
    VectorPath(Columns(slots_with(frames))).forward(slice(0, len(frames)), 0, made, look_only=True)
    assert made.logged is not None
    assert made.logged.live == 0


def test_a_flood_of_new_flows_costs_a_bounded_time() -> None:
    """Of a batch with more flows than that, MOST are logged and the packets of the others are counted as missed."""
    number = MOST + 40
    logged = LoggedFlows.in_memory(Clock())
    logged.sample(1)
    rnd = random.Random(2)
    column = np.array([rnd.getrandbits(64) for _ in range(number)], np.uint64)
    twice = np.concatenate([column, column])
    word, small = np.zeros(2 * number, np.uint64), np.full(2 * number, 6, np.uint8)
    addresses = word[np.newaxis], word[np.newaxis]
    log_rows(logged, twice, addresses, word, small, small, word, np.ones(2 * number, np.int64))
    assert (logged.live, logged.missed) == (MOST, 2 * 40)

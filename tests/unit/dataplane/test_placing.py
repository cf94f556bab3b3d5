"""Placing frames, by columns and one by one: held to `packet.placement.place` and to the reference with its pins."""

import random
import struct
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.dataplane.pins import FLOW, PinTable, tick_of
from appliance.dataplane.raw import placing
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.layout import ETHERNET, Columns, Frames, stride_for
from appliance.dataplane.raw.placing import Flows
from appliance.dataplane.raw.rules import KIND_NUMBERS, KIND_OF_FLAGS, KINDS
from appliance.dataplane.raw.single import SinglePath
from appliance.dataplane.raw.turns import ColumnTurns
from appliance.dataplane.raw.vector import VectorPath
from appliance.forwarding import (
    NO_CHOICES,
    NO_MEMBER,
    ChoiceOrder,
    ForwardingTables,
    NextHop,
    Placement,
    SlotArray,
    TableMember,
    TableService,
)
from appliance.model import HashMode, PortRange, Protocol
from appliance.packet.action import Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import PacketPath, Turns
from appliance.packet.placement import FlowFacts, Kind, Pin, PinState, Slot, idle_ticks, place, tcp_kind
from appliance.ring.hash import derive_pin_keys, pin_hash
from appliance.ring.slots import pack
from tests.unit.dataplane.frames import CLIENT_MAC, INGRESS, L2, L3, OUR_MAC
from tests.vectors_io import canonical

SLOTS = 8
TICK_NS = 1 << 30
MEMBERS = (3, 4, 5, 900)
STRANGER = 77
"""No member of the tables."""

ACK, SYN, FIN, RST = 0x10, 0x02, 0x01, 0x04


class Clock:
    """The monotonic clock of a test."""

    def __init__(self, tick: int = 20000) -> None:
        self.ns = tick * TICK_NS

    def __call__(self) -> int:
        return self.ns


def member(index: int, mtu: int = 1500) -> TableMember:
    hop = NextHop(2, "d1", bytes(6), bytes((2, 0, 0, 0, 1, index & 0xFF)), mtu, ip_address("192.0.2.1"), True)
    delivery = L3 if index % 2 else L2
    return TableMember(index, f"web/m{index}", ip_address(f"203.0.113.{index % 250 + 1}"), delivery, hop)


def tables(*services: TableService, members: Sequence[TableMember] = tuple(map(member, MEMBERS))) -> ForwardingTables:
    numbered = tuple(replace(service, index=index) for index, service in enumerate(services))
    return ForwardingTables(bytes(range(16)), numbered, {one.index: one for one in members})


def service(slots: SlotArray, vip: str = "198.51.100.7", **changes: object) -> TableService:
    made = TableService(0, f"s{vip}", ip_address(vip), Protocol.TCP, (PortRange(80, 80),), HashMode.FIVE_TUPLE, slots)
    return replace(made, **changes)  # type: ignore[arg-type]


def all_slots(primary: int, previous: int) -> SlotArray:
    return pack(np.full(SLOTS, primary, np.uint32), np.full(SLOTS, previous, np.uint32))


def frame(
    port: int, flags: int = ACK, *, vip: str = "198.51.100.7", protocol: int = 6, client: int = 1, size: int = 0
) -> bytes:
    """A TCP or UDP packet of the client with that number, from that port."""
    if protocol == Protocol.TCP:
        segment = struct.pack("!HHIIBBHHH", port, 80, 1, 2, 0x50, flags, 5, 0, 0) + bytes(size)
    else:
        segment = struct.pack("!HHHH", port, 80, 8 + size, 0) + bytes(size)
    address = ip_address(vip)
    if address.version == 6:
        packet = struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64)
        packet += ip_address(f"2001:db8:1::{client:x}").packed + address.packed + segment
        return (OUR_MAC + CLIENT_MAC + b"\x86\xdd" + packet).ljust(60, b"\0")
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, 64, protocol, 0)
    head += ip_address(f"192.0.2.{client}").packed + address.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return (OUR_MAC + CLIENT_MAC + b"\x08\x00" + head + segment).ljust(60, b"\0")


def slots_with(frames: Sequence[bytes]) -> Frames:
    slots = np.zeros((len(frames), stride_for(1500)), np.uint8)
    for row, one in enumerate(frames):
        slots[row, ETHERNET : ETHERNET + len(one)] = np.frombuffer(one, np.uint8)
    return slots


Remembered = dict[int, tuple[int, int, int, bytes]]


def remembered(pins: PinTable) -> Remembered:
    """By flow: member, state, time of last use, and all that is written down."""
    found = {}
    for position in np.flatnonzero(pins.words):
        word, record = int(pins.words[position]), pins.flows[position]
        found[int(record["hash64"])] = (word >> 16 & 0xFFFF, word >> 14 & 3, word & 0x3FFF, record.tobytes())
    return found


class Path:
    """A way to forward frames, with a memory of its own."""

    def __init__(self, clock: Clock, pins: int = 1 << 13) -> None:
        self.pins = PinTable.in_memory(pins, clock)
        self.turns = ColumnTurns(random.Random(7))
        self.reasons: dict[Reason, int] = {}

    def forward(self, frames: Sequence[bytes], by: ForwardingTables) -> list[bytes | None]:
        """The frames out, None for those that are not sent."""
        raise NotImplementedError

    def drop(self, reason: Reason | None) -> None:
        if reason is not None:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


class Reference(Path):
    def __init__(self, clock: Clock, pins: int = 1 << 13) -> None:
        super().__init__(clock, pins)
        self.plain_turns = Turns(lambda: chance.getrandbits(32))
        chance = random.Random(7)

    def forward(self, frames: Sequence[bytes], by: ForwardingTables) -> list[bytes | None]:
        path = PacketPath(by, self.pins, self.plain_turns)
        out: list[bytes | None] = []
        for one in frames:
            action = path.forward(one, INGRESS)
            self.drop(action.reason)
            out.append(action.frame if action.verdict is Verdict.TRANSMIT else None)
        return out


class OneByOne(Path):
    def forward(self, frames: Sequence[bytes], by: ForwardingTables) -> list[bytes | None]:
        compiled = Compiled(by, [INGRESS], self.pins, self.turns)
        slots = slots_with(frames)
        single = SinglePath(slots)
        out: list[bytes | None] = []
        for row, one in enumerate(frames):
            made = single.forward(row, 0, compiled)
            if made is None:
                action = compiled.path.forward(one, INGRESS)
                assert action.verdict is Verdict.DROP
                self.drop(action.reason)
            out.append(None if made is None else bytes(single.bytes_of(made)))
        return out


class Batches(Path):
    def forward(self, frames: Sequence[bytes], by: ForwardingTables) -> list[bytes | None]:
        compiled = Compiled(by, [INGRESS], self.pins, self.turns)
        slots = slots_with(frames)
        vector = VectorPath(Columns(slots), answers=len(frames))
        outcome = vector.forward(slice(0, len(frames)), 0, compiled)
        out: list[bytes | None] = [None] * len(frames)
        for send in outcome.sends:
            rows = range(send.rows.start, send.rows.stop) if isinstance(send.rows, slice) else send.rows.tolist()
            for row, length in zip(rows, send.lengths.tolist(), strict=True):
                out[row] = slots[row, send.start : send.start + length].tobytes()
        for reason, number in vector.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + number
        for row in outcome.answer:
            self.drop(Reason.TOO_BIG)
            out[row] = self.answer(frames[row], compiled)
        return out

    def answer(self, frame: bytes, compiled: Compiled) -> bytes | None:
        """What is sent on in the end of a frame that is too big: where later frames of its flow were in the batch, that
        may be something."""
        return None


class AnsweredBatches(Batches):
    def answer(self, frame: bytes, compiled: Compiled) -> bytes | None:
        action = compiled.path.forward(frame, INGRESS)
        return action.frame if action.verdict is Verdict.TRANSMIT else None


def assert_alike(clock: Clock, rounds: Sequence[tuple[ForwardingTables, Sequence[bytes], int]]) -> None:
    """All three ways do the same and remember the same.

    Args:
        clock: goes on.
        rounds: tables, frames, and how many ticks then go by.
    """
    reference, others = Reference(clock), (OneByOne(clock), Batches(clock))
    for by, frames, ticks in rounds:
        wanted = reference.forward(frames, by)
        for other in others:
            got = other.forward(frames, by)
            assert [one and canonical(one) for one in got] == [one and canonical(one) for one in wanted]
            assert other.reasons == reference.reasons
            assert remembered(other.pins) == remembered(reference.pins)
            assert (other.pins.made, other.pins.told) == (reference.pins.made, reference.pins.told)
            assert other.pins.delays.tolist() == reference.pins.delays.tolist()
        clock.ns += ticks * TICK_NS


# The rules

ENTRIES = st.none() | st.builds(
    Pin, st.sampled_from((*MEMBERS, STRANGER)), st.sampled_from(PinState), st.integers(0, 140)
)
WORDS = st.sampled_from((*MEMBERS, NO_MEMBER))


class Herald:
    """Tells of a few connections, and no more; remembers of which."""

    def __init__(self, grants: int | None, pins: PinTable | None = None) -> None:
        self.is_heard = True
        self.told: list[int] = []
        self._left, self._pins = grants, pins

    def grant(self, wanted: int) -> int:
        granted = wanted if self._left is None else min(wanted, self._left)
        if self._left is not None:
            self._left -= granted
        return granted

    def may_open(self) -> bool:
        return self.grant(1) == 1

    def tell(self, positions: np.ndarray) -> None:
        assert self._pins is not None
        assert (self._pins.words[positions] != 0).all(), "what is told is remembered already"
        self.told += self._pins.flows["hash64"][positions].tolist()


@given(
    st.sampled_from(Placement),
    st.lists(st.tuples(WORDS, WORDS, st.sampled_from(KINDS), ENTRIES), min_size=1, max_size=12),
    st.sampled_from((0, 1, 2, 60, 110)),
    st.sampled_from((MEMBERS, ())),
    st.integers(0, 40000),
    st.none() | st.integers(0, 3),
)
@example(Placement.HASH, [(3, 4, Kind.SYN, None), (4, 3, Kind.SYN, Pin(4, PinState.FIN))] * 2, 60, MEMBERS, 30000, 3)
@example(Placement.HASH, [(3, 4, Kind.SYN, None), (4, 3, Kind.SYN, None)] * 2, 60, MEMBERS, 30000, 0)
def test_frames_are_placed_as_the_rules_say(
    placement: Placement,
    asked: list[tuple[int, int, Kind, Pin | None]],
    idle_s: int,
    choices: tuple[int, ...],
    tick: int,
    grants: int | None,
) -> None:
    """Whatever slot, packet and entry: by columns and one by one, `place` itself is what decides and remembers, and of
    whom others are told."""
    clock = Clock(tick)
    # Tables in which all is steady have no rules, since nobody would ask: one more slot keeps them.
    slots = np.array([primary | previous << 16 for primary, previous, *_ in [*asked, (3, 4)]], np.uint32)
    by = tables(
        service(
            slots,
            placement=placement,
            idle_timeout_s=idle_s,
            choices=np.array(choices, np.uint16) if choices else NO_CHOICES,
        )
    )
    keys = derive_pin_keys(by.secret)
    flow_words = [(1, 2, number, 6) for number in range(len(asked))]
    hashes = [pin_hash(keys, words) for words in flow_words]

    def memory() -> PinTable:
        pins = PinTable.in_memory(4096, clock)
        for hash64, (_, _, _, entry) in zip(hashes, asked, strict=True):
            if entry is not None:
                facts = FlowFacts(bytes(4), bytes(4), bytes(4), 6, hash64, 9, idle_ticks(idle_s))
                pins.keep(entry, facts, pins.now())
        return pins

    wanted, entries, told, turns, herald = [], [], [], Turns(), Herald(grants)
    for primary, previous, kind, entry in asked:
        slot = Slot(primary, previous, placement, idle_ticks(idle_s))
        placed = place(kind, slot, entry, by.members.__contains__, lambda: turns.take(by.services[0]), herald.may_open)
        told += [len(wanted)] if placed.tell else []
        wanted.append(placed.member)
        entries.append(entry if placed.keep is None else placed.keep)

    kinds = [KIND_NUMBERS[kind] for _, _, kind, _ in asked]
    columns, singles = memory(), memory()
    for pins in (columns, singles):
        pins.herald = None if grants is None else Herald(grants, pins)
    compiled = Compiled(by, [INGRESS], columns)
    n = len(asked)
    flows = Flows(
        service=0,
        index=np.arange(n),
        kind=np.array(kinds, np.int64),
        total=np.full(n, 100, np.uint64),
        hash32=np.zeros(n, np.uint64),
        hash64=np.array(hashes, np.uint64),
        sources=np.full((1, n), 1, np.uint64),
        destinations=np.full((1, n), 2, np.uint64),
        ports=np.arange(n, dtype=np.uint64),
        protocol=6,
    )
    got = placing.place(compiled, flows)
    assert [compiled.members[way].index if way < compiled.no_way else NO_MEMBER for way in got.tolist()] == wanted
    compiled = Compiled(by, [INGRESS], singles)
    got_singly = [
        placing.place_one(compiled, 0, number, kinds[number], flow_words[number], 0, 100) for number in range(n)
    ]
    assert got_singly == got.tolist()
    for pins in (columns, singles):
        found = [pins.find(hash64, pins.now()) for hash64 in hashes]
        assert [one and one[1] for one in found] == entries
        if pins.herald is not None:
            assert pins.herald.told == [hashes[number] for number in told]


def test_kinds_have_the_numbers_that_flags_get() -> None:
    """Every combination of TCP flags leads to the rules of its kind."""
    assert KIND_OF_FLAGS.tolist() == [KIND_NUMBERS[tcp_kind(flags)] for flags in range(256)]


# Frames

SHAPES = (
    all_slots(3, 4),
    all_slots(3, NO_MEMBER),
    all_slots(NO_MEMBER, 4),
    all_slots(5, 5),
    all_slots(NO_MEMBER, NO_MEMBER),
    pack(np.array([3, 4, 5, 900] * 2, np.uint32), np.array([4, NO_MEMBER, 5, 3] * 2, np.uint32)),
)


@pytest.mark.parametrize("seed", range(24))
def test_flows_in_transition_end_up_where_the_reference_has_them(seed: int) -> None:
    """Batches of frames of few flows, in every order, through changing tables and time: nothing differs."""
    rnd = random.Random(seed)
    flags = (ACK, ACK, ACK, SYN, SYN, FIN | ACK, RST, SYN | ACK, 0, SYN | FIN)
    clock, rounds = Clock(rnd.randrange(40000)), []
    vips = [("198.51.100.7", 6), ("198.51.100.7", 17), ("2001:db8:f::7", 6), ("2001:db8:f::7", 17)]
    vips = rnd.sample(vips, rnd.choice((1, 1, 2, 4)))
    for _ in range(6):
        services = [
            service(
                rnd.choice(SHAPES),
                vip,
                name=f"{vip}/{protocol}",
                protocol=Protocol(protocol),
                idle_timeout_s=rnd.choice((0, 5, 100)),
                hash_mode=rnd.choice(list(HashMode)),
            )
            for vip, protocol in vips
        ]
        members = [member(index, rnd.choice((1500, 1400))) for index in rnd.sample(MEMBERS, rnd.choice((4, 4, 3)))]
        serving = {one.index for one in members}
        services = [replace(one, slots=_only(one.slots, serving)) for one in services]
        frames = []
        for _ in range(rnd.choice((1, 10, 60))):
            vip, protocol = rnd.choice(vips)
            frames.append(
                frame(
                    rnd.randrange(1, rnd.choice((3, 40))),
                    rnd.choice(flags),
                    vip=vip,
                    protocol=protocol,
                    client=rnd.choice((1, 1, 2)),
                    size=rnd.choice((0, 0, 0, 1375)),
                )
            )
        rounds.append((tables(*services, members=members), frames, rnd.choice((0, 0, 1, 2, 3, 7, 60))))
    assert_alike(clock, rounds)


def _only(slots: SlotArray, serving: set[int]) -> SlotArray:
    """Slots that name nobody but those."""
    halves = [np.where(np.isin(half, sorted(serving)), half, NO_MEMBER) for half in (slots & 0xFFFF, slots >> 16)]
    return pack(*(half.astype(np.uint32) for half in halves))


@pytest.mark.parametrize("order", ChoiceOrder)
@pytest.mark.parametrize("placement", [Placement.PER_FLOW, Placement.PER_PACKET])
@pytest.mark.parametrize("seed", range(8))
def test_choices_are_taken_in_turn(seed: int, placement: Placement, order: ChoiceOrder) -> None:
    """Placing flow by flow and packet by packet: everyone's turn comes as in the reference, services mixed or not."""
    rnd = random.Random(seed)
    clock, rounds = Clock(rnd.randrange(40000)), []
    choices = [np.array(rnd.choices(MEMBERS, k=rnd.choice((1, 3, 20))), np.uint16) for _ in range(2)]
    udp_only = placement is Placement.PER_PACKET
    vips = [("198.51.100.7", 17), ("2001:db8:f::7", 17 if udp_only else 6), ("198.51.100.7", 6)][
        : 1
        if order is ChoiceOrder.RANDOM
        else rnd.choice(
            (1, 2, 3)
        )  # chance is asked service by service
    ]
    for _ in range(5):
        services = [
            service(
                rnd.choice(SHAPES),
                vip,
                name=f"{vip}/{protocol}",
                protocol=Protocol(protocol),
                placement=placement if protocol == 17 or not udp_only else Placement.HASH,
                choice_order=order,
                choices=choices[number % 2],
                idle_timeout_s=rnd.choice((0, 5, 100)),
            )
            for number, (vip, protocol) in enumerate(vips)
        ]
        frames = []
        for _ in range(rnd.choice((1, 10, 60))):
            vip, protocol = rnd.choice(vips)
            frames.append(frame(rnd.randrange(1, 30), SYN, vip=vip, protocol=protocol))
        rounds.append((tables(*services), frames, rnd.choice((0, 1, 2, 3, 60))))
    assert_alike(clock, rounds)


@pytest.mark.parametrize("placement", [Placement.PER_FLOW, Placement.PER_PACKET])
@pytest.mark.parametrize("vip", ["198.51.100.7", "2001:db8:f::7"])
def test_a_packet_that_is_too_big_takes_one_turn(vip: str, placement: Placement) -> None:
    """Answering it takes no other, whatever the way to members allows: by columns, one by one and in the reference."""
    members = [member(3, 1420), member(4), member(5, 1300)]
    by = tables(
        service(
            all_slots(4, 4),
            vip,
            protocol=Protocol.UDP,
            placement=placement,
            choices=np.array([3, 4, 5, 4], np.uint16),
        ),
        members=members,
    )
    sizes = (10, 1410, 10, 1410, 1410, 10, 1350, 1350, 10, 1350, 1410, 1410, 1270, 1410, 10)
    frames = [frame(number, vip=vip, protocol=17, size=size) for number, size in enumerate(sizes, 1)]
    clock = Clock()
    reference, others = Reference(clock), (OneByOne(clock), AnsweredBatches(clock))
    for one in frames:
        wanted = reference.forward([one], by)
        assert all(other.forward([one], by) == wanted for other in others)
    whole = AnsweredBatches(clock)
    whole.forward(frames, by)
    ends = [[at for _, at in turns._at.values()] for turns in (reference.plain_turns, others[0].turns, whole.turns)]
    assert ends == [[len(frames) % 4]] * 3


@pytest.mark.parametrize("seed", range(12))
def test_flows_that_an_algorithm_places_stay_together(seed: int) -> None:
    """With one choice, where whose turn it is makes no difference, frames in any order agree in everything."""
    rnd = random.Random(seed)
    clock, rounds = Clock(rnd.randrange(40000)), []
    for _ in range(6):
        only = np.array([rnd.choice(MEMBERS)], np.uint16)
        by = tables(
            service(
                rnd.choice(SHAPES),
                placement=Placement.PER_FLOW,
                choices=only if rnd.random() < 0.8 else NO_CHOICES,
                idle_timeout_s=rnd.choice((0, 5, 100)),
            )
        )
        frames = [
            frame(rnd.randrange(1, 9), rnd.choice((ACK, ACK, SYN, FIN | ACK, RST, 0)))
            for _ in range(rnd.choice((1, 10, 60)))
        ]
        rounds.append((by, frames, rnd.choice((0, 0, 1, 3, 7, 60))))
    assert_alike(clock, rounds)


def test_a_flow_that_opens_and_closes_all_the_time_ends_like_any_other() -> None:
    """SYN and FIN of one flow in turn, hundreds of times in a batch: after some rounds frames go one by one."""
    by = tables(service(all_slots(3, 4)))
    frames = [frame(5, SYN if number % 2 else FIN | ACK) for number in range(300)]
    assert_alike(Clock(), [(by, [*frames, frame(5), frame(6)], 0)])


def test_a_full_table_gives_up_the_same_flows() -> None:
    """When more flows open than there are places, columns and singles evict what the reference evicts."""
    clock = Clock()
    by = tables(service(all_slots(3, 4)))
    paths = Reference(clock, 64), OneByOne(clock, 64), Batches(clock, 64)
    for number in range(10):
        frames = [frame(1000 + 100 * number + port, SYN) for port in range(50)]
        for path in paths:
            path.forward([*[frame(port) for port in range(20)], *frames], by)
        clock.ns += TICK_NS
    wanted = paths[0]
    for path in paths[1:]:
        assert remembered(path.pins) == remembered(wanted.pins)
        assert path.pins.evicted == wanted.pins.evicted
        assert path.pins.evicted[PinState.NEW] > 100


def test_looking_changes_nothing() -> None:
    """With `look_only`, a batch says where frames would go; nothing is remembered and no turn is taken."""
    clock, turns = Clock(), ColumnTurns()
    choices = np.array(MEMBERS, np.uint16)
    by = tables(
        service(all_slots(3, 4)),
        service(all_slots(3, 4), vip="198.51.100.8", placement=Placement.PER_FLOW, choices=choices),
    )
    pins = PinTable.in_memory(1024, clock)
    compiled = Compiled(by, [INGRESS], pins, turns)
    frames = [frame(5, SYN), frame(6), frame(7, SYN, vip="198.51.100.8")]
    for _ in range(3):
        slots = slots_with(frames)
        VectorPath(Columns(slots)).forward(slice(0, 3), 0, compiled, look_only=True)
        assert slots[1, ETHERNET + 5] == 4  # members with odd numbers have theirs in an outer header
    assert not pins.words.any()
    assert turns.take(by.services[1]) == MEMBERS[0]


def test_a_flood_leaves_established_flows_in_their_places() -> None:
    """Ten times as many SYNs as there are places cost no flow in use its pin, in a window or with an algorithm."""
    clock = Clock()
    flows = [frame(port, client=2) for port in range(1, 500)]
    for placement in (Placement.HASH, Placement.PER_FLOW):
        by = tables(service(all_slots(3, 4), placement=placement, choices=np.array([5], np.uint16)))
        path = Batches(clock, 4096)
        path.forward(flows, by)  # learned, and with the second packet established
        path.forward(flows, by)
        before = {hash64 for hash64, (_, state, _, _) in remembered(path.pins).items() if state == PinState.OPEN}
        assert len(before) == len(flows)
        compiled = Compiled(by, [INGRESS], path.pins, path.turns)
        n = 1024
        rnd = np.random.default_rng(1)
        for _ in range(40):
            whole = Flows(
                service=0,
                index=np.zeros(n, np.int64),
                kind=np.full(n, KIND_NUMBERS[Kind.SYN], np.int64),
                total=np.full(n, 40, np.uint64),
                hash32=np.zeros(n, np.uint64),
                hash64=rnd.integers(0, 1 << 64, n, np.uint64),
                sources=np.full((1, n), 1, np.uint64),
                destinations=np.full((1, n), 2, np.uint64),
                ports=np.arange(n, dtype=np.uint64),
                protocol=6,
            )
            placing.place(compiled, whole)
        after = {hash64 for hash64, (_, state, _, _) in remembered(path.pins).items() if state == PinState.OPEN}
        assert before == after
        assert path.pins.evicted[PinState.OPEN] == 0
        assert path.pins.evicted[PinState.NEW] > 30000


def test_what_is_written_down_of_a_flow() -> None:
    """Addresses, ports, hashes and times of a flow, both families, as the layout says."""
    clock = Clock()
    by = tables(service(all_slots(3, 4)), service(all_slots(3, 4), "2001:db8:f::7"))
    path = Batches(clock)
    path.forward([frame(5, SYN), frame(6, vip="2001:db8:f::7")], by)
    records = sorted((pin[3] for pin in remembered(path.pins).values()), key=lambda raw: raw[48:50])
    four, six = (np.frombuffer(raw, FLOW)[0] for raw in records)
    assert four["source"].tobytes() == bytes(10) + b"\xff\xff" + ip_address("192.0.2.1").packed
    assert four["destination"].tobytes() == bytes(10) + b"\xff\xff" + ip_address("198.51.100.7").packed
    assert six["source"].tobytes() == ip_address("2001:db8:1::1").packed
    assert six["destination"].tobytes() == ip_address("2001:db8:f::7").packed
    for record, port, opened in ((four, 5, 1), (six, 6, 0)):
        assert int(record["ports"]).to_bytes(4, "little") == struct.pack("!HH", port, 80)
        assert (record["protocol"], record["opened"], record["origin"]) == (6, opened, 0)
        assert (record["born_ns"], record["idle"]) == (clock.ns, idle_ticks(300))
        assert path.pins.find(int(record["hash64"]), tick_of(clock.ns)) is not None

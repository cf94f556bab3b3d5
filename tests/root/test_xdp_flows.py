"""What the XDP program remembers of flows: single packets in the kernel, by a clock that is set."""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise

import numpy as np
import pytest

from appliance.dataplane.pins import WAYS, PinTable, tick_of
from appliance.dataplane.xdp.plane import action_of
from appliance.dataplane.xdp.program import Program
from appliance.dataplane.xdp.tables import Capacity, Egress, Outcome
from appliance.forwarding import (
    NO_MEMBER,
    ChoiceArray,
    ChoiceOrder,
    ForwardingTables,
    NextHop,
    Placement,
    SlotArray,
    TableMember,
    TableService,
)
from appliance.model import Delivery, HashMode, IPAddress, PortRange, Protocol
from appliance.packet.action import Action, By, Reason
from appliance.packet.forward import PacketPath, Turns
from appliance.packet.placement import TICK_SHIFT, PinState
from appliance.ring.hash import derive_pin_keys, flow_words, pin_hash
from appliance.ring.slots import pack
from tests.fuzz.flows import Say, Tuple
from tests.root.test_xdp_program import interface_of
from tests.unit.dataplane.frames import INGRESS, L2, L3, OUR_MAC, member_mac

pytestmark = pytest.mark.root

SECRET = b"secret of single flows"
VIP4, VIP6 = ip_address("198.51.100.7"), ip_address("2001:db8:f::7")
WEB, DNS = 80, 53
PINS = 4096
START = 5000 << TICK_SHIFT
TICK = 1 << TICK_SHIFT


class Bench:
    """A program, and a clock for it that moves when it is told to."""

    def __init__(self, capacity: Capacity | None = None, pins: int = PINS) -> None:
        self.ns = START + TICK // 2
        self.program = Program(capacity, pins=pins)
        # What is asked afterwards is asked a little later: the program's clock goes on while it runs.
        self.table = self.program.pin_table(lambda: self.ns + TICK // 64)
        self.tables = ForwardingTables()

    def follow(self, tables: ForwardingTables) -> None:
        self.tables = tables
        self.program.tables.stage(tables, lambda member: Egress(member.next_hop.ifindex))
        self.program.tables.publish()

    def run(self, frame: bytes, *, remember: bool = True) -> tuple[Outcome, Action | None]:
        self.program.tables.set_clock(self.ns - time.monotonic_ns())
        outcome, out = self.program.run(frame, interface_of(INGRESS), remember=remember)
        return outcome, action_of(outcome, out, self.tables)

    def went(self, flow: Tuple, say: Say, *, remember: bool = True) -> tuple[int | None, By | None]:
        """The member that a packet of the flow goes to, and why."""
        outcome, action = self.run(flow.frame(say, OUR_MAC), remember=remember)
        assert action is not None, outcome
        return action.member, action.by

    def later(self, ticks: int) -> None:
        self.ns += ticks * TICK

    def close(self) -> None:
        self.program.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def member(index: int, delivery: Delivery = L2, mtu: int = 1500) -> TableMember:
    hop = NextHop(7, "d0", OUR_MAC, member_mac(index % 251 + 1), mtu, ip_address("192.0.2.1"), direct=True)
    return TableMember(index, f"pool/m{index}", ip_address(f"203.0.113.{index % 251 + 1}"), delivery, hop)


def slots(primary: int, previous: int | None = None, size: int = 251) -> SlotArray:
    """All of one word."""
    following = primary if previous is None else previous
    return pack(np.full(size, primary, np.uint32), np.full(size, following, np.uint32))


def choices(*members: int) -> ChoiceArray:
    return np.array(members, np.uint16)


def service(index: int, words: SlotArray, protocol: Protocol = Protocol.TCP, **changes: object) -> TableService:
    port = WEB if protocol is Protocol.TCP else DNS
    made = TableService(
        index, f"s{index}", VIP4, protocol, (PortRange(port, port),), HashMode.FIVE_TUPLE, words, idle_timeout_s=60
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def tables(*services: TableService, members: Sequence[int] = (1, 2, 3)) -> ForwardingTables:
    return ForwardingTables(SECRET, services, {index: member(index) for index in members})


def flow(number: int, protocol: Protocol = Protocol.TCP, vip: IPAddress = VIP4) -> Tuple:
    source = int(ip_address("192.0.2.0" if vip.version == 4 else "2001:db8:1::")) + number % 200
    port = WEB if protocol is Protocol.TCP else DNS
    return Tuple(ip_address(source), vip, protocol, 1024 + number // 200, port)


def hash_of(one: Tuple) -> int:
    words = flow_words(one.source.packed, one.destination.packed, one.ports, one.protocol, HashMode.FIVE_TUPLE)
    return pin_hash(derive_pin_keys(SECRET), words)


# Phases


def test_a_steady_slot_remembers_nothing(bench: Bench) -> None:
    """Whatever comes, no place is taken."""
    bench.follow(tables(service(0, slots(1)), service(1, slots(2), Protocol.UDP)))
    for say in (Say.SYN, Say.PLAIN, Say.FIN, Say.RST, Say.NOTHING):
        assert bench.went(flow(1), say) == (1, By.SLOT)
    assert bench.went(flow(1, Protocol.UDP), Say.DATA) == (2, By.SLOT)
    assert not bench.table.words.any()


def test_a_window(bench: Bench) -> None:
    """Flows from before stay, new ones go to the new owner, and each keeps its member when the window is over."""
    bench.follow(tables(service(0, slots(1, 2)), service(1, slots(1, 2), Protocol.UDP)))
    old, new, datagrams = flow(1), flow(2), flow(1, Protocol.UDP)
    assert bench.went(old, Say.PLAIN) == (2, By.PREVIOUS)
    assert bench.went(new, Say.SYN) == (1, By.SLOT)
    assert bench.went(new, Say.PLAIN) == (1, By.PIN)
    assert bench.went(datagrams, Say.DATA) == (2, By.PREVIOUS)
    bench.follow(tables(service(0, slots(1, NO_MEMBER)), service(1, slots(1, NO_MEMBER), Protocol.UDP)))
    assert bench.went(old, Say.PLAIN) == (2, By.PIN)
    assert bench.went(new, Say.PLAIN) == (1, By.PIN)
    assert bench.went(datagrams, Say.DATA) == (2, By.PIN)
    assert bench.went(flow(3), Say.PLAIN) == (1, By.SLOT)
    bench.follow(tables(service(0, slots(1)), service(1, slots(1), Protocol.UDP)))
    assert bench.went(flow(1), Say.PLAIN) == (1, By.SLOT)


def test_the_gate_of_a_window(bench: Bench) -> None:
    """While there are others to be told, a SYN is left to the slow path, or begins with the previous owner when that
    one is not there; it makes no difference elsewhere."""
    bench.follow(tables(service(0, slots(1, 2))))
    found = bench.program.pin_maps()["pin_gate"]
    gate = np.frombuffer(found.memory(found.max_entries * found.value_size), np.uint64)
    gate[0] = bench.ns + TICK
    outcome, action = bench.run(flow(1).frame(Say.SYN, OUR_MAC))
    assert (outcome.exit, outcome.by, action) == ("slow_new_flow", By.SLOT, None)
    assert not bench.table.words.any()
    bench.later(2)
    assert bench.went(flow(1), Say.SYN) == (2, By.PREVIOUS)
    assert bench.went(flow(1), Say.PLAIN) == (2, By.PIN)
    assert bench.went(flow(1), Say.SYN) == (2, By.PIN), "a retransmission"
    for words in (slots(1, NO_MEMBER), slots(1)):
        bench.follow(tables(service(0, words)))
        assert bench.went(flow(2), Say.SYN) == (1, By.SLOT)
    gate[0] = 0
    bench.follow(tables(service(0, slots(1, 2))))
    assert bench.went(flow(3), Say.SYN) == (1, By.SLOT)


def test_nobody_takes_new_flows(bench: Bench) -> None:
    """Old ones go on, a SYN is dropped, and it leaves nothing behind."""
    bench.follow(tables(service(0, slots(NO_MEMBER, 2))))
    outcome, action = bench.run(flow(1).frame(Say.SYN, OUR_MAC))
    assert action is not None
    assert (action.reason, action.service, outcome.exit) == (Reason.NO_MEMBER, 0, "drop_no_member")
    assert bench.went(flow(1), Say.PLAIN) == (2, By.PREVIOUS)
    assert bench.went(flow(1), Say.PLAIN) == (2, By.PIN)
    outcome, _ = bench.run(flow(1).frame(Say.SYN, OUR_MAC))
    assert outcome.exit == "transmit", "a retransmission as far as anybody can tell"
    bench.later(3)
    outcome, _ = bench.run(flow(1).frame(Say.SYN, OUR_MAC))
    assert outcome.exit == "drop_no_member"


def test_a_member_that_is_gone_has_no_pins(bench: Bench) -> None:
    """What was remembered of it does not count, also when another has its way now, and does again if it returns."""
    words = slots(1, 2)
    bench.follow(tables(service(0, words)))
    one = flow(1)
    assert bench.went(one, Say.PLAIN) == (2, By.PREVIOUS)
    bench.follow(tables(service(0, slots(1, 3)), members=(1, 3)))
    assert bench.went(one, Say.PLAIN, remember=False) == (3, By.PREVIOUS)
    bench.follow(tables(service(0, slots(1, 3)), members=(1, 3, 7, 8, 9)))
    assert bench.went(one, Say.PLAIN, remember=False) == (3, By.PREVIOUS)
    bench.follow(tables(service(0, slots(1, 3))))
    assert bench.went(one, Say.PLAIN) == (2, By.PIN)


def test_how_long_a_flow_is_remembered(bench: Bench) -> None:
    """The idle timeout; a minute after a FIN; a moment after a RST. A SYN begins anew unless it is a retransmission."""
    bench.follow(tables(service(0, slots(1, 2), idle_timeout_s=300), service(1, slots(1, 2), Protocol.UDP)))
    for say, ticks in ((Say.PLAIN, 281), (Say.FIN, 56), (Say.RST, 2)):
        one = flow(10 + ticks)
        bench.went(one, Say.SYN)
        bench.went(one, say)
        bench.later(ticks)
        assert bench.went(one, Say.NOTHING) == (1, By.PIN)
        bench.later(1)
        assert bench.went(one, Say.NOTHING) == (2, By.PREVIOUS), "an odd packet of an unknown flow"
    one = flow(1)
    bench.went(one, Say.PLAIN)
    bench.later(2)
    assert bench.went(one, Say.SYN) == (2, By.PIN)
    bench.later(1)
    assert bench.went(one, Say.SYN) == (1, By.SLOT)
    assert bench.went(one, Say.PLAIN) == (1, By.PIN)


def test_a_tick_that_another_clock_has_seen_already(bench: Bench) -> None:
    """A pin from a moment ago by the finer clock of the slow path is young, not as old as can be."""
    bench.follow(tables(service(0, slots(1, 2), idle_timeout_s=300)))
    one = flow(1)
    bench.went(one, Say.SYN)
    bench.went(one, Say.PLAIN)
    bench.ns -= TICK
    assert bench.went(one, Say.PLAIN) == (1, By.PIN)
    bench.ns += TICK
    found = bench.table.find(hash_of(one), bench.table.now())
    assert found is not None
    assert found[1].age == 0, "nothing has made it older"


# What is kept, and what is not


def test_looking_leaves_no_trace(bench: Bench) -> None:
    """What is only tried out makes no pin, refreshes none, and takes nobody's turn."""
    bench.follow(
        tables(
            service(0, slots(1, 2)),
            service(1, slots(1), Protocol.UDP, placement=Placement.PER_PACKET, choices=choices(1, 2, 3)),
        )
    )
    for say in (Say.SYN, Say.PLAIN):
        bench.went(flow(1), say, remember=False)
    assert not bench.table.words.any()
    bench.went(flow(1), Say.SYN)
    words, flows = bench.table.words.copy(), bench.table.flows.copy()
    bench.later(5)
    for say in (Say.PLAIN, Say.FIN, Say.RST, Say.SYN):
        bench.went(flow(1), say, remember=False)
    assert np.array_equal(words, bench.table.words)
    assert np.array_equal(flows, bench.table.flows)
    datagram = flow(1, Protocol.UDP)
    assert {bench.went(datagram, Say.DATA, remember=False)[0] for _ in range(6)} == {1}
    assert [bench.went(datagram, Say.DATA)[0] for _ in range(4)] == [1, 2, 3, 1]
    assert [bench.went(datagram, Say.DATA, remember=False)[0] for _ in range(4)] == [2] * 4


@pytest.mark.parametrize("placement", [Placement.HASH, Placement.PER_FLOW])
def test_what_is_not_sent_is_not_remembered(bench: Bench, placement: Placement) -> None:
    """Packets that the slow path is to answer, or to send, leave it to that one to remember their flow."""
    wanted = tables(service(0, slots(1), placement=placement, choices=choices(1, 2)))
    if placement is Placement.HASH:
        wanted = tables(service(0, slots(1, 2)))
    bench.follow(replace(wanted, members={1: member(1, L3), 2: member(2, L3), 3: member(3)}))
    for say in (Say.SYN, Say.PLAIN):
        outcome, action = bench.run(flow(1).frame(say, OUR_MAC, ttl=1))
        assert (outcome.exit, action) == ("slow_ttl_expired", None)
        outcome, action = bench.run(flow(1).frame(say, OUR_MAC, size=1455))
        assert (outcome.exit, action) == ("slow_too_big", None)
    assert not bench.table.words.any()
    taken = [bench.went(flow(number), Say.SYN)[0] for number in range(4)]
    assert taken == ([1, 2, 1, 2] if placement is Placement.PER_FLOW else [1] * 4)


def test_what_is_written_down(bench: Bench) -> None:
    """Of each flow that is remembered: addresses, ports, hashes, timeout, and whether it began here; news for others
    are in the journal."""
    sixes = service(1, slots(1, 2), vip=VIP6, idle_timeout_s=3600)
    bench.follow(tables(service(0, slots(1, 2)), sixes))
    reference = PinTable.in_memory(PINS, lambda: bench.ns)
    path = PacketPath(bench.tables, reference, Turns())
    cursors = np.zeros(len(bench.table.heads), np.uint64)
    for one in (flow(1), flow(2, vip=VIP6)):
        for say in (Say.PLAIN, Say.SYN):
            for _ in range(2):
                bench.went(one, say)
                path.forward(one.frame(say, OUR_MAC), INGRESS)
            bench.later(3)
        mine, theirs = (records(table)[hash_of(one)] for table in (bench.table, reference))
        for name in mine.dtype.names or ():
            if name != "born_ns":
                assert mine[name].tolist() == theirs[name].tolist(), name
        assert abs(int(mine["born_ns"]) - int(theirs["born_ns"])) < TICK
    positions, cursors, lost = bench.table.changes(cursors)
    assert not lost
    assert sorted(bench.table.flows["hash64"][positions].tolist()) == sorted(
        hash_of(one) for one in (flow(1), flow(2, vip=VIP6)) for _ in range(2)
    )
    bench.went(flow(1), Say.PLAIN)
    assert not len(bench.table.changes(cursors)[0]), "nothing new"
    assert bench.program.tables.pins()["pins_made"] == 0, "test runs do not count"


def records(table: PinTable) -> dict[int, np.void]:
    live = table.live()
    return {int(record["hash64"]): record for record in live.flows}


def test_how_long_handshakes_take(bench: Bench) -> None:
    """From a SYN to the client's first ACK, once for each connection; flows that began elsewhere do not count."""
    bench.follow(tables(service(0, slots(1, 2))))
    for number in range(15):
        bench.went(flow(number), Say.SYN)
    told = bench.table.live().flows
    told = told[np.isin(told["hash64"], [hash_of(flow(number)) for number in range(10, 15)])]
    bench.table.words[:] = 0
    for number in range(10):
        bench.went(flow(number), Say.SYN)
    assert bench.table.merge(*(np.full(5, what, kind) for what, kind in ((1, "<u2"), (0, "u1"), (0, "<i8"))), told) == 5
    bench.ns += 20_000_000
    for number in range(20):
        for _ in range(3):
            bench.went(flow(number), Say.PLAIN)
    assert bench.table.delays["count"].nonzero()[0].tolist() == [1]
    count, ns = (int(bench.table.delays[name][1]) for name in ("count", "ns"))
    assert count == 10
    assert 19_000_000 < ns / count < 40_000_000


# Choices


def test_per_flow_takes_one_after_the_other(bench: Bench) -> None:
    """New connections go round, each stays where it is; what was there before is found by its slot."""
    chosen = choices(1, 1, 2, 3)
    bench.follow(tables(service(0, slots(1), placement=Placement.PER_FLOW, choices=chosen)))
    taken = [bench.went(flow(number), Say.SYN) for number in range(8)]
    assert taken == [(int(index), By.CHOICE) for index in chosen] * 2
    for number in range(8):
        for say in (Say.SYN, Say.PLAIN, Say.FIN):
            assert bench.went(flow(number), say) == (int(chosen[number % 4]), By.PIN)
    assert bench.went(flow(100), Say.PLAIN) == (1, By.SLOT)
    # Other choices begin anew; the same go on, whatever else changes.
    bench.follow(tables(service(0, slots(2), placement=Placement.PER_FLOW, choices=chosen)))
    assert bench.went(flow(200), Say.SYN) == (1, By.CHOICE)
    assert bench.went(flow(201), Say.SYN) == (1, By.CHOICE)
    bench.follow(tables(service(0, slots(2), placement=Placement.PER_FLOW, choices=choices(3, 2))))
    assert bench.went(flow(202), Say.SYN) == (3, By.CHOICE)
    bench.follow(tables(service(0, slots(2), placement=Placement.PER_FLOW)))
    outcome, _ = bench.run(flow(203).frame(Say.SYN, OUR_MAC))
    assert outcome.exit == "drop_no_member"
    assert bench.went(flow(202), Say.PLAIN) == (3, By.PIN)


def test_per_packet_takes_turns_packet_by_packet(bench: Bench) -> None:
    """And remembers nothing."""
    kind = Placement.PER_PACKET
    bench.follow(tables(service(0, slots(1), Protocol.UDP, placement=kind, choices=choices(1, 2, 3))))
    one = flow(1, Protocol.UDP)
    assert [bench.went(one, Say.DATA) for _ in range(6)] == [(index, By.CHOICE) for index in (1, 2, 3)] * 2
    assert not bench.table.words.any()


def test_chance_takes_all_of_them(bench: Bench) -> None:
    """As often as they are among the choices."""
    bench.follow(
        tables(
            service(
                0,
                slots(1),
                Protocol.UDP,
                placement=Placement.PER_PACKET,
                choice_order=ChoiceOrder.RANDOM,
                choices=choices(1, 2, 2, 2),
            )
        )
    )
    taken = [bench.went(flow(1, Protocol.UDP), Say.DATA)[0] for _ in range(800)]
    assert set(taken) == {1, 2}
    assert 120 < taken.count(1) < 280
    assert any(a == b == 1 for a, b in pairwise(taken))


# A table that is full


def same_set(wanted: int, sets: int, protocol: Protocol = Protocol.TCP) -> list[Tuple]:
    """Flows that share a set."""
    found = [flow(number, protocol) for number in range(wanted * sets * 3)]
    return [one for one in found if (hash_of(one) >> 32) * sets >> 32 == 1][:wanted]


def test_who_has_to_make_room() -> None:
    """Those that are over, then RST, FIN, NEW, and established ones at the very last; old ones first."""
    bench = Bench(pins=8 * WAYS)
    try:
        bench.follow(tables(service(0, slots(1, 2), idle_timeout_s=300)))
        one = same_set(WAYS + 7, 8)
        assert len(one) == WAYS + 7
        residents, intruders = one[:WAYS], one[WAYS:]
        for number, resident in enumerate(residents):
            bench.went(resident, Say.SYN)
            if number in (0, 1):
                bench.went(resident, Say.PLAIN)
            if number == 2:
                bench.went(resident, Say.FIN)
            if number == 3:
                bench.went(resident, Say.RST)
            bench.later(1 if number < 4 else 0)
        assert held(bench, one) == set(range(WAYS))
        gone = []
        before = held(bench, one)
        for number, intruder in enumerate(intruders):
            bench.went(intruder, Say.SYN)
            bench.went(intruder, Say.PLAIN)
            after = held(bench, one)
            assert after - before == {WAYS + number}
            gone += before - after
            before = after
        assert gone == [3, 2, 4, 5, 6, 7, 0]
    finally:
        bench.close()


def held(bench: Bench, flows: Sequence[Tuple]) -> set[int]:
    """Numbers of the flows that have a place."""
    return {number for number, one in enumerate(flows) if bench.table.find_word(hash_of(one))[1]}


def test_a_flood_leaves_established_flows_alone() -> None:
    """However many SYNs come in, who has sent more than that keeps his place, and forgetting is all that happens to
    the others."""
    bench = Bench(pins=64 * WAYS)
    try:
        bench.follow(tables(service(0, slots(1), placement=Placement.PER_FLOW, choices=choices(1, 2, 3))))
        established = {}
        for number in range(120):
            established[number], _ = bench.went(flow(number), Say.SYN)
            bench.went(flow(number), Say.PLAIN)
        for number in range(1000, 9000):
            bench.went(flow(number), Say.SYN)
        for number, index in established.items():
            assert bench.went(flow(number), Say.PLAIN) == (index, By.PIN)
        assert (bench.table.words != 0).all()
    finally:
        bench.close()


def test_what_is_over_makes_room_first() -> None:
    """Though it were established once, and the others have only begun."""
    bench = Bench(pins=8 * WAYS)
    try:
        bench.follow(tables(service(0, slots(1, 2))))
        one = same_set(WAYS + 1, 8)
        bench.went(one[0], Say.SYN)
        bench.went(one[0], Say.PLAIN)
        bench.later(58)
        for resident in one[1:WAYS]:
            bench.went(resident, Say.SYN)
        bench.went(one[WAYS], Say.SYN)
        assert held(bench, one) == set(range(1, WAYS + 1))
    finally:
        bench.close()


# The reference


def random_slots(rnd: random.Random, members: Sequence[int]) -> SlotArray:
    words = [[rnd.choice([*members, NO_MEMBER]) for _ in range(7)] for _ in range(2)]
    if rnd.random() < 0.2:
        words[1] = words[0]
    return pack(np.array(words[0], np.uint32), np.array(words[1], np.uint32))


def random_service(rnd: random.Random, index: int, vip: IPAddress, protocol: Protocol, members: Sequence[int]):
    placements = [Placement.HASH, Placement.HASH, Placement.PER_FLOW]
    placement = rnd.choice([*placements, Placement.PER_PACKET] if protocol is Protocol.UDP else placements)
    return service(
        index,
        random_slots(rnd, members),
        protocol,
        vip=vip,
        hash_mode=rnd.choice(list(HashMode)),
        placement=placement,
        idle_timeout_s=rnd.choice((0, 5, 60, 300)),
        choices=choices(*(rnd.choice(members) for _ in range(rnd.choice((0, 1, 5))))),
    )


SAYS = (Say.SYN, Say.SYN, Say.PLAIN, Say.PLAIN, Say.PUSH, Say.FIN, Say.RST, Say.RST_ACK, Say.NOTHING, Say.SYN_FIN)


@pytest.mark.parametrize("seed", range(16))
def test_the_program_does_what_the_reference_does(seed: int) -> None:
    """Packet after packet, while time goes by, tables change, and maps are replaced by larger ones: both send every
    packet to the same member for the same reason, and remember the same in the end. What the program passes up, the
    slow path places by the same memory."""
    rnd = random.Random(seed)
    bench = Bench(Capacity(slots=65_568))
    reference = PinTable.in_memory(PINS, lambda: bench.ns)
    turns, seen = Turns(), 0
    try:
        for _ in range(rnd.choice((2, 8))):
            members = rnd.sample(range(10), rnd.randrange(1, 6))
            services = [
                random_service(rnd, number, vip, protocol, members)
                for number, (vip, protocol) in enumerate((vip, kind) for vip in (VIP4, VIP6) for kind in Protocol)
            ]
            wanted = ForwardingTables(
                SECRET, tuple(services), {index: member(index, rnd.choice((L2, L3))) for index in members}
            )
            if rnd.random() < 0.3:
                program = Program(Capacity(slots=65_568), pin_maps=bench.program.pin_maps())
                bench.program.close()
                bench.program = program
                turns = Turns()  # of the program's, no more than of the maps before, is known to the next
            bench.follow(wanted)
            path, slow = PacketPath(wanted, reference, turns), PacketPath(wanted, bench.table)
            for _ in range(300):
                which = rnd.choice(services)
                one = flow(rnd.randrange(30), which.protocol, which.vip)
                say = rnd.choice(SAYS) if which.protocol is Protocol.TCP else Say.DATA
                # Turns of the slow path are others than those of the program.
                odd = which.placement is Placement.HASH and rnd.random() < 0.1
                frame = one.frame(say, OUR_MAC, ttl=1 if odd and rnd.random() < 0.5 else 64)
                expected = path.forward(frame, INGRESS)
                if odd:
                    got: Action | None = slow.forward(frame, INGRESS)
                else:
                    _, got = bench.run(frame)
                assert got is not None
                said = f"{which.placement} {say} {one}"
                wish = expected.verdict, expected.reason, expected.member, expected.slot, expected.service
                assert (got.verdict, got.reason, got.member, got.slot, got.service) == wish, said
                if got.member is not None:
                    assert got.by is expected.by, said
                    seen += 1
                if rnd.random() < 0.05:
                    bench.later(rnd.choice((1, 2, 3, 7, 60)))
            assert remembered(bench.table) == remembered(reference)
        assert seen > 200
        assert bench.table.delays["count"].tolist() == reference.delays["count"].tolist()
        facts = records(reference)
        for key, record in records(bench.table).items():
            assert abs(int(record["born_ns"]) - int(facts[key]["born_ns"])) < TICK
            for name in ("source", "destination", "ports", "hash32", "idle", "protocol", "origin", "opened"):
                assert record[name].tolist() == facts[key][name].tolist(), name
    finally:
        bench.close()


def remembered(table: PinTable) -> dict[int, tuple[int, PinState, int]]:
    """Member, state and age of what is live, by hash."""
    live = table.live()
    columns = zip(live.flows["hash64"].tolist(), live.member, live.state, live.age, strict=True)
    return {key: (int(index), PinState(state), int(age)) for key, index, state, age in columns}


def test_hashes_are_those_of_the_reference(bench: Bench) -> None:
    """Of both families, whatever the service's hash mode: the flow is found where others look for it."""
    sixes = service(1, slots(1, 2), vip=VIP6, hash_mode=HashMode.SOURCE_IP)
    bench.follow(tables(service(0, slots(1, 2)), sixes))
    flows = [flow(number, vip=vip) for number in range(50) for vip in (VIP4, VIP6)]
    # What looks like an IPv4 address is none in an IPv6 packet.
    flows.append(Tuple(ip_address("64:ff9b::192.0.2.1"), VIP6, Protocol.TCP, 1024, WEB))
    for one in flows:
        bench.went(one, Say.PLAIN)
        found = bench.table.find(hash_of(one), tick_of(bench.ns))
        assert found is not None
        assert found[1].member == 2
        assert int(bench.table.flows["hash64"][found[0]]) == hash_of(one)

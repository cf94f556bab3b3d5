"""Flows over time: whatever happens to members, time and routers, packets of a flow reach the member that has it.

Several directors share what they remember, at once and without loss; a router spreads flows over them and changes its
mind. All of the product that decides is the product's: slot words, placement, pins. The machine only knows who has been
told what, and who has which flow.
"""

import hashlib
from dataclasses import dataclass, field
from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.dataplane.pins import PinTable, layout
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
from appliance.model import Delivery, DsrType, HashMode, PortRange, Protocol
from appliance.packet.action import Action, By, Reason, Verdict
from appliance.packet.forward import Ingress, PacketPath, Turns
from appliance.packet.placement import FIN_TICKS, RETRANSMISSION_TICKS, TICK_S, Pin, PinState, idle_ticks, is_live
from appliance.ring.hash import derive_keys, derive_pin_keys, flow_words, hash_words, pin_hash, slot_of
from appliance.ring.slots import pack, unpack
from appliance.ring.transition import TAIL_S, Course, PinFacts, Step, follow, is_quiet, pin_facts, replay, start
from appliance.state import LogEntry, LoggedMember, first_needed
from tests.fuzz.flows import Say, Tuple

WHOLE = tuple(say for say in Say if say not in (Say.FIRST, Say.LATER))
"""Packets that are placed by themselves."""

MEMBERS, DIRECTORS, SIZE = 4, 2, 3
MAC = bytes.fromhex("027100000002")
INGRESS = Ingress(2, MAC, 1500)
SECRET = b"sixteen byte key"
HOP = NextHop(2, "eth1", MAC, bytes(6), 1500, ip_address("192.0.2.1"), True)
EPOCH = 5000.0
"""The clock at the beginning, seconds."""

LAG = 1.0
"""Directors know of every change within that; of a death at once."""

START = {
    "tcp-flows": Placement.PER_FLOW,
    "udp-flows": Placement.PER_FLOW,
    "udp-packets": Placement.PER_PACKET,
}
"""Services that begin with another placement than by hash."""

NAMES = ("tcp", "udp", *START)
VIPS = {4: ip_address("198.51.100.7"), 6: ip_address("2001:db8:f::7")}


@dataclass(frozen=True)
class Times:
    """What an operator has chosen, and what follows for flows."""

    window: float
    quiet: float
    idle: int

    def silence(self, *, closing: bool) -> float:
        """How long a flow may be silent and still be found again."""
        ticks = 2 * TICK_S  # ages are whole ticks
        promised = min(self.window - LAG, self.quiet - ticks, self.idle)
        return min(promised, (FIN_TICKS - 1) * TICK_S) if closing else promised


TIMES = (Times(120, float("inf"), 60), Times(120, 45, 60), Times(60, 30, 200), Times(200, float("inf"), 200))


@dataclass
class Member:
    serves: bool
    takes: bool
    """New flows, while it serves."""
    weight: int = 1


@dataclass
class Flow:
    tuple: Tuple
    director: int
    member: int | None = None
    """Who has it; None: nobody, or we cannot tell."""

    last: float = 0.0
    """When it last said something by which it is remembered."""

    closing: bool = False
    opened: bool = False
    """Whether the member has had more than a SYN."""


@dataclass
class Director:
    """What one director is told, and what it makes of it."""

    pins: PinTable
    course: Course
    known: int
    """How much of the log it has followed."""

    turns: Turns = field(default_factory=Turns)
    path: PacketPath = field(default_factory=lambda: PacketPath(ForwardingTables()))


def owners(course: Course) -> np.ndarray:
    """Where the flows are that nobody remembers, slot by slot."""
    primary, previous = unpack(course.slots)
    return np.where(previous == NO_MEMBER, primary, previous)


def ring(members: dict[int, Member]) -> SlotArray:
    """Slots by rendezvous among those that take new flows."""
    primary = np.full(SIZE, NO_MEMBER, np.uint32)
    able = [index for index, one in members.items() if one.serves and one.takes and one.weight]
    for slot in range(SIZE if able else 0):
        primary[slot] = max(able, key=lambda index: _draw(index, slot) ** (1 / members[index].weight))
    return pack(primary, primary)


def _draw(index: int, slot: int) -> float:
    return int.from_bytes(hashlib.blake2b(bytes((index, slot)), digest_size=8).digest(), "big") / (1 << 64)


class Fleet(RuleBasedStateMachine):
    """Directors, members, flows."""

    @initialize(
        kind=st.sampled_from((*NAMES, "tcp", "udp", "tcp")),
        times=st.sampled_from(TIMES),
        version=st.sampled_from((4, 6)),
        serving=st.integers(1, (1 << MEMBERS) - 1),
    )
    def begin(self, kind: str, times: Times, version: int, serving: int) -> None:
        self.now, self.times, self.kind = EPOCH, times, kind
        self.protocol = Protocol.UDP if kind.startswith("udp") else Protocol.TCP
        self.window = min(times.window, times.idle) if self.protocol == Protocol.UDP else times.window
        self.vip = VIPS[version]
        self.members = {index: Member(bool(serving >> index & 1), True) for index in range(MEMBERS)}
        self.memory = {name: np.zeros(count, dtype) for name, (dtype, count) in layout(1 << 9, DIRECTORS).items()}
        self.placement = START.get(kind, Placement.HASH)
        self.steps = [Step(self.now, ring(self.members), self.serving())]
        self.flows: list[Flow] = []
        self.directors = [self.director(number, start(self.steps[0].wanted)) for number in range(DIRECTORS)]
        for director in self.directors:
            self.publish(director)

    # What directors are told

    def serving(self) -> frozenset[int]:
        return frozenset(index for index, one in self.members.items() if one.serves)

    def director(self, number: int, course: Course) -> Director:
        pins = PinTable(self.memory, writer=number, clock_ns=lambda: int(self.now * 1e9))
        return Director(pins, course, len(self.steps))

    def catch_up(self, director: Director) -> None:
        """Follow the log, each entry at its time."""
        for step in self.steps[director.known :]:
            settled_at = step.at if step.settled else float("-inf")
            director.course = follow(
                director.course, step.wanted, step.serving, step.at, self.window, settled_at=settled_at
            )
        director.known = len(self.steps)
        self.publish(director)

    def sync(self) -> None:
        """All directors follow the log and the clock."""
        last = self.steps[-1]
        for director in self.directors:
            self.catch_up(director)
            director.course = follow(director.course, last.wanted, last.serving, self.now, self.window, self.facts())
            self.publish(director)
        some = np.flatnonzero(last.wanted & 0xFFFF != NO_MEMBER)
        assert len({tuple(owners(director.course)[some]) for director in self.directors}) == 1

    def facts(self) -> PinFacts:
        """What is remembered of flows."""
        live = self.directors[0].pins.live()
        slot = (live.flows["hash32"].astype(np.uint64) * np.uint64(SIZE) >> np.uint64(32)).astype(np.int64)
        return pin_facts(self.now, slot, live.member, live.age.astype(np.float32) * np.float32(TICK_S))

    def publish(self, director: Director) -> None:
        step = self.steps[director.known - 1]
        choices = np.intersect1d(step.wanted & 0xFFFF, sorted(step.serving)).astype(np.uint16)
        members = {
            index: TableMember(index, f"m{index}", ip_address("192.0.2.9"), Delivery(DsrType.L2, None), HOP)
            for index in step.serving
        }
        service = TableService(
            0,
            self.kind,
            self.vip,
            self.protocol,
            (PortRange(80, 80),),
            HashMode.FIVE_TUPLE,
            director.course.slots,
            self.times.idle,
            self.placement,
            ChoiceOrder.SEQUENCE,
            NO_CHOICES if self.placement is Placement.HASH else choices,
        )
        director.path = PacketPath(ForwardingTables(SECRET, (service,), members), director.pins, director.turns)

    @staticmethod
    def entry_of(step: Step) -> LogEntry:
        """A step, as far as the length of a log depends on it."""
        taking = set((step.wanted & 0xFFFF).tolist()) - {NO_MEMBER}
        address = ip_address("192.0.2.9")
        members = (LoggedMember(f"m{index}", address, 1, index in taking, serving=True) for index in step.serving)
        return LogEntry(step.at, tuple(members), step.settled)

    def log(self, *, at_once: bool = False) -> None:
        self.steps.append(Step(self.now, ring(self.members), self.serving()))
        if at_once:
            self.sync()

    # What happens to members

    @rule(index=st.integers(0, MEMBERS - 1))
    def comes(self, index: int) -> None:
        """Recovers, is added, or takes new flows again."""
        one = self.members[index]
        if not (one.serves and one.takes):
            one.serves = one.takes = True
            self.log()

    @rule(index=st.integers(0, MEMBERS - 1))
    def drains(self, index: int) -> None:
        one = self.members[index]
        if one.serves and one.takes:
            one.takes = False
            self.log()

    @rule(index=st.integers(0, MEMBERS - 1))
    def goes(self, index: int) -> None:
        """Dies, or is removed."""
        one = self.members[index]
        if not one.serves:
            return
        self.sync()
        one.serves = False
        for flow in self.flows:
            if flow.member == index:
                flow.member = None
        self.log(at_once=True)
        serves = np.zeros(NO_MEMBER + 1, np.bool_)
        serves[list(self.serving())] = True
        self.directors[0].pins.forget(serves)

    @rule(index=st.integers(0, MEMBERS - 1), weight=st.integers(0, 5))
    def weighs(self, index: int, weight: int) -> None:
        one = self.members[index]
        if one.weight != weight:
            one.weight = weight
            self.log()

    # Time, routers, directors

    @rule(seconds=st.sampled_from((0.1, 0.5, 1.2, 2.5, 4.0, 10.0, 29.0, 31.0, 55.0, 61.0, 119.0, 121.0, 210.0)))
    def passes(self, seconds: float) -> None:
        """Time."""
        if self.now + seconds - self.steps[-1].at > LAG:
            self.sync()
        self.now += seconds

    @rule(number=st.integers(0, DIRECTORS - 1))
    def hears(self, number: int) -> None:
        """A director has heard of all changes, the others maybe not."""
        self.catch_up(self.directors[number])

    @rule()
    def looks_around(self) -> None:
        """Directors do what time wants them to do."""
        self.sync()
        self.directors[0].pins.sweep()

    @rule(salt=st.integers(0, 5))
    def moves(self, salt: int) -> None:
        """Routers spread flows in another way."""
        self.sync()
        for number, flow in enumerate(self.flows):
            flow.director = (number * 7 + number // 3 + salt) % DIRECTORS

    @rule(number=st.integers(0, DIRECTORS - 1))
    def closes_windows(self, number: int) -> None:
        """A director finds that nobody uses previous owners any more, and tells all others."""
        self.sync()
        course, last = self.directors[number].course, self.steps[-1]
        if is_quiet(course, self.facts(), self.now, self.times.quiet):
            self.steps.append(Step(self.now, last.wanted, last.serving, settled=True))

    @rule(number=st.integers(0, DIRECTORS - 1))
    def restarts(self, number: int) -> None:
        """A director begins anew, with what the others tell it."""
        self.sync()
        first = first_needed([self.entry_of(step) for step in self.steps], self.times.window, self.now)
        course = replay(self.steps[first:], self.now, self.window)
        assert course is not None
        self.directors[number] = self.director(number, course)
        self.sync()

    @precondition(lambda self: self.placement is not Placement.PER_PACKET and self.kind in START)
    @rule()
    def algorithm(self) -> None:
        """A pool's algorithm changes: from one that decides flow by flow to one that does not, or back."""
        self.sync()
        self.placement = Placement.HASH if self.placement is Placement.PER_FLOW else Placement.PER_FLOW
        for flow in self.flows:
            # Datagrams do not tell whether they begin a flow: those of steady slots, which nobody remembers, are new.
            pin = self.entry(flow)
            remembered = pin is not None and is_live(pin, idle_ticks(self.times.idle)) and pin.member == flow.member
            if self.protocol is Protocol.UDP and self.placement is Placement.PER_FLOW and not remembered:
                flow.member = None
        self.sync()

    # What clients do

    @rule(
        first=st.integers(0, 6), count=st.integers(1, 3), director=st.integers(0, DIRECTORS - 1), answered=st.booleans()
    )
    def opens(self, first: int, count: int, director: int, answered: bool) -> None:
        """Connections, or flows of datagrams."""
        for number in range(first, first + count):
            source = ip_address(f"203.0.113.{number}" if self.vip.version == 4 else f"2001:db8::{number:x}")
            key = Tuple(source, self.vip, self.protocol, 1024 + number, 80)
            if all(flow.tuple != key for flow in self.flows):
                self.flows.append(Flow(key, director))
                self.send(self.flows[-1], Say.SYN if self.protocol is Protocol.TCP else Say.DATA)
                if answered and self.protocol is Protocol.TCP:
                    self.send(self.flows[-1], Say.PLAIN)

    @precondition(lambda self: self.flows)
    @rule(which=st.integers(0, 1 << 16), say=st.sampled_from([*WHOLE, Say.PLAIN, Say.PLAIN, Say.SYN]))
    def speaks(self, which: int, say: Say) -> None:
        """A flow goes on, ends, or begins again."""
        flow = self.flows[which % len(self.flows)]
        if self.protocol is Protocol.UDP:
            say = Say.ERROR if say is Say.ERROR else Say.DATA
        elif say is Say.DATA:
            say = Say.PUSH
        self.send(flow, say)

    @precondition(lambda self: self.flows)
    @rule(part=st.sampled_from((0.3, 0.9)), through=st.booleans())
    def all_go_on(self, part: float, through: bool) -> None:
        """Time passes, maybe all of a window, and no flow is silent for longer than it may be."""
        gap = self.times.silence(closing=any(flow.closing for flow in self.flows)) * part
        for _ in range(int(self.window / gap) + 2 if through else 1):
            self.passes(gap)
            for flow in self.flows:
                if flow.opened or self.protocol is Protocol.UDP:
                    self.send(flow, Say.DATA if self.protocol is Protocol.UDP else Say.PLAIN)

    def send(self, flow: Flow, say: Say) -> None:
        director = self.directors[flow.director]
        step = self.steps[director.known - 1]
        word = self.word(flow, director)
        before = self.entry(flow)
        words = self.memory["words"].copy()
        if flow.member is not None and self.now - flow.last > self.times.silence(closing=flow.closing):
            flow.member = None

        action = director.path.forward(flow.tuple.frame(say, MAC), INGRESS)

        live = before if before is not None and before.member in step.serving else None
        if action.verdict is Verdict.TRANSMIT:
            assert action.member in step.serving
        else:
            assert action.reason is Reason.NO_MEMBER
        changed = words != self.memory["words"]
        if self.placement is Placement.HASH and word[0] == word[1]:
            assert not changed.any(), "a steady slot has made somebody remember something"
            assert action.by in (By.SLOT, None)
        if self.placement is Placement.PER_PACKET:
            assert not changed.any()
            return
        if say is Say.SYN:
            self.opened(flow, action, step, live)
            return
        assert self.protocol is Protocol.UDP or say not in (Say.NOTHING, Say.SYN_FIN) or not changed.any()
        if flow.member is not None:
            assert action.member == flow.member, f"{flow} went to {action.member} by {action.by}, word {word}, {before}"
        elif self.protocol is Protocol.UDP and say is Say.DATA:
            flow.member = action.member
        if self.protocol is Protocol.UDP and say is Say.DATA:
            flow.last = self.now
        elif say in (Say.PLAIN, Say.PUSH):
            flow.last, flow.opened = self.now, True
        elif say is Say.FIN:
            flow.last, flow.closing = self.now, True
        elif say in (Say.RST, Say.RST_ACK):
            flow.member = None

    def opened(self, flow: Flow, action: Action, step: Step, live: Pin | None) -> None:
        """A SYN has been sent."""
        again = live is not None and live.state < PinState.FIN and live.age < RETRANSMISSION_TICKS
        if again and live is not None and not self.steady(flow):
            assert action.member == live.member
        elif action.verdict is Verdict.TRANSMIT:
            assert (step.wanted & 0xFFFF == action.member).any(), "a new flow for one that takes none"
        else:
            assert (step.wanted & 0xFFFF == NO_MEMBER).all()
        if action.verdict is Verdict.TRANSMIT:
            flow.member, flow.last, flow.closing, flow.opened = action.member, self.now, False, False
        elif not flow.opened:
            flow.member = None

    # What can be known

    def word(self, flow: Flow, director: Director) -> tuple[int, int]:
        words = self.words(flow)
        slots = director.course.slots
        word = int(slots[slot_of(hash_words(derive_keys(SECRET), words), SIZE)])
        return word & 0xFFFF, word >> 16

    def steady(self, flow: Flow) -> bool:
        primary, previous = self.word(flow, self.directors[flow.director])
        return self.placement is Placement.HASH and primary == previous

    def entry(self, flow: Flow) -> Pin | None:
        """Its pin, live or not."""
        pins = self.directors[0].pins
        found = pins.find(pin_hash(derive_pin_keys(SECRET), self.words(flow)), pins.now())
        return found[1] if found else None

    @staticmethod
    def words(flow: Flow) -> tuple[int, ...]:
        key = flow.tuple
        return flow_words(key.source.packed, key.destination.packed, key.ports, key.protocol, HashMode.FIVE_TUPLE)

    @invariant()
    def words_name_those_that_serve(self) -> None:
        if not hasattr(self, "directors"):
            return
        for director in self.directors:
            serving = {*self.steps[director.known - 1].serving, NO_MEMBER}
            assert {int(index) for half in unpack(director.course.slots) for index in half} <= serving

    def teardown(self) -> None:
        """When nothing happens any more, all slots become steady."""
        if not hasattr(self, "directors"):
            return
        self.sync()
        if (self.steps[-1].wanted & 0xFFFF == NO_MEMBER).any():
            return
        self.now += 2 * max(self.times.window, self.times.idle)
        for _ in range(3):
            self.sync()
            self.now += TAIL_S + 1
        assert all(director.course.steady for director in self.directors)


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, report_multiple_bugs=False, print_blob=True
)


def fleet(kind: str, serving: int, times: Times = TIMES[0]) -> Fleet:
    made = Fleet()
    made.begin(kind=kind, times=times, version=4, serving=serving)
    return made


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_what_dead_members_had_is_forgotten(kind: str) -> None:
    """A flow that has moved away from a dead member stays where it is when that one comes back."""
    machine = fleet(kind, 0b10)
    machine.comes(0)
    machine.looks_around()
    if kind == "udp":
        machine.passes(121.0)  # no datagram tells that its flow is new: the window has to be over
        machine.looks_around()
    machine.opens(first=0, count=20, director=0, answered=True)
    assert {flow.member for flow in machine.flows} == {0, 1}
    machine.goes(0)
    machine.passes(31.0)
    machine.looks_around()
    assert all(machine.steady(flow) for flow in machine.flows)
    again = Say.SYN if kind == "tcp" else Say.DATA
    for flow in machine.flows:
        machine.send(flow, again)
    machine.comes(0)
    machine.looks_around()
    for flow in machine.flows:
        assert flow.member == 1
        machine.send(flow, Say.PLAIN if kind == "tcp" else Say.DATA)


def test_datagrams_that_are_placed_one_by_one_are_not_remembered() -> None:
    """Whatever happens to members meanwhile."""
    machine = fleet("udp-packets", 0b111)
    machine.opens(first=0, count=20, director=0, answered=False)
    for happens in (lambda: machine.drains(0), lambda: machine.comes(3), lambda: machine.goes(1)):
        happens()
        machine.looks_around()
        for number in range(len(machine.flows)):
            machine.speaks(number, Say.DATA)
    assert not machine.memory["words"].any()


def test_a_repeated_syn_in_a_window_stays_where_it_was() -> None:
    """Also where the slot has got another owner since, as long as the member serves."""
    machine = fleet("tcp", 0b11)
    machine.comes(2)
    machine.looks_around()
    machine.opens(first=0, count=20, director=0, answered=False)
    before = [flow.member for flow in machine.flows]
    machine.drains(2)
    machine.looks_around()
    words = [machine.word(flow, machine.directors[0]) for flow in machine.flows]
    assert any(primary != member for (primary, _), member in zip(words, before, strict=True))
    for flow in machine.flows:
        machine.send(flow, Say.SYN)
    assert [flow.member for flow in machine.flows] == before


def test_flows_outlive_a_death_while_all_drain() -> None:
    """Those of members that still serve go on, whoever had the flows that nobody remembers."""
    machine = fleet("tcp", 0b10)
    machine.comes(0)
    machine.looks_around()
    machine.opens(first=0, count=20, director=0, answered=True)
    assert {flow.member for flow in machine.flows} == {0, 1}
    machine.drains(0)
    machine.drains(1)
    machine.looks_around()
    machine.goes(1)
    for flow in machine.flows:
        machine.send(flow, Say.PLAIN)


def test_who_restarts_while_all_drain_finds_flows_as_the_others_do() -> None:
    """Also those that nobody remembers, of a slot that had been steady for long."""
    machine = fleet("tcp", 0b1101)
    machine.drains(0)
    machine.passes(119.0)
    machine.drains(2)
    for _ in range(3):
        machine.passes(31.0)
        machine.looks_around()
    machine.opens(first=0, count=20, director=0, answered=True)
    machine.drains(3)
    machine.restarts(1)
    machine.moves(1)
    for flow in machine.flows:
        machine.send(flow, Say.PLAIN)

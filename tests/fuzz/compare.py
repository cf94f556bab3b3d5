"""One case: tables and frames, and what the three implementations do with each of them.

A case is made from one number. Everything random about it comes from there, so the number is all it takes to see a
difference again.
"""

import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.bpf.libbpf import TestRun, TestRunner
from appliance.dataplane.base import Traffic
from appliance.dataplane.meters import MeterTable
from appliance.dataplane.pins import MEMBER_SHIFT, STATE_SHIFT, WHEN_MASK, PinTable
from appliance.dataplane.raw import bpf, kernel
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.layout import ETHERNET, Columns, stride_for
from appliance.dataplane.raw.single import SinglePath
from appliance.dataplane.raw.turns import ColumnTurns
from appliance.dataplane.raw.vector import VectorPath
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.plane import action_of
from appliance.dataplane.xdp.program import LONGEST_TEST_FRAME, OBJECT, Program
from appliance.dataplane.xdp.tables import Capacity, Egress
from appliance.forwarding import LEAST_IPV6, ForwardingTables, Placement, TableMember
from appliance.model import IPAddress, Protocol
from appliance.packet import headers
from appliance.packet.action import Action, By, Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress, PacketPath, Turns
from appliance.packet.fragments import Fragments
from appliance.packet.placement import TICK_SHIFT, PinState
from tests.fuzz.frames import Frames
from tests.fuzz.tables import TICK_NS, Raw, changed_tables, random_ingress, random_tables
from tests.vectors_io import SMALL_FRAME, canonical, difference, excuses, read_ingress, read_tables

FRAMES = 4096
"""Frames of a case."""

BATCH = 64
CAPACITY = Capacity(
    buckets=1 << 12,
    entries=2048,
    ranges=2048,
    boundaries=1 << 13,
    stations=256,
    ways=256,
    services=256,
    slots=48 * 65568,
    quic=512,
    servers=1 << 13,
)
"""Room for the largest tables that there can be: nothing grows here."""
PINS = 1 << 15
"""Many more than a case has flows: whom implementations leave out when there is no room is their own affair."""

_DRIFT_NS = 1 << TICK_SHIFT - 2
"""How far the program's clock, which goes on, may be from ours, which stands."""

_XDP_VERDICTS = {"drop": 1, "pass": 2, "slow": 2, "transmit": 3}
"""XDP_DROP, XDP_PASS, XDP_TX: test runs send nothing through another interface."""

_TAG = b"\x81\x00\x00\x05"
_TICKS = (0, 0, 0, 1, 2, 3, 4, 10, 55, 56, 57, 58, 100, 279, 281, 282, 283, 20_000)
_BEGINNINGS = (0, 1000, (1 << 14) - 2, (1 << 32) - 60)
"""Ticks. Words of pins have the lowest 14 bits of them, the program counts 32."""


@dataclass(frozen=True)
class Chunk:
    """Frames that arrive at one moment."""

    ticks: int
    """Since those before."""

    version: int
    """Of the tables that are followed."""

    frames: list[bytes]


@dataclass(frozen=True)
class Case:
    seed: int
    raw_tables: list[Raw]
    """Versions of one configuration."""

    raw_ingress: Raw
    chunks: list[Chunk]
    begin: int = 0
    """Tick before the first chunk."""

    egress: dict[int, Egress] = field(default_factory=dict)
    """By the ifindex of a next hop, where the program cannot simply send."""

    flags: int = 0
    """More flags of the ingress port."""

    coarse: bool = False
    """Whether the socket filters do not know the VIPs, as with thousands of them."""

    @property
    def frames(self) -> list[bytes]:
        return [frame for chunk in self.chunks for frame in chunk.frames]


@dataclass(frozen=True)
class Finding:
    """Implementations do not agree."""

    seed: int
    implementation: str
    text: str
    frame: bytes | None = None
    """None when it is counters or memories that differ."""

    expected: Action | None = None
    decided: dict[str, str] = field(default_factory=dict)
    """What each implementation did."""

    chunk: int = 0
    """Where it was found."""
    at: int | None = None
    """The frame's place in there; None when it is not about a frame."""


def make_case(seed: int, frames: int = FRAMES) -> Case:
    """The case of a number."""
    rnd = random.Random(seed)
    return draw_case(rnd, seed, frames, labels=rnd.random() < 0.1)


def draw_case(rnd: random.Random, seed: int, count: int, *, labels: bool = False) -> Case:
    """A case by the choices of *rnd*; with *labels*, also flows whose hashes have no low bits, which takes a while."""
    versions, raw_ingress = [random_tables(rnd)], random_ingress(rnd)
    source = Frames(rnd, read_tables(versions[0]), read_ingress(raw_ingress), flows=rnd.choice((0, 3, 12, 40)))
    if labels:
        source.look_for_labels()
    moments = min(count, rnd.choice((1, 4, 16, 40)))
    sort = rnd.random() > 0.5
    chunks = []
    for moment in range(moments):
        if moment and rnd.random() < 0.3:
            versions.append(changed_tables(rnd, versions[-1]))
        frames = source.take(count * (moment + 1) // moments - count * moment // moments)
        if sort:
            # Frames that are alike come to the vectorised path together.
            frames.sort(key=lambda frame: (frame[12:14], frame[23:24], frame[30:34], frame[36:38]))
        chunks.append(Chunk(rnd.choice(_TICKS), len(versions) - 1, frames))
    egress = {}
    for ifindex in (7, 9):
        how = rnd.random()
        if how > 0.9:
            egress[ifindex] = Egress(ifindex, slow="no native XDP")
        elif how > 0.8:
            egress[ifindex] = Egress(ifindex, tag=_TAG)
    flags = layout.PORT_PARTIAL if rnd.random() > 0.8 else 0
    begin = rnd.choice(_BEGINNINGS)
    return Case(seed, versions, raw_ingress, chunks, begin, egress, flags, rnd.random() > 0.8)


class Clock:
    """A monotonic clock that moves by whole ticks. It stands in the middle of one, away from the edges."""

    def __init__(self, tick: int) -> None:
        self._ns = (tick << TICK_SHIFT) + (1 << TICK_SHIFT - 1)

    def now(self) -> int:
        """Nanoseconds."""
        return self._ns

    def move(self, ticks: int) -> None:
        self._ns += ticks << TICK_SHIFT


class Reference:
    """The reference path with its memory."""

    def __init__(self, pins: PinTable, clock: Clock, meters: MeterTable | None = None) -> None:
        self.pins = pins
        self.meters = meters or MeterTable.in_memory(clock.now)
        self._turns, self._fragments = Turns(), Fragments(clock.now)
        self._path = PacketPath(ForwardingTables())

    def follow(self, tables: ForwardingTables) -> None:
        self._path = PacketPath(tables, self.pins, self._turns, self._fragments, self.meters)

    def holds(self, frame: bytes, ingress: Ingress) -> bool:
        """Whether a frame would have to wait."""
        return self._path.forward(frame, ingress, look_only=True).verdict is Verdict.HOLD

    def forward(self, frame: bytes, ingress: Ingress, *, waited: bool = True) -> Action:
        """What becomes of a frame. Here, all have waited before they come."""
        return self._path.forward(frame, ingress, waited=waited)


def _dues(meters: MeterTable) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """When its meters are due: of services and VIPs, and of sources."""
    return meters._dues, meters._sources["due"]


class News:
    """The flows that a table says something has changed about, from one time of asking to the next."""

    def __init__(self, pins: PinTable) -> None:
        self._pins = pins
        _, self._cursors, _ = pins.changes(pins.heads.copy())

    def flows(self) -> set[int]:
        positions, self._cursors, _ = self._pins.changes(self._cursors)
        return set(self._pins.flows["hash64"][positions].tolist())


def remembered(pins: PinTable) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.void]]:
    """All that is in a table, live or not: words, and whose they are, in the order of the flows' hashes."""
    position = np.flatnonzero(pins.words)
    position = position[np.argsort(pins.flows["hash64"][position])]
    flows = pins.flows[position].copy()
    flows["born_ns"] = 0  # finer than our clock
    return pins.words[position], flows


def memories_differ(expected: PinTable, got: PinTable) -> str:
    """The first flow that two tables do not remember alike; empty when there is none."""
    mine, theirs = remembered(expected), remembered(got)
    if np.array_equal(mine[0], theirs[0]) and np.array_equal(mine[1], theirs[1]):
        return ""
    said = [
        dict(zip(flows["hash64"].tolist(), map(_pin_said, words.tolist(), flows), strict=True))
        for words, flows in (mine, theirs)
    ]
    for flow in sorted(said[0].keys() | said[1].keys()):
        if said[0].get(flow) != said[1].get(flow):
            return f"of a flow is remembered {said[1].get(flow)}, expected {said[0].get(flow)}"
    return "the tables of pins differ"


def _pin_said(word: int, flow: np.void) -> str:
    state = PinState(word >> STATE_SHIFT & 3).name
    return f"member {word >> MEMBER_SHIFT & 0xFFFF}, {state}, tick {word & WHEN_MASK}, of {flow}"


class Filters:
    """The two socket filters of a raw plane, run by the kernel on a pair of sockets that lead nowhere."""

    def __init__(self, tables: ForwardingTables, mtu: int, *, coarse: bool) -> None:
        self._pairs = []
        arguments = sorted(tables.vips_v4), sorted(tables.vips_v6), mtu
        for accept in (bpf.Class.PLAIN, bpf.Class.ODD):
            program = bpf.coarse_classifier(*arguments, accept) if coarse else bpf.classifier(*arguments, accept)[0]
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            pair[1].setblocking(False)
            kernel.attach_filter(pair[1], bpf.assemble(program))
            self._pairs.append(pair)

    def classify(self, frame: bytes) -> bpf.Class:
        """Which of the sockets gets a frame."""
        plain, odd = (self._admits(pair, frame) for pair in self._pairs)
        if plain and odd:
            raise AssertionError(f"both sockets get {frame.hex()}")
        return bpf.Class.PLAIN if plain else bpf.Class.ODD if odd else bpf.Class.OTHER

    @staticmethod
    def _admits(pair: tuple[socket.socket, socket.socket], frame: bytes) -> bool:
        pair[0].send(frame)
        try:
            pair[1].recv(1)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        for pair in self._pairs:
            for one in pair:
                one.close()


class Comparison:
    """The implementations, ready for case after case. `close` it."""

    def __init__(self, *, raw: bool = True, compiled: Path | None = OBJECT) -> None:
        """
        Args:
            raw: whether the raw plane takes part; the reference always does.
            compiled: the program's object; None leaves it out.

        Raises:
            BpfError: the program cannot be loaded.
        """
        self._raw = raw
        self._program = Program(CAPACITY, compiled, pins=PINS) if compiled else None
        self.exits: Counter[str] = Counter()
        """How often the program took which way out."""
        self.kinds: Counter[str] = Counter()
        """What the reference did: verdicts, reasons, and what has decided on members."""

    def close(self) -> None:
        if self._program:
            self._program.close()

    def run(self, case: Case) -> list[Finding]:
        """What does not agree in a case: at most one finding of each implementation."""
        tables, ingress = [read_tables(raw) for raw in case.raw_tables], read_ingress(case.raw_ingress)
        findings = RawRun(case, tables, ingress).run(self.kinds) if self._raw else []
        if self._program:
            finding = ProgramRun(self._program, case, tables, ingress).run(self.exits)
            findings += [finding] if finding is not None else []
        return findings


class ProgramRun:
    """The XDP program through one case, side by side with the reference.

    What the program leaves to the slow path is taken by the reference, with the program's memory and turns of its own.
    """

    def __init__(self, program: Program, case: Case, tables: list[ForwardingTables], ingress: Ingress) -> None:
        self._case, self._tables, self._ingress = case, tables, ingress
        self._program = program
        self._runner: TestRunner = program._runner
        self._maps = program.tables
        self._clock = Clock(case.begin)
        self._ahead = self._clock.now() - time.monotonic_ns()
        self._pins = program.pin_table(lambda: time.monotonic_ns() + self._ahead)
        self._pins.words[:] = 0
        # Now and then, time goes back between two packets: here that is no surprise.
        self._pins.delays = np.zeros(len(self._pins.delays), [("count", "<i8"), ("ns", "<i8")])
        self._news = News(self._pins)
        mirror = PinTable.in_memory(PINS, self._clock.now)
        self._mirrored_news = News(mirror)
        meters, mirrored = program.meters, MeterTable.in_memory(self._clock.now)
        meters.clock_ns = self._pins.clock_ns
        meters.clear()
        self._fast, self._slow, self._upstairs = (
            Reference(pins, self._clock, counting)
            for pins, counting in ((mirror, mirrored), (mirror, mirrored), (self._pins, meters))
        )

    def run(self, exits: Counter[str]) -> Finding | None:
        """What does not agree, if anything."""
        self._follow(ForwardingTables())  # whose turn it is begins anew
        try:
            for version, chunks in groupby(enumerate(self._case.chunks), key=lambda pair: pair[1].version):
                finding = self._run_version(self._tables[version], list(chunks), exits)
                if finding:
                    return finding
        finally:
            self._maps.set_clock(0)
        return None

    def _follow(self, tables: ForwardingTables) -> None:
        self._maps.stage(tables, self._egress)
        self._maps.publish()
        self._maps.settle()
        flags = layout.PORT_QUIET | layout.PORT_REMEMBER | self._case.flags
        self._maps.set_port(layout.LOOPBACK, self._ingress.mac, self._ingress.mtu, flags)

    def _wind(self) -> None:
        """Let the program have our time."""
        drift = time.monotonic_ns() + self._ahead - self._clock.now()
        if drift > _DRIFT_NS:
            self._ahead -= drift
            self._wind_meters()
        self._maps.set_clock(self._ahead)

    def _wind_meters(self) -> None:
        """Time has gone back, which no meter expects. Those that say the same as the reference's, but for less than
        half a tick, say exactly the same from now on."""
        for mine, theirs in zip(_dues(self._upstairs.meters), _dues(self._fast.meters), strict=True):
            near = np.abs(mine.view(np.int64) - theirs.view(np.int64)) < TICK_NS // 2
            mine[near] = theirs[near]

    def _egress(self, member: TableMember) -> Egress:
        ifindex = member.next_hop.ifindex
        return self._case.egress.get(ifindex, Egress(ifindex))

    def _run_version(
        self, tables: ForwardingTables, chunks: list[tuple[int, Chunk]], exits: Counter[str]
    ) -> Finding | None:
        self._follow(tables)
        for path in (self._fast, self._slow, self._upstairs):
            path.follow(tables)
        before, books, ways_out = self._counted(tables), _Books(), Counter[str]()
        for number, chunk in chunks:
            self._clock.move(chunk.ticks)
            self._ahead += chunk.ticks << TICK_SHIFT
            for at, frame in enumerate(chunk.frames):
                if not 14 <= len(frame) <= LONGEST_TEST_FRAME:
                    continue
                self._wind()
                finding = self._frame(tables, frame, books, ways_out)
                if finding:
                    return replace(finding, chunk=number, at=at)
            text = memories_differ(self._fast.pins, self._pins)
            news, expected = self._news.flows(), self._mirrored_news.flows()
            if not text and news != expected:
                text = f"there is news of flows {sorted(news)}, expected {sorted(expected)}"
            if text:
                return Finding(self._case.seed, "xdp", text, chunk=number)
        exits.update(ways_out)
        after = self._counted(tables)
        transmitted = ways_out.pop("transmit", 0)
        grown = {name: count - before[0][name] for name, count in after[0].items() if count != before[0][name]}
        text = _unequal("ways out", dict(ways_out), grown)
        text = text or books.compare(tables, after[1], after[2], before[1], before[2])
        if text:
            return Finding(self._case.seed, "xdp", f"{text} ({transmitted} transmitted)", chunk=chunks[-1][0])
        return None

    def _frame(self, tables: ForwardingTables, frame: bytes, books: "_Books", ways_out: Counter[str]) -> Finding | None:
        result = self._runner.run(frame)
        outcome = self._maps.outcome()
        way_out = outcome.exit
        ways_out[way_out] += 1
        slow = way_out.startswith("slow_")
        action = (self._slow if slow else self._fast).forward(frame, self._ingress)
        if way_out == "transmit":
            books.count(action, frame)
        text = self._judge(tables, frame, action, way_out, result, action_of(outcome, result.frame, tables))
        if slow and not text:
            text = difference(action, self._upstairs.forward(frame, self._ingress))
        if not text:
            return None
        did = f"{way_out}, service {outcome.service}, member {outcome.member} by {outcome.by}, slot {outcome.slot}"
        return Finding(self._case.seed, "xdp", text, frame, action, {"reference": _said(action), "xdp": did})

    def _judge(
        self,
        tables: ForwardingTables,
        frame: bytes,
        action: Action,
        way_out: str,
        result: TestRun,
        got: Action | None,
    ) -> str:
        case = self._case
        kind = way_out.partition("_")[0]
        if result.verdict != _XDP_VERDICTS[kind]:
            return f"{way_out}, and yet the verdict is {result.verdict}"
        if kind != "transmit" and result.frame != frame:
            return f"{way_out} has changed the frame to\n{result.frame.hex()}"
        if got is None:
            encrypted = any(one.config.key for service in tables.services for one in service.quic)
            rejecting = _destination(frame) in tables.rejecting
            allowed = excuses(frame, action, encrypted=encrypted, rejecting=rejecting)
            if case.flags & layout.PORT_PARTIAL and way_out == "slow_partial_checksum" and _looks_partial(frame):
                allowed.add(way_out)
            out = case.egress.get(tables.members[action.member].next_hop.ifindex) if action.member is not None else None
            if out is not None and out.slow:
                allowed.add("slow_egress")
            member = tables.members[action.member] if action.member is not None else None
            if member is not None and member.inner_mtu < member.inner_mtu6 < LEAST_IPV6:
                allowed.add("slow_too_big")  # the program knows of no other least
            if action.by is By.CHOICE:
                # The slow path has turns of its own: whom the program has met is not known.
                allowed |= {"slow_egress"} | ({"slow_ttl_expired"} if _hop_limit(frame) <= 1 else set())
            return "" if way_out in allowed else f"{way_out} although it is {_said(action)}"
        if got.verdict is Verdict.TRANSMIT:
            out = case.egress.get(got.ifindex)
            if out is not None and out.tag[0]:
                if got.frame[12:16] != out.tag:
                    return "the frame out has not the tag that its interface needs"
                got = replace(got, frame=_untagged(got.frame))
            more = len(got.frame) - len(action.frame) if action.verdict is Verdict.TRANSMIT else 0
            if more > 0 and len(frame) > SMALL_FRAME:
                return f"{more} bytes that are no Ethernet padding stand behind the packet"
        return difference(action, got)

    def _counted(
        self, tables: ForwardingTables
    ) -> tuple[dict[str, int], dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
        """What test runs have been counted: by way out, by service, by member."""
        maps = self._maps
        cpus = maps._cpus

        def row(name: str, size: int) -> Any:
            return maps._views[name].reshape(cpus + 1, size)[cpus]

        def traffic(what: str, size: int, number: int) -> tuple[int, ...]:
            record = row(f"{what}_traffic", size)[number]
            return int(record["packets"]), int(record["bytes"]), int(row(f"{what}_flows", size)[number])

        exits = {maps.exit_name(number): int(one["packets"]) for number, one in enumerate(row("exits", layout.EXITS))}
        numbers, ways = maps._service_numbers.of, maps._way_numbers.of
        services = {
            s.index: traffic("service", CAPACITY.services, numbers[s.name, str(s.vip)]) for s in tables.services
        }
        members = {m.index: traffic("way", CAPACITY.ways, ways[m.index, m.id]) for m in tables.members.values()}
        return exits, services, members


class RawPlane:
    """What the raw plane remembers, and one of its two ways for plain frames."""

    def __init__(self, name: str, case: Case, ingress: Ingress, clock: Clock) -> None:
        self.name = name
        self.pins = PinTable.in_memory(PINS, clock.now)
        self.news = News(self.pins)
        self._ingress = ingress
        self._turns, self._fragments = ColumnTurns(random.Random(case.seed)), Fragments(clock.now)
        self._meters = MeterTable.in_memory(clock.now)
        self._slots = np.zeros((BATCH, stride_for(ingress.mtu)), np.uint8)
        self._memory = self._slots.reshape(-1).data
        self._vector = VectorPath(Columns(self._slots), answers=BATCH, refusals=BATCH)
        self._single = SinglePath(self._slots)
        self.follow(ForwardingTables())

    def follow(self, tables: ForwardingTables) -> None:
        self._compiled = Compiled(tables, [self._ingress], self.pins, self._turns, self._fragments, self._meters)
        self._books, self._drops, self._before = _Books(), Counter[str](), self._vector.reasons.copy()

    def forward_odd(self, frame: bytes, action: Action) -> tuple[int, str, str] | None:
        """A frame that the reference path gets."""
        got = self._compiled.path.forward(frame, self._ingress, waited=True)
        text = difference(action, got)
        return (0, text, _said(got)) if text else None

    def forward(self, frames: list[bytes], actions: list[Action]) -> tuple[int, str, str] | None:
        """Plain frames. Which one was not treated as it should, in what respect, and what became of it."""
        if self.name == "single":
            return self._forward_each(frames, actions)
        slots = self._slots
        for row, frame in enumerate(frames):
            slots[row, ETHERNET : ETHERNET + len(frame)] = np.frombuffer(frame, np.uint8)
        outcome = self._vector.forward(slice(0, len(frames)), 0, self._compiled)
        did: dict[int, tuple[str, int, bytes]] = dict.fromkeys(outcome.answer, ("answer", 0, b""))
        for rows in outcome.dropped:
            did |= dict.fromkeys(rows.tolist(), ("drop", 0, b""))
        for send in outcome.sends:
            rows = range(send.rows.start, send.rows.stop) if isinstance(send.rows, slice) else send.rows.tolist()
            for row, length in zip(rows, send.lengths.tolist(), strict=True):
                out = slots[row, send.start : send.start + length].tobytes()
                did[row] = "transmit", send.ifindex, out
        for row, (frame, action) in enumerate(zip(frames, actions, strict=True)):
            got = did.get(row, ("nothing", 0, b""))
            refused = action.reason is Reason.NO_SERVICE and _destination(frame) in self._compiled.tables.rejecting
            text = _differs(action, got, refused=refused)
            if text:
                return row, text, got[0]
            if got[0] == "answer":
                # Which remembers its flow and counts its connection, as the worker has it do.
                self._compiled.path.forward(frame, self._ingress)
            if action.further:
                continue
            if action.verdict is Verdict.TRANSMIT:
                self._books.count(action, frame)
            elif action.reason not in (Reason.TOO_BIG, Reason.NOT_VIP) and not refused:
                self._drops[str(action.reason)] += 1
        return None

    def _forward_each(self, frames: list[bytes], actions: list[Action]) -> tuple[int, str, str] | None:
        memory = self._memory
        for row, (frame, action) in enumerate(zip(frames, actions, strict=True)):
            memory[ETHERNET : ETHERNET + len(frame)] = frame
            made = self._single.forward(0, 0, self._compiled)
            if made is None:
                simple = action.verdict is Verdict.TRANSMIT and not action.further
                text = "a frame to transmit was left alone" if simple else ""
                if bytes(memory[ETHERNET : ETHERNET + len(frame)]) != frame:
                    text = "a frame that was left alone was changed"
                got = "left alone"
                self._compiled.path.forward(frame, self._ingress)
            else:
                got = "transmit"
                text = _differs(action, ("transmit", made.ifindex, bytes(self._single.bytes_of(made))))
                self._books.count(action, frame)
            if text:
                return row, text, got
        return None

    def miscounted(self) -> str:
        """What was not counted right since these tables are followed."""
        grown = {str(reason): count for reason, count in (self._vector.reasons - self._before).items()}
        text = _unequal("drops", dict(self._drops), grown) if self.name == "vector" else ""
        return text or self._books.compare(self._compiled.tables, *_traffic(self._compiled))


class RawRun:
    """The raw plane's two ways through a case, side by side with the reference."""

    def __init__(self, case: Case, tables: list[ForwardingTables], ingress: Ingress) -> None:
        self._case, self._tables, self._ingress = case, tables, ingress
        self._clock = Clock(case.begin)
        self._reference = Reference(PinTable.in_memory(PINS, self._clock.now), self._clock)
        self._news = News(self._reference.pins)
        self._planes = [RawPlane(name, case, ingress, self._clock) for name in ("vector", "single")]
        self._findings: list[Finding] = []

    def run(self, kinds: Counter[str]) -> list[Finding]:
        """What does not agree: at most one finding of each way; or one of the socket filters."""
        for version, chunks in groupby(enumerate(self._case.chunks), key=lambda pair: pair[1].version):
            self._reference.follow(self._tables[version])
            for plane in self._planes:
                plane.follow(self._tables[version])
            filters = Filters(self._tables[version], self._ingress.mtu, coarse=self._case.coarse)
            try:
                for number, chunk in chunks:
                    if not self._run_chunk(self._tables[version], number, chunk, filters, kinds):
                        return self._findings
            finally:
                filters.close()
            for plane in list(self._planes):
                if text := plane.miscounted():
                    self._found(plane, Finding(self._case.seed, plane.name, text, chunk=number))
        return self._findings

    def _found(self, plane: RawPlane, finding: Finding) -> None:
        self._findings.append(finding)
        self._planes.remove(plane)

    def _run_chunk(
        self, tables: ForwardingTables, number: int, chunk: Chunk, filters: Filters, kinds: Counter[str]
    ) -> bool:
        """One chunk; False when nothing that follows makes sense."""
        self._clock.move(chunk.ticks)
        choosing = any(service.placement is Placement.PER_FLOW for service in tables.services)
        room = min((member.inner_mtu for member in tables.members.values()), default=0)
        # The kernel's packet type is what tells that a frame is for our MAC address.
        classes = [filters.classify(frame) if frame[:6] == self._ingress.mac else None for frame in chunk.frames]
        for group in _batches(chunk.frames, classes, room=room, choosing=choosing):
            frames, kind = [chunk.frames[at] for at in group], classes[group[0]]
            actions = [self._reference.forward(frame, self._ingress) for frame in frames]
            kinds.update(str(action.reason or f"transmit by {action.by}") for action in actions)
            if kind is not bpf.Class.PLAIN and (text := self._misjudged(kind, actions[0])):
                decided = {"reference": _said(actions[0]), "filters": str(kind)}
                self._findings = [
                    Finding(self._case.seed, "filter", text, frames[0], actions[0], decided, number, group[0])
                ]
                return False
            if kind is bpf.Class.OTHER:
                continue
            for plane in list(self._planes):
                plain = kind is bpf.Class.PLAIN
                wrong = plane.forward(frames, actions) if plain else plane.forward_odd(frames[0], actions[0])
                if wrong:
                    row, text, did = wrong
                    action, decided = actions[row], {"reference": _said(actions[row]), plane.name: did}
                    finding = Finding(
                        self._case.seed, plane.name, text, frames[row], action, decided, number, group[row]
                    )
                    self._found(plane, finding)
        news = self._news.flows()
        for plane in list(self._planes):
            text = memories_differ(self._reference.pins, plane.pins)
            told = plane.news.flows()
            if not text and told != news:
                text = f"there is news of flows {sorted(told)}, expected {sorted(news)}"
            if text:
                self._found(plane, Finding(self._case.seed, plane.name, text, chunk=number))
        return bool(self._planes)

    def _misjudged(self, kind: bpf.Class | None, action: Action) -> str:
        passed = action.verdict is Verdict.PASS
        if (kind is bpf.Class.OTHER) == passed or (self._case.coarse and passed):
            return ""
        return f"the socket filters call a frame {kind} that is {_said(action)}"


def _batches(frames: list[bytes], classes: list[bpf.Class | None], *, room: int, choosing: bool) -> Iterator[list[int]]:
    """Places of frames that are forwarded together: plain ones that follow one another, and each other one by itself.

    What is too big for its member is answered or fragmented, and so placed, behind its batch: packets of more bytes
    than *room* are the last of their flow in a batch. Turns, too, may be taken in another order where several frames of
    a flow are in it: with *choosing*, there are none.
    """
    batch: list[int] = []
    closed: set[bytes] = set()
    for at, (frame, kind) in enumerate(zip(frames, classes, strict=True)):
        if kind is None:
            continue
        flow = frame[23:24] + frame[26:38] if frame[12:14] == b"\x08\x00" else frame[20:21] + frame[22:58]
        if batch and (kind is not bpf.Class.PLAIN or len(batch) == BATCH or flow in closed):
            yield batch
            batch, closed = [], set()
        if kind is bpf.Class.PLAIN:
            batch.append(at)
            if choosing or len(frame) > headers.ETHERNET + room:
                closed.add(flow)
        else:
            yield [at]
    if batch:
        yield batch


def _differs(action: Action, got: tuple[str, int, bytes], *, refused: bool = False) -> str:
    """How what became of a plain frame differs from an action; refused: it is for a port that nobody has, of a VIP that
    says so."""
    what, ifindex, frame = got
    if action.verdict is Verdict.TRANSMIT and not action.further:
        if what != "transmit":
            return f"{what} although it is {_said(action)}"
        if ifindex != action.ifindex:
            return f"ifindex is {ifindex}, expected {action.ifindex}"
        if frame != action.frame and (len(frame) != len(action.frame) or canonical(frame) != canonical(action.frame)):
            return f"frame is\n{frame.hex()}, expected\n{action.frame.hex()}"
        return ""
    wanted = "answer" if action.further or action.reason is Reason.TOO_BIG or refused else "drop"
    return "" if what == wanted else f"{what} although it is {_said(action)}"


class _Books:
    """Traffic that has to be counted."""

    def __init__(self) -> None:
        self._services: Counter[tuple[int | None, int]] = Counter()
        self._members: Counter[tuple[int | None, int]] = Counter()

    def count(self, action: Action, frame: bytes) -> None:
        values = 1, ip_length(frame), int(opens_flow(frame))
        for what, value in enumerate(values):
            self._services[action.service, what] += value
            self._members[action.member, what] += value

    def compare(
        self,
        tables: ForwardingTables,
        services: dict[int, tuple[int, ...]],
        members: dict[int, tuple[int, ...]],
        services_before: dict[int, tuple[int, ...]] | None = None,
        members_before: dict[int, tuple[int, ...]] | None = None,
    ) -> str:
        for kind, books, after, before in (
            ("service", self._services, services, services_before),
            ("member", self._members, members, members_before),
        ):
            for index, counted in after.items():
                start = before[index] if before else (0, 0, 0)
                grown = tuple(now - was for now, was in zip(counted, start, strict=True))
                wanted = tuple(books[index, what] for what in range(3))
                if grown != wanted:
                    return f"{kind} {index} has counted {grown} packets, bytes, new flows; it was {wanted}"
        return ""


def _traffic(compiled: Compiled) -> tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
    def numbers(traffic: Traffic) -> tuple[int, ...]:
        return traffic.packets, traffic.bytes, traffic.new_flows

    services = {s.index: numbers(compiled.traffic.service(s.index)) for s in compiled.tables.services}
    members = {member.index: numbers(compiled.traffic.way(way)) for way, member in enumerate(compiled.members)}
    return services, members


def _unequal(what: str, expected: dict[str, int], counted: dict[str, int]) -> str:
    names = [name for name in {**expected, **counted} if expected.get(name, 0) != counted.get(name, 0)]
    return "".join(
        f"{what}: {name} counted {counted.get(name, 0)} times, expected {expected.get(name, 0)}; " for name in names
    )


def _said(action: Action) -> str:
    details = f"service {action.service}, member {action.member} by {action.by}, slot {action.slot}"
    return f"{action.verdict} {action.reason or ''}".strip() + f", {details}"


def _network(frame: bytes) -> tuple[int, int]:
    """Version by the Ethernet type, and where the IP header begins."""
    offset = 12
    while frame[offset : offset + 2] in (b"\x81\x00", b"\x88\xa8"):
        offset += 4
    return 4 if frame[offset : offset + 2] == b"\x08\x00" else 6, offset + 2


def ip_length(frame: bytes) -> int:
    """The IP packet's length, as its header says."""
    version, at = _network(frame)
    if version == 4:
        return int.from_bytes(frame[at + 2 : at + 4], "big")
    return 40 + int.from_bytes(frame[at + 4 : at + 6], "big")


def _destination(frame: bytes) -> IPAddress | None:
    version, at = _network(frame)
    packed = frame[at + 16 : at + 20] if version == 4 else frame[at + 24 : at + 40]
    return ip_address(packed) if len(packed) in (4, 16) else None


def _hop_limit(frame: bytes) -> int:
    version, at = _network(frame)
    return frame[at + (8 if version == 4 else 7)]


def opens_flow(frame: bytes) -> bool:
    """Whether a plain packet is TCP's first."""
    version, at = _network(frame)
    protocol, l4 = (frame[at + 9], at + 20) if version == 4 else (frame[at + 6], at + 40)
    return protocol == Protocol.TCP and frame[l4 + 13] & 0x12 == 0x02


def _looks_partial(frame: bytes) -> bool:
    """Whether the L4 checksum of a plain packet is the sum of its pseudo header."""
    version, at = _network(frame)
    protocol, l4, addresses = frame[at + 9], at + 20, frame[at + 12 : at + 20]
    if version == 6:
        protocol, l4, addresses = frame[at + 6], at + 40, frame[at + 8 : at + 40]
    where = l4 + (16 if protocol == Protocol.TCP else 6)
    total = checksum(addresses + struct.pack("!HH", protocol, ip_length(frame) - (l4 - at))) ^ 0xFFFF
    return int.from_bytes(frame[where : where + 2], "big") == total


def _untagged(frame: bytes) -> bytes:
    return frame[:12] + frame[16:]

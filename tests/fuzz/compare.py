"""One case: tables and frames, and what the three implementations do with each of them.

A case is made from one number. Everything random about it comes from there, so the number is all it takes to see a
difference again.
"""

import random
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from appliance.bpf.libbpf import TestRun, TestRunner
from appliance.dataplane.base import Traffic
from appliance.dataplane.raw import bpf, kernel
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.layout import ETHERNET, Columns, stride_for
from appliance.dataplane.raw.single import SinglePath
from appliance.dataplane.raw.vector import VectorPath
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.plane import action_of
from appliance.dataplane.xdp.program import LONGEST_TEST_FRAME, OBJECT, Program
from appliance.dataplane.xdp.tables import Capacity, Egress
from appliance.forwarding import ForwardingTables, TableMember
from appliance.model import Protocol
from appliance.packet.action import Action, Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress, PacketPath
from tests.fuzz.frames import Frames
from tests.fuzz.tables import Raw, random_ingress, random_tables
from tests.vectors_io import SMALL_FRAME, canonical, difference, excuses, read_ingress, read_tables

FRAMES = 4096
"""Frames of a case."""

BATCH = 64
CAPACITY = Capacity(buckets=1 << 12, entries=2048, ranges=2048, stations=256, ways=256, services=256, slots=12 * 65568)
_XDP_VERDICTS = {"drop": 1, "pass": 2, "slow": 2, "transmit": 3}
"""XDP_DROP, XDP_PASS, XDP_TX: test runs send nothing through another interface."""

_TAG = b"\x81\x00\x00\x05"


@dataclass(frozen=True)
class Case:
    seed: int
    raw_tables: Raw
    raw_ingress: Raw
    frames: list[bytes]
    egress: dict[int, Egress] = field(default_factory=dict)
    """By the ifindex of a next hop, where the program cannot simply send."""

    flags: int = 0
    """More flags of the ingress port."""

    sort: bool = False
    """Whether frames that are alike come to the vectorised path together."""

    coarse: bool = False
    """Whether the socket filters do not know the VIPs, as with thousands of them."""


@dataclass(frozen=True)
class Finding:
    """Implementations do not agree."""

    seed: int
    implementation: str
    text: str
    frame: bytes | None = None
    """None when it is counters that differ."""

    expected: Action | None = None
    decided: dict[str, str] = field(default_factory=dict)
    """What each implementation did."""


def make_case(seed: int, frames: int = FRAMES) -> Case:
    """The case of a number."""
    rnd = random.Random(seed)
    return draw_case(rnd, seed, frames, labels=rnd.random() < 0.1)


def draw_case(rnd: random.Random, seed: int, count: int, *, labels: bool = False) -> Case:
    """A case by the choices of *rnd*; with *labels*, also flows whose hashes have no low bits, which takes a while."""
    raw, raw_ingress = random_tables(rnd), random_ingress(rnd)
    source = Frames(rnd, read_tables(raw), read_ingress(raw_ingress))
    if labels:
        source.look_for_labels()
    frames = source.take(count)
    egress = {}
    for ifindex in (7, 9):
        how = rnd.random()
        if how > 0.9:
            egress[ifindex] = Egress(ifindex, slow="no native XDP")
        elif how > 0.8:
            egress[ifindex] = Egress(ifindex, tag=_TAG)
    flags = layout.PORT_PARTIAL if rnd.random() > 0.8 else 0
    return Case(seed, raw, raw_ingress, frames, egress, flags, rnd.random() > 0.5, rnd.random() > 0.8)


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

    def __init__(self, *, raw: bool = True, compiled: Path = OBJECT) -> None:
        """
        Args:
            compiled: the program's object.
            raw: whether the raw plane takes part; the program and the reference always do.

        Raises:
            BpfError: the program cannot be loaded.
        """
        self._raw = raw
        self._program = Program(CAPACITY, compiled)
        self._runner: TestRunner = self._program._runner
        self.exits: Counter[str] = Counter()
        """How often the program took which way out."""
        self.kinds: Counter[str] = Counter()
        """What the reference did: verdicts and reasons."""

    def close(self) -> None:
        self._program.close()

    def run(self, case: Case) -> list[Finding]:
        """What does not agree in a case: at most one finding of each implementation."""
        tables, ingress = read_tables(case.raw_tables), read_ingress(case.raw_ingress)
        path = PacketPath(tables)
        actions = [path.forward(frame, ingress) for frame in case.frames]
        self.kinds.update(str(action.reason or action.verdict) for action in actions)
        findings = self._run_program(case, tables, ingress, actions)
        if self._raw:
            findings += self._run_raw(case, tables, ingress, actions)
        return findings

    # The XDP program

    def _run_program(
        self, case: Case, tables: ForwardingTables, ingress: Ingress, actions: Sequence[Action]
    ) -> list[Finding]:
        maps = self._program.tables

        def egress(member: TableMember) -> Egress:
            ifindex = member.next_hop.ifindex
            return case.egress.get(ifindex, Egress(ifindex))

        maps.stage(tables, egress)
        maps.publish()
        maps.settle()
        maps.set_port(layout.LOOPBACK, ingress.mac, ingress.mtu, layout.PORT_QUIET | case.flags)
        before = self._counted(tables)
        expected = _Books()
        exits: Counter[str] = Counter()
        findings: list[Finding] = []
        for frame, action in zip(case.frames, actions, strict=True):
            if not 14 <= len(frame) <= LONGEST_TEST_FRAME:
                continue
            result = self._runner.run(frame)
            outcome = maps.outcome()
            way_out = outcome.exit
            exits[way_out] += 1
            if way_out == "transmit":
                expected.count(action, frame)
            if findings:
                continue
            got = action_of(way_out, outcome.service, outcome.member, outcome.slot, result.frame, tables)
            text = self._judge(case, tables, frame, action, way_out, result, got)
            if text:
                decided = f"{way_out}, service {outcome.service}, member {outcome.member}, slot {outcome.slot}"
                findings.append(
                    Finding(case.seed, "xdp", text, frame, action, {"reference": _said(action), "xdp": decided})
                )
        self.exits.update(exits)
        if not findings:
            after = self._counted(tables)
            transmitted = exits.pop("transmit", 0)
            grown = {name: count - before[0][name] for name, count in after[0].items() if count != before[0][name]}
            text = _unequal("ways out", dict(exits), grown)
            text = text or expected.compare(tables, after[1], after[2], before[1], before[2])
            if text:
                findings.append(Finding(case.seed, "xdp", f"{text} ({transmitted} transmitted)"))
        return findings

    def _judge(
        self,
        case: Case,
        tables: ForwardingTables,
        frame: bytes,
        action: Action,
        way_out: str,
        result: TestRun,
        got: Action | None,
    ) -> str:
        kind = way_out.partition("_")[0]
        if result.verdict != _XDP_VERDICTS[kind]:
            return f"{way_out}, and yet the verdict is {result.verdict}"
        if kind != "transmit" and result.frame != frame:
            return f"{way_out} has changed the frame to\n{result.frame.hex()}"
        if got is None:
            allowed = excuses(frame, action)
            if case.flags & layout.PORT_PARTIAL and way_out == "slow_partial_checksum" and _looks_partial(frame):
                allowed.add(way_out)
            out = case.egress.get(tables.members[action.member].next_hop.ifindex) if action.member is not None else None
            if out is not None and out.slow:
                allowed.add("slow_egress")
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
        maps = self._program.tables
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

    # The raw plane

    def _run_raw(
        self, case: Case, tables: ForwardingTables, ingress: Ingress, actions: Sequence[Action]
    ) -> list[Finding]:
        filters = Filters(tables, ingress.mtu, coarse=case.coarse)
        plain: list[tuple[bytes, Action]] = []
        try:
            for frame, action in zip(case.frames, actions, strict=True):
                # The kernel's packet type is what tells that a frame is for our MAC address.
                if frame[:6] != ingress.mac:
                    continue
                kind = filters.classify(frame)
                passed = action.verdict is Verdict.PASS
                if (kind is bpf.Class.OTHER) != passed and not (case.coarse and passed):
                    text = f"the socket filters call a frame {kind.value} that is {_said(action)}"
                    decided = {"reference": _said(action), "filters": kind.value}
                    return [Finding(case.seed, "filter", text, frame, action, decided)]
                if kind is bpf.Class.PLAIN:
                    plain.append((frame, action))
        finally:
            filters.close()
        if case.sort:
            plain.sort(key=lambda pair: (pair[1].service or 0, pair[0][6:14], pair[0][36:38]))
        if not plain:
            return []
        return self._run_vector(case, tables, ingress, plain) + self._run_single(case, tables, ingress, plain)

    def _run_vector(
        self, case: Case, tables: ForwardingTables, ingress: Ingress, plain: Sequence[tuple[bytes, Action]]
    ) -> list[Finding]:
        compiled = Compiled(tables, [ingress])
        slots = np.zeros((BATCH, stride_for(ingress.mtu)), np.uint8)
        vector = VectorPath(Columns(slots), answers=BATCH)
        expected, drops = _Books(), Counter[str]()
        for first in range(0, len(plain), BATCH):
            batch = plain[first : first + BATCH]
            for row, (frame, _) in enumerate(batch):
                slots[row, ETHERNET : ETHERNET + len(frame)] = np.frombuffer(frame, np.uint8)
            outcome = vector.forward(slice(0, len(batch)), 0, compiled)
            did: dict[int, tuple[str, int, bytes]] = dict.fromkeys(outcome.answer, ("answer", 0, b""))
            for rows in outcome.dropped:
                did |= dict.fromkeys(rows.tolist(), ("drop", 0, b""))
            for send in outcome.sends:
                rows = range(send.rows.start, send.rows.stop) if isinstance(send.rows, slice) else send.rows.tolist()
                for row, length in zip(rows, send.lengths.tolist(), strict=True):
                    out = slots[row, send.start : send.start + length].tobytes()
                    did[row] = "transmit", send.ifindex, out
            for row, (frame, action) in enumerate(batch):
                got = did.get(row, ("nothing", 0, b""))
                text = _differs(action, got)
                if text:
                    decided = {"reference": _said(action), "vector": got[0]}
                    return [Finding(case.seed, "vector", text, frame, action, decided)]
                if action.verdict is Verdict.TRANSMIT:
                    expected.count(action, frame)
                elif action.reason not in (Reason.TOO_BIG, Reason.NOT_VIP):
                    drops[str(action.reason)] += 1
        counted = {str(reason): number for reason, number in (+vector.reasons).items()}
        text = _unequal("drops", dict(drops), counted) or expected.compare(tables, *_traffic(compiled))
        return [Finding(case.seed, "vector", text)] if text else []

    def _run_single(
        self, case: Case, tables: ForwardingTables, ingress: Ingress, plain: Sequence[tuple[bytes, Action]]
    ) -> list[Finding]:
        compiled = Compiled(tables, [ingress])
        slots = np.zeros((1, stride_for(ingress.mtu)), np.uint8)
        memory = slots.reshape(-1).data
        single = SinglePath(slots)
        expected = _Books()
        for frame, action in plain:
            memory[ETHERNET : ETHERNET + len(frame)] = frame
            made = single.forward(0, 0, compiled)
            if made is None:
                text = "a frame to transmit was left alone" if action.verdict is Verdict.TRANSMIT else ""
                if bytes(memory[ETHERNET : ETHERNET + len(frame)]) != frame:
                    text = "a frame that was left alone was changed"
                got = "left alone"
            else:
                got = "transmit"
                text = _differs(action, ("transmit", made.ifindex, bytes(single.bytes_of(made))))
                expected.count(action, frame)
            if text:
                decided = {"reference": _said(action), "single": got}
                return [Finding(case.seed, "single", text, frame, action, decided)]
        text = expected.compare(tables, *_traffic(compiled))
        return [Finding(case.seed, "single", text)] if text else []


def _differs(action: Action, got: tuple[str, int, bytes]) -> str:
    """How what became of a plain frame differs from an action."""
    what, ifindex, frame = got
    if action.verdict is Verdict.TRANSMIT:
        if what != "transmit":
            return f"{what} although it is {_said(action)}"
        if ifindex != action.ifindex:
            return f"ifindex is {ifindex}, expected {action.ifindex}"
        if frame != action.frame and (len(frame) != len(action.frame) or canonical(frame) != canonical(action.frame)):
            return f"frame is\n{frame.hex()}, expected\n{action.frame.hex()}"
        return ""
    wanted = "answer" if action.reason is Reason.TOO_BIG else "drop"
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
    details = f"service {action.service}, member {action.member}, slot {action.slot}"
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

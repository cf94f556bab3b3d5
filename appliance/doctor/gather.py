"""Gathers the evidence of one run: what the director sees, what it hears when it asks, and what members say themselves.

However many members there are, questions of a kind go out together. A run has these steps:

1. members' agents begin to look at packets;
2. the smallest packet through every path, and to every member's own address;
3. by what came of it: the largest packet; the director's own kernel; the tunnel by itself; how far the tunnel gets;
4. who answers for next hops and VIPs on the segments;
5. agents tell what they have seen.
"""

import asyncio
import ipaddress
import json
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from appliance.doctor.evidence import Asked, DirectorSeen, IcmpError, MemberSeen, PassiveSeen, PathSeen, Reply, Step
from appliance.doctor.member import MemberReport
from appliance.doctor.prober import Question, ask, who_has
from appliance.doctor.vantage import Vantage, VantageError
from appliance.forwarding import NextHop, TableMember
from appliance.model import Delivery, DsrType, IPAddress, Member, Pool, Protocol, TtlPolicy, VirtualService
from appliance.packet.encap import ethernet
from appliance.path.causes import Trouble
from appliance.path.gate import Gate
from appliance.path.vantage import ports_asked
from appliance.state import Unresolved
from health.checks.tcp import TcpCheck
from health.spec import Target

MOST_PORTS = 4
"""Of one virtual service that are asked at each VIP."""

MOST_STEPS = 6
"""Routers that are looked for on the way to a member."""

KERNEL_S = 1.5
SETTLE_S = 0.1
"""Until an agent has seen what has just been sent."""

STRANGER = {4: ipaddress.ip_address("192.0.2.254"), 6: ipaddress.ip_address("2001:db8:ffff::ffff")}
"""Addresses that no director has: they are for documents (RFC 5737, RFC 3849)."""

_SMALLEST_FULL = 576
_FITS_TRIES = 4


@dataclass(frozen=True)
class Subject:
    """A member of a virtual service, to be looked at."""

    service: VirtualService
    pool: Pool
    member: Member
    vantage: Vantage | None
    no_vantage: str = ""

    @property
    def id(self) -> str:
        return f"{self.pool.name}/{self.member.name}"

    @property
    def delivery(self) -> Delivery:
        return self.service.profile.delivery


@dataclass
class _Path:
    subject: Subject
    vip: IPAddress
    port: int
    source: IPAddress
    hop: NextHop
    seen: PathSeen
    outer: IPAddress | None
    """The outer header's source where that is of a prefix: its first one, since members count by address; else None."""
    payload: bytes = b""


@dataclass(frozen=True)
class Gathered:
    members: tuple[MemberSeen, ...]
    vip_answers: Mapping[IPAddress, tuple[str, ...]] = field(default_factory=dict)
    """Who answers for VIPs on the director's segments."""
    asked_segments: tuple[str, ...] = ()
    local: Mapping[IPAddress, str] = field(default_factory=dict)
    vantages: tuple[tuple[str, str], ...] = ()


class Gatherer:
    """Asks for one director."""

    def __init__(
        self,
        interfaces: Sequence[str],
        gate: Gate,
        next_hops: Callable[[], Mapping[IPAddress, NextHop | Unresolved]],
    ) -> None:
        """
        Args:
            interfaces: those that packets for VIPs arrive on.
            gate: how packets get to members.
            next_hops: what is known now of the ways to members, and of VIPs.
        """
        self._interfaces = interfaces
        self._gate = gate
        self._next_hops = next_hops

    async def gather(
        self,
        subjects: Sequence[Subject],
        passive: Mapping[tuple[str, str], PassiveSeen],
        quiet_vips: Iterable[IPAddress],
        *,
        thorough: bool,
    ) -> Gathered:
        """
        Args:
            subjects: whom to look at.
            passive: what clients' handshakes said, by virtual service and member.
            quiet_vips: VIPs that the fleet itself answers ARP for; nobody is asked for these.
            thorough: also send what looks strange on the way: tunnels from strangers, and with a small TTL.

        Raises:
            OSError: packet sockets are not to be had.
        """
        began = time.monotonic()
        paths = [path for subject in subjects for path in self._paths(subject)]
        watching = await self._begin(subjects, paths)
        await asyncio.to_thread(self._ask, paths, thorough)
        self._ask_monitors(paths, time.monotonic() - began)
        await self._ask_kernel(paths)
        quiet = frozenset(quiet_vips)
        macs, gateways, local = await asyncio.to_thread(self._segments, subjects, quiet)
        await asyncio.sleep(SETTLE_S)
        reports, vantages = await self._reports(subjects, watching)
        vip_macs = {
            vip: tuple(
                sorted({mac for name in self._interfaces_of(subjects) for mac in macs.get(name, {}).get(vip, ())})
            )
            for vip in {vip for subject in subjects for vip in subject.service.vips} - quiet
        }
        members = tuple(
            self._member(subject, paths, macs, gateways, vip_macs, reports, passive, vantages) for subject in subjects
        )
        return Gathered(members, vip_macs, tuple(macs), local, tuple(sorted(vantages.items())))

    # -- paths ---------------------------------------------------------------------------------------------------

    def _paths(self, subject: Subject) -> Iterator[_Path]:
        hop = self._next_hops().get(subject.member.address)
        if not isinstance(hop, NextHop) or (subject.delivery.dsr_type is DsrType.L2 and not hop.direct):
            return
        service, address = subject.service, subject.member.address
        for vip in service.vips:
            source = self._source(hop, vip, address)
            if source is None:
                continue
            limit = subject.delivery.mss(vip.version, address.version, hop.mtu)
            prefix = self._gate.outer_prefix(subject.delivery, address)
            outer = prefix.network_address + 1 if prefix is not None else None
            for port in list(ports_asked(service.ports))[:MOST_PORTS]:
                seen = PathSeen(vip, port, service.protocol, Asked(), mss_limit=limit)
                payload = _payload(subject.pool) if service.protocol is Protocol.UDP else b""
                yield _Path(subject, vip, port, source, hop, seen, outer, payload)

    def _source(self, hop: NextHop, vip: IPAddress, member: IPAddress) -> IPAddress | None:
        """Where we ask a VIP from; None: there is no address of its family."""
        if hop.source.version == vip.version:
            return hop.source
        target = member if member.version == vip.version else vip
        try:
            family = socket.AF_INET if vip.version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((str(target), 9))
                return ipaddress.ip_address(sock.getsockname()[0])
        except OSError:
            return None

    def _ask(self, paths: Sequence[_Path], thorough: bool) -> None:
        """Steps 2 and 3, in a thread."""
        direct = [path for path in paths if path.subject.member.address.version == path.hop.source.version]
        answers = ask([*(self._question(path) for path in paths), *(self._direct(path) for path in direct)])
        for path, asked in zip(paths, answers, strict=False):
            path.seen = replace(path.seen, small=asked)
        for path, asked in zip(direct, answers[len(paths) :], strict=True):
            path.seen = replace(path.seen, direct=asked)
        open_ = [
            path for path in paths if path.seen.small.reply is Reply.ANSWERED and path.seen.protocol is Protocol.TCP
        ]
        shut = [
            path
            for path in paths
            if path.seen.small.reply is Reply.SILENT
            and path.seen.protocol is Protocol.TCP
            and path.subject.delivery.dsr_type is DsrType.L3
        ]
        full = [(path, _room(path)) for path in open_]
        own = [path for path in shut if path.vip.version == path.subject.member.address.version]
        strange = [path for path in open_ if thorough and path.subject.delivery.dsr_type is DsrType.L3]
        second = [
            *(replace(self._question(path), length=length) for path, length in full),
            *(replace(self._question(path), destination=path.subject.member.address) for path in own),
            *(self._question(path, stranger=True) for path in strange),
        ]
        more = iter(ask(second))
        for path, length in full:
            path.seen = replace(path.seen, full=next(more), full_length=length)
        for path in own:
            path.seen = replace(path.seen, own=next(more))
        for path in strange:
            source = STRANGER[path.subject.member.address.version]
            path.seen = replace(path.seen, stranger=next(more), stranger_source=source)
        self._ask_what_fits([path for path, _ in full if path.seen.full and path.seen.full.reply is Reply.SILENT])
        if thorough:
            self._ask_how_far([path for path in shut if not path.hop.direct])

    def _ask_what_fits(self, paths: Sequence[_Path]) -> None:
        """The largest packet that gets there, by halves, to some bytes; but first, whether its loss was an accident."""
        again = ask([replace(self._question(path), length=path.seen.full_length) for path in paths])
        for path, asked in zip(paths, again, strict=True):
            path.seen = replace(path.seen, full=asked)
        paths = [path for path in paths if path.seen.full is not None and path.seen.full.reply is Reply.SILENT]
        bounds = {id(path): (_SMALLEST_FULL, path.seen.full_length) for path in paths}
        for _ in range(_FITS_TRIES * 2):
            wanted = [path for path in paths if bounds[id(path)][1] - bounds[id(path)][0] > 8]
            if not wanted:
                return
            sizes = [sum(bounds[id(path)]) // 2 for path in wanted]
            questions = [replace(self._question(path), length=size) for path, size in zip(wanted, sizes, strict=True)]
            for path, size, asked in zip(wanted, sizes, ask(questions, wait_s=0.3, tries=1), strict=True):
                low, high = bounds[id(path)]
                fits = asked.reply is Reply.ANSWERED
                bounds[id(path)] = (size, high) if fits else (low, size)
                if fits:
                    path.seen = replace(path.seen, fits=size)

    def _ask_how_far(self, paths: Sequence[_Path]) -> None:
        asked = [(path, hops) for path in paths for hops in range(1, MOST_STEPS + 1)]
        answers = ask([self._question(path, outer_ttl=hops) for path, hops in asked], wait_s=0.5, tries=1)
        for (path, hops), found in zip(asked, answers, strict=True):
            router = found.errors[0].sender if found.errors and found.errors[0].outer else None
            if router is not None or hops == 1 or path.seen.steps[-1].router is not None:
                path.seen = replace(path.seen, steps=(*path.seen.steps, Step(hops, router)))

    def _question(self, path: _Path, *, stranger: bool = False, outer_ttl: int | None = None) -> Question:
        """Through the member's DSR path."""
        delivery, hop, address = path.subject.delivery, path.hop, path.subject.member.address
        if stranger:
            hop = replace(hop, source=STRANGER[address.version])
        elif path.outer is not None:
            hop = replace(hop, source=path.outer)
        if outer_ttl is not None:
            delivery = replace(delivery, outer_ttl=outer_ttl)
        member = TableMember(0, path.subject.id, address, delivery, hop)
        routed = delivery.dsr_type is DsrType.L3 and delivery.ttl is TtlPolicy.ROUTER
        return Question(
            source=path.source,
            destination=path.vip,
            protocol=path.seen.protocol,
            port=path.port,
            wrap=lambda packet: (hop.interface, self._gate.frame(packet, member)),
            hop_limit=2 if routed else 1,
            payload=path.payload,
            member=address if delivery.dsr_type is DsrType.L3 else None,
            outer=path.outer,
        )

    def _direct(self, path: _Path) -> Question:
        """To the member's own address."""
        address, hop = path.subject.member.address, path.hop
        return Question(
            source=hop.source,
            destination=address,
            protocol=path.seen.protocol,
            port=path.port,
            wrap=lambda packet: (hop.interface, ethernet(hop, address.version, packet)),
            hop_limit=64,
            payload=path.payload,
        )

    def _ask_monitors(self, paths: Sequence[_Path], within_s: float) -> None:
        """Of questions without an answer: the ICMP errors that health checks by the same way have heard meanwhile.
        Hosts send few of these in a second, so ours may have been one too many."""
        for path in paths:
            if path.seen.small.reply is Reply.SILENT:
                way = self._gate.way(path.subject.member.address, path.subject.delivery)
                heard = self._gate.known(way, path.vip, within_s)
                if heard is not None:
                    outer = heard.trouble is not Trouble.ROUTED_ON
                    error = IcmpError(*heard.kind, heard.sender, outer)
                    path.seen = replace(path.seen, small=Asked(Reply.ERROR, heard.sender, errors=(error,)))

    async def _ask_kernel(self, paths: Sequence[_Path]) -> None:
        """Whether the director's own kernel takes the answers that came to its interface: one port of each VIP."""
        chosen = {
            (path.subject.id, path.vip, path.subject.delivery): path
            for path in paths
            if path.seen.small.reply is Reply.ANSWERED
            and path.seen.protocol is Protocol.TCP
            and not isinstance(self._next_hops().get(path.vip), Unresolved)
        }
        if not self._gate.is_open:
            return
        check = TcpCheck(KERNEL_S, half_open=True)

        async def one(path: _Path) -> None:
            way = self._gate.way(path.subject.member.address, path.subject.delivery)
            try:
                result = await check.probe(Target(path.subject.id, path.vip, path.port, way))
            except OSError:
                return  # we are short of something, which says nothing of the path
            if self._next_hops().get(path.subject.member.address) == path.hop:  # else it has gone another way
                path.seen = replace(path.seen, kernel="" if result.good else str(result.code))

        async with asyncio.TaskGroup() as tasks:
            for path in chosen.values():
                tasks.create_task(one(path))

    # -- segments ------------------------------------------------------------------------------------------------

    def _interfaces_of(self, subjects: Sequence[Subject]) -> list[str]:
        hops = (self._next_hops().get(subject.member.address) for subject in subjects)
        near = [hop.interface for hop in hops if isinstance(hop, NextHop) and hop.direct]
        return list(dict.fromkeys([*self._interfaces, *near]))

    def _segments(
        self, subjects: Sequence[Subject], quiet: frozenset[IPAddress]
    ) -> tuple[dict[str, dict[IPAddress, set[str]]], dict[IPAddress, IPAddress], dict[IPAddress, str]]:
        """Step 4, in a thread: who answers, the routers towards members, and VIPs that this machine has."""
        vips = {vip for subject in subjects for vip in subject.service.vips}
        wanted: dict[str, set[IPAddress]] = {name: set(vips - quiet) for name in self._interfaces_of(subjects)}
        gateways = {}
        for address in {subject.member.address for subject in subjects}:
            hop = self._next_hops().get(address)
            if isinstance(hop, NextHop) and hop.direct:
                wanted.setdefault(hop.interface, set()).add(address)
            elif (gateway := _gateway(address)) is not None:
                gateways[address] = gateway
                if isinstance(hop, NextHop):
                    wanted.setdefault(hop.interface, set()).add(gateway)
        local = {
            ipaddress.ip_address(one["local"]): link["ifname"]
            for link in _ip("address")
            for one in link.get("addr_info", ())
            if "local" in one
        }
        return who_has(wanted), gateways, {vip: local[vip] for vip in vips if vip in local}

    # -- members' own words ----------------------------------------------------------------------------------------

    async def _begin(self, subjects: Sequence[Subject], paths: Sequence[_Path]) -> dict[Vantage, str]:
        """Step 1: by vantage, why it says nothing; empty where it looks."""
        asked: dict[Vantage, list[_Path]] = {}
        for subject in subjects:
            if subject.vantage is not None:
                asked.setdefault(subject.vantage, [])
        for path in paths:
            if path.subject.vantage is not None:
                asked[path.subject.vantage].append(path)

        async def one(vantage: Vantage, mine: Sequence[_Path]) -> str:
            askers = {one for path in mine for one in (path.source, path.outer or path.hop.source)}
            try:
                vips = sorted({path.vip for path in mine}, key=str)
                await vantage.begin(sorted(askers, key=str), vips)
            except VantageError as error:
                return str(error)
            return ""

        return dict(zip(asked, await asyncio.gather(*(one(*item) for item in asked.items())), strict=True))

    async def _reports(
        self, subjects: Sequence[Subject], watching: Mapping[Vantage, str]
    ) -> tuple[dict[str, MemberReport], dict[str, str]]:
        """Step 5: reports, and where they come from or why there are none; by member."""
        vips: dict[Vantage, set[IPAddress]] = {}
        for subject in subjects:
            if subject.vantage is not None:
                vips.setdefault(subject.vantage, set()).update(subject.service.vips)

        async def one(vantage: Vantage) -> MemberReport | str:
            if watching[vantage]:
                return watching[vantage]
            try:
                return await vantage.report(sorted(vips[vantage], key=str))
            except VantageError as error:
                return str(error)

        found = dict(zip(vips, await asyncio.gather(*map(one, vips)), strict=True))
        reports, told = {}, {}
        for subject in subjects:
            answer = found.get(subject.vantage) if subject.vantage is not None else subject.no_vantage
            if isinstance(answer, MemberReport):
                reports[subject.id] = answer
                told[subject.id] = subject.vantage.name if subject.vantage is not None else ""
            else:
                told[subject.id] = answer or ""
        return reports, told

    def _member(
        self,
        subject: Subject,
        paths: Sequence[_Path],
        macs: Mapping[str, Mapping[IPAddress, set[str]]],
        gateways: Mapping[IPAddress, IPAddress],
        vip_macs: Mapping[IPAddress, tuple[str, ...]],
        reports: Mapping[str, MemberReport],
        passive: Mapping[tuple[str, str], PassiveSeen],
        vantages: Mapping[str, str],
    ) -> MemberSeen:
        address = subject.member.address
        hop, gateway = self._next_hops().get(address), gateways.get(address)
        found = hop if isinstance(hop, NextHop) else None
        heard = macs.get(found.interface, {}).get(gateway or address, set()) if found is not None else set()
        no_way = f"{hop.reason}: {hop.detail}" if isinstance(hop, Unresolved) else "" if hop else "not looked up yet"
        if found is not None and subject.delivery.dsr_type is DsrType.L2 and not found.direct:
            found, no_way = None, "it is on no segment of this director, which L2 DSR needs"
        report = reports.get(subject.id)
        return MemberSeen(
            service=subject.service.name,
            member=subject.id,
            address=address,
            delivery=subject.delivery,
            hop=found,
            outer_prefix=self._gate.outer_prefix(subject.delivery, address),
            no_way=no_way,
            gateway=gateway,
            hop_macs=tuple(sorted(heard)),
            vip_macs={vip: vip_macs[vip] for vip in subject.service.vips if vip in vip_macs},
            paths=tuple(path.seen for path in paths if path.subject is subject),
            report=report if report is not None and report.observed else None,
            points=report.points if report is not None else (),
            no_report=vantages.get(subject.id, ""),
            passive=passive.get((subject.service.name, subject.id)),
        )


def strangers(gathered: Gathered, known: frozenset[str]) -> DirectorSeen:
    """What was heard on segments of VIPs that nobody should have.

    Args:
        gathered: of a run.
        known: MAC addresses that are members'.
    """
    answers = {vip: tuple(mac for mac in macs if mac not in known) for vip, macs in gathered.vip_answers.items()}
    return DirectorSeen(
        local=gathered.local,
        answers={vip: macs for vip, macs in answers.items() if macs},
        asked_segments=gathered.asked_segments,
    )


def _room(path: _Path) -> int:
    """The largest packet that should get to the member, bytes."""
    return path.hop.mtu - path.subject.delivery.overhead(path.subject.member.address.version)


def _payload(pool: Pool) -> bytes:
    """What a health monitor of the pool would ask by datagram; empty where none does."""
    for monitor in pool.monitors:
        settings: dict[str, Any] = dict(monitor.settings)
        if monitor.kind == "udp" and settings.get("request"):
            return bytes(settings["request"])
        if monitor.kind == "dns" and settings.get("transport") != "tcp":
            return _dns_query(str(settings["query_name"]))
    return b""


def _dns_query(name: str) -> bytes:
    """A question for any address of a name (RFC 1035, 4.1). Whatever comes back, it comes from somewhere."""
    labels = [label.encode("idna") for label in name.rstrip(".").split(".") if label]
    question = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return struct.pack("!HHHHHH", 0x4F6E, 0x0100, 1, 0, 0, 0) + question + struct.pack("!HH", 1, 1)


def _ip(*arguments: str) -> list[dict[str, Any]]:
    try:
        output = subprocess.run(["ip", "-json", *arguments], check=True, capture_output=True, text=True, timeout=5)
        return [one for one in json.loads(output.stdout or "[]") if one]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _gateway(address: IPAddress) -> IPAddress | None:
    """The router towards an address, as the kernel routes; None: there is none."""
    for route in _ip("route", "get", str(address)):
        via = route.get("gateway") or route.get("via", {}).get("host")
        if via:
            return ipaddress.ip_address(via)
    return None

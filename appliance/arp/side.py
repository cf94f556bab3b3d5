"""This director's side of its segments: it hears who asks for VIPs, answers while it is to, and asks itself.

Everything is in the event loop. A loop that is stuck says nothing on the segment, and nothing of itself to others
either: what they are told runs out (STALE_S), so another director takes over.

Sockets are there only while VIPs are to be answered for. Neighbour solicitations that are sent to a VIP's own address
are dropped by the data plane's guard behind the taps, so a tap hears them; ARP has a socket of its own kind.
"""

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

import structlog

from appliance.arp.frames import Heard, What, announcement, answer, probe, read, solicited_node
from appliance.arp.owner import Claim, Do, Other, Owner, Phase
from appliance.dataplane.raw import kernel
from appliance.decide import Desired
from appliance.model import Config, IPAddress
from appliance.ranks import order

log = structlog.get_logger()

STEP_S = 0.05
SILENT_S = 1.0
"""A director of whom nothing was heard for so long does not answer any more, as far as we are concerned."""
STALE_S = 1.0
"""For so long it counts what the event loop has said of VIPs."""
RETRY_S = 1.0
LEAVE_S = 2.0
"""How long a director that is to end waits at most until another one answers."""

AT_ONCE, PAUSE_S = 64, 0.02
"""So many frames are read, then none for a while: a flood of questions gets a part of a CPU, and its own losses."""

_ROW = 32
"""VIPs of which the claims, two bits each, fit into what directors tell each other as one number."""

_ETH_P_ALL, _ETH_P_ARP = 0x0003, 0x0806
_VLAN_TAG_PRESENT = 0xFFFFF000 + 48
_LD_W, _LD_H, _LD_B, _JEQ, _RET = 0x20, 0x28, 0x30, 0x15, 0x06
_MOST_FILTERED = 500
"""VIPs that the sockets' filters tell apart; with more of them, whatever is asked wakes us."""

Told = Mapping[str, tuple[float, Mapping[str, int]]]
"""By director: seconds since it was heard, and the rows of its claims."""


@dataclass(frozen=True)
class VipStatus:
    """What there is to say of a VIP on the segment."""

    vip: IPAddress
    phase: Phase
    why: str
    """Why it is not answered for; of a VIP that is, what is wrong with it, if anything."""
    since: float
    """Seconds since 1970."""
    answers: int
    """Questions that were answered so far."""
    conflicts: int
    """How often somebody had it who should not."""


@dataclass
class _Vip:
    owner: Owner
    ranked: tuple[str, ...]
    row: str
    shift: int
    no: str = "nothing is decided yet"
    answers: int = 0
    conflicts: int = 0
    since: float = 0.0
    said: tuple[Phase, str] = (Phase.SILENT, "")


@dataclass
class _Port:
    """An interface, opened."""

    interface: kernel.Interface
    sockets: dict[int, socket.socket] = field(default_factory=dict)
    """By IP version."""
    groups: socket.socket | None = None


class ArpSide:
    """One director's segments: the interfaces on which packets for VIPs arrive. Lives in the event loop's thread."""

    def __init__(
        self,
        interfaces: Sequence[str],
        told: Callable[[], Told],
        say: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            interfaces: their names.
            told: what other directors have said of themselves.
            say: have others hear of our claims now.
            clock: seconds.
            wall: seconds since 1970, for people.
        """
        self._interfaces = interfaces
        self._told = told
        self._say = say
        self._clock = clock
        self._wall = wall
        self._me = ""
        self._macs: Mapping[bytes, str] = {}
        self._vips: dict[IPAddress, _Vip] = {}
        self._leaving = False
        self._draining = False
        self._ports: dict[str, _Port] = {}
        self._listened: frozenset[IPAddress] = frozenset()
        self._retry_at = 0.0
        self._deaf = ""
        self._claims: tuple[float, Mapping[str, int]] = (0.0, {})
        """When they were made, and what they are. Swapped whole: the channel's thread reads it."""
        self._changed = asyncio.Event()

    def follow(self, config: Config) -> None:
        """VIPs and ranks. Those that stay go on as they are."""
        self._me = config.director.name
        names = [director.name for director in config.fleet.directors]
        wanted = {vip: service for service in config.services if service.arp for vip in service.vips}
        rows = sorted(wanted, key=lambda vip: (vip.version, int(vip)))
        before, self._vips = self._vips, {}
        for at, vip in enumerate(rows):
            ranked = order(wanted[vip], vip, names)
            chunk = rows[at - at % _ROW :][:_ROW]
            known = before.get(vip) or _Vip(Owner(), ranked, "", 0, since=self._wall())
            known.owner.rank = ranked.index(self._me) if self._me in ranked else 0
            known.ranked, known.row, known.shift = ranked, "arp " + " ".join(map(str, chunk)), 2 * (at % _ROW)
            self._vips[vip] = known
        self._changed.set()

    def decided(self, desired: Desired) -> None:
        """This is about to come into force: what is not to be answered for any more is silent from now on."""
        for view in desired.vips:
            if view.vip in self._vips and view.down is not None:
                self._vips[view.vip].no = str(view.down)
        self._step()

    def applied(self, desired: Desired) -> None:
        """This is in force: what is up now may be answered for."""
        self._draining = desired.draining
        for view in desired.vips:
            if view.vip in self._vips:
                self._vips[view.vip].no = str(view.down) if view.down is not None else ""
        members = desired.tables.members.values()
        self._macs = {one.next_hop.mac: one.id for one in members if one.next_hop.direct}
        self._step()

    def claims(self) -> Mapping[str, int]:
        """What others are told, by row. From any thread."""
        at, rows = self._claims
        return rows if self._clock() - at < STALE_S else {}

    def statuses(self) -> tuple[VipStatus, ...]:
        """Of all VIPs."""
        return tuple(
            VipStatus(vip, one.owner.phase, self._deaf or one.owner.why, one.since, one.answers, one.conflicts)
            for vip, one in self._vips.items()
        )

    async def run(self) -> None:
        """Answer until cancelled."""
        try:
            while True:
                if not self._vips:
                    self._close()
                    self._claims = 0.0, {}
                    self._changed.clear()
                    await self._changed.wait()
                self._listen()
                self._step()
                await asyncio.sleep(STEP_S)
        finally:
            for one in self._vips.values():
                one.no = "this director ends"
            self._step()
            self._close()

    async def leave(self) -> None:
        """Have others answer, if there are any; returns when one does, or nobody will."""
        self._leaving = True
        end = self._clock() + LEAVE_S
        while self._clock() < end:
            self._step()
            if not any(one.owner.phase is Phase.ANSWERING and self._others(one) for one in self._vips.values()):
                return
            await asyncio.sleep(STEP_S)

    # Who answers

    def _others(self, one: _Vip) -> list[Other]:
        mine = one.ranked.index(self._me) if self._me in one.ranked else 0
        return [
            Other(name, one.ranked.index(name) < mine, Claim(rows.get(one.row, 0) >> one.shift & 3))
            for name, (age_s, rows) in self._told().items()
            if age_s < SILENT_S and name in one.ranked
        ]

    def _step(self) -> None:
        now = self._clock()
        for vip, one in self._vips.items():
            no = self._deaf or one.no
            self._do(vip, one, one.owner.step(now, no, self._others(one), leaving=self._leaving or self._draining))
        rows: Counter[str] = Counter()
        for one in self._vips.values():
            rows[one.row] += one.owner.claim << one.shift
        _, before = self._claims
        self._claims = now, dict(rows)
        if before != rows:
            self._say()

    def _do(self, vip: IPAddress, one: _Vip, do: Do) -> None:
        if do.probe or do.announce:
            make = probe if do.probe else announcement
            for port in self._ports.values():
                self._send(port, vip, make(vip, port.interface.mac))
        if do.conflict:
            one.conflicts += 1
            mac = one.owner.foreign or b""
            whose = self._macs.get(mac, "nobody that we know")
            log.warning("arp.conflict", vip=vip, mac=mac.hex(":"), whose=whose, phase=str(one.owner.phase))
        now = one.owner.phase, one.owner.why
        if now == one.said:
            return
        if one.owner.phase is Phase.ANSWERING and one.said[0] is not Phase.ANSWERING:
            one.since = self._wall()
            log.info("arp.answering", vip=vip, before=one.said[1])
        elif one.owner.phase is not Phase.ANSWERING and one.said[0] is Phase.ANSWERING:
            one.since = self._wall()
            log.info("arp.silent", vip=vip, reason=one.owner.why)
        one.said = now

    # On the segment

    def _listen(self) -> None:
        """Have sockets for the VIPs that there are, on interfaces as they are now."""
        now = self._clock()
        wanted = frozenset(self._vips)
        if now < self._retry_at and wanted == self._listened:
            return
        self._retry_at = now + RETRY_S
        there = {name: kernel.read_interface(name) for name in self._interfaces}
        if wanted == self._listened and all(
            name in self._ports and self._ports[name].interface == there[name] for name in self._interfaces
        ):
            return
        self._close()
        try:
            for name, interface in there.items():
                if interface is None:
                    raise OSError(f"there is no interface {name}")
                if not (interface.up and interface.carrier):
                    # Who asks on its segment has to be answered by another director, and one answers for all segments.
                    raise OSError(f"interface {name} is down")
                self._ports[name] = port = _Port(interface)
                _open(port, wanted)
                for one in port.sockets.values():
                    asyncio.get_running_loop().add_reader(one.fileno(), self._read, port, one)
        except OSError as error:
            self._close()
            deaf = f"cannot listen for who asks: {error}"
            if deaf != self._deaf:
                log.warning("arp.deaf", error=str(error), hint="needs CAP_NET_RAW; no VIP is answered for until then")
            self._deaf = deaf
            return
        self._deaf, self._listened = "", wanted

    def _read(self, port: _Port, one: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(AT_ONCE):
            try:
                frame = one.recv(1600)
            except BlockingIOError:
                return
            except OSError:
                break  # the interface went down or away; `_listen` sees that
            heard = read(frame)
            if heard is not None and heard.mac != port.interface.mac and frame[6:12] != port.interface.mac:
                self._hear(port, heard)
        loop.remove_reader(one.fileno())
        loop.call_later(PAUSE_S, self._read_on, port, one)

    def _read_on(self, port: _Port, one: socket.socket) -> None:
        if one.fileno() >= 0:
            asyncio.get_running_loop().add_reader(one.fileno(), self._read, port, one)

    def _hear(self, port: _Port, heard: Heard) -> None:
        if heard.what is What.ASKS and (has := self._vips.get(ip_address(heard.sender))) is not None:
            # Whoever asks with a VIP as its own address has it, or thinks so (RFC 5227, 2.4).
            has.owner.heard(self._clock(), heard.mac, self._others(has))
        one = self._vips.get(heard.address)
        if one is None:
            return
        if heard.what is not What.HAS and one.owner.phase is Phase.ANSWERING:
            one.answers += 1
            self._send(port, heard.address, answer(heard, heard.address, port.interface.mac))
        elif heard.what is not What.ASKS:
            one.owner.heard(self._clock(), heard.mac, self._others(one), probes=heard.what is What.PROBES)

    def _send(self, port: _Port, vip: IPAddress, frame: bytes) -> None:
        try:
            port.sockets[vip.version].send(frame)
        except OSError:
            pass  # the queue is full, or the interface is down: it is asked again, and announcements have repeats

    def _close(self) -> None:
        loop = asyncio.get_running_loop()
        for port in self._ports.values():
            for one in port.sockets.values():
                loop.remove_reader(one.fileno())
                one.close()
            if port.groups is not None:
                port.groups.close()
        self._ports.clear()
        self._listened = frozenset()


def _open(port: _Port, vips: Iterable[IPAddress]) -> None:
    """Sockets of an interface; in the port as soon as they are there.

    Raises:
        OSError: they are not to be had.
    """
    four = sorted(vip for vip in vips if isinstance(vip, IPv4Address))
    six = sorted(vip for vip in vips if isinstance(vip, IPv6Address))
    name = port.interface.name
    if four:
        port.sockets[4] = _tap(name, _ETH_P_ARP, listener(four, ()))
    if six:
        port.sockets[6] = _tap(name, _ETH_P_ALL, listener((), six))
        port.groups = groups = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        for group in {solicited_node(vip) for vip in six}:
            request = group.packed + struct.pack("@I", port.interface.ifindex)
            groups.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def _tap(name: str, protocol: int, program: bytes) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        kernel.attach_filter(made, program)
        made.setsockopt(kernel.SOL_PACKET, kernel.PACKET_IGNORE_OUTGOING, 1)
        made.bind((name, protocol))
    except OSError:
        made.close()
        raise
    return made


def listener(four: Sequence[IPv4Address], six: Sequence[IPv6Address]) -> bytes:
    """What the kernel lets through: untagged ARP frames, solicitations and advertisements about these VIPs, and a few
    others. As `struct sock_filter[]` (classic BPF)."""
    code: list[tuple[int, int, int, int]] = []

    def want(load: int, offset: int, value: int) -> None:
        code.extend(((load, 0, 0, offset), (_JEQ, 1, 0, value), (_RET, 0, 0, 0)))

    def any_of(offset: int, values: Iterable[int]) -> None:
        code.append((_LD_W, 0, 0, offset))
        for value in values:
            code.extend(((_JEQ, 0, 1, value), (_RET, 0, 0, 0xFFFF)))

    want(_LD_B, _VLAN_TAG_PRESENT, 0)
    exact = len(four) + len(six) <= _MOST_FILTERED
    if four:
        want(_LD_H, 12, 0x0806)
        if exact:
            any_of(28, map(int, four))
            any_of(38, map(int, four))
    else:
        want(_LD_H, 12, 0x86DD)
        want(_LD_B, 20, 58)
        code.extend(((_LD_B, 0, 0, 54), (_JEQ, 2, 0, 135), (_JEQ, 1, 0, 136), (_RET, 0, 0, 0)))
        if exact:
            any_of(74, sorted({int(vip) & 0xFFFFFFFF for vip in six}))
    code.append((_RET, 0, 0, 0 if exact else 0xFFFF))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)

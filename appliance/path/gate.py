"""Takes the packets of checks' sockets, and sends them to members as a data plane would.

A check's socket has a mark, so the kernel routes what it sends into a TUN device (`steer`): whole IP packets with
complete checksums. Here they get the MAC address or the outer headers that the member's delivery wants, by the
reference that all data planes are compared with, and leave by a packet socket. The reply comes from the VIP straight to
an address of the director: it is for no VIP, so every data plane leaves it to the kernel, which has a socket for it. No
data plane knows of any of this, and no VIP is a local address of the director.

When a check was over and no packet had come by, neither of it nor of any other meanwhile, somebody has taken device,
rule or route away: then all is made anew.

Packets arrive with a TTL or hop limit of 1: a member that has not the VIP cannot send them on, where routers would
bring them back to a director and on to another member, which would answer.
"""

import asyncio
import errno
import os
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

import structlog

from appliance.ears import Ear, OwnEar, PrefixEar
from appliance.forwarding import NextHop, TableMember
from appliance.model import Delivery, DsrType, HashMode, IPAddress, IPNetwork, TtlPolicy
from appliance.packet import icmp
from appliance.packet.action import Reason
from appliance.packet.encap import TUNNELS, decrement_hop_limit, encapsulate, ethernet
from appliance.packet.headers import ETHERNET, IpHeader, parse_ip
from appliance.path.causes import SENT_LENGTH, SILENT, Flow, Heard, Trouble, explained, flow_of, heard, quotes
from appliance.path.segments import Segments, segments
from appliance.path.steer import SteerError, Steering
from appliance.ring.hash import derive_keys, flow_words, hash_words
from appliance.state import NEIGHBOUR_UNRESOLVED, Unresolved
from health.checks.errors import SHORT_OF
from health.checks.sockets import text
from health.spec import Code, Result, Status, Target

log = structlog.get_logger()

LINGER_S = 60.0
"""How long a flow's packets still go its way after the check is over: what the kernel does until a connection has ended
(TCP_TIMEWAIT_LEN)."""

HINT_S = 10.0
"""How long an ICMP error explains results: hosts send one a second, whatever there is to complain of."""

REOPEN_S = 5.0
"""Not more often: what was under way is lost each time."""

_SENT_S = 0.2
"""A check that was cancelled sooner may not have sent anything."""

_TRIES, _TRY_AGAIN_S, _MAX_WAITING = 20, 0.05, 1000
"""How often and how long a packet waits for a next hop, and how many do at a time."""

MOST_LINGERING = 8192
"""So many flows at most go on their way after their checks. Where there are more in a minute, connections end with an
RST instead of waiting for the last packet of the other side: else ports would run out."""

_TAKEN_AT_ONCE = 1024
"""Packets of checks in one turn of the event loop, some 20 ms: a loop that has much to do takes few turns, and
meanwhile thousands of checks may send."""

_STRAYS = 4
"""Datagrams of strangers that are looked at, at most, before a member's own."""

_BATCH = 64
_PAUSE_S = 0.1
_LENGTH = 65536
_SYN, _RST = 2, 4

_ERRORS = {4: (3, 11, 12), 6: (1, 3, 4)}
"""Types that are let through: unreachable, time exceeded, parameter problem; by IP version."""


@dataclass(frozen=True)
class PathWay:
    """The way to one member by one delivery; obeys `health.ways.Way`."""

    gate: "Gate" = field(compare=False, repr=False)
    member: IPAddress
    delivery: Delivery

    @property
    def name(self) -> str:
        return str(self.delivery)

    @property
    def machine(self) -> IPAddress:
        return self.member

    def prepare(self, sock: socket.socket, address: IPAddress) -> None:
        """See `health.ways.Way`. The source is our address on the way to the member, or what the kernel would take to
        the VIP where that is of another family."""
        source = self._source(address)
        if source is None:
            raise OSError(errno.EHOSTUNREACH, f"nothing to ask {address} from")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.gate.mark)
        routed = self.delivery.dsr_type is DsrType.L3 and self.delivery.ttl is TtlPolicy.ROUTER
        level, name = (
            (socket.IPPROTO_IP, socket.IP_TTL)
            if address.version == 4
            else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
        )
        sock.setsockopt(level, name, 2 if routed else 1)
        try:
            sock.bind((source, 0))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:  # no port is left, which is no member's fault
                raise OSError(errno.ENOBUFS, f"health checks from {source} have used all ports") from error
            raise

    @contextmanager
    def carrying(
        self, sock: socket.socket, address: IPAddress, protocol: int, word: bytes, *, half_open: bool = False
    ) -> Iterator[None]:
        """See `health.ways.Way`."""
        source = socket.inet_pton(socket.AF_INET if address.version == 4 else socket.AF_INET6, sock.getsockname()[0])
        flow = source, address.packed, protocol, word
        stray = _beside(sock) if protocol == socket.IPPROTO_UDP else None
        with self.gate.carrying(flow, self, half_open=half_open), stray or nullcontext():
            try:
                yield
            finally:
                if stray is not None and self._answers_itself(stray):
                    self.gate.note_astray(self.member, address)
                if protocol == socket.IPPROTO_TCP and self.gate.is_crowded:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def judge(self, result: Result, target: Target) -> Result:
        """See `health.ways.Way`.

        Raises:
            OSError: a packet of the question has found no room here, and without an answer nobody knows.
        """
        if not (result.good and result.answered) and self.gate.has_lost(self.member, result.duration_s):
            raise OSError(errno.ENOBUFS, f"a health check of {self.member} has found no room in our own queues")
        if result.good and result.answered:
            self.gate.forget(self, target.address)
        elif not result.good and (why := self._why_not(target.address, silent=result.code in SILENT)):
            hop = self.gate.hop(self.member)
            silent = isinstance(hop, Unresolved) and hop.reason == NEIGHBOUR_UNRESOLVED
            return replace(result, code=Code.ARP_UNRESOLVED if silent else result.code, detail=why)
        return explained(result, target, self.delivery, self.gate.known(self, target.address))

    def _answers_itself(self, stray: socket.socket) -> bool:
        """Whether a datagram has come from the member's own address instead of the VIP."""
        for _ in range(_STRAYS):
            try:
                _, sender = stray.recvfrom(1)
            except OSError:
                return False
            if sender[0] == text(self.member):
                return True
        return False

    def _source(self, address: IPAddress) -> str | None:
        """Where packets to a VIP come from; None: there is no address of its family, or it is our own."""
        hop = self.gate.hop(self.member)
        if isinstance(self.gate.hop(address), Unresolved):
            return None
        if isinstance(hop, NextHop) and hop.source.version == address.version:
            return text(hop.source)
        return _source_to(self.member if self.member.version == address.version else address)

    def _why_not(self, address: IPAddress, *, silent: bool) -> str:
        """What of the way to the member and back is missing on this director; empty when nothing is."""
        hop, own = self.gate.hop(self.member), self.gate.hop(address)
        if isinstance(own, Unresolved):
            return own.detail
        if isinstance(hop, Unresolved):
            return f"{hop.reason}: {hop.detail}"
        if hop is None:
            return f"no way to {self.member} is known"
        if self._source(address) is None:
            return (
                f"this director has no IPv{address.version} address to ask {address} from, or no route to it: add one, "
                'or set vantage = "direct"'
            )
        if silent and self.gate.is_astray(self.member, address):
            return (
                f"the answer comes from {self.member}, and not from VIP {address}: the server must answer from the "
                "address that it was asked at"
            )
        return self.gate.why_no_reply(address, hop.interface) if silent else ""


def segments_of(status: Status, next_hops: Mapping[IPAddress, NextHop | Unresolved]) -> Segments | None:
    """What is known of the segments that a member takes by a way; None: nothing."""
    target = status.target
    if status.mss is None or not isinstance(target.way, PathWay):
        return None
    way, hop = target.way, next_hops.get(target.way.member)
    if not isinstance(hop, NextHop):
        return None
    return segments(target.id, target.address, target.port, way.member, way.delivery, hop, status.mss)


@dataclass
class _Carried:
    way: PathWay
    half_open: bool
    packets: int = 0
    sent: bytes = b""
    """The beginning of the latest one."""


class Gate:
    """One for a director. Lives in the event loop's thread."""

    def __init__(
        self,
        interfaces: tuple[str, ...],
        secret: bytes,
        next_hops: Callable[[], Mapping[IPAddress, NextHop | Unresolved]],
        prefixes: tuple[IPNetwork, ...] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is opened before `open`.

        Args:
            interfaces: the director's; they name what is made in the kernel.
            secret: the fleet's, for the hash of flows in outer headers.
            next_hops: what is known now of the ways to members.
            prefixes: the director's, of sources of outer headers.
            clock: seconds that never jump.
        """
        self._steering = Steering(interfaces)
        self._keys = derive_keys(secret)
        self._next_hops = next_hops
        self._prefixes = prefixes
        self._clock = clock
        self._carried: dict[Flow, _Carried] = {}
        self._lingering: OrderedDict[Flow, tuple[_Carried, float]] = OrderedDict()
        self._heard: dict[tuple[IPAddress, IPAddress | int], tuple[Heard, float]] = {}
        """By member, and VIP or protocol of the outer header."""
        self._took_at: dict[int, float] = {}
        """When a check's packet came by last, by IP version."""
        self._replies: dict[tuple[IPAddress, str], tuple[str, float]] = {}
        """Why replies from a VIP would be dropped at an interface, and when that was looked at."""
        self._astray: dict[tuple[IPAddress, IPAddress], float] = {}
        """When a member has answered last from its own address, by member and VIP."""
        self._lost_at: dict[IPAddress, float] = {}
        """When a packet to a member found no room last."""
        self._ident = 0
        self._out: socket.socket | None = None
        self._ears: list[Ear] = []
        self._waiting = 0
        self._lost = asyncio.Event()

    @property
    def mark(self) -> int:
        return self._steering.mark

    @property
    def is_open(self) -> bool:
        return self._out is not None

    @property
    def is_crowded(self) -> bool:
        """There are so many checks that ports would run out if all their connections waited for their end."""
        return len(self._lingering) >= MOST_LINGERING

    def way(self, member: IPAddress, delivery: Delivery) -> PathWay:
        return PathWay(self, member, delivery)

    async def open(self) -> None:
        """Make what it takes in the kernel, and carry packets from now on. Open already: nothing happens.

        Raises:
            SteerError: it cannot be made; the text says why and what to do.
        """
        if self._out is not None:
            return
        try:
            out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            ears = _ears(self._prefixes)
        except OSError as error:
            raise SteerError(f"health checks through the DSR path: {error}; they take CAP_NET_RAW") from error
        await asyncio.to_thread(self._steering.open)
        self._out, self._ears = out, ears
        loop = asyncio.get_running_loop()
        loop.add_reader(self._steering.fd, self._take)
        for ear in ears:
            loop.add_reader(ear.fileno(), self._hear, ear)

    async def close(self) -> None:
        """Leave nothing behind in the kernel."""
        if self._out is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._steering.fd)
        for ear in self._ears:
            loop.remove_reader(ear.fileno())
            ear.close()
        self._out.close()
        self._out, self._ears = None, []
        await asyncio.to_thread(self._steering.close)

    async def run(self) -> None:
        """Make good what others take away, until cancelled.

        Raises:
            SteerError: it cannot be made good.
        """
        while True:
            await self._lost.wait()
            log.warning("path.reopening", device=self._steering.device)
            await self.close()
            await self.open()
            await asyncio.sleep(REOPEN_S)
            self._lost.clear()

    def outer_prefix(self, delivery: Delivery, member: IPAddress) -> IPNetwork | None:
        """Where outer headers to a member have their sources from; None: from the interface."""
        return delivery.outer_prefix(member, self._prefixes)

    def hop(self, address: IPAddress) -> NextHop | Unresolved | None:
        """What is known of the way to an address."""
        return self._next_hops().get(address)

    @contextmanager
    def carrying(self, flow: Flow, way: PathWay, *, half_open: bool) -> Iterator[None]:
        """Take a flow's packets that way while this lasts, and for LINGER_S."""
        now = self._clock()
        while self._lingering and (
            len(self._lingering) > MOST_LINGERING or next(iter(self._lingering.values()))[1] < now - LINGER_S
        ):
            self._lingering.popitem(last=False)
        self._lingering.pop(flow, None)
        self._carried[flow] = carried = _Carried(way, half_open)
        over = True
        try:
            yield
        except asyncio.CancelledError:
            over = self._clock() - now >= _SENT_S
            raise
        finally:
            del self._carried[flow]
            self._lingering[flow] = carried, self._clock()
            version = 4 if len(flow[0]) == 4 else 6
            if over and not carried.packets and self._took_at.get(version, now) <= now:
                self._lost.set()

    def note_astray(self, member: IPAddress, vip: IPAddress) -> None:
        """A member has answered from its own address."""
        self._astray[member, vip] = self._clock()

    def is_astray(self, member: IPAddress, vip: IPAddress) -> bool:
        """Whether a member has lately answered from its own address what was asked of a VIP."""
        return self._astray.get((member, vip), float("-inf")) >= self._clock() - HINT_S

    def has_lost(self, member: IPAddress, seconds: float) -> bool:
        """Whether a packet to a member has found no room within the last so many seconds."""
        return self._lost_at.get(member, float("-inf")) >= self._clock() - seconds

    def why_no_reply(self, vip: IPAddress, interface: str) -> str:
        """Why the kernel would drop what comes from a VIP by an interface; empty where it would not."""
        now = self._clock()
        found = self._replies.get((vip, interface))
        if found is None or found[1] < now - HINT_S:
            found = self._replies[vip, interface] = _why_no_reply(vip, interface), now
        return found[0]

    def known(self, way: PathWay, vip: IPAddress, within_s: float = HINT_S) -> Heard | None:
        """The latest ICMP error about the way to a VIP, no older than that."""
        for key in _keys_of(way, vip):
            found = self._heard.get(key)
            if found is not None and found[1] >= self._clock() - within_s:
                return found[0]
        return None

    def forget(self, way: PathWay, vip: IPAddress) -> None:
        """What ICMP has said of the way to a VIP: an answer has come."""
        for key in _keys_of(way, vip):
            self._heard.pop(key, None)

    # -- packets of checks ---------------------------------------------------------------------------------------

    def _take(self) -> None:
        for _ in range(_TAKEN_AT_ONCE):
            try:
                packet = os.read(self._steering.fd, _LENGTH)
            except BlockingIOError:
                return
            except OSError:  # somebody has deleted the device; it would be ready for reading for ever
                asyncio.get_running_loop().remove_reader(self._steering.fd)
                self._lost.set()
                return
            self._carry(packet)

    def _carry(self, packet: bytes) -> None:
        """Send one packet. What nobody has asked us to carry (router solicitations, ...) goes nowhere."""
        version = packet[0] >> 4 if packet else 0
        ip = parse_ip(packet, version) if version in (4, 6) else Reason.NOT_IP
        if isinstance(ip, Reason):
            return
        flow = flow_of(packet)
        carried = self._of(flow) if flow is not None else None
        if carried is None:
            return
        carried.packets += 1
        self._took_at[version] = self._clock()
        if carried.half_open and not packet[ip.l4 + 13] & (_SYN | _RST):
            return
        carried.sent = packet[:SENT_LENGTH]
        self._send(packet, ip, carried.way, _TRIES)

    def _send(self, packet: bytes, ip: IpHeader, way: PathWay, tries: int) -> None:
        """Send a packet, or wait for a next hop, as the kernel does with its own packets."""
        hop = self.hop(way.member)
        if not isinstance(hop, NextHop):
            if tries and self._waiting < _MAX_WAITING:
                self._waiting += 1
                asyncio.get_running_loop().call_later(_TRY_AGAIN_S, self._again, packet, ip, way, tries - 1)
            return
        if way.delivery.dsr_type is DsrType.L2 and not hop.direct:
            return
        prefix = self.outer_prefix(way.delivery, way.member)
        member = TableMember(0, "", way.member, way.delivery, hop, outer_prefix=prefix)
        try:
            if ip.length > member.inner_mtu:
                reply = icmp.too_big(ethernet(hop, ip.version, packet), ETHERNET, ip, member.inner_mtu)
                if reply is not None:
                    os.write(self._steering.fd, reply.frame[ETHERNET:])
            elif self._out is not None:
                self._out.sendto(self._frame(packet, ip, member), (hop.interface, 0))
        except OSError as error:
            # The interface is gone: the check will find that nothing comes back. Or it has no room.
            if error.errno in SHORT_OF:
                self._lost_at[way.member] = self._clock()

    def _again(self, packet: bytes, ip: IpHeader, way: PathWay, tries: int) -> None:
        self._waiting -= 1
        if self._out is not None:
            self._send(packet, ip, way, tries)

    def frame(self, packet: bytes, member: TableMember) -> bytes:
        """An IP packet of our own as it leaves for a member.

        Args:
            packet: whole, without extension headers.
            member: the way to it.

        Raises:
            ValueError: it is no such packet.
        """
        ip = parse_ip(packet, packet[0] >> 4)
        if isinstance(ip, Reason):
            raise ValueError(f"not a packet: {ip}")
        return self._frame(packet, ip, member)

    def _of(self, flow: Flow) -> _Carried | None:
        return self._carried.get(flow) or self._lingering.get(flow, (None, 0.0))[0]

    def _frame(self, packet: bytes, ip: IpHeader, member: TableMember) -> bytes:
        delivery = member.delivery
        if delivery.encapsulation is None:
            return ethernet(member.next_hop, ip.version, packet)
        if delivery.ttl is TtlPolicy.ROUTER:
            packet = decrement_hop_limit(packet, ip.version)
        ports = packet[ip.l4 : ip.l4 + 4]
        hash32 = hash_words(self._keys, flow_words(ip.source, ip.destination, ports, ip.protocol, HashMode.FIVE_TUPLE))
        self._ident = (self._ident + 1) & 0xFFFF
        outer = encapsulate(delivery.encapsulation, packet, ip, member, hash32, self._ident)
        return ethernet(member.next_hop, member.address.version, outer)

    # -- errors about them ---------------------------------------------------------------------------------------

    def _hear(self, ear: Ear) -> None:
        """Read ICMP errors, so many at a time: whoever floods us with them must not keep the loop from its work."""
        for _ in range(_BATCH):
            try:
                told = ear.read()
            except OSError:
                return
            found = heard(ear.version, told.message, told.sender) if told is not None else None
            if found is not None:
                self._note(found)
        loop = asyncio.get_running_loop()
        loop.remove_reader(ear.fileno())
        loop.call_later(_PAUSE_S, self._hear_again, ear)

    def _hear_again(self, ear: Ear) -> None:
        if ear in self._ears:
            asyncio.get_running_loop().add_reader(ear.fileno(), self._hear, ear)

    def _note(self, found: Heard) -> None:
        """Keep an error that quotes a packet of ours, whoever has sent it: nobody else can know that packet."""
        carried = self._of(found.flow) if found.flow is not None else None
        if carried is None or found.flow is None or not quotes(found.packet, carried.sent):
            return
        if found.trouble is Trouble.ROUTED_ON:
            self._heard[carried.way.member, ip_address(found.flow[1])] = found, self._clock()
        elif found.member == carried.way.member:
            self._heard[found.member, found.protocol] = found, self._clock()


def _keys_of(way: PathWay, vip: IPAddress) -> Iterator[tuple[IPAddress, IPAddress | int]]:
    """Under which errors about a way to a VIP are kept."""
    yield way.member, vip
    if way.delivery.encapsulation is not None:
        yield way.member, TUNNELS[way.delivery.encapsulation].protocols[vip.version]


def _source_to(address: IPAddress) -> str | None:
    """Our address towards another, as the kernel would choose it; None: there is none of that family."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), 9))
            return str(sock.getsockname()[0])
    except OSError:
        return None


def _beside(sock: socket.socket) -> socket.socket | None:
    """A socket that gets what comes to another one's port from anybody else than whom that is connected to; None: there
    can be none. What it gets is a hint, and nothing more."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # bound already: its port is its own
    other = socket.socket(sock.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        other.bind(sock.getsockname()[:2])
    except OSError:
        other.close()
        return None
    return other


def _why_no_reply(vip: IPAddress, interface: str) -> str:
    """See `Gate.why_no_reply`. IPv6 has no such filter."""
    if vip.version == 6:
        return ""
    filters = max(_number(f"/proc/sys/net/ipv4/conf/{name}/rp_filter") for name in ("all", interface))
    if not filters or _source_to(vip) is not None:
        return ""
    return (
        f"this director drops replies from {vip}: rp_filter = {filters} on {interface} wants a route to it, and there "
        "is none: add a route (a default route will do), or set rp_filter = 0"
    )


def _number(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 0


def _ears(prefixes: Iterable[IPNetwork]) -> list[Ear]:
    """For errors to our own addresses, and to those of our prefixes. A kernel without IPv6 has none of that.

    Raises:
        OSError: there are no such sockets for us.
    """
    ears = [OwnEar(4, _ERRORS[4])]
    try:
        ears.append(OwnEar(6, _ERRORS[6]))
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
    return [*ears, *(PrefixEar(prefix, _ERRORS[prefix.version]) for prefix in prefixes)]

"""What a director does with one frame: the reference that all data planes agree with, and their slow path.

The order is part of the behaviour. The first line that applies decides; ids are those of packets.md.

 1. Not for our MAC address (broadcast and multicast included)       pass  not_vip
 2. Not IPv4 or IPv6, or more than two VLAN tags                     pass  not_ip
 3. Destination is not a VIP; nothing else is looked at (P15)        pass  not_vip
 4. More behind the Ethernet header than the link's MTU (P14)        drop  oversized_frame
 5. Version, lengths, IPv4 header checksum (P2, P3, P4)              drop  malformed
 6. IPv6 extension headers: too many, unknown, type 0 (P6)           drop  unsupported_header
    A source address that nobody has (`protection.is_martian`)       drop  martian
 7. An echo request to a VIP that is up here (I5)                    drop  echo, with the answer
    Neither TCP nor UDP nor an ICMP error (I5, I6)                   drop  protocol
 8. TCP or UDP header cut or contradictory (P7)                      drop  malformed; of a first fragment (F5): fragment
    ICMP error that names no flow of the VIP's (`relay`; I2, I4)     drop  malformed, spoofed, fragment, protocol, ...
 9. No virtual service on that protocol and port (P10, P11)          drop  no_service, with the answer where wished
10. Later fragment without ports that tell its flow (below)          hold, or drop  fragment
11. Sent by a member of an L2 pool or by ourselves (L5)              drop  loop
    A client that may not come (`protection`)                        drop  denied
    One more new connection than there may be                        drop  service_rate, vip_rate, source_rate
12. Nobody to take the flow (`placement`)                            drop  no_member
13. Encapsulating as a router, and TTL or hop limit is at its end    drop  ttl_expired, with time exceeded
14. Larger than the way to the member takes, not to be fragmented    drop  too_big, with packet too big (M1, M2)
15. Anything else                                                    transmit

A first fragment is placed as a whole packet is, and what was decided on it is remembered (`fragments`; F1). A later one
has no ports. It follows its first where that is known: to the same member in the same way, as a packet of that flow
(F2). Where it is not known, it is held, and judged again when the first has come, or in the end with `waited` (F3):
then it is forwarded by its slot if all services of its VIP and protocol hash the source address only and share their
slots, counted for the first of them; otherwise it is dropped at line 10. Where that slot is steady, and all of these
services place by hash, it says for certain where the first goes: nothing is remembered, and nothing has to wait (F0).

Zero UDP checksums and odd TCP flags make no difference (P8, P9). IPv4 packets with DF clear that are too big are
transmitted in pieces (M3, `split`), each in an outer packet of its own. IPv6 packets of up to 1280 bytes, which
everybody may send whatever he is told, go out if only they fit the link, whatever was learned of the way behind it:
over IPv4 without DF, so that routers may fragment them (RFC 4213, 3.2.2).

A datagram of a service that carries QUIC goes to the member that its connection ID names (C13, `quic`), whatever its
addresses, its slot and what is remembered of its flow; and nothing is remembered of it. Where it names nobody who
serves, it goes as any other. Errors about such flows go by their addresses and ports.

Who takes a flow is decided by `placement.place`; what is remembered of it counts from the moment it is transmitted.

From line 9 on, an ICMP error about a flow is taken for a packet of that flow: whole and unchanged, it goes the same way
to the same member (I1, I3). Whatever happens to it, it is never answered with another error. May its client come, it
may, whoever has sent it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from appliance.forwarding import NO_MEMBER, ChoiceOrder, ForwardingTables, Placement, TableMember, TableService
from appliance.model import DfPolicy, DsrType, HashMode, Protocol, TtlPolicy
from appliance.packet import icmp, quic, relay
from appliance.packet.action import Action, By, Datagram, Reason, Reply, Verdict
from appliance.packet.encap import decrement_hop_limit, encapsulate, ethernet
from appliance.packet.fragments import Decided, Fragments, datagram_of
from appliance.packet.headers import (
    Flow,
    IpHeader,
    Part,
    destination,
    is_extension,
    parse_ethernet,
    parse_ip,
    parse_ports,
)
from appliance.packet.placement import FlowFacts, Kind, Pin, Pins, Placed, Slot, idle_ticks, place, tcp_kind
from appliance.packet.protection import Meters, guards, is_martian, opens_connection
from appliance.packet.refusal import refusal
from appliance.packet.split import SMALLEST, split
from appliance.ring.hash import derive_keys, derive_pin_keys, flow_words, hash_words, pin_hash, slot_of


@dataclass(frozen=True)
class Ingress:
    """The interface that a frame arrived on."""

    ifindex: int
    mac: bytes
    """Our address on it, 6 bytes."""

    mtu: int
    """Largest IP packet that its link carries, bytes."""


def forward(frame: bytes, tables: ForwardingTables, port: Ingress, ident: int = 0) -> Action:
    """What happens to one frame. See `PacketPath.forward`; to ask for many frames, keep a `PacketPath`."""
    return PacketPath(tables).forward(frame, port, ident)


class Turns:
    """Whose turn it is, for services whose choices are taken one after the other. Lives longer than tables."""

    def __init__(self, random32: Callable[[], int] | None = None) -> None:
        """
        Args:
            random32: a random number of 32 bits, for services whose choices are taken at random.
        """
        self._random32 = random32 or (lambda: 0)
        self._at: dict[tuple[str, bytes], tuple[object, int]] = {}

    def take(self, service: TableService, *, peek: bool = False) -> int:
        """The next choice, or NO_MEMBER when there is none. New choices are taken from their beginning.

        Args:
            service: whose.
            peek: leave it for the next one.
        """
        choices, key = service.choices, (service.name, service.vip.packed)
        if not len(choices):
            return NO_MEMBER
        if service.choice_order is ChoiceOrder.RANDOM:
            return int(choices[self._random32() * len(choices) >> 32])
        known, at = self._at.get(key, (None, 0))
        at = at if known is choices else 0
        if not peek:
            self._at[key] = choices, (at + 1) % len(choices)
        return int(choices[at])


class PacketPath:
    """Forwarding tables, made ready for looking up frames one by one."""

    def __init__(
        self,
        tables: ForwardingTables,
        pins: Pins | None = None,
        turns: Turns | None = None,
        fragments: Fragments | None = None,
        meters: Meters | None = None,
    ) -> None:
        """
        Args:
            tables: to forward by.
            pins: what is remembered of flows; None remembers nothing.
            turns: for services that place flow by flow or packet by packet.
            fragments: what is remembered of datagrams in fragments; None remembers nothing, and nothing is held.
            meters: how many connections have come; None has no limits.
        """
        self._meters = meters
        self._guards = guards(tables.services)
        if meters is not None:
            meters.assign(self._guards, tables.secret)
        self.tables = tables
        self._pins = pins
        self._fragments = fragments
        self._turns = turns or Turns()
        self._idle = [idle_ticks(service.idle_timeout_s) for service in tables.services]
        self._keys = derive_keys(tables.secret)
        self._pin_keys = derive_pin_keys(tables.secret)
        self._vips = frozenset(vip.packed for vip in tables.vips)
        self._answering = frozenset(vip.packed for vip in tables.answering)
        self._rejecting = frozenset(vip.packed for vip in tables.rejecting)
        self._services: dict[tuple[bytes, int], _Ports] = {}
        for service in tables.services:
            self._services.setdefault((service.vip.packed, service.protocol), _Ports()).add(service)
        self._loop_macs = frozenset(
            member.next_hop.mac for member in tables.members.values() if member.delivery.dsr_type is DsrType.L2
        ) | frozenset(member.next_hop.source_mac for member in tables.members.values())

    def forward(
        self,
        frame: bytes,
        ingress: Ingress,
        ident: int = 0,
        *,
        step: int = 1,
        look_only: bool = False,
        waited: bool = False,
    ) -> Action:
        """What happens to one frame. Never raises, whatever its bytes.

        A transmitted frame ends with the IP packet: padding of the original is not carried along, also in L2 DSR.

        Args:
            frame: with its Ethernet header and tags, without frame check sequence.
            ingress: where it arrived.
            ident: identification for an outer IPv4 header that may be fragmented, unlike those of other recent packets,
                0..65535.
            step: from there to that of the next piece, when the packet is fragmented.
            look_only: remember nothing of it, and take nobody's turn.
            waited: it was held before, and is not to be held again.
        """
        if frame[:6] != ingress.mac:
            return Action(Verdict.PASS, Reason.NOT_VIP)
        link = parse_ethernet(frame)
        if isinstance(link, Reason):
            return Action(Verdict.PASS, link)
        packet = frame[link.length :]
        if destination(packet, link.version) not in self._vips:
            return Action(Verdict.PASS, Reason.NOT_VIP)

        if len(packet) > ingress.mtu:
            return Action(Verdict.DROP, Reason.OVERSIZED_FRAME)
        ip = parse_ip(packet, link.version)
        if isinstance(ip, Reason):
            return Action(Verdict.DROP, ip)
        if is_martian(ip.source, ip.destination):
            return Action(Verdict.DROP, Reason.MARTIAN)
        packet = packet[: ip.length]
        # Of ICMP, no fragment is placed, so there is nothing to wait for.
        in_pieces = self._fragments is not None and ip.part is not Part.WHOLE and ip.protocol != relay.ICMP[ip.version]
        datagram = datagram_of(ip) if in_pieces else None
        first = self._first_of(datagram) if ip.part is Part.LATER else None
        waits_for = datagram if ip.part is Part.LATER and first is None and not waited else None
        flow = _flow(packet, ip) if first is None or datagram is None else first.flow(datagram)
        if isinstance(flow, Reason):
            asked = flow is Reason.PROTOCOL and ip.destination in self._answering
            echo = icmp.echo_reply(frame, link.length, ip) if asked else None
            if echo is not None:
                return Action(Verdict.DROP, Reason.ECHO, reply=echo)
            return _no_service(flow, waits_for)
        service = self._service(flow)
        if isinstance(service, Reason):
            asks = service is Reason.NO_SERVICE and ip.destination in self._rejecting
            return _no_service(service, waits_for, refusal(frame, link.length, ip) if asks else None)
        source_mac = frame[6:12]
        if source_mac in self._loop_macs or source_mac == ingress.mac:
            return Action(Verdict.DROP, Reason.LOOP, service=service.index)
        guard = self._guards[service.index]
        if guard is not None:
            if guard.denies(flow.source):
                return Action(Verdict.DROP, Reason.DENIED, service=service.index)
            refused = None
            if self._meters is not None and guard.limited and ip.part is not Part.LATER and _opens(packet, ip):
                refused = self._meters.admit(guard, flow.source, look_only=look_only)
            if refused is not None:
                return Action(Verdict.DROP, refused, service=service.index)

        # Without ports there is no mode but source_ip here, which leaves them out.
        words = flow_words(flow.source, flow.destination, flow.ports or bytes(4), flow.protocol, service.hash_mode)
        hash32 = hash_words(self._keys, words)
        slot = slot_of(hash32, len(service.slots))
        is_free = datagram is not None and self._needs_no_memory(service, slot)
        if waits_for is not None and not is_free:
            return Action(Verdict.HOLD, Reason.FRAGMENT, datagram=waits_for)
        placed, flow_facts = self._place(packet, ip, flow, service, slot, hash32, first=first, look_only=look_only)
        if placed.member == NO_MEMBER:
            return Action(Verdict.DROP, Reason.NO_MEMBER, service=service.index, slot=slot)
        member = self.tables.members[placed.member]

        routed = member.delivery.dsr_type is DsrType.L3 and member.delivery.ttl is TtlPolicy.ROUTER
        reason, reply = None, None
        if routed and ip.hop_limit <= 1:
            reason = Reason.TTL_EXPIRED
            reply = icmp.time_exceeded(frame, link.length, ip)
        elif ip.length > member.inner_mtu and _stays(ip, member):
            reason = Reason.TOO_BIG
            reply = icmp.too_big(frame, link.length, ip, member.inner_mtu) if ip.dont_fragment else None
        if reason is not None:
            return Action(
                Verdict.DROP, reason, service=service.index, member=member.index, slot=slot, by=placed.by, reply=reply
            )
        if placed.keep is not None and flow_facts is not None and self._pins is not None and not look_only:
            self._pins.keep(placed.keep, flow_facts, self._pins.now(), tell=placed.tell)
        opens = datagram if ip.part is Part.FIRST and not is_free else None
        if opens is not None and flow.ports is not None and self._fragments is not None and not look_only:
            self._fragments.keep(opens, Decided(flow.protocol, flow.ports, member.index))
        packet = decrement_hop_limit(packet, ip.version) if routed else packet
        pieces = [packet]
        if ip.length > member.inner_mtu and ip.version == 4:
            pieces = split(packet, member.inner_mtu)
        elif ip.length > member.inner_mtu:
            member = _unbound(member)
        frames = [
            _frame_to(member, piece, ip, hash32, ident + number * step & 0xFFFF) for number, piece in enumerate(pieces)
        ]
        return Action(
            Verdict.TRANSMIT,
            frame=frames[0],
            further=tuple(frames[1:]),
            ifindex=member.next_hop.ifindex,
            service=service.index,
            member=member.index,
            slot=slot,
            by=placed.by,
            datagram=opens,
            relayed=relay.kind_of_error(packet, ip) if ip.protocol == relay.ICMP[ip.version] else None,
        )

    def _first_of(self, datagram: Datagram | None) -> Decided | None:
        return None if self._fragments is None or datagram is None else self._fragments.find(datagram)

    def _needs_no_memory(self, service: TableService, slot: int) -> bool:
        """Whether every fragment, whatever it tells, has the member of that slot."""
        word = int(service.slots[slot])
        return word & 0xFFFF == word >> 16 and self._services[service.vip.packed, service.protocol].place_alike

    def _place(
        self,
        packet: bytes,
        ip: IpHeader,
        flow: Flow,
        service: TableService,
        slot: int,
        hash32: int,
        *,
        first: Decided | None,
        look_only: bool,
    ) -> tuple[Placed, FlowFacts | None]:
        """Where the packet goes, and what there is to be written down of its flow."""
        if first is not None:
            return Placed(first.member if first.member in self.tables.members else NO_MEMBER, By.FIRST), None
        if service.quic and ip.protocol == Protocol.UDP and ip.part is not Part.LATER:
            named = quic.member_of(_udp_payload(packet, ip), service.quic)
            if named is not None and named in self.tables.members:
                return Placed(named, By.CONNECTION_ID), None
        word, idle = int(service.slots[slot]), self._idle[service.index]
        rules = Slot(word & 0xFFFF, word >> 16, service.placement, idle)
        kind = _kind(packet, ip, flow)
        entry: Pin | None = None
        facts: FlowFacts | None = None
        if flow.ports is not None and self._pins is not None and rules.remembers:
            words = flow_words(flow.source, flow.destination, flow.ports, flow.protocol, HashMode.FIVE_TUPLE)
            hash64 = pin_hash(self._pin_keys, words)
            found = self._pins.find(hash64, self._pins.now())
            entry = found[1] if found is not None else None
            facts = FlowFacts(
                flow.source, flow.destination, flow.ports, flow.protocol, hash64, hash32, idle, kind is Kind.SYN
            )
        choose = partial(self._turns.take, service, peek=look_only)
        may_open = _always if self._pins is None else partial(self._pins.may_open, look_only=look_only)
        return place(kind, rules, entry, self.tables.members.__contains__, choose, may_open), facts

    def _service(self, flow: Flow) -> TableService | Reason:
        services = self._services.get((flow.destination, flow.protocol))
        if services is None:
            return Reason.NO_SERVICE
        if flow.ports is None:
            return services.without_port()
        return services.find(int.from_bytes(flow.ports[2:], "big")) or Reason.NO_SERVICE


def _udp_payload(packet: bytes, ip: IpHeader) -> bytes:
    """What a datagram carries, as far as this packet has it."""
    length = int.from_bytes(packet[ip.l4 + 4 : ip.l4 + 6], "big")
    return packet[ip.l4 + 8 : min(ip.l4 + length, ip.length)]


def _always() -> bool:
    return True


def _no_service(reason: Reason, waits_for: Datagram | None, reply: Reply | None = None) -> Action:
    """A packet without a service; a fragment of which that is not known yet may wait."""
    if reason is Reason.FRAGMENT and waits_for is not None:
        return Action(Verdict.HOLD, reason, datagram=waits_for)
    return Action(Verdict.DROP, reason, reply=reply)


def _opens(packet: bytes, ip: IpHeader) -> bool:
    """Whether a packet with a whole header counts as a new connection."""
    return ip.protocol == Protocol.TCP and opens_connection(packet[ip.l4 + 13])


def _kind(packet: bytes, ip: IpHeader, flow: Flow) -> Kind:
    if flow.ports is None:
        return Kind.PIECE
    if ip.protocol == relay.ICMP[ip.version]:
        return Kind.ERROR
    return tcp_kind(packet[ip.l4 + 13]) if ip.protocol == Protocol.TCP else Kind.UDP


def _flow(packet: bytes, ip: IpHeader) -> Flow | Reason:
    if ip.protocol == relay.ICMP[ip.version]:
        return relay.flow_of_error(packet, ip)
    if ip.part is Part.LATER and ip.version == 6 and is_extension(ip.protocol):
        return Reason.FRAGMENT
    if ip.protocol not in (Protocol.TCP, Protocol.UDP):
        return Reason.PROTOCOL
    if ip.part is Part.LATER:
        return Flow(ip.source, ip.destination, ip.protocol, None)
    ports = parse_ports(packet, ip)
    if isinstance(ports, Reason):
        return ports
    return Flow(ip.source, ip.destination, ip.protocol, packet[ip.l4 : ip.l4 + 4])


class _Ports:
    """The services of one VIP and protocol; the same answers as `ForwardingTables.find`."""

    def __init__(self) -> None:
        self.place_alike = False
        """Whether a steady slot of a packet's source address is all that it takes to know its member."""
        self._all: list[TableService] = []
        self._exact: dict[int, TableService] = {}
        self._ranges: list[tuple[int, int, int, TableService]] = []
        """(width, first, last, service), narrow ones first."""

    def add(self, service: TableService) -> None:
        self._all.append(service)
        by_hash = all(one.placement is Placement.HASH for one in self._all)
        self.place_alike = by_hash and isinstance(self.without_port(), TableService)
        for ports in service.ports:
            if ports.width == 1:
                self._exact.setdefault(ports.first, service)
            else:
                self._ranges.append((ports.width, ports.first, ports.last, service))
        self._ranges.sort(key=lambda entry: entry[0])

    def find(self, port: int) -> TableService | None:
        exact = self._exact.get(port)
        if exact is not None:
            return exact
        return next((service for _, first, last, service in self._ranges if first <= port <= last), None)

    def without_port(self) -> TableService | Reason:
        """The service that a packet belongs to as far as its member is concerned, whatever its ports."""
        first = self._all[0]
        if all(
            other.hash_mode is HashMode.SOURCE_IP and other.slots is first.slots and not other.quic
            for other in self._all
        ):
            return first
        return Reason.FRAGMENT


def _stays(ip: IpHeader, member: TableMember) -> bool:
    """Whether a packet that is too big for the way to the member gets no further."""
    if ip.version == 6:
        return ip.length > member.inner_mtu6
    return ip.dont_fragment or member.inner_mtu < SMALLEST


def _unbound(member: TableMember) -> TableMember:
    """The member, for a packet that routers on the way to it may fragment."""
    return replace(member, delivery=replace(member.delivery, outer_df=DfPolicy.CLEAR))


def _frame_to(member: TableMember, packet: bytes, ip: IpHeader, hash32: int, ident: int) -> bytes:
    if member.delivery.encapsulation is None:
        return ethernet(member.next_hop, ip.version, packet)
    outer = encapsulate(member.delivery.encapsulation, packet, ip, member, hash32, ident)
    return ethernet(member.next_hop, member.address.version, outer)

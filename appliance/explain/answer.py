"""The answer to "what becomes of this packet, and why", as a document: for people, scripts and the control socket."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from appliance.decide import Desired, MemberView, ServiceView
from appliance.explain.headers import headers
from appliance.explain.question import IP_HEADER, L4_HEADER
from appliance.forwarding import NO_MEMBER, Placement, TableMember, TableService
from appliance.model import DsrType, HashMode, Protocol
from appliance.packet.action import Action, By, Reason, Verdict
from appliance.packet.headers import Part, parse_ethernet, parse_ip, parse_ports
from appliance.packet.placement import TICK_S, Pins, idle_ticks, is_live
from appliance.ring.hash import derive_keys, derive_pin_keys, flow_words, hash_words, pin_hash, slot_of
from appliance.ring.slots import RingMember, build_slots

Document = dict[str, object]


@dataclass(frozen=True)
class Judged:
    """A frame, and what is said of it."""

    frame: bytes
    action: Action
    """Of the plane; of the model where no plane was asked."""
    differences: Sequence[str] = ()
    """Between plane and model: there must be none."""
    compared: bool = True
    """False where only the plane can know: a later fragment follows what was decided on the first."""


@dataclass(frozen=True)
class _Packet:
    """What of a frame says whose it is."""

    source: bytes
    destination: bytes
    protocol: int
    ports: bytes | None
    length: int
    dont_fragment: bool
    version: int


class Answers:
    """Answers about packets, by one decision. Keep it for many questions: what is costly is found once."""

    def __init__(self, desired: Desired, pins: Pins | None = None) -> None:
        """
        Args:
            desired: the decision in force.
            pins: what is remembered of flows.
        """
        self.desired = desired
        self._pins = pins
        self._keys = derive_keys(desired.tables.secret)
        self._pin_keys = derive_pin_keys(desired.tables.secret)
        self._views = {view.service.name: view for view in desired.services}
        self._base: dict[tuple[tuple[str, int, int], ...], Sequence[int]] = {}

    def document(self, judged: Judged, *, fragments_wait: bool | None = None) -> Document:
        """All that there is to say of a packet.

        Args:
            judged: the frame, and what is said of it.
            fragments_wait: whether later fragments of the flow's packets have to follow their first one; None where
                that was not asked.
        """
        action, tables = judged.action, self.desired.tables
        packet = _read(judged.frame)
        service = self._service(packet, action)
        view = self._views.get(service.name) if service is not None else None
        member = tables.members.get(action.member) if action.member is not None else None
        found: Document = {
            "packet": headers(judged.frame),
            "flow": _flow(packet),
            "forwarded": action.verdict is Verdict.TRANSMIT,
            "verdict": str(action.verdict),
            "reason": None if action.reason is None else str(action.reason),
            "why": None if action.verdict is Verdict.TRANSMIT else self._why_not(packet, action, view, member),
            "answer": None if action.reply is None else action.reply.kind,
            "by": None if action.by is None else str(action.by),
        }
        found |= self._place(packet, service, view)
        found["member"] = None if member is None else _member(member)
        found["others"] = self._others(view, service, packet, action, member) if view is not None else []
        found["out"] = [headers(frame) for frame in (action.frame, *action.further) if frame]
        if member is not None and packet is not None:
            found["mtu"] = _mtu(packet, member, action)
        if fragments_wait is not None:
            found["fragments"] = "by_first" if fragments_wait else "by_slot"
        found |= self._announced(packet)
        found["compared"], found["differences"] = judged.compared, list(judged.differences)
        return found

    def _service(self, packet: _Packet | None, action: Action) -> TableService | None:
        if action.service is not None:
            return self.desired.tables.services[action.service]
        if packet is None or packet.ports is None:
            return None
        port = int.from_bytes(packet.ports[2:], "big")
        return self.desired.tables.find(ip_address(packet.destination), packet.protocol, port)

    def _place(self, packet: _Packet | None, service: TableService | None, view: ServiceView | None) -> Document:
        """Slot, its owners, and what is remembered of the flow."""
        if service is None or view is None:
            return {"virtual_service": None}
        found: Document = {
            "virtual_service": service.name,
            "vip": str(service.vip),
            "protocol": str(service.protocol),
            "ports": [str(ports) for ports in service.ports],
            "placement": str(service.placement),
            "pool": view.service.pool.name,
            "hash_mode": str(service.hash_mode),
        }
        if packet is None or packet.protocol != service.protocol:
            return found
        if packet.ports is None and service.hash_mode is not HashMode.SOURCE_IP:
            return found
        ports = packet.ports or bytes(4)
        words = flow_words(packet.source, packet.destination, ports, packet.protocol, service.hash_mode)
        hash32 = hash_words(self._keys, words)
        slot = slot_of(hash32, len(service.slots))
        primary, previous = int(service.slots[slot]) & 0xFFFF, int(service.slots[slot]) >> 16
        names = self.desired.tables.members
        phase = "steady" if primary == previous else "tail" if previous == NO_MEMBER else "window"
        return found | {
            "hash": hash32,
            "slot": slot,
            "slots": len(service.slots),
            "primary": None if primary == NO_MEMBER else names[primary].id,
            "previous": None if previous == NO_MEMBER else names[previous].id,
            "phase": phase,
            "window_ends": view.course.next_at if view.course is not None and phase == "window" else None,
            "base_owner": self._base_owner(view, slot),
            "pin": self._pin(packet, service, remembers=phase != "steady") if packet.ports is not None else None,
        }

    def _pin(self, packet: _Packet, service: TableService, *, remembers: bool) -> Document | None:
        """What is remembered of the flow, whether it counts or not."""
        if self._pins is None or packet.ports is None:
            return None
        words = flow_words(packet.source, packet.destination, packet.ports, packet.protocol, HashMode.FIVE_TUPLE)
        found = self._pins.find(pin_hash(self._pin_keys, words), self._pins.now())
        if found is None:
            return None
        _, pin = found
        member = self.desired.tables.members.get(pin.member)
        asked = service.placement is Placement.PER_FLOW or (service.placement is Placement.HASH and remembers)
        return {
            "member": None if member is None else member.id,
            "state": pin.state.name.lower(),
            "idle_s": round(pin.age * TICK_S, 1),
            "counts": asked and member is not None and is_live(pin, idle_ticks(service.idle_timeout_s)),
        }

    def _base_owner(self, view: ServiceView, slot: int) -> str | None:
        """`pool/member` that owns the slot while all configured members are eligible."""
        key = tuple((member.name, member.ratio, member.index) for member in view.members)
        if key not in self._base:
            ring = tuple(RingMember(*one, eligible=True) for one in key)
            self._base[key] = (build_slots(ring) & 0xFFFF).tolist() if ring else []
        owners = self._base[key]
        return next((member.id for member in view.members if owners and member.index == owners[slot]), None)

    def _others(
        self,
        view: ServiceView,
        service: TableService | None,
        packet: _Packet | None,
        action: Action,
        member: TableMember | None,
    ) -> list[Document]:
        """Every member that was not chosen, and why not."""
        word = None
        if service is not None and action.slot is not None and packet is not None:
            word = int(service.slots[action.slot])
        return [
            {"member": one.id, "state": str(one.state), "why": _why_another(one, action, member, word)}
            for one in view.members
            if member is None or one.id != member.id
        ]

    def _announced(self, packet: _Packet | None) -> Document:
        vip = next((v for v in self.desired.vips if packet is not None and v.vip.packed == packet.destination), None)
        if vip is None:
            return {"announced": False, "not_announced": None}
        return {"announced": vip.no is None, "not_announced": None if vip.no is None else str(vip.no)}

    def _why_not(
        self, packet: _Packet | None, action: Action, view: ServiceView | None, member: TableMember | None
    ) -> str:
        reason = action.reason
        if reason is Reason.NO_MEMBER and view is not None:
            return "; ".join(f"{one.id} {one.no}" for one in view.members if one.no) or "no member has this slot"
        if reason is Reason.TOO_BIG and member is not None:
            return f"at most {member.inner_mtu} bytes fit on the way to {member.id}"
        if packet is not None and reason in (Reason.NOT_VIP, Reason.NO_SERVICE):
            return self._why_no_service(packet, reason)
        return _REASONS.get(reason, "no packet like this is forwarded") if reason is not None else ""

    def _why_no_service(self, packet: _Packet, reason: Reason) -> str:
        destination = ip_address(packet.destination)
        services = [view.service for view in self.desired.services]
        on_vip = [service for service in services if destination in service.vips]
        port = int.from_bytes(packet.ports[2:], "big") if packet.ports is not None else None
        disabled = [
            service.name
            for service in on_vip
            if not service.enabled
            and service.protocol == packet.protocol
            and any(port in ports for ports in service.ports if port is not None)
        ]
        if disabled:
            return f"virtual service {', '.join(disabled)} is not enabled"
        if reason is Reason.NOT_VIP:
            vips = dict.fromkeys(str(vip) for service in services if service.enabled for vip in service.vips)
            return f"{destination} is not a VIP; VIPs are {', '.join(vips) or 'none'}"
        there = [f"{s.name} {s.protocol} {','.join(map(str, s.ports))}" for s in on_vip if s.enabled]
        asked = f"{_protocol(packet.protocol)} port {port}" if port is not None else "such a packet"
        return f"no virtual service has {asked} of this VIP; there are: {'; '.join(there)}"


_REASONS = {
    Reason.NOT_IP: "it is neither IPv4 nor IPv6",
    Reason.MALFORMED: "its headers contradict themselves or its length",
    Reason.TTL_EXPIRED: "its TTL or hop limit ends here",
    Reason.FRAGMENT: "nobody knows the first fragment of its datagram",
    Reason.PROTOCOL: "it is neither TCP nor UDP, nor an ICMP error about a flow",
    Reason.LOOP: "a member, or this director, has sent it: it would go in circles",
    Reason.OVERSIZED_FRAME: "it is larger than the link that it came by carries",
    Reason.ECHO: "it is a ping of the VIP, which the director answers itself",
    Reason.MARTIAN: "it comes from an address that nobody can have",
    Reason.DENIED: "the virtual service denies its source (protection.deny)",
    Reason.SOURCE_RATE: "its source opens more connections than protection.per_source lets it",
    Reason.VIP_RATE: "more connections are opened than protection.per_vip lets in",
    Reason.SERVICE_RATE: "more connections are opened than protection.per_service lets in",
    Reason.SPOOFED: "it is an error about a packet that the VIP has not sent",
    Reason.UNSUPPORTED_HEADER: "it has IPv6 extension headers that nobody sends to a virtual service",
}


def _why_another(one: MemberView, action: Action, member: TableMember | None, word: int | None) -> str:
    """Why a member was not chosen."""
    if one.no is not None:
        return str(one.no)
    if member is None:
        return "nobody was chosen"
    match action.by:
        case By.SLOT if word is not None and word >> 16 == one.index and word & 0xFFFF != one.index:
            return f"had the slot before the change, and nothing shows that this flow is from then; {member.id} has it"
        case By.SLOT:
            return f"the slot is {member.id}'s"
        case By.PREVIOUS if word is not None and word & 0xFFFF == one.index:
            return f"has the slot since the change, but {member.id} keeps flows from before, and this may be one"
        case By.PREVIOUS:
            return f"the slot is neither its own nor was it before; {member.id} keeps flows from before the change"
        case By.PIN:
            return f"the flow is remembered at {member.id}"
        case By.CHOICE:
            return f"it is the turn of {member.id}"
        case By.CONNECTION_ID:
            return f"the connection ID names {member.id}"
        case By.FIRST:
            return f"the first fragment of the datagram went to {member.id}"
        case None:
            return ""


def _read(frame: bytes) -> _Packet | None:
    link = parse_ethernet(frame)
    if isinstance(link, Reason):
        return None
    packet = frame[link.length :]
    ip = parse_ip(packet, link.version)
    if isinstance(ip, Reason):
        return None
    ports: bytes | None = None
    if ip.protocol in (Protocol.TCP, Protocol.UDP) and ip.part is not Part.LATER:
        known = parse_ports(packet, ip)
        ports = None if isinstance(known, Reason) else packet[ip.l4 : ip.l4 + 4]
    return _Packet(ip.source, ip.destination, ip.protocol, ports, ip.length, ip.dont_fragment, ip.version)


def _flow(packet: _Packet | None) -> Document | None:
    if packet is None:
        return None
    return {
        "source": str(ip_address(packet.source)),
        "source_port": int.from_bytes(packet.ports[:2], "big") if packet.ports is not None else None,
        "destination": str(ip_address(packet.destination)),
        "destination_port": int.from_bytes(packet.ports[2:], "big") if packet.ports is not None else None,
        "protocol": _protocol(packet.protocol),
    }


def _protocol(number: int) -> str:
    return str(Protocol(number)) if number in (Protocol.TCP, Protocol.UDP) else f"protocol {number}"


def _member(member: TableMember) -> Document:
    delivery, version = member.delivery, member.address.version
    return {
        "id": member.id,
        "address": str(member.address),
        "dsr_type": str(delivery.dsr_type),
        "encapsulation": str(delivery.encapsulation) if delivery.encapsulation else None,
        "router": delivery.dsr_type is DsrType.L3 and delivery.ttl == "router",
        "overhead": delivery.overhead(version),
        "interface": member.next_hop.interface,
        "link_mtu": member.next_hop.mtu,
        "path_mtu": member.path_mtu,
        "largest_packet": member.inner_mtu,
    }


def _mtu(packet: _Packet, member: TableMember, action: Action) -> Document:
    """Whether the packet fits, and what happens where it does not."""
    room = member.inner_mtu - IP_HEADER[packet.version] - L4_HEADER.get(_known(packet.protocol), 0)
    if packet.length <= member.inner_mtu:
        verdict = "fits"
    elif action.verdict is Verdict.TRANSMIT and action.further:
        verdict = f"goes in {1 + len(action.further)} fragments"
    elif action.verdict is Verdict.TRANSMIT:
        verdict = "goes without DF, so that routers may fragment it"
    elif action.reply is not None:
        verdict = f"too big: {ip_address(packet.source)} is told to send at most {member.inner_mtu} bytes"
    else:
        verdict = "too big"
    return {"length": packet.length, "largest": member.inner_mtu, "room": room, "verdict": verdict}


def _known(protocol: int) -> Protocol:
    return Protocol.TCP if protocol == Protocol.TCP else Protocol.UDP

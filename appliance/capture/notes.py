"""What is said of a captured frame: whose it was, which member took it, and why it went nowhere."""

from dataclasses import dataclass, replace

import numpy as np

from appliance.capture.pcap import Direction, Packet
from appliance.dataplane.recording import Captured, Sent
from appliance.forwarding import NO_MEMBER, ForwardingTables, TableMember, TableService
from appliance.model import Protocol
from appliance.packet.action import Reason, Verdict
from appliance.packet.encap import TUNNELS
from appliance.packet.headers import Part, parse_ethernet, parse_ip, parse_ports
from appliance.ring.hash import derive_keys, flow_words, hash_words, slot_of


class Notes:
    """Completes what planes say of frames, from the tables that they follow: those that work on whole batches keep no
    notes of single frames, but the frame that left shows its member."""

    def __init__(self, tables: ForwardingTables) -> None:
        self.tables = tables
        self._keys = derive_keys(tables.secret)
        self._services: dict[tuple[bytes, int], list[TableService]] = {}
        for service in tables.services:
            self._services.setdefault((service.vip.packed, service.protocol), []).append(service)
        self._members: dict[int, frozenset[int]] = {}
        self._reached: dict[tuple[object, ...], list[TableMember]] = {}
        for member in tables.members.values():
            self._reached.setdefault(_way(member), []).append(member)

    def completed(self, captured: Captured) -> Captured:
        """With service, member and slot, as far as the bytes show them."""
        if captured.service and (captured.member or captured.verdict is not Verdict.TRANSMIT):
            return captured
        link = parse_ethernet(captured.frame)
        if isinstance(link, Reason):
            return captured
        packet = captured.frame[link.length :]
        packet += bytes(max(0, captured.length - len(captured.frame)))  # lengths are checked against it
        ip = parse_ip(packet, link.version)
        if isinstance(ip, Reason) or ip.protocol not in (Protocol.TCP, Protocol.UDP) or ip.part is Part.LATER:
            return captured
        ports = parse_ports(packet, ip)
        if isinstance(ports, Reason):
            return captured
        service = self._service(ip.destination, ip.protocol, ports[1])
        if service is None:
            return captured
        four = packet[ip.l4 : ip.l4 + 4]
        words = flow_words(ip.source, ip.destination, four, ip.protocol, service.hash_mode)
        slot = slot_of(hash_words(self._keys, words), len(service.slots))
        member = self._member(service, captured.sent[0]) if captured.sent and not captured.sent[0].kind else ""
        return replace(captured, service=service.name, slot=slot, member=captured.member or member)

    def _service(self, vip: bytes, protocol: int, port: int) -> TableService | None:
        """As `ForwardingTables.find`: an exact port beats a range, a range beats the wildcard."""
        found = [
            (ports.width, number, service)
            for number, service in enumerate(self._services.get((vip, protocol), ()))
            for ports in service.ports
            if port in ports
        ]
        return min(found)[2] if found else None

    def _member(self, service: TableService, sent: Sent) -> str:
        """The member that a frame was sent to. The same machine may be in several pools."""
        found = self._reached.get(_way_of(sent.frame, service.vip.packed), [])
        own = [member for member in found if member.index in self._members_of(service)]
        return (own or found)[0].id if found else ""

    def _members_of(self, service: TableService) -> frozenset[int]:
        if service.index not in self._members:
            halves = np.ascontiguousarray(service.slots, np.uint32).view(np.uint16)
            indices = {*np.unique(halves).tolist(), *np.unique(service.choices).tolist()}
            self._members[service.index] = frozenset(indices - {NO_MEMBER})
        return self._members[service.index]


def _way(member: TableMember) -> tuple[object, ...]:
    """What of a frame shows that it goes to a member."""
    if member.delivery.encapsulation is None:
        return (member.next_hop.mac,)
    return member.delivery.encapsulation, member.address.packed


_PROTOCOLS = {
    protocol: encapsulation for encapsulation, tunnel in TUNNELS.items() for protocol in tunnel.protocols.values()
}


def _way_of(frame: bytes, vip: bytes) -> tuple[object, ...]:
    link = parse_ethernet(frame)
    if isinstance(link, Reason):
        return ()
    packet = frame[link.length :]
    protocol, destination = (packet[9], packet[16:20]) if link.version == 4 else (packet[6], packet[24:40])
    # No member has the VIP for its own address, so what goes there is in no tunnel, whatever its protocol and port.
    return (frame[:6],) if destination == vip else (_PROTOCOLS.get(protocol), destination)


@dataclass(frozen=True)
class Choice:
    """Which captured frames are wanted, by what became of them. Empty: whatever."""

    service: str = ""
    member: str = ""
    """`pool/member`."""
    verdict: str = ""
    """`transmit`, `drop`, or a reason."""

    def takes(self, captured: Captured) -> bool:
        return (
            self.service in ("", captured.service)
            and self.member in ("", captured.member)
            and self.verdict in ("", str(captured.verdict), captured.reason)
        )


def packets(captured: Captured, ahead_ns: int, side: str = "both") -> list[Packet]:
    """A frame as packets of a file: as it arrived, and as it left, each with a comment.

    Args:
        captured: completed.
        ahead_ns: what the time since 1970 is ahead of the monotonic clock.
        side: `in`, `out` or `both`. Of a frame that did not leave there is what arrived only.
    """
    at_ns = captured.at_ns + ahead_ns
    found = []
    if side != "out":
        found.append(
            Packet(
                captured.frame,
                captured.length,
                at_ns,
                interface=captured.interface,
                direction=Direction.IN,
                comment=comment(captured),
            )
        )
    if side != "in":
        for number, sent in enumerate(captured.sent, 1):
            found.append(
                Packet(
                    sent.frame,
                    sent.length,
                    at_ns,
                    interface=sent.interface or captured.interface,
                    direction=Direction.OUT,
                    comment=_comment_out(captured, sent, number),
                )
            )
    return found


def comment(captured: Captured) -> str:
    """`transmit service=web member=web/web1 slot=4711 by=slot`, or `drop reason=no_service`."""
    return " ".join([str(captured.verdict), *(f"{name}={value}" for name, value in facts(captured))])


def facts(captured: Captured) -> list[tuple[str, str]]:
    """What is known, by name."""
    all_facts = (
        ("reason", captured.reason),
        ("service", captured.service),
        ("member", captured.member),
        ("slot", "" if captured.slot is None else str(captured.slot)),
        ("by", captured.by),
    )
    return [(name, value) for name, value in all_facts if value]


def _comment_out(captured: Captured, sent: Sent, number: int) -> str:
    if sent.kind:
        return f"answer kind={sent.kind}"
    to_members = sum(not one.kind for one in captured.sent)
    piece = f" piece={number}/{to_members}" if to_members > 1 else ""
    return f"sent service={captured.service} member={captured.member}{piece}"

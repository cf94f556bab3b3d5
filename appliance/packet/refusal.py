"""No to a packet for a port of a VIP that no virtual service has, where that is wished (packets.md, P10): what a host
says on whose port nobody listens."""

import struct

from appliance.model import Protocol
from appliance.packet import icmp
from appliance.packet.action import Reply
from appliance.packet.checksum import checksum
from appliance.packet.headers import IpHeader, Part

_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_HEADER = 20
"""Bytes of the answer's TCP header, and of an IPv4 header."""

_HOP_LIMIT = 64
_DONT_FRAGMENT = 0x4000


def refusal(frame: bytes, offset: int, ip: IpHeader) -> Reply | None:
    """A TCP reset (RFC 9293, 3.10.7.1), or "port unreachable" for UDP (RFC 1122, 3.2.2.1; RFC 4443, 3.1).

    Args:
        frame: as it arrived; its TCP or UDP header is known to be whole.
        offset: where its IP header begins.
        ip: that header.

    Returns:
        None where there is no answer: to fragments, to what is damaged or neither TCP nor UDP, to resets, and to whom
        gets none.
    """
    packet = frame[offset : offset + ip.length]
    if ip.part is not Part.WHOLE or not _is_sound(packet, ip):
        return None
    if ip.protocol == Protocol.UDP:
        return icmp.port_unreachable(frame, offset, ip)
    if packet[ip.l4 + 13] & _RST or not icmp.may_answer(frame, packet, ip):
        return None
    return Reply(icmp.back(frame, offset) + _reset(packet, ip), "tcp_reset", ip.destination)


def _is_sound(packet: bytes, ip: IpHeader) -> bool:
    """Whether the L4 checksum is right. UDP may do without."""
    if ip.protocol == Protocol.UDP:
        length, check = struct.unpack_from("!HH", packet, ip.l4 + 4)
        return not check or _sum(ip.source, ip.destination, packet[ip.l4 : ip.l4 + length], Protocol.UDP) == 0
    return ip.protocol == Protocol.TCP and _sum(ip.source, ip.destination, packet[ip.l4 :], Protocol.TCP) == 0


def _reset(packet: bytes, ip: IpHeader) -> bytes:
    source, destination, number, acknowledged, size, flags = struct.unpack_from("!HHIIBB", packet, ip.l4)
    if flags & _ACK:
        answer = (acknowledged, 0, 0x50, _RST)
    else:
        length = ip.length - ip.l4 - (size >> 4) * 4 + bool(flags & _SYN) + bool(flags & _FIN)
        answer = (0, number + length & 0xFFFFFFFF, 0x50, _RST | _ACK)
    segment = struct.pack("!HHIIBBHHH", destination, source, *answer, 0, 0, 0)
    check = _sum(ip.destination, ip.source, segment, Protocol.TCP)
    segment = segment[:16] + check.to_bytes(2, "big") + segment[18:]
    addresses, service = ip.destination + ip.source, ip.traffic_class & ~3  # DSCP; ECN is for data
    if ip.version == 6:
        return (
            struct.pack("!IHBB", 6 << 28 | service << 20, len(segment), Protocol.TCP, _HOP_LIMIT) + addresses + segment
        )
    head = struct.pack("!BBHHHBB", 0x45, service, _HEADER + len(segment), 0, _DONT_FRAGMENT, _HOP_LIMIT, Protocol.TCP)
    return head + checksum(head + addresses).to_bytes(2, "big") + addresses + segment


def _sum(source: bytes, destination: bytes, segment: bytes, protocol: int) -> int:
    return checksum(source + destination + struct.pack("!II", len(segment), protocol) + segment)

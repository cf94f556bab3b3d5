"""ICMP errors from the world about flows to a VIP: which flow they are about (packets.md, I1 to I4 and I6).

A router that cannot pass on what a member sent as the VIP tells the VIP so. The director receives that, but only the
member's stack can act on it: without "packet too big", path MTU discovery fails and downloads hang (RFC 7690).
"""

import struct

from appliance.model import Protocol
from appliance.packet.action import Reason
from appliance.packet.checksum import checksum
from appliance.packet.headers import Flow, IpHeader, Part, walk_extensions

ICMP = {4: 1, 6: 58}
"""Protocol number by IP version."""

_NAMES = {
    4: {3: "unreachable", 11: "time_exceeded", 12: "parameter_problem"},
    6: {1: "unreachable", 2: "too_big", 3: "time_exceeded", 4: "parameter_problem"},
}
"""Types that are relayed, by IP version. Not source quench, which RFC 6633 has abolished, nor redirect, which is for
the hosts of a segment."""

_FRAGMENTATION_NEEDED = b"\3\4"
"""Type and code of IPv4's "too big"."""

_HEADER = 8
"""Bytes of an ICMP error before the quote, of either version."""

_PORTS = 4
_FRAGMENT_OFFSET = 0x1FFF


def flow_of_error(packet: bytes, ip: IpHeader) -> Flow | Reason:
    """The flow that an ICMP error is about, as the client's own packets have it: the quoted one, turned round.

    The quote was a packet of a member's, from the VIP to the client. Its header is not held to its own lengths and
    checksum: it ends where the router cut it, and some routers change it before they quote.

    Args:
        packet: the IP packet, without padding.
        ip: its header; the protocol is ICMP of that IP version.

    Returns:
        The flow, whose destination is that of the packet; or why there is none: FRAGMENT (of the error or of what it
        quotes), PROTOCOL (no error, or about neither TCP nor UDP), MALFORMED, SPOOFED, UNSUPPORTED_HEADER.
    """
    if ip.part is not Part.WHOLE:
        return Reason.FRAGMENT
    message = packet[ip.l4 :]
    if len(message) < _HEADER:
        return Reason.MALFORMED
    if message[0] not in _NAMES[ip.version]:
        return Reason.PROTOCOL
    pseudo_header = b""
    if ip.version == 6:
        pseudo_header = ip.source + ip.destination + struct.pack("!II", len(message), ICMP[6])
    if checksum(pseudo_header + message) != 0:
        return Reason.MALFORMED
    read = _quoted_ipv4 if ip.version == 4 else _quoted_ipv6
    return read(message[_HEADER:], ip.destination)


def kind_of_error(packet: bytes, ip: IpHeader) -> str:
    """What an ICMP error says, that `flow_of_error` has found a flow for: a name for counters and limits."""
    if ip.version == 4 and packet[ip.l4 : ip.l4 + 2] == _FRAGMENTATION_NEEDED:
        return "too_big"
    return _NAMES[ip.version][packet[ip.l4]]


def _quoted_ipv4(quote: bytes, vip: bytes) -> Flow | Reason:
    header_length = (quote[0] & 15) * 4 if quote else 0
    if header_length < 20 or quote[0] >> 4 != 4 or header_length > len(quote):
        return Reason.MALFORMED
    if quote[12:16] != vip:
        return Reason.SPOOFED
    if int.from_bytes(quote[6:8], "big") & _FRAGMENT_OFFSET:
        return Reason.FRAGMENT
    return _reversed(quote[16:20], vip, quote[9], quote[header_length:])


def _quoted_ipv6(quote: bytes, vip: bytes) -> Flow | Reason:
    if len(quote) < 40 or quote[0] >> 4 != 6:
        return Reason.MALFORMED
    if quote[8:24] != vip:
        return Reason.SPOOFED
    chain = walk_extensions(quote, quote[6])
    if isinstance(chain, Reason):
        return chain
    if chain.part is Part.LATER:
        return Reason.FRAGMENT
    return _reversed(quote[24:40], vip, chain.protocol, quote[chain.l4 :])


def _reversed(client: bytes, vip: bytes, protocol: int, l4: bytes) -> Flow | Reason:
    if protocol not in (Protocol.TCP, Protocol.UDP):
        return Reason.PROTOCOL
    if len(l4) < _PORTS:
        return Reason.MALFORMED
    return Flow(source=client, destination=vip, protocol=protocol, ports=l4[2:4] + l4[:2])

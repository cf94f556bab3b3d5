"""Reading headers: Ethernet, IPv4, IPv6, TCP and UDP, as far as a director needs them. What is wrong is a Reason."""

import struct
from dataclasses import dataclass
from enum import Enum

from appliance.model import Protocol
from appliance.packet.action import Reason
from appliance.packet.checksum import checksum

ETHERNET = 14
"""Bytes of an untagged Ethernet header."""

ETH_IPV4 = 0x0800
ETH_IPV6 = 0x86DD
_TAGS = frozenset({0x8100, 0x88A8})
"""IEEE 802.1Q and 802.1ad. A priority tag is the former with VLAN 0."""

MAX_TAGS = 2
MAX_EXTENSIONS = 8
"""IPv6 extension headers that are walked (P6)."""

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION_OPTIONS = 0, 43, 44, 51, 60
_WALKED = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION_OPTIONS})
_OTHER_EXTENSIONS = frozenset({135, 139, 140, 253, 254})
"""Mobility, HIP, Shim6, experiments: extension headers (RFC 7045) that nobody sends to a virtual service."""

_MORE_FRAGMENTS, _DONT_FRAGMENT, _OFFSET = 0x2000, 0x4000, 0x1FFF


class Part(Enum):
    """What of a packet a packet is."""

    WHOLE = "whole"
    """No fragment, or an IPv6 atomic fragment (RFC 6946; F6)."""
    FIRST = "first"
    LATER = "later"
    """No ports in here."""


@dataclass(frozen=True, slots=True)
class Ethernet:
    """An Ethernet header with up to two VLAN tags, in front of an IP packet."""

    length: int
    """Bytes, tags included: where the IP header begins."""

    version: int
    """4 or 6, what the type field says."""


@dataclass(frozen=True, slots=True)
class IpHeader:
    """What matters of an IP header and what follows it."""

    version: int
    length: int
    """Of the whole IP packet, as its header says. What the frame has beyond is padding (P1)."""

    source: bytes
    destination: bytes
    traffic_class: int
    """DSCP and ECN: type of service in IPv4."""

    hop_limit: int
    """Time to live in IPv4."""

    dont_fragment: bool
    """Always true in IPv6."""

    part: Part
    protocol: int
    """What comes after all headers of the network layer. In a later fragment an extension header may hide it."""

    l4: int
    """Where the L4 header begins, from the IP header's first byte."""

    ident: int = 0
    """Identification that all fragments of a datagram share; 0 in an IPv6 packet without a fragment header."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What chooses service and slot. Of a client's packet itself, or of the flow that an ICMP error is about."""

    source: bytes
    destination: bytes
    protocol: int
    """TCP or UDP."""

    ports: bytes | None
    """Source and destination port, 4 bytes as in the L4 header; None in a later fragment."""


def parse_ethernet(frame: bytes) -> Ethernet | Reason:
    """The header of a frame that carries IP; NOT_IP otherwise, which three tags or a frame without a type also are."""
    offset = ETHERNET - 2
    for _ in range(MAX_TAGS + 1):
        ethertype = int.from_bytes(frame[offset : offset + 2], "big")
        if ethertype not in _TAGS:
            break
        offset += 4
    if len(frame) < offset + 2:
        return Reason.NOT_IP
    if ethertype == ETH_IPV4:
        return Ethernet(offset + 2, 4)
    if ethertype == ETH_IPV6:
        return Ethernet(offset + 2, 6)
    return Reason.NOT_IP


def destination(packet: bytes, version: int) -> bytes:
    """The destination address as it stands, before anything is checked; shorter than an address when cut off."""
    return packet[16:20] if version == 4 else packet[24:40]


def parse_ip(packet: bytes, version: int) -> IpHeader | Reason:
    """Check and read an IP header, and walk to the L4 header (P2, P3, P4, P6).

    Args:
        packet: from the IP header to the end of the frame; padding may follow the packet.
        version: what the Ethernet type says the packet is.
    """
    return _parse_ipv4(packet) if version == 4 else _parse_ipv6(packet)


def parse_ports(packet: bytes, ip: IpHeader) -> tuple[int, int] | Reason:
    """Check the TCP or UDP header of a whole packet or a first fragment, and read source and destination port (P7, F5).

    Args:
        packet: the IP packet, without padding.
        ip: its header; the protocol is TCP or UDP and the part is not LATER.
    """
    available = ip.length - ip.l4
    cut = Reason.FRAGMENT if ip.part is Part.FIRST else Reason.MALFORMED
    if available < (20 if ip.protocol == Protocol.TCP else 8):
        return cut
    source_port, destination_port, udp_length = struct.unpack_from("!HHH", packet, ip.l4)
    if ip.protocol == Protocol.TCP:
        header_length = (packet[ip.l4 + 12] >> 4) * 4
        if header_length < 20:
            return Reason.MALFORMED
        if header_length > available:
            return cut
    elif udp_length < 8 or (ip.part is Part.WHOLE and udp_length > available):
        return Reason.MALFORMED
    return source_port, destination_port


def _parse_ipv4(packet: bytes) -> IpHeader | Reason:
    if len(packet) < 20:
        return Reason.MALFORMED
    version_ihl, tos, length, ident, flags, ttl, protocol = struct.unpack_from("!BBHHHBB", packet)
    header_length = (version_ihl & 15) * 4
    if version_ihl >> 4 != 4 or header_length < 20 or not header_length <= length <= len(packet):
        return Reason.MALFORMED
    if checksum(packet[:header_length]) != 0:
        return Reason.MALFORMED
    first_or_whole = Part.FIRST if flags & _MORE_FRAGMENTS else Part.WHOLE
    return IpHeader(
        version=4,
        length=length,
        source=packet[12:16],
        destination=packet[16:20],
        traffic_class=tos,
        hop_limit=ttl,
        dont_fragment=bool(flags & _DONT_FRAGMENT),
        part=Part.LATER if flags & _OFFSET else first_or_whole,
        protocol=protocol,
        l4=header_length,
        ident=ident,
    )


def _parse_ipv6(packet: bytes) -> IpHeader | Reason:
    if len(packet) < 40:
        return Reason.MALFORMED
    first_word, payload_length, next_header, hop_limit = struct.unpack_from("!IHBB", packet)
    length = 40 + payload_length
    if first_word >> 28 != 6 or length > len(packet):
        return Reason.MALFORMED
    chain = walk_extensions(packet[:length], next_header)
    if isinstance(chain, Reason):
        return chain
    return IpHeader(
        version=6,
        length=length,
        source=packet[8:24],
        destination=packet[24:40],
        traffic_class=first_word >> 20 & 0xFF,
        hop_limit=hop_limit,
        dont_fragment=True,
        part=chain.part,
        protocol=chain.protocol,
        l4=chain.l4,
        ident=chain.ident,
    )


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a chain of IPv6 extension headers leads; fields as in `IpHeader`."""

    part: Part
    protocol: int
    l4: int
    ident: int = 0


def walk_extensions(packet: bytes, header: int) -> Chain | Reason:
    """From the IPv6 header over its extension headers to what they carry (RFC 8200, section 4).

    Args:
        packet: from the IPv6 header on, as far as it goes.
        header: next header of the IPv6 header.
    """
    part = Part.WHOLE
    fragmented = False
    ident = 0
    offset = 40
    walked = 0
    while header in _WALKED:
        if walked == MAX_EXTENSIONS:
            return Reason.UNSUPPORTED_HEADER
        if offset + 8 > len(packet):
            return Reason.FRAGMENT if part is Part.FIRST else Reason.MALFORMED
        if header == _HOP_BY_HOP and walked:
            return Reason.UNSUPPORTED_HEADER  # only allowed right after the IPv6 header
        size = (packet[offset + 1] + 1) * 8
        if header == _ROUTING and packet[offset + 2] == 0:
            return Reason.UNSUPPORTED_HEADER  # type 0, deprecated by RFC 5095
        if header == _AUTHENTICATION:
            size = (packet[offset + 1] + 2) * 4
        if header == _FRAGMENT:
            if fragmented:
                return Reason.UNSUPPORTED_HEADER
            fragmented = True
            size = 8
            position = int.from_bytes(packet[offset + 2 : offset + 4], "big")
            ident = int.from_bytes(packet[offset + 4 : offset + 8], "big")
            if position & 0xFFF8:
                return Chain(Part.LATER, packet[offset], offset + 8, ident)
            part = Part.FIRST if position & 1 else Part.WHOLE
        header = packet[offset]
        offset += size
        walked += 1
        if offset > len(packet):
            return Reason.FRAGMENT if part is Part.FIRST else Reason.MALFORMED
    if header in _OTHER_EXTENSIONS:
        return Reason.UNSUPPORTED_HEADER
    return Chain(part, header, offset, ident)


def is_extension(protocol: int) -> bool:
    """Whether a number is that of an IPv6 extension header: in a later fragment, the protocol is then unknown."""
    return protocol in _WALKED or protocol in _OTHER_EXTENSIONS

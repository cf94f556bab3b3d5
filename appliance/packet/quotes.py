"""What routers say about our own outer packets: "too big" on the way to a member (packets.md, M5).

The quote is all that there is to tell our packet from anybody's, and it may be short: RFC 792 asks for 8 bytes behind
the IP header. Where it reaches the inner packet's L4 header, the client can be told at once.
"""

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from appliance.forwarding import LEAST_IPV6, TableMember
from appliance.model import DsrType, Encapsulation, IPAddress, TtlPolicy
from appliance.packet.checksum import checksum, update
from appliance.packet.encap import EPHEMERAL, GUE_PORT
from appliance.packet.headers import ETH_IPV4, ETH_IPV6, IpHeader, Part, parse_ip
from appliance.packet.icmp import answerable, error_packet, too_big_message

_HEADER = 8
"""Bytes of an ICMP error before the quote."""

_V4_TOO_BIG, _V6_TOO_BIG = b"\3\4", b"\2"
_IP_HEADER = {4: 20, 6: 40}
_IN_IP = {4: 4, 41: 6}
_GRE, _UDP = 47, 17
_INNER_OF_GRE = {ETH_IPV4: 4, ETH_IPV6: 6}
_FRAGMENT_OFFSET = 0x1FFF
_L4 = 8
"""Bytes behind the IP header that an error has to quote at least (RFC 792)."""


@dataclass(frozen=True)
class TooBig:
    """A complaint about a packet that looks like one of ours."""

    mtu: int
    """Largest IP packet that the router can pass on, as it says."""

    source: IPAddress
    destination: IPAddress
    encapsulation: Encapsulation
    length: int
    """Of the outer packet, as its header says."""

    inner_version: int
    inner: bytes
    """What is quoted of the inner packet, from its IP header on; may be nothing."""


def read_too_big(message: bytes, version: int) -> TooBig | None:
    """The complaint in an ICMP message; None where it is none, or is not about a packet that a director would send.

    Args:
        message: from its type on. Of ICMP the checksum is verified; of ICMPv6 it takes addresses that are not in here,
            and the kernel has done so.
        version: of IP.
    """
    kind = _V4_TOO_BIG if version == 4 else _V6_TOO_BIG
    if not message.startswith(kind) or len(message) < _HEADER or (version == 4 and checksum(message) != 0):
        return None
    quote = message[_HEADER:]
    if version == 4 and message[5]:
        quote = quote[: message[5] * 4]  # what follows is no part of the packet (RFC 4884, 5.1)
    size = _IP_HEADER[version]
    if len(quote) < size or quote[0] >> 4 != version:
        return None
    if version == 4:
        (mtu,) = struct.unpack_from("!H", message, 6)
        length, _, fragmentation = struct.unpack_from("!HHH", quote, 2)
        # We put no options into outer headers, and fragment none of them.
        if quote[0] & 15 != 5 or fragmentation & _FRAGMENT_OFFSET:
            return None
        protocol, source, destination = quote[9], quote[12:16], quote[16:20]
    else:
        (mtu,) = struct.unpack_from("!I", message, 4)
        length = size + int.from_bytes(quote[4:6], "big")
        protocol, source, destination = quote[6], quote[8:24], quote[24:40]
    opened = _open(protocol, quote[size:])
    if opened is None:
        return None
    encapsulation, inner_version, inner = opened
    return TooBig(mtu, ip_address(source), ip_address(destination), encapsulation, length, inner_version, inner)


def _open(protocol: int, payload: bytes) -> tuple[Encapsulation, int, bytes] | None:
    """What an outer header's payload is, as far as it is quoted: what a director puts there, or None."""
    if protocol in _IN_IP:
        version = _IN_IP[protocol]
        return (Encapsulation.IPIP, version, payload) if payload and payload[0] >> 4 == version else None
    if len(payload) < 8:
        return None
    if protocol == _GRE:
        flags, ethertype = struct.unpack_from("!HH", payload)
        inner = _INNER_OF_GRE.get(ethertype)
        fits = not flags and inner is not None and payload[4] >> 4 == inner
        return (Encapsulation.GRE, inner, payload[4:]) if fits and inner is not None else None
    if protocol == _UDP:
        source, destination, _, check = struct.unpack_from("!HHHH", payload)
        if source < EPHEMERAL or destination != GUE_PORT or check:
            return None
        # The least that is quoted ends right here: what is inside is not known then.
        inner = _IN_IP.get(payload[9], 0) if len(payload) >= 12 else 0
        return Encapsulation.GUE, inner, payload[12:] if inner else b""
    return None


def answer_to_client(complaint: TooBig, member: TableMember, vips: frozenset[IPAddress]) -> tuple[bytes, bytes] | None:
    """What the client is told whose packet did not get to a member, as an IP packet from the VIP; and the VIP.

    None where the quote does not reach far enough, where the client may not be told, or need not: a packet that may be
    fragmented will be.

    Args:
        complaint: about a packet to that member.
        member: with the path MTU that follows from the complaint.
        vips: of the tables in force.
    """
    version, inner = complaint.inner_version, complaint.inner
    if len(inner) < _IP_HEADER.get(version, len(inner) + 1):
        return None
    stated = int.from_bytes(inner[2:4], "big") if version == 4 else 40 + int.from_bytes(inner[4:6], "big")
    # The rest was cut off by the router; what it was does not matter for the header.
    ip = parse_ip(inner + bytes(max(0, stated - len(inner))), version)
    if not isinstance(ip, IpHeader) or len(inner) < ip.l4 + _L4 or ip.part is Part.LATER:
        return None
    # Who sends no more than IPv6's least cannot send less (RFC 8200, 5).
    enough = max(member.inner_mtu, LEAST_IPV6 if version == 6 else 0)
    if not ip.dont_fragment or ip.length <= enough or ip_address(ip.destination) not in vips:
        return None
    if not answerable(inner, ip):
        return None
    if member.delivery.dsr_type is DsrType.L3 and member.delivery.ttl is TtlPolicy.ROUTER:
        inner = _one_hop_back(inner, version)
    quote = inner[: ip.length]
    message = too_big_message(version, member.inner_mtu)
    return error_packet(version, ip.destination, ip.source, message, quote), ip.destination


def _one_hop_back(packet: bytes, version: int) -> bytes:
    """The packet as it was before we took one off its TTL or hop limit."""
    if version == 6:
        return packet[:7] + bytes((packet[7] + 1 & 0xFF,)) + packet[8:]
    word, header_checksum = struct.unpack_from("!HH", packet, 8)
    before = word + 0x100 & 0xFFFF
    return packet[:8] + struct.pack("!HH", before, update(header_checksum, word, before)) + packet[12:]

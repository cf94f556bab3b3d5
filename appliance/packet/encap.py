"""Frames towards a member: MAC rewrite (L2 DSR) and outer headers (L3 DSR). See packets.md, section 1."""

import struct
from collections.abc import Callable

from appliance.forwarding import NextHop, TableMember
from appliance.model import Encapsulation
from appliance.packet.checksum import checksum, update
from appliance.packet.headers import ETH_IPV4, ETH_IPV6, IpHeader

HOP_LIMIT = 64
"""TTL or hop limit of outer headers."""

_IPPROTO_IPV4 = 4
_IPPROTO_IPV6 = 41
_DONT_FRAGMENT = 0x4000


def ethernet(hop: NextHop, version: int, packet: bytes) -> bytes:
    """An untagged frame to a next hop. The kernel adds the tag of an interface that is a VLAN (P5)."""
    return hop.mac + hop.source_mac + (ETH_IPV4 if version == 4 else ETH_IPV6).to_bytes(2, "big") + packet


def decrement_hop_limit(packet: bytes, version: int) -> bytes:
    """The packet after one hop: TTL less one with the header checksum updated, or hop limit less one.

    Args:
        packet: a TTL or hop limit of at least 1.
    """
    if version == 6:
        return packet[:7] + bytes((packet[7] - 1,)) + packet[8:]
    word, header_checksum = struct.unpack_from("!HH", packet, 8)
    return packet[:8] + struct.pack("!HH", word - 0x100, update(header_checksum, word, word - 0x100)) + packet[12:]


def ipip(inner: bytes, ip: IpHeader, member: TableMember, flow_hash: int, ident: int) -> bytes:
    """An IP packet inside another: 4-in-4 (RFC 2003), 6-in-6 and 4-in-6 (RFC 2473), 6-in-4 (RFC 4213).

    DSCP and ECN are copied (RFC 6040, normal mode). So is DF, which every IPv6 packet has by nature; a packet with DF
    needs no identification (RFC 6864).

    Args:
        inner: the packet without padding; only its TTL may have changed since *ip* was read.
        ip: its header.
        member: whose address becomes the destination.
        flow_hash: 32 bits; the low 20 become the flow label of an outer IPv6 header (0 means none, so 1 stands for it).
        ident: identification of the outer IPv4 packet when it may be fragmented, 0..65535.
    """
    carried = _IPPROTO_IPV4 if ip.version == 4 else _IPPROTO_IPV6
    source, destination = member.next_hop.source.packed, member.address.packed
    if member.address.version == 6:
        label = flow_hash & 0xFFFFF or 1
        first_word = 6 << 28 | ip.traffic_class << 20 | label
        return struct.pack("!IHBB", first_word, len(inner), carried, HOP_LIMIT) + source + destination + inner
    fragmentation = (0, _DONT_FRAGMENT) if ip.dont_fragment else (ident, 0)
    head = struct.pack("!BBHHHBB", 0x45, ip.traffic_class, 20 + len(inner), *fragmentation, HOP_LIMIT, carried)
    addresses = source + destination
    return head + checksum(head + addresses).to_bytes(2, "big") + addresses + inner


WRITERS: dict[Encapsulation, Callable[[bytes, IpHeader, TableMember, int, int], bytes]] = {
    Encapsulation.IPIP: ipip,
}
"""The outer packet of each encapsulation; arguments as in `ipip`. A new one is one function and one line."""

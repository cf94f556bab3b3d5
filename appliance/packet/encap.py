"""Frames towards a member: MAC rewrite (L2 DSR) and outer headers (L3 DSR). See packets.md, section 1."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from appliance.forwarding import NextHop, TableMember
from appliance.model import DfPolicy, Encapsulation
from appliance.packet.checksum import checksum, update
from appliance.packet.headers import ETH_IPV4, ETH_IPV6, IpHeader

GUE_PORT = 6080
"""Where members listen for GUE (IANA)."""

_IP_IN_IP = {4: 4, 6: 41}
"""Protocol numbers of an inner packet, by its version: RFC 2003, and RFC 2473 and 4213."""

_GRE, _UDP = 47, 17
EPHEMERAL = 0xC000
"""The first of the ports 49152..65535 (RFC 6335, section 6). Their low 14 bits are free, and tell flows apart."""

_ETHERTYPE = {4: ETH_IPV4, 6: ETH_IPV6}
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


def _ipip(inner_version: int, length: int, flow_hash: int) -> bytes:
    """Nothing: 4-in-4 (RFC 2003), 6-in-6 and 4-in-6 (RFC 2473), 6-in-4 (RFC 4213)."""
    return b""


def _gre(inner_version: int, length: int, flow_hash: int) -> bytes:
    """A header without checksum, key and sequence number (RFC 2784)."""
    return struct.pack("!HH", 0, _ETHERTYPE[inner_version])


def _gue(inner_version: int, length: int, flow_hash: int) -> bytes:
    """A UDP header, and a GUE header of variant 0 without options, whose protocol is that of IP in IP.

    The source port is the same for all packets of a flow, so that routers with several ways and members with several
    queues spread flows and keep each in order.

    The UDP checksum is zero, in IPv6 as well, which RFC 6935 allows to tunnels. The grounds that RFC 6936 (sections 4
    and 5) and the GUE draft ask for: what is inside has a checksum of its own over its addresses and payload, made by
    the client; members take packets of known directors to known addresses only, so that one with a broken outer header
    gets lost and not astray; and nothing is ever fragmented over IPv6. Adding up every packet would cost a pass over
    all its bytes, of which an XDP program may not even see more than the first buffer. Linux members (`fou`) take it.
    """
    source_port = EPHEMERAL | flow_hash & (EPHEMERAL ^ 0xFFFF)
    return struct.pack("!HHHHBBH", source_port, GUE_PORT, 12 + length, 0, 0, _IP_IN_IP[inner_version], 0)


@dataclass(frozen=True)
class Tunnel:
    """What an encapsulation puts between two IP packets."""

    protocols: Mapping[int, int]
    """The outer header's protocol or next header, by the version of the inner packet."""

    between: Callable[[int, int, int], bytes]
    """Headers between the outer IP header and the inner packet: of its version, its length and the flow hash."""


TUNNELS: dict[Encapsulation, Tunnel] = {
    Encapsulation.IPIP: Tunnel(_IP_IN_IP, _ipip),
    Encapsulation.GRE: Tunnel({4: _GRE, 6: _GRE}, _gre),
    Encapsulation.GUE: Tunnel({4: _UDP, 6: _UDP}, _gue),
}
"""A new one is one function and one line, and its length in `model.Encapsulation`."""


def source_of(member: TableMember, flow_hash: int) -> bytes:
    """The outer header's source, 4 or 16 bytes: the same for all packets of a flow."""
    first = member.first_source
    return (int.from_bytes(first, "big") + (flow_hash & member.spread_mask)).to_bytes(len(first), "big")


def encapsulate(
    encapsulation: Encapsulation, inner: bytes, ip: IpHeader, member: TableMember, flow_hash: int, ident: int
) -> bytes:
    """An IP packet inside another.

    DSCP and ECN are copied (RFC 6040, normal mode). So is DF, which every IPv6 packet has by nature, unless the
    delivery clears it; a packet with DF needs no identification, and has 0 (RFC 6864).

    Args:
        encapsulation: what is between the two.
        inner: the packet without padding; only its TTL may have changed since *ip* was read.
        ip: its header.
        member: whose address becomes the destination, and whose delivery says the rest.
        flow_hash: 32 bits; the low 20 become the flow label of an outer IPv6 header (0 means none, so 1 stands for it).
            It also chooses the source, where the member's deliveries have a prefix of them.
        ident: identification of the outer IPv4 packet when it may be fragmented, 0..65535.
    """
    delivery, tunnel = member.delivery, TUNNELS[encapsulation]
    protocol = tunnel.protocols[ip.version]
    payload = tunnel.between(ip.version, len(inner), flow_hash) + inner
    addresses = source_of(member, flow_hash) + member.address.packed
    if member.address.version == 6:
        first_word = 6 << 28 | ip.traffic_class << 20 | (flow_hash & 0xFFFFF or 1)
        return struct.pack("!IHBB", first_word, len(payload), protocol, delivery.outer_ttl) + addresses + payload
    whole = ip.dont_fragment and delivery.outer_df is DfPolicy.COPY_INNER
    fragmentation = (0, _DONT_FRAGMENT) if whole else (ident, 0)
    head = struct.pack(
        "!BBHHHBB", 0x45, ip.traffic_class, 20 + len(payload), *fragmentation, delivery.outer_ttl, protocol
    )
    return head + checksum(head + addresses).to_bytes(2, "big") + addresses + payload

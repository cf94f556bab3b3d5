"""Proofs from packet captures: what left the client, what reached the members, what passed the directors.

Written apart from the appliance's own packet code on purpose: a proof must not share its mistakes.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

IPAddress = IPv4Address | IPv6Address

IPV4, IPV6 = 0x0800, 0x86DD
TUNNELS = {4: IPV4, 41: IPV6}
"""Protocol number in the outer header → what is inside (RFC 2003, RFC 2473)."""


@dataclass(frozen=True)
class Outer:
    """The header that a director put around a packet."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    ttl: int
    tos: int


@dataclass(frozen=True)
class Packet:
    """One captured TCP or UDP packet, out of its encapsulation."""

    time: float
    eth_source: str
    eth_destination: str
    outer: Outer | None
    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int
    destination_port: int
    ttl: int
    stable: bytes
    """The IP header without what routers change (TTL or hop limit, checksum), and everything behind it."""

    @property
    def identity(self) -> bytes:
        return hashlib.blake2b(self.stable, digest_size=16).digest()


def read(path: Path) -> list[Packet]:
    """The TCP and UDP packets of a capture (classic pcap, Ethernet), in order.

    Raises:
        ValueError: the file is not such a capture.
    """
    return [packet for time, frame in _records(path.read_bytes()) if (packet := _packet(time, frame))]


def _records(data: bytes) -> Iterator[tuple[float, bytes]]:
    if data[:4] != b"\xd4\xc3\xb2\xa1" or struct.unpack_from("<I", data, 20)[0] != 1:
        raise ValueError("not a little-endian microsecond pcap of Ethernet frames")
    at = 24
    while at + 16 <= len(data):
        seconds, micros, kept, length = struct.unpack_from("<IIII", data, at)
        at += 16
        # tcpdump may be ended in the middle of a record; half a frame proves nothing.
        if at + kept <= len(data) and kept == length:
            yield seconds + micros / 1e6, data[at : at + kept]
        at += kept


def _packet(time: float, frame: bytes) -> Packet | None:
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    at, outer = 14, None
    for _ in range(2):
        if ethertype == IPV4:
            header = _ipv4(frame, at)
        elif ethertype == IPV6:
            header = _ipv6(frame, at)
        else:
            return None
        source, destination, protocol, ttl, tos, size, length = header
        if protocol not in TUNNELS or outer is not None:
            break
        outer = Outer(source, destination, protocol, ttl, tos)
        ethertype, at = TUNNELS[protocol], at + size
    if protocol not in {6, 17}:
        return None
    ports = struct.unpack_from("!HH", frame, at + size)
    whole = bytearray(frame[at : at + length])
    for position in (8, 10, 11) if ethertype == IPV4 else (7,):
        whole[position] = 0
    return Packet(
        time=time,
        eth_source=frame[6:12].hex(":"),
        eth_destination=frame[:6].hex(":"),
        outer=outer,
        source=source,
        destination=destination,
        protocol=protocol,
        source_port=ports[0],
        destination_port=ports[1],
        ttl=ttl,
        stable=bytes(whole),
    )


_Header = tuple[IPAddress, IPAddress, int, int, int, int, int]


def _ipv4(frame: bytes, at: int) -> _Header:
    size = (frame[at] & 15) * 4
    (length,) = struct.unpack_from("!H", frame, at + 2)
    source, destination = ip_address(frame[at + 12 : at + 16]), ip_address(frame[at + 16 : at + 20])
    return source, destination, frame[at + 9], frame[at + 8], frame[at + 1], size, length


def _ipv6(frame: bytes, at: int) -> _Header:
    first, length = struct.unpack_from("!IH", frame, at)
    source, destination = ip_address(frame[at + 8 : at + 24]), ip_address(frame[at + 24 : at + 40])
    return source, destination, frame[at + 6], frame[at + 7], first >> 20 & 255, 40, length + 40


@dataclass(frozen=True)
class Claim:
    """One thing that the captures prove or disprove."""

    text: str
    holds: bool
    evidence: str


def unchanged(sent: Iterable[Packet], received: Iterable[Packet], vip: IPAddress) -> Claim:
    """No translation: what members got for the VIP is byte for byte what the client had sent."""
    client = {packet.identity for packet in sent if packet.destination == vip}
    member = [packet for packet in received if packet.destination == vip]
    strangers = [packet for packet in member if packet.identity not in client]
    return Claim(
        f"{vip}: packets reach members byte for byte as the client sent them",
        bool(member) and not strangers,
        f"{len(member)} packets, {len(strangers)} of them not sent like this by the client",
    )


def encapsulated(
    received: Iterable[Packet], vip: IPAddress, directors: set[IPAddress], members: set[IPAddress]
) -> Claim:
    """L3 DSR: outer header from a director to the member, inner header from the client to the VIP."""
    packets = [packet for packet in received if packet.destination == vip]
    wrong = [
        packet
        for packet in packets
        if packet.outer is None or packet.outer.source not in directors or packet.outer.destination not in members
    ]
    example = next((packet for packet in packets if packet.outer), None)
    shown = (
        f"{example.outer.source} > {example.outer.destination}: {example.source} > {example.destination}"
        if example and example.outer
        else "none"
    )
    return Claim(
        f"{vip}: IP in IP from a director to a member, the client's packet inside",
        bool(packets) and not wrong,
        f"{len(packets)} packets, {len(wrong)} otherwise; for example {shown}",
    )


def rewritten(received: Iterable[Packet], vip: IPAddress, director_macs: set[str], member_macs: set[str]) -> Claim:
    """L2 DSR: a new pair of MAC addresses and nothing around the packet."""
    packets = [packet for packet in received if packet.destination == vip]
    wrong = [
        packet
        for packet in packets
        if packet.outer or packet.eth_source not in director_macs or packet.eth_destination not in member_macs
    ]
    return Claim(
        f"{vip}: only the MAC addresses are rewritten",
        bool(packets) and not wrong,
        f"{len(packets)} packets, {len(wrong)} otherwise",
    )


def direct_return(
    at_client: Iterable[Packet], at_members: Iterable[Packet], at_directors: Iterable[Packet], vip: IPAddress
) -> Claim:
    """Replies come from the VIP, arrive at the client as the member sent them, and never pass a director."""
    replies = [packet for packet in at_client if packet.source == vip]
    sent = {packet.identity for packet in at_members if packet.source == vip}
    foreign = [packet for packet in replies if packet.identity not in sent]
    passed = [packet for packet in at_directors if packet.source == vip]
    return Claim(
        f"{vip}: replies go from the member straight to the client",
        bool(replies) and not foreign and not passed,
        f"{len(replies)} replies at the client, {len(foreign)} not from a member, {len(passed)} seen at directors",
    )

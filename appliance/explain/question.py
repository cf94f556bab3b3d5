"""Packets to ask about: the first one of a flow, or another."""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address

from appliance.capture.pcap import Direction, Link, PcapError, read
from appliance.model import IPAddress, Protocol
from appliance.packet.checksum import checksum
from appliance.ring.hash import FlowKey

IP_HEADER = {4: 20, 6: 40}
L4_HEADER = {Protocol.TCP: 20, Protocol.UDP: 8}
_CLIENT_TTL = 64
_FRAGMENT_HEADER = 44


class Tcp(StrEnum):
    """What a TCP packet says."""

    SYN = "syn"
    DATA = "data"
    FIN = "fin"
    RST = "rst"


@dataclass(frozen=True)
class Endpoint:
    address: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


def endpoint(text: str) -> Endpoint:
    """`192.0.2.7:40000` or `[2001:db8::7]:40000`.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")):
        raise ValueError("the port is missing, or the brackets of an IPv6 address")
    bracketed = host.startswith("[") and host.endswith("]")
    address = ip_address(host[1:-1] if bracketed else host)
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= 65535:
        raise ValueError(f"{port or 'nothing'} is not a port; use 1..65535")
    if isinstance(address, IPv6Address) is not bracketed:
        raise ValueError("IPv6 addresses, and only they, stand in brackets")
    return Endpoint(address, int(port))


_FLAGS = {Tcp.SYN: 0x02, Tcp.DATA: 0x18, Tcp.FIN: 0x11, Tcp.RST: 0x04}


def packet_of(key: FlowKey, size: int = 0, tcp: Tcp = Tcp.SYN) -> bytes:
    """A packet of a flow, with zeros as payload. Its L4 checksum is none (nobody who forwards looks at it), DF is set.

    Args:
        key: the flow.
        size: of the packet, bytes; 0 makes it as small as can be.
        tcp: what it says, if it is of TCP.
    """
    header, l4 = IP_HEADER[key.destination.version], L4_HEADER[Protocol(key.protocol)]
    payload = bytes(max(0, size - header - l4))
    ports = struct.pack("!HH", key.source_port, key.destination_port)
    if key.protocol == Protocol.TCP:
        segment = ports + struct.pack("!IIBBHHH", 0, 0, 5 << 4, _FLAGS[tcp], 65535, 0, 0) + payload
    else:
        segment = ports + struct.pack("!HH", min(8 + len(payload), 65535), 0) + payload
    if key.destination.version == 6:
        return _ipv6(key, key.protocol, segment)
    return _ipv4(key, 0x4000, segment)


def later_fragment_of(key: FlowKey) -> bytes:
    """Eight bytes of a flow's packet, and not the first ones."""
    if key.destination.version == 6:
        return _ipv6(key, _FRAGMENT_HEADER, struct.pack("!BBHI", key.protocol, 0, 8, 1) + bytes(8))
    return _ipv4(key, 1, bytes(8))


def frame_of(packet: bytes, destination: bytes = bytes(6), source: bytes = bytes(6)) -> bytes:
    """An IP packet as an Ethernet frame."""
    ethertype = b"\x86\xdd" if packet[:1] and packet[0] >> 4 == 6 else b"\x08\x00"
    return destination + source + ethertype + packet


def frames_of(take: Callable[[int], bytes]) -> Iterator[bytes]:
    """Ethernet frames of a pcap or pcapng file as they arrived; those that a capture of ours has as they left are none.

    Args:
        take: as `read` of a binary file.

    Raises:
        PcapError: it is neither, or has packets that nobody can judge.
    """
    for number, packet in enumerate(read(take), 1):
        if packet.direction is Direction.OUT:
            continue
        if packet.link == Link.RAW_IP:
            yield frame_of(packet.data)
        elif packet.link != Link.ETHERNET:
            raise PcapError(
                f"packet {number} has link type {packet.link}; capture on one Ethernet interface (not `any`)"
            )
        elif len(packet.data) < packet.length:
            raise PcapError(f"packet {number} is cut off; capture whole packets (tcpdump -s 0)")
        else:
            yield packet.data.ljust(14, b"\0")


def _ipv6(key: FlowKey, next_header: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), next_header, _CLIENT_TTL)
    return head + key.source.packed + key.destination.packed + payload


def _ipv4(key: FlowKey, fragmentation: int, payload: bytes) -> bytes:
    addresses = key.source.packed + key.destination.packed
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 0, fragmentation, _CLIENT_TTL, key.protocol)
    return head + checksum(head + addresses).to_bytes(2, "big") + addresses + payload

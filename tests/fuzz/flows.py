"""Frames of single flows: what a client, or a router on the way to it, sends to a VIP in the course of a connection."""

import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from appliance.model import IPAddress, Protocol
from appliance.packet.checksum import checksum

CLIENT_MAC = bytes.fromhex("027100000001")


class Say(Enum):
    """What is sent."""

    SYN = 0x02
    PLAIN = 0x10
    PUSH = 0x18
    FIN = 0x11
    RST = 0x04
    RST_ACK = 0x14
    NOTHING = 0x00
    SYN_FIN = 0x03
    SYN_ACK = 0x12
    SYN_RST = 0x06
    """Up to here: TCP's flags."""
    DATA = -1
    """A datagram."""
    ERROR = -2
    """An ICMP error about what the VIP has sent."""
    FIRST = -3
    """The first fragment of a large packet: data of a connection, or a datagram."""
    LATER = -4
    """The rest of it."""


@dataclass(frozen=True)
class Tuple:
    """Whose packets these are."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int
    destination_port: int

    @property
    def ports(self) -> bytes:
        return struct.pack("!HH", self.source_port, self.destination_port)

    def frame(self, say: Say, mac: bytes, size: int = 6, ttl: int = 64) -> bytes:
        """A frame to *mac*.

        Args:
            size: bytes of payload; what an error quotes has none.
        """
        version = self.source.version
        if say in (Say.FIRST, Say.LATER):
            packet = self._fragment(say, ttl)
        elif say is Say.ERROR:
            quoted = _packet(self.destination, self.source, self.protocol, self.ports[2:] + self.ports[:2] + bytes(4))
            router = ip_address("192.0.2.254") if version == 4 else ip_address("2001:db8::fe")
            kind, code = (3, 1) if version == 4 else (1, 3)
            message = struct.pack("!BBHI", kind, code, 0, 0) + quoted
            number = 1 if version == 4 else 58
            pseudo = b""
            if version == 6:
                pseudo = router.packed + self.destination.packed + struct.pack("!II", len(message), number)
            message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
            packet = _packet(router, self.destination, number, message, ttl)
        elif self.protocol == Protocol.TCP:
            segment = self.ports + struct.pack("!IIBBHHH", 1, 1, 0x50, say.value, 65535, 0, 0)
            packet = _packet(self.source, self.destination, self.protocol, segment + bytes(size), ttl)
        else:
            segment = self.ports + struct.pack("!HH", 8 + size, 0)
            packet = _packet(self.source, self.destination, self.protocol, segment + bytes(size), ttl)
        return mac + CLIENT_MAC + (b"\x08\x00" if version == 4 else b"\x86\xdd") + packet

    def _fragment(self, say: Say, ttl: int) -> bytes:
        if self.protocol == Protocol.TCP:
            head = self.ports + struct.pack("!IIBBHHH", 1, 1, 0x50, Say.PLAIN.value, 65535, 0, 0)
        else:
            head = self.ports + struct.pack("!HH", 64, 0)
        body = head.ljust(40, b"f") if say is Say.FIRST else bytes(24)
        offset, more = (0, 1) if say is Say.FIRST else (40, 0)
        if self.source.version == 4:
            return _packet(self.source, self.destination, self.protocol, body, ttl, more << 13 | offset >> 3)
        extension = struct.pack("!BBHI", self.protocol, 0, offset | more, 7)
        return _packet(self.source, self.destination, 44, extension + body, ttl)


def _packet(
    source: IPAddress, destination: IPAddress, protocol: int, body: bytes, ttl: int = 64, flags: int = 0x4000
) -> bytes:
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, ttl) + source.packed + destination.packed + body
    words = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, flags, ttl, protocol, 0)
    head = words + source.packed + destination.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body

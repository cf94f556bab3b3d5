"""ARP and neighbour discovery for VIPs: frames in and out. Bytes only, nothing is sent here.

ARP is RFC 826; probes and announcements are those of RFC 5227. Neighbour discovery is RFC 4861, probes are those of
duplicate address detection (RFC 4862, 5.4).
"""

import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from appliance.model import IPAddress
from appliance.packet.checksum import checksum

_ARP, _IPV6 = b"\x08\x06", b"\x86\xdd"
_ARP_HEAD = struct.pack("!HHBB", 1, 0x0800, 6, 4)
_REQUEST, _REPLY = 1, 2
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136
_SOLICITED, _OVERRIDE = 0x40, 0x20
_SOURCE_LINK, _TARGET_LINK = 1, 2
_HOP_LIMIT = 255
"""Whatever has another one has come through a router, and is not from the segment (RFC 4861, 7.1)."""
_NOBODY = bytes(16)
_ALL_NODES = IPv6Address("ff02::1").packed
_BROADCAST = b"\xff" * 6


class What(Enum):
    """What somebody wants with a frame about an address."""

    ASKS = "asks"
    """Who has it? To be answered."""
    PROBES = "probes"
    """Is it free? Who probes is about to take it. To be answered as well."""
    HAS = "has"
    """I have it."""


@dataclass(frozen=True)
class Heard:
    """A frame about an address."""

    what: What
    address: IPAddress
    mac: bytes
    """Who says so, 6 bytes."""
    sender: bytes
    """Where an answer goes, as an IP address; empty for a probe."""


def solicited_node(vip: IPv6Address) -> IPv6Address:
    """The group that is asked for an address (RFC 4291, 2.7.1)."""
    return IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + vip.packed[13:])


def read(frame: bytes) -> Heard | None:
    """What a frame says about an address; None for what is neither ARP nor neighbour discovery, or broken.

    Args:
        frame: without VLAN tag.
    """
    if frame[12:14] == _ARP:
        return _read_arp(frame)
    return _read_nd(frame) if frame[12:14] == _IPV6 else None


def _read_arp(frame: bytes) -> Heard | None:
    if len(frame) < 42 or frame[14:20] != _ARP_HEAD:
        return None
    operation, mac, sender, target = int.from_bytes(frame[20:22], "big"), frame[22:28], frame[28:32], frame[38:42]
    if operation not in (_REQUEST, _REPLY) or mac[0] & 1:
        return None
    if sender == bytes(4):
        return Heard(What.PROBES, IPv4Address(target), mac, b"") if operation == _REQUEST else None
    if operation == _REPLY or sender == target:
        return Heard(What.HAS, IPv4Address(sender), mac, sender)
    return Heard(What.ASKS, IPv4Address(target), mac, sender)


def _read_nd(frame: bytes) -> Heard | None:
    """With all that RFC 4861, 7.1 wants of a message to be valid."""
    length = int.from_bytes(frame[18:20], "big")
    if len(frame) < 54 + length or length < 24 or frame[20] != _ICMPV6 or frame[21] != _HOP_LIMIT:
        return None
    source, destination, message = frame[22:38], frame[38:54], frame[54 : 54 + length]
    if message[1] != 0 or _sum(source, destination, message) != 0:
        return None
    options = _options(message[24:])
    target = IPv6Address(message[8:24])
    if options is None or target.is_multicast:
        return None
    if message[0] == _SOLICITATION:
        if source == _NOBODY:
            return None if _SOURCE_LINK in options else Heard(What.PROBES, target, frame[6:12], b"")
        return Heard(What.ASKS, target, options.get(_SOURCE_LINK, frame[6:12]), source)
    if message[0] == _ADVERTISEMENT:
        if destination[0] == 0xFF and message[4] & _SOLICITED:
            return None
        return Heard(What.HAS, target, options.get(_TARGET_LINK, frame[6:12]), source)
    return None


def _options(data: bytes) -> dict[int, bytes] | None:
    """Link-layer addresses by type; None when an option has no length, which makes the whole message invalid."""
    found = {}
    while data:
        if len(data) < 2 or data[1] == 0 or len(data) < 8 * data[1]:
            return None
        if data[0] in (_SOURCE_LINK, _TARGET_LINK) and data[1] == 1:
            found[data[0]] = data[2:8]
        data = data[8 * data[1] :]
    return found


def answer(heard: Heard, vip: IPAddress, mac: bytes) -> bytes:
    """We have it.

    Args:
        heard: the question.
        vip: what was asked for.
        mac: our address on the segment.
    """
    if isinstance(vip, IPv4Address):
        # To a probe as well: RFC 5227, 2.1.1 has whoever probes look for any packet with the address in it.
        return heard.mac + mac + _ARP + _arp(_REPLY, mac, vip.packed, heard.mac, heard.sender or bytes(4))
    if not heard.sender:
        return _advertise(vip, mac, _ALL_NODES, _group_mac(_ALL_NODES), 0)
    return _advertise(vip, mac, heard.sender, heard.mac, _SOLICITED)


def announcement(vip: IPAddress, mac: bytes) -> bytes:
    """Everybody: we have it now (RFC 5227, 2.3; RFC 4861, 7.2.6)."""
    if isinstance(vip, IPv4Address):
        return _BROADCAST + mac + _ARP + _arp(_REQUEST, mac, vip.packed, bytes(6), vip.packed)
    return _advertise(vip, mac, _ALL_NODES, _group_mac(_ALL_NODES), 0)


def probe(vip: IPAddress, mac: bytes) -> bytes:
    """Does anybody have it? Nobody's neighbour table changes by it."""
    if isinstance(vip, IPv4Address):
        return _BROADCAST + mac + _ARP + _arp(_REQUEST, mac, bytes(4), bytes(6), vip.packed)
    group = solicited_node(vip).packed
    message = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + vip.packed
    return _group_mac(group) + mac + _IPV6 + _packet(_NOBODY, group, message)


def _arp(operation: int, mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    body = _ARP_HEAD + operation.to_bytes(2, "big") + mac + sender + target_mac + target
    return body + bytes(46 - len(body))


def _advertise(vip: IPv6Address, mac: bytes, destination: bytes, to: bytes, flags: int) -> bytes:
    head = struct.pack("!BBHB3x", _ADVERTISEMENT, 0, 0, flags | _OVERRIDE)
    message = head + vip.packed + bytes((_TARGET_LINK, 1)) + mac
    return to + mac + _IPV6 + _packet(vip.packed, destination, message)


def _packet(source: bytes, destination: bytes, message: bytes) -> bytes:
    message = message[:2] + _sum(source, destination, message).to_bytes(2, "big") + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, _HOP_LIMIT) + source + destination + message


def _sum(source: bytes, destination: bytes, message: bytes) -> int:
    return checksum(source + destination + struct.pack("!II", len(message), _ICMPV6) + message)


def _group_mac(group: bytes) -> bytes:
    return b"\x33\x33" + group[12:]

"""ICMP of the director's own, and how often it may be sent: errors, answers to pings. For errors of others see `relay`.

They come from the VIP, quote the packet as it arrived (before any TTL change) and go back to where the frame came from:
packets.md, section 4; RFC 792, 1191 and 1812 for IPv4, RFC 4443 for IPv6.
"""

import struct

from appliance.forwarding import LEAST_IPV6
from appliance.packet.action import Reply
from appliance.packet.checksum import checksum
from appliance.packet.headers import ETHERNET, IpHeader, Part

MAX_V4 = 576
MAX_V6 = 1280
"""Longest IP packets that an error may be: what every host and every link takes."""

_HOP_LIMIT = 64
_ICMP, _ICMPV6 = 1, 58
_V4_UNREACHABLE, _V4_TIME_EXCEEDED = 3, 11
_V4_FRAGMENTATION_NEEDED = 4
_V4_ERRORS = frozenset({3, 4, 5, 11, 12})
_V6_UNREACHABLE, _V6_TOO_BIG, _V6_TIME_EXCEEDED = 1, 2, 3
_ECHO_REQUEST = {4: 8, 6: 128}
_ECHO_REPLY = {4: 0, 6: 129}
_ECHO = 8
"""Bytes of an echo request before its data."""
_INTERNETWORK_CONTROL = 0xC0
"""Precedence of ICMP errors (RFC 1812, 4.3.2.5)."""

_DONT_FRAGMENT = 0x4000


class TokenBucket:
    """So many a second, and a few at once. Time is the caller's, in seconds, from any clock that does not run back."""

    def __init__(self, rate: float, burst: int) -> None:
        """Full at first.

        Args:
            rate: tokens that come back per second.
            burst: tokens it holds.
        """
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._last: float | None = None

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        if self._last is not None and now > self._last:
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now if self._last is None else max(now, self._last)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def too_big(frame: bytes, offset: int, ip: IpHeader, mtu: int) -> Reply | None:
    """ "Fragmentation needed" (M1) or "packet too big" (M2) in answer to a frame; None where no error may be sent.

    Args:
        frame: as it arrived.
        offset: where its IP header begins.
        ip: that header.
        mtu: largest packet that would have fitted, bytes. To IPv6 no less than 1280 is told (RFC 8200, section 5).
    """
    return _reply(frame, offset, ip, too_big_message(ip.version, mtu), "icmp_too_big")


def time_exceeded(frame: bytes, offset: int, ip: IpHeader) -> Reply | None:
    """ "Time to live exceeded in transit" in answer to a frame; None where no error may be sent."""
    kind = _V4_TIME_EXCEEDED if ip.version == 4 else _V6_TIME_EXCEEDED
    return _reply(frame, offset, ip, struct.pack("!BBHI", kind, 0, 0, 0), "icmp_time_exceeded")


def port_unreachable(frame: bytes, offset: int, ip: IpHeader) -> Reply | None:
    """ "Port unreachable" in answer to a frame; None where no error may be sent."""
    kind, code = (_V4_UNREACHABLE, 3) if ip.version == 4 else (_V6_UNREACHABLE, 4)
    return _reply(frame, offset, ip, struct.pack("!BBHI", kind, code, 0, 0), "icmp_port_unreachable")


def echo_reply(frame: bytes, offset: int, ip: IpHeader) -> Reply | None:
    """The answer to a ping of a VIP (I5; RFC 1122, 3.2.2.6; RFC 4443, 4.2): its data, and its DSCP.

    Args:
        frame: as it arrived.
        offset: where its IP header begins.
        ip: that header.

    Returns:
        None where the frame is no echo request, or damaged, or from whom gets no answer.
    """
    packet = frame[offset : offset + ip.length]
    message = packet[ip.l4 :]
    number = _ICMP if ip.version == 4 else _ICMPV6
    if ip.protocol != number or ip.part is not Part.WHOLE or len(message) < _ECHO:
        return None
    if message[0] != _ECHO_REQUEST[ip.version] or message[1] != 0 or not may_answer(frame, packet, ip):
        return None
    pseudo_header = b""
    if ip.version == 6:
        pseudo_header = ip.source + ip.destination + struct.pack("!II", len(message), _ICMPV6)
    if checksum(pseudo_header + message) != 0:
        return None
    answer = bytes((_ECHO_REPLY[ip.version], 0)) + message[2:]
    build = ipv4_message if ip.version == 4 else ipv6_message
    reply = build(ip.destination, ip.source, answer, ip.traffic_class & ~3)  # DSCP; ECN is nothing to be echoed
    return Reply(back(frame, offset) + reply, "icmp_echo_reply", ip.destination)


def _reply(frame: bytes, offset: int, ip: IpHeader, message: bytes, kind: str) -> Reply | None:
    packet = frame[offset : offset + ip.length]
    if not may_answer(frame, packet, ip):
        return None
    error = error_packet(ip.version, ip.destination, ip.source, message, packet)
    return Reply(back(frame, offset) + error, kind, ip.destination)


def back(frame: bytes, offset: int) -> bytes:
    """The Ethernet header of an answer. Tags go back with it: it has to reach the segment that the frame came from."""
    return frame[6:12] + frame[:6] + frame[ETHERNET - 2 : offset]


def may_answer(frame: bytes, packet: bytes, ip: IpHeader) -> bool:
    """Whether a packet may have an answer of ours, by its sender and its kind."""
    return not frame[6] & 1 and answerable(packet, ip)


def answerable(packet: bytes, ip: IpHeader) -> bool:
    """Whether there may be an ICMP error about a packet (RFC 1122, 3.2.2; RFC 4443, 2.4).

    Args:
        packet: from its IP header on, at least as far as the first byte of L4.
        ip: its header.
    """
    if ip.part is Part.LATER or ip.source == ip.destination:
        return False
    if ip.version == 4:
        # 0.0.0.0/8, 127.0.0.0/8, multicast, reserved and broadcast are no single host.
        return ip.source[0] not in (0, 127) and ip.source[0] < 224 and not _is_error(packet, ip)
    return ip.source[0] != 0xFF and int.from_bytes(ip.source, "big") > 1 and not _is_error(packet, ip)


def _is_error(packet: bytes, ip: IpHeader) -> bool:
    """Whether the packet is an ICMP error, or one may have been cut off it."""
    if ip.protocol not in (_ICMP, _ICMPV6):
        return False
    if ip.l4 == ip.length:
        return True
    kind = packet[ip.l4]
    return kind in _V4_ERRORS if ip.protocol == _ICMP else kind < 128


def too_big_message(version: int, mtu: int) -> bytes:
    """The first eight bytes of "fragmentation needed" or "packet too big", without a checksum."""
    if version == 4:
        return struct.pack("!BBHHH", _V4_UNREACHABLE, _V4_FRAGMENTATION_NEEDED, 0, 0, mtu)
    return struct.pack("!BBHI", _V6_TOO_BIG, 0, 0, max(mtu, LEAST_IPV6))


def error_packet(version: int, source: bytes, destination: bytes, message: bytes, quote: bytes) -> bytes:
    """An ICMP error as an IP packet.

    Args:
        version: 4 or 6.
        source: who says it; 4 or 16 bytes.
        destination: who is told.
        message: the first eight bytes, without a checksum.
        quote: the packet that it is about, from its IP header on. What would make the error too long is cut off.
    """
    if version == 4:
        return ipv4_message(source, destination, (message + quote)[: MAX_V4 - 20], _INTERNETWORK_CONTROL)
    return ipv6_message(source, destination, (message + quote)[: MAX_V6 - 40], 0)


def ipv4_message(source: bytes, destination: bytes, message: bytes, service: int) -> bytes:
    """An ICMP message, whose checksum is put in, in an IPv4 packet of that type of service."""
    message = message[:2] + bytes(2) + message[4:]
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    # DF and identification 0: it fits where its cause came from, and nobody needs to tell it from another (RFC 6864).
    head = struct.pack("!BBHHHBB", 0x45, service, 20 + len(message), 0, _DONT_FRAGMENT, _HOP_LIMIT, _ICMP)
    addresses = source + destination
    return head + checksum(head + addresses).to_bytes(2, "big") + addresses + message


def ipv6_message(source: bytes, destination: bytes, message: bytes, service: int) -> bytes:
    """An ICMPv6 message, whose checksum is put in, in an IPv6 packet of that traffic class."""
    message = message[:2] + bytes(2) + message[4:]
    addresses = source + destination
    pseudo_header = addresses + struct.pack("!II", len(message), _ICMPV6)
    message = message[:2] + checksum(pseudo_header + message).to_bytes(2, "big") + message[4:]
    return struct.pack("!IHBB", 6 << 28 | service << 20, len(message), _ICMPV6, _HOP_LIMIT) + addresses + message

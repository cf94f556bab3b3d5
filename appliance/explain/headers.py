"""Frames taken apart into headers, for people and scripts: names and values, outermost first."""

import struct
from collections.abc import Iterator
from ipaddress import ip_address

from appliance.packet.encap import GUE_PORT

Header = dict[str, object]

_TAGS = (0x8100, 0x88A8)
_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
_IP_IN_IP = {4: 4, 41: 6}
_GRE, _TCP, _UDP, _ICMP, _ICMPV6, _FRAGMENT = 47, 6, 17, 1, 58, 44


def headers(frame: bytes) -> list[Header]:
    """The headers of an Ethernet frame as far as they are known and whole. Each has its name under `header`.

    Args:
        frame: may be cut off anywhere.
    """
    return list(_ethernet(frame))


def _ethernet(frame: bytes) -> Iterator[Header]:
    if len(frame) < 14:
        return
    tags, at = [], 12
    (ethertype,) = struct.unpack_from("!H", frame, at)
    while ethertype in _TAGS and len(frame) >= at + 6:
        tags.append(struct.unpack_from("!H", frame, at + 2)[0] & 0xFFF)
        at += 4
        (ethertype,) = struct.unpack_from("!H", frame, at)
    yield {"header": "ethernet", "source": frame[6:12].hex(":"), "destination": frame[:6].hex(":"), "vlans": tags}
    yield from _network(ethertype, frame[at + 2 :])


def _network(ethertype: int, packet: bytes) -> Iterator[Header]:
    if ethertype == 0x0800:
        yield from _ipv4(packet)
    elif ethertype == 0x86DD:
        yield from _ipv6(packet)


def _ipv4(packet: bytes) -> Iterator[Header]:
    if len(packet) < 20:
        return
    length = (packet[0] & 15) * 4
    total, ident, fragmentation = struct.unpack_from("!HHH", packet, 2)
    offset = (fragmentation & 0x1FFF) * 8
    yield {
        "header": "ipv4",
        "source": str(ip_address(packet[12:16])),
        "destination": str(ip_address(packet[16:20])),
        "protocol": packet[9],
        "length": total,
        "ttl": packet[8],
        "dscp": packet[1] >> 2,
        "ecn": packet[1] & 3,
        "ident": ident,
        "dont_fragment": bool(fragmentation & 0x4000),
        "more_fragments": bool(fragmentation & 0x2000),
        "offset": offset,
    }
    if not offset:
        yield from _transport(packet[9], packet[max(length, 20) :])


def _ipv6(packet: bytes) -> Iterator[Header]:
    if len(packet) < 40:
        return
    word, payload = struct.unpack_from("!IH", packet)
    yield {
        "header": "ipv6",
        "source": str(ip_address(packet[8:24])),
        "destination": str(ip_address(packet[24:40])),
        "next_header": packet[6],
        "length": 40 + payload,
        "hop_limit": packet[7],
        "dscp": word >> 22 & 63,
        "ecn": word >> 20 & 3,
        "flow_label": word & 0xFFFFF,
    }
    if packet[6] == _FRAGMENT and len(packet) >= 48:
        following, offset, ident = struct.unpack_from("!BxHI", packet, 40)
        yield {
            "header": "fragment",
            "next_header": following,
            "offset": offset & ~7,
            "more_fragments": bool(offset & 1),
            "ident": ident,
        }
        if not offset & ~7:
            yield from _transport(following, packet[48:])
    else:
        yield from _transport(packet[6], packet[40:])


def _transport(protocol: int, payload: bytes) -> Iterator[Header]:
    if protocol in _IP_IN_IP:
        yield from _ipv4(payload) if _IP_IN_IP[protocol] == 4 else _ipv6(payload)
    elif protocol == _GRE and len(payload) >= 4:
        flags, ethertype = struct.unpack_from("!HH", payload)
        yield {"header": "gre", "flags_and_version": flags, "type": ethertype}
        if not flags:
            yield from _network(ethertype, payload[4:])
    elif protocol == _TCP and len(payload) >= 20:
        source, destination, sequence, acknowledged = struct.unpack_from("!HHII", payload)
        yield {
            "header": "tcp",
            "source_port": source,
            "destination_port": destination,
            "flags": [name for bit, name in enumerate(_FLAGS) if payload[13] >> bit & 1],
            "sequence": sequence,
            "acknowledged": acknowledged,
        }
    elif protocol == _UDP and len(payload) >= 8:
        yield from _udp(payload)
    elif protocol in (_ICMP, _ICMPV6) and len(payload) >= 8:
        kind, code, rest = payload[0], payload[1], struct.unpack_from("!I", payload, 4)[0]
        found: Header = {"header": "icmp" if protocol == _ICMP else "icmpv6", "type": kind, "code": code}
        if (protocol, kind, code) == (_ICMP, 3, 4) or (protocol, kind) == (_ICMPV6, 2):
            found["mtu"] = rest & 0xFFFF if protocol == _ICMP else rest
        yield found


def _udp(payload: bytes) -> Iterator[Header]:
    source, destination, length, check = struct.unpack_from("!HHHH", payload)
    yield {
        "header": "udp",
        "source_port": source,
        "destination_port": destination,
        "length": length,
        "checksum": check,
    }
    if destination == GUE_PORT and len(payload) >= 12 and payload[8] >> 6 == 0 and payload[9] in _IP_IN_IP:
        yield {"header": "gue", "variant": payload[8] >> 6, "protocol": payload[9]}
        yield from _transport(payload[9], payload[12 + (payload[8] & 31) * 4 :])

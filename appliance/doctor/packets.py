"""The doctor's own packets, and what answers say. Bytes only, nothing is sent here. Pure.

A question is a SYN (RFC 9293) or a datagram. A SYN can be as long as any segment: what it carries beyond its header a
listener that knows no Fast Open (RFC 7413) leaves aside, so the size of a way can be tried without an application that
hears of it.
"""

import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from appliance.doctor.evidence import IcmpError
from appliance.model import IPAddress, Protocol
from appliance.packet.action import Reason
from appliance.packet.checksum import checksum
from appliance.packet.encap import GUE_PORT
from appliance.packet.headers import parse_ip

_SYN, _RST, _ACK = 2, 4, 16
_MSS_OPTION = 2
_ICMP = {4: 1, 6: 58}
_ICMP_HEADER = 8
_IN_IP = {4: 4, 41: 6}
_GRE = 47
_UDP = 17
_BETWEEN = {_GRE: 4, _UDP: 12}
"""Bytes between the outer header and the inner packet, by the outer header's protocol."""
_ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
ADVERTISED_MSS = 1220


class Said(Enum):
    SYN_ACK = "syn_ack"
    RST = "rst"
    DATAGRAM = "datagram"
    ERROR = "error"


@dataclass(frozen=True)
class Answer:
    """A packet to us that may be an answer."""

    said: Said
    port: int
    """Ours; of an error that of the packet that it quotes, 0 where it quotes too little."""

    source: IPAddress
    acknowledged: int = 0
    mss: int | None = None
    error: IcmpError | None = None
    member: IPAddress | None = None
    """The outer packet's destination, where an error quotes one."""


def _ip(source: IPAddress, destination: IPAddress, protocol: int, payload: bytes, hop_limit: int) -> bytes:
    addresses = source.packed + destination.packed
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hop_limit) + addresses + payload
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 0, 0x4000, hop_limit, protocol)
    return head + checksum(head + addresses).to_bytes(2, "big") + addresses + payload


def _summed(source: IPAddress, destination: IPAddress, protocol: int, payload: bytes, at: int) -> bytes:
    pseudo = source.packed + destination.packed + struct.pack("!II", len(payload), protocol)
    value = checksum(pseudo + payload) or (0xFFFF if protocol == _UDP else 0)
    return payload[:at] + value.to_bytes(2, "big") + payload[at + 2 :]


def syn(
    source: IPAddress, destination: IPAddress, ports: tuple[int, int], number: int, hop_limit: int, length: int = 0
) -> bytes:
    """An IP packet that opens a connection.

    Args:
        source: ours.
        destination: whom it asks.
        ports: ours and theirs.
        number: its sequence number.
        hop_limit: or TTL.
        length: of the whole packet; what is missing is filled with zeros.
    """
    head = 20 if source.version == 4 else 40
    segment = struct.pack("!HHIIBBHHHBBH", *ports, number, 0, 6 << 4, _SYN, 65535, 0, 0, _MSS_OPTION, 4, ADVERTISED_MSS)
    segment = segment.ljust(length - head, b"\0")
    return _ip(source, destination, 6, _summed(source, destination, 6, segment, 16), hop_limit)


def rst(source: IPAddress, destination: IPAddress, ports: tuple[int, int], number: int, hop_limit: int) -> bytes:
    """The end of a connection that a SYN has begun. *number* is what follows that of the SYN."""
    segment = struct.pack("!HHIIBBHHH", *ports, number, 0, 5 << 4, _RST, 0, 0, 0)
    return _ip(source, destination, 6, _summed(source, destination, 6, segment, 16), hop_limit)


def datagram(
    source: IPAddress, destination: IPAddress, ports: tuple[int, int], payload: bytes, hop_limit: int
) -> bytes:
    """An IP packet with a UDP datagram. *ports* are ours and theirs."""
    made = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    return _ip(source, destination, 17, _summed(source, destination, 17, made, 6), hop_limit)


def read(packet: bytes, version: int) -> Answer | None:
    """What a packet to us says; None: nothing that could be an answer.

    Args:
        packet: from the IP header on, maybe cut off.
        version: of IP.
    """
    ip = parse_ip(_whole(packet, version), version)
    if isinstance(ip, Reason):
        return None
    source, l4 = ip_address(ip.source), packet[ip.l4 :]
    if ip.protocol == Protocol.TCP and len(l4) >= 20:
        flags, acknowledged = l4[13], int.from_bytes(l4[8:12], "big")
        said = Said.RST if flags & _RST else Said.SYN_ACK if flags & _SYN and flags & _ACK else None
        return None if said is None else Answer(said, int.from_bytes(l4[2:4], "big"), source, acknowledged, _mss(l4))
    if ip.protocol == Protocol.UDP and len(l4) >= 8:
        return Answer(Said.DATAGRAM, int.from_bytes(l4[2:4], "big"), source)
    if ip.protocol == _ICMP[version] and len(l4) > _ICMP_HEADER and l4[0] in _ERRORS[version]:
        return _error(l4, version, source)
    return None


def _whole(packet: bytes, version: int) -> bytes:
    """As long as its header says, since what is beyond the beginning was not taken."""
    length = int.from_bytes(packet[2:4], "big") if version == 4 else 40 + int.from_bytes(packet[4:6], "big")
    return packet.ljust(length, b"\0")


def _mss(segment: bytes) -> int | None:
    """The option of a SYN-ACK (RFC 9293, 3.2)."""
    options = segment[20 : (segment[12] >> 4) * 4]
    while options and options[0]:
        if options[0] == 1:
            options = options[1:]
        elif len(options) < 2 or options[1] < 2:
            return None
        elif options[0] == _MSS_OPTION and len(options) >= 4:
            return int.from_bytes(options[2:4], "big")
        else:
            options = options[options[1] :]
    return None


def _error(message: bytes, version: int, sender: IPAddress) -> Answer:
    """What an error quotes: the inner packet, or the outer one and as much of the inner one as there is."""
    quote, quoted_version, outer, member = message[_ICMP_HEADER:], version, False, None
    protocol, l4 = _quoted(quote, quoted_version)
    gue = protocol == _UDP and quote[l4 + 2 : l4 + 4] == GUE_PORT.to_bytes(2, "big")
    if protocol in _IN_IP or protocol == _GRE or gue:
        outer = True
        at = 16 if version == 4 else 24
        member = ip_address(quote[at : at + (4 if version == 4 else 16)])
        quote = quote[l4 + _BETWEEN.get(protocol, 0) :]
        quoted_version = quote[0] >> 4 if quote else 0
        protocol, l4 = _quoted(quote, quoted_version)
    port = int.from_bytes(quote[l4 : l4 + 2], "big") if protocol in (6, 17) else 0
    return Answer(Said.ERROR, port, sender, error=IcmpError(message[0], message[1], sender, outer), member=member)


def _quoted(quote: bytes, version: int) -> tuple[int, int]:
    """Protocol, and where what follows the header begins; zeros where there is too little."""
    if version == 4 and len(quote) >= 20:
        return quote[9], (quote[0] & 15) * 4
    return (quote[6], 40) if version == 6 and len(quote) >= 40 else (0, 0)

"""Counts, on a member, packets of a director that asks: do they come, and out of the tunnel, and do replies go?"""

import socket
import struct
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address

from appliance.dataplane.raw import kernel
from appliance.doctor.member import IPAddress, Seen
from appliance.packet.action import Reason
from appliance.packet.encap import GUE_PORT
from appliance.packet.headers import parse_ip

MOST = 5_000
"""Packets that are looked at in one watch: enough to tell, and no load on a member whose director is busy."""

AT_ONCE = 128
_SNAPLEN = 128
_ETH_P_ALL = 3
_OUTGOING = 4
_TUNNELS = {4, 41, 47}
_TCP, _UDP = 6, 17
_SYN_RST = 2 | 4
_BETWEEN = {47: 4, _UDP: 12}
"""Bytes between the outer header and the inner packet, where there are any."""
_LD_W, _LD_B, _AND, _JEQ, _RET = 0x20, 0x30, 0x54, 0x15, 0x06


class Watch:
    """One director's packets, from now until `close`. Sockets are read by whoever owns the event loop."""

    def __init__(self, askers: Iterable[IPAddress], vips: Iterable[IPAddress]) -> None:
        """
        Args:
            askers: the director's addresses.
            vips: that it asks.

        Raises:
            OSError: no raw sockets are to be had.
        """
        self._askers, self._vips = frozenset(askers), frozenset(vips)
        self._counts = {vip: Counter[str]() for vip in self._vips}
        self._taken = 0
        # Of all interfaces, so it hears from its first moment on; `_count` leaves strangers aside.
        every = socket.htons(_ETH_P_ALL)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, every)
        try:
            kernel.attach_filter(self._socket, _wanted(self._askers))
        except OSError:
            self._socket.close()
            raise

    @property
    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_full(self) -> bool:
        return self._taken >= MOST

    def take(self, at_once: int = AT_ONCE) -> None:
        """Look at packets that have come."""
        for _ in range(at_once):
            try:
                packet, address = self._socket.recvfrom(_SNAPLEN)
            except OSError:
                return
            self._taken += 1
            self._count(packet, outgoing=address[2] == _OUTGOING)

    def seen(self) -> dict[str, Seen]:
        """What there was so far, by VIP."""
        self.take(MOST)
        return {str(vip): Seen(one["outer"], one["inner"], one["replies"]) for vip, one in self._counts.items()}

    def close(self) -> None:
        self._socket.close()

    def _count(self, packet: bytes, *, outgoing: bool) -> None:
        ends = _ends(packet)
        if ends is None:
            return
        source, destination, inner = ends
        if outgoing:
            if destination in self._askers and source in self._vips and not _goes_on(packet):
                self._counts[source]["replies"] += 1
        elif source in self._askers and destination in self._vips:
            self._counts[destination]["inner"] += 1
        elif source in self._askers and (inside := _ends(inner)) is not None and inside[1] in self._vips:
            self._counts[inside[1]]["outer"] += 1


def _goes_on(packet: bytes) -> bool:
    """Whether it is of a TCP connection from before, and so no answer: neither a SYN-ACK nor an RST."""
    version = packet[0] >> 4
    ip = parse_ip(_pretend(packet, version), version)
    if isinstance(ip, Reason) or ip.protocol != _TCP:
        return False
    return not int.from_bytes(packet[ip.l4 + 13 : ip.l4 + 14], "big") & _SYN_RST


def _ends(packet: bytes) -> tuple[IPAddress, IPAddress, bytes] | None:
    """Source and destination, and what is in the packet if it is a tunnel's; None: it is no IP packet."""
    version = packet[0] >> 4 if packet else 0
    ip = parse_ip(_pretend(packet, version), version) if version in (4, 6) else Reason.NOT_IP
    if isinstance(ip, Reason):
        return None
    gue = ip.protocol == _UDP and packet[ip.l4 + 2 : ip.l4 + 4] == GUE_PORT.to_bytes(2, "big")
    inner = packet[ip.l4 + _BETWEEN.get(ip.protocol, 0) :] if ip.protocol in _TUNNELS or gue else b""
    return ip_address(ip.source), ip_address(ip.destination), inner


def _pretend(packet: bytes, version: int) -> bytes:
    """The packet as long as its header says: what is beyond the snapshot is not looked at."""
    length = int.from_bytes(packet[2:4], "big") if version == 4 else 40 + int.from_bytes(packet[4:6], "big")
    return packet.ljust(min(length, 65535), b"\0")


def _wanted(addresses: frozenset[IPAddress]) -> bytes:
    """Packets from or to these, as `struct sock_filter[]` (classic BPF) from the IP header on. Of IPv6 the last word of
    an address is compared; `_count` looks at all."""
    code: list[tuple[int, int, int, int]] = []
    for version, offsets in ((4, (12, 16)), (6, (20, 36))):
        words = sorted({int(one) & 0xFFFFFFFF for one in addresses if one.version == version})
        body: list[tuple[int, int, int, int]] = []
        for offset in offsets:
            body.append((_LD_W, 0, 0, offset))
            for word in words:
                body += [(_JEQ, 0, 1, word), (_RET, 0, 0, _SNAPLEN)]
        body.append((_RET, 0, 0, 0))
        code += [(_LD_B, 0, 0, 0), (_AND, 0, 0, 0xF0), (_JEQ, 0, len(body), version << 4), *body]
    code.append((_RET, 0, 0, 0))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)

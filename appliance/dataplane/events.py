"""Samples of what a plane does with single packets: for people who want to know why, never complete."""

from collections import deque
from dataclasses import dataclass
from ipaddress import IPv6Address

from appliance.packet.action import Reason
from appliance.packet.headers import parse_ethernet

KEPT = 256
"""How many samples are remembered."""


@dataclass(frozen=True)
class PacketEvent:
    """One packet, and what became of it."""

    at: float
    """Seconds, CLOCK_MONOTONIC."""

    what: str
    """`new_flow`, `drop`, `slow_path` and `pass` (of the XDP program), or `reply`."""

    reason: str
    """Why, in the words of `packet.action.Reason`; the kind of a reply; empty for a new flow."""

    interface: str
    """Where it arrived."""

    length: int
    """Bytes of the frame."""

    source: str = ""
    destination: str = ""
    """Addresses as far as the frame shows them, with ports where there are any."""

    protocol: int | None = None


class EventLog:
    """The latest samples. Written by one thread at a time, read by any."""

    def __init__(self) -> None:
        self._events: deque[PacketEvent] = deque(maxlen=KEPT)
        self.seen = 0
        """How many there were in all."""

    def add(self, event: PacketEvent) -> None:
        self._events.append(event)
        self.seen += 1

    def latest(self) -> tuple[PacketEvent, ...]:
        """The newest last."""
        return tuple(self._events)


def describe_frame(head: bytes) -> tuple[str, str, int | None]:
    """Source, destination and protocol of a frame of which only the beginning may be there."""
    link = parse_ethernet(head)
    if isinstance(link, Reason):
        return head[6:12].hex(":"), head[:6].hex(":"), None
    packet = head[link.length :]
    if link.version == 4 and len(packet) >= 20:
        l4, protocol, first = (packet[0] & 15) * 4, packet[9], not int.from_bytes(packet[6:8], "big") & 0x1FFF
        source, destination = ".".join(map(str, packet[12:16])), ".".join(map(str, packet[16:20]))
    elif link.version == 6 and len(packet) >= 40:
        l4, protocol, first = 40, packet[6], True
        source, destination = _ipv6(packet[8:24]), _ipv6(packet[24:40])
    else:
        return head[6:12].hex(":"), head[:6].hex(":"), None
    if protocol in (6, 17) and first and l4 >= 20 and len(packet) >= l4 + 4:
        ports = packet[l4 : l4 + 4]
        source += f":{int.from_bytes(ports[:2], 'big')}"
        destination += f":{int.from_bytes(ports[2:], 'big')}"
    return source, destination, protocol


def _ipv6(address: bytes) -> str:
    return f"[{IPv6Address(address)}]"

"""What becomes of single frames, in full, while somebody captures: with the bytes that arrived and those that left.

A plane that nobody asks for it does nothing for it. One that is asked never waits: what finds no room is lost, and
counted.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from appliance.model import IPAddress
from appliance.packet.action import Reason, Verdict
from appliance.packet.headers import parse_ethernet

SNAPLEN = 4096
"""Bytes of a frame that can be had, at most."""

ROOM = 8192
"""Frames that may wait to be taken."""

_ADDRESSES = {4: (12, 16, 20), 6: (8, 24, 40)}
"""Where source and destination begin in an IP header, and where the second ends."""


@dataclass(frozen=True)
class Wanted:
    """Which frames are of interest. What is said here is looked at first, where frames are many."""

    client: IPv4Network | IPv6Network | None = None
    vip: IPAddress | None = None
    snaplen: int = SNAPLEN
    """Bytes of each frame, as it arrived and as it left; 64 to SNAPLEN."""

    def matches(self, frame: bytes) -> bool:
        """Whether a frame is from such a client to such a VIP.

        Args:
            frame: as it arrived; its beginning is enough.
        """
        if self.client is None and self.vip is None:
            return True
        link = parse_ethernet(frame)
        if isinstance(link, Reason):
            return False
        first, second, end = (link.length + at for at in _ADDRESSES[link.version])
        if len(frame) < end:
            return False
        return _within(frame[first:second], self.client) and (self.vip is None or frame[second:end] == self.vip.packed)


def _within(address: bytes, network: IPv4Network | IPv6Network | None) -> bool:
    if network is None:
        return True
    if len(address) != network.max_prefixlen // 8:
        return False
    mask = int(network.netmask)
    return int.from_bytes(address, "big") & mask == int(network.network_address)


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame that left."""

    interface: str
    frame: bytes
    """Its first bytes, as many as are wanted."""
    length: int
    """Of all of it."""
    kind: str = ""
    """Of an answer of our own (`Reply.kind`); empty for what went to a member."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A frame that a plane has treated, and what became of it."""

    at_ns: int
    """CLOCK_MONOTONIC."""
    interface: str
    """Where it arrived."""
    frame: bytes
    """Its first bytes, as many as are wanted."""
    length: int
    """Of all of it."""
    verdict: Verdict
    reason: str = ""
    sent: tuple[Sent, ...] = ()
    service: str = ""
    """The virtual service, where the plane knew it; a plane that works on whole batches does not keep such notes."""
    member: str = ""
    """`pool/member`, the same."""
    slot: int | None = None
    by: str = ""
    """What has decided on the member (`packet.action.By`), where the plane kept a note of it."""


class Recording:
    """Frames of one capture: put in by planes from any thread, taken out by whoever captures."""

    def __init__(self, wanted: Wanted, room: int = ROOM) -> None:
        """
        Args:
            wanted: which frames.
            room: how many may wait.
        """
        self.wanted = wanted
        self._room = room
        self._waiting: deque[Captured] = deque()
        self._lock = threading.Lock()
        self._lost = 0
        self.pull: Callable[[int], int] | None = None
        """Where a plane has frames elsewhere: brings so many of them here at most, and says how many it has lost so
        far."""
        self._lost_elsewhere = 0

    def add(self, captured: Captured) -> None:
        """Never waits."""
        if self.full:
            self.lose(1)
        else:
            self._waiting.append(captured)

    def lose(self, number: int) -> None:
        """So many frames were not looked at."""
        with self._lock:
            self._lost += number

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self._room

    @property
    def lost(self) -> int:
        """Frames that found no room, up to the last `take`. Some of them may not have been wanted."""
        return self._lost + self._lost_elsewhere

    def take(self, limit: int) -> Sequence[Captured]:
        """The oldest frames, as far as there are any. By one thread at a time."""
        if self.pull is not None:
            self._lost_elsewhere = self.pull(limit)
        taken: list[Captured] = []
        while self._waiting and len(taken) < limit:
            taken.append(self._waiting.popleft())
        return taken

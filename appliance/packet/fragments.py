"""Datagrams in fragments: what was decided on the first one, and where the others wait for it (packets.md, F1 to F3).

Only the first fragment has ports, so only of that one the flow is known. The others go where it went; and one that
comes before it is held for a moment. Whose fragments they are says the IP header: `action.Datagram`.

Both kinds of memory are bounded, and so is what one sender can have of them: a flood costs others' datagrams no more
than a sender's share. A sender is an IPv4 address or an IPv6 /64, which one host has to itself (RFC 6177).
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance.packet.action import Datagram
from appliance.packet.headers import Flow, IpHeader

LIFETIME_NS = 30_000_000_000
"""For how long it is known what was decided on a first fragment: as long as Linux waits for the others."""

DATAGRAMS, DATAGRAMS_EACH = 16_384, 1_024
"""That are remembered at once, of all senders and of each."""

HOLD_NS = 2_000_000
"""How long a fragment waits for the first one of its datagram."""

HELD, HELD_EACH, HELD_BYTES = 1_024, 128, 2 << 20
"""Frames that wait at once, of all senders and of each; and their bytes. 64 KiB, the largest datagram that there is,
come in 45 fragments over Ethernet."""

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided on a first fragment."""

    protocol: int
    """TCP or UDP."""
    ports: bytes
    """Source and destination port, 4 bytes."""
    member: int
    """TableMember.index."""

    def flow(self, datagram: Datagram) -> Flow:
        """The flow of all of the datagram's fragments."""
        return Flow(datagram.source, datagram.destination, self.protocol, self.ports)


def datagram_of(ip: IpHeader) -> Datagram:
    """The datagram that a fragment belongs to. In IPv6 only the first one says what it carries (RFC 8200, 4.5)."""
    return Datagram(ip.source, ip.destination, ip.ident, ip.protocol if ip.version == 4 else 0)


class Fragments:
    """What was decided on first fragments. Written by one thread; any may read."""

    def __init__(self, clock_ns: Callable[[], int], limit: int = DATAGRAMS, each: int = DATAGRAMS_EACH) -> None:
        """
        Args:
            clock_ns: the monotonic clock.
            limit: datagrams that are remembered at once.
            each: of these, how many may be of one sender.
        """
        self._clock_ns = clock_ns
        self._known: _Queue[Datagram, Decided] = _Queue(limit, each)
        self.kept = 0
        """First fragments, so far."""

    def __len__(self) -> int:
        return len(self._known)

    def keep(self, datagram: Datagram, decided: Decided) -> None:
        """Remember what was decided on the first fragment of a datagram, in the place of an earlier one."""
        now_ns = self._clock_ns()
        while (oldest_ns := self._known.oldest_ns()) is not None and now_ns - oldest_ns > LIFETIME_NS:
            self._known.take_oldest()
        self._known.add(datagram, _sender(datagram), now_ns, decided)
        self.kept += 1

    def find(self, datagram: Datagram) -> Decided | None:
        """What was decided on the first fragment of a datagram, as far as it is known."""
        entry = self._known.find(datagram)
        return entry.value if entry is not None and self._clock_ns() - entry.since_ns <= LIFETIME_NS else None


class Waiting(Generic[T]):
    """Fragments that wait for the first one of their datagram. Time comes in as nanoseconds of one clock."""

    def __init__(self, limit: int = HELD, each: int = HELD_EACH, max_bytes: int = HELD_BYTES) -> None:
        """
        Args:
            limit: frames that wait at once.
            each: of these, how many may be of one sender.
            max_bytes: of all of them.
        """
        self._frames: _Queue[int, tuple[Datagram, int, T]] = _Queue(limit, each)
        self._of: dict[Datagram, list[int]] = {}
        self._next = 0
        self._bytes = 0
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, datagram: Datagram, item: T, size: int, now_ns: int) -> list[T]:
        """Let a frame wait.

        Args:
            datagram: that it belongs to.
            item: what is handed back when it need not wait any more.
            size: of the frame, bytes.
            now_ns: since when it waits.

        Returns:
            Those that wait no longer, since there is no room: of the same sender where it has its share, the oldest
            first. Maybe this one itself.
        """
        number = self._next
        self._next += 1
        self._of.setdefault(datagram, []).append(number)
        self._bytes += size
        gone = [
            self._gone(entry) for entry in self._frames.add(number, _sender(datagram), now_ns, (datagram, size, item))
        ]
        while self._bytes > self._max_bytes:
            gone.append(self._gone(self._frames.take_oldest()))
        return gone

    def release(self, datagram: Datagram) -> list[T]:
        """The frames of a datagram, which wait no longer: as they came."""
        return [self._gone(self._frames.take(number)) for number in list(self._of.get(datagram, ()))]

    def due(self, now_ns: int) -> list[T]:
        """Frames that have waited in vain: as they came."""
        found = []
        while (oldest_ns := self._frames.oldest_ns()) is not None and now_ns - oldest_ns >= HOLD_NS:
            found.append(self._gone(self._frames.take_oldest()))
        return found

    def _gone(self, entry: tuple[Datagram, int, T]) -> T:
        """Book that a frame is not there any more; it is the oldest one of its datagram."""
        datagram, size, item = entry
        self._bytes -= size
        numbers = self._of[datagram]
        del numbers[0]
        if not numbers:
            del self._of[datagram]
        return item


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    since_ns: int
    sender: bytes
    value: V


class _Queue(Generic[K, V]):
    """Entries in the order in which they came: so many of all senders, and so many of each."""

    def __init__(self, limit: int, each: int) -> None:
        self._limit, self._each = limit, each
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._of: dict[bytes, OrderedDict[K, None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: K) -> _Entry[V] | None:
        return self._entries.get(key)

    def oldest_ns(self) -> int | None:
        """When the oldest one came."""
        return next(iter(self._entries.values())).since_ns if self._entries else None

    def take_oldest(self) -> V:
        return self.take(next(iter(self._entries)))

    def take(self, key: K) -> V:
        entry = self._entries.pop(key)
        mine = self._of[entry.sender]
        del mine[key]
        if not mine:
            del self._of[entry.sender]
        return entry.value

    def add(self, key: K, sender: bytes, now_ns: int, value: V) -> list[V]:
        """Add an entry, or put it in the place of an earlier one. Returns what had to make room: one at most."""
        if key in self._entries:
            self.take(key)
        gone = []
        if len(mine := self._of.get(sender, ())) >= self._each:
            gone.append(self.take(next(iter(mine))))
        elif len(self._entries) >= self._limit:
            gone.append(self.take_oldest())
        self._of.setdefault(sender, OrderedDict())[key] = None
        self._entries[key] = _Entry(now_ns, sender, value)
        return gone


def _sender(datagram: Datagram) -> bytes:
    return datagram.source if len(datagram.source) == 4 else datagram.source[:8]

"""How many of a peer's datagrams do not arrive, from the numbers of those that do. Pure.

A flood with the peer's address takes the place of genuine datagrams in a socket's buffer, and nobody is told: the
sender has sent them, and the reader never had them. Only numbers show it: a peer counts what it sends to us, so what is
missing between two that we have was lost. Each end tells the other, in every datagram (wire.py).
"""

from collections import deque

PERIOD_NS = 3_000_000_000
"""What is said is about the time since then."""

SILENCE_NS = 2_500_000_000
"""A peer greets every second: when nothing came for so long, all is lost that it may have sent."""

_MARK_NS = 100_000_000
_JUMP = 1 << 20
"""Numbers may go on much further on, when a peer begins to send to us again."""


class Arrivals:
    """Of the datagrams that one peer sends to one life of ours."""

    def __init__(self) -> None:
        self._top: int | None = None
        self._heard_ns = 0
        self._sent = self._taken = 0
        """Since the first one, as its numbers say, and as they came."""
        self._marks: deque[tuple[int, int, int]] = deque()
        """When, and how many of both there were."""

    def note(self, sequence: int, now_ns: int) -> None:
        """A datagram of this number is here, for the first time."""
        self._heard_ns = now_ns
        if self._top is None or sequence - self._top > _JUMP:
            self._top, self._sent, self._taken = sequence, 0, 0
            self._marks = deque([(now_ns, 0, 0)])
            return
        ahead = sequence - self._top
        if ahead > 0:
            self._top += ahead
            self._sent += ahead
        self._taken += ahead > -self._sent

    def missing(self, now_ns: int) -> float:
        """The share of those sent lately, 0 to 1. A single one may still be on its way, and does not count."""
        if self._top is None:
            return 0.0
        if now_ns - self._heard_ns > SILENCE_NS:
            return 1.0
        if now_ns - self._marks[-1][0] >= _MARK_NS:
            self._marks.append((now_ns, self._sent, self._taken))
        while len(self._marks) > 1 and self._marks[1][0] <= now_ns - PERIOD_NS:
            self._marks.popleft()
        _, sent, taken = self._marks[0]
        lost = (self._sent - sent) - (self._taken - taken)
        return lost / (self._sent - sent) if lost > 1 else 0.0

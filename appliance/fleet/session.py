"""What one director may believe of what another one tells it: lives, sequence numbers, and how old news is. Pure.

What we defend against: anybody can send us datagrams, with a peer's address as their source; can read, record, delay,
repeat, reorder and drop those of our peers; and does not know the fleet's secret. Such a one can keep us from hearing
our peers. What must not happen is that we take anything as told now that no peer has told us now.

* Nothing without the secret: wire.py's tag. It covers who writes to whom, so a datagram is good for one reader only.
* Nothing twice: every datagram has the next number of its sender's, and a window of the last WINDOW numbers remembers
  which have been seen (RFC 6479 has the idea; numbers have 64 bits and never turn over). Older ones are refused unseen.
* Nothing from an earlier life, neither the sender's nor ours. Numbers begin again when a process does, so a number
  alone is not enough. A *life* is a random number of 64 bits for each run. Datagrams name the sender's and the
  recipient's; we take those only that are addressed to our present life, so whatever was recorded before we started
  is worthless. And those only whose sender's life has been *proved* to be the present one: it has answered a HELLO of
  ours, whose nonce nobody could know before. A recorded greeting makes us greet back, and that is all. As only the
  living can answer, and a nonce counts once and for a few seconds, a life that is over can never come back.
* Nothing older than it looks: an ANSWER binds the sender's clock to ours. It was written after we had asked, so a
  datagram has been under way for at most as long as these two clocks say. That is added to the ages in it, and above
  LATE_NS it is refused. News that somebody holds back, or that waited in a queue, cannot pass for young, and ages need
  no common clock.

Everything that gets through is an idempotent statement about a flow with its age, so order does not matter.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from appliance.fleet.arrivals import Arrivals
from appliance.fleet.wire import Datagram, Kind, Refusal

WINDOW = 1024
"""Sequence numbers that may overtake each other."""

NONCE_NS = 2_000_000_000
"""An answer counts for so long after the question."""

LATE_NS = 3_000_000_000
"""Under way for longer: refused. One tick of a pin's age is a third of that."""

SILENT_NS = 5_000_000_000
"""A peer of which we have heard nothing for so long is not sent any news."""

_GOOD_ROUND_TRIP_NS = 250_000_000
_CLOCK_NS = 10_000_000_000


class ReplayWindow:
    """Which sequence numbers have been seen."""

    def __init__(self) -> None:
        self._top = 0
        self._seen = 1  # bit i: top - i; there is no number 0

    def take(self, sequence: int) -> bool:
        """Whether a number is new; from now on it is not."""
        ahead = sequence - self._top
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & _ALL if ahead < WINDOW else 1
            self._top = sequence
            return True
        if ahead <= -WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


_ALL = (1 << WINDOW) - 1


@dataclass(frozen=True, slots=True)
class _Clock:
    """What an ANSWER says of its sender's clock."""

    asked_ns: int
    """Ours, when we asked: earlier than the answer."""
    theirs_ns: int
    """Theirs, when they answered."""


class Session:
    """What we know of one peer."""

    def __init__(self, life: int, random: Callable[[int], int], sequence: int = 0) -> None:
        """
        Args:
            life: ours.
            random: so many random bits, as `secrets.randbits`.
            sequence: numbers begin after this one; nothing was sent to this peer with a higher one in this life.
        """
        self.peer_life: int | None = None
        """The one that was proved last."""
        self.heard_ns: int | None = None
        """When something was taken from it last."""
        self.answered_ns: int | None = None
        """When the latest of our questions was asked that it has answered: then each heard the other."""
        self.round_trip_ns: int | None = None
        self._life = life
        self._random = random
        self._sequence = itertools.count(sequence + 1)
        self._window = ReplayWindow()
        self._arrivals = Arrivals()
        self._hears_us = False
        self._nonces: dict[int, int] = {}
        self._clock: _Clock | None = None

    def next_sequence(self) -> int:
        """A number for a datagram. Threads may ask at the same moment, and each gets its own."""
        return next(self._sequence)

    def greet(self, now_ns: int) -> int:
        """The nonce for a HELLO that is sent now."""
        self._forget(now_ns)
        nonce = self._random(64)
        self._nonces[nonce] = now_ns
        return nonce

    def is_near(self, now_ns: int) -> bool:
        """Whether the peer has been heard of lately, in a life that we know."""
        return self.heard_ns is not None and now_ns - self.heard_ns < SILENT_NS

    def knows(self, datagram: Datagram) -> bool:
        """Whether a HELLO comes from the life that we know, and to ours: nothing has to be proved."""
        return datagram.life == self.peer_life and datagram.to_life == self._life

    def judge(self, datagram: Datagram, now_ns: int) -> Refusal | None:
        """Whether to take a datagram; None is yes, and then it is taken: the same one again is a replay.

        A HELLO is taken even when it may be an old one: it is only good for an answer.
        """
        if datagram.kind is Kind.HELLO:
            return self._take(datagram, now_ns) if self.knows(datagram) else None
        if datagram.to_life != self._life:
            return Refusal.OTHER_LIFE
        if datagram.kind is Kind.ANSWER:
            return self._answered(datagram, now_ns)
        if datagram.life != self.peer_life:
            return Refusal.OTHER_LIFE
        if self.under_way_ns(datagram, now_ns) > LATE_NS:
            return Refusal.LATE if self._window.take(datagram.sequence) else Refusal.REPLAYED
        return self._take(datagram, now_ns)

    def under_way_ns(self, datagram: Datagram, now_ns: int) -> int:
        """For how long a datagram of the life that we know has been under way, at most."""
        if self._clock is None:
            return 0
        return max(0, (now_ns - self._clock.asked_ns) - (datagram.clock - self._clock.theirs_ns))

    def _answered(self, datagram: Datagram, now_ns: int) -> Refusal | None:
        self._forget(now_ns)
        asked_ns = self._nonces.pop(datagram.nonce, None)
        if asked_ns is None:
            return Refusal.UNASKED
        if datagram.life != self.peer_life:
            self.peer_life = datagram.life
            self._window = ReplayWindow()
            self._arrivals, self._hears_us = Arrivals(), False
            self._clock = None
        self.round_trip_ns = now_ns - asked_ns
        self.answered_ns = max(asked_ns, self.answered_ns or asked_ns)
        # A slow answer says little about the clock; but clocks drift, and some answer has to do.
        if (
            self._clock is None
            or self.round_trip_ns <= _GOOD_ROUND_TRIP_NS
            or now_ns - self._clock.asked_ns > _CLOCK_NS
        ):
            self._clock = _Clock(asked_ns, datagram.clock)
        return self._take(datagram, now_ns)

    def missing(self, now_ns: int) -> float:
        """The share of what the peer has sent us in the last seconds that is not here, 0 to 1."""
        return self._arrivals.missing(now_ns)

    def _take(self, datagram: Datagram, now_ns: int) -> Refusal | None:
        if not self._window.take(datagram.sequence):
            return Refusal.REPLAYED
        self.heard_ns = now_ns
        if datagram.kind is not Kind.ANSWER or self._hears_us:
            # Not before the peer knows our life: what it sends to an earlier one is not meant to arrive.
            self._hears_us = True
            self._arrivals.note(datagram.sequence, now_ns)
        return None

    def _forget(self, now_ns: int) -> None:
        self._nonces = {nonce: at for nonce, at in self._nonces.items() if now_ns - at <= NONCE_NS}

"""Who answers for a VIP on a segment: this director or another one. Pure; time comes in as seconds of one clock.

    silent ──── nobody better is there ──▶ probing ──── nobody has it ──▶ answering
      ▲                                      │ somebody has it                │
      │◀── after a while ── conflict ◀───────┘                                │
      └◀── a better one answers, or the VIP is down here ◀────────────────────┘

Directors tell each other (fleet/channel.py) whether they could answer, and whether they do. Of those that are heard of
and could, the one with the best rank is to answer. It begins, and says so; only then the one before is silent (make
before break). In between two answer, and that does no harm: all directors have the same tables.

*In doubt.* A director that hears nothing of the better ones takes their place, but asks the segment first. So when only
the channel is broken, the segment has an answer from the other one, and that goes on alone: who is asked stays, who
asks waits. Whoever has the VIP and is no director (a member that does not keep quiet about it, a machine with the same
address) is reported. A VIP that it had before us it keeps; while we answer for it, we go on, and announce it anew at
most once in DEFEND_S (RFC 5227, 2.4).

Probes follow each other faster than in RFC 5227, 2.1.1 (1 to 2 s): an address of a fleet has no time for that, and a
segment of machines that answers within 100 ms is what it is for.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

PROBES = 3
PROBE_S = 0.1
"""Between probes, and behind the last one."""
ANNOUNCE_AT_S = (0.0, 0.3, 1.2, 3.0, 7.0, 15.0)
"""When it is announced that we answer, from the beginning: kernels ignore what comes within a second of other news, and
frames get lost."""
CONFLICT_S = 3.0
"""How long to wait until a VIP is probed again that somebody has; with each rank RANK_S more, so that directors that
probe at the same moment do not do so again."""
RANK_S = 0.7
DEFEND_S = 10.0
GRACE_S = 0.3
"""Who is heard on the segment may be a director that has said so to others a moment ago: news take 10 ms."""


class Claim(IntEnum):
    """What directors tell each other of a VIP; two bits."""

    NONE = 0
    """Cannot answer for it."""
    READY = 1
    """Could."""
    ANSWERING = 2
    LEAVING = 3
    """Answers, and is to be relieved."""


class Phase(StrEnum):
    SILENT = "silent"
    PROBING = "probing"
    CONFLICT = "conflict"
    ANSWERING = "answering"


@dataclass(frozen=True)
class Other:
    """Another director, of whom something was heard lately."""

    name: str
    better: bool
    """Whether its rank is."""
    claim: Claim


@dataclass(frozen=True)
class Do:
    """What is to be done on the segment now."""

    probe: bool = False
    announce: bool = False
    conflict: bool = False
    """Somebody has the VIP who should not: to be reported."""


class Owner:
    """One VIP, on one director."""

    def __init__(self, rank: int = 0) -> None:
        """
        Args:
            rank: of this director among those that share the VIP, 0 is the best.
        """
        self.rank = rank
        self.phase = Phase.SILENT
        self.why = "has not begun"
        """Why it is not answered for; in the phase ANSWERING, what we know of others that do."""
        self.since = 0.0
        self.foreign: bytes | None = None
        """The MAC address of whoever had it, as we heard last."""
        self._next = 0.0
        self._count = 0
        self._defended: float | None = None
        self._suspect: tuple[bytes, float, bool] | None = None
        """Whoever was heard of last: the MAC address, when, and whether it asked."""
        self._claim = Claim.NONE

    @property
    def claim(self) -> Claim:
        """What others are to be told."""
        return self._claim

    def step(self, now: float, no: str, others: Iterable[Other], *, leaving: bool = False) -> Do:
        """Go on.

        Args:
            now: the time.
            no: why the VIP is not up here; empty when it is.
            others: directors that are there.
            leaving: whether others are to take it, if there are any.
        """
        others = list(others)
        do = self._look_at_suspect(now, others)
        if no:
            self._be(now, Phase.SILENT, no)
        elif other := self._relieved_by(others, leaving=leaving):
            self._be(now, Phase.SILENT, other)
        elif self.phase is Phase.ANSWERING:
            do = do if do.announce else self._announce(now)
        elif any(other.claim >= Claim.ANSWERING for other in others):
            do = self._begin(now)  # a director has it and will let go of it: the segment need not be asked
        elif self.phase is Phase.SILENT or (self.phase is Phase.CONFLICT and now >= self._next):
            self._be(now, Phase.PROBING, "asks whether somebody has it")
            self._next, self._count = now + PROBE_S, 1
            do = replace(do, probe=True)
        elif self.phase is Phase.PROBING and now >= self._next:
            if self._count >= PROBES:
                do = self._begin(now)
            else:
                self._next, self._count = now + PROBE_S, self._count + 1
                do = Do(probe=True)
        self._say(no, leaving=leaving)
        return do

    def heard(self, now: float, mac: bytes, others: Iterable[Other], *, probes: bool = False) -> None:
        """Somebody else has the VIP, or is about to take it: by a frame from the segment.

        Args:
            now: the time.
            mac: who.
            others: directors that are there.
            probes: whether it asks as one does who is about to take it.
        """
        if self.phase not in (Phase.PROBING, Phase.ANSWERING) or _is_one_of_us(others, probes=probes):
            return
        if self._suspect is None:
            self._suspect = mac, now, probes
        if self.phase is Phase.PROBING:
            self._be(now, Phase.CONFLICT, f"{mac.hex(':')} has it")
            self._next = now + CONFLICT_S + self.rank * RANK_S

    def _look_at_suspect(self, now: float, others: list[Other]) -> Do:
        """Who was heard was no director, if none has said so meanwhile."""
        if self._suspect is None or now < self._suspect[1] + GRACE_S:
            return Do()
        (mac, _, probes), self._suspect = self._suspect, None
        if _is_one_of_us(others, probes=probes) or self.phase in (Phase.SILENT, Phase.PROBING):
            return Do()
        if self.phase is Phase.CONFLICT:
            first, self.foreign = mac != self.foreign, mac
            return Do(conflict=first)
        if self._defended is not None and now - self._defended < DEFEND_S:
            return Do()
        self._defended, self.foreign = now, mac
        self.why = f"{mac.hex(':')} has it as well"
        return Do(announce=True, conflict=True)

    def _relieved_by(self, others: list[Other], *, leaving: bool) -> str:
        """Why another director is to answer instead; empty: none is."""
        answering = self.phase is Phase.ANSWERING
        for other in others:
            if other.claim is Claim.ANSWERING and (other.better or leaving):
                return f"{other.name} answers"
            if other.claim is Claim.READY and other.better and not answering:
                return f"{other.name} comes first"
        if leaving and not answering:
            return "is being drained"
        return ""

    def _begin(self, now: float) -> Do:
        self._be(now, Phase.ANSWERING, "")
        self._count, self._defended, self._suspect, self.foreign = 0, None, None, None
        return self._announce(now)

    def _announce(self, now: float) -> Do:
        if self._count == len(ANNOUNCE_AT_S) or now < self.since + ANNOUNCE_AT_S[self._count]:
            return Do()
        self._count += 1
        return Do(announce=True)

    def _be(self, now: float, phase: Phase, why: str) -> None:
        if phase is not self.phase:
            self.since = now
        self.phase, self.why = phase, why

    def _say(self, no: str, *, leaving: bool) -> None:
        if self.phase is Phase.ANSWERING:
            self._claim = Claim.LEAVING if leaving else Claim.ANSWERING
        else:
            self._claim = Claim.NONE if no or leaving or self.phase is Phase.CONFLICT else Claim.READY


def _is_one_of_us(others: Iterable[Other], *, probes: bool) -> bool:
    """Whether a director explains what was heard: one that answers, or is about to; that is settled between them."""
    return any(other.claim >= Claim.ANSWERING or (other.claim and (other.better or probes)) for other in others)

"""What keeps us ourselves from asking, and from hearing: the reasons for a check to be delayed, and never to be a bad
result. Pure."""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

AT_ONCE = 8192
"""Probes that may be under way at a time, where there are files enough."""

FILES = 2
"""That a probe has open at most for longer than a moment: two sockets, or a pipe and a process."""

OTHER_FILES = 512
"""What a process keeps for all else."""


def room(files: int) -> int:
    """How many probes may be under way at a time.

    Args:
        files: that the process may have open.
    """
    return max(1, min(AT_ONCE, (files - OTHER_FILES) // FILES))


class Delay(StrEnum):
    """Why a probe was made later, or is made again."""

    LIMIT = "limit"
    """As many as may be were under way."""
    NO_RESOURCES = "no_resources"
    """The kernel had no file, memory or port for it."""
    BUSY = "busy"
    """The event loop was behind: with more to do it would come too late for the answers that it waits for."""
    LATE = "late"
    """The event loop came so late that nobody knows whether the answer was in time."""
    FAILED = "failed"
    """The check has a fault of ours."""


BUSY_S = 0.1
"""So late, and no probe begins."""

LONGEST_WAITS = 4
"""Intervals that a probe waits at most for a loop that is behind."""

BEAT_S = 0.25
"""How often somebody looks how late the event loop is."""

LATE_PART = 0.25
"""A probe that ran out of time says nothing about its member when the event loop was late for this part of the time."""

IN_A_ROW = 3
"""So many results of one question in a row are put aside for that; then they count: who is always late must not keep
dead members for ever."""


class Stalls:
    """How late the event loop has been lately."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=4096)

    def note(self, now: float, late_s: float) -> None:
        """A beat came that much too late, at least 0."""
        if late_s > BEAT_S / 5:
            self._late.append((now, late_s))

    def since(self, began: float) -> float:
        """Seconds by which it was late since a moment, all beats together; lateness from before does not count."""
        total = 0.0
        for at, late_s in reversed(self._late):
            if at <= began:
                break
            total += min(late_s, at - began)
        return total


BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of a histogram of durations; what is above the last one has a bucket of its own."""


@dataclass
class Durations:
    """How long probes of a monitor took. All numbers only grow."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, duration_s: float) -> None:
        self.buckets[bisect_left(BOUNDS_S, duration_s)] += 1
        self.sum_s += duration_s


@dataclass(frozen=True)
class Strain:
    """Probes of all monitors together, as it is now."""

    under_way: int = 0
    limit: int = AT_ONCE
    delayed: dict[Delay, int] = field(default_factory=lambda: dict.fromkeys(Delay, 0))
    """They only grow."""

    durations: dict[str, Durations] = field(default_factory=dict)
    """By monitor."""

"""How late the event loop is: the one number that tells whether a director has time to spare. Pure.

Somebody sleeps for a short while, again and again, and adds by how much each sleep was too long.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds of the histogram's buckets, seconds; what is above the last one has a bucket of its own."""

WINDOW_S = 60.0


@dataclass(frozen=True)
class LagSummary:
    """Lateness in seconds."""

    p50_s: float = 0.0
    """Quantiles and maximum of the last minute."""
    p99_s: float = 0.0
    max_s: float = 0.0

    buckets: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    """Samples since the start, one bucket for each bound and one for the rest; they only grow."""
    sum_s: float = 0.0
    """Sum of all samples since the start."""


class LoopLag:
    """Collects samples."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque()
        self._buckets = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, lag_s: float, now: float) -> None:
        """Add a sample.

        Args:
            lag_s: how late, seconds, at least 0.
            now: seconds on a clock that never goes back.
        """
        self._recent.append((now, lag_s))
        while self._recent[0][0] < now - WINDOW_S:
            self._recent.popleft()
        self._buckets[bisect_left(BOUNDS_S, lag_s)] += 1
        self._sum_s += lag_s

    def summary(self) -> LagSummary:
        """What is known at the latest sample."""
        recent = sorted(lag_s for _, lag_s in self._recent)
        if not recent:
            return LagSummary()
        return LagSummary(
            p50_s=recent[len(recent) // 2],
            p99_s=recent[len(recent) * 99 // 100],
            max_s=recent[-1],
            buckets=tuple(self._buckets),
            sum_s=self._sum_s,
        )

"""How often somebody may be wrong. Pure."""

from collections import OrderedDict
from dataclasses import dataclass

MOST = 10_000
"""So many names or addresses are remembered; those that were wrong last."""


class Limiter:
    """A token bucket for each key."""

    @dataclass(frozen=True)
    class Rate:
        """So many at once, and one more each so many seconds."""

        burst: int
        every_s: float

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """When each bucket is full again; those that are full are not here."""

    def take(self, key: str, now: float) -> float:
        """One try.

        Args:
            key: whose.
            now: seconds, on a clock that never jumps.

        Returns:
            Seconds to wait, when there is none left; else 0, and the try is taken.
        """
        full_at = max(self._full_at.get(key, now), now)
        wait_s = full_at + self._rate.every_s - (now + self._rate.burst * self._rate.every_s)
        if wait_s > 1e-9:
            return wait_s
        self._full_at[key] = full_at + self._rate.every_s
        self._full_at.move_to_end(key)
        while len(self._full_at) > MOST:
            self._full_at.popitem(last=False)
        return 0.0

    def give_back(self, key: str) -> None:
        """The last try was a good one."""
        if key in self._full_at:
            self._full_at[key] -= self._rate.every_s

"""From shares to choices.

Choices that are taken one after the other are interleaved, so that wherever a CPU begins and ends, everybody has had
about its share. Choices that are taken at random only have to be there often enough.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from appliance.forwarding import NO_CHOICES, ChoiceArray
from appliance.ring.algorithms.method import Candidate
from appliance.ring.maglev import quotas

LENGTH = 4096
"""The most choices that there are: they set shares to the 4,096th part, 0.025 %."""

_FINE = 1 << 20
"""Shares are taken as whole numbers, the largest being this."""

_ALIKE = 1 / 16
"""Choices in which everybody's share is within this part of what it was are not worth telling a data plane."""

Shares = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def weights(candidates: Sequence[Candidate]) -> Shares:
    """The weight of each."""
    return np.array([one.weight for one in candidates], np.float64)


def portions(shares: Shares, length: int) -> Counts:
    """Shares as numbers of choices, all together *length*.

    Args:
        shares: from 0, in any unit; one of them positive.
        length: 1..LENGTH.
    """
    return quotas(np.rint(shares * (_FINE / shares.max())).astype(np.int64), length)


def portions_for_all(shares: Shares) -> Counts:
    """The same with LENGTH, and with a choice for everybody who has a share, however small, while there are enough."""
    fine = np.ceil(shares * (_FINE / shares.max())).astype(np.int64)
    counts = quotas(fine, LENGTH)
    poor = (fine > 0) & (counts == 0)
    if np.count_nonzero(fine) <= LENGTH:
        counts[poor] = 1
        for _ in range(np.count_nonzero(poor)):
            counts[counts.argmax()] -= 1
    return counts


@lru_cache(maxsize=128)
def smooth(counts: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """A round in which position i comes counts[i] times, as evenly spread as whole numbers allow. Read-only.

    Smooth weighted round robin as in nginx (`ngx_http_upstream_round_robin`): everybody gains its own weight in each
    step, and who is ahead is taken and pays what all have gained.
    """
    gain = np.array(counts, np.int64)
    total = int(gain.sum())
    ahead = np.zeros_like(gain)
    order = np.empty(total, np.int64)
    for step in range(total):
        ahead += gain
        taken = ahead.argmax()
        ahead[taken] -= total
        order[step] = taken
    order.flags.writeable = False
    return order


def by_weight(candidates: Sequence[Candidate]) -> ChoiceArray:
    """One after the other, by weight."""
    if not candidates:
        return NO_CHOICES
    gains = np.array([one.weight for one in candidates], np.int64)
    gains //= np.gcd.reduce(gains)
    if gains.sum() > LENGTH:
        gains = portions_for_all(gains.astype(np.float64))
    return choices(candidates, smooth(tuple(gains.tolist())))


def at_random(candidates: Sequence[Candidate], shares: Shares, before: ChoiceArray = NO_CHOICES) -> ChoiceArray:
    """Choices for being taken at random.

    Args:
        candidates: to choose of.
        shares: of each, from 0.
        before: what is in force, and stays so when it is about as good.
    """
    if not shares.any():
        return NO_CHOICES
    made = choices(candidates, np.repeat(np.arange(len(candidates)), portions_for_all(shares)))
    if len(before) == len(made):
        size = 1 + max(int(before.max()), int(made.max()))
        old, new = np.bincount(before, minlength=size), np.bincount(made, minlength=size)
        if ((old > 0) == (new > 0)).all() and (np.abs(old - new) <= 1 + _ALIKE * old).all():
            return before
    return made


def choices(candidates: Sequence[Candidate], positions: npt.NDArray[np.int64]) -> ChoiceArray:
    """Member indices of positions among candidates. Read-only."""
    made: ChoiceArray = np.array([one.index for one in candidates], np.uint16)[positions]
    made.flags.writeable = False
    return made

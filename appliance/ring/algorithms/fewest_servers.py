"""Fewest servers: as few members as can carry what there is to carry, the first ones of the pool first, so that the
others can be switched off.

A member's capacity is its limit; without a limit, its weight, and then what it says of its load is how much of that is
used. The first members whose capacity together is enough are *in use*, and new flows go to them, with what is free of
each as chances. One more comes into use when those that are would be more than HIGH full; the last one goes out of use
when the others would be less than LOW full with everything there is. In between all stays as it was.

A member with neither a limit nor a report of its load cannot be known to be full, so it is always in use. Nobody's
flows are moved: a member that goes out of use is empty when its last flow has ended. A limit is kept even when that
leaves nobody to take a flow; of members that only say that they are loaded, the least that can be done is to use all.
"""

from collections.abc import Sequence

import numpy as np

from appliance.forwarding import NO_CHOICES, ChoiceArray, ChoiceOrder, Placement
from appliance.ring.algorithms.method import Candidate, Method, Need
from appliance.ring.algorithms.sequence import Shares, at_random, weights

HIGH, LOW = 0.9, 0.7
"""Fractions of the capacity. Load is judged once a second, and what is left above HIGH is for what comes in between."""


def choose(candidates: Sequence[Candidate], arrivals: float, before: ChoiceArray = NO_CHOICES) -> ChoiceArray:
    """See `method.Choose`."""
    known = [one for one in candidates if one.limit or one.load is not None]
    by_limit = all(one.limit for one in known)
    capacity = np.array([one.limit if by_limit else one.weight for one in known], np.float64)
    full = np.array([_fullness(one) for one in known], np.float64)
    demand = float((capacity * full).sum()) + (arrivals if by_limit else 0.0)
    number = _number(np.cumsum(capacity), demand, _last(known, before))
    silent = [one for one in candidates if not one.limit and one.load is None]
    in_use, free = known[:number], (capacity * (1 - full))[:number]
    if by_limit and known:
        free *= weights(known).sum() / capacity.sum()  # in units of weight, as of those who say nothing
    takers, shares = [*in_use, *silent], np.concatenate([free, weights(silent)])
    if not shares.any():
        shares = weights(takers) * [not one.full for one in takers]
    return at_random(takers, shares, before)


def _fullness(one: Candidate) -> float:
    if one.limit:
        return min(1.0, one.connections / one.limit)
    return one.load or 0.0


def _last(known: Sequence[Candidate], before: ChoiceArray) -> int:
    """How many, from the first on, have been in use."""
    indices = set(before.tolist())
    return max((position for position, one in enumerate(known, 1) if one.index in indices), default=0)


def _number(capacities: Shares, demand: float, before: int) -> int:
    """How many are to be in use.

    Args:
        capacities: of the first, the first two, ... together.
        demand: in the same unit.
        before: how many were.
    """
    needed = int(np.searchsorted(capacities * HIGH, demand)) + 1
    enough = int(np.searchsorted(capacities * LOW, demand)) + 1
    return min(len(capacities), max(needed, min(before, enough)))


METHOD = Method(
    Placement.PER_FLOW, ChoiceOrder.RANDOM, choose, dynamic=True, needs=frozenset({Need.CONNECTIONS, Need.CAPACITY})
)

"""Least load: chances are as large as what members say is free of them, times their weights.

A member that says nothing counts as free as the others are on the average. When nobody says anything, or nothing is
free anywhere, weights alone decide: flows have to go somewhere. One that is full gets none, and as reports do not
depend on flows, it is heard of when that ends.
"""

from collections.abc import Sequence

import numpy as np

from appliance.forwarding import NO_CHOICES, ChoiceArray, ChoiceOrder, Placement
from appliance.ring.algorithms.method import Candidate, Method, Need
from appliance.ring.algorithms.sequence import at_random, weights


def choose(candidates: Sequence[Candidate], _arrivals: float, before: ChoiceArray = NO_CHOICES) -> ChoiceArray:
    """See `method.Choose`."""
    takers = [one for one in candidates if not one.full]
    known = [1 - one.load for one in takers if one.load is not None]
    average = sum(known) / len(known) if known else 1.0
    free = np.array([average if one.load is None else 1 - one.load for one in takers], np.float64)
    return at_random(takers, weights(takers) * (free if free.any() else 1.0), before)


METHOD = Method(
    Placement.PER_FLOW, ChoiceOrder.RANDOM, choose, dynamic=True, needs=frozenset({Need.LOAD, Need.CONNECTIONS})
)

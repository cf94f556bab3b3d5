"""Least connections: new flows go to whoever has the fewest for its weight.

Flows are counted once a second, and many come in between, on several CPUs and directors that do not ask each other. So
the flows that are expected until the next count are dealt out beforehand: like water that is poured into vessels as
wide as the weights and filled as high as the connections, they raise the lowest levels first. What that gives everybody
is interleaved, so that it comes out right wherever CPUs begin, and however many of them there are.

A member that is new gets all flows until it has as many as the others: that is what the algorithm means. Who wants less
of that gives the pool a slow start.
"""

import math
from collections.abc import Sequence

import numpy as np

from appliance.forwarding import NO_CHOICES, ChoiceArray, ChoiceOrder, Placement
from appliance.ring.algorithms.method import Candidate, Method, Need
from appliance.ring.algorithms.sequence import LENGTH, Shares, choices, portions, smooth, weights

_ROUND = 251
"""Choices, unless there are more members: shares right to 0.4 % will do until the next count, and take 0.5 ms. A prime:
CPUs that begin at even distances do not all begin with the same member."""

_BISECTIONS = 64


def choose(candidates: Sequence[Candidate], arrivals: float, _before: ChoiceArray = NO_CHOICES) -> ChoiceArray:
    """See `method.Choose`."""
    takers = [one for one in candidates if not one.full]
    if not takers:
        return NO_CHOICES
    given = pour(takers, expected(arrivals, len(takers)))
    length = min(LENGTH, max(_ROUND, len(takers)))
    return choices(takers, smooth(tuple(portions(given, length).tolist())))


def expected(arrivals: float, members: int) -> int:
    """How many flows to deal out: those that are expected, and one for everybody at least.

    In steps of a fifth or less, so that choices do not change with every small change of the rate.
    """
    return math.ceil(2 ** (math.ceil(4 * math.log2(max(arrivals, members))) / 4))


def pour(takers: Sequence[Candidate], flows: int) -> Shares:
    """How many of so many new flows each is to get; fewer in all when limits leave no room for more.

    Args:
        takers: none of them full.
        flows: at least 1.
    """
    width = weights(takers)
    depth = np.array([one.connections for one in takers], np.float64)
    room = np.array([one.limit - one.connections if one.limit else np.inf for one in takers])
    low, high = 0.0, float(((depth + flows) / width).max())  # up to there, even the highest one has taken all
    for _ in range(_BISECTIONS):
        level = (low + high) / 2
        if np.clip(level * width - depth, 0, room).sum() < flows:
            low = level
        else:
            high = level
    return np.clip(high * width - depth, 0, room)


METHOD = Method(Placement.PER_FLOW, ChoiceOrder.SEQUENCE, choose, dynamic=True, needs=frozenset({Need.CONNECTIONS}))

"""Least connections: new flows go to whoever has the fewest for its weight.

Flows are counted once a second, and many come in between, on several CPUs and directors that do not ask each other. So
the flows that are expected until the next count are dealt out beforehand: like water that is poured into vessels as
wide as the weights and filled as high as the connections, they raise the lowest levels first. Choices begin with that,
interleaved, so that it comes out right however many CPUs take them; then they go on by weight, so that a burst that
nobody expected does not go to one member alone.
"""

from collections.abc import Sequence

import numpy as np

from appliance.forwarding import NO_CHOICES, ChoiceArray, ChoiceOrder, Placement
from appliance.ring.algorithms.method import Candidate, Method, Need
from appliance.ring.algorithms.sequence import LENGTH, Shares, by_weight, choices, portions, smooth, weights

_ROUND = 256
"""Of more flows than this, only the shares are dealt out, over and over: 0.4 % will do until the next count."""

_BISECTIONS = 64


def choose(candidates: Sequence[Candidate], arrivals: float, _before: ChoiceArray = NO_CHOICES) -> ChoiceArray:
    """See `method.Choose`."""
    takers = [one for one in candidates if not one.full]
    if not takers:
        return NO_CHOICES
    given = pour(takers, expected(arrivals, len(takers)))
    dealt = max(1, min(LENGTH, round(given.sum())))
    beginning = choices(takers, smooth(tuple(portions(given, min(dealt, _ROUND)).tolist())))
    beginning = np.resize(beginning, dealt)
    spare = [
        one for one, flows in zip(takers, given, strict=True) if not one.limit or one.limit - one.connections > flows
    ]
    made = np.concatenate([beginning, np.resize(by_weight(spare), LENGTH - dealt)]) if spare else beginning
    made.flags.writeable = False
    return made


def expected(arrivals: float, members: int) -> int:
    """How many flows to deal out: at least those that are expected and one for everybody, up to twice as many.

    A power of two, so that choices do not change with every small change of the rate.
    """
    return 1 << (max(int(np.ceil(arrivals)), members) - 1).bit_length()


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

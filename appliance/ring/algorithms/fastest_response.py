"""Fastest response: chances are weights divided by response times.

The response time is that of the handshake, from a client's SYN to its first ACK, since that is all of a member's
answers that a director can notice. It has the client's distance in it, alike for all members, which makes them look
less different than they are, and never the wrong way round.

Everybody gets a twentieth of its share by weight at least: who gets no flows would never be seen to have become quick
again. Who was not seen at all counts as quick as the others are on the average.
"""

from collections.abc import Sequence

import numpy as np

from appliance.forwarding import NO_CHOICES, ChoiceArray, ChoiceOrder, Placement
from appliance.ring.algorithms.method import Candidate, Method, Need
from appliance.ring.algorithms.sequence import at_random, weights

LEAST = 0.05
"""Of the share by weight."""

_QUICKEST_S = 1e-6
"""Nothing is quicker: keeps divisions sane."""


def choose(candidates: Sequence[Candidate], _arrivals: float, before: ChoiceArray = NO_CHOICES) -> ChoiceArray:
    """See `method.Choose`."""
    takers = [one for one in candidates if not one.full]
    if not takers:
        return NO_CHOICES
    even = weights(takers)
    even /= even.sum()
    known = [max(one.response_s, _QUICKEST_S) for one in takers if one.response_s is not None]
    average = sum(known) / len(known) if known else 1.0
    took = [average if one.response_s is None else max(one.response_s, _QUICKEST_S) for one in takers]
    shares = even / np.array(took, np.float64)
    return at_random(takers, np.maximum(shares / shares.sum(), LEAST * even), before)


METHOD = Method(
    Placement.PER_FLOW, ChoiceOrder.RANDOM, choose, dynamic=True, needs=frozenset({Need.RESPONSE, Need.CONNECTIONS})
)

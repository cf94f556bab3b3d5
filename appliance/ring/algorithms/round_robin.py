"""Round robin: members take turns, as often as their weights say, and nobody twice in a row who need not."""

from collections.abc import Sequence

from appliance.forwarding import NO_CHOICES, ChoiceArray, ChoiceOrder, Placement
from appliance.ring.algorithms.method import Candidate, Method
from appliance.ring.algorithms.sequence import by_weight


def choose(candidates: Sequence[Candidate], _arrivals: float, _before: ChoiceArray = NO_CHOICES) -> ChoiceArray:
    """See `method.Choose`."""
    return by_weight(candidates)


METHOD = Method(Placement.PER_FLOW, ChoiceOrder.SEQUENCE, choose)

"""Random: every flow draws a member, with weights as chances."""

from appliance.forwarding import ChoiceOrder, Placement
from appliance.ring.algorithms import round_robin
from appliance.ring.algorithms.method import Method

METHOD = Method(Placement.PER_FLOW, ChoiceOrder.RANDOM, round_robin.choose)

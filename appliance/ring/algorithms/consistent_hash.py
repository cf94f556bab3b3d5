"""Consistent hash: a flow's slot says who takes it (ring/slots.py). Nothing is remembered in the steady state, and all
directors agree without a word.

Where a network profile asks for `per_packet`, there are no flows that could stay together, and members take turns.
"""

from appliance.forwarding import ChoiceOrder, Placement
from appliance.ring.algorithms import round_robin
from appliance.ring.algorithms.method import Method

METHOD = Method(Placement.HASH, ChoiceOrder.SEQUENCE, round_robin.choose)

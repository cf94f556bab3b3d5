"""The algorithms that a pool can name, and how each makes slots of members. A new one is one file and one line here."""

from collections.abc import Callable

from appliance.forwarding import SlotArray
from appliance.model import Algorithm
from appliance.ring.slots import RingMember, build_slots

ALGORITHMS: dict[Algorithm, Callable[[tuple[RingMember, ...]], SlotArray]] = {
    Algorithm.CONSISTENT_HASH: build_slots,
}

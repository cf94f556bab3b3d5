"""Slot arrays: base table and overlay put together, with member indices in them."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from appliance.forwarding import MAX_MEMBERS, NO_MEMBER, SlotArray
from appliance.ring.maglev import Owners, base_table
from appliance.ring.overlay import overlay

MAX_WEIGHT = 1 << 24
"""Keeps sums and products of all weights within 64 bits."""


@dataclass(frozen=True)
class RingMember:
    """A configured member, as the ring sees it."""

    id: str
    """Stable name: it decides which slots are whose. Unique among the members of a table."""

    weight: int
    """Relative share of the slots, 0..MAX_WEIGHT; 0 owns none."""

    index: int
    """What stands in the slots it owns."""

    eligible: bool
    """Whether it may get new flows now."""

    ramp: float = 1.0
    """What part of the slots that it would own it has already, 0..1, while it starts slowly. Which ones depends on
    the slot and its id alone."""


_POOLS = 128
_latest: dict[tuple[tuple[str, ...], tuple[int, ...]], tuple[list[float], Owners]] = {}
"""Who was eligible last, and the table of that: the next one is mostly not much different. By ids and weights."""


@lru_cache(maxsize=128)
def build_slots(members: tuple[RingMember, ...]) -> SlotArray:
    """The slots of a pool in the steady state, where primary and previous are the same. Read-only.

    A pure function of who is configured with which weight and who is eligible. The order of members makes no
    difference, and equal arguments are answered from memory with the same array.

    Args:
        members: all that are configured, eligible or not.

    Raises:
        ValueError: two members have the same id, a weight is negative or too large, or an index does not fit into a
            slot.
    """
    ordered = sorted(members, key=lambda member: member.id)
    ids = tuple(member.id for member in ordered)
    _check(members, ids)
    weights = tuple(member.weight for member in ordered)
    ramps = [member.ramp if member.eligible else 0.0 for member in ordered]
    pool = ids, weights
    owners = overlay(_base(ids, weights), ids, weights, ramps, _latest.get(pool))
    _latest[pool] = ramps, owners
    while len(_latest) > _POOLS:
        _latest.pop(next(iter(_latest)), None)
    indices = np.array([*(member.index for member in ordered), NO_MEMBER], np.uint32)  # NOBODY, -1, is the last
    primary = indices[owners]
    slots = pack(primary, primary)
    slots.flags.writeable = False
    return slots


def pack(primary: npt.NDArray[np.uint32], previous: npt.NDArray[np.uint32]) -> SlotArray:
    """Slot words from member indices."""
    return primary | previous << np.uint32(16)


def unpack(slots: SlotArray) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Primary and previous member indices of slot words."""
    return slots & np.uint32(0xFFFF), slots >> np.uint32(16)


def shares(slots: SlotArray) -> dict[int, float]:
    """The fraction of slots that each member is primary of, by member index; members without slots are not in it."""
    primary, _ = unpack(slots)
    counts = np.bincount(primary)[:NO_MEMBER]
    return {int(index): int(counts[index]) / len(slots) for index in np.flatnonzero(counts)}


@lru_cache(maxsize=128)
def _base(ids: tuple[str, ...], weights: tuple[int, ...]) -> Owners:
    return base_table(ids, weights)


def _check(members: tuple[RingMember, ...], ids: tuple[str, ...]) -> None:
    twice = {first for first, second in pairwise(ids) if first == second}
    if twice:
        raise ValueError(f"more than one member of the ring is called {', '.join(sorted(twice))}; ids must be unique")
    for member in members:
        if not 0 <= member.weight <= MAX_WEIGHT:
            raise ValueError(f"member {member.id}: weight {member.weight} is not in 0..{MAX_WEIGHT}")
        if not 0 <= member.index < MAX_MEMBERS:
            raise ValueError(f"member {member.id}: index {member.index} is not in 0..{MAX_MEMBERS - 1}")

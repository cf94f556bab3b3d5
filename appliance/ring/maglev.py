"""The base table: which configured member owns which slot while all are eligible.

Maglev (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4) gives
every member a permutation of all slots, drawn from its name, and lets members take turns claiming the next free slot of
their own permutation. That is one step after another, 65537 times. Here the same permutations are claimed in bulk:

1. Every member has a quota of slots: its share by weight, rounded so that quotas add up (largest remainder).
2. In each round, members that are short walk on in their permutations, each as far as it is short, together about one
   table's length. Where several reach a free slot, the one that is least far into its walk of this round takes it; a
   member never takes more than it is short of.
3. When little is left, positions are computed the other way round: every free slot goes to the member in whose
   permutation it comes first, as long as that one is short.

So shares are exact to one slot, where the paper's turns only approach them. Adding one to n configured members must
move 1/(n+1) of all slots; how much more moves was measured with names web0, web1, ... and equal weights, in % of all:

    n               2       10      100     1000
    here            0.005   0.11    0.41    0.61
    the paper's     0.038   0.26    0.57    0.59

The table depends on nothing but ids and weights, and is computed in whole numbers only.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from appliance.forwarding import SLOTS

Owners = npt.NDArray[np.int32]
"""SLOTS positions in a sequence of members; NOBODY where there is no owner."""

NOBODY = -1

_FINISH = 1 << 18
"""Pairs of free slot and member that the last step may look at: about a millisecond's work."""


def quotas(weights: npt.NDArray[np.int64], slots: int = SLOTS) -> npt.NDArray[np.int64]:
    """How many slots each member owns: proportional to its weight, and together all of them.

    Args:
        weights: whole numbers from 0, one of them positive; together below 2^46, so that products fit.
    """
    total = int(weights.sum())
    exact, remainder = np.divmod(weights * slots, total)
    # The largest remainders get what rounding down has left over; among equal ones the first do.
    missing = slots - int(exact.sum())
    exact[np.argsort(-remainder, kind="stable")[:missing]] += 1
    return exact


def base_table(ids: Sequence[str], weights: Sequence[int]) -> Owners:
    """The owner of every slot, as a position in *ids*. Read-only.

    Args:
        ids: stable names of the members, sorted and each once. Position matters where claims tie, hence sorted.
        weights: their relative shares, from 0. When all are 0, nobody owns anything.
    """
    owners = np.full(SLOTS, NOBODY, np.int32)
    if any(weights):
        _fill(owners, ids, quotas(np.array(weights, np.int64)))
    owners.flags.writeable = False
    return owners


def _fill(owners: Owners, ids: Sequence[str], short: npt.NDArray[np.int64]) -> None:
    offset, skip = _permutations(ids)
    walked = np.zeros(len(ids), np.int64)
    left = SLOTS
    while left * np.count_nonzero(short) > _FINISH:
        left -= _round(owners, offset, skip, walked, short)
    _finish(owners, offset, skip, short)


def _permutations(ids: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Offset and skip of each member: its j-th preference is slot (offset + j * skip) mod SLOTS."""
    seeds = np.array(
        [
            np.frombuffer(hashlib.blake2b(name.encode(), digest_size=16, person=b"onward-maglev").digest(), "<u8")
            for name in ids
        ]
    )
    offset, skip = seeds[:, 0] % np.uint64(SLOTS), seeds[:, 1] % np.uint64(SLOTS - 1) + np.uint64(1)
    return offset.astype(np.int64), skip.astype(np.int64)


def _round(
    owners: Owners,
    offset: npt.NDArray[np.int64],
    skip: npt.NDArray[np.int64],
    walked: npt.NDArray[np.int64],
    short: npt.NDArray[np.int64],
) -> int:
    """One walk of all members that are short. Updates owners, walked and short; returns how many slots were taken."""
    steps = np.minimum(-(-short * SLOTS // short.sum()), SLOTS - walked)
    member = np.repeat(np.arange(len(steps)), steps)
    step = np.arange(len(member)) - np.repeat(np.cumsum(steps) - steps, steps)
    slot = (offset[member] + (walked[member] + step) * skip[member]) % SLOTS
    walked += steps

    free = owners[slot] == NOBODY
    member, step, slot = member[free], step[free], slot[free]
    # Least far into its walk wins; the low bits tell members apart, so that there are no ties.
    claim = (((step << 20) // steps[member]) << 16) | member
    best = np.full(SLOTS, np.iinfo(np.int64).max)
    np.minimum.at(best, slot, claim)
    won = claim == best[slot]
    member, slot = member[won], slot[won]

    # Winners are still ordered by member and step: of each member's, the first ones, as many as it is short of.
    counts = np.bincount(member, minlength=len(steps))
    nth = np.arange(len(member)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = nth < short[member]
    owners[slot[kept]] = member[kept]
    short -= np.minimum(counts, short)
    return int(np.count_nonzero(kept))


def _finish(
    owners: Owners, offset: npt.NDArray[np.int64], skip: npt.NDArray[np.int64], short: npt.NDArray[np.int64]
) -> None:
    """Give every free slot to a member that is short."""
    free = np.flatnonzero(owners == NOBODY)
    members = np.flatnonzero(short)
    # SLOTS is prime, so every skip has an inverse, and where a slot stands in a permutation can be computed.
    inverse = np.array([pow(int(value), -1, SLOTS) for value in skip[members]], np.int64)
    position = (free[:, None] - offset[members]) * inverse % SLOTS
    while len(free):
        choice = position.argmin(axis=1)
        order = np.lexsort((position[np.arange(len(free)), choice], choice))
        counts = np.bincount(choice, minlength=len(members))
        nth = np.arange(len(free)) - np.repeat(np.cumsum(counts) - counts, counts)
        taken = order[nth < short[members][choice[order]]]
        owners[free[taken]] = members[choice[taken]]
        short[members] -= np.minimum(counts, short[members])
        still_free = np.ones(len(free), bool)
        still_free[taken] = False
        still_short = short[members] > 0
        free, members = free[still_free], members[still_short]
        position = position[np.ix_(still_free, still_short)]

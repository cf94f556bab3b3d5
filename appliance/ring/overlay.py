"""The overlay: slots whose owner is not eligible go to members that are, and no other slot changes.

Weighted rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; weights as
in Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005): for each slot, every eligible member draws an
exponentially distributed number with its weight as the rate, from a hash of its id and the slot, and the smallest draw
wins. A slot's winner depends on who is eligible alone, and changes only when it leaves or a better one comes.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from appliance.ring.maglev import NOBODY, Owners

_CHUNK = 1 << 16
"""Draws made at once: what stays in the cache."""

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""


def overlay(
    owners: Owners,
    ids: Sequence[str],
    weights: Sequence[int],
    ramps: Sequence[float],
    known: tuple[Sequence[float], Owners] | None = None,
) -> Owners:
    """The table with every slot owned by a member that may have it; NOBODY in all slots when there is none.

    Args:
        owners: from `base_table`, for these ids and weights.
        ids: as for `base_table`.
        weights: as for `base_table`. One with weight 0 gets no slots.
        ramps: for each member, which part of the slots it may have: 0 for those that get nothing, 1 for all others but
            those that start slowly. Without a member that may have all of them, slow starts do not count.
        known: other ramps, and what came of them. The result is the same without, and sooner there where few members
            differ.
    """
    share = np.array(ramps, np.float64)
    if (share >= 1).all():
        return owners
    heirs = np.flatnonzero((share > 0) & (np.array(weights) > 0))
    if not (share[heirs] >= 1).any():
        share[heirs] = 1.0
    seeds = np.array([_seed(name) for name in ids], np.uint64)
    if known is not None and len(heirs) and _is_plain(share) and _is_plain(np.array(known[0])) and owners[0] != NOBODY:
        table = _from_known(owners, share, heirs, seeds, weights, np.array(known[0]), known[1])
        table.flags.writeable = False
        return table
    slots = np.arange(len(owners))
    kept = np.append(share, 0.0)[owners]  # NOBODY, -1, is the appended one
    partly = np.flatnonzero((kept > 0) & (kept < 1))
    late = _rank(seeds[owners[partly]], partly) >= kept[partly]
    orphans = np.sort(np.concatenate([slots[kept <= 0], partly[late]]))
    table = owners.copy()
    table[orphans] = _winners(orphans, heirs, seeds, weights, share) if len(heirs) else NOBODY
    table.flags.writeable = False
    return table


def _is_plain(share: npt.NDArray[np.float64]) -> bool:
    """Nobody starts slowly."""
    return bool(((share == 0) | (share == 1)).all())


def _from_known(
    owners: Owners,
    share: npt.NDArray[np.float64],
    heirs: npt.NDArray[np.int64],
    seeds: npt.NDArray[np.uint64],
    weights: Sequence[int],
    before: npt.NDArray[np.float64],
    table: Owners,
) -> Owners:
    """The table, from one for which others were eligible: who has won a slot keeps it against all that have lost it
    already, so only those that are new have to be compared with the winner; and only what the winner has left is drawn
    for by all."""
    table = np.where(share[owners] > 0, owners, table)
    table = np.where(table == NOBODY, owners, table)  # nobody was eligible: their owners, who are not, stand for that
    lost = np.flatnonzero(share[table] <= 0)
    new = heirs[before[heirs] <= 0]
    if len(new):
        contested = np.flatnonzero((share[owners] <= 0) & (share[table] > 0))
        best = _winners(contested, new, seeds, weights, share)
        winner = table[contested].astype(np.int64)
        mine, theirs = (_draw(contested, who, seeds, weights) for who in (winner, best))
        table[contested] = np.where((theirs < mine) | ((theirs == mine) & (best < winner)), best, winner)
    table[lost] = _winners(lost, heirs, seeds, weights, share)
    return table


def _draw(
    slots: npt.NDArray[np.int64], who: npt.NDArray[np.int64], seeds: npt.NDArray[np.uint64], weights: Sequence[int]
) -> npt.NDArray[np.float64]:
    """What one member draws for each slot."""
    drawn = _minus_log(_mix(seeds[who] ^ (slots.astype(np.uint64) * np.uint64(_GOLDEN))))
    return drawn / np.array(weights, np.float64)[who]


def _winners(
    slots: npt.NDArray[np.int64],
    heirs: npt.NDArray[np.int64],
    seeds: npt.NDArray[np.uint64],
    weights: Sequence[int],
    share: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    rates = np.array([weights[heir] for heir in heirs], np.float64)
    slow = np.flatnonzero(share[heirs] < 1)
    winners = np.empty(len(slots), np.int64)
    rows = max(1, _CHUNK // max(1, len(heirs)))
    for start in range(0, len(slots), rows):
        chunk = slots[start : start + rows]
        draws = _minus_log(_mix(seeds[heirs] ^ (chunk.astype(np.uint64) * np.uint64(_GOLDEN))[:, None]))
        draws /= rates
        for column in slow:
            heir = heirs[column]
            draws[_rank(seeds[heir], chunk) >= share[heir], column] = np.inf
        winners[start : start + rows] = heirs[draws.argmin(axis=1)]
    return winners


def _rank(seed: npt.NDArray[np.uint64] | np.uint64, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """When each slot's turn comes in a slow start, 0..1: by member and slot, apart from the draws."""
    mixed = _mix(seed ^ ((slots.astype(np.uint64) + np.uint64(1 << 32)) * np.uint64(_GOLDEN)))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _seed(member_id: str) -> int:
    digest = hashlib.blake2b(member_id.encode(), digest_size=8, person=b"onward-overlay").digest()
    return int.from_bytes(digest, "little")


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x ^= x >> np.uint64(30)
    x *= np.uint64(_MIX_1)
    x ^= x >> np.uint64(27)
    x *= np.uint64(_MIX_2)
    x ^= x >> np.uint64(31)
    return x


def _minus_log(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """-ln(x / 2^64), to about nine digits.

    Not `np.log`: its last digit depends on the machine, and then so might a slot's owner. This uses nothing but
    operations that IEEE 754 defines to the last bit.
    """
    uniform = ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    mantissa, exponent = np.frexp(uniform)
    # ln m = 2 artanh t, with t = (m - 1) / (m + 1) between -1/3 and 0
    t = (mantissa - 1) / (mantissa + 1)
    square = t * t
    series = np.full_like(t, 1 / 17)
    for odd in (15, 13, 11, 9, 7, 5, 3, 1):
        series *= square
        series += 1 / odd
    result: npt.NDArray[np.float64] = -(exponent * math.log(2) + 2 * t * series)
    return result

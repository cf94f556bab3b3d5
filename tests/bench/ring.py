"""Benchmark of the ring: `python -m tests.bench.ring`. Prints time ratios and how many slots move; milliseconds are for
orientation.

The yardstick is Maglev as the paper has it (Eisenbud et al., NSDI 2016, section 3.4), in plain Python: members take
turns, each claiming the next free slot of its permutation. A weight lets a member take that share of its turns.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from appliance.forwarding import SLOTS
from appliance.ring.maglev import _permutations, base_table
from appliance.ring.overlay import overlay
from appliance.ring.slots import RingMember, build_slots, shares

Build = Callable[[Sequence[str], Sequence[int]], npt.NDArray[np.int32]]


def paper(ids: Sequence[str], weights: Sequence[int]) -> npt.NDArray[np.int32]:
    """Population of the lookup table, with the permutations of the ring's own base table."""
    offset, skip = (column.tolist() for column in _permutations(ids))
    table = [-1] * SLOTS
    following, credit = [0] * len(ids), [0] * len(ids)
    filled, heaviest = 0, max(weights)
    while True:
        for i, weight in enumerate(weights):
            credit[i] += weight
            if credit[i] < heaviest:
                continue
            credit[i] -= heaviest
            slot = (offset[i] + following[i] * skip[i]) % SLOTS
            while table[slot] >= 0:
                following[i] += 1
                slot = (offset[i] + following[i] * skip[i]) % SLOTS
            table[slot] = i
            following[i] += 1
            filled += 1
            if filled == SLOTS:
                return np.array(table, np.int32)


def best_ms(repeat: int, call: Callable[..., object], *args: object) -> float:
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        call(*args)
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def moved_on_adding(build: Build, count: int) -> float:
    """Fraction of slots that change their owner for nothing when one member is added to *count*."""
    ids = sorted(f"web{number}" for number in range(count))
    more = sorted([*ids, "new"])
    before, after = np.array(ids)[build(ids, [1] * count)], np.array(more)[build(more, [1] * (count + 1))]
    return float(((before != after) & (after != "new")).mean())


def main() -> None:
    print(" members       base      paper   ratio   overlay: one out   half out   moved for nothing")
    for count in (2, 10, 100, 1000):
        ids, weights = sorted(f"web{number}" for number in range(count)), [1] * count
        base = base_table(ids, weights)
        ours, theirs = best_ms(5, base_table, ids, weights), best_ms(1, paper, ids, weights)
        one = best_ms(5, overlay, base, ids, weights, [False] + [True] * (count - 1))
        half = best_ms(3, overlay, base, ids, weights, [number % 2 == 0 for number in range(count)])
        print(
            f"{count:8} {ours:7.1f} ms {theirs:7.1f} ms {theirs / ours:6.1f}x {one:15.1f} ms {half:7.1f} ms"
            f"   {moved_on_adding(base_table, count):.3%} (paper: {moved_on_adding(paper, count):.3%})"
        )

    members = tuple(RingMember(f"web{number}", 1 + number % 4, number, True) for number in range(100))
    gone = (replace(members[0], eligible=False), *members[1:])
    slots = build_slots(members)

    def again() -> None:
        build_slots.cache_clear()
        build_slots(gone)

    print(f"\n100 members, weights 1..4, one goes out: slots after {best_ms(5, again):.1f} ms, the base from memory")
    print(f"shares of all members: {best_ms(5, shares, slots):.2f} ms")


if __name__ == "__main__":
    main()

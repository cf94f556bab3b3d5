"""Base table, overlay and slot arrays: balance, weights, little movement, and nothing but the arguments decides."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.forwarding import MAX_MEMBERS, NO_MEMBER, SLOTS
from appliance.model import Algorithm
from appliance.ring.algorithms import ALGORITHMS
from appliance.ring.maglev import NOBODY, base_table, quotas
from appliance.ring.overlay import _minus_log, overlay
from appliance.ring.slots import MAX_WEIGHT, RingMember, build_slots, pack, shares, unpack


def ring(count: int, *, weight: int = 1) -> tuple[RingMember, ...]:
    return tuple(RingMember(f"web{number}", weight, number, True) for number in range(count))


def out(members: tuple[RingMember, ...], *indices: int) -> tuple[RingMember, ...]:
    """The same members, these not eligible."""
    return tuple(replace(member, eligible=member.index not in indices) for member in members)


def primaries(members: tuple[RingMember, ...]) -> np.ndarray:
    primary, previous = unpack(build_slots(members))
    assert (primary == previous).all()
    return primary


def slow_base_table(ids: list[str], weights: list[int]) -> list[int]:
    """The construction of maglev.py once more, slot by slot and without NumPy."""
    seeds = [hashlib.blake2b(name.encode(), digest_size=16, person=b"onward-maglev").digest() for name in ids]
    offset = [int.from_bytes(seed[:8], "little") % SLOTS for seed in seeds]
    skip = [int.from_bytes(seed[8:], "little") % (SLOTS - 1) + 1 for seed in seeds]
    exact = [weight * SLOTS // sum(weights) for weight in weights]
    by_remainder = sorted(range(len(ids)), key=lambda i: (-(weights[i] * SLOTS % sum(weights)), i))
    short = [quota + (i in by_remainder[: SLOTS - sum(exact)]) for i, quota in enumerate(exact)]
    walked = [0] * len(ids)
    owners = [-1] * SLOTS
    while owners.count(-1) * sum(value > 0 for value in short) > 1 << 18:
        total = sum(short)
        claims: dict[int, tuple[int, int, int]] = {}
        for i, missing in enumerate(short):
            steps = min(-(-missing * SLOTS // total), SLOTS - walked[i])
            for step in range(steps):
                slot = (offset[i] + (walked[i] + step) * skip[i]) % SLOTS
                claim = (step << 20) // steps, i, step
                if owners[slot] == -1 and (slot not in claims or claim < claims[slot]):
                    claims[slot] = claim
            walked[i] += steps
        for slot, (_, i, _) in sorted(claims.items(), key=lambda item: (item[1][1], item[1][2])):
            if short[i]:
                owners[slot] = i
                short[i] -= 1
    while -1 in owners:
        wishes: dict[int, list[tuple[int, int]]] = {}
        for slot in (slot for slot in range(SLOTS) if owners[slot] == -1):
            position, i = min(
                ((slot - offset[i]) * pow(skip[i], -1, SLOTS) % SLOTS, i) for i in range(len(ids)) if short[i]
            )
            wishes.setdefault(i, []).append((position, slot))
        for i, slots in wishes.items():
            for _, slot in sorted(slots)[: short[i]]:
                owners[slot] = i
            short[i] -= min(short[i], len(slots))
    return owners


@pytest.mark.parametrize("weights", [[1] * 7, [5, 0, 1, 200, 3], [1], [3, 3] + [1] * 40])
def test_base_table_equals_the_plain_construction(weights: list[int]) -> None:
    """NumPy in bulk gives what the same rules give slot by slot."""
    ids = sorted(f"member-{number}" for number in range(len(weights)))
    assert base_table(ids, weights).tolist() == slow_base_table(ids, weights)


def test_published_table() -> None:
    """The table of a given pool never changes: directors of different versions must agree."""
    members = tuple(RingMember(f"web{number}", 1 + number % 3, number, number != 4) for number in range(10))
    digest = hashlib.blake2b(build_slots(members).astype("<u4").tobytes(), digest_size=16).hexdigest()
    assert digest == "e1c9ca5802da94e23b0c110669b6a01d"


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60).filter(any))
@settings(deadline=None, max_examples=40)
def test_shares_are_weights(weights: list[int]) -> None:
    """Every member owns its exact share by weight, to one slot; weight 0 owns nothing."""
    ids = sorted(f"m{number}" for number in range(len(weights)))
    counts = np.bincount(base_table(ids, weights), minlength=len(ids))
    exact = np.array(weights) * SLOTS / sum(weights)
    assert np.abs(counts - exact).max() < 1
    assert counts.sum() == SLOTS


@given(st.lists(st.integers(0, MAX_WEIGHT), min_size=1, max_size=200).filter(any))
@settings(deadline=None)
def test_quotas_add_up(weights: list[int]) -> None:
    """Quotas are all slots together, each within one of its exact share."""
    result = quotas(np.array(weights, np.int64))
    assert result.sum() == SLOTS
    assert (np.abs(result - np.array(weights) * (SLOTS / sum(weights))) < 1.001).all()


def test_more_members_than_slots_fit() -> None:
    """Members beyond the number of slots find room too: some own one slot, the others none."""
    counts = np.bincount(base_table([f"{number:05}" for number in range(MAX_MEMBERS)], [1] * MAX_MEMBERS))
    assert counts.sum() == SLOTS
    assert set(counts.tolist()) == {1, 2}


@given(st.permutations(range(9)))
@settings(deadline=None, max_examples=20)
def test_listing_order_makes_no_difference(order: list[int]) -> None:
    """The table does not depend on the order in which members are written down."""
    members = out(tuple(replace(member, weight=member.index + 1) for member in ring(9)), 3, 7)
    assert (build_slots(tuple(members[i] for i in order)) == build_slots(members)).all()


@given(st.lists(st.integers(0, 11), max_size=30))
@settings(deadline=None, max_examples=40)
def test_order_of_events_makes_no_difference(events: list[int]) -> None:
    """After any sequence of going out and coming back, the table is that of who is eligible now."""
    members, gone = ring(12), set[int]()
    for index in events:
        gone ^= {index}
        slots = build_slots(out(members, *gone))
    build_slots.cache_clear()
    if events:
        assert (build_slots(out(members, *gone)) == slots).all()


@given(st.sets(st.integers(0, 19), max_size=18), st.integers(0, 19))
@settings(deadline=None, max_examples=40)
def test_only_the_slots_of_who_goes_out_move(gone: set[int], index: int) -> None:
    """When a member goes out, no slot of another member changes its owner; when it comes back, only its own do."""
    members = ring(20)
    before = primaries(out(members, *(gone - {index})))
    after = primaries(out(members, *(gone | {index})))
    assert (before[after != before] == index).all()
    assert not (after == index).any()


def test_slots_of_who_goes_out_are_spread_by_weight() -> None:
    """The others take over in proportion to their weights."""
    members = tuple(replace(member, weight=3 if member.index % 2 else 1) for member in ring(10))
    before, after = primaries(members), primaries(out(members, 1))
    inherited = np.bincount(after[before == 1], minlength=10) / np.count_nonzero(before == 1)
    weights = np.array([member.weight * (member.index != 1) for member in members])
    assert np.abs(inherited - weights / weights.sum()).max() < 0.02


def test_eligible_weight_zero_inherits_nothing() -> None:
    """A member with weight 0 owns nothing, not even when it is the only one left."""
    members = (RingMember("a", 1, 0, False), RingMember("b", 0, 1, True))
    assert shares(build_slots(members)) == {}


@pytest.mark.parametrize(
    "members", [(), out(ring(3), 0, 1, 2), ring(3, weight=0)], ids=["none", "none eligible", "all 0"]
)
def test_nobody(members: tuple[RingMember, ...]) -> None:
    """Without an eligible member, every slot says so."""
    assert (build_slots(members) == (NO_MEMBER << 16 | NO_MEMBER)).all()


@pytest.mark.parametrize("count", [2, 10, 100])
def test_adding_and_removing_moves_little(count: int) -> None:
    """A configured member that comes or goes moves, beyond its own slots, less than 1 % of all."""
    without, with_new = primaries(ring(count)), primaries(ring(count + 1))
    moved = without != with_new
    assert np.count_nonzero(moved & (with_new != count)) < SLOTS / 100
    assert np.count_nonzero(with_new == count) == pytest.approx(SLOTS / (count + 1), abs=1)


def test_weight_change_changes_shares() -> None:
    """Twice the weight is twice the share, and little moves besides."""
    before = ring(10)
    after = tuple(replace(member, weight=2 if member.index == 4 else 1) for member in before)
    assert shares(build_slots(before))[4] == pytest.approx(1 / 10, rel=0.01)
    assert shares(build_slots(after))[4] == pytest.approx(2 / 11, rel=0.01)
    moved = np.count_nonzero(primaries(before) != primaries(after)) / SLOTS
    assert moved == pytest.approx(2 / 11 - 1 / 10, abs=0.01)


def test_names_decide_and_indices_do_not() -> None:
    """Directors that number members differently give the same slots to the same names."""
    members = ring(5)
    renumbered = tuple(replace(member, index=100 + member.index) for member in members)
    assert (primaries(members) + 100 == primaries(renumbered)).all()


def test_equal_arguments_are_answered_from_memory() -> None:
    """Unchanged members give the very same array, and nobody can write into it."""
    slots = build_slots(ring(4))
    assert build_slots(ring(4)) is slots
    with pytest.raises(ValueError, match="read-only"):
        slots[0] = 1


def test_base_and_overlay_are_read_only() -> None:
    """Neither table can be written into by who gets it."""
    base = base_table(["a", "b"], [1, 1])
    laid_over = overlay(base, ["a", "b"], [1, 1], [True, False])
    assert not base.flags.writeable
    assert not laid_over.flags.writeable
    assert overlay(base, ["a", "b"], [1, 1], [True, True]) is base
    assert (overlay(base, ["a", "b"], [1, 1], [False, False]) == NOBODY).all()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((RingMember("a", 1, 0, True), RingMember("a", 1, 1, True)), "more than one member of the ring is called a"),
        ((RingMember("a", -1, 0, True),), "member a: weight -1 is not in"),
        ((RingMember("a", MAX_WEIGHT + 1, 0, True),), "member a: weight 16777217 is not in"),
        ((RingMember("a", 1, NO_MEMBER, True),), "member a: index 65535 is not in"),
    ],
)
def test_nonsense_is_refused(members: tuple[RingMember, ...], message: str) -> None:
    """What cannot be a ring is an error that names the member."""
    with pytest.raises(ValueError, match=message):
        build_slots(members)


def test_pack_and_unpack() -> None:
    """Slot words carry the primary in the lower half and the previous in the upper one."""
    primary, previous = np.array([1, NO_MEMBER], np.uint32), np.array([2, 0], np.uint32)
    slots = pack(primary, previous)
    assert slots.dtype == np.uint32
    assert slots.tolist() == [0x00020001, 0x0000FFFF]
    assert [part.tolist() for part in unpack(slots)] == [primary.tolist(), previous.tolist()]


def test_shares_add_up() -> None:
    """Shares are fractions of all slots, by index, and leave out who has none."""
    result = shares(build_slots(out(ring(4), 2)))
    assert set(result) == {0, 1, 3}
    assert sum(result.values()) == pytest.approx(1)


def test_logarithm_is_good_enough_everywhere() -> None:
    """The draws' logarithm is right to eight digits over the whole range of hashes."""
    x = np.concatenate(
        [np.random.default_rng(1).integers(0, 1 << 64, 10000, np.uint64), 2 ** np.arange(12, 64, dtype=np.uint64)]
    )
    expected = -np.log(((x >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53)
    assert np.allclose(_minus_log(x), expected, rtol=1e-8, atol=1e-15)


def test_every_algorithm_is_in_the_table() -> None:
    """Whatever a pool can name has a builder."""
    assert set(ALGORITHMS) == set(Algorithm)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=2, max_size=6),
)
def test_what_is_known_makes_no_difference(weights, rounds):
    """Members that go and come, some at a time: a table that is made from the one before is the one made from nothing,
    also out of and into a state in which nobody is eligible."""
    ids = [f"web{number:02}" for number in range(len(weights))]
    base = base_table(ids, weights)
    known = None
    for eligible in rounds:
        ramps = [1.0 if eligible[place] else 0.0 for place in range(len(ids))]
        fresh = overlay(base, ids, weights, ramps)
        assert (overlay(base, ids, weights, ramps, known) == fresh).all()
        known = ramps, fresh


def test_what_is_known_of_slow_starts_is_not_used():
    """Between parts of shares there is no short cut: the table is made from nothing."""
    ids, weights = ["a", "b", "c"], [1, 1, 1]
    base = base_table(ids, weights)
    before = [1.0, 0.25, 1.0]
    known = before, overlay(base, ids, weights, before)
    for ramps in ([0.0, 0.5, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]):
        assert (overlay(base, ids, weights, ramps, known) == overlay(base, ids, weights, ramps)).all()

"""Slot words over time: how a pool's table goes from one set of owners to the next without a flow noticing.

A slot's flows that nobody remembers are all at one member: its primary in the steady state and in the tail, its
previous in a window (packet/placement.py). A change of owner makes that member the previous one, as long as it serves;
so whatever happens to a slot, and however often within one window, the flows that nobody remembers are found again.
Flows that are elsewhere are remembered, one by one, and a slot is steady again only when none of them is left.

Pure: time comes in as an argument, and so does what planes remember (`PinFacts`).
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from appliance.forwarding import NO_MEMBER, SlotArray
from appliance.ring.slots import pack, unpack

Mask = npt.NDArray[np.bool_]
_NONE = np.uint32(NO_MEMBER)

TAIL_S = 30.0
"""How long a tail lasts at least: directors do not end a window at the same moment, and until all have ended it, what
one of them sends by its slots alone another would send elsewhere."""


@dataclass(frozen=True)
class PinFacts:
    """What a data plane remembered of the flows of one slot table at some moment: a row for each slot and member that
    there were pins of. It says nothing of the table's words, so it is as good for those that have come since."""

    at: float
    """By the clock of `Course.since`."""

    slot: npt.NDArray[np.int64] = field(repr=False)
    member: npt.NDArray[np.uint16] = field(repr=False)
    quiet_s: npt.NDArray[np.float32] = field(repr=False)
    """Seconds, at that moment, since any of them was used last."""

    everywhere: bool = False
    """Whether there may be flows of every member in every slot."""

    @property
    def nothing(self) -> bool:
        """Whether no flow was remembered at all."""
        return not self.everywhere and not len(self.slot)

    def elsewhere(self, primary: npt.NDArray[np.uint32], serves: Mask) -> Mask:
        """In which slots flows are remembered at others than the primary.

        Args:
            primary: of each slot.
            serves: by member index; what is remembered of others does not count.
        """
        found = np.full(len(primary), self.everywhere)
        found[self.slot[serves[self.member] & (self.member != primary[self.slot])]] = True
        return found


@dataclass(frozen=True)
class Course:
    """A slot table and where it is between two states. Read-only."""

    slots: SlotArray = field(repr=False, compare=False)
    since: npt.NDArray[np.float64] = field(repr=False, compare=False)
    """When each slot's window or tail began; meaningless where it is steady."""

    windows: int = 0
    """Slots that are in a window."""

    tails: int = 0
    """Slots that are in the tail."""

    next_at: float | None = None
    """When the next window ends at the latest."""

    @property
    def steady(self) -> bool:
        """Whether every packet goes to the primary, and nothing is remembered."""
        return not self.windows and not self.tails

    def previous(self) -> frozenset[int]:
        """Members that slots fall back to."""
        primary, previous = unpack(self.slots)
        return frozenset(np.unique(previous[(previous != primary) & (previous != _NONE)]).tolist())


def start(slots: SlotArray) -> Course:
    """The beginning: nothing is known of any flow before.

    Args:
        slots: steady words.
    """
    return Course(slots, np.zeros(len(slots)))


def follow(
    before: Course,
    wanted: SlotArray,
    serving: Set[int],
    now: float,
    window_s: float,
    facts: PinFacts | None = None,
    settled_at: float = float("-inf"),
    kept: Set[int] = frozenset(),
) -> Course:
    """The next words of a slot table.

    Args:
        before: the words in force.
        wanted: whom the slots should belong to, as steady words.
        serving: members that go on with the flows they have, those that take no new ones included. Owners in *wanted*
            are among them.
        now: in seconds, by the clock of *before*.
        window_s: how long unremembered flows of the previous owner may be silent.
        facts: what is remembered. Where that is not known, or no longer, every flow that could be remembered is taken
            to be.
        kept: of *serving*, members whose flows are theirs for as long as it takes: their windows do not end.
        settled_at: windows that had begun by then are over: nobody uses their previous owners any more (`is_quiet`).

    Returns:
        *before* itself when nothing changes.
    """
    if facts is not None and now - facts.at > TAIL_S / 2:
        facts = None
    unchanged = before.steady and before.slots is wanted
    if unchanged and (facts is None or facts.nothing):
        return before  # without a look at a single slot: most tables are like this, whenever one of them changes
    primary, previous = unpack(before.slots)
    target, _ = unpack(wanted)
    serves = np.zeros(NO_MEMBER + 1, np.bool_)
    serves[list(serving)] = True
    serves[NO_MEMBER] = False
    told = None if facts is None else facts.elsewhere(target, serves)
    if unchanged and told is not None and not told.any():
        return before

    steady = primary == previous
    owner = np.where(previous == _NONE, primary, previous)  # of flows that nobody remembers
    windowed = ~steady & (previous != _NONE)
    moved = target != primary

    age = now - before.since
    over = (age >= window_s) | (before.since <= settled_at)
    elsewhere = ~steady if facts is None or told is None else told | ~steady & (before.since >= facts.at)
    # While nobody takes new flows, old ones have nowhere else to go.
    keeps = np.zeros(NO_MEMBER + 1, np.bool_)
    keeps[list(kept)] = True
    over &= windowed & ~keeps[previous] & ((primary != _NONE) | (target != _NONE))
    owner = np.where(over, primary, owner)

    # Nobody takes new flows, and the one with the unremembered ones has died: any other will do to keep the slot from
    # being steady, so that those that are remembered go on.
    stranded = (target == _NONE) & ~serves[owner] & ~steady
    if serving and stranded.any():
        owner = np.where(stranded, np.where(serves[primary], primary, min(serving)), owner)

    window = serves[owner] & (owner != target)
    # Other directors may tell of flows in a slot that is steady here already: hence not only where there was a window.
    tail = ~window & (target != _NONE) & (elsewhere | ~steady & (moved | windowed | (age < TAIL_S)))
    following = np.where(window, owner, np.where(tail, _NONE, target)).astype(np.uint32)
    slots = pack(target, following)
    if np.array_equal(slots, before.slots):
        return before
    goes_on = (window & windowed & ~over) | (tail & ~windowed & ~steady & ~moved)
    # Who was taken because somebody had to be has none of the unremembered flows: who takes new ones next has them.
    begun = np.where(goes_on, before.since, now)
    # A change that takes a window back may reach another director after that window's end, and begins a new one there,
    # with the primary of now as its owner from before: until that is over as well, nobody may forget flows.
    taken_back = tail & moved & windowed & serves[primary]
    since = np.where(stranded, -np.inf, np.where(taken_back, now + window_s, begun))
    for array in (slots, since):
        array.flags.writeable = False
    return Course(
        slots=wanted if np.array_equal(slots, wanted) else slots,
        since=since,
        windows=int(np.count_nonzero(window)),
        tails=int(np.count_nonzero(tail)),
        next_at=float(since[ending].min()) + window_s if (ending := window & (target != _NONE)).any() else None,
    )


def pin_facts(
    at: float,
    slot: npt.NDArray[np.int64],
    member: npt.NDArray[np.uint16],
    age_s: npt.NDArray[np.float32],
) -> PinFacts:
    """What pins say about the slots of a table.

    Args:
        at: when they were looked at, by the clock of `Course.since`.
        slot: of each live pin.
        member: that each is of.
        age_s: seconds since each was used.
    """
    both, row = np.unique(slot << 16 | member, return_inverse=True)
    quiet = np.full(len(both), np.inf, np.float32)
    np.minimum.at(quiet, row, age_s)
    return PinFacts(at, both >> 16, (both & 0xFFFF).astype(np.uint16), quiet)


def is_quiet(course: Course, facts: PinFacts, now: float, quiet_s: float) -> bool:
    """Whether nothing has used the previous owner of any slot in a window for so long.

    All windows of a table close together, as an event that its log has: whoever follows the log later must come to
    the same words, and would not know when single slots were quiet.

    Args:
        course: the table.
        facts: what is remembered of its flows.
        now: by its clock.
        quiet_s: how long.
    """
    primary, previous = unpack(course.slots)
    window = (primary != previous) & (previous != _NONE) & (primary != _NONE)
    used = np.full(len(primary), np.inf, np.float32)
    old = facts.member == previous[facts.slot]
    used[facts.slot[old]] = facts.quiet_s[old]
    return bool(window.any()) and bool((np.minimum(now - course.since, used)[window] >= quiet_s).all())


@dataclass(frozen=True)
class Step:
    """One entry of a table's log."""

    at: float
    wanted: SlotArray = field(repr=False)
    serving: frozenset[int]
    settled: bool = False
    """Windows that were open then are over."""


def replay(steps: Sequence[Step], now: float, window_s: float) -> Course | None:
    """Where a table is after a series of changes that others have seen; None when there was none.

    Args:
        steps: the oldest first.
        now: by the same clock.
        window_s: see `follow`.
    """
    course: Course | None = None
    for step in steps:
        if course is None:
            course = start(step.wanted)
            continue
        settled_at = step.at if step.settled else float("-inf")
        course = follow(course, step.wanted, step.serving, step.at, window_s, settled_at=settled_at)
    if course is None:
        return None
    last = steps[-1]
    return follow(course, last.wanted, last.serving, now, window_s)

"""The rules of `packet.placement.place`, as tables: for every combination of what it can be asked, it is asked once, at
import, and frames find its answers by number.
"""

from enum import IntEnum
from itertools import product

import numpy as np
import numpy.typing as npt

from appliance.dataplane.pins import STATE_SHIFT, ages_of, lifetime
from appliance.forwarding import NO_MEMBER, Placement
from appliance.packet.placement import RETRANSMISSION_TICKS, Kind, Pin, PinState, Slot, place, tcp_kind


class Where(IntEnum):
    """Who takes a frame."""

    PRIMARY = 0
    PREVIOUS = 1
    PIN = 2
    CHOICE = 3


class Order(IntEnum):
    """What a frame's place has to do with other frames of its flow in the same batch."""

    SETTLED = 0
    """Nothing: none of them changes what is remembered."""
    USED = 1
    """It goes on where the flow is; others that do may do so before or after."""
    RETRANSMITTED = 2
    """The same for a SYN, as long as nobody closes the flow."""
    FIRST_COME = 3
    """One after the other."""


STEADY, WINDOW, TAIL = range(3)
"""Shapes of slot words."""

NO_ENTRY, DEAD, LIVE = range(3)
"""What there is of a flow. Live entries go by state and age: LIVE + 2 * state, and one more from RETRANSMISSION_TICKS
on."""

ENTRIES = LIVE + 2 * len(PinState)

KINDS = (Kind.SYN, Kind.PLAIN, Kind.FIN, Kind.RST, Kind.ODD, Kind.UDP)
"""Of plain frames."""

KIND_NUMBERS = {kind: number * ENTRIES for number, kind in enumerate(KINDS)}
"""Kinds go by their first rule among those of a slot."""

SYN, FIN, RST, UDP = (KIND_NUMBERS[kind] for kind in (Kind.SYN, Kind.FIN, Kind.RST, Kind.UDP))
KIND_OF_FLAGS = np.array([KIND_NUMBERS[tcp_kind(flags)] for flags in range(256)], np.int64)
KIND_LIST: list[int] = KIND_OF_FLAGS.tolist()

NOTHING = len(PinState)
"""In place of a state: what is remembered stays as it is."""


def slot_rule(placement: Placement, shape: int) -> int:
    """The first rule for a slot. From there, rules go by kind, and then by entry."""
    return (_PLACEMENTS.index(placement) * 3 + shape) * len(KINDS) * ENTRIES


def _ask(placement: Placement, shape: int, kind: Kind, entry: int) -> tuple[Where, int, bool]:
    """What `place` answers: who takes the packet, the state to remember, and whether others have to be told first."""
    members = {Where.PRIMARY: 10, Where.PREVIOUS: 11, Where.PIN: 12, Where.CHOICE: 13}
    primary = members[Where.PRIMARY]
    previous = {STEADY: primary, WINDOW: members[Where.PREVIOUS], TAIL: NO_MEMBER}[shape]
    idle = 100
    pin: Pin | None = None
    if entry == DEAD:
        pin = Pin(members[Where.PIN], PinState.OPEN, idle + 1)
    elif entry >= LIVE:
        state, old = divmod(entry - LIVE, 2)
        pin = Pin(members[Where.PIN], PinState(state), RETRANSMISSION_TICKS * old)
    placed = place(
        kind, Slot(primary, previous, placement, idle), pin, lambda member: True, lambda: members[Where.CHOICE]
    )
    where = next(who for who, member in members.items() if member == placed.member)
    if placed.keep is None:
        return where, NOTHING, False
    if (placed.keep.member, placed.keep.age) != (placed.member, 0):
        raise AssertionError("a flow is remembered elsewhere than its packet goes")
    return where, int(placed.keep.state), placed.tell


def _order(placement: Placement, shape: int, kind: Kind, entry: int) -> Order:
    if all(_ask(placement, shape, other, entry)[1] == NOTHING for other in KINDS):
        return Order.SETTLED
    if _ask(placement, shape, kind, entry)[0] is Where.PIN:
        return Order.RETRANSMITTED if kind is Kind.SYN else Order.USED
    return Order.FIRST_COME


_PLACEMENTS = tuple(Placement)
_QUESTIONS = tuple(product(_PLACEMENTS, range(3), KINDS, range(ENTRIES)))

KEEP_SHIFT, ORDER_SHIFT = 2, 5
TELL = 0x80


def _fate(*question: *tuple[Placement, int, Kind, int]) -> int:
    where, keep, tell = _ask(*question)
    return where | keep << KEEP_SHIFT | _order(*question) << ORDER_SHIFT | tell * TELL


FATES = np.array([_fate(*question) for question in _QUESTIONS], np.uint8)
"""By rule: who takes the frame (2 bits), which state is to be remembered (3), what it has to do with others (2), and
whether other directors have to be told first (1); if that cannot be, the previous owner takes it."""

FATE_LIST: list[int] = FATES.tolist()


class EntryCodes:
    """What entries are worth at some tick, by the lower half of their words: state and time of last use."""

    def __init__(self, idle: int) -> None:
        """*idle*: ticks, of the services that the entries are of."""
        self._low = np.arange(1 << 16, dtype=np.uint64)
        state = (self._low >> np.uint64(STATE_SHIFT)).astype(np.int64)
        self._limit = np.array([lifetime(state, idle) for state in PinState]).take(state)
        self._live = LIVE + 2 * state
        self._latest: tuple[int, npt.NDArray[np.uint8]] | None = None

    def at(self, now: int) -> npt.NDArray[np.uint8]:
        """The codes of words that are not 0, whose members serve."""
        latest = self._latest
        if latest is None or latest[0] != now:
            age = ages_of(self._low, now)
            codes = np.where(age <= self._limit, self._live + (age >= RETRANSMISSION_TICKS), DEAD)
            self._latest = latest = now, codes.astype(np.uint8)
        return latest[1]

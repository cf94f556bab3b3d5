"""Who takes frames that a look at the slot tables does not settle: flows in transition, and services that place flow by
flow or packet by packet.

The rules are `packet.placement.place`: for every combination of what it can be asked, it is asked once, at import, and
frames find its answers by number. Frames of a batch that do not depend on one another are placed together, by passes
over columns; where one frame's answer depends on what an earlier one of the same flow has left behind, the later one
waits for the next round.
"""

from dataclasses import replace
from enum import IntEnum
from itertools import product

import numpy as np
import numpy.typing as npt

from appliance.dataplane.pins import lifetime
from appliance.forwarding import NO_MEMBER, Placement
from appliance.packet.placement import (
    RETRANSMISSION_TICKS,
    Kind,
    Pin,
    PinState,
    Slot,
    is_live,
    place,
    tcp_kind,
)

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Members = npt.NDArray[np.uint16]


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


KINDS = (Kind.SYN, Kind.PLAIN, Kind.FIN, Kind.RST, Kind.ODD, Kind.UDP)
"""Of plain frames."""

SYN, PLAIN, FIN, RST, ODD, UDP = range(6)
KIND_OF_FLAGS = np.array([KINDS.index(tcp_kind(flags)) for flags in range(256)], np.int64)
KIND_LIST = KIND_OF_FLAGS.tolist()

STEADY, WINDOW, TAIL = range(3)
"""Shapes of slot words."""

NO_ENTRY, DEAD, LIVE = 0, 1, 2
"""Entries as the rules see them; live ones by state, young and old: LIVE + 2 * state, and 1 more when not young."""
ENTRIES = LIVE + 2 * len(PinState)

PLACEMENTS = tuple(Placement)
NOTHING = len(PinState)
"""In place of a state: nothing is remembered that was not before."""

RULES_OF_A_SLOT = len(KINDS) * ENTRIES
"""Numbers of rules: those of a slot, by placement and shape; then by kind, then by entry."""


def slot_rules(placement: Placement, shape: int) -> int:
    """The first rule of slots."""
    return (PLACEMENTS.index(placement) * 3 + shape) * RULES_OF_A_SLOT


def _ask(placement: Placement, shape: int, kind: Kind, entry: int) -> tuple[Where, int, Order]:
    """What `place` answers: by whom, the state to remember, and when."""
    members = {Where.PRIMARY: 10, Where.PREVIOUS: 11, Where.PIN: 12, Where.CHOICE: 13}
    primary = members[Where.PRIMARY]
    previous = {STEADY: primary, WINDOW: members[Where.PREVIOUS], TAIL: NO_MEMBER}[shape]
    slot = Slot(primary, previous, placement, idle_ticks=100)
    state = PinState((entry - LIVE) // 2) if entry >= LIVE else PinState.OPEN
    # The oldest that still counts and the youngest both stand for their halves: the rules know no other borders.
    old = lifetime(state, slot.idle_ticks) if state is not PinState.RST else RETRANSMISSION_TICKS
    age = 0 if entry >= LIVE and not entry & 1 else old
    pin = None if entry == NO_ENTRY else Pin(members[Where.PIN], state, age if entry >= LIVE else slot.idle_ticks + 1)
    if pin is not None and entry >= LIVE and not is_live(pin, slot.idle_ticks):
        pin = replace(pin, age=0)  # an RST is never both old and live
    placed = place(kind, slot, pin, lambda member: True, lambda: members[Where.CHOICE])
    where = next(who for who, member in members.items() if member == placed.member)
    if placed.keep is not None and (placed.keep.member, placed.keep.age) != (placed.member, 0):
        raise AssertionError("what is remembered is not where the packet goes")
    return where, NOTHING if placed.keep is None else int(placed.keep.state), Order.FIRST_COME


def _rules() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    where, keep, order = [], [], []
    for placement, shape, kind, entry in product(PLACEMENTS, range(3), KINDS, range(ENTRIES)):
        answer = _ask(placement, shape, kind, entry)
        where.append(answer[0])
        keep.append(answer[1])
        if all(_ask(placement, shape, other, entry)[1] == NOTHING for other in KINDS):
            order.append(Order.SETTLED)
        elif answer[0] is Where.PIN:
            order.append(Order.RETRANSMITTED if kind is Kind.SYN else Order.USED)
        else:
            order.append(Order.FIRST_COME)
    return np.array(where, np.int64), np.array(keep, np.int64), np.array(order, np.int64)


WHERE, KEEP, ORDER = _rules()
_WHERE_LIST, _KEEP_LIST = WHERE.tolist(), KEEP.tolist()

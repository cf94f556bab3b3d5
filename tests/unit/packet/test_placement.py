"""The rules by which a packet finds its member, one by one, and what holds for all of them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.forwarding import NO_MEMBER, Placement
from appliance.packet.action import By
from appliance.packet.placement import (
    FIN_TICKS,
    RETRANSMISSION_TICKS,
    RST_TICKS,
    TICK_S,
    Kind,
    Pin,
    PinState,
    Placed,
    Slot,
    idle_ticks,
    is_live,
    place,
    tcp_kind,
)

P, Q, R, NEXT = 1, 2, 3, 4
IDLE = 280
STEADY, WINDOW, TAIL, DRAINED = (P, P), (P, Q), (P, NO_MEMBER), (NO_MEMBER, Q)
ALL = frozenset((P, Q, R, NEXT))
NEW, OPEN, FIN, RST = PinState

words = st.sampled_from((STEADY, WINDOW, TAIL, DRAINED, (NO_MEMBER, NO_MEMBER)))
kinds = st.sampled_from(Kind)
placements = st.sampled_from(Placement)
entries = st.none() | st.builds(
    Pin, st.sampled_from((P, Q, R)), st.sampled_from(PinState), st.integers(0, 70) | st.integers(0, 16383)
)
members = st.frozensets(st.sampled_from(sorted(ALL)))


def ask(
    kind: Kind,
    word: tuple[int, int],
    entry: Pin | None = None,
    placement: Placement = Placement.HASH,
    *,
    serving: frozenset[int] = ALL,
    idle: int = IDLE,
    choice: int = NEXT,
    may_open: Callable[[], bool] = lambda: True,
) -> Placed:
    return place(kind, Slot(*word, placement, idle), entry, serving.__contains__, lambda: choice, may_open)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (0x02, Kind.SYN),
        (0xC2, Kind.SYN),
        (0x0A, Kind.SYN),
        (0x10, Kind.PLAIN),
        (0x18, Kind.PLAIN),
        (0xD8, Kind.PLAIN),
        (0x01, Kind.FIN),
        (0x11, Kind.FIN),
        (0x39, Kind.FIN),
        (0x04, Kind.RST),
        (0x14, Kind.RST),
        (0x15, Kind.RST),
        (0x00, Kind.ODD),
        (0x08, Kind.ODD),
        (0x03, Kind.ODD),
        (0x06, Kind.ODD),
        (0x12, Kind.ODD),
        (0xFF, Kind.ODD),
    ],
)
def test_kinds_of_segments(flags: int, kind: Kind) -> None:
    """Flags beside SYN, ACK, FIN and RST make no difference, and what no client sends is odd."""
    assert tcp_kind(flags) is kind


@pytest.mark.parametrize(
    ("kind", "word", "entry", "placed"),
    [
        # Nobody is remembered.
        (Kind.SYN, WINDOW, None, Placed(P, By.SLOT, Pin(P, NEW), tell=True)),
        (Kind.PLAIN, WINDOW, None, Placed(Q, By.PREVIOUS, Pin(Q, NEW))),
        (Kind.FIN, WINDOW, None, Placed(Q, By.PREVIOUS, Pin(Q, FIN))),
        (Kind.RST, WINDOW, None, Placed(Q, By.PREVIOUS)),
        (Kind.ODD, WINDOW, None, Placed(Q, By.PREVIOUS)),
        (Kind.ERROR, WINDOW, None, Placed(Q, By.PREVIOUS)),
        (Kind.UDP, WINDOW, None, Placed(Q, By.PREVIOUS, Pin(Q, NEW))),
        (Kind.PIECE, WINDOW, None, Placed(Q, By.PREVIOUS)),
        (Kind.SYN, TAIL, None, Placed(P, By.SLOT, Pin(P, NEW))),
        (Kind.PLAIN, TAIL, None, Placed(P, By.SLOT, Pin(P, NEW))),
        (Kind.FIN, TAIL, None, Placed(P, By.SLOT, Pin(P, FIN))),
        (Kind.RST, TAIL, None, Placed(P, By.SLOT)),
        (Kind.ODD, TAIL, None, Placed(P, By.SLOT)),
        (Kind.ERROR, TAIL, None, Placed(P, By.SLOT)),
        (Kind.UDP, TAIL, None, Placed(P, By.SLOT, Pin(P, NEW))),
        (Kind.PIECE, TAIL, None, Placed(P, By.SLOT)),
        (Kind.SYN, DRAINED, None, Placed(NO_MEMBER, By.SLOT)),
        (Kind.PLAIN, DRAINED, None, Placed(Q, By.PREVIOUS, Pin(Q, NEW))),
        # Somebody is.
        (Kind.PLAIN, WINDOW, Pin(R, NEW, 9), Placed(R, By.PIN, Pin(R, OPEN))),
        (Kind.UDP, TAIL, Pin(R, NEW, 9), Placed(R, By.PIN, Pin(R, OPEN))),
        (Kind.FIN, WINDOW, Pin(R, OPEN, 9), Placed(R, By.PIN, Pin(R, FIN))),
        (Kind.RST, TAIL, Pin(R, OPEN, 9), Placed(R, By.PIN, Pin(R, RST))),
        (Kind.PLAIN, TAIL, Pin(R, FIN, 9), Placed(R, By.PIN, Pin(R, FIN))),
        (Kind.FIN, TAIL, Pin(R, RST, 1), Placed(R, By.PIN, Pin(R, RST))),
        (Kind.PLAIN, TAIL, Pin(R, RST, 1), Placed(R, By.PIN, Pin(R, RST))),
        (Kind.ODD, WINDOW, Pin(R, OPEN, 9), Placed(R, By.PIN)),
        (Kind.ERROR, WINDOW, Pin(R, OPEN, 9), Placed(R, By.PIN)),
        (Kind.PIECE, WINDOW, Pin(R, OPEN, 9), Placed(Q, By.PREVIOUS)),
        (Kind.PLAIN, DRAINED, Pin(R, OPEN, 9), Placed(R, By.PIN, Pin(R, OPEN))),
        # New connections of flows that are remembered (C3).
        (Kind.SYN, WINDOW, Pin(R, NEW, RETRANSMISSION_TICKS - 1), Placed(R, By.PIN)),
        (Kind.SYN, WINDOW, Pin(R, NEW, RETRANSMISSION_TICKS), Placed(P, By.SLOT, Pin(P, NEW), tell=True)),
        (Kind.SYN, TAIL, Pin(R, OPEN, 0), Placed(R, By.PIN)),
        (Kind.SYN, TAIL, Pin(R, FIN, 0), Placed(P, By.SLOT, Pin(P, NEW))),
        (Kind.SYN, WINDOW, Pin(R, RST, 0), Placed(P, By.SLOT, Pin(P, NEW), tell=True)),
        (Kind.SYN, DRAINED, Pin(R, OPEN, 9), Placed(NO_MEMBER, By.SLOT)),
        (Kind.SYN, DRAINED, Pin(R, NEW, 1), Placed(R, By.PIN)),
    ],
)
def test_by_hash(kind: Kind, word: tuple[int, int], entry: Pin | None, placed: Placed) -> None:
    """Services that place by hash, in slots that are changing."""
    assert ask(kind, word, entry) == placed


@pytest.mark.parametrize("entry", [None, Pin(R, RST, 0), Pin(R, OPEN, IDLE + 1)])
def test_a_connection_that_nobody_can_be_told_of_begins_where_others_presume_it(entry: Pin | None) -> None:
    """Whether that can be is asked once, and only when it makes a difference."""
    asked: list[bool] = []

    def refuse() -> bool:
        asked.append(True)
        return False

    assert ask(Kind.SYN, WINDOW, entry, may_open=refuse) == Placed(Q, By.PREVIOUS, Pin(Q, NEW))
    assert len(asked) == 1
    for kind in Kind:
        for word in (TAIL, DRAINED, STEADY):
            ask(kind, word, entry, may_open=refuse)
        if kind is not Kind.SYN:
            ask(kind, WINDOW, entry, may_open=refuse)
    ask(Kind.SYN, WINDOW, Pin(R, NEW, 0), may_open=refuse)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("kind", "word", "entry", "placed"),
    [
        (Kind.SYN, STEADY, None, Placed(NEXT, By.CHOICE, Pin(NEXT, NEW))),
        (Kind.SYN, WINDOW, Pin(R, OPEN, 9), Placed(NEXT, By.CHOICE, Pin(NEXT, NEW))),
        (Kind.SYN, STEADY, Pin(R, NEW, 1), Placed(R, By.PIN)),
        (Kind.UDP, STEADY, None, Placed(NEXT, By.CHOICE, Pin(NEXT, NEW))),
        (Kind.UDP, STEADY, Pin(R, OPEN, 9), Placed(R, By.PIN, Pin(R, OPEN))),
        (Kind.PLAIN, STEADY, None, Placed(P, By.SLOT, Pin(P, NEW))),
        (Kind.PLAIN, WINDOW, None, Placed(Q, By.PREVIOUS, Pin(Q, NEW))),
        (Kind.PLAIN, TAIL, None, Placed(P, By.SLOT, Pin(P, NEW))),
        (Kind.PLAIN, STEADY, Pin(R, NEW, 9), Placed(R, By.PIN, Pin(R, OPEN))),
        (Kind.FIN, STEADY, None, Placed(P, By.SLOT, Pin(P, FIN))),
        (Kind.RST, WINDOW, None, Placed(Q, By.PREVIOUS)),
        (Kind.ODD, STEADY, None, Placed(P, By.SLOT)),
        (Kind.ERROR, STEADY, Pin(R, OPEN, 9), Placed(R, By.PIN)),
        (Kind.PIECE, STEADY, Pin(R, OPEN, 9), Placed(P, By.SLOT)),
    ],
)
def test_flow_by_flow(kind: Kind, word: tuple[int, int], entry: Pin | None, placed: Placed) -> None:
    """Services whose algorithm decides about each new flow remember all of them, whatever their slots do."""
    assert ask(kind, word, entry, Placement.PER_FLOW) == placed


@pytest.mark.parametrize("kind", [Kind.SYN, Kind.UDP])
def test_nobody_to_choose(kind: Kind) -> None:
    """Without choices a new flow goes nowhere, and is not remembered."""
    assert ask(kind, STEADY, None, Placement.PER_FLOW, choice=NO_MEMBER) == Placed(NO_MEMBER, By.CHOICE)


def test_packet_by_packet() -> None:
    """Each datagram is chosen for; an ICMP error goes where the slot says."""
    assert ask(Kind.UDP, WINDOW, Pin(R, OPEN), Placement.PER_PACKET) == Placed(NEXT, By.CHOICE)
    assert ask(Kind.ERROR, WINDOW, Pin(R, OPEN), Placement.PER_PACKET) == Placed(Q, By.PREVIOUS)
    assert ask(Kind.ERROR, STEADY, None, Placement.PER_PACKET) == Placed(P, By.SLOT)


@given(kinds, entries)
def test_steady_slots_neither_ask_nor_remember(kind: Kind, entry: Pin | None) -> None:
    """Where nothing has changed, everything goes to the owner and leaves no trace."""
    assert ask(kind, STEADY, entry) == Placed(P, By.SLOT)


@given(kinds, words, entries, placements, members, st.integers(0, 400))
def test_only_to_those_that_serve(
    kind: Kind, word: tuple[int, int], entry: Pin | None, placement: Placement, serving: frozenset[int], idle: int
) -> None:
    """What is remembered leads nobody to a member that does not serve, and leaves nothing behind for one."""
    placed = ask(kind, word, entry, placement, serving=serving, idle=idle)
    assert placed.member in {*word, NEXT, *serving}
    if placed.by is By.PIN:
        assert placed.member in serving
    if placed.keep is not None:
        assert placed.keep.member == placed.member != NO_MEMBER
        assert placed.keep.age == 0


@given(kinds, words, entries, placements, st.integers(0, 400))
def test_what_does_not_count_is_as_good_as_nothing(
    kind: Kind, word: tuple[int, int], entry: Pin | None, placement: Placement, idle: int
) -> None:
    """Entries that are over, and those of members that have left, make no difference at all."""
    serving = ALL - {entry.member} if entry is not None and is_live(entry, idle) else ALL
    assert ask(kind, word, entry, placement, serving=serving, idle=idle) == ask(
        kind, word, None, placement, serving=serving, idle=idle
    )


@given(kinds, words, entries, placements)
def test_a_choice_is_taken_once_at_most(
    kind: Kind, word: tuple[int, int], entry: Pin | None, placement: Placement
) -> None:
    """A turn is taken exactly when it decides, and never by services that place by hash."""
    turns = []
    placed = place(kind, Slot(*word, placement, IDLE), entry, ALL.__contains__, lambda: turns.append(1) or NEXT)
    assert len(turns) == (placed.by is By.CHOICE)
    assert not turns or placement is not Placement.HASH


@given(words, entries, st.sampled_from((Placement.HASH, Placement.PER_FLOW)), kinds, kinds)
def test_flows_stay(word: tuple[int, int], entry: Pin | None, placement: Placement, first: Kind, then: Kind) -> None:
    """Where a packet was remembered, the flow's next one goes, whatever it is but a new connection."""
    placed = ask(first, word, entry, placement)
    if placed.keep is not None and then not in (Kind.SYN, Kind.PIECE):
        assert ask(then, word, placed.keep, placement).member == placed.member


@given(words, st.sampled_from((Placement.HASH, Placement.PER_FLOW)), st.lists(kinds, min_size=1, max_size=6))
def test_states_go_one_way(word: tuple[int, int], placement: Placement, packets: list[Kind]) -> None:
    """Nothing but a new connection makes a flow that is closing an open one again."""
    entry: Pin | None = None
    for kind in packets:
        placed = ask(kind, word, entry, placement)
        if entry is not None and placed.keep is not None and kind is not Kind.SYN:
            assert placed.keep.state >= entry.state
        entry = placed.keep or entry


@pytest.mark.parametrize(
    ("pin", "lifetime"),
    [(Pin(P, NEW), IDLE), (Pin(P, OPEN), IDLE), (Pin(P, FIN), FIN_TICKS), (Pin(P, RST), RST_TICKS)],
)
def test_lifetimes(pin: Pin, lifetime: int) -> None:
    """A pin counts for its idle timeout, after a FIN for a minute, after an RST for two seconds."""
    assert is_live(replace(pin, age=lifetime), IDLE)
    assert not is_live(replace(pin, age=lifetime + 1), IDLE)


def test_short_idle_timeouts_end_closing_flows_too() -> None:
    """A FIN never makes a flow last longer; without an idle timeout it ends all the same."""
    assert not is_live(Pin(P, FIN, 11), 10)
    assert is_live(Pin(P, FIN, FIN_TICKS), 0)
    assert not is_live(Pin(P, FIN, FIN_TICKS + 1), 0)
    assert is_live(Pin(P, OPEN, 16383), 0)


@given(st.integers(1, 65535), st.floats(0, 1, exclude_max=True))
def test_nobody_is_over_too_early(seconds: int, phase: float) -> None:
    """Counted in ticks, wherever in a tick a flow began, it lasts as long as promised, and not three seconds longer."""
    ticks = idle_ticks(seconds)
    age = int(seconds / TICK_S + phase)
    assert age <= ticks
    assert (ticks + 1) * TICK_S < seconds + 3 * TICK_S
    assert idle_ticks(0) == 0

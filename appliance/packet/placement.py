"""Which member a packet goes to, given its slot, what is remembered of its flow, and what kind of packet it is.

The reference for every data plane (packets.md, section 7). Slots are words of `forwarding.SlotArray`:

    (P, P)            steady: P, and nothing is remembered
    (P, Q)            window: flows from before the change are on Q, new ones go to P
    (P, NO_MEMBER)    tail: flows that are remembered stay where they are, all others are on P and are remembered, too
    (NO_MEMBER, Q)    window in which nobody takes new flows

Pins remember flows: in a window and in the tail all of them (new ones from their SYN on, older ones from the first
packet that is seen), and always where an algorithm decides flow by flow. Directors are never in the same phase at the
very same moment, and what one remembers it tells the others: so a flow that changes over from one director to another
finds its member as long as either is not steady. In a steady slot nobody remembers anything, so a flood of new flows
has nothing to fill.

Whoever has not been told of a flow presumes it on Q. So in a window a connection begins on P only if the others are
told of it before its first packet goes; else it begins on Q. Then a director may be lost at any moment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Protocol

from appliance.forwarding import NO_MEMBER, Placement
from appliance.packet.action import By

TICK_SHIFT = 30
"""Pins know time in ticks of 2^30 ns (1.07 s) of the monotonic clock."""

TICK_S = (1 << TICK_SHIFT) / 1e9

RETRANSMISSION_TICKS = 3
"""A SYN on a pin that was used less than this ago belongs to the same connection (C3)."""

FIN_TICKS = 56
"""What is left of a flow after the client's FIN, at most: a minute, as for orphans in Linux. The member may have much
more to send, and the client acknowledges it."""

RST_TICKS = 2
"""After an RST (C5)."""


class Kind(Enum):
    """What a packet says about its flow."""

    SYN = "syn"
    """Opens a TCP connection: SYN, and neither ACK, RST nor FIN."""
    PLAIN = "plain"
    """Belongs to a TCP connection: ACK, and neither SYN, RST nor FIN."""
    FIN = "fin"
    """FIN, and neither SYN nor RST."""
    RST = "rst"
    """RST without SYN."""
    ODD = "odd"
    """Any other combination of TCP flags (P8)."""
    UDP = "udp"
    ERROR = "error"
    """An ICMP error about the flow (I1, I3)."""
    PIECE = "piece"
    """A later fragment of which no first one is known, so that its flow is not either: it goes by its slot."""


class PinState(IntEnum):
    """What has been seen of a flow. The order is that of planes' memory."""

    NEW = 0
    """One packet, or a SYN and nothing else."""
    OPEN = 1
    FIN = 2
    RST = 3


@dataclass(frozen=True, slots=True)
class Pin:
    """What is remembered of a flow."""

    member: int
    """TableMember.index."""

    state: PinState
    age: int = 0
    """Ticks since it was last used."""


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """What is written down of a flow that is remembered."""

    source: bytes
    """4 or 16 bytes."""
    destination: bytes
    ports: bytes
    """The first 4 bytes of the L4 header."""
    protocol: int
    hash64: int
    """`ring.hash.pin_hash`."""
    hash32: int
    """The flow hash that its slot follows from."""
    idle: int
    """Ticks."""
    opened: bool = False
    """Whether this packet opens it."""
    origin: int = 0
    """0: seen here; 1: another director has told us."""


class Pins(Protocol):
    """What a data plane remembers of flows."""

    def now(self) -> int:
        """The present tick."""

    def find(self, hash64: int, now: int) -> tuple[int, Pin] | None:
        """Where a flow stands, and its entry, live or not."""

    def keep(self, pin: Pin, flow: FlowFacts, now: int, *, tell: bool = False) -> None:
        """Remember a flow, or what has become of it.

        Args:
            pin: what is to be remembered.
            flow: whose it is.
            now: the present tick.
            tell: tell the other directors before this returns.
        """

    def may_open(self, *, look_only: bool = False) -> bool:
        """Whether one more connection may begin elsewhere than on the member that is presumed by others; asked once for
        each. No, when they cannot be told of it in time.

        Args:
            look_only: none will begin.
        """


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a packet goes, and what is remembered from now on."""

    member: int
    """TableMember.index, or NO_MEMBER."""

    by: By
    keep: Pin | None = None
    """The pin of the flow from now on; None leaves things as they are."""

    tell: bool = False
    """Whether the other directors have to know of it before the packet goes."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The word of a flow's slot, and the rules of its virtual service."""

    primary: int
    previous: int
    placement: Placement
    idle_ticks: int
    """From `idle_ticks`."""

    @property
    def remembers(self) -> bool:
        """Whether what is remembered of a flow can make a difference here."""
        if self.placement is Placement.HASH:
            return self.primary != self.previous
        return self.placement is Placement.PER_FLOW


def idle_ticks(seconds: float) -> int:
    """An idle timeout in ticks, rounded so that no flow ends too early; 0, which is never, stays 0."""
    return 0 if seconds == 0 else int(-(-seconds // TICK_S)) + 1


def tcp_kind(flags: int) -> Kind:
    """The kind of a TCP packet by its flags (byte 13 of the header)."""
    fin, syn, rst, ack = flags & 0x01, flags & 0x02, flags & 0x04, flags & 0x10
    if syn:
        return Kind.SYN if not (fin or rst or ack) else Kind.ODD
    if rst:
        return Kind.RST
    if fin:
        return Kind.FIN
    return Kind.PLAIN if ack else Kind.ODD


def is_live(pin: Pin, idle: int) -> bool:
    """Whether a pin still counts, as far as its age tells.

    Args:
        pin: an entry of a plane's memory.
        idle: `idle_ticks` of the virtual service's session idle timeout.
    """
    if pin.state is PinState.RST:
        return pin.age <= RST_TICKS
    if pin.state is PinState.FIN:
        return pin.age <= (min(idle, FIN_TICKS) if idle else FIN_TICKS)
    return not idle or pin.age <= idle


def place(
    kind: Kind,
    slot: Slot,
    entry: Pin | None,
    serves: Callable[[int], bool],
    choose: Callable[[], int],
    may_open: Callable[[], bool] = lambda: True,
) -> Placed:
    """Where a packet goes.

    Args:
        kind: of the packet.
        slot: of its flow.
        entry: what is remembered of the flow, however old.
        serves: whether an index is a member of the tables.
        choose: the next member by the service's algorithm, or NO_MEMBER. Called at most once, and only for services
            that do not place by hash.
        may_open: as `Pins.may_open`. Called at most once, and only for a connection that begins in a window.
    """
    fallback = slot.primary if slot.previous == NO_MEMBER else slot.previous
    by_fallback = By.SLOT if fallback == slot.primary else By.PREVIOUS
    if slot.placement is Placement.PER_PACKET and kind is Kind.UDP:
        return Placed(choose(), By.CHOICE)
    if kind is Kind.PIECE or not slot.remembers:
        return Placed(fallback, by_fallback)

    live = entry if entry is not None and is_live(entry, slot.idle_ticks) and serves(entry.member) else None
    if kind is Kind.SYN:
        if live is not None and live.state < PinState.FIN and live.age < RETRANSMISSION_TICKS:
            return Placed(live.member, By.PIN)
        return _open(slot, fallback, choose, may_open)
    if live is not None:
        return Placed(live.member, By.PIN, _used(kind, live))
    if slot.placement is Placement.PER_FLOW and kind is Kind.UDP:
        member = choose()
        return Placed(member, By.CHOICE, _new(member))
    return Placed(fallback, by_fallback, _found(kind, fallback))


def _open(slot: Slot, fallback: int, choose: Callable[[], int], may_open: Callable[[], bool]) -> Placed:
    """A new connection."""
    if slot.placement is Placement.PER_FLOW:
        member = choose()
        return Placed(member, By.CHOICE, _new(member))
    if slot.primary in (fallback, NO_MEMBER):
        return Placed(slot.primary, By.SLOT, _new(slot.primary))
    if may_open():
        return Placed(slot.primary, By.SLOT, _new(slot.primary), tell=True)
    return Placed(fallback, By.PREVIOUS, _new(fallback))


def _new(member: int, state: PinState = PinState.NEW) -> Pin | None:
    return None if member == NO_MEMBER else Pin(member, state)


def _found(kind: Kind, member: int) -> Pin | None:
    """What is remembered of a flow that was there before and that nobody has remembered yet."""
    if kind is Kind.FIN:
        return _new(member, PinState.FIN)
    return _new(member) if kind in (Kind.PLAIN, Kind.UDP) else None


def _used(kind: Kind, pin: Pin) -> Pin | None:
    """A live pin after another packet of its flow."""
    if kind in (Kind.ODD, Kind.ERROR):
        return None
    if kind is Kind.RST:
        return Pin(pin.member, PinState.RST)
    if kind is Kind.FIN:
        return Pin(pin.member, max(pin.state, PinState.FIN))
    return Pin(pin.member, max(pin.state, PinState.OPEN))

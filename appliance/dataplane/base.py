"""The contract of a data plane, and its counters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from appliance.dataplane.events import PacketEvent
from appliance.dataplane.logged import LoggedFlows
from appliance.dataplane.pins import PinTable
from appliance.dataplane.recording import Recording
from appliance.forwarding import ForwardingTables
from appliance.packet.action import Action


class DataPlaneError(Exception):
    """Forwarding is not certain; the text says why and what to do about it."""


@dataclass(frozen=True)
class Traffic:
    """Client to member only: replies never pass a director."""

    packets: int = 0
    bytes: int = 0
    """Inner IP packets' lengths, without Ethernet and without encapsulation."""

    new_flows: int = 0
    """TCP SYNs without ACK. Always 0 for UDP, which has no beginning."""

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.packets + other.packets, self.bytes + other.bytes, self.new_flows + other.new_flows)


@dataclass(frozen=True)
class Counters:
    """They only grow while a plane lives, whatever happens to services and members meanwhile."""

    services: Mapping[tuple[str, str], Traffic] = field(default_factory=dict)
    """By (virtual service, VIP)."""

    members: Mapping[str, Traffic] = field(default_factory=dict)
    """By `pool/member`."""

    reasons: Mapping[str, int] = field(default_factory=dict)
    """Frames by `packet.action.Reason`."""

    replies: Mapping[str, int] = field(default_factory=dict)
    """Frames of our own, by `packet.action.Reply.kind`."""

    told_too_big: Mapping[str, int] = field(default_factory=dict)
    """Of these, errors that tell a client how small the way is, by `pool/member`."""

    details: Mapping[str, int] = field(default_factory=dict)
    """What else a plane counts of itself (ring overflows, completed checksums, ...)."""


@dataclass(frozen=True)
class MapFacts:
    """A map of the program that forwards, as the kernel has it."""

    name: str
    key_bytes: int
    value_bytes: int
    """Of each CPU, where every CPU has its own."""

    entries: int
    """Room for so many."""

    bytes: int
    """Memory that it takes in the kernel; before Linux 6.4 the kernel's estimate."""


class DataPlane(Protocol):
    """Makes packets follow forwarding tables."""

    @property
    def pins(self) -> PinTable:
        """What is remembered of flows: one table as long as the plane lives, there from `start` on."""

    @property
    def logged(self) -> LoggedFlows:
        """The flows of the connection log, the same. None are put there before it is told how many to sample."""

    async def start(self) -> None:
        """Take over the interfaces; remove or adopt what an earlier run left behind.

        Raises:
            DataPlaneError: an interface is missing, a privilege or kernel feature is absent.
        """

    async def set(self, tables: ForwardingTables) -> None:
        """Make these the tables in force: atomically, and idempotent. Returns when packets follow them.

        Raises:
            DataPlaneError: the tables were not taken; the old ones stay in force.
        """

    async def check(self) -> None:
        """Prove that packets are being forwarded by the tables last set.

        Raises:
            DataPlaneError: it cannot be proved (worker stuck, all interfaces down, a socket or rule gone).
        """

    async def counters(self) -> Counters:
        """Read the counters now."""

    async def explain(self, frame: bytes, interface: str) -> Action:
        """What this plane does with this Ethernet frame arriving on *interface*, without sending anything."""

    async def samples(self) -> Sequence[PacketEvent]:
        """The latest samples of what became of single packets, the newest last. Never complete."""

    async def record(self, recording: Recording | None) -> None:
        """Give what becomes of frames for VIPs to *recording* from now on, in place of an earlier one; None ends it.

        Raises:
            DataPlaneError: this plane cannot, or is not started; then nothing is recorded.
        """

    async def describe(self) -> Mapping[str, str]:
        """Facts for people: the plane's kind, how it sends, its interfaces."""

    async def maps(self) -> Sequence[MapFacts]:
        """Maps of the program that forwards; none where no program does."""

    async def stay(self) -> None:
        """Before an end that another process follows: have packets forwarded on, where that takes somebody else.
        `survivors` shows whether that has succeeded."""

    def keeper(self) -> int:
        """The process, by number, that forwards when this one is gone, or still does until this one follows tables of
        its own; 0: none."""

    def survivors(self) -> frozenset[int]:
        """Interfaces, by number, whose packets are forwarded on when this process is gone: all of them, or none."""

    async def close(self, *, leave: bool = False) -> None:
        """Stop forwarding and leave nothing behind.

        Args:
            leave: but what goes on without this process, if anything does (`survivors`); the next one takes it over.
        """

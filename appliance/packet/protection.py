"""Who may come, and how many at once: what all data planes hold packets for a protected virtual service to.

*Prefixes.* Of all that hold the client's address, the longest one decides; without any, the client may come. They are
kept as boundaries in ascending order, at each of which the answer turns: an address is denied when an odd number of
them is not above it. So there is one search, whatever the number and nesting of prefixes.

*Rates* count new connections: SYNs without ACK, whatever other flags they have. UDP has no beginning and no limits.
Each limit is a meter of one number, the time from which it is full again ("due"), by the virtual scheduling algorithm
(ITU-T I.371, annex A: the same as a leaky bucket, or a token bucket). A connection is refused when due is more than the
tolerance ahead, and then nothing is written; taken, it moves due on by the interval, beginning at now where that is
later. A due further ahead than a meter can get by itself is what an earlier, slower limit left behind, and is over.

The limits of the virtual service, of the VIP and of the source are looked at in this order, and a connection that none
of them refuses is taken by all; one that is refused, by none. Nothing else is ever asked: packets of connections that
are there pass at any rate.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from itertools import chain
from typing import Protocol as Contract

from appliance.forwarding import TableService
from appliance.model import IPNetwork, Protection, Protocol, Rate
from appliance.packet.action import Reason

SLACK_NS = 1_000_000_000
"""How much further ahead than it can get a due may be: clocks are read a moment apart."""

_SYN, _SYN_ACK = 0x02, 0x12


class Scope(IntEnum):
    """What a limit is about, in the order in which limits are looked at."""

    SERVICE = 0
    VIP = 1
    SOURCE = 2


REASONS = (Reason.SERVICE_RATE, Reason.VIP_RATE, Reason.SOURCE_RATE)
"""By scope."""


def opens_connection(flags: int) -> bool:
    """Whether a TCP packet counts as a new connection, by its flags (byte 13 of the header)."""
    return flags & _SYN_ACK == _SYN


def is_exhausted(due: int, now: int, rate: Rate) -> bool:
    """Whether a meter refuses. Times in nanoseconds of one clock."""
    return rate.tolerance_ns < due - now <= rate.tolerance_ns + rate.interval_ns + SLACK_NS


def charged(due: int, now: int, rate: Rate) -> int:
    """When a meter is due after one more."""
    waits = now < due <= now + rate.tolerance_ns + rate.interval_ns + SLACK_NS
    return (due if waits else now) + rate.interval_ns


def boundaries(deny: Iterable[IPNetwork], allow: Iterable[IPNetwork], version: int) -> tuple[int, ...]:
    """Where the answer for an address of that IP version turns, in ascending order; below the first one it is yes."""
    marks: list[int] = []
    top = 1 << (32 if version == 4 else 128)

    def say(at: int, denied: bool) -> None:
        if len(marks) % 2 == denied or at == top:
            return
        if marks and marks[-1] == at:
            marks.pop()
        else:
            marks.append(at)

    marked = chain(((network, True) for network in deny), ((network, False) for network in allow))
    ours = [(int(net.network_address), net.prefixlen, denied, net) for net, denied in marked if net.version == version]
    around: list[tuple[int, bool]] = []
    """End and answer of the prefixes that hold the present one."""

    def leave() -> None:
        end, _ = around.pop()
        say(end, around[-1][1] if around else False)

    for first, _, denied, network in sorted(ours, key=lambda one: one[:2]):
        while around and around[-1][0] <= first:
            leave()
        say(first, denied)
        around.append((first + network.num_addresses, denied))
    while around:
        leave()
    return tuple(marks)


class _Same:
    """Something that is equal to itself only: long lists of prefixes are not to be compared one by one."""

    __slots__ = ("it",)

    def __init__(self, it: Protection) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.it is self.it


@lru_cache(maxsize=1024)  # tables come anew every second, with the same protection in them
def _boundaries_of(protection: _Same, version: int) -> tuple[int, ...]:
    return boundaries(protection.it.deny, protection.it.allow, version)


@dataclass(frozen=True)
class Guard:
    """The protection of one VIP of a virtual service, made ready for its packets."""

    protection: Protection
    name: str
    """Of the virtual service."""

    vip: bytes
    rates: tuple[Rate | None, Rate | None, Rate | None]
    """By scope."""

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        return _boundaries_of(_Same(self.protection), 4 if len(self.vip) == 4 else 6)

    def denies(self, source: bytes) -> bool:
        """Whether a client may not come, by the bytes of its address."""
        return bisect_right(self.boundaries, int.from_bytes(source, "big")) % 2 == 1

    @property
    def limited(self) -> bool:
        return self.rates != (None, None, None)


def guards(services: Sequence[TableService]) -> list[Guard | None]:
    """The guards of services; None for those that need none."""
    made: list[Guard | None] = []
    for service in services:
        one = service.protection
        if one is None:
            made.append(None)
            continue
        tcp = service.protocol is Protocol.TCP
        rates = (one.per_service, one.per_vip, one.per_source) if tcp else (None, None, None)
        made.append(Guard(one, service.name, service.vip.packed, rates))
    return made


class Meters(Contract):
    """How many connections have come. One of these outlives all tables."""

    def assign(self, guards: Iterable[Guard | None], secret: bytes) -> None:
        """Have meters for the limits of new tables. Whoever had one keeps it, and what it says.

        Args:
            guards: of all services.
            secret: key of the hash by which sources are found.

        Raises:
            ValueError: there are more limits than meters.
        """

    def admit(self, guard: Guard, source: bytes, *, look_only: bool = False) -> Reason | None:
        """Take a new connection, or say why not.

        Args:
            guard: of the virtual service.
            source: the client's address, 4 or 16 bytes.
            look_only: do not take it.
        """


_ANY4 = frozenset((0, 127, *range(224, 256)))


def is_martian(source: bytes, destination: bytes) -> bool:
    """Whether nobody can be the sender: "this network", loopback, multicast and reserved addresses (RFC 1122, 3.2.1.3;
    RFC 1112, 4), the unspecified address, loopback and addresses with an IPv4 address in the last four bytes (RFC 4291,
    2.5.5), multicast (2.7), or the destination itself."""
    if source == destination:
        return True
    if len(source) == 4:
        return source[0] in _ANY4
    return source[0] == 0xFF or source[:10] == bytes(10)

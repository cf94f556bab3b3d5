"""Forwarding tables: the one value a data plane is told. Complete, immutable, the same for every plane.

`decide` builds them, `DataPlane.set` makes them real, `packet.forward` is what they mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import numpy.typing as npt

from appliance.model import Delivery, HashMode, IPAddress, IPNetwork, PortRange, Protection, Protocol, QuicConfig

SLOTS = 65537
"""Slots of a pool's table. Maglev needs a prime, and well over a hundred slots per member keep the shares even
(Eisenbud et al., NSDI 2016)."""

NO_MEMBER = 0xFFFF
"""The index in a slot that nobody owns."""

LEAST_IPV6 = 1280
"""Bytes of an IPv6 packet that everybody may send, whatever he is told of the way (RFC 8200, section 5)."""

MAX_MEMBERS = 0xFFFF
"""Member indices are 0..65534."""

SlotArray = npt.NDArray[np.uint32]
"""SLOTS words: bits 0..15 primary, bits 16..31 previous, both member indices. Equal halves are the steady state; what
others mean is in packet/placement.py."""

ChoiceArray = npt.NDArray[np.uint16]
"""Member indices, in the order in which an algorithm has them taken."""

NO_CHOICES: ChoiceArray = np.zeros(0, np.uint16)
NO_CHOICES.flags.writeable = False


class Placement(StrEnum):
    """How a virtual service's flows find their members."""

    HASH = "hash"
    """By slot. Only flows whose slot has changed lately are remembered."""
    PER_FLOW = "per_flow"
    """The first packet takes the next of `choices`, and the flow is remembered."""
    PER_PACKET = "per_packet"
    """Every datagram takes the next of `choices`."""


class ChoiceOrder(StrEnum):
    """How choices are taken."""

    SEQUENCE = "sequence"
    """One after the other, round and round; each CPU for itself."""
    RANDOM = "random"


@dataclass(frozen=True)
class NextHop:
    """The way to a member's address, resolved: where a frame leaves and to which MAC address it goes."""

    ifindex: int
    interface: str
    source_mac: bytes
    """Our MAC address on that interface, 6 bytes."""

    mac: bytes
    """MAC address of the member itself or of the router towards it, 6 bytes."""

    mtu: int
    """Largest IP packet that fits, bytes."""

    source: IPAddress
    """Our address on the way: the source of outer headers where they have no prefix for it."""

    direct: bool
    """True when the member is on the segment itself: what L2 DSR needs."""


@dataclass(frozen=True)
class TableMember:
    """One way to one member: the same member reached by L2 and by IPIP is two of these."""

    index: int
    """What slots hold. Stable for the member's life."""

    id: str
    """`pool/member`, for people and counters."""

    address: IPAddress
    delivery: Delivery
    next_hop: NextHop

    path_mtu: int | None = None
    """Largest outer IP packet that routers beyond the next hop take, bytes, as far as one has complained."""

    outer_prefix: IPNetwork | None = None
    """Where the sources of outer headers are from, of the address's family, with two host bits at least; None: they are
    `next_hop.source`."""

    @property
    def first_source(self) -> bytes:
        """The source of outer headers of flows whose hash has none of the bits of `spread_mask`; 4 or 16 bytes."""
        prefix = self.outer_prefix
        return (self.next_hop.source if prefix is None else prefix.network_address + 1).packed

    @property
    def spread_mask(self) -> int:
        """Which of the 32 bits of a flow's hash are added to the first source.

        All that the prefix leaves free but the second lowest: so hosts end with the bits 01 or 10, none is a network's
        own or broadcast address, and no sum has a carry that leaves a byte.
        """
        return 0 if self.outer_prefix is None else int(self.outer_prefix.hostmask) & 0xFFFFFFFD

    def sends_from(self, address: IPAddress) -> bool:
        """Whether outer headers to the member may have that source."""
        if self.outer_prefix is None:
            return address == self.next_hop.source
        if address not in self.outer_prefix:
            return False
        beyond = int(address) - int.from_bytes(self.first_source, "big")
        return beyond >= 0 and not beyond & ~self.spread_mask

    @property
    def mtu(self) -> int:
        """The largest IP packet that gets all the way, outer header included, bytes."""
        return self.next_hop.mtu if self.path_mtu is None else min(self.next_hop.mtu, self.path_mtu)

    @property
    def inner_mtu(self) -> int:
        """The largest inner IP packet that reaches the member unfragmented, bytes."""
        return self.mtu - self.delivery.overhead(self.address.version)

    @property
    def inner_mtu6(self) -> int:
        """The largest IPv6 packet that is sent to the member, bytes. What is larger than `inner_mtu`, routers have to
        fragment: over IPv4, it goes without DF."""
        return max(self.inner_mtu, min(LEAST_IPV6, self.link_room))

    @property
    def link_room(self) -> int:
        """The largest inner IP packet that gets over the first link, bytes."""
        return self.next_hop.mtu - self.delivery.overhead(self.address.version)


@dataclass(frozen=True)
class QuicServers:
    """Whose the connection IDs of one configuration are."""

    config: QuicConfig
    servers: Mapping[bytes, int] = field(hash=False)
    """TableMember.index by server ID; of members that serve."""


@dataclass(frozen=True)
class TableService:
    """One VIP of one virtual service."""

    index: int
    """Position among the services of these tables; 0..n-1."""

    name: str
    vip: IPAddress
    protocol: Protocol
    ports: tuple[PortRange, ...]
    hash_mode: HashMode
    slots: SlotArray = field(repr=False, compare=False)
    """Shared by all services of the same pool, delivery and window."""

    idle_timeout_s: int = 300
    """Without a packet for so long, a flow is over; 0 is never."""

    placement: Placement = Placement.HASH
    choice_order: ChoiceOrder = ChoiceOrder.SEQUENCE
    choices: ChoiceArray = field(default_factory=lambda: NO_CHOICES, repr=False, compare=False)
    """For placements other than HASH. Empty: nobody takes new flows."""

    protection: Protection | None = None
    """Whose packets are not taken, and how many new connections; None: all are."""

    quic: tuple[QuicServers, ...] = ()
    """Of UDP: datagrams are QUIC's, and who is named by their connection ID has them, whatever else is said here. One
    for each config ID at most."""

    rejects: bool = False
    """Whether packets for ports of its VIP that no service has are answered: TCP reset, "port unreachable"."""


@dataclass(frozen=True)
class ForwardingTables:
    secret: bytes = field(default=bytes(16), repr=False)
    """Key of the flow hash."""

    services: tuple[TableService, ...] = ()
    members: Mapping[int, TableMember] = field(default_factory=dict)
    """By index: all that serve, those that take no new flows included. Slots and choices name no others."""

    answering: frozenset[IPAddress] = frozenset()
    """VIPs that are up here: pings of them are answered."""

    @cached_property
    def vips(self) -> frozenset[IPAddress]:
        """Addresses whose packets belong to the data plane, whatever their port."""
        return frozenset(service.vip for service in self.services)

    @cached_property
    def rejecting(self) -> frozenset[IPAddress]:
        """VIPs that answer on ports that no service has."""
        return frozenset(service.vip for service in self.services if service.rejects)

    @cached_property
    def vips_v4(self) -> frozenset[IPv4Address]:
        return frozenset(vip for vip in self.vips if isinstance(vip, IPv4Address))

    @cached_property
    def vips_v6(self) -> frozenset[IPv6Address]:
        return frozenset(vip for vip in self.vips if isinstance(vip, IPv6Address))

    def same(self, other: "ForwardingTables") -> bool:
        """Whether both say the same, slots included. Quick where they share objects, as tables in a row do."""
        return self is other or (
            self.same_but_choices(other)
            and all(
                _alike(mine.choices, theirs.choices) for mine, theirs in zip(self.services, other.services, strict=True)
            )
        )

    def same_but_choices(self, other: "ForwardingTables") -> bool:
        """Whether both say the same but for choices, which some algorithms make anew every second."""
        return (
            self.secret == other.secret
            and self.services == other.services
            and self.members == other.members
            and self.answering == other.answering
            and all(
                _alike(mine.slots, theirs.slots) for mine, theirs in zip(self.services, other.services, strict=True)
            )
        )

    def find(self, vip: IPAddress, protocol: int, port: int) -> TableService | None:
        """The service for a destination: an exact port beats a range, a range beats the wildcard (packets.md, P11)."""
        best: tuple[int, TableService] | None = None
        for service in self.services:
            if service.vip != vip or service.protocol != protocol:
                continue
            for ports in service.ports:
                if port in ports and (best is None or ports.width < best[0]):
                    best = ports.width, service
        return best[1] if best else None


def _alike(mine: npt.NDArray[np.generic], theirs: npt.NDArray[np.generic]) -> bool:
    return mine is theirs or np.array_equal(mine, theirs)

"""Forwarding tables in the form that the vectorised path works with. Built beside those in use, then swapped whole."""

import copy
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.dataplane.base import Traffic
from appliance.dataplane.intervals import NO_SERVICE, PORTS, port_intervals
from appliance.dataplane.logged import LoggedFlows
from appliance.dataplane.meters import MeterTable
from appliance.dataplane.pins import PinTable, lifetime
from appliance.dataplane.raw.rules import STEADY, TAIL, WINDOW, EntryCodes, slot_rule
from appliance.dataplane.raw.turns import ColumnTurns
from appliance.forwarding import NO_MEMBER, ForwardingTables, Placement, SlotArray, TableMember, TableService
from appliance.model import DfPolicy, DsrType, Encapsulation, TtlPolicy
from appliance.packet.action import Reason
from appliance.packet.encap import TUNNELS, Tunnel
from appliance.packet.forward import Ingress, PacketPath
from appliance.packet.fragments import Fragments
from appliance.packet.placement import PinState, idle_ticks
from appliance.packet.protection import Guard, guards
from appliance.ring.hash import MASKS, derive_keys, derive_pin_keys, flow_words

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

NOT_VIP = -2
"""What a lookup says of a key that is no VIP's; NO_SERVICE of one that is. Services are 0 and up."""


class Kind(IntEnum):
    """What a frame needs to get to a member."""

    L2 = 0
    OUTER4 = 4
    OUTER6 = 6


@dataclass(frozen=True)
class Group:
    """Members whose frames are made in the same way and leave by the same interface."""

    kind: Kind
    routed: bool
    """Whether TTL or hop limit goes down by one."""
    ifindex: int
    encapsulation: Encapsulation = Encapsulation.IPIP
    """Of L2, nothing."""
    clear: bool = False
    """Whether an outer IPv4 header never has DF."""
    spread: bool = False
    """Whether the flow's hash has a part in the outer header's source."""


@dataclass(frozen=True, slots=True)
class Way:
    """What it takes to reach a member."""

    group: Group
    limit: int
    """Largest inner packet."""
    limit6: int
    """The same of IPv6. Those that are larger than `limit` go without DF."""
    macs: bytes
    outer4: bytes
    outer4_sum: int
    outer6: bytes
    tunnel: Tunnel
    ttl: int
    """Of the outer header."""
    spread_mask: int
    """What of the flow's hash is added to the outer header's source."""


class Lookup:
    """Services by (VIP, protocol, port) for one family, as disjoint intervals of one number.

    The number is `vip << 32 | protocol << 16 | port`. For IPv4 `vip` is the address as a little-endian word of the
    packet; for IPv6 it is the position in `vips`.
    """

    def __init__(self, services: Iterable[TableService], vips: Mapping[bytes, int]) -> None:
        self.vips = vips
        by_destination: dict[int, list[TableService]] = {}
        for service in services:
            base = vips[service.vip.packed] << 32
            by_destination.setdefault(base | service.protocol << 16, []).append(service)
        marks: dict[int, int] = {0: NOT_VIP}
        for number in sorted(set(vips.values())):
            marks[number << 32] = NO_SERVICE
            marks.setdefault(number + 1 << 32, NOT_VIP)
        for base, candidates in by_destination.items():
            for first, index in port_intervals(candidates):
                marks[base + first] = index
            marks.setdefault(base + PORTS, NO_SERVICE)
        self._starts = sorted(marks)
        self._codes = [marks[start] for start in self._starts]
        self._starts_column = np.array(self._starts, np.uint64)
        self._codes_column = np.array(self._codes, np.int64)

    def find_one(self, key: int) -> int:
        """The service of one key."""
        return self._codes[bisect_right(self._starts, key) - 1]

    def find(self, keys: U64) -> int | I64:
        """The services of many keys: one number when it is the same for all, which is common and cheaper for what
        follows, else one for each."""
        at = bisect_right(self._starts, int(keys[0])) - 1
        first = self._starts[at]
        end = self._starts[at + 1] if at + 1 < len(self._starts) else 1 << 64
        if len(keys) == 1 or bool((keys - np.array(first, np.uint64) <= np.array(end - 1 - first, np.uint64)).all()):
            return self._codes[at]
        found: I64 = self._codes_column.take(self._starts_column.searchsorted(keys, "right") - 1)
        return found


class Keys:
    """A hash's keys as Python numbers and as 0-d arrays (which NumPy takes quicker than either other form)."""

    def __init__(self, secret: bytes, derive: Callable[[bytes], tuple[int, ...]] = derive_keys) -> None:
        """
        Args:
            secret: the fleet's.
            derive: makes the keys of it.
        """
        self.numbers = derive(secret)
        self.arrays = tuple(np.array(key, np.uint64) for key in self.numbers)


class LoopMacs:
    """Source addresses that no client's packet has (L5): those of L2 members and our own."""

    def __init__(self, macs: Iterable[bytes]) -> None:
        self._exact = frozenset(int.from_bytes(mac, "little") for mac in macs)
        self._keys = np.array(sorted(self._exact), np.uint64)
        self.tails = np.zeros(1 << 16, np.bool_)
        """By the last two bytes: a cheap first look."""
        for key in self._exact:
            self.tails[key >> 32] = True

    def has(self, head: int, tail: int) -> bool:
        """Whether one address is among them."""
        return bool(self.tails[tail]) and (tail << 32 | head) in self._exact

    def match(self, heads: U32, tails: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.bool_]:
        """Which of many addresses (first four bytes, last two: one number if the same for all) are among them."""
        return np.isin(heads | tails.astype(np.uint64) << np.uint64(32), self._keys)


class Compiled:
    """Forwarding tables, compiled, with the counters of what was done by them.

    Members are numbered densely here ("ways"); `no_way` is the number that stands for nobody.
    """

    def __init__(
        self,
        tables: ForwardingTables,
        ports: Sequence[Ingress],
        pins: PinTable | None = None,
        turns: ColumnTurns | None = None,
        fragments: Fragments | None = None,
        meters: MeterTable | None = None,
        logged: LoggedFlows | None = None,
    ) -> None:
        """
        Args:
            tables: what to compile.
            ports: the interfaces that frames arrive on, in the order of the port numbers given to the vectorised path.
            pins: what is remembered of flows; None remembers nothing.
            turns: for services that place flow by flow or packet by packet.
            fragments: what is remembered of datagrams in fragments.
            meters: how many connections have come; None has no limits.
            logged: takes packets of flows that are to be logged; None logs nothing. All five outlive the tables.

        Raises:
            ValueError: the secret is too short, or there are more limits than meters.
        """
        self.guards = guards(tables.services)
        """Of services; None for those that are open to all."""
        self.guarded = np.array([guard is not None for guard in self.guards], np.bool_)
        self.any_guarded = bool(self.guarded.any())
        self.meters = meters
        self.logged = logged
        self._boundaries = {number: _boundaries(guard) for number, guard in enumerate(self.guards) if guard is not None}
        self.tables = tables
        self.pins = pins
        self.turns = turns or ColumnTurns()
        self.path = PacketPath(tables, pins, self.turns, fragments, meters)
        self.keys = Keys(tables.secret)
        self.pin_keys = Keys(tables.secret, derive_pin_keys)
        self.members: tuple[TableMember, ...] = tuple(tables.members[index] for index in sorted(tables.members))
        self.no_way = len(self.members)
        self.indices = np.array([member.index for member in self.members], np.int64)
        self.dense = {member.index: way for way, member in enumerate(self.members)}
        self.dense_column = np.full(1 << 16, self.no_way, np.uint16)
        """`dense`, as a column over all indices."""
        for index, way in self.dense.items():
            self.dense_column[index] = way
        self.serves = self.dense_column != self.no_way
        self._index_services(tables.services)
        self._index_slots(tables.services)
        self._index_members()
        macs = {member.next_hop.mac for member in self.members if member.delivery.dsr_type is DsrType.L2}
        macs |= {member.next_hop.source_mac for member in self.members}
        self.loops = tuple(LoopMacs(macs | {port.mac}) for port in ports)
        self.traffic = TrafficColumns(len(tables.services), len(self.members))

    def _index_services(self, services: Sequence[TableService]) -> None:
        v4 = {s.vip.packed: int.from_bytes(s.vip.packed, "little") for s in services if isinstance(s.vip, IPv4Address)}
        v6_addresses = dict.fromkeys(s.vip.packed for s in services if s.vip.packed not in v4)
        v6 = {address: number for number, address in enumerate(v6_addresses)}
        self.lookup4 = Lookup((s for s in services if s.vip.packed in v4), v4)
        self.lookup6 = Lookup((s for s in services if s.vip.packed in v6), v6)
        self.vips6 = Addresses(tuple(v6))

        self.masks = [MASKS[service.hash_mode] for service in services]
        self.one_mask = self.masks[0] if len(set(self.masks)) == 1 else None
        """What all services have in common, if they have."""
        self.flows = [
            flow_words(bytes(len(s.vip.packed)), s.vip.packed, bytes(4), s.protocol, s.hash_mode) for s in services
        ]
        """The flow words of each service's frames, where they are known beforehand: destination and protocol."""
        self.destinations = [struct.unpack(f"<{len(s.vip.packed) // 4}I", s.vip.packed) for s in services]
        """The words of each service's VIP."""
        self.destination_masks = np.array([mask.destination for mask in self.masks], np.uint64)
        self.ports_masks = np.array([mask.ports for mask in self.masks], np.uint64)
        self.protocol_masks = np.array([mask.protocol for mask in self.masks], np.uint64)

    def _index_slots(self, services: Sequence[TableService]) -> None:
        tables: dict[tuple[int, Placement, bool], tuple[int, SlotArray]] = {}
        total = 0
        for service in services:
            key = _slots_key(service)
            if key not in tables:
                tables[key] = total, service.slots
                total += len(service.slots)
        self.ways = np.full(total, self.no_way, np.uint16)
        """The slot tables of all services, one behind the other, with ways in them; `no_way` where a frame's way does
        not follow from the slot alone, or nobody has it."""

        for (_, placement, closer), (offset, slots) in tables.items():
            if placement is Placement.HASH and not closer:
                primary = slots & np.uint32(NO_MEMBER)
                ways = self.dense_column.take(primary)
                ways[primary != slots >> np.uint32(16)] = self.no_way
                self.ways[offset : offset + len(slots)] = ways
        self.gaps = bool((self.ways == self.no_way).any())
        """Whether there is such a slot."""

        self.slots = np.zeros(0, np.uint32)
        """The same slot tables as they are."""
        self.rules = np.zeros(0, np.uint16)
        """By slot, the rules for its frames (`rules.slot_rule`)."""
        if self.gaps:
            self.slots = np.concatenate([slots for _, slots in tables.values()])
            self.rules = np.concatenate(
                [_slot_rules(placement, slots) for (_, placement, _), (_, slots) in tables.items()]
            )

        self.offsets = [tables[_slots_key(service)][0] for service in services]
        self.sizes = [len(service.slots) for service in services]
        self.offsets_column = np.array(self.offsets, np.uint64)
        self.sizes_column = np.array(self.sizes, np.uint64)
        self.quic = [service.quic for service in services]
        self.any_quic = any(self.quic)
        self.rejecting = frozenset(vip.packed for vip in self.tables.rejecting)
        """VIPs that answer on ports that no service has."""
        self.remembering = [service.placement is not Placement.PER_PACKET for service in services]
        """Whether what is remembered of flows can make a difference, by service."""

        idles = [min(idle_ticks(service.idle_timeout_s), 0xFFFF) for service in services]
        self.idles = np.array(idles, np.uint16)
        """By service, ticks."""
        self.lifetimes = [[lifetime(state, idle) for state in PinState] for idle in idles]
        """Of what is remembered, ticks: by service and state."""
        worths = {idle: EntryCodes(idle) for idle in idles}
        self.entry_codes = [worths[idle] for idle in idles]
        """What is remembered, as the rules see it: by service."""

    @cached_property
    def way_list(self) -> tuple[Way, ...]:
        """The same facts about members, for frames that are forwarded one by one."""
        return tuple(
            Way(
                group=self.groups[self.group_of[way]],
                limit=member.inner_mtu,
                limit6=member.inner_mtu6,
                macs=self.macs[way].tobytes(),
                outer4=self.outer4[way].tobytes(),
                outer4_sum=int(self.outer4_sums[way]),
                outer6=self.outer6[way].tobytes(),
                tunnel=TUNNELS[member.delivery.encapsulation or Encapsulation.IPIP],
                ttl=member.delivery.outer_ttl,
                spread_mask=member.spread_mask,
            )
            for way, member in enumerate(self.members)
        )

    def _index_members(self) -> None:
        members = self.members
        self.limits = np.array([member.inner_mtu for member in members], np.uint64)
        self.limits6 = np.array([member.inner_mtu6 for member in members], np.uint64)
        self.any_unbound = bool((self.limits6 > self.limits).any())
        """Whether IPv6 packets go to some member that routers have to fragment."""
        self.lowest_limit = min((member.inner_mtu for member in members), default=0)
        groups = [_group(member) for member in members]
        self.groups = tuple(dict.fromkeys(groups))
        self.group_of = np.array([self.groups.index(group) for group in groups], np.uint16)
        macs = [member.next_hop.mac + member.next_hop.source_mac for member in members]
        self.macs = _void(macs, 12)
        outer4, outer6, sums = [], [], []
        for member, mac in zip(members, macs, strict=True):
            outer = member.address.version if member.delivery.encapsulation is not None else 0
            head = _outer4(member) if outer == 4 else bytes(20)
            outer4.append(mac + b"\x08\x00" + head)
            sums.append(_folded(head))
            outer6.append(mac + b"\x86\xdd" + (_outer6(member) if outer == 6 else bytes(40)))
        self.outer4 = _void(outer4, 34)
        """Ethernet and outer IPv4 header of each member; protocol, lengths, checksum and what is copied are zero."""
        self.outer6 = _void(outer6, 54)
        self.outer4_sums = np.array(sums, np.uint64)
        """Ones' complement sums of the constant part of the outer IPv4 headers, in little-endian words."""
        self.spread_masks = np.array([member.spread_mask for member in members], np.uint64)
        """What of a flow's hash is added to the sources of outer headers."""

    def admit(self, guard: Guard, source: bytes, *, look_only: bool = False) -> Reason | None:
        """Take a new connection, or say why not; see `protection.Meters`."""
        if self.meters is None or not guard.limited:
            return None
        return self.meters.admit(guard, source, look_only=look_only)

    def give_back(self, guard: Guard, source: bytes) -> None:
        """A new connection that was taken is to be judged anew."""
        if self.meters is not None:
            self.meters.give_back(guard, source)

    def denied(self, service: int, sources: U64) -> npt.NDArray[np.bool_]:
        """Which clients may not come.

        Args:
            service: a guarded one.
            sources: addresses, 1 or 4 words of each.
        """
        column = self._boundaries[service]
        at = column.searchsorted(_in_order(sources), "right")
        return (at & 1).astype(np.bool_)

    @property
    def interfaces(self) -> dict[int, str]:
        """Where frames leave, and what these interfaces are called."""
        return {member.next_hop.ifindex: member.next_hop.interface for member in self.members}

    def mtu_of(self, ifindex: int) -> int:
        """The largest IP packet that may leave by an interface."""
        return max((m.next_hop.mtu for m in self.members if m.next_hop.ifindex == ifindex), default=0)


def _boundaries(guard: Guard) -> npt.NDArray[Any]:
    """The boundaries of its prefixes, as `_in_order` has addresses."""
    if len(guard.vip) == 4:
        return np.array(guard.boundaries, np.uint64)
    return np.array([number.to_bytes(16, "big") for number in guard.boundaries], "S16")


def _in_order(words: U64) -> npt.NDArray[Any]:
    """Addresses from their words, so that they compare as numbers do: IPv4 as such, IPv6 as strings (of which NumPy
    takes zeros at the end for padding, and pads with them when it compares)."""
    if len(words) == 1:
        numbers: U64 = words[0].astype("<u4").byteswap().astype(np.uint64)
        return numbers
    return np.ascontiguousarray(words.T.astype("<u4")).view("S16").reshape(-1)


class Addresses:
    """IPv6 VIPs, to be found by the four words of the packet."""

    def __init__(self, addresses: Sequence[bytes]) -> None:
        self._positions = {address: position for position, address in enumerate(addresses)}
        self.words = np.array([struct.unpack("<4I", address) for address in addresses], np.uint64).reshape(-1, 4).T
        low = self._mix(self.words)
        self._order = np.argsort(low)
        self._sorted = low[self._order]
        self._unique = len(np.unique(low)) == len(low)
        self.unknown = len(addresses)
        """The position that stands for "no VIP"."""

    def positions(self, words: U64) -> U64:
        """Where many addresses stand; `unknown` for those that are none of these."""
        if not self.unknown:
            return np.zeros(words.shape[1], np.uint64)
        first = self._positions.get(words[:, 0].astype("<u4").tobytes())
        if first is not None and bool((words == self.words[:, first : first + 1]).all()):
            return np.full(words.shape[1], first, np.uint64)
        if not self._unique:
            packed = np.ascontiguousarray(words.T.astype("<u4")).view("V16")[:, 0]
            get = self._positions.get
            return np.array([get(address.tobytes(), self.unknown) for address in packed], np.uint64)
        near = self._sorted.searchsorted(self._mix(words)).clip(max=self.unknown - 1)
        found = self._order.take(near)
        same = (self.words.take(found, axis=1) == words).all(axis=0)
        return np.where(same, found, self.unknown).astype(np.uint64)

    @staticmethod
    def _mix(words: U64) -> U64:
        """64 bits of 128; VIPs that collide are looked up one by one instead."""
        high = words[0] | words[1] << np.uint64(32)
        low = words[2] | words[3] << np.uint64(32)
        mixed: U64 = low * np.uint64(0x9E3779B97F4A7C15) ^ high
        return mixed


class TrafficColumns:
    """Traffic by service and by way. Written by the forwarding thread only; others may read at any time."""

    def __init__(self, services: int, ways: int) -> None:
        self.service_packets = np.zeros(services, np.int64)
        self.service_bytes = np.zeros(services, np.int64)
        self.service_flows = np.zeros(services, np.int64)
        self.way_packets = np.zeros(ways, np.int64)
        self.way_bytes = np.zeros(ways, np.int64)
        self.way_flows = np.zeros(ways, np.int64)

    def service(self, index: int) -> Traffic:
        columns = self.service_packets, self.service_bytes, self.service_flows
        return Traffic(*(int(column[index]) for column in columns))

    def way(self, way: int) -> Traffic:
        return Traffic(*(int(column[way]) for column in (self.way_packets, self.way_bytes, self.way_flows)))

    def now(self) -> "TrafficColumns":
        """The same, as it stays."""
        made = copy.copy(self)
        for name, column in vars(self).items():
            setattr(made, name, column.copy())
        return made


def _slots_key(service: TableService) -> tuple[int, Placement, bool]:
    """Services with the same one share slots here. Where connection IDs decide, no slot says everything."""
    return id(service.slots), service.placement, bool(service.quic)


def _slot_rules(placement: Placement, slots: SlotArray) -> npt.NDArray[np.uint16]:
    previous = slots >> np.uint32(16)
    shape = np.where(slots & np.uint32(NO_MEMBER) == previous, STEADY, np.where(previous == NO_MEMBER, TAIL, WINDOW))
    return np.array([slot_rule(placement, shape) for shape in range(3)], np.uint16).take(shape)


def _group(member: TableMember) -> Group:
    delivery = member.delivery
    if delivery.encapsulation is None:
        return Group(Kind.L2, False, member.next_hop.ifindex)
    four = member.address.version == 4
    return Group(
        Kind.OUTER4 if four else Kind.OUTER6,
        delivery.ttl is TtlPolicy.ROUTER,
        member.next_hop.ifindex,
        delivery.encapsulation,
        four and delivery.outer_df is DfPolicy.CLEAR,
        member.outer_prefix is not None,
    )


def _outer4(member: TableMember) -> bytes:
    head = struct.pack("!BBHHHBBH", 0, 0, 0, 0, 0, member.delivery.outer_ttl, 0, 0)
    return head + member.first_source + member.address.packed


def _outer6(member: TableMember) -> bytes:
    return struct.pack("!IHBB", 0, 0, 0, member.delivery.outer_ttl) + member.first_source + member.address.packed


def _folded(head: bytes) -> int:
    total: int = sum(struct.unpack(f"<{len(head) // 2}H", head))
    return total % 0xFFFF


def _void(rows: Sequence[bytes], size: int) -> npt.NDArray[np.void]:
    return np.frombuffer(b"".join(rows) or bytes(0), np.dtype((np.void, size)))

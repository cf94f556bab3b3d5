"""The program's tables in shared memory: what is wanted is written beside what is in force, then one number changes.

Nothing that the program may be reading is ever written to. What a generation has left behind (slots, ways, counters) is
used again only after `settle`, when no program that could have seen it is running any more.
"""

import platform
import struct
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from appliance.bpf.libbpf import BpfError, Object
from appliance.bpf.rcu import wait_for_readers
from appliance.dataplane.base import Counters, Traffic
from appliance.dataplane.logged import GATES, LOGGED, PLACES, SETS
from appliance.dataplane.meters import METERS, SOURCE, SOURCE_SETS, MeterTable
from appliance.dataplane.pins import DELAY, FLOW, JOURNAL, WAYS
from appliance.dataplane.pins import layout as pin_layout
from appliance.dataplane.raw.idents import Idents
from appliance.dataplane.totals import Later, added_up
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.directory import Directory, build
from appliance.dataplane.xdp.layout import LOOK_CLOSER, NOBODY
from appliance.forwarding import (
    LEAST_IPV6,
    SLOTS,
    ChoiceArray,
    ForwardingTables,
    Placement,
    SlotArray,
    TableMember,
    TableService,
)
from appliance.model import DfPolicy, DsrType, TtlPolicy
from appliance.packet.action import By
from appliance.packet.headers import ETHERNET
from appliance.packet.placement import PinState
from appliance.ring.hash import FINAL, KEYS, derive_keys

GENERATIONS = 2
STORES_IN_ORDER = platform.machine() in ("x86_64", "AMD64", "i686")
"""Whether one CPU's stores appear to others in their order."""

_LINE = 32
"""Slots in a cache line: tables begin on one."""

TABLE = -(-SLOTS // _LINE) * _LINE
"""Slots that a table takes."""

MOST_PLANNED = 64 << 20
"""Bytes of slots that are set aside for windows to come."""

SLOW_PER_TICK = 2048
"""Odd packets that a CPU passes up in a tick. The slow path manages some tens of thousands a second."""

OPENINGS_PER_TICK = 512
"""Connections that a CPU leaves to the slow path in a tick, since other directors have to be told of them. Each costs
it some 50 microseconds when they come one by one."""

QUIC_CONFIGS = 8
"""Of a service: one for each config ID, that of nobody included."""

TICK_SHIFT = 26
"""A tick is 2^26 ns: 67 ms."""

K = TypeVar("K", bound=Hashable)


class NoRoomError(Exception):
    """The maps are too small; the text says which."""


@dataclass(frozen=True)
class Egress:
    """How the program reaches a next hop's interface."""

    ifindex: int
    """Where the frame leaves: for a VLAN device, that is the interface below it."""

    tag: bytes = bytes(4)
    """VLAN tag to put on, as on the wire (TPID, TCI); zeros for none."""

    slow: str = ""
    """Why the program cannot send there and the slow path has to; empty when it can."""

    linear: bool = False
    """Only frames that are in one buffer."""


@dataclass(frozen=True)
class Names:
    """What the numbers of counters and ways stand for. While somebody has one, it keeps its number."""

    services: Mapping[int, str]
    """Virtual services."""
    ways: Mapping[int, tuple[str, str]]
    """`pool/member`, and the interface that leads there."""
    by: Mapping[int, By]


@dataclass(frozen=True)
class Capacity:
    """Elements of the maps; of those that have generations, in each."""

    buckets: int = 1024
    entries: int = 256
    ranges: int = 256
    boundaries: int = 256
    stations: int = 256
    ways: int = 256
    services: int = 256
    slots: int = 16 * TABLE  # 2 MiB
    """A table in transition takes twice as many as there are in it."""
    choices: int = 1 << 15
    quic: int = 64
    """Configurations of connection IDs: eight for each service that has others than those before."""
    servers: int = 256

    @classmethod
    def planned(cls, slot_tables: int) -> "Capacity":
        """Room for a configuration from the beginning, so that no change of members takes larger maps: for each slot
        table twice what a window takes, since what comes next is written beside what is in force. That is 0.5 MiB for
        each, up to MOST_PLANNED for all; more tables than that have what they take while they are steady, twice.

        Args:
            slot_tables: that services of the configuration do not share.
        """
        planned = min((4 * slot_tables + 4) * TABLE, MOST_PLANNED // 2)
        return cls(slots=max(cls.slots, planned, (2 * slot_tables + 4) * TABLE))

    def holding(self, needs: "Capacity") -> "Capacity":
        """Room for that and as much again: members come and go, and new slots are written beside old ones. A pool or
        two may go into transition at once."""

        def more(have: int, need: int) -> int:
            return have if need <= have else 2 * need

        return Capacity(
            buckets=max(self.buckets, needs.buckets),
            entries=more(self.entries, needs.entries),
            ranges=more(self.ranges, needs.ranges),
            boundaries=more(self.boundaries, needs.boundaries),
            stations=more(self.stations, needs.stations),
            ways=min(more(self.ways, 2 * needs.ways), layout.MAX_WAYS),
            services=more(self.services, 2 * needs.services),
            slots=max(self.slots, 2 * needs.slots + 4 * TABLE),
            choices=more(self.choices, 2 * needs.choices),
            quic=more(self.quic, needs.quic),
            servers=more(self.servers, needs.servers),
        )


class Numbers(Generic[K]):
    """Small numbers for things, as dense as can be; a number is free again when it was released."""

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._free: list[int] = []
        self._next = 0
        self.of: dict[K, int] = {}

    def take(self, keys: Iterable[K]) -> None:
        """Give a number to each that has none.

        Raises:
            NoRoomError: there are not as many; those that were given stay.
        """
        for key in keys:
            if key not in self.of:
                if self._free:
                    number = self._free.pop()
                elif self._next < self._limit:
                    number, self._next = self._next, self._next + 1
                else:
                    raise NoRoomError(f"more than {self._limit} {self._what}")
                self.of[key] = number

    def release(self, key: K) -> int:
        """The number it had; it may be given to others from now on."""
        number = self.of.pop(key)
        self._free.append(number)
        return number


class Space:
    """Stretches of one long array: first fit."""

    def __init__(self, size: int, what: str) -> None:
        self._what = what
        self._free: list[tuple[int, int]] = [(0, size)]
        """(first, length), in order."""

    def take(self, length: int) -> int:
        """Where a free stretch of that length begins.

        Raises:
            NoRoomError: there is none.
        """
        length = rounded(length)
        for at, (first, free) in enumerate(self._free):
            if free >= length:
                self._free[at : at + 1] = [(first + length, free - length)] if free > length else []
                return first
        raise NoRoomError(f"no room for {length} {self._what}")

    def give(self, first: int, length: int) -> None:
        """A stretch is free again."""
        merged: list[tuple[int, int]] = []
        for start, free in sorted([*self._free, (first, rounded(length))]):
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = merged[-1][0], merged[-1][1] + free
            else:
                merged.append((start, free))
        self._free = merged


def _places(ifindex: int) -> tuple[int, ...]:
    """Where an interface may stand in the table of ports."""
    if ifindex == layout.LOOPBACK:
        return (layout.TEST_PORT,)
    return ifindex % layout.PORTS, layout.PORTS + (ifindex >> 8) % layout.PORTS


def rounded(length: int) -> int:
    return -(-length // _LINE) * _LINE


@dataclass
class _Stretch:
    """Where a slot table stands."""

    array: SlotArray
    """Kept, so that its identity belongs to nobody else."""

    first: int
    length: int
    """All that it takes."""
    previous: int
    """Where the slots' previous owners stand, 0 when all are steady."""
    indices: tuple[int, ...]
    """The members in it."""


@dataclass
class _Choices:
    """Where the choices of services stand."""

    array: ChoiceArray
    """Kept, as with slots."""

    first: int
    stamp: int
    """No other choices have it."""


@dataclass
class _Staged:
    """A generation: what it uses."""

    tables: ForwardingTables = field(default_factory=ForwardingTables)
    stretches: dict[tuple[int, bool], _Stretch] = field(default_factory=dict)
    """By identity of the array, and whether it is for services that do not place by their slots."""

    choices: dict[int, _Choices] = field(default_factory=dict)
    """By identity of the array."""

    ways: dict[tuple[int, str], TableMember] = field(default_factory=dict)
    """By index and id."""

    services: tuple[tuple[str, str], ...] = ()
    """(virtual service, VIP)."""

    stations: Counter[bytes] = field(default_factory=Counter)
    """MAC addresses that no client's packet comes from (L5), by how many members have them."""

    egress: frozenset[int] = frozenset()
    """Interfaces that frames may leave by. Some of them may not be needed any more."""

    entry_owners: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


class Tables:
    """The maps of one loaded object, and who has which number in them. One thread at a time."""

    def __init__(self, loaded: Object, capacity: Capacity, cpus: int, pin_sets: int, meters: MeterTable) -> None:
        """
        Args:
            loaded: the object, its maps sized by `sizes`.
            capacity: what it was sized for.
            cpus: possible ones.
            pin_sets: of places to remember flows in.
            meters: those in this object's maps.
        """
        self.capacity = capacity
        self._rows = cpus + 1
        self._cpus = cpus
        self._views: dict[str, Any] = {}
        for name, (dtype, elements) in _maps(capacity, cpus).items():
            memory = loaded.map(name).memory(max(1, elements) * dtype.itemsize)
            self._views[name] = np.frombuffer(memory, dtype)
        self._slots = self._views["slots"].view("<u2")
        self._choices = self._views["choices"].view("<u2")
        self._member_ways = self._views["member_ways"].view("<u2").reshape(GENERATIONS, -1)
        self._control = self._views["controls"][0]
        self._egress_map = loaded.map("egress")
        self._exit_names = {number: name for name, number in loaded.enum("exit").items()}
        self._by = {number: By(name.removeprefix("BY_").lower()) for name, number in loaded.enum("by").items()}
        self._service_numbers: Numbers[tuple[str, str]] = Numbers(capacity.services, "virtual services with counters")
        self._way_numbers: Numbers[tuple[int, str]] = Numbers(min(capacity.ways, layout.MAX_WAYS), "members")
        self._space = Space(capacity.slots, "slots")
        self._choice_space = Space(capacity.choices, "choices")
        self._stamp = 0
        self._directory: Directory | None = None
        self._way_rows = np.zeros(capacity.ways, layout.WAY)
        """As it is to stand in the next generation."""
        self._members_of_ways = np.zeros(capacity.ways, np.int64)
        """Which index a number stands for."""
        self._all_ways = True
        """Whether these have to be made anew, whatever has changed."""
        self._now = _Staged()
        self._next: _Staged | None = None
        self._old: _Staged | None = None
        self._settled = True
        self._gone_services: dict[tuple[str, str], Traffic] = {}
        self._gone_members: dict[str, Traffic] = {}
        self.meters = meters
        self._start(pin_sets)

    def _start(self, pin_sets: int) -> None:
        step = 1
        while step < self._rows:
            step *= 2
        control = self._control
        control["rows"], control["services"], control["ways"] = self._cpus, self.capacity.services, self.capacity.ways
        control["ident_step"], control["slow_limit"], control["tick_shift"] = step, SLOW_PER_TICK, TICK_SHIFT
        control["pin_sets"], control["opening_limit"] = pin_sets, OPENINGS_PER_TICK
        control["source_sets"] = SOURCE_SETS
        self._views["cpus"]["ident"] = np.arange(self._rows)

    def idents(self) -> Idents:
        """Identifications for packets that are sent beside the program: those of test runs, which send nothing."""
        return Idents(self._cpus, int(self._control["ident_step"]))

    @property
    def tables(self) -> ForwardingTables:
        """Those in force."""
        return self._now.tables

    @property
    def staged(self) -> ForwardingTables | None:
        """Those that are written and not in force yet."""
        return self._next.tables if self._next is not None else None

    def stage(
        self, tables: ForwardingTables, egress: Callable[[TableMember], Egress], *, same_egress: bool = False
    ) -> None:
        """Write tables beside those in force. Any number of times before `publish`; the last one counts.

        What it costs depends on what has changed: members and slot tables that are the very same objects as in the
        tables in force are not looked at.

        Args:
            tables: the whole of them.
            egress: how the program reaches a member's next hop.
            same_egress: it says the same of all next hops in force as it did before.

        Raises:
            NoRoomError: they do not fit; nothing has changed.
            ValueError: they cannot be used.
        """
        self.settle()
        self._abandon()
        directory = self._directory
        if directory is None or directory.services != tables.services or directory.keys != derive_keys(tables.secret):
            directory = build(tables.services, tables.secret)
        self._fit(directory, tables)
        self._all_ways = self._all_ways or not same_egress
        staged = self._next = _Staged(tables)
        try:
            self._write(staged, directory, egress)
        except BaseException:
            self._abandon()
            raise
        self._directory = directory
        self._all_ways = False

    def publish(self) -> None:
        """Make the tables that were staged those in force."""
        if self._next is None:
            return
        self._old, self._now, self._next = self._now, self._next, None
        if not STORES_IN_ORDER:
            wait_for_readers()  # among other things a barrier for all CPUs
        # One aligned store: a packet sees this generation or the other.
        self._control["active"] = 1 - int(self._control["active"])
        self._settled = False

    def settle(self) -> None:
        """Wait until no packet is under way by what was in force before, and free what only that used."""
        if self._settled:
            return
        wait_for_readers()
        if self._old is not None:
            self._free(self._old, self._now)
        self._old = None
        self._settled = True

    def set_port(self, ifindex: int, mac: bytes, mtu: int, flags: int = 0) -> None:
        """Say what is known of an interface that packets arrive on.

        Args:
            ifindex: of the interface.
            mac: its address.
            mtu: its largest IP packet.
            flags: PORT_QUIET, PORT_NO_TRANSMIT, PORT_PARTIAL of layout.py.

        Raises:
            ValueError: other interfaces have its places.
        """
        ports = self._views["ports"]
        at = next((at for at in _places(ifindex) if int(ports["ifindex"][at]) in (0, ifindex)), None)
        if at is None:
            taken = ", ".join(str(int(ports["ifindex"][at])) for at in _places(ifindex))
            raise ValueError(
                f"interface number {ifindex} has no place beside {taken} in the XDP program's table; create it anew"
            )
        ports["mac"][at] = np.frombuffer(mac, np.uint8)
        ports["mtu"][at], ports["flags"][at] = mtu, flags
        ports["ifindex"][at] = ifindex

    def forget_port(self, ifindex: int) -> None:
        """The program leaves frames of an interface alone."""
        ports = self._views["ports"]
        for at in _places(ifindex):
            if int(ports["ifindex"][at]) == ifindex:
                ports["ifindex"][at] = 0

    def renew_egress(self) -> None:
        """Let the program send by all interfaces that it has to, again: the kernel takes one out that goes away, and
        says nothing when it comes back with the same number."""
        for ifindex in self._now.egress:
            try:
                self._open_egress(ifindex)
            except BpfError:
                pass  # not there; its packets are dropped by name (tx_failed) until it is, or its members are gone

    def _open_egress(self, ifindex: int) -> None:
        """Let the program send by an interface. An entry that is there stays as it is: the kernel takes the old one out
        of its table before it puts a new one in, and packets that look for it in between are lost."""
        self._egress_map.add(struct.pack("=I", ifindex), struct.pack("=I", ifindex))

    def outcome(self) -> "Outcome":
        """What became of the last packet of a test run."""
        raw = self._views["outcomes"][0]
        number = int(raw["entry"])
        owners = self._now.entry_owners
        service = int(owners[number]) if 0 < number < len(owners) else None
        way = int(raw["way"])
        return Outcome(
            exit=self.exit_name(int(raw["exit"])),
            service=service,
            member=None if way == NOBODY else int(self._members_of_ways[way]),
            slot=int(raw["slot"]) if service is not None else None,
            by=None if way == NOBODY else self._by[int(raw["by"])],
        )

    def names(self) -> "Names":
        """What numbers in records stand for."""
        return Names(
            {number: name for (name, _), number in list(self._service_numbers.of.items())},
            {
                number: (member, self._interface_to(index))
                for (index, member), number in list(self._way_numbers.of.items())
            },
            self._by,
        )

    def _interface_to(self, index: int) -> str:
        member = self._now.tables.members.get(index)
        return "" if member is None else member.next_hop.interface

    def set_clock(self, ahead_ns: int) -> None:
        """Let the clock of pins be ahead of the monotonic one, for tests."""
        self._control["clock"] = ahead_ns & 0xFFFFFFFFFFFFFFFF
        self._views["cpus"]["jiffies"] = 0  # what CPUs have read of the clock does not count any more

    def pins(self) -> dict[str, int]:
        """How many flows have got a place among the pins so far, and for how many that were not over it was taken."""
        rows = self._views["cpus"][: self._cpus]
        evicted = rows["pins_evicted"].sum(axis=0).tolist()
        by_state = {f"pins_evicted_{state.name.lower()}": evicted[state] for state in PinState}
        return {
            "pins_made": int(rows["pins_made"].sum()),
            **by_state,
            "limit_sources_forgotten": int(rows["sources_forgotten"].sum()),
        }

    def exits(self) -> dict[str, int]:
        """Packets by their way out, without those that went to members."""
        packets = self._views["exits"]["packets"].reshape(self._rows, -1)[: self._cpus].sum(axis=0)
        return {self.exit_name(number): int(count) for number, count in enumerate(packets)}

    def exit_name(self, number: int) -> str:
        """A constant of `enum exit` without its prefix, in small letters."""
        return self._exit_names[number].removeprefix("EXIT_").lower()

    def traffic(self) -> Counters:
        """What was counted by (virtual service, VIP), and by member; what is gone included."""
        by_service, by_way = self._sums("service", self.capacity.services), self._sums("way", self.capacity.ways)
        services, ways = list(self._service_numbers.of.items()), list(self._way_numbers.of.items())
        return Counters(
            services=added_up(
                [*self._gone_services.items(), *((name, by_service(number)) for name, number in services)]
            ),
            members=Later(
                dict(self._gone_members).items, lambda: ((member, by_way(number)) for (_, member), number in ways)
            ),
        )

    def close(self) -> None:
        """Let go of the memory. Nothing else may be called afterwards."""
        self._views.clear()
        self._slots = self._choices = self._member_ways = np.zeros(0, np.uint16)
        self._control = None

    def _sums(self, what: str, row: int) -> Callable[[int], Traffic]:
        records = self._views[f"{what}_traffic"].reshape(self._rows, row)[: self._cpus]
        flows = self._views[f"{what}_flows"].reshape(self._rows, row)[: self._cpus].sum(axis=0)
        packets, size = records["packets"].sum(axis=0), records["bytes"].sum(axis=0)
        return lambda number: Traffic(int(packets[number]), int(size[number]), int(flows[number]))

    # Writing

    def _generation(self, number: int) -> Any:
        return self._views["generations"][number]

    def _fit(self, directory: Directory, tables: ForwardingTables) -> None:
        """What is not written piece by piece has to fit as a whole."""
        capacity, needs = self.capacity, _fixed_needs(tables, directory)
        for name in ("buckets", "entries", "ranges", "boundaries", "ways", "services", "quic", "servers"):
            if getattr(needs, name) > getattr(capacity, name):
                raise NoRoomError(f"{getattr(needs, name)} {name}, room for {getattr(capacity, name)}")

    def _write(self, staged: _Staged, directory: Directory, egress: Callable[[TableMember], Egress]) -> None:
        number = 1 - int(self._control["active"])
        first_way = number * self.capacity.ways
        touched = self._write_ways(staged, first_way, egress)
        offsets = self._write_slots(staged, touched, number)
        staged.services = directory.names
        self._service_numbers.take(directory.names)
        self._write_entries(staged, directory, number, offsets)
        self._write_policies(staged, directory, number)
        self._write_guards(directory, number, staged.tables.secret)
        generation = self._generation(number)
        stations = np.array(sorted(int.from_bytes(mac, "little") for mac in staged.stations), np.uint64)
        if len(stations) > self.capacity.stations:
            raise NoRoomError(f"{len(stations)} stations, room for {self.capacity.stations}")
        first_station = number * self.capacity.stations
        self._views["stations"][first_station : first_station + len(stations)] = stations
        loops = np.zeros(1 << 16, np.uint8)
        loops[(stations >> np.uint64(32)).astype(np.int64)] = 1
        generation["loops"] = np.packbits(loops, bitorder="little").view("<u8")
        generation["stations_first"], generation["stations"] = first_station, len(stations)
        generation["keys"][:KEYS], generation["pin_keys"][:KEYS] = directory.keys, directory.pin_keys
        generation["ways_first"] = first_way

    def _write_ways(self, staged: _Staged, first: int, egress: Callable[[TableMember], Egress]) -> frozenset[int]:
        """Members, as far as they are not those in force.

        Returns:
            Indices that stand for another member now, or for none.
        """
        old, new, base = self._now.tables.members, staged.tables.members, self._now
        changed = [member for index, member in new.items() if old.get(index) is not member]
        gone = [old[index] for index in old.keys() - new.keys()]
        replaced = [old[member.index] for member in changed if member.index in old]
        staged.ways = dict(base.ways)
        staged.stations = base.stations.copy()
        for member in (*gone, *replaced):
            del staged.ways[member.index, member.id]
            staged.stations.subtract(_stations(member))
        for member in changed:
            staged.ways[member.index, member.id] = member
            staged.stations.update(_stations(member))
        staged.stations = +staged.stations
        self._way_numbers.take((member.index, member.id) for member in changed)
        numbers, ifindexes = self._way_numbers.of, set()
        for member in changed:
            self._members_of_ways[numbers[member.index, member.id]] = member.index
        for member in new.values() if self._all_ways else changed:
            out = egress(member)
            self._way_rows[numbers[member.index, member.id]] = np.frombuffer(_way(member, out), layout.WAY)[0]
            if not out.slow:
                ifindexes.add(out.ifindex)
        # The other generation has other gaps; copying all is less than finding out.
        self._views["ways"][first : first + self.capacity.ways] = self._way_rows
        for ifindex in ifindexes - base.egress:
            try:
                self._open_egress(ifindex)
            except BpfError:
                # Gone, and soon its members will be. Until then their packets are dropped by name (tx_failed).
                ifindexes.remove(ifindex)
        staged.egress = frozenset(ifindexes if self._all_ways else ifindexes | base.egress)
        return frozenset(index for index, _ in base.ways.keys() ^ staged.ways.keys())

    def _write_slots(self, staged: _Staged, touched: frozenset[int], number: int) -> npt.NDArray[np.uint32]:
        """Slot tables that are not there yet, or have members that are others now.

        Args:
            staged: knows its members.
            touched: indices that stand for another member than in the tables in force.
            number: of the generation.

        Returns:
            First slot, number of slots and first previous owner of each service.
        """
        dense = np.full(1 << 16, NOBODY, np.uint16)
        dense[[index for index, _ in staged.ways]] = [self._way_numbers.of[key] for key in staged.ways]
        self._member_ways[number] = dense
        self._generation(number)["member_ways_first"] = number << 16
        offsets = np.zeros((len(staged.tables.services), 3), np.uint32)
        for service in staged.tables.services:
            array, closer = service.slots, _looks_closer(service)
            key = id(array), closer
            stretch = staged.stretches.get(key)
            if stretch is None:
                stretch = self._now.stretches.get(key)
                if stretch is None or not touched.isdisjoint(stretch.indices):
                    indices = stretch.indices if stretch is not None else _indices(array)
                    stretch = self._write_stretch(array, indices, dense, closer=closer)
                staged.stretches[key] = stretch
            offsets[service.index] = stretch.first, len(array), stretch.previous
        return offsets

    def _write_stretch(
        self, array: SlotArray, indices: tuple[int, ...], dense: npt.NDArray[np.uint16], *, closer: bool
    ) -> _Stretch:
        """A slot table: whose the slots are, and behind that whose they were, unless all of them are steady.

        Args:
            array: the words.
            indices: the members in it.
            dense: ways of members.
            closer: whether no slot says everything, steady or not.
        """
        halves = _halves(array)
        size, steps = len(array), rounded(len(array))
        changing = halves[:, 0] != halves[:, 1]
        twice = closer or bool(changing.any())
        first = self._space.take(2 * steps if twice else steps)
        owners = dense[halves[:, 0]]
        if twice:
            self._slots[first + steps : first + steps + size] = dense[halves[:, 1]]
            owners |= np.uint16(LOOK_CLOSER) if closer else changing * np.uint16(LOOK_CLOSER)
        self._slots[first : first + size] = owners
        previous = first + steps if twice else 0
        return _Stretch(array, first, 2 * steps if twice else steps, previous, indices)

    def _write_policies(self, staged: _Staged, directory: Directory, number: int) -> None:
        """How services place their flows, and the choices of those that have any."""
        policies = directory.policies.copy()
        for index in directory.choosing:
            array = staged.tables.services[index].choices
            if not len(array):
                continue
            choices = staged.choices.get(id(array)) or self._now.choices.get(id(array))
            if choices is None:
                self._stamp = self._stamp % 0xFFFFFFFF + 1
                choices = _Choices(array, self._choice_space.take(len(array)), self._stamp)
                self._choices[choices.first : choices.first + len(array)] = array
            staged.choices[id(array)] = choices
            row = policies[index]
            row["choices"], row["length"], row["stamp"] = choices.first, len(array), choices.stamp
        self._write_quic(staged, directory, number, policies)
        first = number * self.capacity.services
        counters = np.array([self._service_numbers.of[name] for name in directory.names], np.int64)
        self._views["policies"][first + counters] = policies
        self._generation(number)["policies_first"] = first

    def _write_guards(self, directory: Directory, number: int, secret: bytes) -> None:
        """Whose packets services do not take, and how many connections."""
        first = number * self.capacity.services
        self._generation(number)["guards_first"] = first
        if not directory.guarded.any():
            return
        self.meters.assign(directory.guards, secret)
        rows = directory.guard_rows.copy()
        first_boundary = number * self.capacity.boundaries
        rows["boundaries_first"] += np.uint32(first_boundary)
        for row, guard in zip(rows, directory.guards, strict=True):
            if guard is not None and guard.limited:
                row["meter"] = self.meters.numbers(guard)
        counters = np.array([self._service_numbers.of[name] for name in directory.names], np.int64)
        self._views["guards"][first + counters] = rows
        self._views["boundaries"][first_boundary : first_boundary + len(directory.boundaries)] = directory.boundaries

    def _write_quic(self, staged: _Staged, directory: Directory, number: int, policies: npt.NDArray[np.void]) -> None:
        """What connection IDs mean, by service."""
        configs, servers = self._views["quic_configs"], self._views["servers"]
        at, server_at = number * self.capacity.quic, number * self.capacity.servers
        written: dict[int, int] = {}
        for index in directory.carrying_quic:
            known = staged.tables.services[index].quic
            if id(known) not in written:
                at += QUIC_CONFIGS  # so that nobody's stand at 0
                written[id(known)] = at
                configs[at : at + QUIC_CONFIGS] = np.zeros((), layout.QUIC_CONFIG)
                for one in known:
                    rows = [
                        (*_server_id(name), self._way_number(staged, owner), 0) for name, owner in one.servers.items()
                    ]
                    servers[server_at : server_at + len(rows)] = np.array(sorted(rows), layout.SERVER)
                    configs[at + one.config.config_id] = (
                        layout.QUIC_PLAIN if one.config.key is None else layout.QUIC_KEY,
                        one.config.length,
                        one.config.server_id_length,
                        one.config.encode_length,
                        server_at,
                        len(rows),
                        0,
                    )
                    server_at += len(rows)
            policies[index]["quic"] = written[id(known)]

    def _way_number(self, staged: _Staged, index: int) -> int:
        member = staged.tables.members.get(index)
        return NOBODY if member is None else self._way_numbers.of[index, member.id]

    def _write_entries(
        self, staged: _Staged, directory: Directory, number: int, offsets: npt.NDArray[np.uint32]
    ) -> None:
        capacity, generation = self.capacity, self._generation(number)
        first = number * capacity.entries
        entries = directory.entries.copy()
        services = directory.owned_services
        entries["slots"][directory.owned] = offsets[services, 0] if len(services) else 0
        entries["size"][directory.owned] = offsets[services, 1] if len(services) else 0
        if len(services):
            flags = directory.guarded[services] * np.uint32(layout.GUARDED)
            entries["previous"][directory.owned] = offsets[services, 2] | flags
        counters = np.array([self._service_numbers.of[name] for name in directory.names], np.uint32)
        entries["service"][directory.owned] = counters[services] if len(services) else 0
        self._views["entries"][first : first + len(entries)] = entries
        generation["entries_first"] = first
        staged.entry_owners = directory.owners

        first = number * capacity.ranges
        self._views["ranges"][first : first + len(directory.ranges)] = directory.ranges
        generation["ranges_first"] = first
        first = number * capacity.buckets
        self._views["buckets"][first : first + len(directory.buckets)] = directory.buckets
        ports, vips = directory.index_sizes
        generation["ports_first"], generation["ports_mask"] = first, ports - 1
        generation["vips_first"], generation["vips_mask"] = first + ports, vips - 1
        generation["seeds"] = directory.seeds

    def _abandon(self) -> None:
        """Undo what a staging that is not to be published has taken. No packet has seen it."""
        if self._next is not None:
            self._free(self._next, self._now)
            self._next = None
            self._all_ways = True

    def _free(self, old: _Staged, kept: _Staged) -> None:
        """Give back what only *old* uses."""
        for identity, stretch in old.stretches.items():
            if kept.stretches.get(identity) is not stretch:
                self._space.give(stretch.first, stretch.length)
        for which, choices in old.choices.items():
            if kept.choices.get(which) is not choices:
                self._choice_space.give(choices.first, len(choices.array))
        for way in (old.ways.keys() - kept.ways.keys()) & self._way_numbers.of.keys():
            number = self._way_numbers.of[way]
            counted = self._clear("way", self.capacity.ways, number)
            self._gone_members[way[1]] = self._gone_members.get(way[1], Traffic()) + counted
            self._way_numbers.release(way)
        for service in (set(old.services) - set(kept.services)) & self._service_numbers.of.keys():
            number = self._service_numbers.of[service]
            counted = self._clear("service", self.capacity.services, number)
            self._gone_services[service] = self._gone_services.get(service, Traffic()) + counted
            self._service_numbers.release(service)
        for ifindex in old.egress - kept.egress:
            try:
                self._egress_map.delete(struct.pack("=I", ifindex))
            except BpfError:
                pass  # the kernel takes an interface that is gone out by itself

    def _clear(self, what: str, row: int, number: int) -> Traffic:
        counted = self._sums(what, row)(number)
        self._views[f"{what}_traffic"].reshape(self._rows, row)[:, number] = np.zeros((), layout.TRAFFIC)
        self._views[f"{what}_flows"].reshape(self._rows, row)[:, number] = 0
        return counted


@dataclass(frozen=True)
class Outcome:
    """What the program did with a packet of a test run."""

    exit: str
    """A constant of `enum exit`, without its prefix and in small letters."""

    service: int | None
    member: int | None
    slot: int | None
    by: By | None
    """What has decided on the member."""


def needs_of(tables: ForwardingTables, directory: Directory) -> Capacity:
    """Exactly what these tables take."""
    arrays = {(id(service.slots), _looks_closer(service)): service.slots for service in tables.services}
    choices = {id(service.choices): len(service.choices) for service in tables.services}
    return replace(
        _fixed_needs(tables, directory),
        stations=len({mac for member in tables.members.values() for mac in _stations(member)}),
        slots=sum(
            rounded(len(array)) * (2 if closer or not _steady(array) else 1) for (_, closer), array in arrays.items()
        ),
        choices=sum(rounded(length) for length in choices.values()),
    )


def _fixed_needs(tables: ForwardingTables, directory: Directory) -> Capacity:
    """The same without what takes a closer look."""
    quic = {id(service.quic): service.quic for service in tables.services if service.quic}.values()
    return Capacity(
        buckets=len(directory.buckets),
        entries=len(directory.entries),
        ranges=len(directory.ranges),
        boundaries=len(directory.boundaries),
        stations=0,
        ways=len(tables.members),
        services=len(tables.services),
        slots=0,
        choices=0,
        quic=QUIC_CONFIGS * (len(quic) + 1),
        servers=sum(len(one.servers) for known in quic for one in known),
    )


def _looks_closer(service: TableService) -> bool:
    """Whether no slot of a service says everything, steady or not."""
    return service.placement is not Placement.HASH or bool(service.quic)


def _server_id(name: bytes) -> tuple[int, int, int]:
    head, tail = int.from_bytes(name[:8], "big"), int.from_bytes(name[8:], "big")
    return _spread((_spread(head) + tail) & _M64), head, tail


def _spread(number: int) -> int:
    return (number ^ number >> 32) * FINAL & _M64


_M64 = (1 << 64) - 1


PIN_MAPS = {
    "pin_words": ("words", np.dtype("<u8")),
    "pin_flows": ("flows", FLOW),
    "pin_journal": ("journal", np.dtype("<u4")),
    "pin_heads": ("heads", np.dtype("<u8")),
    "pin_delays": ("delays", DELAY),
    "pin_gate": ("gate", np.dtype("<u8")),
}
"""The maps that remember flows: which part of `pins.layout` each of them is, and what stands in it."""


METER_MAPS = {"dues": ("dues", np.dtype("<u8")), "sources": ("sources", SOURCE)}
"""The maps that count connections: which part of `meters.layout` each of them is, and what stands in it."""

LOG_MAPS = {"logged_flows": ("flows", LOGGED), "log_gate": ("gate", np.dtype("<u8"))}
"""The maps of the connection log: which part of its memory each of them is, and what stands in it."""


def pin_sizes(pin_sets: int, cpus: int) -> dict[str, int]:
    """How many elements each of these maps is to have, for writers on all CPUs and one in user space."""
    writers = cpus + 1
    return {
        "pin_words": pin_sets,
        "pin_flows": pin_sets * WAYS,
        "pin_journal": writers * JOURNAL // 2,
        "pin_heads": writers,
        "pin_delays": 1 << 16,
        "pin_gate": 1,
        "dues": METERS,
        "sources": SOURCE_SETS,
        "logged_flows": SETS * PLACES,
        "log_gate": GATES,
    }


def pin_shapes(pin_sets: int, cpus: int) -> dict[str, tuple[int, int, int]]:
    """Bytes of a key, bytes of a value and number of elements of each map that remembers flows."""
    parts, elements = pin_layout(pin_sets * WAYS, cpus + 1), pin_sizes(pin_sets, cpus)
    return {
        name: (4, parts[part][0].itemsize * parts[part][1] // elements[name], elements[name])
        for name, (part, _) in PIN_MAPS.items()
    }


def sizes(capacity: Capacity, cpus: int) -> dict[str, int]:
    """How many elements each map is to have that belongs to one program."""
    return {name: max(1, elements) for name, (_, elements) in _maps(capacity, cpus).items()}


def _maps(capacity: Capacity, cpus: int) -> Mapping[str, tuple[np.dtype[Any], int]]:
    rows, twice = cpus + 1, GENERATIONS
    return {
        "controls": (layout.CONTROL, 1),
        "generations": (layout.GENERATION, twice),
        "buckets": (layout.BUCKET, twice * capacity.buckets),
        "entries": (layout.ENTRY, twice * capacity.entries),
        "ranges": (layout.RANGE, twice * capacity.ranges),
        "guards": (layout.GUARD, twice * capacity.services),
        "boundaries": (layout.BOUNDARY, twice * capacity.boundaries),
        "stations": (np.dtype("<u8"), twice * capacity.stations),
        "ways": (layout.WAY, twice * capacity.ways),
        "slots": (np.dtype("<u8"), capacity.slots // 4),
        "policies": (layout.POLICY, twice * capacity.services),
        "choices": (np.dtype("<u8"), capacity.choices // 4),
        "quic_configs": (layout.QUIC_CONFIG, twice * capacity.quic),
        "servers": (layout.SERVER, twice * capacity.servers),
        "member_ways": (np.dtype("<u8"), twice * (1 << 16) // 4),
        "turns": (layout.TURN, rows * capacity.services),
        "ports": (layout.PORT, layout.TEST_PORT + 1),
        "service_traffic": (layout.TRAFFIC, rows * capacity.services),
        "way_traffic": (layout.TRAFFIC, rows * capacity.ways),
        "service_flows": (np.dtype("<u8"), rows * capacity.services),
        "way_flows": (np.dtype("<u8"), rows * capacity.ways),
        "exits": (layout.EXIT_COUNT, rows * layout.EXITS),
        "cpus": (layout.CPU, rows),
        "outcomes": (layout.OUTCOME, 1),
    }


def _halves(array: SlotArray) -> npt.NDArray[np.uint16]:
    """Primary and previous of each slot, without a computation."""
    return np.ascontiguousarray(array, "<u4").view("<u2").reshape(-1, 2)


def _steady(array: SlotArray) -> bool:
    halves = _halves(array)
    return bool((halves[:, 0] == halves[:, 1]).all())


def _indices(array: SlotArray) -> tuple[int, ...]:
    """The members in slots, in ascending order; NO_MEMBER is not one."""
    present = np.zeros(1 << 16, np.bool_)
    present[_halves(array)] = True
    return tuple(np.flatnonzero(present[:NOBODY]).tolist())


def _stations(member: TableMember) -> tuple[bytes, ...]:
    hop = member.next_hop
    return (hop.source_mac, hop.mac) if member.delivery.dsr_type is DsrType.L2 else (hop.source_mac,)


def _way(member: TableMember, egress: Egress) -> bytes:
    hop, delivery, version = member.next_hop, member.delivery, member.address.version
    flags = (layout.WAY_SLOW if egress.slow else 0) | (layout.WAY_LINEAR if egress.linear else 0)
    source = destination = bytes(16)
    kind, total = layout.WAY_L2, 0
    front = ETHERNET + (len(egress.tag) if any(egress.tag) else 0) + delivery.overhead(version)
    if delivery.encapsulation is not None:
        kind = layout.WAY_OUTER4 if version == 4 else layout.WAY_OUTER6
        kind |= layout.TUNNELS[delivery.encapsulation]
        flags |= layout.WAY_ROUTED if delivery.ttl is TtlPolicy.ROUTER else 0
        kind |= layout.WAY_SPREAD if member.outer_prefix is not None else 0
        mask = member.spread_mask.to_bytes(4, "big")
        source, destination = member.first_source.ljust(16, b"\0"), member.address.packed.ljust(16, b"\0")
        if version == 4:
            kind |= layout.WAY_CLEAR if delivery.outer_df is DfPolicy.CLEAR else 0
            total = sum(struct.unpack("<8H", source)) + sum(struct.unpack("<8H", destination)) + delivery.outer_ttl
            source = source[:4] + mask + source[8:]
        else:
            (total,) = struct.unpack("<I", mask)
    limit = max(0, min(member.inner_mtu, 0xFFFF))
    flags |= layout.WAY_UNBOUND if limit < LEAST_IPV6 == member.inner_mtu6 else 0
    head = struct.pack("<BBHI4sI", kind, flags, limit, egress.ifindex, egress.tag, total)
    head += struct.pack("<HBB", member.index, delivery.outer_ttl, front)
    return hop.mac + hop.source_mac + head + source + destination

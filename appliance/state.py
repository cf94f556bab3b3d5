"""The store: everything the decision needs, as plain values, with one "changed" signal.

Whoever learns something calls a setter; a setter that changes nothing signals nothing. Readers take a `Snapshot`, which
never changes under their hands. Pure: no I/O, no clock; the signal is a plain callback.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

from appliance.flapping import Flap, flapped, went_down
from appliance.forwarding import MAX_MEMBERS, NextHop
from appliance.leaving import same_machines, with_latecomers, with_leaving, with_pools
from appliance.model import Config, Delivery, Drain, Health, IPAddress, Member, MemberStats, Order, Pool
from appliance.ring.transition import PinFacts

_T = TypeVar("_T")

LOCAL_ADDRESS = "local_address"
INTERFACE_DOWN = "interface_down"
"""The reason of an address that is this machine's own. Of a VIP nothing else is ever looked up."""


NEIGHBOUR_UNRESOLVED = "neighbour_unresolved"
"""The reason where nobody answers for a MAC address."""


@dataclass(frozen=True)
class Unresolved:
    """Why there is no next hop to an address at this moment."""

    reason: str
    """Stable name: `no_route`, `neighbour_unresolved`, `interface_down`, `local_address`, `not_looked_up`."""

    detail: str = ""


@dataclass(frozen=True)
class MemberWay:
    """One way to one member: what a member index stands for.

    By address and not by name: a member that gets another name keeps its flows, and flows do not follow a name to
    another machine.
    """

    pool: str
    address: IPAddress
    delivery: Delivery


@dataclass(frozen=True)
class LogEntry:
    """A pool by one delivery as it was from some moment on: what its slots followed from."""

    at: float
    """Seconds since 1970."""

    members: tuple["LoggedMember", ...]
    settled: bool = False
    """Nobody had used the owners from before earlier changes for so long that their windows were closed."""


def same_ring(there: LogEntry, new: LogEntry) -> bool:
    """Whether an entry tells of all members what a new one tells, and of windows that are over."""
    return frozenset(there.members) == frozenset(new.members) and (there.settled or not new.settled)


LONGEST_LOG = 256
"""Entries. A pool that changes more often than that within a window loses the oldest."""


def first_needed(log: Sequence[LogEntry], window_s: float, now: float) -> int:
    """Where a log may begin: with the latest entry that was in force for a whole window, so that nothing from before it
    can have been under way, and in which somebody took flows, without whom windows do not end.

    Args:
        log: the oldest first.
        window_s: the longest window of what follows from it.
        now: seconds since 1970.
    """
    ends = [entry.at for entry in log[1:]] + [now]
    calm = [
        at
        for at, (entry, end) in enumerate(zip(log, ends, strict=True))
        if end - entry.at >= window_s and any(member.eligible for member in entry.members)
    ]
    return max(calm[-1] if calm else 0, len(log) - LONGEST_LOG)


@dataclass(frozen=True)
class LoggedMember:
    name: str
    address: IPAddress
    weight: int
    eligible: bool
    """Took new flows."""
    serving: bool
    """Went on with those that it had."""
    ramp: float = 1.0
    """See `ring.slots.RingMember`."""
    leaving: bool = False
    """Was not configured any more, and went on with the flows that it had."""


RingKey = tuple[str, Delivery]
"""Pool and delivery."""

CourseKey = tuple[str, Delivery, float, str]
"""Pool, delivery and window in seconds: what shares slot words. And the virtual service, where it has words of its own
since it used another pool before; else nothing."""


@dataclass(frozen=True)
class PinsSeen:
    """What the data plane remembered at some moment, as far as the decision needs it."""

    facts: Mapping[CourseKey, PinFacts] = field(default_factory=dict)
    """Of all services that share their words, as long as these are not steady or flows are remembered."""

    flows: Mapping[int, int] = field(default_factory=dict)
    """Live pins by the index of members that serve."""

    late: bool = False
    """Whether flows are remembered elsewhere in slots that are steady: these have to be looked at again."""


@dataclass(frozen=True)
class PathMtu:
    """What routers on the way to a member have said that they take."""

    mtu: int
    """Largest IP packet, bytes."""

    at: float
    """When that was said last, in seconds since 1970."""


@dataclass(frozen=True)
class Snapshot:
    config: Config
    health: Mapping[str, Health] = field(default_factory=dict)
    """By `pool/member`; missing means unknown."""

    next_hops: Mapping[IPAddress, NextHop | Unresolved] = field(default_factory=dict)
    """Of members; of VIPs that are wrongly an address of this machine (LOCAL_ADDRESS); and of our own addresses that
    routers are to send to, whose interface is down (INTERFACE_DOWN)."""

    path_mtus: Mapping[IPAddress, PathMtu] = field(default_factory=dict)
    """By member address, where less is known to get through than the first link takes."""

    indices: Mapping[MemberWay, int] = field(default_factory=dict)
    plane_error: str | None = None
    """Why the data plane is not certain to forward; None when it is."""

    learning: Mapping[str, "Learning"] = field(default_factory=dict)
    """Pools, by name, whose members we do not know well enough to announce VIPs with them."""

    orders: Mapping[str, Order] = field(default_factory=dict)
    """By `pool/member`: what operators want, on top of the configuration."""

    up_since: Mapping[str, float] = field(default_factory=dict)
    """By `pool/member`: when it came back, in seconds since 1970. Those that were up all the time are not here."""

    off_since: Mapping[str, float] = field(default_factory=dict)
    """By `pool/member`: when the configuration took it out, under a running director."""

    maintained_since: Mapping[str, float] = field(default_factory=dict)
    """By `pool/member`: since when it says itself that it is worked on, in seconds since 1970."""

    flaps: Mapping[str, Flap] = field(default_factory=dict)
    """By `pool/member`: what is held against those that came and went."""

    outliers: Mapping[str, str] = field(default_factory=dict)
    """By `pool/member`: in what clients' handshakes by it are not like those by the others of its pool."""

    pins: PinsSeen = PinsSeen()
    stats: Mapping[int, MemberStats] = field(default_factory=dict)
    """By member index; only where an algorithm asks."""

    history: Mapping[RingKey, tuple[LogEntry, ...]] = field(default_factory=dict)
    """Of before this process began, or of what others have seen; the oldest first."""

    joining: str | None = None
    """Why nothing may be announced yet; None when nothing keeps us."""

    away: frozenset[str] = frozenset()
    """Other directors of whom nothing is heard, or not for long enough again."""

    absent: Mapping[IPAddress, frozenset[str]] = field(default_factory=dict)
    """By VIP: other directors that say that routers do not have it from them, or have said so not long enough ago."""

    drain: Drain | None = None
    """This director is to be left by its traffic, or was."""

    generation: int = 0
    """How many configurations there were before this one."""

    def undecided(self, pool: Pool) -> list[str]:
        """Names of members of which it is not known yet whether they will be in rotation."""
        how = self.learning.get(pool.name)
        if how is None:
            return []
        wanted = [member for member in pool.members if member.enabled and member.ratio and not member.leaving]
        return [member.name for member in wanted if self._open(pool, member, how)]

    def unheard(self, pool: Pool) -> list[str]:
        """Names of members that a new process will hear of before long: others know them already."""
        if self.learning.get(pool.name) is not Learning.FIRST:
            return []
        undecided = self.undecided(pool)
        if self.usable(pool):  # so learning ends
            return undecided
        known = {member.name for member in pool.members if self._heard(pool, member)}
        return [name for name in undecided if name not in known]

    def _heard(self, pool: Pool, member: Member) -> bool:
        """Whether there is a verdict, or without monitors a look at the way."""
        health = self.health.get(f"{pool.name}/{member.name}", Health.UNKNOWN)
        return health is not Health.UNKNOWN if pool.monitors else member.address in self.next_hops

    def usable(self, pool: Pool) -> bool:
        """Whether any member could be in rotation now."""
        return any(
            member.enabled and member.ratio and not member.leaving and not self._open(pool, member, Learning.AGAIN)
            for member in pool.members
        )

    def _open(self, pool: Pool, member: Member, how: "Learning") -> bool:
        health = self.health.get(f"{pool.name}/{member.name}", Health.UNKNOWN) if pool.monitors else Health.UP
        if health in (Health.UP, Health.MAINTENANCE):
            return not isinstance(self.next_hops.get(member.address), NextHop)
        return how is Learning.AGAIN or health is Health.UNKNOWN


class Learning(Enum):
    """Why a pool's members are not known well enough.

    A director that announces a VIP with a part of the ring sends flows that other directors have placed by the whole
    ring to the wrong members. So it waits, but not for ever: whoever runs the store ends that after a while.
    """

    FIRST = "first"
    """The process is new: members without a first verdict are open."""

    AGAIN = "again"
    """No member was usable: maybe we were cut off, and bad verdicts were our own fault. So members that are not usable
    are open."""


def ways(config: Config) -> Iterable[MemberWay]:
    """Every way to every member that *config* asks for, each once, in a stable order."""
    return dict.fromkeys(
        MemberWay(pool.name, member.address, service.profile.delivery)
        for service in config.services
        for pool in service.pools
        for member in pool.members
    )


def redelivered(old: Config, new: Config) -> Mapping[RingKey, RingKey]:
    """Pools whose members get their packets in another way from now on, and nobody's in the old one: they are the same
    machines, so flows that are remembered, slot words and logs go over to the new way."""
    before, after = _deliveries(old), _deliveries(new)
    moved: dict[RingKey, RingKey] = {}
    for pool in before.keys() & after.keys():
        gone, come = before[pool] - after[pool], after[pool] - before[pool]
        if len(gone) == len(come) == 1:
            moved[pool, gone.pop()] = (pool, come.pop())
    return moved


def _deliveries(config: Config) -> Mapping[str, set[Delivery]]:
    """By pool."""
    found: dict[str, set[Delivery]] = {}
    for service in config.services:
        for pool in service.pools:
            found.setdefault(pool.name, set()).add(service.profile.delivery)
    return found


def _leaving(history: Mapping[RingKey, tuple[LogEntry, ...]]) -> Mapping[str, list[Member]]:
    """By pool: members that were leaving, by the latest that is known."""
    found: dict[str, list[Member]] = {}
    for (pool, _), log in history.items():
        for member in log[-1].members if log else ():
            if member.leaving and member.serving:
                found.setdefault(pool, []).append(Member(member.name, member.address, leaving=True))
    return found


def _downs(history: Mapping[RingKey, tuple[LogEntry, ...]], pool: str) -> Mapping[str, list[float]]:
    """When members that took new flows went out all at once, by `pool/member`. Who drains first was meant to go."""
    found: dict[str, list[float]] = {}
    for log in [log for (name, _), log in history.items() if name == pool][:1]:  # all deliveries tell the same
        taking: set[str] = set()
        for entry in log:
            serving = {member.name for member in entry.members if member.serving}
            for name in sorted(taking - serving):
                found.setdefault(f"{pool}/{name}", []).append(entry.at)
            taking = {member.name for member in entry.members if member.eligible}
    return found


def _off(config: Config) -> frozenset[str]:
    """Members that the configuration keeps from new flows."""
    used = {service.pool.name for service in config.services}
    return frozenset(
        f"{pool.name}/{member.name}"
        for pool in config.pools
        for member in pool.members
        if member.leaving or not member.enabled or not member.ratio or pool.name not in used
    )


def _renamed(known: Mapping[str, _T], was: Mapping[str, str]) -> dict[str, _T]:
    """What is known of members, by their names of now."""
    return {now: known[name] for now, name in was.items() if name in known}


def _trusted(config: Config, before: Config, was: Mapping[str, str], health: Mapping[str, Health]) -> dict[str, Health]:
    """Members that have served unasked, in pools that have health monitors from now on: they are up until one says that
    they are not.

    Args:
        config: from now on.
        before: until now.
        was: what members were called before.
        health: what is known, by their names of now.
    """
    unasked = {pool.name for pool in before.pools if not pool.monitors}
    served = {f"{pool.name}/{member.name}" for pool in before.pools for member in pool.members if member.enabled}
    return {
        name: Health.UP
        for pool in config.pools
        if pool.monitors and pool.name in unasked
        for name in pool.member_ids
        if was.get(name) in served and health.get(name, Health.UNKNOWN) is Health.UNKNOWN
    }


def _ids(config: Config) -> frozenset[str]:
    return frozenset(member for pool in config.pools for member in pool.member_ids)


def _names(config: Config) -> frozenset[str]:
    return frozenset(pool.name for pool in config.pools)


class IndexAllocator:
    """Gives each way to a member a number that is its own for life.

    A number that was freed goes to the end of the queue: a data plane may still hold it for packets in flight, so the
    one that was free longest is the safest to give out again.
    """

    def __init__(self, given: Mapping[MemberWay, int] | None = None, unused: int = 0) -> None:
        """
        Args:
            given: numbers from before.
            unused: none from here on is among them, nor has been.
        """
        self._given: dict[MemberWay, int] = dict(given or {})
        taken = set(self._given.values())
        # What is free among them may have stood for somebody a moment ago.
        self._free: dict[int, None] = {number: None for number in range(unused) if number not in taken}
        self._next = unused
        self._shown: Mapping[MemberWay, int] = {}

    def update(
        self, wanted: Iterable[MemberWay], moved: Mapping[RingKey, RingKey] | None = None
    ) -> Mapping[MemberWay, int]:
        """Free the numbers of ways that are gone, number the new ones; returns the whole assignment, as the same object
        while nothing is different.

        Args:
            wanted: all ways that there are from now on.
            moved: deliveries that others take the place of, and the numbers with them; see `redelivered`.

        Raises:
            ValueError: more than MAX_MEMBERS ways.
        """
        wanted = list(wanted)
        if len(wanted) > MAX_MEMBERS:
            raise ValueError(f"{len(wanted)} ways to members; slots can name {MAX_MEMBERS}")
        for (pool, old), (_, new) in (moved or {}).items():
            for way in [way for way in self._given if (way.pool, way.delivery) == (pool, old)]:
                self._given[replace(way, delivery=new)] = self._given.pop(way)
        gone = self._given.keys() - set(wanted)
        for way in [way for way in self._given if way in gone]:
            self._free[self._given.pop(way)] = None
        for way in wanted:
            if way not in self._given:
                self._given[way] = self._take()
        if self._given != self._shown:
            self._shown = dict(self._given)
        return self._shown

    def twin(self) -> "IndexAllocator":
        """One of its own that goes on as this one would."""
        twin = copy(self)
        vars(twin).update(_given=dict(self._given), _free=dict(self._free))
        return twin

    def _take(self) -> int:
        if self._next < MAX_MEMBERS:
            self._next += 1
            return self._next - 1
        index = next(iter(self._free))
        del self._free[index]
        return index


class State:
    """The store itself. Lives in the event loop's thread; nobody else may touch it."""

    def __init__(
        self,
        config: Config,
        changed: Callable[[], None],
        given: Mapping[MemberWay, int] | None = None,
        unused: int = 0,
    ) -> None:
        """
        Args:
            config: in force.
            changed: is called whenever something else is known.
            given: numbers of members from before; see `IndexAllocator`, as for *unused*.
        """
        self._changed = changed
        self._allocator = IndexAllocator(given, unused)
        self._config = config
        self._health: dict[str, Health] = {}
        self._next_hops: Mapping[IPAddress, NextHop | Unresolved] = {}
        self._path_mtus: Mapping[IPAddress, PathMtu] = {}
        self._plane_error: str | None = "the data plane has not started"
        self._learning = {pool.name: Learning.FIRST for pool in config.pools}
        self._orders: dict[str, Order] = {}
        self._up_since: dict[str, float] = {}
        self._off_since: dict[str, float] = {}
        self._maintained_since: dict[str, float] = {}
        self._flaps: dict[str, Flap] = {}
        self._outliers: dict[str, str] = {}
        self._pins = PinsSeen()
        self._stats: Mapping[int, MemberStats] = {}
        self._history: Mapping[RingKey, tuple[LogEntry, ...]] = {}
        self._joining: str | None = None
        self._away: frozenset[str] = frozenset()
        self._absent: Mapping[IPAddress, frozenset[str]] = {}
        self._drain: Drain | None = None
        self._generation = 0
        self._indices = self._allocator.update(ways(config))

    def twin(self) -> "State":
        """A store of its own that knows the same, to try things out: what becomes of it, nobody hears."""
        twin = copy(self)
        # What is never changed in place stays the same object, by which `decide` knows that nothing is new.
        vars(twin).update(
            _changed=lambda: None,
            _allocator=self._allocator.twin(),
            _health=dict(self._health),
            _learning=dict(self._learning),
            _orders=dict(self._orders),
            _up_since=dict(self._up_since),
            _off_since=dict(self._off_since),
            _maintained_since=dict(self._maintained_since),
            _flaps=dict(self._flaps),
            _outliers=dict(self._outliers),
        )
        return twin

    @property
    def config(self) -> Config:
        """In force; with members that are leaving."""
        return self._config

    @property
    def generation(self) -> int:
        """How many configurations there were before the one in force."""
        return self._generation

    @property
    def plane_error(self) -> str | None:
        """As in `Snapshot`."""
        return self._plane_error

    @property
    def orders(self) -> Mapping[str, Order]:
        """By `pool/member`."""
        return dict(self._orders)

    @property
    def outliers(self) -> Mapping[str, str]:
        """As in `Snapshot`."""
        return dict(self._outliers)

    @property
    def next_hops(self) -> Mapping[IPAddress, NextHop | Unresolved]:
        """As of now; a later change is another object."""
        return self._next_hops

    def snapshot(self) -> Snapshot:
        return Snapshot(
            config=self._config,
            health=dict(self._health),
            next_hops=self._next_hops,
            path_mtus=self._path_mtus,
            indices=self._indices,
            plane_error=self._plane_error,
            learning=dict(self._learning),
            orders=dict(self._orders),
            up_since=dict(self._up_since),
            off_since=dict(self._off_since),
            maintained_since=dict(self._maintained_since),
            flaps=dict(self._flaps),
            outliers=dict(self._outliers),
            pins=self._pins,
            stats=self._stats,
            history=self._history,
            joining=self._joining,
            away=self._away,
            absent=self._absent,
            drain=self._drain,
            generation=self._generation,
        )

    def set_config(self, config: Config, now: float = 0.0) -> None:
        """A new configuration. Members that it does not have any more leave: they keep the flows they have.

        Args:
            config: as it was read.
            now: seconds since 1970.
        """
        config = with_leaving(config, self._config)
        if config == self._config:
            return
        self._generation += 1
        # What is known is known of machines, whatever they are called; only orders are given to names.
        was = same_machines(config, self._config)
        self._health, self._flaps = _renamed(self._health, was), _renamed(self._flaps, was)
        self._outliers = _renamed(self._outliers, was)
        self._up_since, self._maintained_since = _renamed(self._up_since, was), _renamed(self._maintained_since, was)
        self._note_what_is_off(config, was, now)
        self._health |= _trusted(config, self._config, was, self._health)
        moved = redelivered(self._config, config)
        self._indices = self._allocator.update(ways(config), moved)
        self._history = {moved[key]: log for key, log in self._history.items() if key in moved} | dict(self._history)
        self._config = config
        # A pool that is new to a running director is no reason to hold its VIPs back: nobody else has flows on it yet.
        names = _names(config)
        self._learning = {name: how for name, how in self._learning.items() if name in names}
        self._learn(config.pools)
        self._changed()

    def forget(self, members: Iterable[str], former: Mapping[str, tuple[Pool, ...]] | None = None) -> None:
        """Members that were leaving are gone, and so are pools that services used before.

        Args:
            members: `pool/member` of each.
            former: what is not needed any more, by virtual service; of one that has others meanwhile they stay.
        """
        gone = frozenset(members)
        pools = {
            pool.name: replace(
                pool, members=tuple(m for m in pool.members if not (m.leaving and f"{pool.name}/{m.name}" in gone))
            )
            for pool in self._config.pools
            if any(m.leaving and f"{pool.name}/{m.name}" in gone for m in pool.members)
        }
        former = former or {}
        services = tuple(
            replace(service, former=()) if service.former and former.get(service.name) == service.former else service
            for service in self._config.services
        )
        before = _ids(self._config)
        self._config = with_pools(replace(self._config, services=services), pools)
        gone = before - _ids(self._config)
        for known in self._by_member():
            for member in gone:
                known.pop(member, None)
        self._learning = {name: how for name, how in self._learning.items() if name in _names(self._config)}
        self._indices = self._allocator.update(ways(self._config))
        self._changed()

    def _by_member(self) -> tuple[dict[str, Any], ...]:
        return (
            self._health, self._up_since, self._off_since, self._orders, self._maintained_since, self._flaps,
            self._outliers,
        )  # fmt: skip

    def set_order(self, member: str, order: Order | None) -> None:
        """What an operator wants of a member; None takes earlier orders back.

        Args:
            member: `pool/member`.
            order: what is wanted.
        """
        if self._orders.get(member) != order:
            if order is None:
                del self._orders[member]
            else:
                self._orders[member] = order
            self._changed()

    def set_pins(self, pins: PinsSeen, stats: Mapping[int, MemberStats] | None = None, *, signal: bool) -> None:
        """What the data plane remembers. That changes all the time, so it is for the caller to say when it matters."""
        self._pins = pins
        if stats is not None:
            self._stats = stats
        if signal:
            self._changed()

    def set_outliers(self, outliers: Mapping[str, str]) -> None:
        """Whose handshakes are not like the others', and in what, by `pool/member`: they get less."""
        if outliers != self._outliers:
            self._outliers = dict(outliers)
            self._changed()

    def set_history(self, history: Mapping[RingKey, tuple[LogEntry, ...]]) -> None:
        """How pools became what they are, as others have seen it. It counts where this process does not know better.

        Members that were leaving go on doing so, though our own configuration has never had them.
        """
        if history == self._history:
            return
        self._history = history
        for pool in self._config.pools:
            if pool.flapping is not None and pool.name in self._learning:  # else we were there
                for member, downs in _downs(history, pool.name).items():
                    flap = flapped(downs, pool.flapping)
                    if member in pool.member_ids and flap is not None:
                        self._flaps.setdefault(member, flap)
        config = with_latecomers(self._config, _leaving(history))
        # Not one of them where there are more than can be numbered: then it is no history of ours.
        if config is not self._config and len(dict.fromkeys(ways(config))) <= MAX_MEMBERS:
            self._config = config
            self._indices = self._allocator.update(ways(config))
        self._changed()

    def set_joining(self, why: str | None) -> None:
        """Why nothing may be announced yet, or None from when it may be."""
        if why != self._joining:
            self._joining = why
            self._changed()

    def set_away(self, directors: frozenset[str], absent: Mapping[IPAddress, frozenset[str]]) -> None:
        """Other directors that cannot be counted on: at all, and by VIP."""
        if (directors, absent) != (self._away, self._absent):
            self._away, self._absent = directors, absent
            self._changed()

    @property
    def drain(self) -> Drain | None:
        return self._drain

    def set_drain(self, drain: Drain | None) -> None:
        """Whether this director is to be left by its traffic, and how far that is."""
        if drain != self._drain:
            self._drain = drain
            self._changed()

    def _note_what_is_off(self, config: Config, was: Mapping[str, str], now: float) -> None:
        before, after = _off(self._config), _off(config)
        since = _renamed(self._off_since, was)
        self._off_since = {member: at for member, at in since.items() if member in after}
        self._off_since |= {member: now for member in after - since.keys() if was.get(member) not in before}

    def set_health(self, member: str, health: Health, now: float = 0.0) -> None:
        """A member's health.

        Args:
            member: `pool/member`.
            health: what is known now.
            now: seconds since 1970.
        """
        before = self._health.get(member, Health.UNKNOWN)
        if before is not health:
            if health is Health.UP and before is Health.DOWN:
                self._up_since[member] = now
            elif health is not Health.UP:
                self._up_since.pop(member, None)
            if health is Health.MAINTENANCE:
                self._maintained_since[member] = now
            else:
                self._maintained_since.pop(member, None)
            self._health[member] = health
            name = member.partition("/")[0]
            pools = [pool for pool in self._config.pools if pool.name == name]
            # Not one that was worked on and said so: it was meant to go.
            if (before, health) == (Health.UP, Health.DOWN) and pools and pools[0].flapping is not None:
                self._flaps[member] = went_down(self._flaps.get(member), pools[0].flapping, now)
            self._learn(pools)
            self._changed()

    def set_next_hops(self, next_hops: Mapping[IPAddress, NextHop | Unresolved]) -> None:
        if next_hops != self._next_hops:
            self._next_hops = next_hops
            self._learn(self._config.pools)
            self._changed()

    def set_path_mtus(self, path_mtus: Mapping[IPAddress, PathMtu]) -> None:
        """What is known of the ways beyond the first link. That it was heard again changes nothing."""
        before, self._path_mtus = self._path_mtus, path_mtus
        if {member: path.mtu for member, path in path_mtus.items()} != {m: path.mtu for m, path in before.items()}:
            self._changed()

    def set_plane_error(self, error: str | None) -> None:
        if error != self._plane_error:
            self._plane_error = error
            self._changed()

    def end_learning(self, pool: str) -> None:
        """Go on with what is known of a pool: a member that never shows itself must not hold everything up."""
        if self._learning.pop(pool, None) is not None:
            self._changed()

    def _learn(self, pools: Iterable[Pool]) -> None:
        """Which of these pools are known well enough, and of which nothing is usable any more."""
        # Without copies: a verdict on each of thousands of members must not copy what is known of all of them.
        snapshot = Snapshot(
            config=self._config, health=self._health, next_hops=self._next_hops, learning=self._learning
        )
        for pool in pools:
            if pool.name not in self._learning:
                if not snapshot.usable(pool):
                    self._learning[pool.name] = Learning.AGAIN
            elif not snapshot.undecided(pool):
                del self._learning[pool.name]

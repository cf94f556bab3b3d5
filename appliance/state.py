"""The store: everything the decision needs, as plain values, with one "changed" signal.

Whoever learns something calls a setter; a setter that changes nothing signals nothing. Readers take a `Snapshot`, which
never changes under their hands. Pure: no I/O, no clock; the signal is a plain callback.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from appliance.forwarding import MAX_MEMBERS, NextHop
from appliance.model import Config, Delivery, Health, IPAddress, Member, Pool


@dataclass(frozen=True)
class Unresolved:
    """Why there is no next hop to an address at this moment."""

    reason: str
    """Stable name: `no_route`, `neighbour_unresolved`, `interface_down`, `local_address`, `not_looked_up`."""

    detail: str = ""


@dataclass(frozen=True)
class MemberWay:
    """One way to one member: what a member index stands for."""

    pool: str
    member: str
    delivery: Delivery


@dataclass(frozen=True)
class Snapshot:
    config: Config
    health: Mapping[str, Health] = field(default_factory=dict)
    """By `pool/member`; missing means unknown."""

    next_hops: Mapping[IPAddress, NextHop | Unresolved] = field(default_factory=dict)
    indices: Mapping[MemberWay, int] = field(default_factory=dict)
    plane_error: str | None = None
    """Why the data plane is not certain to forward; None when it is."""

    learning: bool = False
    """The process is new and does not know all members yet: what it would announce now, other directors that do know
    them would contradict, and flows would break."""

    def undecided(self, pool: Pool) -> list[str]:
        """Names of members of which it is not known yet whether they will be in rotation."""
        return [member.name for member in pool.members if member.enabled and member.ratio and self._open(pool, member)]

    def _open(self, pool: Pool, member: Member) -> bool:
        health = self.health.get(f"{pool.name}/{member.name}", Health.UNKNOWN) if pool.monitors else Health.UP
        if health is Health.UP:
            return not isinstance(self.next_hops.get(member.address), NextHop)
        return health is Health.UNKNOWN


def ways(config: Config) -> Iterable[MemberWay]:
    """Every way to every member that *config* asks for, each once, in a stable order."""
    return dict.fromkeys(
        MemberWay(service.pool.name, member.name, service.profile.delivery)
        for service in config.services
        for member in service.pool.members
    )


class IndexAllocator:
    """Gives each way to a member a number that is its own for life.

    A number that was freed goes to the end of the queue: a data plane may still hold it for packets in flight, so the
    one that was free longest is the safest to give out again.
    """

    def __init__(self) -> None:
        self._given: dict[MemberWay, int] = {}
        self._free: dict[int, None] = {}
        self._next = 0

    def update(self, wanted: Iterable[MemberWay]) -> Mapping[MemberWay, int]:
        """Free the numbers of ways that are gone, number the new ones; returns the whole assignment.

        Raises:
            ValueError: more than MAX_MEMBERS ways.
        """
        wanted = list(wanted)
        if len(wanted) > MAX_MEMBERS:
            raise ValueError(f"{len(wanted)} ways to members; slots can name {MAX_MEMBERS}")
        gone = self._given.keys() - set(wanted)
        for way in [way for way in self._given if way in gone]:
            self._free[self._given.pop(way)] = None
        for way in wanted:
            if way not in self._given:
                self._given[way] = self._take()
        return dict(self._given)

    def _take(self) -> int:
        if self._next < MAX_MEMBERS:
            self._next += 1
            return self._next - 1
        index = next(iter(self._free))
        del self._free[index]
        return index


class State:
    """The store itself. Lives in the event loop's thread; nobody else may touch it."""

    def __init__(self, config: Config, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._allocator = IndexAllocator()
        self._config = config
        self._health: dict[str, Health] = {}
        self._next_hops: Mapping[IPAddress, NextHop | Unresolved] = {}
        self._plane_error: str | None = "the data plane has not started"
        self._learning = True
        self._indices = self._allocator.update(ways(config))

    @property
    def config(self) -> Config:
        return self._config

    def snapshot(self) -> Snapshot:
        return Snapshot(
            config=self._config,
            health=dict(self._health),
            next_hops=self._next_hops,
            indices=self._indices,
            plane_error=self._plane_error,
            learning=self._learning,
        )

    def set_config(self, config: Config) -> None:
        if config == self._config:
            return
        self._indices = self._allocator.update(ways(config))
        self._config = config
        known = {f"{pool.name}/{member.name}" for pool in config.pools for member in pool.members}
        self._health = {member: health for member, health in self._health.items() if member in known}
        self._changed()

    def set_health(self, member: str, health: Health) -> None:
        if self._health.get(member, Health.UNKNOWN) is not health:
            self._health[member] = health
            self._learn()
            self._changed()

    def set_next_hops(self, next_hops: Mapping[IPAddress, NextHop | Unresolved]) -> None:
        if next_hops != self._next_hops:
            self._next_hops = next_hops
            self._learn()
            self._changed()

    def set_plane_error(self, error: str | None) -> None:
        if error != self._plane_error:
            self._plane_error = error
            self._changed()

    def end_learning(self) -> None:
        """Go on with what is known: a member that never shows itself must not hold everything up."""
        if self._learning:
            self._learning = False
            self._changed()

    def _learn(self) -> None:
        if self._learning:
            snapshot = self.snapshot()
            self._learning = any(snapshot.undecided(pool) for pool in self._config.pools)

"""The store: everything the decision needs, as plain values, with one "changed" signal.

Whoever learns something calls a setter; a setter that changes nothing signals nothing. Readers take a `Snapshot`, which
never changes under their hands. Pure: no I/O, no clock; the signal is a plain callback.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from appliance.forwarding import MAX_MEMBERS, NextHop
from appliance.model import Config, Delivery, Health, IPAddress, Member, Pool

LOCAL_ADDRESS = "local_address"
"""The reason of an address that is this machine's own. Of a VIP nothing else is ever looked up."""


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
    """Of members; and of VIPs that are wrongly an address of this machine (LOCAL_ADDRESS)."""

    indices: Mapping[MemberWay, int] = field(default_factory=dict)
    plane_error: str | None = None
    """Why the data plane is not certain to forward; None when it is."""

    learning: Mapping[str, "Learning"] = field(default_factory=dict)
    """Pools, by name, whose members we do not know well enough to announce VIPs with them."""

    def undecided(self, pool: Pool) -> list[str]:
        """Names of members of which it is not known yet whether they will be in rotation."""
        how = self.learning.get(pool.name)
        if how is None:
            return []
        wanted = [member for member in pool.members if member.enabled and member.ratio]
        return [member.name for member in wanted if self._open(pool, member, how)]

    def usable(self, pool: Pool) -> bool:
        """Whether any member could be in rotation now."""
        return any(
            member.enabled and member.ratio and not self._open(pool, member, Learning.AGAIN) for member in pool.members
        )

    def _open(self, pool: Pool, member: Member, how: "Learning") -> bool:
        health = self.health.get(f"{pool.name}/{member.name}", Health.UNKNOWN) if pool.monitors else Health.UP
        if health is Health.UP:
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
        self._learning = {pool.name: Learning.FIRST for pool in config.pools}
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
            learning=dict(self._learning),
        )

    def set_config(self, config: Config) -> None:
        if config == self._config:
            return
        self._indices = self._allocator.update(ways(config))
        self._config = config
        known = {f"{pool.name}/{member.name}" for pool in config.pools for member in pool.members}
        self._health = {member: health for member, health in self._health.items() if member in known}
        # A pool that is new to a running director is no reason to hold its VIPs back: nobody else has flows on it yet.
        names = {pool.name for pool in config.pools}
        self._learning = {name: how for name, how in self._learning.items() if name in names}
        self._learn(config.pools)
        self._changed()

    def set_health(self, member: str, health: Health) -> None:
        if self._health.get(member, Health.UNKNOWN) is not health:
            self._health[member] = health
            name = member.partition("/")[0]
            self._learn(pool for pool in self._config.pools if pool.name == name)
            self._changed()

    def set_next_hops(self, next_hops: Mapping[IPAddress, NextHop | Unresolved]) -> None:
        if next_hops != self._next_hops:
            self._next_hops = next_hops
            self._learn(self._config.pools)
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
        snapshot = self.snapshot()
        for pool in pools:
            if pool.name not in self._learning:
                if not snapshot.usable(pool):
                    self._learning[pool.name] = Learning.AGAIN
            elif not snapshot.undecided(pool):
                del self._learning[pool.name]

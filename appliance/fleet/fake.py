"""A store in memory: for tests, and to see a fleet agree without one. Obeys the contract of `client.py`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from appliance.fleet.client import (
    Change,
    CompactedError,
    Entry,
    LeaseGoneError,
    Reading,
    Swapped,
    UnavailableError,
)


@dataclass
class _Lease:
    ttl_s: int
    ends_at: float
    keys: set[str] = field(default_factory=set)


class FakeCluster:
    """What the nodes of a store have in common."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """
        Args:
            clock: seconds, for leases; they run out when somebody looks.
        """
        self.entries: dict[str, Entry] = {}
        self.revision = 1
        self.up = True
        """Whether there is a quorum. Without, nothing is answered, and leases stand still."""

        self._clock = clock
        self._leases: dict[int, _Lease] = {}
        self._history: list[tuple[int, tuple[Change, ...]]] = []
        self._compacted = 0
        self._moved = asyncio.Condition()
        self._down_at = 0.0

    def __str__(self) -> str:
        return "".join(f"{key} = {entry.value}\n" for key, entry in sorted(self.entries.items()))

    async def stop(self) -> None:
        """The quorum is lost: whoever watches is told."""
        self.up = False
        self._down_at = self._clock()
        async with self._moved:
            self._moved.notify_all()

    async def start(self) -> None:
        """It is back, with all that was there: a new leader gives every lease its whole time."""
        self.up = True
        for lease in self._leases.values():
            lease.ends_at = self._clock() + lease.ttl_s

    def compact(self) -> None:
        """Forget what was before now."""
        self._compacted = self.revision
        self._history.clear()

    async def apply(self, changes: Mapping[str, str | None], lease: int | None) -> None:
        """Write (text) and delete (None), at one new revision."""
        if lease is not None and lease not in self._leases:
            raise LeaseGoneError("fake: the lease has run out")
        changes = {key: value for key, value in changes.items() if value is not None or key in self.entries}
        if not changes:
            return
        self.revision += 1
        done = []
        for key, value in changes.items():
            for other in self._leases.values():
                other.keys.discard(key)
            if value is None:
                del self.entries[key]
                done.append(Change(key, None, self.revision))
            else:
                self.entries[key] = Entry(value, self.revision)
                done.append(Change(key, value, self.revision))
                if lease is not None:
                    self._leases[lease].keys.add(key)
        self._history.append((self.revision, tuple(done)))
        async with self._moved:
            self._moved.notify_all()

    async def expire(self) -> None:
        """End the leases whose time is over."""
        if self.up:
            for number, lease in list(self._leases.items()):
                if self._clock() >= lease.ends_at:
                    await self.end(number)

    def lease(self, ttl_s: int) -> int:
        number = max(self._leases, default=0) + 1
        self._leases[number] = _Lease(ttl_s, self._clock() + ttl_s)
        return number

    def renew(self, number: int) -> None:
        if number not in self._leases:
            raise LeaseGoneError("fake: the lease has run out")
        self._leases[number].ends_at = self._clock() + self._leases[number].ttl_s

    async def end(self, number: int) -> None:
        lease = self._leases.get(number)
        if lease is not None:
            await self.apply(dict.fromkeys(lease.keys), None)
            del self._leases[number]

    async def since(self, after: int) -> tuple[int, tuple[Change, ...]]:
        """Wait for the first revision after one."""
        if after < self._compacted:
            raise CompactedError(f"fake: compacted up to {self._compacted}")
        async with self._moved:
            await self._moved.wait_for(lambda: not self.up or self.revision > after)
        if not self.up:
            raise UnavailableError("fake: no leader")
        return next((revision, changes) for revision, changes in self._history if revision > after)


class FakeStore:
    """One director's way to the cluster."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self.reachable = True
        """Whether this director gets there."""

    @asynccontextmanager
    async def session(self) -> AsyncIterator["FakeSession"]:
        yield FakeSession(self, self._cluster)


class FakeSession:
    """See `client.Session`."""

    def __init__(self, store: FakeStore, cluster: FakeCluster) -> None:
        self._store = store
        self._cluster = cluster

    @property
    def endpoint(self) -> str:
        return "fake"

    async def read(self) -> Reading:
        await self._enter()
        return Reading(self._cluster.revision, dict(self._cluster.entries))

    async def write(self, puts: Mapping[str, str], deletes: Iterable[str] = (), *, lease: int | None = None) -> None:
        await self._enter()
        await self._cluster.apply({**puts, **dict.fromkeys(deletes)}, lease)

    async def swap(
        self, key: str, value: str, revision: int, beside: Mapping[str, str] = MappingProxyType({})
    ) -> Swapped:
        await self._enter()
        found = self._cluster.entries.get(key)
        if (found.revision if found else 0) != revision:
            return Swapped(False, found)
        await self._cluster.apply({**beside, key: value}, None)
        return Swapped(True, self._cluster.entries[key])

    async def grant(self, ttl_s: int) -> int:
        await self._enter()
        return self._cluster.lease(ttl_s)

    async def keep_alive(self, lease: int) -> None:
        await self._enter()
        self._cluster.renew(lease)

    async def revoke(self, lease: int) -> None:
        await self._enter()
        await self._cluster.end(lease)

    async def watch(self, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        while True:
            await self._enter()
            after, changes = await self._cluster.since(after)
            await self._enter()
            yield changes

    async def _enter(self) -> None:
        await asyncio.sleep(0)
        if not (self._cluster.up and self._store.reachable):
            raise UnavailableError("fake: cannot be reached")
        await self._cluster.expire()

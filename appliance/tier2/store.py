"""Who is there, in the fleet's store: an entry has a lease, which its node keeps, and is gone some seconds after it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from appliance.fleet.client import LeaseGoneError, StoreError
from appliance.fleet.etcd import EtcdSession, EtcdStore
from appliance.model import Etcd
from appliance.tier2 import registry

_T = TypeVar("_T")

TTL_S = 10
"""How long an entry stays when nobody keeps it any more."""


def beside(etcd: Etcd) -> Etcd:
    """The place of nodes: not among the keys of directors, which they all watch."""
    return replace(etcd, prefix=f"{etcd.prefix.rstrip('/')}-nodes/")


async def read(etcd: Etcd, pool: str) -> tuple[tuple[registry.Entry, ...], tuple[str, ...]]:
    """Everybody who is in a pool, in the order of names, and why entries were passed over.

    Raises:
        StoreError: the store does not answer, or refuses.
    """
    async with EtcdStore(beside(etcd), random.Random()).session() as session:  # noqa: S311 - which node is asked
        reading = await session.read()
    entries, problems = [], []
    for key, found in sorted(reading.entries.items()):
        of, _, name = key.partition("/")
        if of != pool:
            continue
        try:
            entries.append(registry.from_text(name, found.value))
        except ValueError as error:
            problems.append(f"{key}: {error}")
    return tuple(entries), tuple(problems)


@dataclass
class Stored:
    """A node's entry for one pool. It has to be written again and again: that keeps the lease."""

    etcd: Etcd
    pool: str
    _lease: int | None = field(default=None, compare=False)
    _kept: registry.Entry | None = field(default=None, compare=False)

    def __hash__(self) -> int:
        return hash(self.pool)

    def __str__(self) -> str:
        return f"{beside(self.etcd).prefix}{self.pool}"

    def write(self, entry: registry.Entry) -> None:
        """Register, or stay registered.

        Raises:
            OSError: the store does not take it.
        """

        async def work(session: EtcdSession) -> None:
            if self._lease is not None:
                try:
                    await session.keep_alive(self._lease)
                except LeaseGoneError:
                    self._lease = self._kept = None
            if self._lease is None:
                self._lease = await session.grant(TTL_S)
            if self._kept != entry:
                await session.write({f"{self.pool}/{entry.name}": registry.as_text(entry)}, lease=self._lease)
                self._kept = entry

        self._run(work)

    def remove(self, name: str) -> None:
        """Leave.

        Raises:
            OSError: the store does not take it; the entry will be gone with its lease.
        """
        self._lease = self._kept = None
        self._run(lambda session: session.write({}, [f"{self.pool}/{name}"]))

    def _run(self, work: Callable[[EtcdSession], Awaitable[_T]]) -> _T:
        async def talk() -> _T:
            async with EtcdStore(beside(self.etcd), random.Random()).session() as session:  # noqa: S311
                return await work(session)

        try:
            return asyncio.run(talk())
        except StoreError as error:
            raise OSError(str(error)) from error

"""A director's pools whose members come and go by themselves: looks who is there, and has the configuration changed.

Such a change is one like any other: members that come get their share slowly where `slow_start` says so, those that
have left go on with the flows they have, and a revision says who came and went. What is written down stays in force
when nobody can say who is there, also for a director that starts anew.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from appliance.fleet.client import StoreError
from appliance.model import Follow, Pool
from appliance.revisions import Author
from appliance.tier2 import follow, store
from appliance.transaction import Transactions

log: structlog.stdlib.BoundLogger = structlog.get_logger()

IDLE_S = 1.0
"""Between two looks whether any pool follows anybody."""


class Following:
    """Follows the pools of the configuration in force."""

    def __init__(self, transactions: Callable[[], Transactions]) -> None:
        self._transactions = transactions
        self._due: dict[str, float] = {}
        self._trouble: dict[str, str] = {}
        """By pool, why it could not be followed the last time: said once."""

    async def run(self) -> None:
        """Look, and change, until cancelled."""
        while True:
            pools = [pool for pool in self._transactions().in_force.config.pools if pool.follow is not None]
            for pool in pools:
                if self._due.get(pool.name, 0.0) <= time.monotonic():
                    await self._follow(pool)
                    assert pool.follow is not None  # noqa: S101 - for the type
                    self._due[pool.name] = time.monotonic() + pool.follow.interval_s
            await asyncio.sleep(min((pool.follow.interval_s for pool in pools if pool.follow), default=IDLE_S))

    async def _follow(self, pool: Pool) -> None:
        assert pool.follow is not None  # noqa: S101 - for the type
        transactions = self._transactions()
        try:
            there = await self._look(pool.name, pool.follow)
        except (follow.FollowError, StoreError) as error:
            self._failed(pool.name, str(error))
            return
        if not there:
            self._failed(pool.name, "nobody is there; members stay as they are")
            return
        document = transactions.in_force.document
        table = await asyncio.to_thread(follow.written, document, pool.name)
        if table is None or follow.members(table["member"], there) is None:
            self._trouble.pop(pool.name, None)
            return
        before = {str(member["address"]) for member in table["member"]}
        now = {str(one.address) for one in there}
        names = {str(one.address): one.name for one in there}
        joined = sorted(names[address] for address in now - before)
        left = sorted(str(one.get("name", one["address"])) for one in table["member"] if one["address"] not in now)
        said = [f"{', '.join(joined)} joined"] * bool(joined) + [f"{', '.join(left)} left"] * bool(left)
        why = f"pool {pool.name}: {'; '.join(said) or 'other shares'}"
        outcome = await transactions.change(
            lambda current: follow.changed(current, pool.name, there), Author("", "follow", why)
        )
        if not outcome.ok:
            self._failed(pool.name, "; ".join(map(str, outcome.problems)))
            return
        self._trouble.pop(pool.name, None)
        log.info("pool.followed", pool=pool.name, joined=joined, left=left)

    async def _look(self, pool: str, where: Follow) -> tuple[follow.There, ...]:
        """
        Raises:
            FollowError, StoreError: it cannot be said.
        """
        etcd = self._transactions().in_force.config.fleet.etcd
        if not where.store or etcd is None:
            return await asyncio.to_thread(follow.look, where)
        entries, problems = await store.read(etcd, pool)
        if problems:
            raise follow.FollowError("; ".join(problems))
        return follow.of_entries(entries, where.version)

    def _failed(self, pool: str, why: str) -> None:
        if self._trouble.get(pool) != why:
            self._trouble[pool] = why
            log.warning("pool.not_followed", pool=pool, error=why)

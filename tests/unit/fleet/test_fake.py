"""The store in memory obeys the contract, so what is tested with it holds with the real one."""

import time
from collections.abc import Awaitable, Callable

import pytest

from appliance.fleet.client import LeaseGoneError, Store, UnavailableError
from appliance.fleet.fake import FakeCluster, FakeStore
from tests.unit.fleet import contract


@pytest.mark.parametrize("check", contract.BASIC, ids=lambda check: check.__name__)
async def test_contract(check: Callable[[Store], Awaitable[None]]) -> None:
    """It does what every store must do."""
    await check(FakeStore(FakeCluster(time.monotonic)))


async def test_compaction() -> None:
    """Who asks for what is forgotten is told so."""
    cluster = FakeCluster(time.monotonic)

    async def compact() -> None:
        cluster.compact()

    await contract.says_what_is_forgotten(FakeStore(cluster), compact)


async def test_leases_run_out() -> None:
    """Without a sign of life a lease ends by itself, with its entries; an outage does not count."""
    now = 0.0
    cluster = FakeCluster(lambda: now)
    async with FakeStore(cluster).session() as session:
        lease = await session.grant(5)
        await session.write({"mine": "1"}, lease=lease)
        now = 4.0
        await session.keep_alive(lease)
        now = 8.0
        assert str(cluster) == "mine = 1\n"
        await cluster.stop()
        now = 100.0
        await cluster.start()
        await session.keep_alive(lease)
        now = 105.0
        assert not (await session.read()).entries
        with pytest.raises(LeaseGoneError):
            await session.keep_alive(lease)


async def test_out_of_reach() -> None:
    """Without a quorum, or for a director that does not get there, nothing is answered."""
    cluster = FakeCluster(time.monotonic)
    near, far = FakeStore(cluster), FakeStore(cluster)
    far.reachable = False
    async with near.session() as session, far.session() as cut_off:
        await session.write({"a": "1"})
        with pytest.raises(UnavailableError):
            await cut_off.read()
        await cluster.stop()
        with pytest.raises(UnavailableError):
            await session.read()
        with pytest.raises(UnavailableError):
            await anext(session.watch(1))

"""What every store must do (appliance/fleet/client.py): run with the one in memory, and with etcd."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest

from appliance.fleet.client import AT_ONCE, Change, CompactedError, LeaseGoneError, Store


async def reads_what_was_written(store: Store) -> None:
    async with store.session() as session:
        await session.write({"a/1": "one", "a/2": "two", "b/ü": "drei", "empty": ""})
        await session.write({"a/1": "uno"}, ["a/2", "never/there"])
        reading = await session.read()
    assert {key: entry.value for key, entry in reading.entries.items()} == {"a/1": "uno", "b/ü": "drei", "empty": ""}
    assert reading.entries["b/ü"].revision < reading.entries["a/1"].revision <= reading.revision


async def writes_all_at_once(store: Store) -> None:
    async with store.session() as session:
        await session.write({"old": "1"})
        after = (await session.read()).revision
        puts = {f"key/{number}": str(number) for number in range(AT_ONCE - 1)}
        await session.write(puts, ["old"])
        entries = (await session.read()).entries
        assert entries.keys() == puts.keys()
        assert {entry.revision for entry in entries.values()} == {after + 1}


async def writes_more_than_a_transaction_holds(store: Store) -> None:
    async with store.session() as session:
        await session.write({f"key/{number}": str(number) for number in range(250)})
        assert len((await session.read()).entries) == 250


async def swaps_once(store: Store) -> None:
    async with store.session() as session:
        first = await session.swap("log", "one", 0)
        assert first.won
        assert first.entry is not None
        late = await session.swap("log", "other", 0)
        assert not late.won
        assert late.entry == first.entry
        second = await session.swap("log", "two", first.entry.revision)
        assert second.won
        assert (await session.read()).entries["log"] == second.entry
        assert not (await session.swap("log", "late", first.entry.revision, {"beside": "no"})).won
        third = await session.swap("log", "three", second.entry.revision, {"beside": "yes", "too": "yes"})
        assert third.won
        there = (await session.read()).entries
        assert {key: there[key].revision for key in ("log", "beside", "too")} == dict.fromkeys(
            ("log", "beside", "too"), third.entry.revision
        )
        assert there["beside"].value == "yes"
        gone = await session.swap("nothing", "there", first.entry.revision)
        assert not gone.won
        assert gone.entry is None


async def leases_take_their_entries_along(store: Store) -> None:
    async with store.session() as session:
        old, new = await session.grant(5), await session.grant(5)
        await session.write({"mine": "1", "moved": "1"}, lease=old)
        await session.write({"moved": "2"}, lease=new)
        await session.keep_alive(old)
        await session.revoke(old)
        assert list((await session.read()).entries) == ["moved"]
        with pytest.raises(LeaseGoneError):
            await session.keep_alive(old)
        with pytest.raises(LeaseGoneError):
            await session.write({"mine": "1"}, lease=old)


async def watches_from_a_revision_on(store: Store) -> None:
    async with store.session() as session:
        await session.write({"a": "before"})
        after = (await session.read()).revision
        await session.write({"a": "1"})
        lease = await session.grant(5)
        await session.write({"b": "2"}, lease=lease)

        async def more() -> None:
            await session.write({"c": "3"}, ["a"])
            await session.revoke(lease)

        expected = [("a", "1"), ("b", "2"), ("a", None), ("c", "3"), ("b", None)]
        seen: list[Change] = []
        async with asyncio.timeout(5), aclosing(session.watch(after)) as changes:
            async for batch in changes:
                if not seen:
                    await more()
                seen += batch
                if len(seen) == len(expected):
                    break
    assert {(change.key, change.value) for change in seen} == set(expected)
    assert [change.revision for change in seen] == sorted(change.revision for change in seen)
    assert seen[0] == Change("a", "1", after + 1)


async def says_what_is_forgotten(store: Store, compact: Callable[[], Awaitable[None]]) -> None:
    async with store.session() as session:
        await session.write({"a": "1"})
        after = (await session.read()).revision
        await session.write({"a": "2"})
        await session.write({"a": "3"})
        await compact()
        with pytest.raises(CompactedError):
            await _first(session.watch(after))


async def _first(happening: AsyncGenerator[tuple[Change, ...], None]) -> tuple[Change, ...]:
    async with asyncio.timeout(5), aclosing(happening) as changes:
        return await anext(changes)


BASIC = (
    reads_what_was_written,
    writes_all_at_once,
    writes_more_than_a_transaction_holds,
    swaps_once,
    leases_take_their_entries_along,
    watches_from_a_revision_on,
)

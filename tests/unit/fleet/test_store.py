"""Directors agree through a store, and get along without it."""

import asyncio
import time
from dataclasses import replace

import pytest

from appliance.fleet.agreement import Basis, Patience
from appliance.fleet.client import StoreError
from appliance.fleet.fake import FakeCluster, FakeStore
from appliance.fleet.giving import give
from appliance.fleet.store import Source, Timing
from appliance.model import AdminState, Delivery, DsrType, Encapsulation, Order
from appliance.state import LogEntry
from tests.builders import pool
from tests.unit.fleet.directors import DOWN, UNKNOWN, UP, Director, running, seen, until
from tests.unit.fleet.test_entries import state

QUICK = Timing(ttl_s=1, retry_s=(0.01, 0.05), settle_s=0.15, patience=Patience(hold_s=0.4, split_s=1.2))
RING = ("web", Delivery(DsrType.L3, Encapsulation.IPIP))


class Fleet:
    """Three directors at one store."""

    def __init__(self, size: int = 3, **changes: object) -> None:
        self.cluster = FakeCluster(time.monotonic)
        self.stores = [FakeStore(self.cluster) for _ in range(size)]
        self.directors = [
            Director(f"d{number}", store, timing=QUICK, **changes) for number, store in enumerate(self.stores, 1)
        ]

    def say(self, *health) -> None:
        for director in self.directors:
            director.say(*health)

    async def all(self, *health, deadline_s: float = 1.0) -> float:
        what = f"{health} on all: {[director.agreed for director in self.directors]}"
        return await until(lambda: all(d.health() == health for d in self.directors), what, deadline_s)

    async def in_step(self) -> None:
        await until(
            lambda: all(
                d.agreed.status.source is Source.FLEET and len(d.agreed.directors) == len(self.directors)
                for d in self.directors
            ),
            "all in step",
        )

    async def cut_off(self) -> None:
        await self.cluster.stop()
        await until(lambda: not any(d.connected for d in self.directors), "all have noticed")


async def test_directors_agree() -> None:
    """The majority's verdict is in force everywhere, with the votes; who is overruled can see it."""
    fleet = Fleet()
    d1, d2, d3 = fleet.directors
    async with running(*fleet.directors):
        fleet.say(UP, UP, UP)
        d1.say(UP, DOWN, UP)
        await fleet.all(UP, UP, UP)
        await until(lambda: d1.members["web/web2"].down == ("d1",), "the vote of d1")
        await until(lambda: d1.members["web/web2"].up == ("d2", "d3"), "the votes of the others")
        assert d1.members["web/web2"].overruled
        d2.say(UP, DOWN, UP)
        await fleet.all(UP, DOWN, UP)
        assert not d1.members["web/web2"].overruled
        await until(lambda: d3.members["web/web2"].overruled, "now the other one is alone")
        assert [card.name for card in d3.agreed.directors] == ["d1", "d2", "d3"]
        assert d3.agreed.directors[0] == d1.card


async def test_members_never_become_unknown_on_the_way() -> None:
    """A director that was on its own and now finds the fleet does not lose sight of its members for a moment."""
    fleet = Fleet(1)
    await fleet.cluster.stop()
    (alone,) = fleet.directors
    async with running(alone):
        alone.say(UP, DOWN, UP)
        assert alone.health() == (UP, DOWN, UP)
        assert alone.agreed.status.source is Source.LOCAL
        await fleet.cluster.start()
        await fleet.in_step()
        await asyncio.sleep(0.3)
    assert alone.course() == [(UNKNOWN,) * 3, (UP, DOWN, UP)]


async def test_two_directors_do_not_flutter() -> None:
    """With as many for as against, what was agreed last stays, also on a director that has not seen that."""
    fleet = Fleet(2)
    d1, d2 = fleet.directors
    async with running(d1, d2):
        fleet.say(UP, DOWN, UP)
        await fleet.all(UP, DOWN, UP)
        await fleet.in_step()
        began = time.monotonic()
        d2.say(DOWN, UP, UP)
        await until(lambda: d1.members["web/web1"].basis is Basis.TIE, "a tie")
        late = Director("d2", FakeStore(fleet.cluster), timing=QUICK)
    assert d1.course(began) == d2.course(began) == [(UP, DOWN, UP)]
    late.say(DOWN, UP, UP)
    d1 = Director("d1", FakeStore(fleet.cluster), timing=QUICK)
    d1.say(UP, DOWN, UP)
    async with running(d1, late):
        await until(lambda: all(d.members["web/web1"].basis is Basis.TIE for d in (d1, late)), "a tie again")
        assert d1.health() == late.health() == (UP, DOWN, UP)


async def test_a_director_that_leaves_has_no_say() -> None:
    """An orderly end takes the verdicts along at once; a crash when the lease runs out."""
    fleet = Fleet()
    d1, d2, d3 = fleet.directors
    async with running(d1):
        d1.say(UP, UP, UP)
        async with running(d2, d3):
            fleet.say(UP, DOWN, UP)
            d1.say(UP, UP, UP)
            await until(lambda: d1.health() == (UP, DOWN, UP), "the others are more")
        assert await until(lambda: d1.health() == (UP, UP, UP), "they have left", 1.0) < 0.5
        assert [card.name for card in d1.agreed.directors] == ["d1"]
        crashed = await fleet.stores[1].session().__aenter__()
        lease = await crashed.grant(1)
        await crashed.write({"verdicts/d7/web": '{"web1":["down",1]}'}, lease=lease)
        await until(lambda: d1.members["web/web1"].down == ("d7",), "another one")
        await until(lambda: d1.members["web/web1"].down == (), "its lease has run out", 3.0)


async def test_an_earlier_process_is_replaced() -> None:
    """What a process of the same name has left under a lease that lives on is replaced at once."""
    fleet = Fleet(1)
    (d1,) = fleet.directors
    async with fleet.stores[0].session() as session:
        lease = await session.grant(60)
        left = {"verdicts/d1/web": '{"web1":["down",1]}', "verdicts/d1/gone": '{"x":["up",1]}'}
        await session.write(left, lease=lease)
    d1.say(UP, UP, UP)
    async with running(d1):
        await until(lambda: "verdicts/d1/gone" not in fleet.cluster.entries, "the old pool is gone")
        await fleet.all(UP, UP, UP)
        assert d1.members["web/web1"].down == ()
        assert d1.agreed.status.error == ""


async def test_two_of_one_name_say_so() -> None:
    """A second director of the same name is reported, with its address and the remedy."""
    fleet = Fleet(1)
    (d1,) = fleet.directors
    twin = Director("d1", FakeStore(fleet.cluster), timing=QUICK)
    twin.agreement.describe(replace(twin.card, boot="another"))
    async with running(d1):
        await fleet.in_step()
        async with running(twin):
            await until(lambda: d1.agreed.status.error, "an error")
            assert d1.agreed.status.error == (
                "two directors are called d1: this one and one at 192.0.2.11; set another director.name"
            )


async def test_the_store_goes_and_comes() -> None:
    """The store's loss and return move nothing, not even where one director sees a member otherwise."""
    fleet = Fleet()
    d1, _, _ = fleet.directors
    async with running(*fleet.directors):
        fleet.say(UP, UP, DOWN)
        d1.say(UP, DOWN, DOWN)
        await fleet.in_step()
        await fleet.all(UP, UP, DOWN)
        began = time.monotonic()
        await fleet.cut_off()
        assert {d.agreed.status.source for d in fleet.directors} == {Source.LAST_AGREED}
        assert d1.members["web/web2"].basis is Basis.HELD
        assert d1.members["web/web2"].overruled
        await until(lambda: d1.agreed.status.source is Source.LOCAL, "the hold is over")
        await fleet.cluster.start()
        await fleet.in_step()
    for director in fleet.directors:
        assert director.course(began) == [(UP, UP, DOWN)]


async def test_a_member_dies_meanwhile() -> None:
    """While the store is away a dead member goes at once, and stays out when the store returns with old verdicts."""
    fleet = Fleet()
    async with running(*fleet.directors):
        fleet.say(UP, UP, UP)
        await fleet.in_step()
        await fleet.all(UP, UP, UP)
        await fleet.cut_off()
        began = time.monotonic()
        fleet.say(UP, DOWN, UP)
        assert all(director.health() == (UP, DOWN, UP) for director in fleet.directors)
        await fleet.cluster.start()
        await fleet.in_step()
        await asyncio.sleep(0.2)
    for director in fleet.directors:
        assert director.course(began + 0.001) == [(UP, DOWN, UP)]


async def test_what_was_not_heard_any_more_is_news() -> None:
    """A verdict that did not reach the store before its loss was noticed counts as seen during the outage."""
    fleet = Fleet()
    d1, _, _ = fleet.directors
    async with running(*fleet.directors):
        fleet.say(UP, UP, UP)
        await fleet.in_step()
        await fleet.all(UP, UP, UP)
        fleet.cluster.up = False  # nobody has been told yet
        d1.say(UP, DOWN, UP)
        await until(lambda: not d1.connected, "d1 has noticed")
        assert d1.health() == (UP, DOWN, UP)


async def test_a_member_recovers_meanwhile() -> None:
    """While the store is away a member that comes back waits, but not for ever."""
    fleet = Fleet()
    async with running(*fleet.directors):
        fleet.say(UP, DOWN, UP)
        await fleet.in_step()
        await fleet.all(UP, DOWN, UP)
        await fleet.cut_off()
        fleet.say(UP, UP, UP)
        assert all(director.health() == (UP, DOWN, UP) for director in fleet.directors)
        assert await fleet.all(UP, UP, UP) > 0.2


async def test_an_old_split_view_counts_in_the_end() -> None:
    """When nobody has been able to contradict for long, a director believes what it sees itself."""
    fleet = Fleet()
    d1, d2, d3 = fleet.directors
    async with running(*fleet.directors):
        fleet.say(UP, UP, UP)
        d1.say(UP, DOWN, UP)
        await fleet.in_step()
        await fleet.all(UP, UP, UP)
        await fleet.cut_off()
        took_s = await until(lambda: d1.health() == (UP, DOWN, UP), "its own verdict")
        assert took_s > 0.9
        assert d2.health() == d3.health() == (UP, UP, UP)
        await fleet.cluster.start()
        await fleet.in_step()
        assert d1.health() == (UP, UP, UP)


async def test_one_director_alone_is_cut_off() -> None:
    """The others go on agreeing; the one that is back is in step again within a moment."""
    fleet = Fleet()
    d1, d2, d3 = fleet.directors
    async with running(*fleet.directors):
        fleet.say(UP, UP, UP)
        await fleet.in_step()
        fleet.stores[0].reachable = False
        await until(lambda: not d1.connected, "d1 has noticed")
        for director in (d2, d3):
            director.say(UP, UP, DOWN)
        await until(lambda: d2.health() == d3.health() == (UP, UP, DOWN), "two of three")
        assert d1.health() == (UP, UP, UP)
        await until(lambda: d2.members["web/web1"].up == ("d2", "d3"), "d1 has no say any more", 3.0)
        fleet.stores[0].reachable = True
        took_s = await until(lambda: d1.health() == (UP, UP, DOWN), "d1 in step")
        assert took_s < 1.0


async def test_panic() -> None:
    """A monitor that goes sick on all directors empties no pool: what was agreed stays, on all of them."""
    fleet = Fleet(web=replace(pool(), panic_percent=50))
    async with running(*fleet.directors):
        fleet.say(UP, UP, DOWN)
        await fleet.in_step()
        await fleet.all(UP, UP, DOWN)
        await until(lambda: "agreed/web" in fleet.cluster.entries, "written down")
        began = time.monotonic()
        fleet.say(DOWN, DOWN, DOWN)
        await until(lambda: all(d.members["web/web1"].basis is Basis.PANIC for d in fleet.directors), "panic")
        fleet.say(DOWN, UP, DOWN)
        await asyncio.sleep(0.05)
        fleet.say(DOWN, UP, UP)
        await fleet.all(DOWN, UP, UP)
    for director in fleet.directors:
        assert director.course(began) == [(UP, UP, DOWN), (DOWN, UP, UP)]


async def test_log_is_written_once() -> None:
    """Directors that see the same change write it once; who comes second gets what is there."""
    fleet = Fleet()
    d1, d2, _ = fleet.directors
    async with running(*fleet.directors):
        await fleet.in_step()
        first = LogEntry(1000.0, (state(1), state(2)))
        won = await asyncio.gather(
            *(d.agreement.append(RING, replace(first, at=1000.0 + n)) for n, d in enumerate(fleet.directors))
        )
        assert len(set(won)) == 1
        second = LogEntry(1010.0, (state(2), state(1, eligible=False)))
        await d1.agreement.append(RING, second)
        log = (won[0], replace(second, members=(state(1, eligible=False), state(2))))
        await until(lambda: all(d.agreed.log == {RING: log} for d in fleet.directors), "the log on all")
        assert await d2.agreement.append(RING, replace(second, at=1011.0)) == log[1]


async def test_log_tells_who_was_first() -> None:
    """Who writes without knowing the newest entry does not write, but learns it."""
    fleet = Fleet(2)
    d1, d2 = fleet.directors
    async with running(d1, d2):
        await fleet.in_step()
        one, other = LogEntry(1000.0, (state(1),)), LogEntry(1000.5, (state(1, eligible=False),))
        results = await asyncio.gather(d1.agreement.append(RING, one), d2.agreement.append(RING, other))
        assert results[0] == results[1]
        assert d1.agreed.log[RING] == d2.agreed.log[RING] == (results[0],)


async def test_log_outlives_directors() -> None:
    """A director that starts anew finds how pools became what they are."""
    fleet = Fleet(1)
    async with running(*fleet.directors):
        await fleet.in_step()
        entry = await fleet.directors[0].agreement.append(RING, LogEntry(1000.0, (state(1),)))
    fresh = Director("d1", FakeStore(fleet.cluster), timing=QUICK)
    async with running(fresh):
        await until(lambda: fresh.agreed.log == {RING: (entry,)}, "the log")


async def test_orders_reach_all() -> None:
    """What an operator orders at one director is known to all until it is taken back."""
    fleet = Fleet(2)
    d1, d2 = fleet.directors
    order = Order(AdminState.DRAIN, 1000.0, 1600.0)
    async with running(d1, d2):
        await fleet.in_step()
        await give(FakeStore(fleet.cluster), {"web/web1": order})
        await until(lambda: d2.agreed.orders == {"web/web1": order}, "the order")
        await give(FakeStore(fleet.cluster), {"web/web1": None})
        await until(lambda: d1.agreed.orders == {}, "no order")


async def test_writing_without_the_store_says_so() -> None:
    """What cannot be shared is an error with a reason, not silence."""
    fleet = Fleet(1)
    (d1,) = fleet.directors
    with pytest.raises(StoreError, match="not been reached"):
        await d1.agreement.append(RING, LogEntry(1.0, ()))
    async with running(d1):
        await fleet.in_step()
        await fleet.cut_off()
        with pytest.raises(StoreError, match="fake: "):
            await d1.agreement.append(RING, LogEntry(1.0, ()))


async def test_unreadable_entries_are_as_if_they_were_not_there() -> None:
    """What another version, or somebody by hand, has written stops nobody."""
    fleet = Fleet(1)
    (d1,) = fleet.directors
    async with running(d1):
        d1.say(UP, UP, UP)
        await fleet.in_step()
        async with fleet.stores[0].session() as session:
            await session.write(
                {
                    "directors/d9": "?",
                    "verdicts/d9/web": "?",
                    "agreed/web": "?",
                    "log/web/teleport": "?",
                    "orders/web/web1": "?",
                    "": "?",
                    "something/else": "?",
                }
            )
        await until(lambda: fleet.cluster.entries["agreed/web"].value != "?", "what is agreed is written anew")
        assert d1.health() == (UP, UP, UP)
        assert len(d1.agreed.directors) == 1


async def test_who_takes_our_words_away_hears_them_again() -> None:
    """Entries that somebody deletes come back."""
    fleet = Fleet(1)
    (d1,) = fleet.directors
    async with running(d1):
        d1.say(UP, UP, UP)
        await fleet.in_step()
        async with fleet.stores[0].session() as session:
            await session.write({}, ["verdicts/d1/web", "directors/d1"])
        await until(lambda: {"verdicts/d1/web", "directors/d1"} <= fleet.cluster.entries.keys(), "they are back")


async def test_a_director_that_slept_too_long_comes_back() -> None:
    """When a lease runs out under a director that lives, it takes a new one and has its say again."""
    fleet = Fleet()
    d1, d2, _ = fleet.directors
    async with running(*fleet.directors):
        fleet.say(UP, UP, UP)
        await fleet.in_step()
        began = time.monotonic()
        for number, lease in list(fleet.cluster._leases.items()):
            if "directors/d1" in lease.keys:
                await fleet.cluster.end(number)
        await until(lambda: len(d2.agreed.directors) == 2, "d1 has no say")
        await fleet.in_step()
        await until(lambda: d2.members["web/web1"].up == ("d1", "d2", "d3"), "d1 has its say")
        assert d1.course(began) == [(UP, UP, UP)]


async def test_a_store_that_was_restored_from_a_backup() -> None:
    """A store that has lost what it had, and counts from the beginning, is filled again."""
    fleet = Fleet()
    async with running(*fleet.directors):
        fleet.say(UP, DOWN, UP)
        await fleet.in_step()
        began = time.monotonic()
        await fleet.cut_off()
        empty = FakeCluster(time.monotonic)
        for store in fleet.stores:
            store._cluster = empty
        await fleet.in_step()
        await until(lambda: "agreed/web" in empty.entries, "agreed again")
        assert all(director.course(began) == [(UP, DOWN, UP)] for director in fleet.directors)


async def test_repeating_changes_nothing() -> None:
    """What is said twice is written and told once."""
    fleet = Fleet(1)
    (d1,) = fleet.directors
    async with running(d1):
        d1.say(UP, UP, DOWN)
        await fleet.in_step()
        await until(lambda: "agreed/web" in fleet.cluster.entries, "settled")
        revision, told = fleet.cluster.revision, len(d1.heard)
        d1.agreement.say(seen(UP, UP, DOWN))
        d1.agreement.describe(replace(d1.card))
        await asyncio.sleep(0.1)
        assert (fleet.cluster.revision, len(d1.heard)) == (revision, told)
        d1.agreement.describe(replace(d1.card, digest="new"))
        await until(lambda: d1.agreed.directors[0].digest == "new", "the new card")

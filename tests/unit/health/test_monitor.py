"""Monitors with a clock of their own, scripted checks, and once with everything real."""

import asyncio
import errno
import heapq
import itertools
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

import pytest
import structlog

from appliance.model import Delivery, Encapsulation
from health.monitor import Monitors, Probe, quick_pace_s
from health.spec import Code, Result, Status, Target, Verdict
from health.strain import AT_ONCE, Delay
from tests.builders import L2, L3, To

GOOD, BAD = Result(Code.OK), Result(Code.CONNECTION_REFUSED, "connect: connection refused")


class Time:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        waker = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, self._count, waker))
        await waker

    async def advance(self, seconds: float) -> None:
        end = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, waker = heapq.heappop(self._sleepers)
            if not waker.done():
                waker.set_result(None)
            await settle()
        self.now = end

    def stall(self, seconds: float) -> None:
        """Time passes, and whoever should wake meanwhile wakes at its end."""
        self.now += seconds
        self._sleepers = [(max(at, self.now), count, waker) for at, count, waker in self._sleepers]


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@dataclass
class World:
    """What the checks will find, and what the monitors reported."""

    time: Time = field(default_factory=Time)
    results: dict[str, Result | Exception] = field(default_factory=dict)
    took_s: float = 0.0
    asked: list[tuple[float, str]] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    reports: list[Status] = field(default_factory=list)
    at_once: int = AT_ONCE
    monitors: Monitors = field(init=False)

    def __post_init__(self) -> None:
        world = self

        class Scripted:
            def __init__(self, timeout_s: float, request: bytes = b"") -> None:
                self.timeout_s = timeout_s

            async def probe(self, target: Target) -> Result:
                world.asked.append((world.time.now, target.id))
                world.running[target.id] = world.running.get(target.id, 0) + 1
                assert world.running[target.id] == 1
                try:
                    if world.took_s:
                        await world.time.sleep(world.took_s)
                finally:
                    world.running[target.id] -= 1
                result = world.results.get(target.id, GOOD)
                if isinstance(result, Exception):
                    raise result
                return result

        self.monitors = Monitors(
            self.reports.append,
            random.Random(7),
            at_once=self.at_once,
            checks={"scripted": Scripted},
            wall=self.time,
            clock=self.time,
            sleep=self.time.sleep,
        )

    @asynccontextmanager
    async def running_monitors(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.monitors.run())
            await settle()
            yield
            task.cancel()

    def turns(self) -> list[tuple[str, str]]:
        return [(status.target.id, status.verdict.value) for status in self.reports]


def probe(number: int = 1, **changes: Any) -> Probe:
    values = {
        "monitor": "m",
        "kind": "scripted",
        "target": Target(f"web/web{number}", ip_address(f"203.0.113.{number}"), 80),
        "interval_s": 4.0,
        "timeout_s": 1.0,
        "rise": 2,
        "fall": 3,
    }
    return Probe(**values | changes)


async def test_first_verdict_comes_quickly() -> None:
    """A new target is UNKNOWN, and up after `rise` good probes at the quick pace; then the interval counts."""
    world = World()
    world.monitors.set(frozenset([probe()]))
    async with world.running_monitors():
        await world.time.advance(2.2)
        assert world.turns() == [("web/web1", "unknown"), ("web/web1", "up")]
        assert len(world.asked) == 2
        await world.time.advance(40)
        assert 10 <= len(world.asked) - 2 <= 11
        assert world.monitors.statuses()[0].good == len(world.asked)


async def test_turns_down_and_up_again_with_reasons() -> None:
    """A verdict turns after `fall` and `rise` results; each turn is one report and one event with code and detail."""
    world = World()
    world.monitors.set(frozenset([probe()]))
    with structlog.testing.capture_logs() as events:
        async with world.running_monitors():
            await world.time.advance(5)
            world.results["web/web1"] = BAD
            await world.time.advance(15)
            status = world.monitors.statuses()[0]
            world.results.clear()
            await world.time.advance(15)
    assert [verdict for _, verdict in world.turns()] == ["unknown", "up", "down", "up"]
    assert (status.verdict, status.last) == (Verdict.DOWN, BAD)
    assert 1005 < status.since < 1020
    assert [(turn.verdict, turn.cause) for turn in status.turns] == [(Verdict.DOWN, BAD), (Verdict.UP, GOOD)]
    assert status.turns[0].at == status.since > status.turns[1].at
    assert [event["event"] for event in events] == ["health.up", "health.down", "health.up"]
    assert (
        events[1] | {"code": "connection_refused", "detail": BAD.detail, "member": "web/web1", "port": 80} == events[1]
    )


async def test_the_last_three_turns_are_kept_over_a_reload() -> None:
    """Of many turns the newest three are known, newest first, also when the member is asked otherwise after that."""
    world = World()
    world.monitors.set(frozenset([probe(rise=1, fall=1)]))
    async with world.running_monitors():
        for result in (GOOD, BAD, GOOD, BAD):
            world.results["web/web1"] = result
            await world.time.advance(5)
        before = world.monitors.statuses()[0].turns
        world.monitors.set(frozenset([probe(rise=1, fall=1, interval_s=2.0)]))
        assert world.monitors.statuses()[0].turns == before
    assert [turn.verdict for turn in before] == [Verdict.DOWN, Verdict.UP, Verdict.DOWN]
    assert before[0].at > before[1].at > before[2].at


async def test_without_quick_start_the_first_probes_keep_the_interval() -> None:
    """A member that must not be asked often is not asked often at the beginning either."""
    world = World()
    world.monitors.set(frozenset([probe(quick_start=False)]))
    async with world.running_monitors():
        await world.time.advance(30)
    times = [at for at, _ in world.asked]
    assert len(times) >= 6
    assert all(3.5 <= after - before <= 4.5 for before, after in itertools.pairwise(times))


async def test_fluttering_member_gets_no_quick_probes() -> None:
    """A target that never settles is asked at the quick pace only rise + fall times."""
    world = World()
    world.monitors.set(frozenset([probe(rise=50, fall=3)]))
    async with world.running_monitors():
        for second in range(120):
            world.results["web/web1"] = GOOD if second % 2 else BAD
            await world.time.advance(1)
        assert len(world.asked) <= 53 + 120 / 3.6
        world.asked.clear()
        await world.time.advance(40)
        assert len(world.asked) <= 12


async def test_probes_never_overlap() -> None:
    """Many targets with slow answers are asked as often as they should be, and none twice at once."""
    world = World(took_s=3.9)
    world.monitors.set(frozenset(probe(number) for number in range(1, 101)))
    async with world.running_monitors():
        await world.time.advance(60)
        assert len(world.asked) > 100 * 60 / 4 * 0.8


@pytest.mark.parametrize("joined", [False, True], ids=["new", "joined by a reload"])
async def test_probes_are_spread_over_the_interval(joined: bool) -> None:
    """First probes come together, and those that follow are anywhere in the interval: no tenth of it has a third of
    them; and nobody waits for more than an interval."""
    world = World()
    wanted = frozenset(probe(number, interval_s=10.0) for number in range(1, 201))
    world.monitors.set(wanted)
    async with world.running_monitors():
        await world.time.advance(3)
        if joined:
            await world.time.advance(30)
            others = (replace(one, monitor="other") for one in wanted)
            world.monitors.set(wanted.union(others))
            await world.time.advance(3)
        began = world.time.now
        world.asked.clear()
        await world.time.advance(40)
    for start in range(4):
        seconds = [int(at - began) for at, _ in world.asked if start * 10 <= at - began < start * 10 + 10]
        assert len(seconds) > 150
        assert max(seconds.count(second) for second in range(start * 10, start * 10 + 10)) < len(seconds) / 3
    for target in {target for _, target in world.asked}:
        moments = [at for at, asked in world.asked if asked == target]
        assert max(later - earlier for earlier, later in itertools.pairwise(moments)) <= 10.0


async def test_set_is_declarative() -> None:
    """Unchanged probes go on with their state, gone ones stop and are reported UNKNOWN, new ones start."""
    world = World()
    world.monitors.set(frozenset([probe(1), probe(2)]))
    async with world.running_monitors():
        await world.time.advance(5)
        world.reports.clear()
        before = world.monitors.statuses()[0]
        world.monitors.set(frozenset([probe(1), probe(3)]))
        assert world.turns() == [("web/web2", "unknown"), ("web/web3", "unknown")]
        assert world.monitors.statuses()[0] is before
        world.asked.clear()
        await world.time.advance(5)
        assert {target for _, target in world.asked} == {"web/web1", "web/web3"}
        assert world.turns()[2:] == [("web/web3", "up")]


async def test_other_settings_keep_the_verdict() -> None:
    """A reload that changes how a member is asked does not take it out, but the new results can."""
    world = World()
    world.monitors.set(frozenset([probe()]))
    async with world.running_monitors():
        await world.time.advance(5)
        world.reports.clear()
        world.results["web/web1"] = BAD
        target = replace(probe().target, port=8080)
        world.monitors.set(frozenset([probe(target=target, interval_s=8.0, settings=(("request", b"x"),))]))
        assert not world.reports
        assert world.monitors.statuses()[0].verdict is Verdict.UP
        assert world.monitors.statuses()[0].target.port == 8080
        await world.time.advance(5)
        assert world.turns() == [("web/web1", "down")]


async def test_another_address_starts_anew() -> None:
    """The same name on another address is another machine: UNKNOWN until it has proved itself."""
    world = World()
    world.monitors.set(frozenset([probe()]))
    async with world.running_monitors():
        await world.time.advance(5)
        world.reports.clear()
        world.monitors.set(frozenset([probe(target=replace(probe().target, address=ip_address("2001:db8::1")))]))
        assert world.turns() == [("web/web1", "unknown")]
        await world.time.advance(5)
        assert world.turns()[1:] == [("web/web1", "up")]


async def test_a_removed_probe_under_way_reports_nothing() -> None:
    """A probe that is being asked when its target goes away is given up without a word."""
    world = World(took_s=0.9)
    world.monitors.set(frozenset([probe(rise=1)]))
    async with world.running_monitors():
        while not world.asked:
            await world.time.advance(0.05)
        world.monitors.set(frozenset())
        world.reports.clear()
        await world.time.advance(10)
        assert (world.reports, world.monitors.statuses(), world.running) == ([], (), {"web/web1": 0})


async def test_a_check_that_fails_by_an_error_of_ours_says_nothing() -> None:
    """Whatever a check raises, verdicts stay and other members are asked on; it is counted, and told once a minute."""
    world = World()
    world.monitors.set(frozenset([probe(1), probe(2)]))
    async with world.running_monitors():
        await world.time.advance(10)
        world.results["web/web1"] = UnicodeError("label empty or too long")
        world.results["web/web2"] = BAD
        with structlog.testing.capture_logs() as logs:
            await world.time.advance(30)
        first, second = world.monitors.statuses()
        assert (first.verdict, first.bad, second.verdict) == (Verdict.UP, 0, Verdict.DOWN)
        assert 25 <= world.monitors.strain().delayed[Delay.FAILED] <= 35
        (told,) = [entry for entry in logs if entry["event"] == "health.check_failed"]
        assert (told["monitor"], told["member"], told["log_level"]) == ("m", "web/web1", "error")
        assert isinstance(told["exc_info"], UnicodeError)
        world.results["web/web1"] = BAD
        await world.time.advance(15)
        assert world.monitors.statuses()[0].verdict is Verdict.DOWN


async def test_statuses_have_one_order() -> None:
    """By monitor and member, in whatever order they were wanted."""
    world = World()
    for numbers in ((2,), (1, 2, 3), (3, 1), (2, 1)):
        world.monitors.set(frozenset(probe(number) for number in numbers))
        found = [status.target.id for status in world.monitors.statuses()]
        assert found == [f"web/web{number}" for number in sorted(numbers)]


async def test_a_warning_is_told_when_it_begins() -> None:
    """Once, and again after it was away; the verdict stays up."""
    world = World()
    soon = Result(Code.OK, "certificate ends in 9 days", warning=True)
    world.monitors.set(frozenset([probe()]))
    async with world.running_monitors():
        with structlog.testing.capture_logs() as logs:
            for result in (GOOD, soon, GOOD, soon):
                world.results["web/web1"] = result
                await world.time.advance(20)
    told = [entry for entry in logs if entry["event"] == "health.warning"]
    assert [(entry["member"], entry["detail"], entry["log_level"]) for entry in told] == [
        ("web/web1", "certificate ends in 9 days", "warning")
    ] * 2
    assert world.monitors.statuses()[0].verdict is Verdict.UP


async def test_a_missing_privilege_ends_everything() -> None:
    """What a check lacks for good is no member's fault, and nobody would be asked: `run` raises it."""
    world = World(results={"web/web1": PermissionError("raw sockets take CAP_NET_RAW")})
    world.monitors.set(frozenset([probe()]))
    with pytest.raises(BaseExceptionGroup) as caught:
        async with world.running_monitors():
            await world.time.advance(5)
    assert caught.group_contains(PermissionError)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([probe(kind="smoke")], "monitor m: unknown kind 'smoke'; known: scripted"),
        ([probe(settings=(("colour", b"red"),))], "monitor m: wrong settings for kind 'scripted'"),
        ([probe(), probe(interval_s=1.0)], "two different probes for one monitor and target"),
    ],
)
def test_wrong_orders_change_nothing(wanted: list[Probe], message: str) -> None:
    """An order that cannot be carried out raises, and what is being probed stays."""
    world = World()
    world.monitors.set(frozenset([probe(9)]))
    with pytest.raises(ValueError, match=message):
        world.monitors.set(frozenset(wanted))
    assert [status.target.id for status in world.monitors.statuses()] == ["web/web9"]


@pytest.mark.parametrize(("interval_s", "pace_s"), [(0.1, 0.1), (0.4, 0.2), (2.0, 0.5), (10.0, 1.0), (3600.0, 1.0)])
def test_quick_pace(interval_s: float, pace_s: float) -> None:
    """The quick pace is a quarter of the interval within 0.2 and 1 s, and never slower than the interval."""
    assert quick_pace_s(interval_s) == pace_s


def test_with_real_sockets_and_time(run: Callable[..., Any]) -> None:
    """A real listener is up within a second, and down soon after it closes, on both event loops."""

    async def story() -> list[str]:
        turned: asyncio.Queue[Status] = asyncio.Queue()
        monitors = Monitors(turned.put_nowait, random.Random(1))
        verdicts = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            target = Target("web/web1", ip_address("127.0.0.1"), listener.getsockname()[1])
            monitors.set(frozenset([Probe("m", "tcp", target, 0.2, 0.1, 2, 2)]))
            async with asyncio.TaskGroup() as tasks, asyncio.timeout(5):
                task = tasks.create_task(monitors.run())
                verdicts += [(await turned.get()).verdict.value for _ in range(2)]
                listener.close()
                verdicts.append((await turned.get()).verdict.value)
                task.cancel()
        return verdicts

    assert run(story()) == ["unknown", "up", "down"]


@dataclass(frozen=True)
class Judging(To):
    """A way that makes every result bad."""

    def judge(self, result: Result, target: Target) -> Result:
        return replace(result, code=Code.NO_RESPONSE, detail=f"{target.place} is cut off")


async def test_targets_of_one_member_are_probed_each_by_its_way() -> None:
    """The same monitor and member by several ways are several probes; what a way says of a result counts."""
    world = World()
    vip, address = ip_address("198.51.100.7"), ip_address("203.0.113.1")
    by_l2, by_l3 = Judging(address, L2), To(address, L3)
    targets = [Target("web/web1", address, 80), Target("web/web1", vip, 80, by_l3), Target("web/web1", vip, 80, by_l2)]
    world.monitors.set(frozenset(probe(target=target) for target in targets))
    async with world.running_monitors():
        await world.time.advance(60)
    verdicts = {status.target.place: (status.verdict, status.last) for status in world.monitors.statuses()}
    assert verdicts["198.51.100.7:80 by l2"] == (
        Verdict.DOWN,
        replace(GOOD, code=Code.NO_RESPONSE, detail="198.51.100.7:80 by l2 is cut off"),
    )
    assert {verdicts[place][0] for place in ("", "198.51.100.7:80 by ipip")} == {Verdict.UP}


async def test_another_way_is_another_machine() -> None:
    """The same VIP by another member's address starts from UNKNOWN; asked otherwise by the same way it does not."""
    world = World()
    vip = ip_address("198.51.100.7")
    first, second = (To(ip_address(f"203.0.113.{number}"), L3) for number in (1, 2))
    world.monitors.set(frozenset({probe(target=Target("web/web1", vip, 80, first))}))
    async with world.running_monitors():
        await world.time.advance(60)
        world.monitors.set(frozenset({probe(target=Target("web/web1", vip, 80, first), interval_s=9.0)}))
        assert [status.verdict for status in world.monitors.statuses()] == [Verdict.UP]
        world.monitors.set(frozenset({probe(target=Target("web/web1", vip, 80, second))}))
        assert [status.verdict for status in world.monitors.statuses()] == [Verdict.UNKNOWN]


@pytest.mark.parametrize("delivery", [replace(L3, outer_ttl=32), replace(L3, encapsulation=Encapsulation.GRE), L2])
async def test_another_way_to_the_same_machine_keeps_the_verdict(delivery: Delivery) -> None:
    """A reload that changes the delivery takes nobody out, and verdicts that have other names are told again."""
    world = World()
    vip, address = ip_address("198.51.100.7"), ip_address("203.0.113.1")
    world.monitors.set(frozenset({probe(target=Target("web/web1", vip, 80, To(address, L3)))}))
    async with world.running_monitors():
        await world.time.advance(5)
        world.reports.clear()
        target = Target("web/web1", vip, 80, To(address, delivery))
        world.monitors.set(frozenset({probe(target=target)}))
        assert [status.verdict for status in world.monitors.statuses()] == [Verdict.UP]
        renamed = target.place != Target("web/web1", vip, 80, To(address, L3)).place
        assert world.turns() == ([("web/web1", "unknown"), ("web/web1", "up")] if renamed else [])
        world.results["web/web1"] = BAD
        await world.time.advance(10)
        assert world.turns()[-1] == ("web/web1", "down")


async def test_another_name_is_the_same_machine() -> None:
    """Members of a pool that get other names, each other's as well, keep their verdicts, and these are told again; the
    same address in another pool is another member."""
    world = World()
    first, second = (Target(f"web/web{n}", ip_address(f"203.0.113.{n}"), 80) for n in (1, 2))
    world.results["web/web2"] = BAD
    world.monitors.set(frozenset({probe(target=first), probe(target=second)}))
    async with world.running_monitors():
        await world.time.advance(10)
        world.reports.clear()
        swapped = {probe(target=replace(first, id=second.id)), probe(target=replace(second, id=first.id))}
        world.monitors.set(frozenset({*swapped, probe(target=replace(first, id="other/web1"))}))
        assert {status.target.id: str(status.verdict) for status in world.monitors.statuses()} == {
            "web/web1": "down",
            "web/web2": "up",
            "other/web1": "unknown",
        }
        assert sorted(world.turns()) == [("other/web1", "unknown"), ("web/web1", "down"), ("web/web2", "up")]


async def test_the_latest_mss_is_kept_and_reported() -> None:
    """A bad result does not take it away, and another one is told of without a turn of the verdict."""
    world = World(results={"web/web1": replace(GOOD, mss=1460)})
    world.monitors.set(frozenset({probe()}))
    async with world.running_monitors():
        await world.time.advance(30)
        world.results["web/web1"] = Result(Code.NO_RESPONSE)
        await world.time.advance(60)
        assert [status.mss for status in world.monitors.statuses()] == [1460]
        before = len(world.reports)
        world.results["web/web1"] = Result(Code.NO_RESPONSE, mss=1400)
        await world.time.advance(30)
    assert [status.mss for status in world.reports[before:]] == [1400]


async def test_one_question_for_many() -> None:
    """Probes that ask the same of the same address and port are asked once, and each has its own rise and fall."""
    world = World()
    shop = Target("shop/other", ip_address("203.0.113.1"), 80)
    world.monitors.set(frozenset([probe(), probe(target=shop, monitor="n", rise=1, fall=1)]))
    world.results = {"web/web1": BAD, "shop/other": BAD}
    async with world.running_monitors():
        await world.time.advance(1.0)
        assert len(world.asked) == 1
        found = {status.target.id: status for status in world.monitors.statuses()}
        assert [found[name].verdict.value for name in ("shop/other", "web/web1")] == ["down", "unknown"]
        await world.time.advance(30)
        assert {status.verdict for status in world.monitors.statuses()} == {Verdict.DOWN}
        assert {status.bad for status in world.monitors.statuses()} == {len(world.asked)}
        world.monitors.set(frozenset([probe(target=shop, monitor="n", rise=1, fall=1)]))
        before = len(world.asked)
        await world.time.advance(40)
        assert 9 <= len(world.asked) - before <= 12
    different = [probe(), probe(target=replace(shop, port=81)), probe(target=replace(shop, id="a/b"), interval_s=9.0)]
    assert len({each.question for each in different}) == 3
    commands = [probe(kind="external"), probe(kind="external", target=shop)]
    assert len({each.question for each in commands}) == 2


async def test_who_joins_a_question_does_not_wait_for_an_interval() -> None:
    """A monitor that is added to a member asked already has its first verdict as soon as any other."""
    world = World()
    world.monitors.set(frozenset([probe(interval_s=100.0)]))
    async with world.running_monitors():
        await world.time.advance(5)
        world.monitors.set(frozenset([probe(interval_s=100.0), probe(interval_s=100.0, monitor="new")]))
        await world.time.advance(5)
        assert [status.verdict for status in world.monitors.statuses()] == [Verdict.UP, Verdict.UP]


async def test_a_limit_delays_and_condemns_nobody() -> None:
    """With more probes than may be under way at a time, members wait for their turn; the delay is counted, and all that
    are well are up."""
    world = World(at_once=3)
    world.took_s = 0.9
    world.monitors.set(frozenset(probe(number) for number in range(1, 21)))
    async with world.running_monitors():
        most = 0
        for _ in range(400):
            await world.time.advance(0.1)
            most = max(most, world.monitors.strain().under_way)
            assert sum(world.running.values()) == world.monitors.strain().under_way
        strain = world.monitors.strain()
    assert (most, strain.limit) == (3, 3)
    assert strain.delayed[Delay.LIMIT] > 20
    assert {status.verdict for status in world.monitors.statuses()} == {Verdict.UP}
    assert not any(status.bad for status in world.monitors.statuses())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN])
async def test_what_we_lack_is_no_members_fault(number: int) -> None:
    """Without files, memory or ports nothing is said of members; it is counted, told once, and asked again soon."""
    world = World()
    world.monitors.set(frozenset([probe()]))
    async with world.running_monitors():
        await world.time.advance(10)
        world.results["web/web1"] = OSError(number, "no more")
        with structlog.testing.capture_logs() as logs:
            await world.time.advance(30)
        status = world.monitors.statuses()[0]
        assert (status.verdict, status.bad) == (Verdict.UP, 0)
        assert 25 <= world.monitors.strain().delayed[Delay.NO_RESOURCES] <= 35
        assert [entry["event"] for entry in logs] == ["health.no_resources"]
        world.results["web/web1"] = BAD
        await world.time.advance(15)
        assert world.monitors.statuses()[0].verdict is Verdict.DOWN


async def test_who_was_late_does_not_know() -> None:
    """A probe that ran out of time while the event loop was stuck says nothing; without that it does, and three in a
    row are believed whatever the loop does."""
    world = World()
    late = Result(Code.CONNECTION_TIMEOUT, "connect: nothing within 1 s", 1.0)
    world.results["web/web1"] = late
    world.took_s = 1.0
    world.monitors.set(frozenset([probe(fall=1, interval_s=10.0, quick_start=False)]))
    async with world.running_monitors():
        while not world.asked:
            await world.time.advance(0.1)
        world.time.stall(2.0)
        await world.time.advance(0.5)
        assert world.monitors.strain().delayed[Delay.LATE] == 1
        assert world.monitors.statuses()[0].verdict is Verdict.UNKNOWN
        for turn in range(2, 5):
            while len(world.asked) < turn:
                await world.time.advance(0.1)
            assert world.monitors.statuses()[0].verdict is Verdict.UNKNOWN
            world.time.stall(2.0)
            await world.time.advance(0.5)
        assert world.monitors.statuses()[0].verdict is Verdict.DOWN
        assert world.monitors.strain().delayed[Delay.LATE] == 3


async def test_maintenance_is_a_verdict_of_its_own() -> None:
    """A member that says it is worked on turns to maintenance; turns and results are counted by kind."""
    world = World()
    world.monitors.set(frozenset([probe(fall=1, rise=1)]))
    async with world.running_monitors():
        await world.time.advance(6)
        world.results["web/web1"] = Result(Code.MAINTENANCE_RESPONSE_CODE_MATCH, "status 503")
        with structlog.testing.capture_logs() as logs:
            await world.time.advance(6)
        status = world.monitors.statuses()[0]
        assert status.verdict is Verdict.MAINTENANCE
        assert status.bad == 0
        assert status.maintenance >= 1
        assert [(entry["event"], entry["code"]) for entry in logs] == [
            ("health.maintenance", "maintenance_response_code_match")
        ]
        del world.results["web/web1"]
        await world.time.advance(6)
        assert world.monitors.statuses()[0].turned == {Verdict.UP: 2, Verdict.MAINTENANCE: 1}


async def test_first_probes_of_many_do_not_come_at_once() -> None:
    """Ten thousand new targets are asked over an interval and not within a second, and no more than that in any one."""
    world = World()
    world.monitors.set(frozenset(probe(1, target=replace(probe().target, id=f"web/{n}", port=n + 1), interval_s=5.0)
                                 for n in range(10_000)))  # fmt: skip
    async with world.running_monitors():
        await world.time.advance(15)
    seconds = [int(at - 1000) for at, _ in world.asked]
    assert max(seconds.count(second) for second in range(15)) < 4000
    assert min(seconds.count(second) for second in range(5, 15)) > 1500


async def test_no_probe_begins_while_the_loop_is_behind() -> None:
    """More to do would make a loop that is behind come too late for answers: probes wait until it has caught up, four
    intervals at most; the waits are counted."""
    world = World()
    world.monitors.set(frozenset(probe(number, interval_s=1.0, timeout_s=0.5) for number in range(1, 11)))
    async with world.running_monitors():
        await world.time.advance(10)
        for _ in range(6):  # never on time for three seconds
            world.time.stall(0.5)
            await world.time.advance(0.01)
        asked = len(world.asked)
        world.time.stall(0.5)
        await world.time.advance(0.01)
        assert len(world.asked) == asked
        assert world.monitors.strain().delayed[Delay.BUSY] >= 5
        await world.time.advance(5)
        assert len(world.asked) >= asked + 10
        assert {status.verdict for status in world.monitors.statuses()} == {Verdict.UP}

"""The link to the guard, against a guard that each test plays line by line."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from bgp import client
from bgp import exabgp_text as text
from bgp.client import GuardLink
from bgp.config import BgpSpeakerConfig, Neighbor
from bgp.route import Attributes, Route
from bgp.speaker import SpeakerError, Survival

A, B = Route(ip_address("198.51.100.7")), Route(ip_address("2001:db8:f::7"))
CONFIG = BgpSpeakerConfig(
    65010,
    ip_address("192.0.2.11"),
    (Neighbor(ip_address("192.0.2.1"), 65000), Neighbor(ip_address("192.0.2.2"), 65000)),
    Path("/run/onward"),
    next_hop_v6=ip_address("2001:db8:1::11"),
)
ANNOUNCE_A = "198.51.100.7/32 announce route 198.51.100.7/32 next-hop self"
ANNOUNCE_B = "2001:db8:f::7/128 announce route 2001:db8:f::7/128 next-hop 2001:db8:1::11"


class FakeGuard:
    """The other end: what the link sends comes out of `line`, numbers cut out and remembered."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.number = 0

    async def line(self):
        async with asyncio.timeout(10.0):
            raw = await self.reader.readline()
        verb, number, rest = raw.decode().rstrip("\n").split(" ", 2)
        self.number = int(number)
        return f"{verb} {rest}"

    async def lines(self, count):
        return [await self.line() for _ in range(count)]

    def tell(self, **event):
        self.writer.write(json.dumps(event).encode() + b"\n")

    def hello(self, *prefixes):
        self.tell(guard="hello", exabgp=7, routes=prefixes, sent={})

    def reply(self, number=None, error=None):
        failed = {} if error is None else {"error": error}
        self.tell(guard="reply", number=number or self.number, ok=error is None, **failed)

    async def grant(self, link):
        link.renew(1.0)
        assert await self.line() == "lease 1.0"
        self.reply()


@asynccontextmanager
async def linked(tmp_path):
    """A link that is being read, its guard, and the events that the link reports."""
    guards = asyncio.Queue()
    path = tmp_path / "g.sock"
    server = await asyncio.start_unix_server(lambda r, w: guards.put_nowait(FakeGuard(r, w)), path)
    events = asyncio.Queue()
    async with server:
        link = await GuardLink.open(CONFIG, path, events.put_nowait)
        guard = await guards.get()
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(link.read())
                yield link, guard, events
                reading.cancel()
        finally:
            link.close()
            guard.writer.close()
            await guard.reader.read()  # to the end: both are closed
            await guard.writer.wait_closed()


async def until_event(events, kind):
    async with asyncio.timeout(10.0):
        while not isinstance(event := await events.get(), kind):
            pass
    return event


async def test_announces_when_greeted_and_leased(tmp_path):
    """What is wanted waits for the guard's greeting, and then for the lease."""
    async with linked(tmp_path) as (link, guard, events):
        link.want(frozenset({A, B}))
        guard.hello()
        await until_event(events, text.Hello)
        await guard.grant(link)
        assert await guard.line() == f"announce {ANNOUNCE_A}"
        guard.reply()
        assert await guard.line() == f"announce {ANNOUNCE_B}"
        guard.reply()
        assert await link.settled(10.0) == []
        assert link.acknowledged == {A, B}
        link.want(frozenset({A, B}))  # nothing to do: the next line is the lease's
        await guard.grant(link)


async def test_withdraws_before_it_announces(tmp_path):
    """Also what the guard had before us, even without a lease."""
    async with linked(tmp_path) as (link, guard, _events):
        link.want(frozenset({A}))
        guard.hello("203.0.113.1/32", "198.51.100.7/32")
        assert await guard.line() == "withdraw 203.0.113.1/32"
        guard.reply()
        await guard.grant(link)
        assert await guard.line() == f"announce {ANNOUNCE_A}"  # there already, but who knows with which next hop
        guard.reply()
        await link.settled(10.0)
        link.want(frozenset({B}))
        assert await guard.lines(2) == ["withdraw 198.51.100.7/32", f"announce {ANNOUNCE_B}"]


ONE, TWO = (frozenset({neighbor.address}) for neighbor in CONFIG.neighbors)


async def test_peers_can_be_told_differently(tmp_path):
    """Whoever's route is the same hears nothing; who is to have it no more is the last to hear."""
    worse = replace(A, attributes=Attributes(med=100))
    announce = "announce 198.51.100.7/32 neighbor 192.0.2.{} announce route 198.51.100.7/32 next-hop self"
    async with linked(tmp_path) as (link, guard, events):
        guard.hello()
        await until_event(events, text.Hello)
        await guard.grant(link)
        link.want(frozenset({replace(A, peers=ONE), replace(worse, peers=TWO)}))
        assert await guard.lines(2) == [announce.format(1), announce.format(2) + " med 100"]
        link.want(frozenset({replace(A, peers=ONE), replace(A, peers=TWO)}))
        assert await guard.line() == announce.format(2)
        link.want(frozenset({replace(worse, peers=ONE)}))
        assert await guard.lines(2) == [announce.format(1) + " med 100", "withdraw 198.51.100.7/32 192.0.2.2"]
        for number in range(2, 7):
            guard.reply(number)
        assert await link.settled(10.0) == []
        assert link.acknowledged == {replace(worse, peers=ONE)}
        link.want(frozenset())
        assert await guard.line() == "withdraw 198.51.100.7/32"


async def test_what_an_earlier_speaker_told_others_is_withdrawn(tmp_path):
    """The guard knows prefixes, not whom they went to."""
    async with linked(tmp_path) as (link, guard, events):
        link.want(frozenset({replace(A, peers=ONE)}))
        guard.hello("198.51.100.7/32")
        await until_event(events, text.Hello)
        await guard.grant(link)
        assert (await guard.line()).startswith("announce 198.51.100.7/32 neighbor 192.0.2.1 announce")
        assert await guard.line() == "withdraw 198.51.100.7/32 192.0.2.2"


async def test_refused_route_is_reported_and_tried_again(tmp_path):
    """An error is not acknowledged; the route is announced anew by the next want, and withdrawn when unwanted."""
    async with linked(tmp_path) as (link, guard, events):
        guard.hello()
        await until_event(events, text.Hello)
        await guard.grant(link)
        await until_event(events, text.Reply)
        link.want(frozenset({A}))
        await guard.line()
        guard.reply(error="refused by ExaBGP")
        assert await link.settled(10.0) == ["198.51.100.7/32 via self: refused by ExaBGP"]
        assert link.acknowledged == frozenset()
        link.want(frozenset({A}))
        assert await guard.line() == f"announce {ANNOUNCE_A}"
        guard.reply(error="refused by ExaBGP")
        await link.settled(10.0)
        link.want(frozenset())
        assert await guard.line() == "withdraw 198.51.100.7/32"


MANY = frozenset(Route(ip_address("203.0.113.0") + number) for number in range(text.TOGETHER + 2))


async def test_many_routes_go_together_and_one_that_is_refused_alone(tmp_path):
    """TOGETHER of them in a command, IP versions apart; when that is refused, each by itself; withdrawals the same."""
    async with linked(tmp_path) as (link, guard, events):
        guard.hello()
        await until_event(events, text.Hello)
        await guard.grant(link)
        await until_event(events, text.Reply)
        link.want(MANY | {B})
        first, second, third = await guard.lines(3)
        prefixes = [str(route.prefix) for route in sorted(MANY)]
        command = f"announce attributes next-hop self nlri {' '.join(prefixes[: text.TOGETHER])}"
        assert first == f"announce {','.join(prefixes[: text.TOGETHER])} {command}"
        assert second.endswith(f"nlri {' '.join(prefixes[text.TOGETHER :])}")
        assert third == f"announce {ANNOUNCE_B}"
        last = guard.number
        guard.reply(last - 2)
        guard.reply(last)
        guard.reply(last - 1, error="refused by ExaBGP")
        alone = await guard.lines(2)
        assert alone == [f"announce {prefix} announce route {prefix} next-hop self" for prefix in prefixes[-2:]]
        guard.reply(guard.number - 1)
        guard.reply(error="refused by ExaBGP")
        assert await link.settled(10.0) == [f"{prefixes[-1]} via self: refused by ExaBGP"]
        assert link.acknowledged == (MANY | {B}) - {max(MANY)}
        link.want(frozenset())
        assert await guard.lines(3) == [
            f"withdraw {','.join(prefixes[: text.TOGETHER])}",
            f"withdraw {','.join(prefixes[text.TOGETHER :])}",
            f"withdraw {B.prefix}",
        ]


async def test_withdrawn_routes_come_back_with_the_lease(tmp_path):
    """After the guard's withdrawal nothing counts as announced; a renewal brings everything back."""
    async with linked(tmp_path) as (link, guard, events):
        guard.hello()
        await until_event(events, text.Hello)
        await guard.grant(link)
        await until_event(events, text.Reply)
        link.want(frozenset({A}))
        await guard.line()
        guard.reply()
        await link.settled(10.0)
        guard.tell(guard="withdrawn", why="the lease has ended", after=guard.number)
        await until_event(events, text.Withdrawn)
        assert link.acknowledged == frozenset()
        assert not link.leased
        await guard.grant(link)
        assert await guard.line() == f"announce {ANNOUNCE_A}"


async def test_commands_that_cross_a_withdrawal_count_as_answered(tmp_path):
    """What the guard had received before it withdrew is undone; what came later is not, and can be withdrawn."""
    async with linked(tmp_path) as (link, guard, events):
        guard.hello()
        await until_event(events, text.Hello)
        await guard.grant(link)
        await until_event(events, text.Reply)
        link.want(frozenset({A}))
        await guard.line()
        before = guard.number
        link.renew(1.0)
        link.want(frozenset({A, B}))
        await guard.lines(2)
        guard.tell(guard="withdrawn", why="the lease has ended", after=before)
        guard.reply(before)  # ExaBGP had done it, before it undid it
        guard.reply(guard.number - 1)
        guard.reply(guard.number)
        assert await guard.line() == f"announce {ANNOUNCE_A}"  # the renewal brings it back
        guard.reply()
        await link.settled(10.0)
        assert link.acknowledged == {A, B}
        link.want(frozenset({A}))
        assert await guard.line() == "withdraw 2001:db8:f::7/128"


async def test_waits_no_longer_than_its_patience(tmp_path):
    """Without an answer there is an error with a remedy."""
    async with linked(tmp_path) as (link, guard, _events):
        link.want(frozenset())
        guard.hello("198.51.100.7/32")
        await guard.line()
        with pytest.raises(SpeakerError, match=r"did not acknowledge 198.51.100.7/32 within 0.05 s; it is restarted"):
            await link.settled(0.05)


async def test_a_cancelled_wait_loses_nothing(tmp_path):
    """Answers find their command although nobody waits any more."""
    async with linked(tmp_path) as (link, guard, events):
        guard.hello()
        await until_event(events, text.Hello)
        await guard.grant(link)
        await until_event(events, text.Reply)
        link.want(frozenset({A}))
        await guard.line()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await link.settled(60.0)
        guard.reply()
        assert await link.settled(10.0) == []
        assert link.acknowledged == {A}


async def test_the_end_of_a_session_is_no_lease(tmp_path):
    """Its answer must not set announcements free; and before the greeting there is no session to end."""
    async with linked(tmp_path) as (link, guard, events):
        link.teardown("192.0.2.1")
        guard.hello()
        await until_event(events, text.Hello)
        link.want(frozenset({A}))
        link.teardown("192.0.2.1")
        assert await guard.line() == "teardown 192.0.2.1"
        guard.reply()
        await until_event(events, text.Reply)
        assert not link.leased
        await guard.grant(link)
        assert await guard.line() == f"announce {ANNOUNCE_A}"


async def test_garbage_is_skipped(tmp_path):
    """One line that nobody understands does not end the connection."""
    async with linked(tmp_path) as (_link, guard, events):
        guard.writer.write(b"what?\n\xff\xfe\n{}\n")
        guard.hello()
        assert (await until_event(events, text.Hello)).exabgp_pid == 7


async def test_end_of_the_connection_ends_waiting(tmp_path):
    """Whoever waits is told."""
    async with linked(tmp_path) as (link, guard, _events):
        link.want(frozenset())
        guard.hello("203.0.113.1/32")
        await guard.line()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(link.settled(10.0))
            await asyncio.sleep(0)  # it waits by now
            link.close()
        assert waiting.result() == ["203.0.113.1/32: the connection to the guard ended"]


async def test_a_silent_guard_that_owes_an_answer_hangs(tmp_path, monkeypatch):
    """Then nobody guards the routes: an error."""
    monkeypatch.setattr(client, "SILENCE_S", 0.02)
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the group is the context manager's
        async with linked(tmp_path) as (link, guard, _events):
            link.want(frozenset())
            guard.hello("203.0.113.1/32")
            await guard.line()
            await asyncio.sleep(10.0)
    assert caught.group_contains(SpeakerError, match="the guard does not answer")


async def test_what_an_earlier_process_has_announced_stays_until_somebody_says_what_is_wanted(tmp_path):
    """Neither a greeting nor a lease withdraws what nobody has spoken of."""
    async with linked(tmp_path) as (link, guard, events):
        guard.hello("198.51.100.7/32", "203.0.113.1/32")
        await until_event(events, text.Hello)
        await guard.grant(link)
        await until_event(events, text.Reply)
        link.want(frozenset({A}))
        said = await guard.lines(2)
        assert [line.split()[:2] for line in said] == [["withdraw", "203.0.113.1/32"], ["announce", "198.51.100.7/32"]]


async def test_a_lease_says_what_survives(tmp_path):
    """For how long, on which interfaces, or while which process lives; nothing of it where there is none."""
    async with linked(tmp_path) as (link, guard, events):
        guard.hello()
        await until_event(events, text.Hello)
        link.renew(1.0, Survival(30.0, frozenset({3, 2})))
        assert await guard.line() == "lease 1.0 30 2,3 0"
        link.renew(1.0, Survival(30.0, frozenset({3, 2}), 4711))
        assert await guard.line() == "lease 1.0 30 2,3 4711"
        link.renew(1.0, Survival(30.0))
        assert await guard.line() == "lease 1.0"

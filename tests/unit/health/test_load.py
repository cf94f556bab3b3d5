"""Agents that tell their members' load: words, real sockets, and many of them over time."""

import asyncio
import errno
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from health.load import MISSES, WINDOW, Agent, Loads, LoadStatus, Reply, Wish, ask, parse
from health.spec import Code, Result, Target
from tests.unit.health.serving import server
from tests.unit.health.test_monitor import Time, settle

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"75%", Reply(0.25)),
        (b"0%", Reply(1.0)),
        (b"100%", Reply(0.0)),
        (b"250%", Reply(0.0)),
        (b"up", Reply(wish=Wish.UP)),
        (b"UP 99%", Reply(0.01, Wish.UP)),
        (b"ready, 50%", Reply(0.5, Wish.UP)),
        (b"drain\t10%", Reply(0.9, Wish.DRAIN)),
        (b"up drain maint", Reply(wish=Wish.MAINT)),
        (b"maint up", Reply(wish=Wish.MAINT)),
        (b"75% maxconn:30", Reply(0.25)),
        (b"maxconn:30", Reply()),
        (b"75% # two of eight cores", Reply(0.25, text="two of eight cores")),
        (b"stopped #for an update", Reply(wish=Wish.DOWN, text="for an update")),
        (b"fail disk full", Reply(wish=Wish.DOWN, text="disk full")),
        (b"  20%  ", Reply(0.8)),
        (b"50%#\x1b[31mred\xff", Reply(0.5, text="[31mred\xff")),
    ],
)
def test_words(line: bytes, reply: Reply) -> None:
    """The words of agent checks, in any order and case."""
    parsed = parse(line)
    assert isinstance(parsed, Reply)
    assert (parsed.wish, parsed.text) == (reply.wish, reply.text)
    assert parsed.load == (None if reply.load is None else pytest.approx(reply.load))


@pytest.mark.parametrize(
    "line",
    [b"", b"  ", b"75", b"-5%", b"7.5%", b"75 %", b"hello", b"75% hello", b"# nothing", b"%", b"HTTP/1.0 400 Bad"],
)
def test_garbage(line: bytes) -> None:
    """Anything else is an error that shows what was said."""
    said = parse(line)
    assert isinstance(said, str)
    assert said.startswith("expected words like 75% or drain, got '")


WORDS = [b"75%", b"250%", b"up,", b"DRAIN\t", b"maint", b"stopped", b"fail", b"maxconn:30", b"# \x1b[31m", b"7.5%"]


@given(st.binary(max_size=2000) | st.lists(st.sampled_from(WORDS) | st.binary(max_size=9), max_size=5).map(b" ".join))
def test_any_bytes_are_judged(line: bytes) -> None:
    """Whatever an agent says is a reply with a load of 0 to 1 or an error, and texts are fit to be shown."""
    said = parse(line)
    if isinstance(said, Reply):
        assert said.load is None or 0 <= said.load <= 1
        assert said.text.isprintable()
    else:
        assert said.isprintable()


# One question


def agent(port: int, address: str = "127.0.0.1", **changes: Any) -> Agent:
    return replace(Agent(Target("web/web1", ip_address(address), port), 1.0, 2.0), **changes)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_agent_is_asked(run: Run, address: str) -> None:
    """A line and the end of the connection, both families, on both event loops."""
    with server(lambda connection: connection.sendall(b"75%\n"), address) as port:
        result, reply = run(ask(agent(port, address)))
    assert result.good
    assert 0 < result.duration_s < 2
    assert reply.load == 0.25


@pytest.mark.parametrize("pieces", [[b"up 5", b"0%\r\n"], [b"up 50%"], [b"up 50%\n", b"garbage"]])
def test_the_line_may_come_in_pieces(run: Run, pieces: list[bytes]) -> None:
    """The line ends with CR, LF or the connection, and what comes behind it does not count."""

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)

    with server(serve) as port:
        assert run(ask(agent(port)))[1] == Reply(0.5, Wish.UP)


def test_an_agent_that_keeps_the_connection_open(run: Run) -> None:
    """A line that has ended is enough: nobody waits for the end of the connection."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"75%\n")
        assert connection.recv(1) == b""

    with server(serve) as port:
        result, reply = run(ask(agent(port, timeout_s=5)))
    assert reply.load == 0.25
    assert result.duration_s < 2


def test_a_silent_agent(run: Run) -> None:
    """Half a line without an end is no answer: TIMEOUT after the agent's limit."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"75")
        assert connection.recv(1) == b""

    with server(serve) as port:
        result, reply = run(ask(agent(port, timeout_s=0.2)))
    assert (result.code, result.detail) == (Code.PAYLOAD_TIMEOUT, "read: no whole line within 0.2 s")
    assert reply == Reply()


def test_nobody_listens(run: Run) -> None:
    """A closed port is REFUSED."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result, _ = run(ask(agent(port)))
    assert (result.code, result.detail) == (Code.CONNECTION_REFUSED, "connect: connection refused")


@pytest.mark.parametrize("answer", [b"", b"hello\n", b"x" * 3 * WINDOW])
def test_an_agent_that_talks_nonsense(run: Run, answer: bytes) -> None:
    """No words, other words and endless words are a mismatch."""

    def serve(connection: socket.socket) -> None:
        try:
            connection.sendall(answer)
        except ConnectionError:
            pass  # nobody listens that long

    with server(serve) as port:
        result, reply = run(ask(agent(port)))
    assert result.code is Code.PAYLOAD_CONTENT_MISMATCH
    assert reply == Reply()


# Many questions


@dataclass
class World:
    """What agents will say, and what was reported."""

    time: Time = field(default_factory=Time)
    says: dict[str, tuple[Result, Reply]] = field(default_factory=dict)
    asked: list[tuple[float, Agent]] = field(default_factory=list)
    reports: list[LoadStatus] = field(default_factory=list)
    took_s: float = 0.0
    error: OSError | None = None

    def __post_init__(self) -> None:
        self.loads = Loads(
            self.reports.append, random.Random(7), asking=self._ask, clock=self.time, sleep=self.time.sleep
        )

    async def _ask(self, agent: Agent) -> tuple[Result, Reply]:
        self.asked.append((self.time.now, agent))
        if self.took_s:
            await self.time.sleep(self.took_s)
        if self.error is not None:
            raise self.error
        return self.says.get(agent.target.id, (Result(Code.OK), Reply(0.25)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.loads.run())
            await settle()
            yield
            task.cancel()

    def told(self) -> list[tuple[str, float | None, Wish | None, str]]:
        return [(status.target.id, status.load, status.wish, status.text) for status in self.reports]


def one(number: int = 1, **changes: Any) -> Agent:
    values = {
        "target": Target(f"web/web{number}", ip_address(f"203.0.113.{number}"), 8081),
        "interval_s": 2.0,
        "timeout_s": 1.0,
    }
    return Agent(**values | changes)


FAILED = Result(Code.CONNECTION_REFUSED, "connect: connection refused"), Reply()


async def test_loads_are_reported_when_they_change() -> None:
    """An agent is asked every interval; the same answer again is no news."""
    world = World()
    world.loads.set(frozenset([one()]))
    async with world.running():
        await world.time.advance(20)
        assert 9 <= len(world.asked) <= 12
        assert world.told() == [("web/web1", 0.25, None, "")]
        world.says["web/web1"] = Result(Code.OK), Reply(0.5, Wish.DRAIN, "an update")
        await world.time.advance(3)
    assert world.told()[1:] == [("web/web1", 0.5, Wish.DRAIN, "an update")]
    assert world.loads.statuses() == (world.reports[-1],)


async def test_an_agent_that_falls_silent() -> None:
    """The last answer counts for two more questions, then nothing is known; text and events say why."""
    world = World()
    world.loads.set(frozenset([one()]))
    with structlog.testing.capture_logs() as events:
        async with world.running():
            await world.time.advance(5)
            world.says["web/web1"] = FAILED
            while len(world.told()) < 3:
                await world.time.advance(1)
            misses = [status.misses for status in world.reports]
            world.says.clear()
            await world.time.advance(5)
    why = "connection_refused: connect: connection refused"
    assert world.told() == [
        ("web/web1", 0.25, None, ""),
        ("web/web1", 0.25, None, why),
        ("web/web1", None, None, why),
        ("web/web1", 0.25, None, ""),
    ]
    assert misses == [0, 1, MISSES]
    assert [event["event"] for event in events] == ["load.not_heard", "load.heard"]
    assert events[0] | {"member": "web/web1", "port": 8081, "detail": why} == events[0]


async def test_an_agent_that_never_answers() -> None:
    """Nothing is known of its member, and the report says why."""
    world = World(says={"web/web1": FAILED})
    world.loads.set(frozenset([one()]))
    async with world.running():
        await world.time.advance(5)
    assert world.told() == [("web/web1", None, None, "connection_refused: connect: connection refused")]


async def test_what_we_lack_says_nothing_about_agents() -> None:
    """Without files a question is left out, and what is known stays."""
    world = World()
    world.loads.set(frozenset([one()]))
    async with world.running():
        await world.time.advance(3)
        world.error = OSError(errno.EMFILE, "too many open files")
        await world.time.advance(10)
        asked = len(world.asked)
        world.error = None
        await world.time.advance(5)
    assert len(world.asked) > asked > 4
    assert world.told() == [("web/web1", 0.25, None, "")]


async def test_questions_do_not_fall_into_step() -> None:
    """Many agents are asked at different times, and a slow one is never asked twice at once."""
    world = World(took_s=1.9)
    world.loads.set(frozenset(one(number) for number in range(1, 51)))
    async with world.running():
        await world.time.advance(20)
    firsts = {agent.target.id: moment for moment, agent in reversed(world.asked)}
    assert len(set(firsts.values())) == 50
    times = [moment for moment, agent in world.asked if agent.target.id == "web/web1"]
    assert all(later - earlier > 1.899 for earlier, later in pairwise(times))


async def test_set_is_declarative() -> None:
    """Unchanged agents go on, gone ones are not asked and reported as unknown, new ones are asked."""
    world = World()
    world.loads.set(frozenset([one(1), one(2)]))
    async with world.running():
        await world.time.advance(5)
        world.reports.clear()
        world.loads.set(frozenset([one(1), one(3)]))
        assert world.told() == [("web/web2", None, None, "")]
        world.asked.clear()
        await world.time.advance(5)
    assert {agent.target.id for _, agent in world.asked} == {"web/web1", "web/web3"}
    assert world.told()[1:] == [("web/web3", 0.25, None, "")]


async def test_another_port_keeps_the_load_and_another_address_does_not() -> None:
    """What was said counts until the agent answers where it is asked now, but not for another machine."""
    world = World()
    world.loads.set(frozenset([one(1), one(2)]))
    async with world.running():
        await world.time.advance(5)
        world.reports.clear()
        moved = replace(one(2).target, address=ip_address("203.0.113.99"))
        world.loads.set(frozenset([one(1, target=replace(one(1).target, port=9000)), one(2, target=moved)]))
        assert world.told() == [("web/web2", None, None, "")]
        assert [status.load for status in world.loads.statuses()] == [0.25, None]
        await world.time.advance(5)
    assert world.told()[1:] == [("web/web2", 0.25, None, "")]


async def test_a_question_under_way_when_the_agent_goes() -> None:
    """Its answer is not reported any more."""
    world = World(took_s=1.0)
    world.loads.set(frozenset([one()]))
    async with world.running():
        while not world.asked:
            await world.time.advance(0.05)
        world.loads.set(frozenset())
        await world.time.advance(5)
    assert (world.told(), world.loads.statuses()) == ([("web/web1", None, None, "")], ())


def test_two_agents_for_one_member() -> None:
    """That is a mistake, and changes nothing."""
    world = World()
    world.loads.set(frozenset([one(9)]))
    with pytest.raises(ValueError, match="two different agents for one member"):
        world.loads.set(frozenset([one(1), one(1, interval_s=5.0)]))
    assert [status.target.id for status in world.loads.statuses()] == ["web/web9"]


def test_with_real_sockets_and_time(run: Run) -> None:
    """A real agent that changes its mind and then goes away, on both event loops."""

    async def story() -> list[float | None]:
        loads_seen: asyncio.Queue[LoadStatus] = asyncio.Queue()
        loads = Loads(loads_seen.put_nowait, random.Random(1))
        told: list[float | None] = []
        free = 75

        async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"%d%%\n" % free)
            await writer.drain()
            writer.close()

        agents = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = agents.sockets[0].getsockname()[1]
        loads.set(frozenset([agent(port, interval_s=0.05, timeout_s=0.5)]))
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(5):
            task = tasks.create_task(loads.run())
            told.append((await loads_seen.get()).load)
            free = 20
            told.append((await loads_seen.get()).load)
            agents.close()
            await agents.wait_closed()
            told += [(await loads_seen.get()).load for _ in range(2)]
            task.cancel()
        return told

    assert run(story()) == [0.25, 0.8, 0.8, None]

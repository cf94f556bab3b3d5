"""How loaded members say they are.

An agent beside the member listens on a TCP port. Whoever connects gets a line of words and the end of the connection,
and need not send anything: the agent check of HAProxy (its configuration manual, "agent-check"), for which there are
agents already. Words are separated by spaces, tabs or commas, in upper or lower case:

    75%                         so much of what its weight stands for can be had; 0 % is full, above 100 % is idle
    up, ready                   all is well
    drain, maint                it wants no new flows; it wants none at all
    down, fail, stopped         it does not work
    maxconn:100                 is read over
    # and all behind it         text for people, and so is what stands behind `down`

An answer says everything: words of earlier ones do not count any more. What is done about words is for others to say:
an agent is one witness, and a monitor another.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import structlog

from health.checks.errors import SHORT_OF, excerpt
from health.checks.probing import Progress, within
from health.checks.sockets import connected
from health.spec import Code, Result, Target

log = structlog.get_logger()

WINDOW = 1024
"""Bytes within which the line must end."""

MISSES = 3
"""So many questions in a row must go without an answer until the last one does not count any more. A member that is too
busy to answer must not count as loaded as the others are for that."""

_JITTER = 0.1
"""As for monitors: reports of many members do not fall into step."""

_PERCENT = re.compile(r"([0-9]{1,9})%")


class Wish(StrEnum):
    """What an agent says of its member besides the load."""

    UP = "up"
    DRAIN = "drain"
    MAINT = "maint"
    DOWN = "down"


_WISHES = {
    "up": Wish.UP,
    "ready": Wish.UP,
    "drain": Wish.DRAIN,
    "maint": Wish.MAINT,
    "down": Wish.DOWN,
    "fail": Wish.DOWN,
    "failed": Wish.DOWN,
    "stopped": Wish.DOWN,
}


@dataclass(frozen=True)
class Reply:
    """What an agent has said."""

    load: float | None = None
    """0 is idle, 1 is full; None when it did not say."""

    wish: Wish | None = None
    """The gravest of its words."""

    text: str = ""
    """For people."""


@dataclass(frozen=True)
class Agent:
    """One member's agent, and how often it is asked."""

    target: Target
    interval_s: float
    timeout_s: float


@dataclass(frozen=True)
class LoadStatus:
    """What is known of one member."""

    target: Target
    load: float | None = None
    """0 is idle, 1 is full; None when it is not known, or not any more."""

    wish: Wish | None = None
    text: str = ""
    """What else the agent has said; or why nothing is known, once it was asked."""

    last: Result | None = None
    """Of the latest question; None before the first."""

    misses: int = 0
    """Questions without an answer since the last one with."""


def parse(line: bytes) -> Reply | str:
    """The meaning of an agent's line, or what is wrong with it.

    Args:
        line: without its end.
    """
    words, _, text = line.decode("latin-1").partition("#")
    load: float | None = None
    wishes: list[Wish] = []
    found = re.split(r"[ \t,]+", words.strip(" \t,"))
    for number, word in enumerate(found):
        percent = _PERCENT.fullmatch(word)
        if percent:
            load = 1 - min(int(percent[1]), 100) / 100
        elif word.lower() in _WISHES:
            wishes.append(_WISHES[word.lower()])
            if wishes[-1] is Wish.DOWN:
                text = " ".join([*found[number + 1 :], text.strip()])
                break
        elif not re.fullmatch(r"(?i)maxconn:[0-9]+", word):
            return f"expected words like 75% or drain, got {excerpt(line)}"
    return Reply(load, max(wishes, key=list(Wish).index, default=None), "".join(filter(str.isprintable, text)).strip())


async def ask(agent: Agent) -> tuple[Result, Reply]:
    """Ask once. Never takes longer than the agent's time limit; every failure of the agent is a Result.

    Raises:
        OSError: we are out of files, memory or ports.
    """
    reply = Reply()

    async def question(progress: Progress) -> Result:
        nonlocal reply
        loop, line = asyncio.get_running_loop(), b""
        async with connected(agent.target) as sock:
            progress.doing = "read"
            progress.late = Result(Code.PAYLOAD_TIMEOUT, f"read: no whole line within {agent.timeout_s:g} s")
            while not re.search(rb"[\r\n]", line) and len(line) < WINDOW:
                data = await loop.sock_recv(sock, WINDOW - len(line))
                if not data:
                    break
                line += data
        said = parse(re.split(rb"[\r\n]", line, maxsplit=1)[0])
        if isinstance(said, str):
            return Result(Code.PAYLOAD_CONTENT_MISMATCH, said)
        reply = said
        return Result(Code.OK)

    return await within(agent.timeout_s, question), reply


@dataclass
class _Watch:
    agent: Agent
    status: LoadStatus
    task: asyncio.Task[None] | None = None
    """None until `Loads.run` has seen it."""


class Loads:
    """Asks any number of agents, each by itself. Lives in the event loop's thread."""

    def __init__(
        self,
        report: Callable[[LoadStatus], None],
        rng: random.Random,
        *,
        asking: Callable[[Agent], Awaitable[tuple[Result, Reply]]] = ask,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Nothing is asked before `set` and `run`.

        Args:
            report: called when load, wish or text are other than before, and when a member is gone (nothing known).
            rng: spreads the questions.
            asking: how an agent is asked.
            clock: seconds that never jump.
            sleep: waits for seconds.
        """
        self._report = report
        self._rng = rng
        self._asking = asking
        self._clock = clock
        self._sleep = sleep
        self._watches: dict[str, _Watch] = {}
        self._changed = asyncio.Event()

    def set(self, wanted: frozenset[Agent]) -> None:
        """Ask exactly these from now on.

        What is unchanged goes on undisturbed. An agent that is asked otherwise keeps what is known of its member until
        it answers, unless it has another address: that is another machine.

        Raises:
            ValueError: two agents for one member. Nothing has changed then.
        """
        by_id = {agent.target.id: agent for agent in wanted}
        if len(by_id) != len(wanted):
            raise ValueError("two different agents for one member")
        forgotten: list[LoadStatus] = []
        for member, watch in list(self._watches.items()):
            agent = by_id.get(member)
            if agent == watch.agent:
                continue
            if watch.task is not None:
                watch.task.cancel()
            del self._watches[member]
            if agent is not None and agent.target.address == watch.agent.target.address:
                self._watches[member] = _Watch(agent, replace(watch.status, target=agent.target))
            else:
                forgotten.append(LoadStatus(watch.agent.target if agent is None else agent.target))
        for member, agent in by_id.items():
            self._watches.setdefault(member, _Watch(agent, LoadStatus(agent.target)))
        self._changed.set()
        for status in forgotten:
            self._report(status)

    def statuses(self) -> tuple[LoadStatus, ...]:
        """What is known now, in a stable order."""
        return tuple(self._watches[member].status for member in sorted(self._watches))

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                for member, watch in self._watches.items():
                    if watch.task is None:
                        watch.task = tasks.create_task(self._keep_up(watch), name=f"load:{member}")
                await self._changed.wait()

    async def _keep_up(self, watch: _Watch) -> None:
        agent = watch.agent
        await self._sleep(self._rng.uniform(0, min(agent.interval_s, 1.0)))
        while True:
            start = self._clock()
            try:
                self._take(watch, *await self._asking(agent))
            except OSError as error:
                if error.errno not in SHORT_OF:  # what we lack ourselves says nothing about the agent
                    raise
            # From start to start; an answer that took longer delays the next question, never overlaps it.
            pause_s = agent.interval_s * self._rng.uniform(1 - _JITTER, 1 + _JITTER) - (self._clock() - start)
            await self._sleep(max(0.0, pause_s))

    def _take(self, watch: _Watch, result: Result, reply: Reply) -> None:
        before, target = watch.status, watch.agent.target
        if result.good:
            status = LoadStatus(target, reply.load, reply.wish, reply.text, result)
        else:
            misses, text = before.misses + 1, f"{result.code}: {result.detail}"
            said = before if misses < MISSES else LoadStatus(target)
            status = LoadStatus(target, said.load, said.wish, text, result, misses)
        watch.status = status
        if result.good != (before.last is None or before.last.good) or status.wish is not before.wish:
            event = "load.heard" if result.good else "load.not_heard"
            log.info(
                event, member=target.id, address=target.address, port=target.port, wish=status.wish, detail=status.text
            )
        if (status.load, status.wish, status.text) != (before.load, before.wish, before.text):
            self._report(status)

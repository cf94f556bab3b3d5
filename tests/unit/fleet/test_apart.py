"""Coroutines in a thread of their own."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from appliance.fleet.apart import apart
from appliance.fleet.channel import PinChannel
from tests.unit.fleet.ends import SECRET, directors, flow, keep, known, members, table, until


def busy(seconds: float, goes_on: Callable[[], bool] = lambda: True) -> None:
    """The loop that calls this has no time for anything else."""
    end = time.monotonic() + seconds
    while goes_on() and time.monotonic() < end:
        time.sleep(0.001)


def test_it_runs_elsewhere_and_ends_by_itself(run):
    """In a thread with that name, while the loop that has begun it goes on; an end or an error is that of the whole."""
    seen = []

    async def main(error: Exception | None) -> None:
        await asyncio.sleep(0.01)
        seen.append(threading.current_thread().name)
        if error is not None:
            raise error

    async def both():
        await apart(lambda: main(None), "other")
        with pytest.raises(ValueError, match="broken"):
            await apart(lambda: main(ValueError("broken")), "another")

    run(both())
    assert seen == ["other", "another"]


def test_cancelling_it_waits_for_its_end(run):
    """What it has to tidy up is tidied up before the one who cancels goes on."""
    seen = []

    async def main() -> None:
        try:
            seen.append("begun")
            await asyncio.sleep(60)
        finally:
            busy(0.05)
            seen.append("tidy")

    async def both():
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(apart(main, "other"))
            await until(lambda: seen, "it has begun")
            task.cancel()
        assert seen == ["begun", "tidy"]

    run(both())


def test_a_busy_loop_does_not_keep_a_director_from_hearing(run):
    """News of a flow is in the table although nothing else of the process gets its turn."""

    async def main():
        a, b = directors("a", "b")
        mine, yours = table(), table()
        one, other = PinChannel(a, [b], SECRET, mine), PinChannel(b, [a], SECRET, yours)
        for channel in (one, other):
            channel.set_members(members())
        async with asyncio.TaskGroup() as tasks:
            own = [tasks.create_task(apart(channel.run, "pins")) for channel in (one, other)]
            await until(lambda: one.is_heard and other.is_heard, "they have met")
            keep(mine, [1])
            busy(5, lambda: not known(yours))
            assert known(yours).keys() == {flow(1).hash64}
            for task in own:
                task.cancel()

    run(main())

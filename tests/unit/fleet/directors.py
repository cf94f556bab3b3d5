"""Directors that agree, for tests: each with its own way to the store, and a memory of all that it was told."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address

from appliance.fleet.agreement import Judged
from appliance.fleet.client import Store
from appliance.fleet.entries import DirectorCard
from appliance.fleet.store import Agreed, Agreement, Timing
from appliance.model import Health, Pool
from tests.builders import pool
from tests.netns import PATIENCE

DEFAULT = Timing()
UP, DOWN, UNKNOWN = Health.UP, Health.DOWN, Health.UNKNOWN


def seen(*health: Health) -> dict[str, Health]:
    """Of `web/web1`, `web/web2` and so on."""
    return {f"web/web{number}": one for number, one in enumerate(health, 1)}


class Director:
    """One of the fleet, with an `Agreement` about the pool `web`."""

    def __init__(self, name: str, store: Store, *, timing: Timing = DEFAULT, web: Pool | None = None) -> None:
        self.heard: list[tuple[float, Agreed]] = []
        """With the moment of each."""
        number = int(name.lstrip("d"))
        self.card = DirectorCard(name, ip_address(f"192.0.2.{10 + number}"), 7117, boot=f"boot of {name}")
        self.agreement = Agreement(
            self.card,
            store,
            lambda agreed: self.heard.append((time.monotonic(), agreed)),
            wall=time.time,
            clock=time.monotonic,
            rng=random.Random(name),
            timing=timing,
        )
        self.agreement.follow([web or pool()])

    @property
    def agreed(self) -> Agreed:
        return self.agreement.latest

    @property
    def members(self) -> Mapping[str, Judged]:
        return self.agreed.members

    @property
    def connected(self) -> bool:
        return self.agreed.status.connected

    def health(self, agreed: Agreed | None = None) -> tuple[Health, ...]:
        members = (agreed or self.agreed).members
        return tuple(members[member].health for member in sorted(members))

    def say(self, *health: Health) -> None:
        self.agreement.say(seen(*health))

    def course(self, since: float = 0.0) -> list[tuple[Health, ...]]:
        """What was in force from a moment on, one after the other."""
        course: list[tuple[Health, ...]] = []
        for at, agreed in self.heard:
            if not course or course[-1] != self.health(agreed):
                if at < since:
                    course.clear()
                course.append(self.health(agreed))
        return course


@asynccontextmanager
async def running(*directors: Director) -> AsyncIterator[None]:
    """All of them at work; stopped in good order at the end."""
    async with asyncio.TaskGroup() as tasks:
        work = [tasks.create_task(director.agreement.run(), name=director.card.name) for director in directors]
        try:
            yield
        finally:
            for task in work:
                task.cancel()


async def until(condition: Callable[[], object], what: str | Callable[[], str], deadline_s: float = 5.0) -> float:
    """Wait until something holds; returns how long it took, in seconds.

    Args:
        condition: what.
        what: the same for people, at the end if callable.
        deadline_s: how long.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > deadline_s * PATIENCE:
            raise AssertionError(f"not within {deadline_s * PATIENCE} s: {what() if callable(what) else what}")
        await asyncio.sleep(0.005)
    return time.monotonic() - began

"""Monitors: keep probing what is wanted, damp the results, report every turn of a verdict."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from health.checks import CHECKS
from health.damper import Damper
from health.spec import TURNS, Check, Result, Status, Target, Turn, Verdict

log = structlog.get_logger()

_JITTER = 0.1
"""Intervals vary by this fraction to both sides, so that the probes of many targets do not fall into step."""


Key = tuple[str, str, str]
"""Monitor, target's id and place: what of all probes is one."""


def key_of(monitor: str, target: Target) -> Key:
    return monitor, target.id, target.place


@dataclass(frozen=True)
class Probe:
    """One monitor's standing order for one target."""

    monitor: str
    kind: str
    """A key of `health.checks.CHECKS`."""

    target: Target
    interval_s: float
    timeout_s: float
    rise: int
    fall: int
    settings: tuple[tuple[str, object], ...] = ()
    """Those of the kind."""

    quick_start: bool = True
    """Whether the first probes follow each other quickly: `quick_pace_s`."""

    counts: bool = True
    """Whether its verdict decides on the member; otherwise it is there to explain those of others."""

    @property
    def key(self) -> Key:
        return key_of(self.monitor, self.target)


def quick_pace_s(interval_s: float) -> float:
    """Seconds between the first probes: a quarter of the interval, at least 0.2 s and at most 1 s."""
    return min(interval_s, max(0.2, min(interval_s / 4, 1.0)))


@dataclass
class _Watch:
    """One probe that is being kept up."""

    probe: Probe
    check: Check
    damper: Damper
    status: Status
    task: asyncio.Task[None] | None = None
    """None until `Monitors.run` has seen it."""


class Monitors:
    """Probes any number of targets, each by itself: never two probes of one monitor and target at a time.

    Lives in the event loop's thread.
    """

    def __init__(
        self,
        report: Callable[[Status], None],
        rng: random.Random,
        *,
        checks: Mapping[str, Callable[..., Check]] = CHECKS,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Nothing is probed before `set` and `run`.

        Args:
            report: called with the new status when a verdict turns, when a target is new (UNKNOWN), when it is gone
                (UNKNOWN, once more), and when it says another MSS.
            rng: spreads the probes.
            checks: kinds of checks by name.
            wall: seconds since the epoch.
            clock: seconds that never jump.
            sleep: waits for seconds.
        """
        self._report = report
        self._rng = rng
        self._checks = checks
        self._wall = wall
        self._clock = clock
        self._sleep = sleep
        self._watches: dict[Key, _Watch] = {}
        self._changed = asyncio.Event()

    def set(self, wanted: frozenset[Probe]) -> None:
        """Probe exactly these from now on.

        What is unchanged goes on undisturbed. A probe that is asked differently (interval, port, request, ...) of the
        same address keeps its verdict until the new results turn it: a reload must not take members out. Another
        address is another machine, and starts from UNKNOWN.

        Raises:
            ValueError: an unknown kind of check, wrong settings for it, or two probes for one monitor and target.
                Nothing has changed then.
        """
        by_key = {probe.key: probe for probe in wanted}
        if len(by_key) != len(wanted):
            raise ValueError("two different probes for one monitor and target")
        fresh = {
            key: self._build(probe)
            for key, probe in by_key.items()
            if key not in self._watches or self._watches[key].probe != probe
        }
        turned: list[Status] = []
        for key, watch in list(self._watches.items()):
            if by_key.get(key) == watch.probe:
                continue
            if watch.task is not None:
                watch.task.cancel()
            del self._watches[key]
            if key not in fresh:
                turned.append(Status(watch.probe.monitor, watch.probe.target, Verdict.UNKNOWN, since=self._wall()))
            elif _same_machine(fresh[key].probe.target, watch.probe.target):
                fresh[key].damper = replace(fresh[key].damper, verdict=watch.status.verdict)
                fresh[key].status = replace(watch.status, target=fresh[key].probe.target)
        self._watches |= fresh
        self._changed.set()
        turned += [watch.status for watch in fresh.values() if watch.status.verdict is Verdict.UNKNOWN]
        for status in turned:
            self._report(status)

    def _build(self, probe: Probe) -> _Watch:
        try:
            build = self._checks[probe.kind]
        except KeyError:
            known = ", ".join(self._checks)
            raise ValueError(f"monitor {probe.monitor}: unknown kind {probe.kind!r}; known: {known}") from None
        try:
            check = build(timeout_s=probe.timeout_s, **dict(probe.settings))
        except TypeError as error:
            raise ValueError(f"monitor {probe.monitor}: wrong settings for kind {probe.kind!r}: {error}") from error
        status = Status(probe.monitor, probe.target, Verdict.UNKNOWN, since=self._wall())
        return _Watch(probe, check, Damper(probe.rise, probe.fall), status)

    def statuses(self) -> tuple[Status, ...]:
        """What is known now, in a stable order."""
        return tuple(self._watches[key].status for key in sorted(self._watches))

    async def run(self) -> None:
        """Probe until cancelled. An exception of a check is a broken program and ends this too."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                for key, watch in self._watches.items():
                    if watch.task is None:
                        watch.task = tasks.create_task(self._keep_up(watch), name=f"health:{':'.join(key)}")
                await self._changed.wait()

    async def _keep_up(self, watch: _Watch) -> None:
        probe = watch.probe
        quick_s = quick_pace_s(probe.interval_s) if probe.quick_start else probe.interval_s
        # Quick only as long as quick results can still give the first verdict: a member that flutters gets no more.
        quick_left = probe.rise + probe.fall
        await self._sleep(self._rng.uniform(0, quick_s))
        while True:
            start = self._clock()
            result = await watch.check.probe(probe.target)
            if probe.target.way is not None:
                result = probe.target.way.judge(result, probe.target)
            self._take(watch, result)
            quick_left = 0 if watch.damper.settled else max(0, quick_left - 1)
            pace_s = quick_s if quick_left else probe.interval_s
            # The pace is from start to start; a probe that took longer delays the next one, never overlaps it.
            pause_s = pace_s * self._rng.uniform(1 - _JITTER, 1 + _JITTER) - (self._clock() - start)
            await self._sleep(max(0.0, pause_s))

    def _take(self, watch: _Watch, result: Result) -> None:
        before = watch.status
        watch.damper = watch.damper.after(result.good)
        turned = watch.damper.verdict is not before.verdict
        now = self._wall()
        turns = (Turn(watch.damper.verdict, now, result), *before.turns)[:TURNS] if turned else before.turns
        watch.status = replace(
            before,
            verdict=watch.damper.verdict,
            last=result,
            since=now if turned else before.since,
            turns=turns,
            good=before.good + result.good,
            bad=before.bad + (not result.good),
            mss=before.mss if result.mss is None else result.mss,
        )
        if turned:
            event = "health.up" if watch.status.verdict is Verdict.UP else "health.down"
            log.info(
                event,
                monitor=watch.probe.monitor,
                member=watch.probe.target.id,
                address=watch.probe.target.address,
                port=watch.probe.target.port,
                **({"by": watch.probe.target.way.name} if watch.probe.target.way is not None else {}),
                code=result.code,
                detail=result.detail,
            )
        if turned or watch.status.mss != before.mss:
            self._report(watch.status)


def _same_machine(one: Target, other: Target) -> bool:
    return (one.address, one.way) == (other.address, other.way)

"""Monitors: keep probing what is wanted, damp the results, report every turn of a verdict."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter

import structlog

from health.checks import CHECKS, TOLD_WHO
from health.checks.errors import SHORT_OF
from health.damper import Damper
from health.spec import TURNS, Check, Code, Result, Status, Target, Turn, Verdict
from health.strain import AT_ONCE, BEAT_S, BUSY_S, IN_A_ROW, LATE_PART, LONGEST_WAITS, Delay, Durations, Stalls, Strain

log = structlog.get_logger()

_JITTER = 0.1
"""Intervals are shorter by up to this fraction, so that the probes of many targets do not fall into step; and never
longer: how soon a member is known to be down can be counted on."""

QUICK_PER_S = 1000
"""Where more questions than that begin at once, first probes follow each other less quickly."""

RELEASED_AT_ONCE = 250
"""Of probes that were held since the event loop was behind, so many begin with each beat."""

AGAIN_S = 1.0
"""After which a probe for which we lacked something is made again, at most."""

SAY_AGAIN_S = 60.0
"""How often it is said at most that something is lacking."""

_TIME_IS_UP = {Code.CONNECTION_TIMEOUT, Code.PAYLOAD_TIMEOUT, Code.NO_RESPONSE, Code.SSL_ERROR, Code.EXT_HM_ERROR}

_EVENTS = {Verdict.UP: "health.up", Verdict.DOWN: "health.down", Verdict.MAINTENANCE: "health.maintenance"}

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

    @property
    def question(self) -> tuple[object, ...]:
        """What is asked of whom, and how often: equal for probes that one question answers."""
        target = self.target
        who = target.id if self.kind in TOLD_WHO else ""
        pace = self.interval_s, self.timeout_s, self.quick_start
        return self.kind, self.settings, target.address, target.port, target.way, pace, who


def quick_pace_s(interval_s: float) -> float:
    """Seconds between the first probes: a quarter of the interval, at least 0.2 s and at most 1 s."""
    return min(interval_s, max(0.2, min(interval_s / 4, 1.0)))


@dataclass
class _Watch:
    """One probe that is being kept up."""

    probe: Probe
    damper: Damper
    status: Status
    quick_left: int
    """Quick results that can still give the first verdict: a member that flutters gets no more."""


@dataclass
class _Question:
    """What is asked for all probes that it answers."""

    probe: Probe
    """Any of them."""
    check: Check
    watches: dict[Key, _Watch] = field(default_factory=dict)
    late: int = 0
    """Results in a row that were put aside since we were late."""
    task: asyncio.Task[None] | None = None
    """None until `Monitors.run` has seen it."""


class Monitors:
    """Probes any number of targets, each by itself: never two probes of one monitor and target at a time.

    Probes of several monitors or members that ask the same of the same address and port are one question, which is
    asked once. What we lack ourselves (files, time) delays a question and is counted, and is never a result.

    Lives in the event loop's thread.
    """

    def __init__(
        self,
        report: Callable[[Status], None],
        rng: random.Random,
        *,
        at_once: int = AT_ONCE,
        explain: Callable[[Result, Target], Result] = lambda result, target: result,
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
            at_once: probes under way at a time, at most; more wait for their turn.
            explain: adds to a result of a target without a way what others know of its cause.
            checks: kinds of checks by name.
            wall: seconds since the epoch.
            clock: seconds that never jump.
            sleep: waits for seconds.
        """
        self._report = report
        self._rng = rng
        self._at_once = at_once
        self._explain = explain
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._held: deque[tuple[asyncio.Future[None], float]] = deque()
        """Probes that wait for the loop to catch up, and until when they do at most."""
        self._under_way = 0
        self._delayed = dict.fromkeys(Delay, 0)
        self._stalls = Stalls()
        self._beat_due = float("inf")
        self._beat_late_s = 0.0
        self._said_at = float("-inf")
        self._failed_at: dict[str, float] = {}
        """When that was said last, by monitor."""
        self._durations: dict[str, Durations] = {}
        self._checks = checks
        self._wall = wall
        self._clock = clock
        self._sleep = sleep
        self._watches: dict[Key, _Watch] = {}
        """In order: statuses are asked for every second, and there may be tens of thousands."""
        self._questions: dict[tuple[object, ...], _Question] = {}
        self._changed = asyncio.Event()

    def set(self, wanted: frozenset[Probe]) -> None:
        """Probe exactly these from now on.

        What is unchanged goes on undisturbed. A probe that is asked differently (interval, port, request, way, ...) of
        the same machine keeps its verdict until the new results turn it: a reload must not take members out. Another
        address is another machine, and starts from UNKNOWN.

        Raises:
            ValueError: an unknown kind of check, wrong settings for it, or two probes for one monitor and target.
                Nothing has changed then.
        """
        by_key = {probe.key: probe for probe in wanted}
        if len(by_key) != len(wanted):
            raise ValueError("two different probes for one monitor and target")
        fresh = {
            key: self._watch(probe)
            for key, probe in by_key.items()
            if key not in self._watches or self._watches[key].probe != probe
        }
        built = self._build(watch.probe for watch in fresh.values())
        turned: list[Status] = []
        gone: dict[Key, _Watch] = {}
        left: dict[tuple[object, ...], _Watch] = {}
        for key, watch in list(self._watches.items()):
            if by_key.get(key) == watch.probe:
                continue
            self._leave(key, watch)
            gone[key] = left[_asked_of(watch.probe)] = watch
            if key not in fresh:
                turned.append(Status(watch.probe.monitor, watch.probe.target, Verdict.UNKNOWN, since=self._wall()))
        for key, watch in fresh.items():
            asked, before = _asked_of(watch.probe), gone.get(key)
            if before is None or _asked_of(before.probe) != asked:
                before = left.get(asked)
            if before is not None:
                watch.damper = replace(watch.damper, verdict=before.status.verdict)
                watch.status = replace(before.status, target=watch.probe.target)
                if key != before.probe.key and watch.status.verdict is not Verdict.UNKNOWN:
                    turned.append(watch.status)
            words = watch.probe.question
            question = self._questions.setdefault(words, built[words])
            question.watches[key] = watch
            if question.task is not None:  # who has joined is not to wait for a whole interval
                question.task.cancel()
                question.task = None
        if fresh:
            self._watches = dict(sorted((self._watches | fresh).items(), key=itemgetter(0)))
        monitors = {watch.probe.monitor for watch in self._watches.values()}
        self._durations = {name: self._durations.get(name, Durations()) for name in sorted(monitors)}
        self._changed.set()
        turned += [watch.status for watch in fresh.values() if watch.status.verdict is Verdict.UNKNOWN]
        for status in turned:
            self._report(status)

    def _watch(self, probe: Probe) -> _Watch:
        status = Status(probe.monitor, probe.target, Verdict.UNKNOWN, since=self._wall())
        return _Watch(probe, Damper(probe.rise, probe.fall), status, probe.rise + probe.fall)

    def _leave(self, key: Key, watch: _Watch) -> None:
        del self._watches[key]
        words = watch.probe.question
        question = self._questions[words]
        del question.watches[key]
        if not question.watches:
            del self._questions[words]
            if question.task is not None:
                question.task.cancel()

    def _build(self, probes: Iterable[Probe]) -> dict[tuple[object, ...], _Question]:
        """A question for each, those with the same settings by one check: it asks any number of targets."""
        made: dict[tuple[object, ...], Check] = {}
        built: dict[tuple[object, ...], _Question] = {}
        for probe in probes:
            words = probe.question
            if words not in built:
                settings = probe.kind, probe.timeout_s, probe.settings
                if settings not in made:
                    made[settings] = self._check(probe)
                built[words] = _Question(probe, made[settings])
        return built

    def _check(self, probe: Probe) -> Check:
        try:
            build = self._checks[probe.kind]
        except KeyError:
            known = ", ".join(self._checks)
            raise ValueError(f"monitor {probe.monitor}: unknown kind {probe.kind!r}; known: {known}") from None
        try:
            return build(timeout_s=probe.timeout_s, **dict(probe.settings))
        except TypeError as error:
            raise ValueError(f"monitor {probe.monitor}: wrong settings for kind {probe.kind!r}: {error}") from error

    def statuses(self) -> tuple[Status, ...]:
        """What is known now, in a stable order."""
        return tuple(watch.status for watch in self._watches.values())

    def strain(self) -> Strain:
        """What all probes together ask of this process, and what they have to wait for."""
        durations = {name: replace(kept, buckets=list(kept.buckets)) for name, kept in self._durations.items()}
        return Strain(self._under_way, self._at_once, dict(self._delayed), durations)

    async def run(self) -> None:
        """Probe until cancelled.

        Raises:
            OSError: of a check, in an exception group: we lack a privilege, or have closed a file of others.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat(), name="health:beat")
            while True:
                self._changed.clear()
                for question in self._questions.values():
                    if question.task is None:
                        name = f"health:{':'.join(question.probe.key)}"
                        question.task = tasks.create_task(self._keep_up(question), name=name)
                await self._changed.wait()

    async def _beat(self) -> None:
        while True:
            self._beat_due = self._clock() + BEAT_S
            await self._sleep(BEAT_S)
            now = self._clock()
            self._beat_late_s = now - self._beat_due
            self._stalls.note(now, self._beat_late_s)
            self._release(now)

    def _release(self, now: float) -> None:
        """Let probes begin that were held since the loop was behind: some at a time, or they would hold it up again."""
        some = RELEASED_AT_ONCE if self._beat_late_s <= BUSY_S else 0
        while self._held and (some > 0 or self._held[0][1] <= now):
            held, _ = self._held.popleft()
            if not held.done():
                held.set_result(None)
                some -= 1

    async def _keep_up(self, question: _Question) -> None:
        probe = question.probe
        hurry = probe.quick_start
        await self._sleep(self._rng.uniform(0, self._quick_s(probe)))
        while True:
            start, least = self._clock(), 1 - _JITTER
            result = await self._ask(question)
            if result is None:
                pace_s = min(AGAIN_S, probe.interval_s)
            else:
                quick = False
                for watch in tuple(question.watches.values()):
                    self._take(watch, result)
                    quick |= self._quick(watch)
                pace_s = self._quick_s(probe) if quick else probe.interval_s
                if hurry and not quick:  # all have begun together: from here on they are anywhere in the interval
                    hurry, least = False, 0.0
            # The pace is from start to start; a probe that took longer delays the next one, never overlaps it.
            pause_s = pace_s * self._rng.uniform(least, 1) - (self._clock() - start)
            await self._sleep(max(0.0, pause_s))

    def _quick_s(self, probe: Probe) -> float:
        if not probe.quick_start:
            return probe.interval_s
        return min(probe.interval_s, max(quick_pace_s(probe.interval_s), len(self._questions) / QUICK_PER_S))

    def _quick(self, watch: _Watch) -> bool:
        """Whether another result soon can help to the first verdict."""
        watch.quick_left = 0 if watch.damper.settled else max(0, watch.quick_left - 1)
        return watch.quick_left > 0

    async def _ask(self, question: _Question) -> Result | None:
        """One result; None when nothing is known of the member, and it has to be asked again."""
        await self._turn(question.probe.interval_s)
        began, target = self._clock(), question.probe.target
        try:
            result = await question.check.probe(target)
            judged = self._explain(result, target) if target.way is None else target.way.judge(result, target)
        except OSError as error:
            if error.errno not in SHORT_OF:
                raise
            self._lacking(error)
            return None
        except Exception as error:
            self._failed(question.probe, error)
            return None
        finally:
            self._pass_on()
        if self._was_late(question, result, began):
            self._delayed[Delay.LATE] += 1
            return None
        return judged

    async def _turn(self, interval_s: float) -> None:
        """Wait until one more probe may begin, and take its place."""
        if self._behind_s() > BUSY_S:
            self._delayed[Delay.BUSY] += 1
            held = asyncio.get_running_loop().create_future()
            self._held.append((held, self._clock() + LONGEST_WAITS * interval_s))
            await held
        if self._under_way < self._at_once:
            self._under_way += 1
            return
        self._delayed[Delay.LIMIT] += 1
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place  # who leaves gives us its place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Leave: the place is for who has waited longest."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._under_way -= 1

    def _behind_s(self) -> float:
        """How late the event loop was lately, or is."""
        return max(self._beat_late_s, self._clock() - self._beat_due)

    def _was_late(self, question: _Question, result: Result, began: float) -> bool:
        """Whether a probe may have run out of time since we did not look in time."""
        late = result.code in _TIME_IS_UP and question.late < IN_A_ROW
        if late:
            now_s = max(0.0, self._clock() - max(began, self._beat_due))  # after a stall the beat is late itself
            late = self._stalls.since(began) + now_s >= question.probe.timeout_s * LATE_PART
        question.late = question.late + 1 if late else 0
        return late

    def _lacking(self, error: OSError) -> None:
        self._delayed[Delay.NO_RESOURCES] += 1
        now = self._clock()
        if now - self._said_at >= SAY_AGAIN_S:
            self._said_at = now
            log.warning("health.no_resources", error=str(error), under_way=self._under_way, hint="checks are delayed")

    def _failed(self, probe: Probe, error: Exception) -> None:
        """A check has a fault of ours. What has brought it to light may be one member's answer, at all directors alike:
        so neither does the process end, nor is anything said of the member."""
        self._delayed[Delay.FAILED] += 1
        now = self._clock()
        if now - self._failed_at.get(probe.monitor, float("-inf")) >= SAY_AGAIN_S:
            self._failed_at[probe.monitor] = now
            log.error(
                "health.check_failed", monitor=probe.monitor, member=probe.target.id, kind=probe.kind, exc_info=error,
                hint="an error of Onward's: please report it; what is known of the member stays",
            )  # fmt: skip

    def _take(self, watch: _Watch, result: Result) -> None:
        before = watch.status
        watch.damper = watch.damper.after(result)
        self._durations[watch.probe.monitor].add(result.duration_s)
        verdict = watch.damper.verdict
        turned = verdict is not before.verdict
        now = self._wall()
        watch.status = replace(
            before,
            verdict=verdict,
            last=result,
            since=now if turned else before.since,
            turns=(Turn(verdict, now, result), *before.turns)[:TURNS] if turned else before.turns,
            turned={**before.turned, verdict: before.turned.get(verdict, 0) + 1} if turned else before.turned,
            good=before.good + result.good,
            bad=before.bad + (not result.good and not result.maintenance),
            maintenance=before.maintenance + result.maintenance,
            mss=before.mss if result.mss is None else result.mss,
        )
        if turned:
            log.info(
                _EVENTS[verdict],
                monitor=watch.probe.monitor,
                member=watch.probe.target.id,
                address=watch.probe.target.address,
                port=watch.probe.target.port,
                **({"by": watch.probe.target.way.name} if watch.probe.target.way is not None else {}),
                code=result.code,
                detail=result.detail,
            )
        if result.warning and not (before.last is not None and before.last.warning):
            log.warning(
                "health.warning", monitor=watch.probe.monitor, member=watch.probe.target.id, detail=result.detail
            )
        if turned or watch.status.mss != before.mss:
            self._report(watch.status)


def _asked_of(probe: Probe) -> tuple[object, ...]:
    """Which monitor asks which machine of a pool, whatever it is called there, and however packets get to it."""
    target = probe.target
    machine = None if target.way is None else (target.way.machine, target.port)
    return probe.monitor, target.id.partition("/")[0], target.address, machine

"""The part of a director that agrees with the others: tells them what it sees, hears what they see, says what counts.

The store is read whole at the start of every session and watched from there. So nothing depends on what was missed
while it could not be reached, nor on how much of it the store still remembers.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping, Set
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

import structlog

from appliance.fleet import entries
from appliance.fleet.agreement import (
    Basis,
    Judged,
    Outage,
    Patience,
    PoolTerms,
    Verdicts,
    agree,
    returned,
    settled,
    terms_of,
    without_store,
)
from appliance.fleet.client import Change, Entry, RefusedError, Session, Store, StoreError, UnavailableError
from appliance.fleet.entries import (
    AGREED,
    DIRECTORS,
    LOG,
    ORDERED,
    VERDICTS,
    DirectorCard,
    Logged,
    Seen,
)
from appliance.fleet.giving import hand_over
from appliance.fleet.picture import Picture
from appliance.model import Health, Order, Pool
from appliance.state import LogEntry, RingKey, same_ring

log = structlog.get_logger()


class Source(StrEnum):
    """What the judgements of now rest on, on the whole."""

    FLEET = "fleet"
    LAST_AGREED = "last_agreed"
    """The store cannot be reached, or could not a moment ago."""
    LOCAL = "local"
    """The same, for longer than agreements are held against good news."""


@dataclass(frozen=True)
class Timing:
    """All in seconds."""

    ttl_s: int = 5
    """So long after a director's end the others stop counting its verdicts. etcd takes no less than 2."""

    retry_s: tuple[float, float] = (0.05, 0.3)
    """Between attempts to reach the store: the first time, and at most."""

    refused_s: float = 5.0
    """Between attempts at most when the store says no."""

    settle_s: float = 1.0
    """How long after an outage we stay with what we have learned meanwhile, against the fleet: until then all directors
    have told the store what they see now. Longer than an attempt to reach it takes."""

    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class StoreStatus:
    connected: bool
    endpoint: str
    """The node that is talked to; empty when none is."""

    since: float
    """When `connected` last turned, in seconds since 1970."""

    error: str
    """What is wrong; empty when nothing is."""

    source: Source


@dataclass(frozen=True)
class Agreed:
    """All that the fleet agrees on, as far as this director knows."""

    members: Mapping[str, Judged]
    """By `pool/member`: all members of the pools that are followed, as this director is to take them."""

    directors: tuple[DirectorCard, ...]
    """Those that are there, this one included, by name."""

    log: Mapping[RingKey, tuple[LogEntry, ...]]
    """How pools became what they are; the oldest first, members by name."""

    orders: Mapping[str, Order]
    """By `pool/member`: what operators want, on all directors."""

    status: StoreStatus


class Agreement:
    """Keeps a fleet in step. Lives in the event loop's thread."""

    def __init__(
        self,
        card: DirectorCard,
        store: Store,
        on_change: Callable[[Agreed], None],
        *,
        wall: Callable[[], float],
        clock: Callable[[], float],
        rng: random.Random,
        timing: Timing = Timing(),
        orders: Callable[[], Mapping[str, Order]] = dict,
    ) -> None:
        """Nothing is read or written before `run`; until the store is reached, this director's own verdicts count.

        Args:
            card: who this director is.
            store: where the fleet agrees.
            on_change: called with all of it whenever any of it changes, also from within `say` and `follow`.
            wall: seconds since 1970.
            clock: seconds that never jump.
            rng: spreads the attempts to reach the store.
            timing: how long things take.
            orders: what this director knows of operators' orders, by `pool/member`: for a store that has never had any.
        """
        self._orders = orders
        self._card = card
        self._store = store
        self._on_change = on_change
        self._wall = wall
        self._clock = clock
        self._rng = rng
        self._timing = timing
        self._pools: dict[str, PoolTerms] = {}
        self._own: dict[str, Seen] = {}
        self._words: dict[str, str] = {f"{DIRECTORS}/{card.name}": entries.encode_director(card)}
        """Our own entries, as they should be."""
        self._told: dict[str, str] = {}
        """The same as the store has them, under the present lease."""
        self._said: Verdicts = {}
        """What of `_own` the fleet has heard."""
        self._picture = Picture(self._unreadable)
        self._warned: set[str] = set()
        self._twin = ""

        self._session: Session | None = None
        """While the fleet hears us and we hear the fleet."""
        self._since = wall()
        self._problem: StoreError | None = None
        """The latest, while there is no session."""
        self._outage: Outage | None = Outage(clock(), {}, {}, {})
        self._settled_at: float | None = None
        """When the outage ends at the latest, since the store is back; None while it is not."""

        self._judged: dict[str, dict[str, Judged]] = {}
        """By pool and `pool/member`."""
        self._judged_at = clock()
        self._open: set[str] = set()
        """Pools that have to be judged anew."""
        self._apart: set[str] = set()
        """Pools that we judge otherwise than the fleet, since it may not know yet what we do."""
        self._unsettled: set[str] = set()
        """Pools of which something else may be agreed now than the store says."""

        self._news = asyncio.Event()
        """There may be something to write."""
        self._alarm = asyncio.Event()
        """The next thing that time alone changes may be another one."""
        self.latest = self._agreed()
        """What `on_change` was called with last."""

    # What a director tells.

    def say(self, verdicts: Verdicts) -> None:
        """What this director sees: all of it, by `pool/member`. Repeating it does no harm."""
        now = self._wall()
        turned = {member for member, health in verdicts.items() if not self._sees(member, health)}
        turned |= self._own.keys() - verdicts.keys()
        if not turned:
            return
        self._own = {
            member: Seen(health, now) if member in turned else self._own[member] for member, health in verdicts.items()
        }
        self._word({member.partition("/")[0] for member in turned})
        self._refresh()

    def _sees(self, member: str, health: Health) -> bool:
        seen = self._own.get(member)
        return seen is not None and seen.health is health

    def _word(self, pools: Set[str]) -> None:
        """Put what we see of pools into words."""
        seen: dict[str, dict[str, Seen]] = {pool: {} for pool in pools}
        for member, one in self._own.items():
            pool = member.partition("/")[0]
            if pool in pools:
                seen[pool][member] = one
        for pool, members in seen.items():
            key = f"{VERDICTS}/{self._card.name}/{pool}"
            if members:
                self._words[key] = entries.encode_verdicts(pool, members)
            else:
                self._words.pop(key, None)
        self._open |= pools
        self._news.set()

    def describe(self, card: DirectorCard) -> None:
        """Who this director is, when something of that has changed. Its name must not."""
        self._card = card
        self._words[f"{DIRECTORS}/{card.name}"] = entries.encode_director(card)
        self._news.set()

    def follow(self, pools: Iterable[Pool]) -> None:
        """Agree on the members of these pools."""
        self._pools = {pool.name: terms_of(pool) for pool in pools}
        self._judged = {pool: judged for pool, judged in self._judged.items() if pool in self._pools}
        self._open.update(self._pools)
        self._refresh()

    async def append(self, ring: RingKey, entry: LogEntry, keep_s: float = 900.0) -> LogEntry:
        """Write to a log what has become of a pool, unless it says so already or somebody else was first.

        Args:
            ring: whose log.
            entry: how the pool is now. Its time is moved on to that of the newest in the log if it is earlier.
            keep_s: how far back the log has to reach.

        Returns:
            The newest entry of the log now. If it tells otherwise than *entry*, another director was first: decide
            again with its log, which `on_change` has been called with, and append then if there still is a difference.

        Raises:
            StoreError: the store cannot be reached. The entry may have been written; trying again does no harm.
        """
        key = f"{LOG}/{entries.log_place(ring)}"
        while True:
            logged = self._picture.logged(ring)
            if logged and same_ring(logged[-1].entry, entry):
                return logged[-1].entry
            after = entries.appended(logged, Logged(self._card.name, entry), keep_s)
            await self._swap(self._connected(), key, entries.encode_log(after))
            if logged := self._picture.logged(ring):
                return logged[-1].entry

    def _connected(self) -> Session:
        if self._session is None:
            raise UnavailableError(f"fleet: {self._problem or 'the store has not been reached yet'}")
        return self._session

    # Being in touch.

    async def run(self) -> None:
        """Agree until cancelled; the others are told of an orderly end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._stay_connected(tasks), name="fleet:store")
            tasks.create_task(self._watch_time(), name="fleet:time")

    async def _stay_connected(self, tasks: asyncio.TaskGroup) -> None:
        attempts = 0
        while True:
            began = self._clock()
            try:
                await self._converse(tasks)
            except StoreError as error:
                self._lost(error)
                first, most = self._timing.retry_s
                if isinstance(error, RefusedError):
                    most = self._timing.refused_s
            if self._clock() - began > self._timing.ttl_s:
                attempts = 0
            await asyncio.sleep(min(most, first * 2**attempts) * self._rng.uniform(0.5, 1.0))
            attempts = min(attempts + 1, 16)

    async def _converse(self, tasks: asyncio.TaskGroup) -> None:
        """One session, until it breaks."""
        async with self._store.session() as session:
            lease = await session.grant(self._timing.ttl_s)
            try:
                words, own = dict(self._words), self._own
                await session.write(words, lease=lease)
                reading = await session.read()
                if ORDERED not in reading.entries and (orders := self._orders()):
                    if await hand_over(session, reading.entries, orders):
                        log.warning("fleet.orders_handed_over", members=sorted(orders))
                    reading = await session.read()  # whoever was first, there are orders now
                self._begin(session, words, own, reading.entries)
                await _together(
                    tasks,
                    listen=partial(self._listen, session, reading.revision),
                    talk=partial(self._talk, session, lease),
                    keep_alive=partial(self._keep_alive, session, lease),
                )
            except StoreError as error:
                self._lost(error)  # here, while the session can still say no in good order to whoever uses it
                raise
            except asyncio.CancelledError:
                try:
                    await session.revoke(lease)
                except StoreError:
                    pass  # it runs out by itself
                raise
            finally:
                self._session = None

    async def _keep_alive(self, session: Session, lease: int) -> None:
        while True:
            await asyncio.sleep(self._timing.ttl_s / 3)
            await session.keep_alive(lease)

    async def _listen(self, session: Session, revision: int) -> None:
        async with aclosing(session.watch(revision)) as happening:
            async for changes in happening:
                if any(change.key == ORDERED and change.value is None for change in changes):
                    raise UnavailableError("fleet: the store has lost what it had; it is read anew")
                self._take(changes)
                self._refresh()

    async def _talk(self, session: Session, lease: int) -> None:
        while True:
            self._news.clear()
            words, own = dict(self._words), self._own
            puts = {key: text for key, text in words.items() if self._told.get(key) != text}
            deletes = self._told.keys() - words.keys()
            if puts or deletes:
                await session.write(puts, deletes, lease=lease)
                self._told, self._said = words, _health(own)
            await self._settle(session)
            await self._news.wait()

    async def _settle(self, session: Session) -> None:
        """Write down what is agreed now. Several directors do; the first one wins, and all of them write the same."""
        while self._unsettled and self._outage is None:
            pool = self._unsettled.pop()
            if pool not in self._pools:
                continue
            before = self._picture.settled.get(pool, {})
            mentioned = frozenset(member for view in self._picture.views.get(pool, {}).values() for member in view)
            after = settled(self._judged[pool], before, mentioned)
            if after is not before:
                await self._swap(session, f"{AGREED}/{pool}", entries.encode_agreed(pool, after))

    async def _swap(self, session: Session, key: str, text: str) -> None:
        """Write what follows from what we know, and learn what is there instead if we did not know it."""
        there = (await session.swap(key, text, self._picture.revision(key))).entry
        if there is None:
            self._picture.forget(key)
        else:
            self._take([Change(key, there.value, there.revision)])
        self._refresh()

    def _begin(
        self, session: Session, words: dict[str, str], own: Mapping[str, Seen], found: Mapping[str, Entry]
    ) -> None:
        self._session = session
        self._since = self._wall()
        self._problem = None
        self._picture.replace(found)
        # What an earlier process of ours has left is there, too, and `_talk` takes it away.
        self._told = {key: entry.value for key, entry in found.items() if self._is_mine(key)} | words
        self._said = _health(own)
        had_agreed = self._outage is not None and bool(self._outage.agreed)
        self._settled_at = self._clock() + (self._timing.settle_s if had_agreed else 0.0)
        self._open.update(self._pools)
        self._unsettled.update(self._pools)
        self._alarm.set()
        self._news.set()
        log.info("fleet.connected", endpoint=session.endpoint)
        self._refresh()

    def _lost(self, error: StoreError) -> None:
        news = self._session is not None or type(error) is not type(self._problem)
        if self._session is not None:
            self._session = None
            self._since = self._wall()
            if self._outage is None:
                self._outage = Outage(
                    at=self._clock(),
                    agreed=self.latest.members,
                    said=self._said,
                    settled={
                        member: health for pool in self._picture.settled.values() for member, health in pool.items()
                    },
                )
            self._settled_at = None
            self._open.update(self._pools)
        self._problem = error
        self._alarm.set()
        if news:
            log.warning("fleet.disconnected", error=str(error))
        self._refresh()

    async def _watch_time(self) -> None:
        """What counts changes with time alone while the store is away, and shortly after."""
        while True:
            self._alarm.clear()
            moments = []
            if self._outage is not None:
                moments = [self._outage.at + after for after in self._timing.patience.ends()]
                if self._settled_at is not None:
                    moments.append(self._settled_at)
            next_at = min((moment for moment in moments if moment > self._judged_at), default=None)
            try:
                async with asyncio.timeout(None if next_at is None else max(0.0, next_at - self._clock())):
                    await self._alarm.wait()
            except TimeoutError:
                self._open.update(self._pools)
                self._refresh()

    # What counts.

    def _refresh(self) -> None:
        """Say what counts now, if that is something new."""
        agreed = self._agreed()
        if agreed != self.latest:
            before, self.latest = self.latest, agreed
            self._tell(before, agreed)
            self._on_change(agreed)

    def _agreed(self) -> Agreed:
        now = self._judged_at = self._clock()
        self._judge(now)
        source = Source.FLEET
        if self._outage is not None:
            held = self._outage.agreed and now - self._outage.at < self._timing.patience.hold_s
            source = Source.LAST_AGREED if held else Source.LOCAL
        return Agreed(
            members={member: judged for pool in self._pools for member, judged in self._judged[pool].items()},
            directors=tuple(card for _, card in sorted(self._picture.directors.items())),
            log=self._picture.logs(),
            orders=dict(self._picture.orders),
            status=StoreStatus(
                connected=self._session is not None,
                endpoint=self._session.endpoint if self._session else "",
                since=self._since,
                error=self._twin or str(self._problem or ""),
                source=source,
            ),
        )

    def _judge(self, now: float) -> None:
        """Pools of which we know something new, and all of them when the outage ends: we are back, and know nothing
        that the fleet does not, or it has had the time to hear it."""
        if self._settled_at is not None and now >= self._settled_at:
            self._outage = self._settled_at = None
            self._open |= self._apart
        for pool in self._open & self._pools.keys():
            self._judged[pool] = self._judge_pool(self._pools[pool], now)
            self._unsettled.add(pool)
            self._news.set()
        self._open.clear()
        self._apart &= self._pools.keys()
        if self._settled_at is not None and not self._apart:
            self._outage = self._settled_at = None

    def _judge_pool(self, terms: PoolTerms, now: float) -> dict[str, Judged]:
        self._apart.discard(terms.name)
        views, before = self._picture.views.get(terms.name, {}), self._picture.settled.get(terms.name, {})
        fleet = agree(terms, views, before, self._card.name)
        if self._outage is None:
            return fleet
        own = {member: self._own[member].health for member in terms.members if member in self._own}
        alone = without_store(terms, own, self._outage, now, self._timing.patience)
        if self._settled_at is None:
            return alone
        back = returned(fleet, alone, self._outage)
        if back != fleet:
            self._apart.add(terms.name)
        return back

    def _unreadable(self, key: str, why: str) -> None:
        if key not in self._warned:  # once is enough
            self._warned.add(key)
            log.warning("fleet.unreadable", key=key, error=why, hint="is another version of onward running?")

    def _is_mine(self, key: str) -> bool:
        return key == f"{DIRECTORS}/{self._card.name}" or key.startswith(f"{VERDICTS}/{self._card.name}/")

    def _take(self, changes: Iterable[Change]) -> None:
        """Changes of the store."""
        changes = tuple(changes)
        self._open |= self._picture.take(changes)
        for change in changes:
            if change.value is None and self._told.pop(change.key, None) is not None:
                self._news.set()  # somebody has taken our words away: say them again
            if change.key == f"{DIRECTORS}/{self._card.name}":
                self._look_for_twin()

    def _look_for_twin(self) -> None:
        card = self._picture.directors.get(self._card.name)
        twin = ""
        if card is not None and card.boot != self._card.boot:
            twin = (
                f"two directors are called {card.name}: this one and one at {card.address}; set another director.name"
            )
        if twin and not self._twin:
            log.error("fleet.name_taken", error=twin)
        self._twin = twin

    def _tell(self, before: Agreed, after: Agreed) -> None:
        for member, judged in after.members.items():
            old = before.members.get(member)
            if judged.overruled and not (old and old.overruled):
                log.warning(
                    "fleet.overruled",
                    member=member,
                    mine=judged.mine,
                    agreed=judged.health,
                    basis=judged.basis,
                    up=judged.up,
                    down=judged.down,
                )
        for pool in _panicking(after) - _panicking(before):
            log.error("fleet.panic", pool=pool, hint="more members down at once than panic_percent: check the monitors")


def _panicking(agreed: Agreed) -> frozenset[str]:
    return frozenset(
        member.partition("/")[0] for member, judged in agreed.members.items() if judged.basis is Basis.PANIC
    )


def _health(own: Mapping[str, Seen]) -> Verdicts:
    return {member: seen.health for member, seen in own.items()}


async def _together(tasks: asyncio.TaskGroup, **parts: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run all until one fails by a `StoreError`, and raise that. Any other error is for *tasks*.

    Not a group of its own: until Python 3.13, a group that fails leaves its task half cancelled, and the next time-out
    in that task cancels it (`Task.cancelling`).
    """
    broken: asyncio.Future[StoreError] = asyncio.get_running_loop().create_future()

    async def guarded(part: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await part()
        except StoreError as error:
            if not broken.done():
                broken.set_result(error)

    running = [tasks.create_task(guarded(part), name=f"fleet:{name}") for name, part in parts.items()]
    try:
        raise await broken
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)

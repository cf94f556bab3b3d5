"""The part of a director that agrees with the others: tells them what it sees, hears what they see, says what counts.

The store is read whole at the start of every session and watched from there. So nothing depends on what was missed
while it could not be reached, nor on how much of it the store still remembers.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

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
    CONFIG,
    DIRECTORS,
    LOG,
    ORDERS,
    VERDICTS,
    DirectorCard,
    Logged,
    Seen,
    Unreadable,
)
from appliance.model import Order, Pool
from appliance.state import LogEntry, RingKey

log = structlog.get_logger()

_T = TypeVar("_T")


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

    config: str | None
    """The shared configuration, TOML; None without."""

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
        """
        self._card = card
        self._store = store
        self._on_change = on_change
        self._wall = wall
        self._clock = clock
        self._rng = rng
        self._timing = timing
        self._pools: tuple[PoolTerms, ...] = ()
        self._own: dict[str, Seen] = {}
        self._entries: dict[str, Entry] = {}
        self._told: dict[str, str] = {}
        """Our own entries as the store has them, under the present lease."""
        self._said: Verdicts = {}
        self._session: Session | None = None
        """While the fleet hears us and we hear the fleet."""
        self._since = wall()
        self._problem: StoreError | None = None
        """The latest, while there is no session."""
        self._twin = ""
        self._outage: Outage | None = Outage(clock(), {}, {}, {})
        self._settled_at: float | None = None
        """When the outage ends at the latest, since the store is back; None while it is not."""
        self._unreadable: set[str] = set()
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
        self._own = {
            member: old if (old := self._own.get(member)) and old.health is health else Seen(health, now)
            for member, health in verdicts.items()
        }
        self._refresh()

    def describe(self, card: DirectorCard) -> None:
        """Who this director is, when something of that has changed. Its name must not."""
        self._card = card
        self._news.set()

    def follow(self, pools: Iterable[Pool]) -> None:
        """Agree on the members of these pools."""
        self._pools = tuple(map(terms_of, pools))
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
            logged = self._logged(key)
            if logged and entries.same_ring(logged[-1].entry, entry):
                return logged[-1].entry
            after = entries.appended(logged, Logged(self._card.name, entry), keep_s)
            await self._swap(self._connected(), key, entries.encode_log(after))
            if logged := self._logged(key):
                return logged[-1].entry

    async def order(self, member: str, order: Order | None) -> None:
        """What an operator wants of a member, on all directors; None takes it back.

        Args:
            member: `pool/member`.
            order: what is wanted.

        Raises:
            StoreError: the store cannot be reached.
        """
        key = f"{ORDERS}/{member}"
        if order is None:
            await self._connected().write({}, [key])
        else:
            await self._connected().write({key: entries.encode_order(order)})

    async def share_config(self, text: str) -> None:
        """Make this the shared configuration.

        Args:
            text: TOML.

        Raises:
            StoreError: the store cannot be reached.
        """
        await self._connected().write({CONFIG: text})

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
                mine, said = self._words(), self._sees()
                await session.write(mine, lease=lease)
                reading = await session.read()
                self._begin(session, mine, said, reading.entries)
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
                self._take(changes)
                self._refresh()

    async def _talk(self, session: Session, lease: int) -> None:
        while True:
            self._news.clear()
            words, said = self._words(), self._sees()
            puts = {key: text for key, text in words.items() if self._told.get(key) != text}
            deletes = self._told.keys() - words.keys()
            if puts or deletes:
                await session.write(puts, deletes, lease=lease)
                self._told = words
                self._said = said
            await self._settle(session)
            await self._news.wait()

    async def _settle(self, session: Session) -> None:
        """Write down what is agreed now. Several directors do; the first one wins, and all of them write the same."""
        if self._outage is not None:
            return
        for terms in self._pools:
            before = self._settled().get(terms.name, {})
            mentioned = frozenset(member for view in self._views().get(terms.name, {}).values() for member in view)
            judged = {member: self.latest.members[member] for member in terms.members}
            after = settled(judged, before, mentioned)
            if after is not before:
                await self._swap(session, f"{AGREED}/{terms.name}", entries.encode_agreed(terms.name, after))

    async def _swap(self, session: Session, key: str, text: str) -> None:
        """Write what follows from what we know, and learn what is there instead if we did not know it."""
        found = self._entries.get(key)
        there = (await session.swap(key, text, found.revision if found else 0)).entry
        if there is None:
            self._entries.pop(key, None)
        else:
            self._take([Change(key, there.value, there.revision)])
        self._refresh()

    def _sees(self) -> Verdicts:
        return {member: seen.health for member, seen in self._own.items()}

    def _words(self) -> dict[str, str]:
        """Our own entries, as they should be."""
        pools: dict[str, dict[str, Seen]] = {}
        for member, seen in self._own.items():
            pools.setdefault(member.partition("/")[0], {})[member] = seen
        name = self._card.name
        return {f"{DIRECTORS}/{name}": entries.encode_director(self._card)} | {
            f"{VERDICTS}/{name}/{pool}": entries.encode_verdicts(pool, seen) for pool, seen in pools.items()
        }

    def _begin(self, session: Session, mine: dict[str, str], said: Verdicts, found: Mapping[str, Entry]) -> None:
        self._session = session
        self._since = self._wall()
        self._problem = None
        self._entries = dict(found)
        # What an earlier process of ours has left is there, too, and `_talk` takes it away.
        self._told = {key: entry.value for key, entry in found.items() if self._is_mine(key)} | mine
        self._said = said
        had_agreed = self._outage is not None and bool(self._outage.agreed)
        self._settled_at = self._clock() + (self._timing.settle_s if had_agreed else 0.0)
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
                    settled={member: health for pool in self._settled().values() for member, health in pool.items()},
                )
            self._settled_at = None
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
                self._refresh()

    # What counts.

    def _refresh(self) -> None:
        """Say what counts now, if that is something new."""
        agreed = self._agreed()
        self._news.set()
        if agreed != self.latest:
            before, self.latest = self.latest, agreed
            self._tell(before, agreed)
            self._on_change(agreed)

    def _agreed(self) -> Agreed:
        now = self._judged_at = self._clock()
        members = self._judged(now)
        source = Source.FLEET
        if self._outage is not None:
            held = self._outage.agreed and now - self._outage.at < self._timing.patience.hold_s
            source = Source.LAST_AGREED if held else Source.LOCAL
        return Agreed(
            members=members,
            directors=tuple(sorted(self._each(DIRECTORS, entries.decode_director), key=lambda card: card.name)),
            log={ring: tuple(item.entry for item in logged) for ring, logged in self._each(LOG, entries.decode_log)},
            orders=dict(self._each(ORDERS, entries.decode_order)),
            config=self._entries[CONFIG].value if CONFIG in self._entries else None,
            status=StoreStatus(
                connected=self._session is not None,
                endpoint=self._session.endpoint if self._session else "",
                since=self._since,
                error=self._twin or str(self._problem or ""),
                source=source,
            ),
        )

    def _judged(self, now: float) -> dict[str, Judged]:
        """All members, by the fleet or without it. An outage ends here: we are back, and have no news of our own."""
        own, views, before = self._sees(), self._views(), self._settled()
        fleet: dict[str, Judged] = {}
        alone: dict[str, Judged] = {}
        for terms in self._pools:
            fleet |= agree(terms, views.get(terms.name, {}), before.get(terms.name, {}), self._card.name)
            if self._outage is not None:
                alone |= without_store(terms, own, self._outage, now, self._timing.patience)
        if self._outage is None:
            return fleet
        if self._settled_at is None:
            return alone
        members = returned(fleet, alone, self._outage)
        if now >= self._settled_at or members == fleet:
            self._outage = self._settled_at = None
            return fleet
        return members

    def _views(self) -> dict[str, dict[str, Verdicts]]:
        """What each director says, by pool and director."""
        views: dict[str, dict[str, Verdicts]] = {}
        for director, pool, verdicts in self._each(VERDICTS, entries.decode_verdicts):
            views.setdefault(pool, {})[director] = verdicts
        return views

    def _settled(self) -> dict[str, Verdicts]:
        """What was agreed last, by pool."""
        return dict(self._each(AGREED, entries.decode_agreed))

    def _logged(self, key: str) -> tuple[Logged, ...]:
        found = self._decoded(key, self._entries.get(key), entries.decode_log)
        return found[1] if found else ()

    def _each(self, kind: str, decode: Callable[[str, str], _T]) -> list[_T]:
        """All entries of a kind that can be read."""
        prefix = f"{kind}/"
        found = (self._decoded(key, entry, decode) for key, entry in self._entries.items() if key.startswith(prefix))
        return [value for value in found if value is not None]

    def _decoded(self, key: str, entry: Entry | None, decode: Callable[[str, str], _T]) -> _T | None:
        if entry is None:
            return None
        try:
            return decode(key.partition("/")[2], entry.value)
        except Unreadable as why:
            if key not in self._unreadable:  # once is enough
                self._unreadable.add(key)
                log.warning("fleet.unreadable", key=key, error=str(why), hint="is another version of onward running?")
            return None

    def _is_mine(self, key: str) -> bool:
        return key == f"{DIRECTORS}/{self._card.name}" or key.startswith(f"{VERDICTS}/{self._card.name}/")

    def _take(self, changes: Iterable[Change]) -> None:
        """Changes of the store; those that are known already make no difference."""
        for change in changes:
            known = self._entries.get(change.key)
            if known is not None and change.revision < known.revision:
                continue
            if change.value is not None:
                self._entries[change.key] = Entry(change.value, change.revision)
            else:
                self._entries.pop(change.key, None)
                self._told.pop(change.key, None)  # should somebody have taken our words away, `_talk` repeats them
            if change.key == f"{DIRECTORS}/{self._card.name}":
                self._look_for_twin(change.key)

    def _look_for_twin(self, key: str) -> None:
        card = self._decoded(key, self._entries.get(key), entries.decode_director)
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

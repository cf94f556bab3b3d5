"""Ways to find a flow's member, from none that remembers anything to the product's.

A scheme object stands for the whole fleet; the engine tells it what each director hears and which packets each gets.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from appliance.dataplane.pins import PinTable, take
from appliance.fleet.telling import REPEAT_MS
from appliance.forwarding import NO_MEMBER, SLOTS, Placement, SlotArray
from appliance.packet.placement import (
    TICK_S,
    TICK_SHIFT,
    By,
    FlowFacts,
    Kind,
    Pin,
    PinState,
    Placed,
    Slot,
    idle_ticks,
    place,
)
from appliance.ring.maglev import base_table
from appliance.ring.slots import RingMember, build_slots, pack, unpack
from appliance.ring.transition import Course, PinFacts, Step, follow, is_quiet, pin_facts, replay, start
from appliance.state import LogEntry
from tests.simulation.model import KINDS, Settings, Traffic, slots_of
from tests.simulation.network import PinChannel, PinMessage, Routers

_SYN = KINDS.index(Kind.SYN)


@dataclass(frozen=True)
class View:
    """What a director believes of the members."""

    ring: tuple[RingMember, ...]
    """Those configured."""

    serving: frozenset[int]
    """Those that go on with the flows they have."""


def name_of(index: int) -> str:
    """A member's name."""
    return f"web{index:03}"


def _index_of(name: str) -> int:
    return int(name.removeprefix("web"))


class Scheme(Protocol):
    messages: int

    def join(self, director: int, view: View, now: float, log: Sequence[LogEntry] | None, *, dump: bool) -> None:
        """A director starts, with the log if it can read it, and with the pins of all others if they tell it."""

    def restart(self, director: int, view: View, now: float, log: Sequence[LogEntry]) -> None:
        """A director's process starts again, and finds its data plane as it was."""

    def leave(self, director: int) -> None: ...

    def change(self, director: int, view: View, now: float, *, looks: bool = False) -> bool:
        """A director has learnt something, or looks at its pins. True when it has closed all windows early."""

    def next_at(self, director: int) -> float | None:
        """When a director wants to be called next."""

    def is_steady(self, director: int) -> bool:
        """Whether time alone changes nothing at a director."""

    def words(self, director: int) -> SlotArray | None:
        """Slot words, those of UDP behind those of TCP. Where both halves are equal, packets go there; for all others,
        `packet` is asked. None: for all packets."""

    def packet(self, director: int, now: float, key: int, kind: int, slot: int) -> int:
        """The member that a packet goes to, or NO_MEMBER."""

    def tracked(self, director: int) -> int:
        """Flows that a director remembers."""


Table = Callable[[tuple[RingMember, ...]], SlotArray]


def _twice(slots: SlotArray) -> SlotArray:
    return np.concatenate([slots, slots])


def _first(size: int, table: Table) -> Table:
    """The first slots of a table, always the same array for the same members."""

    @lru_cache(maxsize=256)
    def build(ring: tuple[RingMember, ...]) -> SlotArray:
        return table(ring)[:size]

    return build


def maglev(ring: tuple[RingMember, ...]) -> SlotArray:
    """Maglev over the members that are eligible: what most balancers do."""
    live = sorted((member for member in ring if member.eligible), key=lambda member: member.id)
    if not live:
        return np.full(SLOTS, NO_MEMBER | NO_MEMBER << 16, np.uint32)
    owners = base_table([member.id for member in live], [member.weight for member in live])
    primary = np.array([member.index for member in live], np.uint32)[owners]
    return pack(primary, primary)


class Stateless:
    """A table, and nothing else."""

    def __init__(self, settings: Settings, table: Table) -> None:
        self.messages = 0
        self._table = _first(settings.slots, table)
        self._words: dict[int, SlotArray] = {}

    def join(self, director: int, view: View, now: float, log: Sequence[LogEntry] | None, *, dump: bool) -> None:
        self.change(director, view, now)

    def restart(self, director: int, view: View, now: float, log: Sequence[LogEntry]) -> None:
        self.change(director, view, now)

    def leave(self, director: int) -> None:
        del self._words[director]

    def change(self, director: int, view: View, now: float, *, looks: bool = False) -> bool:
        self._words[director] = _twice(self._table(view.ring))
        return False

    def next_at(self, director: int) -> float | None:
        return None

    def is_steady(self, director: int) -> bool:
        return True

    def words(self, director: int) -> SlotArray | None:
        return self._words[director]

    def packet(self, director: int, now: float, key: int, kind: int, slot: int) -> int:
        return int(self._words[director][slot]) & 0xFFFF

    def tracked(self, director: int) -> int:
        return 0


class RememberAll(Stateless):
    """Maglev over live members, and every director remembers every flow it has seen: Maglev's own connection table, as
    in Katran. It is large enough here never to overflow."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, maglev)
        self._idle_s = settings.idle_s
        self._views: dict[int, View] = {}
        self._flows: dict[int, dict[int, tuple[int, float]]] = {}

    def join(self, director: int, view: View, now: float, log: Sequence[LogEntry] | None, *, dump: bool) -> None:
        self._flows[director] = {}
        super().join(director, view, now, log, dump=dump)

    def leave(self, director: int) -> None:
        super().leave(director)
        del self._flows[director]

    def change(self, director: int, view: View, now: float, *, looks: bool = False) -> bool:
        self._views[director] = view
        flows = self._flows[director]
        for key in [key for key, (_, used) in flows.items() if now - used > self._idle_s]:
            del flows[key]
        return super().change(director, view, now)

    def is_steady(self, director: int) -> bool:
        return False

    def words(self, director: int) -> SlotArray | None:
        return None

    def packet(self, director: int, now: float, key: int, kind: int, slot: int) -> int:
        flows = self._flows[director]
        member, used = flows.get(key, (NO_MEMBER, 0.0))
        again = now - used <= (3 if kind == _SYN else self._idle_s)
        if not again or member not in self._views[director].serving:
            member = super().packet(director, now, key, kind, slot)
        flows[key] = member, now
        return member

    def tracked(self, director: int) -> int:
        return len(self._flows[director])


class TwoColumns:
    """A previous member beside the primary one during a window, and pins of new flows; when the window is over, both
    are forgotten. With or without telling the others."""

    def __init__(self, settings: Settings, routers: Routers, chance: np.random.Generator, *, tells: bool) -> None:
        self._windows_s = (settings.window_s, settings.idle_s)
        self._idle_s = settings.idle_s
        self._routers = routers
        self._tells = tells
        self._table = _first(settings.slots, build_slots)
        self._channel = PinChannel(settings.directors, settings.delay_s, settings.loss, chance, self._hear)
        self._views: dict[int, View] = {}
        self._words: dict[int, SlotArray] = {}
        self._since: dict[int, npt.NDArray[np.float64]] = {}
        self._pins: dict[int, dict[int, tuple[int, float]]] = {}

    @property
    def messages(self) -> int:
        return self._channel.sent

    def join(self, director: int, view: View, now: float, log: Sequence[LogEntry] | None, *, dump: bool) -> None:
        self._pins[director] = {}
        self.restart(director, view, now, log or ())

    def restart(self, director: int, view: View, now: float, log: Sequence[LogEntry]) -> None:
        self._views[director] = view
        self._words[director] = _twice(self._table(view.ring))
        self._since[director] = np.full(len(self._words[director]), -np.inf)

    def leave(self, director: int) -> None:
        self._channel.forget(director)
        del self._words[director], self._pins[director]

    def change(self, director: int, view: View, now: float, *, looks: bool = False) -> bool:
        self._channel.advance(director, now)
        self._views[director] = view
        primary, previous = unpack(self._words[director])
        target, _ = unpack(_twice(self._table(view.ring)))
        serves = np.zeros(NO_MEMBER + 1, bool)
        serves[list(view.serving)] = True
        moved = target != primary
        since = np.where(moved, now, self._since[director])
        window = np.repeat(self._windows_s, len(moved) // 2)
        following = np.where(moved, primary, previous)
        following = np.where(serves[following] & (now - since < window), following, target)
        self._since[director] = since
        self._words[director] = pack(target, following)
        pins = self._pins[director]
        for key in [key for key, (_, used) in pins.items() if now - used > self._idle_s]:
            del pins[key]
        return False

    def next_at(self, director: int) -> float | None:
        return None

    def is_steady(self, director: int) -> bool:
        return not self._pins[director] and not _is_window(self._words[director]).any()

    def words(self, director: int) -> SlotArray | None:
        return self._words[director]

    def packet(self, director: int, now: float, key: int, kind: int, slot: int) -> int:
        self._channel.advance(director, now, key)
        word = int(self._words[director][slot])
        pins = self._pins[director]
        member, used = pins.get(key, (NO_MEMBER, 0.0))
        remembered = now - used <= (3 if kind == _SYN else self._idle_s) and member in self._views[director].serving
        if remembered:
            pins[key] = member, now
            return member
        if kind != _SYN:
            return word >> 16
        member = word & 0xFFFF
        pins[key] = member, now
        if self._tells:
            peers = [other for other in self._routers.live if other != director]
            self._channel.send(now, peers, key, member, PinState.NEW, now)
        return member

    def tracked(self, director: int) -> int:
        return len(self._pins[director])

    def _hear(self, director: int, at: float, messages: Sequence[PinMessage]) -> None:
        self._pins[director] |= {message.key: (message.member, message.used) for message in messages}


def _is_window(words: SlotArray) -> npt.NDArray[np.bool_]:
    primary, previous = unpack(words)
    return primary != previous


def _step(entry: LogEntry, table: Table) -> Step:
    """As `decide` takes what the log says."""
    ring = tuple(
        RingMember(m.name, m.weight, _index_of(m.name), m.eligible, m.ramp) for m in entry.members if not m.leaving
    )
    serving = frozenset(_index_of(m.name) for m in entry.members if m.serving)
    return Step(entry.at, table(ring), serving, entry.settled)


def _mask(serving: Iterable[int]) -> npt.NDArray[np.bool_]:
    serves = np.zeros(NO_MEMBER + 1, np.bool_)
    serves[list(serving)] = True
    return serves


"""Facts, and the words that they are about."""


class Told(NamedTuple):
    """When the others were told of a flow."""

    due: float
    """When again."""
    rest: float
    """How long after the last time."""
    used: int
    """The tick of its last use that they were told."""

    def is_due(self, now: float, tick: int) -> bool:
        """Whether they have to hear of a use in this *tick*: a flow that goes on after a long silence does not wait."""
        return now >= self.due or (tick - self.used) * TICK_S >= self.rest


class Ours:
    """The product: its tables, its words over time, its judgement of every packet, its memory of flows.

    When others are told of a flow is the model's own, after the rules in fleet/telling.py: at once when something is
    new, and again after a while that grows. The same is true of who calls what in which order, as app.py,
    reconcile.py and decide.py have it.
    """

    def __init__(self, settings: Settings, work: Traffic, routers: Routers, chance: np.random.Generator) -> None:
        self._settings = settings
        self._work = work
        self._routers = routers
        self._phases = chance.uniform(0, TICK_S, settings.directors).tolist()
        """Ticks begin at other moments on each director."""

        self.channel = PinChannel(
            settings.directors, settings.delay_s, settings.loss, chance, self._hear, phases=self._phases
        )
        self._table = _first(settings.slots, build_slots)
        self._windows_s = (settings.window_s, settings.idle_s)
        self._idle = idle_ticks(settings.idle_s)
        self._views: dict[int, View] = {}
        self._serves: dict[int, npt.NDArray[np.bool_]] = {}
        self._courses: dict[int, tuple[Course, ...]] = {}
        self._words: dict[int, SlotArray] = {}
        self._pins: dict[int, PinTable] = {}
        self._seen: dict[int, tuple[PinFacts, ...]] = {}
        self._ours: dict[int, dict[int, Told]] = {}
        """By director and key: what it tells the others of."""

        self._now = 0.0
        self._flows: dict[int, FlowFacts] = {}
        self._key_of: dict[int, int] = {}
        self._place = lru_cache(maxsize=None)(self._place_anew)

    @property
    def messages(self) -> int:
        return self.channel.sent

    def join(self, director: int, view: View, now: float, log: Sequence[LogEntry] | None, *, dump: bool) -> None:
        phase = self._phases[director]
        self._pins[director] = PinTable.in_memory(self._settings.pins, lambda: int((self._now + phase) * 1e9))
        self._begin(director, view, now, log or ())
        if dump:
            for peer in self._routers.live:
                self._take_over(director, peer)
        self.change(director, view, now, looks=True)

    def restart(self, director: int, view: View, now: float, log: Sequence[LogEntry]) -> None:
        self._begin(director, view, now, log)
        hashes = self._pins[director].live().flows["hash64"].tolist()
        rest, tick = self._settings.refresh_s, self._tick(director, now)
        self._ours[director] = {
            self._key_of[h]: Told(now + rest * number / len(hashes), rest, tick) for number, h in enumerate(hashes)
        }
        self.change(director, view, now, looks=True)

    def leave(self, director: int) -> None:
        self.channel.forget(director)
        for known in (self._pins, self._courses, self._words, self._seen, self._ours):
            del known[director]

    def change(self, director: int, view: View, now: float, *, looks: bool = False) -> bool:
        self._now = now
        self.channel.advance(director, now)
        before, courses = self._views[director], self._courses[director]
        self._views[director], self._serves[director] = view, _mask(view.serving)
        if looks:
            self._look(director, now)
        facts = self._seen[director] or (None,) * len(courses)
        settles = before.ring == view.ring and self._settles(courses, facts, now)
        self._set(director, now, facts, now if settles else float("-inf"))
        if not before.serving <= view.serving:
            self._pins[director].forget(self._serves[director])
        return settles

    def next_at(self, director: int) -> float | None:
        return min((course.next_at for course in self._courses[director] if course.next_at is not None), default=None)

    def is_steady(self, director: int) -> bool:
        return all(course.steady for course in self._courses[director]) and not self._pins[director].words.any()

    def words(self, director: int) -> SlotArray | None:
        return self._words[director]

    def packet(self, director: int, now: float, key: int, kind: int, slot: int) -> int:
        self._now = now
        self.channel.advance(director, now, key)
        pins, flow = self._pins[director], self._flow(key)
        tick = self._tick(director, now)
        word = int(self._words[director][slot])
        found = pins.find(flow.hash64, tick)
        if found is None:
            placed = self._place(kind, word, None, PinState.NEW, 0, False)
        else:
            entry = found[1]
            serves = entry.member in self._views[director].serving
            placed = self._place(kind, word, entry.member, entry.state, min(entry.age, self._idle + 1), serves)
        keep = placed.keep
        if keep is not None:
            pins.keep(keep, flow, tick)
            ours = self._ours[director].get(key)
            fresh = found is None or placed.by is not By.PIN
            if fresh or ours is None or ours.is_due(now, tick) or keep.state is not found[1].state:
                self._tell(director, now, key, keep, tick, fresh=fresh)
        return placed.member

    def tracked(self, director: int) -> int:
        return int(np.count_nonzero(self._pins[director].words))

    # Words

    def _begin(self, director: int, view: View, now: float, log: Sequence[LogEntry]) -> None:
        """A process of a director that has made no decision yet makes its first one."""
        self._now = now
        self._ours[director] = {}
        self._views[director], self._serves[director] = view, _mask(view.serving)
        steps = [_step(entry, self._table) for entry in log]
        wanted = self._table(view.ring)
        self._courses[director] = tuple(replay(steps, now, window) or start(wanted) for window in self._windows_s)
        self._words.pop(director, None)
        self._seen[director] = ()
        self._set(director, now, [None, None], float("-inf"))

    def _set(self, director: int, now: float, facts: Sequence[PinFacts | None], settled_at: float) -> None:
        view, before = self._views[director], self._courses[director]
        wanted = self._table(view.ring)
        courses = tuple(
            follow(course, wanted, view.serving, now, window, found, settled_at)
            for course, window, found in zip(before, self._windows_s, facts, strict=True)
        )
        self._courses[director] = courses
        if director not in self._words or any(new is not old for new, old in zip(courses, before, strict=True)):
            self._words[director] = np.concatenate([course.slots for course in courses])

    def _settles(self, courses: Sequence[Course], facts: Sequence[PinFacts | None], now: float) -> bool:
        """Whether all windows close early, as `decide` has it."""
        if self._settings.directors > 1:
            return False
        quiet_s = self._settings.quiet_s
        found = [(course, fact) for course, fact in zip(courses, facts, strict=True) if course.windows]
        return bool(found) and all(fact and is_quiet(course, fact, now, quiet_s) for course, fact in found)

    def _look(self, director: int, now: float) -> None:
        """What is remembered, for the words in force; and what others have to be told again."""
        pins, courses, size = self._pins[director], self._courses[director], self._settings.slots
        pins.sweep()
        live = pins.live()
        slot, age_s = slots_of(live.flows, size), (live.age * TICK_S).astype(np.float32)
        self._seen[director] = tuple(
            pin_facts(now, slot[mine] - number * size, live.member[mine], age_s[mine])
            for number in range(len(courses))
            for mine in [slot // size == number]
        )
        ours, tick = self._ours[director], self._tick(director, now)
        for key in [key for key, told in ours.items() if told.due <= now]:
            found = pins.find(self._flow(key).hash64, tick)
            if found is None:
                del ours[key]
            else:
                self._tell(director, now, key, found[1], tick, fresh=False)

    # Packets

    def _place_anew(self, kind: int, word: int, member: int | None, state: PinState, age: int, serves: bool) -> Placed:
        slot = Slot(word & 0xFFFF, word >> 16, Placement.HASH, self._idle)
        entry = None if member is None else Pin(member, state, age)
        return place(KINDS[kind], slot, entry, lambda _: serves, lambda: NO_MEMBER)

    def _flow(self, key: int) -> FlowFacts:
        flow = self._flows.get(key)
        if flow is None:
            facts = self._work.facts[key]
            ports, protocol = int(facts["ports"]).to_bytes(4, "little"), int(facts["protocol"])
            hash64, hash32 = int(facts["hash64"]), int(facts["hash32"])
            flow = FlowFacts(bytes(4), bytes(4), ports, protocol, hash64, hash32, self._idle)
            self._flows[key], self._key_of[hash64] = flow, key
        return flow

    def _tick(self, director: int, at: float) -> int:
        return int((at + self._phases[director]) * 1e9) >> TICK_SHIFT

    # Directors among themselves

    def _tell(self, director: int, now: float, key: int, pin: Pin, tick: int, *, fresh: bool) -> None:
        first = REPEAT_MS / 1000
        known = self._ours[director].get(key)
        rest = first if fresh else min((known.rest if known else first) * 4, self._settings.refresh_s)
        self._ours[director][key] = Told(now + rest, rest, tick - pin.age)
        if pin.member in self._views[director].serving:
            peers = [other for other in self._routers.live if other != director]
            used = (tick - pin.age) * TICK_S - self._phases[director]
            self.channel.send(now, peers, key, pin.member, pin.state, used)

    def _hear(self, director: int, at: float, messages: Sequence[PinMessage]) -> None:
        now, self._now = self._now, at
        serving = self._views[director].serving
        waiting = [message for message in messages if message.member in serving]
        while waiting:
            # A director tells of a flow at most once in a datagram.
            first = {message.key: message for message in reversed(waiting)}
            self._merge(director, at, list(first.values()))
            waiting = [message for message in waiting if first[message.key] is not message]
        self._now = now

    def _merge(self, director: int, at: float, messages: Sequence[PinMessage]) -> None:
        tick, pins, ours = self._tick(director, at), self._pins[director], self._ours[director]
        ages = [max(0, tick - self._tick(director, message.used)) for message in messages]
        pins.merge(
            np.array([message.member for message in messages], np.uint16),
            np.array([message.state for message in messages], np.uint8),
            np.array(ages, np.int64),
            take(self._work.facts, np.array([message.key for message in messages])),
        )
        for message, age in zip(messages, ages, strict=True):
            if message.key in ours:
                found = pins.find(self._flow(message.key).hash64, tick)
                if found is not None and found[1] == Pin(message.member, PinState(message.state), age):
                    del ours[message.key]

    def _take_over(self, director: int, peer: int) -> None:
        """All that another one remembers."""
        self.channel.advance(peer, self._now)
        live = self._pins[peer].live(self._serves[peer])
        used = (self._tick(peer, self._now) - live.age) * TICK_S - self._phases[peer]
        age = self._tick(director, self._now) - ((used + self._phases[director]) / TICK_S).astype(np.int64)
        known = np.flatnonzero(self._serves[director][live.member])
        self.channel.sent += len(live)
        self._pins[director].merge(
            live.member[known], live.state[known], np.maximum(age[known], 0), take(live.flows, known)
        )

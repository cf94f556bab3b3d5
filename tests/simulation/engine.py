"""Runs one scheme through one scenario, and judges every packet.

A flow is broken when a packet of it gets to another member than the one that it was opened with, or to none, while that
member lives. Routers, events and messages have exact times. Between two events all packets in slots of which nothing is
remembered are judged at once; the others one by one, in order.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import numpy as np
import numpy.typing as npt

from appliance.fleet.agreement import PoolTerms, Verdicts, agree, settled
from appliance.fleet.entries import Logged, appended
from appliance.fleet.side import SHARE_S
from appliance.forwarding import NO_MEMBER, SlotArray
from appliance.model import Health
from appliance.ring.slots import RingMember, unpack
from appliance.state import LogEntry, LoggedMember, same_ring
from tests.simulation.model import (
    KINDS,
    Change,
    Down,
    Event,
    MemberEvent,
    Restart,
    Scenario,
    Settings,
    Traffic,
    Up,
    Wrong,
)
from tests.simulation.network import Routers
from tests.simulation.schemes import Ours, Scheme, View, name_of

_UNSEEN, _OPEN, _BROKEN, _CRASHED, _REFUSED = range(5)

Build = Callable[[Settings, Traffic, Routers, np.random.Generator], Scheme]


@dataclass(frozen=True)
class Break:
    """A flow that has broken, for people who look for the reason."""

    at: float
    flow: int
    key: int
    kind: str
    director: int
    member: int
    went_to: int
    word: tuple[int, int]
    cause: str


@dataclass
class Outcome:
    """What became of the flows of a run."""

    flows: int = 0
    crashed: int = 0
    """Flows that were on a member when it died, or tried to open there before it was noticed."""

    refused: int = 0
    """Flows that nobody took."""

    broken: int = 0
    """All others that broke."""

    bystanders: int = 0
    """Of the broken ones, those of members that nothing had ever happened to."""

    peak: int = 0
    """Flows that one director remembered, at most."""

    left: int = 0
    """Flows that are remembered at the end, by all directors together."""

    steady: bool = True
    """Whether at the end, time changes nothing any more."""

    messages: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    """Why flows of the product broke; `rules` is what has no excuse."""

    breaks: list[Break] = field(default_factory=list)


@dataclass(frozen=True)
class _Member:
    """What somebody believes of a member."""

    configured: bool = True
    weight: int = 1
    draining: bool = False
    up: bool = True
    known: bool = True
    """It has been configured at least once."""

    ramp: float = 1.0

    def after(self, event: MemberEvent) -> "_Member":
        match event.change:
            case Change.DRAIN:
                return replace(self, draining=True)
            case Change.READY:
                return replace(self, draining=False)
            case Change.REMOVE:
                return replace(self, configured=False)
            case Change.ADD:
                return replace(self, configured=True, known=True)
            case Change.WEIGHT:
                return replace(self, weight=event.weight)
            case Change.CRASH:
                return replace(self, up=False)
            case Change.RECOVER:
                return replace(self, up=True)
            case Change.RAMP:
                return replace(self, ramp=event.weight / 100)


_Members = dict[int, _Member]


def _view(members: _Members) -> View:
    return View(
        ring=tuple(
            RingMember(name_of(index), member.weight, index, member.up and not member.draining, member.ramp)
            for index, member in sorted(members.items())
            if member.configured
        ),
        serving=frozenset(index for index, member in members.items() if member.up and member.known),
    )


def _entry(members: _Members, now: float) -> Logged:
    """What a director would write into the fleet's log."""
    view = _view(members)
    eligible = {member.index: member.eligible for member in view.ring}
    return Logged(
        "",
        LogEntry(
            now,
            tuple(
                LoggedMember(
                    name=name_of(index),
                    address=_ADDRESS,
                    weight=member.weight,
                    eligible=eligible.get(index, False),
                    serving=index in view.serving,
                    ramp=member.ramp,
                    leaving=not member.configured,
                )
                for index, member in sorted(members.items())
                if member.known
            ),
        ),
    )


_ADDRESS = IPv4Address("203.0.113.1")
"""Members have names here; nobody asks for their addresses."""


def end_of(scenario: Scenario, settings: Settings) -> float:
    """When every flow that saw the last event is over, and forgotten. In seconds."""
    last = max((event.until if isinstance(event, Wrong) else event.at for event in scenario.events), default=0.0)
    rest = settings.window_s + settings.longest_life_s + 2 * settings.idle_s + 100
    return settings.warm_up_s + last * settings.window_s + rest


class Engine:
    """One run."""

    def __init__(self, build: Build, scenario: Scenario, settings: Settings, work: Traffic, seed: int) -> None:
        self._settings = settings
        self._work = work
        self._end = end_of(scenario, settings)
        self._routers = Routers(settings.directors)
        self._chance = np.random.default_rng([seed, 2])
        self.scheme = build(settings, work, self._routers, np.random.default_rng([seed, 3]))
        self.outcome = Outcome(flows=len(work.key))

        number = len(work.key)
        self._status = np.full(number, _UNSEEN, np.int8)
        self._server = np.full(number, NO_MEMBER, np.int64)
        self._last = np.zeros(number)
        self._last[work.flow] = work.at  # ascending, so the last one stays
        self._slots = work.slot[work.key]
        self._spread = work.spread[work.key]
        self._next = 0

        new = sum(isinstance(event, MemberEvent) and event.member < 0 for event in scenario.events)
        everyone = {index: _Member() for index in range(settings.members)}
        for extra in range(new):
            everyone[settings.members + extra] = _Member(configured=False, known=False)
        self._agreed = everyone
        self._beliefs: dict[int, _Members] = {}
        self._alive = np.ones(NO_MEMBER + 1, bool)
        self._alive[NO_MEMBER] = False
        self._touched: set[int] = set()
        self._said: dict[int, dict[str, Health]] = {
            director: {name_of(index): Health.UP for index in everyone} for director in range(settings.directors)
        }
        """What directors have seen themselves of members."""
        self._settled: Verdicts = {}
        self._late: dict[int, Mapping[int, float]] = {}
        """By member and director: how much later that learns of the latest change."""
        self._log: tuple[Logged, ...] = (_entry(everyone, 0.0),)
        self._changed_at: float | None = None
        """When members changed last, if the log does not say so yet."""
        self._ignorant: dict[int, str] = {}
        """Directors that came back without being told something."""

        self._events: list[tuple[float, int, Callable[[float], None], bool]] = []
        self._order = itertools.count()
        self._woken: dict[int, float] = {}
        """When each director will look next because a window ends."""

        self._uneven: list[tuple[float, float]] = []
        """Times in which directors may have different views, or words."""

        for director in range(settings.directors):
            self._beliefs[director] = dict(everyone)
            self.scheme.join(director, _view(everyone), 0.0, None, dump=False)
        for event in scenario.events:
            self._plan(event)
        for director in range(settings.directors):
            self._at(settings.poll_s * (1 + director / settings.directors), self._poller(director), looks=True)

    def run(self) -> Outcome:
        while self._events and self._events[0][0] < self._end:
            now, _, act, looks = heapq.heappop(self._events)
            if not looks or not all(self.scheme.is_steady(director) for director in self._routers.live):
                self._packets(now)
            act(now)
        self._packets(self._end)
        status = np.bincount(self._status, minlength=5)
        outcome, scheme = self.outcome, self.scheme
        outcome.crashed, outcome.broken, outcome.refused = (int(status[i]) for i in (_CRASHED, _BROKEN, _REFUSED))
        outcome.messages = scheme.messages
        for director in self._routers.live:
            scheme.change(director, _view(self._beliefs[director]), self._end, looks=True)
            outcome.left += scheme.tracked(director)
            outcome.steady &= scheme.is_steady(director)
        return outcome

    # Events

    def _at(self, when: float, act: Callable[[float], None], *, looks: bool = False) -> None:
        heapq.heappush(self._events, (when, next(self._order), act, looks))

    def _plan(self, event: Event) -> None:
        settings = self._settings
        begin = settings.warm_up_s + event.at * settings.window_s
        if isinstance(event, MemberEvent):
            self._plan_member(event, begin)
        elif event.director >= settings.directors:
            return
        elif isinstance(event, Down):
            self._at(begin, lambda now: self._down(event.director, now))
        elif isinstance(event, Up):
            self._at(begin, lambda now: self._up(event, now))
        elif isinstance(event, Restart):
            self._at(begin, lambda now: self._restart(event.director, now))
        else:
            self._plan_wrong(event, begin)

    def _plan_wrong(self, event: Wrong, begin: float) -> None:
        until = self._settings.warm_up_s + event.until * self._settings.window_s
        wrong = MemberEvent(event.at, Change.CRASH, event.member)
        right = MemberEvent(event.until, Change.RECOVER, event.member)
        if not event.asks:
            self._uneven.append((begin, until + self._settings.window_s + 1))
        act = self._say if event.asks else self._learn
        self._at(begin, lambda now: act(event.director, wrong, now))
        self._at(until, lambda now: act(event.director, right, now))

    def _plan_member(self, event: MemberEvent, begin: float) -> None:
        settings = self._settings
        if event.member < 0:
            event = replace(event, member=settings.members - event.member - 1)
        elif event.member >= settings.members:
            return
        self._at(begin, lambda now: self._happen(event, now))
        if event.change in (Change.CRASH, Change.RECOVER):
            seen = begin + settings.detect_s
            for director in range(settings.directors):
                at = seen + settings.skew_s * self._chance.random()
                self._at(at, lambda now, director=director: self._say(director, event, now))
            slack = 2 * settings.skew_s
        else:
            seen, slack = begin, settings.skew_s
            self._at(begin, lambda now: self._agree(event, now))
        slack += max(event.late.values(), default=0) + 1.9 * settings.delay_s
        self._uneven += [(seen + after, seen + after + slack) for after in (0, settings.window_s, settings.idle_s)]

    def _happen(self, event: MemberEvent, now: float) -> None:
        self._touched.add(event.member)
        self._late[event.member] = event.late
        if event.change is Change.CRASH:
            self._alive[event.member] = False
            gone = (self._status == _OPEN) & (self._server == event.member) & (self._last > now)
            self._status[gone] = _CRASHED
        elif event.change is Change.RECOVER:
            self._alive[event.member] = True

    def _say(self, director: int, event: MemberEvent, now: float) -> None:
        """A director has seen what has become of a member."""
        health = Health.DOWN if event.change is Change.CRASH else Health.UP
        self._said[director][name_of(event.member)] = health
        if self._agreed[event.member].configured:
            self._judge(now)
        else:  # of those that are leaving, every director judges for itself
            self._agreed = {**self._agreed, event.member: self._agreed[event.member].after(event)}
            self._note(now)
            self._learn(director, event, now)

    def _judge(self, now: float) -> None:
        """What the fleet makes of what directors have seen."""
        terms = PoolTerms("", frozenset(name_of(index) for index, one in self._agreed.items() if one.configured))
        judged = agree(terms, {str(one): self._said[one] for one in self._routers.live}, self._settled, "")
        self._settled = settled(judged, self._settled, terms.members)
        for index, member in sorted(self._agreed.items()):
            verdict = judged.get(name_of(index))
            if verdict and verdict.health is not Health.UNKNOWN and (verdict.health is Health.UP) != member.up:
                change = Change.CRASH if member.up else Change.RECOVER
                self._agree(MemberEvent(0, change, index, late=self._late.get(index, {})), now)

    def _agree(self, event: MemberEvent, now: float) -> None:
        """Something is true for all from now on, and directors learn of it."""
        self._agreed = {**self._agreed, event.member: self._agreed[event.member].after(event)}
        self._note(now)
        for director in range(self._settings.directors):
            at = now + self._settings.skew_s * self._chance.random() + event.late.get(director, 0)
            self._at(at, lambda now, director=director: self._learn(director, event, now))

    def _note(self, now: float) -> None:
        """The log gets it, alone at once, in a fleet a little later."""
        waits, self._changed_at = self._changed_at is not None, now
        if self._settings.directors == 1:
            self._write()
        elif not waits:
            self._at(now + SHARE_S * self._chance.random(), lambda now: self._write())

    def _write(self) -> None:
        if self._changed_at is not None:
            new = _entry(self._agreed, self._changed_at)
            if not same_ring(new.entry, self._log[-1].entry):
                self._log = appended(self._log, new, self._longest_s)
            self._changed_at = None

    @property
    def _longest_s(self) -> float:
        return max(self._settings.window_s, self._settings.idle_s)

    def _learn(self, director: int, event: MemberEvent, now: float) -> None:
        members = self._beliefs[director]
        members[event.member] = members[event.member].after(event)
        self._tell(director, now)

    def _down(self, director: int, now: float) -> None:
        if director in self._routers.live:
            self._routers.withdraw(director)
            self.scheme.leave(director)
            self._judge(now)

    def _up(self, event: Up, now: float) -> None:
        if event.director in self._routers.live:
            return
        self._ignorant.pop(event.director, None)
        if not event.dump or not event.log:
            self._ignorant[event.director] = "no dump" if event.log else "no log"
        view, log = self._what_a_new_one_knows(event.director, event.log)
        self.scheme.join(event.director, view, now, log, dump=event.dump)
        self._routers.announce(event.director)
        self._wake(event.director, now)

    def _restart(self, director: int, now: float) -> None:
        if director in self._routers.live:
            view, log = self._what_a_new_one_knows(director, True)
            self.scheme.restart(director, view, now, log or [])
            self._wake(director, now)

    def _what_a_new_one_knows(self, director: int, log: bool) -> tuple[View, list[LogEntry] | None]:
        """Of members that have left the configuration, it knows what the log says last (`State.set_history`)."""
        entries = [logged.entry for logged in self._log] if log else None
        leaving = {m.name for m in entries[-1].members if m.leaving and m.serving} if entries else set()
        members = {
            index: replace(member, known=member.configured or name_of(index) in leaving)
            for index, member in self._agreed.items()
        }
        self._beliefs[director] = members
        self._said[director] = {name_of(i): Health.UP if one.up else Health.DOWN for i, one in members.items()}
        return _view(members), entries

    def _poller(self, director: int) -> Callable[[float], None]:
        def poll(now: float) -> None:
            self._at(now + self._settings.poll_s, poll, looks=True)
            if director in self._routers.live and not self.scheme.is_steady(director):
                self.outcome.peak = max(self.outcome.peak, self.scheme.tracked(director))
                self._tell(director, now, looks=True)

        return poll

    def _tell(self, director: int, now: float, *, looks: bool = False) -> None:
        if director in self._routers.live:
            if self.scheme.change(director, _view(self._beliefs[director]), now, looks=looks):
                entry = replace(self._log[-1].entry, at=now, settled=True)
                self._log = appended(self._log, Logged("", entry), self._longest_s)
            self._wake(director, now)

    def _wake(self, director: int, now: float) -> None:
        due = self.scheme.next_at(director)
        if due is not None and due > now and self._woken.get(director) != due:
            self._woken[director] = due
            # A little later, since a sum of floats may fall short of the window.
            self._at(due + 1e-3, lambda now: self._tell(director, now))

    # Packets

    def _packets(self, until: float) -> None:
        work = self._work
        first, self._next = self._next, int(np.searchsorted(work.at, until))
        if first == self._next or not self._routers.live:
            return
        these = np.arange(first, self._next)
        flow = work.flow[these]
        director = self._routers.spread(self._spread[flow])
        slot = self._slots[flow]
        words = self._words(director, slot)
        if words is None:
            self._one_by_one(these, flow, director, slot)
            return
        primary, previous = unpack(words)
        steady = primary == previous
        self._at_once(these[steady], flow[steady], director[steady], primary[steady].astype(np.int64))
        if not steady.all():
            others = ~steady
            self._one_by_one(these[others], flow[others], director[others], slot[others])

    def _words(self, director: npt.NDArray[np.int64], slot: npt.NDArray[np.int64]) -> SlotArray | None:
        words = np.empty(len(slot), np.uint32)
        for live in self._routers.live:
            table = self.scheme.words(live)
            if table is None:
                return None
            mine = director == live
            words[mine] = table[slot[mine]]
        return words

    def _at_once(
        self,
        packet: npt.NDArray[np.int64],
        flow: npt.NDArray[np.int32],
        director: npt.NDArray[np.int64],
        member: npt.NDArray[np.int64],
    ) -> None:
        opens = self._work.opens[packet]
        fresh = opens & ((self._status[flow] == _UNSEEN) | ~self._work.late_answer[flow])
        fresh &= (self._status[flow] == _UNSEEN) | (self._status[flow] == _OPEN)
        opened, to = flow[fresh], member[fresh]
        self._server[opened] = to
        self._status[opened] = np.where(to == NO_MEMBER, _REFUSED, np.where(self._alive[to], _OPEN, _CRASHED))
        wrong = np.flatnonzero((self._status[flow] == _OPEN) & (self._server[flow] != member))
        for i in wrong:
            if self._status[flow[i]] == _OPEN:
                self._break(int(packet[i]), int(flow[i]), int(director[i]), int(member[i]))

    def _one_by_one(
        self,
        packet: npt.NDArray[np.int64],
        flow: npt.NDArray[np.int32],
        director: npt.NDArray[np.int64],
        slot: npt.NDArray[np.int64],
    ) -> None:
        work, status, server, place = self._work, self._status, self._server, self.scheme.packet
        columns = (
            packet, flow, director, slot, work.at[packet], work.kind[packet], work.opens[packet], work.key[flow],
            work.late_answer[flow],
        )  # fmt: skip
        for i, f, d, s, at, kind, opens, key, late in zip(*(column.tolist() for column in columns), strict=True):
            member = place(d, at, key, kind, s)
            state = status[f]
            if opens and (state == _UNSEEN or (state == _OPEN and not late)):
                server[f] = member
                status[f] = _REFUSED if member == NO_MEMBER else _OPEN if self._alive[member] else _CRASHED
            elif state == _OPEN and server[f] != member:
                self._break(i, f, d, member)

    def _break(self, packet: int, flow: int, director: int, member: int) -> None:
        self._status[flow] = _BROKEN
        server = int(self._server[flow])
        self.outcome.bystanders += server not in self._touched
        if not isinstance(self.scheme, Ours):
            return
        work = self._work
        at, key = float(work.at[packet]), int(work.key[flow])
        cause = self._cause(self.scheme, packet, flow, director)
        self.outcome.causes[cause] += 1
        words = self.scheme.words(director)
        word = int(words[work.slot[key]]) if words is not None else 0
        kind = KINDS[work.kind[packet]].value
        self.outcome.breaks.append(
            Break(at, flow, key, kind, director, server, member, (word & 0xFFFF, word >> 16), cause)
        )

    def _cause(self, ours: Ours, packet: int, flow: int, director: int) -> str:
        work = self._work
        at, key = float(work.at[packet]), int(work.key[flow])
        before = work.flow[: packet + 1] == flow
        if np.any(work.gap[: packet + 1][before] > self._settings.idle_s):
            return "silent"
        if work.late_answer[flow]:
            return "late answer"
        if (director, key) in ours.channel.lost:
            return "pin lost"
        if ours.channel.is_under_way(director, key):
            return "pin under way"
        if any(begin <= at <= until for begin, until in self._uneven):
            return "views differ"
        if self._ignorant:
            return next(iter(self._ignorant.values()))
        return "rules"

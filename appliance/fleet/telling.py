"""Which pins the other directors have to be told of, and what becomes of those that they tell us. No I/O.

A pin is *ours* when this director has made or used it since another one told us of it. Ours are told

* at once, when the flow is new or has got another member (the data plane's journals say so), and again after
  REPEAT_MS, since datagrams get lost, and then at intervals that grow fourfold;
* within a round, when their state has changed;
* and each third of their idle timeout, at most REFRESH_MS apart, as long as they last: so the others' copies live as
  long as the flow does.

What others tell of members that are not in our tables is put aside for a while: tables get to know a member at
different moments on different directors, and one that starts hears of flows before it has any tables.

What others have told us is not passed on, but to those that ask for the whole table; so nothing echoes. To find out
what is ours takes no help from the data plane: `_known` has each word as it was when it was told or heard last, and a
flow that goes on changes its word.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.dataplane.pins import (
    FLOW,
    MEMBER_SHIFT,
    STATE_SHIFT,
    TAG_SHIFT,
    WAYS,
    WHEN_BITS,
    WHEN_MASK,
    PinTable,
    lifetimes,
    tick_of,
)
from appliance.fleet.wire import AGE_SHIFT, BEFORE, END, ENTRY, OPENED, Keys
from appliance.forwarding import TableMember
from appliance.model import Protocol
from appliance.packet.placement import TICK_SHIFT, PinState

REPEAT_MS = 300
"""News is told a second time so long after the first."""

_GROWTH = 4

REFRESH_MS = 30_000
"""Longest time between two tellings of one pin."""

ASIDE_NS = 2 * REFRESH_MS * 1_000_000
"""How long pins of unknown members are kept: they are told again sooner than that."""

ROUND_MS = 500
"""How long it takes to look at the whole table once."""

BACKLOG = 1 << 15
"""Positions of news that wait for their turn, at most. What is forgotten here, the next round finds."""

_FINE = TICK_SHIFT - AGE_SHIFT
_TICK_MS = (1 << TICK_SHIFT) / 1e6
_MEMBERS = 1 << 16
_WHEN_MASK = np.uint64(WHEN_MASK)

Positions = npt.NDArray[np.int64]
Entries = npt.NDArray[np.void]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Heard:
    """What became of entries that another director has sent."""

    merged: int
    """Were offered to the table."""
    unknown: int
    """Of members that are not in our tables: put aside."""
    unfit: int
    """Over by now, or not what an entry can be."""
    lost: int
    """Put aside earlier, and given up for newer ones."""


class Telling:
    """Pins of one table, as other directors are concerned."""

    def __init__(self, pins: PinTable, keys: Keys) -> None:
        self._pins = pins
        self._keys = keys
        self._known = np.zeros(pins.capacity, np.uint64)
        self._ours = np.zeros(pins.capacity, np.bool_)
        self._due_ms = np.zeros(pins.capacity, np.int64)
        self._interval_ms = np.zeros(pins.capacity, np.int32)
        self._cursors = pins.heads.copy()
        self._at = 0
        self._backlog: deque[Positions] = deque()
        self._waiting = 0
        self._digests = np.zeros(_MEMBERS, np.uint64)
        """By index; 0 is no member."""
        self._sorted = np.zeros(1, np.uint64)
        self._indices = np.zeros(1, np.uint16)
        self._aside: deque[tuple[Entries, int]] = deque()
        """Of unknown members, and when."""
        self._kept_aside = 0

    def set_members(self, members: Mapping[int, TableMember]) -> int:
        """Whose pins there can be from now on: the members of the tables in force.

        Returns:
            How many pins were put aside before, and are taken over now.
        """
        # In front there is one that nobody has: it is never empty.
        indices = np.array([0, *members], np.uint16)
        digests = np.array([0, *map(self._keys.member, members.values())], np.uint64)
        by_index = np.zeros(_MEMBERS, np.uint64)
        by_index[indices[1:]] = digests[1:]
        order = np.argsort(digests)
        before, self._sorted = self._sorted, digests[order]
        self._digests, self._indices = by_index, indices[order]
        if not len(np.setdiff1d(self._sorted, before)):
            return 0
        aside, self._aside = self._aside, deque()
        self._kept_aside = 0
        now_ns = self._pins.clock_ns()
        return sum(self._hear(entries, now_ns - at_ns).merged for entries, at_ns in aside)

    # What we tell

    @property
    def waiting(self) -> int:
        """News that wait."""
        return self._waiting

    def look(self) -> int:
        """Read the journals. Returns how many news were forgotten because too many wait."""
        if np.array_equal(self._pins.heads, self._cursors):
            return 0
        positions, self._cursors, _ = self._pins.changes(self._cursors)
        return self._add(np.unique(positions))

    def begin(self) -> None:
        """The only one that listens asks for the whole table: all that is in it counts as told."""
        self._cursors = self._pins.heads.copy()
        self._backlog.clear()
        self._waiting = 0
        self._known[:] = self._pins.words
        self._ours[:] = self._known != 0
        self._interval_ms[:] = _longest_interval_ms(self._pins.flows["idle"])
        self._due_ms[:] = self._interval_ms * (np.arange(len(self._known)) % 256 / 256) + self._now_ms()

    def _add(self, positions: Positions) -> int:
        self._backlog.append(positions)
        self._waiting += len(positions)
        forgotten = 0
        while self._waiting > BACKLOG:
            oldest = self._backlog.popleft()
            self._waiting -= len(oldest)
            forgotten += len(oldest)
        return forgotten

    def news(self, limit: int) -> Positions:
        """The next of the news, in the order in which they came in; at most *limit*."""
        taken, room = [], limit
        while self._backlog and room > 0:
            first = self._backlog.popleft()
            if len(first) > room:
                self._backlog.appendleft(first[room:])
                first = first[:room]
            taken.append(first)
            room -= len(first)
        self._waiting -= limit - room
        return np.unique(np.concatenate(taken)) if taken else np.zeros(0, np.int64)

    def due(self, share: float, limit: int) -> Positions:
        """Look at the next part of the table, and find what has to be told again.

        Args:
            share: how much of the table, 0..1.
            limit: positions at most. Others stay due.
        """
        found = []
        left = min(max(1, int(self._pins.capacity * share)), self._pins.capacity)
        while left > 0:
            part, self._at = self._part(self._at, left)
            left -= (part.stop - part.start + WAYS - 1) // WAYS
            found.append(self._due_in(part))
        return np.concatenate(found)[:limit]

    def _due_in(self, part: slice) -> Positions:
        words, known, ours = self._pins.words[part].copy(), self._known[part], self._ours[part]
        differs = words != known
        if not differs.any() and not ours.any():
            return np.zeros(0, np.int64)
        ours |= differs
        ours &= words != 0
        known[words == 0] = 0
        other = (words ^ known) >> np.uint64(WHEN_BITS) != 0
        # After a long silence, others hear at once that the flow goes on: else their copies would end before it does.
        resumed = differs & ((words - known & _WHEN_MASK) * _TICK_MS >= self._interval_ms[part])
        pending = ours & (other | resumed | (self._due_ms[part] <= self._now_ms()))
        return np.flatnonzero(pending) * WAYS + int(part.start)

    def _part(self, at: int, limit: int) -> tuple[slice, int]:
        """The next places of the table in the order in which they are told: the first ones of all sets, then the second
        ones and so on, as it is much quicker for a hearer to merge flows of which no two share a set.

        Args:
            at: how many places were before.
            limit: how many to take at most.

        Returns:
            Positions, and how many places were before what follows; 0 after the last one.
        """
        sets = self._pins.capacity // WAYS
        way, first = divmod(at, sets)
        last = min(first + limit, sets)
        return slice(first * WAYS + way, (last - 1) * WAYS + way + 1, WAYS), (at + last - first) % self._pins.capacity

    def read(self, positions: Positions) -> tuple[Entries, Positions, Words]:
        """Entries for these places.

        Returns:
            ENTRY, which of *positions* they are (their numbers in it, ascending), and the words of all *positions*; a
            word is 0 where the place was changing at this moment.
        """
        now_ns = self._pins.clock_ns()
        words = self._pins.words[positions]
        flows = self._pins.flows[positions]
        tags = flows["hash64"] & np.uint64(0xFFFFFFFF)
        tags[tags == 0] = 1
        # Whoever gives a place to another flow empties it first: the same word before and after is that flow's.
        words[(self._pins.words[positions] != words) | (words >> np.uint64(TAG_SHIFT) != tags)] = 0
        state, member, age = _fields(words, tick_of(now_ns))
        digests = self._digests[member]
        good = np.flatnonzero((words != 0) & (digests != 0) & (age <= lifetimes(state, flows["idle"])))
        flows = flows[good]
        entries = np.zeros(len(good), ENTRY)
        for name in _SAME:
            entries[name] = flows[name]
        entries["member"] = digests[good]
        entries["age"] = (age[good] << _FINE) + (now_ns >> AGE_SHIFT & ((1 << _FINE) - 1))
        born = np.uint64(now_ns) - np.minimum(flows["born_ns"], np.uint64(now_ns)) >> np.uint64(AGE_SHIFT)
        opened = flows["opened"] != 0
        entries["born"] = np.where(opened, np.minimum(born, np.uint64(BEFORE)), np.uint64(BEFORE))
        entries["state"] = np.where(opened, state[good] | np.uint8(OPENED), state[good])
        return entries, good, words

    def tell(self, positions: Positions) -> Entries:
        """Entries for these places (each once), which count as told from now on, to all that can hear us."""
        entries, good, words = self.read(positions)
        stable = words != 0
        told, words = positions[stable], words[stable]
        fresh = (words ^ self._known[told]) >> np.uint64(MEMBER_SHIFT) != 0
        interval = np.where(fresh, REPEAT_MS, np.maximum(self._interval_ms[told] * _GROWTH, REPEAT_MS))
        # What cannot be told now (its member is not in our tables, or it is over) is looked at again in a second.
        longest = np.full(len(positions), 1000, np.int64)
        longest[good] = _longest_interval_ms(entries["idle"])
        interval = np.minimum(interval, longest[stable])
        self._interval_ms[told] = interval
        self._due_ms[told] = interval + self._now_ms()
        self._known[told] = words
        self._ours[told] = True
        return entries

    def block(self, cursor: int, limit: int) -> tuple[Positions, int]:
        """Live pins of the table, whoever made them.

        Args:
            cursor: 0 for the first block, then what was returned with the one before.
            limit: how many at most.

        Returns:
            Positions, and the cursor of the next block: END when that was all.
        """
        now = self._pins.now()
        found: list[Positions] = []
        count = 0
        while cursor < self._pins.capacity and count < limit:
            part, following = self._part(cursor, 4 * limit)
            words = self._pins.words[part]
            places = np.flatnonzero(words)
            state, _, age = _fields(words[places], now)
            places = places[age <= lifetimes(state, self._pins.flows["idle"][part][places])]
            if count + len(places) > limit:
                places = places[: limit - count]
                following = cursor + int(places[-1]) + 1
            found.append(places * WAYS + part.start)
            count += len(places)
            cursor = following or END
        places = np.concatenate(found) if found else np.zeros(0, np.int64)
        return places, cursor if cursor < self._pins.capacity else END

    # What we hear

    def hear(self, data: bytes | memoryview, under_way_ns: npt.NDArray[np.int64] | int = 0) -> Heard:
        """Take over what another director has told.

        Args:
            data: ENTRY after ENTRY.
            under_way_ns: for how long each, or all of them, have been on their way.
        """
        return self._hear(np.frombuffer(data, ENTRY), under_way_ns)

    def _hear(self, entries: Entries, under_way_ns: npt.NDArray[np.int64] | int) -> Heard:
        now_ns = self._pins.clock_ns()
        now = tick_of(now_ns)
        state, idle = entries["state"] & np.uint8(_RST), entries["idle"]
        late = np.int64(under_way_ns) >> AGE_SHIFT
        fine = entries["age"] + late
        born = np.minimum(entries["born"] + late, BEFORE)
        age = now - ((now_ns >> AGE_SHIFT) - fine >> _FINE)
        fit = np.isin(entries["protocol"], _PROTOCOLS) & (entries["state"] <= OPENED | _RST)
        fit[fit] = age[fit] <= np.minimum(lifetimes(state[fit], idle[fit]), WHEN_MASK - 1)
        place = np.searchsorted(self._sorted, entries["member"])
        known = (self._sorted.take(place, mode="clip") == entries["member"]) & (entries["member"] != 0)
        good = np.flatnonzero(fit & known)
        if len(good):
            born_ns = np.maximum(now_ns - (born[good] << AGE_SHIFT), 0)
            self._merge(entries[good], self._indices[place[good]], state[good], age[good], born_ns, now)
        strangers = np.flatnonzero(fit & ~known)
        lost = 0
        if len(strangers):
            lost = self._put_aside(entries[strangers], fine[strangers], born[strangers], now_ns)
        return Heard(len(good), len(strangers), int(np.count_nonzero(~fit)), lost)

    def _put_aside(
        self, entries: Entries, fine: npt.NDArray[np.int64], born: npt.NDArray[np.int64], now_ns: int
    ) -> int:
        """Keep entries for later, with their ages at this moment. Returns how many others were given up for them."""
        entries["age"], entries["born"] = fine, born
        self._aside.append((entries, now_ns))
        self._kept_aside += len(entries)
        lost = 0
        while self._kept_aside > self._pins.capacity or now_ns - self._aside[0][1] > ASIDE_NS:
            oldest, at_ns = self._aside.popleft()
            self._kept_aside -= len(oldest)
            lost += len(oldest) if now_ns - at_ns <= ASIDE_NS else 0
        return lost

    def _merge(
        self,
        entries: Entries,
        member: npt.NDArray[np.uint16],
        state: npt.NDArray[np.uint8],
        age: npt.NDArray[np.int64],
        born_ns: npt.NDArray[np.int64],
        now: int,
    ) -> None:
        flows = np.zeros(len(entries), FLOW)
        for name in _SAME:
            flows[name] = entries[name]
        flows["opened"] = entries["state"] >= OPENED
        flows["born_ns"] = born_ns
        self._pins.merge(member, state, age, flows)
        # What stands in the table now as it was told is not ours, unless it stood there like that before and was.
        hash64 = flows["hash64"]
        tag = hash64 & np.uint64(0xFFFFFFFF)
        tag[tag == 0] = 1
        told = (
            tag << np.uint64(TAG_SHIFT)
            | member.astype(np.uint64) << np.uint64(MEMBER_SHIFT)
            | state.astype(np.uint64) << np.uint64(STATE_SHIFT)
            | ((now - age) & WHEN_MASK).astype(np.uint64)
        )
        sets = np.uint64(self._pins.capacity // WAYS)
        first = ((hash64 >> np.uint64(32)) * sets >> np.uint64(32)).astype(np.int64) * WAYS
        words = self._pins.words[first[:, None] + np.arange(WAYS)]
        # A tick more when one has just begun.
        stands = (words == told[:, None]) | (words == told[:, None] + np.uint64(1))
        places = first + stands.argmax(axis=1)
        words = words[np.arange(len(words)), stands.argmax(axis=1)]
        taken = stands.any(axis=1) & (self._known[places] != words)
        places = places[taken]
        self._known[places] = words[taken]
        self._ours[places] = False
        # Whoever uses it next tells of that in the next round, whatever was told of another flow in this place before.
        self._interval_ms[places] = _longest_interval_ms(flows["idle"][taken])
        self._due_ms[places] = 0

    def _now_ms(self) -> int:
        return self._pins.clock_ns() // 1_000_000


_PROTOCOLS = [int(protocol) for protocol in Protocol]
_RST = int(PinState.RST)
_SAME = ("source", "destination", "hash64", "ports", "hash32", "idle", "protocol")
"""Fields that FLOW and ENTRY share."""


def _fields(words: Words, now: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    """State, member and age in ticks."""
    return (
        (words >> np.uint64(STATE_SHIFT)).astype(np.uint8) & np.uint8(_RST),
        (words >> np.uint64(MEMBER_SHIFT)).astype(np.uint16),
        (now - words.astype(np.int64)) & WHEN_MASK,
    )


def _longest_interval_ms(idle: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """Between two tellings: a third of the idle timeout, less what a round may add."""
    third = (idle * (_TICK_MS / 3)).astype(np.int64) - ROUND_MS
    return np.where(idle == 0, REFRESH_MS, np.clip(third, REPEAT_MS, REFRESH_MS))

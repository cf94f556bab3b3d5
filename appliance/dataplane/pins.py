"""What a data plane remembers of single flows: a set-associative table in plain memory.

    words    u64, eight to a set and a cache line: tag 32 | member 16 | state 2 | when 14  (from the lowest bit on:
             when, state, member, tag); 0 is empty
    flows    64 bytes for each word: whose flow that is, for people, other directors and the control plane. Written when
             a flow gets its place, and not read to forward packets.
    journal  positions of words that have got a new flow or another member, one ring for each writer
    heads    how many positions each writer has put into its ring so far
    delays   by member index: how many handshakes were seen, and how long they took in all (SYN to the client's ACK)
    gate     until when connections may begin elsewhere than others presume, ns; 0 is always (see `PinTable.attend`)

A flow's set is (hash64 >> 32) * sets >> 32, its tag the lower half of the hash (1 for 0). The memory may be that of an
XDP program's maps, which then writes to the same table: every word is one aligned store, and where both put a flow into
the same set at the same moment, they begin at opposite ends of it. In the worst case a flow is not remembered.

Writers other than the program hold `lock`. Readers need none.
"""

import mmap
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from appliance.forwarding import NO_MEMBER
from appliance.packet.placement import FIN_TICKS, RST_TICKS, TICK_SHIFT, FlowFacts, Pin, PinState

WAYS = 8
"""Words in a set."""

JOURNAL = 1 << 14
"""Positions in each writer's ring."""

PINS_FORM = 1
"""Of words and records: a number higher whenever one of them means something else, since a process goes on with the
table that one of an earlier version has left."""

DEFAULT_PINS = 1 << 17

FLOW = np.dtype(
    [
        ("source", "<u8", 2),
        ("destination", "<u8", 2),
        ("hash64", "<u8"),
        ("born_ns", "<u8"),
        ("ports", "<u4"),
        ("hash32", "<u4"),
        ("idle", "<u2"),
        ("protocol", "u1"),
        ("origin", "u1"),
        ("opened", "u1"),
        ("spare", "u1", 3),
    ]
)
"""
    source, destination    as in the packet, IPv4 mapped into IPv6 (RFC 4291)
    hash64                 `ring.hash.pin_hash`
    born_ns                when the flow got its place, by the monotonic clock; of one that another director told us of,
                           when it was opened there, or else when we heard of it
    ports                  as in the packet, read little-endian
    hash32                 the flow hash that its slot follows from
    idle                   ticks, `placement.idle_ticks`
    origin                 0 when seen here, 1 when another director told us
    opened                 1 when it got its place by its SYN, wherever that was seen
"""

_WHOLE = np.dtype((np.void, FLOW.itemsize))

DELAY = np.dtype([("count", "<u8"), ("ns", "<u8")])

WHEN_BITS, STATE_BITS, MEMBER_BITS = 14, 2, 16
WHEN_MASK = (1 << WHEN_BITS) - 1
STATE_SHIFT = WHEN_BITS
MEMBER_SHIFT = WHEN_BITS + STATE_BITS
TAG_SHIFT = MEMBER_SHIFT + MEMBER_BITS

AHEAD = 4
"""How far in the future a word's time may be, ticks: somebody may have written it with a later look at the clock than
ours. It is then as young as can be, and not as old."""

ATTENTION_NS = 250_000_000
"""How long it counts that somebody has been there. The forwarding thread makes a round in 100 ms at least."""

LOCAL, REMOTE = 0, 1
"""Origins of a flow."""

APART_NS = 50_000_000
"""Two SYNs on one tuple that directors saw less than this apart may have come in either order: what one tells the other
is under way for a while, and nobody knows for how long."""

_BEGUN = np.array([2, 3, 1, 0], np.uint8)
"""By state: of two connections on one tuple that were used in the same tick, the younger one has the higher number."""

Words = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
Members = npt.NDArray[np.uint16]
States = npt.NDArray[np.uint8]
"""PinState."""


@dataclass(frozen=True)
class LivePins:
    """Live entries, column by column, all of one length."""

    position: npt.NDArray[np.int64]
    member: npt.NDArray[np.uint16]
    state: npt.NDArray[np.uint8]
    age: npt.NDArray[np.int64]
    """Ticks since last use."""
    flows: npt.NDArray[np.void]
    """FLOW."""

    def __len__(self) -> int:
        return len(self.position)


class Found:
    """What a table has of many flows, column by column."""

    __slots__ = ("_way", "everything", "sets", "word")

    def __init__(self, word: Words, sets: Positions, way: Positions, *, everything: bool = True) -> None:
        self.word = word
        """0 where there is no entry."""
        self.sets = sets
        """That the flows belong to."""
        self.everything = everything
        """True when every flow has an entry."""
        self._way = way

    def states(self) -> States:
        """Of the entries; NEW where there is none."""
        return _states(self.word)

    def positions(self, rows: Positions | slice = slice(None)) -> Positions:
        """Where the entries are, of those flows that have one."""
        return self.sets[rows] * WAYS + (self._way[rows] & WAYS - 1)


def sets_for(pins: int) -> int:
    """How many sets hold so many pins."""
    return max(1, -(-pins // WAYS))


def layout(pins: int, writers: int) -> Mapping[str, tuple[np.dtype[Any], int]]:
    """The parts of the memory: type and number of elements."""
    places = sets_for(pins) * WAYS
    return {
        "words": (np.dtype("<u8"), places),
        "flows": (FLOW, places),
        "journal": (np.dtype("<u4"), writers * JOURNAL),
        "heads": (np.dtype("<u8"), writers),
        "delays": (DELAY, 1 << 16),
        "gate": (np.dtype("<u8"), 1),
    }


def _whole_lines(size: int) -> int:
    return -(-size // 64) * 64


def file_bytes(pins: int) -> int:
    """How large a file is that a table is in: `PinTable.in_file`."""
    return sum(_whole_lines(dtype.itemsize * count) for dtype, count in layout(pins, 1).values())


def pack(tag: int, member: int, state: int, when: int) -> int:
    """A word."""
    return tag << TAG_SHIFT | member << MEMBER_SHIFT | state << STATE_SHIFT | (when & WHEN_MASK)


def age_of(word: int, now: int) -> int:
    """Ticks since an entry was used."""
    age = now - word & WHEN_MASK
    return age if age <= WHEN_MASK - AHEAD else 0


def ages_of(words: Words, now: int) -> npt.NDArray[np.int64]:
    """`age_of`, for columns."""
    ages = np.uint64(now & WHEN_MASK) - words  # modulo 2^64, of which only the lowest bits matter
    ages &= np.uint64(WHEN_MASK)
    signed = ages.view(np.int64)
    signed[signed > WHEN_MASK - AHEAD] = 0
    return signed


def tick_of(ns: int) -> int:
    """Ticks of a time on the monotonic clock."""
    return ns >> TICK_SHIFT


class Herald(Protocol):
    """Tells other directors of connections that begin elsewhere than they presume, before the first packet goes. All of
    it is called by the thread that forwards."""

    @property
    def is_heard(self) -> bool:
        """Whether there is anybody to be told."""

    def grant(self, wanted: int) -> int:
        """Of how many more they can be told now, 0 to *wanted*; that many are then used up."""

    def tell(self, positions: Positions) -> None:
        """Tell of the flows at these places. Returns when that is on its way."""


class PinTable:
    """The table. Time comes in as ticks: `tick_of(time.monotonic_ns())`.

    The methods for columns are one pass of NumPy after the other over many flows; they do what those for one flow do.
    """

    def __init__(
        self,
        memory: Mapping[str, npt.NDArray[Any]],
        *,
        writer: int,
        clock_ns: Callable[[], int],
    ) -> None:
        """
        Args:
            memory: the parts that `layout` names.
            writer: which journal is ours; an XDP program's CPUs have those before it.
            clock_ns: the monotonic clock.
        """
        self.words: Words = memory["words"]
        self.flows = memory["flows"]
        self.heads = memory["heads"]
        self.journal = memory["journal"].reshape(len(self.heads), JOURNAL)
        self.delays = memory["delays"]
        self.herald: Herald | None = None
        """Who tells other directors; None while there is nobody to be told."""
        self.silent = False
        """Whether `attend` says nothing: a program still goes by what an earlier process has told others of."""
        self.lock = threading.Lock()
        self.clock_ns = clock_ns
        self.made = 0
        """Flows that have got a place, or another member, by a packet."""
        self.told = 0
        """Flows that have got a place, or another member, by `merge`."""
        self.evicted = dict.fromkeys(PinState, 0)
        """Live entries that had to make room for other flows."""

        self._writer = writer
        self._sets = len(self.words) // WAYS
        self._table = self.words.reshape(self._sets, WAYS)
        self._idle = self.flows["idle"].reshape(self._sets, WAYS)
        self._whole = self.flows.view(_WHOLE)
        # For one word or record at a time, a memory view is several times as quick as an array.
        self._words = self.words.data
        self._records = self.flows.view(np.uint8).data
        self._gate = memory["gate"].data

    @classmethod
    def in_memory(cls, pins: int, clock_ns: Callable[[], int]) -> "PinTable":
        """A table of its own, for one writer."""
        memory = {name: np.zeros(count, dtype) for name, (dtype, count) in layout(pins, 1).items()}
        return cls(memory, writer=0, clock_ns=clock_ns)

    @classmethod
    def in_file(cls, fd: int, pins: int, clock_ns: Callable[[], int]) -> "PinTable":
        """The same in a file's memory, which other processes can go on with: of `file_bytes(pins)`, zeros at first.

        One of them writes at a time, but for moments: then a flow may be remembered as the other one has it.
        """
        memory, parts, at = mmap.mmap(fd, file_bytes(pins)), {}, 0
        for name, (dtype, count) in layout(pins, 1).items():
            parts[name] = np.frombuffer(memory, dtype, count, at)
            at += _whole_lines(dtype.itemsize * count)
        return cls(parts, writer=0, clock_ns=clock_ns)

    @property
    def capacity(self) -> int:
        return len(self.words)

    def now(self) -> int:
        """The present tick."""
        return tick_of(self.clock_ns())

    # One flow

    def find(self, hash64: int, now: int) -> tuple[int, Pin] | None:
        """Position and entry of a flow, live or not."""
        position, word = self.find_word(hash64)
        return (position, _pin(word, now)) if word else None

    def find_word(self, hash64: int) -> tuple[int, int]:
        """Position and word of a flow; the word is 0 when there is none."""
        first, tag = self._first(hash64), _tag(hash64)
        for position, word in enumerate(self._words[first : first + WAYS].tolist(), first):
            if word >> TAG_SHIFT == tag:
                return position, word
        return 0, 0

    def may_open(self, *, look_only: bool = False) -> bool:
        """See `placement.Pins`."""
        return look_only or self.herald is None or self.herald.grant(1) == 1

    def attend(self) -> None:
        """Whoever forwards says that it is there, and tells: for a program that leaves new connections to it."""
        if self.silent:
            return
        heard = self.herald is not None and self.herald.is_heard
        self._gate[0] = self.clock_ns() + ATTENTION_NS if heard else 0

    def keep(self, pin: Pin, flow: FlowFacts, now: int, *, tell: bool = False) -> None:
        """Remember a flow, or what has become of it; see `placement.Pins`. Of its pin, `age` counts as well."""
        position = self._keep(pin, flow, now)
        if tell and self.herald is not None:
            self.herald.tell(np.array([position]))

    def _keep(self, pin: Pin, flow: FlowFacts, now: int) -> int:
        after = pack(_tag(flow.hash64), pin.member, pin.state, now - pin.age)
        with self.lock:
            position, before = self.find_word(flow.hash64)
            if before:
                if before >> STATE_SHIFT & 3 == PinState.NEW and pin.state is PinState.OPEN:
                    self._count_delay(position, pin.member)
                self._words[position] = after
                if before >> MEMBER_SHIFT & NO_MEMBER != pin.member or (pin.state is PinState.NEW and pin.age == 0):
                    self._write_down(position, flow)
                return position
            position = self._make_room(self._first(flow.hash64), now)
            self._words[position] = 0
            self._write_down(position, flow)
            self._words[position] = after
            return position

    def use(self, position: int, before: int, after: int) -> None:
        """A flow goes on where it is.

        Args:
            position: from `find_word`, as is *before*; when the place has changed meanwhile, nothing is done.
            after: with the same tag and member.
        """
        with self.lock:
            if self._words[position] != before:
                return
            if before >> STATE_SHIFT & 3 == PinState.NEW and after >> STATE_SHIFT & 3 == PinState.OPEN:
                self._count_delay(position, after >> MEMBER_SHIFT & NO_MEMBER)
            self._words[position] = after

    # Many flows. Callers hold `lock` from finding them to writing.

    def may_open_all(self, count: int) -> int:
        """`may_open` for so many: how many of them may."""
        return count if self.herald is None else self.herald.grant(count)

    def tell_all(self, hash64: Words) -> None:
        """Tell other directors of flows that have just been kept."""
        if self.herald is not None:
            found = self.find_all(hash64)
            self.herald.tell(found.positions(np.flatnonzero(found.word)))

    def find_all(self, hash64: Words) -> "Found":
        """`find_word` for columns."""
        sets = self._sets_of(hash64)
        gathered = self._table[sets]
        tags = np.ascontiguousarray(hash64).view(np.uint32)[::2]
        if not tags.all():
            tags = _tags(hash64).astype(np.uint32)
        flat = np.flatnonzero(gathered.view(np.uint32)[:, 1::2] == tags[:, None])
        rows = flat >> _WAYS_SHIFT
        if len(flat) == len(hash64) and bool((rows[1:] > rows[:-1]).all()):
            return Found(gathered.reshape(-1).take(flat), sets, flat)
        # Of two that fit, the first one counts, which is assigned last.
        word, way = np.zeros(len(hash64), np.uint64), np.zeros(len(hash64), np.int64)
        word[rows[::-1]] = gathered.reshape(-1).take(flat[::-1])
        way[rows[::-1]] = flat[::-1]
        return Found(word, sets, way, everything=False)

    def use_all(self, found: "Found", after: Words) -> None:
        """`use` for columns. A flow may be there more than once: its highest state counts.

        Args:
            found: the flows' entries.
            after: words from now on; what is there already stays.
        """
        changed = np.flatnonzero(found.word != after)
        if not len(changed):
            return
        position, before, after = found.positions(changed), found.word[changed], after[changed]
        there = self.words[position] == before
        if not there.all():  # a program has put another flow there meanwhile
            position, before, after = position[there], before[there], after[there]
            if not len(position):
                return
        state = after >> _STATE_SHIFT & _STATE_MASK
        if int(state.max()) > PinState.OPEN:
            order = np.argsort(state, kind="stable")
            self.words[position[order]] = after[order]
        else:
            self.words[position] = after
        established = ((before >> _STATE_SHIFT & _STATE_MASK) == PinState.NEW) & (state == PinState.OPEN)
        if established.any():
            places, first = np.unique(position[established], return_index=True)
            self._count_delays(places, _members(after[established][first]))

    def keep_all(
        self, found: "Found", rows: Positions, member: Members, state: States, flows: npt.NDArray[np.void], now: int
    ) -> None:
        """`keep` for columns, of flows that have just been used.

        Args:
            found: the entries of more flows than these.
            rows: which of them these are.
            member: to be remembered.
            state: PinState.
            flows: FLOW; no two of the same flow. `born_ns` is filled in here.
            now: the present tick.
        """
        hash64, before = flows["hash64"], found.word[rows]
        flows["born_ns"] = self.clock_ns()
        after = _packed(hash64, member, state, now)
        known = np.flatnonzero(before)
        if len(known):
            places = found.positions(rows[known])
            established = (_states(before[known]) == PinState.NEW) & (state[known] == PinState.OPEN)
            if established.any():
                self._count_delays(places[established], member[known][established])
            self.words[places] = after[known]
            other = (_members(before[known]) != member[known]) | (state[known] == PinState.NEW)
            self._write_all_down(places[other], take(flows, known[other]))
        rest = np.flatnonzero(before == 0)
        while len(rest):
            # Of flows that share a set, one after the other gets its place.
            sets = found.sets[rows[rest]]
            first = np.sort(np.unique(sets, return_index=True)[1])
            chosen = rest[first]
            places = self._make_room_for_all(sets[first], now)
            self.words[places] = 0
            self._write_all_down(places, take(flows, chosen))
            self.words[places] = after[chosen]
            rest = np.delete(rest, first)

    def merge(self, member: Members, state: States, age: npt.NDArray[np.int64], flows: npt.NDArray[np.void]) -> int:
        """Remember what another director remembers.

        Of what two know of the same flow, what was used later counts: member and state; when it was at the same time,
        the higher state (of other members: the one that is not closing), and then what is here already. Where both know
        the same member, NEW does not take OPEN back.
        Ticks are long against the time in which a client opens another connection from the port of one that it has just
        closed. So of other members that were used at the same time, give or take a tick, the one counts whose flow was
        opened later, and what a SYN has opened before what has been guessed in the middle of a flow.
        In a full set, a flow that is told of gets a place as if it had come at the time when it was used last: in the
        place of one that would have gone before it, and never in the place of one that is better (packet/placement.py
        has the order). So it makes no difference how often something is told, and next to none in which order.

        Nothing of this is written into the journal, and nobody's handshake is counted.

        Args:
            member: of each pin, by the indices of this director.
            state: PinState.
            age: ticks since last use.
            flows: FLOW; `origin` does not matter, nor does `born_ns` where `opened` is 0.

        Returns:
            How many flows have got a place or another member.
        """
        wanted = np.flatnonzero(age <= np.minimum(lifetimes(state, flows["idle"]), WHEN_MASK))
        # Of the same flow twice, the later one; the first of those that are as good.
        younger = -_opened_ns(flows[wanted])
        order = wanted[np.lexsort((-state[wanted].astype(np.int64), younger, age[wanted]))]
        _, first = np.unique(flows["hash64"][order], return_index=True)
        order = order[np.sort(first)]
        changed = 0
        for begin in range(0, len(order), _AT_ONCE):
            part = order[begin : begin + _AT_ONCE]
            changed += self._merge(member[part], state[part], age[part], take(flows, part))
        return changed

    def _merge(self, member: Members, state: States, age: npt.NDArray[np.int64], flows: npt.NDArray[np.void]) -> int:
        """`merge` for some thousand flows, in columns that are not the caller's."""
        flows["origin"] = REMOTE
        flows["born_ns"][flows["opened"] == 0] = self.clock_ns()
        hash64 = flows["hash64"]
        sets = self._sets_of(hash64)
        rest = np.arange(len(hash64))
        changed = 0
        while len(rest):
            _, first = np.unique(sets[rest], return_index=True)
            first.sort()
            chosen = rest[first]
            with self.lock:
                changed += self._merge_into_sets(member[chosen], state[chosen], age[chosen], take(flows, chosen))
            rest = np.delete(rest, first)
        return changed

    def _merge_into_sets(
        self, member: Members, state: States, age: npt.NDArray[np.int64], flows: npt.NDArray[np.void]
    ) -> int:
        """`merge` for flows of which no two share a set."""
        hash64, now = np.ascontiguousarray(flows["hash64"]), self.now()
        found = self.find_all(hash64)
        position, before = found.positions(), found.word
        here_age, here_state = ages_of(before, now), _states(before)
        known = (before != 0) & (here_age <= lifetimes(here_state, self.flows["idle"][position]))
        same = known & (_members(before) == member)
        later = (age < here_age) | ((age == here_age) & (state > here_state))

        low = np.minimum(state, here_state)
        both_open = same & (np.maximum(state, here_state) == PinState.OPEN) & (low == PinState.NEW)
        # After an RST, a SYN begins anew.
        later |= (age == here_age) & (here_state == PinState.RST) & (state < PinState.FIN)
        merged_state = np.where(both_open, PinState.OPEN, np.where(later, state, here_state)).astype(np.uint8)
        merged = _packed(hash64, member, merged_state, now - np.minimum(age, here_age))
        better = same & (merged != before)
        self.words[position[better]] = merged[better]

        # Only a SYN moves a flow to another member, so of two in one tick that which is not closing is the younger one.
        begun = _BEGUN.take(state) > _BEGUN.take(here_state)
        newer = (age < here_age) | ((age == here_age) & begun)
        opened_later = _opened_ns(flows) - _opened_ns(self.flows[position])
        newer = np.where((np.abs(opened_later) > APART_NS) & (np.abs(age - here_age) <= 1), opened_later > 0, newer)
        moved = known & ~same & newer | ~known & (before != 0)
        after = _packed(hash64, member, state, now - age)
        self.words[position[moved]] = after[moved]
        self._whole[position[moved]] = flows.view(_WHOLE)[moved]

        new = np.flatnonzero(before == 0)
        sets = found.sets[new]
        worth, way = self._worth_least(sets, now)
        mine = _RANKS.take(state[new]) << WHEN_BITS | age[new]
        enters = worth > mine
        self._count_evicted(worth[enters])
        new, places = new[enters], sets[enters] * WAYS + way[enters]
        self.words[places] = 0
        self._whole[places] = flows.view(_WHOLE)[new]
        self.words[places] = after[new]
        changed = int(np.count_nonzero(moved)) + len(new)
        self.told += changed
        return changed

    # All flows

    def live(self, serves: npt.NDArray[np.bool_] | None = None) -> LivePins:
        """All entries that count at this moment.

        Args:
            serves: by member index; pins of others do not count. None takes all.
        """
        now = self.now()
        position = np.flatnonzero(self.words.copy())  # XDP writes meanwhile
        words = self.words[position]
        age, state, member = ages_of(words, now), _states(words), _members(words)
        alive = age <= lifetimes(state, self.flows["idle"][position])
        if serves is not None:
            alive &= serves[member]
        position, words = position[alive], words[alive]
        flows = take(self.flows, position)
        # A place that got another flow just now may have the record of one and the word of the other.
        whole = _tags(flows["hash64"]) == words >> _TAG_SHIFT
        if not whole.all():
            position, flows = position[whole], take(flows, np.flatnonzero(whole))
            alive[np.flatnonzero(alive)[~whole]] = False
        return LivePins(position, member[alive], state[alive], age[alive], flows)

    def sweep(self) -> int:
        """Empty the places of flows that are over, before their age is taken for a young one. Returns how many."""
        now = self.now()
        position = np.flatnonzero(self.words.copy())  # XDP writes meanwhile
        words = self.words[position]
        age = ages_of(words, now)
        old = age > RST_TICKS + 1  # nothing else can be over, and a look at a record is another cache line
        position, words, age = position[old], words[old], age[old]
        over = age > lifetimes(_states(words), self.flows["idle"][position]) + 1
        position, words = position[over], words[over]
        with self.lock:
            unchanged = self.words[position] == words  # as good as it gets without a lock that the program knows
            self.words[position[unchanged]] = 0
        return int(np.count_nonzero(unchanged))

    def forget(self, serves: npt.NDArray[np.bool_]) -> int:
        """Empty the places of members that do not serve any more: should one come back, its flows are somewhere else.

        Args:
            serves: by member index.

        Returns:
            How many places that were.
        """
        with self.lock:
            words = self.words.copy()
            position = np.flatnonzero(words)
            words = words[position]
            lost = ~serves[_members(words)]
            position, words = position[lost], words[lost]
            unchanged = self.words[position] == words
            self.words[position[unchanged]] = 0
            return int(np.count_nonzero(unchanged))

    def set_idle(self, position: Positions, idle: npt.NDArray[np.uint16]) -> None:
        """Write other idle timeouts (ticks) into records. Should a place belong to another flow by now, that has what
        is written there until it is looked at again."""
        self.flows["idle"][position] = idle

    def changes(self, cursors: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], bool]:
        """Places that have got a new flow or another member lately.

        Args:
            cursors: as far as each writer's journal was read before; zeros to begin with.

        Returns:
            Positions (some maybe twice), new cursors, and whether a journal has overflown in between.
        """
        heads = self.heads.copy()
        positions, lost = [], False
        for row, (cursor, head) in enumerate(zip(cursors.tolist(), heads.tolist(), strict=True)):
            if head - cursor > JOURNAL:
                lost, cursor = True, head - JOURNAL
            positions.append(self.journal[row, np.arange(cursor, head) % JOURNAL].astype(np.int64))
        return np.concatenate(positions), heads, lost

    # Inside

    def _first(self, hash64: int) -> int:
        return ((hash64 >> 32) * self._sets >> 32) * WAYS

    def _sets_of(self, hash64: Words) -> Positions:
        sets = hash64 >> _TAG_SHIFT
        sets *= np.uint64(self._sets)
        sets >>= _TAG_SHIFT
        return sets.view(np.int64)

    def _make_room(self, first: int, now: int) -> int:
        """The place to give up: from the set's end, where the program begins at its front."""
        words = self._words[first : first + WAYS].tolist()
        if 0 in words:
            return first + WAYS - 1 - words[::-1].index(0)
        idles = self._idle[first // WAYS].tolist()
        worths = [_worth(word, idle, now) for word, idle in zip(words, idles, strict=True)]
        worst = max(worths)
        if worst >> WHEN_BITS < _OVER:
            self.evicted[_pin(words[worths.index(worst)], now).state] += 1
        return first + WAYS - 1 - worths[::-1].index(worst)

    def _make_room_for_all(self, sets: Positions, now: int) -> Positions:
        worth, way = self._worth_least(sets, now)
        self._count_evicted(worth)
        return sets * WAYS + way

    def _worth_least(self, sets: Positions, now: int) -> tuple[Positions, Positions]:
        """In each of some sets, the place that is given up first: how readily (`_worth`), and which one it is."""
        words = self._table[sets]
        empty = words == 0
        if bool(empty.any(axis=1).all()):
            worths = np.where(empty, _EMPTY << WHEN_BITS, 0)  # no need to look at the others
        else:
            age, state = ages_of(words, now), _states(words)
            over = age > lifetimes(state, self._idle[sets])
            worths = np.where(empty, _EMPTY, np.where(over, _OVER, _RANKS.take(state))) << WHEN_BITS
            worths |= np.where(empty, 0, age)
        way = WAYS - 1 - worths[:, ::-1].argmax(axis=1)
        return worths[np.arange(len(sets)), way], way

    def _count_evicted(self, worth: Positions) -> None:
        """Count entries that were given up, by their `_worth`."""
        alive = worth[worth < _OVER << WHEN_BITS]
        if len(alive):
            for state, rank in zip(PinState, _RANKS.tolist(), strict=True):
                self.evicted[state] += int(np.count_nonzero(alive >> WHEN_BITS == rank))

    def _write_down(self, position: int, flow: FlowFacts) -> None:
        record = (
            *_mapped(flow.source),
            *_mapped(flow.destination),
            flow.hash64,
            self.clock_ns(),
            int.from_bytes(flow.ports, "little"),
            flow.hash32,
            min(flow.idle, 0xFFFF),
            flow.protocol,
            flow.origin,
            flow.opened,
        )
        _RECORD.pack_into(self._records, position * FLOW.itemsize, *record)
        if flow.origin == LOCAL:
            head = int(self.heads[self._writer])
            self.journal[self._writer, head % JOURNAL] = position
            self.heads[self._writer] = head + 1
            self.made += 1

    def _write_all_down(self, places: Positions, flows: npt.NDArray[np.void]) -> None:
        self._whole[places] = flows.view(_WHOLE)
        head = int(self.heads[self._writer])
        self.journal[self._writer, np.arange(head, head + len(places)) % JOURNAL] = places
        self.heads[self._writer] = head + len(places)
        self.made += len(places)

    def _count_delay(self, position: int, member: int) -> None:
        if self.flows[position]["opened"] and self.flows[position]["origin"] == LOCAL:
            self.delays[member]["count"] += 1
            self.delays[member]["ns"] += self.clock_ns() - int(self.flows[position]["born_ns"])

    def _count_delays(self, places: Positions, member: Members) -> None:
        opened = (self.flows["opened"][places] != 0) & (self.flows["origin"][places] == LOCAL)
        places, member = places[opened], member[opened]
        np.add.at(self.delays["count"], member, np.uint64(1))
        np.add.at(self.delays["ns"], member, np.uint64(self.clock_ns()) - self.flows["born_ns"][places])


def take(flows: npt.NDArray[np.void], rows: Positions) -> npt.NDArray[np.void]:
    """Some of an array of FLOW: many times as quick as by index, which goes field by field."""
    return flows.view(_WHOLE).take(rows).view(FLOW)


def _opened_ns(flows: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """When SYNs opened them; 0 where none did."""
    return np.where(flows["opened"] != 0, flows["born_ns"], 0).astype(np.int64)


def lifetime(state: int, idle: int) -> int:
    """The highest age at which a pin counts (`placement.is_live`), in ticks.

    Args:
        state: PinState.
        idle: `placement.idle_ticks`.
    """
    if state == PinState.RST:
        return RST_TICKS
    if state == PinState.FIN:
        return min(idle or FIN_TICKS, FIN_TICKS)
    return idle or WHEN_MASK


def lifetimes(state: States, idle: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """`lifetime`, for columns."""
    limit = np.where(idle == 0, WHEN_MASK, idle.astype(np.int64))
    if state.size and int(state.max()) > PinState.OPEN:
        fin = np.minimum(limit, FIN_TICKS)
        limit = np.where(state == PinState.FIN, fin, np.where(state == PinState.RST, RST_TICKS, limit))
    return limit


_RECORD = struct.Struct("<6QIIHBBB3x")
"""FLOW."""

_AT_ONCE = 4096
"""Flows that are merged while others wait for the lock, at most."""

_WAYS_SHIFT = 3
_STATE_MASK, _MEMBER_MASK = np.uint64(3), np.uint64(NO_MEMBER)
_STATE_SHIFT, _MEMBER_SHIFT, _TAG_SHIFT = np.uint64(STATE_SHIFT), np.uint64(MEMBER_SHIFT), np.uint64(TAG_SHIFT)
_TAG_MASK = np.uint64(0xFFFFFFFF)

_EMPTY, _OVER = 5, 4
_RANKS = np.array([1, 0, 2, 3], np.int64)
"""By state. What has the highest rank is given up first, and of that the oldest: empty, over, RST, FIN, NEW, OPEN."""


def _worth(word: int, idle: int, now: int) -> int:
    """Sorts entries: the highest is given up first. Rank, and age below it."""
    if not word:
        return _EMPTY << WHEN_BITS
    age, state = age_of(word, now), word >> STATE_SHIFT & 3
    rank = _OVER if age > lifetime(state, idle) else int(_RANKS[state])
    return rank << WHEN_BITS | age


def _tag(hash64: int) -> int:
    return hash64 & 0xFFFFFFFF or 1


def _tags(hash64: Words) -> Words:
    tags = hash64 & _TAG_MASK
    tags[tags == 0] = 1
    return tags


def _pin(word: int, now: int) -> Pin:
    return Pin(word >> MEMBER_SHIFT & NO_MEMBER, _STATES[word >> STATE_SHIFT & 3], age_of(word, now))


_STATES = tuple(PinState)


def _states(words: Words) -> States:
    return (words >> _STATE_SHIFT & _STATE_MASK).astype(np.uint8)


def _members(words: Words) -> Members:
    return (words >> _MEMBER_SHIFT & _MEMBER_MASK).astype(np.uint16)


def _packed(hash64: Words, member: Members, state: States, when: int | npt.NDArray[np.int64]) -> Words:
    """`pack`, for columns."""
    words = _tags(hash64) << _TAG_SHIFT
    words |= member.astype(np.uint64) << _MEMBER_SHIFT
    words |= state.astype(np.uint64) << _STATE_SHIFT
    words |= np.asarray(np.asarray(when) & WHEN_MASK, np.uint64)
    return words


def _mapped(address: bytes) -> tuple[int, int]:
    if len(address) == 4:
        return 0, int.from_bytes(address, "little") << 32 | 0xFFFF0000
    return int.from_bytes(address[:8], "little"), int.from_bytes(address[8:], "little")


def addresses(column: npt.NDArray[np.uint64]) -> Iterator[bytes]:
    """The addresses of a FLOW column, 4 or 16 bytes each."""
    for address in np.ascontiguousarray(column).view("V16").reshape(-1):
        packed = address.tobytes()
        yield packed[12:] if packed[:12] == bytes(10) + b"\xff\xff" else packed

"""What a data plane remembers of single flows: a set-associative table in plain memory.

    words    u64, eight to a set and a cache line: tag 32 | member 16 | state 2 | when 14  (from the lowest bit on:
             when, state, member, tag); 0 is empty
    flows    64 bytes for each word: whose flow that is, for people, other directors and the control plane. Written when
             a flow gets its place, and not read to forward packets.
    journal  positions of words that have got a new flow or another member, one ring for each writer
    heads    how many positions each writer has put into its ring so far
    delays   by member index: how many handshakes were seen, and how long they took in all (SYN to the client's ACK)

A flow's set is (hash64 >> 32) * sets >> 32, its tag the lower half of the hash (1 for 0). The memory may be that of an
XDP program's maps, which then writes to the same table: every word is one aligned store, and where both put a flow into
the same set at the same moment, they begin at opposite ends of it. In the worst case a flow is not remembered.

Writers other than the program hold `lock`. Readers need none.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.forwarding import NO_MEMBER
from appliance.packet.placement import FIN_TICKS, RST_TICKS, TICK_SHIFT, FlowFacts, Pin, PinState, is_live

WAYS = 8
"""Words in a set."""

JOURNAL = 1 << 14
"""Positions in each writer's ring."""

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
    born_ns                when the flow got its place, by the monotonic clock
    ports                  as in the packet, read little-endian
    hash32                 the flow hash that its slot follows from
    idle                   ticks, `placement.idle_ticks`
    origin                 0 when seen here, 1 when another director told us
    opened                 1 when it got its place by its SYN
"""

DELAY = np.dtype([("count", "<u8"), ("ns", "<u8")])

WHEN_BITS, STATE_BITS, MEMBER_BITS = 14, 2, 16
WHEN_MASK = (1 << WHEN_BITS) - 1
STATE_SHIFT = WHEN_BITS
MEMBER_SHIFT = WHEN_BITS + STATE_BITS
TAG_SHIFT = MEMBER_SHIFT + MEMBER_BITS

LOCAL, REMOTE = 0, 1
"""Origins of a flow."""

Words = npt.NDArray[np.uint64]


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
    }


def pack(tag: int, member: int, state: int, when: int) -> int:
    """A word."""
    return tag << TAG_SHIFT | member << MEMBER_SHIFT | state << STATE_SHIFT | (when & WHEN_MASK)


def tick_of(ns: int) -> int:
    """Ticks of a time on the monotonic clock."""
    return ns >> TICK_SHIFT


class PinTable:
    """The table. Time comes in as ticks: `tick_of(time.monotonic_ns())`."""

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
        self.lock = threading.Lock()
        self.clock_ns = clock_ns
        self._writer = writer
        self._sets = len(self.words) // WAYS

    @classmethod
    def in_memory(cls, pins: int, clock_ns: Callable[[], int]) -> "PinTable":
        """A table of its own, for one writer."""
        memory = {name: np.zeros(count, dtype) for name, (dtype, count) in layout(pins, 1).items()}
        return cls(memory, writer=0, clock_ns=clock_ns)

    @property
    def capacity(self) -> int:
        return len(self.words)

    def now(self) -> int:
        """The present tick."""
        return tick_of(self.clock_ns())

    def find(self, hash64: int, now: int) -> tuple[int, Pin] | None:
        """Position and entry of a flow, live or not."""
        first, tag = self._first(hash64), _tag(hash64)
        for position, word in enumerate(self.words[first : first + WAYS].tolist(), first):
            if word >> TAG_SHIFT == tag:
                return position, _pin(word, now)
        return None

    def keep(self, pin: Pin, flow: FlowFacts, now: int) -> None:
        """Remember a flow, or what has become of it. Of its pin, `age` counts as well."""
        with self.lock:
            found = self.find(flow.hash64, now)
            when = now - pin.age
            if found is not None:
                position, entry = found
                if entry.state is PinState.NEW and pin.state is PinState.OPEN:
                    self._count_delay(position, pin.member)
                self.words[position] = pack(_tag(flow.hash64), pin.member, pin.state, when)
                if entry.member != pin.member or (pin.state is PinState.NEW and pin.age == 0):
                    self._write_down(position, flow)
                return
            position = self._victim(self._first(flow.hash64), now)
            self.words[position] = 0
            self._write_down(position, flow)
            self.words[position] = pack(_tag(flow.hash64), pin.member, pin.state, when)

    def live(self, serves: npt.NDArray[np.bool_] | None = None) -> LivePins:
        """All entries that count at this moment.

        Args:
            serves: by member index; pins of others do not count. None takes all.
        """
        now = self.now()
        words = self.words.copy()
        position = np.flatnonzero(words)
        words = words[position]
        age = (now - (words & np.uint64(WHEN_MASK)).astype(np.int64)) & WHEN_MASK
        state = (words >> np.uint64(STATE_SHIFT) & np.uint64(3)).astype(np.uint8)
        member = (words >> np.uint64(MEMBER_SHIFT) & np.uint64(0xFFFF)).astype(np.uint16)
        flows = self.flows[position]
        alive = age <= _lifetime(state, flows["idle"])
        if serves is not None:
            alive &= serves[member]
        return LivePins(position[alive], member[alive], state[alive], age[alive], flows[alive])

    def sweep(self) -> int:
        """Empty the places of flows that are over, before their age is taken for a young one. Returns how many."""
        with self.lock:
            now = self.now()
            words = self.words.copy()
            position = np.flatnonzero(words)
            words = words[position]
            age = (now - (words & np.uint64(WHEN_MASK)).astype(np.int64)) & WHEN_MASK
            state = (words >> np.uint64(STATE_SHIFT) & np.uint64(3)).astype(np.uint8)
            over = age > _lifetime(state, self.flows["idle"][position]) + 1
            position, words = position[over], words[over]
            unchanged = self.words[position] == words  # as good as it gets without a lock that the program knows
            self.words[position[unchanged]] = 0
            return int(np.count_nonzero(unchanged))

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

    def _first(self, hash64: int) -> int:
        return ((hash64 >> 32) * self._sets >> 32) * WAYS

    def _victim(self, first: int, now: int) -> int:
        """The place to give up: from the set's end, where the program begins at its front."""
        words = self.words[first : first + WAYS].tolist()
        idles = self.flows["idle"][first : first + WAYS].tolist()
        return max(
            range(first + WAYS - 1, first - 1, -1),
            key=lambda position: _worth_giving_up(words[position - first], idles[position - first], now),
        )

    def _write_down(self, position: int, flow: FlowFacts) -> None:
        record = self.flows[position]
        record["source"] = _mapped(flow.source)
        record["destination"] = _mapped(flow.destination)
        record["hash64"], record["hash32"] = flow.hash64, flow.hash32
        record["born_ns"] = self.clock_ns()
        record["ports"] = int.from_bytes(flow.ports, "little")
        record["idle"], record["protocol"] = flow.idle, flow.protocol
        record["origin"], record["opened"] = flow.origin, flow.opened
        if flow.origin == LOCAL:
            head = int(self.heads[self._writer])
            self.journal[self._writer, head % JOURNAL] = position
            self.heads[self._writer] = head + 1

    def _count_delay(self, position: int, member: int) -> None:
        if self.flows[position]["opened"]:
            self.delays[member]["count"] += 1
            self.delays[member]["ns"] += self.clock_ns() - int(self.flows[position]["born_ns"])


def _lifetime(state: npt.NDArray[np.uint8], idle: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """`placement.is_live`, for columns: the highest age at which a pin counts."""
    forever = np.int64(WHEN_MASK)
    limit = np.where(idle == 0, forever, idle.astype(np.int64))
    limit = np.where(state == PinState.FIN, np.minimum(limit, FIN_TICKS), limit)
    return np.where(state == PinState.RST, RST_TICKS, limit)


def _worth_giving_up(word: int, idle: int, now: int) -> tuple[int, int]:
    """Sorts places: the highest is given up first. Empty, over, RST, FIN, NEW, OPEN; old ones first."""
    if not word:
        return 5, 0
    pin = _pin(word, now)
    if not is_live(pin, idle):
        return 4, pin.age
    rank = {PinState.RST: 3, PinState.FIN: 2, PinState.NEW: 1, PinState.OPEN: 0}[pin.state]
    return rank, pin.age


def _tag(hash64: int) -> int:
    return hash64 & 0xFFFFFFFF or 1


def _pin(word: int, now: int) -> Pin:
    member = word >> MEMBER_SHIFT & NO_MEMBER
    return Pin(member, PinState(word >> STATE_SHIFT & 3), (now - word) & WHEN_MASK)


def _mapped(address: bytes) -> tuple[int, int]:
    if len(address) == 4:
        address = bytes(10) + b"\xff\xff" + address
    return int.from_bytes(address[:8], "little"), int.from_bytes(address[8:], "little")


def addresses(column: npt.NDArray[np.uint64]) -> Iterator[bytes]:
    """The addresses of a FLOW column, 4 or 16 bytes each."""
    for address in np.ascontiguousarray(column).view("V16").reshape(-1):
        packed = address.tobytes()
        yield packed[12:] if packed[:12] == bytes(10) + b"\xff\xff" else packed

"""Who takes the frames that a look at the slot tables does not settle: those of flows in transition, and of services
that place flow by flow or packet by packet.

The rules are those of `packet.placement` (see `rules`). Frames of a batch whose places have nothing to do with one
another are placed at once, by passes over columns. Where it matters what an earlier frame of the same flow has left
behind, the later one waits for the next round; a batch that is full of such frames ends one by one.

What is remembered of flows is written down in the same go, as if all frames were sent that are not too big for their
member. A frame that is too big for the member whose turn it is leaves the turn to the reference, which answers it.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.dataplane.pins import FLOW, LOCAL, MEMBER_SHIFT, STATE_SHIFT, WHEN_MASK, Found, PinTable, age_of
from appliance.dataplane.raw.compiled import I64, U64, Compiled
from appliance.dataplane.raw.layout import alike
from appliance.dataplane.raw.rules import (
    DEAD,
    FATE_LIST,
    FATES,
    FIN,
    KEEP_SHIFT,
    LIVE,
    NO_ENTRY,
    NOTHING,
    ORDER_SHIFT,
    RST,
    SYN,
    TELL,
    Order,
    Where,
)
from appliance.forwarding import NO_MEMBER, TableService
from appliance.packet.placement import RETRANSMISSION_TICKS, FlowFacts, Pin, PinState
from appliance.ring.hash import pin_hash

ROUNDS = 3
"""What has not been placed after so many is placed one by one."""

# 0-d arrays are quicker than NumPy's scalars.
_HALF, _MEMBER_SHIFT, _32 = (np.array(number, np.uint64) for number in (0xFFFF, MEMBER_SHIFT, 32))
_UPPER = np.array(~0xFFFF & (1 << 64) - 1, np.uint64)
"""Of a word: tag and member."""

_STATES = tuple(PinState)

_WORDS4 = 4
"""Words of an IPv4 flow's key."""


@dataclass
class Flows:
    """Frames to be placed, in the order in which they came: columns of one length."""

    service: int | I64
    """One number when it is the same for all; so are `kind` and `protocol`."""
    index: I64
    """Of the slot, in `Compiled.ways`."""
    kind: int | I64
    """`rules.KIND_OF_FLAGS`, or `rules.UDP`."""
    total: U64
    """Bytes of the IP packets."""
    hash32: U64
    hash64: U64 | None
    """None when nothing is remembered of any of these flows."""
    sources: U64
    """1 or 4 words of each address."""
    destinations: U64
    ports: U64
    protocol: int | npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: I64) -> "Flows":
        """Some of them."""
        return Flows(
            self.service if isinstance(self.service, int) else self.service[rows],
            self.index[rows],
            self.kind if isinstance(self.kind, int) else self.kind[rows],
            self.total[rows],
            self.hash32[rows],
            None if self.hash64 is None else self.hash64[rows],
            self.sources[:, rows],
            self.destinations[:, rows],
            self.ports[rows],
            self.protocol if isinstance(self.protocol, int) else self.protocol[rows],
        )

    def records(self, rows: I64, tables: Compiled) -> npt.NDArray[np.void]:
        """What is written down of some of them."""
        flows = np.zeros(len(rows), FLOW)
        for name, words in (("source", self.sources), ("destination", self.destinations)):
            if len(words) == 1:
                flows[name][:, 1] = words[0][rows] << _32 | np.uint64(0xFFFF0000)
            else:
                flows[name][:, 0] = words[0][rows] | words[1][rows] << _32
                flows[name][:, 1] = words[2][rows] | words[3][rows] << _32
        if self.hash64 is not None:
            flows["hash64"] = self.hash64[rows]
        flows["ports"], flows["hash32"] = self.ports[rows], self.hash32[rows]
        flows["idle"] = tables.idles.take(self.service if isinstance(self.service, int) else self.service[rows])
        flows["protocol"] = self.protocol if isinstance(self.protocol, int) else self.protocol[rows]
        flows["origin"] = LOCAL
        flows["opened"] = (self.kind if isinstance(self.kind, int) else self.kind[rows]) == SYN
        return flows

    def words(self, row: int) -> tuple[int, ...]:
        """The flow key of one of them, as `ring.hash.flow_words` has it for the whole of it."""
        protocol = self.protocol if isinstance(self.protocol, int) else int(self.protocol[row])
        addresses = (*self.sources[:, row].tolist(), *self.destinations[:, row].tolist())
        return (*addresses, int(self.ports[row]), protocol)


def place(tables: Compiled, flows: Flows, *, look_only: bool = False) -> I64:
    """Who takes each of some frames, as a way; `no_way` where nobody does.

    Args:
        tables: to place by; what they remember of flows goes on.
        flows: at least one.
        look_only: remember nothing, and take nobody's turn. Frames are then placed as if each were the only one.
    """
    pins = tables.pins if flows.hash64 is not None else None
    ways = np.empty(len(flows), np.int64)
    rows = np.arange(len(flows))
    """Those that are left."""
    with nullcontext() if pins is None or look_only else pins.lock:
        for _ in range(ROUNDS):
            done, way = _round(tables, flows, pins, look_only=look_only)
            if done is None:
                ways[rows] = way
                return ways
            ways[rows[done]] = way[done]
            rest = np.flatnonzero(~done)
            rows, flows = rows[rest], flows.take(rest)
    for row, number in enumerate(rows.tolist()):
        service = flows.service if isinstance(flows.service, int) else int(flows.service[row])
        kind = flows.kind if isinstance(flows.kind, int) else int(flows.kind[row])
        index, hash32, total = int(flows.index[row]), int(flows.hash32[row]), int(flows.total[row])
        ways[number] = place_one(tables, service, index, kind, flows.words(row), hash32, total)
    return ways


def _round(
    tables: Compiled, flows: Flows, pins: PinTable | None, *, look_only: bool
) -> tuple[npt.NDArray[np.bool_] | None, I64]:
    """Place all that need not wait.

    Returns:
        Which ones that are, None being all; and ways, which count for those.
    """
    rule = tables.rules.take(flows.index) + flows.kind
    small = not tables.members or int(flows.total.max()) <= tables.lowest_limit
    if pins is None or flows.hash64 is None:
        where = FATES.take(rule) & 3
        done = None if small or look_only else _without_turns_in_doubt(tables, flows, where)
        way, _ = _members(tables, flows, where, None, done, look_only=look_only)
        return done, way

    now = pins.now()
    found = pins.find_all(flows.hash64)
    word = found.word
    pinned = (word >> _MEMBER_SHIFT & _HALF).view(np.int64)
    entry = _entries(tables, flows.service, word & _HALF, now)
    if not found.everything:
        entry[word == 0] = NO_ENTRY
    way = tables.dense_column.take(pinned).astype(np.int64)
    if int(way.max()) == tables.no_way:
        entry[(way == tables.no_way) & (word != 0)] = DEAD
    rule += entry
    fate = FATES.take(rule)
    if small and alike(fate) and fate.item(0) >> ORDER_SHIFT == Order.USED and not look_only:
        # Flows that are remembered go on: what mostly happens, and takes no more than this.
        state = fate.item(0) >> KEEP_SHIFT & 7
        if state != NOTHING:
            pins.use_all(found, word & _UPPER | np.uint64(state << STATE_SHIFT | now & WHEN_MASK))
        return None, way

    keep, order, where = (fate >> KEEP_SHIFT & 7).astype(np.int64), fate >> ORDER_SHIFT & 3, fate & 3
    done, first = (None, None) if look_only else _without_waiting(order, flows.kind, flows.hash64, found)
    if not small and not look_only and (sure := _without_turns_in_doubt(tables, flows, where)) is not None:
        done = sure if done is None else done & sure
        first = None if first is None else first[sure[first]]
    tell: I64 | None = None
    if first is not None and pins.herald is not None:
        tell = first[(fate[first] >= TELL) & (tables.slots.take(flows.index[first]) & NO_MEMBER != NO_MEMBER)]
        if len(tell):
            tell, others = np.split(tell, [pins.may_open_all(len(tell))])
            where[others] = Where.PREVIOUS
    way, member = _members(tables, flows, where, pinned, done, look_only=look_only)
    if look_only:
        return None, way
    remembered = (keep != NOTHING) & (way != tables.no_way)
    if not small:
        limits = tables.limits if len(flows.sources) == 1 else tables.limits6
        remembered &= flows.total <= limits.take(way, mode="clip")
    if not remembered.any():
        return done, way
    used = (order == Order.USED) & remembered
    if done is not None:
        used &= done
    if first is not None:
        used[first] = False
    after = word & _UPPER
    after |= (keep << STATE_SHIFT).view(np.uint64)
    after |= np.uint64(now & WHEN_MASK)
    pins.use_all(found, np.where(used, after, word))
    if first is not None:
        first = first[remembered[first]]
        if len(first):
            facts = flows.records(first, tables)
            pins.keep_all(found, first, member[first].astype(np.uint16), keep[first].astype(np.uint8), facts, now)
            if tell is not None and len(tell):
                pins.tell_all(flows.hash64[tell[remembered[tell]]])
    return done, way


def _entries(tables: Compiled, service: int | I64, low: U64, now: int) -> npt.NDArray[np.uint8]:
    """What is remembered, as the rules see it, from the lower halves of words."""
    low = low.view(np.int64)
    if isinstance(service, int):
        return tables.entry_codes[service].at(now).take(low)
    idles = tables.idles.take(service)
    if alike(idles):
        return tables.entry_codes[service.item(0)].at(now).take(low)
    entry = np.empty(len(low), np.uint8)
    for idle in np.unique(idles):
        mine = idles == idle
        entry[mine] = tables.entry_codes[service[mine].item(0)].at(now).take(low[mine])
    return entry


def _without_waiting(
    order: npt.NDArray[np.integer], kind: int | I64, hash64: U64, found: Found
) -> tuple[npt.NDArray[np.bool_] | None, I64 | None]:
    """Which frames are placed in this round (None: all), and which of them are the first of their flow to come."""
    queued = order == Order.FIRST_COME
    if np.any((kind == FIN) | (kind == RST)):
        # Whoever closes a flow ends retransmissions, and what a first answer to the member's handshake tells.
        queued |= order == Order.RETRANSMITTED
        queued |= (order == Order.USED) & (found.states() == PinState.NEW)
    if not queued.any():
        return None, None
    held = queued & (found.word != 0)
    if held.any():
        position = found.positions()
        queued |= (order != Order.SETTLED) & np.isin(position, position[held])
    rows = np.flatnonzero(queued)
    _, first = np.unique(hash64[rows], return_index=True)
    if len(first) == len(rows):
        return None, rows
    first.sort()
    done = ~queued
    done[rows[first]] = True
    return done, rows[first]


def _without_turns_in_doubt(
    tables: Compiled, flows: Flows, where: npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_] | None:
    """Which frames take a turn for certain, or none (None: all). The others may be too big for whose turn it is, and
    are placed one by one."""
    doubtful = (where == Where.CHOICE) & (flows.total > np.uint64(tables.lowest_limit))
    return ~doubtful if doubtful.any() else None


def _members(
    tables: Compiled,
    flows: Flows,
    where: npt.NDArray[np.integer],
    pinned: I64 | None,
    done: npt.NDArray[np.bool_] | None,
    *,
    look_only: bool,
) -> tuple[I64, I64]:
    """Ways and member indices of frames; turns are taken for those that are done."""
    slots = tables.slots.take(flows.index)
    member = np.where(where == Where.PREVIOUS, slots >> 16, slots & NO_MEMBER).astype(np.int64)
    if pinned is not None:
        member = np.where(where == Where.PIN, pinned, member)
    chosen = where == Where.CHOICE
    if chosen.any():
        if done is not None:
            chosen &= done
        rows = np.flatnonzero(chosen)
        services, turns = tables.tables.services, tables.turns
        if isinstance(flows.service, int):
            member[rows] = turns.take_many(services[flows.service], len(rows), peek=look_only)
        else:
            of = flows.service[rows]
            for number in np.flatnonzero(np.bincount(of)).tolist():
                mine = rows[of == number]
                member[mine] = turns.take_many(services[number], len(mine), peek=look_only)
    return tables.dense_column.take(member).astype(np.int64), member


def place_one(
    tables: Compiled, service: int, index: int, kind: int, flow: tuple[int, ...], hash32: int, total: int
) -> int:
    """`place`, for one frame.

    Args:
        tables: to place by.
        service: of the frame.
        index: of its slot, in `Compiled.ways`.
        kind: see `Flows`.
        flow: its flow key, `ring.hash.flow_words` of the whole of it.
        hash32: of the flow.
        total: bytes of the IP packet.
    """
    rule = int(tables.rules[index]) + kind
    slot = int(tables.slots[index])
    pins = tables.pins if tables.remembering[service] else None
    position, word, pinned, hash64, now = 0, 0, NO_MEMBER, 0, 0
    if pins is not None:
        now = pins.now()
        hash64 = pin_hash(tables.pin_keys.numbers, flow)
        position, word = pins.find_word(hash64)
        if word:
            age, state, pinned = age_of(word, now), word >> STATE_SHIFT & 3, word >> MEMBER_SHIFT & NO_MEMBER
            if age <= tables.lifetimes[service][state] and pinned in tables.dense:
                rule += LIVE + 2 * state + (age >= RETRANSMISSION_TICKS)
            else:
                rule += DEAD
    where, keep, tell = FATE_LIST[rule] & 3, FATE_LIST[rule] >> KEEP_SHIFT & 7, FATE_LIST[rule] >= TELL
    if tell and pins is not None and slot & NO_MEMBER != NO_MEMBER and not pins.may_open():
        where, tell = Where.PREVIOUS, False
    if where == Where.PIN:
        member = pinned
    elif where == Where.PRIMARY:
        member = slot & NO_MEMBER
    elif where == Where.PREVIOUS:
        member = slot >> 16
    else:
        member = _turn(tables, tables.tables.services[service], flow, total)
    way = tables.dense.get(member, tables.no_way)
    if keep == NOTHING or way == tables.no_way or pins is None or total > _limit(tables, way, flow):
        return way
    if where == Where.PIN:
        after = word & ~0xFFFF | keep << STATE_SHIFT | now & WHEN_MASK
        if after != word:
            pins.use(position, word, after)
        return way
    half = len(flow) // 2 - 1
    facts = FlowFacts(
        b"".join(part.to_bytes(4, "little") for part in flow[:half]),
        b"".join(part.to_bytes(4, "little") for part in flow[half:-2]),
        flow[-2].to_bytes(4, "little"),
        flow[-1],
        hash64,
        hash32,
        int(tables.idles[service]),
        kind == SYN,
    )
    pins.keep(Pin(member, _STATES[keep]), facts, now, tell=tell)
    return way


def _limit(tables: Compiled, way: int, flow: tuple[int, ...]) -> int:
    """The largest packet of a flow that gets to a member."""
    return tables.way_list[way].limit if len(flow) == _WORDS4 else tables.way_list[way].limit6


def _turn(tables: Compiled, service: TableService, flow: tuple[int, ...], total: int) -> int:
    """Whose turn it is. It is over when that member can take a packet of so many bytes."""
    if total > tables.lowest_limit:
        member = tables.turns.take(service, peek=True)
        way = tables.dense.get(member, tables.no_way)
        if way == tables.no_way or total > _limit(tables, way, flow):
            return member
    return tables.turns.take(service)

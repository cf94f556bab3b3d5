"""What happens in a run: settings, traffic, and the events of each scenario.

Times are seconds from the start, those of events windows from the moment when traffic has reached its level. Everything
is a function of the settings and the seed; what a scheme does has no influence on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from appliance.dataplane.pins import FLOW
from appliance.fleet.side import SHARE_S
from appliance.fleet.telling import REFRESH_MS, ROUND_MS
from appliance.forwarding import SLOTS
from appliance.packet.placement import Kind, idle_ticks
from appliance.ring.hash import derive_keys, hash_columns

KINDS = tuple(Kind)
"""Packets carry positions in it."""

_SYN, _PLAIN, _FIN, _RST, _UDP, _ERROR = (
    KINDS.index(kind) for kind in (Kind.SYN, Kind.PLAIN, Kind.FIN, Kind.RST, Kind.UDP, Kind.ERROR)
)


@dataclass(frozen=True)
class Settings:
    """The size and the habits of a fleet and its clients. Times in seconds."""

    flows: int = 20_000
    """Open at the same time, about."""

    members: int = 10
    directors: int = 4
    slots: int = SLOTS
    """Of each table: the first so many of the product's, which are as good as all."""
    pins: int = 1 << 17
    """Flows that a director can remember."""

    life_s: float = 150
    """Mean of the lives of flows, which are distributed exponentially, and cut off at four times that."""

    gap_s: float = 10
    """Mean between two packets of a flow."""

    keepalive_s: float = 60
    """No flow is silent for longer, but those of `silent`."""

    window_s: float = 300
    idle_s: float = 100
    quiet_s: float = float("inf")
    """Windows end when nothing has used the previous members for so long; of a director that is alone."""

    poll_s: float = 5
    """How often a director looks at its pins."""

    delay_s: float = 0.02
    """Of a message about a pin, on the average: from a tenth of it to nearly twice as long, so that messages overtake
    each other."""

    loss: float = 0.0
    """The part of these messages that is lost."""

    detect_s: float = 3
    """From a member's death or return to the verdict."""

    skew_s: float = 0.2
    """Directors learn of a change within so long, each at another time."""

    udp: float = 0.0
    """The part of the flows that is UDP."""

    repeated_syns: float = 0.02
    """The part of the connections whose SYN is sent twice, since the answer to the first is lost."""

    late_answers: float = 0.0
    """The part whose SYN is sent twice although the answer to the first is on its way."""

    reused: float = 0.05
    """The part whose client opens another connection from the same port soon after."""

    silent: float = 0.0
    """The part of the flows that is silent from its second packet to its last but for `silence_s`."""

    silence_s: float = 62
    """When a director is lost, another one finds a flow again that has never been silent for more than two thirds of
    the idle timeout: what it did last may not have been told yet (`refresh_s`). That it goes on after a silence is told
    at once."""

    @property
    def refresh_s(self) -> float:
        """How often a director tells the others of a pin that is in use; see fleet/telling.py."""
        return min(REFRESH_MS, self.idle_s * 1000 / 3 - ROUND_MS) / 1000

    @property
    def warm_up_s(self) -> float:
        return 2 * self.life_s

    @property
    def longest_life_s(self) -> float:
        return 4 * self.life_s


@dataclass(frozen=True)
class Traffic:
    """Flows and their packets.

    A flow is one connection, or one conversation by UDP; several may have the same key, one after the other.
    """

    key: npt.NDArray[np.int32]
    """Of each flow."""

    late_answer: npt.NDArray[np.bool_]
    """Of each flow: that of its first SYN counts, not that of the last."""

    slot: npt.NDArray[np.int64]
    """Of each key; those of UDP stand behind those of TCP."""

    facts: npt.NDArray[np.void]
    """FLOW of each key: its hashes, and whatever else pins need."""

    spread: npt.NDArray[np.uint32]
    """Of each key: the routers' hash."""

    at: npt.NDArray[np.float64]
    """Of each packet, ascending."""

    flow: npt.NDArray[np.int32]
    """Of each packet."""

    kind: npt.NDArray[np.int8]
    """Of each packet: position in KINDS."""

    opens: npt.NDArray[np.bool_]
    """Of each packet: whether it starts its flow (or tries again to)."""

    gap: npt.NDArray[np.float32]
    """Of each packet: since the one before of its flow."""


def traffic(settings: Settings, seed: int, end_s: float) -> Traffic:
    """Clients at work until *end_s*."""
    chance = np.random.default_rng([seed, 1])
    count = int(settings.flows * end_s / settings.life_s)
    begin = np.sort(chance.uniform(0, end_s, count))
    life = np.minimum(chance.exponential(settings.life_s, count), settings.longest_life_s)
    udp = chance.random(count) < settings.udp
    key = np.arange(count, dtype=np.int32)

    # Those that come again: same key, soon after a reset, and a little later after an orderly end.
    again = np.flatnonzero(~udp & (chance.random(count) < settings.reused))
    reset = chance.random(count) < 0.1
    pause = np.where(reset[again], 0.5 + chance.exponential(1, len(again)), 1.5 + chance.exponential(20, len(again)))
    key = np.concatenate([key, again.astype(np.int32)])
    begin = np.concatenate([begin, begin[again] + life[again] + pause])
    reset = np.concatenate([reset, np.zeros(len(again), bool)])
    life = np.concatenate([life, np.minimum(chance.exponential(settings.life_s, len(again)), settings.longest_life_s)])
    udp = np.concatenate([udp, np.zeros(len(again), bool)])
    number = len(begin)
    round_trip = chance.uniform(0.005, 0.1, number)
    life += 3 * round_trip

    silent = chance.random(number) < settings.silent
    repeated = ~udp & (chance.random(number) < settings.repeated_syns)
    late_answer = ~udp & ~repeated & (chance.random(number) < settings.late_answers)
    opened = begin + np.where(repeated, 1.0, np.where(late_answer, 1.01, 0.0))
    end = np.maximum(begin + life, opened + 3 * round_trip)

    packets: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []

    def send(at: npt.NDArray[np.float64], flow: npt.NDArray[np.int64], kind: npt.NDArray[np.int64] | int) -> None:
        packets.append((at, flow, np.broadcast_to(np.asarray(kind, np.int64), at.shape)))

    everyone, tcp = np.arange(number), np.flatnonzero(~udp)
    plain = np.where(udp, _UDP, _PLAIN)
    send(begin, everyone, np.where(udp, _UDP, _SYN))
    twice = np.flatnonzero(repeated | late_answer)
    send(begin[twice] + 1, twice, _SYN)
    send(opened + round_trip, everyone, plain)
    talk = np.repeat(everyone, np.where(silent, 0, chance.poisson(life / settings.gap_s)))
    first = (opened + 1.5 * round_trip)[talk]
    send(first + chance.random(len(talk)) * (end[talk] - first), talk, plain[talk])
    every = np.where(silent, settings.silence_s, settings.keepalive_s)
    kept = np.repeat(everyone, ((end - opened) / every).astype(int))
    nth = np.arange(len(kept)) - np.searchsorted(kept, kept)
    at = opened[kept] + (nth + 1) * every[kept]
    send(at[at < end[kept]], kept[at < end[kept]], plain[kept[at < end[kept]]])
    send(end[tcp], tcp, np.where(reset, _RST, _FIN)[tcp])
    closing = tcp[~reset[tcp]]
    send(end[closing] + round_trip[closing], closing, _PLAIN)
    # One in ten clients closes its half first and goes on acknowledging; not those that use the tuple again.
    half = np.repeat(closing[(chance.random(len(closing)) < 0.1) & ~np.isin(closing, again)], 3)
    send(end[half] + chance.uniform(0.2, 40, len(half)), half, _PLAIN)
    wrong = np.flatnonzero(chance.random(number) < 0.02)
    send(opened[wrong] + 2 * round_trip[wrong] + chance.random(len(wrong)) * life[wrong] / 2, wrong, _ERROR)

    columns = [np.concatenate(column) for column in zip(*packets, strict=True)]
    order = np.lexsort((columns[0], columns[1]))
    at, flow, kind = (column[order] for column in columns)
    heads = np.r_[True, flow[1:] != flow[:-1]]
    gap = np.where(heads, 0, np.diff(at, prepend=0))
    order = np.argsort(at, kind="stable")
    at, flow, kind, gap, heads = (column[order] for column in (at, flow, kind, gap, heads))
    seen = at < end_s
    slot, spread, facts = _keys(settings, chance, udp[:count])
    return Traffic(
        key=key,
        late_answer=late_answer,
        slot=slot,
        facts=facts,
        spread=spread,
        at=at[seen],
        flow=flow[seen].astype(np.int32),
        kind=kind[seen].astype(np.int8),
        opens=(heads | (kind == _SYN))[seen],
        gap=gap[seen].astype(np.float32),
    )


def _keys(
    settings: Settings, chance: np.random.Generator, udp: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.void]]:
    """Slot, routers' hash, and FLOW of each key."""
    columns = [
        chance.integers(1 << 32, size=len(udp), dtype=np.uint32),
        np.full(len(udp), 0x076433C6, np.uint32),
        chance.integers(1 << 16, size=len(udp), dtype=np.uint32) | np.uint32(0xBB010000),
        np.where(udp, np.uint32(17), np.uint32(6)),
    ]

    def hashed(secret: bytes) -> npt.NDArray[np.uint64]:
        return hash_columns(derive_keys(secret), columns)

    facts = np.zeros(len(udp), FLOW)
    facts["hash32"] = hashed(b"the fleet's secret")
    facts["hash64"] = hashed(b"secret of the set") << np.uint64(32) | hashed(b"secret of the tag")
    facts["ports"], facts["protocol"] = columns[2], columns[3]
    facts["idle"] = idle_ticks(settings.idle_s)
    # Routers have another hash than we do.
    return slots_of(facts, settings.slots), hashed(b"secret of routers").astype(np.uint32), facts


def slots_of(facts: npt.NDArray[np.void], size: int) -> npt.NDArray[np.int64]:
    """The slot of each FLOW; those of UDP stand behind those of TCP."""
    slot = (facts["hash32"].astype(np.uint64) * np.uint64(size) >> np.uint64(32)).astype(np.int64)
    return slot + np.where(facts["protocol"] == _PROTOCOL_UDP, size, 0)


_PROTOCOL_UDP = 17


class Change(Enum):
    """What becomes of a member."""

    DRAIN = auto()
    READY = auto()
    REMOVE = auto()
    """It leaves the configuration, and goes on with the flows it has."""
    ADD = auto()
    WEIGHT = auto()
    CRASH = auto()
    RECOVER = auto()
    RAMP = auto()
    """The part of its slots that it has, in percent, changes."""


@dataclass(frozen=True)
class MemberEvent:
    """Something happens to a member, and directors learn of it."""

    at: float
    """In windows."""

    change: Change
    member: int
    weight: int = 1
    """Or percent."""
    late: Mapping[int, float] = field(default_factory=dict)
    """Directors that learn of it so many seconds after the others."""


@dataclass(frozen=True)
class Down:
    """A director dies, with everything it remembers."""

    at: float
    director: int


@dataclass(frozen=True)
class Up:
    """It comes back, or a new one comes."""

    at: float
    director: int
    dump: bool = True
    """Another tells it all its pins before it announces."""

    log: bool = True
    """It learns of earlier changes from the fleet's log; else it knows what is true now only."""


@dataclass(frozen=True)
class Wrong:
    """A director's own monitor errs about a member that is fine."""

    at: float
    until: float
    director: int
    member: int
    asks: bool
    """It goes by what the fleet agrees on, and not by its own verdicts."""


@dataclass(frozen=True)
class Restart:
    """A director's process ends and another one begins, while its data plane goes on and keeps all pins. The new one
    knows earlier changes from the log."""

    at: float
    director: int


Event = MemberEvent | Down | Up | Wrong | Restart


@dataclass(frozen=True)
class Scenario:
    """Events, and the settings that they go with."""

    name: str
    sentence: str
    events: tuple[Event, ...] = ()
    settings: Mapping[str, float] = field(default_factory=dict)
    limit: str | None = None
    """Why flows may break; None: not one may."""


def drain(at: float, member: int, **late: float) -> MemberEvent:
    return _event(at, Change.DRAIN, member, late)


def ready(at: float, member: int, **late: float) -> MemberEvent:
    return _event(at, Change.READY, member, late)


def remove(at: float, member: int) -> MemberEvent:
    return _event(at, Change.REMOVE, member, {})


def start_slowly(at: float, until: float, member: int, steps: int = 10) -> tuple[MemberEvent, ...]:
    """It comes back, and gets its slots step by step."""
    step = (until - at) / steps
    return (
        MemberEvent(at - 0.01, Change.RAMP, member, 100 // steps),
        recover(at, member),
        *(MemberEvent(at + step * nth, Change.RAMP, member, 100 * (nth + 1) // steps) for nth in range(1, steps)),
    )


def add(at: float, member: int, **late: float) -> MemberEvent:
    """*member* counts from the first one that is not there at the start."""
    return _event(at, Change.ADD, -1 - member, late)


def weight(at: float, member: int, value: int) -> MemberEvent:
    return MemberEvent(at, Change.WEIGHT, member, value)


def crash(at: float, member: int, **late: float) -> MemberEvent:
    return _event(at, Change.CRASH, member, late)


def recover(at: float, member: int, **late: float) -> MemberEvent:
    return _event(at, Change.RECOVER, member, late)


def _event(at: float, change: Change, member: int, late: Mapping[str, float]) -> MemberEvent:
    return MemberEvent(at, change, member, late={int(name[1:]): seconds for name, seconds in late.items()})


MIX = (
    drain(0.0, 0),
    Down(0.3, 1),
    crash(0.5, 1),
    Up(0.6, 1),
    weight(0.8, 2, 3),
    ready(1.1, 0),
    add(1.2, 0),
    Down(1.3, 2),
    recover(1.5, 1),
    Up(1.9, 2),
    drain(2.2, 4),
    Down(2.4, 0),
    drain(2.5, 5),
    Down(2.6, 3),
    ready(2.7, 4),
    Up(2.9, 0),
    crash(3.05, 2),
    Up(3.1, 3),
    remove(3.2, 3),
    recover(3.3, 2),
)
"""Everything that can happen to members and directors, several changes in one window."""

SCENARIOS = (
    Scenario("still", "nothing happens"),
    Scenario("drain", "a member is drained and comes back", (drain(0, 0), ready(1.6, 0))),
    Scenario("crash", "a member dies and comes back", (crash(0, 0), recover(0.5, 0))),
    Scenario("remove", "a member leaves the configuration", (remove(0, 0),)),
    Scenario("add", "a member joins the configuration", (add(0, 0),)),
    Scenario("weight", "a member's weight is raised and lowered", (weight(0, 0, 4), weight(0.5, 0, 1))),
    Scenario("mix", "everything, several changes in one window", MIX),
    Scenario("mix-udp", "the same with UDP flows", MIX, {"udp": 1.0}),
    Scenario("mix-both", "the same with TCP and UDP", MIX, {"udp": 0.5}),
    Scenario(
        "mix-silent",
        "the same with flows that are silent for nearly two thirds of their idle timeout again and again",
        MIX,
        {"silent": 0.5, "udp": 0.3},
    ),
    Scenario("mix-reordered", "the same while messages overtake each other", MIX, {"delay_s": 0.2, "skew_s": 0.5}),
    Scenario(
        "mix-quick",
        "the same with tuples that are used again soon, and repeated SYNs",
        MIX,
        {"reused": 0.5, "repeated_syns": 0.3},
    ),
    Scenario(
        "flapping",
        "a member is drained and comes back, again and again, while directors come and go",
        (
            drain(0, 0),
            ready(0.1, 0),
            drain(0.2, 0),
            Down(0.25, 1),
            ready(0.3, 0),
            drain(0.4, 0),
            Up(0.45, 1),
            ready(0.5, 0),
            drain(0.6, 0),
            Down(0.7, 0),
            ready(1.3, 0),
            Up(1.4, 0),
        ),
    ),
    Scenario(
        "slow-start",
        "a member dies, and gets its slots back step by step",
        (crash(0, 0), Down(0.2, 1), *start_slowly(0.4, 1.0, 0), Up(0.53, 1), Down(0.77, 2), Up(1.07, 2)),
    ),
    Scenario(
        "rolling",
        "members are drained one after the other, with a director lost in each window",
        tuple(
            event
            for turn in range(5)
            for event in (
                drain(turn * 0.4, turn),
                Down(turn * 0.4 + 0.1, turn % 4),
                ready(turn * 0.4 + 0.2, turn),
                Up(turn * 0.4 + 0.3, turn % 4),
            )
        ),
    ),
    Scenario(
        "crash-in-window",
        "the new owner dies while the old one drains, and the other way round",
        (
            drain(0, 0),
            crash(0.2, 1),
            Down(0.3, 0),
            recover(0.5, 1),
            crash(0.7, 0),
            Up(0.8, 0),
            recover(0.9, 0),
            ready(0.95, 0),
            Down(1.2, 3),
        ),
    ),
    Scenario(
        "long-tail",
        "directors come and go long after the last change",
        (drain(0, 0), Down(1.1, 1), Up(1.2, 1), Down(1.5, 2), Up(1.7, 2), Down(2.2, 0), Up(2.4, 0)),
    ),
    Scenario(
        "all-drain",
        "every member is drained, and comes back when all flows are over or remembered",
        (
            *(drain(0.02 * number, number) for number in range(64)),
            Down(0.9, 0),
            Up(1.4, 0),
            *(ready(1.5 + 0.01 * number, number) for number in range(64)),
        ),
    ),
    Scenario(
        "quiet-end",
        "a director is alone, and windows end as soon as nothing uses the previous members",
        (
            drain(0, 0),
            drain(0.3, 1),
            Restart(0.5, 0),
            ready(1.2, 0),
            crash(1.7, 2),
            Restart(1.8, 0),
            recover(1.9, 2),
            weight(2.3, 3, 3),
            remove(2.6, 4),
            Restart(2.7, 0),
        ),
        {"quiet_s": 70, "directors": 1},
    ),
    Scenario(
        "restart",
        "processes of directors end and begin again, while others are lost",
        (
            drain(0, 0),
            Restart(0.1, 1),
            Down(0.2, 2),
            crash(0.3, 1),
            remove(0.4, 4),
            Restart(0.5, 0),
            Restart(0.55, 1),
            Up(0.6, 2),
            recover(0.8, 1),
            ready(0.9, 0),
            Restart(0.95, 3),
            Down(1.3, 0),
            Up(1.6, 0),
        ),
    ),
    Scenario(
        "late",
        "a director learns of changes ten seconds late",
        (
            drain(0, 0, d1=10),
            Down(0.2, 2),
            crash(0.4, 1, d1=10),
            ready(0.6, 0, d1=10),
            Up(0.7, 2),
            recover(0.8, 1, d1=10),
            Down(1.15, 1),
            Up(1.3, 1),
        ),
    ),
    Scenario(
        "majority",
        "a director errs about a member, and the others overrule it",
        (Wrong(0, 1, 1, 0, asks=True), Down(0.3, 2), Up(0.6, 2)),
    ),
    Scenario(
        "log",
        "directors restart and learn of changes from the log",
        (
            drain(0, 0),
            Down(0.2, 1),
            weight(0.25, 2, 3),
            Up(0.4, 1),
            ready(0.5, 0),
            Down(0.6, 2),
            Up(0.65, 2),
            Down(1.0, 3),
            Up(1.1, 3),
        ),
    ),
    Scenario(
        "old-log",
        "a director joins after a change that the log reaches back to, but not to the one before",
        (Down(0.1, 1), drain(0, 0), ready(0.5, 0), drain(1.2, 5), Up(1.3, 1)),
    ),
    Scenario(
        "remove-and-join",
        "a member leaves the configuration, and a director comes that has never known it",
        (remove(0, 0), Down(0.2, 1), Up(0.4, 1), remove(0.6, 1), Down(0.7, 2), Up(1.1, 2), Down(1.2, 3), Up(1.4, 3)),
    ),
    Scenario(
        "ends-meet",
        "a change comes when the window of the one before ends, in different order on each director; they come and go",
        (drain(0, 0), ready(1.0, 0), Down(1.5, 1), Up(1.7, 1), Down(1.8, 2)),
        {"silent": 0.5, "udp": 0.3},
    ),
    Scenario(
        "loss",
        "a twentieth of the messages is lost",
        MIX,
        {"loss": 0.05},
        "a pin that is lost is missed when the flow changes directors",
    ),
    Scenario(
        "slow", "messages take two seconds", MIX, {"delay_s": 2.0}, "a flow changes directors faster than its pin"
    ),
    Scenario(
        "late-and-lost",
        "a director is late while another is lost",
        (drain(0, 0, d1=30), Down(0.05, 2), Up(0.3, 2)),
        {},
        "directors have different views when flows change over",
    ),
    Scenario(
        "wrong",
        "a director errs about a member, and nobody overrules it",
        (Wrong(0, 0.5, 1, 0, asks=False),),
        {},
        "a director's wrong view is its own flows' view",
    ),
    Scenario(
        "wrong-for-good",
        "a director errs about a member until it is lost",
        (Wrong(0, 9, 1, 0, asks=False), Down(1, 1)),
        {},
        "a director's wrong view is its own flows' view",
    ),
    Scenario(
        "no-dump",
        "a director comes back without the pins of the others",
        (drain(0, 0), Down(0.2, 1), Up(0.4, 1, dump=False), ready(0.5, 0)),
        {},
        "pins that nobody has told it",
    ),
    Scenario(
        "no-log",
        "a director comes back and knows nothing of earlier changes",
        (drain(0, 0), Down(0.01, 1), Up(0.03, 1, log=False), ready(0.5, 0)),
        {},
        "changes that nobody has told it",
    ),
    Scenario(
        "silent",
        "flows are silent for longer than window and idle timeout",
        (drain(0, 0), ready(1.5, 0)),
        {"silent": 0.3, "silence_s": 400, "life_s": 300},
        "a flow that is silent for so long is over",
    ),
    Scenario(
        "late-answers",
        "SYNs are repeated although the answer is on its way",
        MIX,
        {"late_answers": 0.3},
        "a repeated SYN on the other side of a change is a new connection",
    ),
)


def random_events(settings: Settings, seed: int, count: int = 24, windows: float = 3.0) -> tuple[Event, ...]:
    """Anything in any order, but one thing after the other: while directors learn of a change, no other change reaches
    them, and none of them comes or goes."""
    chance = np.random.default_rng([seed, 4])
    settle = (settings.detect_s + settings.skew_s + 2 * settings.delay_s + 1) / settings.window_s
    detect, spread = settings.detect_s / settings.window_s, (2 * settings.skew_s + SHARE_S) / settings.window_s
    times = np.sort(chance.uniform(0, windows, count))
    draining: set[int] = set()
    dead: set[int] = set()
    absent: set[int] = set()
    events: list[Event] = []
    uneven: list[float] = []
    removed: set[int] = set()
    learnt: list[float] = []
    noticed: dict[int, float] = {}
    for at in times.tolist():
        ends = [begin + after for begin in uneven for after in (0, 1, settings.idle_s / settings.window_s)]
        if chance.random() < 0.4 and all(not end - settle < at < end + settle for end in ends):
            director = int(chance.integers(settings.directors))
            if director in absent:
                absent.remove(director)
                events.append(Up(at, director))
            elif chance.random() < 0.3:
                events.append(Restart(at, director))
            elif len(absent) < settings.directors - 1:
                absent.add(director)
                events.append(Down(at, director))
            continue
        member, what = int(chance.integers(settings.members)), chance.integers(9)
        arrives = at + detect if what in (4, 5) else at
        if any(abs(arrives - earlier) < spread for earlier in learnt):
            continue
        uneven.append(at)
        learnt.append(arrives)
        match what:
            case 0 | 1 | 2 | 3:
                events.append(ready(at, member) if member in draining else drain(at, member))
                draining ^= {member}
            case 4 | 5 if at < noticed.get(member, 0):
                continue  # it would be taken for dead when it lives already
            case 4 | 5:
                noticed[member] = at + settle
                events.append(recover(at, member) if member in dead else crash(at, member))
                dead ^= {member}
            case 6 if len(removed) < 3 and member not in removed:
                removed.add(member)
                events.append(remove(at, member))
            case _:
                events.append(weight(at, member, int(chance.integers(0, 5))))
    return tuple(events)

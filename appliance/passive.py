"""What clients' handshakes say about members, from what planes remember of flows. Pure.

A director sees one direction. Of a handshake that is the SYN, and the client's first packet behind the SYN-ACK, which
goes by the member's own way. So:

    SYN, ACK               it came about; the time between is that of the member and of the client's distance
    SYN, SYN               the client has got no SYN-ACK
    SYN, and nothing       the client has got it (else it would repeat its SYN), and what it sent then was lost
    RST of the client      it did not want what it got

Looked at are flows that are remembered from their SYN on: of pools with `passive`, which have a part of their slots
remembered for that, and of those whose algorithm remembers every flow.
"""

from collections import deque
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import numpy.typing as npt

from appliance.dataplane.pins import LivePins
from appliance.packet.placement import PinState

PATIENCE_NS = 9_000_000_000
"""A client that has got no SYN-ACK has repeated its SYN by then: after 1, 3 and 7 s (RFC 6298, section 2).
What comes within 3 s of the first counts as the same SYN."""

BUCKETS, BUCKET_NS = 5, 60_000_000_000
"""What is older than five minutes is forgotten, a minute at a time."""

LEAST_MEMBERS, LEAST = 3, 20
"""For a pool's median to mean anything; and handshakes of a member, to compare it."""

MARGIN, WIDTH = 0.2, 5.0
"""By so much a share has to exceed the pool's, and by so many (scaled) median deviations a time the median."""

LEAST_LATER_S = 0.02
"""Less than that is nobody's trouble, however even the others are."""

MOST_WAITING = 8192
"""Flows that are followed at a time: a flood of SYNs gets so much of a CPU, and no more."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Spreads times of birth over 64 bits, to make names of flows from them and their positions."""

_MAD = 1.4826
"""Scales a median absolute deviation to a normal distribution's standard deviation."""

Key = tuple[str, str]
"""Virtual service and `pool/member`."""


@dataclass(frozen=True)
class Handshakes:
    """Of one member of one virtual service, over the last minutes."""

    begun: int = 0
    """Those of which it is known what became of them."""
    completed: int = 0
    repeated: int = 0
    stuck: int = 0
    reset: int = 0
    """Connections that clients have reset, whenever."""
    response_s: float | None = None
    """Mean time from SYN to ACK; None without any."""

    def __add__(self, other: "Handshakes") -> "Handshakes":
        mine, theirs = self.completed * (self.response_s or 0.0), other.completed * (other.response_s or 0.0)
        completed = self.completed + other.completed
        return Handshakes(
            self.begun + other.begun,
            completed,
            self.repeated + other.repeated,
            self.stuck + other.stuck,
            self.reset + other.reset,
            (mine + theirs) / completed if completed else None,
        )

    @property
    def failed_share(self) -> float:
        return (self.repeated + self.stuck) / self.begun if self.begun else 0.0

    @property
    def reset_share(self) -> float:
        return self.reset / self.begun if self.begun else 0.0


@dataclass(frozen=True)
class _Pending:
    born_ns: int
    flow: int
    key: Key | None


@dataclass
class Passive:
    """Follows handshakes from look to look, best once a second."""

    _waiting: dict[int, _Pending] = field(default_factory=dict)
    """By position in the table of pins: flows of which it is not known yet what becomes of them."""

    _over: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Flows of which it is, as long as they are remembered."""

    _repeating: dict[int, int] = field(default_factory=dict)
    """Flow by position: those whose SYN came again, and maybe comes once more."""

    _reset: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    _delays: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By member index: handshakes and their time, ns, when they were looked at last."""

    _buckets: deque[tuple[int, dict[Key, Handshakes]]] = field(default_factory=deque)
    """Begin of each, ns, and what it has."""

    _known: Mapping[Key, Handshakes] = field(default_factory=dict)
    """All of them together. Swapped whole."""

    def look(
        self,
        live: LivePins,
        services: npt.NDArray[np.int64],
        names: Mapping[int, str],
        members: Mapping[int, str],
        delays: npt.NDArray[np.void],
        now_ns: int,
    ) -> None:
        """
        Args:
            live: what is remembered now.
            services: of each, its position in the tables, or -1.
            names: of virtual services that are watched, by that position.
            members: `pool/member` by member index.
            delays: pins.DELAY by member index.
            now_ns: the monotonic clock.
        """
        found: dict[Key, Handshakes] = {}
        watched = np.zeros(max([-1, *names]) + 2, np.bool_)
        watched[list(names)] = True
        begun = (live.flows["opened"] == 1) & (live.flows["origin"] == 0)
        begun &= watched[np.minimum(services, len(watched) - 1)]
        ids = live.flows["born_ns"] * _GOLDEN ^ live.position.astype(np.uint64)
        over = np.isin(ids, self._over)

        def key(row: int) -> Key | None:
            member = members.get(int(live.member[row]))
            return None if member is None else (names[int(services[row])], member)

        def count(whose: Key | None, **what: int) -> None:
            if whose is not None:
                found[whose] = found.get(whose, Handshakes()) + Handshakes(**what)

        again = np.isin(live.position, list(self._repeating))
        for row in np.flatnonzero(again).tolist():
            over[row] |= self._repeating[int(live.position[row])] == int(live.flows["hash64"][row])
        alive = set(live.position[again & over].tolist())
        self._repeating = {position: flow for position, flow in self._repeating.items() if position in alive}
        waiting: dict[int, _Pending] = {}
        rows = np.flatnonzero(begun & (live.state == PinState.NEW) & ~over)[:MOST_WAITING]
        for row, position, born, flow in zip(
            rows.tolist(),
            live.position[rows].tolist(),
            live.flows["born_ns"][rows].tolist(),
            live.flows["hash64"][rows].tolist(),
            strict=True,
        ):
            before = self._waiting.get(position)
            if before is not None and before.flow == flow and before.born_ns != born:
                count(before.key, begun=1, repeated=1)  # the SYN again, later than what counts as the same one
                over[row], self._repeating[position] = True, flow
            elif now_ns - born >= PATIENCE_NS:
                count(key(row), begun=1, stuck=1)
                over[row] = True
            else:
                waiting[position] = before or _Pending(born, flow, key(row))
        self._waiting = waiting
        acknowledged = begun & (live.state != PinState.NEW)
        for row in np.flatnonzero(acknowledged & ~over).tolist():
            count(key(row), begun=1, completed=1)
        reset = begun & (live.state == PinState.RST)
        for row in np.flatnonzero(reset & ~np.isin(ids, self._reset)).tolist():
            count(key(row), reset=1)
        self._over, self._reset = ids[over | acknowledged], ids[reset]
        self._time(found, members, delays)
        self._keep(found, now_ns)

    def _time(self, found: dict[Key, Handshakes], members: Mapping[int, str], delays: npt.NDArray[np.void]) -> None:
        """Response times by member; those of several virtual services are its own together."""
        for index, member in members.items():
            now = int(delays[index]["count"]), int(delays[index]["ns"])
            count, spent_ns = now[0] - self._delays.get(index, now)[0], now[1] - self._delays.get(index, now)[1]
            self._delays[index] = now
            if count > 0 and spent_ns >= 0:
                for key, one in found.items():
                    if key[1] == member and one.completed:
                        found[key] = Handshakes(
                            one.begun, one.completed, one.repeated, one.stuck, one.reset, spent_ns / count / 1e9
                        )

    def _keep(self, found: Mapping[Key, Handshakes], now_ns: int) -> None:
        if not self._buckets or now_ns - self._buckets[-1][0] >= BUCKET_NS:
            self._buckets.append((now_ns, {}))
        while len(self._buckets) > BUCKETS or (now_ns - self._buckets[0][0] > BUCKETS * BUCKET_NS):
            self._buckets.popleft()
        latest = self._buckets[-1][1]
        for key, one in found.items():
            latest[key] = latest.get(key, Handshakes()) + one
        together: dict[Key, Handshakes] = {}
        for _, bucket in self._buckets:
            for key, one in bucket.items():
                together[key] = together.get(key, Handshakes()) + one
        self._known = together

    def handshakes(self) -> Mapping[Key, Handshakes]:
        """Of all members that had any in the last minutes. From any thread."""
        return self._known


HOLD_S = 300.0
"""So long a member is held for an outlier after it was one last, so that its share does not go to and fro."""


@dataclass
class Held:
    """Members that get less, since clients' handshakes by them are not like those by the others of their pool."""

    _last: dict[str, tuple[float, str]] = field(default_factory=dict)
    """By `pool/member`: when it was an outlier last, and in what it was one at first."""

    def look(self, handshakes: Mapping[Key, Handshakes], wanted: Set[str], now_s: float) -> Mapping[str, str]:
        """
        Args:
            handshakes: of the last minutes.
            wanted: whoever may be held, by `pool/member`.
            now_s: the monotonic clock.

        Returns:
            Who is held, with what it was held for.
        """
        services: dict[str, dict[str, Handshakes]] = {}
        for (service, member), one in handshakes.items():
            if member in wanted:
                services.setdefault(service, {})[member] = one
        for members in services.values():
            for member, why in outliers(members).items():
                self._last[member] = now_s, self._last.get(member, (now_s, why))[1]
        self._last = {member: one for member, one in self._last.items() if member in wanted and now_s - one[0] < HOLD_S}
        return {member: why for member, (_, why) in self._last.items()}


def outliers(pool: Mapping[str, Handshakes]) -> dict[str, str]:
    """Members that differ from most of their pool, and in what; robust against few that are far off.

    Args:
        pool: by member. Those with few handshakes are not compared.
    """
    known = {member: one for member, one in pool.items() if one.begun >= LEAST}
    if len(known) < LEAST_MEMBERS:
        return {}
    failed, reset = (
        median(one.failed_share for one in known.values()),
        median(one.reset_share for one in known.values()),
    )
    times = {member: one.response_s for member, one in known.items() if one.response_s is not None}
    late = _late(times) if len(times) >= LEAST_MEMBERS else {}
    found = {}
    for member, one in known.items():
        words = []
        if one.failed_share > failed + MARGIN:
            words.append(f"{one.failed_share:.0%} of its handshakes fail, {failed:.0%} at the median member")
        if one.reset_share > reset + MARGIN:
            words.append(f"clients reset {one.reset_share:.0%} of its connections, {reset:.0%} at the median member")
        if member in late:
            words.append(late[member])
        if words:
            found[member] = "; ".join(words)
    return found


def _late(times: Mapping[str, float]) -> Mapping[str, str]:
    middle = median(times.values())
    deviation = _MAD * median(abs(one - middle) for one in times.values())
    limit = middle + max(WIDTH * deviation, 0.5 * middle, LEAST_LATER_S)
    return {
        member: f"its handshakes take {one * 1000:.1f} ms, {middle * 1000:.1f} ms at the median member"
        for member, one in times.items()
        if one > limit
    }

"""The pin channel: directors of a fleet tell each other of the flows that they remember, by UDP.

    every 10 ms    what is new goes to all peers that are there (news first, then what has to be told again: telling.py)
    at once        what the forwarding thread must not keep to itself (`PinChannel.tell`)
    every second   a HELLO to each peer, there or not; the ANSWER proves that it lives (session.py). Behind it, what
                   routers do not have from us, so that others need not wait for us there; at once when that changes
    a new life     of a peer, or one that has come back: we ask it for its whole table

A whole table is asked for block by block (dump.py). News that come in meanwhile are the same kind of statement, so
nothing has to wait for anything.

Each peer has a socket of its own, bound to our address and connected to the peer's: the kernel has datagrams of anybody
else refused before they cost us anything, and a filter in front of the socket (wire.py) those that only claim to come
from there. What gets through and is refused all the same has REFUSED_SHARE of a CPU, of all peers together: beyond
that, the socket is not read for a while, and what does not fit into its buffer is lost. Genuine news may get lost with
it; it is told again. Each end tells the other how much it lacks (arrivals.py), and while that is more than a little, no
connection begins where others must have been told of it. Nor does one while a peer that may live has not answered for
SURE_NS; so peers are greeted more often while connections want to begin.

It has a thread of its own, since what the event loop is busy with may take longer than the time between two packets of
one flow, the second of which comes by another director.

No part of this is needed for forwarding. A director that cannot reach its peers, or not even its own port, goes on by
itself, and says so.
"""

import asyncio
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from secrets import randbits

import numpy as np
import numpy.typing as npt
import structlog

from appliance.dataplane.pins import PinTable
from appliance.dataplane.raw.kernel import SO_RCVBUFFORCE, SO_SNDBUFFORCE, attach_filter
from appliance.fleet.dump import AT_ONCE as BLOCKS
from appliance.fleet.dump import Asking
from appliance.fleet.session import Session
from appliance.fleet.telling import ROUND_MS, Positions, Telling
from appliance.fleet.wire import (
    DIGEST,
    DIGESTS,
    ENTRY,
    NAME,
    NAMES,
    PARTS,
    PER_DATAGRAM,
    SHORTEST,
    Ask,
    Datagram,
    Keys,
    Kind,
    Part,
    Refusal,
    Route,
    ask_body,
    dump_body,
    hello_body,
    pack,
    socket_filter,
    unpack,
)
from appliance.forwarding import TableMember
from appliance.model import FleetPeer

log = structlog.get_logger()

TICK_S = 0.01
RATE = 2_500_000
"""Bytes a second that we send at most, to all peers together; dumps, which peers ask for, are not counted."""

OPENINGS, OPENINGS_AT_ONCE = 10_000, 1_000
"""Connections a second that the forwarding thread tells of at once; each may cost a datagram to each peer."""

UNSENT_NS = 100_000_000
"""For so long no more connections begin where others must be told of them, after one that could not be told of."""

SURE_NS = 1_250_000_000
"""A peer whose latest answer is to a greeting from earlier than that may hear nothing of us. As long as from one
greeting to the next, and from that to one of those in quick succession."""

LOSS = 0.02
"""While a peer says that it lacks more than this share of our datagrams, it counts as one that cannot be told."""

REFUSED_SHARE = 0.2
"""Of a CPU's time, for datagrams that are refused."""

AT_ONCE = 32
"""Datagrams that are read from one socket before others have their turn."""

BUFFER = 4 << 20
"""Bytes of a socket's buffers, as the kernel counts them (a full datagram is some 2,300 of these)."""

_MS = 1_000_000
_SECOND = 1_000_000_000
_UNHEARD_NS = 2_500 * _MS
"""A peer of whom nothing was heard for so long may be gone. Sooner than it counts as silent for pins: whoever thinks so
wrongly does no harm by it."""
_ABSENT_NS = 60 * _SECOND
"""For so long it is remembered that a peer did not have a VIP."""
_FIRST_HELLOS_NS, _FIRST_NS = 100 * _MS, 3 * _SECOND
"""At the beginning somebody waits for us: greetings come in quick succession for a while."""
_CLAIMS_NS = 250 * _MS
"""Between greetings, for those who take the place of directors that are silent; and while connections want to begin
that peers must be told of, which takes that they hear us."""
_CHALLENGE_NS = 100 * _MS
_REST_NS = 5 * _MS
_LOOK_NS = 30 * _MS
"""Between two looks for what must be told again: small datagrams cost as much as large ones."""
_BURST_S = 0.1
_STRAY = 20
"""Datagrams that are refused now and then, at the beginning of a life for instance, without anybody's ill will."""
_FRAME = 48
"""Bytes of IPv6 and UDP headers."""
_DATAGRAM = SHORTEST + PER_DATAGRAM * ENTRY.itemsize + _FRAME
_SO_MEMINFO, _DROPS = 55, 8
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _OMIT = 10, 23, 5
"""No path MTU discovery, and no belief in ICMP messages about it: datagrams fit every path."""


class PeerState(StrEnum):
    """What there is between us and a peer."""

    SILENT = "silent"
    """Nothing is heard of it, or nothing that is proved to be of now."""
    JOINING = "joining"
    """It is there, and we are getting its table."""
    JOINED = "joined"


@dataclass(frozen=True)
class PeerStatus:
    """One peer, for people and metrics."""

    name: str
    address: str
    state: PeerState
    heard_s_ago: float | None
    """None: never."""
    round_trip_s: float | None
    sent: int
    """Pins, each time that they were told."""
    received: int
    """Pins, each time that they were told."""
    refused: Mapping[str, int]
    """Datagrams, by `wire.Refusal`."""
    dropped: int
    """Datagrams that the kernel has dropped in front of our socket: by its filter, or because its buffer was full."""
    lost_in: float
    """The share of its datagrams to us in the last seconds that have not come in, by their numbers."""
    lost_out: float
    """The share of ours to it, as it says."""
    mismatches: Mapping[str, float]
    """Tables in which it differs from us, and for how many seconds it is known to do so."""
    trouble: str
    """Why nothing can be sent or heard, and what to do; empty when all is well."""


@dataclass(frozen=True)
class ChannelStatus:
    """The channel, for people and metrics. Counts only grow."""

    listening: str
    peers: tuple[PeerStatus, ...]
    counts: Mapping[str, int]
    """datagrams_sent, datagrams_received, bytes_sent, send_failed, news, refreshes, dumped, merged, unknown_member,
    unfit, overrun (news that had to wait for a round of the table), openings (told before their first packet went),
    openings_refused (begun where others presume them instead), openings_unsent (begun elsewhere, and the datagram could
    not be sent to every peer that is there), waiting."""


@dataclass(frozen=True)
class Presence:
    """What others can do for routers, as far as we know."""

    heard: frozenset[str]
    """Names of peers that were heard of lately, and whose ports are open."""
    absent: Mapping[str, Mapping[str, float]]
    """By peer: the VIPs that routers do not have from it, and how many seconds ago it said so last."""


@dataclass(frozen=True)
class Joined:
    """What a director got from the others before it began."""

    pins: Mapping[str, int]
    """How many pins each peer has told us of that has told us all of them."""
    missing: tuple[str, ...]
    """Peers that did not answer, or not to the end."""
    seconds: float


@dataclass(frozen=True)
class _Block:
    """A part of our table that a peer has asked for."""

    following: int
    positions: Positions


@dataclass
class _Peer:
    spec: FleetPeer
    id: int
    session: Session
    sock: socket.socket | None = None
    trouble: str = ""
    open_ns: int = 0
    """When to try to open the socket again."""
    opened_ns: int = 0
    hello_ns: int = 0
    """When to greet again, at the latest."""
    greeted_ns: int = 0
    challenge_ns: int = 0
    asking: Asking | None = None
    asked: int = 0
    blocks: dict[tuple[int, int], _Block] = field(default_factory=dict)
    """Those that it has asked for last, by number and cursor."""
    whole: int | None = None
    """The life of which we have had the whole table."""
    told_pins: int = 0
    """With that table."""
    gave_up: bool = False
    """We had no room to put aside all that was told of members that we do not know, since we last asked."""
    is_near: bool = False
    missing: float = 0.0
    """What we lack of its datagrams, as we tell it."""
    misses: float = 0.0
    """What it lacks of ours, as it tells us."""
    rest_until_ns: int = 0
    resting: bool = False
    dropped: int = 0
    sent: int = 0
    received: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    warned: int = 0
    warned_ns: int | None = None
    differs: dict[str, tuple[int, int]] = field(default_factory=dict)
    """When that was seen first and last, without having been equal in between, ns."""
    digests_at: int = 0
    """Where to go on with ours."""
    closed_ns: int = -1
    """When its machine said last that nobody has the port open. Anybody may say so in its name."""
    absent: dict[str, int] = field(default_factory=dict)
    """VIPs that routers do not have from it, and when it said so last, ns."""
    claims: dict[str, int] = field(default_factory=dict)


class PinChannel:
    """One director's end of it. `run` may have a thread of its own; everything else may be called from any."""

    def __init__(
        self,
        me: FleetPeer,
        peers: Sequence[FleetPeer],
        secret: bytes,
        pins: PinTable,
        *,
        tables: Callable[[], Mapping[str, int]] = dict,
        claims: Callable[[], Mapping[str, int]] = dict,
        rate: int = RATE,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        random: Callable[[int], int] = randbits,
    ) -> None:
        """
        Args:
            me: this director: its name, and the address and port that peers send to and hear from.
            peers: the others of the fleet.
            secret: the fleet's.
            pins: what the data plane remembers.
            tables: digests (64 bits) of what all directors should have alike, by name.
            claims: numbers of 64 bits that others are to know, by name. While there are any, we are heard more often.
            rate: bytes a second, at most.
            clock_ns: the monotonic clock.
            random: so many random bits that nobody can guess.

        Raises:
            ValueError: the secret is shorter than 128 bits.
        """
        self._me = me
        self._keys = Keys.derive(secret)
        self._id = self._keys.director(me.name)
        self._life = random(64) | 1
        self._pins = pins
        self._tables = tables
        self._claims = claims
        self._rate = rate
        self._clock_ns = clock_ns
        self._random = random
        self._telling = Telling(pins, self._keys)
        self._members: Mapping[int, TableMember] = {}
        self._peers: dict[str, _Peer] = {}
        self._counts: Counter[str] = Counter()
        self._reach: tuple[tuple[_Peer, ...], tuple[_Peer, ...]] = (), ()
        """Those that are sent news; and those that live, and of which nothing is heard. Swapped whole, since the
        forwarding thread reads it."""
        self._openings = self._openings_refused = self._openings_unsent = 0
        """Counted by the forwarding thread: told of; not allowed; allowed, but the datagram could not be sent."""
        self._openings_left, self._openings_ns = 0.0, clock_ns()
        self._refuse_until_ns: int | None = None
        self._wanted_ns: int | None = None
        """When the forwarding thread asked last whether connections may begin."""
        self._living: frozenset[str] = frozenset()
        self._allowance = 0.0
        self._told_ns = self._looked_ns = clock_ns()
        self._names: dict[int, str] = {}
        self._claimed: dict[int, str] = {}
        self._digests: dict[str, int] = {}
        self._digest_rows = np.zeros(0, DIGEST)
        self._digests_ns: int | None = None
        self._vips: dict[int, str] = {}
        self._absent = np.zeros(0, NAME)
        self._rows = [memoryview(bytearray(2048)) for _ in range(AT_ONCE)]
        self._epoll: select.epoll | None = None
        self._broken: Exception | None = None
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        """Of `run`."""
        self._lock = threading.RLock()
        self.set_peers(peers)

    # What others of this process say and ask

    def set_peers(self, peers: Sequence[FleetPeer]) -> None:
        """The others of the fleet from now on. What is between us and those that stay goes on undisturbed."""
        wanted = {peer.name: peer for peer in peers if peer.name != self._me.name}
        with self._lock:
            for name, peer in list(self._peers.items()):
                if wanted.get(name) != peer.spec:
                    self._close(peer)
                    del self._peers[name]
            for name, spec in wanted.items():
                if name not in self._peers:
                    # Numbers go on where they were, or further on, for a peer that was here before.
                    session = Session(self._life, self._random, self._clock_ns())
                    self._peers[name] = _Peer(spec, self._keys.director(name), session)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._wake.set)

    def set_members(self, members: Mapping[int, TableMember]) -> int:
        """The members of the tables in force, by index.

        What peers have told of members that are new here takes effect with this call, not later: before a VIP is
        announced, call this.

        Returns:
            How many pins that were.
        """
        if members == self._members:
            return 0
        with self._lock:
            self._members = dict(members)
            taken = self._telling.set_members(members)
            self._counts["merged"] += taken
            for peer in self._peers.values():
                if peer.gave_up and peer.is_near:
                    self._begin_asking(peer, self._clock_ns())
            return taken

    def set_absent(self, vips: Collection[str], absent: Collection[str]) -> None:
        """
        Args:
            vips: all VIPs of which others tell us, by the names that all directors have for them.
            absent: those of them that routers do not have from us, or soon will not have.
        """
        with self._lock:
            if set(vips) != set(self._vips.values()):
                self._vips = {self._keys.pool(vip): vip for vip in vips}
            names = np.array(sorted(self._keys.pool(vip) for vip in absent), NAME)
            if not np.array_equal(names, self._absent):
                self._absent = names
                for peer in self._peers.values():
                    self._tell_absent(peer)

    def set_living(self, names: Collection[str]) -> None:
        """
        Args:
            names: peers of whom is known otherwise that they live, whether they are heard of here or not. No
                connections begin that these do not hear of.
        """
        self._living = frozenset(names)

    def presence(self) -> Presence:
        now_ns = self._clock_ns()
        with self._lock:
            for peer in self._peers.values():
                peer.absent = {vip: at_ns for vip, at_ns in peer.absent.items() if now_ns - at_ns < _ABSENT_NS}
            return Presence(
                frozenset(
                    name
                    for name, peer in self._peers.items()
                    if peer.is_near
                    and (heard_ns := peer.session.heard_ns) is not None
                    and heard_ns > max(peer.closed_ns, now_ns - _UNHEARD_NS)
                ),
                {
                    name: {vip: (now_ns - at_ns) / 1e9 for vip, at_ns in peer.absent.items()}
                    for name, peer in self._peers.items()
                },
            )

    def mismatches(self) -> Mapping[str, Mapping[str, float]]:
        """By peer: tables in which it differs from us, and for how many seconds it is known to do so.

        With many tables it takes a while until the same one is compared again; nothing is known of the time until then.
        """
        with self._lock:
            return self._mismatches()

    def _mismatches(self) -> Mapping[str, Mapping[str, float]]:
        return {
            name: {table: (last - first) / 1e9 for table, (first, last) in peer.differs.items()}
            for name, peer in self._peers.items()
            if peer.differs and peer.is_near
        }

    def claims(self) -> Mapping[str, tuple[float, Mapping[str, int]]]:
        """By peer that is there: how many seconds ago it was heard, and what it claims, as far as we claim the same."""
        now_ns = self._clock_ns()
        with self._lock:
            return {
                name: ((now_ns - peer.session.heard_ns) / 1e9, dict(peer.claims))
                for name, peer in self._peers.items()
                if peer.is_near and peer.session.heard_ns is not None
            }

    def say_claims(self) -> None:
        """Have peers hear of our claims with the next round."""
        with self._lock:
            for peer in self._peers.values():
                peer.hello_ns = 0

    def status(self) -> ChannelStatus:
        with self._lock:
            return self._status(self._clock_ns())

    def _status(self, now_ns: int) -> ChannelStatus:
        mismatches = self._mismatches()
        peers = tuple(
            PeerStatus(
                name=name,
                address=f"{peer.spec.address} port {peer.spec.port}",
                state=_state(peer),
                heard_s_ago=None if peer.session.heard_ns is None else (now_ns - peer.session.heard_ns) / 1e9,
                round_trip_s=None if peer.session.round_trip_ns is None else peer.session.round_trip_ns / 1e9,
                sent=peer.sent,
                received=peer.received,
                refused=dict(peer.refused),
                dropped=_dropped(peer),
                lost_in=peer.missing,
                lost_out=peer.misses,
                mismatches=mismatches.get(name, {}),
                trouble=_trouble(peer, lives=name in self._living),
            )
            for name, peer in self._peers.items()
        )
        counts = {
            **{name: self._counts[name] for name in COUNTS},
            "openings": self._openings,
            "openings_refused": self._openings_refused,
            "openings_unsent": self._openings_unsent,
            "waiting": self._telling.waiting,
        }
        return ChannelStatus(f"{self._me.address} port {self._me.port}", peers, counts)

    async def joined(self, timeout_s: float = 2.0) -> Joined:
        """Wait until every peer that answers has told us all its pins. `run` must be running.

        Peers that say nothing for *timeout_s*, from the beginning or in the middle, are not waited for.
        """
        began_ns = self._clock_ns()
        timeout_ns = int(timeout_s * _SECOND)
        while True:
            now_ns = self._clock_ns()
            with self._lock:
                if not any(
                    now_ns - max(began_ns, peer.asking.progress_ns if peer.asking else 0) < timeout_ns
                    for peer in self._peers.values()
                    if not _is_whole(peer)
                ):
                    return Joined(
                        {name: peer.told_pins for name, peer in self._peers.items() if _is_whole(peer)},
                        tuple(name for name, peer in self._peers.items() if not _is_whole(peer)),
                        (now_ns - began_ns) / 1e9,
                    )
            await asyncio.sleep(TICK_S)

    async def run(self) -> None:
        """Tell and hear until cancelled."""
        self._loop = loop = asyncio.get_running_loop()
        # An ICMP error makes a connected socket ready with POLLERR, upon which uvloop stops watching it, for good. So
        # the loop watches an epoll of our own, which has no errors.
        self._epoll = select.epoll()
        loop.add_reader(self._epoll, self._ready, self._epoll)
        try:
            while True:
                if not self._peers:
                    self._wake.clear()
                    await self._wake.wait()
                if self._broken is not None:
                    raise self._broken
                with self._lock:
                    self._tick()
                await asyncio.sleep(TICK_S)
        finally:
            loop.remove_reader(self._epoll)
            with self._lock:
                self._loop = None
                for peer in self._peers.values():
                    self._close(peer)
                self._epoll.close()
                self._epoll = None

    # Ten milliseconds

    def _tick(self) -> None:
        now_ns = self._clock_ns()
        for peer in self._peers.values():
            if peer.sock is None:
                if now_ns >= peer.open_ns:
                    self._open(peer, now_ns)
                continue
            if peer.resting and now_ns >= peer.rest_until_ns:
                self._rest(peer, resting=False)
            if now_ns >= peer.hello_ns or (self._is_wanted(now_ns) and now_ns >= peer.greeted_ns + _CLAIMS_NS):
                first = peer.session.heard_ns is None and now_ns < peer.opened_ns + _FIRST_NS
                often = _CLAIMS_NS if self._claims() else _SECOND
                peer.hello_ns, peer.greeted_ns = now_ns + (_FIRST_HELLOS_NS if first else often), now_ns
                self._greet(peer, now_ns)
            self._look_after(peer, now_ns)
        near = tuple(peer for peer in self._peers.values() if peer.is_near)
        living = self._living
        self._reach = near, tuple(p for name, p in self._peers.items() if name in living and not p.is_near)
        if near:
            self._tell(near, now_ns)

    def _is_wanted(self, now_ns: int) -> bool:
        return self._wanted_ns is not None and now_ns - self._wanted_ns < _SECOND

    def _look_after(self, peer: _Peer, now_ns: int) -> None:
        missed, peer.missing = peer.missing > LOSS, peer.session.missing(now_ns)
        if (peer.missing > LOSS) != missed:
            peer.hello_ns = now_ns  # it should know soon
        if peer.is_near and not peer.session.is_near(now_ns):
            peer.is_near, peer.asking, peer.whole, peer.misses = False, None, None, 0.0
            log.warning("pins.peer_silent", peer=peer.spec.name, address=str(peer.spec.address))
        self._ask(peer, now_ns)
        refused = peer.refused.total()
        if refused > peer.warned + _STRAY and (peer.warned_ns is None or now_ns - peer.warned_ns > 60 * _SECOND):
            peer.warned, peer.warned_ns = refused, now_ns
            log.warning("pins.refused", peer=peer.spec.name, address=str(peer.spec.address), **peer.refused)

    def _tell(self, near: Sequence[_Peer], now_ns: int) -> None:
        passed_s = (now_ns - self._told_ns) / _SECOND
        self._told_ns = now_ns
        self._allowance = min(self._rate * _BURST_S, self._allowance + self._rate * passed_s)
        limit = max(0, int(self._allowance / (_DATAGRAM * len(near)))) * PER_DATAGRAM
        self._counts["overrun"] += self._telling.look()
        news = self._telling.news(limit)
        self._counts["news"] += self._tell_all(near, news)
        if now_ns - self._looked_ns >= _LOOK_NS:
            share = (now_ns - self._looked_ns) / (ROUND_MS * _MS)
            self._looked_ns = now_ns
            due = self._telling.due(share, limit - len(news))
            self._counts["refreshes"] += self._tell_all(near, due)

    def _tell_all(self, near: Sequence[_Peer], positions: Positions) -> int:
        if not len(positions):
            return 0
        at_ns = self._clock_ns()
        entries = self._telling.tell(positions)
        data = memoryview(entries.tobytes())
        size = PER_DATAGRAM * ENTRY.itemsize
        for begin in range(0, len(data), size):
            body = data[begin : begin + size]
            count = len(body) // ENTRY.itemsize
            for peer in near:
                self._send(peer, Kind.PINS, body, count, at_ns=at_ns)
                peer.sent += count
                self._allowance -= SHORTEST + len(body) + _FRAME
        return len(entries)

    # The forwarding thread tells of new connections itself: until that is done, it must not forward them

    @property
    def is_heard(self) -> bool:
        """Whether there is anybody to be told, or anybody who should be."""
        return any(self._reach)

    def grant(self, wanted: int) -> int:
        """Of how many more connections peers can be told now; see `pins.Herald`."""
        near, cut_off = self._reach
        if not near and not cut_off:
            return wanted
        self._wanted_ns = now_ns = self._clock_ns()
        is_unheard = bool(cut_off) or any(peer.misses > LOSS or _is_unsure(peer, now_ns) for peer in near)
        if is_unheard or (self._refuse_until_ns is not None and now_ns < self._refuse_until_ns):
            self._openings_refused += wanted
            return 0
        earned = (now_ns - self._openings_ns) * OPENINGS / _SECOND
        self._openings_ns = now_ns
        self._openings_left = min(OPENINGS_AT_ONCE, self._openings_left + earned)
        granted = min(wanted, int(self._openings_left))
        self._openings_left -= granted
        self._openings_refused += wanted - granted
        return granted

    def tell(self, positions: Positions) -> None:
        """Tell all peers that are there of the flows at these places, now; see `pins.Herald`.

        It is told once more with the other news. When a datagram cannot be sent, that is too late for a director that
        is lost meanwhile; so it is counted, and `grant` says no until the socket may work again.
        """
        (near, _), at_ns = self._reach, self._clock_ns()
        if not near:
            return
        entries, _, _ = self._telling.read(positions)
        for begin in range(0, len(entries), PER_DATAGRAM):
            part = entries[begin : begin + PER_DATAGRAM]
            unsent = 0
            for peer in near:
                sock = peer.sock
                if sock is not None:
                    try:
                        _send(sock, self._datagram(peer, Kind.PINS, part.tobytes(), len(part), at_ns))
                    except OSError:
                        # It may have been closed at this moment, since the peer was taken out of the fleet.
                        unsent += peer.sock is sock
            if unsent:
                self._openings_unsent += len(part)
                self._refuse_until_ns = at_ns + UNSENT_NS
            else:
                self._openings += len(part)

    # Datagrams out

    def _send(
        self,
        peer: _Peer,
        kind: Kind,
        body: bytes | memoryview,
        count: int = 0,
        *,
        to_life: int | None = None,
        at_ns: int | None = None,
    ) -> None:
        """
        Args:
            peer: for whom.
            kind: of the datagram.
            body: by kind.
            count: elements in it.
            to_life: of the peer; None is the one that we know.
            at_ns: when ages in it were true; None is now.
        """
        if peer.sock is None:
            return
        data = self._datagram(peer, kind, body, count, self._clock_ns() if at_ns is None else at_ns, to_life)
        try:
            _send(peer.sock, data)
        except (BlockingIOError, ConnectionRefusedError) as error:
            self._counts["send_failed"] += 1
            if isinstance(error, ConnectionRefusedError):
                peer.closed_ns = self._clock_ns()
        except OSError as error:
            self._counts["send_failed"] += 1
            peer.trouble = f"cannot send to {peer.spec.address}: {error}; see whether there is a route to it"
        else:
            peer.trouble = ""
            self._counts["datagrams_sent"] += 1
            self._counts["bytes_sent"] += len(data)

    def _datagram(
        self, peer: _Peer, kind: Kind, body: bytes | memoryview, count: int, at_ns: int, to_life: int | None = None
    ) -> bytes:
        session = peer.session
        route = Route(self._id, peer.id, self._life, (session.peer_life or 0) if to_life is None else to_life)
        return pack(self._keys, kind, route, session.next_sequence(), at_ns, body, count, peer.missing)

    def _greet(self, peer: _Peer, now_ns: int) -> None:
        digests = self._next_digests(peer, now_ns)
        self._send(peer, Kind.HELLO, hello_body(peer.session.greet(now_ns), digests), len(digests))
        self._tell_absent(peer)

    def _tell_absent(self, peer: _Peer) -> None:
        if peer.is_near:
            for begin in range(0, len(self._absent), NAMES):
                part = self._absent[begin : begin + NAMES]
                self._send(peer, Kind.ABSENT, part.tobytes(), len(part))

    def _next_digests(self, peer: _Peer, now_ns: int) -> npt.NDArray[np.void]:
        """Digests of tables; when there are many, each peer gets these in turn."""
        if self._digests_ns is None or now_ns - self._digests_ns > _SECOND // 2:
            self._digests_ns = now_ns
            self._digests = dict(self._tables())
            self._names = {self._keys.pool(name): name for name in self._digests}
            for each in self._peers.values():
                each.differs = {table: seen for table, seen in each.differs.items() if table in self._digests}
            self._digest_rows = np.zeros(len(self._digests), DIGEST)
            self._digest_rows["name"] = list(self._names)
            self._digest_rows["digest"] = list(self._digests.values())
        claims = self._claims()
        self._claimed = {self._keys.pool(name): name for name in claims}
        first = np.array(list(zip(self._claimed, claims.values(), strict=True))[: DIGESTS // 2], DIGEST)
        rows, room = self._digest_rows, DIGESTS - len(first)
        if len(rows) > room:
            rows = np.roll(rows, -peer.digests_at)[:room]
            peer.digests_at = (peer.digests_at + room) % len(self._digest_rows)
        return np.concatenate([first, rows])

    def _begin_asking(self, peer: _Peer, now_ns: int) -> None:
        """Ask for its whole table, once everything that has come in with this datagram is answered."""
        peer.asked += 1
        peer.gave_up = False
        peer.asking = Asking(peer.asked, now_ns)

    def _ask(self, peer: _Peer, now_ns: int) -> None:
        if peer.asking is not None:
            for ask in peer.asking.due(now_ns, peer.session.round_trip_ns or 0):
                self._send(peer, Kind.ASK, ask_body(ask))

    def _dump(self, peer: _Peer, ask: Ask) -> None:
        """Send the parts of a block that a peer wants."""
        key = ask.number, ask.cursor
        if (
            ask.cursor == 0
            and key not in peer.blocks
            and not any(other.is_near for other in self._peers.values() if other is not peer)
        ):
            self._telling.begin()
        if (block := peer.blocks.get(key)) is None:
            positions, following = self._telling.block(ask.cursor, PARTS * PER_DATAGRAM)
            block = peer.blocks[key] = _Block(following, positions)
            if len(peer.blocks) > 2 * BLOCKS:
                del peer.blocks[next(iter(peer.blocks))]
        parts = max(1, -(-len(block.positions) // PER_DATAGRAM))
        at_ns = self._clock_ns()
        entries, good, _ = self._telling.read(block.positions)
        bounds = np.searchsorted(good, np.arange(parts + 1) * PER_DATAGRAM).tolist()
        data = memoryview(entries.tobytes())
        for part in range(parts):
            if ask.wanted >> part & 1:
                begin, end = bounds[part], bounds[part + 1]
                body = dump_body(
                    Part(ask.number, ask.cursor, block.following, part, parts),
                    data[begin * ENTRY.itemsize : end * ENTRY.itemsize],
                )
                self._send(peer, Kind.DUMP, body, end - begin, at_ns=at_ns)
                peer.sent += end - begin
                self._counts["dumped"] += end - begin

    # Datagrams in

    def _ready(self, epoll: select.epoll) -> None:
        """The loop's callback. What breaks here must end `run`; the loop would only report it."""
        try:
            with self._lock:
                ready = {fd for fd, _ in epoll.poll(0)}
                for peer in self._peers.values():
                    if peer.sock is not None and peer.sock.fileno() in ready:
                        self._readable(peer, peer.sock)
        except Exception as error:
            asyncio.get_running_loop().remove_reader(epoll)
            self._broken = error

    def _readable(self, peer: _Peer, sock: socket.socket) -> None:
        now_ns = self._clock_ns()
        began_ns = time.thread_time_ns()
        told: list[Datagram] = []
        asks: list[Ask] = []
        read = doubtful = 0
        for row in self._rows:
            try:
                size = sock.recv_into(row)
            except BlockingIOError:
                break
            except OSError as error:  # an ICMP error about what we have sent; whoever wrote it proves nothing
                if isinstance(error, ConnectionRefusedError):
                    peer.closed_ns = now_ns
                continue
            read += 1
            datagram = self._judge(peer, unpack(self._keys, row[:size], peer.id, self._id), now_ns)
            if isinstance(datagram, Refusal):
                peer.refused[datagram] += 1
                doubtful += 1
            elif datagram.kind is Kind.HELLO:
                doubtful += not peer.session.knows(datagram)  # maybe a recording, answered all the same
            elif datagram.kind is Kind.ASK:
                asks.append(datagram.ask)
            elif datagram.kind is Kind.ABSENT:
                named = (self._vips.get(name) for name in datagram.names.tolist())
                peer.absent.update((vip, now_ns) for vip in named if vip is not None)
            elif datagram.kind in (Kind.PINS, Kind.DUMP):
                told.append(datagram)
        self._counts["datagrams_received"] += read
        if doubtful:
            self._pay(peer, (time.thread_time_ns() - began_ns) * doubtful // read)
        if told:
            self._hear(peer, told, now_ns)
        for ask in asks:
            self._dump(peer, ask)
        self._ask(peer, now_ns)

    def _hear(self, peer: _Peer, told: Sequence[Datagram], now_ns: int) -> None:
        counts = [len(datagram.entries) // ENTRY.itemsize for datagram in told]
        under_way = np.repeat([peer.session.under_way_ns(datagram, now_ns) for datagram in told], counts)
        heard = self._telling.hear(b"".join(datagram.entries for datagram in told), under_way)
        peer.received += sum(counts)
        for other in self._peers.values() if heard.lost else ():
            other.gave_up = True
        self._counts["merged"] += heard.merged
        self._counts["unknown_member"] += heard.unknown
        self._counts["unfit"] += heard.unfit
        asking = peer.asking
        if asking is None:
            return
        for datagram, count in zip(told, counts, strict=True):
            if datagram.kind is Kind.DUMP:
                asking.note(datagram.part, count, now_ns)
        if asking.is_done:
            peer.asking, peer.whole, peer.told_pins = None, peer.session.peer_life, asking.pins
            seconds = round((now_ns - asking.began_ns) / 1e9, 3)
            log.info("pins.peer_joined", peer=peer.spec.name, pins=asking.pins, seconds=seconds)

    def _judge(self, peer: _Peer, datagram: Datagram | Refusal, now_ns: int) -> Datagram | Refusal:
        """What is left of a datagram after a look at whose it is; greetings are answered here."""
        if isinstance(datagram, Refusal):
            return datagram
        session = peer.session
        life = session.peer_life
        if (verdict := session.judge(datagram, now_ns)) is not None:
            return verdict
        if datagram.kind is Kind.HELLO:
            digests = self._next_digests(peer, now_ns)
            self._send(peer, Kind.ANSWER, hello_body(datagram.nonce, digests), len(digests), to_life=datagram.life)
            if not session.knows(datagram):
                if now_ns - peer.challenge_ns > _CHALLENGE_NS:
                    peer.challenge_ns = now_ns
                    self._greet(peer, now_ns)
                return datagram
        if datagram.kind in (Kind.HELLO, Kind.ANSWER):
            self._compare(peer, datagram.digests, now_ns)
        peer.misses = datagram.missing
        if session.peer_life != life:
            peer.whole = None
            peer.blocks.clear()
            peer.differs.clear()
        if not peer.is_near or session.peer_life != life:
            peer.is_near = True
            self._begin_asking(peer, now_ns)
        return datagram

    def _compare(self, peer: _Peer, digests: npt.NDArray[np.void], now_ns: int) -> None:
        claims = {}
        for name, digest in digests.tolist():
            if (claim := self._claimed.get(name)) is not None:
                claims[claim] = digest
            if (table := self._names.get(name)) is None:
                continue
            if self._digests[table] == digest:
                peer.differs.pop(table, None)
            else:
                peer.differs[table] = peer.differs.get(table, (now_ns, now_ns))[0], now_ns
        peer.claims = claims

    # Floods

    def _pay(self, peer: _Peer, spent_ns: int) -> None:
        """What is refused, or only answered, takes its share of a CPU and no more."""
        now_ns = self._clock_ns()
        share = REFUSED_SHARE / len(self._peers)
        peer.rest_until_ns = max(now_ns, peer.rest_until_ns) + int(spent_ns * (1 / share - 1))
        if peer.rest_until_ns - now_ns > _REST_NS and not peer.resting:
            self._rest(peer, resting=True)

    def _rest(self, peer: _Peer, *, resting: bool) -> None:
        peer.resting = resting
        if self._epoll is not None and peer.sock is not None:
            if resting:
                self._epoll.unregister(peer.sock)
            else:
                self._epoll.register(peer.sock, select.EPOLLIN)

    # Sockets

    def _open(self, peer: _Peer, now_ns: int) -> None:
        me, spec = self._me, peer.spec
        family = socket.AF_INET if me.address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            # In this order: nobody has the socket's attention before the filter is there.
            attach_filter(sock, socket_filter(self._keys, peer.id, self._id, self._life))
            _enlarge(sock)
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _OMIT)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _OMIT)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # one for each peer
            sock.bind((str(me.address), me.port))
            sock.connect((str(spec.address), spec.port))
        except OSError as error:
            sock.close()
            trouble = (
                f"cannot use {me.address} port {me.port} to reach {spec.address} port {spec.port}: {error}; "
                "see whether the address is on this machine and the port is free, and whether there is a route"
            )
            if trouble != peer.trouble:
                log.warning("pins.no_socket", peer=spec.name, error=trouble)
            peer.trouble, peer.open_ns = trouble, now_ns + _SECOND
            return
        peer.sock, peer.trouble, peer.opened_ns = sock, "", now_ns
        self._rest(peer, resting=False)

    def _close(self, peer: _Peer) -> None:
        if peer.sock is not None:
            peer.dropped = _dropped(peer)
            peer.sock.close()
            peer.sock = None


COUNTS = (
    "datagrams_sent",
    "datagrams_received",
    "bytes_sent",
    "send_failed",
    "news",
    "refreshes",
    "dumped",
    "merged",
    "unknown_member",
    "unfit",
    "overrun",
)


def _is_whole(peer: _Peer) -> bool:
    return peer.whole is not None and peer.whole == peer.session.peer_life


def _state(peer: _Peer) -> PeerState:
    if not peer.is_near:
        return PeerState.SILENT
    return PeerState.JOINED if _is_whole(peer) else PeerState.JOINING


def _is_unsure(peer: _Peer, now_ns: int) -> bool:
    """Whether it may be that a peer hears nothing of us, or we of it."""
    answered_ns = peer.session.answered_ns
    return answered_ns is not None and now_ns - answered_ns > SURE_NS


def _trouble(peer: _Peer, *, lives: bool) -> str:
    if peer.trouble:
        return peer.trouble
    spec = peer.spec
    if peer.is_near and peer.misses > LOSS:
        return (
            f"{spec.name} does not get {peer.misses:.0%} of our datagrams, so new connections stay with the previous "
            f"owners of their slots: see whether the way to {spec.address} is overloaded, or somebody floods its port "
            f"{spec.port}"
        )
    if peer.is_near:
        return ""
    if _dropped(peer) or peer.refused:
        return (
            f"datagrams from {spec.address} port {spec.port} are refused: see whether {spec.name} has the same fleet "
            "secret, the same names of directors and the same version as we"
        )
    if lives:
        return (
            f"nothing is heard of {spec.name}, and the fleet's store says that it lives, so new connections stay with "
            f"the previous owners of their slots: see whether UDP from {spec.address} port {spec.port} gets through"
        )
    return f"nothing is heard of {spec.name}: see whether it runs, and whether UDP from {spec.address} gets through"


def _dropped(peer: _Peer) -> int:
    if peer.sock is None:
        return peer.dropped
    numbers = peer.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    return int(struct.unpack("9I", numbers)[_DROPS])


def _send(sock: socket.socket, data: bytes) -> None:
    """Send a datagram.

    Raises:
        BlockingIOError: there is no room for it.
        OSError: it cannot be sent.
    """
    try:
        sock.send(data)
    except BlockingIOError:
        raise
    except OSError:
        # Most likely an ICMP error about an earlier datagram. That may come from anybody, so it counts for nothing;
        # but this datagram was not sent.
        sock.send(data)


def _enlarge(sock: socket.socket) -> None:
    """As large as we may: a block of a dump comes at once."""
    for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, BUFFER // 2)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER // 2)

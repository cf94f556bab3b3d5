"""The decision: from a snapshot of the store to everything that should be true, with a reason for every "no".

Pure, so it can be asked anything at any time: by the reconciler, by `onward explain`, by a test. It may take tens of
milliseconds when a ring must be built, so the reconciler calls it in a thread.

What slots say depends on the past as well: on whom their flows were sent to before (ring/transition.py). That is the
decision before this one, and for a process that has none yet, the history in the snapshot.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import is_
from typing import TypeVar

import numpy as np

from appliance.announce import own_addresses, routes
from appliance.damping import NEW, Record, held_until
from appliance.damping import follow as follow_vip
from appliance.flapping import Flap, held, reuse_at
from appliance.forwarding import (
    NO_CHOICES,
    NO_MEMBER,
    ChoiceArray,
    ChoiceOrder,
    ForwardingTables,
    NextHop,
    Placement,
    QuicServers,
    SlotArray,
    TableMember,
    TableService,
)
from appliance.model import (
    AdminState,
    Config,
    Delivery,
    DsrType,
    EffectiveState,
    Flapping,
    HaMode,
    Health,
    IPAddress,
    IPNetwork,
    Member,
    MemberStats,
    Order,
    Pool,
    Protocol,
    VirtualService,
)
from appliance.ranks import order, standing
from appliance.ring.algorithms import ALGORITHMS, Candidate, Method, remarks
from appliance.ring.slots import RingMember, build_slots, shares
from appliance.ring.transition import Course, PinFacts, Step, follow, is_quiet, pin_facts, replay, start
from appliance.server_ids import server_ids
from appliance.state import (
    INTERFACE_DOWN,
    LOCAL_ADDRESS,
    CourseKey,
    LogEntry,
    LoggedMember,
    MemberWay,
    RingKey,
    Snapshot,
    Unresolved,
    first_needed,
    same_ring,
)
from bgp.route import Route

_T = TypeVar("_T")


class Why(StrEnum):
    """Why a member is out of rotation, or a VIP is not announced. The same words in logs, metrics, status and page."""

    # a member
    DISABLED = "disabled"
    RATIO_ZERO = "ratio_zero"
    REMOVED = "removed"
    """Not configured any more, and goes on with the flows that it has."""
    DRAIN = "drain"
    """Ordered by an operator."""
    DRAIN_OVER = "drain_over"
    """It was given so long to end its flows, and what was left is cut."""
    MAINT = "maint"
    """Ordered by an operator."""
    HEALTH_UNKNOWN = "health_unknown"
    HEALTH_DOWN = "health_down"
    MAINTENANCE = "maintenance_response"
    """The member itself says that it is worked on."""
    FLAPPING = "flapping"
    """It is well, but went down so often lately that it has to be well for a while first."""
    ARRIVING = "arriving"
    """It is well, and gets new flows as soon as all directors of the fleet know it."""
    UNREACHABLE = "unreachable"
    """No next hop; the detail says what is missing."""
    NOT_ON_SEGMENT = "not_on_segment"
    """L2 DSR rewrites a MAC address, so the member must be on a segment of the director."""

    # a pool
    PANIC = "panic"
    """So many members went down at once that the monitors are not believed."""

    # a virtual service
    SERVICE_DISABLED = "service_disabled"
    BELOW_MIN_MEMBERS = "below_min_members"
    LEARNING = "learning"
    """The director has just started, or was cut off, and waits to hear of all members."""

    # a VIP
    NO_SERVICE_UP = "no_service_up"
    NOT_ALL_SERVICES_UP = "not_all_services_up"
    """Its virtual services want it to be announced only while all of them serve."""
    PLANE_DOWN = "plane_down"
    JOINING = "joining"
    """The director has just started, and asks the others for the flows that they remember."""
    LOCAL_ADDRESS = "local_address"
    """The VIP is an address of this director: its kernel would take the packets."""
    DRAINED = "drained"
    """This director was taken out of service."""
    HELD_DOWN = "held_down"
    """It comes and goes, and must be well for a while first."""
    NO_PEER = "no_peer"
    """No BGP peer may be told of it: the labels that its virtual services ask for, or next hops."""
    NEXT_HOP_LOST = "next_hop_lost"
    """No BGP peer may be told of it now: the next hop is an address of this director whose interface is down."""
    NO_BGP = "no_bgp"
    """Nothing to announce with: the configuration has no [bgp]."""


@dataclass(frozen=True)
class No:
    """A "no" with its reason."""

    why: Why
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.why}: {self.detail}" if self.detail else str(self.why)


@dataclass(frozen=True)
class MemberView:
    id: str
    """`pool/member`."""

    name: str
    address: IPAddress
    ratio: int
    health: Health
    state: EffectiveState
    no: No | None
    """Why it takes no new flows; None exactly when it is in rotation."""

    index: int
    share: float
    """Fraction of the slots, 0..1."""

    next_hop: NextHop | None
    order: Order | None = None
    until: float | None = None
    """When what is left of its flows is cut, in seconds since 1970; None is never."""

    ramp: float = 1.0
    """What part of its slots it has, while it starts slowly."""

    drained: bool = False
    """Takes no new flows, no slot falls back to it, and none of its flows is remembered."""

    leaving: bool = False
    alone: bool = False
    """The fleet agrees that it serves, and this director alone cannot reach it: it gets no new flows from here, and
    those that it has wait for it."""

    up_since: float | None = None
    """Since when it takes new flows, where it began slowly; else None."""
    arrives_at: float | None = None
    """In a fleet, when it may get new flows, having begun to serve lately, in seconds since 1970; else None."""

    path_mtu: int | None = None
    """Largest outer packet that routers beyond the next hop take, bytes, where that was learned."""

    kept: float = 1.0
    """What part of its slots clients' handshakes leave it."""
    odd: str = ""
    """In what these are not like those by the others of its pool."""

    remark: str = ""
    """Why it is treated other than its ratio says: by the pool's algorithm, or for its handshakes."""

    @property
    def serves(self) -> bool:
        """Whether it goes on with the flows that it has."""
        return self.state is not EffectiveState.OUT


@dataclass(frozen=True)
class ServiceView:
    service: VirtualService
    members: tuple[MemberView, ...]
    no: No | None
    """Why it does not serve; None when it does."""

    course: Course | None = None
    """Its slots on their way from one state to the next; None of one that is not in the tables."""

    panic: No | None = None
    """Why its pool stays as it was, whatever the monitors say."""

    @property
    def in_rotation(self) -> int:
        return sum(member.state is EffectiveState.IN_ROTATION for member in self.members)


@dataclass(frozen=True)
class VipView:
    vip: IPAddress
    services: tuple[str, ...]
    no: No | None
    """Why it is not to be announced; None when it is."""

    down: No | None = None
    """Why it is not up here, whoever may be told of it; None when it is."""

    arp: bool = False
    """Whether directors answer for it on the segment."""

    routes: frozenset[Route] = frozenset()
    """What peers are told of it when it is announced."""

    ranked: tuple[str, ...] = ()
    """The directors of the fleet by rank, where the HA mode has ranks."""

    standing: int | None = None
    """How many steps worse than the best our routes are, where the HA mode has ranks."""

    record: Record = NEW
    held_until: float | None = None
    """When it is announced, if nothing happens, in seconds since 1970; None: it is not held down."""


@dataclass(frozen=True)
class Desired:
    """Everything that should be true."""

    tables: ForwardingTables
    routes: frozenset[Route]
    services: tuple[ServiceView, ...]
    vips: tuple[VipView, ...]
    gone: frozenset[str] = frozenset()
    """Members that were leaving and that nothing refers to any more, as `pool/member`."""

    moved: Mapping[str, tuple[Pool, ...]] = field(default_factory=dict)
    """Former pools that have nothing left to do, by virtual service."""

    remembered: frozenset[int] = frozenset()
    """Members whose flows are worth remembering, by index: those that serve, and all of pools that are not decided."""

    draining: bool = False
    """Whether this director is to be left by its traffic."""

    recheck_at: float | None = None
    """When time alone will change something, in seconds since 1970; None is never."""

    log: Mapping[RingKey, tuple[LogEntry, ...]] = field(default_factory=dict, repr=False, compare=False)
    """How the rings became what they are, as far back as it matters: what a process that follows has to know."""

    @property
    def attracts(self) -> bool:
        """Whether any traffic is asked for: by routes, or on a segment."""
        return bool(self.routes) or any(view.arp and view.down is None for view in self.vips)

    courses: Mapping[CourseKey, Course] = field(default_factory=dict, repr=False, compare=False)
    meanwhile: Mapping[CourseKey, Course] = field(default_factory=dict, repr=False, compare=False)
    """Words in the tables while those of `courses` wait for their pool to be decided."""
    watched: Mapping[CourseKey, tuple[SlotArray, SlotArray, float]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Of pools that are watched: words, the same with some of them made such that planes remember their flows, and
    how large a part."""
    rings: Mapping[RingKey, "_Ring"] = field(default_factory=dict, repr=False, compare=False)
    """What `decide` takes over from one round to the next."""


def decide(snapshot: Snapshot, before: Desired | None = None, now: float = 0.0) -> Desired:
    """What should be true, given what is known.

    Args:
        snapshot: all that is known.
        before: the decision that is in force, or none. Where the slots of a pool have belonged to others in it, those
            keep their flows; and what has not changed is not computed again.
        now: seconds since 1970.
    """
    config = snapshot.config
    if before is not None:
        snapshot, before = _by_todays_ways(snapshot, before)
    uses = pool_uses(config)
    rings: dict[RingKey, _Ring] = {}
    courses: dict[CourseKey, Course] = {}
    meanwhile: dict[CourseKey, Course] = {}
    settled: set[RingKey] = set()
    table_members: dict[int, TableMember] = {}
    table_services: list[TableService] = []
    views: list[ServiceView] = []
    watched: dict[CourseKey, tuple[SlotArray, SlotArray, float]] = {}
    for service in config.services:
        delivery = service.profile.delivery
        for pool in service.pools:
            key = pool.name, delivery
            if key not in rings:
                use, known_ring = uses[pool.name], before.rings.get(key) if before else None
                log = (before.log if before else snapshot.history).get(key) or snapshot.history.get(key, ())
                rings[key] = _ring(snapshot, pool, delivery, use, known_ring, log, now)
                table_members |= rings[key].table_members
                if _settles(snapshot, key, rings[key], use, before, now):
                    settled.add(key)
        ring = _in_force(service, rings)
        words = course_key(service)
        if words not in courses:
            settles = bool(settled) and (ring.pool.name, delivery) in settled
            known = _course(snapshot, service, words, rings, before, now, settled=settles)
            if known is not None:
                courses[words] = known
                if (interim := _meanwhile(snapshot, service, words, known, rings, before, now)) is not None:
                    meanwhile[words] = interim
        course = courses.get(words)
        views.append(ServiceView(service, ring.members, _why_not_serving(service, ring), course, ring.panic))
        if service.enabled:
            quic = _quic(service, rings, config.secret)
            for vip in service.vips:
                if not _is_ours(snapshot, vip):
                    in_force = meanwhile.get(words) if ring.undecided else course
                    slots = ring.wanted if in_force is None else in_force.slots
                    if ring.pool.passive_share and service.protocol is Protocol.TCP:
                        slots = _watched(words, slots, ring.pool.passive_share, watched, before)
                    table_services.append(_table_service(len(table_services), service, vip, ring, slots, quic, before))
    views, gone = _drained(views, courses, rings, snapshot)
    moved = {
        service.name: service.former
        for service in config.services
        if service.former and _has_moved(snapshot, service, rings, courses)
    }
    vip_views = _vips(snapshot, views, before, now)
    return Desired(
        tables=ForwardingTables(config.secret, tuple(table_services), table_members, _answering(vip_views, views)),
        routes=frozenset(route for view in vip_views if view.no is None for route in view.routes),
        services=tuple(views),
        vips=vip_views,
        draining=snapshot.drain is not None,
        gone=gone,
        moved=moved,
        remembered=frozenset(
            view.index for ring in rings.values() for view in ring.judged if view.serves or ring.undecided
        ),
        recheck_at=min(
            (
                *_rechecks(rings.values(), courses.values(), now),
                *(view.held_until for view in vip_views if view.held_until is not None),
            ),
            default=None,
        ),
        log={
            key: _logged(key, ring, uses[key[0]], before, snapshot, now, settled=key in settled)
            for key, ring in rings.items()
        },
        courses=courses,
        watched=watched,
        meanwhile=meanwhile,
        rings=rings,
    )


def arrived(snapshot: Snapshot, decided: Desired, now: float) -> Desired:
    """What a decision of *now* comes to when its members that arrive have arrived, and nothing else has changed."""
    arriving = any(member.arrives_at is not None for view in decided.services for member in view.members)
    return decide(snapshot, decided, now + ARRIVAL_S) if arriving else decided


def _by_todays_ways(snapshot: Snapshot, before: Desired) -> tuple[Snapshot, Desired]:
    """What is known from before a reload, also by the delivery that a pool has now: where its members have kept their
    indices, they are the same ones (`state.redelivered`)."""
    now = {(pool.name, service.profile.delivery) for service in snapshot.config.services for pool in service.pools}
    moved = {
        old: new
        for new in now - before.rings.keys()
        for old in before.rings.keys() - now
        if old[0] == new[0]
        and any(
            snapshot.indices.get(MemberWay(new[0], view.address, new[1])) == view.index
            for view in before.rings[old].judged
        )
    }
    if not moved:
        return snapshot, before

    def by_course(known: Mapping[CourseKey, _T]) -> Mapping[CourseKey, _T]:
        return {**known, **{(*moved[key[:2]], *key[2:]): one for key, one in known.items() if key[:2] in moved}}

    rings = dict(before.rings)
    for old, new in moved.items():
        members = {index: replace(one, delivery=new[1]) for index, one in rings[old].table_members.items()}
        rings[new] = replace(rings[old], table_members=members)
    before = replace(
        before,
        rings=rings,
        courses=by_course(before.courses),
        meanwhile=by_course(before.meanwhile),
        log={**before.log, **{new: before.log[old] for old, new in moved.items() if old in before.log}},
    )
    return replace(snapshot, pins=replace(snapshot.pins, facts=by_course(snapshot.pins.facts))), before


def window_s(service: VirtualService) -> float:
    """How long flows of a service from before a change may be silent and are still found.

    TCP flows have a beginning, so the window may be long. Of a UDP packet nobody can tell whether its flow is new:
    until the window ends, new ones go where old ones would.
    """
    idle = service.profile.session_idle_timeout_s
    return service.pool.window_s if service.protocol is Protocol.TCP else float(idle)


def course_key(service: VirtualService) -> CourseKey:
    """Whose words a service's are: those of its pool, or its own while it has flows of a former pool."""
    own = service.name if service.former else ""
    return service.pool.name, service.profile.delivery, window_s(service), own


@dataclass(frozen=True)
class PoolUse:
    """What the virtual services that use a pool ask of it, whatever their delivery."""

    words: frozenset[tuple[float, str]] = frozenset()
    """The last two of `course_key` of each."""

    per_packet: bool = False
    min_members: int = 1
    """The most that any of them wants in rotation."""

    @property
    def longest_window_s(self) -> float:
        return max((window for window, _ in self.words), default=0.0)


def pool_uses(config: Config) -> Mapping[str, PoolUse]:
    """By name, pools in use, and those that were in use before."""
    words: dict[str, set[tuple[float, str]]] = {}
    by_packet = set()
    least: dict[str, int] = {}
    for service in config.services:
        key = course_key(service)
        for pool in service.pools:
            words.setdefault(pool.name, set()).add(key[2:])
            least[pool.name] = max(least.get(pool.name, 1), service.min_members)
            if service.profile.per_packet:
                by_packet.add(pool.name)
    return {name: PoolUse(frozenset(found), name in by_packet, least[name]) for name, found in words.items()}


def slot_tables(config: Config) -> int:
    """How many slot tables a configuration makes: services that share pool, delivery and window share one."""
    return len(set(map(course_key, config.services)))


ARRIVAL_S = 1.0
"""How long a member serves in a fleet before it gets new flows. Directors neither learn of it nor have it in their
tables at the same moment; and what others tell of flows of a member that is not in the tables cannot be followed,
should routers send such a flow to another director just then."""

SLOW_START_STEPS = 20
"""A slow start gives slots back in so many steps: each one is a change of the tables."""

RECHECK_S = 5.0
"""How often tables that are on their way are looked at anew."""


@dataclass(frozen=True)
class _Ring:
    """A pool by one delivery: the same for all virtual services that use it."""

    pool: Pool
    inputs: tuple[object, ...]
    """All that the rest depends on, but for time; compared by identity or equality, whatever is cheaper."""
    good: frozenset[str]
    """Members that were up when the monitors were believed last."""
    panic: No | None
    judged: tuple[MemberView, ...]
    """Members without their shares: what of it matters."""
    members: tuple[MemberView, ...]
    wanted: SlotArray
    """Steady words: whom the slots should belong to."""
    choices: ChoiceArray
    undecided: tuple[str, ...]
    table_members: Mapping[int, TableMember]
    recheck_at: float | None
    remarks: Mapping[str, str] = field(default_factory=dict)
    """By member name."""

    @property
    def method(self) -> Method:
        return ALGORITHMS[self.pool.algorithm]

    @property
    def serving(self) -> frozenset[int]:
        return frozenset(self.table_members)


def _ring(
    snapshot: Snapshot,
    pool: Pool,
    delivery: Delivery,
    use: PoolUse,
    before: _Ring | None,
    log: tuple[LogEntry, ...],
    now: float,
) -> _Ring:
    # A part of the ring is worse than none: it would send flows that other directors have placed by the whole ring to
    # members that know nothing of them, and those reset them. What is dropped is sent again. So until the pool is
    # decided nobody takes new flows, and only who has served all along goes on with those that it has.
    undecided = tuple(snapshot.undecided(pool))
    health = tuple(map(snapshot.health.get, pool.member_ids))
    orders = tuple(map(snapshot.orders.get, pool.member_ids))
    times = tuple(
        (snapshot.up_since.get(name), snapshot.off_since.get(name), snapshot.maintained_since.get(name))
        for name in pool.member_ids
    )
    paths = tuple(_path_mtu(snapshot, member, delivery) for member in pool.members)
    odd = tuple(map(snapshot.outliers.get, pool.member_ids))
    inputs = (undecided, health, orders, times, paths, odd)
    if (
        before is not None
        and before.pool is pool
        and before.inputs[0] is snapshot.indices
        and before.inputs[1] is snapshot.next_hops
        and before.inputs[2:] == inputs
        and (before.recheck_at is None or now < before.recheck_at)
    ):
        return _with_choices(before, snapshot, use, before)
    panic = _panic(pool, health, before)
    believed = dict(zip(pool.member_ids, health, strict=True))
    if panic is not None and before is not None:
        # A member that says what it is doing is believed.
        believed |= {name: Health.UP for name in before.good & believed.keys() if not _tells(believed[name])}
    flaps = _flaps(snapshot, pool)
    flapping = held(flaps, pool.flapping, frozenset(n for n, h in believed.items() if h is Health.UP), now)
    hops = {view.index: view.next_hop for view in before.judged} if before is not None else {}
    since = _came(pool, before, log, snapshot.history.get((pool.name, delivery), ()), now)
    judged = tuple(
        _judge(snapshot, pool, member, delivery, believed, hops, since.get(member.address), now, flapping)
        for member in pool.members
    )
    if len(snapshot.config.fleet.directors) > 1 and before is not None and not before.undecided:
        judged = _arriving(judged, use, before, now)
    known = before if before is not None and before.undecided == undecided else None
    if known is not None and known.judged == judged and known.pool.algorithm == pool.algorithm:
        wanted, members, table_members = known.wanted, known.members, known.table_members
    else:
        wanted = build_slots(tuple(_ring_member(view, known=not undecided) for view in judged if not view.leaving))
        share = shares(wanted)
        members = tuple(replace(view, share=share.get(view.index, 0.0)) for view in judged)
        table_members = _table_members(judged, delivery, snapshot.config.director.outer_source_prefixes)
        if undecided:
            served = before.table_members if before is not None else {}
            table_members = {index: member for index, member in table_members.items() if index in served}
    ring = _Ring(
        pool=pool,
        inputs=(snapshot.indices, snapshot.next_hops, *inputs),
        good=before.good if panic and before else frozenset(n for n, h in believed.items() if h is Health.UP),
        panic=panic,
        judged=judged,
        members=members,
        wanted=wanted,
        choices=NO_CHOICES,
        undecided=undecided,
        table_members=table_members,
        recheck_at=min((*_turns(pool, judged, snapshot, now), *_ends(pool, flaps, now)), default=None),
    )
    return _with_choices(ring, snapshot, use, before)


def _with_choices(ring: _Ring, snapshot: Snapshot, use: PoolUse, before: _Ring | None) -> _Ring:
    """The ring with what its algorithm chooses now."""
    method = ring.method
    if method.placement is Placement.HASH and not use.per_packet:
        return ring
    if ring is before and not method.dynamic and len(ring.choices):
        return ring
    takers = [view for view in ring.judged if view.state is EffectiveState.IN_ROTATION and not ring.undecided]
    limits = {member.address: member.max_connections for member in ring.pool.members}
    stats = [snapshot.stats.get(view.index, MemberStats()) for view in takers]
    candidates = [
        Candidate(
            index=view.index,
            id=view.name,
            weight=max(1, round(view.ratio * SLOW_START_STEPS * view.ramp * view.kept)),
            connections=seen.connections,
            response_s=seen.response_s,
            load=seen.load,
            limit=limits[view.address],
        )
        for view, seen in zip(takers, stats, strict=True)
    ]
    earlier = before.choices if before is not None else NO_CHOICES
    choices = method.choose(candidates, sum(seen.new_per_s for seen in stats), earlier)
    if before is not None and len(choices) == len(earlier) and bool((choices == earlier).all()):
        choices = earlier
    said = {remark.member: str(remark) for remark in remarks(method, candidates)}
    if choices is ring.choices and said == ring.remarks:
        return ring
    return replace(ring, choices=choices, remarks=said)


def _panic(pool: Pool, health: tuple[Health | None, ...], before: _Ring | None) -> No | None:
    """Whether more members are down than can be believed."""
    used = [state for member, state in zip(pool.members, health, strict=True) if member.enabled and not member.leaving]
    down = sum(state is Health.DOWN for state in used)
    if not pool.panic_percent or not before or not before.good or down * 100 <= pool.panic_percent * len(used):
        return None
    return No(Why.PANIC, f"{down} of {len(used)} members are down at once; those that were up are kept")


def _judge(
    snapshot: Snapshot,
    pool: Pool,
    member: Member,
    delivery: Delivery,
    believed: Mapping[str, Health | None],
    hops: Mapping[int, NextHop | None],
    came: float | None,
    now: float,
    flapping: Mapping[str, Flap],
) -> MemberView:
    member_id = f"{pool.name}/{member.name}"
    health = (believed[member_id] or Health.UNKNOWN) if pool.monitors else Health.UP
    hop = snapshot.next_hops.get(member.address, Unresolved("not_looked_up"))
    order = snapshot.orders.get(member_id)
    ratio = member.ratio if order is None or order.ratio is None else order.ratio
    until = _until(snapshot, pool, member_id, order)
    index = snapshot.indices[MemberWay(pool.name, member.address, delivery)]
    unreachable = _why_unreachable(member, hop, delivery)
    alone = unreachable is not None and health is Health.UP and snapshot.config.fleet.etcd is not None
    if alone and (last := hops.get(index)) is not None:
        hop = last  # its flows stall; another member would reset them
    cut = _why_cut(order, health, until, now) or _why_unreachable(member, hop, delivery)
    no = cut or _why_nothing_new(member, ratio, health, order) or unreachable
    if no is None and pool.flapping is not None and (flap := flapping.get(member_id)) is not None:
        no = _why_flapping(flap, pool.flapping)
    since = (snapshot.up_since.get(member_id), came) if no is None and pool.slow_start_s else ()
    up_since = max((at for at in since if at is not None), default=None)
    state = EffectiveState.OUT if cut else EffectiveState.DRAINING if no else EffectiveState.IN_ROTATION
    return MemberView(
        id=member_id,
        name=member.name,
        address=member.address,
        ratio=ratio,
        health=health,
        state=state,
        no=no,
        index=index,
        share=0.0,
        next_hop=hop if isinstance(hop, NextHop) else None,
        order=order,
        until=until,
        ramp=_ramp(pool, up_since, now),
        alone=alone,
        up_since=up_since,
        leaving=member.leaving,
        path_mtu=_path_mtu(snapshot, member, delivery),
        kept=pool.passive_weight if member_id in snapshot.outliers else 1.0,
        odd=snapshot.outliers.get(member_id, ""),
    )


def _path_mtu(snapshot: Snapshot, member: Member, delivery: Delivery) -> int | None:
    """L2 DSR goes no further than the first link."""
    path = snapshot.path_mtus.get(member.address) if delivery.dsr_type is DsrType.L3 else None
    return path.mtu if path is not None else None


def _until(snapshot: Snapshot, pool: Pool, member_id: str, order: Order | None) -> float | None:
    """When what is left of a member's flows is cut."""
    if order is not None and order.state is AdminState.DRAIN:
        return order.until
    off = snapshot.off_since.get(member_id, snapshot.maintained_since.get(member_id))
    return off + pool.drain_timeout_s if off is not None and pool.drain_timeout_s is not None else None


def _why_cut(order: Order | None, health: Health, until: float | None, now: float) -> No | None:
    """Why a member gets no packets at all, wherever it is."""
    if order is not None and order.state is AdminState.MAINT:
        return No(Why.MAINT, "ordered by an operator")
    if until is not None and now >= until:
        return No(Why.DRAIN_OVER, "the time that it had to end its flows is over")
    return No(Why.HEALTH_DOWN) if health is Health.DOWN else None


def _why_unreachable(member: Member, hop: NextHop | Unresolved, delivery: Delivery) -> No | None:
    """Why this director can send a member nothing."""
    if isinstance(hop, Unresolved):
        return No(Why.UNREACHABLE, f"{hop.reason} {hop.detail}".strip())
    if delivery.dsr_type is DsrType.L2 and not hop.direct:
        return No(Why.NOT_ON_SEGMENT, f"{member.address} is behind a router on {hop.interface}; use L3 DSR")
    return None


def _why_nothing_new(member: Member, ratio: int, health: Health, order: Order | None) -> No | None:
    """Why a member that could be reached gets no new flows."""
    if member.leaving:
        return No(Why.REMOVED, "keeps the flows that it has")
    if order is not None and order.state is AdminState.DRAIN:
        return No(Why.DRAIN, "ordered by an operator")
    if not member.enabled:
        return No(Why.DISABLED)
    if ratio == 0:
        return No(Why.RATIO_ZERO)
    if health is Health.MAINTENANCE:
        return No(Why.MAINTENANCE, "says that it is worked on; keeps the flows that it has")
    if health is Health.UNKNOWN:
        return No(Why.HEALTH_UNKNOWN, "no verdict yet")
    return None


def _why_flapping(flap: Flap, terms: Flapping) -> No:
    times = "once" if flap.downs == 1 else f"{flap.downs} times"
    return No(
        Why.FLAPPING,
        f"went down {times} lately: penalty {flap.penalty:.0f}, more than {terms.suppress:g}; takes new flows "
        f"when it has been well for {reuse_at(flap, terms) - flap.at:.0f} s",
    )


def _arriving(judged: tuple[MemberView, ...], use: PoolUse, before: _Ring, now: float) -> tuple[MemberView, ...]:
    """The members, of whom those that were not in the tables before get no new flows yet. Nobody waits where too few
    would be left: fewer than virtual services want, or less than half of what there is."""
    served = {
        view.index: None if view.state is EffectiveState.IN_ROTATION else view.arrives_at
        for view in before.judged
        if view.serves
    }
    due = {view.index: served.get(view.index, now + ARRIVAL_S) for view in judged if view.serves}
    late = {index: at for index, at in due.items() if at is not None and at > now}
    if not late:
        return judged
    taking = [view for view in judged if view.state is EffectiveState.IN_ROTATION]
    first = [view for view in taking if view.index not in late]
    enough = 2 * sum(view.ratio for view in first) >= sum(view.ratio for view in taking)
    waits = len(first) >= use.min_members and enough
    no = No(Why.ARRIVING, "the other directors of the fleet get to know it first")
    return tuple(
        replace(view, state=EffectiveState.DRAINING, no=no, arrives_at=late[view.index])
        if waits and view.index in late and view.state is EffectiveState.IN_ROTATION
        else replace(view, arrives_at=late.get(view.index))
        for view in judged
    )


def _tells(health: Health | None) -> bool:
    return health is Health.MAINTENANCE


def _flaps(snapshot: Snapshot, pool: Pool) -> Mapping[str, Flap]:
    """What is held against members, by `pool/member`; nothing where the pool does not want it."""
    if not pool.monitors or pool.flapping is None:
        return {}
    return {name: flap for name in pool.member_ids if (flap := snapshot.flaps.get(name)) is not None}


def _ends(pool: Pool, flaps: Mapping[str, Flap], now: float) -> Iterable[float]:
    """When members that come and go are taken again."""
    for flap in flaps.values():
        if pool.flapping is not None and (ends := reuse_at(flap, pool.flapping)) > now:
            yield ends


def _came(
    pool: Pool, before: _Ring | None, log: tuple[LogEntry, ...], told: tuple[LogEntry, ...], now: float
) -> Mapping[IPAddress, float]:
    """When members came into rotation, by address, where the pool has slow starts: if they are in it now.

    What a director sees, it knows: for whoever was not in rotation before, the moment is now. What was before its time,
    the log says. What not even the log says is no slow start: other directors may have given such a member everything
    long ago.

    Args:
        pool: whose members.
        before: the pool in the decision before.
        log: that decision's log, or the history.
        told: the history.
        now: seconds since 1970.
    """
    if not pool.slow_start_s:
        return {}
    here = before is not None and not before.undecided
    found: dict[IPAddress, float] = {}
    rest = {member.address for member in pool.members}
    if before is not None and here:
        stay = {view.address: view.up_since for view in before.judged if view.state is EffectiveState.IN_ROTATION}
        found = {address: since for address, since in stay.items() if since is not None}
        rest -= stay.keys()
    elif told and (not log or told[-1].at > log[-1].at):
        log = told
    runs = dict.fromkeys(rest, now) if here else {}
    ramps: dict[IPAddress, float] = {}
    for entry in reversed(log):
        taking = {member.address: member.ramp for member in entry.members if member.eligible}
        found |= {address: runs[address] for address in rest - taking.keys() if address in runs}
        rest &= taking.keys()
        if not rest:
            return found
        runs |= dict.fromkeys(rest, entry.at)
        ramps = taking
    # They came before the log begins, in which it may still say how far they were.
    begun = {address: ramps[address] for address in rest & ramps.keys() if ramps[address] < 1.0}
    return found | {at: runs[at] - (ramp - 1 / SLOW_START_STEPS) * pool.slow_start_s for at, ramp in begun.items()}


def _ramp(pool: Pool, up_since: float | None, now: float) -> float:
    """What part of its slots a member has: steps of a slow start, by the clock alone."""
    if up_since is None:
        return 1.0
    step = int((now - up_since) / pool.slow_start_s * SLOW_START_STEPS) + 1
    return min(1.0, max(1, step) / SLOW_START_STEPS)


def _turns(pool: Pool, judged: tuple[MemberView, ...], snapshot: Snapshot, now: float) -> Iterable[float]:
    """When time alone changes something about members."""
    for view in judged:
        if view.until is not None and view.until > now:
            yield view.until
        if view.arrives_at is not None:
            yield view.arrives_at
        if view.ramp < 1.0 and view.up_since is not None:
            yield view.up_since + view.ramp * pool.slow_start_s


def _ring_member(view: MemberView, *, known: bool) -> RingMember:
    eligible = known and view.state is EffectiveState.IN_ROTATION
    ramp = view.ramp * view.kept
    return RingMember(id=view.name, weight=view.ratio, index=view.index, eligible=eligible, ramp=ramp)


def _table_members(
    judged: tuple[MemberView, ...], delivery: Delivery, prefixes: tuple[IPNetwork, ...]
) -> Mapping[int, TableMember]:
    """Members that serve."""
    return {
        view.index: TableMember(
            view.index,
            view.id,
            view.address,
            delivery,
            view.next_hop,
            view.path_mtu,
            delivery.outer_prefix(view.address, prefixes),
        )
        for view in judged
        if view.serves and view.next_hop is not None
    }


Rings = Mapping[RingKey, _Ring]


def _in_force(service: VirtualService, rings: Rings) -> _Ring:
    """The ring that says who takes new flows: that of a former pool as long as nobody knows who of the new one can."""
    if not service.former:
        return rings[service.pool.name, service.profile.delivery]
    found = [rings[pool.name, service.profile.delivery] for pool in service.pools]
    return next((ring for ring in found if not ring.undecided), found[0])


def _course(
    snapshot: Snapshot,
    service: VirtualService,
    key: CourseKey,
    rings: Rings,
    before: Desired | None,
    now: float,
    *,
    settled: bool,
) -> Course | None:
    """The words of a service's slots, and of all that share them; None as long as nothing is known of them."""
    ring = _in_force(service, rings)
    course, earlier = _words_before(snapshot, service, key, before, now)
    if ring.undecided:
        return course  # kept in mind until it is known who takes new flows; `_meanwhile` has what is in force
    if course is None or not snapshot.config.director.pins:
        return start(ring.wanted)
    facts = snapshot.pins.facts.get(key)
    if facts is None and before is not None and (known := _key_before(service, key, before)) is not None:
        facts = snapshot.pins.facts.get(known)
    if ring.method.placement is Placement.PER_FLOW and facts is not None:
        facts = pin_facts(facts.at, facts.slot[:0], facts.member[:0], facts.quiet_s[:0])  # everywhere, and always
    elif earlier and earlier.method.placement is Placement.PER_FLOW and ring.method.placement is Placement.HASH:
        nothing = np.zeros(0, np.int64)
        facts = PinFacts(now, nothing, nothing.astype(np.uint16), nothing.astype(np.float32), everywhere=True)
    seen = (*ring.judged, *(earlier.judged if earlier is not None else ()))
    kept = ring.serving & {view.index for view in seen if view.alone}
    settled_at = now if settled else float("-inf")
    return follow(course, ring.wanted, _serving(service, rings), now, key[2], facts, settled_at, kept)


def _serving(service: VirtualService, rings: Rings) -> frozenset[int]:
    """Members of all pools of a service that go on with the flows that they have."""
    return frozenset[int]().union(*(rings[pool.name, service.profile.delivery].serving for pool in service.pools))


def _meanwhile(
    snapshot: Snapshot,
    service: VirtualService,
    key: CourseKey,
    course: Course,
    rings: Rings,
    before: Desired | None,
    now: float,
) -> Course | None:
    """What slots say until it is known who takes new flows: nobody does, and who serves keeps what it has.

    None when it is known, when nobody serves, and without memory of flows. Later *course* goes on from where it was, as
    if this had not been: a pool whose members were all gone for a moment has the same flows afterwards.
    """
    serving, hashes = _serving(service, rings), {pool.hash_mode for pool in service.pools}
    if not (_in_force(service, rings).undecided and serving and snapshot.config.director.pins) or len(hashes) > 1:
        return None
    known = before.meanwhile.get(key) if before is not None and before.courses.get(key) is course else None
    return follow(known or course, _in_force(service, rings).wanted, serving, now, key[2])


def _words_before(
    snapshot: Snapshot, service: VirtualService, key: CourseKey, before: Desired | None, now: float
) -> tuple[Course | None, _Ring | None]:
    """What a service's slots said in the decision before, or what the history says; and the ring that was in force."""
    pool, delivery, window, _ = key
    known = _key_before(service, key, before) if before is not None else None
    course = before.courses[known] if before is not None and known is not None else None
    if service.former:
        views = before.services if before else ()
        same = next((view.service for view in views if view.service.name == service.name), None)
        return (course, _in_force(same, before.rings)) if before and same else (None, None)
    own = before.log.get((pool, delivery), ()) if before else ()
    told = snapshot.history.get((pool, delivery), ())
    earlier = before.rings.get((pool, delivery)) if before else None
    # While it waits to be decided, a director may hear from the others what it has missed.
    missed = earlier is not None and earlier.undecided and told and (not own or told[-1].at > own[-1].at)
    log = told if missed or not own else own
    if (course is None or missed) and (steps := _steps(snapshot, log, pool, delivery)):
        course = replay(steps, now, window)
    return course, earlier


def _key_before(service: VirtualService, key: CourseKey, before: Desired) -> CourseKey | None:
    """Which words of the decision before a service's slots go on from.

    A reload that changes the window changes no words, and what is remembered of flows is as good as before: so those
    that the service had count. Words of its own that are over say what those of the pool say.
    """
    if not service.former and key in before.courses:
        return key
    had = next((course_key(view.service) for view in before.services if view.service.name == service.name), None)
    if service.former:
        return had if had in before.courses else None
    pool = [known for known in before.courses if known[:2] == key[:2] and known[3] in ("", service.name)]
    return next((known for known in ((*key[:3], service.name), had) if known in pool), next(iter(pool), None))


def _has_moved(snapshot: Snapshot, service: VirtualService, rings: Rings, courses: Mapping[CourseKey, Course]) -> bool:
    """Whether a service that has former pools needs them no more: its own words say what those of its pool say."""
    delivery = service.profile.delivery
    ring = rings[service.pool.name, delivery]
    own, shared = courses.get(course_key(service)), courses.get(course_key(replace(service, former=())))
    if ring.undecided or own is None or not own.steady or (shared is not None and not shared.steady):
        return False
    if ring.method.placement is Placement.HASH:
        return True
    used = {other.pool.name for other in snapshot.config.services}
    members = {pool.name: {view.index for view in rings[pool.name, delivery].judged} for pool in service.former}
    left = {index for name, indices in members.items() if name not in used for index in indices}
    # Members that others use, too, have flows of theirs: only those of this service's own slots count.
    facts = snapshot.pins.facts.get(course_key(service))
    seen = frozenset[int]() if facts is None else frozenset[int](facts.member.tolist())
    return seen.isdisjoint(set().union(*members.values())) and left.isdisjoint(snapshot.pins.flows)


def _settles(snapshot: Snapshot, key: RingKey, ring: _Ring, use: PoolUse, before: Desired | None, now: float) -> bool:
    """Whether all windows of a ring may close early, since nobody uses the owners from before.

    Not in a fleet: its directors would not do so at the same moment, and until all have, flows that change over from
    one to another could be at either owner.
    """
    if before is None or snapshot.config.fleet.directors or key not in before.rings:
        return False
    if ring.undecided or before.rings[key].wanted is not ring.wanted:
        return False
    courses = {words: before.courses.get(words) for words in ((*key, *use_words) for use_words in use.words)}
    open_ones = {words: course for words, course in courses.items() if course is not None and course.windows}
    for words, course in open_ones.items():
        facts = snapshot.pins.facts.get(words)
        if facts is None or not is_quiet(course, facts, now, ring.pool.quiet_s):
            return False
    return bool(open_ones)


def _steps(snapshot: Snapshot, log: Iterable[LogEntry], pool: str, delivery: Delivery) -> list[Step]:
    """What the log of a ring says, by the member indices of this process."""
    steps = []
    for entry in log:
        index = {
            member.name: snapshot.indices[way]
            for member in entry.members
            if (way := MemberWay(pool, member.address, delivery)) in snapshot.indices
        }
        configured = tuple(
            RingMember(
                id=member.name,
                weight=member.weight,
                index=index.get(member.name, NO_MEMBER - 1),
                eligible=member.eligible,
                ramp=member.ramp,
            )
            for member in entry.members
            if not member.leaving
        )
        serving = frozenset(index[m.name] for m in entry.members if m.serving and m.name in index)
        steps.append(Step(entry.at, build_slots(configured), serving, entry.settled))
    return steps


_REACH = (Why.UNREACHABLE, Why.NOT_ON_SEGMENT)


def _logged(
    key: RingKey,
    ring: _Ring,
    use: PoolUse,
    before: Desired | None,
    snapshot: Snapshot,
    now: float,
    *,
    settled: bool,
) -> tuple[LogEntry, ...]:
    """The ring's log with its latest state: entries that no window reaches back to are left out when there is news."""
    log = (before.log if before else snapshot.history).get(key, ())
    if ring.undecided or (log and not settled and before and before.rings.get(key) is ring):
        return log
    members = tuple(
        LoggedMember(
            view.name,
            view.address,
            view.ratio,
            # What this director alone cannot reach has not changed for the others.
            view.state is EffectiveState.IN_ROTATION or (view.alone and view.no is not None and view.no.why in _REACH),
            view.serves or view.alone,
            view.ramp,
            view.leaving,
        )
        for view in ring.judged
    )
    entry = LogEntry(now, members, settled)
    if settled or not log or not same_ring(log[-1], entry):
        log = (*log, entry)
    return log[first_needed(log, use.longest_window_s, now) :]


def _rechecks(rings: Iterable[_Ring], courses: Iterable[Course], now: float) -> Iterable[float]:
    for ring in rings:
        if ring.recheck_at is not None:
            yield ring.recheck_at
    for course in courses:
        if course.tails:
            yield now + RECHECK_S
        if course.next_at is not None:  # one that has passed belongs to a pool that is not decided
            yield min(course.next_at, now + RECHECK_S) if course.next_at > now else now + RECHECK_S


def _drained(
    views: list[ServiceView], courses: Mapping[CourseKey, Course], rings: Mapping[RingKey, _Ring], snapshot: Snapshot
) -> tuple[list[ServiceView], frozenset[str]]:
    """Which members nothing refers to any more."""
    needed = {index for course in courses.values() if not course.steady for index in course.previous()}
    needed |= snapshot.pins.flows.keys()
    used = {view.service.pool.name for view in views}
    seen: dict[int, tuple[MemberView, ...]] = {}
    left: dict[str, bool] = {}
    for ring in rings.values():
        members = tuple(_left(view, view.index in needed, ring.remarks.get(view.name, "")) for view in ring.members)
        if all(map(is_, members, ring.members)):
            members = ring.members  # one tuple, so that whoever compares decisions need not look into it
        seen[id(ring.members)] = members
        for view in members:
            if view.leaving and ring.pool.name in used:
                # Before the first look at next hops, and before the others have told of its flows, nobody can know.
                unknown = ring.undecided or snapshot.joining or "not_looked_up" in str(view.no)
                left[view.id] = left.get(view.id, True) and not unknown and (view.drained or not view.serves)
    shown = [
        _with_former(view.service, rings, seen, used, needed) if view.service.former else seen[id(view.members)]
        for view in views
    ]
    done = [
        view if view.members is members else replace(view, members=members)
        for view, members in zip(views, shown, strict=True)
    ]
    return done, frozenset(name for name, drained in left.items() if drained)


def _with_former(
    service: VirtualService,
    rings: Rings,
    seen: Mapping[int, tuple[MemberView, ...]],
    used: Set[str],
    needed: Set[int],
) -> tuple[MemberView, ...]:
    """The members of a service that used other pools before, and those of these pools."""
    delivery = service.profile.delivery
    in_force = _in_force(service, rings)
    shown = list(seen[id(rings[service.pool.name, delivery].members)])
    for pool in service.former:
        ring = rings[pool.name, delivery]
        for view in seen[id(ring.members)]:
            if ring is in_force:
                shown.append(replace(view, name=view.id))
            elif view.serves and pool.name not in used:
                no = No(
                    Why.REMOVED, "its pool is not that of the virtual service any more; keeps the flows that it has"
                )
                drains = replace(
                    view, name=view.id, share=0.0, state=EffectiveState.DRAINING, no=no, leaving=True, remark=""
                )
                shown.append(_left(drains, view.index in needed, ""))
    return tuple(shown)


def _left(view: MemberView, needed: bool, remark: str) -> MemberView:
    """The member as it is shown: one that nobody has told to drain is out as soon as it has nothing left to do."""
    if view.state is EffectiveState.IN_ROTATION:
        if view.kept < 1.0:
            remark = f"keeps {view.kept:.0%} of its share: {view.odd}"
        return view if view.remark == remark else replace(view, remark=remark)
    ordered = view.order is not None and view.order.state is AdminState.DRAIN
    state = view.state if needed or ordered else EffectiveState.OUT
    return replace(view, state=state, drained=not needed)


def _watched(
    key: CourseKey,
    slots: SlotArray,
    share: float,
    watched: dict[CourseKey, tuple[SlotArray, SlotArray, float]],
    before: Desired | None,
) -> SlotArray:
    """Words of which a part of the steady ones says that flows are remembered where they are anyway: a tail.

    It is every n-th, so all directors have the same. The array is the one before as long as the words are.
    """
    known = watched.get(key) or (before.watched.get(key) if before is not None else None)
    if known is None or known[0] is not slots or known[2] != share:
        made = slots.copy()
        some = made[:: max(1, round(1 / share))]
        steady = (some & NO_MEMBER) == some >> 16
        some[steady] |= np.uint32(NO_MEMBER << 16)
        made.flags.writeable = False
        known = slots, made, share
    watched[key] = known
    return known[1]


def _table_service(
    index: int,
    service: VirtualService,
    vip: IPAddress,
    ring: _Ring,
    slots: SlotArray,
    quic: tuple[QuicServers, ...],
    before: Desired | None,
) -> TableService:
    if service.former:
        service = replace(service, pool=ring.pool)  # whose hash its words go by
    placement = Placement.PER_PACKET if service.profile.per_packet else ring.method.placement
    made = TableService(
        index,
        service.name,
        vip,
        service.protocol,
        service.ports,
        service.hash_mode,
        slots,
        service.profile.session_idle_timeout_s,
        placement,
        ring.method.order if placement is not Placement.HASH else ChoiceOrder.SEQUENCE,
        ring.choices if placement is not Placement.HASH else NO_CHOICES,
        service.protection,
        quic,
        service.reject_other_ports,
    )
    old = before.tables.services if before else ()
    if index < len(old) and old[index].slots is made.slots and old[index].choices is made.choices:
        return old[index] if old[index] == made else made
    return made


def _quic(service: VirtualService, rings: "Rings", secret: bytes) -> tuple[QuicServers, ...]:
    """Who is named by connection IDs: members of the service's pools that serve, those that drain included. What a
    former pool means by a config ID counts where the present one does not use it, or means the same."""
    if service.protocol is not Protocol.UDP or not any(pool.quic for pool in service.pools):
        return ()
    found: dict[int, QuicServers] = {}
    for pool in service.pools:
        ring = rings[pool.name, service.profile.delivery]
        serving = {view.name: view.index for view in ring.judged if view.index in ring.table_members}
        for config in pool.quic:
            ids = server_ids(ring.pool, config, secret)
            servers = {ids[name]: index for name, index in serving.items() if name in ids}
            known = found.setdefault(config.config_id, QuicServers(config, servers))
            if replace(known.config, key_file=None) == replace(config, key_file=None):
                found[config.config_id] = QuicServers(known.config, {**servers, **known.servers})
    return tuple(found.values())


def _why_not_serving(service: VirtualService, ring: _Ring) -> No | None:
    if not service.enabled:
        return No(Why.SERVICE_DISABLED)
    in_rotation = sum(member.state is EffectiveState.IN_ROTATION for member in ring.members)
    if ring.undecided and in_rotation:
        return No(Why.LEARNING, f"not heard of {', '.join(ring.undecided)} yet")
    if in_rotation < service.min_members:
        return No(Why.BELOW_MIN_MEMBERS, f"{in_rotation} in rotation, {service.min_members} wanted")
    return None


def _vips(snapshot: Snapshot, views: list[ServiceView], before: Desired | None, now: float) -> tuple[VipView, ...]:
    by_vip: dict[IPAddress, list[ServiceView]] = {}
    for view in views:
        for vip in view.service.vips:
            by_vip.setdefault(vip, []).append(view)
    known = {view.vip: view for view in before.vips} if before else {}
    lost = lost_addresses(snapshot)
    unheard = {view.service.pool.name: snapshot.unheard(view.service.pool) for view in views if view.service.enabled}
    return tuple(_vip(snapshot, vip, users, known.get(vip), lost, unheard, now) for vip, users in by_vip.items())


MEANT = frozenset({Why.SERVICE_DISABLED, Why.LOCAL_ADDRESS, Why.DRAINED, Why.NO_PEER, Why.NO_BGP})
"""Reasons of a VIP not to be announced that follow from what somebody has written or ordered."""


def _vip(
    snapshot: Snapshot,
    vip: IPAddress,
    users: list[ServiceView],
    before: VipView | None,
    lost: Mapping[IPAddress, str],
    unheard: Mapping[str, list[str]],
    now: float,
) -> VipView:
    bgp = snapshot.config.bgp
    service, fleet = users[0].service, snapshot.config.fleet
    ranked: tuple[str, ...] = ()
    stands = None
    if service.ha is not HaMode.ACTIVE_ACTIVE:
        ranked = order(service, vip, [director.name for director in fleet.directors])
        away = snapshot.away | snapshot.absent.get(vip, frozenset())
        stands = standing(service, ranked, snapshot.config.director.name, away)
    leaving = snapshot.drain is not None
    told = frozenset[Route]()
    if bgp is not None:
        told = routes(vip, service.announcing, bgp, stands, leaving=leaving, lost=lost.keys())
    down = _why_down(snapshot, vip, users, unheard)
    no = No(Why.NO_BGP) if bgp is None else down
    if no is None and bgp is not None and not told:
        if lost and routes(vip, service.announcing, bgp):
            no = No(Why.NEXT_HOP_LOST, ", ".join(f"{hop} ({lost[hop]})" for hop in sorted(lost, key=str)))
        else:
            no = No(Why.NO_PEER, "see peer_labels of its virtual services, and next hops")
    meant = no is not None and no.why in MEANT
    fell = before is not None and before.no is None and no is not None and not meant
    known = before.record if before is not None and not meant else NEW
    record = follow_vip(known, now, well=no is None, fell=fell)
    hold_down_s = bgp.hold_down_s if bgp is not None else 0.0
    held = held_until(record, hold_down_s, now)
    if held is not None:
        times = len(record.withdrawn)
        no = No(Why.HELD_DOWN, f"withdrawn {times} times in a minute; to be well for {hold_down_s:g} s first")
    names = tuple(view.service.name for view in users)
    return VipView(vip, names, no, down, service.arp, told, ranked, stands, record, held)


def _why_down(
    snapshot: Snapshot, vip: IPAddress, users: list[ServiceView], unheard: Mapping[str, list[str]]
) -> No | None:
    """A VIP is up while any of its virtual services can serve: one that is down must not take the others along, unless
    that is what they want (`needs_all`).

    `advertise_down` keeps an enabled service's VIP up without members, but never without a data plane.

    Nor is a VIP up before a new process has heard of the members of all its virtual services: for those that it has not
    heard of it could only drop what other directors can forward.
    """
    if _is_ours(snapshot, vip):
        return No(Why.LOCAL_ADDRESS, f"remove {vip} from this machine's interfaces")
    if snapshot.plane_error is not None:
        return No(Why.PLANE_DOWN, snapshot.plane_error)
    if snapshot.drain is not None and snapshot.drain.over:
        return No(Why.DRAINED, snapshot.drain.over)
    if snapshot.joining is not None:
        return No(Why.JOINING, snapshot.joining)
    enabled = [view for view in users if view.service.enabled]
    missing = [view for view in enabled if view.no is not None and not view.service.advertise_down]
    if len(missing) < len(enabled) and not (missing and users[0].service.needs_all):
        waits = [(view.service.name, names) for view in enabled if (names := unheard[view.service.pool.name])]
        said = "; ".join(f"{name}: not heard of {', '.join(names)} yet" for name, names in waits)
        return No(Why.LEARNING, said) if waits else None
    if len(users) == 1:
        return users[0].no
    if len(missing) < len(enabled):
        return No(Why.NOT_ALL_SERVICES_UP, "; ".join(f"{view.service.name}: {view.no}" for view in missing))
    return No(Why.NO_SERVICE_UP, "; ".join(f"{view.service.name}: {view.no}" for view in users))


def unsettled(desired: Desired) -> bool:
    """Whether the plane or the other directors have not been heard yet: whoever knew better counts meanwhile."""
    return any(view.down is not None and view.down.why in (Why.JOINING, Why.PLANE_DOWN) for view in desired.vips)


def _answering(vips: Iterable[VipView], services: Iterable[ServiceView]) -> frozenset[IPAddress]:
    """VIPs that are up here: announced, or served where there is nothing to announce with."""
    serving = {view.service.name for view in services if view.no is None}
    return frozenset(
        view.vip
        for view in vips
        if view.no is None or (view.no.why is Why.NO_BGP and not serving.isdisjoint(view.services))
    )


def lost_addresses(snapshot: Snapshot) -> Mapping[IPAddress, str]:
    """Addresses of ours that routers are to send to, and that no packet can come to now; and why."""
    if snapshot.config.bgp is None:
        return {}
    own = ((address, snapshot.next_hops.get(address)) for address in own_addresses(snapshot.config.bgp))
    return {
        address: found.detail
        for address, found in own
        if isinstance(found, Unresolved) and found.reason == INTERFACE_DOWN
    }


def _is_ours(snapshot: Snapshot, vip: IPAddress) -> bool:
    """Whether the VIP is an address of this machine. Taking its packets away could cut the director off."""
    hop = snapshot.next_hops.get(vip)
    return isinstance(hop, Unresolved) and hop.reason == LOCAL_ADDRESS

"""The decision: from a snapshot of the store to everything that should be true, with a reason for every "no".

Pure, so it can be asked anything at any time: by the reconciler, by `onward explain`, by a test. It may take tens of
milliseconds when a ring must be built, so the reconciler calls it in a thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from appliance.forwarding import ForwardingTables, NextHop, SlotArray, TableMember, TableService
from appliance.model import (
    Algorithm,
    Delivery,
    DsrType,
    EffectiveState,
    Health,
    IPAddress,
    Member,
    Pool,
    VirtualService,
)
from appliance.ring.algorithms import ALGORITHMS
from appliance.ring.slots import RingMember, shares
from appliance.state import LOCAL_ADDRESS, MemberWay, Snapshot, Unresolved
from bgp.route import Route


class Why(StrEnum):
    """Why a member is out of rotation, or a VIP is not announced. The same words in logs, metrics, status and page."""

    # a member
    DISABLED = "disabled"
    RATIO_ZERO = "ratio_zero"
    HEALTH_UNKNOWN = "health_unknown"
    HEALTH_DOWN = "health_down"
    UNREACHABLE = "unreachable"
    """No next hop; the detail says what is missing."""
    NOT_ON_SEGMENT = "not_on_segment"
    """L2 DSR rewrites a MAC address, so the member must be on a segment of the director."""

    # a virtual service
    SERVICE_DISABLED = "service_disabled"
    BELOW_MIN_MEMBERS = "below_min_members"
    LEARNING = "learning"
    """The director has just started, or was cut off, and waits to hear of all members."""

    # a VIP
    NO_SERVICE_UP = "no_service_up"
    PLANE_DOWN = "plane_down"
    LOCAL_ADDRESS = "local_address"
    """The VIP is an address of this director: its kernel would take the packets."""
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
    """Why it is out; None exactly when it is in rotation."""

    index: int
    share: float
    """Fraction of the slots, 0..1."""

    next_hop: NextHop | None


@dataclass(frozen=True)
class ServiceView:
    service: VirtualService
    members: tuple[MemberView, ...]
    no: No | None
    """Why it does not serve; None when it does."""

    @property
    def in_rotation(self) -> int:
        return sum(member.state is EffectiveState.IN_ROTATION for member in self.members)


@dataclass(frozen=True)
class VipView:
    vip: IPAddress
    services: tuple[str, ...]
    no: No | None
    """Why it is not to be announced; None when it is."""


@dataclass(frozen=True)
class Desired:
    """Everything that should be true."""

    tables: ForwardingTables
    routes: frozenset[Route]
    services: tuple[ServiceView, ...]
    vips: tuple[VipView, ...]
    rings: Mapping[tuple[str, Delivery], "_Ring"] = field(default_factory=dict, repr=False, compare=False)
    """What `decide` takes over from one round to the next."""


def decide(snapshot: Snapshot, before: Desired | None = None) -> Desired:
    """What should be true, given what is known.

    Args:
        snapshot: all that is known.
        before: an earlier decision, or none. It makes no difference to the result but for time and identity: what has
            not changed is not computed again.
    """
    config = snapshot.config
    rings: dict[tuple[str, Delivery], _Ring] = {}
    table_members: dict[int, TableMember] = {}
    table_services: list[TableService] = []
    views: list[ServiceView] = []
    for service in config.services:
        delivery = service.profile.delivery
        key = service.pool.name, delivery
        if key not in rings:
            rings[key] = _ring(snapshot, service.pool, delivery, before.rings.get(key) if before else None)
            table_members |= rings[key].table_members
        ring = rings[key]
        views.append(ServiceView(service, ring.members, _why_not_serving(service, ring)))
        if service.enabled:
            for vip in service.vips:
                if not _is_ours(snapshot, vip):
                    table_services.append(_table_service(len(table_services), service, vip, ring.slots, before))
    vip_views = _vips(snapshot, views)
    return Desired(
        tables=ForwardingTables(config.secret, tuple(table_services), table_members),
        routes=frozenset(_route(snapshot, vip.vip) for vip in vip_views if vip.no is None),
        services=tuple(views),
        vips=vip_views,
        rings=rings,
    )


@dataclass(frozen=True)
class _Ring:
    """A pool by one delivery: the same for all virtual services that use it."""

    pool: Pool
    indices: Mapping[MemberWay, int]
    next_hops: Mapping[IPAddress, NextHop | Unresolved]
    health: tuple[Health | None, ...]
    """Of each member. With what is above and `undecided`, all that the rest depends on."""
    judged: tuple[MemberView, ...]
    """Members without their shares: what of it matters."""
    algorithm: Algorithm
    members: tuple[MemberView, ...]
    slots: SlotArray
    undecided: tuple[str, ...]
    table_members: Mapping[int, TableMember]


def _ring(snapshot: Snapshot, pool: Pool, delivery: Delivery, before: _Ring | None) -> _Ring:
    health = tuple(map(snapshot.health.get, pool.member_ids))
    # A part of the ring is worse than none: it would send flows that other directors have placed by the whole ring to
    # members that know nothing of them, and those reset them. What is dropped is sent again.
    undecided = tuple(snapshot.undecided(pool))
    same = before is not None and before.undecided == undecided
    if (
        before
        and same
        and before.health == health
        and before.pool is pool
        and before.indices is snapshot.indices
        and before.next_hops is snapshot.next_hops
    ):
        return before
    judged = tuple(_judge(snapshot, pool, member, delivery) for member in pool.members)
    if before and same and before.judged == judged and before.algorithm == pool.algorithm:
        return replace(before, pool=pool, indices=snapshot.indices, next_hops=snapshot.next_hops, health=health)
    slots = ALGORITHMS[pool.algorithm](tuple(_ring_member(view, known=not undecided) for view in judged))
    share = shares(slots)
    return _Ring(
        pool=pool,
        indices=snapshot.indices,
        next_hops=snapshot.next_hops,
        health=health,
        judged=judged,
        algorithm=pool.algorithm,
        members=tuple(replace(view, share=share.get(view.index, 0.0)) for view in judged),
        slots=slots,
        undecided=undecided,
        table_members={} if undecided else _table_members(judged, delivery),
    )


def _judge(snapshot: Snapshot, pool: Pool, member: Member, delivery: Delivery) -> MemberView:
    member_id = f"{pool.name}/{member.name}"
    health = snapshot.health.get(member_id, Health.UNKNOWN) if pool.monitors else Health.UP
    hop = snapshot.next_hops.get(member.address, Unresolved("not_looked_up"))
    no = _why_out(member, health, hop, delivery)
    return MemberView(
        id=member_id,
        name=member.name,
        address=member.address,
        ratio=member.ratio,
        health=health,
        state=EffectiveState.OUT if no else EffectiveState.IN_ROTATION,
        no=no,
        index=snapshot.indices[MemberWay(pool.name, member.name, delivery)],
        share=0.0,
        next_hop=hop if isinstance(hop, NextHop) else None,
    )


def _why_out(member: Member, health: Health, hop: NextHop | Unresolved, delivery: Delivery) -> No | None:
    if not member.enabled:
        return No(Why.DISABLED)
    if member.ratio == 0:
        return No(Why.RATIO_ZERO)
    if health is Health.UNKNOWN:
        return No(Why.HEALTH_UNKNOWN, "no verdict yet")
    if health is Health.DOWN:
        return No(Why.HEALTH_DOWN)
    if isinstance(hop, Unresolved):
        return No(Why.UNREACHABLE, f"{hop.reason} {hop.detail}".strip())
    if delivery.dsr_type is DsrType.L2 and not hop.direct:
        return No(Why.NOT_ON_SEGMENT, f"{member.address} is behind a router on {hop.interface}; use L3 DSR")
    return None


def _ring_member(view: MemberView, *, known: bool) -> RingMember:
    eligible = known and view.state is EffectiveState.IN_ROTATION
    return RingMember(id=view.name, weight=view.ratio, index=view.index, eligible=eligible)


def _table_members(judged: tuple[MemberView, ...], delivery: Delivery) -> Mapping[int, TableMember]:
    """Only members in rotation own slots, so only they are in the tables."""
    return {
        view.index: TableMember(view.index, view.id, view.address, delivery, view.next_hop)
        for view in judged
        if view.state is EffectiveState.IN_ROTATION and view.next_hop is not None
    }


def _table_service(
    index: int, service: VirtualService, vip: IPAddress, slots: SlotArray, before: Desired | None
) -> TableService:
    made = TableService(index, service.name, vip, service.protocol, service.ports, service.hash_mode, slots)
    old = before.tables.services if before else ()
    same = index < len(old) and old[index].slots is slots and old[index] == made
    return old[index] if same else made


def _why_not_serving(service: VirtualService, ring: _Ring) -> No | None:
    if not service.enabled:
        return No(Why.SERVICE_DISABLED)
    in_rotation = sum(member.state is EffectiveState.IN_ROTATION for member in ring.members)
    if ring.undecided and in_rotation:
        return No(Why.LEARNING, f"not heard of {', '.join(ring.undecided)} yet")
    if in_rotation < service.min_members:
        return No(Why.BELOW_MIN_MEMBERS, f"{in_rotation} in rotation, {service.min_members} wanted")
    return None


def _vips(snapshot: Snapshot, views: list[ServiceView]) -> tuple[VipView, ...]:
    by_vip: dict[IPAddress, list[ServiceView]] = {}
    for view in views:
        for vip in view.service.vips:
            by_vip.setdefault(vip, []).append(view)
    return tuple(
        VipView(vip, tuple(view.service.name for view in users), _why_not_announced(snapshot, vip, users))
        for vip, users in by_vip.items()
    )


def _why_not_announced(snapshot: Snapshot, vip: IPAddress, users: list[ServiceView]) -> No | None:
    """A VIP is announced while any of its virtual services can serve: one that is down must not take the others along.

    `advertise_down` keeps an enabled service's VIP announced without members, but never without a data plane.
    """
    if snapshot.config.bgp is None:
        return No(Why.NO_BGP)
    if _is_ours(snapshot, vip):
        return No(Why.LOCAL_ADDRESS, f"remove {vip} from this machine's interfaces")
    if snapshot.plane_error is not None:
        return No(Why.PLANE_DOWN, snapshot.plane_error)
    if any(view.no is None or (view.service.enabled and view.service.advertise_down) for view in users):
        return None
    if len(users) == 1:
        return users[0].no
    return No(Why.NO_SERVICE_UP, "; ".join(f"{view.service.name}: {view.no}" for view in users))


def _is_ours(snapshot: Snapshot, vip: IPAddress) -> bool:
    """Whether the VIP is an address of this machine. Taking its packets away could cut the director off."""
    hop = snapshot.next_hops.get(vip)
    return isinstance(hop, Unresolved) and hop.reason == LOCAL_ADDRESS


def _route(snapshot: Snapshot, vip: IPAddress) -> Route:
    bgp = snapshot.config.bgp
    if bgp is None:
        return Route(vip)
    return Route(vip, bgp.next_hop_v4 if vip.version == 4 else bgp.next_hop_v6)

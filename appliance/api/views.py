"""From what was observed to the status document of `/api/v1/status`. Pure.

The document is the one thing that page, command line and stream show; so they cannot disagree. It says why for every
"no", and it never shows a number for something that a director cannot see: replies go past it.

Members stand once per pool and delivery in `pools`, and virtual services refer to them by `pool_key`: the size of the
document is that of the configuration, however many services share a pool.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from appliance.api.sources import Observed
from appliance.dataplane.base import Counters, Traffic
from appliance.dataplane.events import PacketEvent
from appliance.decide import MemberView, No, ServiceView, VipView, Why
from appliance.flapping import penalty, reuse_at
from appliance.fleet.agreement import Judged
from appliance.fleet.channel import PeerState
from appliance.forwarding import NextHop
from appliance.model import (
    OUTER_TTL,
    BgpPeer,
    Delivery,
    DfPolicy,
    Drain,
    EffectiveState,
    Health,
    IPAddress,
    OuterSource,
    Protocol,
    TtlPolicy,
    VirtualService,
)
from appliance.orders import as_json
from appliance.packet.action import Reason
from appliance.path.causes import finding
from appliance.path.gate import segments_of
from appliance.path.segments import Segments
from appliance.state import Snapshot
from appliance.transaction import staged_document
from bgp.bfd.packet import State, diag_name
from bgp.bfd.process import BfdStatus
from bgp.route import Route
from bgp.speaker import Session, SpeakerStatus
from health.spec import Result, Status

API_VERSION = "v1"
NOT_VISIBLE = "not visible (DSR)"
"""Stands wherever a reply would have to be counted."""

TABLES_DIFFER_S = 5.0
"""Changes do not reach all directors at the same moment."""

PASSES = frozenset({Reason.NOT_IP, Reason.NOT_VIP})
"""Reasons to leave a frame to the kernel; all others are drops."""

RATE_WINDOW_S = 15.0
"""Rates over a longer time say nothing about the present."""

LATEST_SAMPLES = 10
"""So many stand in the document; all are at `/api/v1/samples`."""

MEANT = (Why.DISABLED, Why.RATIO_ZERO, Why.REMOVED, Why.DRAIN, Why.DRAIN_OVER, Why.MAINT, Why.MAINTENANCE)
"""Reasons of a member to be out that somebody has wanted."""

MODES = ("native", "generic", "none")
"""How an interface of the XDP plane has its program."""

_PROTOCOLS = {1: "icmp", 4: "ipip", 6: "tcp", 17: "udp", 41: "ipv6", 47: "gre", 50: "esp", 58: "icmpv6", 132: "sctp"}

Document = dict[str, Any]

_NO_TRAFFIC = Traffic()

RATES = ("packets_per_s", "bytes_per_s", "new_flows_per_s")

_Since = tuple[float, Counters] | None
"""Seconds ago and the counters of then, for rates."""


class Rates:
    """Remembers earlier counters, so that rates are over one to two seconds while somebody looks every second."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, Counters]] = []

    def since(self, clock: float, counters: Counters | None) -> _Since:
        """What to compare *counters* with: seconds ago and the counters of then; None when there is nothing useful."""
        self._marks = [mark for mark in self._marks if clock - mark[0] <= RATE_WINDOW_S]
        base = next((mark for mark in reversed(self._marks) if clock - mark[0] >= 1.0), None)
        if counters is not None and (not self._marks or clock - self._marks[-1][0] >= 1.0):
            self._marks = [*self._marks[-1:], (clock, counters)]
        return (clock - base[0], base[1]) if base else None


def status_document(observed: Observed, since: _Since = None) -> Document:
    """Everything, as JSON types.

    Args:
        observed: what was seen.
        since: seconds ago and the counters of then, for rates.
    """
    return document_of(observed, pool_views(service_views(observed)), since)


def document_of(observed: Observed, pools: "Mapping[str, PoolView]", since: _Since = None) -> Document:
    """The status document with no members but those of *pools*.

    Args:
        observed: what was seen.
        pools: by `pool_key`; all that are in use.
        since: as for `status_document`.
    """
    announced = announcements(observed)
    document = frame_document(observed) | {
        "services": [
            _service(view, pools[pool_key(view.service)], announced, observed.counters, since)
            for view in service_views(observed)
        ],
        "pools": pools_document(pools, observed, since),
        "routes": _routes(observed),
        "samples": samples(observed)[-LATEST_SAMPLES:],
    }
    return document | {"health": judgement(document)}


def frame_document(observed: Observed) -> Document:
    """The status document without what grows with the configuration: services, pools, routes; nor its judgement."""
    config = observed.snapshot.config
    return {
        "apiVersion": API_VERSION,
        "time": observed.at,
        "director": {
            "name": config.director.name,
            "version": observed.version,
            "started_at": observed.started_at,
            "uptime_s": max(0.0, observed.at - observed.started_at),
            "interfaces": list(config.director.interfaces),
            "hash_key": hash_key(config.secret),
            "service": drain_document(observed.snapshot.drain),
        },
        "ready": {
            "ready": all(works for _, works, _ in observed.ready),
            "parts": [{"name": name, "ok": works, "detail": detail} for name, works, detail in observed.ready],
        },
        "plane": {
            "error": observed.snapshot.plane_error,
            "name": plane_name(observed.plane),
            "notes": list(_plane_notes(observed.plane)),
            "facts": dict(observed.plane),
        },
        "config": {
            "source": observed.reload.source or config.source,
            "digest": observed.reload.digest or config.digest,
            "last_reload": {
                "ok": observed.reload.ok,
                "at": observed.reload.at,
                "problems": list(observed.reload.problems),
                "step": observed.reload.step,
                "warnings": list(observed.reload.warnings),
            },
            "revision": observed.reload.revision,
            "staged": staged_document(observed.staged),
        },
        "pins": {"capacity": observed.pins.capacity, "live": observed.pins.live},
        "fleet": _fleet(observed),
        "bgp": bgp_document(observed),
        "counters": _counters(observed.counters),
        "replies": NOT_VISIBLE,
        "loop_lag": {"p50_s": observed.lag.p50_s, "p99_s": observed.lag.p99_s, "max_s": observed.lag.max_s},
    }


# ---------------------------------------------------------------------------------------------------------------------
# What is in force


def hash_key(secret: bytes) -> str:
    """A fingerprint of the fleet's secret: directors that show different ones send the same flow to different members.

    32 bits tell keys of one fleet apart, and say next to nothing of the key.
    """
    return hashlib.blake2b(secret).hexdigest()[:8]


def pool_key(service: VirtualService) -> str:
    """A pool as a virtual service sees it: delivery decides, too, who is in rotation. Names have no `+`."""
    delivery = service.profile.delivery
    odd = [
        delivery.ttl if delivery.ttl is not TtlPolicy.ROUTER else "",
        f"df_{delivery.outer_df}" if delivery.outer_df is not DfPolicy.COPY_INNER else "",
        f"ttl_{delivery.outer_ttl}" if delivery.outer_ttl != OUTER_TTL else "",
        f"source_{delivery.outer_source}" if delivery.outer_source is not OuterSource.INTERFACE else "",
    ]
    return "+".join((service.pool.name, str(delivery), *filter(None, odd)))


@dataclass(frozen=True)
class PoolView:
    """A pool with one delivery: all virtual services that use it so have the very same members."""

    name: str
    delivery: Delivery
    members: tuple[MemberView, ...]
    services: tuple[VirtualService, ...]
    in_rotation: int


def pool_views(services: Iterable[ServiceView]) -> dict[str, PoolView]:
    """Pools in use by `pool_key`, in the order of first use."""
    users: dict[str, list[ServiceView]] = {}
    for view in services:
        users.setdefault(pool_key(view.service), []).append(view)
    return {
        key: PoolView(
            name=views[0].service.pool.name,
            delivery=views[0].service.profile.delivery,
            # A service that used another pool before shows its members as well.
            members=tuple({member.id: member for members in _tuples(views) for member in members}.values()),
            services=tuple(view.service for view in views),
            in_rotation=min(
                sum(member.state is EffectiveState.IN_ROTATION for member in members) for members in _tuples(views)
            ),
        )
        for key, views in users.items()
    }


def _tuples(views: Sequence[ServiceView]) -> Iterable[tuple[MemberView, ...]]:
    """The members of services, each tuple once: services share them."""
    return {id(view.members): view.members for view in views}.values()


def tcp_pools(services: Iterable[VirtualService]) -> frozenset[str]:
    """Names of the pools whose members can get flows that have a visible beginning."""
    return frozenset(service.pool.name for service in services if service.protocol is Protocol.TCP)


def service_views(observed: Observed) -> tuple[ServiceView, ...]:
    """Virtual services as they are in force; before anything is, as configured and out, with the reason."""
    if observed.applied is not None:
        return observed.applied.services
    no = _not_programmed(observed.snapshot)
    config = observed.snapshot.config
    members = {
        pool.name: tuple(
            MemberView(
                id=f"{pool.name}/{member.name}",
                name=member.name,
                address=member.address,
                ratio=member.ratio,
                health=observed.snapshot.health.get(f"{pool.name}/{member.name}", Health.UNKNOWN),
                state=EffectiveState.OUT,
                no=no if member.enabled else No(Why.DISABLED),
                index=-1,
                share=0.0,
                next_hop=None,
                drained=True,
            )
            for member in pool.members
        )
        for pool in config.pools
    }
    return tuple(
        ServiceView(service, members[service.pool.name], no if service.enabled else No(Why.SERVICE_DISABLED))
        for service in config.services
    )


def vip_views(observed: Observed) -> tuple[VipView, ...]:
    """VIPs with what the decision says of them; a data plane in doubt overrides it."""
    views = observed.applied.vips if observed.applied is not None else ()
    if observed.applied is not None and observed.snapshot.plane_error is None:
        return views
    if not views:
        users: dict[IPAddress, list[str]] = {}
        for service in observed.snapshot.config.services:
            for vip in service.vips:
                users.setdefault(vip, []).append(service.name)
        asked = {vip for service in observed.snapshot.config.services if service.arp for vip in service.vips}
        views = tuple(VipView(vip, tuple(names), None, arp=vip in asked) for vip, names in users.items())
    no = _not_programmed(observed.snapshot)
    return tuple(VipView(view.vip, view.services, view.no or no, arp=view.arp) for view in views)


def _not_programmed(snapshot: Snapshot) -> No:
    return No(Why.PLANE_DOWN, snapshot.plane_error or "the tables are not programmed yet")


def announcements(observed: Observed) -> dict[IPAddress, Document]:
    """What routers have of each VIP."""
    acknowledged: dict[IPAddress, list[Route]] = {}
    for route in observed.speaker.announced if observed.speaker else ():
        acknowledged.setdefault(route.vip, []).append(route)
    return {view.vip: _announcement(view, observed, acknowledged.get(view.vip, ())) for view in vip_views(observed)}


def _announcement(view: VipView, observed: Observed, acknowledged: Sequence[Route]) -> Document:
    """Whether some router has a VIP from us: decided, acknowledged, and sent to one of those that are to be told."""
    sent_to = _sent_to(view.vip, observed.speaker)
    why, detail = "", ""
    if view.no is not None:
        why, detail = str(view.no.why), view.no.detail
    elif observed.speaker is None:
        why = Why.NO_BGP
    elif not acknowledged:
        why, detail = "not_acknowledged", observed.speaker.detail or "the speaker has not confirmed it yet"
    elif not sent_to:
        up = [address for address, peer in observed.speaker.peers.items() if peer.session is Session.UP]
        if any(route.goes_to(ip_address(address)) for route in acknowledged for address in up):
            why, detail = "not_sent", "ExaBGP has not sent it yet; do the peers accept this address family?"
        else:
            why, detail = "no_session", observed.speaker.detail or "no session is up with a peer that is told of it"
    return {
        "vip": str(view.vip),
        "wanted": view.no is None,
        "announced": not why,
        "reason": str(why) or None,
        "detail": detail,
        "sent_to": sent_to,
        "arp": _arp(view, observed),
    }


def _arp(view: VipView, observed: Observed) -> Document | None:
    """Who answers for a VIP on the segment; None where it is not for directors to answer."""
    if not view.arp:
        return None
    found = next((one for one in observed.arp if one.vip == view.vip), None)
    if found is None:
        return {"phase": "silent", "why": "has not begun", "since": None, "answers": 0, "conflicts": 0}
    return {
        "phase": str(found.phase),
        "why": found.why,
        "since": found.since,
        "answers": found.answers,
        "conflicts": found.conflicts,
    }


def _sent_to(vip: IPAddress, speaker: SpeakerStatus | None) -> list[str]:
    prefix = Route(vip).cidr
    return [address for address, peer in sorted(speaker.peers.items()) if prefix in peer.routes_sent] if speaker else []


# ---------------------------------------------------------------------------------------------------------------------
# Parts of the document


def _service(
    view: ServiceView,
    pool: PoolView,
    announced: Mapping[IPAddress, Document],
    counters: Counters | None,
    since: _Since,
) -> Document:
    traffic = service_traffic(*traffic_keys(view.service), counters, since)
    vips = [announced[vip] | {"traffic": one} for vip, one in zip(view.service.vips, traffic, strict=True)]
    return standing_document(view, pool, announced) | {"vips": vips}


def traffic_keys(service: VirtualService) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Under which keys a service's VIPs are counted, and whether packets show the beginnings of its flows."""
    return tuple((service.name, str(vip)) for vip in service.vips), service.protocol is Protocol.TCP


def service_traffic(
    keys: Iterable[tuple[str, str]], flows_visible: bool, counters: Counters | None, since: _Since
) -> list[Document]:
    """What has come for each VIP of a service.

    Args:
        keys: as `traffic_keys`.
        flows_visible: as `traffic_keys`.
        counters: now.
        since: seconds ago and the counters of then.
    """
    return [
        _traffic(
            counters.services.get(key, _NO_TRAFFIC) if counters else None,
            since[1].services.get(key, _NO_TRAFFIC) if since else None,
            since[0] if since else None,
            flows_visible,
        )
        for key in keys
    ]


def service_rates(
    keys: Iterable[tuple[str, str]], flows_visible: bool, counters: Counters | None, since: _Since
) -> tuple[float | None, float | None, float | None]:
    """What comes for all VIPs of a service together, a second, in the order of `RATES`; as exact as anybody reads it.

    Args:
        keys: as `traffic_keys`.
        flows_visible: as `traffic_keys`.
        counters: now.
        since: seconds ago and the counters of then.
    """
    if counters is None or since is None:
        return None, None, None
    known = packets = size = flows = 0
    for key in keys:
        now, before = counters.services.get(key, _NO_TRAFFIC), since[1].services.get(key, _NO_TRAFFIC)
        if now.packets >= before.packets:
            known += 1
            packets += now.packets - before.packets
            size += now.bytes - before.bytes
            flows += now.new_flows - before.new_flows
    if not known:
        return None, None, None
    return rounded(packets / since[0]), rounded(size / since[0]), rounded(flows / since[0]) if flows_visible else None


def rounded(value: float) -> float:
    """As exact as anybody reads it."""
    return round(value) if value >= 10 else round(value, 1)


def standing_document(view: ServiceView, pool: PoolView, announced: Mapping[IPAddress, Document]) -> Document:
    """A virtual service without its traffic."""
    service = view.service
    return {
        "name": service.name,
        "state": service_state(view),
        "reason": str(view.no.why) if view.no else None,
        "detail": view.no.detail if view.no else "",
        "protocol": str(service.protocol),
        "ports": [str(ports) for ports in service.ports],
        "delivery": str(service.profile.delivery),
        "network_profile": service.profile.name,
        "hash_mode": str(service.hash_mode),
        "algorithm": str(service.pool.algorithm),
        "ha": str(service.ha),
        "pool": service.pool.name,
        "pool_key": pool_key(service),
        "min_members": service.min_members,
        "in_rotation": pool.in_rotation,
        "transition": _transition(view),
        "panic": str(view.panic) if view.panic else None,
        "vips": [announced[vip] for vip in service.vips],
    }


def pools_document(pools: Mapping[str, PoolView], observed: Observed, since: _Since) -> Document:
    """Pools with those members that they have there."""
    by_member: dict[str, list[Status]] = {member.id: [] for pool in pools.values() for member in pool.members}
    for status in observed.health:
        if (known := by_member.get(status.target.id)) is not None:
            known.append(status)
    names = {pool.name for pool in pools.values()}
    services = [view.service for view in service_views(observed) if view.service.pool.name in names]
    with_flows = tcp_pools(services)
    users: dict[str, list[str]] = {}
    for service in services:
        users.setdefault(service.pool.name, []).append(service.name)
    return {
        key: {
            "name": pool.name,
            "delivery": str(pool.delivery),
            "ttl": str(pool.delivery.ttl),
            "services": [service.name for service in pool.services],
            # Data planes count by member, whatever the virtual service and its delivery.
            "traffic_of": users[pool.name],
            "in_rotation": pool.in_rotation,
            "members": _members(pool, by_member, observed, since, pool.name in with_flows),
        }
        for key, pool in pools.items()
    }


def _members(
    pool: PoolView,
    by_member: Mapping[str, Sequence[Status]],
    observed: Observed,
    since: _Since,
    flows_visible: bool,
) -> list[Document]:
    counters, flows = observed.counters, observed.snapshot.pins.flows
    judged = observed.agreed.members if observed.agreed is not None else {}
    services = {service.name for service in pool.services}
    capable: dict[str, list[Document]] = {}
    for one in observed.doctor.capable if observed.doctor is not None else ():
        if one.service in services:
            capable.setdefault(one.member, []).append(one.document())
    return [
        {
            "name": member.name,
            "id": member.id,
            "address": str(member.address),
            "ratio": member.ratio,
            "state": str(member.state),
            "reason": str(member.no.why) if member.no else None,
            "detail": member.no.detail if member.no else "",
            "health": str(member.health),
            "share": member.share,
            "ramp": member.ramp,
            "remark": member.remark or None,
            "order": as_json(member.order) if member.order else None,
            "until": member.until,
            "drained": member.drained,
            # While its pool is steady nothing is remembered of a member's flows, and 0 would be a number.
            "flows_remembered": flows.get(member.index, 0 if member.state is EffectiveState.DRAINING else None),
            "fleet": _judged(judged[member.id]) if member.id in judged else None,
            "index": member.index,
            "next_hop": hop_document(member.next_hop) if member.next_hop is not None else None,
            "flap": flap_document(observed, member.id),
            # Before the doctor has looked nothing is known.
            "dsr": capable.get(member.id, []),
            "checks": [check_document(status) for status in by_member.get(member.id, ())],
            "finding": finding(by_member.get(member.id, ())),
            "segments": [_segments(found) for found in _seen_segments(by_member.get(member.id, ()), observed)],
            "replies": NOT_VISIBLE,
        }
        | {
            "traffic": _traffic(
                counters.members.get(member.id, Traffic()) if counters else None,
                since[1].members.get(member.id, Traffic()) if since else None,
                since[0] if since else None,
                flows_visible,
            )
        }
        for member in pool.members
    ]


def _seen_segments(statuses: Iterable[Status], observed: Observed) -> Iterator[Segments]:
    for status in statuses:
        found = segments_of(status, observed.snapshot.next_hops)
        if found is not None:
            yield found


def _segments(found: Segments) -> Document:
    """The MSS that a member advertises, and what fits."""
    return {
        "vip": str(found.vip),
        "port": found.port,
        "delivery": str(found.delivery),
        "mss": found.advertised,
        "limit": found.limit,
        "near": found.near,
        "note": found.note or None,
    }


def _transition(view: ServiceView) -> Document:
    """How many slots are on their way from one owner to another."""
    course = view.course
    return {
        "window": course.windows if course else 0,
        "tail": course.tails if course else 0,
        "window_ends": course.next_at if course else None,
    }


def _judged(judged: Judged) -> Document:
    """What the fleet makes of a member."""
    return {
        "health": str(judged.health),
        "basis": str(judged.basis),
        "mine": str(judged.mine),
        "overruled": judged.overruled,
        "up": list(judged.up),
        "down": list(judged.down),
        "maintenance": list(judged.maintenance),
    }


def _fleet(observed: Observed) -> Document | None:
    """Other directors; None for a director on its own."""
    agreed, channel = observed.agreed, observed.channel
    if agreed is None and channel is None:
        return None
    return {
        "peers": [
            {
                "name": peer.name,
                "address": peer.address,
                "state": str(peer.state),
                "heard_s_ago": peer.heard_s_ago,
                "sent": peer.sent,
                "received": peer.received,
                "refused": dict(peer.refused),
                "lost_in": peer.lost_in,
                "lost_out": peer.lost_out,
                "tables_differ": dict(peer.mismatches),
                "trouble": peer.trouble,
            }
            for peer in (channel.peers if channel is not None else ())
        ],
        "store": {
            "connected": agreed.status.connected,
            "endpoint": agreed.status.endpoint,
            "since": agreed.status.since,
            "error": agreed.status.error,
            "source": str(agreed.status.source),
            "directors": [card.name for card in agreed.directors],
        }
        if agreed is not None
        else None,
    }


def service_state(view: ServiceView) -> str:
    """`up`, `down`, or `disabled` by configuration."""
    if view.no is None:
        return "up"
    return "disabled" if view.no.why is Why.SERVICE_DISABLED else "down"


def _traffic(now: Traffic | None, before: Traffic | None, seconds: float | None, flows_visible: bool) -> Document:
    """Client to member. A rate is None when it is not known, new flows are None where nothing marks their beginning."""
    rate: dict[str, float | None] = {"packets_per_s": None, "bytes_per_s": None, "new_flows_per_s": None}
    if now is not None and before is not None and seconds is not None and now.packets >= before.packets:
        rate = {
            "packets_per_s": (now.packets - before.packets) / seconds,
            "bytes_per_s": (now.bytes - before.bytes) / seconds,
            "new_flows_per_s": (now.new_flows - before.new_flows) / seconds if flows_visible else None,
        }
    totals = {
        "packets": now.packets if now else None,
        "bytes": now.bytes if now else None,
        "new_flows": now.new_flows if now and flows_visible else None,
    }
    return totals | rate


def hop_document(hop: NextHop) -> Document:
    """Where packets to a member go first."""
    return {
        "interface": hop.interface,
        "mac": hop.mac.hex(":"),
        "mtu": hop.mtu,
        "source": str(hop.source),
        "direct": hop.direct,
    }


def flap_document(observed: Observed, member: str) -> Document | None:
    """What is held against a member that came and went; None: nothing.

    Args:
        observed: what was seen.
        member: `pool/member`.
    """
    flap = observed.snapshot.flaps.get(member)
    name = member.partition("/")[0]
    terms = next((pool.flapping for pool in observed.snapshot.config.pools if pool.name == name), None)
    if flap is None or terms is None:
        return None
    ends = reuse_at(flap, terms)
    return {
        "penalty": penalty(flap, terms, observed.at),
        "downs": flap.downs,
        "until": ends if ends > observed.at else None,
    }


def check_document(status: Status) -> Document:
    """What a monitor knows of one target."""
    last = status.last
    return {
        "monitor": status.monitor,
        "vantage": "direct" if status.target.way is None else "path",
        "path": status.target.place or None,
        "port": status.target.port,
        "verdict": str(status.verdict),
        "since": status.since,
        "last": _last(last) if last else None,
        "good": status.good,
        "bad": status.bad,
        "maintenance": status.maintenance,
        "turns": [
            {
                "verdict": str(turn.verdict),
                "at": turn.at,
                "code": str(turn.cause.code),
                "detail": turn.cause.detail,
            }
            for turn in status.turns
        ],
    }


def _last(result: Result) -> Document:
    return {
        "code": str(result.code),
        "detail": result.detail,
        "duration_s": result.duration_s,
        "warning": result.warning,
        "certificate_ends": result.ends_at,
    }


def drain_document(drain: Drain | None) -> Document:
    """Whether the director is in service."""
    if drain is None:
        return {"state": "in_service", "since": None, "until": None, "moved": False, "detail": ""}
    return {
        "state": "drained" if drain.over else "draining",
        "since": drain.since,
        "until": drain.until,
        "moved": drain.moved,
        "detail": drain.over or "routers are asked to take other ways",
    }


def _routes(observed: Observed) -> list[Document]:
    """All routes that are wanted or acknowledged: where both lists agree, all is well."""
    in_doubt = observed.applied is None or observed.snapshot.plane_error is not None
    wanted = frozenset[Route]() if in_doubt or observed.applied is None else observed.applied.routes
    announced = observed.speaker.announced if observed.speaker else frozenset[Route]()
    return [
        {
            "prefix": route.cidr,
            "next_hop": str(route.next_hop) if route.next_hop else "self",
            "attributes": str(route.attributes),
            "peers": None if route.peers is None else sorted(map(str, route.peers)),
            "wanted": route in wanted,
            "acknowledged": route in announced,
            "sent_to": _sent_to(route.vip, observed.speaker),
        }
        for route in sorted(wanted | announced, key=lambda route: (route.vip.version, route.vip, str(route)))
    ]


def bgp_document(observed: Observed) -> Document | None:
    """The speaker and its peers; None without [bgp]."""
    speaker, config = observed.speaker, observed.snapshot.config.bgp
    if speaker is None or config is None:
        return None
    configured: dict[str, BgpPeer] = {str(peer.address): peer for peer in config.peers}
    peers = []
    for address in [*configured, *(set(speaker.peers) - set(configured))]:
        status = speaker.peers.get(address)
        peers.append(
            {
                "address": address,
                "remote_as": configured[address].remote_as if address in configured else None,
                "labels": sorted(configured[address].labels) if address in configured else [],
                "session": str(status.session if status else Session.DOWN),
                "since": status.since if status else None,
                "detail": status.detail if status else "nothing is known of this session yet",
                "routes_sent": sorted(status.routes_sent) if status else [],
                "bfd": _bfd(configured.get(address), observed.bfd),
            }
        )
    return {
        "running": speaker.running,
        "detail": speaker.detail,
        "local_as": config.local_as,
        "router_id": str(config.router_id),
        "peers": peers,
    }


def _bfd(peer: BgpPeer | None, status: BfdStatus) -> Document | None:
    """A peer's BFD session; None: it is not to have one."""
    if peer is None or peer.bfd is None:
        return None
    view = status.sessions.get(str(peer.address))
    if view is None:
        return {"state": "unknown", "detail": status.detail or "the BFD process has not told yet"}
    return {
        "state": str(view.state),
        "detail": "; ".join(each for each in (status.detail, view.trouble) if each),
        "since": view.since,
        "diag": diag_name(view.diag),
        "remote_state": str(view.remote_state),
        "remote_diag": diag_name(view.remote_diag),
        "multihop": peer.bfd.multihop,
        "passive": peer.bfd.passive,
        "transmit_interval_s": view.transmit_s,
        "receive_interval_s": view.receive_s,
        "detection_time_s": view.detection_s,
        "downs": view.downs,
        "packets_in": view.packets_in,
        "packets_out": view.packets_out,
        "refused": dict(view.refused),
    }


def _counters(counters: Counters | None) -> Document | None:
    if counters is None:
        return None
    return {
        "drops": {reason: count for reason, count in counters.reasons.items() if reason not in PASSES},
        "passes": {reason: count for reason, count in counters.reasons.items() if reason in PASSES},
        "replies_sent": dict(counters.replies),
        "details": dict(counters.details),
    }


# ---------------------------------------------------------------------------------------------------------------------
# The data plane


def plane_modes(facts: Mapping[str, str]) -> dict[str, str]:
    """Where the XDP plane has its program: one of `MODES` by interface. Empty for other planes."""
    return {key.removeprefix("mode_"): mode for key, mode in facts.items() if key.startswith("mode_")}


def lost_interfaces(facts: Mapping[str, str]) -> dict[str, str]:
    """By which interfaces nothing comes, and why."""
    plain = {key.removeprefix("slow_path_"): why for key, why in facts.items()}
    return {key.removeprefix("lost_"): why for key, why in plain.items() if key.startswith("lost_")}


def plane_name(facts: Mapping[str, str]) -> str:
    """The plane in a few words: `raw plane`, `xdp plane (native)`, `xdp plane (eth1 native, eth2 generic)`."""
    modes = plane_modes(facts)
    how = set(modes.values()) if len(set(modes.values())) == 1 else [f"{name} {mode}" for name, mode in modes.items()]
    return f"{facts.get('kind', 'no')} plane" + (f" ({', '.join(how)})" if how else "")


def _plane_notes(facts: Mapping[str, str]) -> Iterator[str]:
    """Why it is not as fast as it could be."""
    if "why_not_xdp" in facts:
        yield f"not the XDP plane: {facts['why_not_xdp']}"
    for name, mode in plane_modes(facts).items():
        if f"why_{name}" in facts:
            yield f"{name}: {'no XDP program' if mode == 'none' else f'{mode} XDP'}: {facts[f'why_{name}']}"
    for key, way in facts.items():
        if key.startswith("egress_"):
            yield f"packets out of {key.removeprefix('egress_')}: {way}"


def samples(observed: Observed) -> list[Document]:
    """Samples as JSON types, the newest last."""
    return [_sample(event, observed.at - observed.clock) for event in observed.samples]


def _sample(event: PacketEvent, epoch: float) -> Document:
    """
    Args:
        event: from a data plane.
        epoch: what to add to its time for seconds since the epoch.
    """
    return {
        "at": round(event.at + epoch, 3),
        # Unlike the time of day, this never changes from one answer to the next, so it tells which samples are new.
        "clock": event.at,
        "what": event.what,
        "reason": event.reason or None,
        "interface": event.interface,
        "source": event.source,
        "destination": event.destination,
        "protocol": None if event.protocol is None else _PROTOCOLS.get(event.protocol, str(event.protocol)),
        "length": event.length,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Is all well?


def judgement(document: Mapping[str, Any], services: Sequence[str] | None = None) -> Document:
    """`healthy`, `degraded` (somebody should look) or `down` (clients notice), and what is wrong.

    Args:
        document: the status document.
        services: what `services_down` says of its virtual services, where that is known.
    """
    down = [f"data plane: {document['plane']['error']}"] if document["plane"]["error"] else []
    down += services_down(document["services"]) if services is None else services
    degraded = list(_degraded(document))
    state = "down" if down else "degraded" if degraded else "healthy"
    return {"state": state, "problems": down + degraded}


def services_down(services: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What clients notice of virtual services of the status document."""
    reported = set()
    for service in services:
        if service["state"] == "disabled":
            continue
        if service["state"] == "down":
            yield f"virtual service {service['name']} is down: {because(service)}"
        for vip in service["vips"]:
            if service["state"] == "up" and not vip["announced"] and vip["reason"] not in (Why.NO_BGP, Why.DRAINED):
                if vip["vip"] not in reported:
                    yield f"VIP {vip['vip']} is not announced: {because(vip)}"
                reported.add(vip["vip"])
            if vip["arp"] is not None and vip["arp"]["phase"] == "conflict":
                yield f"VIP {vip['vip']} is not answered for: {vip['arp']['why']}"


def _degraded(document: Mapping[str, Any]) -> Iterator[str]:
    if not document["config"]["last_reload"]["ok"]:
        problems = document["config"]["last_reload"]["problems"]
        yield f"the last reload was rejected ({len(problems)} problems); the configuration before it is in force"
    if (staged := document["config"]["staged"]) is not None:
        yield f"revision {staged['revision']} of the configuration waits for a restart: {waiting(staged)}"
    yield from lost_interfaces(document["plane"]["facts"]).values()
    out: dict[tuple[str, ...], str] = {}
    wanted = {service["pool_key"] for service in document["services"] if service["state"] != "disabled"}
    for member in (member for key, pool in document["pools"].items() if key in wanted for member in pool["members"]):
        if member["state"] == EffectiveState.OUT and member["reason"] not in MEANT:
            out[member["id"], member["reason"]] = f"member {member['id']} is out: {because(member)}"
        if member["state"] == EffectiveState.DRAINING and member["reason"] in (Why.UNREACHABLE, Why.NOT_ON_SEGMENT):
            out[member["id"], member["reason"]] = (
                f"member {member['id']} is up for the fleet, and this director alone cannot reach it: {because(member)}"
            )
        fleet = member["fleet"]
        if fleet is not None and fleet["overruled"]:
            text = f"{fleet['mine']} for this director, {fleet['health']} for the fleet ({fleet['basis']})"
            out[member["id"], "overruled"] = f"member {member['id']} is {text}"
        for check in member["checks"]:
            if check["last"] is not None and check["last"]["warning"]:
                place = f" at {check['path']}" if check["path"] else ""
                text = f"member {member['id']}, monitor {check['monitor']}{place}: {check['last']['detail']}"
                out[member["id"], check["monitor"], str(check["path"])] = text
        for found in member["segments"]:
            # What is seen on the member's own segment is no proof of what clients see.
            if found["note"] and not found["near"]:
                out[member["id"], found["vip"], found["delivery"]] = found["note"]
    own = document["director"]["service"]
    if own["state"] != "in_service":
        yield f"this director is {own['state']}: {own['detail']}"
    yield from out.values()
    yield from _fleet_problems(document["fleet"])
    for service in document["services"]:
        if service["panic"]:
            yield f"pool {service['pool']}: {service['panic']}"
    for peer in document["bgp"]["peers"] if document["bgp"] else ():
        if peer["bfd"] is not None and peer["bfd"]["state"] != str(State.UP):
            yield f"BFD with {peer['address']} is {bfd_text(peer['bfd'])}"
        if peer["session"] != Session.UP:
            yield f"BGP session with {peer['address']} is {peer['session']}" + (
                f": {peer['detail']}" if peer["detail"] else ""
            )


def _fleet_problems(fleet: Mapping[str, Any] | None) -> Iterator[str]:
    if fleet is None:
        return
    for peer in fleet["peers"]:
        if peer["trouble"]:
            yield f"director {peer['name']}: {peer['trouble']}"
        elif peer["state"] != PeerState.JOINED:
            yield f"director {peer['name']} is {peer['state']}: it does not hear of the flows that we remember"
        for table, seconds in peer["tables_differ"].items():
            if seconds >= TABLES_DIFFER_S:
                yield f"director {peer['name']} has another table for {table}, for {seconds:.0f} s"
    store = fleet["store"]
    if store is not None and not store["connected"]:
        yield f"the fleet's store cannot be reached, {store['source']} verdicts count: {store['error']}"


def waiting(staged: Mapping[str, Any]) -> str:
    """What of a configuration waits for the next start, and who has written it."""
    by = ", ".join(filter(None, (staged["who"] or "somebody", staged["why"])))
    return f"{'; '.join(staged['takes_restart'])} ({by})"


def bfd_text(bfd: Mapping[str, Any]) -> str:
    """State and reason of a BFD session in a few words."""
    reasons = [bfd["detail"]] if bfd["detail"] else []
    if bfd.get("diag", "none") != "none":
        reasons.append(bfd["diag"])
    if bfd["state"] == str(State.UP):
        reasons.append(f"{bfd['detection_time_s'] * 1000:.0f} ms")
    elif bfd.get("remote_state") not in (None, str(State.DOWN)):
        reasons.append(f"the router says {bfd['remote_state']}")
    return str(bfd["state"]) + (f" ({', '.join(reasons)})" if reasons else "")


def because(item: Mapping[str, Any]) -> str:
    """The reason of a "no" in the document, with its detail."""
    reason, detail = item["reason"] or "", item["detail"]
    if item.get("reason") == Why.HEALTH_DOWN:
        bad = [check for check in item.get("checks", ()) if check["verdict"] == "down" and check["last"]]
        detail = detail or item.get("finding") or "; ".join(f"{check['monitor']}: {probe_text(check)}" for check in bad)
    return f"{reason} ({detail})" if detail else str(reason)


def probe_text(check: Mapping[str, Any]) -> str:
    """The last probe in a few words."""
    last = check["last"]
    if last is None:
        return "no result yet"
    if last["code"] == "ok" and not last["detail"]:
        return f"ok in {last['duration_s'] * 1000:.1f} ms"
    return f"{last['code']}, {last['detail']}" if last["detail"] else str(last["code"])

"""From what was observed to the status document of `/api/v1/status`. Pure.

The document is the one thing that page, command line and stream show; so they cannot disagree. It says why for every
"no", and it never shows a number for something that a director cannot see: replies go past it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from appliance.api.sources import Observed
from appliance.dataplane.base import Counters, Traffic
from appliance.decide import MemberView, No, ServiceView, VipView, Why
from appliance.model import BgpPeer, EffectiveState, Health, IPAddress
from appliance.packet.action import Reason
from appliance.state import Snapshot
from bgp.route import Route
from bgp.speaker import Session, SpeakerStatus
from health.spec import Status

API_VERSION = "v1"
NOT_VISIBLE = "not visible (DSR)"
"""Stands wherever a reply would have to be counted."""

PASSES = frozenset({Reason.NOT_IP, Reason.NOT_VIP})
"""Reasons to leave a frame to the kernel; all others are drops."""

RATE_WINDOW_S = 15.0
"""Rates over a longer time say nothing about the present."""

Document = dict[str, Any]


class Rates:
    """Remembers earlier counters, so that rates are over one to two seconds while somebody looks every second."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, Counters]] = []

    def since(self, clock: float, counters: Counters | None) -> tuple[float, Counters] | None:
        """What to compare *counters* with: seconds ago and the counters of then; None when there is nothing useful."""
        self._marks = [mark for mark in self._marks if clock - mark[0] <= RATE_WINDOW_S]
        base = next((mark for mark in reversed(self._marks) if clock - mark[0] >= 1.0), None)
        if counters is not None and (not self._marks or clock - self._marks[-1][0] >= 1.0):
            self._marks = [*self._marks[-1:], (clock, counters)]
        return (clock - base[0], base[1]) if base else None


def status_document(observed: Observed, since: tuple[float, Counters] | None = None) -> Document:
    """Everything, as JSON types.

    Args:
        observed: what was seen.
        since: seconds ago and the counters of then, for rates.
    """
    config = observed.snapshot.config
    services = service_views(observed)
    announcements = {view.vip: _announcement(view, observed) for view in vip_views(observed)}
    by_member: dict[str, list[Status]] = {}
    for status in observed.health:
        by_member.setdefault(status.target.id, []).append(status)
    document: Document = {
        "apiVersion": API_VERSION,
        "time": observed.at,
        "director": {
            "name": config.director.name,
            "version": observed.version,
            "started_at": observed.started_at,
            "uptime_s": max(0.0, observed.at - observed.started_at),
            "interfaces": list(config.director.interfaces),
        },
        "ready": {
            "ready": all(works for _, works, _ in observed.ready),
            "parts": [{"name": name, "ok": works, "detail": detail} for name, works, detail in observed.ready],
        },
        "plane": {"error": observed.snapshot.plane_error, "facts": dict(observed.plane)},
        "config": {
            "source": observed.reload.source or config.source,
            "digest": observed.reload.digest or config.digest,
            "last_reload": {
                "ok": observed.reload.ok,
                "at": observed.reload.at,
                "problems": list(observed.reload.problems),
            },
        },
        "services": [_service(view, announcements, by_member, observed.counters, since) for view in services],
        "routes": _routes(observed),
        "bgp": _bgp(observed),
        "counters": _counters(observed.counters),
        "replies": NOT_VISIBLE,
        "loop_lag": {"p50_s": observed.lag.p50_s, "p99_s": observed.lag.p99_s, "max_s": observed.lag.max_s},
    }
    return document | {"health": judgement(document)}


# ---------------------------------------------------------------------------------------------------------------------
# What is in force


def service_views(observed: Observed) -> tuple[ServiceView, ...]:
    """Virtual services as they are in force; before anything is, as configured and out, with the reason."""
    if observed.applied is not None:
        return observed.applied.services
    no = _not_programmed(observed.snapshot)
    return tuple(
        ServiceView(
            service,
            tuple(
                MemberView(
                    id=f"{service.pool.name}/{member.name}",
                    name=member.name,
                    address=member.address,
                    ratio=member.ratio,
                    health=observed.snapshot.health.get(f"{service.pool.name}/{member.name}", Health.UNKNOWN),
                    state=EffectiveState.OUT,
                    no=no if member.enabled else No(Why.DISABLED),
                    index=-1,
                    share=0.0,
                    next_hop=None,
                )
                for member in service.pool.members
            ),
            no if service.enabled else No(Why.SERVICE_DISABLED),
        )
        for service in observed.snapshot.config.services
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
        views = tuple(VipView(vip, tuple(names), None) for vip, names in users.items())
    no = _not_programmed(observed.snapshot)
    return tuple(VipView(view.vip, view.services, view.no or no) for view in views)


def _not_programmed(snapshot: Snapshot) -> No:
    return No(Why.PLANE_DOWN, snapshot.plane_error or "the tables are not programmed yet")


def _announcement(view: VipView, observed: Observed) -> Document:
    """Whether routers can know a VIP from us: decided, acknowledged, and some session is up."""
    sent_to = _sent_to(view.vip, observed.speaker)
    why, detail = "", ""
    if view.no is not None:
        why, detail = str(view.no.why), view.no.detail
    elif observed.speaker is None:
        why = Why.NO_BGP
    elif view.vip not in {route.vip for route in observed.speaker.announced}:
        why, detail = "not_acknowledged", observed.speaker.detail or "the speaker has not confirmed it yet"
    elif not any(peer.session is Session.UP for peer in observed.speaker.peers.values()):
        why, detail = "no_session", observed.speaker.detail or "no BGP session is up"
    return {
        "vip": str(view.vip),
        "wanted": view.no is None,
        "announced": not why,
        "reason": str(why) or None,
        "detail": detail,
        "sent_to": sent_to,
    }


def _sent_to(vip: IPAddress, speaker: SpeakerStatus | None) -> list[str]:
    prefix = str(Route(vip).prefix)
    return [address for address, peer in sorted(speaker.peers.items()) if prefix in peer.routes_sent] if speaker else []


# ---------------------------------------------------------------------------------------------------------------------
# Parts of the document


def _service(
    view: ServiceView,
    announcements: Mapping[IPAddress, Document],
    by_member: Mapping[str, Sequence[Status]],
    counters: Counters | None,
    since: tuple[float, Counters] | None,
) -> Document:
    service = view.service
    before = since[1] if since else None
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
        "min_members": service.min_members,
        "in_rotation": view.in_rotation,
        "vips": [
            announcements[vip]
            | _traffic(
                counters.services.get((service.name, str(vip)), Traffic()) if counters else None,
                before.services.get((service.name, str(vip)), Traffic()) if before else None,
                since[0] if since else None,
            )
            for vip in service.vips
        ],
        "members": [
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
                "index": member.index,
                "next_hop": _next_hop(member),
                "checks": [_check(status) for status in by_member.get(member.id, ())],
                "replies": NOT_VISIBLE,
            }
            | _traffic(
                counters.members.get(member.id, Traffic()) if counters else None,
                before.members.get(member.id, Traffic()) if before else None,
                since[0] if since else None,
            )
            for member in view.members
        ],
    }


def service_state(view: ServiceView) -> str:
    """`up`, `down`, or `disabled` by configuration."""
    if view.no is None:
        return "up"
    return "disabled" if view.no.why is Why.SERVICE_DISABLED else "down"


def _traffic(now: Traffic | None, before: Traffic | None, seconds: float | None) -> Document:
    """Client to member. A rate is None when it is not known."""
    rate: dict[str, float | None] = {"packets_per_s": None, "bytes_per_s": None, "new_flows_per_s": None}
    if now is not None and before is not None and seconds is not None and now.packets >= before.packets:
        rate = {
            "packets_per_s": (now.packets - before.packets) / seconds,
            "bytes_per_s": (now.bytes - before.bytes) / seconds,
            "new_flows_per_s": (now.new_flows - before.new_flows) / seconds,
        }
    totals = {
        "packets": now.packets if now else None,
        "bytes": now.bytes if now else None,
        "new_flows": now.new_flows if now else None,
    }
    return {"traffic": totals | rate}


def _next_hop(member: MemberView) -> Document | None:
    hop = member.next_hop
    if hop is None:
        return None
    return {
        "interface": hop.interface,
        "mac": hop.mac.hex(":"),
        "mtu": hop.mtu,
        "source": str(hop.source),
        "direct": hop.direct,
    }


def _check(status: Status) -> Document:
    last = status.last
    return {
        "monitor": status.monitor,
        "port": status.target.port,
        "verdict": str(status.verdict),
        "since": status.since,
        "last": {"code": str(last.code), "detail": last.detail, "duration_s": last.duration_s} if last else None,
        "good": status.good,
        "bad": status.bad,
    }


def _routes(observed: Observed) -> list[Document]:
    """All routes that are wanted or acknowledged: where both lists agree, all is well."""
    in_doubt = observed.applied is None or observed.snapshot.plane_error is not None
    wanted = frozenset[Route]() if in_doubt or observed.applied is None else observed.applied.routes
    announced = observed.speaker.announced if observed.speaker else frozenset[Route]()
    return [
        {
            "prefix": str(route.prefix),
            "next_hop": str(route.next_hop) if route.next_hop else "self",
            "wanted": route in wanted,
            "acknowledged": route in announced,
            "sent_to": _sent_to(route.vip, observed.speaker),
        }
        for route in sorted(wanted | announced, key=lambda route: (route.vip.version, route.vip, str(route)))
    ]


def _bgp(observed: Observed) -> Document | None:
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
                "session": str(status.session if status else Session.DOWN),
                "since": status.since if status else None,
                "detail": status.detail if status else "nothing is known of this session yet",
                "routes_sent": sorted(status.routes_sent) if status else [],
            }
        )
    return {
        "running": speaker.running,
        "detail": speaker.detail,
        "local_as": config.local_as,
        "router_id": str(config.router_id),
        "peers": peers,
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
# Is all well?


def judgement(document: Mapping[str, Any]) -> Document:
    """`healthy`, `degraded` (somebody should look) or `down` (clients notice), and what is wrong."""
    down = list(_down(document))
    degraded = list(_degraded(document))
    state = "down" if down else "degraded" if degraded else "healthy"
    return {"state": state, "problems": down + degraded}


def _down(document: Mapping[str, Any]) -> Iterator[str]:
    if document["plane"]["error"]:
        yield f"data plane: {document['plane']['error']}"
    reported = set()
    for service in document["services"]:
        if service["state"] == "disabled":
            continue
        if service["state"] == "down":
            yield f"virtual service {service['name']} is down: {because(service)}"
        for vip in service["vips"]:
            if service["state"] == "up" and not vip["announced"] and vip["reason"] != Why.NO_BGP:
                if vip["vip"] not in reported:
                    yield f"VIP {vip['vip']} is not announced: {because(vip)}"
                reported.add(vip["vip"])


def _degraded(document: Mapping[str, Any]) -> Iterator[str]:
    if not document["config"]["last_reload"]["ok"]:
        problems = document["config"]["last_reload"]["problems"]
        yield f"the last reload was rejected ({len(problems)} problems); the configuration before it is in force"
    out = {}
    for service in document["services"]:
        for member in service["members"]:
            wanted = service["state"] != "disabled" and member["reason"] not in (Why.DISABLED, Why.RATIO_ZERO)
            if wanted and member["state"] == EffectiveState.OUT:
                out[member["id"], member["reason"]] = f"member {member['id']} is out: {because(member)}"
    yield from out.values()
    for peer in document["bgp"]["peers"] if document["bgp"] else ():
        if peer["session"] != Session.UP:
            yield f"BGP session with {peer['address']} is {peer['session']}" + (
                f": {peer['detail']}" if peer["detail"] else ""
            )


def because(item: Mapping[str, Any]) -> str:
    """The reason of a "no" in the document, with its detail."""
    reason, detail = item["reason"] or "", item["detail"]
    if item.get("reason") == Why.HEALTH_DOWN:
        bad = [check for check in item.get("checks", ()) if check["verdict"] == "down" and check["last"]]
        detail = detail or "; ".join(f"{check['monitor']}: {probe_text(check)}" for check in bad)
    return f"{reason} ({detail})" if detail else str(reason)


def probe_text(check: Mapping[str, Any]) -> str:
    """The last probe in a few words."""
    last = check["last"]
    if last is None:
        return "no result yet"
    if last["code"] == "ok" and not last["detail"]:
        return f"ok in {last['duration_s'] * 1000:.1f} ms"
    return f"{last['code']}, {last['detail']}" if last["detail"] else str(last["code"])

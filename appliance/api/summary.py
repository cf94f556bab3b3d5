"""From what was observed to the summary: all that a dashboard shows, and small however many members there are. Pure.

It is made of a status document whose pools have only those members that are not well, so page and summary cannot
disagree; and it says of every score why it is not 100.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from appliance.api.sources import Observed
from appliance.api.views import Document, PoolView, because, document_of, pool_views, service_views
from appliance.dataplane.base import Counters
from appliance.decide import MemberView, Why
from appliance.model import EffectiveState

NAMED = 3
"""So many members that are not well are named in a row."""

PROBLEMS = 50
"""So many are told; the rest are counted."""

_RATES = ("packets_per_s", "bytes_per_s", "new_flows_per_s")
_TOLD_TO_NOBODY = (Why.NO_BGP, Why.DRAINED)
"""Why a VIP is not announced, where that is as somebody wants it."""


@dataclass(frozen=True)
class _Pool:
    """What a row says of a pool."""

    members: int
    weight: int
    """Of all members that are meant to serve."""

    in_rotation: int
    """Weight of those that do."""


def summary_document(observed: Observed, since: tuple[float, Counters] | None = None) -> Document:
    """
    Args:
        observed: what was seen.
        since: seconds ago and the counters of then, for rates.
    """
    pools = pool_views(service_views(observed))
    noted = _noted(observed)
    unwell = {key: replace(pool, members=tuple(_unwell(pool, noted))) for key, pool in pools.items()}
    status = document_of(observed, unwell, since)
    sizes = {key: _pool(pool) for key, pool in pools.items()}
    services = [_row(one, sizes[one["pool_key"]], status["pools"][one["pool_key"]]) for one in status["services"]]
    director, problems = status["director"], status["health"]["problems"]
    return {
        "apiVersion": status["apiVersion"],
        "time": status["time"],
        "director": {
            "name": director["name"],
            "version": director["version"],
            "uptime_s": director["uptime_s"],
            "state": director["service"]["state"],
            "detail": director["service"]["detail"],
        },
        "health": {
            "state": status["health"]["state"],
            "problems": problems[:PROBLEMS],
            "more": max(0, len(problems) - PROBLEMS),
        },
        "plane": {"name": status["plane"]["name"], "error": status["plane"]["error"]},
        "loop_lag": status["loop_lag"],
        "pins": status["pins"],
        "drops": status["counters"]["drops"] if status["counters"] is not None else None,
        "revision": status["config"]["revision"],
        **{key: _sum([one[key] for one in services]) for key in _RATES},
        "services": services,
        "bgp": _bgp(status["bgp"]),
        "fleet": [{key: peer[key] for key in ("name", "state", "trouble")} for peer in status["fleet"]["peers"]]
        if status["fleet"] is not None
        else None,
    }


def _noted(observed: Observed) -> frozenset[str]:
    """Members of which the status document has something to say although they serve."""
    judged = observed.agreed.members if observed.agreed is not None else {}
    told = {status.target.id for status in observed.health if status.mss is not None}
    return frozenset(told | {member for member, found in judged.items() if found.overruled})


def _unwell(pool: PoolView, noted: frozenset[str]) -> Iterator[MemberView]:
    return (one for one in pool.members if one.state is not EffectiveState.IN_ROTATION or one.id in noted)


def _pool(pool: PoolView) -> _Pool:
    meant = [one for one in pool.members if one.no is None or one.no.why not in (Why.DISABLED, Why.REMOVED)]
    serving = [one for one in meant if one.state is EffectiveState.IN_ROTATION]
    return _Pool(len(pool.members), sum(one.ratio for one in meant), sum(one.ratio for one in serving))


def _row(service: Document, pool: _Pool, unwell: Document) -> Document:
    score, why = _score(service, pool, unwell["members"])
    traffic = [vip["traffic"] for vip in service["vips"]]
    return {
        "name": service["name"],
        "state": service["state"],
        "score": score,
        "score_reason": why,
        "protocol": service["protocol"],
        "ports": service["ports"],
        "pool": service["pool"],
        "delivery": service["delivery"],
        "in_rotation": service["in_rotation"],
        "members": pool.members,
        "moving_slots": service["transition"]["window"],
        "vips": [_vip(vip) for vip in service["vips"]],
        **{key: _sum([one[key] for one in traffic]) for key in _RATES},
    }


def _vip(vip: Document) -> Document:
    arp = vip["arp"]
    return {
        "vip": vip["vip"],
        "announced": vip["announced"],
        "reason": vip["reason"],
        "detail": vip["detail"],
        "arp": f"{arp['phase']}: {arp['why']}" if arp is not None and arp["why"] else arp["phase"] if arp else None,
    }


def _score(service: Document, pool: _Pool, unwell: Sequence[Document]) -> tuple[int | None, str]:
    """0 to 100 and why: the part of the pool's weight that serves, and of the VIPs that routers are told of; the lower
    one counts. None of what is disabled."""
    if service["state"] == "disabled":
        return None, "disabled"
    if service["state"] == "down":
        return 0, because(service)
    out = [one for one in unwell if one["state"] != EffectiveState.IN_ROTATION and one["reason"] != Why.DISABLED]
    parts = [(pool.in_rotation / pool.weight if pool.weight else 1.0, _members_out(out))]
    vips = service["vips"]
    silent = [vip for vip in vips if not vip["announced"] and vip["reason"] not in _TOLD_TO_NOBODY]
    if silent:
        text = "; ".join(f"VIP {vip['vip']} is not announced: {because(vip)}" for vip in silent[:NAMED])
        parts.append(((len(vips) - len(silent)) / len(vips), text))
    if service["panic"]:
        parts.append((0.5, service["panic"]))
    share, why = min(parts)
    return (100, "") if share >= 1.0 else (min(99, round(100 * share)), why)


def _members_out(out: Sequence[Document]) -> str:
    named = "; ".join(f"{one['name']} {one['state'].replace('_', ' ')}: {because(one)}" for one in out[:NAMED])
    return named + (f"; and {len(out) - NAMED} more" if len(out) > NAMED else "")


def _sum(values: Sequence[float | None]) -> float | None:
    """As exact as anybody reads it; None where nothing is known."""
    known = [value for value in values if value is not None]
    total = sum(known)
    return None if not known else round(total) if total >= 10 else round(total, 1)


def _bgp(bgp: Document | None) -> Document | None:
    if bgp is None:
        return None
    return {
        "running": bgp["running"],
        "detail": bgp["detail"],
        "peers": [
            {
                "address": peer["address"],
                "session": peer["session"],
                "since": peer["since"],
                "detail": peer["detail"],
                "routes_sent": len(peer["routes_sent"]),
                "bfd": peer["bfd"]["state"] if peer["bfd"] is not None else None,
            }
            for peer in bgp["peers"]
        ],
    }

"""From what was observed to the summary: all that a dashboard shows, and small however many members there are. Pure.

It is made of a status document whose pools have only those members that are not well, so page and summary cannot
disagree; and it says of every score why it is not 100.

Whoever follows it is told once a second what has changed (`Summary.change`): rates are numbers in a row, and all else
of a virtual service stays as it is for hours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from appliance.api.sources import Observed
from appliance.api.views import (
    RATES,
    Document,
    PoolView,
    announcements,
    because,
    frame_document,
    judgement,
    pool_key,
    pool_views,
    pools_document,
    rounded,
    service_rates,
    service_views,
    services_down,
    standing_document,
    traffic_keys,
    vip_views,
)
from appliance.dataplane.base import Counters
from appliance.decide import MemberView, Why
from appliance.model import EffectiveState

NAMED = 3
"""So many members that are not well are named in a row."""

PROBLEMS = 50
"""So many are told; the rest are counted."""

_Rates = tuple[float | None, float | None, float | None]
"""In the order of `RATES`."""

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


@dataclass(frozen=True)
class _Standing:
    """What stays as it is while tables, routers and answers to ARP do: nearly everything of most rows."""

    observed: Observed
    traffic: tuple[tuple[tuple[tuple[str, str], ...], bool], ...]
    """Of each service, as `views.traffic_keys`."""

    pools: Mapping[str, PoolView]
    sizes: Mapping[str, _Pool]
    out: frozenset[str]
    """Pools that have members out of rotation."""

    services: tuple[Document, ...]
    """As in the status document, without traffic."""

    down: tuple[str, ...]
    """What clients notice of them."""

    rows: tuple[Document, ...]
    """Without rates, and as if all members were well."""

    fleet: Mapping[str, Document]

    def holds(self, observed: Observed) -> bool:
        was = self.observed
        return (
            observed.applied is was.applied
            and observed.snapshot.config is was.snapshot.config
            and observed.snapshot.plane_error == was.snapshot.plane_error
            and observed.snapshot.away == was.snapshot.away
            and observed.snapshot.absent == was.snapshot.absent
            # Before tables are in force, members show what is known of their health.
            and (observed.applied is not None or observed.snapshot.health == was.snapshot.health)
            and (observed.speaker is was.speaker or observed.speaker == was.speaker)
            and observed.arp == was.arp
        )


@dataclass(frozen=True)
class Summary:
    """One summary, in pieces."""

    number: int
    """One more than that of the summary before."""

    head: Document
    """All but the virtual services."""

    rows: tuple[Document, ...]
    """Virtual services without rates. A row that has not changed is the very one of the summary before."""

    rates: tuple[_Rates, ...]
    """Of each row."""

    change: Document | None
    """What is not as in the summary before: `head`, `rows` by their place in the list, and `rates` of all, in columns.
    None where they have not the same virtual services."""

    def row(self, place: int) -> Document:
        """A virtual service."""
        return self.rows[place] | dict(zip(RATES, self.rates[place], strict=True))

    def document(self) -> Document:
        """All of it."""
        return self.head | {"services": [self.row(place) for place in range(len(self.rows))]}


class Summaries:
    """Makes summaries, and remembers of the last one what has not changed since: of a thousand rows nearly all."""

    def __init__(self) -> None:
        self._known: _Standing | None = None
        self._last: Summary | None = None

    def summary(self, observed: Observed, since: tuple[float, Counters] | None = None) -> Summary:
        """
        Args:
            observed: what was seen.
            since: seconds ago and the counters of then, for rates.
        """
        if self._known is None or not self._known.holds(observed):
            self._known = _standing(observed)
        last = self._last
        made = _summary(self._known, observed, since, last)
        self._last = replace(made, change=None)
        return made


def summary_document(observed: Observed, since: tuple[float, Counters] | None = None) -> Document:
    """One summary, for somebody who has seen none before.

    Args:
        observed: what was seen.
        since: seconds ago and the counters of then, for rates.
    """
    return Summaries().summary(observed, since).document()


def _standing(observed: Observed) -> _Standing:
    views, announced, fleet = service_views(observed), announcements(observed), _fleet(observed)
    pools = pool_views(views)
    sizes = {key: _pool(pool) for key, pool in pools.items()}
    keys = [pool_key(view.service) for view in views]
    services = tuple(standing_document(view, pools[key], announced) for view, key in zip(views, keys, strict=True))
    rows = tuple(_row(one, sizes[key], (), fleet) for one, key in zip(services, keys, strict=True))
    out = frozenset(key for key, pool in pools.items() if any(_is_out(one) for one in pool.members))
    traffic = tuple(traffic_keys(view.service) for view in views)
    down = tuple(services_down(services))
    return _Standing(observed, traffic, pools, sizes, out, services, down, rows, fleet)


def _summary(
    known: _Standing, observed: Observed, since: tuple[float, Counters] | None, last: Summary | None
) -> Summary:
    rates = tuple(service_rates(keys, visible, observed.counters, since) for keys, visible in known.traffic)
    head, rows = _head_and_rows(known, observed)
    head |= {key: _sum([one[at] for one in rates]) for at, key in enumerate(RATES)}
    if last is None or [row["name"] for row in last.rows] != [row["name"] for row in rows]:
        return Summary(0 if last is None else last.number + 1, head, rows, rates, None)
    rows = tuple(was if was is row or was == row else row for was, row in zip(last.rows, rows, strict=True))
    made = Summary(last.number + 1, head, rows, rates, None)
    change = {
        "head": head,
        "rows": {
            str(place): made.row(place)
            for place, (was, row) in enumerate(zip(last.rows, rows, strict=True))
            if was is not row
        },
        "rates": {key: [one[at] for one in rates] for at, key in enumerate(RATES)},
    }
    return replace(made, change=change)


def _head_and_rows(known: _Standing, observed: Observed) -> tuple[Document, tuple[Document, ...]]:
    noted = _noted(observed)
    unwell = {
        key: replace(pool, members=members)
        for key, pool in known.pools.items()
        if (noted or key in known.out)
        and (members := tuple(one for one in pool.members if _is_out(one) or one.id in noted))
    }
    pools = pools_document(unwell, replace(observed, counters=None), None)  # rows have nothing of members' traffic
    frame = frame_document(observed)
    health = judgement(frame | {"services": known.services, "pools": pools}, known.down)
    problems = health["problems"]
    rows = tuple(
        _row(one, known.sizes[key], pools[key]["members"], known.fleet) if (key := one["pool_key"]) in pools else row
        for one, row in zip(known.services, known.rows, strict=True)
    )
    director = frame["director"]
    head = {
        "apiVersion": frame["apiVersion"],
        "time": frame["time"],
        "director": {
            "name": director["name"],
            "version": director["version"],
            "uptime_s": director["uptime_s"],
            "state": director["service"]["state"],
            "detail": director["service"]["detail"],
        },
        "health": {
            "state": health["state"],
            "problems": problems[:PROBLEMS],
            "more": max(0, len(problems) - PROBLEMS),
        },
        "plane": {"name": frame["plane"]["name"], "error": frame["plane"]["error"]},
        "loop_lag": frame["loop_lag"],
        "pins": frame["pins"],
        "drops": frame["counters"]["drops"] if frame["counters"] is not None else None,
        "revision": frame["config"]["revision"],
        "bgp": _bgp(frame["bgp"]),
        "fleet": [{key: peer[key] for key in ("name", "state", "trouble")} for peer in frame["fleet"]["peers"]]
        if frame["fleet"] is not None
        else None,
    }
    return head, rows


def _noted(observed: Observed) -> frozenset[str]:
    """Members of which the status document has something to say although they serve."""
    judged = observed.agreed.members if observed.agreed is not None else {}
    told = {
        status.target.id
        for status in observed.health
        if status.mss is not None or (status.last is not None and status.last.warning)
    }
    return frozenset(told | {member for member, found in judged.items() if found.overruled})


def _is_out(member: MemberView) -> bool:
    return member.state is not EffectiveState.IN_ROTATION


def _pool(pool: PoolView) -> _Pool:
    meant = [one for one in pool.members if one.no is None or one.no.why not in (Why.DISABLED, Why.REMOVED)]
    serving = [one for one in meant if one.state is EffectiveState.IN_ROTATION]
    return _Pool(len(pool.members), sum(one.ratio for one in meant), sum(one.ratio for one in serving))


def _fleet(observed: Observed) -> dict[str, Document]:
    """Who else has a VIP, by VIP: the other directors that routers have it from, as they tell us; and where we stand
    among them, where the HA mode has ranks. Empty where there are no others."""
    config, snapshot = observed.snapshot.config, observed.snapshot
    others = {one.name for one in config.fleet.directors} - {config.director.name}
    if config.myself is None or not others:
        return {}
    return {
        str(view.vip): {"elsewhere": sorted(others - snapshot.away - snapshot.absent.get(view.vip, frozenset()))}
        | ({"standing": view.standing} if view.standing is not None else {})
        for view in vip_views(observed)
    }


def _row(service: Document, pool: _Pool, unwell: Sequence[Document], fleet: Mapping[str, Document]) -> Document:
    """Without rates."""
    score, why = _score(service, pool, unwell)
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
        "vips": [_vip(vip, fleet) for vip in service["vips"]],
    }


def _vip(vip: Document, fleet: Mapping[str, Document]) -> Document:
    arp = vip["arp"]
    return {
        "vip": vip["vip"],
        "announced": vip["announced"],
        "reason": vip["reason"],
        "detail": vip["detail"],
        "arp": f"{arp['phase']}: {arp['why']}" if arp is not None and arp["why"] else arp["phase"] if arp else None,
    } | fleet.get(vip["vip"], {})


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
    """None where nothing is known."""
    known = [value for value in values if value is not None]
    return rounded(sum(known)) if known else None


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

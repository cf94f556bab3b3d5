"""What all health monitors say of all members: the answer to /api/v1/health. Pure."""

from collections.abc import Iterable, Sequence

from appliance.api.sources import Observed
from appliance.api.views import Document, check_document, flap_document, pool_views, service_views
from appliance.decide import MemberView
from appliance.path.causes import finding
from health.spec import TURNS, Status


def health_document(observed: Observed) -> Document:
    """By member of a pool in use; and what keeps checks waiting."""
    by_member: dict[str, list[Status]] = {}
    for status in observed.health:
        by_member.setdefault(status.target.id, []).append(status)
    views: dict[str, list[MemberView]] = {}
    for pool in pool_views(service_views(observed)).values():
        for member in pool.members:
            views.setdefault(member.id, []).append(member)
    strain = observed.strain
    return {
        "apiVersion": "v1",
        "time": observed.at,
        "members": [_member(observed, same, by_member.get(name, ())) for name, same in views.items()],
        "checks": {"under_way": strain.under_way, "limit": strain.limit, "delayed": dict(strain.delayed)},
    }


def _member(observed: Observed, views: Sequence[MemberView], statuses: Sequence[Status]) -> Document:
    """A member, which is the same by all deliveries but for its state."""
    view = next((view for view in views if view.no is not None), views[0])
    return {
        "member": view.id,
        "address": str(view.address),
        "state": str(view.state),
        "reason": str(view.no.why) if view.no else None,
        "detail": view.no.detail if view.no else "",
        "admin": str(view.order.state) if view.order else "ready",
        "health": str(view.health),
        "finding": finding(statuses),
        "flap": flap_document(observed, view.id),
        "turns": _latest_turns(statuses),
        "checks": [check_document(status) for status in statuses],
    }


def _latest_turns(statuses: Iterable[Status]) -> list[Document]:
    """Of all the member's monitors, the newest first."""
    turns = ((turn, status) for status in statuses for turn in status.turns)
    newest = sorted(turns, key=lambda found: found[0].at, reverse=True)[:TURNS]
    return [
        {
            "at": turn.at,
            "monitor": status.monitor,
            "path": status.target.place or None,
            "verdict": str(turn.verdict),
            "code": str(turn.cause.code),
            "detail": turn.cause.detail,
        }
        for turn, status in newest
    ]

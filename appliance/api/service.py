"""From what was observed to one virtual service as its page shows it: members, ring, ways, drops. Pure."""

from dataclasses import replace

import numpy as np

from appliance.api.sources import Observed
from appliance.api.summary import summary_document
from appliance.api.views import Document, document_of, pool_key, pool_views, service_views
from appliance.dataplane.base import Counters
from appliance.doctor.finding import Outcome
from appliance.forwarding import NO_MEMBER
from appliance.ring.slots import unpack


def service_document(observed: Observed, name: str, since: tuple[float, Counters] | None = None) -> Document | None:
    """None: there is no such service.

    Args:
        observed: what was seen.
        name: of the virtual service.
        since: seconds ago and the counters of then, for rates.
    """
    views = service_views(observed)
    view = next((one for one in views if one.service.name == name), None)
    if view is None:
        return None
    key = pool_key(view.service)
    # The pool is that of all services which use it: how it is counted does not depend on who looks.
    pool = pool_views(one for one in views if pool_key(one.service) == key)[key]
    alone = _only(observed, name)
    status = document_of(alone, {key: pool}, since)
    (service,) = status["services"]
    (row,) = summary_document(alone, since)["services"]
    return {
        "apiVersion": status["apiVersion"],
        "time": status["time"],
        "director": {
            "name": status["director"]["name"],
            "interfaces": status["director"]["interfaces"],
            "plane": status["plane"]["name"],
            "error": status["plane"]["error"],
        },
        "service": service,
        "row": row,
        "members": [
            member
            | {
                "largest_packet": _largest(observed, member["index"]),
                "handshake_s": _handshake(observed, name, member["id"], member["index"]),
                "doctor": _doctor(observed, name, member["id"]),
            }
            for member in status["pools"][key]["members"]
        ],
        "overhead": {
            "v4": pool.delivery.overhead(4),
            "v6": pool.delivery.overhead(6),
        },
        "ring": _ring(observed, name),
        "routers": [
            {
                "address": peer["address"],
                "session": peer["session"],
                "detail": peer["detail"],
                "told": any(peer["address"] in vip["sent_to"] for vip in service["vips"]),
            }
            for peer in (status["bgp"]["peers"] if status["bgp"] is not None else ())
        ],
        "drops": status["counters"]["drops"] if status["counters"] is not None else None,
        "pins": status["pins"],
    }


def _only(observed: Observed, name: str) -> Observed:
    """The same, as if there were no other virtual service."""
    if observed.applied is not None:
        mine = tuple(one for one in observed.applied.services if one.service.name == name)
        return replace(observed, applied=replace(observed.applied, services=mine))
    config = observed.snapshot.config
    services = tuple(one for one in config.services if one.name == name)
    return replace(observed, snapshot=replace(observed.snapshot, config=replace(config, services=services)))


def _largest(observed: Observed, index: int) -> int | None:
    """Bytes of the largest packet of a client that gets to the member whole."""
    member = observed.applied.tables.members.get(index) if observed.applied is not None else None
    return member.inner_mtu if member is not None else None


def _handshake(observed: Observed, service: str, member: str, index: int) -> float | None:
    """Seconds from clients' SYN to their first ACK; None where no flow is remembered from its beginning."""
    watched = observed.handshakes.get((service, member))
    if watched is not None and watched.response_s is not None:
        return watched.response_s
    stats = observed.snapshot.stats.get(index)
    return stats.response_s if stats is not None else None


def _doctor(observed: Observed, service: str, member: str) -> list[str]:
    """What the doctor has found broken of this member for this virtual service."""
    found = observed.doctor.findings if observed.doctor is not None else ()
    return [
        f"{one.check.replace('_', ' ')}: {one.judgement.text}"
        for one in found
        if (one.service, one.member) == (service, member) and one.judgement.outcome is Outcome.FAIL
    ]


def _ring(observed: Observed, name: str) -> Document | None:
    """Slots by member: all of them, those that it is getting or giving away; None: not in the tables."""
    tables = observed.applied.tables if observed.applied is not None else None
    service = next((one for one in tables.services if one.name == name), None) if tables is not None else None
    if tables is None or service is None:
        return None
    primary, previous = unpack(service.slots)
    window = (primary != previous) & (previous != NO_MEMBER)
    tail = (previous == NO_MEMBER) & (primary != NO_MEMBER)
    has, gets, gives, ends = (
        np.bincount(one, minlength=1) for one in (primary, primary[window], previous[window], primary[tail])
    )
    indices = np.flatnonzero(np.bincount(np.concatenate((primary, previous[window]))))
    return {
        "slots": len(service.slots),
        "members": [
            {
                "id": tables.members[index].id if index in tables.members else None,
                "has": _at(has, index),
                "gets": _at(gets, index),
                "gives": _at(gives, index),
                "ends": _at(ends, index),
            }
            for index in indices.tolist()
        ],
    }


def _at(counts: "np.ndarray[tuple[int], np.dtype[np.intp]]", index: int) -> int:
    return int(counts[index]) if index < len(counts) else 0

"""What requests and answers look like, as JSON Schema (2020-12): the components of the API's description.

Those of objects come from the schema of the configuration file. Each has two: `Pool` is what is sent, `PoolShown` what
is shown, which has all keys.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from appliance.api.records import (
    ANYTHING,
    FLAG,
    NUMBER,
    TEXT,
    VERSION,
    WHOLE,
    Schema,
    array,
    by_name,
    nullable,
    record,
    ref,
    words,
)
from appliance.api.routes import Answer
from appliance.api.status_schema import STAGED, STATUS_SCHEMAS
from appliance.config.monitors import KEYS
from appliance.config.schema import canonical_schema
from appliance.objects.changes import Op, Result
from appliance.objects.kinds import KINDS, Kind

PROBLEM_MEDIA = "application/problem+json"
_SINGLE: Schema = {"type": ["string", "number", "boolean", "null"]}

_ERROR = record(
    {
        "path": {"type": "string", "description": "As `onward check` names it: pool[3].member[1].ratio."},
        "pointer": nullable(
            {"type": "string", "description": "Where it is in the object that was sent (RFC 6901); null elsewhere."}
        ),
        "file": TEXT,
        "line": nullable(WHOLE),
        "value": _SINGLE,
        "message": TEXT,
        "hint": TEXT,
    }
)

_PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457. More members follow where the summary of an answer says so.",
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": WHOLE,
        "detail": TEXT,
        "errors": array(ref("Error")),
    },
    "required": ["type", "title", "status", "detail"],
}

_CONSEQUENCES = record(
    {
        "changes": array(ANYTHING),
        "services": record({"added": array(TEXT), "changed": array(TEXT), "removed": array(TEXT)}),
        "moves": array(ANYTHING),
        "routes": record({"announce": array(TEXT), "withdraw": array(TEXT), "announce_later": array(TEXT)}),
        "deliveries": array(TEXT),
        "members": record({"asked": array(TEXT), "not_asked": array(TEXT)}),
        "refused": array(TEXT),
        "summary": TEXT,
    }
)

_OUTCOME_KEYS: Mapping[str, Schema] = {
    "ok": FLAG,
    "step": {"type": "string", "description": "Where the transaction ended."},
    "dry_run": FLAG,
    "at_restart": FLAG,
    "unchanged": FLAG,
    "written": FLAG,
    "problems": array(ANYTHING),
    "consequences": ref("Consequences"),
    "revision": nullable(WHOLE),
    "staged": nullable(STAGED),
    "digest": TEXT,
    "seconds": NUMBER,
}

OUTCOME = ref("Outcome")
CHANGED = ref("Changed")
CHANGES, CHANGE_STEP = ref("Changes"), ref("ChangeStep")
KINDS_LISTED = ref("Kinds")
ETAG: Mapping[str, str] = {"ETag": "Changes with the object."}

_FLOW = record(
    {
        "client": TEXT,
        "client_port": WHOLE,
        "vip": TEXT,
        "port": WHOLE,
        "protocol": TEXT,
        "state": TEXT,
        "idle_s": NUMBER,
        "age_s": NUMBER,
    }
)
STATUS, SAMPLES = ref("Status"), array(ref("Sample"))
_ORDER = record({"state": TEXT, "since": NUMBER, "until": nullable(NUMBER), "ratio": nullable(WHOLE)})

_TRAFFIC: Mapping[str, Schema] = {
    key: nullable(NUMBER)
    for key in ("packets", "bytes", "new_flows", "packets_per_s", "bytes_per_s", "new_flows_per_s")
}
_FIGURES = record(
    {
        "apiVersion": VERSION,
        "time": NUMBER,
        "health": {"type": "string", "enum": ["healthy", "degraded", "down"]},
        "services": by_name(
            record({"state": TEXT, "in_rotation": WHOLE, "vips": by_name(record({"announced": FLAG, **_TRAFFIC}))})
        ),
        "members": by_name(record({"state": TEXT, "share": NUMBER, "flows_remembered": nullable(WHOLE), **_TRAFFIC})),
        "drops": nullable(by_name(WHOLE)),
        "pins": record({"capacity": WHOLE, "live": WHOLE}),
        "loop_lag": record({"p50_s": NUMBER, "p99_s": NUMBER, "max_s": NUMBER}),
    }
)
_ME = record(
    {
        "name": TEXT,
        "role": {"type": "string", "enum": ["nobody", "viewer", "operator", "admin"]},
        "via": nullable({"type": "string", "enum": ["session", "token", "certificate", "socket"]}),
        "csrf": nullable(TEXT),
        "expires_at": nullable(NUMBER),
    }
)

_SLOTS = record(
    {
        "apiVersion": VERSION,
        "service": TEXT,
        "hash_mode": TEXT,
        "placement": TEXT,
        "count": {"type": "integer", "description": "All slots."},
        "offset": {"type": "integer", "description": "The first one of these."},
        "members": array(nullable(TEXT)),
        "primary": {**array(WHOLE), "description": "Who has each slot, by position in members; -1: nobody."},
        "previous": {**array(WHOLE), "description": "Who had it before, where flows of then are looked for."},
    }
)
_PIN = record(
    {
        "client": TEXT,
        "client_port": WHOLE,
        "vip": TEXT,
        "port": WHOLE,
        "protocol": TEXT,
        "member": nullable(TEXT),
        "service": nullable(TEXT),
        "state": TEXT,
        "idle_s": NUMBER,
        "age_s": NUMBER,
    }
)
_PINS = record(
    {
        "apiVersion": VERSION,
        "capacity": WHOLE,
        "live": WHOLE,
        "matching": WHOLE,
        "items": array(_PIN),
    }
)
_HOP = record({"interface": TEXT, "mac": TEXT, "mtu": WHOLE, "source": TEXT, "direct": FLAG})
_NEIGHBOUR = record(
    {
        "address": TEXT,
        "members": array(TEXT),
        "next_hop": nullable(ref("NextHop")),
        "reason": nullable(TEXT),
        "detail": TEXT,
    }
)
_COUNT = record({"packets": WHOLE, "bytes": WHOLE, "new_flows": WHOLE})
_COUNTERS = record(
    {
        "apiVersion": VERSION,
        "services": by_name(by_name(_COUNT)),
        "members": by_name(_COUNT),
        "reasons": by_name(WHOLE),
        "replies": by_name(WHOLE),
        "details": by_name(WHOLE),
    }
)
_MAPS = record(
    {
        "apiVersion": VERSION,
        "program": nullable(TEXT),
        "items": array(
            record({"name": TEXT, "key_bytes": WHOLE, "value_bytes": WHOLE, "entries": WHOLE, "bytes": WHOLE})
        ),
    }
)
SLOTS, PINS, NEIGHBOURS, COUNTERS = ref("Slots"), ref("Pins"), ref("Neighbours"), ref("Counters")
MAPS = ref("Maps")

_EVENTS = record(
    {
        "apiVersion": VERSION,
        "first_id": {"type": "integer", "description": "Of those that are kept."},
        "last_id": WHOLE,
        "items": array(record({"id": WHOLE, "at": NUMBER, "level": TEXT, "event": TEXT, "fields": ANYTHING})),
    }
)

_RATES: Mapping[str, Schema] = {key: nullable(NUMBER) for key in ("packets_per_s", "bytes_per_s", "new_flows_per_s")}
_PINS_USE, _LAG = (
    record({"capacity": WHOLE, "live": WHOLE}),
    record({"p50_s": NUMBER, "p99_s": NUMBER, "max_s": NUMBER}),
)
_ROW = record(
    {
        "name": TEXT,
        "state": words("up", "down", "disabled"),
        "score": nullable(WHOLE),
        "score_reason": TEXT,
        "protocol": TEXT,
        "ports": array(TEXT),
        "pool": TEXT,
        "delivery": TEXT,
        "in_rotation": WHOLE,
        "members": WHOLE,
        "moving_slots": WHOLE,
        "vips": array(
            record(
                {
                    "vip": TEXT,
                    "announced": FLAG,
                    "reason": nullable(TEXT),
                    "detail": TEXT,
                    "arp": nullable(TEXT),
                },
                {
                    "elsewhere": {**array(TEXT), "description": "Other directors that routers have it from."},
                    "standing": {
                        "type": "integer",
                        "description": "How many steps worse than the best our routes are.",
                    },
                },
            )
        ),
        **_RATES,
    }
)
_SUMMARY_PEER = record(
    {
        "address": TEXT,
        "session": TEXT,
        "since": nullable(NUMBER),
        "detail": TEXT,
        "routes_sent": WHOLE,
        "bfd": nullable(TEXT),
    }
)
_SUMMARY_HEAD: Mapping[str, Schema] = {
    "apiVersion": VERSION,
    "time": NUMBER,
    "director": record({"name": TEXT, "version": TEXT, "uptime_s": NUMBER, "state": TEXT, "detail": TEXT}),
    "health": record(
        {"state": words("healthy", "degraded", "down"), "problems": array(TEXT), "more": WHOLE},
    ),
    "plane": record({"name": TEXT, "error": nullable(TEXT)}),
    "loop_lag": _LAG,
    "pins": _PINS_USE,
    "drops": nullable(by_name(WHOLE)),
    "revision": nullable(WHOLE),
    **_RATES,
    "bgp": nullable(record({"running": FLAG, "detail": TEXT, "peers": array(ref("PeerRow"))})),
    "fleet": nullable(array(record({"name": TEXT, "state": TEXT, "trouble": TEXT}))),
}
_SUMMARY = record({**_SUMMARY_HEAD, "services": array(ref("ServiceRow"))})
_SUMMARY_CHANGE = record(
    {
        "head": {**record(_SUMMARY_HEAD), "description": "Of the summary: all but its services, as it is now."},
        "rows": {**by_name(ref("ServiceRow")), "description": "Services that have changed, by their place from 0 on."},
        "rates": {
            **record({key: array(rate) for key, rate in _RATES.items()}),
            "description": "Of all services, in the order of the summary.",
        },
    }
)
_RING = record(
    {
        "slots": WHOLE,
        "members": array(
            record({"id": nullable(TEXT), "has": WHOLE, "gets": WHOLE, "gives": WHOLE, "ends": WHOLE}),
        ),
    }
)
_SERVICE_NOW = record(
    {
        "apiVersion": VERSION,
        "time": NUMBER,
        "director": record({"name": TEXT, "interfaces": array(TEXT), "plane": TEXT, "error": nullable(TEXT)}),
        "service": ref("ServiceStatus"),
        "row": ref("ServiceRow"),
        "members": array(ref("ServiceMember")),
        "overhead": record({"v4": WHOLE, "v6": WHOLE}),
        "ring": nullable(ref("Ring")),
        "routers": array(record({"address": TEXT, "session": TEXT, "detail": TEXT, "told": FLAG})),
        "drops": nullable(by_name(WHOLE)),
        "pins": _PINS_USE,
    }
)
_TRAFFIC_PAST = record(
    {
        "apiVersion": VERSION,
        "times": array(NUMBER),
        **{key: array(rate) for key, rate in _RATES.items()},
        "pins": {**array(WHOLE), "description": "Flows that the director remembers."},
        "drops": {**by_name(array(nullable(NUMBER))), "description": "Of the director, a second, by reason."},
    }
)
_SERVICE_MEMBER = record(
    {
        **STATUS_SCHEMAS["PoolMemberStatus"]["properties"],
        "largest_packet": nullable(WHOLE),
        "handshake_s": nullable(NUMBER),
        "doctor": array(TEXT),
    }
)

SUMMARY, SERVICE, TRAFFIC_PAST = ref("Summary"), ref("ServiceNow"), ref("TrafficPast")
EVENTS, FIGURES, ME = ref("Events"), ref("Figures"), ref("Me")
MEMBER, ORDERED, DIRECTOR = ref("MemberState"), ref("Ordered"), ref("DirectorState")

_OWN: Mapping[str, Schema] = {
    **STATUS_SCHEMAS,
    "Error": _ERROR,
    "Problem": _PROBLEM,
    "Consequences": _CONSEQUENCES,
    "Outcome": record(_OUTCOME_KEYS),
    "Changed": record(
        {
            "apiVersion": VERSION,
            **_OUTCOME_KEYS,
            "kind": TEXT,
            "name": TEXT,
            "etag": nullable(TEXT),
            "object": nullable(ANYTHING),
            "diff": {"type": "string", "description": "Lines of the files that differ, as `diff -u`."},
        }
    ),
    "ChangeStep": record(
        {"kind": words(*KINDS)},
        {
            "op": {**words(*Op), "default": "put"},
            "name": {"type": "string", "description": "That of a member is POOL/MEMBER."},
            "object": ANYTHING,
            "if_match": {"type": "string", "description": "ETags of which the object must have one."},
        },
    ),
    "Changes": record(
        {
            "apiVersion": VERSION,
            **_OUTCOME_KEYS,
            "etag": {"type": "string", "description": "Of the configuration as a whole."},
            "changes": array(
                record({"op": words(*Op), "kind": TEXT, "name": TEXT, "result": words(*Result), "etag": nullable(TEXT)})
            ),
            "diff": {"type": "string", "description": "Lines of the files that differ, as `diff -u`."},
        }
    ),
    "Slots": _SLOTS,
    "Pins": _PINS,
    "Neighbours": record({"apiVersion": VERSION, "items": array(_NEIGHBOUR)}),
    "Counters": _COUNTERS,
    "Maps": _MAPS,
    "Events": _EVENTS,
    "Figures": _FIGURES,
    "Summary": _SUMMARY,
    "SummaryChange": _SUMMARY_CHANGE,
    "ServiceRow": _ROW,
    "PeerRow": _SUMMARY_PEER,
    "ServiceNow": _SERVICE_NOW,
    "ServiceMember": _SERVICE_MEMBER,
    "TrafficPast": _TRAFFIC_PAST,
    "Ring": _RING,
    "Me": _ME,
    "Flow": _FLOW,
    "Order": _ORDER,
    "NextHop": _HOP,
    "MemberState": record(
        {
            "id": {"type": "string", "description": "POOL/MEMBER."},
            "address": TEXT,
            "state": TEXT,
            "health": TEXT,
            "reason": nullable(TEXT),
            "ratio": WHOLE,
            "share": NUMBER,
            "order": nullable(ref("Order")),
            "until": nullable(NUMBER),
            "drained": FLAG,
            "window_ends": nullable(NUMBER),
            "now": NUMBER,
            "flows": record(
                {
                    "open": WHOLE,
                    "closing": WHOLE,
                    "longest_idle_s": NUMBER,
                    "top_clients": array(record({"client": TEXT, "flows": WHOLE})),
                    "known": array(ref("Flow")),
                }
            ),
        }
    ),
    "Ordered": record(
        {"members": array(TEXT)},
        {
            "withdraws": array(record({"name": TEXT, "why": TEXT})),
            "stops": array(record({"name": TEXT, "why": TEXT})),
            "moves": array(record({"name": TEXT, "moved": NUMBER, "shares": by_name(NUMBER)})),
        },
    ),
    "DirectorState": record(
        {
            "name": TEXT,
            "now": NUMBER,
            "state": {"type": "string", "enum": ["in_service", "draining", "drained"]},
            "since": nullable(NUMBER),
            "until": nullable(NUMBER),
            "moved": FLAG,
            "detail": TEXT,
        },
        {"alone": TEXT},
    ),
    "Kinds": record(
        {
            "apiVersion": VERSION,
            "digest": TEXT,
            "kinds": array(record({"kind": TEXT, "single": FLAG, "key": nullable(TEXT), "count": WHOLE})),
        }
    ),
}


def refused_answers(*statuses: int) -> dict[int, Answer]:
    """Answers that say what is wrong."""
    return {status: Answer(_WHY[status], ref("Problem"), PROBLEM_MEDIA) for status in statuses}


_WHY: Mapping[int, str] = {
    400: "The request makes no sense.",
    401: "Who asks is not known.",
    403: "Who asks may not do this.",
    404: "There is none.",
    405: "This is not possible there.",
    409: "It is there already, is in use (`used_by`), or something else is in force or written meanwhile.",
    412: "What was to be changed is not what the change was made for: its `etag`, and who has `changed` it, when.",
    413: "The body is too large.",
    415: "The body is of another type.",
    422: "The configuration would have mistakes (`errors`), or takes a restart.",
    429: "Too many failed logins; Retry-After says when to try again.",
    500: "It could not be done; the text says what failed.",
    503: "It cannot be done now.",
}


# ---------------------------------------------------------------------------------------------------------------------
# Objects


def object_in(kind: Kind) -> Schema:
    """What is sent."""
    return ref(_short(kind.table.__name__))


def object_out(kind: Kind) -> Schema:
    """What is shown."""
    return ref(_short(kind.table.__name__) + "Shown")


def listed(kind: Kind) -> Schema:
    item = record(
        {"name": TEXT, "etag": TEXT, "file": TEXT, "used_by": array(TEXT), "object": object_out(kind)},
    )
    return record({"apiVersion": VERSION, "kind": {"const": kind.noun}, "items": array(item)})


def _short(model: str) -> str:
    return model.removesuffix("Table")


@cache
def components() -> Mapping[str, Schema]:
    """All named schemas."""
    found: dict[str, Schema] = dict(_OWN)
    file = canonical_schema()
    for model, schema in file["$defs"].items():
        found[_short(model)] = _pointed(schema, "")
        found[_short(model) + "Shown"] = _shown(model, schema)
    return found


def _pointed(schema: Any, suffix: str) -> Any:
    """With references to our components."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return {**schema, **ref(_short(schema["$ref"]) + suffix)}
        return {key: _pointed(value, suffix) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_pointed(value, suffix) for value in schema]
    return schema


def _shown(model: str, schema: dict[str, Any]) -> Schema:
    """With every key; but for those that only some types of health monitors have."""
    shown: dict[str, Any] = _pointed(schema, "Shown")
    some = KEYS if model == "MonitorTable" else {}
    return {**shown, "required": [key for key in schema["properties"] if key not in some]}

"""What the status document looks like (`views.status_document`), as JSON Schema (2020-12)."""

from collections.abc import Mapping

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

_TRAFFIC = record(
    {
        "packets": nullable(WHOLE),
        "bytes": nullable(WHOLE),
        "new_flows": nullable(WHOLE),
        "packets_per_s": nullable(NUMBER),
        "bytes_per_s": nullable(NUMBER),
        "new_flows_per_s": nullable(NUMBER),
    }
)
_ARP = record({"phase": TEXT, "why": TEXT, "since": nullable(NUMBER), "answers": WHOLE, "conflicts": WHOLE})
_VIP = record(
    {
        "vip": TEXT,
        "wanted": FLAG,
        "announced": FLAG,
        "reason": nullable(TEXT),
        "detail": TEXT,
        "sent_to": array(TEXT),
        "arp": nullable(_ARP),
        "traffic": ref("Traffic"),
    }
)
_SERVICE = record(
    {
        "name": TEXT,
        "state": words("up", "down", "disabled"),
        "reason": nullable(TEXT),
        "detail": TEXT,
        "protocol": TEXT,
        "ports": array(TEXT),
        "delivery": TEXT,
        "network_profile": TEXT,
        "hash_mode": TEXT,
        "algorithm": TEXT,
        "ha": TEXT,
        "pool": TEXT,
        "pool_key": TEXT,
        "min_members": WHOLE,
        "in_rotation": WHOLE,
        "transition": record({"window": WHOLE, "tail": WHOLE, "window_ends": nullable(NUMBER)}),
        "panic": nullable(TEXT),
        "vips": array(ref("VipStatus")),
    }
)
_LAST = record({"code": TEXT, "detail": TEXT, "duration_s": NUMBER})
_TURN = record({"verdict": TEXT, "at": NUMBER, "code": TEXT, "detail": TEXT})
_CHECK = record(
    {
        "monitor": TEXT,
        "vantage": words("direct", "path"),
        "path": nullable(TEXT),
        "port": nullable(WHOLE),
        "verdict": TEXT,
        "since": nullable(NUMBER),
        "last": nullable(_LAST),
        "good": WHOLE,
        "bad": WHOLE,
        "maintenance": WHOLE,
        "turns": array(_TURN),
    }
)
_SEGMENTS = record(
    {
        "vip": TEXT,
        "port": WHOLE,
        "delivery": TEXT,
        "mss": nullable(WHOLE),
        "limit": nullable(WHOLE),
        "near": FLAG,
        "note": nullable(TEXT),
    }
)
_JUDGED = record(
    {
        "health": TEXT,
        "basis": TEXT,
        "mine": TEXT,
        "overruled": FLAG,
        "up": array(TEXT),
        "down": array(TEXT),
        "maintenance": array(TEXT),
    }
)
_MEMBER = record(
    {
        "name": TEXT,
        "id": TEXT,
        "address": TEXT,
        "ratio": WHOLE,
        "state": TEXT,
        "reason": nullable(TEXT),
        "detail": TEXT,
        "health": TEXT,
        "share": NUMBER,
        "ramp": nullable(NUMBER),
        "remark": nullable(TEXT),
        "order": nullable(ref("Order")),
        "until": nullable(NUMBER),
        "drained": FLAG,
        "flows_remembered": nullable(WHOLE),
        "fleet": nullable(_JUDGED),
        "index": WHOLE,
        "next_hop": nullable(ref("NextHop")),
        "flap": nullable(record({"penalty": NUMBER, "downs": WHOLE, "until": nullable(NUMBER)})),
        "dsr": array(record({"service": TEXT, "member": TEXT, "dsr_capable": TEXT, "reasons": array(TEXT)})),
        "checks": array(ref("CheckStatus")),
        "finding": nullable(TEXT),
        "segments": array(_SEGMENTS),
        "replies": TEXT,
        "traffic": ref("Traffic"),
    }
)
_POOL = record(
    {
        "name": TEXT,
        "delivery": TEXT,
        "ttl": TEXT,
        "services": array(TEXT),
        "traffic_of": array(TEXT),
        "in_rotation": WHOLE,
        "members": array(ref("PoolMemberStatus")),
    }
)
_PEER = record(
    {
        "address": TEXT,
        "remote_as": nullable(WHOLE),
        "labels": array(TEXT),
        "session": TEXT,
        "since": nullable(NUMBER),
        "detail": TEXT,
        "routes_sent": array(TEXT),
        "bfd": nullable(ANYTHING),
    }
)
_BGP = record({"running": FLAG, "detail": TEXT, "local_as": WHOLE, "router_id": TEXT, "peers": array(_PEER)})
_ROUTE = record(
    {
        "prefix": TEXT,
        "next_hop": TEXT,
        "attributes": TEXT,
        "peers": nullable(array(TEXT)),
        "wanted": FLAG,
        "acknowledged": FLAG,
        "sent_to": array(TEXT),
    }
)
_SAMPLE = record(
    {
        "at": NUMBER,
        "clock": NUMBER,
        "what": TEXT,
        "reason": nullable(TEXT),
        "interface": TEXT,
        "source": nullable(TEXT),
        "destination": nullable(TEXT),
        "protocol": nullable(TEXT),
        "length": WHOLE,
    }
)
_COUNTS = record(
    {
        "drops": by_name(WHOLE),
        "passes": by_name(WHOLE),
        "replies_sent": by_name(WHOLE),
        "details": by_name(WHOLE),
    }
)
_DIRECTOR = record(
    {
        "name": TEXT,
        "version": TEXT,
        "started_at": NUMBER,
        "uptime_s": NUMBER,
        "interfaces": array(TEXT),
        "hash_key": TEXT,
        "service": record(
            {
                "state": words("in_service", "draining", "drained"),
                "since": nullable(NUMBER),
                "until": nullable(NUMBER),
                "moved": FLAG,
                "detail": TEXT,
            }
        ),
    }
)
_RELOAD = record(
    {"ok": FLAG, "at": NUMBER, "problems": array(TEXT), "step": TEXT, "warnings": array(TEXT)},
)
STAGED = ref("Staged")
_STAGED = record({"revision": WHOLE, "at": NUMBER, "who": TEXT, "via": TEXT, "why": TEXT, "takes_restart": array(TEXT)})
_STATUS = record(
    {
        "apiVersion": VERSION,
        "time": NUMBER,
        "director": _DIRECTOR,
        "ready": record({"ready": FLAG, "parts": array(record({"name": TEXT, "ok": FLAG, "detail": TEXT}))}),
        "plane": record({"error": nullable(TEXT), "name": TEXT, "notes": array(TEXT), "facts": by_name(TEXT)}),
        "config": record(
            {
                "source": TEXT,
                "digest": TEXT,
                "last_reload": _RELOAD,
                "revision": nullable(WHOLE),
                "staged": nullable(STAGED),
            }
        ),
        "services": array(ref("ServiceStatus")),
        "pools": by_name(ref("PoolStatus")),
        "pins": record({"capacity": WHOLE, "live": WHOLE}),
        "fleet": nullable(record({"peers": array(ANYTHING), "store": nullable(ANYTHING)})),
        "routes": array(_ROUTE),
        "bgp": nullable(_BGP),
        "counters": nullable(_COUNTS),
        "samples": array(ref("Sample")),
        "replies": TEXT,
        "loop_lag": record({"p50_s": NUMBER, "p99_s": NUMBER, "max_s": NUMBER}),
        "health": record({"state": words("healthy", "degraded", "down"), "problems": array(TEXT)}),
    }
)

STATUS_SCHEMAS: Mapping[str, Schema] = {
    "Traffic": _TRAFFIC,
    "VipStatus": _VIP,
    "ServiceStatus": _SERVICE,
    "CheckStatus": _CHECK,
    "PoolMemberStatus": _MEMBER,
    "PoolStatus": _POOL,
    "Sample": _SAMPLE,
    "Status": _STATUS,
    "Staged": _STAGED,
}

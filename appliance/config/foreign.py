"""Keys of the system that many come from, Avi's load balancer, which are none here: why, and what to write. Pure.

Keys that mean the same and have the same values are accepted under both names, as aliases in `schema`. These here mean
something else, have other units, or ask for what cannot be with direct server return.
"""

from collections.abc import Mapping

from pydantic import BaseModel

from appliance.config.schema import (
    BgpTable,
    DsrTable,
    MemberTable,
    MonitorTable,
    PeerTable,
    PoolTable,
    ProfileTable,
    ServiceTable,
)

NO_PORTS = "ports are not translated: packets reach a member as the client has sent them"
ONE_WAY = "replies do not come back this way"

_SYN = (
    f"SYN protection cannot be with direct server return: {ONE_WAY}, and nobody could translate sequence numbers",
    "limit new connections by `protection` of the virtual service, and switch on SYN cookies on the members",
)
_NOT_LAYER_7 = ("this is above layer 4", "do it on the members, or on full proxies of the second tier")
_IN_THE_PROFILE = "what is in it stands in the network profile itself"
_MINUTES = "in minutes there, in seconds here"
_DSR = (
    "the part that says how packets reach members is called `dsr`",
    'write dsr = { type = "l3", encapsulation = "ipip" }',
)

FOREIGN: Mapping[type[BaseModel], Mapping[str, tuple[str, str]]] = {
    ProfileTable: {
        "enable_syn_protection": _SYN,
        "profile": (_IN_THE_PROFILE, 'write type = "tcp_fast_path" or "udp_fast_path", session_idle_timeout, dsr'),
        "tcp_fast_path_profile": (_IN_THE_PROFILE, 'write type = "tcp_fast_path", session_idle_timeout, dsr'),
        "udp_fast_path_profile": (_IN_THE_PROFILE, 'write type = "udp_fast_path", session_idle_timeout, dsr'),
        "tcp_proxy_profile": (_IN_THE_PROFILE, 'write type = "tcp_proxy", for nodes of the second tier'),
        "dsr_profile": _DSR,
        "snat": (f"there is no source NAT: members answer the client itself, {ONE_WAY}", "leave it out"),
        "connection_mirror": ("directors tell each other their flows anyway", "leave it out"),
    },
    DsrTable: {"dsr_profile": _DSR},
    ServiceTable: {
        "enable_syn_protection": _SYN,
        "services": ("ports are a list of their own", 'write ports = [80, "8000-8099"]'),
        "vip": ("VIPs are a list of addresses", 'write vips = ["198.51.100.7"]'),
        "vsvip_ref": ("VIPs are a list of addresses", 'write vips = ["198.51.100.7"]'),
        "pool_ref": ("objects name each other by their names", 'write pool = "web"'),
        "network_profile_ref": ("objects name each other by their names", 'write network_profile = "tcp-l3"'),
        "application_profile_ref": _NOT_LAYER_7,
        "pool_group_ref": ("there are no groups of pools", "write one pool with all members, with ratios"),
        "service_pool_select": (
            "a virtual service has one pool",
            "write a virtual service for each pool, with its ports",
        ),
        "enable_rhi": ("VIPs are announced wherever [bgp] is written", "leave it out; min_members says from when on"),
        "enable_rhi_snat": (f"there is no source NAT: {ONE_WAY}", "leave it out"),
        "bgp_peer_labels": ("whom routers are told by stands in `bgp`", 'write bgp = { peer_labels = ["edge"] }'),
        "bgp_local_preference": ("what routers are told stands in `bgp`", "write bgp = { local_preference = 200 }"),
        "bgp_num_as_path_prepend": ("what routers are told stands in `bgp`", "write bgp = { prepend = 2 }"),
        "connections_rate_limit": ("limits stand in `protection`", "write protection = { per_vip = { rate = 1000 } }"),
        "max_cps_per_client": ("limits stand in `protection`", "write protection = { per_source = { rate = 100 } }"),
        "network_security_policy_ref": (
            "who is let in stands in `protection`",
            'write protection = { deny = ["192.0.2.0/24"] }',
        ),
        "performance_limits": (f"connections are not counted exactly: {ONE_WAY}", "limit new ones: protection.per_vip"),
        "use_vip_as_snat": (
            f"there is no source NAT: {ONE_WAY}",
            'leave it out; health monitors ask by vantage = "path"',
        ),
        "min_pools_up": ("a virtual service has one pool", "write min_members: so many members in rotation"),
        "scaleout_ecmp": ("routers spread flows over directors anyway", "leave it out"),
        "flow_dist": ("all directors compute the same tables", "leave it out"),
        "se_group_ref": ("the fleet is the group", "leave it out; `ha` says how directors share the VIPs"),
        "vrf_context_ref": ("peers stand in [bgp], for the whole director", "leave it out"),
        "traffic_clone_profile_ref": ("traffic is not mirrored", "use `onward capture`"),
        "default_server_port": (NO_PORTS, "leave it out"),
    },
    PoolTable: {
        "enable_syn_protection": _SYN,
        "servers": ("members are tables", 'write [[pool.member]] with address = "203.0.113.21" for each'),
        "server": ("members are tables", 'write [[pool.member]] with address = "203.0.113.21" for each'),
        "default_server_port": (NO_PORTS, "leave it out; health monitors have monitor_port"),
        "use_service_port": (f"it is always so: {NO_PORTS}", "leave it out"),
        "port": (NO_PORTS, "leave it out; health monitors have monitor_port"),
        "health_monitor_refs": ("objects name each other by their names", 'write health_monitors = ["tcp"]'),
        "graceful_disable_timeout": (f"this is drain_timeout, {_MINUTES}", "write drain_timeout = 60 for each minute"),
        "graceful_hm_down_disable_timeout": (
            "flows of a member that is down go to the others at once",
            "leave it out; drain_timeout is for those that are disabled",
        ),
        "connection_ramp_duration": (f"this is slow_start, {_MINUTES}", "write slow_start = 60 for each minute"),
        "min_servers_up": ("virtual services say from when on they serve", "write min_members in the virtual service"),
        "max_concurrent_connections_per_server": ("members say it", "write max_connections in [[pool.member]]"),
        "inline_health_monitor": (f"this is `passive`, by what one direction shows: {ONE_WAY}", "write passive = true"),
        "fail_action": (
            "packets that no member is there for are dropped",
            "leave it out; VIPs without members are withdrawn",
        ),
        "application_persistence_profile_ref": (
            "a hash of the source keeps clients at their member",
            'write hash = "source_ip"',
        ),
        "request_queue_enabled": _NOT_LAYER_7,
        "ssl_profile_ref": _NOT_LAYER_7,
        "enabled": ("pools are not switched", "write enabled = false in the virtual service, or in members"),
    },
    MemberTable: {
        "port": (NO_PORTS, "leave it out; health monitors have monitor_port"),
        "ip": ("members have an address", 'write address = "203.0.113.21"'),
        "hostname": ("names are not resolved", 'write address = "203.0.113.21"; pools can `follow` a second tier'),
        "resolve_server_by_dns": ("names are not resolved", 'write address = "203.0.113.21"'),
        "mac_address": ("it is looked up by ARP and neighbour discovery", "leave it out"),
        "weight": ("this is `ratio`", "write ratio = 2"),
    },
    MonitorTable: {
        "disable_quickstart": ("this is quick_start, the other way round", "write quick_start = false"),
        "tcp_monitor": ("what is in it stands in the health monitor itself", "write request, response, half_open"),
        "udp_monitor": ("what is in it stands in the health monitor itself", "write request, response"),
        "http_monitor": ("what is in it stands in the health monitor itself", "write path, response_codes, response"),
        "https_monitor": ("what is in it stands in the health monitor itself", "write path, response_codes, response"),
        "dns_monitor": ("what is in it stands in the health monitor itself", "write query_name, rcode"),
        "external_monitor": ("what is in it stands in the health monitor itself", "write command"),
        "tcp_request": ("this is `request`", 'write request = "..."'),
        "tcp_response": ("this is `response`", 'write response = "..."'),
        "tcp_half_open": ("this is `half_open`", "write half_open = true"),
        "udp_request": ("this is `request`", 'write request = "..."'),
        "udp_response": ("this is `response`", 'write response = "..."'),
        "http_request": ("method, path and host are keys of their own", 'write path = "/health"'),
        "http_response": ("this is `response`", 'write response = "..."'),
        "http_response_code": ("this is `response_codes`", 'write response_codes = ["2xx"]'),
        "maintenance_code": ("this is `maintenance_codes`", "write maintenance_codes = [503]"),
    },
    BgpTable: {
        "peers": ("peers are tables", "write [[bgp.peer]] with address and remote_as for each"),
        "ibgp": ("it follows from the AS numbers", "leave it out"),
        "keepalive_interval": ("it is a third of the hold time", "write hold_time in [[bgp.peer]]"),
        "hold_time": ("peers say it", "write hold_time in [[bgp.peer]]"),
        "community": ("virtual services say it", 'write bgp = { communities = ["65010:7"] } in the virtual service'),
    },
    PeerTable: {
        "peer_ip": ("peers have an address", 'write address = "192.0.2.1"'),
        "peer_ip6": ("peers have an address", 'write address = "2001:db8::1"'),
        "md5_secret": ("this is `password`", 'write password_file = "/etc/onward/peer.key"'),
        "keepalive_interval": ("it is a third of the hold time", "write hold_time"),
        "ebgp_multihop": ("this is `multihop`", "write multihop = 2"),
        "label": ("this is `labels`, a list", 'write labels = ["edge"]'),
        "advertise_snat_ip": (f"there is no source NAT: {ONE_WAY}", "leave it out"),
    },
}

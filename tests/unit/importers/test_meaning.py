"""What single settings of other load balancers become."""

import json
import tomllib
from typing import Any

import pytest

from appliance.importers import IMPORTERS
from appliance.importers.base import Grade, Imported, Site, Source
from appliance.importers.document import toml
from tests.unit.importers.samples import imported

HASHED = {"algorithm": "consistent_hash", "hash": "source_ip"}


def document(found: Imported) -> dict[str, Any]:
    return tomllib.loads(toml([], found.tables))


def told(found: Imported, grade: Grade) -> str:
    return "\n".join(str(finding) for finding in found.findings if finding.grade is grade)


def lvs(kind: str, scheduler: str, *flags: str) -> Imported:
    """A virtual service with a scheduler, by either importer."""
    if kind == "ipvsadm":
        options = f" -b {','.join(flags)}" if flags else ""
        return imported(
            kind,
            f"-A -t 198.51.100.7:80 -s {scheduler}{options}\n"
            "-a -t 198.51.100.7:80 -r 203.0.113.1:80 -g -w 3\n-a -t 198.51.100.7:80 -r 203.0.113.2:80 -g -w 1\n",
        )
    lines = "\n".join(flags)
    return imported(
        kind,
        f"virtual_server 198.51.100.7 80 {{\nlb_algo {scheduler}\nlb_kind DR\n{lines}\n"
        "real_server 203.0.113.1 80 {\nweight 3\n}\nreal_server 203.0.113.2 80 {\nweight 1\n}\n}\n",
    )


@pytest.mark.parametrize("kind", ["keepalived", "ipvsadm"])
@pytest.mark.parametrize(
    ("scheduler", "flags", "pool", "ratio", "same"),
    [
        ("rr", (), {"algorithm": "round_robin"}, 1, True),
        ("wrr", (), {"algorithm": "round_robin"}, 3, True),
        ("lc", (), {"algorithm": "least_connections"}, 1, True),
        ("wlc", (), {"algorithm": "least_connections"}, 3, True),
        ("sed", (), {"algorithm": "least_connections"}, 3, False),
        ("nq", (), {"algorithm": "least_connections"}, 3, False),
        ("sh", (), HASHED, 3, True),
        ("sh", ("sh-fallback", "sh-port"), HASHED | {"hash": "source_ip_port"}, 3, True),
        ("sh", ("flag-1", "flag-2"), HASHED | {"hash": "source_ip_port"}, 3, True),
        ("mh", ("mh-port",), HASHED | {"hash": "source_ip_port"}, 3, True),
        ("mh", ("sh-port",), HASHED, 3, False),
        ("dh", (), HASHED, 3, False),
        ("lblc", (), HASHED, 3, False),
        ("ovf", (), {"algorithm": "fewest_servers"}, 3, False),
        ("of_tomorrow", (), HASHED, 3, False),
    ],
)
def test_schedulers_of_ipvs(
    kind: str, scheduler: str, flags: tuple[str, ...], pool: dict[str, str], ratio: int, same: bool
) -> None:
    """Both importers make the same of them, and say where we do not do quite the same."""
    found = lvs(kind, scheduler, *flags)
    (table,) = document(found)["pool"]
    assert {key: value for key, value in table.items() if key in ("algorithm", "hash")} == pool
    assert table["member"][0].get("ratio", 1) == ratio
    assert (told(found, Grade.CHANGED) + told(found, Grade.LOST) == "") is same


@pytest.mark.parametrize(
    ("way", "dsr", "enabled"),
    [
        ("-g", {"type": "l2"}, True),
        ("-i", {"type": "l3", "encapsulation": "ipip"}, True),
        ("-i --tun-type gre", {"type": "l3", "encapsulation": "gre"}, True),
        ("-i --tun-type gue --tun-port 6080", {"type": "l3", "encapsulation": "gue"}, True),
        ("-m", {"type": "l3", "encapsulation": "ipip"}, False),
    ],
)
def test_ways_to_forward(way: str, dsr: dict[str, str], enabled: bool) -> None:
    """Direct routing is L2 DSR, tunnels are L3 DSR; NAT is nothing that could go on by itself."""
    found = imported("ipvsadm", f"-A -u 198.51.100.7:53 -s sh\n-a -u 198.51.100.7:53 -r 203.0.113.1:53 {way} -w 1")
    result = document(found)
    assert result["network_profile"][0]["dsr"] == dsr
    assert result["virtual_service"][0].get("enabled", True) is enabled
    assert ("NAT has no equivalent" in told(found, Grade.CHANGED)) is not enabled


def test_the_method_of_most_real_servers_is_that_of_all() -> None:
    """Others are there, but get no packets until somebody has looked at them; a tie is for the virtual server's own."""
    text = "virtual_server 198.51.100.7 0 {\nlvs_method TUN\nlb_algo wrr\n%s}\n"
    own, other = "real_server 203.0.113.%d 0 {\n}\n", "real_server 203.0.113.%d 0 {\nlvs_method DR\n}\n"
    for servers, kind, enabled in (
        (own % 1 + other % 2, "l3", [True, False]),
        (other % 1 + own % 2 + other % 3, "l2", [True, False, True]),
    ):
        found = imported("keepalived", text % servers)
        result = document(found)
        assert result["network_profile"][0]["dsr"]["type"] == kind
        assert [member.get("enabled", True) for member in result["pool"][0]["member"]] == enabled
        assert "makes a virtual server of every port persistent" in told(found, Grade.CHANGED)


def test_a_quorum_of_weights_is_one_of_members() -> None:
    """So many that any of them have the weight."""
    text = "virtual_server 198.51.100.7 80 {\nlb_kind TUN\nlb_algo wrr\nquorum 5\n%s}\n"
    servers = [f"real_server 203.0.113.{i} 80 {{\nweight {weight}\n}}\n" for i, weight in enumerate((4, 1, 2, 2), 1)]
    found = imported("keepalived", text % "".join(servers))
    assert document(found)["virtual_service"][0]["min_members"] == 3
    assert "min_members counts members: 3" in told(found, Grade.CHANGED)


def test_who_has_no_weight_does_not_count_for_a_quorum() -> None:
    """Such a member is never in rotation: a virtual service that waits for it would never be announced."""
    text = "virtual_server 198.51.100.7 80 {\nlb_kind TUN\nlb_algo wrr\nquorum 2\n%s}\n"
    servers = [f"real_server 203.0.113.{i} 80 {{\nweight {weight}\n}}\n" for i, weight in enumerate((0, 1, 3), 1)]
    assert document(imported("keepalived", text % "".join(servers)))["virtual_service"][0]["min_members"] == 2


@pytest.mark.parametrize(
    ("keys", "protection", "message"),
    [
        (
            {"connections_rate_limit": {"count": 100, "period": 1}},
            {"per_service": {"rate": 100}},
            "each director counts",
        ),
        (
            {"connections_rate_limit": {"rate_limiter": {"count": 9, "period": 3, "burst_sz": 7}}},
            {"per_service": {"rate": 3, "burst": 7}},
            "3 new connections a second",
        ),
        ({"max_cps_per_client": 20}, {"per_source": {"rate": 20}}, ""),
        ({"connections_rate_limit": {"count": 9, "action": {"type": "RL_ACTION_NONE"}}}, None, "it only tells"),
    ],
)
def test_limits_of_new_connections(keys: dict[str, object], protection: object, message: str) -> None:
    """Those of an Avi virtual service are limits of ours, where they do more than tell."""
    service = {
        "name": "web",
        "services": [{"port": 80}],
        "vip": [{"ip_address": {"addr": "198.51.100.7", "type": "V4"}}],
    }
    pool = {"name": "web", "servers": [{"ip": {"addr": "203.0.113.1", "type": "V4"}}]}
    refs = {"pool_ref": "/api/pool/?name=web", "network_profile_ref": "/api/networkprofile/?name=System-TCP-Fast-Path"}
    objects = {"VirtualService": [service | refs | keys], "Pool": [pool]}
    found = imported("avi", json.dumps(objects))
    assert document(found)["virtual_service"][0].get("protection") == protection
    assert message in told(found, Grade.LOST if protection is None else Grade.CHANGED)


def test_checks_that_are_not_those_of_all_members() -> None:
    """A pool asks all its members the same, so such a check would take down members that it is not for."""
    text = (
        "virtual_server 198.51.100.7 80 {{\nlb_kind TUN\ndelay_loop 7\n"
        "real_server 203.0.113.1 80 {{\nTCP_CHECK {{\n}}\nPING_CHECK {{\n}}\n}}\n"
        "real_server 203.0.113.2 80 {{\nTCP_CHECK {{\n{}\n}}\n}}\n}}\n"
    )
    found = imported("keepalived", text.format("connect_timeout 2"))
    (monitor,) = document(found)["health_monitor"]
    assert (monitor["type"], monitor["send_interval"], monitor["receive_timeout"]) == ("tcp", 7, 5)
    assert "PING_CHECK: not all real servers have this check" in told(found, Grade.LOST)
    assert "the times are those of" in told(found, Grade.CHANGED)
    assert "connect_timeout" not in told(found, Grade.LOST)
    assert "health_monitor" not in document(imported("keepalived", text.format("connect_port 8081")))


def test_settings_come_from_the_nearest_block() -> None:
    """Checker, real server, virtual server, in this order."""
    text = (
        "virtual_server 198.51.100.7 80 {\nlb_kind TUN\ndelay_loop 7\nretry 4\nvirtualhost a.example.com\n"
        "real_server 203.0.113.1 80 {\nretry 3\nvirtualhost b.example.com\n"
        "HTTP_GET {\nretry 2\nvirtualhost c.example.com\nurl {\npath /x\n}\n"
        "url {\npath /y\nvirtualhost d.example.com\n}\n}\n}\n}\n"
    )
    found = imported("keepalived", text)
    monitors = document(found)["health_monitor"]
    assert [(each["path"], each["host"]) for each in monitors] == [("/x", "c.example.com"), ("/y", "d.example.com")]
    assert {each["failed_checks"] for each in monitors} == {3}
    assert told(found, Grade.IGNORED).count("no check takes it from here") == 4


def avi(**objects: object) -> Imported:
    """A virtual service on TCP with DSR, with other objects or keys."""
    data: dict[str, Any] = {
        "NetworkProfile": [
            {
                "name": "p",
                "profile": {"type": "PROTOCOL_TYPE_TCP_FAST_PATH", "tcp_fast_path_profile": {"dsr_profile": {}}},
            }
        ],
        "Pool": [{"name": "a", "uuid": "pool-1", "servers": [{"ip": {"addr": "203.0.113.1", "type": "V4"}}]}],
        "VirtualService": [
            {
                "name": "s",
                "network_profile_ref": "p",
                "pool_ref": "a",
                "vip": [{"ip_address": {"addr": "198.51.100.7", "type": "V4"}}],
                "services": [{"port": 80}],
            }
        ],
    }
    for kind, changes in objects.items():
        data[kind] = changes if isinstance(changes, list) else [data[kind][0] | changes]
    return imported("avi", json.dumps(data))


@pytest.mark.parametrize(
    "reference",
    [
        "a",
        "pool-1",
        "/api/pool/?name=a",
        "/api/pool?name=a",
        "/api/pool/?tenant=admin&name=a&cloud=Default-Cloud",
        "/api/pool/pool-1",
        "https://controller.example.com/api/pool/pool-1",
        "https://controller.example.com/api/pool/pool-1#a",
        "https://controller.example.com/api/pool/pool-9#a",
    ],
)
def test_forms_of_references(reference: str) -> None:
    """Exports, the API and people write them in their own ways."""
    found = avi(VirtualService={"pool_ref": reference})
    assert document(found)["virtual_service"][0]["pool"] == "a"
    assert told(found, Grade.LOST) == ""


def test_a_reference_means_the_object_of_its_tenant() -> None:
    """Names are those of a tenant."""
    pools = [
        {"name": "a", "tenant_ref": f"/api/tenant/?name={tenant}", "servers": [{"ip": {"addr": address, "type": "V4"}}]}
        for tenant, address in (("admin", "203.0.113.1"), ("shop", "203.0.113.2"))
    ]
    found = avi(Pool=pools, VirtualService={"pool_ref": "/api/pool/?tenant=shop&name=a"})
    assert document(found)["pool"][0]["member"] == [{"address": "203.0.113.2"}]


@pytest.mark.parametrize(
    ("algorithm", "pool"),
    [
        ("LB_ALGORITHM_LEAST_CONNECTIONS", "least_connections"),
        ("LB_ALGORITHM_ROUND_ROBIN", "round_robin"),
        ("LB_ALGORITHM_FASTEST_RESPONSE", "fastest_response"),
        ("LB_ALGORITHM_CONSISTENT_HASH", "consistent_hash"),
        ("LB_ALGORITHM_LEAST_LOAD", "least_load"),
        ("LB_ALGORITHM_FEWEST_SERVERS", "fewest_servers"),
        ("LB_ALGORITHM_RANDOM", "random"),
        ("LB_ALGORITHM_FEWEST_TASKS", "least_connections"),
        ("LB_ALGORITHM_CORE_AFFINITY", "consistent_hash"),
        ("LB_ALGORITHM_NEAREST_SERVER", "consistent_hash"),
    ],
)
def test_algorithms_of_avi(algorithm: str, pool: str) -> None:
    """All of the controller's; those that we have not are told."""
    servers = [{"ip": {"addr": "203.0.113.1", "type": "V4"}}]
    found = avi(Pool={"lb_algorithm": algorithm, "servers": servers})
    assert document(found)["pool"][0]["algorithm"] == pool
    other = told(found, Grade.CHANGED) + told(found, Grade.LOST)
    assert bool(other) is any(word in algorithm for word in ("TASKS", "AFFINITY", "NEAREST"))


def test_what_an_api_answers_is_an_input_too() -> None:
    """Objects are what their URLs say."""
    base = "https://controller.example.com/api"
    pool = {
        "name": "a",
        "url": f"{base}/pool/pool-1",
        "uuid": "pool-1",
        "servers": [{"ip": {"addr": "203.0.113.1", "type": "V4"}}],
    }
    found = imported("avi", json.dumps({"count": 1, "next": f"{base}/pool?page=2", "results": [pool]}))
    assert "the answer has more pages" in told(found, Grade.LOST)
    assert "no virtual service that was imported uses this Pool" in told(found, Grade.IGNORED)
    assert [finding.place for finding in imported("avi", json.dumps(pool)).findings] != []
    assert [finding.place for finding in imported("avi", json.dumps([pool])).findings] != []


def test_bgp_waits_for_what_no_export_has() -> None:
    """Without a router id `[bgp]` is a comment; with all that it needs it is in force."""
    profile = {
        "local_as": 65010,
        "ibgp": True,
        "local_preference": 200,
        "peers": [{"peer_ip": {"addr": "192.0.2.1", "type": "V4"}, "bfd": False}],
    }
    vips = [
        {"ip_address": {"addr": "198.51.100.7", "type": "V4"}, "ip6_address": {"addr": "2001:db8:f::7", "type": "V6"}}
    ]
    found = avi(VrfContext=[{"name": "global", "bgp_profile": profile}], VirtualService={"vip": vips})
    result = document(found)
    assert result["bgp"]["next_hop_v6"] == "2001:db8::11"
    assert result["bgp"]["peer"] == [{"address": "192.0.2.1", "remote_as": 65010, "hold_time": 180}]
    assert result["virtual_service"][0]["bgp"] == {"local_preference": 200}
    source = Source("x", json.dumps({"VrfContext": [{"bgp_profile": profile}]}))
    bare = IMPORTERS["avi"](source, Site())
    assert "bgp" not in document(bare)
    assert "[bgp] needs router_id, which no export has" in told(bare, Grade.TODO)


@pytest.mark.parametrize(
    ("of_vip", "of_service", "preference"),
    [({}, {"bgp_local_preference": 7}, 7), ({"bgp_local_preference": 8}, {}, 8), ({}, {}, 100)],
)
def test_attributes_of_routes_of_a_single_virtual_service(
    of_vip: dict[str, int], of_service: dict[str, int], preference: int
) -> None:
    """They stand in its VsVip or in itself, and otherwise in the profile of all."""
    peers = [{"peer_ip": {"addr": "192.0.2.1", "type": "V4"}, "bfd": False}]
    found = avi(
        VrfContext=[{"bgp_profile": {"local_as": 65010, "local_preference": 100, "peers": peers}}],
        VsVip=[{"name": "v", "vip": [{"ip_address": {"addr": "198.51.100.7", "type": "V4"}}]} | of_vip],
        VirtualService={"vip": [], "vsvip_ref": "v"} | of_service,
    )
    assert document(found)["virtual_service"][0]["bgp"] == {"local_preference": preference}
    assert told(found, Grade.LOST) == ""


def test_a_ping_has_no_port() -> None:
    """And that of such a monitor is named."""
    monitor = {"name": "p", "type": "HEALTH_MONITOR_PING", "monitor_port": 9}
    found = avi(HealthMonitor=[monitor], Pool={"health_monitor_refs": ["p"]})
    assert "monitor_port" not in document(found)["health_monitor"][0]
    assert "HealthMonitor[0].monitor_port: 9: a ping has no port" in told(found, Grade.LOST)


def test_secrets_are_not_in_the_report() -> None:
    """Neither those that are imported, nor those that nobody knows; the keys of BGP sessions stand in the document."""
    peer = {"peer_ip": {"addr": "192.0.2.1", "type": "V4"}, "remote_as": 65000, "md5_secret": "hush-1"}
    found = avi(
        VrfContext=[{"bgp_profile": {"local_as": 65010, "peers": [peer]}}],
        Pool={"some_password": "hush-2", "servers": [{"ip": {"addr": "203.0.113.1", "type": "V4"}}]},
    )
    report = "\n".join(map(str, found.findings))
    assert "Pool[0].some_password: …: it is not known here" in report
    assert "hush" not in report
    assert document(found)["bgp"]["peer"][0]["password"] == "hush-1"
    text = "vrrp_instance V {\nauthentication {\nauth_pass hush-3\n}\n}\nauth_pass hush-4\n"
    assert "hush" not in "\n".join(map(str, imported("keepalived", text).findings))


def select(first: int, last: int | None = None, protocol: str | None = None, pool: str = "b") -> dict[str, Any]:
    found: dict[str, Any] = {"service_port": first, "service_pool_ref": pool}
    if last is not None:
        found["service_port_range_end"] = last
    return found | ({"service_protocol": protocol} if protocol else {})


@pytest.mark.parametrize(
    ("services", "selects", "ports", "lost", "changed"),
    [
        ([(8000, 8099)], [select(8080)], {"a": ["8000-8079", "8081-8099"], "b": [8080]}, "", ""),
        ([(8000, 8099)], [select(8000, 8009)], {"a": ["8010-8099"], "b": ["8000-8009"]}, "", ""),
        ([(8000, 8099)], [select(8000, 8099)], {"b": ["8000-8099"]}, "", ""),
        ([(8000, 8099)], [select(8001), select(8002)], {"a": [8000, "8003-8099"], "b": ["8001-8002"]}, "", ""),
        ([(80, 0), (443, 0)], [select(443)], {"a": [80], "b": [443]}, "", ""),
        ([(1, 65535)], [select(53)], {"a": ["*"], "b": [53]}, "", ""),
        ([(1, 65535)], [select(1, 65535)], {"b": ["*"]}, "", ""),
        (
            [(8000, 8099)],
            [select(8080, pool="gone")],
            {"a": ["8000-8079", "8081-8099"]},
            "has no pool for its ports 8080|no such object is in the export",
            "",
        ),
        ([(1, 65535)], [select(53, pool="gone")], {"a": ["1-52", "54-65535"]}, "has no pool for its ports 53", ""),
        ([(80, 0)], [select(8443)], {"a": [80]}, "service_pool_select[0]: a table: no port goes by it", ""),
        ([(80, 0)], [select(80, None, "PROTOCOL_TYPE_UDP_FAST_PATH")], {"a": [80]}, "no port goes by it", ""),
        ([(80, 0)], [select(80, None, "PROTOCOL_TYPE_SCTP_PROXY")], {"a": [80]}, "SCTP_PROXY is not balanced", ""),
        (
            [(8000, 8099)],
            [select(8080, 8200)],
            {"a": ["8000-8079"], "b": ["8080-8099"]},
            "",
            "only 8080-8099 of 8080-8200 go by it",
        ),
        (
            [(80, 89)],
            [select(80, 85), select(84, 89, "PROTOCOL_TYPE_TCP_FAST_PATH", "c")],
            {"b": ["80-83"], "c": ["84-89"]},
            "",
            "only 80-83 of 80-85 go by it",
        ),
    ],
)
def test_ports_with_pools_of_their_own(
    services: list[tuple[int, int]],
    selects: list[dict[str, Any]],
    ports: dict[str, list[object]],
    lost: str,
    changed: str,
) -> None:
    """Ranges are cut where their pools change, and whatever chooses nothing is told."""
    found = avi(
        Pool=[
            {"name": name, "servers": [{"ip": {"addr": f"203.0.113.{at}", "type": "V4"}}]}
            for at, name in enumerate("abc", 1)
        ],
        VirtualService={
            "services": [{"port": first, "port_range_end": last} for first, last in services],
            "service_pool_select": selects,
        },
    )
    assert {each["pool"]: each["ports"] for each in document(found)["virtual_service"]} == ports
    for grade, messages in ((Grade.LOST, lost), (Grade.CHANGED, changed)):
        said = "\n".join(line for line in told(found, grade).splitlines() if "is called" not in line)
        assert all(message in said for message in messages.split("|"))
        assert bool(said) is bool(messages)


APPLICATION = {
    "name": "app",
    "type": "APPLICATION_PROFILE_TYPE_L4",
    "preserve_client_ip": True,
    "tcp_app_profile": {"proxy_protocol_enabled": True, "proxy_protocol_version": "PROXY_PROTOCOL_VERSION_2"},
    "dos_rl_profile": {
        "rl_profile": {
            "client_ip_connections_rate_limit": {"rate_limiter": {"count": 100, "period": 10, "burst_sz": 30}},
            "uri_requests_rate_limit": {"count": 7},
        }
    },
}


def test_an_application_profile_of_layer_4_is_read() -> None:
    """Its limit of new connections for each client is ours; the rest of it has no equivalent, and is named."""
    found = avi(ApplicationProfile=[APPLICATION], VirtualService={"application_profile_ref": "app"})
    assert document(found)["virtual_service"][0]["protection"] == {"per_source": {"rate": 10, "burst": 30}}
    lost = told(found, Grade.LOST)
    assert "tcp_app_profile.proxy_protocol_enabled: true: no PROXY header is sent" in lost
    assert "rl_profile.uri_requests_rate_limit: a table: what is above TCP and UDP is not looked at" in lost
    found = avi(
        ApplicationProfile=[APPLICATION], VirtualService={"application_profile_ref": "app", "max_cps_per_client": 5}
    )
    assert document(found)["virtual_service"][0]["protection"] == {"per_source": {"rate": 5}}
    assert "max_cps_per_client is stricter: 5 a second" in told(found, Grade.CHANGED)


def test_an_application_profile_of_layer_7_is_named() -> None:
    """Nothing of it counts here, and its limits stand for requests."""
    found = avi(
        ApplicationProfile=[APPLICATION | {"type": "APPLICATION_PROFILE_TYPE_HTTP"}],
        VirtualService={"application_profile_ref": "app"},
    )
    assert "protection" not in document(found)["virtual_service"][0]
    assert "application profile app: what is above TCP and UDP is not looked at" in told(found, Grade.LOST)


ODD = {
    "avi": (
        json.dumps(
            {"ip": {"addr": "0.0.0.0", "type": "V4"}, "hostname": "b.example.com", "resolve_server_by_dns": True}
        ),
        "with the address of b.example.com",
    ),
    "keepalived": ("127.0.0.1 80", "a server on the director itself has to move"),
    "keepalived name": ("b.example.com 80", '"b.example.com" is not an IP address'),
    "ipvsadm": ("127.0.0.1:80", "a server on the director itself has to move"),
    "ipvsadm name": ("b:80", "this member is left out"),
    "ipvsadm vip": ("198.51.100.7:80", "is the VIP itself"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("others", [True, False])
def test_a_member_that_nothing_can_be_sent_to_is_left_out(kind: str, others: bool) -> None:
    """The others are imported; a virtual service that has none is named as well."""
    server, message = ODD[kind]
    if kind == "avi":
        good = [{"ip": {"addr": "203.0.113.1", "type": "V4"}}] if others else []
        found = avi(Pool={"servers": [*good, json.loads(server)]})
    elif kind.startswith("keepalived"):
        servers = [server, *(["203.0.113.1 80"] if others else [])]
        blocks = "".join(f"real_server {each} {{\nTCP_CHECK {{\n}}\n}}\n" for each in servers)
        found = imported("keepalived", f"virtual_server 198.51.100.7 80 {{\nlb_kind DR\n{blocks}}}\n")
    else:
        servers = [server, *(["203.0.113.1:80"] if others else [])]
        lines = "".join(f"-a -t 198.51.100.7:80 -r {each} -g -w 1\n" for each in servers)
        found = imported("ipvsadm", f"-A -t 198.51.100.7:80 -s wlc\n{lines}")
    assert message in told(found, Grade.LOST)
    members = [member["address"] for pool in document(found).get("pool", ()) for member in pool["member"]]
    assert members == (["203.0.113.1"] if others else [])
    if not others:
        assert "virtual_service" not in document(found)
        assert "that could be imported" in told(found, Grade.LOST) + told(found, Grade.TODO)


def test_a_vip_that_cannot_be_one_takes_nothing_else_with_it() -> None:
    """Its virtual service is named with what belongs to it, and the others come."""
    text = "virtual_server {} 80 {{\nlb_kind DR\nreal_server 203.0.113.1 80 {{\n}}\n}}\n"
    found = imported("keepalived", text.format("127.0.0.1") + text.format("198.51.100.7"))
    assert [each["vips"] for each in document(found)["virtual_service"]] == [["198.51.100.7"]]
    assert '"127.0.0.1" is a loopback address' in told(found, Grade.LOST)
    line = "-A -t {0} -s wlc\n-a -t {0} -r 203.0.113.1:80 -g -w 1\n"
    found = imported("ipvsadm", line.format("127.0.0.1:80") + line.format("198.51.100.7:80"))
    assert [each["vips"] for each in document(found)["virtual_service"]] == [["198.51.100.7"]]
    assert told(found, Grade.LOST).count('"127.0.0.1" is a loopback address') == 2

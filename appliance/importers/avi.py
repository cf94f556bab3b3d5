"""Objects of an Avi (NSX ALB) controller in JSON: its configuration export, or what its API answers. Pure.

Words: a virtual service there is one here for each network profile and pool that its ports go to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from appliance.config import values
from appliance.config.problems import ConfigError
from appliance.importers import avi_bgp
from appliance.importers.avi_monitors import monitor
from appliance.importers.avi_objects import ANYTHING, NOTHING, Objects, Unused, name_of
from appliance.importers.base import Grade, Imported, Site, Source, State, frame, no_bgp
from appliance.importers.document import Draft, Names, Table, Value
from appliance.importers.jsontree import Json
from appliance.model import Algorithm, IPAddress

_L7 = "what is above TCP and UDP is not looked at"
_NO_UDP_LIMITS = "only of TCP is there a limit for new connections"
_PASSIVE = "replies do not come back through a director"

_UNUSED_SERVICE: Unused = {
    "type": ("VS_TYPE_NORMAL", _L7, ""),
    "application_profile_ref": (ANYTHING, _L7, ""),
    "analytics_profile_ref": (NOTHING, "there are metrics, and samples of packets", "see /metrics, `onward samples`"),
    "analytics_policy": (NOTHING, "there are metrics, and samples of packets", "see /metrics, `onward samples`"),
    "se_group_ref": (NOTHING, "all directors of a fleet have all virtual services", "see ha"),
    "server_network_profile_ref": (ANYTHING, _L7, ""),
    "ssl_profile_ref": (ANYTHING, "TLS ends at the members", ""),
    "ssl_key_and_certificate_refs": (ANYTHING, "TLS ends at the members", ""),
    "ssl_sess_cache_avg_size": (1024, "TLS ends at the members", ""),
    "http_policies": (ANYTHING, _L7, ""),
    "vs_datascripts": (ANYTHING, _L7, ""),
    "waf_policy_ref": (ANYTHING, _L7, ""),
    "l4_policies": (ANYTHING, "ports choose the pool, and nothing else", "write a [[virtual_service]] for each pool"),
    "network_security_policy_ref": (ANYTHING, "rules of a policy are not read", "write protection.deny and allow"),
    "security_policy_ref": (ANYTHING, "rules of a policy are not read", "see protection"),
    "connections_rate_limit": (ANYTHING, _NO_UDP_LIMITS, ""),
    "requests_rate_limit": (ANYTHING, _L7, ""),
    "performance_limits": (
        ANYTHING,
        "neither open connections nor bytes are limited",
        "limit new connections: protection.per_service",
    ),
    "max_cps_per_client": (0, _NO_UDP_LIMITS, ""),
    "limit_doser": (False, "a client above its limit keeps it, and gets no lower one", ""),
    "min_pools_up": (ANYTHING, "a virtual service has one pool", "see min_members"),
    "flow_dist": ("LOAD_AWARE", "routers spread flows over directors", "see ha"),
    "flow_label_type": ("NO_LABEL", "flows have no labels", ""),
    "enable_autogw": (True, "replies do not come back through a director", ""),
    "scaleout_ecmp": (False, "routers spread flows over directors", ""),
    "weight": (1, "virtual services have no weights", ""),
    "delay_fairness": (False, "virtual services have no weights", ""),
    "ign_pool_net_reach": (False, "members need no network of the director's", ""),
    "use_vip_as_snat": (False, "with DSR there is no SNAT", ""),
    "use_bridge_ip_as_vip": (False, "VIPs are addresses of nobody", ""),
    "enable_rhi_snat": (False, "with DSR there is no SNAT", ""),
    "snat_ip": (ANYTHING, "with DSR there is no SNAT", ""),
    "revoke_vip_route": (False, "it is for a cloud", ""),
    "remove_listening_port_on_vs_down": (False, "the VIP is withdrawn as a whole", ""),
    "active_standby_se_tag": ("ACTIVE_STANDBY_SE_1", "who comes first is said by name", "see ha and prefer"),
    "traffic_clone_profile_ref": (ANYTHING, "traffic is not mirrored", ""),
    "close_client_conn_on_config_update": (False, "a reload ends no flow", ""),
    "allow_invalid_client_cert": (False, "TLS ends at the members", ""),
    "bulk_sync_kvcache": (False, _L7, ""),
    "bot_policy_ref": (ANYTHING, _L7, ""),
    "content_rewrite": (ANYTHING, _L7, ""),
    "csrf_policy_ref": (ANYTHING, _L7, ""),
    "error_page_profile_ref": (ANYTHING, _L7, ""),
    "fqdn": (ANYTHING, "names are not put into DNS", ""),
    "dns_info": (ANYTHING, "names are not put into DNS", ""),
    "dns_policies": (ANYTHING, _L7, ""),
    "host_name_xlate": (ANYTHING, _L7, ""),
    "east_west_placement": (False, "all directors of a fleet have all virtual services", ""),
    "nsx_securitygroup": (ANYTHING, "it is for a cloud", ""),
    "service_metadata": (NOTHING, "it is for a cloud", ""),
    "sideband_profile": (ANYTHING, _L7, ""),
    "topology_policies": (ANYTHING, _L7, ""),
    "vh_type": ("VS_TYPE_VH_SNI", _L7, ""),
    "vh_domain_name": (ANYTHING, _L7, ""),
    "vsvip_cloud_config_cksum": (NOTHING, "it is for the controller", ""),
    "vip_ssl_profile": (ANYTHING, "TLS ends at the members", ""),
}
_UNUSED_PORT: Unused = {
    "enable_ssl": (False, "TLS ends at the members", "have them do it"),
    "enable_http2": (False, _L7, ""),
    "override_application_profile_ref": (ANYTHING, _L7, ""),
    "horizon_internal_ports": (False, _L7, ""),
    "is_active_ftp_data_port": (False, _L7, ""),
}
_UNUSED_VSVIP: Unused = {
    "name": (NOTHING, "VIPs stand in the virtual service", ""),
    "dns_info": (ANYTHING, "names are not put into DNS", ""),
    "east_west_placement": (False, "all directors of a fleet have all virtual services", ""),
    "vsvip_cloud_config_cksum": (NOTHING, "it is for the controller", ""),
    "use_standard_alb": (NOTHING, "it is for a cloud", ""),
    "tier1_lr": (NOTHING, "it is for a cloud", ""),
}
_UNUSED_VIP: Unused = {
    "vip_id": (NOTHING, "VIPs have no numbers", ""),
    "prefix_length": (32, "a VIP is one address", "write a VIP for each"),
    "auto_allocate_ip": (False, "addresses are not given out by anybody", "write the VIP"),
    "auto_allocate_ip_type": ("V4_ONLY", "addresses are not given out by anybody", "write the VIP"),
    "auto_allocate_floating_ip": (False, "addresses are not given out by anybody", ""),
    "avi_allocated_vip": (ANYTHING, "addresses are not given out by anybody", ""),
    "avi_allocated_fip": (ANYTHING, "addresses are not given out by anybody", ""),
    "floating_ip": (ANYTHING, "it is for a cloud", ""),
    "floating_ip6": (ANYTHING, "it is for a cloud", ""),
    "ipam_network_subnet": (ANYTHING, "addresses are not given out by anybody", ""),
    "placement_networks": (NOTHING, "a VIP is on no network: routers bring it to the directors", ""),
    "subnet": (NOTHING, "a VIP is on no network: routers bring it to the directors", ""),
    "subnet6": (NOTHING, "a VIP is on no network: routers bring it to the directors", ""),
    "network_ref": (NOTHING, "a VIP is on no network: routers bring it to the directors", ""),
    "port_uuid": (NOTHING, "it is for a cloud", ""),
    "subnet_uuid": (NOTHING, "it is for a cloud", ""),
    "availability_zone": (ANYTHING, "it is for a cloud", ""),
}
_UNUSED_PROFILE: Unused = {
    "description": (NOTHING, "profiles have no description", ""),
    "connection_mirror": (
        False,
        "directors tell each other of remembered flows",
        "write a [[fleet.director]] for each",
    ),
}
_UNUSED_FAST_PATH: Unused = {
    "enable_syn_protection": (False, "with DSR nobody can answer for a member", "use SYN cookies on the members"),
    "snat": (True, "with DSR there is no SNAT", ""),
}
_UNUSED_RATE: Unused = {
    "name": (NOTHING, "limits have no names", ""),
    "explicit_tracking": (NOTHING, "each client is counted for itself", ""),
    "fine_grain": (NOTHING, "limits are for a second", ""),
    "http_cookie": (ANYTHING, _L7, ""),
    "http_header": (ANYTHING, _L7, ""),
}
"""Of the rate limits of a virtual service."""

_UNUSED_APPLICATION: Unused = {
    "name": (NOTHING, "virtual services say what was made of it", ""),
    "description": (NOTHING, "there are no application profiles", ""),
    "preserve_client_ip": (NOTHING, "with DSR members see the client's address and port", ""),
    "preserve_client_port": (NOTHING, "with DSR members see the client's address and port", ""),
    "preserve_dest_ip_port": (NOTHING, "with DSR members see the VIP and its port", ""),
    "app_service_type": (ANYTHING, _L7, ""),
    "dns_service_profile": (ANYTHING, _L7, ""),
    "http_profile": (ANYTHING, _L7, ""),
    "sip_service_profile": (ANYTHING, _L7, ""),
    "l4_ssl_profile": (ANYTHING, "TLS ends at the members", ""),
}
_UNUSED_TCP_APPLICATION: Unused = {
    "proxy_protocol_enabled": (
        False,
        "no PROXY header is sent: with DSR members see the client's address itself",
        "have the servers expect none",
    ),
    "proxy_protocol_version": (NOTHING, "no PROXY header is sent", ""),
    "ssl_client_certificate_mode": ("SSL_CLIENT_CERTIFICATE_NONE", "TLS ends at the members", ""),
    "pki_profile_ref": (ANYTHING, "TLS ends at the members", ""),
}
_UNUSED_DOS: Unused = {"dos_profile": (ANYTHING, "attacks have no thresholds of their own", "see protection")}
_UNUSED_LIMITS: Unused = {
    f"{kind}_rate_limit{end}": (ANYTHING, _L7, "")
    for kind, end in (
        ("client_ip_failed_requests", ""),
        ("client_ip_requests", ""),
        ("client_ip_scanners_requests", ""),
        ("client_ip_to_uri_failed_requests", ""),
        ("client_ip_to_uri_requests", ""),
        ("custom_requests", ""),
        ("http_header", "s"),
        ("uri_failed_requests", ""),
        ("uri_requests", ""),
        ("uri_scanners_requests", ""),
    )
}
_UNUSED_PERSISTENCE: Unused = {
    "name": (NOTHING, "pools say what was made of it", ""),
    "description": (NOTHING, "there are no persistence profiles", ""),
    "server_hm_down_recovery": (
        "HM_DOWN_PICK_NEW_SERVER",
        "the clients of a member that is down go to others",
        "",
    ),
}
_UNUSED_CLIENT_IP: Unused = {
    "ip_persistent_timeout": (NOTHING, "a hash of the client's address has no time-out", ""),
    "ip_mask": (0, "clients are told apart by their whole addresses", ""),
}
_UNUSED_POOL: Unused = {
    "description": (NOTHING, "pools have no description", ""),
    "use_service_port": (NOTHING, "DSR delivers to the port that clients use", ""),
    "default_port": (NOTHING, "DSR delivers to the port that clients use", ""),
    "ignore_server_port": (NOTHING, "DSR delivers to the port that clients use", ""),
    "inline_health_monitor": (True, _PASSIVE, ""),
    "graceful_hm_down_disable_timeout": (-1, "a member that is down hands its slots over at once", ""),
    "server_disable_type": ("DISALLOW_NEW_CONNECTION", "a disabled member gets no new connections", ""),
    "max_conn_rate_per_server": (
        ANYTHING,
        "new connections of a member are not limited",
        "see max_connections of members, and protection of virtual services",
    ),
    "capacity_estimation": (False, _PASSIVE, ""),
    "capacity_estimation_ttfb_thresh": (0, _PASSIVE, ""),
    "server_timeout": (0, "see session_idle_timeout of the network profile", ""),
    "lb_algo_rr_per_se": (False, "turns are of each CPU", ""),
    "lb_algorithm_core_nonaffinity": (2, _L7, ""),
    "lb_algorithm_consistent_hash_hdr": ("", _L7, ""),
    "fewest_tasks_feedback_delay": (10, "tasks are not counted", ""),
    "analytics_policy": (NOTHING, "metrics are always there", ""),
    "analytics_profile_ref": (NOTHING, "metrics are always there", ""),
    "autoscale_policy_ref": (ANYTHING, "members are not made by anybody", ""),
    "autoscale_networks": (ANYTHING, "members are not made by anybody", ""),
    "autoscale_launch_config_ref": (ANYTHING, "members are not made by anybody", ""),
    "append_port": ("NON_DEFAULT_80_443", _L7, ""),
    "conn_pool_properties": (ANYTHING, _L7, ""),
    "delete_server_on_dns_refresh": (True, "members have addresses", ""),
    "east_west": (False, "it is for a cloud", ""),
    "enable_http2": (False, _L7, ""),
    "gslb_sp_enabled": (False, "it is for several sites", ""),
    "host_check_enabled": (False, "TLS ends at the members", ""),
    "ipaddrgroup_ref": (ANYTHING, "members are listed one by one", "write a [[pool.member]] for each"),
    "networks": (NOTHING, "members are listed one by one", ""),
    "nsx_securitygroup": (ANYTHING, "it is for a cloud", ""),
    "pki_profile_ref": (ANYTHING, "TLS ends at the members", ""),
    "placement_networks": (NOTHING, "the way to members is what the kernel's routes say", ""),
    "request_queue_enabled": (False, _L7, ""),
    "request_queue_depth": (128, _L7, ""),
    "resolve_pool_by_dns": (False, "members have addresses", "write them"),
    "rewrite_host_header_to_server_name": (False, _L7, ""),
    "rewrite_host_header_to_sni": (False, _L7, ""),
    "routing_pool": (False, _L7, ""),
    "server_name": (ANYTHING, "TLS ends at the members", ""),
    "server_reselect": (ANYTHING, _L7, ""),
    "service_metadata": (NOTHING, "it is for a cloud", ""),
    "sni_enabled": (True, "TLS ends at the members", ""),
    "ssl_profile_ref": (ANYTHING, "TLS ends at the members", ""),
    "ssl_key_and_certificate_ref": (ANYTHING, "TLS ends at the members", ""),
    "tier1_lr": (NOTHING, "it is for a cloud", ""),
    "use_service_ssl_mode": (False, "TLS ends at the members", ""),
    "fail_action": (ANYTHING, "without members packets are dropped, and the VIP is withdrawn", ""),
}
_UNUSED_SERVER: Unused = {
    "port": (ANYTHING, "DSR delivers to the port that clients use", "have the server listen on it"),
    "description": (NOTHING, "members have no description", ""),
    "mac_address": (ANYTHING, "MAC addresses are what the kernel says", ""),
    "resolve_server_by_dns": (False, "members have addresses", "write the address"),
    "rewrite_host_header": (False, _L7, ""),
    "static": (False, "it is for the controller", ""),
    "verify_network": (False, "it is for the controller", ""),
    "autoscaling_group_name": (ANYTHING, "it is for a cloud", ""),
    "availability_zone": (ANYTHING, "it is for a cloud", ""),
    "discovered_networks": (NOTHING, "it is for a cloud", ""),
    "discovered_network_ref": (NOTHING, "it is for a cloud", ""),
    "discovered_subnet": (NOTHING, "it is for a cloud", ""),
    "external_orchestration_id": (NOTHING, "it is for a cloud", ""),
    "external_uuid": (NOTHING, "it is for a cloud", ""),
    "location": (ANYTHING, "it is for several sites", ""),
    "nw_ref": (NOTHING, "it is for a cloud", ""),
    "prst_hdr_val": (ANYTHING, _L7, ""),
    "server_node": (NOTHING, "it is for a cloud", ""),
    "vm_ref": (NOTHING, "it is for a cloud", ""),
}
_HA = {
    "HA_MODE_SHARED_PAIR": (Grade.IGNORED, "all directors of a fleet take flows of all VIPs: ha = active_active", ""),
    "HA_MODE_SHARED": (
        Grade.TODO,
        "N+M is said by virtual service; without, all directors take flows of all VIPs",
        'write a [[fleet.director]] for each director, and ha = "n_plus_m" with primaries',
    ),
    "HA_MODE_LEGACY_ACTIVE_STANDBY": (
        Grade.TODO,
        "active/standby is said by virtual service; without, all directors take flows of all VIPs",
        'write a [[fleet.director]] for each director, and ha = "active_standby"',
    ),
}
_OTHERS = {
    "META": (Grade.IGNORED, "it is about the export, not about objects"),
    "Tenant": (Grade.IGNORED, "there are no tenants"),
    "Cloud": (Grade.IGNORED, "there are no clouds: a director runs on any Linux machine"),
}
_FAST_PATHS = {"System-TCP-Fast-Path": "tcp", "System-UDP-Fast-Path": "udp", "System-UDP-Per-Pkt": "udp"}
"""Profiles that every controller has, none of which is for DSR."""

_PROTOCOLS = {
    "PROTOCOL_TYPE_TCP_FAST_PATH": "tcp",
    "PROTOCOL_TYPE_TCP_PROXY": "tcp",
    "PROTOCOL_TYPE_UDP_FAST_PATH": "udp",
    "PROTOCOL_TYPE_UDP_PROXY": "udp",
}
_L4_APPLICATION = "System-L4-Application"
_L4 = "APPLICATION_PROFILE_TYPE_L4"
_EVERY_PORT = 1, 65535
_BY_ADDRESS = ("System-Persistence-Client-IP", "PERSISTENCE_TYPE_CLIENT_IP_ADDRESS")


@dataclass(frozen=True)
class _Profile:
    name: str
    protocol: str
    dsr: bool


@dataclass(frozen=True)
class _Pool:
    name: str
    enabled: bool
    min_members: int
    node: Json
    port: int
    """Where monitors ask that have no port of their own."""


@dataclass
class _Select:
    """Ports of a virtual service that go to another pool than the others."""

    node: Json
    first: int
    last: int
    protocol: str
    """`tcp` or `udp`; empty: both."""

    pool: _Pool | None
    """None: it cannot be imported, which has been told."""

    taken: set[tuple[int, int]] = field(default_factory=set)
    """First and last ports that go by it."""


def read(source: Source, site: Site) -> Imported:
    """Import objects of a controller.

    Raises:
        ConfigError: it is no JSON, has no objects, or values are not what their keys ask for.
    """
    return _Reader(source, site).imported()


class _Reader:
    def __init__(self, source: Source, site: Site) -> None:
        self.source, self.site = source, site
        self.objects = Objects(source)
        self.report = self.objects.report
        self.draft = Draft()
        self.profiles: dict[int, _Profile | None] = {}
        self.pools: dict[int, _Pool | None] = {}
        self.monitors: dict[int, str | None] = {}
        """What has been made of objects, by their place in the input."""

        self.vips: set[IPAddress] = set()

    def imported(self) -> Imported:
        objects = self.objects
        if not any(objects.of.values()) and not objects.problems:
            message = "there is no object of a type that is known here"
            objects.bad(objects.root, message, 'give an export of the controller: {"VirtualService": [...], ...}')
        bgp = avi_bgp.bgp_of(objects, self.draft)
        for service in objects.of["VirtualService"]:
            self._service(service, bgp)
        self._ports_of_monitors()
        for group in objects.of["ServiceEngineGroup"]:
            self._engines(group)
        self._leftovers()
        if objects.problems:
            raise ConfigError(objects.problems)
        if not self.draft.services:
            self.report.note(Grade.TODO, self.source.name, "there is no virtual service that could be imported", "")
        if bgp is None:
            no_bgp(self.source, self.report)
        else:
            avi_bgp.finish(objects, self.draft, self.site, self.vips)
        director, fleet = frame(self.source, self.site, self.report)
        findings = self.report.close(
            "it is not known here, and nothing was made of it", "see the schema of the controller for what it does"
        )
        return Imported(self.draft.tables(director, fleet), findings, objects.root)

    def _engines(self, group: Json) -> None:
        mode = group.get("ha_mode")
        if mode is not None:
            grade, message, remedy = _HA.get(str(mode.value), (Grade.LOST, "this HA mode is not known", "see ha"))
            self.report.tell(grade, mode, message, remedy)
        self.objects.tell_rest(group, {})
        for node in group.keys.values():
            if any(leaf.state is State.UNREAD for leaf in node.leaves()):
                self.report.ignored(node, "there are no service engines: a director is a process that you start")

    def _leftovers(self) -> None:
        for kind, found in self.objects.of.items():
            for node in found:
                if all(leaf.state is State.UNREAD for leaf in node.leaves()):
                    self.report.ignored(node, f"no virtual service that was imported uses this {kind}")
        for kind, node in self.objects.others:
            grade, message = _OTHERS.get(kind, (Grade.LOST, f"objects of type {kind} have no equivalent"))
            self.report.tell(grade, node, message, "")

    # -----------------------------------------------------------------------------------------------------------------
    # Virtual services

    def _service(self, node: Json, bgp: avi_bgp.Bgp | None) -> None:
        objects = self.objects
        name = objects.text(node, "name") or ""
        vips = self._vips(node)
        ports = self._ports(node, name)
        if ports is None:
            return
        if not vips or not ports:
            if not objects.problems:
                what = "no VIP" if not vips else "no port"
                self.report.lost(node, f"virtual service {name} has {what} that could be imported", "write it")
            return
        enabled = objects.flag(node, True, "enabled")
        traffic = objects.flag(node, True, "traffic_enabled")
        if enabled and not traffic:
            self.report.changed(
                node.keys["traffic_enabled"],
                "without traffic it is not enabled",
                "see `enabled` of the virtual service",
            )
        announcing = self._announcing(node, bgp)
        tcp = any(profile.protocol == "tcp" for profile, _ in ports)
        protection = self._protection(node) if tcp else {}
        self._application(node, protection if tcp else None)
        comments = [f"From {node.place}: {name}"]
        if (description := objects.text(node, "description")) is not None:
            comments += description.splitlines()
        for (profile, pool), specs in ports.items():
            table: dict[str, Value] = {
                "vips": [str(vip) for vip in vips],
                "ports": list(dict.fromkeys(specs)),
                "network_profile": profile.name,
                "pool": pool.name,
            }
            if not profile.dsr:
                self.report.about(
                    Grade.CHANGED,
                    node,
                    f"virtual service {name} is not on a profile with DSR: packets would reach members unchanged, and "
                    "replies not come back; imported as L3 DSR, IP in IP, and not enabled",
                    "give the members the VIP on their loopback and take packets out of the tunnel there, then set "
                    "enabled = true",
                )
            if not (enabled and traffic and profile.dsr and pool.enabled):
                table["enabled"] = False
            if pool.min_members > 1:
                table["min_members"] = pool.min_members
            if objects.flag(node, False, "advertise_down_vs"):
                table["advertise_down"] = True
            if announcing:
                table["bgp"] = announcing
            if protection and profile.protocol == "tcp":
                table["protection"] = protection
            called = self.draft.service(name, table, comments)
            self._named(node, name, called)
        self.vips.update(vips)
        objects.tell_rest(node, _UNUSED_SERVICE)

    def _protection(self, node: Json) -> dict[str, Value]:
        """Limits of new TCP connections: of the virtual service, and of each client."""
        objects = self.objects
        found: dict[str, Value] = {}
        limit = node.get("connections_rate_limit")
        if limit is not None and limit.is_table and (found_rate := self._rate(limit)):
            found["per_service"] = found_rate
        if clients := objects.whole(node, 0, 0, 1_000_000, "max_cps_per_client"):
            found["per_source"] = {"rate": clients}
        return found

    def _rate(self, limit: Json) -> dict[str, Value]:
        """What a limit allows; nothing where it has no number, or does no more than tell."""
        objects = self.objects
        inner = limit.get("rate_limiter") or limit
        count = objects.whole(inner, 0, 0, 1_000_000_000, "count")
        period = objects.whole(inner, 1, 1, 1_000_000_000, "period")
        burst = objects.whole(inner, 0, 0, 1_000_000, "burst_sz")
        found: dict[str, Value] = {}
        if count and limit.peek("action", "type") == "RL_ACTION_NONE":
            self.report.lost(limit, "it only tells of what is too much", "see protection")
        elif count:
            rate = min(1_000_000, max(1, round(count / period)))
            found = {"rate": rate, "burst": burst} if burst else {"rate": rate}
            message = "each director counts for itself, and drops what is too much"
            self.report.about(
                Grade.CHANGED,
                limit,
                f"{message}: {rate} new connections a second for {count} in {period} s",
                "see protection",
            )
        else:
            self.report.about(Grade.IGNORED, limit, "without a count it limits nothing")
        if (action := limit.get("action")) is not None:
            self.report.ignored(action, "what is too much is dropped")
        for each in (inner, limit):
            objects.tell_rest(each, _UNUSED_RATE)
        return found

    def _application(self, node: Json, protection: dict[str, Value] | None) -> None:
        """Read what an application profile says below layer 7.

        Args:
            node: the virtual service.
            protection: gets a limit for each client; None: none of its ports is of TCP.
        """
        objects = self.objects
        reference, profile = objects.ref_at("ApplicationProfile", node, "application_profile_ref")
        if profile is None:
            if name_of(reference) == _L4_APPLICATION and reference is not None:
                self.report.ignored(reference, "all virtual services are of layer 4")
            return
        if profile.peek("type") not in (None, _L4):
            self.report.lost(profile, f"application profile {profile.peek('name')}: {_L7}")
            return
        objects.text(profile, "type")
        limits = profile.get("dos_rl_profile", "rl_profile")
        limit = limits.get("client_ip_connections_rate_limit") if limits is not None else None
        if limit is not None and limit.is_table:
            rate = self._rate(limit)
            if rate and protection is None:
                self.report.about(Grade.LOST, limit, f"{_NO_UDP_LIMITS}, and {node.peek('name')} has no port of TCP")
            elif rate and protection is not None:
                self._stricter(limit, rate, protection)
        for holder, unused in (
            (limits, _UNUSED_LIMITS),
            (profile.get("dos_rl_profile"), _UNUSED_DOS),
            (profile.get("tcp_app_profile"), _UNUSED_TCP_APPLICATION),
            (profile, _UNUSED_APPLICATION),
        ):
            if holder is not None:
                objects.tell_rest(holder, unused)

    def _stricter(self, limit: Json, rate: dict[str, Value], protection: dict[str, Value]) -> None:
        """Of two limits for each client the one that lets fewer connections through."""
        known = protection.get("per_source")
        if isinstance(known, dict) and int(str(known["rate"])) <= int(str(rate["rate"])):
            self.report.about(Grade.CHANGED, limit, f"max_cps_per_client is stricter: {known['rate']} a second")
            return
        if isinstance(known, dict):
            self.report.about(
                Grade.CHANGED,
                limit,
                f"it is stricter than max_cps_per_client, {known['rate']}: {rate['rate']} a second",
            )
        protection["per_source"] = rate

    def _ports_of_monitors(self) -> None:
        """Give monitors a port that would have none, and tell where they ask elsewhere than they did."""
        tables = {str(table.values["name"]): table for table, _ in self.draft.pools}
        specs_of: dict[str, list[Value]] = {}
        for service in self.draft.services:
            ports = service.values["ports"]
            specs_of.setdefault(str(service.values["pool"]), []).extend(ports if isinstance(ports, list) else [])
        for pool in self.pools.values():
            if pool is None:
                continue
            specs = specs_of.get(pool.name, [])
            listed = tables[pool.name].values.get("health_monitors", [])
            monitors = {each.values["name"]: each for each in self.draft.monitors}
            portless = [
                monitors[name]
                for name in (listed if isinstance(listed, list) else ())
                if monitors[name].values["type"] != "ping" and "monitor_port" not in monitors[name].values
            ]
            place = pool.node.get("default_server_port") or pool.node
            if "*" in specs and isinstance(listed, list):
                for each in portless:
                    values = {key: value for key, value in each.values.items() if key != "name"}
                    wanted = f"{each.values['name']}-{pool.port}"
                    name = self.draft.monitor(wanted, values | {"monitor_port": pool.port}, each.comments[0])
                    listed[listed.index(each.values["name"])] = name
            elif portless and specs and pool.port not in specs:
                names = ", ".join(str(each.values["name"]) for each in portless)
                self.report.about(
                    Grade.CHANGED,
                    place,
                    f"monitors without a port ({names}) ask the ports of the virtual service, where packets go, not "
                    f"port {pool.port}",
                )

    def _named(self, node: Json, name: str, called: str) -> None:
        if called != name and (place := node.get("name")) is not None:
            self.report.changed(place, f"it is called {called} here: names are unique, and have no blanks")

    def _vips(self, node: Json) -> list[IPAddress]:
        objects = self.objects
        reference, shared = objects.ref_at("VsVip", node, "vsvip_ref")
        if reference is not None and shared is None and reference.value is not None:
            self.report.lost(reference, "no such object is in the export", "write the VIPs")
        found: list[IPAddress] = []
        for holder in (shared, node):
            entries = holder.get("vip") if holder is not None else None
            for entry in entries.items if entries is not None else ():
                found += [vip for vip in self._vip(entry) if vip not in found]
            if entries is not None and not entries.parts:
                entries.use()
        if shared is not None:
            labels = shared.get("bgp_peer_labels")
            kept = [labels] if labels is not None else []
            kept += [child for key in ("bgp_local_preference", "bgp_num_as_path_prepend") if (child := shared.get(key))]
            for child in kept:  # what announcements are made of is read later
                child.use()
            objects.tell_rest(shared, _UNUSED_VSVIP)
        return found

    def _vip(self, entry: Json) -> list[IPAddress]:
        objects = self.objects
        found = [
            vip
            for key in ("ip_address", "ip6_address")
            if (vip := objects.address(entry.get(key), values.unicast_address)) is not None
        ]
        enabled = objects.flag(entry, True, "enabled")
        if not enabled:
            self.report.changed(entry.keys["enabled"], "a VIP that is not enabled is left out")
        objects.tell_rest(entry, _UNUSED_VIP)
        return found if enabled else []

    def _announcing(self, node: Json, bgp: avi_bgp.Bgp | None) -> dict[str, Value]:
        objects = self.objects
        _, shared = objects.ref_at("VsVip", node, "vsvip_ref")
        found: dict[str, Value] = dict(bgp.announcing) if bgp is not None else {}
        if not objects.flag(node, False, "enable_rhi") and bgp is not None:
            self.report.about(
                Grade.CHANGED,
                node.get("enable_rhi") or node,
                f"virtual service {objects.text(node, 'name')} was not announced, and with [bgp] all VIPs are",
                "leave it out, or give it a peer_label of its own",
            )
        labels: list[Value] = []
        for holder in (shared, node):
            listed = holder.get("bgp_peer_labels") if holder is not None else None
            for each in listed.items if listed is not None else ():
                each.use()
                label = Names().take(str(each.value), "peer")
                if bgp is not None and label not in bgp.labels:
                    self.report.lost(each, "no BGP peer has this label", "give it to a [[bgp.peer]]")
                elif label not in labels:
                    labels.append(label)
        if labels:
            found["peer_labels"] = labels
        for key, ours, inside, most in (
            ("bgp_local_preference", "local_preference", True, 4294967295),
            ("bgp_num_as_path_prepend", "prepend", False, 10),
        ):
            holder = shared if shared is not None and shared.peek(key) is not None else node
            place = holder.get(key)
            if place is None or place.value is None:
                continue
            number = objects.whole(holder, 0, 0, most, key)
            if bgp is not None and inside not in bgp.inside:
                self.report.lost(place, f"this is for peers of {'our own' if inside else 'another'} AS; there is none")
            elif number:
                found[ours] = number
        return found

    def _ports(self, node: Json, name: str) -> dict[tuple[_Profile, _Pool], list[Value]] | None:
        """The ports of a virtual service by profile and pool; None: it is nothing for layer 4, which is told."""
        objects = self.objects
        default = self._profile_at(node, "network_profile_ref")
        entries = node.get("services")
        found: dict[tuple[_Profile, _Pool], list[Value]] = {}
        listed = entries.items if entries is not None else []
        profiles = [self._profile_at(entry, "override_network_profile_ref") or default for entry in listed]
        if listed and not any(profiles):
            self.report.lost(
                node,
                f"virtual service {name} is a proxy: connections end at Avi, and here at the members",
                "keep it behind a virtual service of ours as a second tier, or give it a fast path profile",
            )
            return None
        pool = self._pool_of(node, name)
        selected = self._selected(node, name)
        if entries is not None and not entries.parts:
            entries.use()
        for entry, profile in zip(listed, profiles, strict=True):
            ports = self._port(entry)
            if profile is None:
                self.report.lost(entry, "these ports are on a profile of a proxy", "see network_profile")
            elif ports is not None:
                objects.tell_rest(entry, _UNUSED_PORT)
                for first, last, chosen in _split(ports, profile.protocol, pool, selected):
                    spec = _spec(first, last)
                    if chosen is not None:
                        found.setdefault((profile, chosen), []).append(spec)
                    else:
                        message = f"virtual service {name} has no pool for its ports {spec}"
                        self.report.lost(entry, message, "write a [[pool]]")
        self._tell_selected(selected)
        return found

    def _port(self, entry: Json) -> tuple[int, int] | None:
        """The first and the last port."""
        objects = self.objects
        first = objects.whole(entry, 0, 0, 65535, "port")
        last = objects.whole(entry, 0, 0, 65535, "port_range_end") or first
        if last < first:
            objects.bad(entry, f"the range {first}-{last} ends before it begins", "write the smaller port first")
            return None
        if first <= 1 and last in (0, 65535):
            return _EVERY_PORT
        if not first:
            objects.bad(entry, f"port 0 of a range up to {last}", "begin with port 1")
            return None
        return first, last

    def _selected(self, node: Json, name: str) -> list[_Select]:
        """Which ports of the virtual service have pools of their own."""
        objects = self.objects
        found: list[_Select] = []
        selects = node.get("service_pool_select")
        for select in selects.items if selects is not None else ():
            first = objects.whole(select, 0, 1, 65535, "service_port")
            last = objects.whole(select, 0, 0, 65535, "service_port_range_end") or first
            written = objects.text(select, "service_protocol")
            protocol = _PROTOCOLS.get(written or "", "")
            if written is not None and not protocol:
                self.report.left_out(select, f"{written} is not balanced", "use TCP or UDP")
                continue
            if not first or last < first:
                objects.bad(select, f"{first}-{last} are no ports", "write service_port, and no smaller end")
                continue
            pool = self._pool_of(select, name, "service_pool_ref", "service_pool_group_ref")
            found.append(_Select(select, first, last, protocol, pool))
            objects.tell_rest(select, {})
        if selects is not None and not selects.parts:
            selects.use()
        return found

    def _tell_selected(self, selects: Sequence[_Select]) -> None:
        """Tell which of them choose no pool, or not for all of their ports."""
        for select in selects:
            taken = _joined(sorted(select.taken))
            if not taken:
                self.report.about(
                    Grade.LOST,
                    select.node,
                    f"no port goes by it: the virtual service has no port {_spec(select.first, select.last)} that is "
                    "imported, or another one of service_pool_select has it",
                    "add the port, or leave it out",
                )
            elif taken != [(select.first, select.last)]:
                ports = ", ".join(str(_spec(*each)) for each in taken)
                self.report.about(
                    Grade.CHANGED,
                    select.node,
                    f"only {ports} of {_spec(select.first, select.last)} go by it: the virtual service has no others "
                    "that are imported, or another one of service_pool_select has them",
                )

    # -----------------------------------------------------------------------------------------------------------------
    # Profiles

    def _profile_at(self, node: Json, key: str) -> _Profile | None:
        """The profile that a key refers to; None: there is no such key, or it is that of a proxy."""
        reference, profile = self.objects.ref_at("NetworkProfile", node, key)
        if profile is not None:
            if profile.order not in self.profiles:
                self.profiles[profile.order] = self._profile(profile)
            return self.profiles[profile.order]
        protocol = _FAST_PATHS.get(name_of(reference))
        if reference is None or protocol is None:
            if reference is not None and not name_of(reference).startswith("System-"):
                self.report.lost(reference, "no such object is in the export", "write a [[network_profile]]")
            return None
        reference.use()
        settings: dict[str, Value] = {"type": f"{protocol}_fast_path"}
        if name_of(reference).endswith("Per-Pkt"):
            settings["per_packet"] = True
        name = self.draft.profile(name_of(reference), settings, f"From {reference.place}.")
        return _Profile(name, protocol, dsr=False)

    def _profile(self, node: Json) -> _Profile | None:
        objects = self.objects
        name = objects.text(node, "name") or ""
        inner = node.get("profile")
        kind = str(inner.peek("type") or "") if inner is not None else ""
        protocol = {"PROTOCOL_TYPE_TCP_FAST_PATH": "tcp", "PROTOCOL_TYPE_UDP_FAST_PATH": "udp"}.get(kind)
        if inner is None or protocol is None:
            self.report.lost(node, f"network profile {name} is of a proxy ({kind or 'no type'})", "use a fast path")
            return None
        objects.text(inner, "type")
        settings: dict[str, Value] = {"type": f"{protocol}_fast_path"}
        path = inner.get(f"{protocol}_fast_path_profile")
        dsr = path.get("dsr_profile") if path is not None else None
        delivery = self._dsr(dsr) if dsr is not None and dsr.value is not None else None
        if path is not None:
            self._fast_path(path, protocol, settings)
        if delivery is not None:
            settings["dsr"] = delivery
        objects.tell_rest(inner, {})
        objects.tell_rest(node, _UNUSED_PROFILE)
        called = self.draft.profile(name, settings, f"From {node.place}: {name}")
        return _Profile(called, protocol, delivery is not None)

    def _fast_path(self, path: Json, protocol: str, settings: dict[str, Value]) -> None:
        objects = self.objects
        if not path.parts:
            path.use()
        first, last, default = (0, 14400, 300) if protocol == "tcp" else (2, 3600, 10)
        timeout = objects.whole(path, default, first, last, "session_idle_timeout")
        if protocol == "tcp" and 0 < timeout < 5:
            objects.bad(path.keys["session_idle_timeout"], f"{timeout} is too short", "use 5..14400, or 0")
        settings["session_idle_timeout"] = timeout
        if protocol == "udp" and objects.flag(path, False, "per_pkt_loadbalance"):
            settings["per_packet"] = True
        objects.tell_rest(path, _UNUSED_FAST_PATH)

    def _dsr(self, node: Json) -> dict[str, Value]:
        objects = self.objects
        if not node.parts:
            node.use()
        kind = objects.word(node, values.dsr_type, "dsr_type")
        if kind is not None and kind.value == "l2":
            if (tunnel := node.get("dsr_encap_type")) is not None:
                self.report.ignored(tunnel, "L2 DSR has no encapsulation")
            return {"type": "l2"}
        tunnel_kind = objects.word(node, values.encapsulation, "dsr_encap_type")
        return {"type": "l3", "encapsulation": tunnel_kind.value if tunnel_kind is not None else "ipip"}

    # -----------------------------------------------------------------------------------------------------------------
    # Pools

    def _pool_of(
        self, node: Json, service: str, key: str = "pool_ref", group_key: str = "pool_group_ref"
    ) -> _Pool | None:
        reference, pool = self.objects.ref_at("Pool", node, key)
        if pool is None and reference is not None and reference.value is not None:
            self.report.lost(reference, "no such object is in the export", "write a [[pool]]")
        group_reference, group = self.objects.ref_at("PoolGroup", node, group_key)
        if group is not None and pool is None:
            pool = self._best_of(group)
        elif group_reference is not None and group_reference.value is not None:
            self.report.lost(group_reference, "no such object is in the export", "write a [[pool]]")
        if pool is None:
            return None
        if pool.order not in self.pools:
            self.pools[pool.order] = self._pool(pool, service)
        return self.pools[pool.order]

    def _best_of(self, group: Json) -> Json | None:
        """The pool of a group that comes first: there are no groups here."""
        objects = self.objects
        name = objects.text(group, "name") or ""
        members = group.get("members")
        found: list[tuple[int, int, Json, Json]] = []
        for member in members.items if members is not None else ():
            priority = objects.text(member, "priority_label") or "0"
            ratio = objects.whole(member, 1, 0, 1000, "ratio")
            _, pool = objects.ref_at("Pool", member, "pool_ref")
            if pool is not None:
                rank = int(priority[:9]) if priority[:9].isascii() and priority[:9].isdigit() else 0
                found.append((rank, ratio, pool, member))
            objects.tell_rest(member, {"deployment_state": (NOTHING, "pools have no such states", "")})
        found.sort(key=lambda each: each[:2], reverse=True)
        for rank, ratio, _, member in found[1:]:
            self.report.lost(
                member,
                f"a virtual service has one pool, and of the pool group {name} that with priority {found[0][0]} and "
                f"ratio {found[0][1]} is used, not this with priority {rank} and ratio {ratio}",
                "put the members of both into one pool, with ratios",
            )
        objects.tell_rest(group, {"min_servers": (0, "see min_members", ""), "description": (NOTHING, "none here", "")})
        return found[0][2] if found else None

    def _pool(self, node: Json, service: str) -> _Pool | None:
        objects = self.objects
        name = objects.text(node, "name") or service
        members = self._members(node, name)
        enabled = objects.flag(node, True, "enabled")
        if not enabled:
            self.report.changed(node.keys["enabled"], "virtual services of a pool that is not enabled are not, either")
        settings = self._algorithm(node)
        monitors = self._monitors(node)
        if monitors:
            settings["health_monitors"] = list(monitors)
        if (enough := objects.whole(node, 0, 0, 50, "min_health_monitors_up")) > 0:
            if enough > len(monitors):
                self.report.changed(node.keys["min_health_monitors_up"], f"the pool has {len(monitors)}: all of them")
            else:
                settings["min_monitors_up"] = enough
        self._times(node, settings)
        wanted = objects.whole(node, 0, 0, 65535, "min_servers_up")
        port = objects.whole(node, 80, 1, 65535, "default_server_port")
        if (action := node.get("fail_action", "type")) is not None and action.value == "FAIL_ACTION_CLOSE_CONN":
            self.report.ignored(action, "without members packets are dropped, and the VIP is withdrawn")
        if wanted > len(members) > 0:
            self.report.changed(
                node.keys["min_servers_up"], f"the pool has {len(members)} members: min_members is that"
            )
        objects.tell_rest(node, _UNUSED_POOL)
        if not members:
            if not objects.problems:
                self.report.lost(node, f"pool {name} has no server that could be imported", "write a [[pool.member]]")
            return None
        comment = f"From {node.place}: {name}"
        called = self.draft.pool(name, settings, members, [comment])
        self._named(node, name, called)
        return _Pool(called, enabled, min(wanted, len(members)), node, port)

    def _algorithm(self, node: Json) -> dict[str, Value]:
        objects = self.objects
        reference = node.get("lb_algorithm")
        if reference is None:
            found: Algorithm | None = Algorithm.LEAST_CONNECTIONS
        else:
            found = objects.word(node, values.algorithm, "lb_algorithm")
            for word in ("FEWEST_TASKS", "CORE_AFFINITY"):
                if found is not None and str(reference.value).endswith(word):
                    self.report.changed(reference, f"imported as {found.value}")
        found = found or Algorithm.CONSISTENT_HASH
        hash_node = node.get("lb_algorithm_hash")
        by = None
        if found is Algorithm.CONSISTENT_HASH:
            by = objects.word(node, values.hash_mode, "lb_algorithm_hash")
        elif hash_node is not None:
            self.report.ignored(hash_node, f"{found.value} hashes nothing")
        persistence = node.get("application_persistence_profile_ref")
        if persistence is not None and persistence.value is not None:
            if self._keeps_clients(persistence):
                self.report.changed(
                    persistence, "clients stay with their member by consistent_hash of their address; no time-out"
                )
                return {"algorithm": "consistent_hash", "hash": "source_ip"}
            what = self.objects.ref("ApplicationPersistenceProfile", persistence) or persistence
            self.report.lost(what, "of persistence there is only that by the client's address", "see hash")
        if found is Algorithm.CONSISTENT_HASH:
            return {"algorithm": found.value, "hash": by.value if by is not None else "source_ip"}
        return {"algorithm": found.value}

    def _keeps_clients(self, reference: Json) -> bool:
        """Whether a persistence profile goes by the client's address."""
        profile = self.objects.ref("ApplicationPersistenceProfile", reference)
        if profile is None:
            return name_of(reference) in _BY_ADDRESS
        if profile.peek("persistence_type") not in _BY_ADDRESS:
            return False
        self.objects.text(profile, "persistence_type")
        if (inner := profile.get("ip_persistence_profile")) is not None:
            self.objects.tell_rest(inner, _UNUSED_CLIENT_IP)
        self.objects.tell_rest(profile, _UNUSED_PERSISTENCE)
        return True

    def _monitors(self, node: Json) -> list[str]:
        found: list[str] = []
        references = node.get("health_monitor_refs")
        for reference in references.items if references is not None else ():
            named = self.objects.ref("HealthMonitor", reference)
            if named is None:
                self.report.lost(reference, "no such object is in the export", "write a [[health_monitor]]")
                continue
            if named.order not in self.monitors:
                self.monitors[named.order] = monitor(self.objects, self.draft, named)
            name = self.monitors[named.order]
            if name is None:
                self.report.lost(reference, "this monitor has no equivalent, so members are up without it", "")
            elif name not in found:
                found.append(name)
        if references is not None and not references.parts:
            references.use()
        return found

    def _times(self, node: Json, settings: dict[str, Value]) -> None:
        objects = self.objects
        minutes = objects.whole(node, 1, -1, 7200, "graceful_disable_timeout")
        if minutes > 0:
            settings["drain_timeout"] = minutes * 60
        elif minutes == 0:
            self.report.changed(
                node.keys["graceful_disable_timeout"], "flows of a disabled member are cut after a second, not at once"
            )
            settings["drain_timeout"] = 1
        ramp = objects.whole(node, 10, 0, 300, "connection_ramp_duration")
        if ramp:
            settings["slow_start"] = ramp * 60

    def _members(self, node: Json, pool: str) -> list[Table]:
        objects = self.objects
        servers = node.get("servers")
        most = objects.whole(node, 0, 0, 1 << 24, "max_concurrent_connections_per_server")
        found: dict[IPAddress, Table] = {}
        names = Names()
        for server in servers.items if servers is not None else ():
            address = objects.address(server.get("ip"), values.unicast_address)
            if address is None:
                host = objects.text(server, "hostname") or "the server"
                message = f"a server of pool {pool} has no address that could be imported, and is left out"
                self.report.left_out(server, message, f"write a [[pool.member]] with the address of {host}")
                continue
            if address in found:
                self.report.left_out(
                    server,
                    f"{address} is a member already, and there is no port translation to tell two of one address apart",
                    "give the second server an address of its own",
                )
                continue
            table: dict[str, Value] = {"address": str(address)}
            hostname = objects.text(server, "hostname")
            if hostname is not None and hostname != str(address):
                table = {"name": names.take(hostname, "member"), **table}
            ratio = objects.whole(server, 1, 0, 1000, "ratio")
            if ratio != 1:
                table["ratio"] = ratio
            if not objects.flag(server, True, "enabled"):
                table["enabled"] = False
            if most:
                table["max_connections"] = most
            found[address] = Table("pool.member", table, [f"From {server.place}."])
            objects.tell_rest(server, _UNUSED_SERVER)
        if servers is not None and not servers.parts:
            servers.use()
        members = list(found.values())
        self._somebody_gets_something(node, members)
        return members

    def _somebody_gets_something(self, node: Json, members: Sequence[Table]) -> None:
        """A pool in which nobody has a share is refused."""
        if members and all(member.values.get("ratio") == 0 for member in members):
            self.report.about(Grade.CHANGED, node, "all ratios are 0: they are 1, and the members not enabled")
            for member in members:
                del member.values["ratio"]
                member.values["enabled"] = False


def _spec(first: int, last: int) -> Value:
    if (first, last) == _EVERY_PORT:
        return "*"
    return first if first == last else f"{first}-{last}"


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted ranges, those made one that touch or overlap."""
    found: list[tuple[int, int]] = []
    for first, last in ranges:
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


def _split(
    ports: tuple[int, int], protocol: str, pool: _Pool | None, selects: Sequence[_Select]
) -> Iterator[tuple[int, int, _Pool | None]]:
    """Cut a range of ports where its pools change, and mark what was chosen by which of *selects*.

    Of those that have a port the ones for the protocol come first, then those for every protocol, in the order of the
    input. Every port with a pool of its own stays every port, since narrower ranges win over it.
    """
    first, last = ports
    here = [each for each in selects if each.protocol in (protocol, "") and each.first <= last and each.last >= first]
    here.sort(key=lambda each: not each.protocol)
    cuts = {first} | {each.first for each in here} | {each.last + 1 for each in here}
    begins = sorted(cut for cut in cuts if first <= cut <= last)
    parts: list[tuple[int, int, _Pool | None, bool]] = []
    for begin, end in zip(begins, [*(cut - 1 for cut in begins[1:]), last], strict=True):
        select = next((each for each in here if each.first <= begin <= each.last), None)
        if select is not None:
            select.taken.add((begin, end))
        parts.append((begin, end, pool if select is None else select.pool, select is None))
    if ports == _EVERY_PORT and all(chosen is not None for *_, chosen, _ in parts):
        if any(others for *_, others in parts):
            yield first, last, pool
        parts = [part for part in parts if not part[-1]]
    merged: list[tuple[int, int, _Pool | None]] = []
    for begin, end, chosen, _ in parts:
        if merged and merged[-1][1] + 1 == begin and merged[-1][2] is chosen:
            merged[-1] = merged[-1][0], end, chosen
        else:
            merged.append((begin, end, chosen))
    yield from merged

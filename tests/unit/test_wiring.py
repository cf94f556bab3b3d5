"""What is probed, what verdicts make of a member, what needs a restart."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.config.problems import path_text
from appliance.model import (
    Algorithm,
    ApiTls,
    Bfd,
    BgpPeer,
    Config,
    Etcd,
    Fleet,
    FleetPeer,
    HashMode,
    Health,
    MonitorSpec,
    NetworkProfile,
    PortRange,
    ProfileType,
    Vantage,
)
from appliance.wiring import bfd_sessions, counting, hash_changes, health_of, learning_limit_s, needs_restart, probes
from bgp.bfd.messages import SessionSettings
from health.spec import Verdict
from tests.builders import L2, MONITOR, To, config, member, pool, service


def asked(given: Config) -> set[tuple[str, str, str, int, bool]]:
    """Monitor, kind, place, port and whether it counts, of all probes."""
    return {(p.monitor, p.kind, p.target.place, p.target.port, p.counts) for p in probes(given, To)}


def watched(*monitors: MonitorSpec, **changes: object) -> Config:
    return config(service(pool=pool(member(1), monitors=monitors), **changes))


DIRECT = replace(MONITOR, vantage=Vantage.DIRECT)


def test_every_monitor_probes_every_enabled_member():
    """At the member's own address, the port is the monitor's, else the first one of the virtual service."""
    other = replace(DIRECT, name="other", monitor_port=8080)
    given = config(service(pool=pool(member(1), member(2, enabled=False), monitors=(DIRECT, other))))
    wanted = {(probe.monitor, probe.target.id, probe.target.port) for probe in probes(given, To)}
    assert wanted == {("ping80", "web/web1", 80), ("other", "web/web1", 8080)}
    assert {probe.target.address for probe in probes(given, To)} == {ip_address("203.0.113.1")}


def test_a_probe_has_what_its_monitor_says():
    """Kind, pace, settings and quick start go from the configuration to the probe."""
    slow = replace(DIRECT, kind="tls", quick_start=False, settings=(("expiry_warning_days", 3),))
    (probe,) = probes(watched(slow), To)
    assert (probe.kind, probe.quick_start, probe.settings) == ("tls", False, (("expiry_warning_days", 3),))
    assert (probe.interval_s, probe.timeout_s) == (slow.send_interval_s, slow.receive_timeout_s)


FOUR, SIX = "198.51.100.7:{} by ipip", "[2001:db8:f::7]:{} by ipip"
VIPS = ip_address("198.51.100.7"), ip_address("2001:db8:f::7")


def test_the_path_is_asked_by_default():
    """Every VIP gets the monitor's question at the first port, and every port of the service is tried half open."""
    wanted = {("ping80", "tcp", place.format(80), 80, True) for place in (FOUR, SIX)}
    wanted |= {
        ("tcp/port", "tcp", place.format(port), port, True) for place in (FOUR, SIX) for port in (80, 443, 8000, 8099)
    }
    ports = PortRange(80, 80), PortRange(443, 443), PortRange(8000, 8099)
    given = watched(MONITOR, vips=VIPS, ports=ports)
    assert asked(given) == wanted
    ports_probed = [probe for probe in probes(given, To) if probe.monitor == "tcp/port"]
    assert {probe.settings for probe in ports_probed} == {(("half_open", True),)}
    assert {probe.target.way for probe in ports_probed} == {To(ip_address("203.0.113.1"), service().profile.delivery)}


@pytest.mark.parametrize(
    ("vantage", "monitor_port", "wanted"),
    [
        (None, 443, {("ping80", "tcp", FOUR.format(443), 443, True)}),
        (None, 8080, {("ping80", "tcp", "", 8080, True)}),
        (Vantage.PATH, 8080, {("ping80", "tcp", FOUR.format(8080), 8080, True)}),
        (Vantage.DIRECT, None, {("ping80", "tcp", "", 80, True)}),
        (Vantage.BOTH, None, {("ping80", "tcp", "", 80, False), ("ping80", "tcp", FOUR.format(80), 80, True)}),
    ],
)
def test_the_vantage_point_of_a_monitor(vantage, monitor_port, wanted):
    """A port that the service has not is no client's way; with both vantage points the path decides."""
    given = watched(
        replace(MONITOR, vantage=vantage, monitor_port=monitor_port), ports=(PortRange(80, 80), PortRange(443, 443))
    )
    found = asked(given)
    assert {probe for probe in found if probe[0] == "ping80"} == wanted
    by_path = any(probe[2] for probe in wanted)
    assert {probe[3] for probe in found if probe[0] == "tcp/port"} == ({80, 443} if by_path else set())


def test_a_port_is_not_asked_twice():
    """A half-open question of the monitor's own tells what the one for single ports would; for UDP so does any."""
    half_open = replace(MONITOR, settings=(("half_open", True),))
    assert asked(watched(half_open)) == {("ping80", "tcp", FOUR.format(80), 80, True)}
    udp = NetworkProfile("udp", ProfileType.UDP_FAST_PATH, service().profile.delivery, 10)
    dns = replace(MONITOR, kind="dns")
    ports = PortRange(53, 53), PortRange(5353, 5353)
    assert asked(watched(dns, profile=udp, ports=ports)) == {
        ("ping80", "dns", FOUR.format(53), 53, True),
        ("udp/port", "udp", FOUR.format(5353), 5353, True),
    }


def test_every_port_is_no_port_to_ask():
    """Of "*" only the monitor's own port is asked."""
    every = (PortRange(1, 65535),)
    assert asked(watched(replace(MONITOR, monitor_port=80), ports=every)) == {
        ("ping80", "tcp", FOUR.format(80), 80, True)
    }


def test_a_disabled_service_is_not_asked_for():
    """Members need not have its VIP; their own address tells of them."""
    assert asked(watched(MONITOR, enabled=False)) == {("ping80", "tcp", "", 80, True)}


def test_services_that_share_a_pool_ask_by_their_own_deliveries():
    """A member that is reached by two deliveries is asked by both, and both count."""
    shared = pool(member(1))
    l2 = NetworkProfile("l2", ProfileType.TCP_FAST_PATH, L2, 300)
    given = config(service(pool=shared), service(name="l2", pool=shared, profile=l2))
    assert {probe[2] for probe in asked(given)} == {FOUR.format(80), "198.51.100.7:80 by l2"}
    assert len(counting(probes(given, To))["web/web1"]) == 4


def test_what_explains_does_not_count():
    """With both vantage points the member's own address has no say."""
    (keys,) = counting(probes(watched(replace(MONITOR, vantage=Vantage.BOTH)), To)).values()
    assert keys == {(name, "web/web1", FOUR.format(80)) for name in ("ping80", "tcp/port")}


UP, DOWN, UNKNOWN, MAINTENANCE = Verdict.UP, Verdict.DOWN, Verdict.UNKNOWN, Verdict.MAINTENANCE


@pytest.mark.parametrize(
    ("verdicts", "health"),
    [
        ([UP], Health.UP),
        ([DOWN], Health.DOWN),
        ([UP, DOWN], Health.DOWN),
        ([UNKNOWN, DOWN], Health.DOWN),
        ([UNKNOWN], Health.UNKNOWN),
        ([UP, UNKNOWN], None),
        ([UP, MAINTENANCE], Health.MAINTENANCE),
        ([UP, MAINTENANCE, DOWN], Health.DOWN),
        ([UNKNOWN, MAINTENANCE], Health.MAINTENANCE),
    ],
)
def test_one_bad_verdict_is_enough_and_a_new_monitor_changes_nothing(verdicts, health):
    """Down beats all, then maintenance; a verdict that is missing beside others leaves the member as it was. Whether
    they are those of several monitors or of several places that one asks makes no difference."""
    assert health_of(by_monitor(verdicts)) is health
    assert health_of({("one", "web/web1", str(n)): verdict for n, verdict in enumerate(verdicts)}) is health


def by_monitor(verdicts):
    return {(f"monitor{n}", "web/web1", ""): verdict for n, verdict in enumerate(verdicts)}


@pytest.mark.parametrize(
    ("verdicts", "least", "health"),
    [
        ([UP, DOWN, DOWN], 1, Health.UP),
        ([UP, DOWN, DOWN], 2, Health.DOWN),
        ([UP, UNKNOWN, DOWN], 1, Health.UP),
        ([UP, UNKNOWN, DOWN], 2, None),
        ([DOWN, UNKNOWN], 1, None),
        ([UP, MAINTENANCE, DOWN], 1, Health.UP),
        ([UP, MAINTENANCE, DOWN], 2, Health.MAINTENANCE),
        ([UP, UP], 5, Health.UP),
    ],
)
def test_so_many_monitors_suffice(verdicts, least, health):
    """With `min_monitors_up` a member is up as soon as so many say so, and down as soon as so many cannot any more."""
    assert health_of(by_monitor(verdicts), least) is health


@pytest.mark.parametrize(("port", "health"), [(UP, Health.UP), (DOWN, Health.DOWN), (UNKNOWN, None)])
@pytest.mark.parametrize("other", [UP, DOWN])
def test_ports_must_be_open_however_few_monitors_suffice(port, other, health):
    """What asks single ports is not one of the monitors that may fail, and those that need not be content are no
    substitute for it."""
    verdicts = by_monitor([UP, other]) | {("tcp/port", "web/web1", FOUR.format(443)): port}
    assert health_of(verdicts, 1) is health


def test_learning_lasts_as_long_as_members_need_to_come_up():
    """Rise and one more interval and time-out, but never longer than the limit."""
    assert learning_limit_s(pool(), 15.0) == 4.0
    assert learning_limit_s(pool(monitors=(replace(MONITOR, send_interval_s=10.0),)), 15.0) == 15.0
    assert learning_limit_s(pool(monitors=()), 15.0) == 1.0


def test_a_reload_may_not_change_what_the_process_stands_on():
    """Interfaces, BGP and the fleet's secret take a restart; services do not."""
    old = config()
    assert list(needs_restart(old, config(service(min_members=2)))) == []
    (problem,) = needs_restart(old, replace(old, secret=b"another sixteen bytes"))
    assert problem.location == ("fleet", "secret_file")
    assert "restart" in problem.remedy
    assert "sixteen" not in str(problem)
    assert len(list(needs_restart(old, replace(old, bgp=None)))) == 1
    assert len(list(needs_restart(old, replace(old, director=replace(old.director, interfaces=("eth2",)))))) == 1


ONE, TWO, THREE = (FleetPeer(f"d{number}", ip_address(f"192.0.2.{number}")) for number in (1, 2, 3))
ETCD = Etcd(("http://192.0.2.21:2379",), "/onward/")


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (Fleet((ONE, TWO)), Fleet((ONE, TWO, THREE)), None),
        (Fleet((ONE, TWO), ETCD), Fleet((THREE, ONE), ETCD), None),
        (Fleet((ONE, TWO)), Fleet((ONE, replace(TWO, port=7118))), None),
        (Fleet((ONE, TWO)), Fleet((ONE,)), None),
        (Fleet((ONE, TWO)), Fleet((replace(ONE, port=7118), TWO)), "own entry"),
        (Fleet(), Fleet((ONE, TWO)), "own entry"),
        (Fleet((ONE, TWO)), Fleet(), "own entry"),
        (Fleet((ONE, TWO)), Fleet((ONE, TWO), ETCD), "another store"),
    ],
)
def test_other_directors_may_come_and_go(before, after, why):
    """A reload takes the others of the fleet as they are now; its own entry and the store take a restart."""
    found = list(needs_restart(replace(config(), fleet=before), replace(config(), fleet=after)))
    assert len(found) == (0 if why is None else 1)
    assert all(one.location[0] == "fleet" and why in one.message for one in found)


def test_every_key_that_takes_a_restart_is_named():
    """By its name in the files, with what it was and is to be; secrets are not repeated, and keys that are read
    whenever they are needed are not among them."""
    old = config()
    assert old.bgp is not None
    peer = replace(old.bgp.peers[0], password="hush", hold_time_s=30)  # noqa: S106
    other = replace(old.bgp.peers[0], address=ip_address("192.0.2.9"))
    api = replace(old.director.api, port=8443, tls=ApiTls("/etc/onward/api.pem"))
    live = replace(old.director, drain_on_stop_s=5, restart_grace_s=5, least_path_mtu=1280)
    assert list(needs_restart(old, replace(old, director=live))) == []
    director = replace(live, pins=64, interfaces=("eth1", "eth2"), api=api)
    new = replace(old, director=director, bgp=replace(old.bgp, local_as=65011, hold_down_s=1, peers=(other, peer)))
    found = {path_text(one.location): one.message for one in needs_restart(old, new)}
    assert found == {
        "director.interfaces": "eth1 -> eth1, eth2",
        "director.pins": "131072 -> 64",
        "api.port": f"{old.director.api.port} -> 8443",
        "api.tls_cert_file": "none -> /etc/onward/api.pem",
        "bgp.local_as": "65010 -> 65011",
        "bgp.peer[0].address": "none -> 192.0.2.9",
        "bgp.peer[1].hold_time": "9 -> 30",
        "bgp.peer[1].password": "another one",
    }
    gone = {path_text(one.location): one.message for one in needs_restart(new, old)}
    assert gone["bgp.peer"] == "192.0.2.9 -> none"
    (bgp,) = needs_restart(replace(old, bgp=None), old)
    assert (bgp.location, bgp.message) == (("bgp",), "no BGP -> BGP")


def with_bfd(given: Config, *peers: BgpPeer) -> Config:
    assert given.bgp is not None
    return replace(given, bgp=replace(given.bgp, peers=peers))


def test_a_peer_with_bfd_has_a_session():
    """Others have none, and neither has a director without BGP. Intervals become microseconds."""
    first = BgpPeer(ip_address("192.0.2.1"), 65000, 9, bfd=Bfd(0.05, 3))
    second = BgpPeer(ip_address("2001:db8:0::1"), 65000, 9, ip_address("2001:db8::b"), bfd=Bfd(0.3, 5, True, True))
    third = BgpPeer(ip_address("192.0.2.3"), 65000, 9)
    assert list(bfd_sessions(with_bfd(config(), first, second, third))) == [
        SessionSettings("192.0.2.1", 50_000, 3),
        SessionSettings("2001:db8::1", 300_000, 5, multihop=True, passive=True, local="2001:db8::b"),
    ]
    assert list(bfd_sessions(config(bgp=False))) == []


def test_bfd_can_change_by_a_reload():
    """Its timers change without a break, and BGP sessions have nothing to do with it; all else of a peer restarts."""
    peer = BgpPeer(ip_address("192.0.2.1"), 65000, 9)
    old = with_bfd(config(), peer)
    assert list(needs_restart(old, with_bfd(config(), replace(peer, bfd=Bfd(0.1, 3))))) == []
    assert len(list(needs_restart(old, with_bfd(config(), replace(peer, hold_time_s=3))))) == 1


def test_what_routes_are_made_of_can_change_by_a_reload():
    """Labels and next hops belong to routes; what a session is made of takes a restart."""
    old = config()
    assert old.bgp is not None

    def with_peer(**changes):
        return replace(old, bgp=replace(old.bgp, peers=(replace(old.bgp.peers[0], **changes),)))

    hop = ip_address("192.0.2.12")
    for changes in ({"labels": frozenset({"edge"})}, {"next_hop_v4": hop}, {"next_hop_self": True}):
        assert list(needs_restart(old, with_peer(**changes))) == []
    assert list(needs_restart(old, replace(old, bgp=replace(old.bgp, next_hop_v4=hop)))) == []
    for changes in ({"passive": True}, {"port": 1179}, {"multihop": 2}, {"ttl_security": 1}):
        assert len(list(needs_restart(old, with_peer(**changes)))) == 1


def test_what_another_hash_costs_is_known_before() -> None:
    """Flows that stay where they are do so by chance; services whose flows are remembered, or that have the same hash
    as before, are not named."""
    members = (member(1, ratio=2), member(2), member(3), member(4, enabled=False))
    there = pool(*members)
    other = replace(there, hash_mode=HashMode.SOURCE_IP)
    (change,) = hash_changes(config(service(pool=there)), config(service(pool=other), service(name="new", pool=other)))
    assert (change.service, change.before, change.after) == ("web", HashMode.FIVE_TUPLE, HashMode.SOURCE_IP)
    assert change.share == 1 - (4 + 1 + 1) / 16
    assert str(change).startswith("web: hash five_tuple -> source_ip sends 62% of its flows to other members")
    assert not list(hash_changes(config(service(pool=there)), config(service(pool=there))))
    turns = replace(there, algorithm=Algorithm.ROUND_ROBIN)
    assert not list(hash_changes(config(service(pool=turns)), config(service(pool=other))))

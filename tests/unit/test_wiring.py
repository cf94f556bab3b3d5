"""What is probed, what verdicts make of a member, what needs a restart."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.model import Bfd, BgpPeer, Config, Etcd, Fleet, FleetPeer, Health
from appliance.wiring import bfd_sessions, health_of, learning_limit_s, needs_restart, probes
from bgp.bfd.messages import SessionSettings
from health.spec import Verdict
from tests.builders import MONITOR, config, member, pool, service


def test_every_monitor_probes_every_enabled_member():
    """The port is the monitor's own, else the first one of the virtual service."""
    other = replace(MONITOR, name="other", monitor_port=8080)
    given = config(service(pool=pool(member(1), member(2, enabled=False), monitors=(MONITOR, other))))
    wanted = {(probe.monitor, probe.target.id, probe.target.port) for probe in probes(given)}
    assert wanted == {("ping80", "web/web1", 80), ("other", "web/web1", 8080)}


def test_a_probe_has_what_its_monitor_says():
    """Kind, pace, settings and quick start go from the configuration to the probe."""
    slow = replace(MONITOR, kind="tls", quick_start=False, settings=(("expiry_warning_days", 3),))
    (probe,) = probes(config(service(pool=pool(member(1), monitors=(slow,)))))
    assert (probe.kind, probe.quick_start, probe.settings) == ("tls", False, (("expiry_warning_days", 3),))
    assert (probe.interval_s, probe.timeout_s) == (slow.send_interval_s, slow.receive_timeout_s)


UP, DOWN, UNKNOWN = Verdict.UP, Verdict.DOWN, Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("verdicts", "health"),
    [
        ({UP}, Health.UP),
        ({DOWN}, Health.DOWN),
        ({UP, DOWN}, Health.DOWN),
        ({UNKNOWN, DOWN}, Health.DOWN),
        ({UNKNOWN}, Health.UNKNOWN),
        ({UP, UNKNOWN}, None),
    ],
)
def test_one_bad_verdict_is_enough_and_a_new_monitor_changes_nothing(verdicts, health):
    """Down beats all; a verdict that is missing beside others leaves the member as it was."""
    assert health_of(verdicts) is health


def test_learning_lasts_as_long_as_members_need_to_come_up():
    """Rise and one more interval and time-out, but never longer than the limit."""
    assert learning_limit_s(pool(), 15.0) == 4.0
    assert learning_limit_s(pool(monitors=(replace(MONITOR, send_interval_s=10.0),)), 15.0) == 15.0
    assert learning_limit_s(pool(monitors=()), 15.0) == 1.0


def test_a_reload_may_not_change_what_the_process_stands_on():
    """Interfaces, BGP and the fleet's secret take a restart; services do not."""
    old = config()
    assert list(needs_restart(old, config(service(min_members=2)))) == []
    (sentence,) = needs_restart(old, replace(old, secret=b"another sixteen bytes"))
    assert "[fleet] changed" in sentence
    assert "restart" in sentence
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
    sentences = list(needs_restart(replace(config(), fleet=before), replace(config(), fleet=after)))
    assert len(sentences) == (0 if why is None else 1)
    assert all("[fleet] changed" in sentence and why in sentence for sentence in sentences)


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

"""What is seen of a machine becomes points: pass, fail or unknown, with evidence and a fix."""

import json
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from appliance.model import Decapsulator, Protocol
from appliance.server.plan import Plan
from appliance.server.points import POINTS, Decapsulating, Link, Listener, Point, Seen, Verdict, WayBack, healthy, judge
from tests.unit.server.plans import SOURCES, plan

VIP = ip_address("198.51.100.8")
SET = {
    "nftables": [
        {"set": {"family": "inet", "name": "directors4", "elem": [{"prefix": {"addr": "203.0.113.0", "len": 29}}]}},
        {
            "rule": {
                "chain": "outside",
                "expr": [
                    {
                        "match": {
                            "op": "!=",
                            "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                            "right": "@directors4",
                        }
                    },
                    {"counter": {}},
                    {"drop": None},
                ],
            }
        },
        {
            "rule": {
                "chain": "replies",
                "expr": [
                    {
                        "match": {
                            "op": "==",
                            "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                            "right": "198.51.100.8",
                        }
                    },
                    {"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": 1440}},
                ],
            }
        },
    ]
}
"""As `nft -j list table` prints our rules."""

TUNNEL = Link(True, 1480, frozenset({"127.0.0.42/32"}), "ipip", "203.0.113.2")
GOOD = Seen(
    links={
        "lo": Link(True, 65536, frozenset({"127.0.0.1/8", "198.51.100.8/32"})),
        "eth0": Link(True, 1500, frozenset({"203.0.113.2/29"})),
        "onward-ipip": TUNNEL,
    },
    sysctls={
        "net.ipv4.conf.all.arp_ignore": "1",
        "net.ipv4.conf.eth0.arp_ignore": "0",
        "net.ipv4.conf.all.arp_announce": "2",
        "net.ipv4.conf.eth0.arp_announce": "0",
        "net.ipv4.conf.all.rp_filter": "1",
        "net.ipv4.conf.onward-ipip.rp_filter": "2",
        "net.ipv4.ip_forward": "0",
    },
    listeners=(Listener(Protocol.TCP, None, 443),),
    rules=SET,
    ways={VIP: WayBack("eth0", None)},
)


def sysctl(key: str, value: str) -> dict[str, Any]:
    return {"sysctls": {**GOOD.sysctls, f"net.ipv4.conf.{key}": value}}


def link(name: str, **changes: Any) -> dict[str, Any]:
    return {"links": {**GOOD.links, name: replace(GOOD.links[name], **changes)}}


def judged(seen: Seen, made: Plan | None = None) -> tuple[Point, ...]:
    return judge(made or plan("ipip"), seen)


def test_a_good_machine_is_green() -> None:
    """Every kind of point is there, and all pass."""
    points = judged(GOOD)
    assert {point.verdict for point in points} == {Verdict.PASS}
    assert {point.name for point in points} == set(POINTS) - {"arp"} | {"arp_ignore", "arp_announce"}
    assert healthy(points)


@pytest.mark.parametrize(
    ("changes", "name", "verdict", "evidence", "fix"),
    [
        (link("eth0", up=False), "interface", "fail", "eth0 is down", "ip link set eth0 up"),
        (
            {"links": {name: one for name, one in GOOD.links.items() if name != "eth0"}},
            "interface",
            "fail",
            "there is no eth0 here",
            "the one that has 203.0.113.2",
        ),
        (
            {
                "links": {
                    **GOOD.links,
                    "lo": replace(GOOD.links["lo"], addresses=frozenset()),
                    "ens9": Link(True, 1500, frozenset({"198.51.100.8/32"})),
                }
            },
            "vip",
            "fail",
            "ens9 has it, where ARP is answered for it",
            "ip address del 198.51.100.8/32 dev ens9",
        ),
        (link("lo", addresses=frozenset()), "vip", "fail", "no interface has it", "ip address replace 198.51.100.8/32"),
        (
            link("eth0", addresses=frozenset({"203.0.113.2/29", "198.51.100.8/32"})),
            "vip",
            "fail",
            "eth0 has it, where ARP is answered",
            "ip address del 198.51.100.8/32 dev eth0; ip address replace",
        ),
        (
            link("lo", addresses=frozenset({"198.51.100.8/24"})),
            "vip",
            "fail",
            "lo has it as 198.51.100.8/24",
            "ip address",
        ),
        (link("lo", troubled=frozenset({"198.51.100.8"})), "vip", "fail", "may be, a duplicate", "ip address replace"),
        (
            sysctl("all.arp_ignore", "0"),
            "arp_ignore",
            "fail",
            "all.arp_ignore = 0",
            "sysctl -w net.ipv4.conf.all.arp_ignore=1",
        ),
        (sysctl("all.arp_announce", "1"), "arp_announce", "fail", "= 1", "arp_announce=2"),
        (
            {"links": {name: GOOD.links[name] for name in ("lo", "eth0")}},
            "tunnel",
            "fail",
            "no device",
            "modprobe ipip; ip link add",
        ),
        (link("onward-ipip", up=False), "tunnel", "fail", "is down", "ip link set onward-ipip up"),
        (sysctl("onward-ipip.rp_filter", "1"), "rp_filter", "fail", "strict", "rp_filter=2"),
        (link("onward-ipip", addresses=frozenset()), "rp_filter", "fail", "loose, which drops", "127.0.0.42/32"),
        (
            {"rules": None, "ways": {VIP: WayBack("eth0", 1440)}},
            "firewall",
            "fail",
            "taken from anybody",
            "load the firewall rules",
        ),
        (
            {"ways": {VIP: WayBack(why_not="Network is unreachable")}},
            "route_back",
            "fail",
            "no way",
            "ip route add default",
        ),
        ({"ways": {VIP: WayBack("onward-ipip")}}, "route_back", "fail", "leave by the tunnel", "ip route del default"),
        (
            {"sysctls": {**GOOD.sysctls, "net.ipv4.ip_forward": "1"}},
            "forwarding",
            "unknown",
            "would be sent back",
            "sysctl",
        ),
        ({"listeners": ()}, "listening", "fail", "nobody listens", "let the server listen at 198.51.100.8 port 443"),
        (
            {"listeners": (Listener(Protocol.TCP, ip_address("203.0.113.2"), 443),)},
            "listening",
            "fail",
            "only at 203.0.113.2",
            "let the server listen",
        ),
        ({"listeners": (), "unseen": {"listeners": "ss is missing"}}, "listening", "unknown", "ss is missing", ""),
    ],
)
def test_each_fault_fails_its_point(changes: dict[str, Any], name: str, verdict: str, evidence: str, fix: str) -> None:
    """One thing is wrong: its point says so with evidence and a fix, and no other point fails."""
    points = judged(replace(GOOD, **changes))
    (found,) = [point for point in points if point.name == name]
    assert found.verdict == verdict
    assert evidence in found.evidence
    assert fix in found.fix
    assert {point.name for point in points if point.verdict is Verdict.FAIL} <= {name}


def test_mss_by_route_or_rule() -> None:
    """A route or our rule makes it small enough; without both the link's own counts, which is too much."""
    without = json.loads(json.dumps(SET))
    without["nftables"].pop()
    by_route = replace(GOOD, rules=without, ways={VIP: WayBack("eth0", 1440)})
    assert {point.verdict for point in judged(by_route) if point.name == "mss"} == {Verdict.PASS}
    neither = replace(GOOD, rules=without)
    (failed,) = [point for point in judged(neither) if point.name == "mss"]
    assert failed.verdict is Verdict.FAIL
    assert "the link would say 1460; 1440 fits the tunnel" in failed.evidence
    assert "lookup 7700" in failed.fix


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ([{"prefix": {"addr": "203.0.113.0", "len": 24}}], "203.0.113.0/24 is more than directors"),
        (["203.0.113.1"], "let in: 203.0.113.1/32; not 203.0.113.0/29"),
        ([], "let in: nobody; not 203.0.113.0/29"),
    ],
)
def test_who_is_let_in(elements: list[Any], said: str) -> None:
    """The set of directors has exactly those that it should have."""
    rules = json.loads(json.dumps(SET))
    rules["nftables"][0]["set"]["elem"] = elements
    (failed,) = [point for point in judged(replace(GOOD, rules=rules)) if point.name == "firewall"]
    assert failed.verdict is Verdict.FAIL
    assert said in failed.evidence


def test_our_own_decapsulator() -> None:
    """It has to run on the interface, know every VIP, and let in directors only."""
    own = plan("ipip", decapsulator=Decapsulator.ONWARD)
    running = Decapsulating(
        "eth0", frozenset({"203.0.113.0/29"}), frozenset({"198.51.100.8"}), frozenset({"203.0.113.2"})
    )
    good = replace(GOOD, links={name: GOOD.links[name] for name in ("lo", "eth0")}, decap=(running,))
    assert {point.verdict for point in judged(good, own)} == {Verdict.PASS}
    for changes, name in (
        ({"decap": ()}, "tunnel"),
        ({"decap": (replace(running, vips=frozenset()),)}, "tunnel"),
        ({"decap": (replace(running, sources=frozenset({"0.0.0.0/0"})),)}, "firewall"),
    ):
        failed = [point for point in judged(replace(good, **changes), own) if point.verdict is Verdict.FAIL]
        assert [point.name for point in failed] == [name]


def test_udp_on_every_address_is_not_certain() -> None:
    """A wildcard UDP socket may answer from another address than the one that was asked: that cannot be seen."""
    made = plan("all")
    (point,) = [
        one
        for one in judge(made, replace(GOOD, listeners=(Listener(Protocol.UDP, None, 443),)))
        if one.subject == "198.51.100.16 udp 443"
    ]
    assert point.verdict is Verdict.UNKNOWN
    assert "IP_PKTINFO" in point.fix


def test_a_tunnel_has_to_open_what_comes() -> None:
    """The device that ip6_tunnel brings along opens IPv6 in IPv6 only, which is not enough for an IPv4 VIP."""
    made = plan("mixed", sources=SOURCES)
    for mode, verdict in (("ip6ip6", Verdict.FAIL), ("any", Verdict.PASS)):
        there = Link(True, 1452, frozenset({"127.0.0.42/32"}), "ip6tnl", "2001:db8:2::2", mode=mode)
        seen = replace(GOOD, links={**GOOD.links, "ip6tnl0": there})
        (point,) = [one for one in judge(made, seen) if one.name == "tunnel" and one.subject == "ip6tnl0"]
        assert point.verdict is verdict
        assert ("mode any" in point.fix) is (verdict is Verdict.FAIL)

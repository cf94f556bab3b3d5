"""What a member needs follows from the configuration."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from appliance.model import Decapsulator, FleetPeer, OuterSource
from appliance.server.firewall import ruleset
from appliance.server.plan import Kind, Plan, PlanError, Tunnel, plan_of
from tests.unit.server.plans import HEAD, SERVICES, config, plan

R4, R6 = ip_address("203.0.113.2"), ip_address("2001:db8:2::2")


@pytest.mark.parametrize(
    ("service", "tunnels", "protocols"),
    [
        ("l2", [], {}),
        ("ipip", [Tunnel(Kind.IPIP, R4, (4,))], {4: (4,)}),
        ("sit", [Tunnel(Kind.SIT, R4, (6,))], {4: (41,)}),
        ("ip6ip6", [Tunnel(Kind.IP6TNL, R6, (6,))], {6: (41,)}),
        ("ipip6", [Tunnel(Kind.IP6TNL, R6, (4,))], {6: (4,)}),
        ("any6", [Tunnel(Kind.IP6TNL, R6, (4, 6))], {6: (4, 41)}),
        ("gre", [Tunnel(Kind.GRE, R4, (4, 6))], {4: (47,)}),
        ("gre6", [Tunnel(Kind.IP6GRE, R6, (4, 6))], {6: (47,)}),
        ("gue", [Tunnel(Kind.IPIP, R4, (4,)), Tunnel(Kind.SIT, R4, (6,))], {4: (17,)}),
        ("gue6", [Tunnel(Kind.IP6TNL, R6, (4, 6))], {6: (17,)}),
    ],
)
def test_each_delivery_has_its_tunnels(
    service: str, tunnels: list[Tunnel], protocols: dict[int, tuple[int, ...]]
) -> None:
    """Devices by outer and inner family, and the protocols that the firewall has to know."""
    made = plan_of(config(), "m1", services=[service], sources=[ip_network("::/0"), ip_network("0.0.0.0/0")])
    assert list(made.tunnels) == tunnels
    assert dict(made.protocols) == protocols
    assert made.gue == ((4 if service == "gue" else 6,) if service.startswith("gue") else ())


def test_mode_of_ip6tnl() -> None:
    """One device for both families inside, since the kernel has room for one."""
    assert [Tunnel(Kind.IP6TNL, R6, inner).mode for inner in ((4,), (6,), (4, 6))] == ["ipip6", "ip6ip6", "any"]
    assert Tunnel(Kind.IPIP, R4, (4,)).mode == ""


def test_mss_is_that_of_the_largest_overhead() -> None:
    """1500 bytes less both headers and what stands between; a VIP with two deliveries gets the smaller one."""
    assert {str(vip): size for vip, size in plan("all").mss.items()} == {
        "198.51.100.8": 1440,
        "2001:db8:f::9": 1420,
        "2001:db8:f::10": 1400,
        "198.51.100.11": 1420,
        "198.51.100.12": 1420,
        "2001:db8:f::12": 1400,
        "198.51.100.13": 1436,
        "2001:db8:f::13": 1416,
        "198.51.100.14": 1416,
        "2001:db8:f::14": 1396,
        "198.51.100.15": 1428,
        "2001:db8:f::15": 1408,
    }
    assert plan("ipip", mtu=9000).mss == {ip_address("198.51.100.8"): 8940}


def test_all_services_of_a_member_by_default() -> None:
    """Without --service, a name, POOL/NAME or address stands for all that the member carries."""
    everything = plan_of(config(), "m1", sources=[ip_network("::/0"), ip_network("0.0.0.0/0")])
    assert [service.name for service in everything.services] == list(SERVICES)
    assert everything.addresses == (R4, R6)
    for name in ("p4/m1", "203.0.113.2"):
        four = plan_of(config(), name, sources=[ip_network("0.0.0.0/0")])
        assert [service.name for service in four.services] == [name for name, one in SERVICES.items() if one[1] == 4]


def test_directors_of_the_fleet_are_the_sources() -> None:
    """[[fleet.director]] says who may send, where --from does not."""
    assert plan("ipip", sources=()).sources == (ip_network("203.0.113.1"), ip_network("203.0.113.3"))
    assert plan("l2", sources=()).sources == ()


def test_prefixes_of_outer_sources_may_send() -> None:
    """Outer headers that come from the director's prefix are let in, and its address where other services need it;
    prefixes of other directors are not known, and have to be given."""
    alone = config().fleet.directors[:1]
    prefixes = ip_network("198.51.100.64/26"), ip_network("2001:db8:d::/64")

    def of(directors: tuple[FleetPeer, ...], *spread: str, services: Sequence[str], **more: Any) -> Plan:
        given = config()
        made = tuple(
            replace(
                one,
                profile=replace(one.profile, delivery=replace(one.profile.delivery, outer_source=OuterSource.PREFIX)),
            )
            if one.name in spread
            else one
            for one in given.services
        )
        director = replace(given.director, outer_source_prefixes=prefixes)
        given = replace(given, director=director, services=made, fleet=replace(given.fleet, directors=directors))
        return plan_of(given, "m1", services=services, **more)

    assert of(alone, "gre", services=["gre"]).sources == prefixes[:1]
    assert of((), "gre6", services=["gre6"]).sources == prefixes[1:]
    assert of(alone, "gre", services=["gre", "ipip"]).sources == (ip_network("203.0.113.1"), *prefixes[:1])
    assert of(alone, "gre", services=["ipip"]).sources == (ip_network("203.0.113.1"),)
    with pytest.raises(PlanError, match=r"that of d2 is not known here; give --from PREFIX for each director"):
        of(config().fleet.directors, "gre", services=["gre"])
    every = of(config().fleet.directors, "gre", services=["gre"], sources=[ip_network("198.51.100.0/24")])
    assert every.sources == (ip_network("198.51.100.0/24"),)
    words = of(alone, "gre", services=["gre"], decapsulator=Decapsulator.ONWARD).decap_arguments()
    assert " ".join(words).startswith("--interface eth0 --from 198.51.100.64/26 --vip")


def test_what_cannot_be_planned_is_told() -> None:
    """Unknown names with what there is, an unknown source with the remedy, one name for several machines."""
    with pytest.raises(PlanError, match=r"no virtual service is named ipp; did you mean `\w+`\? there are: l2, ipip"):
        plan_of(config(), "m1", services=["ipp"])
    with pytest.raises(PlanError, match=r"no member m3 of these services; .*there are: p4/m1, p4/m2"):
        plan_of(config(), "m3", services=["ipip"])
    with pytest.raises(
        PlanError, match=r"from which IPv6 addresses directors send to 2001:db8:2::2; give --from PREFIX"
    ):
        plan("ip6ip6", sources=())
    two = HEAD + '[[pool]]\nname = "other"\n[[pool.member]]\nname = "m1"\naddress = "203.0.113.9"\n'
    two += '[[network_profile]]\nname = "t"\ntype = "tcp_fast_path"\ndsr = { type = "l2" }\n[[virtual_service]]\n'
    two += 'name = "other"\nvips = ["198.51.100.99"]\nports = [80]\nnetwork_profile = "t"\npool = "other"\n'
    with pytest.raises(PlanError, match=r"m1 is several machines \(203.0.113.2, 203.0.113.9\); name it by address"):
        plan_of(config(two), "m1")


def test_our_own_decapsulator_takes_the_place_of_devices() -> None:
    """No device and no fou, but its arguments: directors, VIPs and own addresses."""
    own = plan("mixed", decapsulator=Decapsulator.ONWARD, interface="eth1")
    assert (own.tunnels, own.gue, own.tunnel_sysctls()) == ((), (), ())
    words = " ".join(own.decap_arguments())
    assert words.startswith("--interface eth1 --from 203.0.113.0/29 --from 2001:db8:2::1/128 --vip 198.51.100.8")
    assert words.endswith("--address 203.0.113.2 --address 2001:db8:2::2")


def test_nobody_gets_in_beside_gue() -> None:
    """The devices behind GUE would take bare IP in IP as well: the firewall keeps both to directors."""
    assert plan("gue").guarded == {4: (4, 17, 41)}
    rules = ruleset(plan("gue"), mss=False)
    assert "meta l4proto { 4, 41 } ip saddr != @directors4 counter drop" in rules
    assert "udp dport 6080 ip saddr != @directors4 counter drop" in rules
    assert plan("gue", decapsulator=Decapsulator.ONWARD).guarded == {4: (17,)}

"""What of a configuration does not fit a machine."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from appliance.cli.host import Host, Link, about_host, link_mtu, this_host, why_no_way
from appliance.cli.root import call
from appliance.model import BgpPeer, Config, Fleet, FleetPeer, IPAddress, PlaneKind, Vantage
from tests.builders import L2, config, member, pool, service

FINE = Host(
    links={"lo": Link(65536, True), "eth1": Link(1500, True)},
    interfaces=tuple(map(ip_interface, ("127.0.0.1/8", "192.0.2.11/24", "203.0.113.11/24", "2001:db8:1::11/64"))),
    release="6.1.0-13-amd64",
    tun=True,
    rp_filter={"all": 0, "eth1": 2},
)
XDP = replace(config(), director=replace(config().director, plane=PlaneKind.XDP))
ON_SEGMENT = config(service(profile=replace(service().profile, delivery=L2)))
OF_FLEET = replace(config(), fleet=Fleet((FleetPeer("d1", ip_address("192.0.2.99")),)))


def found(given: Config, host: Host, *lost: IPAddress) -> list[tuple[bool, str]]:
    """What is told when there is no way to some addresses."""
    no_way = dict.fromkeys(lost, "network is unreachable")
    return [(one.fatal, one.text) for one in about_host(given, host, lambda address: no_way.get(address, ""))]


def test_a_machine_that_fits_is_not_complained_of() -> None:
    """Nothing is said for its own sake."""
    assert found(config(), FINE) == []
    assert link_mtu(config(), FINE) == 1500


@pytest.mark.parametrize(
    ("given", "host", "fatal", "text"),
    [
        (config(), replace(FINE, links={"lo": Link(65536, True)}), True, "no interface eth1"),
        (config(), replace(FINE, links={"eth1": Link(1500, False)}), True, "eth1 is down"),
        (
            config(),
            replace(FINE, interfaces=(ip_interface("198.51.100.7/32"),)),
            True,
            "198.51.100.7 is an address",
        ),
        (ON_SEGMENT, replace(FINE, interfaces=()), True, "members web/web1, web/web2, web/web3: on no segment"),
        (XDP, replace(FINE, release="5.10.0-1"), True, "too old for XDP"),
        (config(), replace(FINE, tun=False), True, "no /dev/net/tun"),
        (config(), replace(FINE, rp_filter={"all": 1}), False, "rp_filter = 1 (strict) on eth1"),
        (OF_FLEET, FINE, True, "192.0.2.99 is no address of this machine"),
    ],
)
def test_what_does_not_fit_is_told(given: Config, host: Host, fatal: bool, text: str) -> None:
    """With a way out; and whether the director could live with it."""
    ((is_fatal, said),) = found(given, host)
    assert is_fatal is fatal
    assert text in said


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("198.51.100.64/26", ""),
        ("2001:db8:d::/64", ""),
        ("203.0.113.0/28", "203.0.113.11 of 203.0.113.0/28 is an address of this machine; use a prefix that is routed"),
        (
            "203.0.113.64/26",
            "203.0.113.64/26 overlaps 203.0.113.0/24, which is on a segment of this machine: neighbours",
        ),
        ("2001:db8::/32", "2001:db8:1::11 of 2001:db8::/32 is an address of this machine; use a prefix that is routed"),
        ("2001:db8:1:0:8000::/66", "2001:db8:1:0:8000::/66 overlaps 2001:db8:1::/64, which is on a segment of this"),
    ],
)
def test_a_prefix_of_outer_sources_is_no_network_of_this_machine(prefix: str, said: str) -> None:
    """Neither one of its addresses, nor what neighbours ask each other for."""
    prefixes = (ip_network(prefix),)
    given = replace(config(), director=replace(config().director, outer_source_prefixes=prefixes))
    texts = found(given, FINE)
    assert [fatal for fatal, _ in texts] == ([True] if said else [])
    assert all(text.startswith(f"director.outer_source_prefixes: {said}") for _, text in texts)


@pytest.mark.parametrize(("mode", "said"), [(0, False), (1, True), (2, True)])
def test_a_vip_without_a_route(mode: int, said: bool) -> None:
    """With rp_filter, strict or loose, replies of members are dropped: nothing would ever be announced."""
    vip = ip_address("198.51.100.7")
    texts = found(config(), replace(FINE, rp_filter={"all": mode}), vip)
    fatal = [text for is_fatal, text in texts if is_fatal]
    assert bool(fatal) is said
    assert all(text.startswith(f"no route to VIP {vip}, which rp_filter wants on eth1: replies") for text in fatal)
    assert found(watched_directly(), replace(FINE, rp_filter={"all": mode}), vip) == []


def watched_directly() -> Config:
    monitors = tuple(replace(monitor, vantage=Vantage.DIRECT) for monitor in pool().monitors)
    return config(service(pool=pool(monitors=monitors)))


def test_a_session_needs_its_own_address() -> None:
    """The peer is named."""
    bgp = config().bgp
    assert bgp is not None
    peer = BgpPeer(ip_address("192.0.2.1"), 65000, 9, local_address=ip_address("192.0.2.12"))
    ((fatal, text),) = found(replace(config(), bgp=replace(bgp, peers=(peer,))), FINE)
    assert fatal
    assert text == "bgp peer 192.0.2.1: local_address 192.0.2.12 is no address of this machine"


def test_many_members_with_one_trouble_are_one_note() -> None:
    """Some are named, the others counted."""
    members = tuple(member(number) for number in range(1, 10))
    ((fatal, text),) = found(config(service(pool=pool(*members))), FINE, *(one.address for one in members))
    assert not fatal
    assert (
        text == "no way to members web/web1, web/web2, web/web3, web/web4, web/web5 and 4 more: network is unreachable"
    )


def test_this_machine_can_be_looked_at() -> None:
    """By anybody: the loopback interface is there, and there is a way to it."""
    host = this_host()
    assert host.links["lo"].mtu > 0
    assert ip_address("127.0.0.1") in host.addresses
    assert why_no_way(ip_address("127.0.0.1")) == ""


def test_check_says_it_and_exits_with_1(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """An interface that no machine has: the file is well, and this is no place for it."""
    (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
    path = tmp_path / "onward.toml"
    head = 'schema_version = 1\n[director]\nname = "d1"\ninterfaces = ["nowhere0"]\n'
    path.write_text(head + '[fleet]\nsecret_file = "fleet.key"\n')
    assert call(["check", "-q", str(path)]) == 0
    assert call(["check", "-q", "--host", str(path)]) == 1
    assert "there is no interface nowhere0" in capsys.readouterr().err

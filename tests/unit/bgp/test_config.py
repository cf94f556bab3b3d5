"""What makes a speaker's configuration impossible."""

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from bgp.config import BgpSpeakerConfig, Neighbor, problems
from bgp.route import Route

V4 = Neighbor(ip_address("192.0.2.1"), 65000)
V6 = Neighbor(ip_address("2001:db8:1::1"), 65000)
V4_ROUTE, V6_ROUTE = Route(ip_address("198.51.100.7")), Route(ip_address("2001:db8:f::7"))
BOTH = {V4_ROUTE, V6_ROUTE}
GOOD = BgpSpeakerConfig(65010, ip_address("192.0.2.11"), (V4, V6), Path("/run/onward"))


def with_neighbor(**changes):
    return replace(GOOD, neighbors=(replace(V4, **changes),))


def test_good_configuration_has_no_problems():
    """Both families over sessions of both, with next hops for what the sessions cannot give."""
    assert problems(GOOD) == []
    next_hops = {"next_hop_v4": ip_address("192.0.2.11"), "next_hop_v6": ip_address("2001:db8:1::11")}
    assert problems(replace(GOOD, **next_hops), BOTH) == []
    assert problems(with_neighbor(password="p;#{[ \\"), {V4_ROUTE}) == []  # noqa: S106


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(GOOD, neighbors=()), "no BGP peers"),
        (replace(GOOD, neighbors=(V4, V4)), "same address"),
        (replace(GOOD, local_as=0), "1 to 4294967295"),
        (replace(GOOD, runtime_dir=Path("run")), "absolute path"),
        (replace(GOOD, runtime_dir=Path('/run/a"b')), "without quotes"),
        (replace(GOOD, runtime_dir=Path("/" + "x" * 100)), "use a shorter one"),
        (replace(GOOD, lease_s=0), "lease_s 0: must be more than 0 seconds"),
        (with_neighbor(remote_as=1 << 32), "remote AS 4294967296"),
        (with_neighbor(hold_time_s=2), "use 0 (never expires) or 3 to 65535"),
        (with_neighbor(local_address=ip_address("2001:db8::1")), "other IP version"),
        (with_neighbor(password=""), "1 to 80 characters"),
        (with_neighbor(password="x" * 81), "1 to 80 characters"),
        (with_neighbor(password="it's"), "no quotes"),  # noqa: S106
        (with_neighbor(multihop=2, ttl_security=1), "exclude each other"),
        (with_neighbor(multihop=0), "multihop 0: use 1 to 255 hops"),
        (with_neighbor(ttl_security=256), "TTL security 256: use 1 to 255 hops"),
        (with_neighbor(port=0), "port 0: use 1 to 65535"),
        (with_neighbor(passive=True), "set local_address"),
        (
            with_neighbor(passive=True, local_address=ip_address("192.0.2.11"), ttl_security=1),
            "cannot have TTL security",
        ),
        (with_neighbor(password="naïve"), "printable ASCII"),  # noqa: S106
    ],
)
def test_mistake_is_named_with_its_remedy(config, words):
    """One mistake, one text that says where and what to do."""
    (problem,) = problems(config)
    assert words in problem


def test_route_of_the_other_family_needs_a_next_hop():
    """A session has an address of ours in its own family only."""
    (problem,) = problems(replace(GOOD, neighbors=(V4,)), BOTH)
    assert problem == (
        "BGP peer 192.0.2.1: an IPv4 session has no IPv6 address of ours to send as the next hop of IPv6 routes;"
        " set next_hop_v6"
    )
    (problem,) = problems(replace(GOOD, neighbors=(V6,)), BOTH)
    assert "set next_hop_v4" in problem


def test_a_route_needs_a_next_hop_only_for_those_who_are_told_of_it():
    """Peers of the other family may have routes of their own, or none."""
    assert problems(GOOD, {replace(V6_ROUTE, peers=frozenset({V6.address}))}) == []
    assert problems(GOOD, {replace(V6_ROUTE, next_hop=ip_address("2001:db8:1::11"))}) == []
    assert len(problems(GOOD, {replace(V6_ROUTE, peers=frozenset({V4.address}))})) == 1


def test_every_mistake_is_reported():
    """Not only the first."""
    assert len(problems(replace(with_neighbor(hold_time_s=1, remote_as=0), local_as=0))) == 3


def test_password_does_not_show():
    """A configuration can be logged."""
    assert "hidden" not in repr(with_neighbor(password="hidden"))  # noqa: S106

"""Routes: their order, and what turns one set into another."""

from ipaddress import ip_address

from bgp.route import GRACEFUL_SHUTDOWN, Attributes, Route, diff

A, B = Route(ip_address("198.51.100.7")), Route(ip_address("198.51.100.8"))
V6 = Route(ip_address("2001:db8:f::7"))
A_VIA = Route(A.vip, ip_address("192.0.2.11"))
ONE, TWO = ip_address("192.0.2.1"), ip_address("2001:db8:1::2")


def test_order_is_total_over_both_families():
    """Logs and commands come in one order: IPv4 first, by address, then by next hop."""
    assert sorted([V6, B, A_VIA, A]) == [A, A_VIA, B, V6]
    worse, told = Route(A.vip, attributes=Attributes(med=9)), Route(A.vip, peers=frozenset({ONE, TWO}))
    assert sorted([B, worse, told, A]) == [A, told, worse, B]


def test_a_changed_route_is_only_announced():
    """BGP replaces it in one message; a withdrawal in between would lose packets."""
    changes = diff(frozenset({A, B}), frozenset({A_VIA, V6}))
    assert changes.withdraw == {B}
    assert changes.announce == {A_VIA, V6}


def test_text_names_prefix_and_next_hop():
    """As a person would write it."""
    assert [str(route) for route in (A, A_VIA, V6)] == [
        "198.51.100.7/32 via self",
        "198.51.100.7/32 via 192.0.2.11",
        "2001:db8:f::7/128 via self",
    ]


def test_text_has_all_attributes_as_exabgp_writes_them():
    """What stands in a log can be typed into ExaBGP."""
    attributes = Attributes(0, 90, (65010, 65010), (GRACEFUL_SHUTDOWN, "no-export"), ("4200000010:1:2",))
    assert str(Route(A.vip, attributes=attributes, peers=frozenset({TWO, ONE}))) == (
        "198.51.100.7/32 via self as-path [ 65010 65010 ] med 0 local-preference 90"
        " community [ 65535:0 no-export ] large-community [ 4200000010:1:2 ] to 192.0.2.1, 2001:db8:1::2"
    )


def test_a_route_goes_to_all_peers_or_to_those_it_names():
    """Nobody named is everybody."""
    assert A.goes_to(ONE)
    assert [Route(A.vip, peers=frozenset({ONE})).goes_to(peer) for peer in (ONE, TWO)] == [True, False]

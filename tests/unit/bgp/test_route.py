"""Routes: their order, and what turns one set into another."""

from ipaddress import ip_address

from bgp.route import Route, diff

A, B = Route(ip_address("198.51.100.7")), Route(ip_address("198.51.100.8"))
V6 = Route(ip_address("2001:db8:f::7"))
A_VIA = Route(A.vip, ip_address("192.0.2.11"))


def test_order_is_total_over_both_families():
    """Logs and commands come in one order: IPv4 first, by address, then by next hop."""
    assert sorted([V6, B, A_VIA, A]) == [A, A_VIA, B, V6]


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

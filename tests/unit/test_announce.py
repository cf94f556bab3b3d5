"""Whom routers are told of a VIP, and how."""

from dataclasses import replace
from ipaddress import ip_address

from appliance.announce import NotTold, routes, why_not_told
from appliance.decide import Why, decide
from appliance.model import Announcing, BgpConfig, BgpPeer
from appliance.state import Unresolved
from bgp.route import Attributes, Route
from tests.builders import config, service, snapshot

VIP, OTHER, VIP6 = map(ip_address, ("198.51.100.7", "198.51.100.8", "2001:db8:f::7"))
OUTSIDE = BgpPeer(ip_address("192.0.2.1"), 65000, 9, labels=frozenset({"edge", "north"}))
INSIDE = BgpPeer(ip_address("192.0.2.2"), 65010, 9, labels=frozenset({"core"}))
BGP = BgpConfig(65010, ip_address("192.0.2.11"), (OUTSIDE, INSIDE))
SIX = replace(OUTSIDE, address=ip_address("2001:db8:1::1"))


def test_without_wishes_all_peers_are_told_the_same():
    """One route for all, without attributes: routers spread flows over all directors."""
    assert routes(VIP, Announcing(), BGP) == {Route(VIP)}


def test_attributes_go_to_those_who_can_use_them():
    """Local preference within our AS, a longer path to others; the rest to all."""
    wishes = Announcing(
        med=5, local_preference=200, prepend=2, communities=("65010:7",), large_communities=("65010:1:7",)
    )
    common = Attributes(med=5, communities=("65010:7",), large_communities=("65010:1:7",))
    assert routes(VIP, wishes, BGP) == {
        Route(VIP, None, replace(common, as_path=(65010,) * 3), frozenset({OUTSIDE.address})),
        Route(VIP, None, replace(common, local_preference=200), frozenset({INSIDE.address})),
    }


def test_labels_choose_peers():
    """Any of them will do; who has none of them is not told, and the reason has a name."""
    wishes = Announcing(peer_labels=frozenset({"north", "south"}))
    assert routes(VIP, wishes, BGP) == {Route(VIP, peers=frozenset({OUTSIDE.address}))}
    assert why_not_told(VIP, wishes, BGP, INSIDE) is NotTold.LABELS
    assert why_not_told(VIP, wishes, BGP, OUTSIDE) is None
    assert routes(VIP, Announcing(peer_labels=frozenset({"west"})), BGP) == frozenset()


def test_next_hops():
    """A peer's own, that of all, or the session's; without any, the other family is not told of."""
    hop, own = ip_address("2001:db8:1::11"), ip_address("2001:db8:1::12")
    both = replace(BGP, peers=(OUTSIDE, SIX))
    assert routes(VIP6, Announcing(), both) == {Route(VIP6, peers=frozenset({SIX.address}))}
    assert why_not_told(VIP6, Announcing(), both, OUTSIDE) is NotTold.NO_NEXT_HOP
    assert routes(VIP6, Announcing(), replace(both, next_hop_v6=hop)) == {Route(VIP6, hop)}
    mixed = replace(both, next_hop_v6=hop, peers=(replace(OUTSIDE, next_hop_v6=own), replace(SIX, next_hop_self=True)))
    assert routes(VIP6, Announcing(), mixed) == {
        Route(VIP6, own, peers=frozenset({OUTSIDE.address})),
        Route(VIP6, peers=frozenset({SIX.address})),
    }


def test_an_address_that_is_lost_is_no_next_hop():
    """Peers that would be told to send to it are told nothing, by which way ever their sessions go; others are."""
    hop, own = ip_address("192.0.2.11"), ip_address("198.51.100.11")
    bgp = replace(BGP, next_hop_v4=hop, peers=(OUTSIDE, replace(INSIDE, next_hop_self=True, local_address=own)))
    inside = Route(VIP, peers=frozenset({INSIDE.address}))
    assert routes(VIP, Announcing(), bgp, lost={hop}) == {inside}
    assert routes(VIP, Announcing(), bgp, lost={own}) == {Route(VIP, hop, peers=frozenset({OUTSIDE.address}))}
    assert why_not_told(VIP, Announcing(), bgp, OUTSIDE, {hop}) is NotTold.NEXT_HOP_LOST
    snap = snapshot(replace(config(), bgp=bgp))
    hops = {**snap.next_hops, hop: Unresolved("interface_down", "eth2 is down")}
    assert decide(replace(snap, next_hops=hops)).routes == {inside}
    both = decide(replace(snap, next_hops={**hops, own: Unresolved("interface_down", "eth3 is down")}))
    assert both.routes == frozenset()
    assert str(both.vips[0].no) == "next_hop_lost: 192.0.2.11 (eth2 is down), 198.51.100.11 (eth3 is down)"


def test_the_decision_has_the_routes_of_all_vips():
    """Each VIP with what its virtual service wishes; one that nobody may be told of says so."""
    wishes = Announcing(med=7)
    west = Announcing(peer_labels=frozenset({"west"}))
    desired = decide(
        snapshot(
            config(
                service(),
                service(name="b", vips=(VIP6,), announcing=wishes),
                service(name="c", vips=(OTHER,), announcing=west),
            )
        )
    )
    assert desired.routes == {Route(VIP), Route(VIP6, ip_address("2001:db8:1::11"), Attributes(med=7))}
    assert [view.no and view.no.why for view in desired.vips] == [None, None, Why.NO_PEER]

"""Whom routers are told of a VIP, and how: one route for all peers that are told the same. Pure."""

from enum import StrEnum

from appliance.model import Announcing, BgpConfig, BgpPeer, IPAddress
from bgp.route import Attributes, Route


class NotTold(StrEnum):
    """Why a peer is not told of a VIP that others may be told of."""

    LABELS = "labels"
    """It has none of the labels that the VIP's virtual services ask for."""
    NO_NEXT_HOP = "no_next_hop"
    """The session is of the other family, so it has no address of ours to send; and none is configured."""


def why_not_told(vip: IPAddress, announcing: Announcing, bgp: BgpConfig, peer: BgpPeer) -> NotTold | None:
    if announcing.peer_labels and announcing.peer_labels.isdisjoint(peer.labels):
        return NotTold.LABELS
    if vip.version != peer.address.version and _next_hop(vip, bgp, peer) is None:
        return NotTold.NO_NEXT_HOP
    return None


def routes(vip: IPAddress, announcing: Announcing, bgp: BgpConfig) -> frozenset[Route]:
    """What peers are told of a VIP; peers that are told nothing of it are in none of the routes."""
    told: dict[tuple[IPAddress | None, Attributes], set[IPAddress]] = {}
    for peer in bgp.peers:
        if why_not_told(vip, announcing, bgp, peer) is None:
            same = _next_hop(vip, bgp, peer), _attributes(announcing, bgp, peer)
            told.setdefault(same, set()).add(peer.address)
    return frozenset(
        Route(vip, next_hop, attributes, None if len(peers) == len(bgp.peers) else frozenset(peers))
        for (next_hop, attributes), peers in told.items()
    )


def _next_hop(vip: IPAddress, bgp: BgpConfig, peer: BgpPeer) -> IPAddress | None:
    """None: the session's own address."""
    own, common = (peer.next_hop_v4, bgp.next_hop_v4) if vip.version == 4 else (peer.next_hop_v6, bgp.next_hop_v6)
    return own or (None if peer.next_hop_self else common)


def _attributes(announcing: Announcing, bgp: BgpConfig, peer: BgpPeer) -> Attributes:
    inside = peer.remote_as == bgp.local_as
    return Attributes(
        med=announcing.med,
        local_preference=announcing.local_preference if inside else None,
        # A router of our own AS would take the path for a loop.
        as_path=(bgp.local_as,) * (1 + announcing.prepend) if announcing.prepend and not inside else (),
        communities=announcing.communities,
        large_communities=announcing.large_communities,
    )

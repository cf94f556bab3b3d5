"""Whom routers are told of a VIP, and how: one route for all peers that are told the same. Pure."""

from collections.abc import Set
from dataclasses import replace
from enum import StrEnum

from appliance.model import Announcing, BgpConfig, BgpPeer, IPAddress
from bgp.route import GRACEFUL_SHUTDOWN, Attributes, Route

USUAL_PREFERENCE = 100
"""What routers take where nothing else is said."""

HIGHEST = (1 << 32) - 1
LONGER = 3
"""By so many the path gets longer when a director is left: routers compare paths before MED, and across ASes."""


class NotTold(StrEnum):
    """Why a peer is not told of a VIP that others may be told of."""

    LABELS = "labels"
    """It has none of the labels that the VIP's virtual services ask for."""
    NO_NEXT_HOP = "no_next_hop"
    """The session is of the other family, so it has no address of ours to send; and none is configured."""
    NEXT_HOP_LOST = "next_hop_lost"
    """The next hop is an address of ours whose interface is down. The session may well go another way."""


def why_not_told(
    vip: IPAddress, announcing: Announcing, bgp: BgpConfig, peer: BgpPeer, lost: Set[IPAddress] = frozenset()
) -> NotTold | None:
    """
    Args:
        vip: whatever it is about.
        announcing: what its virtual services wish.
        bgp: whom we talk to.
        peer: one of them.
        lost: addresses of ours that no packet can come to.
    """
    if announcing.peer_labels and announcing.peer_labels.isdisjoint(peer.labels):
        return NotTold.LABELS
    next_hop = _next_hop(vip, bgp, peer)
    if vip.version != peer.address.version and next_hop is None:
        return NotTold.NO_NEXT_HOP
    return NotTold.NEXT_HOP_LOST if (next_hop or peer.local_address) in lost else None


def own_addresses(bgp: BgpConfig) -> frozenset[IPAddress]:
    """Next hops that are configured, and addresses that sessions are to have, which are theirs."""
    hops = {bgp.next_hop_v4, bgp.next_hop_v6}
    hops |= {hop for peer in bgp.peers for hop in (peer.next_hop_v4, peer.next_hop_v6, peer.local_address)}
    return frozenset(hop for hop in hops if hop is not None)


def routes(
    vip: IPAddress,
    announcing: Announcing,
    bgp: BgpConfig,
    standing: int | None = None,
    *,
    leaving: bool = False,
    lost: Set[IPAddress] = frozenset(),
) -> frozenset[Route]:
    """What peers are told of a VIP; peers that are told nothing of it are in none of the routes.

    Args:
        vip: whatever it is about.
        announcing: what its virtual services wish.
        bgp: whom we talk to.
        standing: how many steps worse than the best our routes are; None: nobody is better than others, so that there
            are no steps.
        leaving: whether routers are to take other ways while there is time.
        lost: addresses of ours that no packet can come to.
    """
    told: dict[tuple[IPAddress | None, Attributes], set[IPAddress]] = {}
    for peer in bgp.peers:
        if why_not_told(vip, announcing, bgp, peer, lost) is None:
            attributes = _attributes(announcing, bgp, peer, standing)
            if leaving:
                attributes = _leaving(attributes, bgp, peer)
            same = _next_hop(vip, bgp, peer), attributes
            told.setdefault(same, set()).add(peer.address)
    return frozenset(
        Route(vip, next_hop, attributes, None if len(peers) == len(bgp.peers) else frozenset(peers))
        for (next_hop, attributes), peers in told.items()
    )


def _next_hop(vip: IPAddress, bgp: BgpConfig, peer: BgpPeer) -> IPAddress | None:
    """None: the session's own address."""
    own, common = (peer.next_hop_v4, bgp.next_hop_v4) if vip.version == 4 else (peer.next_hop_v6, bgp.next_hop_v6)
    return own or (None if peer.next_hop_self else common)


def _leaving(attributes: Attributes, bgp: BgpConfig, peer: BgpPeer) -> Attributes:
    """Worse than any rank, for routers that know the community (RFC 8326) and for those that do not."""
    inside = peer.remote_as == bgp.local_as
    return replace(
        attributes,
        med=HIGHEST,
        local_preference=0 if inside else None,
        as_path=() if inside else (attributes.as_path or (bgp.local_as,)) + (bgp.local_as,) * LONGER,
        communities=(*attributes.communities, GRACEFUL_SHUTDOWN),
    )


def _attributes(announcing: Announcing, bgp: BgpConfig, peer: BgpPeer, standing: int | None) -> Attributes:
    inside = peer.remote_as == bgp.local_as
    med, preference, prepend = announcing.med, announcing.local_preference, announcing.prepend
    communities = announcing.communities
    if standing is not None:
        step = announcing.step
        med = min((med or 0) + standing * step.med, HIGHEST)
        preference = max((USUAL_PREFERENCE if preference is None else preference) - standing * step.local_preference, 0)
        prepend += standing * step.prepend
        communities += announcing.standby_communities if standing else ()
    return Attributes(
        med=med,
        local_preference=preference if inside else None,
        # A router of our own AS would take the path for a loop.
        as_path=(bgp.local_as,) * (1 + prepend) if prepend and not inside else (),
        communities=communities,
        large_communities=announcing.large_communities,
    )

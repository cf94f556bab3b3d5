"""Who is told of what, with which attributes, and why not: the document at /api/v1/bgp. Pure."""

from collections.abc import Mapping

from appliance.announce import NotTold, why_not_told
from appliance.api.sources import Observed
from appliance.api.views import API_VERSION, Document, bgp_document, vip_views
from appliance.decide import VipView, lost_addresses
from appliance.model import BgpConfig, BgpPeer, IPAddress, VirtualService
from bgp.route import Attributes, Route
from bgp.speaker import PeerStatus, Session

_NOT_TOLD = {
    NotTold.LABELS: "it has none of the peer_labels that the virtual service asks for",
    NotTold.NO_NEXT_HOP: "the session is of the other family; set next_hop_v4 or next_hop_v6",
    NotTold.NEXT_HOP_LOST: "the next hop is an address of this director whose interface is down",
}


def announced_document(observed: Observed) -> Document:
    """Peers, and each VIP as each of them knows it from us, or why it does not. Without [bgp] both lists are empty."""
    bgp = observed.snapshot.config.bgp
    document = bgp_document(observed)
    services = {service.name: service for service in observed.snapshot.config.services}
    return {
        "apiVersion": API_VERSION,
        "time": observed.at,
        "director": observed.snapshot.config.director.name,
        "bgp": document,
        "vips": [_vip(view, services[view.services[0]], bgp, observed) for view in vip_views(observed)] if bgp else [],
    }


def _vip(view: VipView, service: VirtualService, bgp: BgpConfig, observed: Observed) -> Document:
    return {
        "vip": str(view.vip),
        "services": list(view.services),
        "wanted": view.no is None,
        "reason": str(view.no.why) if view.no else None,
        "detail": view.no.detail if view.no else "",
        "held_until": view.held_until,
        "ha": str(service.ha),
        "ranked": list(view.ranked),
        "standing": view.standing,
        "away": sorted(observed.snapshot.away & set(view.ranked)),
        "absent": sorted(observed.snapshot.absent.get(view.vip, frozenset()) & set(view.ranked)),
        "peers": [_told(view, service, bgp, peer, observed) for peer in bgp.peers],
    }


def _told(view: VipView, service: VirtualService, bgp: BgpConfig, peer: BgpPeer, observed: Observed) -> Document:
    """One VIP as one peer is told of it."""
    route = next((route for route in view.routes if route.goes_to(peer.address)), None)
    why, detail = _why_not(view, service, bgp, peer, route, observed)
    return {
        "peer": str(peer.address),
        "told": not why,
        "reason": why or None,
        "detail": detail,
        "next_hop": str(route.next_hop or "self") if route else None,
        "attributes": attributes(route.attributes) if route else None,
    }


def _why_not(
    view: VipView, service: VirtualService, bgp: BgpConfig, peer: BgpPeer, route: Route | None, observed: Observed
) -> tuple[str, str]:
    if view.no is not None:
        return str(view.no.why), view.no.detail
    lost = lost_addresses(observed.snapshot).keys()
    if (never := why_not_told(view.vip, service.announcing, bgp, peer, lost)) is not None:
        return str(never), _NOT_TOLD[never]
    speaker = observed.speaker
    if speaker is None or route not in speaker.announced:
        return "not_acknowledged", (speaker.detail if speaker else "") or "the speaker has not confirmed it yet"
    status = _status(speaker.peers, peer.address)
    if status is None or status.session is not Session.UP:
        return "no_session", status.detail if status else ""
    if route.cidr not in status.routes_sent:
        return "not_sent", "ExaBGP has not sent it yet; does the peer accept this address family?"
    return "", ""


def _status(peers: Mapping[str, PeerStatus], address: IPAddress) -> PeerStatus | None:
    return peers.get(str(address))


def attributes(given: Attributes) -> Document:
    return {
        "med": given.med,
        "local_preference": given.local_preference,
        "as_path": list(given.as_path),
        "communities": list(given.communities),
        "large_communities": list(given.large_communities),
    }

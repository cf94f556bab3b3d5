"""BGP of Avi: the profile of a VRF. Pure."""

import re
from dataclasses import dataclass, field

from appliance.config import values
from appliance.config.problems import BadValueError
from appliance.importers.avi_objects import ANYTHING, NOTHING, Objects, Unused
from appliance.importers.base import Grade, Site
from appliance.importers.document import Draft, Names, Table, Value
from appliance.importers.jsontree import Json
from appliance.model import IPAddress

_UNUSED_VRF: Unused = {
    "name": (NOTHING, "there is one routing table, the machine's", ""),
    "bfd_profile": (ANYTHING, "no peer speaks BFD", ""),
    "static_routes": (ANYTHING, "routes are the machine's", "configure them with the network"),
    "gateway_mon": (ANYTHING, "gateways are not watched; next hops are what the kernel says", ""),
    "internal_gateway_monitor": (ANYTHING, "gateways are not watched; next hops are what the kernel says", ""),
    "debugvrfcontext": (ANYTHING, "there is no such debugging", ""),
    "description": (NOTHING, "there are no VRFs", ""),
    "lldp_enable": (True, "the director speaks no LLDP", ""),
    "attrs": (ANYTHING, "it is for the controller's cloud", ""),
}
_UNUSED_BGP: Unused = {
    "keepalive_interval": (60, "keepalives are sent three times in a hold time", ""),
    "ip_communities": (ANYTHING, "communities belong to virtual services", "write bgp.communities"),
    "routing_options": (ANYTHING, "no routes are learned from routers", "the machine's own routes count"),
    "shutdown": (False, "BGP is spoken where [bgp] is", "leave [bgp] out"),
}
_UNUSED_PEER: Unused = {
    "keepalive_interval": (60, "keepalives are sent three times in a hold time", ""),
    "advertise_snat_ip": (True, "with DSR there is no SNAT", ""),
    "connect_timer": (10, "how often a connection is tried is not set", ""),
    "advertisement_interval": (5, "changes are told at once", ""),
    "subnet": (NOTHING, "the way to a peer is what the kernel's routes say", ""),
    "subnet6": (NOTHING, "the way to a peer is what the kernel's routes say", ""),
    "network_ref": (NOTHING, "the way to a peer is what the kernel's routes say", ""),
    "ibgp_local_as_override": (False, "a director has one AS", ""),
}


@dataclass
class Bgp:
    """What virtual services need to know of it."""

    peers: list[IPAddress] = field(default_factory=list)
    inside: set[bool] = field(default_factory=set)
    """Whether peers are of our own AS: there may be both."""

    labels: set[str] = field(default_factory=set)
    announcing: dict[str, Value] = field(default_factory=dict)
    """What the profile says of all routes."""


def bgp_of(objects: Objects, draft: Draft) -> Bgp | None:
    """Put `[bgp]` and its peers into the draft; None: there is no profile."""
    chosen: Json | None = None
    for vrf in objects.of["VrfContext"]:
        profile = vrf.get("bgp_profile")
        if profile is None or profile.value is None:
            objects.report.about(Grade.IGNORED, vrf, "it has no bgp_profile")
            objects.tell_rest(vrf, _UNUSED_VRF)
        elif chosen is None:
            chosen = vrf
        else:
            objects.report.lost(vrf, "a director has one BGP, and that of another VRF was imported", "see [bgp]")
    return None if chosen is None else _profile(objects, draft, chosen, chosen.keys["bgp_profile"])


def _profile(objects: Objects, draft: Draft, vrf: Json, profile: Json) -> Bgp:
    local_as = objects.whole(profile, 0, 1, 4294967295, "local_as")
    inside = objects.flag(profile, True, "ibgp")
    hold_time = objects.whole(profile, 180, 3, 7200, "hold_time")
    if not local_as:
        objects.bad(profile, "there is no local_as in it", "give the export as it is")
    found = Bgp()
    _announcing(objects, profile, found)
    bfd = _bfd(objects, vrf)
    kind = profile.get("ibgp")
    if kind is not None and any(peer.get("remote_as") for peer in _items(profile.get("peers"))):
        objects.report.about(Grade.IGNORED, kind, "whether a peer is of our own AS is said by its remote_as")
    draft.bgp.append(Table("bgp", {"local_as": local_as, "router_id": ""}, [f"From {profile.place}."], array=False))
    peers = profile.get("peers")
    for peer in _items(peers):
        _peer(objects, draft, peer, found, (local_as, inside, hold_time, bfd))
    if peers is not None and not peers.parts:
        peers.use()
    for key, wanted in (("local_preference", True), ("prepend", False)):
        if key in found.announcing and wanted not in found.inside:
            del found.announcing[key]
            node = profile.get("local_preference" if wanted else "num_as_path_prepend") or profile
            objects.report.about(
                Grade.LOST, node, f"this is for peers of {'our own' if wanted else 'another'} AS; there is none"
            )
    objects.tell_rest(profile, _UNUSED_BGP)
    objects.tell_rest(vrf, _UNUSED_VRF)
    return found


def _announcing(objects: Objects, profile: Json, found: Bgp) -> None:
    if profile.peek("local_preference") is not None:
        found.announcing["local_preference"] = objects.whole(profile, 100, 0, 4294967295, "local_preference")
    if prepend := objects.whole(profile, 0, 0, 10, "num_as_path_prepend"):
        found.announcing["prepend"] = prepend
    sends = objects.flag(profile, True, "send_community")
    communities: list[Value] = []
    node = profile.get("community")
    for each in node.items if node is not None else ():
        try:
            community = values.community(each.value)
        except BadValueError as error:
            objects.report.lost(each, error.message, error.remedy)
            continue
        each.use()
        if sends and len(communities) < 16:
            communities.append(community)
        else:
            objects.report.ignored(each, "communities are not sent")
    if node is not None and not node.parts:
        node.use()
    if communities:
        found.announcing["communities"] = communities


def _bfd(objects: Objects, vrf: Json) -> dict[str, Value]:
    profile = vrf.get("bfd_profile") or Json("", "", None, "")
    sent, heard = (objects.whole(profile, 1000, 50, 4000000, key) for key in ("mintx", "minrx"))
    slowest = max(sent, heard)
    if sent != heard:
        objects.report.about(
            Grade.CHANGED, profile, f"BFD has one interval for both directions: {slowest} ms, not {sent} and {heard}"
        )
    multiplier = objects.whole(profile, 3, 3, 255, "multi")
    return {"interval": min(slowest, 10000) / 1000, "multiplier": multiplier}


def _peer(
    objects: Objects, draft: Draft, peer: Json, found: Bgp, common: tuple[int, bool, int, dict[str, Value]]
) -> None:
    local_as, inside, hold_time, bfd = common
    for key, meaning in (("shutdown", True), ("advertise_vip", False)):
        if objects.flag(peer, not meaning, key) is meaning:
            objects.report.lost(peer, f"{key} is {str(meaning).lower()}: this peer is told of nothing, and left out")
            return
    addresses = [
        address
        for key in ("peer_ip", "peer_ip6")
        if (address := objects.address(peer.get(key), values.unicast_address)) is not None
    ]
    if not addresses:
        objects.report.left_out(peer, "it has no address that could be imported", "write a [[bgp.peer]]")
        return
    remote_as = objects.whole(peer, local_as if inside else 0, 1, 4294967295, "remote_as")
    if not remote_as:
        objects.bad(peer, "there is no remote_as in it", "give the export as it is")
        return
    own = peer.get("local_as")
    if own is not None and own.value not in (None, local_as):
        objects.report.lost(own, "a director has one AS", "set another local_as in [bgp], or have the router take it")
    elif own is not None:
        own.use()
    table: dict[str, Value] = {"remote_as": remote_as}
    table["hold_time"] = objects.whole(peer, hold_time, 3, 7200, "hold_time")
    hops = objects.whole(peer, 0, 0, 255, "ebgp_multihop")
    if hops:
        table["multihop"] = hops
    label = objects.text(peer, "label")
    if label is not None:
        allowed = Names().take(label, "peer")
        table["labels"] = [allowed]
        found.labels.add(allowed)
    _password(objects, peer, table)
    if objects.flag(peer, True, "bfd"):
        if float(str(bfd["interval"])) * int(str(bfd["multiplier"])) < int(str(table["hold_time"])):
            table["bfd"] = bfd | ({"multihop": True} if hops > 1 else {})
        else:
            objects.report.about(
                Grade.LOST,
                peer.get("bfd") or peer,
                "BFD would tell later than BGP's own hold time",
                "use a shorter interval",
            )
    for address in addresses:
        if address in found.peers:
            objects.report.about(Grade.LOST, peer, f"{address} is a peer already", "leave one out")
            continue
        found.peers.append(address)
        found.inside.add(remote_as == local_as)
        draft.bgp.append(Table("bgp.peer", {"address": str(address), **table}, [f"From {peer.place}."]))
    objects.tell_rest(peer, _UNUSED_PEER)


def _password(objects: Objects, peer: Json, table: dict[str, Value]) -> None:
    node, secret = peer.get("md5_secret"), objects.text(peer, "md5_secret")
    if node is None or secret is None:
        return
    try:
        if re.fullmatch(r"<.*>", secret):  # what exports write in place of secrets
            raise BadValueError("it was taken out", "")
        table["password"] = values.password(secret)
    except BadValueError:
        objects.report.todo(node, "this password cannot be used, or was taken out by the export", "write password_file")
    else:
        objects.report.todo(node, "the password stands in the configuration", "put it into a file: password_file")


def _items(node: Json | None) -> list[Json]:
    return node.items if node is not None else []


def finish(objects: Objects, draft: Draft, site: Site, vips: set[IPAddress]) -> None:
    """Fill in what no export has, or write `[bgp]` as a comment."""
    head, *peers = draft.bgp
    missing = []
    if site.router_id is None:
        missing.append(("router_id", "--router-id"))
    versions = {values.unicast_address(peer.values["address"]).version for peer in peers}
    if site.next_hop_v6 is not None:
        head.values["next_hop_v6"] = site.next_hop_v6
    elif 6 not in versions and any(vip.version == 6 for vip in vips):
        missing.append(("next_hop_v6", "--next-hop-v6"))
        head.values["next_hop_v6"] = ""
    if 4 not in versions and any(vip.version == 4 for vip in vips):
        missing.append(("next_hop_v4", ""))
        head.values["next_hop_v4"] = ""
    head.values["router_id"] = site.router_id or ""
    if not peers:
        draft.bgp.clear()
        objects.report.note(Grade.TODO, objects.source.name, "no BGP peer could be imported", "write a [[bgp.peer]]")
    elif missing:
        for table in draft.bgp:
            table.off = True
        keys = ", ".join(key for key, _ in missing)
        options = " and ".join(option for _, option in missing if option)
        objects.report.note(
            Grade.TODO,
            objects.source.name,
            f"[bgp] needs {keys}, which no export has: it is written as a comment",
            f"import with {options}" if options else "fill it in, and take the # off",
        )

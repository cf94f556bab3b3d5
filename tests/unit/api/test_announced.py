"""The document that says who is told of which VIPs, and why not."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from appliance.api.announced import announced_document
from appliance.decide import decide
from appliance.model import Announcing, FleetPeer, HaMode
from bgp.speaker import PeerStatus, Session, SpeakerStatus
from tests.builders import config, service, snapshot
from tests.unit.api.samples import NOW, PEER, PEER2, VIP, healthy, observed


def told(document: dict[str, Any], vip: object = VIP) -> dict[str, tuple[bool, str | None]]:
    (found,) = (each for each in document["vips"] if each["vip"] == str(vip))
    return {each["peer"]: (each["told"], each["reason"]) for each in found["peers"]}


def test_every_vip_says_of_every_peer_whether_it_is_told() -> None:
    """A peer whose session is down is not, and has its own reason; a VIP that nobody is told of has one for all."""
    document = announced_document(observed())
    assert told(document) == {PEER: (True, None), PEER2: (False, "no_session")}
    assert told(document, "198.51.100.53") == {PEER: (False, "below_min_members"), PEER2: (False, "below_min_members")}
    assert told(document, "198.51.100.9") == {PEER: (False, "service_disabled"), PEER2: (False, "service_disabled")}


def test_what_keeps_a_single_peer_from_being_told() -> None:
    """Labels, an answer that is missing, an UPDATE that is missing: each has its name."""
    seen = healthy()
    assert told(announced_document(seen)) == {PEER: (True, None)}
    assert seen.speaker is not None
    peers = {PEER: PeerStatus(Session.UP, NOW)}
    assert told(announced_document(replace(seen, speaker=replace(seen.speaker, peers=peers)))) == {
        PEER: (False, "not_sent")
    }
    assert told(announced_document(replace(seen, speaker=SpeakerStatus(running=True)))) == {
        PEER: (False, "not_acknowledged")
    }
    given = config(service(announcing=Announcing(peer_labels=frozenset({"edge"}))))
    assert given.bgp is not None
    edge = replace(given.bgp.peers[0], address=ip_address(PEER2), labels=frozenset({"edge"}))
    snap = snapshot(replace(given, bgp=replace(given.bgp, peers=(*given.bgp.peers, edge))))
    found = told(announced_document(observed(snapshot=snap, applied=decide(snap), speaker=None)))
    assert found == {PEER: (False, "labels"), PEER2: (False, "not_acknowledged")}


def test_ranks_attributes_and_who_is_away() -> None:
    """What routers go by, and what this director takes its place from."""
    given = config(service(ha=HaMode.N_PLUS_M, primaries=1))
    fleet = tuple(FleetPeer(f"d{n}", ip_address(f"192.0.2.1{n}")) for n in (1, 2))
    snap = snapshot(
        replace(given, fleet=replace(given.fleet, directors=fleet)),
        away=frozenset({"d2"}),
        absent={ip_address("198.51.100.7"): frozenset({"d2"})},
    )
    (vip,) = announced_document(observed(snapshot=snap, applied=decide(snap)))["vips"]
    assert (vip["ha"], sorted(vip["ranked"]), vip["standing"], vip["away"]) == ("n_plus_m", ["d1", "d2"], 0, ["d2"])
    assert vip["absent"] == ["d2"]
    assert vip["peers"][0]["attributes"] == {
        "med": 0,
        "local_preference": None,
        "as_path": [],
        "communities": [],
        "large_communities": [],
    }


def test_without_bgp_there_is_nothing() -> None:
    """And no error."""
    snap = snapshot(config(bgp=False))
    document = announced_document(observed(snapshot=snap, applied=decide(snap), speaker=None))
    assert (document["bgp"], document["vips"]) == (None, [])

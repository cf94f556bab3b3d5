"""The status document."""

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from appliance.api.metrics import exposition
from appliance.api.page import render_page
from appliance.api.sources import ReloadStatus
from appliance.api.views import NOT_VISIBLE, PASSES, Rates, bfd_text, samples, status_document
from appliance.cli.status import Look, render
from appliance.config.document import Document
from appliance.config.load import Loaded
from appliance.dataplane.base import Counters
from appliance.decide import decide
from appliance.fleet.store import Source
from appliance.model import (
    AdminState,
    DfPolicy,
    Encapsulation,
    Health,
    NetworkProfile,
    Order,
    OuterSource,
    ProfileType,
    TtlPolicy,
)
from appliance.packet.action import Reason
from appliance.revisions import Author, Revision
from appliance.state import PinsSeen
from appliance.transaction import Staged
from bgp.bfd.process import BfdStatus
from bgp.route import Route
from bgp.speaker import PeerStatus, Session
from health.spec import Code, Result, Verdict
from tests import golden
from tests.builders import L3, config, hop, service, snapshot
from tests.unit.api.samples import (
    DNS_VIP,
    NOW,
    PEER,
    PEER2,
    VIP,
    XDP,
    by_path,
    healthy,
    observed,
    sample_agreed,
    sample_channel,
    sample_counters,
    sample_health,
    sample_packets,
    sample_snapshot,
    sample_speaker,
    shared,
)


def vip(document: dict[str, Any], address: object) -> dict[str, Any]:
    return next(vip for service in document["services"] for vip in service["vips"] if vip["vip"] == str(address))


def member(document: dict[str, Any], key: str) -> dict[str, Any]:
    return next(member for pool in document["pools"].values() for member in pool["members"] if member["id"] == key)


def test_document_is_as_published() -> None:
    """The whole document, as scripts may rely on it."""
    document = status_document(observed(), (2.0, sample_counters(0)))
    golden.check("status.json", json.dumps(document, indent=2) + "\n")


def test_a_no_carries_its_reason() -> None:
    """A member that is out, a service that is down and a VIP that is not announced say why."""
    document = status_document(observed())
    assert member(document, "web/web3")["reason"] == "health_down"
    unreachable = member(document, "dns/web12")
    assert (unreachable["reason"], unreachable["detail"]) == ("unreachable", "neighbour_unresolved eth1")
    dns = vip(document, DNS_VIP)
    assert (dns["wanted"], dns["announced"], dns["reason"]) == (False, False, "below_min_members")
    assert dns["detail"] == "1 in rotation, 2 wanted"


def test_announced_means_acknowledged_and_sent_to_somebody() -> None:
    """A wanted VIP counts as announced only when the speaker has confirmed it, and some router that is to be told has
    it: sessions of others do not count, nor those by which it was not sent."""
    speaker = sample_speaker()
    assert vip(status_document(observed()), VIP)["sent_to"] == [PEER]
    waiting = vip(status_document(observed(speaker=replace(speaker, announced=frozenset()))), VIP)
    assert (waiting["wanted"], waiting["announced"], waiting["reason"]) == (True, False, "not_acknowledged")
    down = {address: PeerStatus(Session.DOWN, NOW) for address in speaker.peers}
    alone = vip(status_document(observed(speaker=replace(speaker, peers=down))), VIP)
    assert (alone["wanted"], alone["announced"], alone["reason"]) == (True, False, "no_session")
    other = replace(speaker, announced=frozenset({Route(VIP, peers=frozenset({ip_address(PEER2)}))}))
    other = replace(other, peers={PEER: PeerStatus(Session.UP, NOW), PEER2: PeerStatus(Session.DOWN, NOW)})
    assert vip(status_document(observed(speaker=other)), VIP)["reason"] == "no_session"
    unsent = replace(speaker, peers={PEER: PeerStatus(Session.UP, NOW)})
    shown = vip(status_document(observed(speaker=unsent)), VIP)
    assert (shown["announced"], shown["reason"]) == (False, "not_sent")


def test_bfd_is_shown_beside_its_peer() -> None:
    """Whose session is not up is a problem with its reason; whoever has none shows none; no process shows why."""
    document = status_document(observed())
    first, second = (peer["bfd"] for peer in document["bgp"]["peers"])
    assert (first["state"], first["detection_time_s"], first["refused"]) == ("up", 0.9, {"ttl": 7})
    problem = f"BFD with {PEER2} is down (cannot send: Network is unreachable, time_expired)"
    assert [text for text in document["health"]["problems"] if text.startswith("BFD")] == [problem]
    assert second["multihop"]
    ended = observed(bfd=BfdStatus(detail="the BFD process ended; starting again"))
    problems = status_document(ended)["health"]["problems"]
    assert f"BFD with {PEER} is unknown (the BFD process ended; starting again)" in problems
    assert [peer["bfd"] for peer in status_document(healthy())["bgp"]["peers"]] == [None]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "up (900 ms)"),
        ({"state": "down", "diag": "neighbor_down", "remote_state": "admin_down"}, "neighbor_down, the router says"),
        ({"state": "init", "remote_state": "down"}, "init"),
    ],
)
def test_bfd_in_a_few_words(changes: dict[str, Any], text: str) -> None:
    """State, why, and how fast."""
    assert text in bfd_text(status_document(observed())["bgp"]["peers"][0]["bfd"] | changes)


def test_a_plane_in_doubt_overrides_what_was_decided() -> None:
    """When the data plane fails, every VIP says so, whatever the last decision in force was."""
    error = "the worker is stuck; restart the director"
    seen = observed()
    document = status_document(replace(seen, snapshot=replace(seen.snapshot, plane_error=error)))
    assert (vip(document, VIP)["reason"], vip(document, VIP)["detail"]) == ("plane_down", error)
    assert vip(document, DNS_VIP)["reason"] == "below_min_members"
    assert document["health"]["state"] == "down"
    assert document["health"]["problems"][0] == f"data plane: {error}"
    assert not any(route["wanted"] for route in document["routes"])


def test_before_the_first_round() -> None:
    """Before anything is in force, services and members are shown as configured, and out."""
    snap = sample_snapshot(plane_error="the data plane has not started")
    document = status_document(observed(snapshot=snap, applied=None, counters=None))
    assert [service["state"] for service in document["services"]] == ["down", "down", "disabled"]
    assert member(document, "web/web1")["reason"] == "plane_down"
    assert member(document, "web/web1")["detail"] == "the data plane has not started"
    assert member(document, "old/web21")["reason"] == "disabled"
    assert vip(document, VIP)["reason"] == "plane_down"
    assert document["counters"] is None
    assert member(document, "web/web1")["traffic"]["packets"] is None


def test_without_bgp_nothing_is_wrong() -> None:
    """A director without [bgp] announces nothing, says so, and is healthy all the same."""
    alone = {"channel": None, "agreed": None}
    document = status_document(observed(snapshot=snapshot(config(bgp=False)), speaker=None, **alone))
    assert (document["bgp"], document["health"]) == (None, {"state": "healthy", "problems": []})
    assert vip(document, VIP)["reason"] == "no_bgp"


def test_healthy() -> None:
    """With everything well there is no problem."""
    assert status_document(healthy())["health"] == {"state": "healthy", "problems": []}


def test_degraded_by_a_member() -> None:
    """A member out is degraded, with what its monitor found, once even if several services use it."""
    seen = healthy()
    snap = replace(seen.snapshot, health={**seen.snapshot.health, "web/web3": Health.DOWN})
    document = status_document(replace(seen, snapshot=snap, applied=decide(snap), health=sample_health()))
    assert document["health"] == {
        "state": "degraded",
        "problems": ["member web/web3 is out: health_down (ping80: connection_refused, connect: connection refused)"],
    }


def test_degraded_by_a_certificate_that_ends_soon() -> None:
    """The member is well, and somebody should look: status and metrics say until when."""
    seen = healthy()
    detail = "certificate ends in 9 days, on 2026-01-01 00:00 UTC"
    last = Result(Code.OK, detail, 0.01, ends_at=1767225600.0, warning=True)
    health = (replace(seen.health[0], last=last), *seen.health[1:])
    watched = replace(seen, health=health)
    document = status_document(watched)
    problem = f"member web/web1, monitor ping80: {detail}"
    assert document["health"] == {"state": "degraded", "problems": [problem]}
    lines = exposition(watched).decode().splitlines()
    name = "onward_check_certificate_end_timestamp_seconds"
    assert [line for line in lines if line.startswith(name)] == [
        f'{name}{{member="web/web1",monitor="ping80",path=""}} 1.7672256e+09'
    ]


def test_a_member_that_is_told_to_drain_is_no_problem() -> None:
    """It is shown with its order and what is left, and nothing is degraded by what somebody has wanted."""
    order = Order(AdminState.DRAIN, NOW, NOW + 60)
    seen = healthy()
    before = decide(seen.snapshot, now=NOW)
    snap = replace(seen.snapshot, orders={"web/web1": order}, pins=PinsSeen({}, {0: 7}))
    document = status_document(replace(seen, snapshot=snap, applied=decide(snap, before, NOW)))
    shown = document["pools"]["web+ipip"]["members"][0]
    assert (shown["state"], shown["reason"], shown["flows_remembered"]) == ("draining", "drain", 7)
    assert (shown["order"]["until"], shown["until"], shown["drained"]) == (NOW + 60, NOW + 60, False)
    assert document["services"][0]["transition"]["window"] > 20000
    assert document["health"] == {"state": "healthy", "problems": []}
    assert "7 flows, and silent ones" in render_page(document)
    assert "slots in a window" in render(document, Look(width=120, colour=False))


def test_trouble_in_the_fleet_is_degraded() -> None:
    """A director that does not hear us, other tables, a store that cannot be reached, a verdict that was overruled."""
    agreed = sample_agreed()
    lost = replace(agreed, status=replace(agreed.status, connected=False, error="refused", source=Source.LOCAL))
    channel = sample_channel()
    other = replace(channel.peers[0], mismatches={"web ipip": 9.0})
    document = status_document(
        replace(healthy(), agreed=lost, channel=replace(channel, peers=(other, channel.peers[1])))
    )
    problems = "\n".join(document["health"]["problems"])
    for text in (
        "web/web2 is down for this director, up for the fleet (majority)",
        "d2 has another table for web ipip, for 9 s",
        "d3 is silent",
        "the fleet's store cannot be reached, local verdicts count: refused",
    ):
        assert text in problems
    assert "other tables: web ipip" in render(document, Look(width=140, colour=False))
    assert "other table for web ipip" in render_page(document)


def test_degraded_by_what_waits_for_a_restart() -> None:
    """It is said what waits, and by whom; the files are ahead of what is in force."""
    author = Author("alice", "api", "less memory")
    revision = Revision(7, NOW, author, "0123")
    loaded = Loaded(Document(Path("onward.toml"), {}), healthy().snapshot.config, {})
    document = status_document(replace(healthy(), staged=Staged(loaded, revision, ("director.pins: 2 -> 4",))))
    assert document["config"]["staged"] == {
        "revision": 7,
        "at": NOW,
        "who": "alice",
        "via": "api",
        "why": "less memory",
        "takes_restart": ["director.pins: 2 -> 4"],
    }
    said = "revision 7 of the configuration waits for a restart: director.pins: 2 -> 4 (alice, less memory)"
    assert document["health"] == {"state": "degraded", "problems": [said]}
    page = render_page(document)
    assert said.replace(">", "&gt;") in page
    assert "waits for a restart</dt>" in page


def test_degraded_by_a_rejected_reload() -> None:
    """A rejected configuration is degraded, and its problems are in the document."""
    reload = ReloadStatus(False, NOW, "onward.toml", "d", ("onward.toml:3: one", "onward.toml:4: two"))
    document = status_document(replace(healthy(), reload=reload))
    assert document["health"]["state"] == "degraded"
    assert document["config"]["last_reload"]["problems"] == list(reload.problems)
    taken = replace(reload, ok=True, problems=(), warnings=("web: hash",))
    document = status_document(replace(healthy(), reload=taken))
    assert document["config"]["last_reload"]["warnings"] == ["web: hash"]
    assert "taken; web: hash" in render_page(document)


def test_down_by_a_vip_that_is_not_announced() -> None:
    """A VIP that should be announced and is not means down."""
    seen = healthy()
    assert seen.speaker is not None
    document = status_document(replace(seen, speaker=replace(seen.speaker, announced=frozenset(), detail="starting")))
    assert document["health"] == {
        "state": "down",
        "problems": ["VIP 198.51.100.7 is not announced: not_acknowledged (starting)"],
    }


def test_an_interface_that_is_lost_beside_others_is_degraded() -> None:
    """Nothing is withdrawn for it, so that somebody has to be told."""
    why = "interface eth2 has no carrier"
    for key in ("lost_eth2", "slow_path_lost_eth2"):
        document = status_document(replace(healthy(), plane={"kind": "raw", key: why}))
        assert document["health"] == {"state": "degraded", "problems": [why]}
    seen = replace(healthy(), plane={"kind": "raw", "lost_eth1": why})
    assert 'onward_plane_interface_up{interface="eth1"} 0.0' in exposition(seen).decode()


def test_replies_are_never_a_number() -> None:
    """What DSR hides is said in words."""
    document = status_document(observed())
    assert document["replies"] == NOT_VISIBLE
    assert {member["replies"] for pool in document["pools"].values() for member in pool["members"]} == {NOT_VISIBLE}


def test_routes_show_where_wish_and_truth_differ() -> None:
    """A route that is still announced but no longer wanted is listed as such."""
    seen = observed(snapshot=sample_snapshot(health={}))
    routes = {route["prefix"]: route for route in status_document(seen)["routes"]}
    assert routes["198.51.100.7/32"]["acknowledged"]
    assert not routes["198.51.100.7/32"]["wanted"]


def test_every_reason_is_a_drop_or_a_pass() -> None:
    """Frames left to the kernel are no drops."""
    counters = Counters(reasons=dict.fromkeys(Reason, 1))
    document = status_document(observed(counters=counters))
    assert set(document["counters"]["passes"]) == set(PASSES)
    assert set(document["counters"]["drops"]) == set(Reason) - set(PASSES)


def test_members_stand_once_per_pool_and_delivery() -> None:
    """Services refer to their pool by key; ways of delivery differ in who is in rotation, and are told apart."""
    document = status_document(shared())
    assert [service["pool_key"] for service in document["services"]] == ["web+ipip", "web+l2", "web+ipip"]
    assert {service["pool"] for service in document["services"]} == {"web"}
    l3, l2 = document["pools"]["web+ipip"], document["pools"]["web+l2"]
    assert (l3["services"], l2["services"]) == (["s0", "s2"], ["s1"])
    assert l3["traffic_of"] == l2["traffic_of"] == ["s0", "s1", "s2"]
    assert (l3["in_rotation"], l2["in_rotation"]) == (2, 0)
    assert [item["reason"] for item in l2["members"]] == ["not_on_segment"] * 2
    assert [service["in_rotation"] for service in document["services"]] == [2, 0, 2]


@pytest.mark.parametrize(
    ("change", "suffix"),
    [
        ({"encapsulation": Encapsulation.GRE}, "gre"),
        ({"ttl": TtlPolicy.TRANSPARENT}, "ipip+transparent"),
        ({"outer_df": DfPolicy.CLEAR}, "ipip+df_clear"),
        ({"outer_ttl": 9}, "ipip+ttl_9"),
        ({"outer_source": OuterSource.PREFIX}, "ipip+source_prefix"),
    ],
)
def test_what_a_tunnel_is_like_is_another_delivery(change: dict[str, Any], suffix: str) -> None:
    """Two services that differ in nothing but outer headers or TTL have different member indices, so different keys."""
    profile = NetworkProfile("tcp-t", ProfileType.TCP_FAST_PATH, replace(L3, **change), 300)
    document = status_document(observed(snapshot=snapshot(config(service(), service(name="t", profile=profile)))))
    assert list(document["pools"]) == ["web+ipip", f"web+{suffix}"]


def test_size_is_services_plus_members() -> None:
    """With twice the services and twice the members the document is twice as large, not four times."""
    small, large = (len(json.dumps(status_document(shared(count, count)))) for count in (40, 80))
    assert large < 2.1 * small


def test_udp_has_no_new_flows() -> None:
    """Where no packet marks a flow's beginning the number is unknown, never 0; a pool that TCP uses, too, has TCP's."""
    document = status_document(shared(), (2.0, Counters()))
    udp, _, tcp = (service["vips"][0]["traffic"] for service in document["services"])
    assert (udp["packets"], udp["new_flows"], udp["new_flows_per_s"]) == (100, None, None)
    assert (tcp["new_flows"], tcp["new_flows_per_s"]) == (7, 3.5)
    assert member(document, "web/web1")["traffic"]["new_flows"] == 70
    assert member(status_document(observed()), "dns/web11")["traffic"]["new_flows"] is None


def test_hash_keys_can_be_compared() -> None:
    """Directors with the same secret show the same short fingerprint, others a different one, and none the secret."""

    def shown(secret: bytes) -> str:
        document = status_document(observed(snapshot=snapshot(replace(config(), secret=secret))))
        assert secret.decode() not in json.dumps(document)
        return str(document["director"]["hash_key"])

    assert shown(b"one secret of the fleet") == shown(b"one secret of the fleet") != shown(b"another secret, wrong")
    assert len(shown(b"one secret of the fleet")) == 8


def test_rates() -> None:
    """A rate is the difference of two counters over the time between them; None when unknown or going backwards."""
    fast = vip(status_document(observed(), (2.0, sample_counters(0))), VIP)["traffic"]
    assert (fast["packets"], fast["packets_per_s"], fast["new_flows_per_s"]) == (120_000, 60_000.0, 1_500.0)
    assert vip(status_document(observed()), VIP)["traffic"]["packets_per_s"] is None
    backwards = status_document(observed(), (2.0, sample_counters(5)))
    assert vip(backwards, VIP)["traffic"]["packets_per_s"] is None


def test_rates_look_back_one_to_two_seconds() -> None:
    """Whoever looks every second, and however many do, gets rates over one to two seconds."""
    rates, first = Rates(), sample_counters()
    assert rates.since(100.0, first) is None
    assert rates.since(100.5, sample_counters(2)) is None
    assert rates.since(101.0, sample_counters(3)) == (1.0, first)
    assert rates.since(101.7, sample_counters(4)) == (pytest.approx(1.7), first)
    assert rates.since(102.1, sample_counters(5)) == (pytest.approx(1.1), sample_counters(3))


def test_rates_forget() -> None:
    """Counters of long ago say nothing about the present."""
    rates = Rates()
    rates.since(100.0, sample_counters())
    assert rates.since(200.0, sample_counters(2)) is None
    assert rates.since(201.5, sample_counters(3)) == (1.5, sample_counters(2))


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({}, "no plane"),
        ({"kind": "raw", "transmit_eth1": "AF_XDP"}, "raw plane"),
        ({"kind": "xdp", "mode_eth1": "native"}, "xdp plane (native)"),
        ({"kind": "xdp", "mode_eth1": "generic", "mode_eth2": "generic"}, "xdp plane (generic)"),
        (XDP, "xdp plane (eth1 native, eth2 generic)"),
    ],
)
def test_the_plane_is_named_with_its_modes(facts: dict[str, str], name: str) -> None:
    """One word where all interfaces are alike, else one for each."""
    assert status_document(observed(plane=facts))["plane"]["name"] == name


def test_notes_tell_why_the_plane_is_not_faster() -> None:
    """What is generic, missing, slow or a makeshift has its reason; a native plane has nothing to say."""
    raw = {"kind": "raw", "why_not_xdp": "the XDP data plane needs CAP_BPF"}
    none = {"kind": "xdp", "mode_eth1": "none", "why_eth1": "another program is attached"}
    native = {"kind": "xdp", "mode_eth1": "native"}
    notes = [status_document(observed(plane=facts))["plane"]["notes"] for facts in (raw, none, XDP, native)]
    assert notes == [
        ["not the XDP plane: the XDP data plane needs CAP_BPF"],
        ["eth1: no XDP program: another program is attached"],
        [
            "eth2: generic XDP: the driver xyz runs no XDP programs",
            "packets out of eth3: slow path: its driver sends no XDP frames",
        ],
        [],
    ]


def test_samples_have_the_time_of_day_and_names() -> None:
    """The plane's clock becomes seconds since the epoch; protocols have names, or numbers, or are not known."""
    first, *others = samples(observed())
    assert first == {
        "at": NOW - 9.75,
        "clock": 4990.25,
        "what": "new_flow",
        "reason": None,
        "interface": "eth1",
        "source": "192.0.2.7:40000",
        "destination": "198.51.100.7:80",
        "protocol": "tcp",
        "length": 74,
    }
    assert [sample["protocol"] for sample in others] == ["udp", "44", "tcp", None]


def test_the_document_has_the_latest_samples_only() -> None:
    """Its size does not depend on how much happens."""
    events = [replace(sample_packets()[0], at=4000.0 + number) for number in range(100)]
    seen = observed(samples=events)
    assert status_document(seen)["samples"] == samples(seen)[-10:]


def test_a_broken_path_has_its_cause_everywhere() -> None:
    """The own address is well and the path is not: one sentence for status, page and command line."""
    silent = Result(Code.CONNECTION_TIMEOUT, "no answer from VIP 198.51.100.7", 0.4)
    checks = sample_health()
    well = replace(checks[2], verdict=Verdict.UP, last=Result(Code.OK))
    seen = observed(health=(*checks[:2], well, by_path(Verdict.DOWN, silent)))
    document = status_document(seen)
    why = "service up, DSR path broken: no answer from VIP 198.51.100.7"
    assert member(document, "web/web3")["finding"] == why
    assert f"member web/web3 is out: health_down ({why})" in document["health"]["problems"]
    asked = [(check["vantage"], check["path"]) for check in member(document, "web/web3")["checks"]]
    assert asked == [("direct", None), ("path", "198.51.100.7:443 by ipip")]
    assert why in render(document, Look(width=200))
    page = render_page(document)
    assert "probes of 198.51.100.7:443 by ipip" in page
    samples_ = exposition(seen).decode()
    assert 'onward_check_up{member="web/web3",monitor="tcp/port",path="198.51.100.7:443 by ipip"} 0.0' in samples_


@pytest.mark.parametrize(("direct", "alarmed"), [(False, True), (True, False)])
def test_an_mss_that_is_too_large_is_told(direct: bool, alarmed: bool) -> None:
    """With the member always; as a problem only where the director sees what clients see."""
    address = ip_address("203.0.113.3")
    snap = sample_snapshot()
    snap = replace(snap, next_hops={**snap.next_hops, address: hop(3, direct=direct)})
    seen = observed(snapshot=snap, health=(by_path(Verdict.UP, Result(Code.OK), mss=1460),))
    document = status_document(seen)
    (found,) = member(document, "web/web3")["segments"]
    assert (found["mss"], found["limit"], found["near"]) == (1460, 1440, direct)
    assert (found["note"] in document["health"]["problems"]) is alarmed
    assert "set advmss 1440" in render_page(document)
    labels = '{delivery="ipip",member="web/web3",port="443",vip="198.51.100.7"}'
    lines = exposition(seen).decode().splitlines()
    assert f"onward_member_mss_bytes{labels} 1460.0" in lines
    assert f"onward_member_mss_limit_bytes{labels} 1440.0" in lines

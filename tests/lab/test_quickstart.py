"""The whole path with real routers: forward, watch, announce, show. One story, in order, on one lab."""

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from containerlab.tour.lab import Captures, next_hops, rotation, status
from containerlab.tour.quickstart import (
    DIRECTORS,
    MEMBERS,
    PLACES,
    RESPONDER,
    RUN,
    VIPS,
    WIRES,
    kill,
    proofs,
    start,
    url,
)
from tests.netns import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

TRAFFIC = [sys.executable, "-m", "containerlab.tour.traffic"]
HELD = 220
IDLE_S = 6  # longer than session_idle_timeout of the lab's UDP services


def traffic(lab, *arguments):
    said = lab.node("client").run([*TRAFFIC, *arguments], timeout=90, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    return json.loads(said.stdout.splitlines()[-1])


RECOVERS_S = 60
"""What these tests do to members and VIPs within a minute is flapping, which is held against them for a while."""


def rotation_is(lab, member, present, directors=tuple(DIRECTORS)):
    """Every director has the member, in every service of its pools, in rotation (or out of it)."""

    def agreed():
        return all(rotation(status(lab.node(name)), member) == {present} for name in directors)

    try:
        until(agreed, f"{member} in rotation: {present}", RECOVERS_S if present else 15)
    except AssertionError as error:
        raise AssertionError(f"{error}: { {name: views(lab, name, member) for name in directors} }") from None


def views(lab, director, member):
    """What a director says of a member, and why."""
    document = status(lab.node(director)) or {"pools": {}}
    return [
        (one["id"], one["state"], one["reason"], one["detail"], one["flap"])
        for pool in document["pools"].values()
        for one in pool["members"]
        if one["name"] == member.rpartition("/")[2]
    ]


def announced_by(lab, vip, *directors):
    """The router's kernel sends the VIP's packets to exactly these directors."""
    family = 1 if ":" in vip else 0
    wanted = {DIRECTORS[name][family] for name in directors}
    wait_s = RECOVERS_S if len(directors) == len(DIRECTORS) else 15  # who leaves does so at once

    def routed():
        hops = next_hops(lab.node("r1"), vip)
        # FRR gives IPv6 next hops as link-local addresses: then their number must do.
        return len(hops) == len(wanted) if any(hop.startswith("fe80") for hop in hops) else hops == wanted

    until(routed, f"{vip} by {directors or 'nobody'}; now {next_hops(lab.node('r1'), vip)}", wait_s)


@contextmanager
def held(lab, target, connections=HELD):
    """Long connections; gives a function that tells their present state, and checks nothing by itself."""
    process = lab.node("client").popen(
        [*TRAFFIC, "hold", target, "--connections", str(connections), "--interval", "0.2"]
    )
    latest = {"open": {}, "broken": []}

    def read():
        for line in process.stdout:
            if line.endswith("}\n"):  # the last line may be cut
                latest.update(json.loads(line))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def state():
        return latest

    try:
        until(lambda: sum(state()["open"].values()) == connections, f"{connections} connections", 20)
        yield state
    finally:
        process.terminate()
        process.wait(10)
        reader.join(10)
        process.communicate()


def test_the_data_plane_is_the_one_asked_for(lab, plane):
    """Status names the plane, and for XDP that its program is in the driver: nothing of this lab falls back."""
    for name in DIRECTORS:
        facts = status(lab.node(name))["plane"]["facts"]
        assert facts["kind"] == plane
        assert facts.get("mode_eth1", "native") == "native"


def test_every_vip_is_announced_by_both_directors(lab):
    """The router's kernel has two next hops for each VIP, IPv4 and IPv6."""
    for vip in VIPS:
        announced_by(lab, vip, "d1", "d2")


def test_members_are_asked_through_their_own_path(lab):
    """On every VIP, behind a router as well; and behind it the MSS is what clients see, which fits the tunnel."""
    document = status(lab.node("d1"))
    members = [member for pool in document["pools"].values() for member in pool["members"]]
    assert {found["vip"] for member in members for found in member["segments"]} == set(VIPS)
    assert {check["verdict"] for member in members for check in member["checks"]} == {"up"}
    far = [found for member in members for found in member["segments"] if not found["near"]]
    assert {(found["mss"], found["limit"]) for found in far} == {(1440, 1440), (1400, 1400)}
    assert document["health"]["problems"] == []


@pytest.mark.parametrize("vip", VIPS)
def test_tcp_carries_ten_megabytes_each_way(lab, vip):
    """Upload through the director and download past it arrive whole."""
    result = traffic(lab, "transfer", url(vip), "--size", "10000000")
    assert result["upload_ok"]
    assert result["download_ok"]


@pytest.mark.parametrize("vip", VIPS)
def test_udp_reaches_every_member_and_is_answered_from_the_vip(lab, vip):
    """Two hundred flows, every one answered; both members get their share."""
    result = traffic(lab, "udp", url(vip, "udp", 5000), "--flows", "200")
    assert result["failed"] == {}
    (counts,) = result["good"].values()
    assert set(counts) == ({"m1", "m2"} if VIPS[vip] == "L3" else {"m3", "m4"})
    assert min(counts.values()) > 60


def test_captures_prove_no_translation_and_direct_return(lab, tmp_path):
    """What members get is what the client sent, byte for byte; replies never pass a director."""
    capture = Captures(lab, PLACES, tmp_path)
    for vip in VIPS:
        traffic(lab, "transfer", url(vip), "--size", "300000")
        traffic(lab, "udp", url(vip, "udp", 5000), "--flows", "50")
    seen = capture.stop()
    for claim in proofs(lab, seen):
        assert claim.holds, f"{claim.text}: {claim.evidence}"
    # A capture in which a proof could not fail proves nothing: there must be traffic of both protocols.
    for vip in VIPS:
        ours = {address for pair in DIRECTORS.values() for address in pair}
        packets = [packet for packet in seen.received(*WIRES[VIPS[vip]]) if str(packet.source) not in ours]
        wire = [packet for packet in packets if str(packet.destination) == vip]
        assert {packet.protocol for packet in wire} == {6, 17}
        assert len(wire) > 250


def test_the_proofs_can_fail(lab, tmp_path):
    """Traffic to a member's own address, past the directors, proves nothing of a VIP."""
    capture = Captures(lab, PLACES, tmp_path)
    for name in ("m1", "m3"):
        traffic(lab, "transfer", url(MEMBERS[name][0]), "--size", "1000")
    assert not any(claim.holds for claim in proofs(lab, capture.stop()))


def test_a_stopped_member_takes_only_its_own_connections_along(lab):
    """It leaves after `fall`, others' long connections live on, and it comes back after `rise`."""
    vip = "198.51.100.10"
    with held(lab, url(vip)) as state:
        before = dict(state()["open"])
        assert set(before) == {"m1", "m2"}
        stopped = time.monotonic()
        kill(lab.node("m1"), RESPONDER, signal.SIGKILL)
        rotation_is(lab, "m1", False)
        # Two bad results, one a second, the last one at most 0.8 s late.
        assert time.monotonic() - stopped < 6
        result = traffic(lab, "udp", url(vip, "udp", 5000), "--flows", "100")
        assert list(result["good"].values()) == [{"m2": 100}]
        start(lab, "m1", RESPONDER)
        rotation_is(lab, "m1", True)
        time.sleep(0.6)  # two more rounds of questions on every connection
        assert state()["open"] == {"m2": before["m2"]}
        assert {broken["member"] for broken in state()["broken"]} == {"m1"}
    # For the idle time-out after a change, an unknown UDP flow may be an old one, which m2 has; after that it is new.
    time.sleep(IDLE_S)
    result = traffic(lab, "udp", url(vip, "udp", 5000), "--flows", "100")
    (counts,) = result["good"].values()
    assert set(counts) == {"m1", "m2"}


def test_the_vip_goes_with_the_last_member_and_comes_back_with_the_first(lab):
    """BGP follows health: nobody to serve it, no route; one is enough to announce again."""
    vips = [vip for vip, delivery in VIPS.items() if delivery == "L2"]
    for name in ("m3", "m4"):
        kill(lab.node(name), RESPONDER, signal.SIGKILL)
    for vip in vips:
        announced_by(lab, vip)
    views = [service for service in status(lab.node("d1"))["services"] if service["pool"].startswith("l2")]
    assert {service["reason"] for service in views} == {"below_min_members"}
    announced_by(lab, "198.51.100.10", "d1", "d2")
    start(lab, "m4", RESPONDER)
    for vip in vips:
        announced_by(lab, vip, "d1", "d2")
    start(lab, "m3", RESPONDER)
    rotation_is(lab, "m3", True)


def test_a_killed_director_breaks_no_connection(lab):
    """The guard withdraws, the router turns to the other director, and that one computes the same ring."""
    with held(lab, url("198.51.100.10")) as state:
        before = dict(state()["open"])
        killed = time.monotonic()
        kill(lab.node("d1"), RUN, signal.SIGKILL)
        for vip in VIPS:
            announced_by(lab, vip, "d2")
        withdrawn = time.monotonic() - killed
        result = traffic(lab, "udp", url("198.51.100.10", "udp", 5000), "--flows", "200")
        assert result["failed"] == {}
        start(lab, "d1", RUN)
        for vip in VIPS:
            announced_by(lab, vip, "d1", "d2")
        time.sleep(0.6)
        assert state()["open"] == before
        assert state()["broken"] == []
    assert withdrawn < 3
    print(f"d1 killed: no route left after {withdrawn:.2f} s")


def test_a_stopped_process_is_withdrawn_by_the_lease(lab):
    """SIGSTOP: nobody renews the lease, so the guard withdraws; SIGCONT brings the routes back."""
    kill(lab.node("d2"), RUN, signal.SIGSTOP)
    try:
        announced_by(lab, "198.51.100.10", "d1")
    finally:
        kill(lab.node("d2"), RUN, signal.SIGCONT)
    for vip in VIPS:
        announced_by(lab, vip, "d1", "d2")


def test_killed_exabgp_is_started_again_and_gets_every_route_anew(lab):
    """A BGP speaker's death does not touch forwarding, and its successor announces everything."""
    before = status(lab.node("d1"))["director"]["started_at"]
    kill(lab.node("d1"), ("launch.py server",), signal.SIGKILL)
    for vip in VIPS:
        announced_by(lab, vip, "d1", "d2")
    assert status(lab.node("d1"))["director"]["started_at"] == before


def test_rules_that_vanish_are_put_back_and_nothing_fails(lab):
    """Somebody flushes nftables under a director: it notices, repairs, and announces (again, if it had to withdraw)."""
    node = lab.node("d1")
    node.run(["nft", "flush", "ruleset"])
    until(lambda: "198.51.100.10" in node.run(["nft", "list", "ruleset"]).stdout, "the rules are back")
    noticed = ("plane.failed", "plane.guard_restored")  # by a check, or by a change of tables that came before it
    until(lambda: any(event in lab.log("d1").read_text() for event in noticed), "it was noticed")
    for vip in VIPS:
        announced_by(lab, vip, "d1", "d2")
    assert traffic(lab, "udp", url("198.51.100.10", "udp", 5000), "--flows", "100")["failed"] == {}


def test_a_plane_that_cannot_forward_withdraws_though_bgp_is_well(lab):
    """Invariant 2, end to end: no proof, no route. The session stays up all the while."""
    node = lab.node("d1")
    # The plane's kernel guard cannot be put back while nft is out of the way: proof and repair both fail.
    nft = node.run(["sh", "-c", "command -v nft"]).stdout.strip()
    node.run(["mount", "--bind", "/bin/false", nft])
    try:
        nsenter = ["ip", "netns", "exec", node.netns, "nft", "flush", "ruleset"]
        subprocess.run(nsenter, check=True)
        for vip in VIPS:
            announced_by(lab, vip, "d2")
        document = status(node)
        assert document["plane"]["error"]
        vips = [vip for service in document["services"] for vip in service["vips"]]
        assert {vip["reason"] for vip in vips} == {"plane_down"}
        assert [peer["session"] for peer in document["bgp"]["peers"]] == ["up"]
        assert traffic(lab, "udp", url("198.51.100.10", "udp", 5000), "--flows", "100")["failed"] == {}
    finally:
        node.run(["umount", nft])
    for vip in VIPS:
        announced_by(lab, vip, "d1", "d2")


def test_a_dead_link_breaks_no_connection_that_the_other_director_can_carry(lab):
    """d1's interface goes down and comes back: connections stall at most, and none is sent to another member."""
    node = lab.node("d1")
    with held(lab, url("198.51.100.10")) as state:
        before = dict(state()["open"])
        node.run(["ip", "link", "set", "eth1", "down"])
        time.sleep(1.5)
        node.run(["ip", "link", "set", "eth1", "up"])
        # Link down takes IPv6 addresses and every route along.
        node.run(["ip", "-6", "address", "replace", "2001:db8:2::11/64", "dev", "eth1", "nodad"])
        node.run(["ip", "route", "replace", "default", "via", "203.0.113.1"])
        node.run(["ip", "-6", "route", "replace", "default", "via", "2001:db8:2::1"])
        for vip in VIPS:
            announced_by(lab, vip, "d1", "d2")
        time.sleep(2)
        assert {entry["error"] for entry in state()["broken"]} <= {"no answer in time"}
        assert all(count <= before[name] for name, count in state()["open"].items())


def test_a_vip_that_becomes_an_own_address_is_withdrawn(lab):
    """Somebody puts the VIP on the director's loopback: the kernel would take it, so the VIP goes, with the reason."""
    node = lab.node("d1")
    node.run(["ip", "address", "add", "198.51.100.10/32", "dev", "lo"])
    try:
        announced_by(lab, "198.51.100.10", "d2")

        def reasons():
            vips = [vip for service in status(node)["services"] for vip in service["vips"]]
            return {vip["reason"] for vip in vips if vip["vip"] == "198.51.100.10"}

        # Withdrawing comes first, and what is shown is what is in force.
        until(lambda: reasons() == {"local_address"}, "the reason is shown")
    finally:
        node.run(["ip", "address", "del", "198.51.100.10/32", "dev", "lo"])
    announced_by(lab, "198.51.100.10", "d1", "d2")


def test_a_wrong_configuration_changes_nothing(lab):
    """SIGHUP with a bad file: every mistake is told, and the director goes on with what it had."""
    director = lab.node("d1")
    good = director.run(["cat", "/etc/onward/onward.toml"]).stdout
    bad = good.replace("198.51.100.10", "198.51.100.300").replace("send_interval = 1", 'send_interval = "1"')
    before = status(director)
    reload_with(lab, "d1", bad)
    until(lambda: not status(director)["config"]["last_reload"]["ok"], "the reload was rejected")
    after = status(director)
    problems = "\n".join(after["config"]["last_reload"]["problems"])
    assert "198.51.100.300" in problems
    assert "send_interval" in problems
    assert after["config"]["digest"] == before["config"]["digest"]
    announced_by(lab, "198.51.100.10", "d1", "d2")
    assert traffic(lab, "udp", url("198.51.100.10", "udp", 5000), "--flows", "50")["failed"] == {}
    reload_with(lab, "d1", good)
    until(lambda: status(director)["config"]["last_reload"]["ok"], "the good file is accepted again")


def test_a_reload_applies_a_new_weight_without_breaking_what_stays(lab):
    """A good file takes effect at once: m1 disabled gets no new flows, and comes back with the old file."""
    director = lab.node("d1")
    good = director.run(["cat", "/etc/onward/onward.toml"]).stdout
    changed = good.replace('address = "203.0.113.131" }', 'address = "203.0.113.131", enabled = false }')
    assert changed != good
    try:
        reload_with(lab, "d1", changed)
        rotation_is(lab, "l3/m1", False, ["d1"])
        rotation_is(lab, "l3-v6/m1", True, ["d1"])
        rotation_is(lab, "l3/m1", True, ["d2"])
    finally:
        reload_with(lab, "d1", good)
    rotation_is(lab, "m1", True)


def reload_with(lab, name, text):
    """Put *text* in place of the director's configuration file and send SIGHUP."""
    node = lab.node(name)
    # The file is bound read-only into the node; a new one is mounted over it there.
    node.write("/run/onward.toml", text)
    node.run(["mount", "--bind", "/run/onward.toml", "/etc/onward/onward.toml"])
    kill(node, RUN, signal.SIGHUP)


def test_metrics_tell_the_same_as_the_router(lab):
    """What Prometheus reads: VIPs announced, sessions up, packets counted per member."""
    for vip in VIPS:
        announced_by(lab, vip, *DIRECTORS)
    for vip in VIPS:
        traffic(lab, "udp", url(vip, "udp", 5000), "--flows", "100")
    lines = {}

    def counted():
        """A director looks at its counters once a second, whoever asks: the first answer may be from before."""
        lines.clear()
        lines.update(metrics(lab.node("d1")))
        packets = [float(value) for key, value in lines.items() if key.startswith("onward_member_packets_total")]
        return len(packets) == 8 and all(packets)

    try:
        until(counted, "packets to each of the eight members")
    except AssertionError as error:
        told = {
            key: value
            for key, value in lines.items()
            if key.startswith(("onward_member_packets", "onward_member_state"))
        }
        raise AssertionError(f"{error}: {told}") from None
    assert float(lines['onward_bgp_session_up{peer="203.0.113.1"}']) == 1
    announced = {key: value for key, value in lines.items() if key.startswith("onward_vip_announced")}
    assert len(announced) == 4
    assert set(map(float, announced.values())) == {1.0}


def metrics(director):
    """A director's samples: name with labels, and value."""
    program = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
    said = director.run([sys.executable, "-c", program]).stdout
    return dict(line.rsplit(" ", 1) for line in said.splitlines() if line and not line.startswith("#"))


def test_an_orderly_stop_withdraws_first_and_leaves_nothing(lab):
    """SIGTERM: the router turns away without an error at the client; no process, no kernel rule stays."""
    node = lab.node("d2")
    process = lab.node("client").popen([*TRAFFIC, "load", url("198.51.100.10"), url("2001:db8:f::20"), "--rate", "30"])
    try:
        time.sleep(0.5)
        kill(node, RUN, signal.SIGTERM)
        until(lambda: not [c for _, c in node.holder.processes() if "onward" in c or "exabgp" in c], "all ended", 10)
        announced_by(lab, "198.51.100.10", "d1")
        time.sleep(0.5)
    finally:
        process.terminate()
        said = process.communicate(timeout=10)[0]
    failed = [line for line in map(json.loads, said.splitlines()) if line["failed"]]
    assert failed == []
    rules = subprocess.run(["ip", "netns", "exec", node.netns, "nft", "list", "tables"], capture_output=True, text=True)
    assert "onward" not in rules.stdout
    start(lab, "d2", RUN)
    for vip in VIPS:
        announced_by(lab, vip, "d1", "d2")

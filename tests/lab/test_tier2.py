"""Two tiers: directors, nodes with a full proxy, back ends. One story, in order, on one lab.

client -- r1 -- d1, d2 (directors) and t1, t2, t3 (HAProxy) -- b1, b2 (back ends)
"""

import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from appliance.lab.node import Process
from appliance.lab.runner import Lab
from containerlab.tour.captures import Packet
from containerlab.tour.lab import Captures, Seen, rotation, status
from tests.netns import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

TOPOLOGY = Path(__file__).resolve().parents[2] / "containerlab" / "tier2.clab.yml"
TRAFFIC = [sys.executable, "-m", "containerlab.tour.traffic"]
NODES, DIRECTORS, BACK_ENDS = ("t1", "t2", "t3"), ("d1", "d2"), ("b1", "b2")
VIPS = ("198.51.100.10", "[2001:db8:f::10]")
URLS = [f"http://{vip}{port}" for vip in VIPS for port in ("", ":8080")]
"""HTTP and TCP proxies, each over IPv4 and IPv6. The first has tunnels over IPv4, the second over IPv6."""

PLACES = [
    ("client", "eth1"),
    *(("tor", name) for name in DIRECTORS),
    *(("rack", name) for name in NODES),
    *((name, interface) for name in NODES for interface in ("eth1", "eth2")),
]
"""On the cables of directors and nodes, where tunnels are seen; on nodes' interfaces, where they are opened already."""

RUN = ["sh", "/etc/tier2/shared/start.sh"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("tier2")
    topology = Path(shutil.copy(TOPOLOGY, folder))
    shutil.copytree(TOPOLOGY.parent / "tier2", folder / "tier2")
    with Lab.up(topology, name="tier2-tests", reconfigure=True) as running:
        running.wait()
        yield running


def members_are(lab: Lab, *nodes: str) -> None:
    """Every director has exactly these nodes in rotation, in both pools."""
    wanted = {(pool, node) for pool in ("nodes", "nodes-6") for node in nodes}
    found: dict[str, set[tuple[str, str]]] = {}

    def agreed() -> bool:
        for name in DIRECTORS:
            document = status(lab.node(name)) or {"pools": {}}
            members = [(pool["name"], one) for pool in document["pools"].values() for one in pool["members"]]
            found[name] = {(pool, one["name"]) for pool, one in members if one["state"] == "in_rotation"}
        return all(there == wanted for there in found.values())

    try:
        until(agreed, f"{nodes} in rotation", 40)
    except AssertionError as error:
        raise AssertionError(f"{error}: {found}") from None


def ask(lab: Lab, url: str, count: int = 1) -> list[str]:
    """Who has answered, by new connections."""
    script = f"for i in $(seq {count}); do curl -gsS -m 5 {url}/ || echo failed; done"
    return lab.node("client").run(["sh", "-c", script], timeout=60).stdout.split("\n")[:-1]


@contextmanager
def traffic(lab: Lab, *words: str) -> Iterator[list[dict[str, Any]]]:
    """A client's program that runs on; gives its reports, one after the other."""
    process: Process = lab.node("client").popen([*TRAFFIC, *words])
    reports: list[dict[str, Any]] = []

    def read() -> None:
        assert process.stdout is not None
        # The last line may be cut.
        reports.extend(json.loads(line) for line in process.stdout if line.endswith("}\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield reports
    finally:
        process.terminate()
        process.wait(15)
        reader.join(10)
        process.communicate()


def processes(lab: Lab, node: str, words: str) -> list[int]:
    return [pid for pid, line in lab.node(node).holder.processes() if words in line]


def test_every_node_registers_and_directors_follow(lab: Lab) -> None:
    """The configuration names one node; the others have come by themselves, into both pools."""
    members_are(lab, *NODES)
    for name in DIRECTORS:
        written = lab.node(name).run(["cat", "/etc/onward/conf.d/20-nodes.toml"]).stdout
        assert set(re.findall(r'name = "(t\d)"', written)) == set(NODES)
        assert "# Who runs the proxies." in written


@pytest.mark.parametrize("url", URLS)
def test_back_ends_answer_through_every_proxy(lab: Lab, url: str) -> None:
    """HTTP and TCP, IPv4 and IPv6: both back ends answer, and have been asked by nodes, not by the client."""
    answers = ask(lab, url, 12)
    assert {answer.split()[0] for answer in answers} == set(BACK_ENDS)
    asked_by = {answer.split()[1].removeprefix("::ffff:") for answer in answers}
    assert asked_by <= {f"203.0.113.10{n}" for n in (1, 2, 3)}
    assert len(asked_by) > 1


@pytest.mark.parametrize("url", URLS)
def test_five_megabytes_each_way(lab: Lab, url: str) -> None:
    """Upload through the director and download past it arrive whole: segments fit the tunnels."""
    said = lab.node("client").run([*TRAFFIC, "transfer", url, "--size", "5000000"], timeout=60)
    report = json.loads(said.stdout)
    assert report["upload_ok"]
    assert report["download_ok"]


def test_no_node_answers_for_the_vip(lab: Lab) -> None:
    """On the nodes' segment nobody answers ARP for the VIP, and no node announces it: r1 sends to directors only."""
    router = lab.node("r1")
    routes = router.run(["ip", "route", "show", "198.51.100.10"]).stdout
    assert set(re.findall(r"via (\S+)", routes)) == {"203.0.113.11", "203.0.113.12"}
    asked = router.run(["ping", "-c", "1", "-W", "1", "-I", "eth3", "198.51.100.10"], check=False)
    assert asked.returncode != 0
    assert "198.51.100.10 " not in router.run(["ip", "neigh", "show", "dev", "eth3", "nud", "reachable"]).stdout


def captured(lab: Lab, folder: Path, url: str) -> Seen:
    """What one connection leaves on every leg."""
    captures = Captures(lab, PLACES, folder)
    try:
        assert ask(lab, url)[0].split()[0] in BACK_ENDS
    finally:
        seen = captures.stop()
    return seen


def between(packets: list[Packet], source: Any, destination: Any) -> list[Packet]:
    return [packet for packet in packets if (packet.source, packet.destination) == (source, destination)]


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("version", [4, 6])
def test_each_leg(lab: Lab, tmp_path: Path, version: int, outer: int) -> None:
    """Outer D→T with C→V inside; T→S from the node's own address; V→C from the node, and past every director."""
    url = URLS[(version == 6) * 2 + (outer == 6)]
    seen = captured(lab, tmp_path, url)
    client = ip_address({4: "192.0.2.2", 6: "2001:db8:1::2"}[version])
    vip = ip_address({4: "198.51.100.10", 6: "2001:db8:f::10"}[version])
    nodes = {f"t{n}": ip_address({4: f"203.0.113.7{n}", 6: f"2001:db8:3::7{n}"}[outer]) for n in (1, 2, 3)}
    directors = {ip_address({4: f"203.0.113.1{n}", 6: f"2001:db8:2::1{n}"}[outer]) for n in (1, 2)}

    sent = between(seen.packets["client", "eth1"], client, vip)
    tunnelled = {name: between(seen.packets["rack", name], client, vip) for name in NODES}
    (carrier,) = [name for name, packets in tunnelled.items() if packets]
    # Unchanged but for the hops: every packet of the client, and no other; in a tunnel on the cable, not in the node.
    opened = between(seen.packets[carrier, "eth1"], client, vip)
    for packets in (tunnelled[carrier], opened):
        assert [packet.identity for packet in packets] == [packet.identity for packet in sent]
    assert all(packet.outer is None for packet in opened)
    for packet in tunnelled[carrier]:
        assert packet.outer is not None
        assert packet.outer.source in directors
        assert packet.outer.destination == nodes[carrier]

    behind = seen.packets[carrier, "eth2"]
    own = ip_address(f"203.0.113.10{carrier[1]}")
    requests = [packet for packet in behind if packet.destination_port == 80]
    assert requests
    assert {packet.source for packet in requests} == {own}
    assert {packet.destination for packet in behind if packet.source_port == 80} == {own}

    replies = between(seen.packets["client", "eth1"], vip, client)
    left = between(seen.packets["rack", carrier], vip, client)
    assert replies
    assert [packet.identity for packet in left] == [packet.identity for packet in replies]
    assert all(packet.outer is None for packet in left)
    for name in DIRECTORS:
        assert not between(seen.packets["tor", name], vip, client)
    first, shown, answer = sent[0], tunnelled[carrier][0].outer, replies[0]
    assert shown is not None
    print(
        f"\n{shown.source} > {shown.destination} : {client}.{first.source_port} > {vip}.{first.destination_port}"
        f"\n{vip}.{answer.source_port} > {client}.{answer.destination_port}, "
        f"{(answer.time - first.time) * 1000:.2f} ms after the SYN, by {carrier}"
    )


def test_scale_in_and_out_without_an_error(lab: Lab) -> None:
    """A node leaves while connections come, go and stay: no client notices. It waits for its last one, and returns."""
    node = lab.node("t2")
    with traffic(lab, "load", *URLS) as short:
        with traffic(lab, "hold", URLS[1], "--connections", "12", "--interval", "0.2") as held:
            until(lambda: held and sum(held[-1]["open"].values()) == 12, "connections are held", 20)
            (pid,) = processes(lab, "t2", "onward run")
            os.kill(pid, signal.SIGTERM)
            members_are(lab, "t1", "t3")
            seen = len(held)
            until(lambda: len(held) > seen + 4, "a second has passed", 20)
            assert processes(lab, "t2", "haproxy"), "it waits for the connections that it has"
        assert held[-1]["broken"] == []
        until(lambda: not processes(lab, "t2", "onward run"), "t2 has ended", 40)
        assert "198.51.100.10" not in node.run(["ip", "address", "show", "dev", "lo"]).stdout
        assert "onward_member" not in node.run(["nft", "list", "tables"]).stdout
        assert not processes(lab, "t2", "decap run")
        node.start([*RUN, "/etc/tier2/t2"], lab.log("t2"))
        members_are(lab, *NODES)
    good = sum(count for report in short for by_member in report["good"].values() for count in by_member.values())
    errors = {text: count for report in short for text, count in report["errors"].items()}
    print(f"\n{good} short connections, 12 held, errors: {errors}")
    assert good > 200
    assert errors == {}


def test_a_node_without_back_ends_is_not_there(lab: Lab) -> None:
    """What a node cannot reach it does not offer: cut off from both back ends it leaves, and comes back by itself."""
    node = lab.node("t3")
    node.run(["ip", "link", "set", "eth2", "down"])
    try:
        members_are(lab, "t1", "t2")
        assert "failed" not in ask(lab, URLS[0], 8)
    finally:
        node.run(["ip", "link", "set", "eth2", "up"])
    members_are(lab, *NODES)


def test_a_weight_is_told_to_the_running_proxy(lab: Lab) -> None:
    """SIGHUP with another ratio: the runtime API has it, and no worker was replaced."""
    node = lab.node("t1")
    before = processes(lab, "t1", "haproxy")
    services = "/etc/onward/conf.d/10-services.toml"
    node.run(["sed", "-i", 's/address = "203.0.113.105"/&\\nratio = 3/', services])
    (pid,) = processes(lab, "t1", "onward run")
    os.kill(pid, signal.SIGHUP)
    show = (
        "from pathlib import Path; from appliance.tier2.runtime import command; "
        "print(command(Path('/run/onward/haproxy.sock'), 'get weight back-web-proxy/b1'))"
    )
    until(lambda: node.run(["python3", "-c", show]).stdout.startswith("3 "), "b1 has weight 3", 15)
    assert processes(lab, "t1", "haproxy") == before


def test_a_proxy_that_dies_is_noticed(lab: Lab) -> None:
    """Directors ask the VIP through each node's own tunnel: without HAProxy the node is out, and that is all."""
    document = status(lab.node("d1"))
    assert rotation(document, "t3") == {True}
    assert document is not None
    checks = [check for pool in document["pools"].values() for member in pool["members"] for check in member["checks"]]
    assert {check["vantage"] for check in checks} == {"path"}
    for pid in processes(lab, "t3", "onward run") + processes(lab, "t3", "haproxy"):
        os.kill(pid, signal.SIGKILL)
    members_are(lab, "t1", "t2")
    assert "failed" not in ask(lab, URLS[0], 8)

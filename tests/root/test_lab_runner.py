"""The lab runner: topologies become namespaces, and leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.root import call
from appliance.config.problems import ConfigError
from appliance.lab.launchers import FRR_ALWAYS
from appliance.lab.node import LabError
from appliance.lab.runner import STATE, Lab, processes
from tests.netns import until

pytestmark = pytest.mark.root

PREFIX = f"owl{os.getpid()}"

TOPOLOGY = """
name: "@NAME"
prefix: "@PREFIX"
topology:
  nodes:
    client:
      env: {COLOUR: blue}
      hostname: somebody
      binds: ["greeting:/etc/onward/greeting:ro"]
      cmd: sleep 600
    router:
      image: frrouting/frr:latest
      sysctls: {net.ipv4.ip_forward: 1}
      binds: ["frr.conf:/etc/frr/frr.conf:ro", "daemons:/etc/frr/daemons:ro"]
      labels: {onward.ready: "vtysh -c 'show bgp summary'"}
    member:
      exec:
        - ip route add default via 203.0.113.1
        - sh -c 'echo $HOSTNAME | tr a-z A-Z >/run/made'
    tor: {}
    br0|tor: {kind: bridge, network-mode: "container:tor"}
  links:
    - endpoints: ["client:eth1", "router:eth1"]
      mtu: 1400
      ipv4: [192.0.2.2/24, 192.0.2.1/24]
      ipv6: ["2001:db8:1::2/64", "2001:db8:1::1/64"]
    - {endpoints: ["router:eth2", "br0|tor:p1"], ipv4: [203.0.113.1/24]}
    - type: veth
      endpoints:
        - {node: member, interface: eth1, mac: "02:00:00:00:00:2a", ipv4: 203.0.113.9/24}
        - {node: "br0|tor", interface: p2}
"""

FRR = """
hostname router
ip route 198.51.100.0/24 203.0.113.9
router bgp 65000
 bgp router-id 203.0.113.1
 neighbor 203.0.113.9 remote-as 65010
"""


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    (tmp_path / "greeting").write_text("hello\n")
    (tmp_path / "frr.conf").write_text(FRR)
    (tmp_path / "daemons").write_text("zebra=yes\nbgpd=yes\nospfd=no\n")
    file = tmp_path / "t.clab.yml"
    file.write_text(TOPOLOGY.replace("@PREFIX", PREFIX).replace("@NAME", f"owl-{os.getpid()}"))
    return file


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test leaves the machine as it was, whatever it tried."""
    before = traces()
    assert before["processes"] == before["namespaces"] == before["records"] == []
    yield
    until(lambda: traces() == before, "no traces")


def traces(prefix: str = PREFIX) -> dict[str, list[str]]:
    """What this test process's labs have on the machine."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], check=True, capture_output=True, text=True).stdout)
    holders = subprocess.run(
        ["pgrep", "-f", f"holder.py owl-{os.getpid()}"], check=False, capture_output=True, text=True
    )
    return {
        "namespaces": [path.name for path in Path("/run/netns").glob(f"{prefix}*")],
        "interfaces": [link["ifname"] for link in links if link["ifname"].startswith(("eth1", "eth2", "p1", "p2"))],
        "mounts": [
            line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/run/netns/{prefix}" in line
        ],
        "processes": holders.stdout.split(),
        "records": [path.name for path in STATE.glob(f"owl-{os.getpid()}*")],
    }


def test_nodes_are_what_the_file_says(topology: Path) -> None:
    """Addresses, MTU, MAC, bridge, sysctls, environment, host name, binds, exec and cmd are realised; nodes talk."""
    with Lab.up(topology) as lab:
        client, router, member = map(lab.node, ("client", "router", "member"))
        assert (
            client.run(["sh", "-c", "hostname; echo $COLOUR; cat /etc/onward/greeting"]).stdout
            == "somebody\nblue\nhello\n"
        )
        assert "Read-only" in client.run(["sh", "-c", "echo x >/etc/onward/greeting"], check=False).stderr
        assert member.run(["cat", "/run/made"]).stdout == "MEMBER\n"
        (link,) = json.loads(client.run(["ip", "-j", "address", "show", "eth1"]).stdout)
        assert link["mtu"] == 1400
        assert {"192.0.2.2", "2001:db8:1::2"} <= {address["local"] for address in link["addr_info"]}
        (link,) = json.loads(member.run(["ip", "-j", "link", "show", "eth1"]).stdout)
        assert (link["mtu"], link["address"]) == (1500, "02:00:00:00:00:2a")
        assert "tx-checksumming: off" in member.run(["ethtool", "-k", "eth1"]).stdout
        assert "tx-checksumming: off" in lab.node("tor").run(["ethtool", "-k", "p2"]).stdout
        assert router.run(["sysctl", "-n", "net.ipv4.ip_forward"]).stdout == "1\n"
        assert member.run(["sysctl", "-n", "net.ipv4.ip_forward"]).stdout == "0\n"
        client.run(["ip", "route", "add", "default", "via", "192.0.2.1"])
        client.run(["ping", "-c1", "-W2", "203.0.113.9"])
        client.run(["ping", "-c1", "-W2", "2001:db8:1::1"])
        assert [command for node, _, command in processes(lab) if node == "client"] == ["sleep 600"]


def test_frr_runs_with_its_configuration(topology: Path) -> None:
    """An FRR image starts the daemons of its file with frr.conf, and routes reach the kernel within seconds."""
    with Lab.up(topology) as lab:
        lab.wait(10)
        router = lab.node("router")
        summary = json.loads(router.run(["vtysh", "-c", "show bgp summary json"]).stdout)["ipv4Unicast"]
        assert (summary["as"], list(summary["peers"])) == (65000, ["203.0.113.9"])
        until(
            lambda: "via 203.0.113.9" in router.run(["ip", "route", "show", "198.51.100.0/24"]).stdout,
            "the static route",
        )


def test_nothing_is_left_after_down_and_it_comes_up_again(topology: Path) -> None:
    """Twice up and down; afterwards no namespace, interface, mount, process or file of the lab is on the machine."""
    before = traces()
    for _ in range(2):
        with Lab.up(topology) as lab:
            programs = {Path(command.split()[0]).name: pid for _, pid, command in processes(lab)}
            pids = list(programs.values())
            # FRR 9 and later have mgmtd, too.
            assert {"zebra", "staticd", "bgpd", "sleep"} <= set(programs) <= {*FRR_ALWAYS, "bgpd", "sleep"}
            assert len(traces()["namespaces"]) == 4
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        until(lambda: traces() == before, "no traces")
    assert before["namespaces"] == before["records"] == before["processes"] == []


def test_two_labs_from_one_file_do_not_meet(topology: Path) -> None:
    """The same file under two names gives two separate labs; one goes down without harm to the other."""
    name = f"owl-{os.getpid()}-b"
    with Lab.up(topology) as first:
        with Lab.up(topology, name=name) as second:
            assert {lab.name for lab in Lab.all()} >= {first.name, name}
            second.node("client").write("/etc/onward/mine", "x")
            assert first.node("client").run(["ls", "/etc/onward"]).stdout == "greeting\n"
            with pytest.raises(LabError, match="several labs are up"):
                Lab.the_one(str(topology))
            router = first.node("router").netns_path
        assert router.exists()
        first.node("client").run(["ping", "-c1", "-W2", "192.0.2.1"])
        assert Lab.the_one(str(topology)).name == first.name


def test_up_twice_is_refused_with_a_remedy(topology: Path) -> None:
    """A lab that is up is not touched by a second `up`, unless that is told to replace it."""
    with Lab.up(topology) as lab:
        with pytest.raises(LabError, match=r"is up already; `onward lab down"):
            Lab.up(topology)
        with Lab.up(topology, reconfigure=True) as again:
            assert not lab.alive()
            lab.down()  # it has been replaced: what has its names now is not its own
            assert again.alive()
            assert again.node("client").netns_path.exists()
            assert Lab.find(lab.name).nodes == again.nodes


def test_a_dead_lab_is_swept(topology: Path) -> None:
    """When all nodes of a lab have died, `up` clears away what is left of it."""
    lab = Lab.up(topology)
    for node in lab.nodes.values():
        os.kill(node.holder.pid, signal.SIGKILL)
    until(lambda: not lab.alive(), "the nodes' end")
    with pytest.raises(LabError, match="has died"):
        lab.node("client")
    with Lab.up(topology) as again:
        assert again.alive()


def test_a_lab_with_a_dead_node_is_degraded(topology: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`onward lab list` names the nodes that have died, and its JSON says the same."""
    with Lab.up(topology) as lab:
        assert lab.state() == ("up", [])
        os.kill(lab.node("member").holder.pid, signal.SIGKILL)
        until(lambda: lab.state() == ("degraded", ["member"]), "the node's end")
        assert call(["lab", "list"]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{lab.name} ")]
        assert "degraded (member died)" in line
        assert call(["lab", "list", "--json"]) == 0
        (document,) = [item for item in json.loads(capsys.readouterr().out)["labs"] if item["name"] == lab.name]
        assert document["state"] == "degraded"
        assert [node["name"] for node in document["nodes"] if not node["up"]] == ["member"]


def test_a_failing_command_takes_everything_back(topology: Path) -> None:
    """When a node cannot be set up, the error has what the command said, and nothing stays."""
    before = traces()
    text = topology.read_text()
    for old, new, said in (
        ("ip route add default via 203.0.113.1", "ip route add default via 10.9.9.9", "Nexthop has invalid gateway"),
        ("net.ipv4.ip_forward: 1", "net.ipv4.no_such_thing: 1", "this kernel has none of that name"),
        ("/etc/onward/greeting:ro", "/no/such/place", "bind: /no/such/place does not exist"),
    ):
        topology.write_text(text.replace(old, new))
        with pytest.raises(LabError, match=said):
            Lab.up(topology)
    topology.write_text(text)
    (topology.parent / "frr.conf").write_text("router bgp none\n")
    with pytest.raises(LabError, match=r"(?s)router: /etc/frr/frr.conf: .*Unknown command"):
        Lab.up(topology)
    until(lambda: traces() == before, "no traces")


def test_a_killed_runner_leaves_what_down_can_remove(topology: Path) -> None:
    """`up` killed in the middle: what it made is on record, another `up` clears it away as soon as it is told to."""
    before = traces()
    text = topology.read_text()
    topology.write_text(text.replace("ip route add default via 203.0.113.1", "sleep 600"))
    with subprocess.Popen([sys.executable, "-m", "appliance", "lab", "up", str(topology)]) as runner:
        try:
            until(lambda: len(traces()["namespaces"]) == 4, "nodes", 30)
        finally:
            runner.kill()
    topology.write_text(text)
    with pytest.raises(LabError, match="is up already"):
        Lab.up(topology)
    Lab.the_one(str(topology)).down()
    until(lambda: traces() == before, "no traces")


def test_two_runners_do_not_bring_up_the_same_lab(topology: Path) -> None:
    """While one `up` works, another one for the same name is refused."""
    topology.write_text(topology.read_text().replace("ip route add default via 203.0.113.1", "sleep 600"))
    with subprocess.Popen([sys.executable, "-m", "appliance", "lab", "up", str(topology)]) as runner:
        try:
            until(lambda: len(traces()["namespaces"]) == 4, "nodes", 30)
            with pytest.raises(LabError, match="is just being brought up"):
                Lab.up(topology, reconfigure=True)
        finally:
            runner.send_signal(signal.SIGINT)
    until(lambda: traces()["namespaces"] == traces()["records"] == [], "the interrupted runner takes everything back")


def test_terminal(topology: Path) -> None:
    """`onward lab exec` hands the terminal through."""
    with Lab.up(topology) as lab:
        leader, follower = os.openpty()
        command = [sys.executable, "-m", "appliance", "lab", "exec", "--lab", lab.name, "client", "tty"]
        subprocess.run(command, stdin=follower, stdout=follower, check=True, timeout=30)
        assert os.read(leader, 100).decode().strip() == os.ttyname(follower)
        os.close(leader)
        os.close(follower)


def test_a_node_that_does_not_get_ready_is_told(topology: Path) -> None:
    """`wait` gives up at its deadline with the command, what it said, and the end of the node's log."""
    text = topology.read_text().replace("vtysh -c 'show bgp summary'", "sh -c 'echo not yet; exit 3'")
    topology.write_text(text)
    with (
        Lab.up(topology) as lab,
        pytest.raises(
            LabError, match=r"(?s)router is not ready after 0.1 s: .*: exit code 3 not yet; .*router.log ends with: ."
        ),
    ):
        lab.wait(0.1)


def test_programs_end_on_time_out(topology: Path) -> None:
    """A program that takes too long is killed inside the node, not only the nsenter in front of it."""
    with Lab.up(topology) as lab:
        client = lab.node("client")
        with pytest.raises(subprocess.TimeoutExpired):
            client.run(["sleep", "500"], timeout=0.3)
        process = client.popen(["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"])
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(5) == 5
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()
        until(lambda: [c for n, _, c in processes(lab) if n == "client"] == ["sleep 600"], "the end of both programs")


def test_command_line(topology: Path) -> None:
    """`onward lab` brings up, lists, runs with standard input and exit code, and takes down."""

    def onward(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "appliance", "lab", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)

    name = f"owl-{os.getpid()}"
    try:
        up = onward("up", str(topology), "--wait")
        assert up.returncode == 0, up.stderr
        assert up.stdout.startswith(f"lab {name}: 4 nodes up in ")
        assert onward("up", str(topology)).returncode == 1
        assert name in onward("list").stdout
        inside = onward("exec", "--lab", name, "client", "sh", "-c", "cat; exit 9", stdin="through\n")
        assert (inside.returncode, inside.stdout) == (9, "through\n")
        document = json.loads(onward("inspect", name, "--json").stdout)
        assert [node["name"] for node in document["nodes"]] == ["client", "router", "member", "tor"]
        absent = onward("exec", "--lab", name, "nobody", "true")
        assert (absent.returncode, absent.stderr) == (
            5,
            f"onward: lab {name} has no node nobody; it has client, router, member, tor\n",
        )
    finally:
        down = onward("down", str(topology))
    assert (down.returncode, down.stdout) == (0, f"lab {name}: down\n")
    assert onward("down", name).returncode == onward("exec", "--lab", name, "client").returncode == 5
    topology.write_text("name: x")
    bad = onward("up", str(topology))
    assert (bad.returncode, bad.stderr) == (4, f"{topology}:1: topology: missing; add it\n1 problem\n")


def test_a_record_of_another_version_is_told(topology: Path) -> None:
    """A record that cannot be understood is an error with a remedy, and nothing is done to what it stands for."""
    with Lab.up(topology) as lab:
        record = STATE / f"{lab.name}.json"
        good = record.read_text()
        record.write_text(good.replace('"pid_namespace"', '"something_else"'))
        try:
            with pytest.raises(LabError, match="was written by another version"):
                Lab.find(lab.name)
            assert lab.alive()
        finally:
            record.write_text(good)


def test_bad_file_is_told_before_anything_is_made(tmp_path: Path) -> None:
    """A file with mistakes raises the same error as any configuration."""
    file = tmp_path / "x.clab.yml"
    file.write_text("name: x\ntopology: {nodes: {a: {licence: 1}}}")
    with pytest.raises(ConfigError):
        Lab.up(file)

"""Whole directors on one segment without BGP: kernels' neighbour tables follow whoever answers.

client 192.0.2.50    d1, d2: 192.0.2.11, 12    member 192.0.2.21    VIPs 192.0.2.100, 2001:db8:1::100
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.arp.frames import announcement
from tests.netns import PATIENCE, Namespace, namespaces, until

pytestmark = pytest.mark.root

TAKE_OVER_S = 3.0
"""From the death of the one that answered to the first answer of the next: what ARCHITECTURE.md promises."""

START_S = 90.0
"""Within which a director must be there, however busy the machine is: nothing is measured by it."""

VIPS = ("192.0.2.100", "2001:db8:1::100")
HOSTS = {"d1": 11, "d2": 12, "m": 21, "c": 50, "x": 66}

CONFIG = """
schema_version = 1

[director]
name = "{name}"
interfaces = ["eth1"]
plane = "{plane}"
runtime_dir = "{folder}/{name}"

[fleet]
secret_file = "fleet.key"
[[fleet.director]]
name = "d1"
address = "192.0.2.11"
[[fleet.director]]
name = "d2"
address = "192.0.2.12"

[[network_profile]]
name = "l2"
type = "tcp_fast_path"
dsr = {{ type = "l2" }}

[[pool]]
name = "web"
[[pool.member]]
address = "192.0.2.21"

[[pool]]
name = "web6"
[[pool.member]]
address = "2001:db8:1::21"
"""

SERVICE = """
[[virtual_service]]
name = "{name}"
vips = ["{vip}"]
ports = [8080]
network_profile = "l2"
pool = "{pool}"
ha = "active_standby"
arp = true
"""

ECHO = """
import socket, sys, threading
def serve(sock):
    while data := sock.recv(100):
        sock.sendall(data)
for address in sys.argv[1:]:
    server = socket.create_server((address, 8080), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    def accept(server=server):
        while True:
            threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
    threading.Thread(target=accept).start()
print("ready", flush=True)
"""

TALK = """
import select, socket, sys, time
sock = socket.create_connection((sys.argv[1], 8080), timeout=60)
print("ready", flush=True)
longest = number = 0
while not select.select([sys.stdin], [], [], 0.02)[0]:  # until that is closed
    began = time.monotonic()
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    longest = max(longest, time.monotonic() - began)
    number += 1
print(number, longest, flush=True)
"""

SHOUT = """
import socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("eth1", 0))
sock.send(bytes.fromhex(sys.argv[1]))
"""


@dataclass
class Stage:
    folder: Path
    spaces: dict[str, Namespace]
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        for name in names:
            with (self.folder / f"{name}.log").open("a") as output:
                command = [sys.executable, "-m", "appliance", "run", str(self.folder / f"{name}.toml")]
                self.processes[name] = subprocess.Popen(
                    self.spaces[name].command(*command), stdout=output, stderr=output
                )

    def python(self, role: str, text: str, *arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            self.spaces[role].command(sys.executable, "-c", text, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes[f"{role}-{arguments[0]}"] = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def onward(self, name: str, *arguments: str) -> str:
        command = self.spaces[name].command(sys.executable, "-m", "appliance", *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def phases(self, name: str) -> dict[str, dict]:
        """By VIP, what a director's status says."""
        text = self.onward(name, "status", "--json")
        document = json.loads(text) if text.startswith("{") else {"services": []}
        return {vip["vip"]: vip["arp"] for service in document["services"] for vip in service["vips"]}

    def answers(self, name: str) -> bool:
        found = self.phases(name)
        return len(found) == len(VIPS) and all(arp["phase"] == "answering" for arp in found.values())

    def events(self, name: str, event: str) -> list[dict]:
        lines = (self.folder / f"{name}.log").read_text().splitlines()
        return [found for line in lines if line.startswith("{") and (found := json.loads(line))["event"] == event]

    def mac(self, role: str) -> str:
        return re.search(r"link/ether (\S+)", self.spaces[role].ip("link show eth1")).group(1)  # type: ignore[union-attr]

    def neighbour(self, vip: str) -> str:
        """Where the client's kernel sends packets for a VIP to; asks if it does not know."""
        found = re.search(r"lladdr (\S+)", self.spaces["c"].ip(f"neigh show {vip} dev eth1"))
        return found.group(1) if found is not None else ""

    def ping(self, vip: str) -> bool:
        command = self.spaces["c"].command("ping", "-c1", "-W1", vip)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@contextmanager
def staged(folder: Path, plane: str) -> Iterator[Stage]:
    with namespaces("w", *HOSTS, prefix="owarp") as (wire, *rest):
        spaces = dict(zip(HOSTS, rest, strict=True))
        wire.ip("link add br0 type bridge")
        wire.ip("link set br0 up")
        for name, space in spaces.items():
            space.ip(f"link add eth1 type veth peer name to-{name} netns {wire.name}")
            wire.run("ethtool", "-K", f"to-{name}", "tx", "off")
            space.run("ethtool", "-K", "eth1", "tx", "off")
            wire.ip(f"link set to-{name} master br0 up")
            if name == "m":  # before it has the VIPs
                space.sysctl(net__ipv4__conf__all__arp_ignore=1, net__ipv4__conf__all__arp_announce=2)
                for vip in VIPS:
                    space.ip(f"addr add {vip}/{128 if ':' in vip else 32} dev lo")
            space.ip(f"addr add 192.0.2.{HOSTS[name]}/24 dev eth1")
            space.ip(f"addr add 2001:db8:1::{HOSTS[name]}/64 dev eth1 nodad")
            space.ip("link set eth1 up")
        (folder / "fleet.key").write_bytes(b"the secret of a fleet on a segment")
        (folder / "fleet.key").chmod(0o600)
        services = "".join(
            SERVICE.format(name=f"web{number}", vip=vip, pool=pool)
            for number, (vip, pool) in enumerate(zip(VIPS, ("web", "web6"), strict=True))
        )
        for name in ("d1", "d2"):
            (folder / f"{name}.toml").write_text(CONFIG.format(name=name, plane=plane, folder=folder) + services)
        stage = Stage(folder, spaces)
        try:
            stage.python("m", ECHO, *VIPS)
            stage.start("d1", "d2")
            until(lambda: stage.answers("d1"), "d1 answers", START_S)
            yield stage
        finally:
            stage.end()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The XDP plane has the raw one behind it, so it shows both; with --long, the raw plane by itself as well."""
    planes = ("xdp", "raw") if metafunc.config.getoption("--long") else ("xdp",)
    metafunc.parametrize("stage", planes, indirect=True, scope="module")


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("arp")
    try:
        with staged(folder, str(request.param)) as made:
            yield made
    finally:
        for log in folder.glob("*.log"):
            print(f"--- {log.name}\n{log.read_text()[-6000:]}")


def test_one_answers_and_the_other_stands_by(stage: Stage) -> None:
    """The client's kernel learns d1 for both VIPs, and pings them; d2 says that d1 answers. When entries get old, they
    are confirmed by who answers."""
    for vip in VIPS:
        until(lambda vip=vip: stage.ping(vip), f"{vip} is pinged")
        assert stage.neighbour(vip) == stage.mac("d1")
        stage.spaces["c"].ip(f"neigh change {vip} dev eth1 nud probe")
        until(lambda vip=vip: "REACHABLE" in stage.spaces["c"].ip(f"neigh show {vip} dev eth1"), f"{vip} is confirmed")
    until(
        lambda: {(arp["phase"], arp["why"]) for arp in stage.phases("d2").values()} == {("silent", "d1 answers")},
        "d2 stands by",
    )
    assert not stage.events("d2", "arp.answering")
    until(lambda: all(arp["answers"] >= 1 for arp in stage.phases("d1").values()), "d1 counts its answers")


def test_neighbours_move_when_the_director_is_killed(stage: Stage) -> None:
    """Killed, d1 is replaced within the promised time: the client's kernel sends to d2, and connections that were there
    go on. When d1 is back, it takes over again, and no connection waits for it for long."""
    until(lambda: stage.answers("d1"), "d1 answers", START_S)
    talks = [stage.python("c", TALK, vip) for vip in VIPS]
    stage.processes["d1"].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: all(stage.neighbour(vip) == stage.mac("d2") for vip in VIPS), "the client sends to d2", TAKE_OVER_S)
    took = time.monotonic() - killed
    assert took <= TAKE_OVER_S * PATIENCE
    for vip in VIPS:
        until(lambda vip=vip: stage.ping(vip), f"{vip} is pinged")
    stage.processes["d1"].wait()
    stage.start("d1")
    until(lambda: all(stage.neighbour(vip) == stage.mac("d1") for vip in VIPS), "the client sends to d1", START_S)
    until(lambda: {arp["phase"] for arp in stage.phases("d2").values()} == {"silent"}, "d2 is silent")
    for talk in talks:
        out, _ = talk.communicate()
        assert talk.returncode == 0
        number, longest = out.split()
        assert int(number) > 50
        # What was lost while nobody answered, TCP sends again after a while that doubles.
        assert float(longest) < 2.5 * TAKE_OVER_S * PATIENCE


def test_a_drained_director_is_relieved(stage: Stage) -> None:
    """Drained, d1 answers until d2 does; the way back is the same. So is the end of a director that is stopped."""
    until(lambda: stage.answers("d1"), "d1 answers", START_S)
    path = str(stage.folder / "d1.toml")
    stage.onward("d1", "drain", "--config", path)
    until(lambda: stage.answers("d2"), "d2 answers")
    until(lambda: {arp["phase"] for arp in stage.phases("d1").values()} == {"silent"}, "d1 is silent")
    stage.onward("d1", "undrain", "--config", path)
    until(lambda: stage.answers("d1"), "d1 answers again", START_S)
    stage.processes["d1"].send_signal(signal.SIGTERM)
    stage.processes["d1"].wait(60)
    silent = stage.events("d1", "arp.silent")[-1]
    assert silent["reason"] == "d2 answers"
    assert all(stage.neighbour(vip) == stage.mac("d2") for vip in VIPS)
    stage.start("d1")
    until(lambda: stage.answers("d1"), "d1 answers once more", START_S)


def test_a_foreign_owner_is_found_out(stage: Stage) -> None:
    """A machine that takes a VIP while we answer is reported by name and place; one that has it before a director
    begins keeps it."""
    until(lambda: stage.answers("d1"), "d1 answers", START_S)
    thief = stage.spaces["x"]
    thief.ip(f"addr add {VIPS[0]}/24 dev eth1")
    thief.run(
        sys.executable,
        "-c",
        SHOUT,
        announcement(ip_address(VIPS[0]), bytes.fromhex(stage.mac("x").replace(":", ""))).hex(),
    )
    found = until(lambda: stage.events("d1", "arp.conflict"), "d1 reports it")
    assert (found[-1]["vip"], found[-1]["mac"]) == (VIPS[0], stage.mac("x"))  # type: ignore[index]
    stage.processes["d2"].kill()
    stage.processes["d2"].wait()
    stage.processes["d1"].kill()
    stage.processes["d1"].wait()
    stage.start("d1")
    until(lambda: stage.phases("d1").get(VIPS[0], {}).get("phase") == "conflict", "d1 leaves it alone", START_S)
    assert stage.phases("d1")[VIPS[0]]["why"] == f"{stage.mac('x')} has it"
    until(lambda: stage.phases("d1")[VIPS[1]]["phase"] == "answering", "the other VIP is ours")
    thief.ip(f"addr del {VIPS[0]}/24 dev eth1")
    until(lambda: stage.answers("d1"), "d1 takes what is free", 20.0)

"""Three whole directors, two routers and a member on one wire: FRR talks eBGP with each director, BIRD iBGP.

FRR 192.0.2.1 (AS 65000)    BIRD 192.0.2.2 (AS 65010)    d1, d2, d3: 192.0.2.11 to 13    member 192.0.2.21
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.netns import Namespace, namespaces, until
from tests.root.bgp_lab import FRR, alive, children

DIRECTORS = {"d1": "11", "d2": "12", "d3": "13"}
FRR_ROUTER, BIRD_ROUTER = "192.0.2.1", "192.0.2.2"
MEMBER = "192.0.2.21"
PORT = 8080
"""Where the watched member is asked."""

BGPD = """
router bgp 65000
 bgp router-id 192.0.2.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 timers bgp 3 9
 neighbor directors peer-group
 neighbor directors remote-as 65010
 neighbor directors advertisement-interval 0
 neighbor directors timers connect 1
 neighbor 192.0.2.11 peer-group directors
 neighbor 192.0.2.12 peer-group directors
 neighbor 192.0.2.13 peer-group directors
 address-family ipv4 unicast
  maximum-paths 16
  neighbor directors activate
 exit-address-family
 address-family ipv6 unicast
  maximum-paths 16
  neighbor directors activate
 exit-address-family
"""

BIRD = """
log stderr all;
router id 192.0.2.2;
protocol device { scan time 2; }
protocol direct { ipv4; ipv6; }
protocol kernel k4 { merge paths on limit 16; ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel k6 { merge paths on limit 16; ipv6 { import none; export where source = RTS_BGP; }; }
template bgp director {
  local 192.0.2.2 as 65010;
  hold time 9;
  connect retry time 1;
  error wait time 1, 10;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
protocol bgp d1 from director { neighbor 192.0.2.11 as 65010; }
protocol bgp d2 from director { neighbor 192.0.2.12 as 65010; }
protocol bgp d3 from director { neighbor 192.0.2.13 as 65010; }
"""

CONFIG = """
schema_version = 1

[director]
name = "{name}"
interfaces = ["eth1"]
plane = "raw"
runtime_dir = "{folder}/{name}"
{director}

[fleet]
secret_file = "fleet.key"
{fleet}
[bgp]
local_as = 65010
router_id = "192.0.2.{host}"
next_hop_v6 = "2001:db8:1::{host}"
{bgp}

[[bgp.peer]]
address = "192.0.2.1"
remote_as = 65000
labels = ["outside"]

[[bgp.peer]]
address = "192.0.2.2"
remote_as = 65010
labels = ["inside"]

[[network_profile]]
name = "udp-l3"
type = "udp_fast_path"

[[health_monitor]]
name = "answers"
type = "tcp"
send_interval = 0.2
receive_timeout = 0.15
monitor_port = 8080
successful_checks = 2
failed_checks = 2

[[pool]]
name = "web"
[[pool.member]]
address = "192.0.2.21"

[[pool]]
name = "watched"
health_monitors = ["answers"]
[[pool.member]]
address = "192.0.2.21"
"""

SERVICE = """
[[virtual_service]]
name = "{name}"
vips = {vips}
ports = [53]
network_profile = "udp-l3"
pool = "{pool}"
{rest}
"""


@dataclass(frozen=True)
class Way:
    """A way to a VIP, as a router knows it."""

    director: str
    med: int | None
    preference: int | None
    as_path: tuple[int, ...]
    communities: frozenset[str]
    large: frozenset[str]
    chosen: bool


@dataclass
class Stage:
    folder: Path
    spaces: dict[str, Namespace]
    frr: int
    """Of the first process of FRR."""
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    # -- directors

    def configure(self, services: str, director: str = "", bgp: str = "") -> None:
        """Write the configuration of all directors."""
        fleet = "".join(
            f'[[fleet.director]]\nname = "{name}"\naddress = "192.0.2.{host}"\n' for name, host in DIRECTORS.items()
        )
        for name, host in DIRECTORS.items():
            text = CONFIG.format(name=name, host=host, folder=self.folder, fleet=fleet, director=director, bgp=bgp)
            (self.folder / f"{name}.toml").write_text(text + services)

    def start(self, *names: str) -> None:
        for name in names:
            with (self.folder / f"{name}.log").open("a") as output:
                command = [sys.executable, "-m", "appliance", "run", str(self.folder / f"{name}.toml")]
                self.processes[name] = subprocess.Popen(
                    self.spaces[name].command(*command), stdout=output, stderr=output
                )

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def onward(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = self.spaces[name].command(sys.executable, "-m", "appliance", *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def order(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command for the control socket."""
        return self.onward(name, *arguments, "--config", str(self.folder / f"{name}.toml"))

    def status(self, name: str) -> dict:
        done = self.onward(name, "status", "--json")
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def events(self, name: str) -> list[dict]:
        lines = (self.folder / f"{name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def end(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is None:
                process.kill()
            process.wait()
            pid_file = self.folder / name / "exabgp.pid"
            if pid_file.exists() and (text := pid_file.read_text().strip()) and alive(int(text)):
                os.kill(int(text), signal.SIGKILL)
                until(lambda text=text: not alive(int(text)), "ExaBGP is gone")

    # -- routers

    def vtysh(self, *commands: str) -> str:
        """FRR's own shell, inside its mounts."""
        (inner,) = children(self.frr)
        arguments = [word for command in commands for word in ("-c", command)]
        return self.spaces["f"].run("nsenter", f"--mount=/proc/{inner}/ns/mnt", "vtysh", "-d", "bgpd", *arguments)

    def frr_paths(self, vip: str) -> dict[str, Way]:
        """By director, what FRR's RIB has."""
        family, length = ("ipv6", 128) if ":" in vip else ("ipv4", 32)
        found = json.loads(self.vtysh(f"show bgp {family} unicast {vip}/{length} json") or "{}")
        paths = [
            Way(
                _director(path["peer"]["peerId"]),
                path.get("metric"),
                path.get("locPrf"),
                tuple(map(int, path["aspath"]["string"].split())),
                frozenset(path.get("community", {}).get("list", ())),
                frozenset(path.get("largeCommunity", {}).get("list", ())),
                path.get("bestpath", {}).get("overall", False) or path.get("multipath", False),
            )
            for path in found.get("paths", ())
        ]
        return {path.director: path for path in paths}

    def bird_paths(self, vip: str) -> dict[str, Way]:
        """By director, what BIRD's RIB has."""
        shell = ["birdc", "-s", str(self.folder / "bird.ctl"), "show", "route", "all", "for", vip]
        done = subprocess.run(self.spaces["b"].command(*shell), capture_output=True, text=True, check=False)
        assert not done.returncode or "Network not found" in done.stdout, done.stdout  # it ends with 1 then
        text = done.stdout
        paths = {}
        for part in re.split(r"\n(?=\S*\s+unicast \[d)", text):
            if (head := re.search(r"unicast \[(d\d) [^\n]*", part)) is None:
                continue
            values = dict(re.findall(r"BGP\.(\w+): ?([^\n]*)", part))
            paths[head[1]] = Way(
                head[1],
                int(values["med"]) if "med" in values else None,
                int(values["local_pref"]),
                tuple(map(int, values.get("as_path", "").split())),
                frozenset(":".join(pair) for pair in re.findall(r"\((\d+),(\d+)\)", values.get("community", ""))),
                frozenset(
                    ":".join(part)
                    for part in re.findall(r"\((\d+), ?(\d+), ?(\d+)\)", values.get("large_community", ""))
                ),
                "*" in head[0],
            )
        return paths

    def fib(self, router: str, vip: str) -> set[str]:
        """The directors to which a router's kernel sends packets for a VIP."""
        version = "-6 " if ":" in vip else ""
        (route,) = json.loads(self.spaces[router].ip(f"-j {version}route show {vip}") or "[]") or [{}]
        hops = route.get("nexthops") or ([route] if "gateway" in route else [])
        return {_director(hop["gateway"]) for hop in hops}

    def fib_becomes(self, vip: str, *names: str, routers: str = "fb", deadline_s: float = 30.0) -> float:
        """Wait until the kernels of routers send packets to just these; the seconds it took."""
        began = time.monotonic()
        for router in routers:
            until(
                lambda router=router: self.fib(router, vip) == set(names),
                f"{router}: {vip} by {names}, not {self.fib(router, vip)}",
                deadline_s,
            )
        return time.monotonic() - began


def _director(address: str) -> str:
    host = re.split(r"[.:]", address)[-1]
    return next(name for name, number in DIRECTORS.items() if number == host)


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Routers that run; directors are started by the test."""
    folder.chmod(0o777)  # FRR writes its logs as its own user
    (folder / "fleet.key").write_bytes(bytes(range(32)))
    (folder / "fleet.key").chmod(0o600)
    (folder / "bgpd.conf").write_text(BGPD)
    (folder / "bird.conf").write_text(BIRD)
    hosts = {"f": "1", "b": "2", "m": "21", **DIRECTORS}
    with namespaces("w", *hosts, prefix="owha") as (wire, *others):
        spaces = dict(zip(hosts, others, strict=True))
        wire.ip("link add br0 type bridge mcast_snooping 0")
        wire.ip("link set br0 up")
        for name, space in spaces.items():
            space.ip(f"link add eth1 type veth peer name to-{name} netns {wire.name}")
            for where, interface in ((space, "eth1"), (wire, f"to-{name}")):
                where.run("ethtool", "-K", interface, "tx", "off")
                where.ip(f"link set {interface} up")
            wire.ip(f"link set to-{name} master br0")
            space.ip(f"addr add 192.0.2.{hosts[name]}/24 dev eth1")
            space.ip(f"addr add 2001:db8:1::{hosts[name]}/64 dev eth1 nodad")
        inside = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", FRR.format(folder=folder)]
        control = ["-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid"]
        with (folder / "routers.log").open("w") as output:
            routers = [
                subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=folder)
                for command in (spaces["f"].command(*inside), spaces["b"].command("bird", "-f", *control))
            ]
        made = Stage(folder, spaces, routers[0].pid)
        try:
            for name in "fb":
                until(lambda name=name: spaces[name].run("ss", "-Hltn", "sport", "=", ":179"), "a router listens", 30.0)
            yield made
        finally:
            made.end()
            for process in routers:
                for pid in [process.pid, *children(process.pid)]:
                    os.kill(pid, signal.SIGKILL)
                process.wait()

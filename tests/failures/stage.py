"""A fleet to break: a client behind a router, directors and a member on one wire, and real traffic through all of it.

    client 203.0.113.2 ── router 192.0.2.1 ──┬── d1 192.0.2.11
                                             ├── d2 192.0.2.12, and so on
                                             └── member 192.0.2.21, which answers the client through the router

The wire is a bridge: a cable that is cut at a director is not seen at the router, as behind any switch. On it may be
other routers, 192.0.2.101 and so on, that misbehave (`tests.root.raw_bgp`).
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tests.failures.ends import CHECK_PORT, PORT
from tests.netns import Namespace, namespaces, until, veth
from tests.root.bgp_lab import alive, children
from tests.root.plane_rig import inside
from tests.supervisor import Supervisor

VIP = "198.51.100.7"
ROUTER = "192.0.2.1"
BFD_MS = 100
HOLD_S = 9
HOSTILE_AS = 65001
API = ("127.0.0.1", 8080)

FRR = """
for place in /run/frr /etc/frr /var/tmp/frr; do
    mkdir -p $place && mount -t tmpfs -o mode=1777 tmpfs $place || exit 1
done
cp {folder}/bgpd.conf /etc/frr/bgpd.conf
touch /etc/frr/zebra.conf /etc/frr/bfdd.conf /etc/frr/vtysh.conf
/usr/lib/frr/zebra -u frr -g frr -A 127.0.0.1 -P 0 --log file:{folder}/zebra.log &
until [ -S /run/frr/zserv.api ]; do sleep 0.02; done
/usr/lib/frr/bfdd -u frr -g frr -A 127.0.0.1 -P 0 --log file:{folder}/bfdd.log &
while true; do /usr/lib/frr/bgpd -u frr -g frr -A 127.0.0.1 -P 0 --log file:{folder}/bgpd.log; done
"""
"""Somebody starts bgpd again at once when it has ended."""

BGPD = """
router bgp 65000
 bgp router-id 192.0.2.1
 no bgp ebgp-requires-policy
 timers bgp 3 {hold}
 neighbor directors peer-group
 neighbor directors remote-as 65010
 neighbor directors advertisement-interval 0
 neighbor directors timers connect 1
{neighbors}
 address-family ipv4 unicast
  maximum-paths 16
 exit-address-family
"""

BIRD = """
log stderr all;
router id 192.0.2.1;
protocol device {{ scan time 2; }}
protocol kernel {{ merge paths on limit 16; ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol bfd {{ interface "*" {{ min rx interval {bfd} ms; min tx interval {bfd} ms; multiplier 3; }}; }}
template bgp director {{
  local 192.0.2.1 as 65000;
  hold time {hold};
  connect retry time 1;
  error wait time 1, 10;
  {wants_bfd}
  ipv4 {{ import all; export none; }};
}}
{neighbors}
"""

CONFIG = """
schema_version = 1

[director]
name = "{name}"
interfaces = ["eth1"]
plane = "{plane}"
runtime_dir = "{folder}/{name}"

[fleet]
secret_file = "fleet.key"
{fleet}
[bgp]
local_as = 65010
router_id = "{address}"
hold_down = 0

[[bgp.peer]]
address = "192.0.2.1"
remote_as = 65000
hold_time = {hold}
{bfd}
{peers}
[[network_profile]]
name = "udp-l2"
type = "udp_fast_path"
dsr = {{ type = "l2" }}

[[health_monitor]]
name = "answers"
type = "tcp"
send_interval = 0.2
receive_timeout = 0.15
monitor_port = {check_port}
successful_checks = 2
failed_checks = 2

[[pool]]
name = "web"
health_monitors = ["answers"]
[[pool.member]]
address = "192.0.2.21"

[[virtual_service]]
name = "web"
vips = ["{vip}"]
ports = [{port}]
network_profile = "udp-l2"
pool = "web"
{ha}
"""


@dataclass
class Stage:
    folder: Path
    router: str
    spaces: dict[str, Namespace]
    directors: tuple[str, ...]
    best: tuple[str, ...]
    """Those that routers are to use while all are well; the others in the order in which they take over."""
    spares: tuple[str, ...]
    with_bfd: bool
    hostile: dict[str, Path] = field(default_factory=dict)
    """By address: what routers that misbehave say of it."""
    hostile_processes: list[subprocess.Popen] = field(default_factory=list)
    routing: subprocess.Popen | None = None
    member: subprocess.Popen | None = None
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)
    supervisor: Supervisor | None = None
    """Who keeps what the first director leaves to the next process."""
    product: Path | None = None
    """Where the product is that directors are started with; None: here."""

    # -- directors

    def start(self, *names: str) -> None:
        for name in names:
            with (self.folder / f"{name}.log").open("a") as output:
                command = [sys.executable, "-m", "tests.failures.director", "run", str(self.folder / f"{name}.toml")]
                inherit: list[int] = []
                environment = dict(os.environ)
                if self.supervisor is not None and name == self.directors[0]:
                    command, inherit = self.supervisor.command(command)
                    environment = self.supervisor.environment()
                self.processes[name] = subprocess.Popen(
                    self.spaces[name].command(*command),
                    stdout=output,
                    stderr=output,
                    pass_fds=inherit,
                    env=environment,
                    cwd=self.product,
                )

    def exabgp(self, name: str) -> int | None:
        path = self.folder / name / "exabgp.pid"
        text = path.read_text().strip() if path.exists() else ""
        return int(text) if text and alive(int(text)) else None

    def pids(self, name: str) -> list[int]:
        """All processes in a namespace."""
        listed = subprocess.run(["ip", "netns", "pids", self.spaces[name].name], capture_output=True, text=True)
        return [int(word) for word in listed.stdout.split()]

    def status(self, name: str) -> dict[str, Any]:
        """What its API says; empty when it does not answer."""
        connection = HTTPConnection(*API, timeout=5.0)
        try:
            connection.sock = inside(self.spaces[name], lambda: socket.create_connection(API, 5.0))
            connection.request("GET", "/api/v1/status")
            return dict(json.loads(connection.getresponse().read()))
        except (OSError, HTTPException):
            return {}
        finally:
            connection.close()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / f"{name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    # -- the router

    def start_router(self) -> None:
        folder = self.folder
        if self.router == "frr":
            inside = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", FRR.format(folder=folder)]
            command = self.spaces["r"].command(*inside)
        else:
            control = ["-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid"]
            command = self.spaces["r"].command("bird", "-f", *control)
        with (folder / "router.log").open("a") as output:
            self.routing = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=folder)
        until(lambda: self.spaces["r"].run("ss", "-Hltn", "sport", "=", ":179"), f"{self.router} listens", 30.0)

    def start_hostile(self, number: int, ways: Sequence[str]) -> None:
        address = f"192.0.2.{101 + number}"
        self.spaces["h"].ip(f"addr add {address}/24 dev eth1")
        self.hostile[address] = self.folder / f"hostile{number}.log"
        command = [sys.executable, "-m", "tests.root.raw_bgp", str(HOSTILE_AS), "179", address, *ways]
        with self.hostile[address].open("w") as output:
            self.hostile_processes.append(
                subprocess.Popen(self.spaces["h"].command(*command), stdout=output, stderr=output)
            )

    def said(self, address: str) -> list[dict[str, Any]]:
        """What has happened at a router that misbehaves."""
        return [json.loads(line) for line in self.hostile[address].read_text().splitlines() if line.startswith("{")]

    def kill_router(self) -> None:
        """The routing protocol's process dies; whoever watches over it starts it again."""
        if self.router == "frr":
            (bgpd,) = [pid for pid in self.pids("r") if Path(f"/proc/{pid}/comm").read_text() == "bgpd\n"]
            os.kill(bgpd, signal.SIGKILL)
        else:
            self._end_router()
            self.start_router()

    def _end_router(self) -> None:
        if self.routing is not None:
            for pid in [self.routing.pid, *children(self.routing.pid)]:
                os.kill(pid, signal.SIGKILL)
            self.routing.wait()

    def fib(self) -> set[str]:
        """The directors to which the router's kernel sends packets for the VIP."""
        (route,) = json.loads(self.spaces["r"].ip(f"-j route show {VIP}") or "[]") or [{}]
        hops = route.get("nexthops") or ([route] if "gateway" in route else [])
        return {f"d{int(hop['gateway'].rpartition('.')[2]) - 10}" for hop in hops}

    def fib_becomes(self, *names: str, deadline_s: float = 30.0) -> None:
        until(lambda: self.fib() == set(names), f"{VIP} by {names}, not by {self.fib()}", deadline_s)

    @contextmanager
    def never_without_a_route(self) -> Iterator[None]:
        """
        Raises:
            AssertionError: the router's kernel had no route for the VIP at some moment, looked at every few ms.
        """
        assert self.routing is not None
        table = Path(f"/proc/{self.routing.pid}/net/route")
        entry = f"\t{int.from_bytes(ip_address(VIP).packed, 'little'):08X}\t"
        missing: list[float] = []
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.005):
                if entry not in table.read_text():
                    missing.append(time.monotonic())

        assert entry in table.read_text()
        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        assert not missing, f"no route for the VIP {len(missing)} times, first {missing[0]:.3f}"

    def order(self, name: str, *arguments: str) -> None:
        """A command for a director's control socket."""
        command = [sys.executable, "-m", "appliance", *arguments, "--config", str(self.folder / f"{name}.toml")]
        subprocess.run(self.spaces[name].command(*command), check=True, capture_output=True)

    def left(self, *gone: str) -> set[str]:
        """The directors that are to have the VIP when some are gone."""
        order = [name for name in (*self.best, *self.spares) if name not in gone]
        return set(order[: len(self.best)])

    def is_well(self) -> bool:
        """All directors have sessions, with BFD where that is meant, and the router uses those that it should."""
        if self.fib() != set(self.best):
            return False
        for name in self.directors:
            peer = self.peer(name)
            if peer.get("session") != "up" or not peer["routes_sent"]:
                return False
            if self.with_bfd and peer["bfd"]["state"] != "up":
                return False
        return True

    def peer(self, name: str) -> dict[str, Any]:
        """The router as a director sees it; empty when nobody answers."""
        bgp = self.status(name).get("bgp") or {"peers": []}
        return next((peer for peer in bgp["peers"] if peer["address"] == ROUTER), {})

    def gets_well(self, deadline_s: float = 100.0) -> None:
        until(self.is_well, f"all is well; {VIP} by {self.fib()}", deadline_s)

    # -- the member

    def start_member(self) -> None:
        command = self.spaces["m"].command(sys.executable, "-m", "tests.failures.ends", "member", VIP)
        self.member = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.member.stdout is not None
        assert self.member.stdout.readline() == "ready\n"

    def kill_member(self) -> None:
        if self.member is not None:
            self.member.kill()
            self.member.wait()
            assert self.member.stdout is not None
            self.member.stdout.close()
            self.member = None

    # -- the client

    @contextmanager
    def traffic(self) -> Iterator[dict[str, Any]]:
        """The dictionary has what the client says when the traffic has ended."""
        command = self.spaces["c"].command(sys.executable, "-m", "tests.failures.ends", "client", VIP)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        said: dict[str, Any] = {}
        try:
            yield said
            said |= json.loads(process.communicate(timeout=30)[0])
        finally:
            process.kill()
            process.communicate()

    def end(self) -> None:
        for name, process in self.processes.items():
            for pid in self.pids(name):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.wait()
        self.kill_member()
        self._end_router()
        for process in self.hostile_processes:
            process.kill()
            process.wait()


@contextmanager
def stage(
    folder: Path,
    router: str = "frr",
    *,
    directors: int = 2,
    plane: str = "raw",
    bfd: bool = True,
    ha: str = "active_active",
    primaries: int = 1,
    order: Sequence[str] = (),
    hostile: Sequence[Sequence[str]] = (),
    supervisor: Supervisor | None = None,
) -> Iterator[Stage]:
    """A router that runs, a member that answers, and directors that announce.

    Args:
        folder: for all files.
        router: `frr` or `bird`.
        directors: how many.
        plane: theirs.
        bfd: whether routers and directors watch each other.
        ha: the mode of the virtual service.
        primaries: for `n_plus_m`.
        order: the directors by rank, for modes with ranks.
        hostile: how other routers misbehave, each in these ways.
        supervisor: of the first director.
    """
    names = tuple(f"d{number + 1}" for number in range(directors))
    hosts = (
        {"m": 21, "r": 1} | ({"h": 100} if hostile else {}) | {name: 11 + number for number, name in enumerate(names)}
    )
    first = {"active_active": directors, "active_standby": 1, "n_plus_m": primaries}[ha]
    ranked = tuple(order) or names
    folder.chmod(0o777)  # FRR writes its logs as its own user
    peers = "".join(
        f'[[bgp.peer]]\naddress = "192.0.2.{101 + number}"\nremote_as = {HOSTILE_AS}\nhold_time = {HOLD_S}\n'
        for number in range(len(hostile))
    )
    write_files(folder, names, plane, bfd=bfd, ha=_ha(ha, primaries, ranked), peers=peers)
    with ExitStack() as stack:
        wire, client, *others = stack.enter_context(namespaces("w", "c", *hosts, prefix="owx"))
        spaces = {"w": wire, "c": client, **dict(zip(hosts, others, strict=True))}
        cable(spaces, hosts)
        made = Stage(folder, router, spaces, names, ranked[:first], ranked[first:], bfd, supervisor=supervisor)
        stack.callback(made.end)
        made.start_router()
        made.start_member()
        for number, ways in enumerate(hostile):
            made.start_hostile(number, ways)
        made.start(*names)
        made.gets_well()
        yield made


def _ha(ha: str, primaries: int, ranked: Sequence[str]) -> str:
    more = {"n_plus_m": f"primaries = {primaries}", "active_standby": f"prefer = {json.dumps(list(ranked))}"}
    return f'ha = "{ha}"\n{more.get(ha, "")}'


def write_files(folder: Path, names: Sequence[str], plane: str, *, bfd: bool, ha: str, peers: str) -> None:
    addresses = {name: f"192.0.2.{11 + number}" for number, name in enumerate(names)}
    (folder / "fleet.key").write_bytes(bytes(range(32)))
    (folder / "fleet.key").chmod(0o600)
    lines = [f" neighbor {address} peer-group directors" for address in addresses.values()]
    lines += [f" neighbor {address} bfd 3 {BFD_MS} {BFD_MS}" for address in addresses.values() if bfd]
    (folder / "bgpd.conf").write_text(BGPD.format(neighbors="\n".join(lines), hold=HOLD_S))
    protocols = [
        f"protocol bgp {name} from director {{ neighbor {address} as 65010; }}" for name, address in addresses.items()
    ]
    wants_bfd = "bfd on;" if bfd else ""
    text = BIRD.format(neighbors="\n".join(protocols), bfd=BFD_MS, wants_bfd=wants_bfd, hold=HOLD_S)
    (folder / "bird.conf").write_text(text)
    fleet = "".join(
        f'[[fleet.director]]\nname = "{name}"\naddress = "{address}"\n' for name, address in addresses.items()
    )
    for name, address in addresses.items():
        (folder / f"{name}.toml").write_text(
            CONFIG.format(
                name=name,
                plane=plane,
                folder=folder,
                fleet=fleet,
                address=address,
                hold=HOLD_S,
                bfd=f"bfd = {{ interval = {BFD_MS / 1000}, multiplier = 3 }}" if bfd else "",
                check_port=CHECK_PORT,
                vip=VIP,
                port=PORT,
                ha=ha,
                peers=peers,
            )
        )


def cable(spaces: dict[str, Namespace], hosts: dict[str, int]) -> None:
    wire = spaces["w"]
    wire.ip("link add br0 type bridge mcast_snooping 0")
    wire.ip("link set br0 up")
    for name, host in hosts.items():
        space = spaces[name]
        space.ip(f"link add eth1 type veth peer name to-{name} netns {wire.name}")
        for where, interface in ((space, "eth1"), (wire, f"to-{name}")):
            where.run("ethtool", "-K", interface, "tx", "off")
            where.ip(f"link set {interface} up")
        wire.run("ethtool", "-K", f"to-{name}", "gro", "on")  # else it takes no frames of an XDP program
        wire.ip(f"link set to-{name} master br0")
        space.ip(f"addr add 192.0.2.{host}/24 dev eth1")
    veth(spaces["c"], "eth0", spaces["r"], "eth0")
    for name, host in (("c", 2), ("r", 1)):
        spaces[name].ip(f"addr add 203.0.113.{host}/24 dev eth0")
    spaces["c"].ip("route add default via 203.0.113.1")
    spaces["r"].sysctl(
        net__ipv4__ip_forward=1, net__ipv4__fib_multipath_hash_policy=1, net__ipv4__conf__all__send_redirects=0
    )
    spaces["m"].sysctl(net__ipv4__conf__all__arp_ignore=1, net__ipv4__conf__all__arp_announce=2)
    spaces["m"].ip(f"addr add {VIP}/32 dev lo")
    spaces["m"].ip(f"route add default via {ROUTER}")


def version(router: str) -> str:
    """Of the router's software, for people."""
    command = {"frr": ["/usr/lib/frr/bgpd", "--version"], "bird": ["bird", "--version"]}[router]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return f"{router.upper()} {found[0] if found else '?'}"


def worst_ms(said: dict[str, Any]) -> float:
    """The longest time that any flow had no service; infinite when it did not come back."""
    return 1000 * max((float("inf") if end is None else end - began for began, end in said["outages"]), default=0.0)

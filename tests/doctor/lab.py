"""The lab: a director, a member beside it, one behind a router, a client, a place for another director, and a machine
that has no part in it.

client c0 -- d0 director d1 -- switch -- s0 near
                                 |
              other e1, guest x0 + -- r0 router r1 -- f0 far
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.cli.orders import OrderError, ask
from tests.netns import Namespace, namespaces, until, veth

REPOSITORY = Path(__file__).resolve().parents[2]

WEB, WEB6, ECHO, FLAT = "198.51.100.1", "2001:db8:f::1", "198.51.100.2", "198.51.100.3"
VIPS = (WEB, WEB6, ECHO, FLAT)
NEAR, NEAR6, FAR, ROUTER = "203.0.113.2", "2001:db8:2::2", "192.0.2.130", "203.0.113.254"
AGENT_KEY = "what agents and directors of the lab know"

CONFIG = """
schema_version = 1

[director]
name = "{name}"
interfaces = ["{interface}"]
plane = "{plane}"
runtime_dir = "{folder}/{name}"

[doctor]
interval = 0
on_change = false
agent_secret_file = "agent.key"

[fleet]
secret_file = "fleet.key"

{fleet}

[[health_monitor]]
name = "page"
type = "http"
send_interval = 0.5

[[health_monitor]]
name = "echo"
type = "udp"
request = "hello"
response = "hello"
send_interval = 0.5

[[network_profile]]
name = "tunnel"
type = "tcp_fast_path"
dsr = {{ type = "l3", encapsulation = "ipip" }}

[[network_profile]]
name = "datagrams"
type = "udp_fast_path"
dsr = {{ type = "l3", encapsulation = "ipip" }}

[[network_profile]]
name = "flat"
type = "tcp_fast_path"
dsr = {{ type = "l2" }}

[[pool]]
name = "web"
health_monitors = ["page"]
flap_half_life = 0
passive = true
passive_share = 1
[[pool.member]]
name = "near"
address = "203.0.113.2"
ratio = {ratio}
[[pool.member]]
name = "far"
address = "192.0.2.130"

[[pool]]
name = "echo"
health_monitors = ["echo"]
flap_half_life = 0
[[pool.member]]
name = "near"
address = "203.0.113.2"

[[pool]]
name = "flat"
health_monitors = ["page"]
flap_half_life = 0
[[pool.member]]
name = "near"
address = "203.0.113.2"

[[virtual_service]]
name = "web"
vips = ["198.51.100.1", "2001:db8:f::1"]
ports = [80]
network_profile = "tunnel"
pool = "web"

[[virtual_service]]
name = "echo"
vips = ["198.51.100.2"]
ports = [5000]
network_profile = "datagrams"
pool = "echo"

[[virtual_service]]
name = "flat"
vips = ["198.51.100.3"]
ports = [80]
network_profile = "flat"
pool = "flat"
"""

FLEET = "".join(
    f'[[fleet.director]]\nname = "{name}"\naddress = "{address}"\n'
    for name, address in (("d1", "203.0.113.1"), ("d2", "203.0.113.3"))
)

SYSCTLS = "net.ipv4.conf.all.arp_ignore = 1\nnet.ipv4.conf.all.arp_announce = 2\n"
NETPLAN = "network: {version: 2, ethernets: {lo: {addresses: [" + ", ".join(f'"{vip}"' for vip in VIPS) + "]}}}\n"


@dataclass
class Lab:
    """Everything, up and well."""

    folder: Path
    plane: str
    client: Namespace
    director: Namespace
    other: Namespace
    switch: Namespace
    near: Namespace
    router: Namespace
    far: Namespace
    guest: Namespace
    with_other: bool = True
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, space: Namespace, *words: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                space.command(sys.executable, "-m", *words), cwd=REPOSITORY, stdout=log, stderr=log
            )

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)

    def said(self, name: str, word: str) -> None:
        """Wait until a process has said that."""
        log = self.folder / f"{name}.log"

        def there() -> bool:
            assert self.processes[name].poll() is None, log.read_text()
            return word in log.read_text()

        until(there, f"{name} says {word}: {log.read_text()}", 30)

    def serve(self, name: str) -> None:
        space = self.near if name == "near" else self.far
        self.start(f"{name}-responder", space, "appliance", "lab", "responder", "--name", name)
        until(lambda: listens(space, 80), f"{name} listens", 20)

    def decapsulate(self, name: str) -> None:
        """With the decapsulator of ours, for directors only."""
        space, interface = (self.near, "s0") if name == "near" else (self.far, "f0")
        words = [word for vip in VIPS for word in ("--vip", vip)]
        sources = ("--from", "203.0.113.1/32", "--from", "203.0.113.3/32")
        self.start(f"{name}-decap", space, "appliance", "decap", "run", "--interface", interface, *sources, *words)
        self.said(f"{name}-decap", "decapsulating")

    def write(self, name: str, *, ratio: int = 1) -> Path:
        """A director's configuration."""
        path = self.folder / f"{name}.toml"
        interface = "d0" if name == "d1" else "e1"
        fleet = FLEET if self.with_other else ""
        path.write_text(
            CONFIG.format(
                name=name, interface=interface, plane=self.plane, folder=self.folder, ratio=ratio, fleet=fleet
            )
        )
        return path

    def root(self, name: str) -> Path:
        return self.folder / f"root-{name}"

    @property
    def socket(self) -> Path:
        return self.folder / "d1" / "control.sock"

    def doctor(self) -> dict[str, Any]:
        """What `onward doctor -o json` says, without the time that it takes to start."""
        try:
            return ask(self.socket, "POST", "/v1/doctor", {}, timeout_s=120)
        except OrderError as error:
            raise AssertionError(f"{error}\n{(self.folder / 'd1.log').read_text()[-3000:]}") from error


def listens(space: Namespace, port: int) -> bool:
    return bool(space.run("ss", "-Hln", f"sport = :{port}").strip())


def on_loopback(space: Namespace, vip: str, verb: str = "add") -> None:
    space.ip(f"-6 addr {verb} {vip}/128 dev lo" if ":" in vip else f"addr {verb} {vip}/32 dev lo")


@contextmanager
def lab(folder: Path, plane: str = "raw", *, other: bool = True) -> Iterator[Lab]:
    """A lab in which nothing is broken; gone at the end.

    Args:
        folder: for files and logs.
        plane: the directors' data plane.
        other: whether a second director may come: one that is alone need not wait for it.
    """
    names = ("c", "d", "e", "b", "s", "r", "f", "x")
    with namespaces(*names, prefix="owdoc") as (client, director, second, switch, near, router, far, guest):
        made = Lab(folder, plane, client, director, second, switch, near, router, far, guest, other)
        try:
            _wire(made)
            _start(made)
            yield made
        finally:
            for name in list(made.processes):
                made.stop(name)


def _wire(made: Lab) -> None:
    veth(made.client, "c0", made.director, "d0")
    made.switch.ip("link add br0 type bridge")
    made.switch.ip("link set br0 up")
    ports = (
        (made.director, "d1", "pd"),
        (made.other, "e1", "pe"),
        (made.near, "s0", "ps"),
        (made.router, "r0", "pr"),
        (made.guest, "x0", "px"),
    )
    for space, name, port in ports:
        veth(space, name, made.switch, port)
        made.switch.ip(f"link set {port} master br0")
    veth(made.router, "r1", made.far, "f0")
    for space, name, *addresses in (
        (made.client, "c0", "192.0.2.2/25", "2001:db8:1::2/64"),
        (made.director, "d0", "192.0.2.1/25", "2001:db8:1::1/64"),
        (made.director, "d1", "203.0.113.1/24", "2001:db8:2::1/64"),
        (made.other, "e1", "203.0.113.3/24", "2001:db8:2::3/64"),
        (made.near, "s0", f"{NEAR}/24", f"{NEAR6}/64"),
        (made.router, "r0", f"{ROUTER}/24", "2001:db8:2::fe/64"),
        (made.router, "r1", "192.0.2.129/25", "2001:db8:3::1/64"),
        (made.far, "f0", f"{FAR}/25", "2001:db8:3::2/64"),
        (made.guest, "x0", "203.0.113.99/24"),
    ):
        for address in addresses:
            space.ip(f"addr add {address} dev {name}{' nodad' if ':' in address else ''}")
    made.director.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    made.router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    for space in (made.director, made.other):
        space.ip(f"route add 192.0.2.128/25 via {ROUTER}")
        space.ip("-6 route add 2001:db8:3::/64 via 2001:db8:2::fe")
    made.director.ip("route add default via 192.0.2.2")
    made.director.ip("-6 route add default via 2001:db8:1::2")
    made.other.ip("route add default via 203.0.113.1")
    made.other.ip("-6 route add default via 2001:db8:2::1")
    made.client.ip("route add default via 192.0.2.1")
    made.client.ip("-6 route add default via 2001:db8:1::1")
    made.router.ip("route add default via 203.0.113.1")
    made.router.ip("-6 route add default via 2001:db8:2::1")
    made.near.ip("route add default via 203.0.113.1 advmss 1440")
    made.near.ip(f"route replace 203.0.113.0/24 dev s0 src {NEAR} advmss 1440")
    made.near.ip("-6 route add default via 2001:db8:2::1 advmss 1420")
    made.near.ip("-6 route replace 2001:db8:2::/64 dev s0 metric 64 advmss 1420")
    made.far.ip("route add default via 192.0.2.129 advmss 1440")
    made.far.ip("-6 route add default via 2001:db8:3::1 advmss 1420")
    for name, space in (("near", made.near), ("far", made.far)):
        space.sysctl(net__ipv4__conf__all__arp_ignore=1, net__ipv4__conf__all__arp_announce=2)
        for vip in VIPS:
            on_loopback(space, vip)
        etc = made.root(name) / "etc"
        for file, text in (("sysctl.d/90-onward.conf", SYSCTLS), ("netplan/90-onward.yaml", NETPLAN)):
            (etc / file).parent.mkdir(parents=True, exist_ok=True)
            (etc / file).write_text(text)
    made.client.run("ethtool", "-K", "c0", "gro", "on")
    made.near.run("ethtool", "-K", "s0", "gro", "on")


def _start(made: Lab) -> None:
    (made.folder / "fleet.key").write_text("0123456789abcdef")
    (made.folder / "agent.key").write_text(AGENT_KEY)
    for name, space in (("near", made.near), ("far", made.far)):
        made.start(f"{name}-responder", space, "appliance", "lab", "responder", "--name", name)
        words = ("--secret-file", str(made.folder / "agent.key"), "--root", str(made.root(name)))
        made.start(f"{name}-agent", space, "appliance", "agent", *words)
        made.decapsulate(name)
    made.start("d1", made.director, "appliance", "run", str(made.write("d1")))
    made.said("d1", "director.started")
    until(lambda: listens(made.near, 7118) and listens(made.far, 7118), "agents listen", 20)
    calm(made)


def calm(made: Lab) -> None:
    """Wait until health monitors have found all members up: from then on nothing moves by itself."""
    found: dict[str, Any] = {}

    def well() -> bool:
        found.update(members(made))
        return bool(found) and all(state == "in_rotation" for state in found.values())

    try:
        until(well, "all members are in rotation", 60)
    except AssertionError as error:
        raise AssertionError(f"{found}\n{(made.folder / 'd1.log').read_text()[-3000:]}") from error


def members(made: Lab) -> dict[str, str]:
    """States by name, as the director's control socket tells."""
    return {one["id"]: one["state"] for one in ask(made.socket, "GET", "/v1/members")["members"]}

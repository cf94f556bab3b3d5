"""Members asked through the DSR path by a whole director: up, broken in every way that the own address does not show.

client c0 -- d0 director d1 -- s0 member, on each data plane. The member is in a pool for every delivery, and has every
VIP on its loopback interface.
"""

import hashlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.netns import Namespace, namespaces, until, veth
from tests.root.plane_rig import REPOSITORY, inside

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

MEMBER = {4: "203.0.113.2", 6: "2001:db8:2::2"}
PERIOD_S = 0.5

POOLS = {
    "l2": ('type = "l2"', MEMBER[4]),
    "ipip": ('type = "l3", encapsulation = "ipip"', MEMBER[4]),
    "gre": ('type = "l3", encapsulation = "gre"', MEMBER[4]),
    "gue": ('type = "l3", encapsulation = "gue"', MEMBER[4]),
    "ipip6": ('type = "l3", encapsulation = "ipip"', MEMBER[6]),
}
"""Delivery and member's address by pool. All have VIPs of both families, so all mixes of families are here."""

VIPS = {name: {4: f"198.51.100.{n}", 6: f"2001:db8:f::{n}"} for n, name in enumerate(POOLS, 1)}
OTHERS = {4: "198.51.100.9", 6: "2001:db8:f::9"}
"""VIPs of the pool that is asked by monitors of other kinds."""

TUNNELS = {"ipip": "IP in IP", "gre": "GRE", "gue": "GUE", "ipip6": "IP in IP"}

HEAD = """
schema_version = 1

[director]
name = "d1"
interfaces = ["d0"]
plane = "{plane}"
runtime_dir = "{folder}/run"

[fleet]
secret_file = "fleet.key"

[[health_monitor]]
name = "page"
type = "http"
vantage = "both"
send_interval = {period}
receive_timeout = {limit}
quick_start = false

[[health_monitor]]
name = "echo"
type = "udp"
request = "hello"
response = "hello"
vantage = "path"
send_interval = {period}
receive_timeout = {limit}
quick_start = false

[[health_monitor]]
name = "machine"
type = "ping"
send_interval = {period}
receive_timeout = {limit}

[[health_monitor]]
name = "syn"
type = "tcp"
half_open = true
send_interval = {period}
receive_timeout = {limit}

[[health_monitor]]
name = "upload"
type = "tcp"
request = "{upload}"
response = "{digest} 4000"
send_interval = {period}
receive_timeout = {limit}

[[network_profile]]
name = "udp-ipip"
type = "udp_fast_path"
dsr = {{ type = "l3" }}

[[pool]]
name = "echo"
health_monitors = ["echo"]
[[pool.member]]
name = "m"
address = "203.0.113.2"

[[virtual_service]]
name = "echo"
vips = ["198.51.100.2"]
ports = [5000]
network_profile = "udp-ipip"
pool = "echo"

[[network_profile]]
name = "kinds"
type = "tcp_fast_path"
dsr = {{ type = "l3", encapsulation = "gre" }}

[[pool]]
name = "kinds"
health_monitors = ["machine", "syn", "upload"]
[[pool.member]]
name = "m"
address = "203.0.113.2"

[[virtual_service]]
name = "kinds"
vips = ["198.51.100.9", "2001:db8:f::9"]
ports = [80]
network_profile = "kinds"
pool = "kinds"
"""

UPLOAD = "PUT /sink HTTP/1.1\\r\\nHost: m\\r\\nContent-Length: 4000\\r\\n\\r\\n" + 4000 * "x"
"""Several full segments: with the MSS that members advertise at first, they do not fit the tunnel."""

DIGEST = hashlib.sha256(4000 * b"x").hexdigest()

BODY = """
[[network_profile]]
name = "{name}"
type = "tcp_fast_path"
dsr = {{ {dsr} }}

[[pool]]
name = "{name}"
health_monitors = ["page"]
[[pool.member]]
name = "m"
address = "{address}"

[[virtual_service]]
name = "{name}"
vips = ["{four}", "{six}"]
ports = [80]
network_profile = "{name}"
pool = "{name}"
"""


@dataclass
class Bench:
    """A running director and its member."""

    client: Namespace
    director: Namespace
    member: Namespace
    log: Path
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, space: Namespace, *words: str) -> None:
        with self.log.with_name(f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                space.command(sys.executable, "-m", *words), cwd=REPOSITORY, stdout=log, stderr=log
            )

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        process.wait(15)

    def serve(self) -> None:
        self.start("responder", self.member, "appliance", "lab", "responder", "--name", "m")

    def decapsulate(self) -> None:
        vips = [word for pool in (*VIPS.values(), OTHERS) for vip in pool.values() for word in ("--vip", vip)]
        sources = ("--from", "203.0.113.1/32", "--from", "2001:db8:2::1/128")
        self.start("decap", self.member, "appliance", "decap", "run", "--interface", "s0", *sources, *vips)

    def status(self) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            with urllib.request.urlopen("http://127.0.0.1:8080/api/v1/status", timeout=5) as answer:
                return dict(json.load(answer))

        return inside(self.director, ask)

    def one(self, pool: str) -> dict[str, Any]:
        """The member, as it is in a pool."""
        found = [view for view in self.status()["pools"].values() if view["name"] == pool]
        return dict(found[0]["members"][0])

    def wait(self, state: str, *pools: str, finding: str = "") -> None:
        """Until the member is in that state in these pools, and for that reason."""
        seen: dict[str, Any] = {}

        def reached() -> bool:
            views = {view["name"]: view["members"][0] for view in self.status()["pools"].values()}
            seen.update({pool: views[pool] for pool in pools})
            return all(one["state"] == state and finding in one["finding"] for one in seen.values())

        try:
            until(reached, f"{pools} {state}", 30)
        except AssertionError as error:
            raise AssertionError(
                {pool: (one["state"], one["reason"], one["finding"], one["checks"]) for pool, one in seen.items()}
            ) from error


@pytest.fixture(scope="module", params=["raw", "xdp"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    plane, folder = request.param, tmp_path_factory.mktemp(request.param)
    values = {"plane": plane, "folder": folder, "period": PERIOD_S, "limit": PERIOD_S * 0.8}
    text = HEAD.format(**values, upload=UPLOAD, digest=DIGEST)
    for name, (dsr, address) in POOLS.items():
        text += BODY.format(name=name, dsr=dsr, address=address, four=VIPS[name][4], six=VIPS[name][6])
    (folder / "onward.toml").write_text(text)
    (folder / "fleet.key").write_text("0123456789abcdef")
    with namespaces("c", "d", "s", prefix="owpath") as (client, director, member), ExitStack() as stack:
        made = Bench(client, director, member, folder / "director.log")
        veth(client, "c0", director, "d0")
        veth(director, "d1", member, "s0")
        for space, name, four, six in (
            (client, "c0", "192.0.2.2/24", "2001:db8:1::2/64"),
            (director, "d0", "192.0.2.1/24", "2001:db8:1::1/64"),
            (director, "d1", "203.0.113.1/24", "2001:db8:2::1/64"),
            (member, "s0", "203.0.113.2/24", "2001:db8:2::2/64"),
        ):
            space.ip(f"addr add {four} dev {name}")
            space.ip(f"addr add {six} dev {name} nodad")
        for space, four, six in (
            (client, "192.0.2.1", "2001:db8:1::1"),
            (director, "192.0.2.2", "2001:db8:1::2"),
            (member, "203.0.113.1", "2001:db8:2::1"),
        ):
            space.ip(f"route add default via {four}")
            space.ip(f"-6 route add default via {six}")
        director.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        member.sysctl(net__ipv4__conf__all__arp_ignore=1, net__ipv4__conf__all__arp_announce=2)
        client.run("ethtool", "-K", "c0", "gro", "on")
        member.run("ethtool", "-K", "s0", "gro", "on")
        for pool in (*VIPS.values(), OTHERS):
            for vip in pool.values():
                on_loopback(member, vip)
        stack.callback(lambda: [made.stop(name) for name in list(made.processes)])
        made.serve()
        made.decapsulate()
        made.start("director", director, "appliance", "run", str(folder / "onward.toml"))
        try:
            until(lambda: reachable(made), "the director runs", 30)
        except AssertionError as error:
            raise AssertionError((folder / "director.log").read_text()) from error
        made.wait("in_rotation", "echo", *POOLS)
        yield made


def reachable(bench: Bench) -> bool:
    try:
        return bool(bench.status())
    except OSError:
        assert bench.processes["director"].poll() is None, bench.log.read_text()
        return False


def on_loopback(space: Namespace, vip: str, verb: str = "add") -> None:
    space.ip(f"-6 addr {verb} {vip}/128 dev lo" if ":" in vip else f"addr {verb} {vip}/32 dev lo")


@contextmanager
def without(bench: Bench, vip: str) -> Iterator[None]:
    """The member has that VIP no more."""
    on_loopback(bench.member, vip, "del")
    try:
        yield
    finally:
        on_loopback(bench.member, vip)


def test_the_path_is_asked_on_all_vips_of_all_deliveries(bench: Bench) -> None:
    """Every VIP by the member's delivery with the monitor's question, every port half open, and the own address."""

    def checks(name: str) -> dict[tuple[str, str | None], str]:
        return {(check["monitor"], check["path"]): check["verdict"] for check in bench.one(name)["checks"]}

    def known(name: str) -> bool:
        return "unknown" not in checks(name).values()

    for name in POOLS:
        delivery = name.rstrip("6")
        places = [f"{VIPS[name][4]}:80 by {delivery}", f"[{VIPS[name][6]}]:80 by {delivery}"]
        wanted = {(monitor, place): "up" for monitor in ("page", "tcp/port") for place in places}
        # The own address says nothing about rotation, so its first answer may come later.
        until(partial(known, name), f"verdicts of {name}", 10)
        assert checks(name) == wanted | {("page", None): "up"}
    (echo,) = bench.one("echo")["checks"]
    assert (echo["monitor"], echo["path"]) == ("echo", "198.51.100.2:5000 by ipip")


def test_other_kinds_of_checks_go_the_same_way(bench: Bench) -> None:
    """Ping, half-open TCP and a request of several segments, which the path cuts as it would a client's."""
    bench.wait("in_rotation", "kinds")
    checks = {(check["monitor"], check["path"]): check["verdict"] for check in bench.one("kinds")["checks"]}
    places = [f"{OTHERS[4]}:80 by gre", f"[{OTHERS[6]}]:80 by gre"]
    assert checks == {(monitor, place): "up" for monitor in ("machine", "syn", "upload") for place in places}


@pytest.mark.parametrize("loss", ["rules", "route", "device"])
def test_what_others_take_away_is_made_good(bench: Bench, loss: str) -> None:
    """Without rule, route or device no packet of a check takes the path: the director notices, and makes them anew."""
    said = bench.log.read_text().count("path.reopening")
    rule = next(line for line in bench.director.ip("rule show pref 100").splitlines() if "fwmark" in line)
    mark = rule.split("fwmark ")[1].split()[0]
    device = bench.director.ip(f"route show table {int(mark, 16)}").split("dev ")[1].split()[0]
    match loss:
        case "rules":
            bench.director.ip("rule del pref 100")
            bench.director.ip("-6 rule del pref 100")
        case "route":
            bench.director.ip(f"route flush table {int(mark, 16)}")
        case "device":
            bench.director.ip(f"link del {device}")
    until(lambda: bench.log.read_text().count("path.reopening") > said, "the director has noticed", 20)

    def asked() -> int:
        return sum(check["good"] for check in bench.one("ipip")["checks"] if check["vantage"] == "path")

    until(lambda: device in bench.director.ip(f"route show table {int(mark, 16)}"), "the route is back", 20)
    before = asked()
    until(lambda: asked() > before + 4, "checks take the path again", 20)
    bench.wait("in_rotation", "echo", "kinds", *POOLS)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("pool", ["l2", "ipip"])
def test_a_vip_that_is_not_on_loopback(bench: Bench, pool: str, version: int) -> None:
    """The member is out though its own address answers; status says what is missing; it comes back by itself."""
    vip = VIPS[pool][version]
    with without(bench, vip):
        bench.wait("out", pool, finding=f"service up, DSR path broken: no answer from VIP {vip}: not on loopback")
        assert bench.one(pool)["reason"] == "health_down"
        bench.wait("in_rotation", *(other for other in POOLS if other != pool))
        page = next(problem for problem in bench.status()["health"]["problems"] if f"{pool}/m" in problem)
        assert "DSR path broken" in page
    bench.wait("in_rotation", pool)


@pytest.mark.parametrize("version", [4, 6])
def test_a_member_that_would_route_packets_on(bench: Bench, version: int) -> None:
    """A member that is a router as well says by ICMP that a VIP is not its own; nothing comes back to the director."""
    bench.member.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    try:
        with without(bench, VIPS["l2"][version]), without(bench, VIPS["gre"][version]):
            for pool in ("l2", "gre"):
                bench.wait("out", pool, finding=f"VIP {VIPS[pool][version]} not on loopback: {MEMBER[version]} would")
        bench.wait("in_rotation", "l2", "gre")
    finally:
        bench.member.sysctl(net__ipv4__ip_forward=0, net__ipv6__conf__all__forwarding=0)
        # What forwarding has taken away: routers need no default route from others.
        bench.member.ip("-6 route replace default via 2001:db8:2::1")


def test_a_member_without_its_decapsulator(bench: Bench) -> None:
    """All tunnels are out, by the name of the tunnel; L2 DSR goes on."""
    bench.stop("decap")
    for pool, tunnel in TUNNELS.items():
        bench.wait("out", pool, finding=f"DSR path broken: the member does not take packets out of {tunnel}")
    bench.wait("out", "echo", finding="through the DSR path: the member does not take packets out of IP in IP")
    bench.wait("in_rotation", "l2")
    bench.decapsulate()
    bench.wait("in_rotation", "echo", *POOLS)


def test_a_service_on_the_own_address_only(bench: Bench) -> None:
    """Whoever listens at the member's own address only does not serve clients, and status says so."""
    bench.stop("responder")
    for version, address in MEMBER.items():
        bench.start(f"own{version}", bench.member, "http.server", "80", "--bind", address)
    try:
        for pool, vips in VIPS.items():
            bench.wait("out", pool, finding=f"service up, DSR path broken: nothing listens on VIP {vips[4]} port 80")
        bench.wait("out", "echo", finding="through the DSR path: nothing listens on VIP 198.51.100.2 port 5000")
    finally:
        for version in MEMBER:
            bench.stop(f"own{version}")
        bench.serve()
    bench.wait("in_rotation", "echo", *POOLS)


def test_a_member_that_nobody_answers_for(bench: Bench) -> None:
    """No answer to ARP and neighbour discovery: the code says so at both vantage points, and the member comes back."""
    bench.member.ip("link set s0 arp off")
    bench.director.ip("neigh flush dev d1")
    bench.director.ip("-6 neigh flush dev d1")
    try:
        bench.wait("out", "l2", "ipip", "ipip6")

        def codes(pool: str) -> set[tuple[str, str]]:
            return {(check["vantage"], check["last"]["code"]) for check in bench.one(pool)["checks"]}

        unresolved = {("direct", "arp_unresolved"), ("path", "arp_unresolved")}
        for pool in ("l2", "ipip", "ipip6"):
            until(lambda pool=pool: codes(pool) == unresolved, f"{pool} is not to be found", 20)  # type: ignore[misc]
            assert (bench.one(pool)["reason"]) in ("unreachable", "health_down")
    finally:
        bench.member.ip("link set s0 arp on")
    bench.wait("in_rotation", "echo", "kinds", *POOLS)


def test_a_reload_changes_the_vantage_point(bench: Bench) -> None:
    """From the own address a missing VIP is not seen; from the path it is, as soon as it is asked."""
    file = bench.log.with_name("onward.toml")
    both = file.read_text()
    file.write_text(both.replace('vantage = "both"', 'vantage = "direct"'))
    bench.processes["director"].send_signal(signal.SIGHUP)

    def vantages() -> set[str]:
        return {check["vantage"] for check in bench.one("l2")["checks"]}

    try:
        until(lambda: vantages() == {"direct"}, "nothing but the own address is asked", 20)
        with without(bench, VIPS["l2"][4]):
            time.sleep(4 * PERIOD_S)
            assert bench.one("l2")["state"] == "in_rotation"
            file.write_text(both)
            bench.processes["director"].send_signal(signal.SIGHUP)
            bench.wait("out", "l2", finding="service up, DSR path broken")
    finally:
        file.write_text(both)
        bench.processes["director"].send_signal(signal.SIGHUP)
    bench.wait("in_rotation", "echo", "kinds", *POOLS)


def test_the_mss_that_members_advertise(bench: Bench) -> None:
    """It is kept with the member, with a note when tunnels do not fit it, and with none when the routes say less."""

    def advertised(pool: str) -> dict[str, tuple[int, int, bool]]:
        found = bench.one(pool)["segments"]
        return {one["vip"]: (one["mss"], one["limit"], one["note"] is not None) for one in found}

    four, six = VIPS["ipip"][4], VIPS["ipip"][6]
    assert advertised("ipip") == {four: (1460, 1440, True), six: (1440, 1420, True)}
    assert advertised("gue") == {VIPS["gue"][4]: (1460, 1428, True), VIPS["gue"][6]: (1440, 1408, True)}
    assert advertised("l2") == {VIPS["l2"][4]: (1460, 1460, False), VIPS["l2"][6]: (1440, 1440, False)}
    note = bench.one("ipip")["segments"][0]["note"]
    assert f"member ipip/m advertises MSS 1460 for {four} port 80" in note
    assert "advmss 1440" in note
    assert "member.mss_too_large" in bench.log.read_text()
    bench.member.ip("route replace 203.0.113.0/24 dev s0 src 203.0.113.2 advmss 1400")
    try:
        until(lambda: advertised("ipip")[four] == (1400, 1440, False), "the smaller MSS is seen")
    finally:
        bench.member.ip("route replace 203.0.113.0/24 dev s0 src 203.0.113.2")


def test_clients_are_not_disturbed(bench: Bench) -> None:
    """Probes count as nobody's traffic, and a client's connection goes on among them."""

    def packets() -> dict[str, int]:
        return {name: bench.one(name)["traffic"]["packets"] for name in POOLS}

    before = packets()
    time.sleep(4 * PERIOD_S)
    assert packets() == before

    def fetch() -> bytes:
        with urllib.request.urlopen(f"http://{VIPS['ipip'][4]}/slow?seconds=3&interval=0.1", timeout=10) as answer:
            return bytes(answer.read())

    lines = inside(bench.client, fetch).split(b"\n")
    assert lines == [b"m %d" % number for number in range(30)] + [b""]
    after = packets()
    assert after["ipip"] > before["ipip"]
    assert {name: count for name, count in after.items() if name != "ipip"} == {
        name: count for name, count in before.items() if name != "ipip"
    }

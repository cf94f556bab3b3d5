"""A whole director with two routers, FRR and BIRD, that both want BFD: what a lost path does to BGP, and what not.

The hold time is 90 s, so that whatever happens sooner is BFD's doing.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from tests.netns import Namespace, namespaces, until, veth
from tests.root.bgp_lab import alive, children

pytestmark = pytest.mark.root

VIP = "198.51.100.7"
FRR_ROUTER, BIRD_ROUTER = "192.0.2.1", "203.0.113.1"

FRR = """
for place in /run/frr /etc/frr /var/tmp/frr; do
    mkdir -p $place && mount -t tmpfs -o mode=1777 tmpfs $place || exit 1
done
cp {folder}/bgpd.conf /etc/frr/bgpd.conf
touch /etc/frr/zebra.conf /etc/frr/bfdd.conf /etc/frr/vtysh.conf
/usr/lib/frr/zebra -u frr -g frr -A 127.0.0.1 -P 0 --log file:{folder}/zebra.log &
until [ -S /run/frr/zserv.api ]; do sleep 0.02; done
/usr/lib/frr/bfdd -u frr -g frr -A 127.0.0.1 -P 0 --log file:{folder}/bfdd.log &
exec /usr/lib/frr/bgpd -u frr -g frr -A 127.0.0.1 -P 0 --log file:{folder}/bgpd.log
"""

BGPD = """
router bgp 65000
 bgp router-id 192.0.2.1
 no bgp ebgp-requires-policy
 timers bgp 30 90
 neighbor 192.0.2.11 remote-as 65010
 neighbor 192.0.2.11 bfd 3 50 50
 neighbor 192.0.2.11 advertisement-interval 0
 neighbor 192.0.2.11 timers connect 1
"""

BIRD = """
log stderr all;
router id 203.0.113.1;
protocol device { scan time 2; }
protocol direct { ipv4; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol bfd { interface "*" { min rx interval 50 ms; min tx interval 50 ms; multiplier 3; }; }
protocol bgp director {
  local 203.0.113.1 as 65001;
  neighbor 203.0.113.11 as 65010;
  bfd on;
  hold time 90;
  connect retry time 1;
  error wait time 1, 10;
  ipv4 { import all; export none; };
}
"""

CONFIG = """
schema_version = 1

[director]
name = "d1"
interfaces = ["eth1", "eth2"]
plane = "raw"
runtime_dir = "{folder}/run"

[fleet]
secret_file = "fleet.key"

[bgp]
local_as = 65010
router_id = "192.0.2.11"

[[bgp.peer]]
address = "192.0.2.1"
remote_as = 65000
hold_time = 90
bfd = {{ interval = {interval}, multiplier = 3 }}

[[bgp.peer]]
address = "203.0.113.1"
remote_as = 65001
hold_time = 90
bfd = {{ interval = {interval}, multiplier = 3 }}

[[network_profile]]
name = "tcp-l3"
type = "tcp_fast_path"

[[pool]]
name = "web"
[[pool.member]]
address = "203.0.113.1"

[[virtual_service]]
name = "web"
vips = ["198.51.100.7"]
ports = [80]
network_profile = "tcp-l3"
pool = "web"
"""


class Stage:
    """The director's process, its routers, and what can be seen of them."""

    def __init__(self, director: Namespace, routers: dict[str, Namespace], folder: Path) -> None:
        self.director = director
        self.routers = routers
        self.folder = folder
        self.process: subprocess.Popen | None = None

    def configure(self, interval_s: float) -> None:
        (self.folder / "onward.toml").write_text(CONFIG.format(folder=self.folder, interval=interval_s))

    def start(self) -> None:
        self.configure(0.05)
        with (self.folder / "onward.log").open("a") as output:
            command = [sys.executable, "-m", "appliance", "run", str(self.folder / "onward.toml")]
            self.process = subprocess.Popen(self.director.command(*command), stdout=output, stderr=output)

    def status(self) -> dict:
        command = [sys.executable, "-m", "appliance", "status", "--json"]
        done = subprocess.run(self.director.command(*command), capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def peer(self, address: str) -> dict:
        bgp = self.status().get("bgp") or {"peers": []}
        return next((peer for peer in bgp["peers"] if peer["address"] == address), {"session": "", "bfd": {}})

    def vip(self) -> dict:
        return self.status()["services"][0]["vips"][0]

    def well(self) -> bool:
        peers = [self.peer(address) for address in self.routers]
        return all(peer["session"] == peer["bfd"].get("state") == "up" for peer in peers) and self.fib() == {
            FRR_ROUTER,
            BIRD_ROUTER,
        }

    def fib(self) -> set[str]:
        """Routers whose kernel has a route for the VIP."""
        found = {address: router.ip(f"-j route show {VIP}") for address, router in self.routers.items()}
        return {address for address, text in found.items() if json.loads(text or "[]")}

    def event(self, name: str, peer: str, after: float) -> tuple[float, dict]:
        """The first event of that kind about that peer: when, and all of it."""

        def found() -> tuple[float, dict] | None:
            for line in (self.folder / "onward.log").read_text().splitlines():
                event = json.loads(line) if line.startswith("{") else {}
                if event.get("event") == name and event.get("peer") == peer:
                    at = datetime.fromisoformat(event["timestamp"]).timestamp()
                    if at >= after:
                        return at, event
            return None

        return until(found, f"{name} {peer}", 15.0)

    @contextmanager
    def cut(self, *ways: tuple[str, str]) -> Iterator[None]:
        """No packet between the director and these routers, by these interfaces; no interface tells."""
        spaces = {self.director: [interface for _, interface in ways]}
        spaces |= {self.routers[address]: ["eth1"] for address, _ in ways}
        chain = "add table inet cut; add chain inet cut in { type filter hook prerouting priority -300; };"
        for space, names in spaces.items():
            space.run("nft", f"{chain} add rule inet cut in iifname {{ {', '.join(names)} }} drop")
        try:
            yield
        finally:
            for space in spaces:
                space.run("nft", "delete table inet cut")

    def end(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
        pid_file = self.folder / "run" / "exabgp.pid"
        if pid_file.exists() and (text := pid_file.read_text().strip()) and alive(int(text)):
            os.kill(int(text), signal.SIGKILL)
            until(lambda: not alive(int(text)), "ExaBGP is gone")


@pytest.fixture
def stage(tmp_path):
    tmp_path.chmod(0o777)  # FRR writes its logs as its own user
    with namespaces("d", "f", "b", prefix="owg") as (director, frr, bird):
        for interface, router, network in (("eth1", frr, "192.0.2"), ("eth2", bird, "203.0.113")):
            veth(director, interface, router, "eth1")
            director.ip(f"addr add {network}.11/24 dev {interface}")
            router.ip(f"addr add {network}.1/24 dev eth1")
        (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
        (tmp_path / "fleet.key").chmod(0o600)
        (tmp_path / "bgpd.conf").write_text(BGPD)
        (tmp_path / "bird.conf").write_text(BIRD)
        inside = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", FRR.format(folder=tmp_path)]
        control = ["-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid"]
        made = Stage(director, {FRR_ROUTER: frr, BIRD_ROUTER: bird}, tmp_path)
        with (tmp_path / "routers.log").open("w") as output:
            routers = [
                subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=tmp_path)
                for command in (frr.command(*inside), bird.command("bird", "-f", *control))
            ]
        try:
            for router in (frr, bird):
                until(lambda router=router: router.run("ss", "-Hltn", "sport", "=", ":179"), "a router listens", 30.0)
            made.start()
            until(made.well, "announced to both, with BFD", 60.0)
            yield made
        finally:
            made.end()
            for process in routers:
                for pid in [process.pid, *children(process.pid)]:
                    os.kill(pid, signal.SIGKILL)
                process.wait()


def test_a_lost_router_is_down_at_once_and_the_other_one_sees_nothing(stage):
    """Far before the hold time; the VIP stays announced to the other router; all is well again when the path is."""
    before = stage.peer(BIRD_ROUTER)
    began = time.time()
    with stage.cut((FRR_ROUTER, "eth1")):
        cut = time.time()
        bfd, event = stage.event("bgp.bfd_down", FRR_ROUTER, began)
        bgp, told = stage.event("bgp.session_down", FRR_ROUTER, began)
        print(f"\ncut -> BFD {(bfd - cut) * 1000:.0f} ms, the BGP peer counts as down {(bgp - cut) * 1000:.0f} ms")
        assert (event["diag"], told["reason"]) == ("time_expired", "BFD: time_expired")
        assert bgp - cut < 1.0
        until(lambda: stage.fib() == {BIRD_ROUTER}, "the router has noticed", 5.0)
        # The status document may be a second old.
        peer = until(lambda: (peer := stage.peer(FRR_ROUTER))["session"] == "down" and peer, "shown", 5.0)
        assert (peer["bfd"]["state"], peer["routes_sent"]) == ("down", [])
        vip = stage.vip()
        assert (vip["announced"], vip["sent_to"]) == (True, [BIRD_ROUTER])
        problems = stage.status()["health"]["problems"]
        assert f"BFD with {FRR_ROUTER} is down (time_expired)" in problems
    healed = time.time()
    until(stage.well, "all is well again", 60.0)
    print(f"healed -> announced again {time.time() - healed:.1f} s")
    after = stage.peer(BIRD_ROUTER)
    assert (after["since"], after["bfd"]["downs"]) == (before["since"], before["bfd"]["downs"])


def test_without_any_router_the_vip_is_not_announced(stage):
    """With both paths lost nobody can know the VIP from us, and status says so at once."""
    with stage.cut((FRR_ROUTER, "eth1"), (BIRD_ROUTER, "eth2")):
        until(lambda: stage.vip()["reason"] == "no_session", "not announced", 5.0)
    until(stage.well, "all is well again", 60.0)


def test_timers_change_by_a_reload(stage):
    """Without a break of BFD or BGP."""

    def facts() -> list[tuple[float, int]]:
        peers = [stage.peer(address) for address in stage.routers]
        return [(peer["since"], peer["bfd"]["downs"]) for peer in peers]

    before = facts()
    stage.configure(0.2)
    stage.process.send_signal(signal.SIGHUP)

    def negotiated() -> bool:
        intervals = [stage.peer(address)["bfd"]["detection_time_s"] for address in stage.routers]
        return intervals == [pytest.approx(0.6)] * 2

    until(negotiated, "negotiated", 15.0)
    assert facts() == before


def test_a_new_exabgp_has_sessions_that_stay(stage):
    """Routers end BFD with BGP, and begin anew with it: that must not end the new BGP session again and again."""
    old = int((stage.folder / "run" / "exabgp.pid").read_text())
    os.kill(old, signal.SIGKILL)
    until(lambda: not stage.fib(), "routes gone", 5.0)
    until(stage.well, "all is well again", 60.0)
    time.sleep(3.0)

    def facts() -> list[tuple[float, int]]:
        return [(stage.peer(address)["since"], stage.peer(address)["bfd"]["downs"]) for address in stage.routers]

    def stays() -> bool:
        before = facts()
        time.sleep(5.0)
        return facts() == before and stage.well()

    # A machine that stands still for 150 ms may end a session as well, but not each time.
    assert any(stays() for _ in range(3))


def test_a_director_that_ends_leaves_nothing(stage):
    """It withdraws, ends BGP, then BFD; no process stays."""
    (bfd,) = [
        pid for pid in children(stage.process.pid) if b"bgp.bfd.engine" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    stage.process.send_signal(signal.SIGTERM)
    assert stage.process.wait(30) == 0
    assert stage.fib() == set()
    assert not alive(bfd)
    lines = (stage.folder / "onward.log").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    names = [event["event"] for event in events]
    after = events[names.index("director.stopping") :]
    assert after[-1]["event"] == "director.stopped"
    # BIRD ends BFD with BGP; nobody lost anybody.
    assert "time_expired" not in {event["diag"] for event in after if event["event"] == "bgp.bfd_down"}
    assert "bgp.bfd_interrupted" not in names

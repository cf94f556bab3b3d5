"""Benchmark of BGP: `python -m tests.bench.bgp`. From what is wanted to the UPDATE at the router.

Ours is the speaker with guard and lease; the yardstick is a bare ExaBGP with an API process of a dozen lines, one
command for each route, and nobody who asks whether it was sent. Both take turns; each has a router of its own
(`tests.root.raw_bgp`), which does nothing but note when UPDATEs come.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bgp.supervisor import EXABGP
from tests.bench.rig import exclusive
from tests.netns import Namespace, namespaces, until, veth
from tests.root.bgp_lab import Lab, Speaker, kill_exabgp

BATCH = 1000
CHECK_PORT = 8080

BARE = """
process api {{
    run {python} {relay} {socket};
    encoder json;
}}
neighbor 192.0.2.1 {{
    router-id 192.0.2.11;
    local-address 192.0.2.11;
    local-as 65010;
    peer-as 65000;
    family {{
        ipv4 unicast;
        ipv6 unicast;
    }}
    api {{
        processes [ api ];
    }}
}}
"""
SETTINGS = {
    "local_as": 65010,
    "router_id": "192.0.2.11",
    "next_hop_v6": "2001:db8:1::11",
    "neighbors": [{"address": "192.0.2.1", "remote_as": 65000}],
}
DIRECTOR = """
schema_version = 1

[director]
name = "d1"
interfaces = ["eth1"]
plane = "raw"
runtime_dir = "{folder}/run"

[fleet]
secret_file = "fleet.key"

[bgp]
local_as = 65010
router_id = "192.0.2.11"
next_hop_v6 = "2001:db8:1::11"
hold_down = 0

[[bgp.peer]]
address = "192.0.2.1"
remote_as = 65000

[[network_profile]]
name = "udp-l3"
type = "udp_fast_path"

[[health_monitor]]
name = "answers"
type = "tcp"
send_interval = 0.2
receive_timeout = 0.15
monitor_port = {port}

[[pool]]
name = "web"
health_monitors = ["answers"]
[[pool.member]]
address = "192.0.2.1"

[[virtual_service]]
name = "web"
vips = {vips}
ports = [53]
network_profile = "udp-l3"
pool = "web"
"""

VIPS = [f"198.51.{100 + number // 250}.{number % 250}" for number in range(BATCH // 2)]
VIPS += [f"2001:db8:f::{number + 1:x}" for number in range(BATCH // 2)]


class Router:
    """A router in its namespace, and what it has got."""

    def __init__(self, space: Namespace, log: Path) -> None:
        self._log = log
        with log.open("w") as output:
            command = space.command(sys.executable, "-m", "tests.root.raw_bgp", "65000", "179", "192.0.2.1")
            self.process = subprocess.Popen(command, stdout=output)
        self._lines = log.open()
        self._rest = ""
        self.seen: list[dict[str, Any]] = []

    def look(self) -> list[dict[str, Any]]:
        *lines, self._rest = (self._rest + self._lines.read()).split("\n")
        self.seen += map(json.loads, lines)
        return self.seen

    def is_up(self) -> bool:
        return any("open" in each for each in self.look())

    def when(self, what: str, count: int, do: Callable[[], float]) -> float:
        """Seconds from the moment that *do* returns until so many routes have come (`announced`, `withdrawn`)."""
        before = len(self.look())
        began = do()

        def got() -> bool:
            return sum(each.get(what, 0) for each in self.look()[before:]) >= count

        until(got, f"{count} routes {what}", 60.0)
        return float(self.seen[-1]["at"]) - began

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._lines.close()


@contextmanager
def cable(folder: Path, name: str) -> Iterator[tuple[Namespace, Namespace, Router]]:
    with namespaces("d", "r", prefix="owk") as (director, space):
        veth(director, "eth1", space, "eth1")
        for where, host in ((director, "11"), (space, "1")):
            where.ip(f"addr add 192.0.2.{host}/24 dev eth1")
            where.ip(f"addr add 2001:db8:1::{host}/64 dev eth1 nodad")
        router = Router(space, folder / f"{name}.routes")
        try:
            yield director, space, router
        finally:
            router.close()


class Ours:
    def __init__(self, stack: ExitStack, folder: Path) -> None:
        director, space, self.router = stack.enter_context(cable(folder, "ours"))
        self._speaker = Speaker(Lab("raw", director, space, SETTINGS), folder / "run")
        stack.callback(kill_exabgp, folder / "run")
        stack.callback(self._speaker.end)
        self._speaker.is_up()
        self._speaker.sets()

    def set(self, vips: list[str]) -> Callable[[], float]:
        return lambda: self._speaker.began("set", *vips)


class Bare:
    """ExaBGP without us."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        director, _, self.router = stack.enter_context(cable(folder, "bare"))
        path, relay = folder / "bare.sock", Path(__file__).with_name("bgp_bare.py")
        (folder / "bare.conf").write_text(BARE.format(python=sys.executable, relay=relay, socket=path))
        settings = {"EXABGP_ENVFILE": "/dev/null", "exabgp_api_cli": "false", "exabgp_daemon_user": "root"}
        with (folder / "bare.log").open("w") as output:
            command = director.command(*EXABGP, "server", str(folder / "bare.conf"))
            process = subprocess.Popen(command, env=os.environ | settings, stdout=output, stderr=output)
        stack.callback(process.wait)
        stack.callback(process.kill)
        until(lambda: path.exists() and self.router.is_up(), "the bare ExaBGP is up", 30.0)
        self._socket = stack.enter_context(socket.socket(socket.AF_UNIX))
        self._socket.connect(str(path))
        self._has: list[str] = []

    def set(self, vips: list[str]) -> Callable[[], float]:
        new, gone = (
            [f"{vip}/{128 if ':' in vip else 32}" for vip in some if vip not in others]
            for some, others in ((vips, set(self._has)), (self._has, set(vips)))
        )
        lines = [f"withdraw route {prefix}" for prefix in gone]
        lines += [f"announce route {prefix} next-hop {'2001:db8:1::11' if ':' in prefix else 'self'}" for prefix in new]
        self._has = vips
        data = "".join(f"{line}\n" for line in lines).encode()

        def tell() -> float:
            began = time.monotonic()
            self._socket.sendall(data)
            return began

        return tell


def one_by_one(ends: dict[str, Any], changes: int) -> None:
    """A VIP comes and goes, again and again."""
    times: dict[str, list[float]] = {name: [] for name in ends}
    for number in range(changes):
        vips, what = ([VIPS[0]], "announced") if number % 2 == 0 else ([], "withdrawn")
        for name, end in ends.items():
            times[name].append(1000 * end.router.when(what, 1, end.set(vips)))
    p50, p99 = ({name: each(values) for name, values in times.items()} for each in (median, _p99))
    print(f"bgp.one.p50_ms    {p50['ours']:8.1f}   bare {p50['bare']:8.1f}   {p50['ours'] / p50['bare']:.2f} x")
    print(f"bgp.one.p99_ms    {p99['ours']:8.1f}   bare {p99['bare']:8.1f}   {p99['ours'] / p99['bare']:.2f} x")


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]


def batches(ends: dict[str, Any], rounds: int) -> None:
    """BATCH VIPs at once, half of them IPv6."""
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for vips, what in ((VIPS, "announced"), ([], "withdrawn")):
            for name, end in ends.items():
                took = end.router.when(what, BATCH, end.set(vips))
                times.setdefault((what, name), []).append(1000 * took)
    for what in ("announced", "withdrawn"):
        ours, bare = times[what, "ours"], times[what, "bare"]
        ratios = sorted(one / other for one, other in zip(ours, bare, strict=True))
        print(
            f"bgp.{BATCH}.{what}_ms {median(ours):8.0f}   bare {median(bare):8.0f}   {median(ratios):.2f} x"
            f" ({ratios[0]:.2f} to {ratios[-1]:.2f})   goal 2000"
        )


class Member:
    """What the director's health monitor asks."""

    def __init__(self, space: Namespace) -> None:
        self._space = space
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        command = self._space.command(sys.executable, "-m", "http.server", str(CHECK_PORT))
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.monotonic()

    def end(self) -> float:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        return time.monotonic()


def director(folder: Path, rounds: int) -> None:
    """The complete program: from a verdict to the last UPDATE, for BATCH VIPs whose only member dies and comes back."""
    with cable(folder, "director") as (space, other, router):
        (folder / "fleet.key").write_bytes(bytes(range(32)))
        (folder / "fleet.key").chmod(0o600)
        (folder / "onward.toml").write_text(DIRECTOR.format(folder=folder, port=CHECK_PORT, vips=json.dumps(VIPS)))
        with (folder / "onward.log").open("w") as output:
            command = space.command(sys.executable, "-m", "appliance", "run", str(folder / "onward.toml"))
            process = subprocess.Popen(command, stdout=output, stderr=output)
        member = Member(other)
        times: dict[str, list[float]] = {"announced": [], "withdrawn": []}
        try:
            until(router.is_up, "a session", 60.0)
            for number in range(2 * rounds + 1):
                verdict, what = ("health.up", "announced") if number % 2 == 0 else ("health.down", "withdrawn")
                before = len(_verdicts(folder, verdict))
                router.when(what, BATCH, member.start if number % 2 == 0 else member.end)
                at = _verdicts(folder, verdict)[before] - time.time() + time.monotonic()
                times[what].append(1000 * (router.seen[-1]["at"] - at))
        finally:
            process.kill()
            process.wait()
            member.end()
            kill_exabgp(folder / "run")
        for what, values in times.items():
            later = values[1:] if what == "announced" else values  # the first one waits for a lease
            print(f"bgp.director.{BATCH}.{what}_ms {median(later):8.0f}   max {max(later):.0f}   goal 2000")


def _verdicts(folder: Path, name: str) -> list[float]:
    lines = (folder / "onward.log").read_text().splitlines()
    events = [json.loads(line) for line in lines if f'"{name}"' in line]
    return [datetime.fromisoformat(event["timestamp"]).timestamp() for event in events]


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests/run bench bgp")
    parser.add_argument("--changes", type=int, default=200, help="single changes of each (200)")
    parser.add_argument("--rounds", type=int, default=5, help="batches of each (5)")
    options = parser.parse_args()
    with exclusive(), tempfile.TemporaryDirectory(prefix="onward-bench-") as name:
        folder = Path(name)
        with ExitStack() as stack:
            ends = {"ours": Ours(stack, folder), "bare": Bare(stack, folder)}
            one_by_one(ends, options.changes)
            batches(ends, options.rounds)
        director(folder, options.rounds)


if __name__ == "__main__":
    main()

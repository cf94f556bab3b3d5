"""Benchmark of health monitors: how many members one director watches on one core, and what that costs.

    tests/run bench health [--members N] [--interval S] [--secs S] [--vantage path|direct] [--json FILE] [--strict]

The complete program, on one CPU, with N members in pools of a hundred. Every second one is a black hole: no answer of
any kind. First the yardstick (naive_checks.py) asks the same members, then ours; then ours once more while its raw data
plane is flooded. README.md says what the figures mean.
"""

import argparse
import json
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path

from tests.bench.contenders import API_PORT, ROOT, Process
from tests.bench.raw import HEADLINE, Figure, Histogram, at_most, flooded, print_table
from tests.bench.rig import (
    DIRECTOR_CPU,
    GENERATOR_CPU,
    V4,
    BenchError,
    Rig,
    compiled,
    cpu_seconds,
    exclusive,
    run,
    stop,
    sweep,
)

WELL, DEAD = "198.18.0.0", "198.19.0.0"
"""The first address of members that answer, and of black holes: of the networks that RFC 2544 sets aside for
benchmarks."""

POOL = 100
FLOODED_VIP = V4.vip
FIRST_VIP = ip_address("198.51.100.100")


@dataclass(frozen=True)
class Readings:
    """What the program says of itself at one moment, and the kernel of it."""

    at: float
    probes: int
    good: int
    wrong: int
    """Turns of a verdict that should not have been: members that answer down, black holes up."""

    delayed: dict[str, int]
    lag: Histogram
    cpu_s: float
    memory_bytes: int


def configuration(options: argparse.Namespace, folder: Path) -> str:
    """Pools of a hundred members, a virtual service for each; and the one that is flooded."""
    flooded_members = "".join(f'[[pool.member]]\naddress = "{address}"\n' for address in V4.members)
    parts = [
        f"""\
schema_version = 1
[director]
name = "bench"
interfaces = ["d0"]
plane = "raw"
runtime_dir = "{folder}/run"
[api]
port = {API_PORT}
[fleet]
secret_file = "{folder}/fleet.key"
[[network_profile]]
name = "tcp"
type = "tcp_fast_path"
dsr = {{ type = "l3", encapsulation = "ipip" }}
[[network_profile]]
name = "flooded"
type = "udp_fast_path"
dsr = {{ type = "l2" }}
[[health_monitor]]
name = "port"
type = "tcp"
half_open = {"true" if options.vantage == "path" and not options.connect else "false"}
vantage = "{options.vantage}"
send_interval = {options.interval}
receive_timeout = {options.interval * 0.8}
[[pool]]
name = "flooded"
hash = "five_tuple"
{flooded_members}
[[virtual_service]]
name = "flooded"
vips = ["{FLOODED_VIP}"]
ports = [80]
network_profile = "flooded"
pool = "flooded"
"""
    ]
    for number in range(options.members // POOL):
        members = [
            f'[[pool.member]]\nname = "{kind}{at}"\naddress = "{ip_address(first) + at}"\n'
            for kind, first in (("well", WELL), ("dead", DEAD))
            for at in range(number * POOL // 2, (number + 1) * POOL // 2)
        ]
        parts.append(
            f'[[pool]]\nname = "p{number}"\nhealth_monitors = ["port"]\n{"".join(members)}'
            f'[[virtual_service]]\nname = "p{number}"\nvips = ["{FIRST_VIP + number}"]\n'
            f'ports = [80]\nnetwork_profile = "tcp"\npool = "p{number}"\n'
        )
    return "\n".join(parts)


DECAPSULATE = """
import sys, signal
from ipaddress import ip_address, ip_network
from appliance.decap.decap import Decap, Settings
first, count, vip, vips = sys.argv[1:]
addresses = tuple(ip_address(first) + at for at in range(int(count)))
inner = tuple(ip_address(vip) + at for at in range(int(vips)))
with Decap(Settings("s0", (ip_network("203.0.113.0/24"),), inner, addresses)):
    print("ready", flush=True)
    signal.pause()
"""
"""What `onward decap run` does, whose command line is not made for thousands of addresses."""


@contextmanager
def members(rig: Rig, options: argparse.Namespace) -> Iterator[None]:
    """A namespace that answers for every address of one network, inside IP in IP as well, and for none of another."""
    d, s = rig.namespace("director"), rig.namespace("member")
    run("ip", "netns", "exec", d, "sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 65535")
    run("ip", "netns", "exec", s, "sysctl", "-qw", "net.core.somaxconn=4096", "net.ipv4.tcp_max_syn_backlog=8192")
    run("ip", "-n", d, "route", "add", "198.18.0.0/15", "via", V4.member)
    run("ip", "-n", s, "route", "add", "local", f"{WELL}/16", "dev", "lo")
    run("ip", "-n", s, "route", "add", "blackhole", f"{DEAD}/16")
    run("ip", "-n", s, "route", "add", "local", "198.51.0.0/16", "dev", "lo")
    # What floods the director is not to cost more on the members' side than it must.
    run(
        "ip", "netns", "exec", s, "nft",
        "table netdev bench { chain in { type filter hook ingress device s0 priority 0; udp dport 80 drop; }; }",
    )  # fmt: skip
    with ExitStack() as stack:
        accept = "import socket\ns = socket.create_server(('', 80), backlog=4096)\nprint('ready', flush=True)\n"
        accept += "while True:\n c, _ = s.accept()\n c.close()\n"
        rig.start(stack, "member", [sys.executable, "-c", accept], cpu=GENERATOR_CPU)
        spans = [WELL, str(options.members // 2), str(FIRST_VIP), str(options.members // POOL)]
        rig.start(stack, "member", [sys.executable, "-c", DECAPSULATE, *spans], cpu=GENERATOR_CPU, cwd=ROOT)
        yield


def start(rig: Rig, options: argparse.Namespace, stack: ExitStack) -> tuple[Process, Path]:
    """The complete program, and its log."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onward-bench-")))
    (folder / "fleet.key").write_bytes(bytes(range(32)))
    (folder / "fleet.key").chmod(0o600)
    (folder / "onward.toml").write_text(configuration(options, folder))
    log = stack.enter_context((folder / "log").open("w+"))

    def show_log(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, BenchError):
            log.seek(0)
            print(log.read()[-3000:], file=sys.stderr)

    stack.push(show_log)
    program = [*options.wrap.split(), sys.executable, "-m", "appliance", "run", folder / "onward.toml"]
    process = rig.start(stack, "director", program, cpu=DIRECTOR_CPU, ready=False, cwd=ROOT, stderr=log)
    return process, folder / "log"


def read(rig: Rig, pid: int) -> Readings:
    at, cpu_s = time.monotonic(), cpu_seconds(pid)
    text = rig.fetch("director", API_PORT, "/metrics")
    results = re.findall(r'^onward_checks_total{.*result="(\w+)"} (\S+)$', text, re.MULTILINE)
    turns = re.findall(
        r'^onward_check_turns_total{member="p\d+/(well|dead)\d+",.*verdict="(\w+)"} (\S+)$', text, re.MULTILINE
    )
    if not results or not turns:
        raise BenchError("the program has no onward_checks_total or onward_check_turns_total; were they renamed?")
    wrong = {("well", "down"), ("dead", "up"), ("well", "maintenance"), ("dead", "maintenance")}
    delayed = re.findall(r'^onward_checks_delayed_total{reason="(\w+)"} (\S+)$', text, re.MULTILINE)
    status = Path(f"/proc/{pid}/status").read_text()
    return Readings(
        at=at,
        probes=int(sum(float(count) for _, count in results)),
        good=int(sum(float(count) for result, count in results if result == "good")),
        wrong=int(sum(float(count) for kind, verdict, count in turns if (kind, verdict) in wrong)),
        delayed={reason: int(float(count)) for reason, count in delayed},
        lag=Histogram.parse(text, "onward_loop_lag_seconds"),
        cpu_s=cpu_s,
        memory_bytes=int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024,
    )


def settled(log: Path, options: argparse.Namespace, limit_s: float) -> float:
    """Seconds until every member has a verdict, as its log says: whoever asks for metrics all the time disturbs."""
    began, wanted, known, at = time.monotonic(), options.members // POOL * POOL, set[str](), 0
    while len(known) < wanted:
        if time.monotonic() - began > limit_s:
            raise BenchError(f"after {limit_s:g} s only {len(known)} of {wanted} members have a verdict")
        time.sleep(0.5)
        with log.open() as text:
            text.seek(at)
            for line in iter(text.readline, ""):
                if not line.endswith("\n"):
                    break
                at = text.tell()
                if '"event": "health.' in line:
                    known.add(json.loads(line)["member"])
    return time.monotonic() - began


def baseline(rig: Rig, options: argparse.Namespace) -> tuple[float, float]:
    """Probes a second, and CPU time per probe, of the yardstick."""
    half = str(options.members // 2)
    limit, hard = str(options.interval * 0.8), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with ExitStack() as stack:
        program = [sys.executable, "-m", "tests.bench.naive_checks", str(options.interval), limit]
        words = ["prlimit", f"--nofile={hard}:{hard}", *program, WELL, half, DEAD, half]
        process = rig.start(stack, "director", words, cpu=DIRECTOR_CPU, cwd=ROOT)
        time.sleep(options.interval)
        process.send_signal(signal.SIGUSR1)
        cpu, began = cpu_seconds(process.pid), time.monotonic()
        time.sleep(options.secs)
        cpu, took = cpu_seconds(process.pid) - cpu, time.monotonic() - began
        counts = json.loads(stop(process).splitlines()[-1])
    return counts["probes"] / took, cpu / max(counts["probes"], 1) * 1e6


def measure(
    rig: Rig, options: argparse.Namespace, process: Process, name: str, naive: tuple[float, float]
) -> Iterator[Figure]:
    before = read(rig, process.pid)
    time.sleep(options.secs)
    after = read(rig, process.pid)
    secs, probes = after.at - before.at, after.probes - before.probes
    wanted = options.members / options.interval
    cpu = after.cpu_s - before.cpu_s
    lag = after.lag.since(before.lag)
    late = {why: count - before.delayed[why] for why, count in after.delayed.items()}
    note = ", ".join(f"{count} {why}" for why, count in late.items() if count) or "none delayed"
    rate = probes / secs
    good = after.good - before.good
    yield Figure(
        f"health.{name}.probes_per_s", rate, "/s", naive[0], rate / naive[0], 0.95, rate / naive[0] >= 0.95,
        f"{wanted:.0f} wanted, {good / max(probes, 1):.1%} good; {note}",
    )  # fmt: skip
    yield at_most(f"health.{name}.false_verdicts", after.wrong, "", 0, "since the start")
    yield at_most(f"health.{name}.cpu_percent", cpu / secs * 100, "%", None, "of one CPU, all threads")
    if name == "alone":
        spent = cpu / max(probes, 1) * 1e6
        note = "CPU time of a probe, with all that the program does beside"
        yield Figure("health.cpu_per_probe", spent, "us", naive[1], spent / naive[1], note=note)
    yield at_most(f"health.{name}.memory", after.memory_bytes / 1e6, "MB", None, "resident")
    yield at_most(f"health.{name}.loop_lag_p99_ms", lag.quantile(0.99) * 1e3, "ms", None, f"{lag.total} samples")


def figures(options: argparse.Namespace) -> Iterator[Figure]:
    with exclusive(), compiled() as programs, Rig("health", programs) as rig, members(rig, options):
        naive = baseline(rig, options)
        with ExitStack() as stack:
            process, log = start(rig, options, stack)
            took = settled(log, options, 120 + 4 * options.interval)
            yield at_most("health.start_s", took, "s", None, "until every member has a verdict")
            yield from measure(rig, options, process, "alone", naive)
            if options.flood:
                with flooded(rig, HEADLINE):
                    time.sleep(1)
                    frames = rig.received("s0"), time.monotonic()
                    yield from measure(rig, options, process, "flooded", naive)
                    pps = (rig.received("s0") - frames[0]) / (time.monotonic() - frames[1])
                yield at_most("health.flooded.packets_per_s", pps, "/s", None, "forwarded meanwhile")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests/run bench health", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--members", type=int, default=10_000, help=f"a multiple of {POOL}")
    parser.add_argument("--interval", type=float, default=5.0)
    parser.add_argument("--secs", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--vantage", choices=("path", "direct"), default="path")
    parser.add_argument("--connect", action="store_true", help="whole connections through the path, not half-open ones")
    parser.add_argument("--no-flood", dest="flood", action="store_false")
    parser.add_argument("--wrap", default="", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a goal is missed")
    options = parser.parse_args(words)
    sweep()
    try:
        found = list(figures(options))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print_table(found)
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in found], indent=2))
    return int(options.strict and any(figure.ok is False for figure in found))


if __name__ == "__main__":
    sys.exit(main())

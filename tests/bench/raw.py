"""Benchmark of the raw-socket data plane: ratios to yardsticks that run in the same minute on the same machine.

    tests/run bench raw [--full] [--rounds N] [--secs S] [--json FILE] [--strict]

Contenders: the complete program; the same job in C on AF_PACKET (forward.c); a plain asyncio loop, a frame a callback
(naive.py); the kernel's own forwarding. README.md says what exactly is compared and why it is fair.

Absolute rates of a shared machine wander by a fifth and more, so contenders take turns, every round gives one ratio,
and the median of the rounds is the result. Where rounds disagree much, more of them are made.
"""

import argparse
import json
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, product
from pathlib import Path

from tests.bench.contenders import API_PORT, CONTENDERS, Process, Setting, driver, start, start_plane
from tests.bench.driver import PLACINGS
from tests.bench.rig import (
    GENERATOR_CPU,
    MACS,
    BenchError,
    Rig,
    compiled,
    cpu_seconds,
    exclusive,
    stop,
    sweep,
    wait_until,
)

WARM_UP_S = 0.15
MANY = 65536
NEW_FLOWS = 30_000
"""A second, that a director takes at least."""

WIDE_SPREAD = 0.25
"""(max - min) / median of a case's ratios, above which more rounds are made."""


@dataclass(frozen=True)
class Case:
    """One kind of traffic."""

    setting: Setting
    length: int
    flows: int

    @property
    def name(self) -> str:
        flows = "1flow" if self.flows == 1 else f"{self.flows}flows"
        return f"{self.setting.mode}_{self.length}_{self.setting.family_name}_{flows}"


HEADLINE = Case(Setting("l2", "v4"), 64, MANY)
SUBSET = (
    HEADLINE,
    Case(Setting("l2", "v4"), 1400, MANY),
    Case(Setting("l3", "v4"), 64, MANY),
    Case(Setting("l3", "v6"), 1400, 1),
)
MATRIX = tuple(
    Case(Setting(mode, family), length, flows)
    for mode, family, length, flows in product(("l2", "l3"), ("v4", "v6"), (64, 1400), (MANY, 1))
)


@dataclass(frozen=True)
class Figure:
    """One line of the result, and one object of the JSON file. A goal is a lower bound of the ratio where there is one,
    else an upper bound of the value."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    goal: float | None = None
    ok: bool | None = None
    """None: nothing was promised."""

    note: str = field(default="", compare=False)


@dataclass(frozen=True)
class Sample:
    """What a contender did within some time under full load."""

    pps: float
    cpu_ns: float
    """CPU time of its process per forwarded frame; 0 for the kernel, which has no process."""

    @property
    def busy(self) -> float:
        """Share of its CPU that it used. Some of what it uses the kernel books elsewhere."""
        return self.pps * self.cpu_ns * 1e-9


@dataclass(frozen=True)
class Running:
    """A contender at work in its rig."""

    rig: Rig
    pid: int | None
    """None: the kernel itself."""


def read_counters(running: Running) -> tuple[float, int, float]:
    """(time, frames that the member was given, CPU seconds of the director), all of one moment."""
    while True:
        before = time.monotonic()
        frames = running.rig.received("s0")
        cpu = cpu_seconds(running.pid) if running.pid else 0.0
        after = time.monotonic()
        if after - before < 0.001:  # else we were interrupted: again
            return (before + after) / 2, frames, cpu


@contextmanager
def flooded(rig: Rig, case: Case) -> Iterator[None]:
    """As much traffic as CPU 0 can make."""
    family = case.setting.family
    with ExitStack() as stack:
        macs = MACS["d0"], MACS["c0"]
        command = [rig.programs / "gen", "d0", case.length, case.flows, *macs, family.client, family.vip]
        rig.start(stack, "director", command, cpu=GENERATOR_CPU)
        time.sleep(WARM_UP_S)
        yield


def saturate(running: Running, case: Case, secs: float) -> Sample:
    with flooded(running.rig, case):
        t0, frames0, cpu0 = read_counters(running)
        time.sleep(secs)
        t1, frames1, cpu1 = read_counters(running)
    frames = max(frames1 - frames0, 1)
    return Sample(frames / (t1 - t0), (cpu1 - cpu0) / frames * 1e9)


def take_turns(running: dict[str, Running], case: Case, rounds: int, secs: float) -> dict[str, list[Sample]]:
    """Rounds in which every contender has a turn, in alternating order so that a drift hits all alike."""
    samples: dict[str, list[Sample]] = {name: [] for name in running}
    names = list(running)
    for number in range(3 * rounds):
        if number >= rounds and spread(ratios(samples, names[0], names[1])) <= WIDE_SPREAD:
            break
        for name in names if number % 2 == 0 else reversed(names):
            samples[name].append(saturate(running[name], case, secs))
    return samples


def ratios(samples: dict[str, list[Sample]], ours: str, base: str) -> list[float]:
    return [a.pps / b.pps for a, b in zip(samples[ours], samples[base], strict=True)]


def spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)


def compare(name: str, samples: dict[str, list[Sample]], ours: str, base: str, goal: float | None = None) -> Figure:
    """The ratio of two contenders' rates."""
    pairs = ratios(samples, ours, base)
    ratio = statistics.median(pairs)
    mine, theirs = (statistics.median(s.pps for s in samples[who]) for who in (ours, base))
    cpu, busy = (
        " / ".join(f"{statistics.median(getattr(s, what) for s in samples[who]) * scale:.0f}" for who in (ours, base))
        for what, scale in (("cpu_ns", 1), ("busy", 100))
    )
    note = f"{min(pairs):.2f}..{max(pairs):.2f} in {len(pairs)} rounds; CPU ns a frame {cpu}, busy % {busy}"
    return Figure(name, mine / 1e3, "kpps", theirs / 1e3, ratio, goal, None if goal is None else ratio >= goal, note)


def at_most(name: str, value: float, unit: str, goal: float | None, note: str) -> Figure:
    return Figure(name, value, unit, goal=goal, ok=None if goal is None else value <= goal, note=note)


@contextmanager
def contenders(rigs: dict[str, Rig], names: Iterable[str], setting: Setting) -> Iterator[dict[str, Running]]:
    """Start them, prove that they forward what they should, and have the member drop it."""
    with ExitStack() as stack:
        running = {}
        for name in names:
            rig = rigs[name]
            pid = start(name, rig, setting, stack)
            stack.enter_context(rig.sink())
            running[name] = Running(rig, pid)
        yield running


def throughput(rigs: dict[str, Rig], cases: Iterable[Case], options: argparse.Namespace) -> Iterator[Figure]:
    names = [name for name in CONTENDERS if name in rigs]
    for setting, same in groupby(cases, key=lambda case: case.setting):
        # Only where the headline is measured do the slower yardsticks take part.
        here = names if setting == HEADLINE.setting else names[:2]
        with contenders(rigs, here, setting) as running:
            for case in same:
                who = running if case == HEADLINE else {name: running[name] for name in names[:2]}
                progress(f"{case.name}: {', '.join(who)}")
                samples = take_turns(who, case, options.rounds, options.secs)
                if case != HEADLINE:
                    yield compare(f"raw.{case.name}.vs_{names[1]}", samples, *names[:2])
                    continue
                goals = {"c": 1.1, "naive": 9.0} if names[0] == "ours" else {}
                for base in names[1:]:
                    label = "c_afpacket" if base == "c" else base
                    yield compare(f"raw.vs_{label}", samples, names[0], base, goals.get(base))


@dataclass(frozen=True)
class Histogram:
    """Counts of samples by size, as Prometheus has them."""

    bounds: tuple[float, ...]
    """Upper bounds of the buckets, ascending; the last one is infinite."""

    counts: tuple[int, ...]
    """Samples up to each bound: those of the smaller buckets count, too."""

    @classmethod
    def parse(cls, metrics: str, name: str) -> "Histogram":
        """Take the histogram *name*, one without labels, out of a text in the exposition format.

        Raises:
            BenchError: it is not there.
        """
        buckets = re.findall(rf'^{re.escape(name)}_bucket{{le="([^"]+)"}} (\S+)$', metrics, re.MULTILINE)
        if not buckets:
            raise BenchError(f"the program has no histogram {name} among its metrics; was it renamed?")
        return cls(tuple(float(bound) for bound, _ in buckets), tuple(int(float(count)) for _, count in buckets))

    def since(self, earlier: "Histogram") -> "Histogram":
        return Histogram(self.bounds, tuple(a - b for a, b in zip(self.counts, earlier.counts, strict=True)))

    @property
    def total(self) -> int:
        return self.counts[-1]

    def quantile(self, q: float) -> float:
        """Interpolated within the bucket, as if its samples were spread evenly; infinite beyond the last bound.

        Raises:
            BenchError: there are no samples.
        """
        if not self.total:
            raise BenchError("no samples in the histogram: did the program stand still?")
        rank = q * self.total
        number = next(i for i, count in enumerate(self.counts) if count >= rank)
        low, below = (self.bounds[number - 1], self.counts[number - 1]) if number else (0.0, 0)
        high = self.bounds[number]
        return low + (high - low) * (rank - below) / (self.counts[number] - below)


def loop_lag(rig: Rig, secs: float) -> Figure:
    """How late the complete program's event loop is while its data plane is saturated, by its own metrics."""

    def lag() -> Histogram:
        return Histogram.parse(rig.fetch("director", API_PORT, "/metrics"), "onward_loop_lag_seconds")

    with ExitStack() as stack:
        start("ours", rig, HEADLINE.setting, stack)
        stack.enter_context(rig.sink())
        with flooded(rig, HEADLINE):
            time.sleep(0.3)
            before = lag()
            time.sleep(secs)
            during = lag().since(before)
    goal_s = 0.005
    late = 1 - during.counts[during.bounds.index(goal_s)] / during.total
    latest = during.bounds[during.counts.index(during.total)] * 1e3
    note = f"median {during.quantile(0.5) * 1e3:.2f}, max <= {latest:g}, {late:.1%} above {goal_s * 1e3:g}; "
    note += f"{during.total} samples in {secs:g} s, 10 ms ticker"
    return at_most("raw.loop_lag_p99_ms", during.quantile(0.99) * 1e3, "ms", goal_s * 1e3, note)


def plane_loop_lag(rig: Rig, secs: float) -> Figure:
    """How late timers are in a loop with nothing but a saturated data plane in it."""
    with ExitStack() as stack:
        process = driver(rig, HEADLINE.setting, stack)
        stack.enter_context(rig.sink())
        with flooded(rig, HEADLINE):
            time.sleep(0.3)
            process.send_signal(signal.SIGUSR1)
            time.sleep(secs)
            lag = json.loads(stop(process).splitlines()[-1])
    note = f"median {lag['lag_p50_ms']:.2f}, max {lag['lag_max_ms']:.1f} in {secs:g} s, 1 ms ticker"
    return at_most("raw.plane_loop_lag_p99_ms", lag["lag_p99_ms"], "ms", None, note)


def blocked_loop_loss(rig: Rig, secs: float, pps: int = 100_000) -> Figure:
    """Frames lost while a callback blocks the loop for 30 ms, again and again."""
    family = HEADLINE.setting.family
    with ExitStack() as stack:
        process = driver(rig, HEADLINE.setting, stack, block_s=0.03, block_every_s=0.06)
        count = stack.enter_context(rig.sink())
        before, wire = count(), rig.received("d0")
        load = [rig.programs / "gen", "c0", 64, MANY, MACS["d0"], MACS["c0"], family.client, family.vip, pps, secs]
        sent = int(rig.output("client", load, cpu=GENERATOR_CPU).split()[1])
        try:
            wait_until(lambda: count() - before >= sent, 1.0, "delivery")
        except BenchError:
            pass  # what is missing now is lost
        received, wire = count() - before, rig.received("d0") - wire
        report = json.loads(stop(process).splitlines()[-1])
    note = f"of {sent} ({sent / secs / 1e3:.0f} kpps); the loop was late by up to {report['lag_max_ms']:.0f} ms"
    if received != sent:
        note += f"; {max(0, sent - wire)} lost before the director; it counted {report['details']}"
    return at_most("raw.loss_100kpps_blocked", sent - received, "frames", 0, note)


def placings(rig: Rig, options: argparse.Namespace) -> Iterator[Figure]:
    """What a frame costs where a look at its slot does not tell its member, over the steady state; all flows are known.

    And how many flows a second may be new, each with a single packet.
    """
    kinds = PLACINGS
    costs: dict[str, list[Sample]] = {kind: [] for kind in kinds}
    with ExitStack() as stack:
        process = driver(rig, HEADLINE.setting, stack, placings=kinds)
        stack.enter_context(rig.sink())
        running = Running(rig, process.pid)
        for number in range(options.rounds + 1):
            for kind in kinds:
                sample = saturate(running, HEADLINE, options.secs)
                if number:  # in the first round flows are not known yet
                    costs[kind].append(sample)
                take_turn(process)
    for kind in kinds[1:]:
        figure = compare(f"raw.placing.{kind}", costs, kind, "steady", 0.5)
        cpu = statistics.median(a.cpu_ns / b.cpu_ns for a, b in zip(costs[kind], costs["steady"], strict=True))
        yield replace(figure, note=f"{figure.note}; CPU {cpu:.2f} times as much")

    new = Case(HEADLINE.setting, 64, 1 << 24)
    for kind in ("window", "per_flow"):
        with ExitStack() as stack:
            process = driver(rig, new.setting, stack, placings=[kind])
            stack.enter_context(rig.sink())
            samples = [saturate(Running(rig, process.pid), new, options.secs) for _ in range(options.rounds)]
            details = json.loads(stop(process).splitlines()[-1])["details"]
        rate = statistics.median(sample.pps for sample in samples)
        note = f"CPU ns a flow {statistics.median(sample.cpu_ns for sample in samples):.0f}; "
        note += f"{details['pins_made']} places taken, {details['pins_evicted_new']} of them from others"
        goal = NEW_FLOWS / 1e3
        yield Figure(f"raw.new_flows.{kind}", rate / 1e3, "k/s", goal, rate / NEW_FLOWS, 1.0, rate >= NEW_FLOWS, note)


def take_turn(process: Process) -> None:
    """Have the driver go on to its next tables."""
    process.send_signal(signal.SIGUSR2)
    if process.stdout is None or process.stdout.readline() != "ready\n":
        raise BenchError("the driver did not take its next tables")


def round_trips(rigs: dict[str, Rig], options: argparse.Namespace, count: int = 2000) -> Iterator[Figure]:
    """What a director adds to a round trip at low load over the kernel's forwarding; answers go by the kernel."""
    names = [name for name in ("ours", "c", "kernel") if name in rigs]
    p50: dict[str, list[float]] = {name: [] for name in names}
    p99: dict[str, list[float]] = {name: [] for name in names}
    lost = dict.fromkeys(names, 0)
    with ExitStack() as stack:
        for name in names:
            start(name, rigs[name], HEADLINE.setting, stack)
        for number in range(options.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                client = [rigs[name].programs / "pingpong", "client", HEADLINE.setting.family.vip, count]
                median, late, gone = rigs[name].output("client", client, cpu=GENERATOR_CPU).split()
                p50[name].append(float(median))
                p99[name].append(float(late))
                lost[name] += int(gone)

    def added(times: dict[str, list[float]], name: str) -> float:
        return statistics.median(a - b for a, b in zip(times[name], times["kernel"], strict=True))

    name, base = names[0], names[1]
    for label, times in (("p50", p50), ("p99", p99)):
        mine, theirs = added(times, name), added(times, base)
        note = "round trip: " + ", ".join(f"{who} {statistics.median(times[who]):.0f}" for who in names)
        note += f"; lost {sum(lost.values())}" if any(lost.values()) else ""
        yield Figure(f"raw.added_rtt_{label}_us", mine, "us", theirs, mine / theirs if theirs > 0 else None, note=note)


def idle(rig: Rig, secs: float = 3.0) -> Figure:
    """CPU of the complete program without traffic: health checks, lease, timers."""
    with ExitStack() as stack:
        pid = start("ours", rig, HEADLINE.setting, stack)
        assert pid is not None
        time.sleep(2.0)
        before, begin = cpu_seconds(pid), time.monotonic()
        time.sleep(secs)
        percent = (cpu_seconds(pid) - before) / (time.monotonic() - begin) * 100
    note = f"of one CPU over {secs:g} s, 8 members checked every 2 s"
    return at_most("raw.idle_cpu_percent", percent, "%", None, note)


def measure(rigs: dict[str, Rig], options: argparse.Namespace) -> Iterator[Figure]:
    yield from throughput(rigs, MATRIX if options.full else SUBSET, options)
    if "ours" in rigs:
        progress("flows in transition, and new ones")
        yield from placings(rigs["ours"], options)
    progress("round trips")
    yield from round_trips(rigs, options)
    if "ours" in rigs:
        progress("loop lag, loss with a blocked loop, idle CPU")
        if options.ours == "program":
            yield loop_lag(rigs["ours"], max(10.0, options.secs))
        yield plane_loop_lag(rigs["ours"], max(3.0, options.secs))
        yield blocked_loop_loss(rigs["ours"], 3.0)
        if options.ours == "program":
            yield idle(rigs["ours"])


def print_table(figures: Sequence[Figure], before: Mapping[str, Figure] | None = None) -> None:
    """Print figures; where others were measured before, by name, those beside them."""
    rows = [("", "value", "baseline", "ratio", "goal", "", *(("before", "now/before") if before else ()), "")]
    rows += [
        (
            f.name,
            f"{f.value:.1f} {f.unit}",
            "" if f.baseline is None else f"{f.baseline:.1f} {f.unit}",
            "" if f.ratio is None else f"{f.ratio:.2f}",
            "" if f.goal is None else f"{'<=' if f.ratio is None else '>='} {f.goal:g}",
            {None: "", True: "ok", False: "MISSED"}[f.ok],
            *(beside(f, before.get(f.name)) if before else ()),
            f.note,
        )
        for f in figures
    ]
    *columns, _ = zip(*rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    for name, *cells, note in rows:
        shown = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([f"{name:<{widths[0]}}", *shown, note]).rstrip())


def beside(now: Figure, before: Figure | None) -> tuple[str, str]:
    """What was measured before, and now as a share of it: of ratios where there are any, else of values."""
    if before is None:
        return "", ""
    mine, other = (now.ratio, before.ratio) if now.ratio and before.ratio else (now.value, before.value)
    shown = f"{before.value:.1f} {before.unit}" if before.ratio is None else f"{before.ratio:.2f}"
    return shown, f"{mine / other:.2f}" if other else ""


def write_json(figures: Sequence[Figure], path: Path) -> None:
    plain = [{key: value for key, value in asdict(f).items() if key != "note"} for f in figures]
    path.write_text(json.dumps(plain, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Figure]:
    """Figures that another run has written, by name.

    Raises:
        BenchError: it is no such file.
    """
    try:
        return {row["name"]: Figure(**row) for row in json.loads(path.read_text())}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BenchError(f"{path} is no file of figures, as --json writes it: {error!r}") from error


def progress(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", file=sys.stderr, flush=True)


STARTED = time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/run bench raw", description="Benchmark of the raw-socket data plane.")
    parser.add_argument("--full", action="store_true", help="every combination of mode, family, size and flows")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contender in a case (5)")
    parser.add_argument("--secs", type=float, default=1.0, help="seconds of a turn (1)")
    parser.add_argument(
        "--ours",
        choices=("program", "plane", "none"),
        default="program",
        help="the complete program, its data plane alone, or only the yardsticks among themselves",
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--against", type=Path, metavar="FILE", help="show those of an earlier --json beside them")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a goal is missed")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root, for namespaces and packet sockets; tests/run calls sudo")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.ours == "plane":
        CONTENDERS["ours"] = start_plane
    elif options.ours == "none":
        del CONTENDERS["ours"]
    figures: list[Figure] = []
    before: dict[str, Figure] = {}
    try:
        before = read_json(options.against) if options.against else {}
        os.setpriority(os.PRIO_PROCESS, 0, -20)  # we only sleep and read counters, but at the right moment
        with exclusive(), compiled() as programs, ExitStack() as stack:
            sweep()
            rigs = {name: stack.enter_context(Rig(name, programs)) for name in CONTENDERS}
            for rig in rigs.values():
                server = [programs / "pingpong", "server", HEADLINE.setting.family.vip]
                rig.start(stack, "member", server, cpu=GENERATOR_CPU)
            for figure in measure(rigs, options):
                figures += [figure]  # one by one: what was measured before a failure is shown
    except BenchError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    finally:
        if figures:
            print_table(figures, before)
            if options.json:
                write_json(figures, options.json)
    return 1 if options.strict and any(figure.ok is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Benchmark of the speed of reaction: from the last bad result to the first packet that avoids the member.

    tests/run bench reaction [--rounds N] [--plane raw|xdp|xdp-slow] [--json FILE] [--strict]

A whole director with a pool of a hundred members (tests/root/many_rig.py), and one flow whose packets come every
millisecond. Its member dies; the moments are that of the director's own event of the verdict, and that at which the
router behind the director sees the flow's first packet for another member. README.md says more.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from tests.bench.raw import Figure, at_most, print_table
from tests.bench.rig import BenchError, exclusive
from tests.netns import until
from tests.root.many_rig import Many, Seen, Traffic, many

PLANES = {"raw": "raw", "xdp": "xdp", "xdp-slow": "xdp"}
"""What is measured, and the plane that it takes: the flow's packets are forwarded by the XDP program, or take the slow
path behind it, since the router takes no frames of XDP programs."""

PACKETS_PER_S = 1000.0
GOAL_MS = 20.0


def quantile(values: Sequence[float], q: float) -> float:
    """By nearest rank: what is measured, and nothing between."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def latest(traffic: Traffic, port: int) -> Seen | None:
    return next((one for one in reversed(traffic.seen) if one.flow == port), None)


def react(bench: Many, traffic: Traffic) -> tuple[float, float]:
    """Kill the member of the flow that there is. Returns when the director knew, and when a packet first avoided it, by
    the router's clock (the same machine's)."""
    (port,) = traffic.sent
    last = latest(traffic, port)
    if last is None:
        raise BenchError("no packet of the flow arrives")
    member, seen = last.member, len(traffic.seen)
    began = bench.kill([member])
    try:
        until(lambda: (now := latest(traffic, port)) and now.member != member, "the flow goes elsewhere", 20)
        until(lambda: member in bench.turned("health.down", began), "the verdict is in the log", 5)
        known = bench.turned("health.down", began)[member]["at"]
        avoided = next(one.at for one in traffic.seen[seen:] if one.flow == port and one.member != member)
    finally:
        bench.revive()
    until(lambda: member in bench.turned("member.in_rotation", began), "the member is back", 30)
    return known, avoided


def by_rule(bench: Many, traffic: Traffic) -> float:
    """The yardstick: seconds that a script takes to change one element of a set of nftables, from starting `nft` to its
    end, in the same namespace tree and at the same time."""
    began = time.monotonic()
    bench.router.run("nft", "add element inet many dead { 203.0.113.99 }")
    took_s = time.monotonic() - began
    bench.router.run("nft", "delete element inet many dead { 203.0.113.99 }")
    return took_s


def measure(what: str, rounds: int) -> Iterator[Figure]:
    waits, scripts, slow = [], [], what == "xdp-slow"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onward-bench-")))
        bench = stack.enter_context(
            many(
                PLANES[what],
                "refuses",
                folder,
                interval_s=1.0,
                limit_s=0.5,
                of_pool="flap_half_life = 0",
                takes_frames=not slow,
            )
        )
        traffic = stack.enter_context(bench.flows(1, PACKETS_PER_S))
        until(lambda: traffic.seen, "the flow arrives", 20)
        for _ in range(rounds):
            known, avoided = react(bench, traffic)
            waits.append(max(0.0, avoided - known) * 1e3)
            scripts.append(by_rule(bench, traffic) * 1e3)
        if (bench.by_slow_path() > 0) != slow:
            raise BenchError("packets did not take the path that was to be measured")
    script = statistics.median(scripts)
    note = f"{rounds} deaths in a pool of 100; baseline: one `nft` command that changes a set"
    p50, p99 = quantile(waits, 0.5), quantile(waits, 0.99)
    yield Figure(f"reaction.{what}.p50", p50, "ms", script, p50 / script, note=note)
    yield at_most(f"reaction.{what}.p99", p99, "ms", GOAL_MS, f"from {min(waits):.1f} to {max(waits):.1f}")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests/run bench reaction", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="deaths on each plane; each takes some seven seconds")
    parser.add_argument("--plane", choices=tuple(PLANES), action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a goal is missed")
    options = parser.parse_args(words)
    try:
        with exclusive():
            found = [figure for what in options.plane or PLANES for figure in measure(what, options.rounds)]
    except (BenchError, AssertionError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print_table(found)
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in found], indent=2))
    return int(options.strict and any(figure.ok is False for figure in found))


if __name__ == "__main__":
    sys.exit(main())

"""`tests/run failures`: breaks a fleet again and again, and prints for how long a client had no service.

The exit status is 1 when the median of a row with a goal is above it, 2 for wrong usage, and that of an exception when
service did not come back.
"""

import argparse
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tests.failures.matrix import MATRIX, Failure, Withdrawal, members_lost, run
from tests.failures.stage import stage, version

WITHDRAW_GOAL_MS = 100.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/run failures", description="For how long does a client miss service?")
    parser.add_argument("--runs", type=int, default=5, help="of each failure (5)")
    parser.add_argument("--router", choices=["frr", "bird", "all"], default="all", help="(all)")
    parser.add_argument("--only", default="", help="fleets and failures whose names have this text in them")
    options = parser.parse_args()
    routers = ["frr", "bird"] if options.router == "all" else [options.router]
    today = datetime.now(UTC).date()
    print(f"{today}, Linux {platform.release()}, {os.cpu_count()} CPUs, {', '.join(map(version, routers))}")
    print("Two directors, 16 flows with a datagram every 10 ms each; the longest outage of any flow, in ms.\n")
    print("| router | fleet | what happens | runs | p50 | max | goal | lost of sent |")
    print("|---|---|---|---|---|---|---|---|")
    missed = False
    for router in routers:
        for fleet, changes, failures in MATRIX:
            wanted = [each for each in failures if options.only in f"{router}, {fleet}, {each.name}"]
            members = fleet == "raw" and options.only in f"{router}, {fleet}, all members down"
            if wanted or members:
                with (
                    tempfile.TemporaryDirectory(prefix="onward-failures-") as folder,
                    stage(Path(folder), router, **changes) as made,  # type: ignore[arg-type]
                ):
                    for failure in wanted:
                        missed |= _report(router, fleet, failure, [run(made, failure) for _ in range(options.runs)])
                    if members:
                        missed |= _report_members(router, [members_lost(made) for _ in range(options.runs)])
    return int(missed)


def _report(router: str, fleet: str, failure: Failure, runs: list[tuple[float, dict]]) -> bool:
    """One row; whether the goal was missed."""
    times = [missed for missed, _ in runs]
    lost, sent = (sum(said[key] for _, said in runs) for key in ("lost", "sent"))
    goal = "" if failure.goal_ms is None else f"{failure.goal_ms:.0f}"
    row = [
        router,
        fleet,
        failure.name,
        len(runs),
        f"{median(times):.0f}",
        f"{max(times):.0f}",
        goal,
        f"{lost} of {sent}",
    ]
    print("|", " | ".join(map(str, row)), "|", flush=True)
    return failure.goal_ms is not None and median(times) > failure.goal_ms


def _report_members(router: str, runs: list[Withdrawal]) -> bool:
    times = [each for one in runs for each in one.took_ms]
    back = median(one.back_s for one in runs)
    row = [router, "raw", "all members down: verdict to withdrawal on the wire", len(runs)]
    row += [
        f"{median(times):.0f}",
        f"{max(times):.0f}",
        f"{WITHDRAW_GOAL_MS:.0f}",
        f"back {back:.1f} s after the member",
    ]
    print("|", " | ".join(map(str, row)), "|", flush=True)
    return median(times) > WITHDRAW_GOAL_MS


if __name__ == "__main__":
    sys.exit(main())

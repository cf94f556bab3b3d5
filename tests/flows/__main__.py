"""`tests/run flows`: runs the whole story, prints what became of every flow, and fails when one is broken.

The last line is `B broken of N flows`; the exit status is 0 exactly when B is 0. It is 1 when flows broke, 2 for wrong
usage, 3 when the run itself failed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.lab.node import LabError
from tests.flows import evidence
from tests.flows.fleet import CLIENTS, DIRECTORS, PLANES, Fleet, FleetError
from tests.flows.report import Account, causes, examples, table
from tests.flows.story import Story, short, whole
from tests.flows.workload import Load

UDP_SHARE = 0.25
"""Of the flows."""

SHOWN = 8
"""Broken flows of each happening that are told one by one."""


def loads(flows: int, connections: int, duration_s: float, seed: int, life_s: float = 60.0) -> dict[str, Load]:
    """Loads for the clients that make so many flows in all within a duration.

    Args:
        flows: of every kind, in all.
        connections: TCP connections that are always open; a quarter as many UDP flows are.
        duration_s: of the story, roughly.
        seed: for everything random.
        life_s: mean life of a kept connection.
    """
    udp = connections // 4
    kept = connections * (1 + duration_s / life_s) + udp * (1 + 2 * duration_s / life_s)
    rate = max(0.0, flows - kept) / duration_s
    share = len(CLIENTS)
    return {
        name: Load(
            connections=connections // share,
            udp_flows=udp // share,
            tcp_rate=rate * (1 - UDP_SHARE) / share,
            udp_rate=rate * UDP_SHARE / share,
            life_s=life_s,
            seed=seed * share + number,
        )
        for number, name in enumerate(CLIENTS)
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/run flows", description="Prove that no flow breaks.")
    parser.add_argument("--plane", choices=[*PLANES, "all"], default="all", help="data planes of the directors (all)")
    parser.add_argument("--flows", type=int, default=100_000, help="flows in all, at least (100000)")
    parser.add_argument("--connections", type=int, default=2000, help="TCP connections that are always open (2000)")
    parser.add_argument("--no-pins", action="store_true", help="directors remember nothing: flows must break")
    parser.add_argument("--seed", type=int, default=1, help="for everything random (1)")
    parser.add_argument("--pause", type=float, default=12.0, help="seconds between two happenings (12)")
    parser.add_argument("--short", action="store_true", help="the short story, as in the ordinary run")
    parser.add_argument("--no-store", action="store_true", help="directors do not agree through etcd")
    parser.add_argument("--logs", type=Path, help="folder for what the directors and routers said")
    parser.add_argument("--capture", type=Path, help="folder for captures of what directors get and send")
    options = parser.parse_args()
    story, duration_s = (short, options.pause * 4 + 15) if options.short else (whole, options.pause * 23 + 60)
    wanted = loads(options.flows, options.connections, duration_s, options.seed)
    broken = begun = 0
    for plane in PLANES if options.plane == "all" else [options.plane]:
        print(f"\n== {plane}{', without pins' if options.no_pins else ''}", flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="onward-flows-") as folder:
                result = run(
                    Path(folder),
                    plane,
                    lambda told: story(told, options.pause),
                    wanted,
                    at_least=options.flows,
                    store=not options.no_store,
                    pins=0 if options.no_pins else None,
                    logs=options.logs and options.logs / plane,
                    capture=options.capture and options.capture / plane,
                )
        except (FleetError, LabError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 3
        broken, begun = broken + len(result.all_broken), begun + result.begun
    print(f"{broken} broken of {begun} flows")
    return 1 if broken else 0


def run(
    folder: Path,
    plane: str,
    story: Callable[[Story], None],
    wanted: Mapping[str, Load],
    *,
    at_least: int = 0,
    store: bool = True,
    pins: int | None = None,
    logs: Path | None = None,
    capture: Path | None = None,
) -> Account:
    """One fleet from its beginning to its end; prints what happens and what came of it.

    Args:
        folder: for what the fleet needs, empty.
        plane: of PLANES.
        story: what happens, from when the flows that are kept are all there.
        wanted: loads by client.
        at_least: flows that must have begun before the end.
        store: whether directors agree through etcd.
        pins: flows that a director remembers; None leaves it to the directors.
        logs: folder for what the nodes' programs said; None keeps nothing.
        capture: folder for captures; None captures nothing.

    Raises:
        FleetError, LabError, RuntimeError: the run failed, and says nothing about flows.
    """
    with (
        Fleet.up(folder, PLANES[plane], store=store, pins=pins, logs=logs) as fleet,
        evidence.captured(fleet, capture) as captures,
        Story(fleet, wanted, say=lambda text: print(text, flush=True)) as told,
    ):
        told.passes(next(iter(wanted.values())).ramp_s)
        story(told)
        told.until_begun(at_least)
        result = told.finish()
        strays, took_s = told.census().strays, time.time() - told.happenings[0].at
    print(f"\n{table(result, list(DIRECTORS))}\n")
    print(
        f"{plane}: {len(result.all_broken)} broken of {result.begun} flows in {took_s:.0f} s; "
        f"{len(result.all_lost)} more were lost with dead members; {strays} resets came after an end"
    )
    if result.all_broken:
        start = told.happenings[0].at
        for position, flows in sorted(result.broken.items()):
            print(f"\nbroke after {told.happenings[position].text}:", *causes(flows), sep="\n")
            for flow in examples(flows, SHOWN):
                print(f"{flow.cause - start:6.1f} s  {flow}")
                for line in evidence.of(flow, captures):
                    print(line)
        print("\nwhat was seen:")
        for note in told.notes:
            print(f"{note.at - start:6.1f} s  {note.text}")
    return result


if __name__ == "__main__":
    sys.exit(main())

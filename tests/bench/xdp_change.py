"""How long a change of one member takes, from the decision on to packets that follow it, in a complete XDP plane.

usage: python -m tests.bench.xdp_change INTERFACE POOLS ROUNDS       in a namespace where INTERFACE can have native XDP

A virtual service for each pool, with 65,537 slots and eight members. One member in the middle goes down and comes back.
Prints one line of JSON: milliseconds of each part, a list with a number for each round.
"""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import structlog

import appliance.dataplane.xdp.tables
from appliance.dataplane.raw.kernel import read_interface
from appliance.dataplane.xdp.attach import Mode
from appliance.dataplane.xdp.plane import XdpDataPlane
from appliance.dataplane.xdp.tables import Tables
from appliance.decide import decide
from appliance.model import Health
from appliance.state import Snapshot
from tests.builders import config, hop, member, pool, service, snapshot

MEMBERS = 8
FIRST_VIP = int(ip_address("198.18.0.0"))


class Stopwatch:
    """When calls of some functions began and ended, by name."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[float, float]]] = {}

    def watch(self, owner: Any, function: str, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, function)

        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                self.calls.setdefault(name, []).append((begin, time.perf_counter()))

        setattr(owner, function, timed)

    def spent(self, name: str, before: float) -> float:
        """Seconds in calls that ended before then."""
        return sum(end - begin for begin, end in self.calls.get(name, []) if end <= before)


def world(interface: str, pools: int) -> Snapshot:
    """Everything well: a service for each pool, all members up and resolved by that interface."""
    found = read_interface(interface)
    if found is None:
        raise SystemExit(f"there is no interface {interface}")
    members = [member(number + 1) for number in range(MEMBERS)]
    services = (
        service(
            name=f"s{number}",
            vips=(ip_address(FIRST_VIP + number),),
            pool=pool(*members, name=f"p{number}"),
        )
        for number in range(pools)
    )
    base = snapshot(config(*services))
    hops = {
        one.address: hop(number, ifindex=found.ifindex, interface=interface, source_mac=found.mac)
        for number, one in enumerate(members)
    }
    return replace(base, next_hops=hops)


async def measure(interface: str, pools: int, rounds: int) -> dict[str, list[float]]:
    known = world(interface, pools)
    which = f"p{pools // 2}/web1"
    plane = XdpDataPlane((interface,), mode=Mode.NATIVE)
    await plane.start()
    try:
        desired = decide(known)
        await plane.set(desired.tables)
        watch = Stopwatch()
        watch.watch(appliance.dataplane.xdp.tables, "wait_for_readers", "wait")
        watch.watch(Tables, "stage", "stage")
        watch.watch(Tables, "publish", "publish")
        parts: dict[str, list[float]] = {}
        for number in range(rounds):
            watch.calls.clear()
            health = dict(known.health) | {which: Health.UP if number % 2 else Health.DOWN}
            begin = time.perf_counter()
            desired = decide(replace(known, health=health), desired)
            decided = time.perf_counter()
            await plane.set(desired.tables)
            end = time.perf_counter()
            in_force = watch.calls["publish"][-1][1]
            # Waiting is a part of staging; what is waited for after publication delays nothing.
            wait, stage = (watch.spent(name, in_force) for name in ("wait", "stage"))
            for name, value in {
                "decide": decided - begin,
                "wait": wait,
                "write": stage - wait,
                "rest": in_force - decided - stage,
                "in_force": in_force - begin,
                "behind": end - in_force,
            }.items():
                parts.setdefault(name, []).append(round(value * 1e3, 3))
            await asyncio.sleep(0.05)  # changes come one at a time
    finally:
        await plane.close()
    return parts


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    interface, pools, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(asyncio.run(measure(interface, pools, rounds))))


if __name__ == "__main__":
    main()

"""The raw data plane alone in a process, with an asyncio loop whose punctuality is measured.

    python -m tests.bench.driver SPEC        SPEC: JSON, see `Spec`

The complete program is what the benchmark times. This is for what needs a hand in the process: a 1 ms ticker, and
callbacks that block the loop on purpose.
"""

import asyncio
import json
import signal
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import cycle

import numpy as np
import uvloop

from appliance import log
from appliance.dataplane.raw.plane import RawDataPlane
from appliance.forwarding import NO_MEMBER, SLOTS, ForwardingTables, NextHop, Placement, TableMember, TableService
from appliance.model import Delivery, DsrType, Encapsulation, HashMode, PortRange, Protocol
from tests.bench.rig import mac

TICK_S = 0.001


@dataclass(frozen=True)
class Spec:
    vip: str
    mode: str
    source: str
    members: list[str]
    ifindex: int
    """Of d1."""

    block_s: float = 0.0
    """How long a callback blocks the loop, every `block_every_s`."""

    block_every_s: float = 0.06

    placings: tuple[str, ...] = ("steady",)
    """Of PLACINGS: the first one's tables to begin with; SIGUSR2 takes the next one's, round and round."""


IDLE_S = 600
"""No flow of these measurements ends by being idle."""

PLACINGS = ("steady", "window", "tail", "mix", "per_flow", "per_packet")
"""What the flows' slots are in: all the same thing, or a tenth each in a window and the tail."""


def tables(spec: Spec, placing: str) -> ForwardingTables:
    delivery = Delivery(DsrType.L2, None) if spec.mode == "l2" else Delivery(DsrType.L3, Encapsulation.IPIP)
    hop = NextHop(spec.ifindex, "d1", mac("d1"), mac("s0"), 1500, ip_address(spec.source), direct=True)
    members = {
        index: TableMember(index, f"bench/m{index}", ip_address(address), delivery, hop)
        for index, address in enumerate(spec.members)
    }
    owners = (np.arange(SLOTS, dtype=np.uint64) * 2654435761 % (1 << 32) >> 16) % len(members)
    previous = owners.copy()
    tenth = np.arange(SLOTS) % 10
    if placing in ("window", "mix"):
        moved = (placing == "window") | (tenth == 0)
        previous[moved] = (owners[moved] + 1) % len(members)
    if placing in ("tail", "mix"):
        previous[(placing == "tail") | (tenth == 1)] = NO_MEMBER
    slots = (owners | previous << 16).astype(np.uint32)
    service = TableService(
        0,
        "bench",
        ip_address(spec.vip),
        Protocol.UDP,
        (PortRange(80, 80),),
        HashMode.FIVE_TUPLE,
        slots,
        IDLE_S,
        {"per_flow": Placement.PER_FLOW, "per_packet": Placement.PER_PACKET}.get(placing, Placement.HASH),
        choices=np.array(sorted(members), np.uint16),
    )
    return ForwardingTables(b"secret of the bench", (service,), members)


async def main(spec: Spec) -> None:
    loop = asyncio.get_running_loop()
    signalled, stopping = asyncio.Event(), False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        signalled.set()

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGUSR2, signalled.set)
    plane = RawDataPlane(("d0",))
    await plane.start()
    lags: list[float] = []
    due = 0.0

    def tick() -> None:
        nonlocal due
        now = time.monotonic()
        lags.append(now - due)
        due = now + TICK_S
        loop.call_later(TICK_S, tick)

    def block() -> None:
        end = time.monotonic() + spec.block_s
        while time.monotonic() < end:
            pass
        loop.call_later(spec.block_every_s - spec.block_s, block)

    try:
        due = time.monotonic() + TICK_S
        loop.call_later(TICK_S, tick)
        if spec.block_s:
            loop.call_later(spec.block_every_s, block)
        # The first line asks for a fresh start of the figures: what came before was set-up.
        loop.add_signal_handler(signal.SIGUSR1, lags.clear)
        for placing in cycle(spec.placings):
            await plane.set(tables(spec, placing))
            print("ready", flush=True)
            await signalled.wait()
            signalled.clear()
            if stopping:
                break
        counters = await plane.counters()
    finally:
        await plane.close()
    lags.sort()
    print(
        json.dumps(
            {
                "lag_p50_ms": lags[len(lags) // 2] * 1e3,
                "lag_p99_ms": lags[len(lags) * 99 // 100] * 1e3,
                "lag_max_ms": lags[-1] * 1e3,
                "details": dict(counters.details),
                "reasons": dict(counters.reasons),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    log.configure(level="warning")
    uvloop.run(main(Spec(**json.loads(sys.argv[1]))))

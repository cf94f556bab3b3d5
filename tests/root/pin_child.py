"""A director's pins and their channel in a process of its own, told what to do through a pipe.

usage: python -m tests.root.pin_child '{"me": [NAME, ADDRESS], "peers": [[NAME, ADDRESS], ...], "first": I, "pins": N}'
Each request on stdin and each answer on stdout is one line of JSON: [method, arguments...] and what it returns.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any

import numpy as np
import structlog
import uvloop

from appliance.dataplane.pins import FLOW, JOURNAL, MEMBER_SHIFT, WAYS, WHEN_MASK
from appliance.fleet.channel import PinChannel
from appliance.model import FleetPeer
from appliance.packet.placement import Pin, PinState
from tests.unit.fleet.ends import SECRET, flow, keep, known, members, table


class Child:
    def __init__(self, me: list[str], peers: list[list[str]], first: int, pins: int) -> None:
        self.pins = table(pins)
        self.channel = PinChannel(_spec(me), [_spec(peer) for peer in peers], SECRET, self.pins)
        self.first = first
        self.channel.set_members(members(first))
        self.lag_s = 0.0
        self.rate = self.way = 0

    def keep(self, first: int, last: int, member: int = 0, idle: int = 281) -> None:
        """Flows of these numbers are seen here now."""
        keep(self.pins, range(first, last), self.first + member, idle=idle)

    def tell_and_die(self, first: int, last: int, member: int) -> None:
        """New connections of these numbers are seen by a thread that forwards, and then the process is no more."""

        def forward() -> None:
            number = self.channel.grant(last - first)
            for flow_number in range(first, first + number):
                self.pins.keep(Pin(self.first + member, PinState.NEW), flow(flow_number), self.pins.now(), tell=True)
            os.kill(os.getpid(), signal.SIGKILL)

        self.pins.herald = self.channel
        threading.Thread(target=forward).start()
        time.sleep(10)  # the event loop is busy

    def known(self) -> dict[int, int]:
        """Hashes of flows, and their members counted from the first."""
        return {number: member - self.first for number, member in known(self.pins).items()}

    def count(self) -> int:
        return len(self.pins.live())

    def status(self) -> dict[str, Any]:
        return asdict(self.channel.status())

    def usage(self) -> list[float]:
        """CPU seconds of this process so far, and how late its loop was at most since the last call, s."""
        lag_s, self.lag_s = self.lag_s, 0.0
        return [time.process_time(), lag_s]

    def load(self, rate: int) -> None:
        """So many new flows a second from now on, written as a data plane's vector path would, without its cost."""
        self.rate = rate

    async def make_flows(self) -> None:
        chance = np.random.default_rng(1)
        while True:
            await asyncio.sleep(0.02)
            if not (count := self.rate // 50):
                continue
            hashes = chance.integers(1, 1 << 63, count, np.uint64) << np.uint64(1)
            sets = np.uint64(self.pins.capacity // WAYS)
            places = ((hashes >> np.uint64(32)) * sets >> np.uint64(32)).astype(np.int64) * WAYS + self.way
            self.way = (self.way + 1) % WAYS
            flows = np.zeros(count, FLOW)
            flows["hash64"], flows["idle"], flows["protocol"] = hashes, 281, 6
            self.pins.flows[places] = flows
            when = np.uint64(self.pins.now() & WHEN_MASK)
            self.pins.words[places] = hashes << np.uint64(32) | np.uint64(self.first << MEMBER_SHIFT) | when
            head = int(self.pins.heads[0])
            self.pins.journal[0, np.arange(head, head + count) % JOURNAL] = places
            self.pins.heads[0] = head + count

    async def joined(self, timeout_s: float) -> dict[str, Any]:
        return asdict(await self.channel.joined(timeout_s))

    async def measure_lag(self) -> None:
        while True:
            due = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            self.lag_s = max(self.lag_s, time.monotonic() - due)


def _spec(pair: list[str]) -> FleetPeer:
    return FleetPeer(pair[0], ip_address(pair[1]))


async def main() -> None:
    child = Child(**json.loads(sys.argv[1]))
    async with asyncio.TaskGroup() as tasks:
        own = [tasks.create_task(part()) for part in (child.channel.run, child.measure_lag, child.make_flows)]
        while line := await asyncio.to_thread(sys.stdin.readline):
            method, *arguments = json.loads(line)
            answer = getattr(child, method)(*arguments)
            if asyncio.iscoroutine(answer):
                answer = await answer
            print(json.dumps(answer), flush=True)
        for task in own:
            task.cancel()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    uvloop.run(main())

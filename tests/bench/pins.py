"""Benchmark of the pin channel: `python -m tests.bench.pins`. Two directors on the loopback interface.

What depends on the machine is told as a share of a CPU or as time for one pin; bytes do not depend on it.
"""

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import Callable

import numpy as np
import uvloop

from appliance.fleet.channel import PinChannel
from appliance.fleet.telling import Telling
from appliance.fleet.wire import LONGEST, PER_DATAGRAM, SHORTEST, Keys
from appliance.model import FleetPeer
from tests.root.pin_rig import Director, start
from tests.unit.fleet.ends import SECRET, directors, flow, keep, members, running, table, until

PINS = 65_536


def best_us(call: Callable[[], object], repeat: int = 2000) -> float:
    times = []
    for _ in range(5):
        started = time.thread_time()
        for _ in range(repeat):
            call()
        times.append((time.thread_time() - started) / repeat)
    return min(times) * 1e6


def tags() -> None:
    """The two ways to sign that the standard library has."""
    key = os.urandom(32)
    print("tag of a datagram              keyed BLAKE2b   HMAC-SHA256")
    for size in (SHORTEST, LONGEST):
        data = os.urandom(size)
        ours = best_us(lambda data=data: hashlib.blake2b(data, key=key, digest_size=16).digest())
        theirs = best_us(lambda data=data: hmac.digest(key, data, "sha256"))
        print(f"  {size:5} bytes {ours:22.2f} us {theirs:10.2f} us")


def columns() -> None:
    """Pins to entries and back, without sockets."""
    here, there = table(2 * PINS), table(2 * PINS)
    keep(here, range(PINS))
    keys = Keys.derive(SECRET)
    teller, hearer = Telling(here, keys), Telling(there, keys)
    for one in (teller, hearer):
        one.set_members(members())
    print("\nin columns, for one pin        of 17   of 1,088")
    for what in ("told", "heard first", "heard again"):
        line = f"  {what:24}"
        for count in (PER_DATAGRAM, 64 * PER_DATAGRAM):
            places, _ = teller.block(0, 32 * count)
            parts = np.split(places, 32)
            data = [teller.tell(part).tobytes() for part in parts]
            if what == "heard first":
                there.words[:] = 0
            started = time.thread_time()
            for part, entries in zip(parts, data, strict=True):
                if what == "told":
                    teller.tell(part)
                else:
                    hearer.hear(entries)
            line += f"{(time.thread_time() - started) / 32 / count * 1e6:8.2f} us"
        print(line)
    empty = Telling(table(2 * PINS), keys)
    print(f"  a round of {2 * PINS:,} places: empty {best_us(lambda: empty.due(1.0, 0), 20):.0f} us", end="")
    print(f", half full {best_us(lambda: teller.due(1.0, 0), 20):.0f} us")


async def latency() -> None:
    """From a packet to what the other director knows."""
    a, b = directors("a", "b")
    here, there = table(), table()
    one, other = PinChannel(a, [b], SECRET, here), PinChannel(b, [a], SECRET, there)
    times = []
    for channel in (one, other):
        channel.set_members(members())
    async with running(one, other):
        await until(lambda: one.status().peers[0].state == other.status().peers[0].state == "joined", "they have met")
        for number in range(200):
            keep(here, [number])
            started = time.monotonic()
            await until(lambda number=number: there.find(flow(number).hash64, there.now()), "news", pause_s=0.0005)
            times.append((time.monotonic() - started) * 1000)
    times.sort()
    print(f"\nnews                           median {times[100]:.1f} ms, p99 {times[198]:.1f} ms after the packet")


async def openings() -> None:
    """What it costs the forwarding thread to tell of connections before they go."""
    names = directors("a", "b", "c")
    here = table(2 * PINS)
    channels = [PinChannel(me, [peer for peer in names if peer != me], SECRET, here) for me in names[:1]]
    channels += [PinChannel(me, names[:1], SECRET, table()) for me in names[1:]]
    for channel in channels:
        channel.set_members(members())
    keep(here, range(4096))
    places = np.array([here.find(flow(number).hash64, here.now())[0] for number in range(1024)])
    async with running(*channels):
        await until(lambda: len(channels[0]._reach[0]) == 2, "they have met")
        print("\nnew connections of a window, told to two others, for each")
        for count in (1, 17, 256):
            told = [places[begin : begin + count] for begin in range(0, len(places) - count, count)]
            times = []
            for part in told:  # what is under way must not fill the others' sockets
                started = time.thread_time()
                channels[0].tell(part)
                times.append((time.thread_time() - started) / count)
                await asyncio.sleep(0.001)
            print(f"  {count:4} at once {sorted(times)[len(times) // 2] * 1e6:20.2f} us")


def spec(peer: FleetPeer) -> list[str]:
    return [peer.name, str(peer.address)]


def spent(one: Director, other: Director, seconds: float, what: str) -> None:
    def read() -> tuple[float, float, int, int]:
        counts = one.ask("status")["counts"]
        return one.ask("usage")[0], other.ask("usage")[0], counts["bytes_sent"], counts["news"] + counts["refreshes"]

    before = read()
    time.sleep(seconds)
    after = read()
    teller, hearer, size, pins = (new - old for new, old in zip(after, before, strict=True))
    print(
        f"  {what:28} {pins / seconds:8,.0f} pins/s {size * 8 / seconds / 1e6:6.2f} Mbit/s   "
        f"teller {teller / seconds:5.1%} of a CPU, hearer {hearer / seconds:5.1%}"
    )


def processes() -> None:
    a, b = directors("a", "b")
    with start([], spec(a), spec(b), pins=2 * PINS) as one:
        for begin in range(0, PINS, 8192):
            one.ask("keep", begin, begin + 8192)
        count = one.ask("count")
        with start([], spec(b), spec(a), pins=2 * PINS) as other:
            cpu = one.ask("usage")[0], other.ask("usage")[0]
            facts = other.ask("joined", 5)
            teller, hearer = one.ask("usage")[0] - cpu[0], other.ask("usage")[0] - cpu[1]
            print(
                f"\na whole table                  {facts['pins']['a']} of {count} pins in {facts['seconds']:.2f} s; "
                f"CPU: teller {teller:.2f} s, hearer {hearer:.2f} s"
            )
            print("\nafterwards")
            spent(one, other, 10, "65,536 silent TCP flows")
            one.ask("load", 5000)
            time.sleep(1)
            spent(one, other, 5, "5,000 new flows a second")
            one.ask("load", 50_000)
            time.sleep(1)
            spent(one, other, 5, "50,000 new flows a second")
            one.ask("load", 0)
    with start([], spec(a), spec(b)) as one, start([], spec(b), spec(a)) as other:
        other.ask("joined", 5)
        spent(one, other, 10, "nothing to tell")


def main() -> None:
    tags()
    columns()
    uvloop.run(latency())
    uvloop.run(openings())
    processes()


if __name__ == "__main__":
    main()

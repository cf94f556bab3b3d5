"""The yardstick of the health benchmark: the same members asked as one writes it first with asyncio.

usage: python -m tests.bench.naive_checks INTERVAL LIMIT ADDRESS COUNT [ADDRESS COUNT ...]    addresses from there on

Connects to port 80 of every member, a task for each, and closes. Prints "ready"; on SIGUSR1 it begins to count, on
SIGTERM it prints a line of JSON: probes that ended, and those that were good.
"""

import asyncio
import json
import random
import signal
import sys
from ipaddress import ip_address

counts = {"probes": 0, "good": 0}


async def ask(address: str, interval_s: float, limit_s: float) -> None:
    await asyncio.sleep(random.uniform(0, interval_s))
    loop = asyncio.get_running_loop()
    while True:
        start = loop.time()
        good = 0
        try:
            async with asyncio.timeout(limit_s):
                _, writer = await asyncio.open_connection(address, 80)
                writer.close()
                good = 1
        except OSError:
            pass
        counts["probes"] += 1
        counts["good"] += good
        await asyncio.sleep(max(0.0, interval_s - (loop.time() - start)))


async def main(interval_s: float, limit_s: float, *ranges: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: counts.update(probes=0, good=0))
    addresses = [
        str(ip_address(first) + number)
        for first, count in zip(ranges[::2], ranges[1::2], strict=True)
        for number in range(int(count))
    ]
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(ask(address, interval_s, limit_s)) for address in addresses]
        print("ready", flush=True)
        await stop.wait()
        for task in asking:
            task.cancel()
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:]))

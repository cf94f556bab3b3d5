"""A client's traffic through the VIPs; runs inside the client node and prints one JSON object a line.

    python -m containerlab.tour.traffic load http://198.51.100.10 udp://198.51.100.10:5000 ...   until SIGTERM
    python -m containerlab.tour.traffic hold http://198.51.100.10 --connections 200              until SIGTERM
    python -m containerlab.tour.traffic transfer http://198.51.100.10 --size 10000000            once
    python -m containerlab.tour.traffic udp udp://198.51.100.10:5000 --flows 100                 once

Connections are plain sockets with hand-written requests on purpose: an HTTP client would open a broken connection again
behind our back, and broken connections are what we are looking for.
"""

import argparse
import asyncio
import hashlib
import json
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

from appliance.lab.responder import pattern

TIMEOUT_S = 5.0
REPORT_S = 0.25


class BrokenError(Exception):
    """The connection did not do what it should."""


class Connection:
    """One HTTP/1.1 connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: SplitResult) -> "Connection":
        async with asyncio.timeout(TIMEOUT_S):
            return cls(*await asyncio.open_connection(url.hostname, url.port or 80))

    async def ask(self, method: str, path: str, body: bytes = b"", timeout_s: float = TIMEOUT_S) -> bytes:
        """The answer's body.

        Raises:
            BrokenError: no answer in time, a connection error, or a status other than 200.
        """
        try:
            async with asyncio.timeout(timeout_s):
                head = f"{method} {path} HTTP/1.1\r\nHost: vip\r\nContent-Length: {len(body)}\r\n\r\n"
                self._writer.write(head.encode() + body)
                await self._writer.drain()
                status = await self._reader.readuntil(b"\r\n\r\n")
                if b" 200 " not in status.split(b"\r\n")[0]:
                    raise BrokenError(status.split(b"\r\n")[0].decode())
                fields = dict(line.lower().split(b": ", 1) for line in status.split(b"\r\n")[1:] if b": " in line)
                return await self._reader.readexactly(int(fields[b"content-length"]))
        except TimeoutError:
            raise BrokenError("no answer in time") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            raise BrokenError(str(error) or type(error).__name__) from error

    async def member(self) -> str:
        """Which member is at the other end."""
        return (await self.ask("GET", "/")).decode().split()[0]

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass  # it was broken, or its other end is gone: nothing is left to close


def say(**fields: object) -> None:
    print(json.dumps({"at": round(time.time(), 3)} | fields), flush=True)


class Tally:
    """What came back since the last report, by VIP and member."""

    def __init__(self) -> None:
        self.good: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def report(self) -> None:
        good: dict[str, dict[str, int]] = {}
        for (target, member), count in self.good.items():
            good.setdefault(target, {})[member] = count
        say(good=good, failed=dict(self.failed), errors=dict(self.errors))
        self.good.clear()
        self.failed.clear()
        self.errors.clear()


async def load(targets: list[str], rate: float) -> None:
    """New HTTP connections and datagrams from new ports, *rate* a second for each target, until SIGTERM."""
    tally, stop = Tally(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as tasks:
        for target in targets:
            tasks.create_task(_pace(lambda target=target: _once(target, tally), rate, stop, tasks), name=target)  # type: ignore[misc]
        while not stop.is_set():
            try:
                async with asyncio.timeout(REPORT_S):
                    await stop.wait()
            except TimeoutError:
                pass
            tally.report()


async def _pace(act: Callable[[], Awaitable[None]], rate: float, stop: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
    while not stop.is_set():
        tasks.create_task(_run(act), name="act")
        try:
            async with asyncio.timeout(1 / rate):
                await stop.wait()
        except TimeoutError:
            pass


async def _run(act: Callable[[], Awaitable[None]]) -> None:
    await act()


async def _once(target: str, tally: Tally) -> None:
    url = urlsplit(target)
    try:
        member = await (_http_once(url) if url.scheme == "http" else _udp_once(url))
    except (BrokenError, OSError, TimeoutError) as error:
        tally.failed[target] += 1
        tally.errors[str(error) or type(error).__name__] += 1
    else:
        tally.good[target, member] += 1


async def _http_once(url: SplitResult) -> str:
    connection = await Connection.open(url)
    try:
        return await connection.member()
    finally:
        await connection.close()


class _Reply(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _udp_once(url: SplitResult, payload: bytes = b"hello") -> str:
    """A connected socket: only a reply whose source is the VIP itself gets in."""
    family = socket.AF_INET6 if ":" in (url.hostname or "") else socket.AF_INET
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        _Reply, remote_addr=(url.hostname or "", url.port or 0), family=family
    )
    try:
        transport.sendto(payload)
        async with asyncio.timeout(2):
            member, _, echo = (await protocol.answer).partition(b" ")
    finally:
        transport.close()
    if echo != payload:
        raise BrokenError(f"another payload came back: {echo!r}")
    return member.decode()


async def udp(target: str, flows: int) -> int:
    """One datagram from each of *flows* ports; prints who answered."""
    tally = Tally()
    for start in range(0, flows, 50):
        await asyncio.gather(*(_once(target, tally) for _ in range(min(50, flows - start))))
    failed = sum(tally.failed.values())
    tally.report()
    return 1 if failed else 0


async def hold(target: str, connections: int, interval: float) -> None:
    """Keep *connections* open and use each every *interval* seconds; say at once when one breaks."""
    url, stop = urlsplit(target), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    kept: dict[int, str] = {}
    broken: list[dict[str, object]] = []

    async def keep(number: int) -> None:
        connection = await Connection.open(url)
        try:
            kept[number] = member = await connection.member()
            while not stop.is_set():
                try:
                    async with asyncio.timeout(interval):
                        await stop.wait()
                except TimeoutError:
                    pass
                now = await connection.member()
                if now != member:
                    raise BrokenError(f"answered by {now}, was {member}")
        except (BrokenError, OSError, TimeoutError) as error:
            broken.append({"member": kept.pop(number, "none"), "error": str(error) or type(error).__name__})
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as tasks:
        for number in range(connections):
            tasks.create_task(keep(number), name=f"connection-{number}")
        while not stop.is_set():
            try:
                async with asyncio.timeout(REPORT_S):
                    await stop.wait()
            except TimeoutError:
                pass
            say(open=dict(Counter(kept.values())), broken=broken)
    say(open=dict(Counter(kept.values())), broken=broken, end=True)


async def transfer(target: str, size: int) -> int:
    """Upload and download *size* bytes; the checksums of both ends must be equal."""
    url = urlsplit(target)
    blob = b"".join(pattern(size))
    connection = await Connection.open(url)
    started = time.monotonic()
    sha256, length = (await connection.ask("POST", "/sink", blob, timeout_s=60)).decode().split()
    uploaded = time.monotonic()
    received = await connection.ask("GET", f"/blob?size={size}", timeout_s=60)
    downloaded = time.monotonic()
    member = await connection.member()
    await connection.close()
    mine = hashlib.sha256(blob).hexdigest()
    say(
        member=member,
        upload_ok=(sha256, int(length)) == (mine, size),
        download_ok=hashlib.sha256(received).hexdigest() == mine,
        upload_s=round(uploaded - started, 3),
        download_s=round(downloaded - uploaded, 3),
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="A client's traffic through the VIPs.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("load")
    one.add_argument("targets", nargs="+")
    one.add_argument("--rate", type=float, default=20)
    one = commands.add_parser("hold")
    one.add_argument("target")
    one.add_argument("--connections", type=int, default=200)
    one.add_argument("--interval", type=float, default=0.5)
    one = commands.add_parser("transfer")
    one.add_argument("target")
    one.add_argument("--size", type=int, default=10_000_000)
    one = commands.add_parser("udp")
    one.add_argument("target")
    one.add_argument("--flows", type=int, default=100)
    options = parser.parse_args()
    match options.command:
        case "load":
            asyncio.run(load(options.targets, options.rate))
        case "hold":
            asyncio.run(hold(options.target, options.connections, options.interval))
        case "transfer":
            return asyncio.run(transfer(options.target, options.size))
        case "udp":
            return asyncio.run(udp(options.target, options.flows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

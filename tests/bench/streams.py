"""Benchmark of people who watch: how late the event loop is, and what the director costs, with a hundred streams open.

    tests/run bench streams [--rounds N] [--secs S] [--services N] [--members N] [--json FILE]

A complete director on CPU 1 (raw plane, no traffic), and readers of its streams on CPU 0, who throw away what comes. It
has readers and none in turns; the yardstick is the director without, in the same round.
"""

import argparse
import os
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from threading import Event, Thread

from tests.bench.config import text as text_of
from tests.bench.raw import Figure, print_table, progress, write_json
from tests.bench.rig import BenchError, exclusive
from tests.bench.xdp import entered, over, span
from tests.netns import Namespace, namespaces, until, veth

ROOT = Path(__file__).parents[2]
HOST, PORT = "127.0.0.1", 8080
READERS = 100
PATHS = ("summary", "figures", "services/s0", "events", "stream")
"""What they read, in equal parts: what pages of the web application read, and the whole status, the largest of all."""

_BUCKET = re.compile(r'^onward_loop_lag_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE)
_SUM = re.compile(r"^onward_loop_lag_seconds_sum ([0-9.e+-]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Look:
    """What a director says of itself at a moment."""

    cpu_s: float
    lag_sum_s: float
    buckets: dict[float, float]
    """How many samples of its loop's lateness were that late at most, by seconds."""


@dataclass(frozen=True)
class Turn:
    """What it was like for a while."""

    lag_mean_s: float
    lag_p99_s: float
    """The bound of the histogram's bucket that it is in."""

    cpu: float
    """Share of a CPU."""

    read: float
    """Bytes a second that all readers got."""


class Director:
    """The complete program, alone in a namespace."""

    def __init__(self, space: Namespace, folder: Path, services: int, members: int) -> None:
        self._space = space
        (folder / "fleet.key").write_bytes(bytes(range(32)))
        text = text_of(services, services, members).replace('interfaces = ["eth1"]', 'interfaces = ["e0"]')
        own = f'name = "d1"\nplane = "raw"\nruntime_dir = "{folder}/run"'
        (folder / "onward.toml").write_text(text.replace('name = "d1"', own))
        words = space.command(sys.executable, "-m", "appliance", "run", str(folder / "onward.toml"))
        self.process = subprocess.Popen(["taskset", "-c", "1", *words], cwd=ROOT, stderr=subprocess.DEVNULL)
        until(self._answers, "the director answers", 120)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise BenchError("the director has ended")
        try:
            return self.get("/readyz") != b""
        except OSError:
            return False

    def connect(self) -> socket.socket:
        with entered(self._space):
            return socket.create_connection((HOST, PORT), timeout=30)

    def get(self, path: str) -> bytes:
        connection = HTTPConnection(HOST, PORT)
        connection.sock = self.connect()
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def look(self) -> Look:
        metrics = self.get("/metrics").decode()
        total = _SUM.search(metrics)
        if total is None:
            raise BenchError("the director does not tell how late its loop is")
        ticks = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        buckets = {float(bound): float(count) for bound, count in _BUCKET.findall(metrics)}
        return Look(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), float(total[1]), buckets)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Readers:
    """Streams that are read as fast as they come."""

    def __init__(self, director: Director, count: int) -> None:
        self.bytes = 0
        self._selector = selectors.DefaultSelector()
        self._over = Event()
        for path in islice(cycle(PATHS), count):
            connection = director.connect()
            request = f"GET /api/v1/{path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n\r\n"
            connection.sendall(request.encode())
            if not connection.recv(4096).startswith(b"HTTP/1.1 200 "):
                raise BenchError(f"no stream at {path}")
            self._selector.register(connection, selectors.EVENT_READ)
        self._thread = Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(0.1):
                assert isinstance(key.fileobj, socket.socket)
                got = len(key.fileobj.recv(1 << 20))
                if not got:
                    self._selector.unregister(key.fileobj)
                self.bytes += got

    @property
    def open(self) -> int:
        return len(self._selector.get_map())

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


@contextmanager
def reading(director: Director, count: int) -> Iterator[Readers]:
    readers = Readers(director, count)
    try:
        yield readers
    finally:
        readers.close()


def turn(director: Director, count: int, secs: float) -> Turn:
    """A while with so many readers."""
    with reading(director, count) as readers:
        time.sleep(1.0)  # those of before have gone, and all of these have begun
        before, read, began = director.look(), readers.bytes, time.monotonic()
        time.sleep(secs)
        after, took = director.look(), time.monotonic() - began
        if readers.open != count:
            raise BenchError(f"{count - readers.open} of {count} streams were cut")
        counts = {bound: count - before.buckets[bound] for bound, count in after.buckets.items()}
        samples = counts[float("inf")]
        p99 = min(bound for bound, count in counts.items() if count >= 0.99 * samples)
        return Turn(
            (after.lag_sum_s - before.lag_sum_s) / samples,
            p99,
            (after.cpu_s - before.cpu_s) / took,
            (readers.bytes - read) / took,
        )


def figures(turns: dict[int, list[Turn]]) -> Iterator[Figure]:
    with_all, none = turns[READERS], turns[0]

    def one(name: str, unit: str, scale: float, of: Callable[[Turn], float]) -> Figure:
        mine, theirs = ([scale * of(each) for each in side] for side in (with_all, none))
        pairs = over(mine, theirs)
        ratio, note = statistics.median(pairs), f"{span(pairs, 2)}; {READERS} readers / none"
        return Figure(name, statistics.median(mine), unit, statistics.median(theirs), ratio, None, None, note)

    yield one("streams.lag_mean", "ms", 1e3, lambda each: each.lag_mean_s)
    yield one("streams.lag_p99", "ms", 1e3, lambda each: each.lag_p99_s)
    yield one("streams.cpu", "% of a CPU", 1e2, lambda each: each.cpu)
    read = [each.read / 1e6 for each in with_all]
    yield Figure("streams.read", statistics.median(read), "MB/s", note=f"{span(read, 1)}; by all readers together")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests/run bench streams", description="Benchmark of streams.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--secs", type=float, default=8.0, help="of each turn")
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--members", type=int, default=10, help="of each virtual service")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, {0})
    turns: dict[int, list[Turn]] = {READERS: [], 0: []}
    with (
        exclusive(),
        namespaces("d", "s", prefix="owks") as (space, other),
        tempfile.TemporaryDirectory() as folder,
    ):
        veth(space, "e0", other, "e0")
        space.ip("address add 192.0.2.11/24 dev e0")
        director = Director(space, Path(folder), given.services, given.members)
        try:
            director.get("/api/v1/status")
            for number in range(given.rounds):
                progress(f"round {number + 1} of {given.rounds}")
                for count in turns if number % 2 == 0 else reversed(turns):
                    turns[count].append(turn(director, count, given.secs))
        finally:
            director.end()
    found = list(figures(turns))
    print_table(found)
    if given.json is not None:
        write_json(given.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

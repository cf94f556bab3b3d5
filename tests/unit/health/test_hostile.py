"""Servers that mean ill: whatever they do, a check ends in time, in little memory, and lets the event loop live."""

import asyncio
import os
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from health.checks import CHECKS
from health.checks.http import HttpsCheck
from health.checks.tls import TlsCheck
from health.secure import Tls
from health.spec import Check, Code, Result
from tests.netns import until
from tests.unit.health.certificates import NAME, Authority, authority, secured
from tests.unit.health.serving import many, reset, target, wait_for_end

Run = Callable[..., Any]

LIMIT_S = 0.3
STREAMS: dict[str, dict[str, Any]] = {
    "tcp": {"request": b"hello", "response": b"never"},
    "http": {"response": b"never", "response_size": 16384},
    "https": {"response": b"never", "tls": Tls(verify=False)},
    "dns": {"query_name": NAME, "transport": "tcp"},
    "tls": {"tls": Tls(verify=False)},
    "grpc": {},
}
"""All kinds that read a stream from the member, asking for as much as they can."""

KINDS = pytest.mark.parametrize("kind", STREAMS)


def check_of(kind: str, timeout_s: float = LIMIT_S) -> Check:
    return CHECKS[kind](timeout_s=timeout_s, **STREAMS[kind])


@dataclass
class Watched:
    """What a probe has cost."""

    result: Result
    gap_s: float
    """The longest time for which the event loop did nothing else."""
    peak_bytes: int


async def watched(check: Check, port: int) -> Watched:
    gap_s = 0.0

    async def tick() -> None:
        nonlocal gap_s
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            gap_s = max(gap_s, time.monotonic() - before)

    await check.probe(target(port))  # what is imported and made once does not count
    tracemalloc.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(tick())
            result = await check.probe(target(port))
            peak_bytes = tracemalloc.get_traced_memory()[1]
            ticking.cancel()
    finally:
        tracemalloc.stop()
    return Watched(result, gap_s, peak_bytes)


def assert_harmless(found: Watched) -> None:
    """Bad, in time, in little memory. The bounds leave room for a busy machine; without limits all are exceeded."""
    assert not found.result.good
    assert found.result.duration_s < LIMIT_S + 1.5
    assert found.gap_s < 0.5
    assert found.peak_bytes < 4_000_000


FLOODS = {
    "zeros": bytes(65536),
    "noise": os.urandom(65536),
    "lines": b"\r\n" * 32768,
    "words": b"all is well " * 5461,
    "informational answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 2621,
    "empty HTTP/2 settings": b"\0\0\0\4\0\0\0\0\0" * 7281,
    "HTTP/2 pings": b"\0\0\x08\6\0\0\0\0\0pingping" * 3855,
    "HTTP/2 continuations": b"\0\0\0\4\0\0\0\0\0" + b"\0\0\1\1\0\0\0\0\1\x88" + b"\0\0\0\x09\0\0\0\0\1" * 7000,
    "TLS alerts": b"\x15\3\3\0\2\1\x5a" * 9362,
    "TLS handshakes": b"\x16\3\3\0\5\0\0\0\1\0" * 6553,
    "DNS answers": b"\0\x0c" + bytes(12),
}


@KINDS
@pytest.mark.parametrize("flood", FLOODS)
def test_floods(run: Run, kind: str, flood: str) -> None:
    """A server that sends without end, as fast as it can, whatever it is asked."""

    def serve(connection: socket.socket) -> None:
        while True:
            connection.sendall(FLOODS[flood])

    with many(serve) as port:
        assert_harmless(run(watched(check_of(kind), port)))


HEADS = {
    "header lines": (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 10000),
    "one header": (b"HTTP/1.1 200 OK\r\na: ", b"b" * 65536),
    "a body": (b"HTTP/1.1 200 OK\r\n\r\n", b"b" * 65536),
    "a body of 10 MB": (b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n", b"b" * 65536),
    "small chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nb\r\n" * 10000),
    "a chunk's extension": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"b" * 65536),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 10000),
    "answers to nothing": (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 1700),
}


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_floods_within_http(run: Run, trusted: Authority, secure: bool, head: str) -> None:
    """A server that begins as it should and then never ends, within TLS as well."""

    def serve(connection: socket.socket) -> None:
        first, rest = HEADS[head]
        connection.recv(1000)
        connection.sendall(first)
        while True:
            connection.sendall(rest)

    check = check_of("https" if secure else "http")
    with secured(trusted.server(NAME), serve) if secure else many(serve) as port:
        assert_harmless(run(watched(check, port)))


@KINDS
@pytest.mark.parametrize("pause_s", [None, 0.01])
def test_silence_and_trickles(run: Run, kind: str, pause_s: float | None) -> None:
    """A server that accepts and says nothing, or a byte now and then: over at the time limit."""

    def serve(connection: socket.socket) -> None:
        if pause_s is None:
            wait_for_end(connection)
        while True:
            time.sleep(pause_s or 0)
            connection.sendall(b"\0")

    with many(serve) as port:
        found = run(watched(check_of(kind), port))
    assert_harmless(found)
    assert found.result.code in (
        Code.PAYLOAD_TIMEOUT, Code.SSL_ERROR, Code.PAYLOAD_CONTENT_MISMATCH,
    )  # fmt: skip


def test_nobody_takes_what_we_send(run: Run) -> None:
    """A server that never reads a large request ends at the time limit, too."""
    check = CHECKS["tcp"](timeout_s=LIMIT_S, request=bytes(20_000_000), response=b"never")
    over = threading.Event()
    with many(lambda connection: bool(over.wait(5))) as port:
        result = run(check.probe(target(port)))
        over.set()
    assert (result.code, result.detail) == (Code.PAYLOAD_TIMEOUT, f"send: nothing within {LIMIT_S} s")


# ---------------------------------------------------------------------------------------------------------------------
# The end at every place


ANSWERS = {
    "tcp": b"220 mail.example.com ESMTP\r\n",
    "http": b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
    "grpc": b"\0\0\0\4\0\0\0\0\0" + b"\0\0\1\1\4\0\0\0\1\x88" + b"\0\0\7\0\0\0\0\0\1\0\0\0\0\2\x08\1"
    b"\0\0\x0f\1\5\0\0\0\1\0\x0bgrpc-status\x010",
    "dns": b"\0\x31??\x81\x80\0\1\0\1\0\0\0\0\3www\7example\3com\0\0\1\0\1\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\x50",
}  # fmt: skip

GOOD_SETTINGS = STREAMS | {"tcp": {"request": b"?", "response": b"ESMTP\r\n"}, "http": {"response": b"fine"}}


@asynccontextmanager
async def cut(kind: str, by_reset: bool) -> AsyncIterator[tuple[int, Callable[[int], None]]]:
    """A server that ends its answer after so many bytes; yields its port, and what sets the number."""
    length = 0

    def work(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    asked = connection.recv(4096)
                    answer = ANSWERS[kind].replace(b"??", asked[2:4])
                    connection.sendall(answer[:length])
                    if by_reset:
                        reset(connection)
                    else:
                        connection.shutdown(socket.SHUT_WR)
                        wait_for_end(connection)
                except OSError:
                    pass

    def set_length(value: int) -> None:
        nonlocal length
        length = value

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        thread = threading.Thread(target=work, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], set_length
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            await asyncio.to_thread(thread.join, 5)


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
def test_the_end_at_every_byte(run: Run, kind: str, by_reset: bool) -> None:
    """A good answer that ends after any number of bytes is a bad result at once, and the whole one is good."""
    check = CHECKS[kind](timeout_s=5.0, **GOOD_SETTINGS[kind])
    whole = len(ANSWERS[kind])

    async def story() -> list[Result]:
        results = []
        async with cut(kind, by_reset) as (port, set_length):
            for length in range(whole + 1):
                set_length(length)
                results.append(await check.probe(target(port)))
        return results

    results = run(story())
    assert max(result.duration_s for result in results) < 4
    good = [length for length, result in enumerate(results) if result.good]
    # The words may be there before the end is; from then on all is well, and never before.
    if by_reset:
        assert set(good) <= set(range(min(good, default=whole), whole + 1))
    else:
        assert good
        assert good == list(range(good[0], whole + 1))
    assert all(length >= whole - 30 for length in good)
    assert {result.code for result in results if not result.good} <= {
        Code.NO_RESPONSE, Code.CONNECTION_ERROR, Code.CONNECTION_RESET, Code.PAYLOAD_CONTENT_MISMATCH,
        Code.RESPONSE_CODE_MISMATCH,
    }  # fmt: skip


@contextmanager
def cutting_proxy(port: int) -> Iterator[tuple[int, list[int]]]:
    """Passes connections on, and so many bytes of the answers: yields its port, and a list with that number."""
    limit = [0]

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as inner:
            left = limit[0]

            def forward() -> None:
                try:
                    while data := connection.recv(4096):
                        inner.sendall(data)
                    inner.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

            thread = threading.Thread(target=forward)
            thread.start()
            try:
                while left and (data := inner.recv(min(4096, left))):
                    connection.sendall(data)
                    left -= len(data)
            finally:  # also when the server has ended the connection by a reset, or nobody would tell the client
                connection.shutdown(socket.SHUT_WR)
                thread.join(5)

    with many(serve) as outer:
        yield outer, limit


@pytest.mark.parametrize("make", [TlsCheck, partial(HttpsCheck, response=b"fine")], ids=["tls", "https"])
def test_the_end_within_tls(run: Run, trusted: Authority, make: Callable[..., Check]) -> None:
    """The same for a handshake and what comes in it, at every 29th byte."""
    check = make(timeout_s=5.0, tls=Tls(ca_file=trusted.ca_file, server_name=NAME))

    def serve(stream: ssl.SSLSocket) -> None:
        stream.recv(1000)
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")

    async def story(port: int, limit: list[int]) -> list[Result]:
        results = []
        for length in range(0, 4000, 29):
            limit[0] = length
            results.append(await check.probe(target(port)))
        return results

    with secured(trusted.server(NAME), serve) as port, cutting_proxy(port) as (proxy, limit):
        results = run(story(proxy, limit))
    assert max(result.duration_s for result in results) < 4
    good = [result.good for result in results]
    assert good == sorted(good)
    assert not good[0]
    assert good[-1]
    assert {result.code for result in results if not result.good} <= {
        Code.SSL_ERROR, Code.NO_RESPONSE, Code.CONNECTION_ERROR, Code.CONNECTION_RESET,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Datagrams, and what is left behind


@pytest.mark.parametrize("kind", ["udp", "dns"])
@pytest.mark.parametrize("payload", [b"", b"\0" * 12, os.urandom(60000)], ids=["empty", "small", "large"])
def test_floods_of_datagrams(run: Run, kind: str, payload: bytes) -> None:
    """A server that answers one datagram with as many as it can."""
    settings = {"query_name": NAME} if kind == "dns" else {"request": b"?", "response": b"never"}
    over = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.05)

        def work() -> None:
            peer = None
            while not over.is_set():
                try:
                    if peer is None:
                        _, peer = sock.recvfrom(100)
                    sock.sendto(payload, peer)
                except OSError:
                    peer = None  # it has what it wanted, and its port is closed

        thread = threading.Thread(target=work)
        thread.start()
        try:
            check = CHECKS[kind](timeout_s=LIMIT_S, **settings)
            assert_harmless(run(watched(check, sock.getsockname()[1])))
        finally:
            over.set()
            thread.join(5)


def sockets() -> int:
    """Open ones, of this process."""
    return sum(path.is_socket() for path in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_nothing_is_left_behind(run: Run, trusted: Authority, version: bytes) -> None:
    """A server that never says good-bye keeps no connection of ours open once the probe is over."""
    over = threading.Event()

    def serve(stream: ssl.SSLSocket) -> None:
        stream.recv(1000)
        stream.sendall(b"HTTP/" + version + b" 200 OK\r\nContent-Length: 4\r\n\r\nfine")
        over.wait(10)

    async def story(port: int) -> None:
        check = HttpsCheck(timeout_s=5.0, tls=Tls(verify=False), response=b"fine")
        before = sockets()
        assert (await check.probe(target(port))).good
        await asyncio.to_thread(until, lambda: sockets() <= before + 1, "our connection to be closed")  # theirs is open
        over.set()

    with secured(trusted.server(NAME), serve) as port:
        run(story(port))


def test_a_reset_by_every_kind_of_server(run: Run) -> None:
    """Whoever resets what was accepted is no reason to raise, for any kind."""

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with many(serve) as port:
        for kind in STREAMS:
            for _ in range(10):
                assert not run(check_of(kind, 2.0).probe(target(port))).good

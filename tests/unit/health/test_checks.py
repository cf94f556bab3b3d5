"""TCP and UDP checks against real sockets on the loopback interface."""

import asyncio
import errno
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest

from health.checks import CHECKS
from health.checks.errors import excerpt, result_of
from health.checks.tcp import TcpCheck
from health.checks.udp import UdpCheck
from health.spec import Check, Code, Result, Target
from tests.unit.health.serving import server

Run = Callable[..., Any]


def target(address: str, port: int) -> Target:
    return Target("web/web1", ip_address(address), port)


def free_port(kind: socket.SocketKind, address: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as sock:
        sock.bind((address, 0))
        return sock.getsockname()[1]


@contextmanager
def udp_server(answer: bytes | None, address: str = "127.0.0.1") -> Iterator[tuple[int, list[bytes]]]:
    """A UDP server for one datagram; yields its port and what it received."""
    received: list[bytes] = []
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        sock.settimeout(5)

        def work() -> None:
            data, peer = sock.recvfrom(4096)
            received.append(data)
            if answer is not None:
                sock.sendto(answer, peer)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield sock.getsockname()[1], received
        finally:
            thread.join(5)
            assert not thread.is_alive()


def wait_for_end(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_tcp_connect(run: Run, address: str) -> None:
    """A connection is enough where nothing is asked, and it ends with a FIN, not with a reset."""
    ends: list[bytes] = []
    with server(lambda connection: ends.append(connection.recv(1)), address) as port:
        result = run(TcpCheck(timeout_s=2).probe(target(address, port)))
    assert result.good
    assert 0 < result.duration_s < 2
    assert ends == [b""]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_tcp_refused(run: Run, address: str) -> None:
    """A closed port is a refusal at once."""
    started = time.monotonic()
    result = run(TcpCheck(timeout_s=5).probe(target(address, free_port(socket.SOCK_STREAM, address))))
    assert (result.code, result.detail) == (Code.CONNECTION_REFUSED, "connect: connection refused")
    assert time.monotonic() - started < 2


def test_tcp_full_accept_queue(run: Run) -> None:
    """A member that no longer accepts is a time-out after the check's own limit."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(4)]
        try:
            for filler in fillers:
                filler.connect_ex(("127.0.0.1", port))
            result = run(TcpCheck(timeout_s=0.2).probe(target("127.0.0.1", port)))
        finally:
            for filler in fillers:
                filler.close()
    assert (result.code, result.detail) == (Code.CONNECTION_TIMEOUT, "connect: nothing within 0.2 s")
    assert 0.19 < result.duration_s < 2  # timers keep to milliseconds


def test_tcp_answer_in_pieces(run: Run) -> None:
    """The expected answer is found although it comes in two segments after the request."""
    requests: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests.append(connection.recv(100))
        connection.sendall(b"HTTP/1.0 20")
        time.sleep(0.02)
        connection.sendall(b"0 OK\r\n")
        wait_for_end(connection)

    with server(serve) as port:
        check = TcpCheck(timeout_s=2, request=b"HEAD / HTTP/1.0\r\n\r\n", response=b"200 OK")
        assert run(check.probe(target("127.0.0.1", port))).good
    assert requests == [b"HEAD / HTTP/1.0\r\n\r\n"]


def test_tcp_wrong_answer(run: Run) -> None:
    """Another answer is a mismatch that shows both."""
    with server(lambda connection: connection.sendall(b"HTTP/1.0 503\r\n\r\n")) as port:
        result = run(TcpCheck(timeout_s=2, response=b"200 OK").probe(target("127.0.0.1", port)))
    assert result.code is Code.PAYLOAD_CONTENT_MISMATCH
    assert result.detail == r"expected '200 OK', got 'HTTP/1.0 503\r\n\r\n'"


def test_tcp_answer_too_late_in_the_stream(run: Run) -> None:
    """What comes after the first 2048 bytes does not count."""

    def serve(connection: socket.socket) -> None:
        try:
            connection.sendall(b"x" * 2048 + b"200 OK")
            wait_for_end(connection)
        except ConnectionError:
            pass  # we leave in the middle of its answer

    with server(serve) as port:
        result = run(TcpCheck(timeout_s=2, response=b"200 OK").probe(target("127.0.0.1", port)))
    assert result.code is Code.PAYLOAD_CONTENT_MISMATCH


def test_tcp_closed_without_an_answer(run: Run) -> None:
    """A connection that is closed without a word is no response, and says so."""
    with server(lambda _connection: None) as port:
        result = run(TcpCheck(timeout_s=2, response=b"200 OK").probe(target("127.0.0.1", port)))
    assert (result.code, result.detail) == (Code.NO_RESPONSE, "closed without an answer, expected '200 OK'")


def test_tcp_silent(run: Run) -> None:
    """A member that accepts and says nothing is a time-out of the read."""
    with server(wait_for_end) as port:
        result = run(TcpCheck(timeout_s=0.2, request=b"?", response=b"!").probe(target("127.0.0.1", port)))
    assert (result.code, result.detail) == (Code.PAYLOAD_TIMEOUT, "read: nothing within 0.2 s")


def test_tcp_reset(run: Run) -> None:
    """A reset in the middle is told as one."""

    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with server(serve) as port:
        result = run(TcpCheck(timeout_s=2, request=b"?", response=b"!").probe(target("127.0.0.1", port)))
    assert (result.code, result.detail) == (Code.CONNECTION_RESET, "read: connection reset by peer")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_udp_answer(run: Run, address: str) -> None:
    """The expected answer to the configured request is good."""
    with udp_server(b"pong 7", address) as (port, received):
        check = UdpCheck(timeout_s=2, request=b"ping", response=b"pong")
        result = run(check.probe(target(address, port)))
    assert result.good
    assert result.duration_s < 1
    assert received == [b"ping"]


def test_udp_wrong_answer(run: Run) -> None:
    """Another answer is a mismatch."""
    with udp_server(b"no") as (port, _):
        result = run(UdpCheck(timeout_s=2, request=b"ping", response=b"pong").probe(target("127.0.0.1", port)))
    assert (result.code, result.detail) == (Code.PAYLOAD_CONTENT_MISMATCH, "expected 'pong', got 'no'")


def test_udp_silence_with_an_expected_answer(run: Run) -> None:
    """Silence is no response where an answer is expected."""
    with udp_server(None) as (port, _):
        result = run(UdpCheck(timeout_s=0.1, request=b"ping", response=b"pong").probe(target("127.0.0.1", port)))
    assert (result.code, result.detail) == (Code.NO_RESPONSE, "ask: nothing within 0.1 s")


def test_udp_silence_without_an_expected_answer(run: Run) -> None:
    """Silence is good where no answer is expected, and the result says what that rests on."""
    with udp_server(None) as (port, received):
        result = run(UdpCheck(timeout_s=0.1).probe(target("127.0.0.1", port)))
    assert (result.code, result.detail) == (Code.OK, "no answer and no ICMP error")
    assert received == [b""]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("request_", [b"", b"ping"])
def test_udp_closed_port(run: Run, address: str, request_: bytes) -> None:
    """ICMP port unreachable is bad at once, also after an empty datagram."""
    port = free_port(socket.SOCK_DGRAM, address)
    result = run(UdpCheck(timeout_s=5, request=request_).probe(target(address, port)))
    assert (result.code, result.detail) == (Code.PORT_UNREACHABLE, "ask: connection refused")
    assert result.duration_s < 2


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ECONNREFUSED, Code.CONNECTION_REFUSED),
        (errno.ECONNRESET, Code.CONNECTION_RESET),
        (errno.EPIPE, Code.CONNECTION_RESET),
        (errno.ETIMEDOUT, Code.CONNECTION_TIMEOUT),
        (errno.EHOSTUNREACH, Code.SERVER_UNREACHABLE),
        (errno.ENETUNREACH, Code.SERVER_UNREACHABLE),
        (errno.EADDRNOTAVAIL, Code.SERVER_UNREACHABLE),
        (errno.EPERM, Code.SERVER_UNREACHABLE),
        (errno.EINVAL, Code.SERVER_UNREACHABLE),
        (errno.EAFNOSUPPORT, Code.SERVER_UNREACHABLE),
    ],
)
def test_errors_about_the_member(number: int, code: Code) -> None:
    """The kernel's errors about a member become results with its words."""
    result = result_of(OSError(number, "whatever"), "connect")
    assert result.code is code
    assert result.detail.startswith("connect: ")


SETTINGS: dict[str, dict[str, Any]] = {
    "dns": {"query_name": "www.example.com"},
    "external": {"command": ("/bin/true",)},
}
"""What kinds cannot do without."""


@pytest.mark.parametrize("kind", sorted(set(CHECKS) - {"external"}))
def test_without_the_family_in_the_kernel(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An IPv6 member of a machine without IPv6 is unreachable, and no reason to die."""

    def no_family(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    async def story() -> Result:
        monkeypatch.setattr("health.checks.sockets.socket.socket", no_family)  # the loop needs real ones to start
        return await CHECKS[kind](timeout_s=1.0, **SETTINGS.get(kind, {})).probe(target("::1", 80))

    result = asyncio.run(story())
    assert result.code is Code.SERVER_UNREACHABLE


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, None])
def test_errors_about_us(number: int | None) -> None:
    """Used-up files or memory are not the members' fault, so they raise instead of taking all members down."""
    with pytest.raises(OSError, match="ours"):
        result_of(OSError(number, "ours"), "connect")


def test_excerpt_is_short_and_printable() -> None:
    """Whatever a member sends, the detail is one short line of ASCII."""
    assert excerpt(b"a\x00\x1b\xff") == r"'a\x00\x1b\xff'"
    assert excerpt(b"y" * 100) == f"'{'y' * 60}'..."


@pytest.mark.parametrize("kind", CHECKS)
def test_every_kind_is_built_alike(kind: str) -> None:
    """Every registered kind takes its time limit and its settings by name, and is a check."""
    check: Check = CHECKS[kind](timeout_s=1.0, **SETTINGS.get(kind, {}))
    assert check.probe


def test_result_good() -> None:
    """Only OK is good."""
    assert [code for code in Code if Result(code).good] == [Code.OK]

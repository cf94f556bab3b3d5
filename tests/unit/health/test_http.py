"""HTTP and HTTPS checks against Python's own web server, and against sockets that know no better."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from health.checks.http import HttpCheck
from health.spec import Code, Result
from tests.unit.health.serving import many, reset, server, target, wait_for_end

Run = Callable[..., Any]

X = "x" * 60
BOMB = gzip.compress(b"fine" + bytes(20_000_000))


@dataclass
class Site:
    """A running web server, and what it was asked."""

    port: int
    requests: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    peers: set[tuple[Any, ...]] = field(default_factory=set)


class V6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@pytest.fixture(params=["127.0.0.1"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    told = Site(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            told.requests.append(f"{self.command} {self.path}")
            told.headers.append(dict(self.headers))
            told.peers.add(self.client_address)
            status, body, headers = {
                "/": (200, b"all is fine here", {}),
                "/health?deep=%20yes": (200, b"fine", {}),
                "/moved": (302, b"", {"Location": "/"}),
                "/maintenance": (503, b"back soon", {}),
                "/bomb": (200, BOMB, {"Content-Encoding": "gzip"}),
                "/late": (200, b"x" * 3000 + b"fine", {}),
            }.get(self.path, (404, b"no such page", {}))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                try:
                    self.wfile.write(body)
                except ConnectionError:
                    pass  # nobody has to read it all

        do_HEAD = do_OPTIONS = do_GET  # noqa: N815 - the library's names

    address = request.param
    httpd = (V6 if ":" in address else ThreadingHTTPServer)((address, 0), Handler)
    told.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield told
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join(5)


def ask(run: Run, port: int, address: str = "127.0.0.1", **settings: Any) -> Result:
    result = run(HttpCheck(**{"timeout_s": 5.0} | settings).probe(target(port, address)))
    assert isinstance(result, Result)
    assert result.duration_s > 0
    return result


@pytest.mark.parametrize("site", ["127.0.0.1", "::1"], indirect=True)
def test_a_status_is_enough(run: Run, site: Site, request: pytest.FixtureRequest) -> None:
    """Without expected words a 2xx is good; the Host header has the member's address."""
    address = request.node.callspec.params["site"]
    assert ask(run, site.port, address).good
    assert site.requests == ["GET /"]
    assert site.headers[0]["Host"] == (f"[{address}]" if ":" in address else address) + f":{site.port}"
    assert site.headers[0]["User-Agent"] == "onward"


def test_method_path_host_and_words(run: Run, site: Site) -> None:
    """The request stands as it is written down, the query's escapes included."""
    assert ask(run, site.port, path="/health?deep=%20yes", host="www.example.com:81", response=b"fine").good
    assert ask(run, site.port, method="HEAD").good
    assert ask(run, site.port, method="OPTIONS").good
    assert site.requests == ["GET /health?deep=%20yes", "HEAD /", "OPTIONS /"]
    assert site.headers[0]["Host"] == "www.example.com:81"


def test_every_probe_is_a_connection_of_its_own(run: Run, site: Site) -> None:
    """One check that asks five times comes from five ports: no connection is kept."""
    check = HttpCheck(timeout_s=5)

    async def story() -> list[Result]:
        return [await check.probe(target(site.port)) for _ in range(5)]

    assert all(result.good for result in run(story()))
    assert len(site.peers) == 5


@pytest.mark.parametrize(
    ("settings", "code", "detail"),
    [
        ({"path": "/nowhere"}, Code.RESPONSE_CODE_MISMATCH, "status 404, expected 200-299"),
        ({"path": "/nowhere", "codes": ((200, 200), (404, 404))}, Code.OK, ""),
        ({"codes": ((404, 404), (500, 599))}, Code.RESPONSE_CODE_MISMATCH, "status 200, expected 404, 500-599"),
        ({"path": "/moved"}, Code.RESPONSE_CODE_MISMATCH, "status 302, expected 200-299"),
        ({"path": "/moved", "codes": ((300, 399),)}, Code.OK, ""),
        ({"response": b"well"}, Code.PAYLOAD_CONTENT_MISMATCH, "expected 'well', got 'all is fine here'"),
        (
            {"path": "/maintenance", "maintenance_codes": ((503, 503),)},
            Code.MAINTENANCE_RESPONSE_CODE_MATCH,
            "status 503",
        ),
        ({"path": "/maintenance"}, Code.RESPONSE_CODE_MISMATCH, "status 503, expected 200-299"),
        (
            {"path": "/maintenance", "maintenance_response": b"soon"},
            Code.MAINTENANCE_PAYLOAD_CONTENT_MATCH,
            "found 'soon'",
        ),
        ({"maintenance_response": b"soon", "response": b"fine"}, Code.OK, ""),
        ({"maintenance_response": b"here", "response": b"all"}, Code.MAINTENANCE_PAYLOAD_CONTENT_MATCH, "found 'here'"),
        ({"path": "/late", "response": b"fine"}, Code.PAYLOAD_CONTENT_MISMATCH, f"expected 'fine', got '{X}'..."),
        ({"path": "/late", "response": b"fine", "response_size": 4096}, Code.OK, ""),
        ({"path": "/bomb", "response": b"fine"}, Code.PAYLOAD_CONTENT_MISMATCH, None),
    ],
)  # fmt: skip
def test_what_answers_mean(run: Run, site: Site, settings: dict[str, Any], code: Code, detail: str | None) -> None:
    """Status, words and maintenance are judged; redirects are not followed, and bodies are not decompressed."""
    result = ask(run, site.port, **settings)
    assert result.code is code
    assert detail is None or result.detail == detail
    assert result.maintenance == ("maintenance" in code)
    assert len(site.requests) == 1


def test_chunks(run: Run) -> None:
    """Words are found across the borders of chunks."""

    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n2\r\nne\r\n0\r\n\r\n")
        wait_for_end(connection)

    with server(serve) as port:
        assert ask(run, port, response=b"fine").good


def test_refused(run: Run) -> None:
    """A closed port is a refusal."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        result = ask(run, closed.getsockname()[1])
    assert (result.code, result.detail) == (Code.CONNECTION_REFUSED, "connect: connection refused")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "code", "detail"),
    [
        (None, Code.NO_RESPONSE, "closed without an answer"),
        (b"220 mail.example.com ESMTP\r\n", Code.PAYLOAD_CONTENT_MISMATCH, "not HTTP: "),
        (b"\x16\x03\x01\x02\x00\x01", Code.PAYLOAD_CONTENT_MISMATCH, "not HTTP: "),
        (HEAD + b"12345", Code.CONNECTION_ERROR, "read: closed in the middle of the answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, Code.RESPONSE_BUFFER_OVERFLOW, "not HTTP: "),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 5000, Code.RESPONSE_BUFFER_OVERFLOW, "not HTTP: "),
    ],
)
def test_no_proper_answer(run: Run, answer: bytes | None, code: Code, detail: str) -> None:
    """A connection that ends too early, something else than HTTP, and headers without end have their codes."""

    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        if answer is not None:
            connection.sendall(answer)

    with many(serve) as port:
        result = ask(run, port, response=b"fine")
    assert result.code is code
    assert result.detail.startswith(detail)


@pytest.mark.parametrize(
    ("answer", "code", "detail"),
    [
        (b"", Code.CONNECTION_RESET, "answer: connection reset by peer"),
        (HEAD + b"12345", Code.CONNECTION_RESET, "read: connection reset by peer"),
    ],
)
def test_reset(run: Run, answer: bytes, code: Code, detail: str) -> None:
    """A reset before the answer or within it is told as one."""

    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(answer)
        time.sleep(0.1)  # an RST overtakes what was not read
        reset(connection)

    with many(serve) as port:
        result = ask(run, port, response=b"fine")
    assert (result.code, result.detail) == (code, detail)


@pytest.mark.parametrize(("answer", "doing"), [(b"", "answer"), (HEAD, "read")])
def test_silence(run: Run, answer: bytes, doing: str) -> None:
    """A server that accepts and says nothing, or no body, is a time-out of the answer."""

    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(answer)
        wait_for_end(connection)

    with many(serve) as port:
        result = ask(run, port, timeout_s=0.3, response=b"fine")
    assert (result.code, result.detail) == (Code.PAYLOAD_TIMEOUT, f"{doing}: nothing within 0.3 s")
    assert result.duration_s < 2

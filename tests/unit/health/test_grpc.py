"""gRPC checks against the reference implementation's server and health service, and against servers that are none."""

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from health.checks.grpc import ANSWER_BYTES, GrpcCheck, request, serving_status
from health.secure import Tls
from health.spec import Code, Result
from tests.unit.health.serving import many, reset, target, wait_for_end

Run = Callable[..., Any]
Status = health_pb2.HealthCheckResponse


@dataclass
class Service:
    port: int
    secure_port: int
    ca_file: str
    states: health.HealthServicer


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running gRPC server with the health service, with and without TLS."""
    ca = trustme.CA()
    ca_file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    pair = ca.issue_cert("www.example.com")
    credentials = grpc.ssl_server_credentials(
        [(pair.private_key_pem.bytes(), b"".join(part.bytes() for part in pair.cert_chain_pems))]
    )
    with ThreadPoolExecutor(4) as pool:
        running = grpc.server(pool)
        states = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(states, running)
        port = running.add_insecure_port("127.0.0.1:0")
        secure_port = running.add_secure_port("127.0.0.1:0", credentials)
        running.start()
        try:
            yield Service(port, secure_port, str(ca_file), states)
        finally:
            running.stop(0).wait()


def ask(run: Run, port: int, **settings: Any) -> Result:
    result = run(GrpcCheck(**{"timeout_s": 5.0} | settings).probe(target(port)))
    assert isinstance(result, Result)
    return result


def test_a_server_that_serves(run: Run, service: Service) -> None:
    """The server as a whole, and a service by its name."""
    service.states.set("", Status.SERVING)
    service.states.set("shop.Cart", Status.SERVING)
    assert ask(run, service.port).good
    assert ask(run, service.port, service="shop.Cart").good


@pytest.mark.parametrize("state", ["NOT_SERVING", "UNKNOWN", "SERVICE_UNKNOWN"])
def test_a_service_that_does_not_serve(run: Run, service: Service, state: str) -> None:
    """Any other state is bad, and the detail names it."""
    service.states.set("shop.Cart", Status.ServingStatus.Value(state))
    result = ask(run, service.port, service="shop.Cart")
    assert (result.code, result.detail) == (Code.RESPONSE_CODE_MISMATCH, state)


def test_an_unknown_service(run: Run, service: Service) -> None:
    """NOT_FOUND (5) from the health service."""
    result = ask(run, service.port, service="shop.None")
    assert result.code is Code.RESPONSE_CODE_MISMATCH
    assert result.detail.startswith("grpc-status 5: ")


def test_a_server_without_the_health_service(run: Run) -> None:
    """UNIMPLEMENTED (12) from a gRPC server that knows nothing of it."""
    with ThreadPoolExecutor(1) as pool:
        running = grpc.server(pool)
        port = running.add_insecure_port("127.0.0.1:0")
        running.start()
        try:
            result = ask(run, port)
        finally:
            running.stop(0).wait()
    assert (result.code, result.detail) == (Code.RESPONSE_CODE_MISMATCH, "grpc-status 12: 'Method not found!'")


def test_within_tls(run: Run, service: Service) -> None:
    """The same within TLS, where the certificate is judged as well."""
    service.states.set("", Status.SERVING)
    tls = Tls(ca_file=service.ca_file, server_name="www.example.com")
    assert ask(run, service.secure_port, tls=tls).good
    other = ask(run, service.secure_port, tls=Tls(ca_file=service.ca_file, server_name="other.example.com"))
    assert other.code is Code.SSL_CERT_ERROR
    assert ask(run, service.secure_port, timeout_s=2.0).code in (Code.NO_RESPONSE, Code.CONNECTION_RESET)
    assert ask(run, service.port, tls=Tls(verify=False)).code is Code.SSL_ERROR


def test_no_http2(run: Run) -> None:
    """A web server of another kind, silence, an early end, a reset and a closed port have their codes."""
    with many(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        result = ask(run, port)
        assert result.code in (Code.PAYLOAD_CONTENT_MISMATCH, Code.CONNECTION_RESET)
    with many(lambda connection: connection.sendall(os.urandom(5000)) or wait_for_end(connection)) as port:
        assert ask(run, port).code is Code.PAYLOAD_CONTENT_MISMATCH
    with many(wait_for_end) as port:
        result = ask(run, port, timeout_s=0.3)
        assert (result.code, result.detail) == (Code.PAYLOAD_TIMEOUT, "answer: nothing within 0.3 s")
    with many(lambda connection: bool(connection.recv(1000))) as port:
        assert ask(run, port).code in (Code.NO_RESPONSE, Code.CONNECTION_RESET)
    with many(lambda connection: reset(connection) if connection.recv(1000) else None) as port:
        assert ask(run, port).code is Code.CONNECTION_RESET
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert ask(run, closed.getsockname()[1]).code is Code.CONNECTION_REFUSED


def speaking(act: Callable[[h2.connection.H2Connection, int], None]) -> Callable[[socket.socket], None]:
    """A server that speaks HTTP/2 as it should, and does with the call what the test wants."""

    def serve(connection: socket.socket) -> None:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.initiate_connection()
        while True:
            connection.sendall(http.data_to_send())
            data = connection.recv(4096)
            if not data:
                return
            try:
                events = http.receive_data(data)
            except h2.exceptions.ProtocolError:
                return  # it has ended the connection itself
            for event in events:
                if isinstance(event, h2.events.StreamEnded):
                    act(http, event.stream_id)

    return serve


HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
FINE = [("grpc-status", "0")]
GONE = [("grpc-status", "14"), ("grpc-message", "gone")]
NONE = "HTTP status none"


Act = Callable[[h2.connection.H2Connection, int], None]


def answering(message: bytes, trailers: list[tuple[str, str]] = FINE) -> Act:
    def act(http: h2.connection.H2Connection, stream: int) -> None:
        http.send_headers(stream, HEADERS)
        http.send_data(stream, message)
        http.send_headers(stream, trailers, end_stream=True)

    return act


def with_status(status: str) -> Act:
    return lambda http, stream: http.send_headers(stream, [(":status", status)], end_stream=True)


def refusing(words: str) -> Act:
    headers = [(":status", "500"), ("grpc-message", words)]
    return lambda http, stream: http.send_headers(stream, headers, end_stream=True)


def large(http: h2.connection.H2Connection, stream: int) -> None:
    http.send_headers(stream, HEADERS)
    for _ in range(4):
        http.send_data(stream, bytes(12_000))


@pytest.mark.parametrize(
    ("act", "code", "detail"),
    [
        (answering(b"\0\0\0\0\2\x08\1"), Code.OK, ""),
        (answering(b"\0\0\0\0\0"), Code.RESPONSE_CODE_MISMATCH, "UNKNOWN"),
        (answering(b"\0\0\0\0\2\x08\7"), Code.RESPONSE_CODE_MISMATCH, "status 7"),
        (answering(b"\1\0\0\0\2\x08\1"), Code.PAYLOAD_CONTENT_MISMATCH, "not a health status: "),
        (answering(b"nonsense"), Code.PAYLOAD_CONTENT_MISMATCH, "not a health status: 'nonsense'"),
        (answering(b"", GONE), Code.RESPONSE_CODE_MISMATCH, "grpc-status 14: 'gone'"),
        (answering(b"\0\0\0\0\2\x08\1", [("x", "y")]), Code.RESPONSE_CODE_MISMATCH, "grpc-status none: ''"),
        (with_status("404"), Code.RESPONSE_CODE_MISMATCH, "HTTP status 404"),
        (lambda http, stream: http.reset_stream(stream, 7), Code.RESPONSE_CODE_MISMATCH, f"{NONE} the call was reset"),
        (lambda http, _: http.close_connection(2), Code.RESPONSE_CODE_MISMATCH, f"{NONE} the connection was ended"),
        (refusing("\x1b[2J" + "no" * 5000), Code.RESPONSE_CODE_MISMATCH, "HTTP status 500 [2J" + "no" * 28),
        (large, Code.RESPONSE_BUFFER_OVERFLOW, f"more than {ANSWER_BYTES} bytes"),
    ],
)
def test_all_that_an_http2_server_can_say(run: Run, act: Act, code: Code, detail: str) -> None:
    """Proper HTTP/2 with another content than a health status is told apart."""
    with many(speaking(act)) as port:
        result = ask(run, port)
    assert result.code is code
    assert result.detail.startswith(detail), result.detail
    assert len(result.detail) < 200


@given(st.sampled_from(Status.ServingStatus.values()), st.text(max_size=30))
def test_messages_are_those_of_protobuf(state: int, name: str) -> None:
    """Both messages are what the reference implementation makes and reads."""
    data = Status(status=state).SerializeToString()
    assert serving_status(b"\0" + len(data).to_bytes(4, "big") + data) == state
    assert health_pb2.HealthCheckRequest.FromString(request(name)[5:]).service == name


@given(st.binary(max_size=20))
def test_no_message_breaks_the_reader(data: bytes) -> None:
    """It is a number or nothing."""
    assert isinstance(serving_status(data), int | None)


def test_the_file_of_the_authority_is_read(service: Service) -> None:
    """The fixture is what the tests think it is."""
    assert "BEGIN CERTIFICATE" in Path(service.ca_file).read_text()

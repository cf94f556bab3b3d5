"""gRPC: the standard health service, grpc.health.v1 (its definition is in grpc-proto, grpc/health/v1/health.proto).

One unary call over HTTP/2 (gRPC's PROTOCOL-HTTP2 document): h2 keeps the state of the connection, and the two messages
have one field each, which takes no protobuf library. The only file that knows h2.
"""

from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from health.checks.errors import excerpt, shown
from health.checks.probing import Progress, within
from health.checks.sockets import connected
from health.secure import Contexts, Stream, Tls
from health.spec import Code, Result, Target

ANSWER_BYTES = 32 * 1024
"""Of all that a member sends; a usual answer has some 150."""

EVENTS = 64
"""Settings, pings, headers and so on; a usual answer has some 10. Each takes h2 up to a millisecond."""

_CHUNK = 256
_METHOD = "/grpc.health.v1.Health/Check"
_SETTINGS = b"\4"
"""The type of frame that a server begins with (RFC 9113, section 3.4); three bytes of length are before it."""

_SERVING = 1
_STATES = {0: "UNKNOWN", _SERVING: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


@dataclass
class _Call:
    """What has been heard of the call."""

    status: str = ""
    """HTTP's."""

    message: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    """And trailers."""

    over: bool = False


@dataclass(frozen=True)
class GrpcCheck:
    """Good when the health service says SERVING."""

    timeout_s: float
    """For all of it, seconds."""

    service: str = ""
    """Which of the server's services is asked about; empty: the server as a whole."""

    tls: Tls | None = None
    """None: without TLS, by prior knowledge (RFC 9113, section 3.3)."""

    _contexts: Contexts | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Reads the certificates.

        Raises:
            ValueError: they cannot be used.
        """
        object.__setattr__(self, "_contexts", Contexts(self.tls, ("h2",)) if self.tls is not None else None)

    async def probe(self, target: Target) -> Result:
        """Ask *target* once; see `health.spec.Check`."""

        async def ask(progress: Progress) -> Result:
            async with connected(target) as sock:
                stream = Stream(sock)
                if self.tls is not None and self._contexts is not None:
                    progress.doing = "handshake"
                    await stream.handshake(self._contexts.current(), self.tls.name_for(target))
                progress.doing = "answer"
                try:
                    return await self._call(stream, target)
                except h2.exceptions.ProtocolError as error:
                    text = excerpt(" ".join(str(error).split()).encode(), 120)
                    return Result(Code.PAYLOAD_CONTENT_MISMATCH, f"not HTTP/2: {text}")

        return await within(self.timeout_s, ask)

    async def _call(self, stream: Stream, target: Target) -> Result:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="latin-1"))
        http.initiate_connection()
        host = f"[{target.address}]" if target.address.version == 6 else str(target.address)
        headers = (
            (":method", "POST"),
            (":scheme", "http" if self.tls is None else "https"),
            (":path", _METHOD),
            (":authority", f"{(self.tls and self.tls.server_name) or host}:{target.port}"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "onward"),
            ("grpc-timeout", f"{max(1, round(self.timeout_s * 1000))}m"),
        )
        number = http.get_next_available_stream_id()
        http.send_headers(number, headers)
        http.send_data(number, request(self.service), end_stream=True)
        await stream.send(http.data_to_send())
        call, heard, events, first = _Call(), 0, 0, b""
        while not call.over:
            data = await stream.receive(_CHUNK)
            if not data:
                code = Code.CONNECTION_ERROR if heard else Code.NO_RESPONSE
                return Result(code, "closed in the middle of the answer" if heard else "closed without an answer")
            heard += len(data)
            first += data[: 4 - len(first)]
            if first[0] or first[3:] not in (b"", _SETTINGS):  # h2 would wait for the end of what claims to be a frame
                return Result(Code.PAYLOAD_CONTENT_MISMATCH, f"not HTTP/2: {excerpt(data)}")
            if heard > ANSWER_BYTES:
                return Result(Code.RESPONSE_BUFFER_OVERFLOW, f"more than {ANSWER_BYTES} bytes")
            for event in http.receive_data(data):
                events += 1
                _take(event, call)
            if events > EVENTS:
                return Result(Code.RESPONSE_BUFFER_OVERFLOW, f"more than {EVENTS} frames")
            if answer := http.data_to_send():  # of settings and pings
                await stream.send(answer)
        return _judge(call)


def request(service: str) -> bytes:
    """A HealthCheckRequest with its five bytes in front: not compressed, so long. Field 1 is the service.

    Args:
        service: 127 bytes at most.
    """
    name = service.encode()
    message = bytes([0x0A, len(name)]) + name if name else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _take(event: h2.events.Event, call: _Call) -> None:
    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
        headers = {str(name): str(value) for name, value in event.headers}
        call.status = headers.get(":status", call.status)
        call.headers |= headers
    elif isinstance(event, h2.events.DataReceived):
        call.message += event.data
    elif isinstance(event, h2.events.StreamReset):
        call.headers.setdefault("grpc-message", f"the call was reset, error {event.error_code}")
        call.over = True
    elif isinstance(event, h2.events.ConnectionTerminated):
        call.headers.setdefault("grpc-message", f"the connection was ended, error {event.error_code}")
        call.over = True
    elif isinstance(event, h2.events.StreamEnded):
        call.over = True


def _judge(call: _Call) -> Result:
    if call.status != "200":
        status, why = shown(call.status, 10) or "none", shown(call.headers.get("grpc-message", ""))
        return Result(Code.RESPONSE_CODE_MISMATCH, f"HTTP status {status} {why}".strip())
    status = call.headers.get("grpc-status", "none")
    if status != "0":
        text = excerpt(call.headers.get("grpc-message", "").encode("latin-1"), 120)
        return Result(Code.RESPONSE_CODE_MISMATCH, f"grpc-status {shown(status, 10)}: {text}")
    state = serving_status(call.message)
    if state is None:
        return Result(Code.PAYLOAD_CONTENT_MISMATCH, f"not a health status: {excerpt(call.message)}")
    if state != _SERVING:
        return Result(Code.RESPONSE_CODE_MISMATCH, _STATES.get(state, f"status {state}"))
    return Result(Code.OK)


def serving_status(data: bytes) -> int | None:
    """The status in a HealthCheckResponse with its five bytes in front, or None where there is something else.

    Field 1, a number; left out when it is 0 (UNKNOWN), as protobuf does.
    """
    if len(data) < 5 or data[0] != 0 or int.from_bytes(data[1:5], "big") != len(data) - 5:
        return None
    message = data[5:]
    if not message:
        return 0
    return message[1] if len(message) == 2 and message[0] == 0x08 and message[1] < 0x80 else None

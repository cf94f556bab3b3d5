"""HTTP and HTTPS: a request, and what the answer's status and body say.

h11 keeps the state of the connection, over a plain socket of ours. aiohttp would be at hand, but not for servers that
may mean ill: on uvloop a connection that is reset before its TLS handshake leaves a Python socket with the number of a
file that is closed already, which closes some other file when it is collected; an endless row of informational answers
keeps the event loop busy for seconds; and it waits in the background for servers to say good-bye. The only file that
knows h11.
"""

from dataclasses import dataclass, field

import h11

from health.checks.errors import excerpt
from health.checks.probing import Progress, judged, mismatch, within
from health.checks.sockets import connected
from health.secure import Contexts, Stream, Tls
from health.spec import Code, Result, Target

Codes = tuple[tuple[int, int], ...]
"""Ranges of status codes, both ends included."""

HEAD_BYTES = 16 * 1024
"""Of an answer's head, and of all informational answers before it (RFC 9110, section 15.2)."""

_CHUNK = 4096
_BEGINNING = b"HTTP/"


@dataclass(frozen=True)
class HttpCheck:
    """Good when the status is one of the expected ones and, where words are expected, the body has them.

    Every probe is a connection of its own. Redirects are answers like all others, bodies are not decompressed, and no
    more of one is read than is searched.
    """

    timeout_s: float
    """For all of it, seconds."""

    method: str = "GET"
    path: str = "/"
    """With the query, percent-encoded."""

    host: str | None = None
    """The Host header; None: the target's address and port."""

    codes: Codes = ((200, 299),)
    response: bytes = b""
    """Must be in the first `response_size` bytes of the body; empty: the status is enough."""

    response_size: int = 2048
    maintenance_codes: Codes = ()
    """Say that the member is worked on, and count before all else."""

    maintenance_response: bytes = b""
    """In the same bytes of the body, says so too."""

    tls: Tls | None = None
    """None: plain HTTP."""

    _contexts: Contexts | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Reads the certificates.

        Raises:
            ValueError: they cannot be used.
        """
        object.__setattr__(self, "_contexts", Contexts(self.tls) if self.tls is not None else None)

    async def probe(self, target: Target) -> Result:
        """Ask *target* once; see `health.spec.Check`."""

        async def ask(progress: Progress) -> Result:
            async with connected(target) as sock:
                stream = Stream(sock)
                if self.tls is not None and self._contexts is not None:
                    progress.doing = "handshake"
                    await stream.handshake(self._contexts.current(), self.tls.name_for(target))
                progress.doing = "send"
                exchange = _Exchange(stream)
                await exchange.send(self._request(target))
                progress.doing = "answer"
                try:
                    return await self._judge(exchange, progress)
                except h11.RemoteProtocolError as error:
                    return exchange.result_of(error, progress.doing)

        return await within(self.timeout_s, ask)

    def _request(self, target: Target) -> h11.Request:
        address = f"[{target.address}]" if target.address.version == 6 else str(target.address)
        headers = {"Host": self.host or f"{address}:{target.port}", "User-Agent": "onward", "Accept": "*/*"}
        return h11.Request(method=self.method, target=self.path, headers=[*headers.items(), ("Connection", "close")])

    async def _judge(self, exchange: "_Exchange", progress: Progress) -> Result:
        head = await exchange.head()
        if isinstance(head, Result):
            return head
        status = head.status_code
        if among(status, self.maintenance_codes):
            return Result(Code.MAINTENANCE_RESPONSE_CODE_MATCH, f"status {status}")
        body, result = b"", None
        if self.response or self.maintenance_response:
            progress.doing = "read"
            while len(body) < self.response_size and (result is None or self.maintenance_response):
                more = await exchange.body()
                if not more:
                    break
                body = (body + more)[: self.response_size]
                result = judged(body, self.response, self.maintenance_response)
                if result is not None and result.maintenance:
                    return result
        if not among(status, self.codes):
            return Result(Code.RESPONSE_CODE_MISMATCH, f"status {status}, expected {codes_text(self.codes)}")
        return Result(Code.OK) if not self.response else result or mismatch(body, self.response)


@dataclass(frozen=True)
class HttpsCheck(HttpCheck):
    """The same within TLS."""

    tls: Tls | None = field(default_factory=Tls)


class _Exchange:
    """A request and its answer, over a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._ended = False
        self._first = b""
        self.heard = 0
        """Bytes, all in all."""

    async def send(self, request: h11.Request) -> None:
        message = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        await self._stream.send(message)

    async def head(self) -> h11.Response | Result:
        """The answer that counts, or what is wrong with what came instead.

        Raises:
            h11.RemoteProtocolError: it is not HTTP.
        """
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                return event
            if self.heard > HEAD_BYTES:
                return Result(Code.RESPONSE_BUFFER_OVERFLOW, f"informational answers of more than {HEAD_BYTES} bytes")

    async def body(self) -> bytes:
        """More of the body; empty at its end.

        Raises:
            h11.RemoteProtocolError: it has none.
        """
        while True:
            event = await self._next()
            if not isinstance(event, h11.Data):
                return b""
            if event.data:
                return bytes(event.data)

    async def _next(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = await self._stream.receive(_CHUNK)
            self.heard += len(data)
            self._ended = not data
            self._first += data[: len(_BEGINNING) - len(self._first)]
            if not _BEGINNING.startswith(self._first):  # h11 would wait for the end of a head
                raise h11.RemoteProtocolError(f"an answer that begins with {excerpt(data)}")
            self._http.receive_data(data)

    def result_of(self, error: h11.RemoteProtocolError, doing: str) -> Result:
        """What a breach of the protocol says of the member."""
        if self._ended and not self.heard:
            return Result(Code.NO_RESPONSE, "closed without an answer")
        if self._ended:
            return Result(Code.CONNECTION_ERROR, f"{doing}: closed in the middle of the answer")
        # 431: h11's word for a head, or a line between chunks, that is larger than it was told to take.
        overflow = error.error_status_hint == 431
        code = Code.RESPONSE_BUFFER_OVERFLOW if overflow else Code.PAYLOAD_CONTENT_MISMATCH
        return Result(code, f"not HTTP: {excerpt(' '.join(str(error).split()).encode(), 120)}")


def among(code: int, codes: Codes) -> bool:
    return any(first <= code <= last for first, last in codes)


def codes_text(codes: Codes) -> str:
    """`200-299, 404`."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in codes)

"""HTTP and HTTPS: a request, and what the answer's status and body say."""

import re
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
import yarl

from health.checks.errors import excerpt, result_of
from health.checks.probing import Progress, judged, mismatch, within
from health.checks.sockets import opened
from health.secure import Contexts, Tls, result_of_tls
from health.spec import Code, Result, Target

Codes = tuple[tuple[int, int], ...]
"""Ranges of status codes, both ends included."""

_LINE_BYTES = 8190
_HEADERS = 100
_BUFFER_BYTES = 4096

_TOO_MUCH = re.compile(r"(?i)got more than|too many|exceed")


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
            try:
                return await self._ask(target, progress)
            except aiohttp.ClientError as error:
                return _result_of(error, progress.doing)

        return await within(self.timeout_s, ask)

    async def _ask(self, target: Target, progress: Progress) -> Result:
        context = self._contexts.current() if self._contexts is not None else False
        sockets: list[socket.socket] = []

        def opening(address: tuple[object, ...]) -> socket.socket:
            sockets.append(_opened(target))
            return sockets[-1]

        connector = aiohttp.TCPConnector(ssl=context, limit=1, force_close=True, socket_factory=opening)
        trace = aiohttp.TraceConfig()

        async def told(*_: object) -> None:
            progress.doing = "answer"

        trace.on_connection_create_end.append(told)
        host = f"[{target.address}]" if target.address.version == 6 else str(target.address)
        scheme = "https" if self.tls is not None else "http"
        url = yarl.URL(f"{scheme}://{host}:{target.port}{self.path}", encoded=True)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_BUFFER_BYTES,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            max_headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            trace_configs=[trace],
            headers={"User-Agent": "onward", "Accept": "*/*"} | ({"Host": self.host} if self.host else {}),
            skip_auto_headers={"Accept-Encoding"},
        )
        name = self.tls.name_for(target) if self.tls is not None else None
        try:
            async with session:
                response = await session.request(self.method, url, allow_redirects=False, server_hostname=name)
                try:
                    return await self._judge(response, progress)
                finally:
                    response.close()
        finally:
            # aiohttp would wait half a minute for the member to say good-bye in TLS, in the background.
            for sock in sockets:
                with suppress(OSError):  # it is closed already
                    sock.shutdown(socket.SHUT_RDWR)

    async def _judge(self, answer: aiohttp.ClientResponse, progress: Progress) -> Result:
        said = f"status {answer.status}"
        if among(answer.status, self.maintenance_codes):
            return Result(Code.MAINTENANCE_RESPONSE_CODE_MATCH, said)
        body, result = b"", None
        if self.response or self.maintenance_response:
            progress.doing = "read"
            while len(body) < self.response_size and (result is None or self.maintenance_response):
                data = await answer.content.read(self.response_size - len(body))
                if not data:
                    break
                body += data
                result = judged(body, self.response, self.maintenance_response)
                if result is not None and result.maintenance:
                    return result
        if not among(answer.status, self.codes):
            return Result(Code.RESPONSE_CODE_MISMATCH, f"{said}, expected {codes_text(self.codes)}")
        return Result(Code.OK) if not self.response else result or mismatch(body, self.response)


@dataclass(frozen=True)
class HttpsCheck(HttpCheck):
    """The same within TLS."""

    tls: Tls | None = field(default_factory=Tls)


def _opened(target: Target) -> socket.socket:
    sock = opened(target, socket.SOCK_STREAM)
    # aiohttp takes answers as fast as they come, and there may be any number of informational ones (RFC 9110, section
    # 15.2) before the one that counts. What arrives in one round of the loop is at most what fits here.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    return sock


def among(code: int, codes: Codes) -> bool:
    return any(first <= code <= last for first, last in codes)


def codes_text(codes: Codes) -> str:
    """`200-299, 404`."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in codes)


def _result_of(error: aiohttp.ClientError, doing: str) -> Result:
    """What aiohttp's errors say about the member.

    Raises:
        OSError: we are out of files or memory.
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        inner = error.certificate_error
        if isinstance(inner, ssl.SSLError):
            return result_of_tls(inner, "handshake")
        return Result(Code.SSL_CERT_ERROR, f"certificate: {inner}")
    if isinstance(error, aiohttp.ClientConnectorError):
        inner = error.os_error
        if isinstance(inner, ssl.SSLError):
            return result_of_tls(inner, "handshake")
        if inner.errno is None:  # asyncio's own words for a connection that ended during the handshake
            return Result(Code.SSL_ERROR, "handshake: the connection ended")
        return result_of(inner, doing)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return Result(Code.NO_RESPONSE, "closed without an answer")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Result(Code.CONNECTION_ERROR, f"{doing}: the body ended before its end")
    if isinstance(error, aiohttp.ClientResponseError):
        text = " ".join(error.message.split())
        code = Code.RESPONSE_BUFFER_OVERFLOW if _TOO_MUCH.search(text) else Code.PAYLOAD_CONTENT_MISMATCH
        return Result(code, f"not HTTP: {excerpt(text.encode(), 120)}")
    if isinstance(error.__cause__, ssl.SSLError):  # the error itself has OpenSSL's number, as if it were an errno
        return result_of_tls(error.__cause__, doing)
    if isinstance(error, OSError) and error.errno is not None:
        return result_of(error, doing)
    return Result(Code.CONNECTION_ERROR, f"{doing}: {excerpt(str(error).encode(), 120)}")

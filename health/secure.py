"""TLS towards members: settings, contexts, and a stream that is read no further than it is asked to."""

import asyncio
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from health.spec import Code, Result, Target

HANDSHAKE_BYTES = 256 * 1024
"""Of what a member sends; OpenSSL itself takes certificates of 100 KiB in all."""

_CHUNK = 16 * 1024


@dataclass(frozen=True)
class Tls:
    """What is asked of a member's certificate, and what we show of our own."""

    verify: bool = True
    ca_file: str | None = None
    """Certificates that the member's must come from; None: the system's."""

    server_name: str | None = None
    """Of the member: it is told (SNI, RFC 6066), and its certificate must have it. None: nothing is told, and the
    certificate must have the member's address."""

    cert_file: str | None = None
    key_file: str | None = None
    """Our own certificate and its key; a key may stand in the certificate's file."""

    def name_for(self, target: Target) -> str:
        """What the member's certificate must have."""
        return self.server_name or str(target.address)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(name for name in (self.ca_file, self.cert_file, self.key_file) if name is not None)


def context_of(tls: Tls, protocols: tuple[str, ...] = ()) -> ssl.SSLContext:
    """A context with the files as they are now.

    Args:
        tls: the settings.
        protocols: for ALPN (RFC 7301).

    Raises:
        OSError: a file cannot be read or has something else in it (ssl.SSLError).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca_file is not None:
        context.load_verify_locations(tls.ca_file)
    else:
        context.load_default_certs()
    if tls.cert_file is not None:
        # Without a callback OpenSSL would ask on the terminal for the password of a key that has one.
        context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: "")
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@lru_cache(maxsize=64)
def _shared(tls: Tls, protocols: tuple[str, ...], _stamp: tuple[int, ...]) -> ssl.SSLContext:
    """One context for the checks of all members: to read the system's certificates takes some 20 ms."""
    return context_of(tls, protocols)


class Contexts:
    """The context of one check: made anew when its files have changed, so that certificates can be renewed in place.

    While the new files cannot be used (half written, say), the last context that could be made is used.
    """

    def __init__(self, tls: Tls, protocols: tuple[str, ...] = ()) -> None:
        """Reads the files.

        Raises:
            ValueError: they cannot be used.
        """
        self._tls = tls
        self._protocols = protocols
        self._stamp = self._look()
        try:
            self._context = _shared(tls, protocols, self._stamp)
        except OSError as error:
            raise ValueError(f"certificates cannot be used: {error}; check {', '.join(tls.files)}") from error

    def current(self) -> ssl.SSLContext:
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = _shared(self._tls, self._protocols, stamp)
            except OSError:
                pass  # the old one it is; the next change of a file is a new chance
        return self._context

    def _look(self) -> tuple[int, ...]:
        stamps = []
        for name in self._tls.files:
            try:
                stamps.append(Path(name).stat().st_mtime_ns)
            except OSError:
                stamps.append(0)
        return tuple(stamps)


def result_of_tls(error: ssl.SSLError, doing: str) -> Result:
    """The result of a probe that ended in an error of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Result(Code.SSL_CERT_ERROR, f"certificate: {error.verify_message.rstrip('.')}")
    return Result(Code.SSL_ERROR, f"{doing}: {reason_of(error)}")


def reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's words without what only its authors understand."""
    return (error.reason or str(error)).lower().replace("_", " ")


class Stream:
    """A TCP connection, with or without TLS in it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: ssl.SSLObject | None = None

    async def handshake(self, context: ssl.SSLContext, server_name: str) -> ssl.SSLObject:
        """Go on with TLS.

        Raises:
            ssl.SSLError: there can be none.
            OSError: as `recv` does.
        """
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        heard = 0
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError:
                with suppress(OSError):  # it may be gone already
                    await self._flush()  # our alert: the member's log should have the reason, too
                raise
            else:
                await self._flush()
                return self.tls
            heard += await self._hear()
            if heard > HANDSHAKE_BYTES:
                raise ssl.SSLError(1, f"more than {HANDSHAKE_BYTES} bytes")

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        if self.tls is not None:
            self.tls.write(data)
            await self._flush()
        else:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def receive(self, limit: int) -> bytes:
        """Some bytes, *limit* at most; empty at the end."""
        if self.tls is None:
            await asyncio.sleep(0)  # see `_hear`
            return await asyncio.get_running_loop().sock_recv(self._sock, limit)
        while True:
            try:
                return self.tls.read(limit)
            except ssl.SSLWantReadError:
                if not await self._hear():
                    return b""  # without close_notify; many servers leave it out
            except ssl.SSLZeroReturnError:
                return b""

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await asyncio.get_running_loop().sock_sendall(self._sock, self._outgoing.read())

    async def _hear(self) -> int:
        # Reading what is there already never waits, and records may carry nothing for us: without this a flood of them
        # would keep the whole loop to itself, time limits included.
        await asyncio.sleep(0)
        data = await asyncio.get_running_loop().sock_recv(self._sock, _CHUNK)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return len(data)

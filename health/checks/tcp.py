"""TCP: a connection and, if wanted, a question with an expected answer."""

import asyncio
import socket
import time
from dataclasses import dataclass

from health.checks.errors import excerpt, result_of
from health.spec import Code, Result, Target

WINDOW = 2048
"""The expected answer must be within so many bytes, as in the seed system."""


@dataclass(frozen=True)
class TcpCheck:
    """Good when the connection is established and, where an answer is expected, the answer has it."""

    timeout_s: float
    """For all of it, seconds."""

    request: bytes = b""
    """Sent after connecting; empty: nothing is sent."""

    response: bytes = b""
    """Must be somewhere in the first WINDOW bytes of the answer; empty: the connection is enough."""

    async def probe(self, target: Target) -> Result:
        """Ask *target* once; see `health.spec.Check`."""
        loop = asyncio.get_running_loop()
        start = time.monotonic()  # uvloop's own clock stands still within one round of the loop
        family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
        doing = "connect"
        try:
            # A plain socket instead of a transport: it is closed when we leave, whatever happened, and the kernel's
            # errors arrive unaltered on asyncio's loop and on uvloop.
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
                async with asyncio.timeout(self.timeout_s):
                    await loop.sock_connect(sock, (str(target.address), target.port))
                    if self.request:
                        doing = "send"
                        await loop.sock_sendall(sock, self.request)
                    if self.response:
                        doing = "read"
                        mismatch = await self._read(sock)
                        if mismatch:
                            return Result(Code.MISMATCH, mismatch, time.monotonic() - start)
        except TimeoutError as error:
            if error.errno is not None:  # the kernel's own: ETIMEDOUT
                return result_of(error, doing, time.monotonic() - start)
            return Result(Code.TIMEOUT, f"{doing}: nothing within {self.timeout_s:g} s", time.monotonic() - start)
        except OSError as error:
            return result_of(error, doing, time.monotonic() - start)
        return Result(Code.OK, "", time.monotonic() - start)

    async def _read(self, sock: socket.socket) -> str | None:
        """Read until the expected answer is there; returns what is wrong with the answer."""
        loop = asyncio.get_running_loop()
        answer = b""
        while len(answer) < WINDOW:
            data = await loop.sock_recv(sock, WINDOW - len(answer))
            if not data:
                break
            answer += data
            if self.response in answer:
                return None
        if not answer:
            return f"closed without an answer, expected {excerpt(self.response)}"
        return f"expected {excerpt(self.response)}, got {excerpt(answer)}"

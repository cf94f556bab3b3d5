"""TCP: a connection and, if wanted, a question with an expected answer."""

import asyncio
import socket
from dataclasses import dataclass

from health.checks.errors import excerpt
from health.checks.half_open import half_open
from health.checks.probing import Progress, judged, mismatch, within
from health.checks.sockets import connected
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

    maintenance_response: bytes = b""
    """In the same bytes, says that the member is worked on. Nothing is read without a `response`."""

    half_open: bool = False
    """A SYN and its answer are enough, and the server never hears of it: see `health.checks.half_open`."""

    async def probe(self, target: Target) -> Result:
        """Ask *target* once; see `health.spec.Check`."""

        async def ask(progress: Progress) -> Result:
            if self.half_open:
                return await half_open(target)
            async with connected(target) as sock:
                if self.request:
                    progress.doing = "send"
                    await asyncio.get_running_loop().sock_sendall(sock, self.request)
                if not self.response:
                    return Result(Code.OK)
                progress.doing = "read"
                return await self._read(sock)

        return await within(self.timeout_s, ask)

    async def _read(self, sock: socket.socket) -> Result:
        """Read until the expected answer is there."""
        loop = asyncio.get_running_loop()
        answer = b""
        while len(answer) < WINDOW:
            data = await loop.sock_recv(sock, WINDOW - len(answer))
            if not data:
                break
            answer += data
            if result := judged(answer, self.response, self.maintenance_response):
                return result
        if not answer:
            return Result(Code.NO_RESPONSE, f"closed without an answer, expected {excerpt(self.response)}")
        return mismatch(answer, self.response)

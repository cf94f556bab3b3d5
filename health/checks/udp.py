"""UDP: a datagram, and what comes back."""

import asyncio
import socket
import time
from dataclasses import dataclass

from health.checks.errors import excerpt, result_of
from health.spec import Code, Result, Target

WINDOW = 2048
"""The expected answer must be within so many bytes of a datagram, as in the seed system."""


_REPORT_ERRORS = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR of linux/in.h and linux/in6.h, which Python does not name: without them Linux keeps "host
unreachable" from a UDP socket."""


@dataclass(frozen=True)
class UdpCheck:
    """Good when the expected answer comes.

    Without an expected answer, silence is good too: many services answer only what they understand. Then only an ICMP
    error (port or host unreachable) is bad. When a machine is off, the kernel or the last router says so only after
    some 3 s of asking for its MAC address: within a shorter time limit it looks well. So whoever can should configure a
    request and a response.
    """

    timeout_s: float
    """For all of it, seconds."""

    request: bytes = b""
    """The datagram's payload; empty: an empty datagram, which makes a closed port speak up as well."""

    response: bytes = b""
    """Must be in the first WINDOW bytes of the first answer; empty: any answer and no answer will do."""

    async def probe(self, target: Target) -> Result:
        """Ask *target* once; see `health.spec.Check`."""
        loop = asyncio.get_running_loop()
        start = time.monotonic()  # uvloop's own clock stands still within one round of the loop
        family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
        try:
            # A plain connected socket: asyncio's datagram transports do not send empty datagrams.
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.setsockopt(*_REPORT_ERRORS[family], 1)
                async with asyncio.timeout(self.timeout_s):
                    sock.connect((str(target.address), target.port))
                    sock.send(self.request)
                    answer = await loop.sock_recv(sock, WINDOW)
        except TimeoutError as error:
            if error.errno is not None:  # the kernel's own: ETIMEDOUT
                return result_of(error, "ask", time.monotonic() - start)
            if self.response:
                return Result(Code.TIMEOUT, f"no answer within {self.timeout_s:g} s", time.monotonic() - start)
            return Result(Code.OK, "no answer and no ICMP error", time.monotonic() - start)
        except OSError as error:
            return result_of(error, "ask", time.monotonic() - start)
        if self.response not in answer:
            detail = f"expected {excerpt(self.response)}, got {excerpt(answer)}"
            return Result(Code.MISMATCH, detail, time.monotonic() - start)
        return Result(Code.OK, "", time.monotonic() - start)

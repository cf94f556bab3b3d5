"""UDP: a datagram, and what comes back."""

import asyncio
from dataclasses import dataclass

from health.checks.probing import Progress, judged, mismatch, within
from health.checks.sockets import datagrams
from health.spec import Code, Result, Target

WINDOW = 2048
"""The expected answer must be within so many bytes of a datagram, as in the seed system."""


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

    maintenance_response: bytes = b""
    """In the same bytes, says that the member is worked on."""

    async def probe(self, target: Target) -> Result:
        """Ask *target* once; see `health.spec.Check`."""

        async def ask(progress: Progress) -> Result:
            progress.doing = "ask"
            if not self.response:
                progress.late = Result(Code.OK, "no answer and no ICMP error", answered=False)
            with datagrams(target) as sock:
                sock.send(self.request)
                answer = await asyncio.get_running_loop().sock_recv(sock, WINDOW)
            found = judged(answer, self.response, self.maintenance_response)
            return found or mismatch(answer, self.response)

        return await within(self.timeout_s, ask)

"""Ping: an ICMP echo, and its reply (RFC 792, RFC 4443 section 4). Says that a machine is there, not that it serves."""

import os
import socket
import struct
from dataclasses import dataclass

from health.checks.probing import Progress, within
from health.checks.raw import checksum, random_word, raw
from health.spec import Code, Result, Target

_PAYLOAD_BYTES = 56
"""As ping(8)."""


@dataclass(frozen=True)
class PingCheck:
    """Good when the reply comes, with the same bytes."""

    timeout_s: float
    """For all of it, seconds."""

    async def probe(self, target: Target) -> Result:
        """Ask *target* once; see `health.spec.Check`. Its port is of no interest."""

        async def ask(progress: Progress) -> Result:
            progress.doing = "ask"
            # Identifier and sequence number together: unguessable, and other pings of ours have others.
            mark, payload = random_word(), os.urandom(_PAYLOAD_BYTES)
            word = struct.pack("!I", mark)
            protocol, request, reply = (
                (socket.IPPROTO_ICMP, 8, 0) if target.address.version == 4 else (socket.IPPROTO_ICMPV6, 128, 129)
            )
            echo = struct.pack("!BBH", request, 0, 0) + word + payload
            if target.address.version == 4:  # for ICMPv6 the kernel does it (RFC 3542, section 3.1)
                echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
            with raw(target, protocol, (4, mark), lambda quoted: quoted[4:8] == word) as packets:
                packets.send(echo)
                while True:
                    packet = await packets.receive()
                    if packet[0] == reply:  # on the loopback we hear our own request as well
                        break
            if packet[8:] != payload:
                return Result(Code.PAYLOAD_CONTENT_MISMATCH, "the reply has other bytes than the request")
            return Result(Code.OK)

        return await within(self.timeout_s, ask)

"""TCP half open: a SYN, and whether a SYN-ACK comes. The server's program never hears of it.

The connection is never established: it stands in no accept queue, and in no log. The port that the SYN comes from is
bound by a socket of ours that neither listens nor connects, so no other program can get it meanwhile, and the kernel,
which knows of no connection from there, answers the SYN-ACK with an RST (RFC 9293, section 3.10.7.1) by itself: also
when the SYN-ACK comes after the time limit.

With a way of its own the kernel's RST would go astray, since it belongs to no socket. There a socket of ours connects,
and the way leaves out the ACK that would establish the connection.
"""

import asyncio
import ipaddress
import socket
import struct

from health.checks.raw import checksum, random_word, raw
from health.checks.sockets import connected, datagrams, opened
from health.spec import Code, Result, Target

_SYN, _RST, _ACK = 2, 4, 16
_MSS = 1460
_TIMESTAMPS, _TIMESTAMPS_LENGTH = 1, 12
"""TCPI_OPT_TIMESTAMPS of linux/tcp.h, in the sixth byte of TCP_INFO; what they take of a segment (RFC 7323), bytes."""

_FIRST_WAIT_S = 1.0
"""Until the SYN is sent again; doubled every time (RFC 6298, section 2)."""


async def half_open(target: Target) -> Result:
    """Ask until an answer comes; the time limit is the caller's.

    Raises:
        OSError: the kernel or ICMP says that no answer will come.
    """
    if target.way is not None:
        async with connected(target, half_open=True) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with an RST
            return Result(Code.OK, "half open", mss=_peers_mss(sock))
    with datagrams(target) as way:
        source = way.getsockname()[0]
    with opened(target, socket.SOCK_STREAM) as reserved:
        reserved.bind((source, 0))
        port: int = reserved.getsockname()[1]
        number = random_word()
        ports = struct.pack("!HH", port, target.port)
        expected = struct.unpack("!I", struct.pack("!HH", target.port, port))[0]
        with raw(target, socket.IPPROTO_TCP, (0, expected), lambda quoted: quoted[:4] == ports) as segments:
            syn = _syn(source, target, port, number)
            wait_s = _FIRST_WAIT_S
            while True:
                segments.send(syn)
                try:
                    async with asyncio.timeout(wait_s):
                        while True:
                            if result := _result(await segments.receive(), number):
                                return result
                            await asyncio.sleep(0)
                except TimeoutError as error:
                    if error.errno is not None:  # the kernel's own: ETIMEDOUT
                        raise
                    wait_s *= 2


def _peers_mss(sock: socket.socket) -> int:
    """The MSS in the SYN-ACK: what the kernel would send at most, and the timestamps that take a part of it."""
    options: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]
    largest: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    return largest + (_TIMESTAMPS_LENGTH if options & _TIMESTAMPS else 0)


def _syn(source: str, target: Target, port: int, number: int) -> bytes:
    # Sequence number; data offset of six words with the MSS option (RFC 9293, section 3.1).
    segment = struct.pack("!HHIIBBHHHBBH", port, target.port, number, 0, 6 << 4, _SYN, 65535, 0, 0, 2, 4, _MSS)
    addresses = ipaddress.ip_address(source).packed + target.address.packed
    pseudo = addresses + struct.pack("!II", len(segment), socket.IPPROTO_TCP)  # sums to the same for both families
    return segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]


def _result(segment: bytes, number: int) -> Result | None:
    """What a segment from the target's port to ours says; None: nothing about this SYN."""
    if len(segment) < 20:
        return None
    acknowledged, flags = struct.unpack_from("!I", segment, 8)[0], segment[13]
    if not flags & _ACK or acknowledged != (number + 1) & 0xFFFFFFFF:
        return None
    if flags & _RST:
        return Result(Code.CONNECTION_REFUSED, "SYN: connection refused")
    return Result(Code.OK, "half open") if flags & _SYN else None

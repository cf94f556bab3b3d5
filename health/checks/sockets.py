"""The way to a target: every check opens its sockets here, and nowhere else.

So a question can be asked by another way than the kernel's (`Target.way`), without any kind of check knowing of it.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import lru_cache

from health.spec import IPAddress, Target

REPORT_ERRORS = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR of linux/in.h and linux/in6.h, which Python does not name: without them Linux keeps "host
unreachable" from a socket without a connection."""


@lru_cache(maxsize=1 << 16)
def text(address: IPAddress) -> str:
    """An address as sockets take it: thousands are asked every few seconds, and always the same ones."""
    return str(address)


def opened(target: Target, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that does not block, for talking to *target*; not connected yet.

    Args:
        target: what will be talked to.
        kind: SOCK_STREAM, SOCK_DGRAM or SOCK_RAW.
        protocol: of raw sockets, an IANA number.

    Raises:
        OSError: there is none of that family, no way to the target, or we are out of files or memory.
    """
    family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    if target.way is not None:
        try:
            target.way.prepare(sock, target.address)
        except BaseException:
            sock.close()
            raise
    return sock


def carrying(
    target: Target, sock: socket.socket, protocol: int, word: bytes, *, half_open: bool = False
) -> AbstractContextManager[None]:
    """While this lasts, and for what the kernel still has to say after it, packets of a flow go the target's way.

    Args:
        target: what the socket talks to.
        sock: as it was opened.
        protocol: IANA number.
        word: see `health.ways.Way.carrying`, and so for *half_open*.
    """
    if target.way is None:
        return nullcontext()
    return target.way.carrying(sock, target.address, protocol, word, half_open=half_open)


def _ports(target: Target, sock: socket.socket) -> bytes:
    return struct.pack("!HH", sock.getsockname()[1], target.port)


@asynccontextmanager
async def connected(target: Target, *, half_open: bool = False) -> AsyncIterator[socket.socket]:
    """A TCP connection.

    A plain socket instead of a transport: it is closed when we leave, whatever happened, nothing is read that nobody
    asked for, and the kernel's errors arrive unaltered on asyncio's loop and on uvloop.

    Args:
        target: whom to connect to.
        half_open: with a target that has a way: it never hears that the connection was established.

    Raises:
        OSError: as `connect` does.
    """
    with (
        opened(target, socket.SOCK_STREAM) as sock,
        carrying(target, sock, socket.IPPROTO_TCP, _ports(target, sock), half_open=half_open),
    ):
        await asyncio.get_running_loop().sock_connect(sock, (text(target.address), target.port))
        yield sock


@contextmanager
def datagrams(target: Target) -> Iterator[socket.socket]:
    """A UDP socket that sends to the target and hears nobody else, ICMP errors included.

    asyncio's datagram transports would not do: they do not send empty datagrams.

    Raises:
        OSError: as `connect` does.
    """
    with (
        opened(target, socket.SOCK_DGRAM) as sock,
        carrying(target, sock, socket.IPPROTO_UDP, _ports(target, sock)),
    ):
        sock.setsockopt(*REPORT_ERRORS[sock.family], 1)
        sock.connect((text(target.address), target.port))
        yield sock

"""The way to a target: every check opens its sockets here, and nowhere else.

So that a question can one day be asked by another way (from another device, with a mark), without any kind of check
knowing of it.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from health.spec import Target

REPORT_ERRORS = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR of linux/in.h and linux/in6.h, which Python does not name: without them Linux keeps "host
unreachable" from a socket without a connection."""


def opened(target: Target, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that does not block, for talking to *target*; not connected yet.

    Args:
        target: what will be talked to.
        kind: SOCK_STREAM, SOCK_DGRAM or SOCK_RAW.
        protocol: of raw sockets, an IANA number.

    Raises:
        OSError: there is none of that family, or we are out of files or memory.
    """
    family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
    return socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[socket.socket]:
    """A TCP connection.

    A plain socket instead of a transport: it is closed when we leave, whatever happened, nothing is read that nobody
    asked for, and the kernel's errors arrive unaltered on asyncio's loop and on uvloop.

    Raises:
        OSError: as `connect` does.
    """
    with opened(target, socket.SOCK_STREAM) as sock:
        await asyncio.get_running_loop().sock_connect(sock, (str(target.address), target.port))
        yield sock


@contextmanager
def datagrams(target: Target) -> Iterator[socket.socket]:
    """A UDP socket that sends to the target and hears nobody else, ICMP errors included.

    asyncio's datagram transports would not do: they do not send empty datagrams.

    Raises:
        OSError: as `connect` does.
    """
    with opened(target, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(*REPORT_ERRORS[sock.family], 1)
        sock.connect((str(target.address), target.port))
        yield sock

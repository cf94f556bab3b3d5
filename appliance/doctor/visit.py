"""Tries TCP connections to virtual services, as any client does."""

import errno
import os
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from appliance.doctor.client import Came, Try
from appliance.model import IPAddress

_UNDER_WAY = {errno.EINPROGRESS, errno.EWOULDBLOCK}


def visit(targets: Iterable[tuple[IPAddress, int]], timeout_s: float) -> Iterator[Try]:
    """All at once, each from a port of its own; each is closed again.

    Args:
        targets: address and port, as often as it is to be tried.
        timeout_s: so long an answer may take; a lost SYN is repeated after 1 and 3 s.
    """
    with ExitStack() as stack, selectors.DefaultSelector() as waiting:
        began: dict[socket.socket, tuple[IPAddress, int, float]] = {}
        for vip, port in targets:
            family = socket.AF_INET if vip.version == 4 else socket.AF_INET6
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            began[sock] = vip, port, time.monotonic()
            code = sock.connect_ex((str(vip), port))
            if code in _UNDER_WAY:
                waiting.register(sock, selectors.EVENT_WRITE, sock)
            else:
                yield _tried(sock, *began[sock], code)
        end = time.monotonic() + timeout_s
        while waiting.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                waiting.unregister(key.data)
                yield _tried(key.data, *began[key.data], key.data.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        for key in list(waiting.get_map().values()):
            yield _tried(key.data, *began[key.data], errno.ETIMEDOUT)


def _tried(sock: socket.socket, vip: IPAddress, port: int, began: float, code: int) -> Try:
    seconds = time.monotonic() - began
    own = sock.getsockname()
    came = {0: Came.ANSWERED, errno.ECONNREFUSED: Came.REFUSED, errno.ETIMEDOUT: Came.SILENT}.get(code, Came.ERROR)
    mss = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) if came is Came.ANSWERED else None
    return Try(
        str(vip), port, own[0], own[1], came, round(seconds, 6), mss, os.strerror(code) if came is Came.ERROR else ""
    )

"""A member's service for the lab: says who answered, and to whom. It listens on every address of its node.

HTTP on TCP port 80:

    GET /                               `NODE CLIENT-ADDRESS CLIENT-PORT`
    GET /blob?size=N                    N bytes, always the same ones
    PUT, POST /sink                     `SHA-256 LENGTH` of what was sent
    GET /slow?seconds=S&interval=I      a line `NODE NUMBER` every I seconds for S seconds: a connection that lasts

UDP port 5000: the datagram comes back behind `NODE `.
"""

import asyncio
import hashlib
import signal
import socket
import struct
from collections.abc import Iterator

from aiohttp import web

HTTP_PORT = 80
UDP_PORT = 5000
LARGEST_BLOB = 1 << 30
_PATTERN = bytes(range(251)) * 261
"""A prime period: a lost or doubled segment shows in the bytes. About 64 kB."""

_NAME = web.AppKey("name", str)


async def run(name: str) -> None:
    """Answer until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = web.Application(client_max_size=0)
    app[_NAME] = name
    app.add_routes(
        [
            web.get("/", _who),
            web.get("/blob", _blob),
            web.put("/sink", _sink),
            web.post("/sink", _sink),
            web.get("/slow", _slow),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    echo = Echo(name)
    loop.add_reader(echo.socket, echo.answer)
    try:
        await web.TCPSite(runner, None, HTTP_PORT, backlog=1024).start()
        print(f"{name}: HTTP on port {HTTP_PORT}, echo on UDP port {UDP_PORT}", flush=True)
        await stop.wait()
    finally:
        loop.remove_reader(echo.socket)
        echo.socket.close()
        await runner.cleanup()


def pattern(size: int) -> Iterator[bytes]:
    """What `/blob?size=N` sends: *size* bytes in pieces."""
    while size > 0:
        piece = _PATTERN[:size]
        yield piece
        size -= len(piece)


async def _who(request: web.Request) -> web.Response:
    host, port = request.transport.get_extra_info("peername")[:2] if request.transport else ("-", 0)
    return web.Response(text=f"{request.app[_NAME]} {host} {port}\n")


async def _blob(request: web.Request) -> web.StreamResponse:
    size = int(_number(request, "size", 0, LARGEST_BLOB, 1 << 20))
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream", "X-Node": request.app[_NAME]})
    response.content_length = size
    await response.prepare(request)
    for piece in pattern(size):
        await response.write(piece)
    await response.write_eof()
    return response


async def _sink(request: web.Request) -> web.Response:
    digest, length = hashlib.sha256(), 0
    async for piece in request.content.iter_any():
        digest.update(piece)
        length += len(piece)
    return web.Response(text=f"{digest.hexdigest()} {length}\n", headers={"X-Node": request.app[_NAME]})


async def _slow(request: web.Request) -> web.StreamResponse:
    interval_s = _number(request, "interval", 0.01, 60.0, 0.1)
    lines = round(_number(request, "seconds", 0.0, 3600.0, 10.0) / interval_s)
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for number in range(lines):
        await response.write(f"{request.app[_NAME]} {number}\n".encode())
        await asyncio.sleep(interval_s)
    await response.write_eof()
    return response


def _number(request: web.Request, key: str, smallest: float, largest: float, default: float) -> float:
    text = request.query.get(key, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not smallest <= value <= largest:
        raise web.HTTPBadRequest(text=f"{key}: {text} is not a number from {smallest:g} to {largest:g}\n")
    return value


class Echo:
    """Answers datagrams from the very address they were sent to.

    A member has several addresses, and the kernel would choose the answer's by its route: the member's own instead of
    the VIP, and no client would take it. So each answer names its source (RFC 3542, IPV6_PKTINFO; IPv4 comes mapped).
    """

    def __init__(self, name: str, port: int = UDP_PORT) -> None:
        self._name = name.encode()
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self.socket.bind(("::", port))

    def answer(self) -> None:
        """Answer what has arrived."""
        while True:
            try:
                data, ancillary, _, client = self.socket.recvmsg(65535, 256)
            except BlockingIOError:
                return
            for level, kind, info in ancillary:
                if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                    # Interface 0: it arrived at the VIP by one interface and may leave by another.
                    source = struct.pack("16sI", info[:16], 0)
                    try:
                        self.socket.sendmsg(
                            [self._name, b" ", data], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)], 0, client
                        )
                    except OSError as error:
                        print(f"echo to {client[0]}: {error}", flush=True)

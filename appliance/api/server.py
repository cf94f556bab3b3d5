"""The status server: HTTP, read only.

    /                   the live page (works without JavaScript too)
    /api/v1/status      the status document, JSON
    /api/v1/stream      the same once a second, as server-sent events
    /api/v1/bgp         who is told of which VIPs, with which attributes, and why not; JSON
    /api/v1/samples     what became of single packets lately: some of them, never all; a JSON list, the newest last
    /api/v1/mtu         how large packets to each member may be, and who was told, JSON
    /api/v1/health      what all health monitors say of all members, JSON
    /api/v1/doctor      what the doctor has found so far, JSON; to let it look now takes the control socket
    /metrics            Prometheus
    /healthz            200 while the event loop answers
    /readyz             200 when all parts work, else 503 with those that do not

Errors are `application/problem+json` (RFC 9457). Everything comes from this server and nothing from elsewhere.
"""

import asyncio
import errno
import hashlib
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from aiohttp import web

from appliance.api.announced import announced_document
from appliance.api.doctoring import doctor_document
from appliance.api.health import health_document
from appliance.api.metrics import exposition
from appliance.api.mtu import mtu_document
from appliance.api.page import render_main, render_page
from appliance.api.sources import Observed, StatusSources, observe
from appliance.api.views import Document, Rates, samples, status_document
from appliance.model import IPAddress

log = structlog.get_logger()

STREAM_INTERVAL_S = 1.0
MAX_AGE_S = 0.9
"""All who ask share one look at the sources a second, and one rendering of each kind, however many they are: with a
thousand members that is work of which the event loop, and with it BGP, must not feel the askers' number."""

MAX_STREAMS = 64
SLOW_READER_S = 5.0
"""A stream whose reader takes nothing for so long is cut."""

SHUTDOWN_S = 2.0

_ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "favicon.svg": "image/svg+xml"}

_HEADERS = {
    "Server": "onward",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class ApiError(Exception):
    """The status server cannot start; the text says why and what to do."""


class ApiServer:
    """Serves what its sources tell."""

    def __init__(self, address: IPAddress, port: int, sources: StatusSources) -> None:
        """Listens nowhere yet.

        Args:
            address: to listen on.
            port: 0 lets the kernel choose; `bound` tells.
            sources: of everything that is shown.
        """
        self._address = address
        self._port = port
        self._sources = sources
        self._closing = asyncio.Event()
        self._streams = 0
        self._rates = Rates()
        self._shared: tuple[float, Observed, Document] | None = None
        self._renderings: dict[str, bytes] = {}
        self._rendering = asyncio.Lock()
        self._runner: web.AppRunner | None = None
        self._assets = {name: _asset(name) for name in _ASSETS}

    async def start(self) -> None:
        """Listen.

        Raises:
            ApiError: the address is in use or not ours.
        """
        app = web.Application(middlewares=[_problems])
        app.on_response_prepare.append(_add_headers)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/live", self._live),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/stream", self._stream),
                web.get("/api/v1/bgp", self._bgp),
                web.get("/api/v1/samples", self._samples),
                web.get("/api/v1/mtu", self._mtu),
                web.get("/api/v1/health", self._health),
                web.get("/api/v1/doctor", self._doctor),
                web.get("/favicon.ico", self._favicon),
                *(web.get(f"/{name}", self._serve_asset) for name in _ASSETS),
            ]
        )
        # Bound here and not by the loop: what loops say when that fails differs, and may lack the error's number.
        try:
            listening = socket.create_server(
                (str(self._address), self._port),
                family=socket.AF_INET6 if self._address.version == 6 else socket.AF_INET,
            )
        except OSError as error:
            raise ApiError(_why_not_listening(error, self._address, self._port)) from error
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        self._runner = runner
        log.info("api.listening", url=self.url)

    async def close(self) -> None:
        """End all streams and requests, and stop listening. Harmless when not started."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def bound(self) -> tuple[str, int]:
        """Address and port that are listened on.

        Raises:
            RuntimeError: not started.
        """
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the status server has not been started")
        host, port, *_ = self._runner.addresses[0]
        return host, port

    @property
    def url(self) -> str:
        host, port = self.bound
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    # -----------------------------------------------------------------------------------------------------------------

    async def _rendered(self, name: str, render: Callable[[Observed, Document], bytes]) -> bytes:
        """The present rendering of that name. In a thread, one at a time, and encoded there: the loop sends bytes."""
        async with self._rendering:
            now = asyncio.get_running_loop().time()
            if self._shared is None or now - self._shared[0] > MAX_AGE_S:
                observed = await observe(self._sources)
                since = self._rates.since(observed.clock, observed.counters)
                self._shared = now, observed, await asyncio.to_thread(status_document, observed, since)
                self._renderings.clear()
            if name not in self._renderings:
                _, observed, document = self._shared
                self._renderings[name] = await asyncio.to_thread(render, observed, document)
            return self._renderings[name]

    async def _page(self, _request: web.Request) -> web.Response:
        body = await self._rendered("page", lambda _, document: render_page(document).encode())
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=_fresh())

    async def _status(self, _request: web.Request) -> web.Response:
        body = await self._rendered("status", lambda _, document: f"{json.dumps(document, indent=2)}\n".encode())
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _bgp(self, _request: web.Request) -> web.Response:
        body = await self._rendered(
            "bgp", lambda observed, _: f"{json.dumps(announced_document(observed), indent=2)}\n".encode()
        )
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _samples(self, _request: web.Request) -> web.Response:
        body = await self._rendered("samples", lambda observed, _: f"{json.dumps(samples(observed))}\n".encode())
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _mtu(self, _request: web.Request) -> web.Response:
        body = await self._rendered(
            "mtu", lambda observed, _: f"{json.dumps(mtu_document(observed), indent=2)}\n".encode()
        )
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _health(self, _request: web.Request) -> web.Response:
        body = await self._rendered(
            "health", lambda observed, _: f"{json.dumps(health_document(observed), indent=2)}\n".encode()
        )
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _doctor(self, _request: web.Request) -> web.Response:
        body = await self._rendered(
            "doctor", lambda observed, _: f"{json.dumps(doctor_document(observed.doctor), indent=2)}\n".encode()
        )
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = await self._rendered("metrics", exposition)
        return web.Response(body=body, headers=_fresh() | {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n", headers=_fresh())

    async def _readyz(self, _request: web.Request) -> web.Response:
        parts = self._sources.ready()
        failed = [{"name": name, "detail": detail} for name, works, detail in parts if not works]
        return _json(json.dumps({"ready": not failed, "failed": failed}, indent=2), status=503 if failed else 200)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        return await self._send_events(request, "status", json.dumps)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return await self._send_events(request, "page", render_main)

    async def _send_events(
        self, request: web.Request, name: str, render: Callable[[Document], str]
    ) -> web.StreamResponse:
        """Server-sent events until the reader leaves, is too slow, or we close."""
        if self._streams >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(
                text=f"{MAX_STREAMS} streams are open already; close some, or poll /api/v1/status"
            )
        self._streams += 1
        try:
            response = web.StreamResponse(headers=_fresh() | {"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(b"retry: 2000\n\n")
            while not self._closing.is_set():
                event = await self._rendered(f"event {name}", lambda _, document: _event(name, render(document)))
                async with asyncio.timeout(SLOW_READER_S):
                    await response.write(event)
                await self._pause(STREAM_INTERVAL_S)
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._streams -= 1
        return response

    async def _pause(self, seconds: float) -> None:
        """Ends early when we close."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass

    async def _serve_asset(self, request: web.Request) -> web.Response:
        return self._asset_response(request, request.path.removeprefix("/"))

    async def _favicon(self, request: web.Request) -> web.Response:
        return self._asset_response(request, "favicon.svg")

    def _asset_response(self, request: web.Request, name: str) -> web.Response:
        content, etag = self._assets[name]
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, content_type=_ASSETS[name], charset="utf-8", headers=headers)


def _asset(name: str) -> tuple[bytes, str]:
    content = (Path(__file__).parent / name).read_bytes()
    return content, f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def _fresh() -> dict[str, str]:
    return {"Cache-Control": "no-store"}


def _event(name: str, data: str) -> bytes:
    """A server-sent event (HTML Living Standard, section 9.2)."""
    return (f"event: {name}\n" + "".join(f"data: {line}\n" for line in data.splitlines()) + "\n").encode()


def _json(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text + "\n", status=status, content_type="application/json", headers=_fresh())


async def _add_headers(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every error as problem details; a mistake of ours is logged, and says nothing of our insides."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        detail = {
            404: f"nothing is at {request.path}; there are /, /api/v1/status, /api/v1/stream, /api/v1/bgp, "
            "/api/v1/samples, /api/v1/mtu, /api/v1/health, /api/v1/doctor, "
            "/metrics, /healthz, /readyz",
            405: f"{request.method} is not possible here; this server only shows",
        }.get(error.status, error.text or "")
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _problem(error.status, error.reason, detail, headers)
    except Exception as error:
        log.error("api.failed", path=request.path, error=repr(error), exc_info=error)
        return _problem(500, "Internal Server Error", "this is a mistake in the director; its log has the details", {})


def _problem(status: int, title: str, detail: str, headers: dict[str, str]) -> web.Response:
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}) + "\n"
    return web.Response(text=body, status=status, content_type="application/problem+json", headers=_fresh() | headers)


def _why_not_listening(error: OSError, address: IPAddress, port: int) -> str:
    remedies = {
        errno.EADDRINUSE: "another program listens there; stop it, or set another [api] port",
        errno.EADDRNOTAVAIL: "this is no address of this machine; set another [api] address",
        errno.EACCES: "that port needs a privilege; set an [api] port above 1023",
    }
    remedy = remedies.get(error.errno or 0, f"{error.strerror or error}; set another [api] address or port")
    where = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    return f"cannot listen on {where}: {remedy}"

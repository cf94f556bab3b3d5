"""The HTTP server: the page, metrics and health of the process, and the API below `/api/v1`.

    /                   the web application where it is built, else the same as /plain
    /plain              a live page that works without JavaScript
    /api/v1/...         everything else: the table of routes, as over the control socket ("The API" in ARCHITECTURE.md)
    /api/openapi.json   what the API is, for programs
    /metrics            Prometheus
    /healthz, /livez    200 while the event loop answers
    /readyz             200 when all parts work, else 503 with those that do not

Errors are `application/problem+json` (RFC 9457). Everything comes from this server and nothing from elsewhere.
"""

import asyncio
import errno
import hashlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import time

import structlog
from aiohttp import web

from appliance.api.access import Access, tls_context
from appliance.api.announced import announced_document
from appliance.api.figures import figures_document
from appliance.api.happening import EventRoutes
from appliance.api.health import health_document
from appliance.api.listening import Runner
from appliance.api.metrics import exposition
from appliance.api.mtu import mtu_document
from appliance.api.openapi import document as openapi_document
from appliance.api.page import render_main, render_page
from appliance.api.past import Past
from appliance.api.problem import Handler, RefusedError, problems
from appliance.api.records import ANYTHING, TEXT
from appliance.api.routes import Answer, Role, Route, actor_of, mounted, needing
from appliance.api.schemas import FIGURES, SAMPLES, SERVICE, STATUS, SUMMARY, TRAFFIC_PAST, refused_answers
from appliance.api.service import service_document
from appliance.api.sources import Observed, StatusSources, observe
from appliance.api.streams import EVENT_STREAM, Streams, event
from appliance.api.summary import Summaries, Summary
from appliance.api.views import API_VERSION, Document, Rates, samples, status_document
from appliance.api.web import WebFiles
from appliance.dataplane.base import Counters, DataPlaneError
from appliance.happenings import Happenings
from appliance.model import ApiConfig, IPAddress, Protocol, VirtualService

log = structlog.get_logger()

STREAM_INTERVAL_S = 1.0
MAX_AGE_S = 0.9
"""All who ask share one look at the sources a second, and one rendering of each kind, however many they are: with a
thousand members that is work of which the event loop, and with it BGP, must not feel the askers' number."""

LASTS = 2.0
"""A look is shown for so many times as long as it and its renderings take: else, where that is more than MAX_AGE_S,
whoever waits for his turn would find it too old and begin another one, for ever."""

SHUTDOWN_S = 2.0
PREFIX = "/api"

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

    def __init__(
        self,
        address: IPAddress,
        port: int,
        sources: StatusSources,
        more: Iterable[Route] = (),
        config: Callable[[], ApiConfig] | None = None,
        happenings: Happenings | None = None,
    ) -> None:
        """Listens nowhere yet.

        Args:
            address: to listen on.
            port: 0 lets the kernel choose; `bound` tells.
            sources: of everything that is shown.
            more: what else can be asked for.
            config: in force: who may ask, and by which certificate; None: nobody in particular.
            happenings: what has happened; None: nobody notes it.
        """
        self._config = config if config is not None else lambda: ApiConfig(address, port)
        self._access = Access(self._config)
        self._tls: ssl.SSLContext | None = None
        self._more = list(more)
        self._happenings = happenings if happenings is not None else Happenings(time)
        self._address = address
        self._port = port
        self._sources = sources
        self.streams = Streams(self._may_still)
        self._rates = Rates()
        self._summaries = Summaries()
        self._past = Past()
        self._shared: _Look | None = None
        self._renderings: dict[str, bytes] = {}
        self._rendering = asyncio.Lock()
        self._runner: web.AppRunner | None = None
        self._assets = {name: _asset(name) for name in _ASSETS}
        self._web = WebFiles()

    async def start(self) -> None:
        """Listen.

        Raises:
            ApiError: the address is in use or not ours.
        """
        try:
            self._tls = tls_context(self._config())
        except OSError as error:
            raise ApiError(f"cannot use the certificate of [api]: {error}") from error
        app = web.Application(middlewares=[problems, self._access.middleware])
        app.on_response_prepare.append(_add_headers)
        viewer = needing(Role.VIEWER)
        app.add_routes(
            [
                web.get("/", self._front if self._web.built else viewer(self._page)),
                web.get("/plain", viewer(self._page)),
                *self._web.routes(),
                web.get("/live", viewer(self._live)),
                web.get("/healthz", self._healthz),
                web.get("/livez", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", viewer(self._metrics)),
                web.get(f"{PREFIX}/openapi.json", self._openapi),
                web.get("/favicon.ico", self._favicon),
                *(web.get(f"/{name}", self._serve_asset) for name in _ASSETS),
                *mounted(self.routes, PREFIX),
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
        runner = Runner(app, SHUTDOWN_S)
        await runner.setup()
        await web.SockSite(runner, listening, ssl_context=self._tls).start()
        self._runner = runner
        log.info("api.listening", url=self.url)

    def renew(self) -> None:
        """Take the certificate as it is now, for connections from now on.

        Raises:
            OSError: it cannot be used; the one before stays.
        """
        tls = self._config().tls
        if self._tls is not None and tls is not None:
            tls_context(self._config())  # a bad one must not be taken in halves
            self._tls.load_cert_chain(tls.cert_file, tls.key_file)
            if tls.client_ca_file is not None:
                self._tls.load_verify_locations(tls.client_ca_file)

    @property
    def routes(self) -> list[Route]:
        """All that can be asked for below `/api`."""
        return [*self.views(), *self._access.routes(), *self._more]

    def views(self) -> list[Route]:
        """What is known of this director as a whole."""
        viewer, tag = Role.VIEWER, "status"
        stream = "Once a second, as server-sent events."

        def view(name: str, summary: str, handler: Handler, answer: Answer) -> Route:
            return Route("GET", f"/v1/{name}", handler, viewer, summary, {200: answer}, tag)

        return [
            view("status", "All that is known", self._status, Answer("The status document.", STATUS)),
            view("stream", "The status document once a second", self._stream, Answer(stream, TEXT, EVENT_STREAM)),
            view(
                "figures",
                "Rates and counts by service and member",
                self._figures,
                Answer("Now; or once a second, as events.", FIGURES, also=EVENT_STREAM),
            ),
            view(
                "summary",
                "A row for each virtual service, routers, and what is wrong; small however many members there are",
                self._summary,
                Answer(
                    "Now; or as events: first all of it, then SummaryChange once a second.", SUMMARY, also=EVENT_STREAM
                ),
            ),
            Route(
                "GET",
                "/v1/services/{name}",
                self._service,
                viewer,
                "One virtual service with its members, its ring and its drops",
                {200: Answer("Now; or once a second, as events.", SERVICE, also=EVENT_STREAM), **refused_answers(404)},
                tag,
            ),
            Route(
                "GET",
                "/v1/services/{name}/traffic",
                self._traffic,
                viewer,
                "What has come for a virtual service in the last five minutes, second by second",
                {200: Answer("The oldest second first.", TRAFFIC_PAST), **refused_answers(404)},
                tag,
            ),
            view("bgp", "Who is told of which VIPs, and why not", self._bgp, Answer("Routes and peers.", ANYTHING)),
            view("samples", "What became of single packets lately", self._samples, Answer("Samples.", SAMPLES)),
            view("mtu", "How large packets to each member may be", self._mtu, Answer("Ways.", ANYTHING)),
            view("health", "What monitors say of members", self._health, Answer("Verdicts.", ANYTHING)),
            *EventRoutes(self._happenings, self.streams).routes(),
        ]

    async def keep_past(self) -> None:
        """Note what comes every second, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                counters = await self._sources.counters()
            except DataPlaneError:  # the snapshot tells why
                counters = None
            pins = self._sources.pins().live
            await asyncio.to_thread(self._past.add, time(), clock(), counters, pins)
            await asyncio.sleep(STREAM_INTERVAL_S - clock() % STREAM_INTERVAL_S)

    async def close(self) -> None:
        """End all streams and requests, and stop listening. Harmless when not started."""
        self.streams.close()
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
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"

    # -----------------------------------------------------------------------------------------------------------------

    async def _rendered(self, name: str, render: Callable[["_Look"], bytes]) -> bytes:
        """The present rendering of that name. In a thread, one at a time, and encoded there: the loop sends bytes."""
        async with self._rendering:
            return await self._render(await self._look(), name, render)

    async def _look(self) -> "_Look":
        """The present one. For whoever has `_rendering`."""
        clock = asyncio.get_running_loop().time
        now = clock()
        if self._shared is None or now - self._shared.at > self._shared.lasts_s:
            observed = await observe(self._sources)
            self._shared = _Look(now, observed, self._rates.since(observed.clock, observed.counters), self._summaries)
            self._renderings.clear()
            self._shared.took_s = clock() - now
        return self._shared

    async def _render(self, look: "_Look", name: str, render: Callable[["_Look"], bytes]) -> bytes:
        """For whoever has `_rendering`."""
        if name not in self._renderings:
            began = asyncio.get_running_loop().time()
            self._renderings[name] = await asyncio.to_thread(render, look)
            look.took_s += asyncio.get_running_loop().time() - began
        return self._renderings[name]

    async def _front(self, request: web.Request) -> web.StreamResponse:
        return self._web.front(request)

    async def _page(self, _request: web.Request) -> web.Response:
        body = await self._rendered("page", lambda look: render_page(look.document).encode())
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=_fresh())

    async def _status(self, _request: web.Request) -> web.Response:
        body = await self._rendered("status", lambda look: f"{json.dumps(look.document, indent=2)}\n".encode())
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _bgp(self, _request: web.Request) -> web.Response:
        body = await self._rendered(
            "bgp", lambda look: f"{json.dumps(announced_document(look.observed), indent=2)}\n".encode()
        )
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _samples(self, _request: web.Request) -> web.Response:
        body = await self._rendered("samples", lambda look: f"{json.dumps(samples(look.observed))}\n".encode())
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _mtu(self, _request: web.Request) -> web.Response:
        body = await self._rendered(
            "mtu", lambda look: f"{json.dumps(mtu_document(look.observed), indent=2)}\n".encode()
        )
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _health(self, _request: web.Request) -> web.Response:
        body = await self._rendered(
            "health", lambda look: f"{json.dumps(health_document(look.observed), indent=2)}\n".encode()
        )
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = await self._rendered("metrics", lambda look: exposition(look.observed))
        return web.Response(body=body, headers=_fresh() | {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n", headers=_fresh())

    async def _openapi(self, _request: web.Request) -> web.Response:
        return _json(json.dumps(openapi_document(self.routes, PREFIX)))

    async def _readyz(self, request: web.Request) -> web.Response:
        """Details are for those who may look."""
        parts, looks = self._sources.ready(), actor_of(request).role >= Role.VIEWER
        failed = [{"name": name, "detail": detail if looks else ""} for name, works, detail in parts if not works]
        return _json(json.dumps({"ready": not failed, "failed": failed}, indent=2), status=503 if failed else 200)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        return await self._send_events(request, "status", lambda look: json.dumps(look.document))

    async def _figures(self, request: web.Request) -> web.StreamResponse:
        if EVENT_STREAM in request.headers.get("Accept", ""):
            return await self._send_events(request, "figures", lambda look: _packed(figures_document(look.document)))
        body = await self._rendered("figures", lambda look: f"{json.dumps(figures_document(look.document))}\n".encode())
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _summary(self, request: web.Request) -> web.StreamResponse:
        if EVENT_STREAM in request.headers.get("Accept", ""):
            return await self.streams.send(request, self._following(), STREAM_INTERVAL_S)
        body = await self._rendered("summary", lambda look: f"{summary_text(look.summary)}\n".encode())
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    async def _traffic(self, request: web.Request) -> web.Response:
        service = self._named(request)
        past = await asyncio.to_thread(
            self._past.document, service.name, flows_visible=service.protocol is Protocol.TCP
        )
        return _json(_packed({"apiVersion": API_VERSION} | past))

    def _named(self, request: web.Request) -> VirtualService:
        name = request.match_info["name"]
        found = next((one for one in self._sources.snapshot().config.services if one.name == name), None)
        if found is None:
            raise RefusedError(404, f"there is no virtual service {name}")
        return found

    async def _service(self, request: web.Request) -> web.StreamResponse:
        name = self._named(request).name
        if EVENT_STREAM in request.headers.get("Accept", ""):
            return await self._send_events(request, "service", lambda look: _packed(look.service(name)), name)
        body = await self._rendered(f"service {name}", lambda look: f"{_packed(look.service(name))}\n".encode())
        if body == b"null\n":
            raise RefusedError(404, f"virtual service {name} is not in force yet")
        return web.Response(body=body, content_type="application/json", charset="utf-8", headers=_fresh())

    def _following(self) -> Callable[[], Awaitable[bytes]]:
        """For one reader of summaries: the first one whole, then what has changed. Made once, however many read."""
        seen: int | None = None

        async def more() -> bytes:
            nonlocal seen
            async with self._rendering:
                look = await self._look()
                summary = await asyncio.to_thread(lambda: look.summary)
                before, seen = seen, summary.number
                if before == summary.number:
                    return b""
                if before == summary.number - 1 and summary.change is not None:
                    return await self._render(
                        look, "event change", lambda look: event("change", _packed(look.summary.change))
                    )
                return await self._render(
                    look, "event summary", lambda look: event("summary", summary_text(look.summary))
                )

        return more

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return await self._send_events(request, "page", lambda look: render_main(look.document))

    async def _send_events(
        self, request: web.Request, name: str, render: Callable[["_Look"], str], key: str = ""
    ) -> web.StreamResponse:
        """
        Args:
            request: for the stream.
            name: of the events.
            render: gives what they say.
            key: tells renderings of the same name apart.
        """

        async def more() -> bytes:
            return await self._rendered(f"event {name} {key}", lambda look: event(name, render(look)))

        return await self.streams.send(request, more, STREAM_INTERVAL_S)

    def _may_still(self, request: web.Request) -> bool:
        """Whoever is logged out meanwhile, or is no user any more, sees no more."""
        try:
            return actor_of(request).local or self._access.who(request).role >= Role.VIEWER
        except RefusedError:
            return False

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


@dataclass
class _Look:
    """One look at the sources, and what is made of it for all who ask meanwhile. Used by one thread at a time."""

    at: float
    """By the loop's clock."""

    observed: Observed
    since: tuple[float, Counters] | None
    summaries: Summaries
    took_s: float = 0.0
    """To look, and to render what was rendered of it so far."""

    @property
    def lasts_s(self) -> float:
        """For how long it is shown."""
        return max(MAX_AGE_S, LASTS * self.took_s)

    @cached_property
    def document(self) -> Document:
        return status_document(self.observed, self.since)

    @cached_property
    def summary(self) -> Summary:
        return self.summaries.summary(self.observed, self.since)

    def service(self, name: str) -> Document | None:
        return service_document(self.observed, name, self.since)


def _packed(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))


def summary_text(summary: Summary) -> str:
    """Encoded service by service: nobody else runs while the encoder does."""
    services = ",".join(_packed(summary.row(place)) for place in range(len(summary.rows)))
    return f'{_packed(summary.head)[:-1]},"services":[{services}]}}'


def _asset(name: str) -> tuple[bytes, str]:
    content = (Path(__file__).parent / name).read_bytes()
    return content, f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def _fresh() -> dict[str, str]:
    return {"Cache-Control": "no-store"}


def _json(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text + "\n", status=status, content_type="application/json", headers=_fresh())


async def _add_headers(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _why_not_listening(error: OSError, address: IPAddress, port: int) -> str:
    remedies = {
        errno.EADDRINUSE: "another program listens there; stop it, or set another [api] port",
        errno.EADDRNOTAVAIL: "this is no address of this machine; set another [api] address",
        errno.EACCES: "that port needs a privilege; set an [api] port above 1023",
    }
    remedy = remedies.get(error.errno or 0, f"{error.strerror or error}; set another [api] address or port")
    where = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    return f"cannot listen on {where}: {remedy}"

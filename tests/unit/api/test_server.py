"""The status server, asked over real HTTP."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import aiohttp
import pytest
import structlog

from appliance.api import server as server_module
from appliance.api import streams as streams_module
from appliance.api.schemas import components
from appliance.api.server import ApiError, ApiServer
from appliance.api.sources import Observed, StatusSources, observe
from appliance.api.views import NOT_VISIBLE
from appliance.dataplane.base import DataPlaneError
from tests.unit.api.samples import observed, sample_snapshot, sources

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@asynccontextmanager
async def serving(given: StatusSources | None = None) -> AsyncIterator[tuple[aiohttp.ClientSession, ApiServer]]:
    server = ApiServer(ip_address("127.0.0.1"), 0, given or sources())
    await server.start()
    try:
        async with aiohttp.ClientSession(server.url) as client:
            yield client, server
    finally:
        await server.close()


async def get(
    path: str, given: StatusSources | None = None, method: str = "GET", **options: Any
) -> tuple[aiohttp.ClientResponse, str]:
    async with serving(given) as (client, _), client.request(method, path, **options) as response:
        return response, await response.text()


async def events(response: aiohttp.ClientResponse, name: str) -> AsyncIterator[str]:
    """The data of the stream's events."""
    data: list[str] = []
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("data: "):
            data.append(line[6:])
        elif line.startswith("event: "):
            assert line == f"event: {name}"
        elif not line and data:
            yield "\n".join(data)
            data = []


def test_healthz(run: Run) -> None:
    """While the loop answers, so does /healthz."""
    response, text = run(get("/healthz"))
    assert (response.status, text) == (200, "ok\n")


def test_ready(run: Run) -> None:
    """/readyz is 200 when every part works."""
    response, text = run(get("/readyz"))
    assert (response.status, json.loads(text)) == (200, {"ready": True, "failed": []})


def test_not_ready(run: Run) -> None:
    """/readyz is 503 with the parts that do not work."""
    parts = (("config", True, ""), ("bgp", False, "no session is up"))
    response, text = run(get("/readyz", sources(ready=lambda: parts)))
    assert response.status == 503
    assert json.loads(text) == {"ready": False, "failed": [{"name": "bgp", "detail": "no session is up"}]}


def test_status(run: Run) -> None:
    """The status document is JSON, versioned, and must not be cached."""
    response, text = run(get("/api/v1/status"))
    assert (response.status, response.content_type) == (200, "application/json")
    assert response.headers["Cache-Control"] == "no-store"
    document = json.loads(text)
    assert (document["apiVersion"], document["director"]["name"]) == ("v1", "d1")
    assert document["replies"] == NOT_VISIBLE


def test_status_with_a_silent_plane(run: Run) -> None:
    """A data plane that does not tell its counters leaves holes in the document, not errors."""

    async def silent() -> Any:
        raise DataPlaneError("the worker is stuck")

    response, text = run(get("/api/v1/status", sources(counters=silent)))
    assert response.status == 200
    assert json.loads(text)["counters"] is None


def test_bgp(run: Run) -> None:
    """Who is told of which VIPs, as JSON, and not to be cached."""
    response, text = run(get("/api/v1/bgp"))
    assert (response.status, response.content_type) == (200, "application/json")
    assert response.headers["Cache-Control"] == "no-store"
    document = json.loads(text)
    assert (document["apiVersion"], len(document["vips"]), len(document["bgp"]["peers"])) == ("v1", 4, 2)


def test_health(run: Run) -> None:
    """What monitors say of members, as JSON, with what keeps checks waiting."""
    response, text = run(get("/api/v1/health"))
    assert (response.status, response.content_type) == (200, "application/json")
    assert response.headers["Cache-Control"] == "no-store"
    document = json.loads(text)
    assert [member["member"] for member in document["members"]][:3] == ["web/web1", "web/web2", "web/web3"]
    assert document["checks"]["delayed"] == {"limit": 7, "no_resources": 0, "late": 1}


def test_samples(run: Run) -> None:
    """The samples are a JSON list, the newest last, and must not be cached."""
    response, text = run(get("/api/v1/samples"))
    assert (response.status, response.content_type) == (200, "application/json")
    assert response.headers["Cache-Control"] == "no-store"
    assert [sample["what"] for sample in json.loads(text)] == ["new_flow", "drop", "slow_path", "reply", "drop"]


def test_samples_of_a_silent_plane(run: Run) -> None:
    """A data plane that does not tell has no samples; that is no error."""

    async def silent() -> Any:
        raise DataPlaneError("the data plane was not started")

    response, text = run(get("/api/v1/samples", sources(samples=silent)))
    assert (response.status, json.loads(text)) == (200, [])


def _count_looks() -> tuple[list[int], StatusSources]:
    looks: list[int] = []

    def look() -> Any:
        looks.append(1)
        return observed().snapshot

    return looks, sources(snapshot=look)


def test_all_who_ask_share_one_look_and_one_rendering(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many who ask at once for document, page and metrics cost one look, and one rendering each, one after another."""
    monkeypatch.setattr(server_module, "MAX_AGE_S", 60.0)
    looks, given = _count_looks()
    working: list[str] = []
    rendered: list[str] = []

    def counted(name: str, render: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            assert threading.current_thread() is not threading.main_thread()
            working.append(name)
            try:
                assert len(working) == 1
                rendered.append(name)
                return render(*arguments, **options)
            finally:
                working.remove(name)

        return call

    for name in ("status_document", "render_page", "exposition"):
        monkeypatch.setattr(server_module, name, counted(name, getattr(server_module, name)))

    async def story() -> list[set[bytes]]:
        async with serving(given) as (client, _), asyncio.TaskGroup() as tasks:

            async def body(path: str) -> bytes:
                async with client.get(path) as response:
                    assert response.status == 200
                    return await response.read()

            asked = [
                [tasks.create_task(body(path)) for _ in range(8)] for path in ("/plain", "/metrics", "/api/v1/status")
            ]
            return [{await task for task in same} for same in asked]

    assert [len(bodies) for bodies in run(story())] == [1, 1, 1]
    assert len(looks) == 1
    assert sorted(rendered) == ["exposition", "render_page", "status_document"]


def test_an_old_rendering_is_not_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After MAX_AGE_S the sources are asked again, and so are all renderings made anew."""
    monkeypatch.setattr(server_module, "MAX_AGE_S", 0.0)
    monkeypatch.setattr(server_module, "LASTS", 0.0)
    looks, given = _count_looks()

    async def story() -> None:
        async with serving(given) as (client, _):
            for path in ("/api/v1/status", "/metrics"):
                await (await client.get(path)).read()

    run(story())
    assert len(looks) == 2


def test_a_look_that_takes_long_is_shared_for_long(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits while others' renderings take longer than a look is young gets that one, too, and begins no other."""
    monkeypatch.setattr(server_module, "MAX_AGE_S", 0.05)
    looks, given = _count_looks()

    def slow(render: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            time.sleep(0.2)
            return render(*arguments, **options)

        return call

    for name in ("render_page", "exposition", "figures_document"):
        monkeypatch.setattr(server_module, name, slow(getattr(server_module, name)))

    async def story() -> None:
        async with serving(given) as (client, _), asyncio.TaskGroup() as tasks:

            async def ask(path: str) -> None:
                async with client.get(path) as response:
                    assert await response.read()

            for path in ("/plain", "/metrics", "/api/v1/figures") * 4:
                tasks.create_task(ask(path))

    run(story())
    assert len(looks) <= 3  # and not one for each that asks


async def _at(pending: Coroutine[Any, Any, Observed], clock: float) -> Observed:
    return replace(await pending, clock=clock)


def test_rates_appear_after_a_second(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks again after more than a second is told rates."""
    monkeypatch.setattr(server_module, "MAX_AGE_S", 0.0)
    monkeypatch.setattr(server_module, "LASTS", 0.0)
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(server_module, "observe", lambda given: _at(observe(given), next(clock)))

    async def story() -> list[float | None]:
        rates = []
        async with serving() as (client, _):
            for _ in range(2):
                async with client.get("/api/v1/status") as response:
                    document = await response.json()
                    rates.append(document["services"][0]["vips"][0]["traffic"]["packets_per_s"])
        return rates

    assert run(story()) == [None, 0.0]


def test_metrics(run: Run) -> None:
    """Prometheus gets its text format."""
    response, text = run(get("/metrics"))
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'onward_vip_announced{vip="198.51.100.7"} 1.0' in text


def test_page(run: Run) -> None:
    """The page is complete without JavaScript, and everything it loads is there."""

    async def story() -> dict[str, str]:
        async with serving() as (client, _):
            async with client.get("/plain") as response:
                assert (response.status, response.content_type) == (200, "text/html")
                page = await response.text()
            assert "198.51.100.53" in page
            loaded = {}
            for path in [*re.findall(r'(?:src|href)="(/[^"]*)"', page), "/favicon.ico"]:
                async with client.get(path) as response:
                    assert response.status == 200, path
                    loaded[path] = response.content_type
            return loaded

    loaded = run(story())
    assert loaded["/page.css"] == "text/css"
    assert loaded["/page.js"] == "text/javascript"
    assert loaded["/favicon.svg"] == loaded["/favicon.ico"] == "image/svg+xml"


def test_assets_are_not_sent_twice(run: Run) -> None:
    """A browser that has an asset is told that it has not changed."""

    async def story() -> tuple[int, bytes]:
        async with serving() as (client, _):
            async with client.get("/page.css") as response:
                etag = response.headers["ETag"]
            async with client.get("/page.css", headers={"If-None-Match": etag}) as response:
                return response.status, await response.read()

    assert run(story()) == (304, b"")


@pytest.mark.parametrize("path", ["/", "/plain", "/api/v1/status", "/metrics", "/healthz", "/page.js", "/nowhere"])
def test_security_headers(run: Run, path: str) -> None:
    """Every answer, errors too, forbids other origins, framing and guessing of types, and does not name the library."""
    response, _ = run(get(path))
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Server"] == "onward"


def test_not_found_is_a_problem(run: Run) -> None:
    """An unknown path gets problem details."""
    response, text = run(get("/nowhere?<script>"))
    assert (response.status, response.content_type) == (404, "application/problem+json")
    problem = json.loads(text)
    assert (problem["status"], problem["title"], problem["type"]) == (404, "Not Found", "about:blank")
    assert "nothing is at /nowhere" in problem["detail"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_read_only(run: Run, method: str) -> None:
    """Nothing can be changed here."""
    response, text = run(get("/api/v1/status", method=method))
    assert (response.status, response.content_type) == (405, "application/problem+json")
    assert response.headers["Allow"] == "GET,HEAD"
    assert f"{method} is not possible at /api/v1/status" in json.loads(text)["detail"]


NO_REQUESTS = [
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: \0\r\n\r\n",
]


@pytest.mark.parametrize("request_", NO_REQUESTS, ids=["long", "nonsense", "NUL"])
def test_what_is_no_request_is_a_problem(run: Run, request_: bytes) -> None:
    """Also what no route has seen is answered with problem details, and ends the connection."""

    async def story() -> bytes:
        async with serving() as (_, server):
            reader, writer = await asyncio.open_connection(*server.bound)
            writer.write(request_)
            try:
                async with asyncio.timeout(10):
                    return await reader.read()
            finally:
                writer.close()

    head, _, body = run(story()).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"application/problem+json" in head
    assert json.loads(body)["detail"].startswith("the request cannot be read: ")


def test_head(run: Run) -> None:
    """HEAD works where GET does, without a body."""
    response, text = run(get("/api/v1/status", method="HEAD"))
    assert (response.status, text) == (200, "")


def test_a_mistake_of_ours_is_logged_and_not_shown(run: Run) -> None:
    """An unexpected exception is a 500 without details for the asker, and an event with details for us."""

    def broken() -> Any:
        raise ZeroDivisionError("secret detail")

    with structlog.testing.capture_logs() as logged:
        response, text = run(get("/api/v1/status", sources(snapshot=broken)))
    assert (response.status, response.content_type) == (500, "application/problem+json")
    assert "secret" not in text
    failed = [event for event in logged if event["event"] == "api.failed"]
    assert "secret detail" in failed[0]["error"]


@pytest.mark.parametrize(("path", "name"), [("/api/v1/stream", "status"), ("/live", "page")])
def test_stream(run: Run, monkeypatch: pytest.MonkeyPatch, path: str, name: str) -> None:
    """Streams send the document, or the page's main element, again and again."""
    monkeypatch.setattr(server_module, "STREAM_INTERVAL_S", 0.01)

    async def story() -> list[str]:
        seen = []
        async with serving() as (client, _), client.get(path) as response, asyncio.timeout(5):
            assert response.content_type == "text/event-stream"
            async for data in events(response, name):
                seen.append(data)
                if len(seen) == 3:
                    return seen
        raise AssertionError("the stream ended")

    seen = run(story())
    if name == "status":
        assert json.loads(seen[0])["apiVersion"] == "v1"
    else:
        assert seen[0].startswith("<main ")
        assert seen[0].endswith("</main>")


def test_streams_share_one_document(run: Run) -> None:
    """Many readers at once cost one look at the sources."""
    looks, given = _count_looks()

    async def story() -> None:
        async with serving(given) as (client, _), asyncio.TaskGroup() as tasks:

            async def read() -> None:
                async with client.get("/api/v1/stream") as response:
                    async for _ in events(response, "status"):
                        return

            for _ in range(10):
                tasks.create_task(read())

    run(story())
    assert len(looks) == 1


def test_summaries_go_on_from_the_first_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows gets all of it once, and then what has changed, which is made once for all who follow."""
    monkeypatch.setattr(server_module, "STREAM_INTERVAL_S", 0.5)
    monkeypatch.setattr(server_module, "MAX_AGE_S", 0.4)
    made: list[str] = []
    encode = server_module.event

    def counted(name: str, data: str) -> bytes:
        made.append(name)
        return encode(name, data)

    monkeypatch.setattr(server_module, "event", counted)

    async def names(client: aiohttp.ClientSession) -> list[tuple[str, bytes]]:
        headers = {"Accept": "text/event-stream"}
        seen: list[tuple[str, bytes]] = []
        async with client.get("/api/v1/summary", headers=headers) as response, asyncio.timeout(10):
            while len(seen) < 4:
                head = (await response.content.readuntil(b"\n\n")).strip()
                if head.startswith(b"event: "):
                    name, data = head.split(b"\n")
                    seen.append((name.decode().removeprefix("event: "), data.removeprefix(b"data: ")))
        return seen

    async def story() -> list[list[tuple[str, bytes]]]:
        async with serving() as (client, _), asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(names(client)) for _ in range(5)]
        return [one.result() for one in readers]

    readers = run(story())
    for seen in readers:
        assert [name for name, _ in seen] == ["summary", "change", "change", "change"]
    assert len(made) < sum(map(len, readers)) / 2
    services = len(json.loads(readers[0][0][1])["services"])
    assert {len(column) for column in json.loads(readers[0][3][1])["rates"].values()} == {services}


def test_traffic_of_the_last_minutes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was noted since the start, second by second; of a virtual service that is not there, 404."""
    monkeypatch.setattr(server_module, "STREAM_INTERVAL_S", 0.01)

    async def story() -> tuple[dict[str, Any], int]:
        async with serving() as (client, server), asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            noting = tasks.create_task(server.keep_past())
            found: dict[str, Any] = {"times": []}
            while len(found["times"]) < 3:
                async with client.get("/api/v1/services/web/traffic") as response:
                    found = await response.json()
            noting.cancel()
            async with client.get("/api/v1/services/nobody/traffic") as response:
                return found, response.status

    found, status = run(story())
    assert set(found) == set(components()["TrafficPast"]["properties"])
    assert found["packets_per_s"][0] is None
    assert found["packets_per_s"][1:] == [0.0] * (len(found["times"]) - 1)
    assert status == 404


def test_close_ends_streams(run: Run) -> None:
    """An open page does not delay a stop."""

    async def story() -> float:
        async with serving() as (client, server), client.get("/live") as response:
            await anext(events(response, "page"))
            started = time.monotonic()
            await server.close()
            return time.monotonic() - started

    assert run(story()) < server_module.SHUTDOWN_S / 2


def test_slow_reader_is_cut(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes nothing is disconnected instead of filling our memory, and its place becomes free."""
    monkeypatch.setattr(server_module, "STREAM_INTERVAL_S", 0.001)
    monkeypatch.setattr(streams_module, "SLOW_READER_S", 0.1)

    async def facts() -> dict[str, str]:
        return {"kind": "x" * 1_000_000}

    async def story() -> bool:
        async with serving(sources(plane=facts)) as (_, server):
            with socket.socket() as reader:
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                reader.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(reader, server.bound)
                await loop.sock_sendall(reader, b"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                async with asyncio.timeout(10):
                    while server.streams.open == 0:  # noqa: ASYNC110 - the server tells nobody
                        await asyncio.sleep(0.01)
                    while server.streams.open:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                return True

    assert run(story())


def test_too_many_streams(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are bounded, and the next one is told so."""
    monkeypatch.setattr(streams_module, "MAX_STREAMS", 1)

    async def story() -> tuple[int, str]:
        async with serving() as (client, _), client.get("/live") as first:
            await anext(events(first, "page"))
            async with client.get("/live") as second:
                return second.status, (await second.json(content_type=None))["detail"]

    status, detail = run(story())
    assert status == 503
    assert detail.startswith("1 streams are open already")


def test_address_in_use(run: Run) -> None:
    """A second server on the same address says what is wrong and what to do."""

    async def story() -> str:
        async with serving() as (_, server):
            host, port = server.bound
            with pytest.raises(ApiError) as caught:
                await ApiServer(ip_address(host), port, sources()).start()
            return str(caught.value)

    assert re.fullmatch(
        r"cannot listen on 127\.0\.0\.1:\d+: another program listens there; stop it, or set another \[api\] port",
        run(story()),
    )


def test_foreign_address(run: Run) -> None:
    """An address of another machine is named as such."""
    with pytest.raises(ApiError, match=r"cannot listen on 192\.0\.2\.1:8080: this is no address of this machine"):
        run(ApiServer(ip_address("192.0.2.1"), 8080, sources()).start())


def test_ipv6(run: Run) -> None:
    """The server listens on IPv6 as well, and its URL has brackets then."""

    async def story() -> int:
        server = ApiServer(ip_address("::1"), 0, sources())
        await server.start()
        try:
            assert server.url == f"http://[::1]:{server.bound[1]}/"
            async with aiohttp.ClientSession() as client, client.get(f"{server.url}healthz") as response:
                return response.status
        finally:
            await server.close()

    assert run(story()) == 200


def test_not_started(run: Run) -> None:
    """Before it starts, a server has no address, and closing it is harmless."""

    async def story() -> None:
        server = ApiServer(ip_address("127.0.0.1"), 0, sources())
        with pytest.raises(RuntimeError, match="has not been started"):
            _ = server.bound
        await server.close()

    run(story())


def test_plane_error_makes_no_exception(run: Run) -> None:
    """Page, metrics and document work before anything is in force."""
    snap = sample_snapshot(plane_error="the data plane has not started")
    given = sources(applied=lambda: None, snapshot=lambda: snap, speaker=lambda: None)
    for path in ("/plain", "/metrics", "/api/v1/status"):
        response, _ = run(get(path, given))
        assert response.status == 200

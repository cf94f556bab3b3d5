"""What has happened, as a list and as it comes: over real HTTP."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import aiohttp
import pytest

from appliance import log as logging
from appliance.api.server import ApiServer
from appliance.happenings import KEPT, Happenings, matching
from tests.unit.api.samples import sources


def noted(happenings: Happenings, name: str, level: str = "info", **fields: Any) -> None:
    happenings.note(None, level, {"event": name, "level": level, **fields})


@asynccontextmanager
async def serving(happenings: Happenings) -> AsyncIterator[tuple[aiohttp.ClientSession, ApiServer]]:
    server = ApiServer(ip_address("127.0.0.1"), 0, sources(), happenings=happenings)
    await server.start()
    try:
        async with aiohttp.ClientSession(server.url) as session:
            yield session, server
    finally:
        await server.close()


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str | None, Any]]:
    """Name, id and data of each."""
    found: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if not line and "data" in found:
            yield found["event"], found.get("id"), json.loads(found["data"])
            found = {}
        elif ": " in line:
            key, _, value = line.partition(": ")
            found[key] = value


async def test_a_list_with_filters() -> None:
    """The latest last; by name, level and what they are about."""
    happenings = Happenings(lambda: 1000.0)
    noted(happenings, "member.out", "warning", member="web/web1", reason="health_down", service="web")
    noted(happenings, "member.in_rotation", member="web/web1", service="web")
    noted(happenings, "vip.announced", vip=ip_address("198.51.100.7"))
    noted(happenings, "config.reloaded", "debug")
    async with serving(happenings) as (session, _):

        async def names(query: str) -> list[str]:
            async with session.get(f"/api/v1/events{query}") as response:
                assert response.status == 200, await response.text()
                return [item["event"] for item in (await response.json())["items"] if item["event"] != "api.listening"]

        assert await names("") == ["member.out", "member.in_rotation", "vip.announced"]
        assert await names("?event=member.*") == ["member.out", "member.in_rotation"]
        assert await names("?event=member.out&member=web/web1") == ["member.out"]
        assert await names("?level=warning") == ["member.out"]
        assert await names("?vip=198.51.100.7") == ["vip.announced"]
        assert await names("?limit=1") == ["vip.announced"]
        assert await names(f"?after={int(1000e6)}") == ["member.in_rotation", "vip.announced"]
        async with session.get("/api/v1/events?event=member.out") as response:
            (item,) = (await response.json())["items"]
        assert item == {
            "id": int(1000e6),
            "at": 1000.0,
            "level": "warning",
            "event": "member.out",
            "fields": {"member": "web/web1", "reason": "health_down", "service": "web"},
        }


@pytest.mark.parametrize(
    "query", ["?level=loud", "?after=x", "?limit=0", "?limit=٣", "?what=1", f"?after={'9' * 5000}"]
)
async def test_bad_questions(query: str) -> None:
    """400, with the reason."""
    async with serving(Happenings(lambda: 1.0)) as (session, _), session.get(f"/api/v1/events{query}") as response:
        assert (response.status, response.content_type) == (400, "application/problem+json")


async def test_a_stream_goes_on_where_it_was() -> None:
    """With the id of the last event that was seen, and without it from now on."""
    happenings = Happenings(lambda: 1000.0)
    noted(happenings, "a.old")
    accept = {"Accept": "text/event-stream"}
    async with serving(happenings) as (session, _), session.get("/api/v1/events", headers=accept) as response:
        noted(happenings, "b.new", member="web/web1")
        async with asyncio.timeout(10):
            name, id_, data = await anext(events(response))
        assert (name, data["event"], data["fields"]) == ("happened", "b.new", {"member": "web/web1"})
        noted(happenings, "c.newer")
        resumed = accept | {"Last-Event-ID": str(id_)}
        async with session.get("/api/v1/events?event=c.*", headers=resumed) as again:
            async with asyncio.timeout(10):
                name, _, data = await anext(events(again))
        assert (name, data["event"]) == ("happened", "c.newer")


async def test_what_is_gone_is_told_as_lost() -> None:
    """So nobody takes a gap for peace; also after another process."""
    happenings = Happenings(lambda: 1000.0)
    for number in range(KEPT + 10):
        noted(happenings, f"a.n{number}")
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(int(1000e6) + 3)}
    async with serving(happenings) as (session, _), session.get("/api/v1/events", headers=headers) as response:
        stream = events(response)
        async with asyncio.timeout(10):
            name, _, data = await anext(stream)
            assert (name, data["after"]) == ("lost", int(1000e6) + 3)
            name, id_, _ = await anext(stream)
        assert (name, id_) == ("happened", str(data["first"]))
        assert data["first"] >= int(1000e6) + 10


async def test_the_log_is_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    """What is logged is kept, in the same words and with addresses as text."""
    import structlog

    happenings = Happenings(lambda: 5.0)
    try:
        logging.configure(note=happenings.note, environ={})
        structlog.get_logger().warning("vip.withdrawn", vip=ip_address("198.51.100.7"), reason="x" * 1000)
        structlog.get_logger().debug("not.kept")
    finally:
        structlog.reset_defaults()
    (one,) = happenings.after(0)
    assert (one.level, one.event, one.fields["vip"]) == ("warning", "vip.withdrawn", "198.51.100.7")
    assert len(one.fields["reason"]) == 501
    assert "vip.withdrawn" in capsys.readouterr().err


def test_many_threads_and_a_bound() -> None:
    """Ids are without gaps, and few events are kept."""
    happenings = Happenings(lambda: 1.0, kept=100)
    threads = [threading.Thread(target=lambda: [noted(happenings, "a.b") for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [one.id for one in happenings.after(0)]
    assert ids == list(range(int(1e6) + 1900, int(1e6) + 2000))
    assert happenings.first == ids[0]
    assert happenings.last == ids[-1]
    assert [one.id for one in happenings.after(ids[-3])] == ids[-2:]
    assert happenings.after(ids[-1] + 100) == []
    assert list(matching(happenings.after(0), {"event": "a.c"})) == []


async def test_a_hundred_readers_share_the_work_and_hold_nobody_up() -> None:
    """Each gets every event in order, from one ring; those that read nothing take no memory but what the kernel has for
    them, and the others wait for none of them."""
    happenings = Happenings(lambda: 1000.0)
    accept = {"Accept": "text/event-stream"}
    async with serving(happenings) as (_, server):
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(server.url, connector=connector) as session:
            responses = [await session.get("/api/v1/events?event=a.*", headers=accept) for _ in range(100)]
            assert server.streams.open == 100
            for number in range(5):
                noted(happenings, "a.b", number=number)

            async def read(response: aiohttp.ClientResponse) -> list[int]:
                stream = events(response)
                return [(await anext(stream))[2]["fields"]["number"] for _ in range(5)]

            async with asyncio.timeout(30):
                found = await asyncio.gather(*(read(response) for response in responses[:90]))
            assert found == [list(range(5))] * 90
            for response in responses:
                response.close()
            async with asyncio.timeout(30):
                while server.streams.open:
                    await asyncio.sleep(0.05)
                    noted(happenings, "a.b")

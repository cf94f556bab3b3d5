"""What the client makes of the answers of etcd's gateway, of other versions than the one at hand, and of others'."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from aiohttp import web

from appliance.fleet.client import Change, CompactedError, LeaseGoneError, RefusedError, StoreError, UnavailableError
from appliance.fleet.etcd import EtcdSession, EtcdStore
from appliance.model import Etcd

HEALTHY = '{"health":"true","reason":""}'


@asynccontextmanager
async def node(answers: dict[str, str | list[bytes]], status: int = 200) -> AsyncIterator[str]:
    """Something that answers like this; a list is sent piece by piece."""

    async def answer(request: web.Request) -> web.StreamResponse:
        what = answers.get(request.path)
        if what is None:
            return web.Response(status=404, text="404 page not found")
        if isinstance(what, str):
            return web.Response(text=what, status=200 if request.path == "/health" else status)
        stream = web.StreamResponse()
        await stream.prepare(request)
        for piece in what:
            await stream.write(piece)
            await asyncio.sleep(0.01)
        return stream

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def store(*endpoints: str, **settings: str) -> EtcdStore:
    return EtcdStore(Etcd(endpoints, "/onward/", **settings), random.Random(1), deadline_s=0.5)


@asynccontextmanager
async def session(answers: dict[str, str | list[bytes]], status: int = 200) -> AsyncIterator[EtcdSession]:
    async with node({"/health": HEALTHY} | answers, status) as url, store(url).session() as opened:
        yield opened


async def refusal(*endpoints: str, **settings: str) -> StoreError:
    with pytest.raises(StoreError) as caught:
        async with store(*endpoints, **settings).session():
            raise AssertionError("it said yes")
    return caught.value


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"error":"etcdserver: request timed out","code":14}', UnavailableError, "request timed out"),
        ('{"code":14,"message":"etcdserver: no leader","error":"x"}', UnavailableError, "x"),
        (
            '{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}',
            UnavailableError,
            "etcdserver: no leader",
        ),
        ('{"error":"etcdserver: requested lease not found","code":5}', LeaseGoneError, "lease not found"),
        ('{"error":"etcdserver: permission denied","code":7}', RefusedError, "etcdctl role grant-permission"),
        ('{"error":"etcdserver: invalid auth token","code":16}', RefusedError, "check fleet.etcd.user"),
        ("<html>a proxy's own page</html>", UnavailableError, "check fleet.etcd.endpoints"),
        ("[]", UnavailableError, "check fleet.etcd.endpoints"),
    ],
)
async def test_errors(text: str, error: type[StoreError], message: str) -> None:
    """Every form of an error is understood, and says which node it was and what to do."""
    async with session({"/v3/kv/range": text}, status=503) as opened:
        with pytest.raises(error, match=message) as caught:
            await opened.read()
        assert str(caught.value).startswith("http://127.0.0.1:")


async def test_a_lease_that_is_gone_by_its_answer() -> None:
    """A lease without a rest of its time has run out: the answer has no TTL then."""
    async with session({"/v3/lease/keepalive": '{"result":{"header":{"revision":"4"},"ID":"77"}}'}) as opened:
        with pytest.raises(LeaseGoneError):
            await opened.keep_alive(77)


async def test_watch_in_pieces() -> None:
    """Objects of a stream may come in any pieces, several at once, with progress in between, and end in an error."""
    pieces = [
        b'{"result":{"header":{"revision":"4"},"created":true}}\n{"result":{"header":{"revi',
        b'sion":"5"},"events":[{"kv":{"key":"L29ud2FyZC9h","mod_revision":"5","value":"MQ=="}}]}}\n',
        b'{"result":{"header":{"revision":"6"}}}\n\n',
        b'{"result":{"events":[{"type":"DELETE","kv":{"key":"L29ud2FyZC9h","mod_revision":"7"}}]}}\n{"result":{"events":',
        b'[{"kv":{"key":"L29ud2FyZC9i","mod_revision":"8"}}]}}\n',
        b'{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}',
    ]
    seen: list[Change] = []
    for end, message in ((pieces[-1:], "no leader"), ([], "the watch has ended")):
        seen.clear()
        async with session({"/v3/watch": pieces[:-1] + end}) as opened:
            with pytest.raises(UnavailableError, match=message):
                await _listen(opened, seen)
        assert seen == [Change("a", "1", 5), Change("a", None, 7), Change("b", "", 8)]


async def _listen(opened: EtcdSession, seen: list[Change]) -> None:
    async with aclosing(opened.watch(3)) as changes:
        async for batch in changes:
            seen += batch


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ('{"created":true,"canceled":true,"cancel_reason":"etcdserver: permission denied"}', RefusedError),
        ('{"canceled":true,"compact_revision":"12"}', CompactedError),
        ('{"canceled":true}', UnavailableError),
    ],
)
async def test_watch_that_is_cancelled(result: str, error: type[StoreError]) -> None:
    """Why etcd ends a watch decides what is to be done."""
    async with session({"/v3/watch": [f'{{"result":{result}}}\n'.encode()]}) as opened:
        with pytest.raises(error):
            await anext(opened.watch(3))


async def test_the_node_that_is_well_is_taken() -> None:
    """Nodes that are gone, silent, without quorum or no etcd at all are passed by."""
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and nobody reads from them
    quiet = f"http://127.0.0.1:{silent.getsockname()[1]}"
    async with node({"/health": '{"health":"false"}'}) as sick, node({}) as other:
        async with node({"/health": HEALTHY}) as well:
            began = asyncio.get_running_loop().time()
            async with store("http://127.0.0.1:1", quiet, sick, other, f"{well}/").session() as opened:
                assert opened.endpoint == well
            assert asyncio.get_running_loop().time() - began < 0.4
        error = await refusal("http://127.0.0.1:1", quiet, sick, other)
    silent.close()
    assert isinstance(error, UnavailableError)
    for text in (
        "http://127.0.0.1:1: ",
        f"{quiet}: no answer within 0.5 s",
        f"{sick}: is without quorum",
        f"{other}: not the answer of an etcd 3.4 or newer: 404 404 page not found; check fleet.etcd.endpoints",
    ):
        assert text in str(error)


async def test_health_of_a_node_with_a_reason() -> None:
    """Newer nodes say what is wrong with them."""
    async with node({"/health": '{"health":"false","reason":"ALARM NOSPACE"}'}) as url:
        assert str(await refusal(url)) == f"{url}: is without quorum ALARM NOSPACE"


async def test_certificates_that_cannot_be_read() -> None:
    """A file that is not there is for the operator, before anything is sent."""
    error = await refusal("https://127.0.0.1:1", ca_file="/nowhere/ca.pem")
    assert isinstance(error, RefusedError)
    assert "check ca_file, cert_file and key_file" in str(error)


async def test_tokens_are_kept_until_they_are_refused() -> None:
    """Logging in costs the node a tenth of a second, so a token serves many sessions, until it is refused."""
    answers: dict[str, str | list[bytes]] = {
        "/health": HEALTHY,
        "/v3/auth/authenticate": '{"token":"first"}',
        "/v3/kv/range": '{"error":"etcdserver: invalid auth token"}',
    }
    async with node(answers) as url:
        fleet = store(url, user="onward", password="secret")  # noqa: S106
        async with fleet.session():
            answers["/v3/auth/authenticate"] = '{"token":"second"}'
        async with fleet.session() as opened:
            assert opened._headers["Authorization"] == "first"
        with pytest.raises(RefusedError):
            async with fleet.session() as opened:
                await opened.read()
        async with fleet.session() as opened:
            assert opened._headers["Authorization"] == "second"


def test_no_endpoints() -> None:
    """A store without nodes is a mistake of whoever makes it."""
    with pytest.raises(ValueError, match="names no node"):
        store()

"""`onward agent`: the member's side of the doctor, a small HTTP server that reads and changes nothing.

    POST /v1/watch   {"askers": [...], "vips": [...]}   looks at packets of these from now on
    POST /v1/report  {"vips": [...]}                    what was seen, and everything else

`proof` says whom it answers. A watch that nobody ends ends by itself; a new one of the same director takes its place.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from appliance.doctor.member import IPAddress
from appliance.doctor.observe import ObserveError, counters, observe
from appliance.doctor.proof import ANSWER, QUESTION, answer, refusal
from appliance.doctor.watch import Watch

log = structlog.get_logger()

PORT = 7118
LONGEST_WATCH_S = 20.0
MOST_WATCHES = 8
MAX_BODY = 64 * 1024
_PAUSE_S = 0.02


@dataclass
class _Watching:
    watch: Watch
    before: dict[str, int]
    until: float


class Agent:
    """Answers directors that know the secret."""

    def __init__(self, secret: bytes, root: Path = Path("/")) -> None:
        self._secret = secret
        self._root = root
        self._used: dict[str, float] = {}
        self._watches: dict[str, _Watching] = {}

    async def run(self, address: str, port: int, stop: asyncio.Event) -> None:
        """Answer until told to stop.

        Raises:
            OSError: it cannot listen there.
        """
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes([web.post("/v1/watch", self._watch), web.post("/v1/report", self._report)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, port).start()
            log.info("agent.listening", address=address, port=port)
            await stop.wait()
        finally:
            for peer in list(self._watches):
                self._end(peer)
            await runner.cleanup()

    async def _watch(self, request: web.Request) -> web.Response:
        body, peer = await self._asked(request), request.remote or ""
        try:
            askers, vips = list(_addresses(body, "askers")), list(_addresses(body, "vips"))
        except (TypeError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"not askers and vips: {error}") from None
        self._end(peer)
        if len(self._watches) >= MOST_WATCHES:
            raise web.HTTPServiceUnavailable(text="as many directors as may ask at a time")
        try:
            watch = Watch(askers, vips)
        except OSError as error:
            raise web.HTTPForbidden(text=f"the agent may not look at packets: {error}; it takes CAP_NET_RAW") from None
        now = asyncio.get_running_loop().time()
        self._watches[peer] = _Watching(watch, counters(), now + LONGEST_WATCH_S)
        self._listen(peer)
        return self._answer(request, {"watching": True})

    async def _report(self, request: web.Request) -> web.Response:
        body, peer = await self._asked(request), request.remote or ""
        try:
            vips = list(_addresses(body, "vips"))
        except (TypeError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"not vips: {error}") from None
        watching = self._watches.get(peer)
        before = watching.before if watching is not None else None
        try:
            report = await asyncio.to_thread(observe, vips, before, self._root)
        except ObserveError as error:
            raise web.HTTPInternalServerError(text=str(error)) from None
        if watching is not None:
            report = replace(report, watched=True, seen=watching.watch.seen())
            self._end(peer)
        return self._answer(request, report.document())

    async def _asked(self, request: web.Request) -> dict[str, object]:
        """The body of a question of somebody who may ask."""
        text = await request.read()
        resource = f"{request.method} {request.path}"
        why = refusal(self._secret, request.headers.get(QUESTION, ""), resource, text, time.time(), self._used)
        if why:
            log.warning("agent.refused", peer=request.remote, reason=why)
            raise web.HTTPUnauthorized(text=why)
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise web.HTTPBadRequest(text="the body is no JSON object")
        return body

    def _answer(self, request: web.Request, document: object) -> web.Response:
        body = json.dumps(document).encode()
        nonce = request.headers[QUESTION].split(" ")[1]
        headers = {ANSWER: answer(self._secret, nonce, body)}
        return web.Response(body=body, content_type="application/json", headers=headers)

    def _listen(self, peer: str) -> None:
        watching = self._watches.get(peer)
        if watching is not None:
            asyncio.get_running_loop().add_reader(watching.watch.fileno, self._take, peer, watching)

    def _take(self, peer: str, watching: _Watching) -> None:
        """A part of what has come, and then nothing for a moment: a busy director's packets are many."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(watching.watch.fileno)
        watching.watch.take()
        if loop.time() < watching.until and not watching.watch.is_full:
            loop.call_later(_PAUSE_S, self._again, peer, watching)

    def _again(self, peer: str, watching: _Watching) -> None:
        if self._watches.get(peer) is watching:
            self._listen(peer)

    def _end(self, peer: str) -> None:
        watching = self._watches.pop(peer, None)
        if watching is not None:
            asyncio.get_running_loop().remove_reader(watching.watch.fileno)
            watching.watch.close()


def _addresses(body: dict[str, object], key: str) -> Iterator[IPAddress]:
    return (ip_address(str(one)) for one in _list(body, key))


def _list(body: dict[str, object], key: str) -> list[Any]:
    given = body.get(key, [])
    if not isinstance(given, list):
        raise TypeError(f"{key} is no list")
    return given

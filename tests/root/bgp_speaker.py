"""Runs inside a namespace: a speaker under remote control, so that a test can kill it.

The configuration comes as the first argument, in JSON. Then one command a line comes on standard input, and one answer
a line goes to standard output, both JSON.
"""

import asyncio
import json
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import uvloop

from appliance import log as logging
from bgp.config import BgpSpeakerConfig, Neighbor
from bgp.exabgp import ExaBgpSpeaker
from bgp.route import Attributes, Route
from bgp.speaker import SpeakerError


def address(text: str | None):
    return None if text is None else ip_address(text)


def route(wanted: str | dict) -> Route:
    """An address, or an object with an address and attributes."""
    if isinstance(wanted, str):
        return Route(ip_address(wanted))
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in wanted.items() if key != "vip"}
    return Route(ip_address(wanted["vip"]), attributes=Attributes(**given))


def configuration(raw: dict) -> BgpSpeakerConfig:
    named = ("address", "local_address")
    own = [{key: neighbor.pop(key) for key in named if key in neighbor} for neighbor in raw["neighbors"]]
    neighbors = tuple(
        Neighbor(**neighbor, **{key: ip_address(text) for key, text in addresses.items()})
        for neighbor, addresses in zip(raw.pop("neighbors"), own, strict=True)
    )
    fixed = {key: address(raw.pop(key, None)) for key in ("router_id", "next_hop_v4", "next_hop_v6")}
    return BgpSpeakerConfig(**raw, **fixed, neighbors=neighbors, runtime_dir=Path(sys.argv[2]))


class Runner:
    def __init__(self) -> None:
        self.speaker = ExaBgpSpeaker(configuration(json.loads(sys.argv[1])))
        self.renewing = True

    async def renew(self) -> None:
        while True:
            if self.renewing:
                await self.speaker.renew()
            await asyncio.sleep(0.2)

    async def command(self, verb: str, *arguments: object) -> object:
        match verb:
            case "set":
                await self.speaker.set(frozenset(map(route, arguments)))
            case "renewing":
                self.renewing = bool(arguments[0])
            case "status":
                status = self.speaker.status()
                return {
                    "running": status.running,
                    "announced": sorted(str(route.prefix) for route in status.announced),
                    "detail": status.detail,
                    "peers": {
                        peer: {"session": p.session, "sent": sorted(p.routes_sent), "detail": p.detail}
                        for peer, p in status.peers.items()
                    },
                }
            case "close":
                await self.speaker.close()
        return None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            own = [tasks.create_task(self.speaker.run()), tasks.create_task(self.renew())]
            while line := await asyncio.to_thread(sys.stdin.readline):
                verb, *arguments = json.loads(line)
                began = time.monotonic()
                try:
                    answer = {"ok": await self.command(verb, *arguments)}
                except SpeakerError as error:
                    answer = {"error": str(error)}
                print(json.dumps(answer | {"began": began}), flush=True)
            for task in own:
                task.cancel()


logging.configure(level="debug")
uvloop.run(Runner().run())

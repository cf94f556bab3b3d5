"""Runs inside a namespace: BFD as a director has it, under remote control, so that a test can stop and kill it.

One command a line comes on standard input, and one answer a line goes to standard output, both JSON.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict

import uvloop

from appliance import log as logging
from bgp.bfd.messages import Change, SessionSettings
from bgp.bfd.process import Bfd


class Runner:
    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.bfd = Bfd(self.changes.append)

    def status(self) -> dict:
        status = asdict(self.bfd.status())
        for view in status["sessions"].values():
            view["state"], view["remote_state"] = str(view["state"]), str(view["remote_state"])
        changes = [{"peer": c.peer, "state": str(c.state), "path_lost": c.path_lost} for c in self.changes]
        return status | {"changes": changes}

    async def command(self, verb: str, *arguments: object) -> object:
        match verb:
            case "set":
                self.bfd.set(SessionSettings(**each) for each in arguments)
            case "block":
                time.sleep(arguments[0])  # noqa: ASYNC251 - that is the point: the event loop stands still
            case "compute":  # keeps the interpreter's lock
                data = [{"number": number, "text": str(number)} for number in range(arguments[0])]
                began = time.monotonic()
                json.dumps(data)
                return {"seconds": time.monotonic() - began}
            case "close":
                await self.bfd.close()
        return self.status()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            own = tasks.create_task(self.bfd.run())
            while line := await asyncio.to_thread(sys.stdin.readline):
                verb, *arguments = json.loads(line)
                print(json.dumps(await self.command(verb, *arguments)), flush=True)
            own.cancel()


async def main() -> None:
    await Runner().run()


logging.configure(level="debug")
uvloop.run(main())

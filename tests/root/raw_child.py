"""A raw data plane in a process of its own (so that it can live in a namespace), told what to do through a pipe.

usage: python -m tests.root.raw_child INTERFACE[,INTERFACE...] KEYWORD=VALUE...
Each request on stdin and each answer on stdout is one line: base64 of a pickle. A request is (method, arguments); an
answer is (True, value) or (False, error text).
"""

import asyncio
import base64
import pickle
import sys
import time
from functools import partial

import structlog

from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.raw.plane import RawDataPlane


async def injure(plane: RawDataPlane, stall_s: float) -> None:
    """Let the forwarding thread meet a bug in its next batch: it dies of it, or is busy for that long."""
    assert plane._session is not None
    worker = plane._session.worker

    def bug(*_: object) -> int:
        if not stall_s:
            raise RuntimeError("a bug in the forwarding thread")
        del worker._ring  # type: ignore[attr-defined]
        time.sleep(stall_s)
        return worker._ring(*_)  # type: ignore[arg-type]

    worker._ring = bug  # type: ignore[method-assign,assignment]


async def serve() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    interfaces = tuple(sys.argv[1].split(","))
    settings = {key: int(value) for key, _, value in (argument.partition("=") for argument in sys.argv[2:])}
    plane = RawDataPlane(interfaces, **settings)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        method, arguments = pickle.loads(base64.b64decode(line))  # noqa: S301 - our own parent
        try:
            call = partial(injure, plane) if method == "injure" else getattr(plane, method)
            answer = (True, await call(*arguments))
        except DataPlaneError as error:
            answer = (False, str(error))
        print(base64.b64encode(pickle.dumps(answer)).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(serve())

"""A data plane in a process of its own (so that it can live in a namespace), told what to do through a pipe.

usage: python -m tests.root.plane_child KIND INTERFACE[,INTERFACE...] KEYWORD=VALUE...
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
from appliance.dataplane.xdp.attach import Mode
from appliance.dataplane.xdp.plane import XdpDataPlane

KINDS = ("raw", "xdp", "xdp-generic")


def make(kind: str, interfaces: tuple[str, ...], settings: dict[str, int]) -> RawDataPlane | XdpDataPlane:
    """Settings are keywords of the raw plane, which is behind the XDP program, too; `link_NAME` is a link to adopt."""
    links = {key.removeprefix("link_"): settings.pop(key) for key in list(settings) if key.startswith("link_")}
    raw = RawDataPlane(interfaces, **settings)
    if kind == "raw":
        return raw
    mode = Mode.GENERIC if kind == "xdp-generic" else Mode.NATIVE
    return XdpDataPlane(interfaces, mode=mode, slow_path=raw, links=links)


async def injure(plane: RawDataPlane | XdpDataPlane, stall_s: float) -> None:
    """Let the forwarding thread meet a bug in its next batch: it dies of it, or is busy for that long."""
    if isinstance(plane, XdpDataPlane):
        assert isinstance(plane._slow, RawDataPlane)
        plane = plane._slow
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
    interfaces = tuple(sys.argv[2].split(","))
    settings = {key: int(value) for key, _, value in (argument.partition("=") for argument in sys.argv[3:])}
    plane = make(sys.argv[1], interfaces, settings)
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

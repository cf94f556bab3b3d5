"""The control server: all that can be asked of a director, over a UNIX socket in the runtime directory.

Who may open the socket may give orders and change the configuration; it is logged with the user that does. The routes
are those of `ordering.py`, `configuring.py`, `objects.py`, `explaining.py` and `capturing.py`; over HTTP there are the
same, below `/api` (server.py). Errors are `application/problem+json` (RFC 9457).
"""

import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from pwd import getpwuid

from aiohttp import web

from appliance.api import capturing, explaining
from appliance.api.listening import Runner
from appliance.api.ordering import Controls
from appliance.api.problem import Handler, problems
from appliance.api.routes import ACTOR, Actor, Role, Route, mounted
from appliance.api.server import ApiError
from appliance.explain.side import Explainer

SOCKET = "control.sock"
_PEER = struct.Struct("3i")


def looking_routes(controls: Controls) -> list[Route]:
    """What a data plane can be asked about packets; nothing where there is none."""
    if controls.plane is None:
        return []
    explainer = Explainer(controls.plane, controls.applied, controls.interface)
    return [
        *explaining.routes(explainer, lambda: controls.state.config.director.interfaces),
        *capturing.routes(controls.plane, controls.applied),
    ]


class ControlServer:
    """Answers those who may open the socket."""

    def __init__(self, path: Path, routes: Iterable[Route]) -> None:
        """
        Args:
            path: of the socket.
            routes: what can be asked for there.
        """
        self._path = path
        self._routes = list(routes)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ApiError: the socket cannot be made.
        """
        app = web.Application(middlewares=[_known, problems])
        app.add_routes(mounted(self._routes))
        try:
            self._path.unlink(missing_ok=True)  # the lock in the same directory says that nobody else is there
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(self._path))
            self._path.chmod(0o660)
            listening.listen()
        except OSError as error:
            raise ApiError(f"cannot make the control socket {self._path}: {error}") from error
        runner = Runner(app, 2.0)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        self._runner = runner

    async def close(self) -> None:
        """Stop listening. Harmless when not started."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self._path.unlink(missing_ok=True)


@web.middleware
async def _known(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The kernel says which user and process is at the other end (SO_PEERCRED, unix(7))."""
    request[ACTOR] = _peer(request)
    return await handler(request)


def _peer(request: web.Request) -> Actor:
    transport = request.transport
    peer = transport.get_extra_info("socket") if transport is not None else None
    try:
        if peer is None:
            raise OSError("it is gone")
        pid, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    except OSError:
        return Actor("", Role.ADMIN, local=True)
    try:
        name = getpwuid(uid).pw_name
    except KeyError:
        name = "nobody we know"
    return Actor(f"{name} (uid {uid}, pid {pid})", Role.ADMIN, {"by_uid": uid, "by_pid": pid}, local=True)

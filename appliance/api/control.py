"""The control server: orders about members and the director itself, over a UNIX socket in the runtime directory.

    GET  /v1/members                                    all members, with their states and what is left of their flows
    GET  /v1/members/POOL/MEMBER?limit=N                one of them, with N of its flows
    POST /v1/members/POOL/MEMBER/ready|drain|maint      {"timeout_s": 60 or null, "reason": "..."}, all optional
    POST /v1/members/POOL/MEMBER/weight                 {"ratio": 2 or null}
    POST /v1/nodes/ADDRESS/ready|drain|maint            the same for every member with that address
    GET  /v1/director                                   whether this director is in service
    POST /v1/director/drain                             {"timeout_s": 60, "reason": "..."}, all optional
    POST /v1/director/undrain                           {"reason": "..."}
    ...  /v1/config...                                  configuring.py
    POST /v1/explain                                    what becomes of packets, and why: see api/explaining.py
    GET  /v1/doctor                                     what the doctor has found; POST: it looks now: api/doctoring.py
    GET  /v1/capture                                    packets, and what became of them: see api/capturing.py

With "dry_run": true, an order about members is not taken, and the answer says what it would do: which VIPs it
`withdraws`, and which virtual services it `stops` whose VIPs stay (`name` and `why` of each).

Who may open the socket may give orders. Every one is logged with the user that gave it, and kept over restarts. Errors
are `application/problem+json` (RFC 9457).
"""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import structlog
from aiohttp import web

from appliance.api import capturing, explaining
from appliance.api.problem import RefusedError
from appliance.api.server import ApiError
from appliance.api.views import drain_document
from appliance.config.problems import did_you_mean
from appliance.dataplane.base import DataPlane
from appliance.dataplane.pins import PinTable
from appliance.dataplane.raw.kernel import Interface, read_interface
from appliance.decide import Desired, MemberView, decide
from appliance.explain.side import Explainer
from appliance.fleet.client import StoreError
from appliance.flows import Flow, FlowsLeft, flows_left
from appliance.model import AdminState, Drain, Order, Pool
from appliance.orders import Orders, as_json
from appliance.ring.slots import MAX_WEIGHT
from appliance.state import State

log = structlog.get_logger()

SOCKET = "control.sock"
MAX_TIMEOUT_S = 432_000
DRAIN_S = 60.0
MAX_FLOWS = 10_000
MAX_BODY = 64 * 1024 * 1024
"""Bytes: the texts of a large configuration, as JSON."""

_PEER = struct.Struct("3i")


@dataclass(frozen=True)
class Controls:
    """What the server works with."""

    state: State
    applied: Callable[[], Desired | None]
    pins: Callable[[], PinTable]
    save: Callable[[Orders], None]
    """Keeps orders; raises OSError."""

    share: Callable[[Mapping[str, Order | None]], Awaitable[None]] | None = None
    """Gives orders to all directors of the fleet; raises StoreError. None: they are for this director only."""

    save_drain: Callable[[Drain | None], None] = lambda _: None
    """Keeps that this director is drained; raises OSError."""

    plane: DataPlane | None = None
    """Asked about packets; None: it is not."""
    interface: Callable[[str], Interface | None] = read_interface
    """What the kernel says of an interface."""


_Ways = list[tuple[MemberView, float | None]]
"""The ways to a member, and when the window ends that may fall back to each."""


class ControlServer:
    """Takes orders."""

    def __init__(
        self,
        path: Path,
        controls: Controls,
        clock: Callable[[], float] = time.time,
        more: Iterable[web.RouteDef] = (),
    ) -> None:
        """
        Args:
            path: of the socket.
            controls: what to work with.
            clock: seconds since 1970.
            more: what else can be asked for there.
        """
        self._more = more
        self._path = path
        self._controls = controls
        self._clock = clock
        self._runner: web.AppRunner | None = None
        self._giving = asyncio.Lock()
        """An order builds on the one before; so they are given one after the other."""

    async def start(self) -> None:
        """Listen.

        Raises:
            ApiError: the socket cannot be made.
        """
        app = web.Application(middlewares=[_problems], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/v1/members", self._members),
                web.get("/v1/members/{pool}/{member}", self._member),
                web.post("/v1/members/{pool}/{member}/weight", self._weigh),
                web.post("/v1/members/{pool}/{member}/{order:ready|drain|maint}", self._order_member),
                web.post("/v1/nodes/{address}/{order:ready|drain|maint}", self._order_node),
                web.get("/v1/director", self._director),
                web.post("/v1/director/drain", self._drain),
                web.post("/v1/director/undrain", self._undrain),
                *self._more,
                *self._looks(),
            ]
        )
        try:
            self._path.unlink(missing_ok=True)  # the lock in the same directory says that nobody else is there
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(self._path))
            self._path.chmod(0o660)
            listening.listen()
        except OSError as error:
            raise ApiError(f"cannot make the control socket {self._path}: {error}") from error
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        self._runner = runner

    def _looks(self) -> Iterable[web.RouteDef]:
        """What only looks, and orders nothing."""
        plane, applied = self._controls.plane, self._controls.applied
        if plane is None:
            return []
        return [
            *explaining.routes(
                Explainer(plane, applied, self._controls.interface),
                lambda: self._controls.state.config.director.interfaces,
            ),
            *capturing.routes(plane, applied, who_of),
        ]

    async def close(self) -> None:
        """Stop listening. Harmless when not started."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self._path.unlink(missing_ok=True)

    async def _members(self, _request: web.Request) -> web.Response:
        views = self._views()
        documents = await asyncio.to_thread(self._documents, [views[name] for name in sorted(views)], 0)
        return web.json_response({"members": documents})

    async def _member(self, request: web.Request) -> web.Response:
        name = self._known(request)
        try:
            limit = int(request.query.get("limit", "100"))
        except ValueError:
            raise RefusedError(400, f"limit={request.query['limit']} is not a number") from None
        views = self._views()
        if name not in views:
            raise RefusedError(409, f"{name} is not in force yet; the director has just started")
        (document,) = await asyncio.to_thread(self._documents, [views[name]], max(0, min(limit, MAX_FLOWS)))
        return web.json_response(document)

    async def _order_member(self, request: web.Request) -> web.Response:
        name = self._known(request)
        return await self._order(request, [name])

    async def _order_node(self, request: web.Request) -> web.Response:
        text = request.match_info["address"]
        try:
            address = ip_address(text)
        except ValueError:
            raise RefusedError(400, f"{text} is not an IP address") from None
        names = [
            f"{pool.name}/{member.name}"
            for pool in self._pools()
            for member in pool.members
            if member.address == address
        ]
        if not names:
            there = sorted({str(member.address) for pool in self._pools() for member in pool.members})
            raise RefusedError(404, f"no member has the address {address}; there are: {', '.join(there)}")
        return await self._order(request, names)

    async def _order(self, request: web.Request, names: list[str]) -> web.Response:
        body = await body_of(request, {"timeout_s", "reason", "dry_run"})
        state = AdminState(request.match_info["order"])
        timeout_s = _number(body, "timeout_s", MAX_TIMEOUT_S)
        if timeout_s is not None and state is not AdminState.DRAIN:
            raise RefusedError(400, "timeout_s is for drain only")
        limits = {pool.name: pool.drain_timeout_s for pool in self._pools()} if state is AdminState.DRAIN else {}
        async with self._giving:
            now = self._clock()
            orders = {}
            for name in names:
                before = self._controls.state.orders.get(name)
                ratio = before.ratio if before is not None else None
                limit = timeout_s if "timeout_s" in body else limits.get(name.partition("/")[0])
                until = now + limit if limit is not None else None
                since = before.since if before is not None and before.state is state else now
                orders[name] = Order(state, since, until, ratio)
            return await self._give(orders, request, body)

    async def _weigh(self, request: web.Request) -> web.Response:
        name = self._known(request)
        body = await body_of(request, {"ratio", "reason", "dry_run"})
        ratio = _number(body, "ratio", MAX_WEIGHT)
        if ratio is not None and ratio != int(ratio):
            raise RefusedError(400, f"ratio = {ratio} is not a whole number")
        async with self._giving:
            before = self._controls.state.orders.get(name) or Order(AdminState.READY, self._clock())
            order = replace(before, ratio=None if ratio is None else int(ratio))
            return await self._give({name: order}, request, body)

    async def _director(self, _request: web.Request) -> web.Response:
        return web.json_response(self._own_document())

    async def _drain(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"timeout_s", "reason"})
        timeout_s = _number(body, "timeout_s", MAX_TIMEOUT_S)
        config = self._controls.state.config
        if config.bgp is None and not any(service.arp for service in config.services):
            raise RefusedError(409, "nothing is announced: there is no [bgp]; tell the network by hand")
        now = self._clock()
        drain = Drain(now, now + (DRAIN_S if timeout_s is None else timeout_s))
        before = self._controls.state.drain
        if before is not None:  # an order given twice is one order, whose end may be another
            drain = replace(before, until=drain.until)
        self._take(drain)
        log.info("director.drain_ordered", until=drain.until, reason=str(body.get("reason") or ""), **who_of(request))
        return web.json_response(self._own_document())

    async def _undrain(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"reason"})
        self._take(None)
        log.info("director.undrained", reason=str(body.get("reason") or ""), **who_of(request))
        return web.json_response(self._own_document())

    def _take(self, drain: Drain | None) -> None:
        try:
            self._controls.save_drain(drain)
        except OSError as error:
            raise RefusedError(500, f"the order cannot be kept over a restart, so it is not taken: {error}") from error
        self._controls.state.set_drain(drain)

    def _own_document(self) -> dict[str, object]:
        drain, now = self._controls.state.drain, self._clock()
        return {"name": self._controls.state.config.director.name, "now": now, **drain_document(drain)}

    async def _give(
        self, orders: Mapping[str, Order], request: web.Request, body: Mapping[str, object]
    ) -> web.Response:
        """All of them, or none."""
        names = list(orders)
        dry_run = body.get("dry_run", False)
        if not isinstance(dry_run, bool):
            raise RefusedError(400, f"dry_run = {json.dumps(dry_run)} is neither true nor false")
        if dry_run:
            return web.json_response({"members": names, **await self._would(orders)})
        given = {
            # None: nothing differs from the configuration.
            name: None if order.state is AdminState.READY and order.ratio is None else order
            for name, order in orders.items()
        }
        try:
            if self._controls.share is not None:
                await self._controls.share(given)
        except StoreError as error:
            raise RefusedError(503, f"the fleet cannot be told, so the order is not taken: {error}") from error
        # Not before the fleet has been told: meanwhile others may have come from there.
        now = {**self._controls.state.orders, **given}
        try:
            self._controls.save({name: order for name, order in now.items() if order is not None})
        except OSError as error:
            if self._controls.share is None:
                raise RefusedError(
                    500, f"the order cannot be kept over a restart, so it is not taken: {error}"
                ) from error
            log.warning("orders.not_written", error=str(error))  # the fleet has it already
        who = who_of(request)
        for name, order in orders.items():
            self._controls.state.set_order(name, given[name])
            log.info(
                "member.ordered",
                member=name,
                order=str(order.state),
                until=order.until,
                ratio=order.ratio,
                reason=str(body.get("reason") or ""),
                **who,
            )
        return web.json_response({"members": names})

    async def _would(self, orders: Mapping[str, Order]) -> dict[str, object]:
        """What would not be there any more with these orders; nothing as long as there are no tables."""
        applied, snapshot = self._controls.applied(), self._controls.state.snapshot()
        if applied is None:
            return {"withdraws": [], "stops": []}
        with_them = replace(snapshot, orders={**snapshot.orders, **orders})
        after = await asyncio.to_thread(decide, with_them, applied, self._clock())
        up = {view.vip for view in applied.vips if view.down is None}
        serving = {view.service.name for view in applied.services if view.no is None}
        withdrawn = {view.vip: view.down for view in after.vips if view.down is not None and view.vip in up}
        stopped = {
            view.service.name: view.no
            for view in after.services
            if view.no is not None and view.service.name in serving and not withdrawn.keys() >= set(view.service.vips)
        }
        return {
            "withdraws": [{"name": str(vip), "why": str(why)} for vip, why in withdrawn.items()],
            "stops": [{"name": name, "why": str(why)} for name, why in stopped.items()],
        }

    def _known(self, request: web.Request) -> str:
        name = f"{request.match_info['pool']}/{request.match_info['member']}"
        names = [f"{pool.name}/{member.name}" for pool in self._pools() for member in pool.members]
        if name not in names:
            near = did_you_mean(name, names)
            raise RefusedError(404, f"there is no member {name}; {near}members: {', '.join(sorted(names)[:20])}")
        return name

    def _pools(self) -> Iterable[Pool]:
        return self._controls.state.config.pools

    def _views(self) -> dict[str, _Ways]:
        """Members in force with the ways to them."""
        applied = self._controls.applied()
        views: dict[str, _Ways] = {}
        seen: set[tuple[str, int]] = set()
        previous: dict[int, frozenset[int]] = {}
        for service in applied.services if applied is not None else ():
            course = service.course
            if course is not None and id(course) not in previous:
                previous[id(course)] = frozenset() if course.steady else course.previous()
            for view in service.members:
                ends = course.next_at if course is not None and view.index in previous[id(course)] else None
                if (view.id, view.index) not in seen or ends is not None:
                    seen.add((view.id, view.index))
                    views.setdefault(view.id, []).append((view, ends))
        return views

    def _documents(self, members: list[_Ways], limit: int) -> list[dict[str, object]]:
        """In a worker thread: a look at everything that is remembered takes milliseconds."""
        pins = self._controls.pins()
        live, now_ns, orders = pins.live(), pins.clock_ns(), self._controls.state.orders
        return [
            self._document(
                ways, flows_left(live, {way.index for way, _ in ways}, now_ns, limit), orders.get(ways[0][0].id)
            )
            for ways in members
        ]

    def _document(self, ways: _Ways, left: FlowsLeft, order: Order | None) -> dict[str, object]:
        """*order*: the one that stands now, whether tables follow it already or not."""
        view = ways[0][0]
        ends = max((at for _, at in ways if at is not None), default=None)
        return {
            "id": view.id,
            "address": str(view.address),
            "state": str(view.state),
            "health": str(view.health),
            "reason": str(view.no) if view.no is not None else None,
            "ratio": view.ratio,
            "share": view.share,
            "order": as_json(order) if order is not None else None,
            "until": view.until,
            "drained": all(way.drained for way, _ in ways),
            "window_ends": ends,
            "now": self._clock(),
            "flows": _left(left),
        }


def _left(left: FlowsLeft) -> dict[str, object]:
    return {
        "open": left.open,
        "closing": left.closing,
        "longest_idle_s": round(left.longest_idle_s, 1),
        "top_clients": [{"client": str(client), "flows": flows} for client, flows in left.top_clients],
        "known": [_flow(flow) for flow in left.flows],
    }


def _flow(flow: Flow) -> dict[str, object]:
    return {
        "client": str(flow.client),
        "client_port": flow.client_port,
        "vip": str(flow.vip),
        "port": flow.port,
        "protocol": str(flow.protocol),
        "state": flow.state.name.lower(),
        "idle_s": round(flow.idle_s, 1),
        "age_s": round(flow.age_s, 1),
    }


async def body_of(request: web.Request, known: set[str]) -> Mapping[str, object]:
    """The JSON object that was sent, without other keys than those.

    Raises:
        RefusedError: it is something else.
    """
    text = await request.text()
    try:
        body = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise RefusedError(400, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "the body is not a JSON object")
    if unknown := sorted(body.keys() - known):
        raise RefusedError(400, f"unknown: {', '.join(unknown)}; known here: {', '.join(sorted(known))}")
    return body


def _number(body: Mapping[str, object], key: str, most: float) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise RefusedError(400, f"{key} = {json.dumps(value)} is not a number from 0 to {most}")
    return value


def who_of(request: web.Request) -> dict[str, object]:
    """The user and process at the other end of the socket."""
    transport = request.transport
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None:
        return {}
    try:
        pid, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    except OSError:
        return {}
    return {"by_uid": uid, "by_pid": pid}


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as error:
        return _problem(error.status, str(error))
    except web.HTTPException as error:
        return _problem(error.status, f"{request.method} {request.path}: {error.reason}")


def _problem(status: int, detail: str) -> web.Response:
    body = json.dumps({"type": "about:blank", "status": status, "detail": detail}) + "\n"
    return web.Response(text=body, status=status, content_type="application/problem+json")

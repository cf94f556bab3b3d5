"""Orders about members and the director itself, and what is known of both.

    GET  /v1/members                                    all members, with their states and what is left of their flows
    GET  /v1/members/POOL/MEMBER?limit=N                one of them, with N of its flows
    PATCH /v1/members/POOL/MEMBER                       {"state": "drain", "ratio": 2, "timeout_s": 60}: what is given
    POST /v1/members/POOL/MEMBER/ready|drain|maint      {"timeout_s": 60 or null, "reason": "..."}, all optional
    POST /v1/members/POOL/MEMBER/weight                 {"ratio": 2 or null}
    POST /v1/nodes/ADDRESS/ready|drain|maint            the same for every member with that address
    GET  /v1/director                                   whether this director is in service
    POST /v1/director/drain                             {"timeout_s": 60, "reason": "..."}, all optional
    POST /v1/director/undrain                           {"reason": "..."}

With "dry_run": true, an order about members is not taken, and the answer says what it would do: which VIPs it
`withdraws`, which virtual services it `stops` whose VIPs stay (`name` and `why` of each), and by virtual service of the
members which share of new flows it `moves`, and the members' `shares` then.

Every order is logged with who gave it, and kept over restarts.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

import structlog
from aiohttp import web

from appliance.api.problem import RefusedError
from appliance.api.records import FLAG, REASON, array, record
from appliance.api.routes import Answer, Query, Role, Route, actor_of, body_of
from appliance.api.schemas import DIRECTOR, MEMBER, ORDERED, refused_answers
from appliance.api.views import drain_document
from appliance.config.problems import did_you_mean
from appliance.dataplane.base import DataPlane
from appliance.dataplane.pins import PinTable
from appliance.dataplane.raw.kernel import Interface, read_interface
from appliance.decide import Desired, MemberView, ServiceView, arrived, decide
from appliance.fleet.client import StoreError
from appliance.flows import Flow, FlowsLeft, flows_left
from appliance.model import MAX_RATIO, AdminState, Drain, Order, Pool
from appliance.orders import Orders, as_json
from appliance.state import State

log = structlog.get_logger()

MAX_TIMEOUT_S = 432_000
DRAIN_S = 60.0
MAX_FLOWS = 10_000


async def _nowhere(_: Drain | None) -> None:
    pass


@dataclass(frozen=True)
class Controls:
    """What the server works with."""

    state: State
    applied: Callable[[], Desired | None]
    pins: Callable[[], PinTable]
    save: Callable[[Orders], Awaitable[None]]
    """Keeps orders; raises OSError: they are not kept, or TimeoutError: nobody knows."""

    share: Callable[[Mapping[str, Order | None]], Awaitable[None]] | None = None
    """Gives orders to all directors of the fleet; raises StoreError. None: they are for this director only."""

    save_drain: Callable[[Drain | None], Awaitable[None]] = _nowhere
    """Keeps that this director is drained; raises as `save`."""

    plane: DataPlane | None = None
    """Asked about packets; None: it is not."""
    interface: Callable[[str], Interface | None] = read_interface
    """What the kernel says of an interface."""


_Ways = list[tuple[MemberView, float | None]]
"""The ways to a member, and when the window ends that may fall back to each."""


class OrderRoutes:
    """Takes orders."""

    def __init__(self, controls: Controls, clock: Callable[[], float]) -> None:
        """
        Args:
            controls: what to work with.
            clock: seconds since 1970.
        """
        self._controls = controls
        self._clock = clock
        self.giving = asyncio.Lock()
        """An order builds on the one before; so they are given one after the other."""

    def routes(self) -> list[Route]:
        tag = "members"
        timeout = {"type": ["number", "null"], "minimum": 0, "maximum": MAX_TIMEOUT_S}
        ratio = {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_RATIO}
        order = record({}, {"timeout_s": timeout, "reason": REASON, "dry_run": FLAG})
        given = {
            200: Answer("Whose order it is; with dry_run, what it would do.", ORDERED),
            **refused_answers(400, 404, 500, 503),
        }
        own = {200: Answer("The director.", DIRECTOR), **refused_answers(400, 409, 500, 503)}
        limit = Query(
            "limit", {"type": "integer", "minimum": 0, "maximum": MAX_FLOWS, "default": 100}, "Flows to list."
        )
        of = "/v1/members/{pool}/{member}"
        orders = {"order": {"type": "string", "enum": ["ready", "drain", "maint"]}}
        return [
            Route(
                "GET",
                "/v1/members",
                self._members,
                Role.VIEWER,
                "All members, and what is left of their flows",
                {200: Answer("Members.", record({"members": array(MEMBER)}))},
                tag,
            ),
            Route(
                "GET",
                of,
                self._member,
                Role.VIEWER,
                "One member, with some of its flows",
                {200: Answer("The member.", MEMBER), **refused_answers(400, 404, 409)},
                tag,
                (limit,),
            ),
            Route(
                "PATCH",
                of,
                self._patch_member,
                Role.OPERATOR,
                "Order a member's state, its weight, or both; null takes the weight back",
                given,
                tag,
                body=record(
                    {},
                    {
                        "state": {"type": "string", "enum": [str(state) for state in AdminState]},
                        "ratio": ratio,
                        "timeout_s": timeout,
                        "reason": REASON,
                        "dry_run": FLAG,
                    },
                ),
                body_media=("application/merge-patch+json", "application/json"),
            ),
            Route(
                "POST",
                of + "/weight",
                self._weigh,
                Role.OPERATOR,
                "Order a member's weight; null takes it back",
                given,
                tag,
                body=record({}, {"ratio": ratio, "reason": REASON, "dry_run": FLAG}),
                needs_body=False,
            ),
            Route(
                "POST",
                of + "/{order:ready|drain|maint}",
                self._order_member,
                Role.OPERATOR,
                "Order a member's state",
                given,
                tag,
                body=order,
                needs_body=False,
                names=orders,
            ),
            Route(
                "POST",
                "/v1/nodes/{address}/{order:ready|drain|maint}",
                self._order_node,
                Role.OPERATOR,
                "Order the state of all members with an address",
                given,
                tag,
                body=order,
                needs_body=False,
                names=orders,
            ),
            Route(
                "GET",
                "/v1/director",
                self._director,
                Role.VIEWER,
                "Whether this director is in service",
                own,
                "director",
            ),
            Route(
                "POST",
                "/v1/director/drain",
                self._drain,
                Role.OPERATOR,
                "Have routers take other ways",
                own,
                "director",
                body=record({}, {"timeout_s": timeout, "reason": REASON}),
                needs_body=False,
            ),
            Route(
                "POST",
                "/v1/director/undrain",
                self._undrain,
                Role.OPERATOR,
                "Back into service",
                own,
                "director",
                body=record({}, {"reason": REASON}),
                needs_body=False,
            ),
        ]

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
        gone = request.match_info["order"] == AdminState.READY
        name = self._known(request, self._controls.state.orders if gone else ())
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
        async with self.giving:
            return await self._give({name: self._ordered(name, state, body) for name in names}, request, body)

    def _ordered(self, name: str, state: AdminState, body: Mapping[str, object]) -> Order:
        """That state for a member, with the weight that it was given before; of one that is gone, nothing stays.

        Raises:
            RefusedError: the time-out makes no sense.
        """
        timeout_s = _number(body, "timeout_s", MAX_TIMEOUT_S)
        if timeout_s is not None and state is not AdminState.DRAIN:
            raise RefusedError(400, "timeout_s is for drain only")
        now, before = self._clock(), self._controls.state.orders.get(name)
        limits = {pool.name: pool.drain_timeout_s for pool in self._pools()} if state is AdminState.DRAIN else {}
        limit = timeout_s if "timeout_s" in body else limits.get(name.partition("/")[0])
        until = now + limit if limit is not None else None
        since = before.since if before is not None and before.state is state else now
        return Order(state, since, until, before.ratio if before is not None and name in self._names() else None)

    async def _weigh(self, request: web.Request) -> web.Response:
        name = self._known(request)
        body = await body_of(request, {"ratio", "reason", "dry_run"})
        ratio = _ratio(body)
        async with self.giving:
            before = self._controls.state.orders.get(name) or Order(AdminState.READY, self._clock())
            order = replace(before, ratio=ratio)
            return await self._give({name: order}, request, body)

    async def _patch_member(self, request: web.Request) -> web.Response:
        """State and weight in one order: what is not given stays as it was ordered."""
        name = self._known(request)
        body = await body_of(request, {"state", "ratio", "timeout_s", "reason", "dry_run"})
        if not body.keys() & {"state", "ratio"}:
            raise RefusedError(400, "neither state nor ratio is given")
        state = body.get("state")
        if state is not None and state not in list(AdminState):
            raise RefusedError(400, f"state = {json.dumps(state)} is none; there are: {', '.join(AdminState)}")
        async with self.giving:
            order = self._controls.state.orders.get(name) or Order(AdminState.READY, self._clock())
            if state is not None or "timeout_s" in body:
                order = self._ordered(name, AdminState(str(state or order.state)), body)
            if "ratio" in body:
                order = replace(order, ratio=_ratio(body))
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
        async with self.giving:
            before = self._controls.state.drain
            if before is not None:  # an order given twice is one order, whose end may be another
                drain = replace(before, until=drain.until)
            await self._take(drain)
        log.info(
            "director.drain_ordered",
            until=drain.until,
            reason=str(body.get("reason") or ""),
            **actor_of(request).fields,
        )
        return web.json_response({**self._own_document(), "alone": self._alone()})

    async def _undrain(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"reason"})
        async with self.giving:
            await self._take(None)
        log.info("director.undrained", reason=str(body.get("reason") or ""), **actor_of(request).fields)
        return web.json_response(self._own_document())

    async def _take(self, drain: Drain | None) -> None:
        try:
            await self._controls.save_drain(drain)
        except OSError as error:
            raise _not_kept(error) from error
        now = self._controls.state.drain
        if drain is not None and now is not None:  # meanwhile it may have come to its end
            drain = replace(now, until=drain.until)
        self._controls.state.set_drain(drain)

    def _alone(self) -> str:
        """Why no other director can take over; empty when one may."""
        snapshot = self._controls.state.snapshot()
        others = {peer.name for peer in snapshot.config.fleet.directors} - {snapshot.config.director.name}
        if not others:
            return "it is the only one of its fleet"
        return f"nothing is heard of {', '.join(sorted(others))}" if others <= snapshot.away else ""

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
                # At once: what others order from here on is later, and comes from there as well.
                for name, order in given.items():
                    self._controls.state.set_order(name, order)
        except StoreError as error:
            raise RefusedError(503, f"the fleet cannot be told, so the order is not taken: {error}") from error
        # Not before the fleet has been told: meanwhile others may have come from there.
        now = {**self._controls.state.orders, **given}
        try:
            await self._controls.save({name: order for name, order in now.items() if order is not None})
        except OSError as error:
            if self._controls.share is None:
                raise _not_kept(error) from error
            log.warning("orders.not_written", error=str(error))  # the fleet has it already
        who = actor_of(request).fields
        for name, order in orders.items():
            if self._controls.share is None:
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
            return {"withdraws": [], "stops": [], "moves": []}
        with_them = replace(snapshot, orders={**snapshot.orders, **orders})
        now_s = self._clock()
        after = await asyncio.to_thread(lambda: arrived(with_them, decide(with_them, applied, now_s), now_s))
        up = {view.vip for view in applied.vips if view.down is None}
        serving = {view.service.name for view in applied.services if view.no is None}
        withdrawn = {view.vip: view.down for view in after.vips if view.down is not None and view.vip in up}
        now = {view.service.name: view for view in applied.services}
        stopped = {
            view.service.name: view.no
            for view in after.services
            if view.no is not None and view.service.name in serving and not withdrawn.keys() >= set(view.service.vips)
        }
        return {
            "withdraws": [{"name": str(vip), "why": str(why)} for vip, why in withdrawn.items()],
            "stops": [{"name": name, "why": str(why)} for name, why in stopped.items()],
            "moves": [
                {
                    "name": view.service.name,
                    "moved": _moved(now.get(view.service.name), view),
                    "shares": {member.id: member.share for member in view.members if member.id in orders},
                }
                for view in after.services
                if not orders.keys().isdisjoint(member.id for member in view.members)
            ],
        }

    def _known(self, request: web.Request, also: Container[str] = ()) -> str:
        """
        Args:
            request: names a member.
            also: members that are good, though they are gone.
        """
        name = f"{request.match_info['pool']}/{request.match_info['member']}"
        names = self._names()
        if name not in names and name not in also:
            near = did_you_mean(name, names)
            raise RefusedError(404, f"there is no member {name}; {near}members: {', '.join(sorted(names)[:20])}")
        return name

    def _names(self) -> list[str]:
        return [f"{pool.name}/{member.name}" for pool in self._pools() for member in pool.members]

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


def _not_kept(error: OSError) -> RefusedError:
    if isinstance(error, TimeoutError):
        return RefusedError(503, f"{error}: the order is not taken; it is not known whether it is kept for a restart")
    return RefusedError(500, f"the order cannot be kept over a restart, so it is not taken: {error}")


def _moved(before: ServiceView | None, after: ServiceView) -> float:
    """The share of slots that change hands."""
    was = {member.index: member.share for member in before.members} if before is not None else {}
    return sum(max(0.0, member.share - was.get(member.index, 0.0)) for member in after.members)


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


def _number(body: Mapping[str, object], key: str, most: float) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise RefusedError(400, f"{key} = {json.dumps(value)} is not a number from 0 to {most}")
    return value


def _ratio(body: Mapping[str, object]) -> int | None:
    ratio = _number(body, "ratio", MAX_RATIO)
    if ratio is not None and ratio != int(ratio):
        raise RefusedError(400, f"ratio = {ratio} is not a whole number")
    return None if ratio is None else int(ratio)

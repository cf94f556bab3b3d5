"""What the data plane works with: slots of virtual services, remembered flows, next hops, counters.

GET /v1/services/NAME/slots   offset=N limit=N
GET /v1/pins                  limit=N service=NAME member=POOL/MEMBER client=ADDRESS
GET /v1/neighbours            next hops to members, and why there is none
GET /v1/counters              by virtual service and VIP, by member, by reason
GET /v1/maps                  maps of the program that forwards
"""

import asyncio
from collections.abc import Mapping, Set
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from appliance.api.ordering import Controls
from appliance.api.problem import RefusedError
from appliance.api.records import TEXT
from appliance.api.routes import Answer, Query, Role, Route
from appliance.api.schemas import COUNTERS, MAPS, NEIGHBOURS, PINS, SLOTS, refused_answers
from appliance.api.views import hop_document
from appliance.config.problems import did_you_mean
from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.pins import LivePins, addresses
from appliance.decide import Desired
from appliance.flows import flows_at
from appliance.forwarding import NO_MEMBER, NextHop, TableService
from appliance.ring.slots import unpack
from appliance.seen import services_of

Positions = npt.NDArray[np.int64]

SLOTS_SHOWN, MOST_SLOTS = 1000, 1 << 17
PINS_SHOWN, MOST_PINS = 100, 10_000


class RuntimeRoutes:
    """Shows what is in force in the data plane."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    def routes(self) -> list[Route]:
        slots = (
            Query("offset", {"type": "integer", "minimum": 0, "default": 0}, "The first slot."),
            Query(
                "limit", {"type": "integer", "minimum": 1, "maximum": MOST_SLOTS, "default": SLOTS_SHOWN}, "How many."
            ),
        )
        pins = (
            Query("limit", {"type": "integer", "minimum": 0, "maximum": MOST_PINS, "default": PINS_SHOWN}, "How many."),
            Query("service", TEXT, "Of this virtual service."),
            Query("member", TEXT, "Of this POOL/MEMBER."),
            Query("client", TEXT, "Of this address."),
        )

        def view(path: str, handler: Any, summary: str, answer: Answer, query: tuple[Query, ...] = ()) -> Route:
            answers = {200: answer, **refused_answers(400, 404, 409)}
            return Route("GET", path, handler, Role.VIEWER, summary, answers, "runtime", query)

        return [
            view("/v1/services/{name}/slots", self._slots, "Whose slots are whose", Answer("Slots.", SLOTS), slots),
            view("/v1/pins", self._pins, "Flows that are remembered, the latest first", Answer("Flows.", PINS), pins),
            view("/v1/neighbours", self._neighbours, "Next hops to members", Answer("Next hops.", NEIGHBOURS)),
            view("/v1/counters", self._counters, "What the data plane has counted", Answer("Counts.", COUNTERS)),
            view("/v1/maps", self._maps, "Maps of the XDP program, as the kernel has them", Answer("Maps.", MAPS)),
        ]

    def _desired(self) -> Desired:
        desired = self._controls.applied()
        if desired is None:
            raise RefusedError(409, "no tables are in force yet; the director has just started")
        return desired

    async def _slots(self, request: web.Request) -> web.Response:
        desired, name = self._desired(), request.match_info["name"]
        offset = _whole(request, "offset", 0, 0, MOST_SLOTS)
        limit = _whole(request, "limit", SLOTS_SHOWN, 1, MOST_SLOTS)
        service = next((one for one in desired.tables.services if one.name == name), None)
        if service is None:
            raise _unknown("virtual service", name, {one.name for one in desired.tables.services})
        return web.json_response(await asyncio.to_thread(_slots_document, desired, service, offset, limit))

    async def _pins(self, request: web.Request) -> web.Response:
        desired, limit = self._desired(), _whole(request, "limit", PINS_SHOWN, 0, MOST_PINS)
        wanted = {key: request.query[key] for key in ("service", "member", "client") if key in request.query}
        if "client" in wanted:
            try:
                wanted["client"] = str(ip_address(wanted["client"]))
            except ValueError:
                raise RefusedError(400, f"client = {wanted['client']} is not an address") from None
        for key, what, names in (
            ("service", "virtual service", {one.name for one in desired.tables.services}),
            ("member", "member", {one.id for one in desired.tables.members.values()}),
        ):
            if key in wanted and wanted[key] not in names:
                raise _unknown(what, wanted[key], names)
        return web.json_response(await asyncio.to_thread(self._pins_document, desired, limit, wanted))

    def _pins_document(self, desired: Desired, limit: int, wanted: Mapping[str, str]) -> dict[str, Any]:
        """In a worker thread: a look at everything that is remembered takes milliseconds."""
        pins = self._controls.pins()
        live = pins.live()
        services = services_of(live, desired)
        chosen = _chosen(desired, live, services, wanted)
        latest = chosen[np.argsort(live.age[chosen], kind="stable")[:limit]]
        names = {service.index: service.name for service in desired.tables.services}
        ids = {index: member.id for index, member in desired.tables.members.items()}
        items = [
            {
                "client": str(flow.client),
                "client_port": flow.client_port,
                "vip": str(flow.vip),
                "port": flow.port,
                "protocol": str(flow.protocol),
                "member": ids.get(int(live.member[at])),
                "service": names.get(int(services[at])),
                "state": flow.state.name.lower(),
                "idle_s": round(flow.idle_s, 1),
                "age_s": round(flow.age_s, 1),
            }
            for at, flow in zip(latest.tolist(), flows_at(live, latest, pins.clock_ns()), strict=True)
        ]
        return {
            "apiVersion": "v1",
            "capacity": pins.capacity,
            "live": len(live),
            "matching": len(chosen),
            "items": items,
        }

    async def _neighbours(self, _request: web.Request) -> web.Response:
        state = self._controls.state
        users: dict[Any, list[str]] = {}
        for pool in state.config.pools:
            for member in pool.members:
                users.setdefault(member.address, []).append(f"{pool.name}/{member.name}")
        items = []
        for address, members in users.items():
            hop = state.next_hops.get(address)
            way = hop_document(hop) if isinstance(hop, NextHop) else None
            reason = None if way is not None else getattr(hop, "reason", "not_looked_up")
            detail = "" if way is not None else getattr(hop, "detail", "")
            items.append(
                {"address": str(address), "members": members, "next_hop": way, "reason": reason, "detail": detail}
            )
        return web.json_response({"apiVersion": "v1", "items": items})

    async def _counters(self, _request: web.Request) -> web.Response:
        plane = self._controls.plane
        try:
            if plane is None:
                raise DataPlaneError("there is no data plane")
            counters = await plane.counters()
        except DataPlaneError as error:
            raise RefusedError(409, str(error)) from error
        services: dict[str, dict[str, Any]] = {}
        for (name, vip), traffic in counters.services.items():
            services.setdefault(name, {})[vip] = asdict(traffic)
        return web.json_response(
            {
                "apiVersion": "v1",
                "services": services,
                "members": {member: asdict(traffic) for member, traffic in counters.members.items()},
                "reasons": {str(reason): count for reason, count in counters.reasons.items()},
                "replies": {str(kind): count for kind, count in counters.replies.items()},
                "details": dict(counters.details),
            }
        )

    async def _maps(self, _request: web.Request) -> web.Response:
        plane = self._controls.plane
        if plane is None:
            raise RefusedError(409, "there is no data plane")
        items = [asdict(one) for one in await plane.maps()]
        program = (await plane.describe()).get("program") if items else None
        return web.json_response({"apiVersion": "v1", "program": program, "items": items})


def _slots_document(desired: Desired, service: TableService, offset: int, limit: int) -> dict[str, Any]:
    primary, previous = (half[offset : offset + limit] for half in unpack(service.slots))
    indices = sorted({int(index) for index in np.unique(np.concatenate((primary, previous)))} - {NO_MEMBER})
    place = np.full(NO_MEMBER + 1, -1, np.int64)
    place[indices] = np.arange(len(indices))
    known = desired.tables.members
    return {
        "apiVersion": "v1",
        "service": service.name,
        "hash_mode": str(service.hash_mode),
        "placement": str(service.placement),
        "count": len(service.slots),
        "offset": offset,
        "members": [known[index].id if index in known else None for index in indices],
        "primary": place[primary].tolist(),
        "previous": place[previous].tolist(),
    }


def _chosen(desired: Desired, live: LivePins, services: Positions, wanted: Mapping[str, str]) -> Positions:
    """Which flows are wanted."""
    keep = np.ones(len(live), np.bool_)
    if "member" in wanted:
        mine = [index for index, member in desired.tables.members.items() if member.id == wanted["member"]]
        keep &= np.isin(live.member, mine)
    if "client" in wanted:
        client = ip_address(wanted["client"]).packed
        keep &= np.array([source == client for source in addresses(live.flows["source"])], np.bool_)
    if "service" in wanted:
        mine = [service.index for service in desired.tables.services if service.name == wanted["service"]]
        keep &= np.isin(services, mine)
    return np.flatnonzero(keep)


def _whole(request: web.Request, key: str, standard: int, least: int, most: int) -> int:
    text = request.query.get(key)
    if text is None:
        return standard
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise RefusedError(400, f"{key} = {text} is not a number from {least} to {most}")
    return int(text)


def _unknown(what: str, name: str, names: Set[str]) -> RefusedError:
    there = sorted(names)
    near = did_you_mean(name, there)
    return RefusedError(404, f"no {what} {name} is in the tables; {near}there are: {_some(there)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:20]) or "none"

"""`GET /v1/capture`: packets for VIPs and what becomes of them, as a pcapng file that grows until a limit is reached.

    client=PREFIX  vip=ADDRESS  service=NAME  member=POOL/MEMBER  verdict=transmit|drop|REASON  side=in|out|both
    frames=N  seconds=N  bytes=N  snaplen=N

All are optional. Whoever closes the connection ends the capture. There is one at a time.
"""

import asyncio
import contextlib
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import structlog
from aiohttp import web

from appliance.api.problem import RefusedError
from appliance.api.records import TEXT
from appliance.api.routes import Answer, Query, Role, Route, actor_of
from appliance.api.schemas import refused_answers
from appliance.capture.notes import Choice
from appliance.capture.session import Capture, Limits, Order
from appliance.config.problems import did_you_mean
from appliance.dataplane.base import DataPlane, DataPlaneError
from appliance.dataplane.recording import SNAPLEN, Wanted
from appliance.decide import Desired
from appliance.forwarding import ForwardingTables
from appliance.packet.action import Reason, Verdict

log = structlog.get_logger()

SIDES = ("in", "out", "both")
MOST_FRAMES, MOST_SECONDS, MOST_BYTES = 10_000_000, 86_400, 1 << 36
SHORTEST_SNAPLEN = 64
_VERDICTS = (str(Verdict.TRANSMIT), str(Verdict.DROP), *map(str, Reason))
_QUERY = (
    Query("client", TEXT, "An address or a prefix of clients."),
    Query("vip", TEXT, "A VIP."),
    Query("service", TEXT, "A virtual service."),
    Query("member", TEXT, "POOL/MEMBER."),
    Query("verdict", {"type": "string", "enum": list(_VERDICTS)}, "What became of the packet."),
    Query("side", {"type": "string", "enum": list(SIDES), "default": "both"}, "As it arrived, or as it left."),
    Query("frames", {"type": "integer", "minimum": 1, "maximum": MOST_FRAMES}, "So many at most."),
    Query("seconds", {"type": "number", "minimum": 0, "maximum": MOST_SECONDS}, "So long at most."),
    Query("bytes", {"type": "integer", "minimum": 1, "maximum": MOST_BYTES}, "So many at most."),
    Query("snaplen", {"type": "integer", "minimum": SHORTEST_SNAPLEN, "maximum": SNAPLEN}, "Bytes of each packet."),
)
_KEYS = {query.name for query in _QUERY}


def routes(plane: DataPlane, applied: Callable[[], Desired | None]) -> list[Route]:
    """
    Args:
        plane: what is captured.
        applied: the decision in force.
    """
    running = asyncio.Lock()

    async def capture(request: web.Request) -> web.StreamResponse:
        desired = applied()
        if desired is None:
            raise RefusedError(409, "no tables are in force yet; the director has just started")
        order = order_of(dict(request.query), desired)
        if running.locked():
            raise RefusedError(409, "somebody captures already; one capture at a time")
        async with running:
            return await _stream(request, order)

    async def _stream(request: web.Request, order: Order) -> web.StreamResponse:
        def tables() -> ForwardingTables:
            now = applied()
            return now.tables if now is not None else ForwardingTables()

        capture = Capture(order, tables)
        response = web.StreamResponse(headers={"Content-Type": "application/x-pcapng"})
        pieces = capture.run(plane)
        try:
            first = await anext(pieces)
        except DataPlaneError as error:
            raise RefusedError(409, str(error)) from error
        log.info("capture.started", **actor_of(request).fields)
        try:
            async with contextlib.aclosing(pieces):
                await response.prepare(request)
                await response.write(first)
                async for piece in pieces:
                    if request.transport is None or request.transport.is_closing():
                        break  # whoever captures has seen enough
                    if piece:
                        await response.write(piece)
                await response.write_eof()
        except ConnectionError:
            pass  # the same, while it was written to
        finally:
            log.info("capture.ended", frames=capture.frames, bytes=capture.bytes, lost=capture.lost)
        return response

    return [
        Route(
            "GET",
            "/v1/capture",
            capture,
            Role.ADMIN,
            "Packets for VIPs and what becomes of them, as they come",
            {200: Answer("A pcapng file.", media="application/x-pcapng"), **refused_answers(400, 404, 409)},
            "looking",
            _QUERY,
        )
    ]


def order_of(query: dict[str, str], desired: Desired) -> Order:
    """What is to be captured.

    Args:
        query: of the request.
        desired: the decision in force, which has all names.

    Raises:
        RefusedError: something is not what it should be, or is not there.
    """
    if unknown := sorted(query.keys() - _KEYS):
        raise RefusedError(400, f"unknown: {', '.join(unknown)}; known here: {', '.join(sorted(_KEYS))}")
    client, vip = query.get("client"), query.get("vip")
    try:
        network = ip_network(client, strict=False) if client else None
    except ValueError:
        raise RefusedError(400, f"client = {client} is neither an address nor a prefix, as 192.0.2.0/24") from None
    try:
        address = ip_address(vip) if vip else None
    except ValueError:
        raise RefusedError(400, f"vip = {vip} is not an address") from None
    if network is not None and address is not None and network.version != address.version:
        raise RefusedError(400, f"client = {client} and vip = {vip} are of different families, so nothing is both")
    vips = [str(view.vip) for view in desired.vips]
    service, member = query.get("service", ""), query.get("member", "")
    _known("vip", str(address) if address is not None else "", vips)
    _known("service", service, [view.service.name for view in desired.services])
    _known("member", member, sorted({one.id for view in desired.services for one in view.members}))
    verdict, side = query.get("verdict", ""), query.get("side", "both")
    if verdict and verdict not in _VERDICTS:
        near = did_you_mean(verdict, _VERDICTS)
        raise RefusedError(400, f"verdict = {verdict} is none; {near}there are: {', '.join(_VERDICTS)}")
    if side not in SIDES:
        raise RefusedError(400, f"side = {side} is none of {', '.join(SIDES)}")
    standard = Limits()
    return Order(
        Wanted(network, address, int(_number(query, "snaplen", SNAPLEN, SHORTEST_SNAPLEN, SNAPLEN))),
        Choice(service, member, verdict),
        Limits(
            int(_number(query, "frames", standard.frames, 1, MOST_FRAMES)),
            _number(query, "seconds", standard.seconds, 0, MOST_SECONDS),
            int(_number(query, "bytes", standard.bytes, 1, MOST_BYTES)),
        ),
        side,
    )


def _known(what: str, name: str, there: list[str]) -> None:
    if name and name not in there:
        near = did_you_mean(name, there)
        raise RefusedError(404, f"there is no {what} {name}; {near}there are: {', '.join(there[:20]) or 'none'}")


def _number(query: dict[str, str], key: str, standard: float, least: float, most: float) -> float:
    text = query.get(key)
    if text is None:
        return standard
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise RefusedError(400, f"{key} = {text} is not a number from {least} to {most}")
    return value

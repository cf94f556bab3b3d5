"""What can be asked of a director: one table of routes for all listeners, and for the description of the API.

Paths are below a listener's prefix: `/v1/objects` is that over the control socket, and `/api/v1/objects` over HTTP.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import structlog
from aiohttp import web

from appliance.api.problem import Handler, RefusedError
from appliance.api.records import MAX_REASON, Schema

log = structlog.get_logger()

JSON = "application/json"


class Role(IntEnum):
    """What somebody may do; who may do more may do the less as well."""

    NOBODY = 0
    VIEWER = 1
    """Looks."""

    OPERATOR = 2
    """Gives orders: drain, weight, reload."""

    ADMIN = 3
    """Changes the configuration, and sees secrets."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Actor:
    """Who asks."""

    who: str
    """For people: `root (uid 0, pid 4711)`, `alice (token ci) from 192.0.2.9`."""

    role: Role
    fields: Mapping[str, object] = field(default_factory=dict)
    """The same for logs."""

    local: bool = False
    """Whether it is a user of this machine, who could read the files as well."""


ACTOR = web.RequestKey("actor", Actor)
"""Where a listener's middleware says who asks."""

MAX_BODY = web.RequestKey("max_body", int)


@dataclass(frozen=True)
class Query:
    """A parameter of the query."""

    name: str
    schema: Schema
    description: str
    required: bool = False


@dataclass(frozen=True)
class Answer:
    """What a request may be answered with."""

    description: str
    schema: Schema | None = None
    media: str = JSON
    also: str = ""
    """Another media type, that `Accept` chooses."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """With their descriptions."""


@dataclass(frozen=True)
class Route:
    """One thing that can be asked for."""

    method: str
    path: str
    handler: Handler
    needs: Role
    summary: str
    answers: Mapping[int, Answer]
    tag: str
    query: tuple[Query, ...] = ()
    headers: tuple[Query, ...] = ()
    """Those of the request."""

    body: Schema | None = None
    body_media: tuple[str, ...] = (JSON,)
    needs_body: bool = True
    also_media: tuple[str, ...] = ()
    """Media types that are not JSON."""

    max_body: int = 1 << 20
    """Bytes."""

    names: Mapping[str, Schema] = field(default_factory=dict)
    """Parts of the path; those that are not here are any text."""


def mounted(routes: Iterable[Route], prefix: str = "") -> list[web.RouteDef]:
    """As aiohttp takes them."""
    return [
        web.get(prefix + route.path, guarded(route))
        if route.method == "GET"
        else web.route(route.method, prefix + route.path, guarded(route))
        for route in routes
    ]


def guarded(route: Route) -> Handler:
    """The handler for those only who may ask; what changes something is told to the log."""
    known = {query.name: query.schema.get("maxLength") for query in route.query}
    conditions = {"If-Match", "If-None-Match"} - {header.name for header in route.headers}
    media = (*(route.body_media if route.body is not None else ()), *route.also_media)

    async def handle(request: web.Request) -> web.StreamResponse:
        if strange := sorted(request.query.keys() - known):
            there = ", ".join(sorted(known)) or "nothing"
            raise RefusedError(400, f"unknown in the query: {', '.join(strange)}; known here: {there}")
        for name, text in request.query.items():
            not_longer(name, text, known[name])
        if route.method != "GET" and (strange := sorted(name for name in conditions if name in request.headers)):
            # Whoever sends a condition counts on it.
            raise RefusedError(400, f"{', '.join(strange)}: nothing goes by that here; leave it out")
        if "Content-Type" in request.headers and request.can_read_body and request.content_type not in media:
            raise RefusedError(415, f"{request.content_type} is not what this takes: {', '.join(media) or 'no body'}")
        request[MAX_BODY] = route.max_body
        return await route.handler(request)

    allowed = needing(route.needs)(handle)
    return audited(allowed) if route.method != "GET" and route.needs >= Role.OPERATOR else allowed


def needing(role: Role) -> Callable[[Handler], Handler]:
    """Lets those through only who may do that."""

    def wrap(handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            yours = actor_of(request).role
            if yours < role:
                nobody = yours is Role.NOBODY
                remedy = "log in first" if nobody else f"yours is {yours}"
                raise RefusedError(401 if nobody else 403, f"this is for the role {role}; {remedy}")
            return await handler(request)

        return handle

    return wrap


def audited(handler: Handler) -> Handler:
    """Whoever wants to change something is told to the log, with what and whether it was done."""

    async def handle(request: web.Request) -> web.StreamResponse:
        status = 500
        try:
            response = await handler(request)
            status = response.status
        except RefusedError as error:
            status = error.status
            raise
        finally:
            fields = {"method": request.method, "path": request.path, "status": status}
            if request.query_string:
                fields["query"] = request.query_string
            log.info("api.asked", **actor_of(request).fields, **fields)
        return response

    return handle


def actor_of(request: web.Request) -> Actor:
    """Who asks."""
    return request[ACTOR]


# ---------------------------------------------------------------------------------------------------------------------
# Reading requests


async def bytes_of(request: web.Request) -> bytes:
    """The body, of which no more is read than its route takes.

    Raises:
        RefusedError: it is larger.
    """
    most, parts, size = request[MAX_BODY], [], 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > most:
            raise RefusedError(413, f"the body has more than {most} bytes")
        parts.append(part)
    return b"".join(parts)


async def json_of(request: web.Request) -> object:
    """The body.

    Raises:
        RefusedError: it is not JSON, or none that anybody would write.
    """
    try:
        text = (await bytes_of(request)).decode()
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_each_once) if text.strip() else {}
        text.encode() if "\\u" not in text else json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RefusedError(400, f"the body is not JSON: {why}") from None
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """RFC 8259, section 4: what a name that comes twice means is anybody's guess."""
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{', '.join(twice)}: given twice in one object; give it once")
    return made


async def object_of(request: web.Request) -> dict[str, Any]:
    """The body, which is a JSON object.

    Raises:
        RefusedError: it is something else.
    """
    value = await json_of(request)
    if not isinstance(value, dict):
        raise RefusedError(400, "the body is not a JSON object")
    return value


async def body_of(request: web.Request, known: set[str]) -> Mapping[str, object]:
    """The JSON object that was sent, without other keys than those; a `reason` is a text that is not too long.

    Raises:
        RefusedError: it is something else.
    """
    body = await object_of(request)
    if unknown := sorted(body.keys() - known):
        raise RefusedError(400, f"unknown: {', '.join(unknown)}; known here: {', '.join(sorted(known))}")
    reason = body.get("reason")
    if not isinstance(reason, str | None):
        raise RefusedError(400, "reason is not a text")
    not_longer("reason", reason or "", MAX_REASON)
    return body


def not_longer(name: str, text: str, most: int | None) -> None:
    """
    Raises:
        RefusedError: a text has more characters than its schema says.
    """
    if most is not None and len(text) > most:
        raise RefusedError(400, f"{name} has {len(text)} characters; {most} are the most")


def flag_in(query: Mapping[str, str], name: str) -> bool:
    """Whether a parameter of the query says so.

    Raises:
        RefusedError: it says something else.
    """
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise RefusedError(400, f"{name} = {text} is neither true nor false")
    return text == "true"

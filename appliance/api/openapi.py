"""The description of the API (OpenAPI 3.1), made from the table of routes. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from appliance import __version__
from appliance.api.routes import Answer, Query, Role, Route
from appliance.api.schemas import components, refused_answers

_PART = re.compile(r"\{(\w+)(?::[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")
"""A variable part of a path of aiohttp's, with what it must look like."""

_PLACE = {"type": "string", "minLength": 1}

_USUAL = {Role.VIEWER: (400, 401, 403, 429), Role.OPERATOR: (400, 401, 403, 413, 415, 429)}
"""Answers that every request may get, by the role that it needs."""


def document(routes: Iterable[Route], prefix: str) -> Mapping[str, Any]:
    """
    Args:
        routes: all of them.
        prefix: of the listener.
    """
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = prefix + template(route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Onward director",
            "version": __version__,
            "description": "Virtual services, members, and what becomes of packets. Errors are problem documents "
            "(RFC 9457).",
        },
        "paths": paths,
        "components": {
            "schemas": dict(components()),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "onward_session"},
                "certificate": {"type": "mutualTLS"},
            },
        },
        "security": [{"token": []}, {"session": []}, {"certificate": []}, {}],
    }


def template(path: str) -> str:
    """`/members/{pool}/{order:ready|drain}` as `/members/{pool}/{order}`."""
    return _PART.sub(r"{\1}", path)


def operation_id(route: Route) -> str:
    """`patch_members_pool_member`."""
    words = re.findall(r"[a-z0-9]+", template(route.path).removeprefix("/v1"))
    return "_".join([route.method.lower(), *words])


def _operation(route: Route) -> dict[str, Any]:
    usual = _USUAL.get(min(route.needs, Role.OPERATOR), (400, 401, 429))
    elsewhere = (404, 405) if "{" in route.path else ()  # a part of the path may make it another one: `..`
    answers = {**refused_answers(*usual, *elsewhere, 500, 503), **route.answers}
    places = [Query(name, route.names.get(name, _PLACE), name) for name in _names(route.path)]
    operation: dict[str, Any] = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "description": f"Role: {route.needs}.",
        "tags": [route.tag],
        "parameters": [
            *(_parameter("path", place) for place in places),
            *(_parameter("query", query) for query in route.query),
            *(_parameter("header", header) for header in route.headers),
        ],
        "responses": {str(status): _answer(answers[status]) for status in sorted(answers)},
    }
    if route.body is not None:
        content: dict[str, Any] = {media: {"schema": route.body} for media in route.body_media}
        content |= {media: {"schema": {"type": "string", "format": "binary"}} for media in route.also_media}
        operation["requestBody"] = {"required": route.needs_body, "content": content}
    if route.needs is Role.NOBODY:
        operation["security"] = []
    return operation


def _names(path: str) -> list[str]:
    return [match[1] for match in _PART.finditer(path)]


def _parameter(place: str, query: Query) -> dict[str, Any]:
    return {
        "name": query.name,
        "in": place,
        "required": query.required or place == "path",
        "schema": query.schema,
        "description": query.description,
    }


def _answer(answer: Answer) -> dict[str, Any]:
    made: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        made["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    if answer.schema is not None or answer.media != "application/json":
        made["content"] = {answer.media: {"schema": answer.schema or {}}}
        if answer.also:
            made["content"][answer.also] = {"schema": {"type": "string"}}
    return made

"""Errors as problem details (RFC 9457): every one that a listener answers with has this form."""

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RefusedError(Exception):
    """What was asked is not done. The text says why, and what to do instead."""

    def __init__(
        self, status: int, detail: str, more: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """
        Args:
            status: of HTTP.
            detail: for people.
            more: what programs can use besides: extension members of the problem.
            headers: of the answer.
        """
        super().__init__(detail)
        self.status = status
        self.more = more or {}
        self.headers = headers or {}


def problem(
    status: int, detail: str, more: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An answer that says what is wrong."""
    title = HTTPStatus(status).phrase
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail, **(more or {})})
    return web.Response(
        text=body + "\n",
        status=status,
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as problem details; a mistake of ours is logged, and says nothing of our insides."""
    try:
        return await handler(request)
    except RefusedError as error:
        return problem(error.status, str(error), error.more, error.headers)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return problem(error.status, _detail(request, error), {}, headers)
    except Exception as error:
        log.error("api.failed", path=request.path, error=repr(error), exc_info=error)
        return problem(500, "this is a mistake in the director; its log has the details")


def _detail(request: web.Request, error: web.HTTPException) -> str:
    if error.status == 404:
        return f"nothing is at {request.path}"
    if error.status == 405:
        return f"{request.method} is not possible at {request.path}; possible: {error.headers.get('Allow', 'nothing')}"
    if error.status == 413:
        return "the body is too large"
    return error.text or error.reason

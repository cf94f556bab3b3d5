"""Conditions of requests: ETags and who still waits (RFC 9110, sections 8.8.3 and 13.1). Pure, but for the request."""

import re

from aiohttp import web

from appliance.api.problem import RefusedError
from appliance.api.routes import Query

IF_NEW = (Query("If-None-Match", {"type": "string"}, "ETags, or `*`; 304 where one is that of what is there."),)

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_LIST = re.compile(rf"[ \t,]*{_TAG.pattern}(?:[ \t]*,[ \t,]*{_TAG.pattern})*[ \t,]*")
_ANY = "*"


def tags_in(request: web.Request, name: str, *, weak: bool) -> frozenset[str] | None:
    """The ETags in a header; `*` among them is any; None: there is no such header.

    Args:
        request: that has it, or not.
        name: If-Match or If-None-Match.
        weak: whether weak tags count as what they stand for: for If-None-Match they do, and none fits If-Match.

    Raises:
        RefusedError: it is no list of ETags.
    """
    given = ", ".join(request.headers.getall(name, ()))
    if name not in request.headers:
        return None
    if given.strip() == _ANY:
        return frozenset((_ANY,))
    if not _LIST.fullmatch(given):
        raise RefusedError(400, f'{name}: {given}: this is no list of ETags; they are in quotes: "0123", "4567", or *')
    return frozenset(found[2] for found in _TAG.finditer(given) if weak or not found[1])


def is_known(request: web.Request, etag: str) -> bool:
    """Whether who looks has this already (`If-None-Match`).

    Raises:
        RefusedError: the header is no list of ETags.
    """
    tags = tags_in(request, "If-None-Match", weak=True)
    return tags is not None and not tags.isdisjoint((etag, _ANY))


def is_waited_for(request: web.Request) -> bool:
    """Whether who has asked is still there."""
    return request.transport is not None and not request.transport.is_closing()

"""`GET /v1/events`: what has happened, as a list, or as it comes (server-sent events).

    event=member.*  level=warning  member=POOL/MEMBER  service=NAME  vip=ADDRESS  peer=ADDRESS  after=ID  limit=N

A stream that is resumed (`Last-Event-ID`) begins behind that event; what is gone from the ring since is told as `lost`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from appliance.api.problem import RefusedError
from appliance.api.records import TEXT
from appliance.api.routes import Answer, Query, Role, Route
from appliance.api.schemas import EVENTS, refused_answers
from appliance.api.streams import EVENT_STREAM, Streams
from appliance.happenings import LEVELS, Happening, Happenings, matching

LOOK_S = 0.25
DEFAULT, MOST = 100, 2000
_FIELDS = ("member", "service", "vip", "peer")


class EventRoutes:
    """Shows what has happened."""

    def __init__(self, happenings: Happenings, streams: Streams) -> None:
        self._happenings = happenings
        self._streams = streams

    def routes(self) -> list[Route]:
        query = (
            Query("event", TEXT, "A name, or the beginning of one with `*`: `member.*`."),
            Query("level", {"type": "string", "enum": list(LEVELS)}, "So important at least."),
            Query("member", TEXT, "POOL/MEMBER."),
            Query("service", TEXT, "A virtual service."),
            Query("vip", TEXT, "A VIP."),
            Query("peer", TEXT, "A BGP peer or another director."),
            Query("after", {"type": "integer", "minimum": 0}, "Only those behind the one with this id."),
            Query(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": MOST},
                f"The latest so many; {DEFAULT} by default.",
            ),
        )
        header = (Query("Last-Event-ID", {"type": "integer"}, "As `after`, of a stream that is resumed."),)
        answer = Answer("Events, the latest last; or as they come.", EVENTS, also=EVENT_STREAM)
        return [
            Route(
                "GET",
                "/v1/events",
                self._events,
                Role.VIEWER,
                "What has happened",
                {200: answer, **refused_answers(400)},
                "events",
                query,
                header,
            )
        ]

    async def _events(self, request: web.Request) -> web.StreamResponse:
        wanted = {key: request.query[key] for key in ("event", "level", *_FIELDS) if key in request.query}
        if wanted.get("level", "info") not in LEVELS:
            raise RefusedError(400, f"level = {wanted['level']} is none of {', '.join(LEVELS)}")
        after = _whole(request.query, "after", 0, (1 << 63) - 1)
        if EVENT_STREAM not in request.headers.get("Accept", ""):
            limit = _whole(request.query, "limit", 1, MOST)
            found = list(matching(self._happenings.after(after if after is not None else -1), wanted))
            items = [as_document(one) for one in found[-(limit or DEFAULT) :]]
            return web.json_response(
                {
                    "apiVersion": "v1",
                    "first_id": self._happenings.first,
                    "last_id": self._happenings.last,
                    "items": items,
                },
                headers={"Cache-Control": "no-store"},
            )
        resumed = _whole(request.headers, "Last-Event-ID", 0, (1 << 63) - 1)
        start = resumed if resumed is not None else after if after is not None else self._happenings.last
        source = self._source(min(start, self._happenings.last), wanted)
        return await self._streams.send(request, source, LOOK_S)

    def _source(self, start: int, wanted: Mapping[str, str]) -> Callable[[], Any]:
        """Gives what has come since it was asked last."""
        seen = start

        async def more() -> bytes:
            nonlocal seen
            parts, first = [], self._happenings.first
            if seen + 1 < first:
                parts.append(f"event: lost\ndata: {json.dumps({'after': seen, 'first': first})}\n\n")
                seen = first - 1
            found = self._happenings.after(seen)
            seen = found[-1].id if found else seen
            parts += [
                f"id: {one.id}\nevent: happened\ndata: {json.dumps(as_document(one))}\n\n"
                for one in matching(found, wanted)
            ]
            return "".join(parts).encode()

        return more


def as_document(one: Happening) -> dict[str, Any]:
    return {"id": one.id, "at": one.at, "level": one.level, "event": one.event, "fields": dict(one.fields)}


def _whole(given: Mapping[str, str], key: str, least: int, most: int) -> int | None:
    text = given.get(key)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 19 or not least <= int(text) <= most:
        raise RefusedError(400, f"{key} = {text} is not a number from {least} to {most}")
    return int(text)

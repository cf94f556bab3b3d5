"""`POST /v1/explain`: what becomes of packets, and why.

    {"interface": "eth1" or null, "frames": ["BASE64", ...]}  ->  {"interface": "eth1", "packets": [...]}

Frames have an Ethernet header, whose destination becomes the director's address on that interface (by default the first
one of `director.interfaces`); a source of zeros is nobody's. Each answer is an `explain.answer.Answers.document`.
"""

import binascii
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web

from appliance.api.problem import RefusedError
from appliance.api.routes import Answer, Role, Route, object_of
from appliance.api.schemas import ANYTHING, TEXT, array, nullable, record, refused_answers
from appliance.dataplane.base import DataPlaneError
from appliance.explain.side import Explainer

MOST_FRAMES = 256
SHORTEST, LONGEST = 14, 16_384


def routes(explainer: Explainer, interfaces: Callable[[], Sequence[str]]) -> list[Route]:
    """
    Args:
        explainer: whom to ask.
        interfaces: those that packets for VIPs arrive on.
    """

    async def explain(request: web.Request) -> web.Response:
        name, frames = _question(await object_of(request), interfaces())
        try:
            packets = [await explainer.explain(frame, name) for frame in frames]
        except DataPlaneError as error:
            raise RefusedError(409, str(error)) from error
        return web.json_response({"interface": name, "packets": packets})

    question = record(
        {"frames": {**array(TEXT), "minItems": 1, "maxItems": MOST_FRAMES}}, {"interface": nullable(TEXT)}
    )
    answer = record({"interface": TEXT, "packets": array(ANYTHING)})
    return [
        Route(
            "POST",
            "/v1/explain",
            explain,
            Role.VIEWER,
            "What becomes of packets, and why: Ethernet frames in base64",
            {200: Answer("An explanation for each frame.", answer), **refused_answers(400, 404, 409)},
            "looking",
            body=question,
        )
    ]


def _question(body: Mapping[str, object], interfaces: Sequence[str]) -> tuple[str, list[bytes]]:
    given = body.get("frames")
    if not isinstance(given, list):
        raise RefusedError(400, 'the body is not {"interface": ..., "frames": [...]}')
    name = body.get("interface") or interfaces[0]
    if not isinstance(name, str) or name not in interfaces:
        raise RefusedError(404, f"no packets for VIPs arrive on {name}; they do on {', '.join(interfaces)}")
    if not 0 < len(given) <= MOST_FRAMES:
        raise RefusedError(400, f"{len(given)} frames; ask for 1..{MOST_FRAMES} at a time")
    return name, [_frame(number, one) for number, one in enumerate(given)]


def _frame(number: int, text: object) -> bytes:
    try:
        frame = b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        frame = b""
    if not SHORTEST <= len(frame) <= LONGEST:
        raise RefusedError(400, f"frames[{number}] is not base64 of {SHORTEST}..{LONGEST} bytes")
    return frame

"""What becomes of packets, and why.

    GET  /v1/explain?protocol=tcp&client=192.0.2.7:40000&vip=198.51.100.7:443&kind=syn&size=0&interface=eth1
    POST /v1/explain  {"interface": "eth1" or null, "frames": ["BASE64", ...]}, or a pcap or pcapng file

    ->  {"interface": "eth1", "packets": [...]}

Frames have an Ethernet header, whose destination becomes the director's address on that interface (by default the first
one of `director.interfaces`); a source of zeros is nobody's. Each answer is an `explain.answer.Answers.document`.
"""

import binascii
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import islice

from aiohttp import web

from appliance.api.problem import RefusedError
from appliance.api.records import ANYTHING, TEXT, array, nullable, record
from appliance.api.routes import Answer, Query, Role, Route, bytes_of, object_of
from appliance.api.schemas import refused_answers
from appliance.capture.pcap import PcapError
from appliance.dataplane.base import DataPlaneError
from appliance.explain.question import IP_HEADER, L4_HEADER, Tcp, endpoint, frame_of, frames_of, packet_of
from appliance.explain.side import Explainer
from appliance.model import Protocol
from appliance.ring.hash import FlowKey

MOST_FRAMES = 256
SHORTEST, LONGEST = 14, 16_384
PCAP = ("application/vnd.tcpdump.pcap", "application/x-pcapng")
_ENDPOINT = {"type": "string", "examples": ["192.0.2.7:40000", "[2001:db8::7]:40000"]}
_FLOW = (
    Query("protocol", {"type": "string", "enum": ["tcp", "udp"]}, "Of the flow.", required=True),
    Query("client", _ENDPOINT, "Where it comes from.", required=True),
    Query("vip", _ENDPOINT, "VIP and port.", required=True),
    Query("kind", {"type": "string", "enum": list(Tcp), "default": "syn"}, "What a TCP packet says."),
    Query("size", {"type": "integer", "minimum": 0, "maximum": 65535, "default": 0}, "Bytes of IP; 0: the least."),
)


def routes(explainer: Explainer, interfaces: Callable[[], Sequence[str]]) -> list[Route]:
    """
    Args:
        explainer: whom to ask.
        interfaces: those that packets for VIPs arrive on.
    """

    async def explain(request: web.Request) -> web.Response:
        if request.content_type in PCAP:
            frames = _from_file(await bytes_of(request))
            return await answer(_interface(request.query.get("interface"), interfaces()), frames)
        return await answer(*_question(await object_of(request), interfaces()))

    async def explain_flow(request: web.Request) -> web.Response:
        return await answer(_interface(request.query.get("interface"), interfaces()), [_of_flow(request.query)])

    async def answer(name: str, frames: list[bytes]) -> web.Response:
        try:
            packets = [await explainer.explain(frame, name) for frame in frames]
        except DataPlaneError as error:
            raise RefusedError(409, str(error)) from error
        return web.json_response({"interface": name, "packets": packets})

    question = record(
        {"frames": {**array(TEXT), "minItems": 1, "maxItems": MOST_FRAMES}}, {"interface": nullable(TEXT)}
    )
    answers = {
        200: Answer("An explanation for each packet.", record({"interface": TEXT, "packets": array(ANYTHING)})),
        **refused_answers(400, 404, 409),
    }
    interface = Query("interface", TEXT, "Where packets arrive; the first one of director.interfaces by default.")
    return [
        Route(
            "GET",
            "/v1/explain",
            explain_flow,
            Role.VIEWER,
            "What becomes of a flow's packet, and why",
            answers,
            "looking",
            (*_FLOW, interface),
        ),
        Route(
            "POST",
            "/v1/explain",
            explain,
            Role.VIEWER,
            "What becomes of packets, and why: Ethernet frames in base64, or a pcap file",
            answers,
            "looking",
            (interface,),
            body=question,
            also_media=PCAP,
            max_body=MOST_FRAMES * LONGEST * 2,
        ),
    ]


def _question(body: Mapping[str, object], interfaces: Sequence[str]) -> tuple[str, list[bytes]]:
    given = body.get("frames")
    if not isinstance(given, list):
        raise RefusedError(400, 'the body is not {"interface": ..., "frames": [...]}')
    name = _interface(body.get("interface"), interfaces)
    if not 0 < len(given) <= MOST_FRAMES:
        raise RefusedError(400, f"{len(given)} frames; ask for 1..{MOST_FRAMES} at a time")
    return name, [_frame(number, one) for number, one in enumerate(given)]


def _interface(given: object, interfaces: Sequence[str]) -> str:
    name = given or interfaces[0]
    if not isinstance(name, str) or name not in interfaces:
        raise RefusedError(404, f"no packets for VIPs arrive on {name}; they do on {', '.join(interfaces)}")
    return name


def _of_flow(query: Mapping[str, str]) -> bytes:
    """The frame of a flow that is named."""
    if missing := [key for key in ("protocol", "client", "vip") if key not in query]:
        raise RefusedError(400, f"{' and '.join(missing)} is missing; a flow has protocol, client and vip")
    protocol, kind = query["protocol"], query.get("kind", str(Tcp.SYN))
    if protocol not in ("tcp", "udp"):
        raise RefusedError(400, f"protocol = {protocol} is neither tcp nor udp")
    if kind not in list(Tcp):
        raise RefusedError(400, f"kind = {kind} is none of {', '.join(Tcp)}")
    try:
        client, vip = (endpoint(query[key]) for key in ("client", "vip"))
    except ValueError as error:
        raise RefusedError(400, f"{error}; write 192.0.2.7:40000 or [2001:db8::7]:40000") from None
    if client.address.version != vip.address.version:
        raise RefusedError(400, f"{client} and {vip} are of different families; use two of one")
    key = FlowKey(client.address, vip.address, Protocol[protocol.upper()], client.port, vip.port)
    least, size = IP_HEADER[vip.address.version] + L4_HEADER[Protocol(key.protocol)], query.get("size", "0")
    if not size.isdecimal() or len(size) > 5 or (int(size) and not least <= int(size) <= 65535):
        raise RefusedError(400, f"size = {size} is out of range; use {least}..65535")
    return frame_of(packet_of(key, int(size), Tcp(kind)))


def _from_file(content: bytes) -> list[bytes]:
    """The frames of a file, as they arrived; those that a capture of ours has as they left are none."""
    try:
        frames = list(islice(frames_of(BytesIO(content).read), MOST_FRAMES + 1))
    except PcapError as error:
        raise RefusedError(400, str(error)) from None
    if not 0 < len(frames) <= MOST_FRAMES:
        raise RefusedError(400, f"{'more' if frames else 'fewer'} packets than 1..{MOST_FRAMES}; send a part of them")
    return frames


def _frame(number: int, text: object) -> bytes:
    try:
        frame = b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        frame = b""
    if not SHORTEST <= len(frame) <= LONGEST:
        raise RefusedError(400, f"frames[{number}] is not base64 of {SHORTEST}..{LONGEST} bytes")
    return frame

"""The doctor, asked by whoever may give orders, and what it has found so far.

    GET  /v1/doctor     what every check of every member said the last time
    POST /v1/doctor     looks now: {"service": "", "member": "", "reports": {"POOL/MEMBER": {...}}, "clients": [{...}]},
                        all optional

A report is what `onward agent --once` prints on a member; a client is what `onward client` prints where clients are.
Nothing is changed by any of it; members get packets.
"""

import json
from collections.abc import Mapping

from aiohttp import web

from appliance.api.problem import RefusedError
from appliance.api.records import ANYTHING, TEXT, array, by_name, record
from appliance.api.routes import Answer, Role, Route, body_of
from appliance.api.schemas import refused_answers
from appliance.doctor.client import ClientReport, read_client
from appliance.doctor.finding import Document, Report
from appliance.doctor.member import MemberReport, ReportError, read_report
from appliance.doctor.side import DoctorSide, UnknownSubjectError


def routes(doctor: DoctorSide) -> list[Route]:
    """
    Args:
        doctor: whom to ask.
    """

    async def latest(_request: web.Request) -> web.Response:
        return web.json_response(doctor_document(doctor.latest()))

    async def look(request: web.Request) -> web.Response:
        service, member, reports, clients = _question(
            await body_of(request, {"service", "member", "reports", "clients"})
        )
        try:
            report = await doctor.asked(service, member, reports, clients)
        except UnknownSubjectError as error:
            raise RefusedError(404, str(error)) from error
        except OSError as error:
            raise RefusedError(409, f"the doctor cannot ask: {error}; it takes CAP_NET_RAW") from error
        return web.json_response(doctor_document(report))

    answer = Answer("What every check says.", ANYTHING)
    return [
        Route("GET", "/v1/doctor", latest, Role.VIEWER, "What the doctor has found so far", {200: answer}, "doctor"),
        Route(
            "POST",
            "/v1/doctor",
            look,
            Role.OPERATOR,
            "Look now which layer of members' paths is broken",
            {200: answer, **refused_answers(400, 404, 409)},
            "doctor",
            body=record(
                {}, {"service": TEXT, "member": TEXT, "reports": by_name(ANYTHING), "clients": array(ANYTHING)}
            ),
            needs_body=False,
        ),
    ]


def doctor_document(report: Report | None) -> Document:
    """What the doctor has found; before its first run nothing."""
    if report is None:
        return {"apiVersion": "v1", "time": None, "failed": 0, "members": [], "vantages": {}, "findings": []}
    return report.document()


def _question(body: Mapping[str, object]) -> tuple[str, str, dict[str, MemberReport], list[ClientReport]]:
    service, member, given = body.get("service") or "", body.get("member") or "", body.get("reports") or {}
    clients = body.get("clients") or []
    if not isinstance(clients, list):
        raise RefusedError(400, "clients is a list of what `onward client` prints")
    if not isinstance(service, str) or not isinstance(member, str) or not isinstance(given, dict):
        raise RefusedError(400, "service and member are names, and reports is an object by POOL/MEMBER")
    try:
        reports = {name: read_report(json.dumps(one)) for name, one in given.items()}
    except ReportError as error:
        raise RefusedError(400, f"reports: {error}") from None
    try:
        return service, member, reports, [read_client(json.dumps(one)) for one in clients]
    except ReportError as error:
        raise RefusedError(400, f"clients: {error}") from None

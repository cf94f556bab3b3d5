"""The summary: small, of the same judgement as the status document, and with a reason for every score."""

import json
from dataclasses import replace

import pytest

from appliance.api.schemas import components
from appliance.api.service import service_document
from appliance.api.summary import Summaries, summary_document
from appliance.api.views import status_document
from appliance.dataplane.base import Counters, Traffic
from appliance.decide import No, Why
from appliance.doctor.finding import Outcome
from appliance.model import HaMode
from appliance.passive import Handshakes
from health.spec import Code, Result, Status, Verdict
from tests.unit.api.samples import observed

OWN = ("largest_packet", "handshake_s", "doctor")
SHARED = ("time", "pins", "loop_lag")


def test_it_judges_as_the_status_document_does() -> None:
    """Same state, same problems, though most members are in no pool of it."""
    seen = observed()
    summary, status = summary_document(seen), status_document(seen)
    assert summary["health"]["state"] == status["health"]["state"]
    assert summary["health"]["problems"] == status["health"]["problems"][:50]
    assert {key: summary[key] for key in SHARED} == {key: status[key] for key in SHARED}
    rows = {row["name"]: (row["state"], row["in_rotation"]) for row in summary["services"]}
    assert rows == {one["name"]: (one["state"], one["in_rotation"]) for one in status["services"]}


def test_every_score_below_100_has_a_reason() -> None:
    """web has lost one of three members, dns is down, and old is disabled."""
    rows = {row["name"]: row for row in summary_document(observed())["services"]}
    assert (rows["old"]["score"], rows["old"]["score_reason"]) == (None, "disabled")
    assert rows["dns"]["score"] == 0
    assert rows["dns"]["score_reason"]
    assert 0 <= rows["web"]["score"] < 100
    assert rows["web"]["score_reason"]


def test_warnings_of_members_that_serve_are_told() -> None:
    """A certificate that ends soon is a problem in both documents, though nobody is out for it."""
    seen = observed()
    target = replace(seen.health[0].target, id="web/web1")
    ends = Status("page", target, Verdict.UP, Result(Code.OK, "ends in 3 days", warning=True))
    seen = replace(seen, health=(*seen.health, ends))
    problems = summary_document(seen)["health"]["problems"]
    assert any("ends in 3 days" in one for one in problems)
    assert problems == status_document(seen)["health"]["problems"][:50]


def test_what_is_remembered_of_the_last_one_changes_nothing() -> None:
    """Whatever changes from one look to the next, the summary is that of somebody who has seen nothing before."""
    first = observed()
    assert first.speaker is not None
    assert first.counters is not None
    assert first.applied is not None
    more = Counters({key: Traffic(one.packets + 7, one.bytes + 700, 1) for key, one in first.counters.services.items()})
    fewer = tuple(replace(one, no=No(Why.BELOW_MIN_MEMBERS)) for one in first.applied.services)
    looks = [
        first,
        replace(first, counters=more, at=first.at + 1),
        replace(first, health=()),
        replace(first, speaker=replace(first.speaker, announced=frozenset())),
        replace(first, speaker=None),
        replace(first, snapshot=replace(first.snapshot, plane_error="no such device")),
        replace(first, applied=replace(first.applied, services=fewer)),
        replace(first, applied=None),
        first,
    ]
    summaries = Summaries()
    for seen in looks:
        since = (1.0, first.counters)
        assert summaries.document(seen, since) == summary_document(seen, since)


def test_others_that_have_a_vip() -> None:
    """Of directors with ranks, those that are heard of and do not say that routers lack it; else nobody can say."""
    seen = observed()
    assert seen.applied is not None
    web = seen.snapshot.config.services[0]
    services = (replace(web, ha=HaMode.N_PLUS_M), *seen.snapshot.config.services[1:])
    snapshot = replace(
        seen.snapshot,
        config=replace(seen.snapshot.config, services=services),
        away=frozenset({"d3"}),
        absent={web.vips[1]: frozenset({"d2"})},
    )
    me = snapshot.config.director.name
    vips = tuple(replace(one, ranked=(me, "d2", "d3")) if one.vip in web.vips else one for one in seen.applied.vips)
    rows = summary_document(replace(seen, snapshot=snapshot, applied=replace(seen.applied, vips=vips)))["services"]
    found = {vip["vip"]: vip.get("elsewhere") for row in rows for vip in row["vips"]}
    assert (found[str(web.vips[0])], found[str(web.vips[1])]) == (["d2"], [])
    assert found[str(services[1].vips[0])] is None


def test_what_is_known_of_a_member_beyond_its_state() -> None:
    """How long clients' handshakes take, and what the doctor has found broken."""
    seen = observed()
    assert seen.doctor is not None
    broken = next(one for one in seen.doctor.findings if one.judgement.outcome is Outcome.FAIL and one.member)
    seen = replace(seen, handshakes={(broken.service, broken.member): Handshakes(4, 4, response_s=0.02)})
    document = service_document(seen, broken.service)
    assert document is not None
    member = next(one for one in document["members"] if one["id"] == broken.member)
    assert member["handshake_s"] == 0.02
    assert any(broken.judgement.text in text for text in member["doctor"])


def test_before_anything_is_in_force() -> None:
    """A director that has just started has rows, all of them down, with the reason."""
    rows = summary_document(replace(observed(), applied=None))["services"]
    assert {row["state"] for row in rows} == {"down", "disabled"}
    assert all(row["score_reason"] for row in rows)


@pytest.mark.parametrize("name", ["web", "dns", "old"])
def test_a_service_has_all_its_members(name: str) -> None:
    """As the status document has them; and its ring, where it is in the tables, has as many slots as it says."""
    seen = observed()
    document, status = service_document(seen, name), status_document(seen)
    assert document is not None
    service = next(one for one in status["services"] if one["name"] == name)
    members = [{key: value for key, value in one.items() if key not in OWN} for one in document["members"]]
    assert members == status["pools"][service["pool_key"]]["members"]
    assert document["service"] == service
    if document["ring"] is not None:
        assert sum(one["has"] for one in document["ring"]["members"]) == document["ring"]["slots"]


def test_unknown_services() -> None:
    """None of a service that is not there."""
    assert service_document(observed(), "nobody") is None


def test_only_what_the_schemas_name() -> None:
    """Keys of summary and service are those of the API's description."""
    known = components()
    assert set(summary_document(observed())) == set(known["Summary"]["properties"])
    document = service_document(observed(), "web")
    assert document is not None
    assert set(document) == set(known["ServiceNow"]["properties"])
    assert set(document["members"][0]) == set(known["ServiceMember"]["properties"])
    json.dumps(document)

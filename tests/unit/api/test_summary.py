"""The summary: small, of the same judgement as the status document, and with a reason for every score."""

import json
from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.api.schemas import components
from appliance.api.service import service_document
from appliance.api.summary import Summaries, summary_document
from appliance.api.views import RATES, status_document
from appliance.dataplane.base import Counters, Traffic
from appliance.dataplane.totals import Later
from appliance.decide import No, Why, decide
from appliance.doctor.finding import Outcome
from appliance.model import FleetPeer, HaMode
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
        assert summaries.summary(seen, since).document() == summary_document(seen, since)


def test_what_has_changed_makes_the_next_one_of_the_last() -> None:
    """Head, rows that differ and columns of rates, put on the summary before, are the summary; rows that are as they
    were are not told, and where there are other virtual services nothing but the whole of it is."""
    first = observed()
    assert first.counters is not None
    assert first.applied is not None
    more = Counters({key: Traffic(one.packets + 7, one.bytes + 700, 1) for key, one in first.counters.services.items()})
    fewer = tuple(replace(one, no=No(Why.BELOW_MIN_MEMBERS)) for one in first.applied.services[:1])
    broken = replace(first, applied=replace(first.applied, services=(*fewer, *first.applied.services[1:])))
    summaries = Summaries()
    shown = summaries.summary(first).document()
    for seen, rows in ((replace(first, at=first.at + 1, counters=more), set()), (broken, {"0"}), (first, {"0"})):
        made = summaries.summary(seen, (1.0, first.counters))
        assert made.change is not None
        assert made.change["rows"].keys() == rows
        rates = [dict(zip(RATES, each, strict=True)) for each in zip(*made.change["rates"].values(), strict=True)]
        services = [
            made.change["rows"].get(str(place), row | rates[place]) for place, row in enumerate(shown["services"])
        ]
        shown = made.change["head"] | {"services": services}
        assert shown == made.document()
    gone = replace(first, applied=replace(first.applied, services=first.applied.services[1:]))
    assert summaries.summary(gone).change is None


def test_nobody_adds_up_members_for_it() -> None:
    """Of members' traffic a summary has nothing, and it is much to add up every second."""
    seen = observed()
    assert seen.counters is not None

    def never() -> list[tuple[str, Traffic]]:
        raise AssertionError("somebody looks at members")

    counters = replace(seen.counters, members=Later(never))
    assert summary_document(replace(seen, counters=counters), (1.0, counters))["services"]


def test_rates_are_those_of_the_status_document() -> None:
    """Of all VIPs of a service together, and none where nothing marks the beginning of flows."""
    seen = observed()
    assert seen.counters is not None
    before = Counters({key: Traffic(one.packets // 2, one.bytes // 2) for key, one in seen.counters.services.items()})
    rows = {row["name"]: row for row in summary_document(seen, (2.0, before))["services"]}
    for service in status_document(seen, (2.0, before))["services"]:
        for key in RATES:
            known = [vip["traffic"][key] for vip in service["vips"] if vip["traffic"][key] is not None]
            assert rows[service["name"]][key] == (pytest.approx(sum(known), abs=0.51) if known else None), key


def test_others_that_have_a_vip() -> None:
    """Whatever the HA mode: those that are heard of and do not say that routers lack it; a standby is told from the
    first choice, and who is alone has nobody to tell of."""
    seen = observed()
    assert all("elsewhere" not in vip for row in summary_document(seen)["services"] for vip in row["vips"])
    web, dns, *rest = seen.snapshot.config.services
    config, me = seen.snapshot.config, seen.snapshot.config.director.name
    names = ("d2", me, "d3")
    fleet = tuple(FleetPeer(name, ip_address(f"192.0.2.{number}")) for number, name in enumerate(names, 11))
    services = (replace(web, ha=HaMode.ACTIVE_STANDBY), dns, *rest)
    snapshot = replace(
        seen.snapshot,
        config=replace(config, services=services, fleet=replace(config.fleet, directors=fleet)),
        away=frozenset({"d3"}),
        absent={web.vips[1]: frozenset({"d2"})},
    )
    rows = summary_document(replace(seen, snapshot=snapshot, applied=decide(snapshot)))["services"]
    found = {vip["vip"]: (vip["elsewhere"], vip.get("standing")) for row in rows for vip in row["vips"]}
    assert (found[str(web.vips[0])], found[str(web.vips[1])]) == ((["d2"], 1), ([], 1))
    assert found[str(dns.vips[0])] == (["d2"], None)


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
    summaries = Summaries()
    first, second = summaries.summary(observed()), summaries.summary(observed())
    assert first.change is None
    assert second.change is not None
    assert set(second.change) == set(known["SummaryChange"]["properties"])
    assert set(second.change["head"]) == set(known["SummaryChange"]["properties"]["head"]["properties"])
    document = service_document(observed(), "web")
    assert document is not None
    assert set(document) == set(known["ServiceNow"]["properties"])
    assert set(document["members"][0]) == set(known["ServiceMember"]["properties"])
    json.dumps(document)

"""The summary: small, of the same judgement as the status document, and with a reason for every score."""

import json
from dataclasses import replace

import pytest

from appliance.api.schemas import components
from appliance.api.service import service_document
from appliance.api.summary import summary_document
from appliance.api.views import status_document
from tests.unit.api.samples import observed

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
    members = [{key: value for key, value in one.items() if key != "largest_packet"} for one in document["members"]]
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

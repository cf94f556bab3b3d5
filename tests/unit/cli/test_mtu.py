"""`onward mtu`, against a small HTTP server that tells what a director would."""

import json

import pytest

from appliance.api.mtu import mtu_document
from appliance.cli.listing import DEFAULTS, rendered
from appliance.cli.mtu import VIEW
from appliance.cli.root import call
from tests.unit.api.samples import observed
from tests.unit.cli.directors import director

PATH = "/api/v1/mtu"


def test_table_and_document(capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, the document as it is for programs."""
    document = mtu_document(observed())
    with director(PATH, json.dumps(document)) as url:
        assert call(["mtu", "--url", url]) == 0
        assert capsys.readouterr().out == rendered(VIEW, document, DEFAULTS) + "\n"
        assert call(["mtu", "--url", url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == document


@pytest.mark.parametrize(("body", "status"), [("{}", 200), ("[]", 200), ("no", 200), ('{"members": []}', 404)])
def test_what_is_no_director(body: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever answers otherwise is told to be none."""
    with director(PATH, body, status) as url:
        assert call(["mtu", "--url", url]) == 1
    assert "is it a director" in capsys.readouterr().err


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Code 3, as with every command that asks a director."""
    assert call(["mtu", "--url", "http://127.0.0.1:1"]) == 3
    assert "127.0.0.1:1" in capsys.readouterr().err

"""`onward health`, against a small HTTP server that tells what a director would."""

import json
from typing import Any

import pytest

from appliance.api.health import health_document
from appliance.cli.health import view
from appliance.cli.listing import DEFAULTS, rendered
from appliance.cli.root import call
from tests.unit.api.samples import NOW, observed
from tests.unit.cli.directors import director

PATH = "/api/v1/health"
DOCUMENT = health_document(observed())


def render(document: Any, now: float, *, with_turns: bool = False) -> str:
    return rendered(view(lambda: now, with_turns=with_turns), document, DEFAULTS)


def test_table_and_document(capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, the document as it is for programs; of one member or pool where that is asked."""
    with director(PATH, json.dumps(DOCUMENT)) as url:
        assert call(["health", "--url", url]) == 0
        assert "web/web3" in capsys.readouterr().out
        assert call(["health", "--url", url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == DOCUMENT
        assert call(["health", "dns", "--url", url, "--json"]) == 0
        assert [each["member"] for each in json.loads(capsys.readouterr().out)["members"]] == ["dns/web11", "dns/web12"]
        assert call(["health", "web/web4", "--url", url]) == 5
        assert "members: web/web1, " in capsys.readouterr().err
        assert call(["health", "web/web3", "--url", url]) == 0
        assert "became down: connection_refused" in capsys.readouterr().out
    members = [{"member": f"web/web{number}"} for number in range(10_000)]
    with director(PATH, json.dumps(DOCUMENT | {"members": members})) as url:
        assert call(["health", "web/web", "--url", url]) == 5
        assert capsys.readouterr().err.rstrip().endswith(", web/web19 and 9980 more")


def test_a_line_says_all_of_a_monitor_and_member() -> None:
    """State with its reason, verdict, since when, results, the latest one; below it penalties and delays."""
    lines = render(DOCUMENT, NOW).splitlines()
    (down,) = (line for line in lines if line.startswith("web/web3 "))
    assert down.split() == [
        *["web/web3", "out", "(health_down)", "ping80", "port", "80", "down", "1", "min", "40", "s", "200", "16"],
        *["connection_refused:", "connect:", "connection", "refused", "(0.4", "ms)"],
    ]
    assert any(line.startswith("web/web3: penalty 2177 after going down 3 times; takes new flows") for line in lines)
    assert "7 checks waited for their turn, since as many were under way as may be" in lines
    assert "1 checks were made again, since the director itself was late" in lines
    assert not any("no_resources" in line or "used up" in line for line in lines)


def test_turns_say_when_and_why() -> None:
    """The latest turns of a member's verdicts, the newest first, each with its cause."""
    lines = render(DOCUMENT, NOW, with_turns=True).splitlines()
    turns = [line for line in lines if "became" in line]
    assert len(turns) == 2
    assert turns[0].endswith("1 min 40 s ago  ping80 became down: connection_refused: connect: connection refused")
    assert turns[1].endswith("1 h 0 min ago  ping80 became up: ok")


def test_a_member_without_monitors_is_there_too() -> None:
    """Nobody asks it, and that shows."""
    (line,) = (line for line in render(DOCUMENT, NOW).splitlines() if line.startswith("dns/web11"))
    assert line.split()[:5] == ["dns/web11", "in", "rotation", "-", "-"]


@pytest.mark.parametrize(("body", "status"), [("{}", 200), ("[]", 200), ("no", 200), ('{"members": []}', 200)])
def test_what_is_no_director(body: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever answers otherwise is told to be none."""
    with director(PATH, body, status) as url:
        assert call(["health", "--url", url]) == 1
    assert "is it a director" in capsys.readouterr().err


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Code 3, as with every command that asks a director."""
    assert call(["health", "--url", "http://127.0.0.1:1"]) == 3
    assert "127.0.0.1:1" in capsys.readouterr().err

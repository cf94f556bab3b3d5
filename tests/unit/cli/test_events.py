"""`onward events`, against the very routes that a director answers by."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.api.control import ControlServer
from appliance.api.happening import EventRoutes
from appliance.api.streams import Streams
from appliance.cli import events as module
from appliance.cli.root import call
from appliance.happenings import Happenings


class Told:
    """A director that has seen something."""

    def __init__(self, folder: Path) -> None:
        self.happenings = Happenings(time.time)
        self.socket = folder / "control.sock"
        self.server = ControlServer(self.socket, EventRoutes(self.happenings, Streams(lambda _: True)).routes())

    def happen(self, event: str, level: str = "info", **fields: object) -> None:
        self.happenings.note(None, level, {"event": event, "level": level, **fields})

    async def onward(self, *words: str) -> int:
        return await asyncio.to_thread(call, ["events", *words, "--socket", str(self.socket)])


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[Told]:
    made = Told(tmp_path)
    await made.server.start()
    made.happen("member.out", "warning", member="web/web1", reason="health_down", detail="no answer at all")
    made.happen("member.in_rotation", member="web/web2", reason="")
    made.happen("vip.withdrawn", vip="198.51.100.7", reason="below_min_members")
    yield made
    await made.server.close()


async def test_what_has_happened(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """A line each, the latest last: when, how important, what, and about whom."""
    assert await told.onward() == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split("  ", 1)[1].split() == [
        *["warning", "member.out", "member=web/web1", "reason=health_down"],
        *['detail="no', "answer", "at", 'all"'],
    ]
    assert second.endswith("member=web/web2")
    assert "vip.withdrawn" in third


async def test_only_some(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """By name, importance, or whom they are about; and not more than wanted."""
    for words, events in (
        (("--event", "member.*"), ["member.out", "member.in_rotation"]),
        (("--level", "warning"), ["member.out"]),
        (("--member", "web/web2"), ["member.in_rotation"]),
        (("--vip", "198.51.100.7"), ["vip.withdrawn"]),
        (("-n", "1"), ["vip.withdrawn"]),
        (("--peer", "192.0.2.1"), []),
    ):
        assert await told.onward(*words, "--json") == 0
        assert [one["event"] for one in json.loads(capsys.readouterr().out)["items"]] == events
    assert await told.onward("-n", "0") == 1
    assert "limit" in capsys.readouterr().err


async def test_following(told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """New ones as they come, each once; what the director does not keep any more is said to be missing."""
    steps = [
        lambda: told.happen("bgp.session_up", peer="192.0.2.1"),
        lambda: None,
        lambda: [told.happen("member.ordered", member=f"web/{number}") for number in range(2100)],
    ]

    def pause(_: float) -> None:
        if not steps:
            raise KeyboardInterrupt
        steps.pop(0)()

    monkeypatch.setattr(module.time, "sleep", pause)
    assert await told.onward("-f", "--json") == 0
    output = capsys.readouterr()
    events = [json.loads(line)["event"] for line in output.out.splitlines()]
    assert events[:4] == ["member.out", "member.in_rotation", "vip.withdrawn", "bgp.session_up"]
    assert events[4:] == ["member.ordered"] * 2000
    assert "some are missing here" in output.err


async def test_flows_are_no_events(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """Records of the connection log would push out all that has happened."""
    for _ in range(3000):
        told.happen("flow.ended", client="192.0.2.1")
    assert await told.onward("--json") == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 3


async def test_nobody_answers(tmp_path: Path) -> None:
    """Code 3, as with every command that asks a director."""
    assert await asyncio.to_thread(call, ["events", "--socket", str(tmp_path / "none")]) == 3

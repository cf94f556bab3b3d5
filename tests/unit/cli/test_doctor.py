"""`onward doctor` and `onward agent --once`, and the answers that they show."""

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import structlog

from appliance.api.control import ControlServer
from appliance.api.doctoring import doctor_document, routes
from appliance.cli.doctor import render
from appliance.cli.root import call
from appliance.doctor.checks import judge
from appliance.doctor.client import Came, ClientReport, read_client
from appliance.doctor.finding import Report, capabilities
from appliance.doctor.member import MemberReport
from appliance.doctor.side import UnknownSubjectError
from tests.unit.doctor.evidence import MEMBER, VIP, director, error, member, path, report


def examined(*paths: Any) -> Report:
    findings = judge([member(*paths, report=None)], director())
    capable = tuple(capabilities(findings))
    return Report(1_800_000_000.0, 2.5, "asked", tuple(findings), (("web/web1", "no agent"),), capable=capable)


WELL, BROKEN = examined(), examined(path(small=error(3, 2, str(MEMBER), outer=True)))


class Side:
    """A doctor that has looked before, and says the same again."""

    def __init__(self, found: Report) -> None:
        self.found = found
        self.given: Mapping[str, MemberReport] = {}
        self.clients: Sequence[ClientReport] = ()

    def latest(self) -> Report:
        return self.found

    async def asked(
        self, service: str, member: str, given: Mapping[str, MemberReport], clients: Sequence[ClientReport]
    ) -> Report:
        if service not in ("", "web"):
            raise UnknownSubjectError(f'there is no virtual service "{service}"; there are: web')
        self.given, self.clients = given, clients
        return self.found


class Served:
    """That doctor behind a socket."""

    def __init__(self, side: Side, socket: Path) -> None:
        self._side, self._socket = side, socket
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever)

    def __enter__(self) -> str:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return str(self._socket)

    async def _start(self) -> None:
        self._server = ControlServer(self._socket, routes(self._side))  # type: ignore[arg-type]
        await self._server.start()

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.mark.parametrize(("found", "code"), [(WELL, 0), (BROKEN, 10)])
def test_what_is_broken_is_shown_and_the_exit_code_says_so(
    found: Report, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table for people with evidence and fix, the document for programs; the same from earlier runs."""
    with Served(Side(found), tmp_path / "s") as socket:
        assert call(["doctor", "--socket", socket]) == code
        text = capsys.readouterr().out
        assert text.endswith(render(doctor_document(found)) + "\n")
        assert call(["doctor", "web", "web1", "--last", "--socket", socket, "-o", "json"]) == code
        shown = json.loads(capsys.readouterr().out)
    assert {one["member"] for one in shown["findings"]} == {"web/web1"}
    if code:
        assert "BROKEN  decapsulation  web web/web1" in text
        assert "ICMP type 3 code 2 about the outer packet, from 203.0.113.2" in text
        assert "modprobe ipip" in text
    else:
        assert "0 broken" in text
        assert "DSR-CAPABLE" in text


def test_a_report_is_taken_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a file, by member; what is none is refused with its place, and so is a service that is not there."""
    side = Side(WELL)
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report().document()))
    with Served(side, tmp_path / "s") as socket:
        assert call(["doctor", "--socket", socket, "--report", f"web/web1={file}"]) == 0
        assert side.given == {"web/web1": report()}
        capsys.readouterr()
        file.write_text('{"addresses": 3}')
        assert call(["doctor", "--socket", socket, "--report", f"web/web1={file}"]) == 1
        assert "addresses" in capsys.readouterr().err
        assert call(["doctor", "mail", "--socket", socket]) == 5
        assert "there are: web" in capsys.readouterr().err
        assert call(["doctor", "--socket", socket, "--report", "web1"]) == 2
        assert call(["doctor", "--socket", socket, "--report", f"web/web1={tmp_path}/none"]) == 2


def test_what_a_client_has_seen_is_taken_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`onward client` tries real connections; the doctor gets what came back, and refuses what is none of that."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as closed:
        ends = [f"127.0.0.1:{one.getsockname()[1]}" for one in (server, closed)]
        closed.close()
        assert call(["client", *ends, "--count", "3", "--name", "here"]) == 0
    text = capsys.readouterr().out
    seen = read_client(text)
    assert [one.came for one in sorted(seen.tries, key=lambda one: one.came)] == ["answered"] * 3 + ["refused"] * 3
    assert len({one.source_port for one in seen.tries}) == 6
    assert all((one.mss is not None) is (one.came is Came.ANSWERED) for one in seen.tries)
    file, side = tmp_path / "client.json", Side(WELL)
    file.write_text(text)
    with Served(side, tmp_path / "s") as path:
        assert call(["doctor", "--socket", path, "--client", str(file)]) == 0
        assert side.clients == [seen]
        capsys.readouterr()
        file.write_text(text.replace('"127.0.0.1"', '"::1"', 1))
        assert call(["doctor", "--socket", path, "--client", str(file)]) == 1
        assert "are of two families" in capsys.readouterr().err
        file.write_text("nothing")
        assert call(["doctor", "--socket", path, "--client", str(file)]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give VIP:PORT"),
        (("198.51.100.7",), "the port is missing"),
        (("198.51.100.7:80", "--count", "1001"), "give 1 to 1000"),
        (("198.51.100.7:80", "--timeout", "0"), "give 0.1 to 60 seconds"),
    ],
)
def test_a_client_is_told_what_it_can_try(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage is told before anything is sent."""
    assert call(["client", *words]) == 2
    assert said in capsys.readouterr().err


def test_nobody_answers(tmp_path: Path) -> None:
    """Code 3, as with every command that asks a director."""
    assert call(["doctor", "--socket", str(tmp_path / "none")]) == 3


def test_before_the_first_run_there_is_nothing() -> None:
    """And that is said."""
    assert render(doctor_document(None)) == "The doctor has not looked yet."


def test_an_agent_says_once_what_a_report_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--once` prints a report; without a secret nobody is answered."""
    assert call(["agent", "--once", "--vip", str(VIP), "--root", str(tmp_path)]) == 0
    assert "lo" in json.loads(capsys.readouterr().out)["devices"]
    assert call(["agent", "--once", "--vip", "nowhere"]) == 2
    assert call(["agent"]) == 2
    (tmp_path / "key").write_text("short")
    assert call(["agent", "--secret-file", str(tmp_path / "key")]) == 1
    assert call(["agent", "--secret-file", str(tmp_path / "none")]) == 1
    structlog.reset_defaults()

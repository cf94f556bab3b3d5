"""`onward samples`, against a small HTTP server that tells what a director would."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.api.views import samples
from appliance.cli import samples as module
from appliance.cli.root import call
from tests.unit.api.samples import observed
from tests.unit.cli.directors import director

PATH = "/api/v1/samples"


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


LINES = """\
07:59:50.250  new_flow                  eth1      192.0.2.7:40000 -> 198.51.100.7:80 tcp  74 bytes
07:59:51.500  drop no_service           eth1      192.0.2.7:5353 -> 198.51.100.7:99 udp  60 bytes
07:59:52.000  slow_path fragment        eth2      [2001:db8::7] -> [2001:db8:f::7] 44  1514 bytes
07:59:52.001  reply icmp_too_big        eth1      192.0.2.7:40000 -> 198.51.100.7:80 tcp  1514 bytes
07:59:53.000  drop malformed            eth1      02:71:00:00:00:01 -> 02:71:00:00:00:02  60 bytes
"""


@pytest.mark.usefixtures("utc")
def test_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Time of day, what and why, interface, from where to where by which protocol, length; the newest last."""
    with director(PATH, json.dumps(samples(observed()))) as url:
        assert call(["samples", "--url", url]) == 0
    assert capsys.readouterr().out == LINES


@pytest.mark.usefixtures("utc")
def test_colour_changes_nothing_but_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the colours taken away, a coloured line is the plain one."""
    monkeypatch.setattr("appliance.cli.output.colour_wanted", lambda _stream: True)
    coloured = [module.line(sample) for sample in samples(observed())]
    assert all("\x1b[" in line for line in coloured)
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in coloured] == LINES.splitlines()


def test_json_is_what_the_director_says(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints the list as it is."""
    with director(PATH, json.dumps(samples(observed()))) as url:
        assert call(["samples", "--json", "--url", url]) == 0
    assert json.loads(capsys.readouterr().out) == samples(observed())


def test_nothing_yet_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Silence could be mistaken for a failure; but whoever reads through a pipe gets nothing."""
    with director(PATH, "[]") as url:
        assert call(["samples", "--url", url]) == 0
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "No samples yet.\n")


def test_follow_shows_what_is_new(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each sample once, whatever becomes of the time of day, even while no director answers; Ctrl-C is a good end."""
    every = samples(observed())
    again = [sample | {"at": sample["at"] + 0.001} for sample in every[1:3]]
    answers: list[Any] = [every[:2], every[:3], None, again, every[2:4]]
    pauses: list[float] = []

    def fetch(_url: str) -> Any:
        answer = answers[len(pauses)]
        if answer is None:
            raise module.UnreachableError("no director answers")
        return answer

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == len(answers):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "fetch", fetch)
    monkeypatch.setattr(module.time, "sleep", sleep)
    assert call(["samples", "--follow", "--json"]) == 0
    output = capsys.readouterr()
    assert [json.loads(line) for line in output.out.splitlines()] == every[:4]
    assert output.err == "onward: no director answers\n"
    assert pauses == [1.0] * 5


def test_follow_ends_with_sigint() -> None:
    """The real thing: Ctrl-C ends it with 0 and without a trace."""
    with director(PATH, json.dumps(samples(observed()))) as url:
        command = [sys.executable, "-m", "appliance", "samples", "-f", "--url", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(5)]
            os.kill(process.pid, signal.SIGINT)
            rest, errors = process.communicate(timeout=10)
    assert "malformed" in lines[-1]
    assert (process.returncode, rest, errors) == (0, "", "")


@pytest.mark.parametrize(("body", "status"), [("{}", 200), ("nonsense", 200), ("[]", 404)])
def test_not_a_director(body: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """What answers and is none, or an older one, is said, with exit code 1."""
    with director(PATH, body, status) as url:
        assert call(["samples", "--url", url]) == 1
    assert f"HTTP status {status} and no samples" in capsys.readouterr().err


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"127.0.0.1:{sock.getsockname()[1]}"
    assert call(["samples", "--follow", "--url", url]) == 3
    assert "`onward run`" in capsys.readouterr().err

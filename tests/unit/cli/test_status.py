"""`onward status`, against a small HTTP server that tells what a director would."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from appliance.api.sources import Observed
from appliance.api.views import status_document
from appliance.cli import orders
from appliance.cli import status as module
from appliance.cli.root import call
from appliance.cli.status import Look, Reach, render
from appliance.dataplane.base import Counters
from tests import golden
from tests.builders import config, snapshot
from tests.unit.api.samples import XDP, healthy, observed, sample_health, shared
from tests.unit.cli.directors import control

ESCAPE = "\x1b["


@contextmanager
def director(body: str | Callable[[], str], status: int = 200) -> Iterator[str]:
    """Something that answers every GET so; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/api/v1/status"
            content = (body if isinstance(body, str) else body()).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(5)


def document(seen: Observed | None = None) -> str:
    return json.dumps(status_document(seen or observed()))


def degraded() -> Observed:
    seen = healthy()
    return replace(seen, reload=replace(seen.reload, ok=False, problems=("one",)))


def test_text_is_as_published() -> None:
    """The whole text for a director with good and bad parts, on 80 columns without colour."""
    golden.check("status.txt", render(json.loads(document()), Look()) + "\n")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize(
    "seen",
    [
        observed(),
        healthy(),
        observed(applied=None, counters=None, speaker=None, health=(), plane={}),
        observed(snapshot=snapshot(config(bgp=False)), speaker=None),
        shared(services=30),
        observed(plane=XDP),
    ],
    ids=["sample", "healthy", "starting", "no-bgp", "shared", "xdp"],
)
def test_fits(seen: Observed, width: int) -> None:
    """No line is wider than asked for, none ends in blanks, and without colour there are no escapes."""
    text = render(json.loads(document(seen)), Look(width))
    assert max(map(len, text.splitlines())) <= width
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    assert ESCAPE not in text


def test_colour_changes_nothing_but_colour() -> None:
    """With the colours taken away, the coloured text is the plain one."""
    import re

    shown = json.loads(document())
    coloured = render(shown, Look(colour=True))
    assert ESCAPE in coloured
    plain = re.sub(r"\x1b\[\d+m", "", coloured)
    assert [line.rstrip() for line in plain.splitlines()] == render(shown, Look()).splitlines()


def test_wide_enough_shows_whole_reasons() -> None:
    """With room, reasons are shown whole: what the monitor found, and what the next hop lacks."""
    text = render(json.loads(document()), Look(200))
    assert "health_down (connect: connection refused)" in text
    assert "unreachable (neighbour_unresolved eth1)" in text


def test_a_shared_pool_stands_once() -> None:
    """Services refer to it, and one table for each way of delivery has its members, with numbers called the pool's."""
    lines = render(json.loads(document(shared(services=20, members=5))), Look(200)).splitlines()
    assert sum(line.startswith("  -> web") for line in lines) == 2 * 5
    assert lines.count("  -> pool web  ipip  5 of 5 in rotation, see below") == 19
    assert lines.count("  -> pool web  l2  0 of 5 in rotation, see below") == 1
    place = lines.index("pool web  l2  0 of 5 in rotation  for 1 virtual service: s1")
    assert lines[place + 1] == "  packets and flows are the pool's, of all 20 virtual services together"


def test_shows_the_plane_and_why_it_is_not_faster() -> None:
    """The first line names the plane with its modes; what holds it up stands below the problems."""
    lines = render(json.loads(document(replace(healthy(), plane=XDP))), Look(200)).splitlines()
    assert "xdp plane (eth1 native, eth2 generic), hash key" in lines[0]
    assert lines[1:3] == [
        "  eth2: generic XDP: the driver xyz runs no XDP programs",
        "  packets out of eth3: slow path: its driver sends no XDP frames",
    ]
    fallen = {"kind": "raw", "why_not_xdp": "it needs CAP_BPF"}
    lines = render(json.loads(document(replace(healthy(), plane=fallen))), Look(200)).splitlines()
    assert lines[1] == "  not the XDP plane: it needs CAP_BPF"


def test_large_numbers_stay_short() -> None:
    """Counters of any size keep the columns narrow."""
    seen = healthy()
    assert seen.counters is not None
    traffic = {key: replace(value, packets=123_456_789_012) for key, value in seen.counters.members.items()}
    shown = render(json.loads(document(replace(seen, counters=Counters(members=traffic)))), Look())
    assert "123.5G" in shown


def test_prints_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Into a pipe goes plain text with every line whole, and the exit code is 0 whatever the health."""
    with director(document()) as url:
        assert call(["status", "--url", url]) == 0
    out = capsys.readouterr().out
    assert "health_down (connect: connection refused)" in out
    assert "…" not in out
    assert out == render(json.loads(document()), Look(module.ENDLESS)) + "\n"


def test_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints the document as it came."""
    with director(document()) as url:
        assert call(["status", "--url", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(document())


@pytest.mark.parametrize(
    ("seen", "code"), [(healthy(), 0), (degraded(), 10), (observed(), 11)], ids=["healthy", "degraded", "down"]
)
def test_exit_code(seen: Observed, code: int) -> None:
    """--exit-code tells the health: 0 healthy, 10 degraded, 11 down."""
    with director(document(seen)) as url:
        assert call(["status", "--url", url, "--exit-code"]) == code


def test_url_without_scheme_and_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """host:port is enough, and ONWARD_URL saves typing it."""
    with director(document(healthy())) as url:
        assert call(["status", "--url", url.removeprefix("http://")]) == 0
        monkeypatch.setenv("ONWARD_URL", url)
        assert call(["status", "--exit-code"]) == 0


def test_by_the_control_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named, or that of a configuration: who may open it needs no token, wherever the API listens."""
    (tmp_path / "run").mkdir()
    file = tmp_path / "onward.toml"
    file.write_text(f'[director]\nruntime_dir = "{tmp_path}/run"\n')
    path = tmp_path / "run" / "control.sock"
    with control(path, {"/v1/status": json.loads(document())}):
        for words in (["--socket", str(path)], ["--config", str(file)], ["--url", f"unix:{path}"]):
            assert call(["status", "--json", *words]) == 0
            assert json.loads(capsys.readouterr().out)["apiVersion"] == "v1"
    assert call(["status", "--config", str(file)]) == 3
    assert str(path) in capsys.readouterr().err
    assert call(["status", "--config", str(tmp_path / "none.toml")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_the_control_socket_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is there and may be opened; else the API on loopback."""
    monkeypatch.setattr(module, "RUNTIME_DIR", tmp_path)
    assert Reach().address == module.DEFAULT_URL
    with control(tmp_path / "control.sock", {}):
        monkeypatch.setattr(orders, "RUNTIME_DIR", tmp_path)
        assert Reach().address == f"unix:{tmp_path}/control.sock"
        assert Reach(url="http://192.0.2.1").address == "http://192.0.2.1"


def test_not_reachable(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody there is exit code 3, with the place and the remedy."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        assert call(["status", "--url", url]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"no director answers at {url} (Connection refused)" in captured.err
    assert "onward run" in captured.err
    assert "--url" in captured.err


def test_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A director that takes connections and says nothing (a stopped process) is not reachable either."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert call(["status", "--url", f"127.0.0.1:{sock.getsockname()[1]}"]) == 3
    assert "nothing within 0.1 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("<html>", 200),
        ("{}", 200),
        ('{"apiVersion": "v2"}', 200),
        ('{"apiVersion": "v1"}', 500),
        ("[1]", 200),
        ("", 404),
    ],
)
def test_not_a_director(body: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Another program at that address is exit code 1, and is said."""
    with director(body, status) as url:
        assert call(["status", "--url", url]) == 1
    assert f"answers with HTTP status {status}" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://", "http://host:port", "ftp://x"])
def test_not_a_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no URL of a director is said, with an example."""
    assert call(["status", "--url", url]) == 1
    assert "give one like http://127.0.0.1:8080" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "1e9", "nan"])
def test_watch_wants_a_sane_pause(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Watching without pause, or hardly ever, is a usage error."""
    assert call(["status", f"--watch={seconds}"]) == 2
    assert "--watch" in capsys.readouterr().err


def test_watch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--watch asks again and again, one JSON document a line, outlives a director's restart, and ends with Ctrl-C."""
    pauses: list[float] = []
    answers = iter([document(), document(healthy()), document()])
    failures = iter([False, True, False, False])

    def fetch(_url: str) -> Any:
        if next(failures):
            raise module.UnreachableError("no director answers")
        return json.loads(next(answers))

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "fetch", fetch)
    monkeypatch.setattr(module.time, "sleep", sleep)
    assert call(["status", "-w", "0.5", "--json"]) == 0
    captured = capsys.readouterr()
    states = [json.loads(line)["health"]["state"] for line in captured.out.splitlines()]
    assert states == ["down", "healthy", "down"]
    assert captured.err.count("no director answers") == 1
    assert pauses == [0.5] * 4


def test_watch_needs_no_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """--watch alone is once a second."""

    def sleep(seconds: float) -> None:
        assert seconds == 1.0
        raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", sleep)
    with director(document()) as url:
        assert call(["status", "--watch", "--url", url]) == 0


def test_imports_nothing_heavy() -> None:
    """The command starts fast: it needs neither the web server nor the planes."""
    heavy = ("aiohttp", "pyroute2", "numpy", "uvloop")
    code = f"import sys, appliance.cli.status; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "[]\n"


def test_because_needs_no_monitor() -> None:
    """A member that is down although its monitors' last results are gone shows the bare reason."""
    seen = replace(observed(), health=sample_health()[:2])
    assert "health_down" in render(json.loads(document(seen)), Look(200))

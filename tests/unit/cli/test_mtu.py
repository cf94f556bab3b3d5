"""`onward mtu`, against a small HTTP server that tells what a director would."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from appliance.api.mtu import mtu_document
from appliance.cli.mtu import render
from appliance.cli.root import call
from tests.unit.api.samples import observed


@contextmanager
def director(body: str, status: int = 200) -> Iterator[str]:
    """Something that answers every GET so; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/api/v1/mtu"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(5)


def test_table_and_document(capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, the document as it is for programs."""
    document = mtu_document(observed())
    with director(json.dumps(document)) as url:
        assert call(["mtu", "--url", url]) == 0
        assert capsys.readouterr().out == render(document) + "\n"
        assert call(["mtu", "--url", url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == document


@pytest.mark.parametrize(("body", "status"), [("{}", 200), ("[]", 200), ("no", 200), ('{"members": []}', 404)])
def test_what_is_no_director(body: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever answers otherwise is told to be none."""
    with director(body, status) as url:
        assert call(["mtu", "--url", url]) == 1
    assert "is it a director" in capsys.readouterr().err


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Code 3, as with every command that asks a director."""
    assert call(["mtu", "--url", "http://127.0.0.1:1"]) == 3
    assert "127.0.0.1:1" in capsys.readouterr().err

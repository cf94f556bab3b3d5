"""Ways to a director: by its control socket, with a token, with TLS."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import trustme

from appliance.api.announced import announced_document
from appliance.cli.root import call
from tests.unit.api.samples import observed
from tests.unit.cli.directors import control

BGP = announced_document(observed())


@contextmanager
def guarded(token: str, authority: trustme.CA | None = None) -> Iterator[str]:
    """An API that answers those who have the token, with TLS where it has a certificate; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.headers.get("Authorization") == f"Bearer {token}" and self.path == "/api/v1/bgp"
            content = json.dumps(BGP if good else {"detail": "log in first"}).encode()
            self.send_response(200 if good else 401)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(HTTPServer):
        def handle_error(self, *_: object) -> None:
            """Who does not believe our certificate leaves in the middle."""

    with Quiet(("127.0.0.1", 0), Handler) as server:
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http{'s' if authority is not None else ''}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(5)


def peers(url: str) -> int:
    return call(["bgp", "peers", "-o", "name", "--url", url])


def test_by_the_control_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it has all that the API has, below /v1."""
    path = tmp_path / "control.sock"
    with control(path, {"/v1/bgp": BGP}):
        assert peers(f"unix:{path}") == 0
    assert capsys.readouterr().out.split() == ["192.0.2.1", "192.0.2.2"]
    assert peers(f"unix:{path}") == 3


def test_with_a_token(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From the environment, where no other user reads it; without one it is said what to do."""
    with guarded("sesame") as url:
        monkeypatch.delenv("ONWARD_TOKEN", raising=False)
        assert peers(url) == 1
        assert "set ONWARD_TOKEN" in capsys.readouterr().err
        monkeypatch.setenv("ONWARD_TOKEN", "sesame")
        assert peers(url) == 0


def test_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The certificate must come from somebody who is believed."""
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("ONWARD_TOKEN", "sesame")
    with guarded("sesame", authority) as url:
        monkeypatch.delenv("ONWARD_CA_FILE", raising=False)
        assert peers(url) == 3
        assert "certificate" in capsys.readouterr().err
        monkeypatch.setenv("ONWARD_CA_FILE", str(file))
        assert peers(url) == 0
        monkeypatch.setenv("ONWARD_CA_FILE", str(tmp_path / "none"))
        assert peers(url) == 1


@pytest.mark.parametrize("url", ["ftp://192.0.2.1", "http://", "http://192.0.2.1:port", "http://192.0.2.1:99999"])
def test_no_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody is asked, and it is said what one looks like."""
    assert peers(url) == 1
    assert "is not the URL of a director" in capsys.readouterr().err

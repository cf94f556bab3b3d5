"""What commands say when a director takes what is sent, and does not answer: a real socket with somebody silent."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli import orders
from appliance.cli.orders import OrderError, ask, exchange
from appliance.cli.output import Exit
from appliance.cli.root import call


class Silent:
    """Takes requests, and keeps connections open until it is told to close them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[bytes] = []
        self.came = threading.Event()
        self.hangs_up = False
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            received = connection.recv(1 << 16)
            if received == b"over":
                connection.close()
                return
            self.requests.append(received.splitlines()[0])
            self.came.set()
            if self.hangs_up:
                connection.close()
            else:
                self._kept.append(connection)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
            last.sendall(b"over")
        self._thread.join(20)
        for connection in self._kept:
            connection.close()
        self._listening.close()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Silent]:
    made = Silent(tmp_path / "control.sock")
    yield made
    made.close()


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize(
    ("words", "how"),
    [
        (["apply", "-f", "{file}"], "onward config history"),
        (["pool", "set", "a", "--slow-start", "5"], "onward config history"),
        (["pool", "delete", "a"], "onward config history"),
        (["reload"], "onward config history"),
        (["config", "rollback", "1"], "onward config history"),
        (["undrain"], "onward status"),
    ],
)
def test_a_change_without_an_answer_is_not_known_to_be_made(
    silent: Silent,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    how: str,
    hangs_up: bool,
) -> None:
    """It is said so, and how to find out, with an exit code of its own; it is sent once, and nobody is said not to
    run."""
    for name in ("appliance.cli.objects", "appliance.cli.reload", "appliance.cli.config"):
        monkeypatch.setattr(f"{name}.CHANGE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(orders, "ORDER_TIMEOUT_S", 0.5)
    silent.hangs_up = hangs_up
    file = tmp_path / "one.toml"
    file.write_text('[[pool]]\nname = "b"\n[[pool.member]]\naddress = "203.0.113.2"\n')
    assert call([*(word.format(file=file) for word in words), "--socket", str(silent.path)]) == Exit.UNKNOWN
    said = " ".join(capsys.readouterr().err.split())
    assert "it is not known whether" in said
    assert how in said
    assert "is it running" not in said
    assert len(silent.requests) == 1


def test_a_question_without_an_answer_is_nothing_more(silent: Silent) -> None:
    """Nothing can have come of it; a dry run is a question, too. The director is there, and it is said so."""
    for method, resource, body in (
        ("GET", "/v1/config", None),
        ("POST", "/v1/transactions?dry_run=true&reason=x", {}),
        ("POST", "/v1/config/reload", {"dry_run": True}),
    ):
        with pytest.raises(OrderError) as caught:
            ask(silent.path, method, resource, body, timeout_s=0.2)
        assert caught.value.code is Exit.UNREACHABLE
        assert "has not answered within 0.2 s" in str(caught.value)
    with pytest.raises(OrderError) as caught:
        ask(silent.path.with_name("nobody.sock"), "POST", "/v1/config/reload", {})
    assert caught.value.code is Exit.UNREACHABLE
    assert "no director answers" in str(caught.value)


def test_who_does_not_want_to_wait_is_told(silent: Silent, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C while a change is under way."""

    def interrupt() -> None:
        silent.came.wait(60)
        time.sleep(0.1)  # it may come a moment before the answer is waited for
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        exchange(silent.path, "PUT", "/v1/config", {"texts": {}}, timeout_s=60)
    thread.join()
    assert "it is not known whether the change was made" in capsys.readouterr().err

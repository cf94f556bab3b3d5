"""Signs of life while something takes long."""

import io
import time

import pytest

from appliance.cli import progress as module
from appliance.cli.progress import WIDTH, Progress, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "line"),
    [
        (0, f"[{'.' * WIDTH}] 0 of 50 frames  capturing  3 s"),
        (25, f"[{'#' * (WIDTH // 2)}{'.' * (WIDTH // 2)}] 25 of 50 frames  capturing  3 s"),
        (60, f"[{'#' * WIDTH}] 60 of 50 frames  capturing  3 s"),
    ],
)
def test_a_bar(done: int, line: str) -> None:
    """As long as what has been done, and never longer than the whole."""
    shown = Progress("capturing", 50, "frames")
    shown.done = done
    assert shown.line(3.2) == line


def test_a_mark_that_moves() -> None:
    """Where nobody knows how much there is to do."""
    lines = [Progress("reloading").line(at * module.EVERY_S) for at in range(WIDTH)]
    assert len(set(lines)) == WIDTH
    assert all(line.count("#") == 1 and "reloading" in line for line in lines)


def test_it_is_there_while_it_takes_long_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn over and over in one line, which is empty at the end."""
    monkeypatch.setattr(module, "AFTER_S", 0.01)
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    out = Terminal()
    with progress("reloading", stream=out):
        end = time.monotonic() + 20
        while out.getvalue().count("reloading") < 3:
            assert time.monotonic() < end
            time.sleep(0.005)
    assert "\n" not in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[K")


def test_what_is_quick_shows_nothing() -> None:
    """And nothing is ever written to what is no terminal."""
    out = Terminal()
    with progress("reloading", stream=out):
        pass
    assert out.getvalue() == ""


def test_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of scripts are not for bars."""
    monkeypatch.setattr(module, "AFTER_S", 0.0)
    out = io.StringIO()
    with progress("reloading", stream=out):
        time.sleep(0.01)
    assert out.getvalue() == ""

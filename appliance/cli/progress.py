"""Signs of life of commands that take more than a second: for people at a terminal, on standard error, and gone at the
end."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

AFTER_S = 1.0
"""What takes less shows nothing."""

EVERY_S = 0.2
WIDTH = 24


class Progress:
    """How far something is."""

    def __init__(self, text: str, total: int = 0, unit: str = "") -> None:
        """
        Args:
            text: what is being done.
            total: how much there is to do; 0 when nobody knows.
            unit: of that.
        """
        self.text = text
        self.total = total
        self.done = 0
        self._unit = unit

    def line(self, elapsed_s: float) -> str:
        """A bar where it is known how much there is to do, else a mark that moves."""
        at = int(elapsed_s / EVERY_S) % WIDTH
        if self.total:
            full = min(WIDTH, self.done * WIDTH // self.total)
            bar, count = "#" * full + "." * (WIDTH - full), f"{self.done} of {self.total} {self._unit}".rstrip() + "  "
        else:
            bar, count = "." * at + "#" + "." * (WIDTH - at - 1), ""
        return f"[{bar}] {count}{self.text}  {elapsed_s:.0f} s"


@contextmanager
def progress(text: str, total: int = 0, unit: str = "", stream: TextIO | None = None) -> Iterator[Progress]:
    """Show that something goes on, from the second second on, where somebody looks.

    Args:
        text, total, unit: see `Progress`; whoever does it raises `done`.
        stream: standard error unless said otherwise.
    """
    out = stream or sys.stderr
    shown = Progress(text, total, unit)
    if not out.isatty():
        yield shown
        return
    over = threading.Event()
    thread = threading.Thread(target=_show, args=(shown, out, over), daemon=True)
    thread.start()
    try:
        yield shown
    finally:
        over.set()
        thread.join()


def _show(shown: Progress, out: TextIO, over: threading.Event) -> None:
    began = time.monotonic()
    if over.wait(AFTER_S):
        return
    while True:
        out.write(f"\r{shown.line(time.monotonic() - began)}\x1b[K")
        out.flush()
        if over.wait(EVERY_S):
            break
    out.write("\r\x1b[K")
    out.flush()

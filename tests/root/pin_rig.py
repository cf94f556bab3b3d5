"""Directors' pin channels in processes of their own."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Director:
    """A process with a channel; see pin_child.py for what it can be asked."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._ended = False

    def ask(self, method: str, *arguments: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([method, *arguments]), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def die(self, method: str, *arguments: object) -> int:
        """Ask for something that ends the process. Returns how it has ended."""
        assert self._process.stdin is not None
        print(json.dumps([method, *arguments]), file=self._process.stdin, flush=True)
        self._ended = True
        return self._process.wait(10)

    def peer(self) -> dict[str, Any]:
        return self.ask("status")["peers"][0]

    def known(self) -> set[int]:
        return {int(number) for number in self.ask("known")}

    def stop(self) -> None:
        assert self._process.stdin is not None
        if self._ended:
            return
        self._process.stdin.close()
        assert self._process.wait(10) == 0


@contextmanager
def start(
    prefix: Sequence[str], me: list[str], *peers: list[str], first: int = 0, pins: int = 1 << 16
) -> Iterator[Director]:
    """A director that runs inside, and has ended afterwards.

    Args:
        prefix: of the command line, for a process in a namespace.
        me: name and address.
        peers: the same of the others.
        first: index of its first member.
        pins: of its table.
    """
    settings = json.dumps({"me": me, "peers": peers, "first": first, "pins": pins})
    command = [*prefix, sys.executable, "-m", "tests.root.pin_child", settings]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        one = Director(process)
        try:
            yield one
            one.stop()
        finally:
            process.kill()

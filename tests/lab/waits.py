"""How long processes have waited for a CPU: what a busy machine adds to everything that they do."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

_EVERY_S = 0.05


class Waits:
    """Looks on, inside a block, at how long threads are ready to run and do not.

    That is the second number of `/proc/PID/task/TID/schedstat` (Documentation/scheduler/sched-stats.rst). A kernel that
    does not count it is taken for one on which nobody waits.
    """

    def __init__(self, threads: Iterable[Path]) -> None:
        """
        Args:
            threads: folders of threads in /proc.
        """
        self._threads = list(threads)
        self._samples: list[tuple[float, dict[Path, int]]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._samples.append(self._sample())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> float:
        """The longest time, in seconds, that one of the threads has waited between two moments (since 1970) of the
        block. It is taken from looks that are no further apart than that: what was between others does not count."""
        inside = [waited for at, waited in self._samples if begin <= at <= end]
        if not inside:
            return 0.0
        first, last = inside[0], inside[-1]
        return max((last[thread] - first[thread] for thread in first.keys() & last.keys()), default=0) / 1e9

    def _look(self) -> None:
        while not self._end.wait(_EVERY_S):
            self._samples.append(self._sample())

    def _sample(self) -> tuple[float, dict[Path, int]]:
        waited = {}
        for thread in self._threads:
            try:
                waited[thread] = int((thread / "schedstat").read_text().split()[1])
            except (OSError, IndexError):  # it has ended, or nobody counts
                continue
        return time.time(), waited


def main_thread(pid: int) -> list[Path]:
    return [Path(f"/proc/{pid}/task/{pid}")]


def all_threads(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())

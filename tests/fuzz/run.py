"""Case after case, on several processors."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.fuzz.compare import FRAMES, Comparison, make_case
from tests.fuzz.findings import report

PROGRESS = 5.0
"""Seconds between lines."""


@dataclass
class Total:
    """What a run came to."""

    packets: int = 0
    seconds: float = 0.0
    reports: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    """What the reference did."""
    exits: Counter[str] = field(default_factory=Counter)
    """What the XDP program did."""

    @property
    def rate(self) -> float:
        return self.packets / self.seconds if self.seconds else 0.0


_comparison: Comparison | None = None
"""Of a worker process, which keeps the program loaded."""


def _one_case(seed: int) -> tuple[int, list[str], Counter[str], Counter[str]]:
    global _comparison
    if _comparison is None:
        _comparison = Comparison()
    _comparison.kinds.clear()
    _comparison.exits.clear()
    case = make_case(seed)
    findings = _comparison.run(case)
    kinds, exits = Counter(_comparison.kinds), Counter(_comparison.exits)
    return len(case.frames), [report(_comparison, case, finding) for finding in findings], kinds, exits


def run(seed: int, packets: int, jobs: int, say: Callable[[str], None] = lambda line: None) -> Total:
    """Compare case after case until that many packets are through, or something is found.

    Args:
        seed: the first case; the others follow.
        packets: at least one case is run.
        jobs: processes.
        say: gets lines of progress.
    """
    total, started, last = Total(), time.monotonic(), time.monotonic()
    seeds = range(seed, seed + max(1, -(-packets // FRAMES)))
    pool = ProcessPoolExecutor(jobs, get_context("spawn"))
    try:
        for count, reports, kinds, exits in pool.map(_one_case, seeds):
            total.packets += count
            total.seconds = time.monotonic() - started
            total.reports += reports
            total.kinds += kinds
            total.exits += exits
            if reports:
                break
            if time.monotonic() - last > PROGRESS:
                last = time.monotonic()
                say(f"{total.packets:>11,} packets  {total.rate:>8,.0f}/s")
    finally:
        pool.shutdown(cancel_futures=True)
    return total

"""`tests/run vectors`: every vector over reference, raw plane and XDP program, and which rows of the packet rules they
cover; or `--object FILE --adapter NAME`: somebody else's XDP program, held to the vectors that need no memory."""

import argparse
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from appliance.cli.output import table
from tests.conformance.foreign import ADAPTERS, hold
from tests.conformance.planes import LEFT, OUT_OF_REACH, planes
from tests.conformance.rows import ROWS, gaps, justified, row_of
from tests.vectors_io import Sequence, Vector, packet_vectors, sequences


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/run vectors", description="hold implementations to the vectors")
    parser.add_argument("--object", type=Path, metavar="FILE", help="a compiled XDP program of another director")
    parser.add_argument("--adapter", choices=sorted(ADAPTERS), default=next(iter(ADAPTERS)), help="what fills its maps")
    options = parser.parse_args()
    return ours() if options.object is None else theirs(options.object, options.adapter)


def ours() -> int:
    """All planes, a table, and the number of vectors."""
    every: list[Vector | Sequence] = [*packet_vectors(), *sequences()]
    passed: Counter[tuple[str, str]] = Counter()
    left: Counter[str] = Counter()
    unreached: list[str] = []
    failures: list[str] = []
    with ExitStack() as stack:
        for plane, judge in planes(stack).items():
            for one in every:
                text, row = judge(one), row_of(one.id)
                if text == OUT_OF_REACH:
                    unreached.append(one.id)
                elif text and text != LEFT:
                    failures.append(f"{plane}: {one.id}: {text}")
                else:
                    passed[row, plane] += 1
                    left[row] += text == LEFT
            names = ("reference", "raw", "XDP")
    counts = Counter(row_of(one.id) for one in every)
    listed = justified()
    rows = [
        (row, text, *(passed[row, name] for name in names), left[row] or "")
        for row, text in ROWS.items()
        if counts[row]
    ]
    print(table(("ROW", "", *names, "OF THESE SLOW"), rows, (*names, "OF THESE SLOW")))
    print()
    for row, why in listed.items():
        print(f"no vectors for {row}, {ROWS[row]}: {why}")
    print(f"\nframes too short or too long for a test run of the XDP program: {len(unreached)}")
    problems = [*failures, *gaps(counts, listed)]
    for problem in problems:
        print(problem)
    print(f"{len(every)} vectors")
    return 1 if problems else 0


def theirs(compiled: Path, adapter: str) -> int:
    """Another program."""
    result = hold(compiled, ADAPTERS[adapter]())
    for why, number in result.left_out.most_common():
        print(f"{number:>5} left out: {why}")
    for failure in result.failures:
        print(failure)
    print(f"{result.held} vectors, {len(result.failures)} of them not as expected")
    return 1 if result.failures or not result.held else 0


if __name__ == "__main__":
    sys.exit(main())

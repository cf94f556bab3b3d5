"""`tests/run fuzz`: as many random packets as one likes, on all processors; or the mutants."""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.fuzz.mutants import MUTANTS, hunt_all
from tests.fuzz.run import run

SEEDS = 1 << 40
"""Random first seeds are below that."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/run fuzz", description="random packets for all implementations")
    parser.add_argument("--packets", type=lambda text: int(float(text)), default=10_000_000, metavar="N")
    parser.add_argument("--seed", type=int, metavar="N", help="the first case (default: random, and printed)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (2)")
    parser.add_argument("--mutants", action="store_true", help="programs with mistakes: are they all found?")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(SEEDS) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)

    def say(line: str) -> None:
        print(line, flush=True)

    if options.mutants:
        with tempfile.TemporaryDirectory(prefix="onward-mutants-") as folder:
            missed = hunt_all(Path(folder), seed, say)
        print(f"{len(MUTANTS) - len(missed)} of {len(MUTANTS)} mistakes found")
        return 1 if missed else 0

    total = run(seed, options.packets, options.jobs, say)
    print(f"{total.packets:,} packets in {total.seconds:.0f} s, {total.rate:,.0f}/s")
    print("reference:   " + ", ".join(f"{name} {number}" for name, number in total.kinds.most_common()))
    print("XDP program: " + ", ".join(f"{name} {number}" for name, number in total.exits.most_common()))
    for text in total.reports:
        print(f"\n{text}")
    return 1 if total.reports else 0


if __name__ == "__main__":
    sys.exit(main())

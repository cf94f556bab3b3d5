"""Directors that end at a step of a change of their configuration, as by `kill -9`, one after the other: FILE.

For each line of standard input, `STEP NUMBER`, there is one that ends when that step begins for that many times; of
`event 0` it never does. What takes longest, to import all there is, is done once for all of them. Two lines answer: its
process ID, and, when it has ended, its exit code, or the signal that ended it, negative.
"""

import os
import signal
import sys
from pathlib import Path

from appliance.app import run
from appliance.transaction import Step


def doomed(file: Path, last: Step, number: int) -> int:
    """Run a director; returns its exit code if it gets there."""
    seen = 0

    def at(step: Step) -> None:
        nonlocal seen
        if step is last:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    return run(file, at=at)


if __name__ == "__main__":
    for line in sys.stdin:
        step, number = line.split()
        child = os.fork()
        if child == 0:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            os._exit(doomed(Path(sys.argv[1]), Step(step), int(number)))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

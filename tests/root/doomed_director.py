"""A director that ends at a step of a change of its configuration, as by `kill -9`: FILE STEP NUMBER."""

import os
import signal
import sys
from pathlib import Path

from appliance.app import run
from appliance.transaction import Step

FILE, STEP, NTH = Path(sys.argv[1]), Step(sys.argv[2]), int(sys.argv[3])
seen = 0


def at(step: Step) -> None:
    """End when that step begins for the N-th time."""
    global seen
    if step is STEP:
        seen += 1
        if seen == NTH:
            os.kill(os.getpid(), signal.SIGKILL)


sys.exit(run(FILE, at=at))

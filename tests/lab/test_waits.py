"""What is measured of waiting for a CPU."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack

from tests.lab.waits import Waits, all_threads, main_thread

SPIN = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True)\nwhile True: pass"


def test_who_waits_for_a_cpu_is_seen_and_who_sleeps_is_not() -> None:
    """Of two processes that want the same CPU one waits half the time; one that sleeps waits for nothing."""
    cpu = str(min(os.sched_getaffinity(0)))
    with ExitStack() as stack:
        processes = []
        for command in (*[[sys.executable, "-c", SPIN, cpu]] * 2, ["sh", "-c", "echo; exec sleep 60"]):
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        with Waits(main_thread(processes[0].pid)) as busy, Waits(all_threads(processes[2].pid)) as idle:
            begin = time.time()
            time.sleep(0.5)
            end = time.time()
    assert 0.1 < busy.between(begin, end) <= end - begin
    assert idle.between(begin, end) < busy.between(begin, end) / 2
    assert busy.between(begin - 20, begin - 10) == 0.0

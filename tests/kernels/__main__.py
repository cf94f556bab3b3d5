"""Boot other kernels than the running one, and run the tests that depend on the kernel inside.

    tests/run kernels [--list] [--tcg] [--all] [SERIES...] [-- PYTEST ARGUMENT...]

A SERIES is 6.1, or 6.1-rt for the PREEMPT_RT flavour; all that apt offers when none is named. --tcg emulates even where
KVM could be used. Arguments for pytest take the place of the list of files. The exit code is not zero when a test
fails, none runs, or a kernel does not boot.
"""

import argparse
import platform
import re
import signal
import sys

from tests.kernels.machine import KVM, TCG, Accelerator, Ran, accelerator, run
from tests.kernels.packages import Kernel, KernelsError, cache, offered, unpacked
from tests.kernels.targets import ROOT, SLOW_TARGETS, arguments, files, lost

TAIL = 40
"""Lines of a log that are shown where it tells why nothing worked."""
COLUMNS = "{:<8} {:<24} {:<5} {:>7} {:>7} {:>7} {:>8}  {}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/run kernels", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("series", nargs="*", help="6.1, 6.1-rt, ...; all that apt offers when none is named")
    parser.add_argument("--list", action="store_true", help="name the kernels that apt offers, and end")
    parser.add_argument("--tcg", action="store_true", help="emulate, even where KVM could be used")
    parser.add_argument("--all", action="store_true", help="the slow tests too; with KVM they always run")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:end])
    # A machine that runs ends with us, however we end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        kernels = _chosen(options.series)
        if options.list:
            print("\n".join(f"{kernel.series:<8} {kernel.release}" for kernel in kernels))
            return 0
        how = TCG if options.tcg else accelerator()
        slow = options.all or how is KVM
        targets = given[end + 1 :] or files(slow=slow)
        if not slow:
            print(f"left out under emulation, without --all: {', '.join(SLOW_TARGETS)}")
        rows = [_tested(kernel, how, targets) for kernel in kernels]
    except KernelsError as error:
        sys.exit(f"kernels: {error}")
    print("\n" + COLUMNS.format("series", "kernel", "by", "boot s", "passed", "failed", "total s", ""))
    for row in rows:
        print(COLUMNS.format(*row))
    return int(any(row[-1] != "ok" for row in rows))


def _chosen(series: list[str]) -> list[Kernel]:
    if platform.machine() != "x86_64":
        raise KernelsError("only x86-64 machines are emulated")
    kernels = offered()
    if not kernels:
        raise KernelsError("apt offers no kernel; apt-get update?")
    known = {kernel.series: kernel for kernel in kernels}
    if unknown := [name for name in series if name not in known]:
        raise KernelsError(f"apt does not offer {', '.join(unknown)}; there is {', '.join(known)}")
    return [known[name] for name in series] or kernels


def _tested(kernel: Kernel, how: Accelerator, targets: list[str]) -> tuple[str, ...]:
    """Test one kernel, tell what was wrong, and give its row of the table."""
    print(f"\n== {kernel.release} ({how.name}, at most {how.limit_s:.0f} s)", flush=True)
    for entry in lost(kernel.version):
        print(f"left out: {entry.tests} ({entry.why})", flush=True)
    pytest = [sys.executable, "-m", "pytest", *arguments(kernel.version, how.test_limit_s, targets)]
    command = ["env", f"ONWARD_PATIENCE={how.patience}", *pytest]
    ran = run(kernel, unpacked(kernel), command, ROOT, how)
    counts = _counts(ran.output)
    problem = _problem(ran, counts, how)
    if problem == "ok":
        print(ran.output.rstrip().splitlines()[-1])
    elif ran.boot_s is None or ran.exit is None:
        print(
            f"{problem}\n{_tail(ran.console)}\n{_tail(ran.output)}\nthe whole logs: {cache() / 'logs' / kernel.series}"
        )
    else:
        print(ran.output)
    boot = "-" if ran.boot_s is None else f"{ran.boot_s:.1f}"
    figures = (str(counts.get("passed", 0)), str(_failed(counts)), f"{ran.total_s:.1f}")
    return kernel.series, kernel.release, how.name, boot, *figures, problem


def _counts(output: str) -> dict[str, int]:
    """The figures of pytest's last line."""
    last = output.rstrip().rpartition("\n")[2]
    return {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|error|skipped)", last)}


def _failed(counts: dict[str, int]) -> int:
    return counts.get("failed", 0) + counts.get("error", 0)


def _problem(ran: Ran, counts: dict[str, int], how: Accelerator) -> str:
    if ran.boot_s is None:
        return "does not boot" if ran.total_s < how.boot_limit_s else f"has not booted within {how.boot_limit_s:.0f} s"
    if ran.exit is None:
        return (
            "the machine ended before the tests"
            if ran.total_s < how.limit_s
            else f"not ready within {how.limit_s:.0f} s"
        )
    if not counts.get("passed"):
        return "no test ran"
    return "ok" if ran.exit == 0 else "tests failed"


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL:])


if __name__ == "__main__":
    sys.exit(main())

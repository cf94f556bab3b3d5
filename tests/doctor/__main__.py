"""`tests/run doctor`: breaks a lab in one way after the other, and prints what the doctor says.

The exit status is 1 when a fault was not named, or something was that is well.
"""

import argparse
import platform
import sys
import tempfile
from pathlib import Path

from tests.doctor.faults import FAULTS, LEFT_OUT
from tests.doctor.lab import lab
from tests.doctor.run import failures, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/run doctor", description="Does the doctor name what is broken?")
    parser.add_argument("--plane", choices=["raw", "xdp"], default="raw", help="(raw)")
    parser.add_argument("--only", default="", help="faults whose names have this text in them")
    parser.add_argument("--short", action="store_true", help="some that differ in kind, and one director")
    options = parser.parse_args()
    faults = [
        one
        for one in FAULTS
        if options.only in f"{one.number} {one.what}"
        and (one.short or not options.short)
        and options.plane in one.planes
    ]
    other = not options.short and any(one.other for one in faults)
    print(f"Linux {platform.release()}, {options.plane} plane; each fault by itself, and the first run after it\n")
    right, false_alarms = 0, 0
    with (
        tempfile.TemporaryDirectory(prefix="onward-doctor-") as folder,
        lab(Path(folder), options.plane, other=other) as made,
    ):
        for _ in range(2):
            found = failures(made.doctor())
            false_alarms += len(found)
            print(f"nothing is broken: {len(found)} findings{': ' if found else ''}{_words(found)}", flush=True)
        print("\n| | fault | found | right | false alarms | s |\n|---|---|---|---|---|---|")
        for outcome in run(made, faults):
            right += outcome.right
            false_alarms += outcome.false_alarms
            alarms = [f"{check} {member}" for check, member in sorted(outcome.found - outcome.fault.named)]
            alarms += [f"{check} {member} (mended)" for check, member in sorted(outcome.after)]
            row = [
                outcome.fault.number,
                outcome.fault.what,
                _words(outcome.found),
                "yes" if outcome.right else f"no, it is {_words(outcome.fault.named)}",
                ", ".join(alarms) or "0",
                f"{outcome.seconds:.1f}",
            ]
            print("|", " | ".join(row), "|", flush=True)
            if not outcome.right or outcome.false_alarms:
                print("\n".join(f"    {text}" for text in outcome.texts), flush=True)
    print()
    if not options.only and not options.short:
        for number, why in LEFT_OUT.items():
            print(f"left out: {number} {why}")
    print(f"{right} of {len(faults)} faults named right, {false_alarms} false alarms")
    return int(right < len(faults) or false_alarms > 0)


def _words(found: frozenset[tuple[str, str]]) -> str:
    """By check: of which members."""
    by_check: dict[str, list[str]] = {}
    for check, member in sorted(found):
        by_check.setdefault(check, []).append(member)
    return ", ".join(
        f"{check} ({', '.join(filter(None, whom))})".replace(" ()", "") for check, whom in by_check.items()
    )


if __name__ == "__main__":
    sys.exit(main())

"""What Prometheus itself says of what we ship for it."""

import shutil
import subprocess
import sys
from pathlib import Path


def promtool(*words: str, stdin: str | None = None) -> tuple[int, str]:
    """Run promtool: the one that bootstrap.sh has put beside our Python, or the system's. Exit code and all it says."""
    beside = Path(sys.executable).parent / "promtool"
    program = str(beside) if beside.exists() else shutil.which("promtool")
    assert program is not None, "there is no promtool; tests/run fetches it"
    done = subprocess.run([program, *words], input=stdin, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr

"""A machine of its own, with systemd as PID 1: systemd-nspawn over an overlay of this one's files, which stay.

Inside, a script runs once when the machine is up; what it prints comes back, and the machine is switched off.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUIET = (
    "networking",
    "systemd-networkd",
    "systemd-resolved",
    "systemd-timesyncd",
    "frr",
    "bird",
    "etcd",
    "unbound",
    "ssh",
)
"""What this machine may have, and the other one must not start."""

UNIT = """
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '{command} >/script.out 2>&1; echo $? >/script.rc'
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=null
TimeoutStartSec={limit_s}
[Install]
WantedBy=default.target
"""


class Machine:
    """Files that a machine will see in the place of this one's."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def run(self, *command: str) -> str:
        """Before it is booted, in a chroot."""
        mounts = 'for place in proc dev; do mount --rbind "/$place" "$0/$place"; done; exec chroot "$0" "$@"'
        words = ["unshare", "--mount", "sh", "-ec", mounts, str(self.root), *command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def boot(self, command: str, limit_s: float) -> tuple[int, str]:
        """Boot it, run a command when it is up, switch it off.

        Returns:
            Exit code and output of the command.
        """
        self.write("/etc/machine-id", "")
        self.write("/etc/systemd/system/script.service", UNIT.format(command=command, limit_s=int(limit_s)))
        wants = self.root / "etc/systemd/system/default.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / "script.service").symlink_to("/etc/systemd/system/script.service")
        for name in QUIET:
            unit = self.root / f"etc/systemd/system/{name}.service"
            unit.unlink(missing_ok=True)
            unit.symlink_to("/dev/null")
        words = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "-D", str(self.root), "--private-network"]
        words += ["--capability=all", "--system-call-filter=bpf perf_event_open", "--console=pipe", "-b"]
        words += [f"--machine=ow{os.getpid()}"]
        with (self.root / "console.log").open("w") as console:
            try:
                subprocess.run(
                    words, stdin=subprocess.DEVNULL, stdout=console, stderr=console, timeout=limit_s, check=False
                )
            except subprocess.TimeoutExpired:
                pass
        if not (self.root / "script.rc").exists():
            said = (self.root / "console.log").read_text(errors="replace")[-3000:]
            output = self.root / "script.out"
            raise AssertionError(
                f"the machine did not come to an end within {limit_s} s: {said}\n"
                f"{output.read_text(errors='replace') if output.exists() else 'the script was not reached'}"
            )
        return int((self.root / "script.rc").read_text()), (self.root / "script.out").read_text(errors="replace")


@contextmanager
def machine() -> Iterator[Machine]:
    """One that has all that this one has. Gone at the end, with everything that was written."""
    assert shutil.which("systemd-nspawn"), "apt-get install systemd-container"
    scratch = Path(tempfile.mkdtemp(prefix="onward-machine-"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(scratch)], check=True)
    try:
        for name in ("upper", "work", "root"):
            (scratch / name).mkdir()
        layers = f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(scratch / "root")], check=True)
        try:
            yield Machine(scratch / "root")
        finally:
            subprocess.run(["umount", "-l", str(scratch / "root")], check=True)
    finally:
        subprocess.run(["umount", "-l", str(scratch)], check=True)
        scratch.rmdir()

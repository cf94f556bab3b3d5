"""A running node: its process 1, and programs started in it."""

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fcntl import ioctl
from pathlib import Path
from typing import IO, Any

import appliance

NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17

_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The lab cannot do what was asked; the text says what and where, and what to do."""


class NotFoundError(LabError):
    """There is no lab, or no node, of that name."""


@dataclass(frozen=True)
class Holder:
    """A node's process 1, told apart from a later process that got the same PID."""

    pid: int
    pid_namespace: int
    """Inode number of its PID namespace: another process with this PID will hardly be in one of the same number."""

    @classmethod
    def of(cls, pid: int) -> "Holder":
        return cls(pid, Path(f"/proc/{pid}/ns/pid").stat().st_ino)

    def alive(self) -> bool:
        try:
            if self.of(self.pid) != self:
                return False
            # A zombie is a dead one whose parent does not care; everything else in the node went before it.
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def processes(self) -> list[tuple[int, str]]:
        """PID and command line of everything in the node but process 1, in the order of PIDs."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.pid:
                continue
            try:
                if (entry / "ns/pid").stat().st_ino == self.pid_namespace:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if command:  # a zombie has none
                        found.append((int(entry.name), command))
            except OSError:  # it ended meanwhile
                continue
        return sorted(found)


class Process(subprocess.Popen[str]):
    """A program in a node. Signals go to the program itself, not to the `nsenter` in front of it."""

    def send_signal(self, sig: int) -> None:
        if self.poll() is not None:
            return
        inner = self.inner_pid()
        if inner is None:
            super().send_signal(sig)
        else:
            try:
                os.kill(inner, sig)
            except ProcessLookupError:
                pass

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def inner_pid(self) -> int | None:
        """The program's PID as this machine sees it."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None


@dataclass(frozen=True)
class Node:
    """One node of a lab that is up."""

    name: str
    netns: str
    """Name of its network namespace, for `ip netns`."""
    holder: Holder
    image: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    ready: tuple[str, ...] = ()

    @property
    def netns_path(self) -> Path:
        return NETNS / self.netns

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line that runs *arguments* inside."""
        enter = ["nsenter", f"--target={self.holder.pid}", "--net", "--mount", "--uts", "--ipc", "--pid", "--"]
        return [*enter, *map(str, arguments)]

    def environment(self) -> dict[str, str]:
        """What programs in the node get: `onward` and this Python first in the path, and the node's own settings."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(Path(appliance.__file__).parent.parent),
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"),
            **self.env,
        }

    def popen(
        self,
        arguments: Sequence[str | Path],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a program. It ends with the node at the latest."""
        return Process(
            self.command(*arguments),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
            env={**self.environment(), **(env or {})},
        )

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        timeout: float = 30.0,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - subprocess.run calls it so
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end.

        Args:
            timeout: seconds.
            check: raise when it fails.

        Raises:
            LabError: it failed; the text has what it said.
            subprocess.TimeoutExpired: it took too long, and was killed.
        """
        with self.popen(arguments, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, env=env) as process:
            try:
                stdout, stderr = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        result = subprocess.CompletedProcess(list(map(str, arguments)), process.returncode, stdout, stderr)
        if check and result.returncode:
            said = (result.stderr or result.stdout).strip()
            raise LabError(f"{self.name}: {' '.join(result.args)}: exit code {result.returncode}: {said}")
        return result

    def start(self, arguments: Sequence[str | Path], log: Path) -> None:
        """Start a program that outlives us; its output is appended to *log*."""
        with log.open("a") as output:
            # setsid forks: the program becomes a child of the node's process 1.
            self.run_quietly(["setsid", "--fork", *arguments], output)

    def run_quietly(self, arguments: Sequence[str | Path], output: IO[str]) -> None:
        """Run a program with its output in a file: whatever it leaves running may hold on to that.

        Raises:
            LabError: it failed.
        """
        with self.popen(arguments, stdout=output, stderr=subprocess.STDOUT) as process:
            code = process.wait()
        if code:
            raise LabError(f"{self.name}: {' '.join(map(str, arguments))}: exit code {code}; see {output.name}")

    def write(self, path: str, text: str) -> None:
        """Make a file in the node, with the folders above it."""
        self.run(["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "sh", path], input=text)

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "env": dict(self.env)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Node":
        return cls(**{**record, "holder": Holder(**record["holder"]), "ready": tuple(record["ready"])})


def tail(log: Path) -> str:
    """The last lines of a log file; a lab that fails takes the file along."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(lines[-10:]) or "nothing"


def socket_in(netns: Path, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    """A socket that belongs to another network namespace; the calling thread is back in its own afterwards."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(there)
        try:
            return socket.socket(family, kind)
        finally:
            _setns(home)
    finally:
        os.close(there)
        os.close(home)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


def complete_checksums(netns: Path, interface: str) -> None:
    """Switch transmit checksum offload off: a veth hands packets over with partial checksums otherwise, and with them
    super-frames, which no packet socket and no XDP program on the other side can forward.

    Needs no `ethtool`, only its ioctl.
    """
    # struct ifreq with a pointer to struct ethtool_value
    value = bytearray(struct.pack("II", ETHTOOL_STXCSUM, 0))
    buffer = (ctypes.c_char * len(value)).from_buffer(value)
    request = struct.pack("16sQ16x", interface.encode(), ctypes.addressof(buffer))
    with socket_in(netns) as control:
        ioctl(control, SIOCETHTOOL, request)

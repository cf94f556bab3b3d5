"""The ground under the data-plane benchmark: namespaces, wires, pinned processes, counters, one lock.

Every contender has a rig of its own, all alike, so that contenders can take turns within a second:

    client c0 ---- d0 director d1 ---- s0 member          192.0.2.0/24 | 203.0.113.0/24, VIPs on the member's loopback

The load generator and all that happens in its softirqs (the director's receive side among them) is on CPU 0, the
director on CPU 1, which also pays for delivery to the member. Everything timed runs at nice -20, because other work on
the machine must disturb a short run as little as possible, and all contenders alike.
"""

import ctypes
import fcntl
import http.client
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).parent
PROGRAMS = ("gen", "forward", "hook", "pingpong")
PREFIX = "owk"
LOCK = Path(tempfile.gettempdir()) / "onward-bench.lock"
GENERATOR_CPU, DIRECTOR_CPU = 0, 1
MEMBERS = 8

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


class BenchError(Exception):
    """The benchmark cannot go on; the text says where and what to do."""


@dataclass(frozen=True)
class Family:
    """The addresses of one IP version."""

    version: int
    bits: int
    client: str
    director_client: str
    director_member: str
    member: str
    members: tuple[str, ...]
    """Of the pool: all of them on the member's interface."""

    vip: str


V4 = Family(
    4, 24, "192.0.2.2", "192.0.2.1", "203.0.113.1", "203.0.113.2",
    tuple(f"203.0.113.{11 + i}" for i in range(MEMBERS)), "198.51.100.7",
)  # fmt: skip
V6 = Family(
    6, 64, "2001:db8:1::2", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:2::2",
    tuple(f"2001:db8:2::{11 + i}" for i in range(MEMBERS)), "2001:db8:f::7",
)  # fmt: skip
FAMILIES = {"v4": V4, "v6": V6}

MACS = {"c0": "02:00:00:00:00:01", "d0": "02:00:00:00:00:02", "d1": "02:00:00:00:00:03", "s0": "02:00:00:00:00:04"}


def mac(interface: str) -> bytes:
    return bytes.fromhex(MACS[interface].replace(":", ""))


@contextmanager
def exclusive() -> Iterator[None]:
    """Only one measurement at a time on a machine; waits for its turn."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def compiled() -> Iterator[Path]:
    """The C programs, compiled as anybody would; yields their folder."""
    with tempfile.TemporaryDirectory(prefix="onward-bench-") as name:
        folder = Path(name)
        compilers = [
            (program, subprocess.Popen(["gcc", "-O2", "-Wall", "-o", folder / program, HERE / f"{program}.c"]))
            for program in PROGRAMS
        ]
        for program, compiler in compilers:
            if compiler.wait():
                raise BenchError(f"tests/bench/{program}.c does not compile; gcc and the kernel's headers are needed")
        yield folder


def sweep() -> None:
    """Remove namespaces of benchmark runs that were killed."""
    for name in run("ip", "netns", "list").split():
        match = re.fullmatch(rf"{PREFIX}(\d+)-.*", name)
        if match and not Path(f"/proc/{match[1]}").exists():
            run("ip", "netns", "del", name)


class Rig:
    """Three namespaces in a row. Use as a context manager: it leaves nothing behind."""

    def __init__(self, name: str, programs: Path) -> None:
        self.name = name
        self.programs = programs
        self._stack = ExitStack()

    def __enter__(self) -> "Rig":
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def namespace(self, role: str) -> str:
        return f"{PREFIX}{os.getpid()}-{self.name}-{role}"

    def _build(self, stack: ExitStack) -> None:
        c, d, s = (self.namespace(role) for role in ("client", "director", "member"))
        for namespace in (c, d, s):
            run("ip", "netns", "add", namespace)
            stack.callback(subprocess.run, ["ip", "netns", "del", namespace], check=False)
            settings = ["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"]
            settings += ["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"]
            if namespace == d:
                settings += ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]
            run("ip", "netns", "exec", namespace, "sysctl", "-qw", *settings)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        for near, a, far, b in ((c, "c0", d, "d0"), (d, "d1", s, "s0")):
            run(
                "ip", "-n", near, "link", "add", a, "address", MACS[a], "type", "veth",
                "peer", "name", b, "address", MACS[b], "netns", far,
            )  # fmt: skip
        for family in FAMILIES.values():
            for namespace, interface, addresses in (
                (c, "c0", (family.client,)),
                (d, "d0", (family.director_client,)),
                (d, "d1", (family.director_member,)),
                (s, "s0", (family.member, *family.members)),
            ):
                for address in addresses:
                    run("ip", "-n", namespace, "address", "add", f"{address}/{family.bits}", "dev", interface)
            run("ip", "-n", s, "address", "add", f"{family.vip}/{128 if family is V6 else 32}", "dev", "lo")
        for namespace, interface in ((c, "c0"), (d, "d0"), (d, "d1"), (s, "s0")):
            # Half a checksum and frames larger than the link are inventions of veth; no wire carries them.
            run("ip", "netns", "exec", namespace, "ethtool", "-K", interface, "tx", "off", "tso", "off", "gso", "off")
            run("ip", "-n", namespace, "link", "set", interface, "up")
        for family in FAMILIES.values():
            run("ip", "-n", c, "route", "add", "default", "via", family.director_client)
            run("ip", "-n", s, "route", "add", "default", "via", family.director_member)
        # /proc/self/net is the one of the namespace in which it was opened, and stays it.
        self._counters = stack.enter_context(_inside(d, Path("/proc/self/net/dev").open))

    def start(
        self, stack: ExitStack, role: str, command: Sequence[Any], *, cpu: int, ready: bool = True, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a program in a namespace; it ends with the stack, and with us whatever happens.

        Args:
            ready: wait for its line "ready".
        """
        words = self._prefix(role, cpu) + [str(word) for word in command]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, **options
        )
        stack.callback(stop, process)
        _prefer(process.pid)
        if ready:
            line = process.stdout.readline() if process.stdout else ""
            if line != "ready\n":
                raise BenchError(f"{self.name}: {command[0]} did not start (exit code {process.poll()})")
        return process

    def output(self, role: str, command: Sequence[Any], *, cpu: int) -> str:
        """What a program prints; it runs to its end."""
        with ExitStack() as stack:
            process = self.start(stack, role, command, cpu=cpu, ready=False)
            text: str = process.communicate()[0]
        if process.returncode:
            raise BenchError(f"{self.name}: {command[0]} failed with exit code {process.returncode}")
        return text

    def _prefix(self, role: str, cpu: int) -> list[str]:
        return [
            "setpriv", "--pdeathsig", "KILL", "nice", "-n", "-20", "taskset", "-c", str(cpu),
            "ip", "netns", "exec", self.namespace(role),
        ]  # fmt: skip

    @contextmanager
    def sink(self) -> Iterator[Callable[[], int]]:
        """Frames for the member are counted and dropped as soon as they arrive. Yields the way to read the count."""
        with ExitStack() as stack:
            process = self.start(stack, "member", [self.programs / "hook", "s0", "sink"], cpu=DIRECTOR_CPU)

            def count() -> int:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                return int(process.stdout.readline())

            yield count

    def received(self, interface: str) -> int:
        """Frames that came in on d0 or on s0 so far, by the interface's own counter.

        A veth's sender counts what its peer was given: what d1 has transmitted, s0 has received.
        """
        self._counters.seek(0)
        ours = "d1" if interface == "s0" else interface
        line = next(line for line in self._counters if line.strip().startswith(f"{ours}:"))
        columns = line.partition(":")[2].split()  # 8 for receiving (bytes, packets, ...), then 8 for transmitting
        return int(columns[9] if interface == "s0" else columns[1])

    def fetch(self, role: str, port: int, path: str) -> str:
        """What an HTTP server on a namespace's loopback answers.

        Raises:
            BenchError: it does not, or not with 200.
        """
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.sock = _inside(
                self.namespace(role), lambda: socket.create_connection(("127.0.0.1", port), timeout=10)
            )
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{self.name}: GET {path} from port {port}: {error}") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise BenchError(f"{self.name}: GET {path} from port {port}: {answer.status} {answer.reason}")
        return text

    def socket(self, role: str, interface: str, protocol: int) -> socket.socket:
        """A packet socket on an interface of a namespace."""

        def make() -> socket.socket:
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            s.bind((interface, protocol))
            return s

        return _inside(self.namespace(role), make)


def stop(process: subprocess.Popen[str], patience_s: float = 8.0) -> str:
    """SIGTERM, then SIGKILL. Returns what it still printed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=patience_s)[0] or ""
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0] or ""
    except ValueError:  # it was stopped before, and its pipes are closed
        return ""


def _prefer(pid: int) -> None:
    """Where the kernel groups processes by session (autogroup, sched(7)), niceness counts inside of the group only, and
    the group has one of its own."""
    try:
        Path(f"/proc/{pid}/autogroup").write_text("-20")
    except FileNotFoundError:
        pass  # a kernel without autogroups


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads so far. The scheduler's own account: clock ticks are too coarse for a second's run."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            pass  # a thread that has just ended
    return total * 1e-9


def wait_until(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise BenchError(f"{what}: not within {limit_s:g} s")
        time.sleep(0.02)


def _inside(namespace: str, make: Callable[[], T]) -> T:
    """Call *make* in a network namespace; sockets stay in the namespace they were made in."""
    with Path("/proc/self/ns/net").open() as home, Path(f"/run/netns/{namespace}").open() as there:
        _setns(there.fileno())
        try:
            return make()
        finally:
            _setns(home.fileno())


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), "setns")


def run(*command: str) -> str:
    """Run a command to its end. Returns what it printed.

    Raises:
        BenchError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done.stdout

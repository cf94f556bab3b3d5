"""client c0 -- d0 director d1 -- s0 member: namespaces, a data plane in the middle, frames in and out by hand.

A second cable, d2 -- t0, leads to the member as well.
"""

import atexit
import base64
import ctypes
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

from appliance.bpf.libbpf import Attach, Link, Object, XdpMode, attach
from appliance.dataplane.base import Counters, DataPlaneError
from appliance.forwarding import ForwardingTables
from appliance.packet.action import Action
from tests.netns import Namespace, namespaces, veth

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
PACKET_OUTGOING = 4
MACS = {"c0": "02:71:00:00:00:01", "d0": "02:71:00:00:00:02", "d1": "02:71:00:00:00:03", "s0": "02:71:00:00:00:04"}
MACS |= {"d2": "02:71:00:00:00:05", "t0": "02:71:00:00:00:06"}
REPOSITORY = Path(__file__).parents[2]

T = TypeVar("T")


def of_the_kernel(frame: bytes) -> bool:
    """Whether a kernel sends it by itself: ARP, neighbour discovery (RFC 4861: hop limit 255), reports of groups (RFC
    3810: to ff02::16)."""
    kind, to_routers = frame[12:14], frame[:6] == bytes.fromhex("333300000016")
    return kind == b"\x08\x06" or (kind == b"\x86\xdd" and (frame[20:22] == b"\x3a\xff" or to_routers))


def mac(interface: str) -> bytes:
    return bytes.fromhex(MACS[interface].replace(":", ""))


def inside(space: Namespace, work: Callable[[], T]) -> T:
    """Run *work* within a namespace: sockets that it makes stay there."""
    results: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(f"/run/netns/{space.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            os.close(fd)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Wire:
    """A packet socket: frames out, and frames that arrived."""

    def __init__(self, space: Namespace, interface: str) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            made.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            made.bind((interface, ETH_P_ALL))
            return made

        self.socket = inside(space, make)
        self.socket.settimeout(0.05)

    def send(self, *frames: bytes, pause_every: int = 64) -> None:
        """Send, slowly enough that nothing has to be dropped on the way."""
        for number, frame in enumerate(frames):
            self.socket.send(frame)
            if number % pause_every == pause_every - 1:
                time.sleep(0.002)

    def receive(self, wanted: int, deadline_s: float = 5.0, keep: Callable[[bytes], bool] | None = None) -> list[bytes]:
        """Frames that arrived: until there are as many, or the deadline, and then whatever else comes at once."""
        got: list[bytes] = []
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            try:
                frame, address = self.socket.recvfrom(70000)
            except TimeoutError:
                if len(got) >= wanted:
                    break
                continue
            if address[2] != PACKET_OUTGOING and (keep is None or keep(frame)):
                got.append(frame)
        return got

    def close(self) -> None:
        self.socket.close()


@cache
def _nursery() -> socket.socket:
    """Forks processes of planes: a new interpreter would take longer to import everything than most tests take. It ends
    with us."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        words = [sys.executable, "-m", "tests.root.plane_child", "nursery", str(its.fileno())]
        alone = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # who forks has no other threads
        process = subprocess.Popen(words, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, cwd=REPOSITORY, env=alone)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


class Forked:
    """A process of the nursery, as far as it is used like a `subprocess.Popen`. How it has ended is not known."""

    def __init__(self, namespace: str, arguments: list[str], errors: IO[str]) -> None:
        its_input, stdin = os.pipe()
        stdout, its_output = os.pipe()
        self.stdin, self.stdout = os.fdopen(stdin, "w"), os.fdopen(stdout)
        order = "\0".join([namespace, *arguments]).encode()
        socket.send_fds(_nursery(), [order], [its_input, its_output, errors.fileno()])
        os.close(its_input)
        os.close(its_output)
        self.pid = int(_nursery().recv(100))
        self._handle: int | None
        try:
            self._handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self._handle = None  # that was quick

    def poll(self) -> int | None:
        """None: it runs."""
        return 0 if self._ended(0.0) else None

    def wait(self, timeout_s: float | None = None) -> None:
        if not self._ended(timeout_s):
            raise subprocess.TimeoutExpired("plane", timeout_s or 0.0)

    def kill(self) -> None:
        if self._handle is not None:
            try:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself

    def _ended(self, timeout_s: float | None) -> bool:
        if self._handle is None:
            return True
        waiting = select.poll()
        waiting.register(self._handle, select.POLLIN)
        if not waiting.poll(None if timeout_s is None else timeout_s * 1000):
            return False
        os.close(self._handle)
        self._handle = None
        return True


class Plane:
    """The plane in its process; the methods are those of the contract, without `await`."""

    def __init__(
        self,
        space: Namespace,
        interfaces: str,
        kind: str = "raw",
        under: tuple[str, ...] = (),
        inherit: tuple[int, ...] = (),
        log: Path | None = None,
        **settings: int,
    ) -> None:
        """
        Args:
            space: where it lives.
            interfaces: names with commas between them.
            kind: one of plane_child.KINDS.
            inherit: file descriptors that it gets from us.
            log: where its events go; our own standard error otherwise.
            under: a command that runs the plane's command, with other privileges for instance.
            settings: keywords for its constructor.
        """
        words = [kind, interfaces, *(f"{key}={value}" for key, value in settings.items())]
        self.process: Forked | subprocess.Popen[str]
        with log.open("a") if log is not None else nullcontext(sys.__stderr__) as errors:
            if not under and not inherit:
                self.process = Forked(space.name, words, errors)
                return
            self.process = subprocess.Popen(
                space.command(*under, sys.executable, "-m", "tests.root.plane_child", *words),
                pass_fds=inherit,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
            )

    def _ask(self, method: str, *arguments: object) -> object:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(base64.b64encode(pickle.dumps((method, arguments))).decode() + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the plane's process died"
        good, value = pickle.loads(base64.b64decode(line))  # noqa: S301 - our own child
        if not good:
            raise DataPlaneError(value)
        return value

    def start(self) -> None:
        self._ask("start")

    def set(self, tables: ForwardingTables) -> None:
        self._ask("set", tables)

    def check(self) -> None:
        self._ask("check")

    def counters(self) -> Counters:
        value = self._ask("counters")
        assert isinstance(value, Counters)
        return value

    def explain(self, frame: bytes, interface: str = "d0") -> Action:
        value = self._ask("explain", frame, interface)
        assert isinstance(value, Action)
        return value

    def describe(self) -> dict[str, str]:
        return dict(self._ask("describe"))  # type: ignore[call-overload]

    def ask(self, method: str, *arguments: object) -> Any:
        """One of plane_child.EXTRA, or a method without a wrapper here."""
        return self._ask(method, *arguments)

    def injure(self, stall_s: float = 0.0) -> None:
        """The forwarding thread dies in its next round, or stalls for that long."""
        self._ask("injure", stall_s)

    def close(self) -> None:
        self._ask("close")

    def kill(self) -> None:
        self.process.kill()
        self._forget()

    def end(self) -> None:
        """Let the process end, politely when it still runs."""
        if self.process.poll() is None:
            try:
                self.close()
            except (AssertionError, DataPlaneError, BrokenPipeError):
                pass
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._forget()

    def _forget(self) -> None:
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


@dataclass
class Rig:
    client: Namespace
    director: Namespace
    member: Namespace
    near: Wire
    """At the client's end of its cable."""
    far: Wire
    """At the member's end of its cable."""
    side: Wire
    """At the member's end of the second cable."""
    kind: str
    """Of the planes."""
    ends: dict[str, Link]
    """Programs at the far ends of the cables, for XDP."""

    def ifindex(self, interface: str) -> int:
        return inside(self.director, lambda: socket.if_nametoindex(interface))

    def ruleset(self) -> str:
        return self.director.run("nft", "list", "ruleset")

    @contextmanager
    def plane(self, interfaces: str = "d0", **settings: int) -> Iterator[Plane]:
        """A started plane."""
        plane = Plane(self.director, interfaces, self.kind, **settings)
        try:
            plane.start()
            yield plane
        finally:
            plane.end()


@contextmanager
def rig(kind: str = "raw") -> Iterator[Rig]:
    """The namespaces and cables, with addresses and neighbours: 192.0.2.0/24 before, 203.0.113.0/24 behind."""
    with namespaces("c", "d", "s", prefix="oww") as (client, director, member):
        veth(client, "c0", director, "d0")
        veth(director, "d1", member, "s0")
        veth(director, "d2", member, "t0")
        for space, names in ((client, ("c0",)), (director, ("d0", "d1", "d2")), (member, ("s0", "t0"))):
            for name in names:
                space.ip(f"link set {name} address {MACS[name]}")
        addresses = (
            (client, "c0", "192.0.2.2/24", "2001:db8:1::2/64"),
            (director, "d0", "192.0.2.1/24", "2001:db8:1::1/64"),
            (director, "d1", "203.0.113.1/24", "2001:db8:2::1/64"),
            (member, "s0", "203.0.113.2/24", "2001:db8:2::2/64"),
        )
        for space, name, four, six in addresses:
            space.ip(f"addr add {four} dev {name}")
            space.ip(f"addr add {six} dev {name} nodad")
        client.ip("route add default via 192.0.2.1")
        client.ip("-6 route add default via 2001:db8:1::1")
        member.ip("route add default via 203.0.113.1")
        member.ip("-6 route add default via 2001:db8:2::1")
        director.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        wires = [Wire(client, "c0"), Wire(member, "s0"), Wire(member, "t0")]
        ends = {"c0": client, "s0": member, "t0": member} if kind == "xdp" else {}
        programs = {name: receptive(space, name) for name, space in ends.items()}
        try:
            yield Rig(client, director, member, *wires, kind, programs)
        finally:
            for wire in wires:
                wire.close()
            for program in programs.values():
                program.close()


def receptive(space: Namespace, interface: str) -> Link:
    """Let a veth take frames of XDP programs, and not merge them as GRO would."""

    def work() -> Link:
        with Object(traffic_object()) as passing:
            passing.load()
            ifindex = socket.if_nametoindex(interface)
            return attach(passing.program("leave_alone"), ifindex, Attach.XDP, XdpMode.NATIVE)

    return inside(space, work)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@cache
def traffic_object() -> Path:
    target = Path(_folder().name) / "traffic.bpf.o"
    source = Path(__file__).with_name("traffic.bpf.c")
    build = [sys.executable, str(REPOSITORY / "systemd" / "build_bpf.py"), "--only", str(source), "--to", str(target)]
    subprocess.run(build, check=True)
    return target

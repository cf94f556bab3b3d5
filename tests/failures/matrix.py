"""What can die, how it is mended, and what routers are to do meanwhile."""

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from subprocess import PIPE, Popen
from sys import executable

from tests.failures.stage import VIP, Stage, worst_ms
from tests.netns import until

PIDFD_GETFD = 438
"""The system call; `os` does not have it."""

STEADY_S = 0.5
"""How long all must be well with the traffic before something happens, and how long it goes on afterwards."""

UNDER_WAY_S = 0.25
"""A datagram may be so old when it gets lost by what happens."""

ATTEMPTS = 3


@dataclass(frozen=True)
class Failure:
    """Something that happens to the first of the directors that have the VIP, or to all of them."""

    name: str
    happens: Callable[[Stage, str], None]
    mended: Callable[[Stage, str], None] = lambda stage, name: None
    moves: bool = True
    """Whether routers are to leave the director; else all is well again by itself, and the director was never left or
    only for a moment."""
    goal_ms: float | None = None
    """What a client may miss, on a machine that does nothing else."""


def run(stage: Stage, failure: Failure) -> tuple[float, dict]:
    """Let it happen once, to a fleet that is well, and mend it.

    Returns:
        The longest time that any flow had no service, in ms, and what the client says.
    """
    for _ in range(ATTEMPTS):
        began, said = _once(stage, failure)
        # On a machine that stands still for a while routers leave directors by themselves: that says nothing.
        if not [outage for outage in said["outages"] if outage[0] < began - UNDER_WAY_S]:
            break
    else:
        raise AssertionError(f"{failure.name}: {ATTEMPTS} times there was no service before anything had happened")
    assert all(end is not None for _, end in said["outages"]), f"{failure.name}: flows without service to the end"
    return worst_ms(said), said


def _once(stage: Stage, failure: Failure) -> tuple[float, dict]:
    """When it happened, and what the client says."""
    stage.gets_well()
    name = stage.best[0]
    try:
        with stage.traffic() as said:
            time.sleep(STEADY_S)
            began = time.monotonic()
            failure.happens(stage, name)
            if failure.moves:
                stage.fib_becomes(*stage.left(name))
            else:
                stage.gets_well()
            time.sleep(STEADY_S)
    finally:
        failure.mended(stage, name)
    return began, said


def _kill(stage: Stage, name: str) -> None:
    stage.processes[name].kill()
    stage.processes[name].wait()


def _again(stage: Stage, name: str) -> None:
    stage.processes[name].wait()
    stage.start(name)


def _stop(stage: Stage, name: str) -> None:
    stage.processes[name].send_signal(signal.SIGSTOP)


def _go_on(stage: Stage, name: str) -> None:
    stage.processes[name].send_signal(signal.SIGCONT)


def _block(stage: Stage, name: str) -> None:
    """For some seconds; it goes on by itself."""
    stage.processes[name].send_signal(signal.SIGUSR2)


def _kill_exabgp(stage: Stage, name: str) -> None:
    old = stage.exabgp(name)
    assert old is not None
    os.kill(old, signal.SIGKILL)
    until(lambda: stage.exabgp(name) not in (None, old), "another ExaBGP", 30.0)


def _guard_stopped_and_director_killed(stage: Stage, name: str) -> None:
    for pid in stage.pids(name):
        if b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGSTOP)
    _kill(stage, name)


def _end_guards(stage: Stage, name: str) -> None:
    """Nobody else ends one that hangs and whose ExaBGP is gone."""
    for pid in stage.pids(name):
        if b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    _again(stage, name)


def _freeze(stage: Stage, name: str) -> None:
    for pid in stage.pids(name):
        os.kill(pid, signal.SIGSTOP)


def _thaw(stage: Stage, name: str) -> None:
    for pid in stage.pids(name):
        os.kill(pid, signal.SIGCONT)


def _cut(stage: Stage, name: str) -> None:
    stage.spaces["w"].ip(f"link set to-{name} down")


def _mend_link(stage: Stage, name: str) -> None:
    stage.spaces["w"].ip(f"link set to-{name} up")


def _interface_down(stage: Stage, name: str) -> None:
    stage.spaces[name].ip("link set eth1 down")


def _interface_up(stage: Stage, name: str) -> None:
    stage.spaces[name].ip("link set eth1 up")


def _xdp_links(pid: int) -> list[int]:
    """The descriptors by which a process keeps its XDP program on interfaces; without those that are detached."""
    found = []
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = path.read_text()
            if re.search(r"^link_type:\s+xdp$", text, re.MULTILINE) and not re.search(
                r"^ifindex:\s+0$", text, re.MULTILINE
            ):
                found.append(int(path.name))
        except FileNotFoundError:
            pass  # closed meanwhile
    return found


def _detach(stage: Stage, name: str) -> None:
    """Somebody takes the XDP program off, behind the director's back."""
    pid = stage.processes[name].pid
    number = until(lambda: _xdp_links(pid), "the program is attached", 30.0)[0]
    process = os.pidfd_open(pid)
    link = ctypes.CDLL(None).syscall(PIDFD_GETFD, process, number, 0)
    try:
        assert ctypes.CDLL("libbpf.so.1").bpf_link_detach(link) == 0
    finally:
        os.close(link)
        os.close(process)


def _router_dies(stage: Stage, _: str) -> None:
    """BIRD leaves its routes in the kernel when it is killed, FRR's zebra takes them out: so sessions are looked at."""
    before = {name: stage.peer(name)["since"] for name in stage.directors}
    stage.kill_router()

    def is_new(name: str) -> bool:
        peer = stage.peer(name)
        return peer.get("session") == "up" and peer["since"] != before[name]

    until(lambda: all(map(is_new, before)), "new sessions", 60.0)


SIGKILL = Failure("director: SIGKILL", _kill, _again, goal_ms=1000)
SIGSTOP = Failure("director: SIGSTOP", _stop, _go_on)
BLOCKED = Failure("director: event loop blocked", _block)
EXABGP = Failure("ExaBGP: SIGKILL", _kill_exabgp, moves=False)
GUARD = Failure("guard: SIGSTOP, and director: SIGKILL", _guard_stopped_and_director_killed, _end_guards)
CUT = Failure("director's cable cut behind a switch", _cut, _mend_link, goal_ms=500)
DOWN = Failure("director's interface down", _interface_down, _interface_up, goal_ms=500)
FROZEN = Failure("everything on the director frozen", _freeze, _thaw, goal_ms=500)
ROUTER = Failure("router's BGP process: SIGKILL", _router_dies, moves=False)
DETACHED = Failure("XDP program detached", _detach, moves=False)

MATRIX: tuple[tuple[str, dict[str, object], tuple[Failure, ...]], ...] = (
    ("raw", {}, (SIGKILL, SIGSTOP, BLOCKED, EXABGP, CUT, DOWN, FROZEN, ROUTER)),
    ("raw, without BFD", {"bfd": False}, (GUARD, replace(CUT, goal_ms=None), replace(FROZEN, goal_ms=None))),
    ("raw, active-standby", {"ha": "active_standby"}, (SIGKILL, CUT)),
    ("XDP", {"plane": "xdp"}, (SIGKILL, SIGSTOP, DETACHED)),
)
"""Fleets, by name: what is different from two directors with the raw plane that share the VIP; and what happens to
them."""


@dataclass
class Withdrawal:
    """Of one loss of all members: how long after the verdict the withdrawal was on the wire, by director, in ms."""

    took_ms: list[float]
    back_s: float
    """From when the member answered again until the router sent packets to all directors."""


@contextmanager
def updates(stage: Stage) -> Iterator[Callable[[], list[tuple[float, str]]]]:
    """Who sends BGP UPDATEs to the router, and when: by the machine's clock."""
    command = stage.spaces["r"].command(executable, "-m", "tests.root.ha_wire")
    wire = Popen(command, stdout=PIPE, text=True)

    def end() -> list[tuple[float, str]]:
        wire.kill()
        assert wire.stdout is not None
        return [(float(at), source) for at, source in map(str.split, wire.stdout)]

    try:
        assert wire.stdout is not None
        assert wire.stdout.readline() == "ready\n"
        yield end
    finally:
        wire.kill()
        wire.wait()
        if wire.stdout is not None:
            wire.stdout.close()


def members_lost(stage: Stage) -> Withdrawal:
    """The only member dies: every director withdraws the VIP as soon as it has the verdict."""
    stage.gets_well()
    with updates(stage) as seen:
        stage.kill_member()
        until(lambda: not stage.fib(), f"{VIP} is withdrawn", 15.0)
        time.sleep(STEADY_S)
        updated = seen()
    took = []
    for name in stage.directors:
        verdicts = [event for event in stage.events(name) if event["event"] == "health.down"]
        verdict = datetime.fromisoformat(verdicts[-1]["timestamp"]).timestamp()
        address = f"192.0.2.{10 + int(name[1:])}"
        took.append(1000 * (min(at for at, source in updated if source == address and at >= verdict) - verdict))
    began = time.monotonic()
    stage.start_member()
    stage.gets_well()
    return Withdrawal(took, time.monotonic() - began)

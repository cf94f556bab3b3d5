"""A process that forwards by the tables in force while one director ends and the next one begins.

    director ──── order ────▶ keeper    opens rings of its own, follows the tables
             ◀─── begun ─────           takes frames; so the director looks away, and ends
    next one ──── done ─────▶           the next one takes frames; so the keeper looks away, and ends
    supervisor ── end of file ─▶        the service was stopped for good: it ends, and leaves nothing behind

All of that goes over one socket pair. The supervisor has a copy of the directors' end meanwhile, as it has of an XDP
program (`inheritance`). For some milliseconds at either change both take the same frames, so a few packets are doubled,
and none is lost.
"""

import asyncio
import os
import pickle
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from appliance import log as logging
from appliance.dataplane.pins import PinTable, Positions
from appliance.forwarding import ForwardingTables

if TYPE_CHECKING:
    from appliance.dataplane.raw.plane import RawDataPlane

log = structlog.get_logger()

NAME = "keeper."
"""What a keeper's name among what is left to the next process begins with; the process's number follows."""

BEGIN_S = 20.0
"""How long it may take until the keeper forwards. It has an interpreter to start, on a machine that may be busy."""

_BEGUN, _DONE = b"begun", b"done"
_LENGTH = 8
_LOOK_MS = 250
_ROOT = Path(__file__).parents[3]
_START = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from appliance.dataplane.raw.keeper import main; main()"
_PROGRAM = (sys.executable, "-P", "-c", _START)


@dataclass(frozen=True)
class Order:
    """What a keeper is to do. It goes from a process to one of the same version."""

    interfaces: tuple[str, ...]
    tables: ForwardingTables
    offloads: Mapping[str, tuple[str, ...]]
    """What is to be switched on in the end, by interface, should nobody follow."""

    pins: int
    """Flows to remember at once; the table itself comes along as a descriptor."""

    heard: bool
    """Whether there are other directors, who would have to be told of new connections in windows."""


@dataclass(frozen=True)
class Relief:
    """What a plane has to know that begins in the place of one that still forwards."""

    offloads: Mapping[str, tuple[str, ...]]
    """Switched off already, to be switched on in the end, by interface."""

    begun: Callable[[], None]
    """Called when frames are taken."""


class KeeperError(Exception):
    """There is no keeper; the text says why."""


def start(order: Order, pins: int, leave: Callable[[str, int], bool]) -> None:
    """Have a process forward from now on. It ends when nobody has its socket any more.

    Args:
        order: what it is to do.
        pins: descriptor of the table of remembered flows.
        leave: takes the keeper's name and that socket, which stays open; whether the supervisor has a copy of it now.

    Raises:
        KeeperError: it does not forward, and will not.
    """
    ours, theirs = socket.socketpair()
    with ours:
        try:
            with theirs:
                actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
                pid = os.posix_spawn(_PROGRAM[0], _PROGRAM, os.environ, file_actions=actions)
            ours.settimeout(BEGIN_S)
            text = pickle.dumps(order)
            socket.send_fds(ours, [len(text).to_bytes(_LENGTH, "big")], [pins])
            ours.sendall(text)
            if ours.recv(len(_BEGUN)) != _BEGUN:
                raise KeeperError("it has ended; the log says why")
        except OSError as error:
            raise KeeperError(f"it cannot be started, or does not answer: {error}") from error
        if not leave(f"{NAME}{pid}", ours.fileno()):
            raise KeeperError("the supervisor does not keep its socket")
        ours.detach()


def lives(name: str) -> int:
    """The process ID of a keeper, by its name; 0 when it has ended."""
    pid = int(name.removeprefix(NAME))
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)  # of one that this process has started
    except ChildProcessError:
        pass
    return pid if Path(f"/proc/{pid}").exists() else 0


def relieve(fd: int) -> None:
    """Tell a keeper that somebody else forwards now. One that has ended is told nothing."""
    with socket.socket(fileno=os.dup(fd)) as keeper:
        try:
            keeper.send(_DONE, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError:
            pass


class Mute:
    """A herald that can tell nobody: so new connections in windows go where everybody presumes them."""

    is_heard = False

    def grant(self, wanted: int) -> int:
        """None of *wanted*."""
        del wanted
        return 0

    def tell(self, positions: Positions) -> None:
        """Nobody hears it; the next process tells of what it finds in the table."""


def main() -> None:
    """Be a keeper, for the director at the other end of standard input."""
    logging.configure()
    with socket.socket(fileno=os.dup(0)) as director:
        asyncio.run(_keep(director))


async def _keep(director: socket.socket) -> None:
    from appliance.dataplane.raw.plane import RawDataPlane

    order, pins = _receive(director)
    plane = RawDataPlane(
        order.interfaces,
        use_xsk=False,  # that of the director has the interfaces' queues
        relief=Relief(order.offloads, lambda: director.sendall(_BEGUN)),
    )
    plane.pins = PinTable.in_file(pins, order.pins, time.monotonic_ns)
    if order.heard:
        plane.pins.herald = Mute()
    await plane.start()
    followed = False
    try:
        await plane.set(order.tables)
        log.info("plane.keeper_begun", pid=os.getpid(), interfaces=order.interfaces)
        followed = await asyncio.to_thread(_wait, director, plane)
        if followed:
            await asyncio.to_thread(plane.look_away)
    finally:
        await plane.close(leave=followed)
        log.info("plane.keeper_ended", pid=os.getpid(), followed=followed)


def _receive(director: socket.socket) -> tuple[Order, int]:
    head, fds, _, _ = socket.recv_fds(director, _LENGTH, 1)
    missing = int.from_bytes(head, "big")
    text = bytearray()
    while len(text) < missing:
        part = director.recv(missing - len(text))
        if not part:
            raise EOFError("the director has ended in the middle of its order")
        text += part
    order: Order = pickle.loads(text)  # noqa: S301 - by the process that has started this one, over a nameless socket
    return order, fds[0]


def _wait(director: socket.socket, plane: "RawDataPlane") -> bool:
    """Until somebody else forwards; False when nobody does, or when this plane does not any more."""
    poll = select.poll()
    poll.register(director, select.POLLIN)
    while not poll.poll(_LOOK_MS):
        if fault := plane.fault():
            log.error("plane.failed", error=fault)
            return False
    return director.recv(len(_DONE)) == _DONE

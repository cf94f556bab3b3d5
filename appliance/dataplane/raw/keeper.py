"""A process that forwards by the tables in force when one director has ended and the next one has not begun.

    director ──── order ────▶ keeper    opens sockets of its own, and sleeps
             ──── tables ───▶           knows those in force
             ◀─── follows ───
             ──── begin ────▶           the director is going to be followed: the keeper takes frames,
             ◀─── begun ─────           so the director looks away, and ends
             ── closed pipe ▶           or the director has died: the keeper takes frames
    next one ──── done ─────▶           the next one takes frames; so the keeper looks away, and ends
    supervisor ── end of file ─▶        the service was stopped for good: it ends, and leaves nothing behind

All of that goes over one socket pair; only the end of a director shows at a pipe, for the supervisor has a copy of the
directors' end of the pair (`inheritance`), as it has of an XDP program.

Who dies has stopped forwarding before its pipe closes, so no packet is sent twice. When somebody is told to look away,
both take the same frames for some hundredths of a second: some packets are doubled, and none is lost.
"""

import asyncio
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from appliance import log as logging
from appliance.dataplane.pins import PinTable, Positions
from appliance.dataplane.raw.packing import Packer, Unpacker
from appliance.forwarding import ForwardingTables

if TYPE_CHECKING:
    from appliance.dataplane.raw.plane import RawDataPlane

log = structlog.get_logger()

NAME = "keeper."
"""What a keeper's name among what is left to the next process begins with; the process's number follows."""

BEGIN_S = 20.0
"""How long it may take until the keeper follows tables. It has an interpreter to start, on a machine that may be
busy."""

AGAIN_S, SELDOM_S = 1.0, 60.0
"""How long after the end of a keeper that was not meant to end another one is started: at first, and at most."""

PAUSE_S = 0.1
"""How long the keeper is left alone after new tables: where they change all the time, it follows some of them."""

END_S = 2.0
"""How long the end of a keeper that stands by may take."""

ALONE_S = 300.0
"""How long a keeper forwards without anybody who follows, at most: as long as `director.restart_grace` can be."""

_ORDER, _TABLES, _BEGIN = b"order", b"tables", b"begin"
_DONE = b"done"
"""The one word that the keeper of another version has to understand."""

_FOLLOWS, _BEGUN = b"follows", b"begun"
_WORD, _FDS = 16, 3
_LOOK_MS = 250
_HIGH_FD = 4096
"""The kernel closes a dying process's descriptors from the highest down, and each packet socket takes it some 10 ms."""

_ROOT = Path(__file__).parents[3]
_START = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from appliance.dataplane.raw.keeper import main; main()"
_PROGRAM = (sys.executable, "-P", "-c", _START)


@dataclass(frozen=True)
class Order:
    """What a keeper is to do. It goes from a process to one of the same version."""

    interfaces: tuple[str, ...]
    offloads: Mapping[str, tuple[str, ...]]
    """Switched off already, to be switched on in the end, should nobody follow; by interface."""

    pins: int
    """Flows to remember at once; the table itself comes along as a descriptor."""


@dataclass(frozen=True)
class _Wanted:
    tables: ForwardingTables
    heard: bool
    """Whether there are other directors, who would have to be told of new connections in windows."""


class KeeperError(Exception):
    """There is no keeper; the text says why."""


class Keeper:
    """A director's keeper: a thread starts it, tells it of new tables, and starts another one should it end."""

    def __init__(
        self, order: Order, pins: int, leave: Callable[[str, int], bool], forget: Callable[[str], None]
    ) -> None:
        """Nothing happens before `follow`.

        Args:
            order: what it is to do.
            pins: descriptor of the table of remembered flows.
            leave: gives the supervisor a keeper's name and a copy of its socket, and says whether it has it now.
            forget: takes them back.
        """
        self._order = order
        self._pins = pins
        self._leave = leave
        self._forget = forget
        self.name = ""
        """Its name among what is left; empty while there is none that could begin."""
        self._wanted: _Wanted | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._hurry = threading.Event()
        """Somebody waits for the thread."""
        self._ending = self._beginning = False
        self._outcome: str | None = None
        """Of `begin`: empty when the keeper has begun, else why it has not."""
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._main, name="keeper", daemon=True)

    def follow(self, tables: ForwardingTables, *, heard: bool) -> None:
        """Have it know tables that have come into force. Does not wait.

        Args:
            tables: those.
            heard: whether other directors hear of new connections.
        """
        self._wanted = _Wanted(tables, heard)
        if self._thread.ident is None:
            self._thread.start()
        os.eventfd_write(self._wake, 1)

    def begin(self) -> None:
        """Have it forward from now on, by the tables that it was told last. It goes on when this process has ended.

        Raises:
            KeeperError: it does not forward, and will not.
        """
        if self._thread.ident is None:
            raise KeeperError("nothing is forwarded")
        self._beginning = True
        self._hurry.set()
        os.eventfd_write(self._wake, 1)
        self._answered.wait(BEGIN_S)
        if self._outcome:
            raise KeeperError(self._outcome)
        if self._outcome is None:
            self._ending = True
            raise KeeperError(f"it does not answer within {BEGIN_S:g} s")

    def end(self, *, wait: bool = True) -> None:
        """End it, unless it has begun.

        Args:
            wait: until it has ended.
        """
        self._ending = True
        self._hurry.set()
        os.eventfd_write(self._wake, 1)
        if wait and self._thread.ident is not None:
            self._thread.join(END_S)

    def _main(self) -> None:
        pause_s = AGAIN_S
        while not self._ending and self._outcome is None:
            stood, why = False, ""
            try:
                child = _Child(self._order, self._pins)
            except Exception as error:  # nobody else would notice, and begin anew
                why = f"it cannot be started: {error!r}"
            else:
                try:
                    self._lead(child)
                except (OSError, KeeperError) as error:
                    why = str(error)
                except Exception as error:  # the same
                    why = repr(error)
                if self._outcome is None:
                    stood = bool(self.name)
                    self._part(child)
            if not why or self._ending:
                continue
            log.warning("plane.no_keeper", reason=why)
            if self._beginning:
                self._outcome = why
                self._answered.set()
            else:
                pause_s = AGAIN_S if stood else min(2 * pause_s, SELDOM_S)
                self._hurry.wait(pause_s)

    def _part(self, child: "_Child") -> None:
        name, self.name = self.name, ""
        if name:
            self._forget(name)
        child.end()

    def _lead(self, child: "_Child") -> None:
        """Until it has begun, or is to end.

        Raises:
            OSError, KeeperError: it has ended, or does not do what it is told.
        """
        packer, known = Packer(), None
        while not self._ending:
            wanted = self._wanted
            if wanted is not None and wanted is not known:
                fd = packer.pack(wanted)
                try:
                    child.say(_TABLES, fd)
                finally:
                    os.close(fd)
                if not self._hear(child, _FOLLOWS):
                    return
                known = wanted
                if not self.name:
                    name = f"{NAME}{child.pid}"
                    if not self._leave(name, child.socket.fileno()):
                        raise KeeperError("the supervisor does not keep its socket")
                    self.name = name
                    log.info("plane.keeper_stands", pid=child.pid)
                self._hurry.wait(PAUSE_S)
            elif self._beginning:
                child.say(_BEGIN)
                if self._hear(child, _BEGUN):
                    child.socket.detach()  # it is the next director's
                    self._outcome = ""
                    self._answered.set()
                return
            elif child.wait(self._wake, None):
                raise KeeperError("it has ended; the log says why")

    def _hear(self, child: "_Child", word: bytes) -> bool:
        """Wait for its answer; False when it is not to be waited for any more.

        Raises:
            KeeperError: it does not give it.
        """
        deadline = time.monotonic() + BEGIN_S
        while not child.wait(self._wake, deadline - time.monotonic()):
            if self._ending:
                return False
            if time.monotonic() >= deadline:
                raise KeeperError(f"it does not answer within {BEGIN_S:g} s")
        if child.socket.recv(_WORD) != word:
            raise KeeperError("it has ended; the log says why")
        return True


class _Child:
    """The process, as its director has it."""

    def __init__(self, order: Order, pins: int) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        dies, self._lives = os.pipe2(os.O_CLOEXEC)
        try:
            with theirs:
                actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
                self.pid = os.posix_spawn(_PROGRAM[0], _PROGRAM, os.environ, file_actions=actions)
            self._process = os.pidfd_open(self.pid)
            low, self._lives = self._lives, fcntl.fcntl(self._lives, fcntl.F_DUPFD_CLOEXEC, _high())
            os.close(low)
            told = Packer().pack(order)
            self.say(_ORDER, told, pins, dies)
            os.close(told)
        except BaseException:
            self.socket.close()
            os.close(self._lives)
            raise
        finally:
            os.close(dies)

    def say(self, word: bytes, *fds: int) -> None:
        socket.send_fds(self.socket, [word], fds, socket.MSG_NOSIGNAL)

    def wait(self, wake: int, seconds: float | None) -> bool:
        """Until it has said something or ended, which is True; or for so long, or until somebody calls."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(wake, select.POLLIN)
        ready = dict(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))
        if wake in ready:
            os.eventfd_read(wake)
        return self.socket.fileno() in ready

    def end(self) -> None:
        """Of one that stands by: it has changed nothing, so there is nothing for it to do."""
        try:
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
            os.waitid(os.P_PIDFD, self._process, os.WEXITED)
        except (ProcessLookupError, ChildProcessError):
            pass  # it has ended, and somebody has asked whether it lives
        self.socket.close()
        os.close(self._process)
        os.close(self._lives)  # now: while it lived, that would have told it to begin


def _high() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(_HIGH_FD, soft // 2)


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

    word, fds, _, _ = socket.recv_fds(director, _WORD, _FDS)
    if word != _ORDER:
        return  # the director needs none any more
    told, pins, life = fds
    order: Order = Unpacker().unpack(told)
    os.close(told)
    plane = RawDataPlane(
        order.interfaces,
        use_xsk=False,  # that of the director has the interfaces' queues
        stands=order.offloads,
    )
    plane.pins = PinTable.in_file(pins, order.pins, time.monotonic_ns)
    await plane.start()
    post = _Post(director, life, plane)
    try:
        await asyncio.to_thread(post.hold)
    finally:
        await plane.close(leave=not post.forwards or post.followed)
        if post.forwards:
            log.info("plane.keeper_ended", pid=os.getpid(), followed=post.followed)


class _Post:
    """What the keeper hears, and does."""

    def __init__(self, director: socket.socket, life: int, plane: "RawDataPlane") -> None:
        """
        Args:
            director: the socket of whoever directs it.
            life: the end of a pipe that closes when the director has ended.
            plane: its plane, which stands by.
        """
        self._director = director
        self._life = life
        self._plane = plane
        self._unpacker = Unpacker()
        self.forwards = False
        self.followed = False
        """Whether somebody else forwards now. Before it has forwarded itself, somebody else does all the time."""

    def hold(self) -> None:
        """Until it is done, or of no use.

        Raises:
            DataPlaneError: it cannot forward.
        """
        poll = select.poll()
        poll.register(self._director, select.POLLIN)
        poll.register(self._life, select.POLLIN)
        ends = float("inf")
        while time.monotonic() < ends:
            ready = dict(poll.poll(_LOOK_MS if self.forwards else None))
            if self._director.fileno() in ready:
                if not self._hear():
                    return
            elif self._life in ready:
                poll.unregister(self._life)
                if not self.forwards:
                    self._begin("the director has ended")
            elif self.forwards and (fault := self._plane.fault()):
                log.error("plane.failed", error=fault)
                return
            if self.forwards and ends == float("inf"):
                ends = time.monotonic() + ALONE_S

    def _hear(self) -> bool:
        """Do what it is told; False when that is to end."""
        word, fds, _, _ = socket.recv_fds(self._director, _WORD, _FDS)
        if word == _TABLES:
            wanted: _Wanted = self._unpacker.unpack(fds[0])
            os.close(fds[0])
            self._plane.pins.herald = Mute() if wanted.heard else None
            self._plane.follow(wanted.tables)
            self._say(_FOLLOWS)
        elif word == _BEGIN:
            self._begin("the director is going to end")
            self._say(_BEGUN)
        elif word == _DONE and self.forwards:
            self._plane.look_away()
            self.followed = True
        return word not in (_DONE, b"")

    def _say(self, word: bytes) -> None:
        try:
            self._director.send(word, socket.MSG_NOSIGNAL)
        except OSError:
            pass  # the director has ended

    def _begin(self, why: str) -> None:
        self._plane.begin()
        self.forwards = True
        log.info("plane.keeper_begun", pid=os.getpid(), reason=why)

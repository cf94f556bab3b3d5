"""A process that forwards by the tables in force when one director has ended and the next one has not begun.

    director ──── order ────▶ keeper    opens sockets of its own, and sleeps
             ──── tables ───▶           knows those in force
             ◀─── follows ───
             ──── begin ────▶           the director is going to be followed: the keeper takes frames,
             ◀─── begun ─────           so the director looks away, and ends
             ── closed pipe ▶           or the director has died: the keeper takes frames
    next one ──── join ─────▶           the next one is there, and will share what arrives
             ◀─── groups ────
             ──── done ─────▶           it takes frames; so the keeper ends when it has forwarded those that came before
    supervisor ── end of file ─▶        the service was stopped for good: it ends, and leaves nothing behind

All of that goes over one socket pair; only the end of a director shows at a pipe, for the supervisor has a copy of the
directors' end of the pair (`inheritance`), as it has of an XDP program.

The sockets of both processes are in one group (`rings.Tap.share`), so the kernel gives each frame to one of them, and
whoever takes the other one's place says so to the kernel, in one step: no packet is lost, and none is sent twice. What
was in the rings of a director that dies is lost with it.

Who forwards has to prove it. A keeper that stands by answers its director now and then; one that forwards writes a
proof into a file several times a second (`Proof`), for the guard of the routes and the next director, who count on it
no longer when the proof gets old.
"""

import asyncio
import fcntl
import json
import math
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from appliance import log as logging
from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.pins import PinTable, Positions
from appliance.dataplane.raw.packing import Packer, Unpacker
from appliance.dataplane.raw.rings import Groups
from appliance.forwarding import ForwardingTables

if TYPE_CHECKING:
    from appliance.dataplane.raw.plane import RawDataPlane

log = structlog.get_logger()

NAME = "keeper."
"""What a keeper's name among what is left to the next process begins with; the process's number follows."""

FOLLOW_S = 20.0
"""How long it may take until the keeper follows tables. It has an interpreter to start, on a machine that may be
busy."""

BEGIN_S = 5.0
"""How long whoever ends waits for its keeper. Less than the unit's WatchdogSec: it may be that nobody feeds it then."""

PING_S, ANSWER_S = 5.0, 5.0
"""How often a keeper that stands by is asked whether it does, and how long the answer may take."""

JOIN_S, RELIEVE_S = 2.0, 1.0
"""How long a keeper that forwards may take to share what arrives, and to end. Then it hangs, and is ended."""

PROOF_S = 1.0
"""How old the proof of a keeper that forwards may be; the same as in bgp/guard.py."""

AGAIN_S, SELDOM_S = 1.0, 60.0
"""How long after the end of a keeper that was not meant to end another one is started: at first, and at most."""

PAUSE_S = 0.1
"""How long the keeper is left alone after new tables: where they change all the time, it follows some of them."""

END_S = 2.0
"""How long the end of a keeper that stands by may take."""

UNGUARDED_S = PROOF_S
"""How long nft may fail while the kernel guard is not known to be there. Nothing is proved meanwhile, so routes do not
stay longer either."""

TURN_AWAY_S = 1.0
"""How long a keeper that nobody follows forwards on after it has said so: until routes are withdrawn, and routers have
taken other ways. Before that, the kernel must not get packets for VIPs."""

ALONE_S = 300.0
"""How long a keeper forwards without anybody who follows, at most: as long as `director.restart_grace` can be."""

_ORDER, _TABLES, _BEGIN = b"order", b"tables", b"begin"
_PING, _JOIN = b"ping", b"join"
_DONE = b"done"
"""The one word that the keeper of another version has to understand."""

_FOLLOWS, _BEGUN, _STANDS = b"follows", b"begun", b"stands"
_GROUPS = b"{"
"""What `Groups` begin with, in JSON."""

_WORD, _LONGEST, _FDS = 16, 1 << 16, 3
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

    groups: Groups
    """That the director's sockets are in."""

    folder: Path
    """Where to write proofs."""


@dataclass(frozen=True)
class _Wanted:
    tables: ForwardingTables
    heard: bool
    """Whether there are other directors, who would have to be told of new connections in windows."""


class KeeperError(Exception):
    """There is no keeper; the text says why."""


class Proof:
    """A file of one line: when the keeper has proved that it forwards, by the clock that all processes share
    (CLOCK_MONOTONIC, seconds); or "no: " and why it does not."""

    _WIDTH = 512

    def __init__(self, folder: Path, name: str) -> None:
        """
        Args:
            folder: where processes show each other that they live.
            name: the keeper's.
        """
        self.path = folder / name

    def prepare(self) -> None:
        """Nothing is proved, but from now on there is room for a proof, also when the disk is full.

        Raises:
            OSError: there is none.
        """
        self._put("")

    def give(self, now: float) -> None:
        """The keeper forwards."""
        self._write(f"{math.floor(now * 1000) / 1000:.3f}")  # never later than now

    def deny(self, reason: str) -> None:
        """The keeper does not forward, and will not."""
        self._write(f"no: {reason}")

    def doubts(self, clock: Callable[[], float]) -> str:
        """Why nobody should count on it; empty: it forwards.

        Args:
            clock: CLOCK_MONOTONIC. It is read after the proof, which would else be newer now and then.
        """
        try:
            word = self.path.read_text(errors="replace").strip()
        except OSError:
            return "it has not begun"
        if word.startswith("no: "):
            return word.removeprefix("no: ")
        if not word:
            return "it has not begun"
        try:
            age = clock() - float(word)
        except ValueError:
            return "its proof cannot be read"
        return "" if 0 <= age <= PROOF_S else f"its last proof is {age:.1f} s old"

    def remove(self) -> None:
        """Leave nothing behind."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            pass  # it proves nothing any more

    def _write(self, word: str) -> None:
        try:
            self._put(word)
        except OSError:
            pass  # the service was stopped for good, and its folder is gone; else the proof gets old

    def _put(self, word: str) -> None:
        # At once, and always as long: nobody may read half of it.
        line = word.replace("\n", " ").encode()[: self._WIDTH - 1].ljust(self._WIDTH - 1) + b"\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.pwrite(fd, line, 0)
        finally:
            os.close(fd)


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
        self._waking = threading.Lock()
        """Held by whoever writes to `_wake` or closes it."""
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
        self._call()

    def begin(self) -> None:
        """Have it forward from now on, by the tables that it was told last. It goes on when this process has ended.

        Raises:
            KeeperError: it does not forward, and will not.
        """
        if self._thread.ident is None:
            raise KeeperError("nothing is forwarded")
        self._beginning = True
        self._hurry.set()
        self._call()
        self._answered.wait(BEGIN_S)
        if self._outcome:
            raise KeeperError(self._outcome)
        if self._outcome is None:
            self._ending = True
            self._call()
            self._thread.join(END_S)  # until then its name is there, as if it forwarded
            raise KeeperError(f"it does not answer within {BEGIN_S:g} s")

    def end(self, *, wait: bool = True) -> None:
        """End it, unless it has begun.

        Args:
            wait: until it has ended.
        """
        self._ending = True
        self._hurry.set()
        if self._thread.ident is None:
            self._fall_asleep()
            return
        self._call()
        if wait:
            self._thread.join(END_S)

    def _call(self) -> None:
        with self._waking:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _fall_asleep(self) -> None:
        """Nobody can call any more."""
        with self._waking:
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    def _main(self) -> None:
        try:
            self._look_after()
        finally:
            self._fall_asleep()

    def _look_after(self) -> None:
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
        self._proof(child).remove()

    def _proof(self, child: "_Child") -> Proof:
        return Proof(self._order.folder, f"{NAME}{child.pid}")

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
                if not self._hear(child, _FOLLOWS, FOLLOW_S):
                    return
                known = wanted
                if not self.name:
                    name = f"{NAME}{child.pid}"
                    try:
                        self._proof(child).prepare()
                    except OSError as error:
                        raise KeeperError(f"it could not prove that it forwards: {error}") from error
                    if not self._leave(name, child.socket.fileno()):
                        raise KeeperError("the supervisor does not keep its socket")
                    self.name = name
                    log.info("plane.keeper_stands", pid=child.pid)
                self._hurry.wait(PAUSE_S)
            elif self._beginning:
                child.say(_BEGIN)
                if self._hear(child, _BEGUN, BEGIN_S):
                    child.socket.detach()  # it is the next director's
                    self._outcome = ""
                    self._answered.set()
                return
            elif child.wait(self._wake, PING_S):
                raise KeeperError("it has ended; the log says why")
            elif self._wanted is known and not self._beginning and not self._ending:
                child.say(_PING)
                if not self._hear(child, _STANDS, ANSWER_S):
                    return

    def _hear(self, child: "_Child", word: bytes, seconds: float) -> bool:
        """Wait for its answer so long; False when it is not to be waited for any more.

        Raises:
            KeeperError: it does not give it.
        """
        deadline = time.monotonic() + seconds
        while not child.wait(self._wake, deadline - time.monotonic()):
            if self._ending:
                return False
            if time.monotonic() >= deadline:
                raise KeeperError(f"it does not answer within {seconds:g} s")
        if child.socket.recv(_WORD) != word:
            raise KeeperError("it has ended; the log says why")
        return True


class _Child:
    """The process, as its director has it."""

    def __init__(self, order: Order, pins: int) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        dies, self._lives = os.pipe2(os.O_CLOEXEC)
        self._process = -1
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
            if self._process >= 0:
                os.close(self._process)
            raise
        finally:
            os.close(dies)

    def say(self, word: bytes, *fds: int) -> None:
        socket.send_fds(self.socket, [word], fds, socket.MSG_NOSIGNAL)

    def wait(self, wake: int, seconds: float) -> bool:
        """Until it has said something or ended, which is True; or for so long, or until somebody calls."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(wake, select.POLLIN)
        ready = dict(poll.poll(max(0.0, seconds) * 1000))
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
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return 0
    return pid if __name__.encode() in command else 0  # its number may be another one's by now


def doubts(name: str, folder: Path) -> str:
    """Why a keeper of an earlier director does not forward; empty: it does."""
    return Proof(folder, name).doubts(time.monotonic) if lives(name) else "it has ended"


def clear_up(folder: Path) -> None:
    """Remove proofs of keepers that have ended: their numbers may become others'."""
    for path in folder.glob(f"{NAME}*"):
        if path.name.removeprefix(NAME).isdecimal() and not lives(path.name):
            Proof(folder, path.name).remove()


def join(fd: int) -> Groups | None:
    """Tell a keeper that forwards that its follower is there.

    Returns:
        The groups that its sockets are in, each of which has room for one more now; None when it does not answer.
    """
    with socket.socket(fileno=os.dup(fd)) as keeper:
        try:
            keeper.send(_JOIN, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            deadline = time.monotonic() + JOIN_S
            while _ready(keeper, select.POLLIN, deadline):
                word = keeper.recv(_LONGEST, socket.MSG_DONTWAIT)
                if word.startswith(_GROUPS):
                    return {name: (ring, slow) for name, (ring, slow) in json.loads(word).items()}
                if not word:
                    break  # it has ended; other words were for the director that has ended
        except OSError:
            pass
    return None


def relieve(fd: int, name: str) -> tuple[str, bool]:
    """Tell a keeper that somebody else forwards now, and wait until it has ended. One that does not is killed.

    Returns:
        What was wrong with it, if anything; and whether it has ended.
    """
    with socket.socket(fileno=os.dup(fd)) as keeper:
        try:
            keeper.send(_DONE, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError:
            pass  # it has ended, or reads nothing
        if _ready(keeper, 0, time.monotonic() + RELIEVE_S):
            return "", True
        if pid := lives(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended = _ready(keeper, 0, time.monotonic() + RELIEVE_S)
        return f"it did not end within {RELIEVE_S:g} s", ended


def _ready(connection: socket.socket, events: int, deadline: float) -> bool:
    """Wait for these, or for the end of the other side."""
    poll = select.poll()
    poll.register(connection, events)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


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
        groups=order.groups,
    )
    plane.pins = PinTable.in_file(pins, order.pins, time.monotonic_ns)
    await plane.start()
    proof = Proof(order.folder, f"{NAME}{os.getpid()}")
    post = _Post(director, life, plane, proof)
    try:
        await asyncio.to_thread(post.hold)
    finally:
        if post.forwards and not post.followed:
            proof.deny(post.trouble or "nobody follows")
            await asyncio.sleep(TURN_AWAY_S)
        try:
            await plane.close(leave=not post.forwards or post.followed)
        except DataPlaneError as error:
            log.error("plane.failed", error=str(error))  # nft fails: the table is left
        proof.remove()
        if post.forwards:
            log.info("plane.keeper_ended", pid=os.getpid(), followed=post.followed)


class _Post:
    """What the keeper hears, and does."""

    def __init__(self, director: socket.socket, life: int, plane: "RawDataPlane", proof: Proof) -> None:
        """
        Args:
            director: the socket of whoever directs it.
            life: the end of a pipe that closes when the director has ended.
            plane: its plane, which stands by.
            proof: that it forwards.
        """
        self._director = director
        self._life = life
        self._plane = plane
        self._proof = proof
        self._joined = False
        """Whether a follower is there, who sees to the kernel guard."""
        self._unpacker = Unpacker()
        self._unguarded_at: float | None = None
        """Since when the kernel guard cannot be seen to."""
        self.forwards = False
        self.followed = False
        """Whether somebody else forwards now. Before it has forwarded itself, somebody else does all the time."""
        self.trouble = ""
        """Why it cannot forward any more."""

    def hold(self) -> None:
        """Until it is done, or of no use: `trouble` says why."""
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
                if not self.forwards and not self._begin("the director has ended"):
                    return
            if self.forwards and not self._proves():
                return
            if self.forwards and ends == float("inf"):
                ends = time.monotonic() + ALONE_S

    def _proves(self) -> bool:
        """Look after what it takes to forward, and say what comes of it."""
        try:
            guarded = self._guards()
            beats = self._plane.prove()
        except DataPlaneError as error:
            self.trouble = str(error)
            log.error("plane.failed", error=self.trouble)
            return False
        if beats and guarded:
            self._proof.give(time.monotonic())
        return True

    def _guards(self) -> bool:
        """Look after the kernel guard; False when that has failed, which may pass.

        Raises:
            DataPlaneError: it has failed for too long.
        """
        try:
            self._plane.watch_guard(shared=self._joined)
        except DataPlaneError:
            now = time.monotonic()
            self._unguarded_at = self._unguarded_at or now
            if now - self._unguarded_at > UNGUARDED_S:
                raise
            return False
        self._unguarded_at = None
        return True

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
            if not self._begin("the director is going to end"):
                return False
            self._say(_BEGUN)
        elif word == _PING:
            self._say(_STANDS)
        elif word == _JOIN:
            if not self.forwards and not self._begin("the director has ended"):
                return False
            self._joined = True
            self._say(json.dumps(self._plane.make_room()).encode())
        elif word == _DONE and self.forwards:
            self._plane.look_away()
            self.followed = True
        return word not in (_DONE, b"")

    def _say(self, word: bytes) -> None:
        try:
            self._director.send(word, socket.MSG_NOSIGNAL)
        except OSError:
            pass  # the director has ended

    def _begin(self, why: str) -> bool:
        """Take frames; False when that cannot be."""
        try:
            self._plane.begin()
        except DataPlaneError as error:
            self.trouble = str(error)
            log.error("plane.failed", error=self.trouble)
            return False
        self.forwards = True
        self._proof.give(time.monotonic())
        log.info("plane.keeper_begun", pid=os.getpid(), reason=why)
        return True

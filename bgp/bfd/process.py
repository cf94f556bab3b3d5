"""The director's side of BFD: keeps the BFD process running, tells it what should be, and renews its lease.

Level-triggered: `set` says which sessions there should be, now or as soon as there is a process.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from bgp.bfd.messages import (
    MAX_BYTES,
    Change,
    Report,
    SessionSettings,
    SessionView,
    close_message,
    lease_message,
    report_of,
    sessions_message,
)
from bgp.bfd.packet import State, diag_name
from bgp.pauses import Pauses

log = structlog.get_logger()

LEASE_S = 1.0
"""How long the event loop may be stuck until all sessions go down. As long as the lease on the routes: BFD ends BGP
sessions, which take longer to come back than routes do, so it must not be the first to lose patience."""
RENEW_S = 0.2

MAX_SILENCES = 10
"""A process that has not reported for so many times RENEW_S hangs. Counted in waits and not by the clock: after our own
loop was stuck, reports that have been there all the time must not count against it."""

END_S = 1.0

_PACKAGE_ROOT = Path(__file__).parents[2]
_START = f"import sys; sys.path.append({str(_PACKAGE_ROOT)!r}); from bgp.bfd.engine import main; main()"
PROGRAM = (sys.executable, "-I", "-S", "-c", _START)
"""Isolated and without site: it needs the standard library and this package only, and is there in some 50 ms."""


@dataclass(frozen=True)
class BfdStatus:
    running: bool = False
    sessions: Mapping[str, SessionView] = field(default_factory=dict)
    """By peer address; those that the process has told of."""

    refused: Mapping[str, int] = field(default_factory=dict)
    """Packets from nobody's address, by reason."""

    detail: str = ""
    """What is wrong."""

    priority: str = ""


class Bfd:
    """Sessions with routers. `run` must be running, in a task of the caller, for anything to happen."""

    def __init__(
        self,
        on_change: Callable[[Change], None] = lambda _: None,
        *,
        left: int | None = None,
        keep: Callable[[int | None], None] = lambda _: None,
    ) -> None:
        """
        Args:
            on_change: is told of every session whose state turned.
            left: our end of the socket to a process that an earlier director has left: its sessions go on.
            keep: is told of our end, of which somebody has to have a copy if the process is to be left to the next
                director; None: there is none any more.
        """
        self._on_change = on_change
        self._left = left
        self._keep = keep
        self._survival_s = 0.0
        self._leaving = False
        self._wanted: frozenset[SessionSettings] = frozenset()
        self._changed = asyncio.Event()
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._socket: socket.socket | None = None
        self._report: Report | None = None
        self._detail = ""
        self._trouble = ""

    def set(self, sessions: Iterable[SessionSettings]) -> None:
        """Have exactly these sessions. Those that stay go on without a break, also with other timers."""
        self._wanted = frozenset(sessions)
        self._changed.set()
        self._send(sessions_message(self._wanted))

    def status(self) -> BfdStatus:
        """What is known now; no I/O."""
        if self._report is None:
            return BfdStatus(detail=self._detail)
        report = self._report
        return BfdStatus(True, report.sessions, report.refused, report.trouble, report.priority)

    def survive(self, seconds: float) -> None:
        """For how long sessions go on when this process ends, or `run` is cancelled, until another director takes over;
        0: they end with it."""
        self._survival_s = seconds

    async def run(self) -> None:
        """Keep the process running while there are sessions, until cancelled or closed."""
        self._ended.clear()
        pauses = Pauses()
        try:
            while not self._closing.is_set():
                if not self._wanted:
                    self.end_left()
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                began = time.monotonic()
                try:
                    await self._serve()
                except OSError as error:
                    self._detail = f"the BFD process cannot be started: {error}"
                if self._closing.is_set():
                    break
                log.warning("bgp.bfd_interrupted", detail=self._detail)
                await pauses.rest(time.monotonic() - began, self._closing)
        finally:
            self._ended.set()

    async def close(self) -> None:
        """Tell all peers that the sessions end deliberately, and end them."""
        self._closing.set()
        self._changed.set()
        self._send(close_message())
        if self._socket is not None:
            await self._ended.wait()

    def end_left(self) -> None:
        """Do not take over what an earlier director has left."""
        if self._left is not None:
            os.close(self._left)
            self._left = None
            self._keep(None)

    async def _serve(self) -> None:
        """One process, from its beginning to its end.

        Raises:
            OSError: it cannot be started.
        """
        left, self._left = self._left, None
        ours, pidfd = _start() if left is None else (socket.socket(fileno=left), None)
        with ours:
            ours.setblocking(False)
            self._keep(ours.fileno())
            self._socket = ours
            try:
                self._send(sessions_message(self._wanted))
                if not self._closing.is_set():
                    await self._talk(ours)
            except asyncio.CancelledError:
                self._leaving = self._survival_s > 0
                if self._leaving:
                    self._send(lease_message(self._survival_s, os.getpid(), self._survival_s))
                raise
            finally:
                self._socket = None
                self._report = None
                if not self._leaving:
                    self._keep(None)
                    ours.close()  # it ends by that
                if pidfd is not None:
                    try:
                        if not self._leaving:
                            await _ended(pidfd)
                    finally:
                        os.close(pidfd)

    async def _talk(self, ours: socket.socket) -> None:
        """Renew the lease, take reports, until the process ends or hangs."""
        loop = asyncio.get_running_loop()
        silences, renew_at = 0, 0.0
        while silences < MAX_SILENCES:
            if loop.time() >= renew_at:
                renew_at = loop.time() + RENEW_S
                self._send(lease_message(LEASE_S, os.getpid(), self._survival_s))
            try:
                # uvloop's clock has whole milliseconds: a wait for less than one would not let it go on.
                wait_s = max(0.001, renew_at - loop.time())
                async with asyncio.timeout(wait_s):
                    data = await loop.sock_recv(ours, MAX_BYTES)
            except TimeoutError:
                silences += loop.time() >= renew_at  # a wait to its end, and not what rounding has left of one
                continue
            except ConnectionError:
                data = b""
            if not data:
                self._detail = "the BFD process ended; starting again"
                return
            silences = 0
            self._take(report_of(data))
        self._detail = "the BFD process does not answer; starting another"

    def _send(self, message: bytes) -> None:
        if self._socket is not None:
            try:
                self._socket.send(message)
            except OSError:
                pass  # it hangs, or is gone: `_talk` sees that

    def _take(self, report: Report) -> None:
        if self._report is None:
            log.info("bgp.bfd_started", priority=report.priority, peers=sorted(report.sessions))
        self._report = report
        if report.trouble != self._trouble:
            self._trouble = report.trouble
            if report.trouble:
                log.error("bgp.bfd_deaf", detail=report.trouble)
        for change in report.changes:
            _tell(change)
            self._on_change(change)


def _tell(change: Change) -> None:
    fields = {
        "peer": change.peer,
        "diag": diag_name(change.diag),
        "remote_state": str(change.remote_state),
        "remote_diag": diag_name(change.remote_diag),
    }
    if change.state is State.UP:
        log.info("bgp.bfd_up", **fields)
    elif change.before is State.UP:
        deliberate = change.state is State.ADMIN_DOWN
        log.log(logging.INFO if deliberate else logging.WARNING, "bgp.bfd_down", **fields)


def _start() -> tuple[socket.socket, int]:
    """Start the process: our end of a socket to it, and a descriptor of it. It must not end with our event loop.

    Raises:
        OSError: it cannot be started.
    """
    # Whole messages or nothing: a process that does not read must not get half of one.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
            pid = os.posix_spawn(PROGRAM[0], [*PROGRAM, "0"], os.environ, file_actions=actions)
        except OSError:
            ours.close()
            raise
    return ours, os.pidfd_open(pid)


async def _ended(pidfd: int) -> None:
    """Wait for its end, and bring it about after END_S."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(END_S):
            await ended.wait()
    except TimeoutError:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        _reap(pidfd)


def _reap(pidfd: int) -> None:
    """It must not stay in the kernel's list as long as we do. Does not wait."""
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)

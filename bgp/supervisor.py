"""The life of the ExaBGP process: started or adopted, watched, ended.

ExaBGP has its own session and outlives us, so that a director that starts again finds its BGP sessions still up. What
tells one run of ours about the other is on disk, in the runtime directory:

    exabgp.conf   the configuration of the running ExaBGP: when ours says the same, we adopt it
    exabgp.pid    its process id; ExaBGP holds a lock on the open file for as long as it lives
    exabgp.log    a named pipe: unlike an ordinary one it can be read by the next run, and does not break meanwhile
    exabgp.sock   the guard's
    exabgp.beat   where the guard shows that it lives (launch.py)
"""

import asyncio
import fcntl
import hashlib
import os
import pwd
import select
import signal
import socket
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import structlog

from bgp import exabgp_text as text
from bgp.config import BgpSpeakerConfig, Neighbor
from bgp.route import IPAddress
from bgp.speaker import SpeakerError

log = structlog.get_logger()

LAUNCH = Path(__file__).with_name("launch.py")
EXABGP = (sys.executable, "-P", str(LAUNCH))
GUARD = Path(__file__).with_name("guard.py")
STOP_S = 2.0
VALIDATE_S = 60.0
SETTLE_S = 0.2
"""A process that is ending has closed its connections, but may still have its lock, for this long at most."""


class ExaBgpProcess:
    """At most one ExaBGP for one runtime directory."""

    def __init__(self, config: BgpSpeakerConfig, program: Sequence[str] = EXABGP) -> None:
        self._config = config
        self._program = tuple(program)
        self._pidfd: int | None = None
        self._log_fd: int | None = None
        self._log_rest = b""
        self._valid = ""
        self._busy = asyncio.Lock()

    async def ensure(self) -> None:
        """Return with an ExaBGP running that has our configuration: the one that was there, or a new one.

        Raises:
            SpeakerError: there is none; the text says why and what to do.
        """
        try:
            self._config.runtime_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
            async with self._busy:
                self._open_log()
                await self._ensure()
        except OSError as error:
            raise SpeakerError(
                f"cannot run ExaBGP in {self._config.runtime_dir}: {error}; make the directory writable for this user"
            ) from error

    def running(self) -> bool:
        """Whether the process that `ensure` returned with still lives."""
        if self._pidfd is None:
            return False
        poll = select.poll()  # select(2) knows no files above 1023, and health checks may have thousands
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    async def stop(self, *signals: signal.Signals) -> None:
        """End the ExaBGP of this runtime directory, ours or an earlier one's, if there is one.

        Args:
            signals: what to send, each when the one before did not do in time; SIGTERM, then SIGKILL by default.

        Raises:
            SpeakerError: it belongs to another user.
        """
        try:
            async with self._busy:
                await self._stop(signals or (signal.SIGTERM, signal.SIGKILL))
        except OSError as error:
            raise SpeakerError(
                f"cannot stop the ExaBGP of {self._config.runtime_dir}: {error}; stop it as its own user"
            ) from error

    async def _stop(self, signals: Sequence[signal.Signals]) -> None:
        if self._pidfd is None and self._config.pid_path.exists():
            lock = self._lock()
            if lock is None:
                self._pidfd = _open_process(self._read_pid())
            else:
                os.close(lock)
        if self._pidfd is None:
            return
        for number in signals:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                break
            if await _ended(self._pidfd, STOP_S):
                break
            log.warning("bgp.exabgp_does_not_end", signal=number.name)
        self._forget()

    async def remove(self) -> None:
        """Stop, and leave nothing behind."""
        await self.stop()
        if self._log_fd is not None:
            asyncio.get_running_loop().remove_reader(self._log_fd)
            os.close(self._log_fd)
            self._log_fd = None
        config = self._config
        for path in (config.socket_path, config.beat_path, config.pid_path, config.log_path, config.configuration_path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("bgp.file_left_behind", error=str(error))

    def release(self) -> None:
        """Let go of the process without ending it: its guard gives us time to come back."""
        if self._log_fd is not None:
            asyncio.get_running_loop().remove_reader(self._log_fd)
            os.close(self._log_fd)
            self._log_fd = None
        self._forget()

    async def _ensure(self) -> None:
        if self._pidfd is not None:
            if not await _ended(self._pidfd, SETTLE_S):
                return
            log.warning("bgp.exabgp_ended")
            self._forget()
        configuration = self._render()
        lock = self._lock()
        if lock is None:
            self._pidfd = _open_process(self._read_pid())
            if self._pidfd is None:
                raise SpeakerError(
                    f"another ExaBGP is about to start or to end in {self._config.runtime_dir}; trying again"
                )
            path = self._config.configuration_path
            running = path.read_text(errors="replace") if path.exists() else ""
            # One that an earlier version has started goes on: to end it would be to end all sessions.
            if text.same_but_makers(running, configuration):
                log.info("bgp.exabgp_adopted", pid=self._read_pid(), older=running != configuration)
                return
            log.info("bgp.exabgp_replaced", reason="its configuration is another one", pid=self._read_pid())
            await self._stop((signal.SIGTERM, signal.SIGKILL))
            lock = self._lock()
            if lock is None:
                raise SpeakerError(f"the ExaBGP in {self._config.runtime_dir} cannot be stopped; stop it by hand")
        try:
            await self._start(lock, configuration)
        finally:
            os.close(lock)

    def _render(self) -> str:
        config = self._config
        run = (
            sys.executable,
            "-I",
            "-S",
            str(GUARD),
            "--socket",
            str(config.socket_path),
            "--beat",
            str(config.beat_path),
            "--linger",
            f"{config.linger_s:g}",
            "--watchdog",
            f"{config.watchdog_s:g}",
        )
        guard = hashlib.sha256(GUARD.read_bytes() + LAUNCH.read_bytes()).hexdigest()[:16]
        stamp = f"exabgp {version('exabgp')}, guard {guard}"
        return text.configuration(replace(config, neighbors=tuple(map(_located, config.neighbors))), run, stamp)

    async def _start(self, lock: int, configuration: str) -> None:
        path = self._config.configuration_path
        fresh = path.with_suffix(".conf.new")
        fresh.unlink(missing_ok=True)
        fresh.touch(0o600, exist_ok=False)  # it may hold passwords
        fresh.write_text(configuration)
        try:
            if self._valid != configuration:
                await self._validate(fresh)
                self._valid = configuration
            fresh.rename(path)
        finally:
            fresh.unlink(missing_ok=True)
        self._config.socket_path.unlink(missing_ok=True)
        self._pidfd = self._spawn(lock, path)

    def _spawn(self, lock: int, path: Path) -> int:
        """Start ExaBGP with *lock* as its standard input, so that the lock lives as long as it does."""
        log_fd = os.open(self._config.log_path, os.O_RDWR | os.O_NONBLOCK)
        os.ftruncate(lock, 0)
        try:
            pid = os.posix_spawn(
                self._program[0],
                [*self._program, "server", str(path)],
                _environment(os.environ),
                file_actions=[(os.POSIX_SPAWN_DUP2, lock, 0), *((os.POSIX_SPAWN_DUP2, log_fd, n) for n in (1, 2))],
                setsid=True,
            )
        finally:
            os.close(log_fd)
        os.pwrite(lock, f"{pid}\n".encode(), 0)
        log.info("bgp.exabgp_started", pid=pid)
        return os.pidfd_open(pid)

    async def _validate(self, path: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._program,
            "validate",
            str(path),
            env=_environment(os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(VALIDATE_S):
                output, _ = await process.communicate()
        except TimeoutError:
            raise SpeakerError(f"ExaBGP did not validate its configuration within {VALIDATE_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise SpeakerError(f"ExaBGP refuses its configuration: {output.decode(errors='replace').strip()[-500:]}")

    def _lock(self) -> int | None:
        """The pid file, opened and locked; None when a living ExaBGP has it."""
        lock = os.open(self._config.pid_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def _read_pid(self) -> int | None:
        try:
            return int(self._config.pid_path.read_text())
        except ValueError:
            return None

    def _forget(self) -> None:
        if self._pidfd is None:
            return
        try:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            pass  # an earlier run's: somebody else's child
        os.close(self._pidfd)
        self._pidfd = None

    def _open_log(self) -> None:
        if self._log_fd is not None:
            return
        path = self._config.log_path
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            if not stat.S_ISFIFO(path.lstat().st_mode):
                raise SpeakerError(f"{path} is there and not a named pipe; remove it") from None
        # Also for writing: a pipe without a writer would be at its end all the time between two ExaBGPs.
        self._log_fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._log_fd, self._drain_log)

    def _drain_log(self) -> None:
        assert self._log_fd is not None  # noqa: S101
        try:
            data = os.read(self._log_fd, 1 << 16)
        except BlockingIOError:
            return
        *lines, self._log_rest = (self._log_rest + data).split(b"\n")
        self._log_rest = self._log_rest[-4096:]
        for line in lines:
            entry = text.log_line(line.decode(errors="replace"))
            if entry is not None:
                write = log.warning if entry.trouble else log.debug
                write("bgp.exabgp_log", source=entry.source, text=entry.text)


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """ExaBGP takes settings from a file in its installation and from variables: neither may reach this one."""
    own = {key: value for key, value in inherited.items() if not key.lower().startswith("exabgp")}
    own |= {
        "EXABGP_ENVFILE": "/dev/null",
        "exabgp_api_cli": "false",
        "exabgp_log_destination": "stderr",
        "exabgp_log_level": "INFO",
        "exabgp_log_statistics": "false",
    }
    try:
        # As root it would become "nobody", and could not start the guard from a private directory.
        own["exabgp_daemon_user"] = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        own["exabgp_daemon_user"] = "root"  # a user without a name cannot change to another one anyway
    return own


def _located(neighbor: Neighbor) -> Neighbor:
    """*neighbor* with our address towards it. ExaBGP could find out itself, but only when it connects; until then it
    refuses every route whose next hop is the session's own address."""
    if neighbor.local_address is not None:
        return neighbor
    own = _own_address(neighbor.address)
    if own is None:
        log.warning("bgp.no_route_to_peer", peer=neighbor.address, remedy="add a route, or set local_address")
    return replace(neighbor, local_address=own)


def _own_address(towards: IPAddress) -> IPAddress | None:
    """The address that the kernel would use; asks its routing table, sends nothing."""
    family = socket.AF_INET if towards.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(towards), 179))
        except OSError:
            return None
        return type(towards)(probe.getsockname()[0])


def _open_process(pid: int | None) -> int | None:
    try:
        return None if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        return None


async def _ended(pidfd: int, timeout_s: float) -> bool:
    """Wait for the end of a process, child or not."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(timeout_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True

"""Starting a command while the rest of this process goes on.

Whoever starts a command waits until the kernel has put it in the place of the new process: milliseconds with thousands
of open files, and for ever where the command's file system does not answer. `subprocess` and `os.posix_spawn` keep the
interpreter to themselves all that time, so whichever thread calls them, all others stand still: the event loop with its
leases, and the thread that forwards. Here a thread of its own calls posix_spawn(3) by ctypes, which lets the others go
on.

Not by asyncio's processes: the two loops' differ in when they count as over, and in who waits for them.
"""

import asyncio
import ctypes
import errno
import os
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence

_SETSIGDEF, _SETSID = 0x04, 0x80
"""POSIX_SPAWN_SETSIGDEF and POSIX_SPAWN_SETSID of spawn.h (glibc 2.26)."""

_DEFAULTS = signal.SIGPIPE, signal.SIGXFSZ
"""What Python ignores, and a command would go on ignoring."""

_OPAQUE_BYTES = 1024
"""More than posix_spawn_file_actions_t, posix_spawnattr_t and sigset_t take (glibc on 64 bits: 80, 336 and 128)."""

_libc = ctypes.CDLL(None)


class Process:
    """A command that was started, in a session of its own."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it. May take for ever.

        Args:
            command: the program's path, and its arguments.
            environment: all of it.

        Raises:
            OSError: it cannot be started.
        """
        self.output, theirs = os.pipe2(os.O_CLOEXEC)
        """Standard output and error, does not block."""
        self._status: int | None = None
        try:
            os.set_blocking(self.output, False)
            self.pid = _spawn(command, environment, theirs)
            try:
                self.end = os.pidfd_open(self.pid)
                """Can be read as soon as the command has ended."""
            except OSError:  # no file is left: nobody would hear of its end
                self.kill()
                os.waitpid(self.pid, 0)
                raise
        except BaseException:
            os.close(self.output)
            raise
        finally:
            os.close(theirs)

    def poll(self) -> int | None:
        """Its exit status, negative for the signal that has killed it; None: it runs."""
        if self._status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if ended else None
        return self._status

    def kill(self) -> None:
        """Kill all of its session that is left."""
        try:
            # The number stays taken as long as anybody of the group is there, also without its leader.
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left; or somebody who has become another user

    def close(self) -> None:
        """Hear nothing more of it. Only `poll` may follow."""
        os.close(self.output)
        os.close(self.end)


class Start:
    """A command on its way to be a process. Lives in the event loop's thread, but for the start itself."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Begin to start it; see `Process`.

        Raises:
            OSError: EAGAIN: there is no thread for it.
        """
        self._loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[Process] = self._loop.create_future()
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._over = False
        """It could not be started, or the thread has ended what nobody wanted any more."""
        self._unwanted = False
        try:
            threading.Thread(target=self._start, args=(command, environment), name="command", daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error

    async def process(self) -> Process:
        """As soon as it is one.

        Raises:
            OSError: it cannot be started.
        """
        return await self._begun

    def take(self) -> Process | None:
        """Who calls this ends the process; None: there is none yet, and should there be one, it will be ended."""
        with self._lock:
            self._unwanted = True
            return self._process

    def is_left(self) -> str:
        """Why it is not over although nobody wants it any more; empty when it is."""
        with self._lock:
            process, over = self._process, self._over
        if process is None:
            return "" if over else "has not begun yet: does the file system that it is on answer?"
        return "" if process.poll() is not None else f"cannot be killed, process {process.pid}"

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        outcome: Process | Exception
        try:
            outcome = Process(command, environment)
        except Exception as error:  # whoever waits is told
            outcome = error
        process = outcome if isinstance(outcome, Process) else None
        with self._lock:
            if not self._unwanted:
                self._process, self._over = process, process is None
                self._loop.call_soon_threadsafe(self._tell, outcome)
                return
        if process is not None:
            process.kill()
            os.waitpid(process.pid, 0)
            process.close()
        self._over = True

    def _tell(self, outcome: Process | Exception) -> None:
        if self._begun.done():  # nobody waits any more
            return
        if isinstance(outcome, Process):
            self._begun.set_result(outcome)
        else:
            self._begun.set_exception(outcome)


def _spawn(command: Sequence[str], environment: Mapping[str, str], output: int) -> int:
    """Have a command run, with nothing of ours open but that for its output.

    Returns:
        Its number, which is that of its session and process group, too.

    Raises:
        OSError: it cannot be started.
    """
    pid = ctypes.c_int()
    words, settings = _strings(command), _strings(f"{name}={value}" for name, value in environment.items())
    actions, attributes = (ctypes.create_string_buffer(_OPAQUE_BYTES) for _ in range(2))
    defaults = ctypes.create_string_buffer(_OPAQUE_BYTES)
    _libc.sigemptyset(defaults)
    for number in _DEFAULTS:
        _libc.sigaddset(defaults, int(number))
    _try(_libc.posix_spawn_file_actions_init(actions))
    _try(_libc.posix_spawnattr_init(attributes))
    try:
        _try(_libc.posix_spawn_file_actions_addopen(actions, 0, b"/dev/null", os.O_RDONLY, 0))
        _try(_libc.posix_spawn_file_actions_adddup2(actions, output, 1))
        _try(_libc.posix_spawn_file_actions_adddup2(actions, output, 2))
        _try(_libc.posix_spawn_file_actions_addclosefrom_np(actions, 3))
        _try(_libc.posix_spawn_file_actions_addchdir_np(actions, b"/"))
        _try(_libc.posix_spawnattr_setsigdefault(attributes, defaults))
        _try(_libc.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF | _SETSID)))
        _try(_libc.posix_spawn(ctypes.byref(pid), words[0], actions, attributes, words, settings))
    finally:
        _libc.posix_spawn_file_actions_destroy(actions)
        _libc.posix_spawnattr_destroy(attributes)
    return pid.value


def _strings(words: Iterable[str]) -> "ctypes.Array[ctypes.c_char_p]":
    encoded = [os.fsencode(word) for word in words]
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)


def _try(error: int) -> None:
    if error:
        raise OSError(error, os.strerror(error))

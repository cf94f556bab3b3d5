"""What systemd does for the director, for tests without it: hears notifications, keeps descriptors between processes.

    supervisor.py NAME:FD,NAME:FD... COMMAND...   becomes COMMAND, with these descriptors as sd_listen_fds(3) has them

Real sockets and descriptors, as in sd_notify(3); only that what is kept is kept by the test's own process.
"""

import fcntl
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

FIRST, ASIDE = 3, 300


class Supervisor:
    """One unit's: `with` it, start its process with `command` and `environment`."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="onward-notify-")
        self.kept: dict[str, int] = {}
        self.said: list[str] = []
        """Every assignment but those of the store, in order."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(0.1)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hear)

    @property
    def path(self) -> str:
        return str(Path(self.folder.name) / "notify")

    def __enter__(self) -> "Supervisor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()
        self.let_go()
        self.folder.cleanup()

    def environment(self) -> dict[str, str]:
        return {**os.environ, "NOTIFY_SOCKET": self.path, "FDSTORE": "128"}

    def command(self, command: Sequence[str]) -> tuple[list[str], list[int]]:
        """The command that becomes *command* with all that is kept, and the descriptors that it has to inherit."""
        with self._lock:
            words = ",".join(f"{name}:{fd}" for name, fd in self.kept.items())
            return [sys.executable, __file__, words or "-", *command], list(self.kept.values())

    def let_go(self) -> None:
        """As when a service is stopped, or has failed for good."""
        with self._lock:
            for fd in self.kept.values():
                os.close(fd)
            self.kept.clear()

    def _hear(self) -> None:
        while not self._ended.is_set():
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, 16)
            except TimeoutError:
                continue
            words = dict(line.partition("=")[::2] for line in data.decode().splitlines())
            name = words.pop("FDNAME", "")
            with self._lock:
                if words.pop("FDSTOREREMOVE", ""):
                    os.close(self.kept.pop(name))
                if words.pop("FDSTORE", ""):
                    assert words.pop("FDPOLL") == "0", "systemd would throw it away"
                    assert name not in self.kept, f"{name} twice"
                    (self.kept[name],) = fds
                self.said += [f"{key}={value}" for key, value in words.items()]


def become(kept: str, command: list[str]) -> None:
    named = [word.rpartition(":")[::2] for word in kept.split(",") if word != "-"]
    aside = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, ASIDE) for _, fd in named]
    for place, fd in enumerate(aside, FIRST):
        os.dup2(fd, place)
    os.closerange(FIRST + len(aside), ASIDE + 200)
    listen = {"LISTEN_PID": os.getpid(), "LISTEN_FDS": len(aside), "LISTEN_FDNAMES": ":".join(n for n, _ in named)}
    os.execvpe(command[0], command, {**os.environ, **{key: str(value) for key, value in listen.items()}})  # noqa: S606


if __name__ == "__main__":
    become(sys.argv[1], sys.argv[2:])

"""Open descriptors for the process that follows: systemd keeps them in its file descriptor store (sd_notify(3)).

What an XDP program needs to go on is in the kernel, and lives as long as anybody has its link open. So the supervisor
has a copy: a director can be killed, started again, replaced by another version, and packets go on by the tables that
it has left. When the service is stopped for good, the supervisor lets go, and all of that is gone.

Nothing is kept where there is no such supervisor: FDSTORE in the environment says that there is one, and how much it
takes (systemd 254 sets it; for earlier ones the unit does).
"""

import os
from collections.abc import Iterable, MutableMapping
from pathlib import Path

import structlog

from appliance import notify

log = structlog.get_logger()

FIRST_FD = 3
"""SD_LISTEN_FDS_START."""


class Inheritance:
    """What the process before has left, and what this one leaves. Descriptors have names; each name has one."""

    def __init__(self, environment: MutableMapping[str, str], pid: int, folder: Path) -> None:
        """Take what the supervisor has handed over: the variables that say so are removed, for nobody else is meant.

        Args:
            environment: as in sd_listen_fds(3).
            pid: of this process.
            folder: where processes of this unit show each other that they live.
        """
        self._environment = environment
        self.folder = folder
        self.works = bool(environment.get("NOTIFY_SOCKET")) and environment.get("FDSTORE", "0") not in ("", "0")
        """Whether what is put here outlives this process."""

        self._kept: dict[str, int] = {}
        taken = {key: environment.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
        if taken["LISTEN_PID"] == str(pid):
            names = taken["LISTEN_FDNAMES"].split(":")
            for fd, name in zip(range(FIRST_FD, FIRST_FD + int(taken["LISTEN_FDS"] or 0)), names, strict=False):
                os.set_inheritable(fd, False)
                self._kept[name] = fd

    def names(self, prefix: str) -> list[str]:
        """What there is whose name begins so."""
        kept = list(self._kept)  # at once: other threads put things here
        return sorted(name for name in kept if name.startswith(prefix))

    def get(self, name: str) -> int | None:
        """A descriptor; it stays this object's."""
        return self._kept.get(name)

    def put(self, name: str, fd: int) -> None:
        """Leave a copy of *fd* to the process that follows, in place of whatever has this name. The same one again does
        nothing."""
        if self._kept.get(name) == fd:
            return
        self.drop(name)
        if not self.works:
            return
        try:
            # Without FDPOLL=0 it would be thrown away at once: maps and links poll as broken.
            notify.tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", self._environment, (fd,))
        except OSError as error:
            log.warning("director.not_kept", what=name, error=str(error))
            return
        self._kept[name] = fd

    def drop(self, *names: str) -> None:
        """Leave these to nobody. Their descriptors in this process stay open."""
        for name in names:
            if self._kept.pop(name, None) is not None:
                try:
                    notify.tell(f"FDSTOREREMOVE=1\nFDNAME={name}", self._environment)
                except OSError as error:
                    log.warning("director.not_kept", what=name, error=str(error))

    def put_text(self, name: str, text: str) -> None:
        """The same for a few words: a nameless file that holds them."""
        if self.works and self.text(name) != text:
            self.forget(name)
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
            os.write(fd, text.encode())
            self.put(name, fd)

    def text(self, name: str) -> str:
        """What `put_text` has left; empty without."""
        fd = self._kept.get(name)
        return os.pread(fd, 1 << 16, 0).decode(errors="replace") if fd is not None else ""

    def forget(self, *names: str) -> None:
        """Drop what the process before has left, and close it."""
        for name in names:
            fd = self._kept.get(name)
            self.drop(name)
            if fd is not None:
                os.close(fd)

    def forget_all(self, prefixes: Iterable[str] = ("",)) -> None:
        """The same for all whose names begin so."""
        for prefix in prefixes:
            self.forget(*self.names(prefix))

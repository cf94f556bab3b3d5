"""HAProxy's runtime API: a command a connection, on its own socket."""

import csv
import io
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_WAIT_S = 5.0


class RuntimeApiError(Exception):
    """HAProxy does not answer, or has refused a command; the text says which."""


@dataclass(frozen=True)
class Load:
    """What a proxy is doing."""

    sessions: int
    """Connections of clients that are open."""
    total: int
    """That there have been."""
    servers: Mapping[str, str]
    """State of each back end, as HAProxy says it: UP, DOWN, MAINT, no check, ..."""

    @property
    def serving(self) -> bool:
        """Whether any back end can take a connection."""
        return any(state.startswith(("UP", "no check")) for state in self.servers.values())


def command(path: Path, words: str) -> str:
    """
    Raises:
        RuntimeApiError: nobody answers.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_WAIT_S)
            sock.connect(str(path))
            sock.sendall(f"{words}\n".encode())
            sock.shutdown(socket.SHUT_WR)  # the process that starts workers would wait for more
            pieces = []
            while piece := sock.recv(65536):
                pieces.append(piece)
    except OSError as error:
        raise RuntimeApiError(f"HAProxy does not answer at {path}: {error}") from error
    return b"".join(pieces).decode(errors="replace")


def order(path: Path, words: str) -> None:
    """A command that answers nothing when it has done its work.

    Raises:
        RuntimeApiError: nobody answers, or it was refused.
    """
    said = command(path, words).strip()
    if said:
        raise RuntimeApiError(f"HAProxy refuses `{words}`: {said}")


def loads(path: Path) -> Mapping[str, Load]:
    """By name of a frontend or backend, without `front-` or `back-`.

    Raises:
        RuntimeApiError: nobody answers.
    """
    stat = command(path, "show stat")
    servers: dict[str, dict[str, str]] = {}
    for row in _rows(stat):
        kind, _, name = row["pxname"].partition("-")
        if kind == "back" and row["svname"] != "BACKEND":
            servers.setdefault(name, {})[row["svname"]] = row["status"]
    return {name: Load(*sessions, servers.get(name, {})) for name, sessions in _fronts(stat).items()}


def left_behind(master: Path) -> int:
    """Clients' connections of workers that a reload has replaced: these take nothing new, and end with the last one.

    Args:
        master: socket of the process that starts workers.

    Raises:
        RuntimeApiError: nobody answers.
    """
    open_ = 0
    old = False
    for line in command(master, "show proc").splitlines():
        if line.startswith("#"):
            old = line == "# old workers"
        elif old and (words := line.split()):
            open_ += sum(sessions for sessions, _ in _fronts(command(master, f"@!{words[0]} show stat")).values())
    return open_


def _fronts(stat: str) -> dict[str, tuple[int, int]]:
    """Open and former connections of clients, of what `show stat` prints, by proxy."""
    return {
        row["pxname"].removeprefix("front-"): (int(row["scur"] or 0), int(row["stot"] or 0))
        for row in _rows(stat)
        if row["svname"] == "FRONTEND" and row["pxname"].startswith("front-")
    }


def _rows(stat: str) -> Iterator[Mapping[str, str]]:
    # Who has ended in between says that, and is no table.
    rows = csv.DictReader(io.StringIO(stat.removeprefix("# ")))
    return iter(rows) if rows.fieldnames and "pxname" in rows.fieldnames else iter(())

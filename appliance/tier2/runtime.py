"""HAProxy's runtime API: a command a connection, on its own socket."""

import csv
import io
import socket
from collections.abc import Mapping
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
    sessions: dict[str, tuple[int, int]] = {}
    servers: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO(command(path, "show stat").removeprefix("# "))):
        kind, _, name = row["pxname"].partition("-")
        if kind == "front" and row["svname"] == "FRONTEND":
            sessions[name] = (int(row["scur"] or 0), int(row["stot"] or 0))
        elif kind == "back" and row["svname"] != "BACKEND":
            servers.setdefault(name, {})[row["svname"]] = row["status"]
    return {name: Load(*sessions[name], servers.get(name, {})) for name in sessions}

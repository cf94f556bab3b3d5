"""What commands that talk to the control socket have in common."""

import http.client
import json
import math
import os
import tomllib
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, quote, urlsplit

from cyclopts import Parameter

from appliance.cli.connect import UnixConnection
from appliance.cli.output import Exit, complain, warn
from appliance.cli.progress import progress
from appliance.config.document import read_document
from appliance.config.merge import merge
from appliance.config.problems import ConfigError

RUNTIME_DIR = Path("/run/onward")
SOCKET = "control.sock"
SOCKET_VARIABLE = "ONWARD_SOCKET"
"""In the environment: the socket of the director to ask where no option says another one."""

TIMEOUT_S = 5.0
"""For an answer to a question."""

ORDER_TIMEOUT_S = 60.0
"""For an answer to an order: the fleet's store may take a while."""

CHANGE_TIMEOUT_S = 600.0
"""For an answer to a change of the configuration: tables of thousands of members are made anew, and others may be
before us."""

_CONFIGURATION = ("/v1/objects", "/v1/transactions", "/v1/config")

SocketOption = Annotated[
    Path | None,
    Parameter(
        name="--socket",
        help="Control socket of the director to ask; what ONWARD_SOCKET says, or /run/onward/control.sock, by default.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    Parameter(name="--config", help="Configuration file of the director to ask; its runtime_dir has the socket."),
]
ForceOption = Annotated[
    bool,
    Parameter(
        name="--force",
        negative="",
        show_default=False,
        help="Also where the files say something else than what is in force; that is lost.",
    ),
]
AtRestartOption = Annotated[
    bool,
    Parameter(
        name="--at-restart",
        negative="",
        show_default=False,
        help="Only write it, for the next start of the director: for what takes a restart.",
    ),
]
ReasonOption = Annotated[str, Parameter(name="--reason", help="A note for the log.")]


def seconds(_: type, number: float | None) -> None:
    """A check of options that are times.

    Raises:
        ValueError: this is none.
    """
    if number is not None and not 0 <= number < math.inf:
        raise ValueError(f"{number:g} is no number of seconds; give one from 0")


DrainTimeout = Annotated[float | None, Parameter(name="--timeout", validator=seconds)]
Document = dict[str, Any]


class OrderError(Exception):
    """An order was not taken; the text says why."""

    def __init__(self, text: str, code: Exit, *, absent: bool = False) -> None:
        """
        Args:
            text: says why.
            code: to exit with.
            absent: nobody listens there.
        """
        super().__init__(text)
        self.code = code
        self.absent = absent


def where(socket_path: Path | None, config: Path | None) -> Path:
    """The control socket of a director: as an option says, else as the environment does, else the usual one.

    Raises:
        OrderError: the configuration cannot be read.
    """
    if socket_path is not None:
        return socket_path
    if config is None:
        return Path(os.environ.get(SOCKET_VARIABLE) or RUNTIME_DIR / SOCKET)
    try:
        parts = read_document(config).parts
        director = merge(parts, [tomllib.loads(part.text) for part in parts]).data.get("director", {})
        return Path(director.get("runtime_dir", RUNTIME_DIR)) / SOCKET
    except (ConfigError, ValueError, AttributeError, TypeError) as error:
        raise OrderError(f"{config}: cannot be read: {error}; try `onward check {config}`", Exit.CONFIG) from error


def ask(
    path: Path,
    method: str,
    resource: str,
    body: Mapping[str, object] | None = None,
    *,
    timeout_s: float | None = None,
    also: Container[int] = (),
) -> Document:
    """Talk to a director; see `exchange`."""
    return exchange(path, method, resource, body, timeout_s=timeout_s, also=also)[0]


def exchange(
    path: Path,
    method: str,
    resource: str,
    body: Mapping[str, object] | None = None,
    *,
    timeout_s: float | None = None,
    also: Container[int] = (),
    headers: Mapping[str, str] | None = None,
) -> tuple[Document, Mapping[str, str]]:
    """Talk to a director, and say nothing twice. Returns what it answers, with the headers.

    Args:
        path: its control socket.
        method: of HTTP.
        resource: what is asked for.
        body: what is ordered.
        timeout_s: how long the answer may take; else as long as is usual for a question or an order.
        also: statuses from 400 on whose documents are answers all the same.
        headers: of the request.

    Raises:
        OrderError: nobody answers, or the director refuses; UNKNOWN, what was to be done had been sent, and no answer
            came.
    """
    changes = method != "GET" and not _only_asks(resource, body)
    timeout_s = timeout_s if timeout_s is not None else ORDER_TIMEOUT_S if changes else TIMEOUT_S
    connection, sent = UnixConnection(path, timeout_s), False
    try:
        with progress("the director is at it"):
            connection.connect()
            sent = True
            connection.request(method, resource, None if body is None else json.dumps(body), dict(headers or {}))
            response = connection.getresponse()
            text = response.read()
        document = json.loads(text)
        found = dict(response.headers)
    except KeyboardInterrupt:
        if sent and changes:
            warn(_how_to_know(resource))
        raise
    except PermissionError as error:
        raise OrderError(f"{path}: permission denied; orders are for those who may open it", Exit.FAILED) from error
    except (OSError, http.client.HTTPException) as error:
        if sent and changes:
            raise OrderError(f"{_silent(path, error, timeout_s)}; {_how_to_know(resource)}", Exit.UNKNOWN) from error
        if sent and isinstance(error, TimeoutError):
            why = f"{_silent(path, error, timeout_s)}; it is busy, or hangs: `onward status`"
            raise OrderError(why, Exit.UNREACHABLE) from error
        raise _nobody(path, error) from error
    except ValueError as error:
        raise OrderError(f"{path}: what answers is no director of this version", Exit.FAILED) from error
    finally:
        connection.close()
    if response.status >= 400 and response.status not in also:
        code = Exit.NOT_FOUND if response.status == 404 else Exit.FAILED
        raise OrderError(str(document.get("detail", document)), code)
    return dict(document), found


def _only_asks(resource: str, body: Mapping[str, object] | None) -> bool:
    """Whether nothing comes of a request but an answer."""
    dry_run = parse_qs(urlsplit(resource).query).get("dry_run") == ["true"]
    return dry_run or (body is not None and body.get("dry_run") is True)


def _silent(path: Path, error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"the director at {path} has not answered within {timeout_s:g} s"
    return f"the director at {path} has gone away without an answer ({getattr(error, 'strerror', None) or error})"


def _how_to_know(resource: str) -> str:
    """How to find out whether what was sent was done."""
    if resource.startswith(_CONFIGURATION):
        return (
            "it is not known whether the change was made: `onward config history` has a revision of it if it was, and "
            "objects have another ETag (`show -o wide`); look before you send it again"
        )
    look = "onward status" if resource.startswith("/v1/director") else "onward member list"
    return f"it is not known whether the order was taken: `{look}` shows what stands"


@contextmanager
def stream(path: Path, resource: str, longest_s: float) -> Iterator[http.client.HTTPResponse]:
    """What a director says for a while.

    Args:
        path: its control socket.
        resource: what is asked for.
        longest_s: how long it may say nothing.

    Raises:
        OrderError: nobody answers, or the director refuses.
    """
    connection = UnixConnection(path, TIMEOUT_S)
    try:
        try:
            connection.request("GET", resource)
            response = connection.getresponse()
        except PermissionError as error:
            raise OrderError(f"{path}: permission denied; it is for those who may open it", Exit.FAILED) from error
        except (OSError, http.client.HTTPException) as error:
            raise _nobody(path, error) from error
        if response.status >= 400:
            raise _refusal(response.status, response.read())
        connection.sock.settimeout(longest_s + TIMEOUT_S)
        yield response
    finally:
        connection.close()


def _nobody(path: Path, error: Exception) -> OrderError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return OrderError(
        f"no director answers at {path} ({reason}); is it running? Give --config or --socket for another one",
        Exit.UNREACHABLE,
        absent=isinstance(error, FileNotFoundError | ConnectionRefusedError),
    )


def _refusal(status: int, text: bytes) -> OrderError:
    try:
        detail = str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = text.decode(errors="replace")
    return OrderError(detail, Exit.NOT_FOUND if status == 404 else Exit.FAILED)


def resource(member: str) -> str:
    """Where the control socket has a member.

    Raises:
        OrderError: it is not POOL/MEMBER.
    """
    pool, slash, name = member.partition("/")
    if not slash or not pool or not name:
        raise OrderError(f"{member} is not POOL/MEMBER; `onward member list` has them all", Exit.USAGE)
    return f"/v1/members/{quote(pool, safe='')}/{quote(name, safe='')}"


def drain_body(timeout: float | None, reason: str) -> dict[str, object]:
    """What a drain says: without a time-out the pool's own counts, and 0 is never."""
    return {"reason": reason} if timeout is None else {"reason": reason, "timeout_s": timeout or None}


def give(path: Path, resource: str, body: Mapping[str, object]) -> Document:
    """Give an order about members; before that, say what will not be there any more with it.

    Raises:
        OrderError: as `ask`.
    """
    try:
        would = ask(path, "POST", resource, {**body, "dry_run": True})
    except OrderError as error:
        if error.code is Exit.UNREACHABLE:
            raise
        would = {}  # the order itself is told why
    for vip in would.get("withdraws", ()):
        warn(f"{vip['name']} is withdrawn with this ({vip['why']}), and what is left of its flows breaks")
    for service in would.get("stops", ()):
        warn(f"virtual service {service['name']} takes no new flows with this ({service['why']})")
    return ask(path, "POST", resource, body)


def refused(error: OrderError) -> int:
    """Say why an order was not taken."""
    complain(str(error))
    return error.code

"""What a running `onward decap` says of itself, by a socket that is named after its interface.

The socket is in the abstract namespace (unix(7)), which belongs to the network namespace as the interface does: no file
is left behind, and two programs on one interface cannot both have it.
"""

import json
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from appliance.decap.decap import DecapError

_WAIT_S = 2.0
_LARGEST = 1 << 20
_PREFIX = "\0onward-decap/"
_ROOT = 0


def listen(interface: str) -> socket.socket:
    """The socket that answers.

    Raises:
        DecapError: another `onward decap` has it.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.bind(_PREFIX + interface)
    except OSError as error:
        sock.close()
        raise DecapError(
            f"an `onward decap` runs on {interface} already; `onward decap stop --interface {interface}` ends it"
        ) from error
    sock.listen()
    return sock


def answer(sock: socket.socket, document: Callable[[], Mapping[str, object]]) -> None:
    """Tell whoever has connected, if that is root or our own user: directors' addresses are nobody else's business."""
    try:
        connection, _ = sock.accept()
    except BlockingIOError:
        return
    with connection:
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user not in (_ROOT, os.geteuid()):
            return
        connection.settimeout(_WAIT_S)
        try:
            connection.sendall(json.dumps(document()).encode())
        except OSError:
            pass  # it is gone again


def ask(interface: str) -> Mapping[str, Any]:
    """The document of the program on an interface.

    Raises:
        DecapError: none runs there, or it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_WAIT_S)
        try:
            sock.connect(_PREFIX + interface)
        except OSError as error:
            raise DecapError(f"no `onward decap` runs on {interface}") from error
        text = b""
        try:
            while len(text) < _LARGEST and (piece := sock.recv(65536)):
                text += piece
            document: Mapping[str, Any] = json.loads(text)
        except (OSError, ValueError) as error:
            raise DecapError(f"the `onward decap` on {interface} does not answer; are you root?") from error
    return document


def end(interface: str, wait_s: float) -> bool:
    """End the program on an interface.

    Returns:
        Whether one was there.

    Raises:
        DecapError: it is not ours, or has not ended within *wait_s* seconds.
    """
    try:
        process = os.pidfd_open(int(ask(interface)["pid"]))
    except (DecapError, ProcessLookupError):
        return False
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], wait_s)[0]:
            raise DecapError(f"the `onward decap` on {interface} does not end")
    except PermissionError:
        raise DecapError(f"the `onward decap` on {interface} belongs to somebody else; are you root?") from None
    finally:
        os.close(process)
    return True

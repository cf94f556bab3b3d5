"""What a supervisor is told of the process: sd_notify(3), a datagram to the socket that NOTIFY_SOCKET names."""

import socket
from array import array
from collections.abc import Mapping, Sequence


def status(text: str) -> str:
    """The assignment that says in words how things are. A line end would begin another assignment, and is taken out."""
    return f"STATUS={' '.join(text.splitlines())}"


def tell(text: str, environment: Mapping[str, str], fds: Sequence[int] = ()) -> None:
    """Tell the supervisor, where there is one. Does not wait: one that hangs must not hang us.

    Args:
        text: assignments, one a line, as in sd_notify(3).
        environment: may have NOTIFY_SOCKET: a path, or after `@` a name without one.
        fds: descriptors of which it gets a copy.

    Raises:
        OSError: there is one that cannot be told.
    """
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        sock.sendmsg([text.encode()], rights)

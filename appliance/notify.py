"""What a supervisor is told of the process: sd_notify(3), a datagram to the socket that NOTIFY_SOCKET names."""

import socket
from collections.abc import Mapping


def tell(text: str, environment: Mapping[str, str]) -> None:
    """Tell the supervisor, where there is one.

    Args:
        text: assignments, one a line, as in sd_notify(3): `STATUS=...`. A line end within a value would begin another
            one, and is taken out.
        environment: may have NOTIFY_SOCKET: a path, or after `@` a name without one.

    Raises:
        OSError: there is one that cannot be told.
    """
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send(" ".join(text.split("\n")).encode())

"""Servers for tests that ask one question, or many."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from health.spec import Target


def target(port: int, address: str = "127.0.0.1") -> Target:
    return Target("web/web1", ip_address(address), port)


def _listener(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((address, 0))
    listener.listen(64)
    return listener


@contextmanager
def server(serve: Callable[[socket.socket], None], address: str = "127.0.0.1") -> Iterator[int]:
    """A TCP server for one connection; yields its port."""
    with _listener(address) as listener:
        listener.settimeout(5)

        def work() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                serve(connection)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(5)
            assert not thread.is_alive()


@contextmanager
def many(serve: Callable[[socket.socket], None], address: str = "127.0.0.1") -> Iterator[int]:
    """A TCP server for any number of connections, one after the other; yields its port.

    Clients may leave when they like: errors of the network end a connection and are nobody's fault.
    """
    with _listener(address) as listener:

        def work() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # shut down
                with connection:
                    connection.settimeout(5)
                    try:
                        serve(connection)
                    except OSError:
                        pass

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            assert not thread.is_alive()


def reset(connection: socket.socket) -> None:
    """Make the end of a connection an RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def wait_for_end(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass

"""Certificates for tests, good and bad, and servers that show them."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from tests.unit.health.serving import many

NAME = "www.example.com"


@dataclass(frozen=True)
class Authority:
    """Somebody who issues certificates, and the folder where they lie."""

    ca: trustme.CA
    folder: Path

    @property
    def ca_file(self) -> str:
        path = self.folder / f"{id(self)}-ca.pem"
        self.ca.cert_pem.write_to_path(str(path))
        return str(path)

    def server(self, *names: str, **times: datetime) -> ssl.SSLContext:
        """A server's context with a certificate for names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names, **times).configure_cert(context)
        return context

    def client_file(self) -> str:
        """A client's certificate and key in one file."""
        path = self.folder / "client.pem"
        self.ca.issue_cert("director@example.com").private_key_and_cert_chain_pem.write_to_path(str(path))
        return str(path)


def authority(folder: Path) -> Authority:
    return Authority(trustme.CA(), folder)


def days(number: float) -> datetime:
    """So many days from now."""
    return datetime.now(UTC) + timedelta(days=number)


@contextmanager
def secured(
    context: ssl.SSLContext, serve: Callable[[ssl.SSLSocket], None], address: str = "127.0.0.1"
) -> Iterator[int]:
    """A TLS server for any number of connections; yields its port."""

    def wrapped(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as stream:
            serve(stream)

    with many(wrapped, address) as port:
        yield port

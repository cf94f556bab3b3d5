"""Ways to a director: its control socket, or its API by HTTP or HTTPS."""

import http.client
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

TOKEN, CA_FILE = "ONWARD_TOKEN", "ONWARD_CA_FILE"
"""In the environment: who we are, and whose certificates are believed beside those of the system."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("onward", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def connection_to(
    url: str, timeout_s: float, environment: Mapping[str, str] = os.environ
) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """How to ask a director.

    Args:
        url: `http://HOST:PORT`, `https://HOST:PORT`, or `unix:PATH` of its control socket.
        timeout_s: how long an answer may take.
        environment: has TOKEN and CA_FILE.

    Returns:
        The connection, what paths have in front, and headers of each request.

    Raises:
        ValueError: *url* is no such address.
        OSError: the certificates cannot be read.
    """
    headers = {"Accept": "application/json"}
    if url.startswith("unix:"):
        return UnixConnection(Path(url.removeprefix("unix:")), timeout_s), "", headers
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(url)
    if token := environment.get(TOKEN):
        headers["Authorization"] = f"Bearer {token}"
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_s), "/api", headers
    context = ssl.create_default_context()
    if authority := environment.get(CA_FILE):
        context.load_verify_locations(authority)
    made = http.client.HTTPSConnection(parts.hostname, parts.port or 443, timeout=timeout_s, context=context)
    return made, "/api", headers

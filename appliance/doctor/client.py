"""What a client's machine says of virtual services: connections that it has tried. Pure; `visit` tries them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

from pydantic import TypeAdapter

from appliance.doctor.member import ReportError, parsed
from appliance.model import Protocol
from appliance.ring.hash import FlowKey

VERSION = 1


class Came(StrEnum):
    """What came back."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """An RST."""
    SILENT = "silent"
    ERROR = "error"
    """An ICMP error, or one of the client's own kernel."""


@dataclass(frozen=True)
class Try:
    """One TCP connection. Its ports say by which member it went."""

    vip: str
    port: int
    source: str
    source_port: int
    came: Came
    seconds: float = 0.0
    """From the SYN to the SYN-ACK."""
    mss: int | None = None
    """The largest segment that the client's kernel would send, bytes."""
    error: str = ""

    @property
    def key(self) -> FlowKey:
        ends = ip_address(self.source), ip_address(self.vip)
        return FlowKey(*ends, Protocol.TCP, self.source_port, self.port)


@dataclass(frozen=True)
class ClientReport:
    """What `onward client` prints."""

    name: str
    tries: tuple[Try, ...]
    version: int = VERSION

    def document(self) -> dict[str, Any]:
        return asdict(self)


_ADAPTER = TypeAdapter(ClientReport)


def read_client(text: bytes | str) -> ClientReport:
    """A report from JSON.

    Raises:
        ReportError: it is none.
    """
    report = parsed(_ADAPTER, text, of="a client", printed_by="onward client")
    try:
        _check(report.tries)
    except ValueError as error:
        raise ReportError(f"tries: {error}") from error
    if report.version != VERSION:
        raise ReportError(f"a report of version {report.version}; this doctor reads version {VERSION}")
    return report


def _check(tries: Sequence[Try]) -> None:
    """
    Raises:
        ValueError: a connection that cannot have been.
    """
    for one in tries:
        key = one.key
        if key.source.version != key.destination.version:
            raise ValueError(f"{one.source} and {one.vip} are of two families")
        if not (0 < one.port < 65536 and 0 < one.source_port < 65536):
            raise ValueError(f"{one.source_port} or {one.port} is no port")

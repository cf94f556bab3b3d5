"""The contract of a health check, and the values that travel. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

IPAddress = IPv4Address | IPv6Address


class Code(StrEnum):
    """What one probe found. Names for logs, metrics and the page."""

    OK = "ok"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    MISMATCH = "mismatch"
    """Something answered, but not what was expected."""


@dataclass(frozen=True)
class Target:
    """What to probe."""

    id: str
    """`pool/member`."""

    address: IPAddress
    port: int


@dataclass(frozen=True)
class Result:
    """The outcome of one probe. A sick member is a Result; a broken program raises."""

    code: Code
    detail: str = ""
    duration_s: float = 0.0

    @property
    def good(self) -> bool:
        return self.code is Code.OK


class Verdict(StrEnum):
    """What a damper makes of many results."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class Check(Protocol):
    """One kind of question, with its settings."""

    async def probe(self, target: Target) -> Result:
        """Ask once. Never takes longer than the check's own time limit; every failure of the member is a Result."""


@dataclass(frozen=True)
class Status:
    """What a monitor knows of one target."""

    monitor: str
    target: Target
    verdict: Verdict
    last: Result | None = None
    """The latest result; None before the first."""

    since: float = 0.0
    """When the verdict last turned, seconds since the epoch."""

    good: int = 0
    """Results so far, by outcome; they only grow."""
    bad: int = 0

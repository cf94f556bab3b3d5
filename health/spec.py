"""The contract of a health check, and the values that travel. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from health.ways import Way

IPAddress = IPv4Address | IPv6Address


class Code(StrEnum):
    """What one probe found: the seed system's failure codes in lower case, as far as a check here can find them."""

    OK = "ok"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_TIMEOUT = "connection_timeout"
    """No connection within the time limit."""
    CONNECTION_RESET = "connection_reset"
    CONNECTION_ERROR = "connection_error"
    """The connection ended in the middle of an answer."""
    SERVER_UNREACHABLE = "server_unreachable"
    ARP_UNRESOLVED = "arp_unresolved"
    """Nobody answers when we ask for the MAC address that leads to the member (by ARP or neighbour discovery)."""
    PORT_UNREACHABLE = "port_unreachable"
    """ICMP says that nothing listens on the UDP port."""
    NO_RESPONSE = "no_response"
    """Not a byte came back."""
    PAYLOAD_TIMEOUT = "payload_timeout"
    """There is a connection, but no whole answer within the time limit."""
    PAYLOAD_CONTENT_MISMATCH = "payload_content_mismatch"
    """Something answered, but not what was expected."""
    RESPONSE_CODE_MISMATCH = "response_code_mismatch"
    """An answer with another status than the expected one: of HTTP, DNS or gRPC."""
    RESPONSE_BUFFER_OVERFLOW = "response_buffer_overflow"
    """More than an answer may have."""
    SSL_ERROR = "ssl_error"
    SSL_CERT_ERROR = "ssl_cert_error"
    """The member's certificate is expired, of another name, or of nobody we trust."""
    SCRIPT_ERROR = "script_error"
    """An external command says that the member is not well."""
    EXT_HM_ERROR = "ext_hm_error"
    """An external command cannot be started, or does not end."""
    MAINTENANCE_RESPONSE_CODE_MATCH = "maintenance_response_code_match"
    MAINTENANCE_PAYLOAD_CONTENT_MATCH = "maintenance_payload_content_match"


_MAINTENANCE = {Code.MAINTENANCE_RESPONSE_CODE_MATCH, Code.MAINTENANCE_PAYLOAD_CONTENT_MATCH}


@dataclass(frozen=True)
class Target:
    """What to probe."""

    id: str
    """`pool/member`."""

    address: IPAddress
    """What packets are sent to: the member's own address, or with a way the VIP."""

    port: int
    way: Way | None = None
    """How packets get there; None: as the kernel routes them."""

    @property
    def place(self) -> str:
        """Tells targets of one id apart: `address:port by way`; nothing for the member's own address."""
        if self.way is None:
            return ""
        address = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{address}:{self.port} by {self.way.name}"


@dataclass(frozen=True)
class Result:
    """The outcome of one probe. A sick member is a Result; a broken program raises."""

    code: Code
    detail: str = ""
    duration_s: float = 0.0
    answered: bool = True
    """False: good because nobody has complained, since no answer was expected."""

    mss: int | None = None
    """What a SYN-ACK says of the segments that its sender takes, bytes; None where nobody has looked."""

    ends_at: float | None = None
    """When the member's certificate ends, seconds since the epoch; None where nobody has looked."""

    warning: bool = False
    """It is good, and the detail says why somebody should look all the same."""

    @property
    def good(self) -> bool:
        return self.code is Code.OK

    @property
    def maintenance(self) -> bool:
        """Whether the member itself says that somebody works on it: meant so, but no reason to send it flows."""
        return self.code in _MAINTENANCE


class Verdict(StrEnum):
    """What a damper makes of many results."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"
    MAINTENANCE = "maintenance"
    """The member itself says that it is worked on."""


class Check(Protocol):
    """One kind of question, with its settings.

    Whatever it sends to a member, it sends by sockets of `health.checks.sockets`: that is the one place which knows the
    way to a target. Whatever a member answers, memory and time stay within the check's own limits.
    """

    async def probe(self, target: Target) -> Result:
        """Ask once. Never takes longer than the check's own time limit; every failure of the member is a Result.

        Raises:
            OSError: nothing is known of the member, since we ourselves are short of something (`health.checks.errors`).
        """


TURNS = 3
"""So many turns of a verdict are kept, as in the seed system."""


@dataclass(frozen=True)
class Turn:
    """A verdict became another one."""

    verdict: Verdict
    at: float
    """Seconds since the epoch."""

    cause: Result
    """The result that turned it."""


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
    maintenance: int = 0
    """Those in which the member said that it is worked on."""

    turned: Mapping[Verdict, int] = field(default_factory=dict)
    """How often the verdict has become each."""

    turns: tuple[Turn, ...] = ()
    """The latest TURNS, the newest first."""

    mss: int | None = None
    """The latest that a result had."""

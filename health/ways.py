"""The contract of a way: how packets of a check get to whom it asks, other than as the kernel would route them."""

import socket
from contextlib import AbstractContextManager
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from health.spec import Result, Target

IPAddress = IPv4Address | IPv6Address


class Way(Protocol):
    """A way to one machine. Replies come as the kernel gets them. Equal ways lead to the same machine alike."""

    @property
    def name(self) -> str:
        """For people: "l2", "ipip", ...; tells this way from others to the same machine."""

    @property
    def machine(self) -> IPAddress:
        """Whom it leads to."""

    def prepare(self, sock: socket.socket, address: IPAddress) -> None:
        """Give a new socket all that its packets need to go this way, and bind it to a source address.

        Args:
            sock: neither bound nor connected.
            address: what it will talk to.

        Raises:
            OSError: there is no such way now.
        """

    def carrying(
        self, sock: socket.socket, address: IPAddress, protocol: int, word: bytes, *, half_open: bool = False
    ) -> AbstractContextManager[None]:
        """Take the packets of one flow this way.

        Args:
            sock: prepared; what it sends.
            address: what it talks to.
            protocol: IANA number.
            word: four bytes that all packets of the flow have: the ports, or identifier and sequence number of an echo.
            half_open: of TCP take segments with SYN or RST only, so that no connection is ever established.
        """

    def judge(self, result: "Result", target: "Target") -> "Result":
        """A result of a check that went this way, with what the way knows of its cause.

        Raises:
            OSError: nothing is known of the member, since we ourselves are short of something (`health.checks.errors`).
        """

"""Which way the kernel would send to an address: RTM_GETROUTE of rtnetlink(7).

pyroute2 would do for a few members; for thousands it takes a hundred times as long, and keeps all other threads of the
process from their work meanwhile.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from appliance.model import IPAddress

RTN_UNICAST, RTN_LOCAL = 1, 2
"""Types of routes (linux/rtnetlink.h)."""

_NLMSG_ERROR, _RTM_NEWROUTE, _RTM_GETROUTE, _NLM_F_REQUEST = 2, 24, 26, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_METRICS, _RTA_VIA = 1, 4, 5, 7, 8, 18
_RTAX_MTU = 2
_HEADER, _ROUTE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBBBBBI"), struct.Struct("=HH")

_NONE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EINVAL, errno.EACCES}

BATCH = 32
"""Questions at a time: their answers fit into what a socket keeps by default."""

_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Route:
    """The kernel's answer."""

    kind: int
    """RTN_UNICAST, RTN_LOCAL, ..."""
    interface: int | None
    gateway: str | None
    """None: the address is on the interface's own segment."""
    source: IPAddress | None
    mtu: int | None
    """Of the route itself, where it has one, bytes."""


class Routes:
    """Asks one question after the other. Waits for the kernel, which answers at once."""

    def __init__(self) -> None:
        """Raises OSError: netlink is not to be had."""
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._sock.settimeout(_TIMEOUT_S)
        self._number = 0

    def close(self) -> None:
        self._sock.close()

    def to(self, targets: Sequence[IPAddress]) -> list[Route | None]:
        """One answer for each of at most BATCH addresses; None: there is no route.

        Raises:
            OSError: the kernel refuses to answer.
        """
        first = self._number + 1
        questions = []
        for target in targets:
            self._number += 1
            questions.append(_question(target, self._number))
        self._sock.send(b"".join(questions))
        answers: dict[int, Route | None] = {}
        while len(answers) < len(targets):
            data = self._sock.recv(65536)
            answers |= {number: route for number, route in _answers(data) if number >= first}
        return [answers[first + place] for place in range(len(targets))]


def _question(target: IPAddress, number: int) -> bytes:
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(target.packed), _RTA_DST) + target.packed
    body = _ROUTE.pack(family, target.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + attribute
    return _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, number, 0) + body


def _answers(data: bytes) -> Iterator[tuple[int, Route | None]]:
    """What one read has: numbers of questions, and their answers."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, number, _ = _HEADER.unpack_from(data, at)
        if kind == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
            if code not in _NONE:
                raise OSError(code, "asking the kernel for a route")
            yield number, None
        elif kind == _RTM_NEWROUTE:
            yield number, _route(data[at + _HEADER.size : at + length])
        at += (length + 3) & ~3


def _route(message: bytes) -> Route:
    found = dict(_attributes(message[_ROUTE.size :]))
    gateway = found.get(_RTA_GATEWAY)
    if gateway is None and _RTA_VIA in found:  # an IPv4 route through an IPv6 neighbour (RFC 8950): family, address
        gateway = found[_RTA_VIA][2:]
    metrics = dict(_attributes(found.get(_RTA_METRICS, b"")))
    return Route(
        kind=message[7],
        interface=_number(found.get(_RTA_OIF)),
        gateway=None if gateway is None else str(ip_address(gateway)),
        source=ip_address(found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else None,
        mtu=_number(metrics.get(_RTAX_MTU)),
    )


def _number(data: bytes | None) -> int | None:
    return None if data is None else int(struct.unpack("=I", data)[0])


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3

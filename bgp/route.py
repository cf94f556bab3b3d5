"""Routes and what is to be done about them. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

IPAddress = IPv4Address | IPv6Address

GRACEFUL_SHUTDOWN = "65535:0"
"""The community that says: this way is about to go, take another one while there is time (RFC 8326)."""


@dataclass(frozen=True)
class Attributes:
    """What routers choose among several ways by; what is not set is not sent."""

    med: int | None = None
    """The less the better, among routes of one neighbouring AS (RFC 4271, section 9.1.2.2)."""

    local_preference: int | None = None
    """The more the better. For peers of our own AS only; others are not sent any."""

    as_path: tuple[int, ...] = ()
    """Instead of the usual one, for peers of other ASes: our AS number, so many times."""

    communities: tuple[str, ...] = ()
    """RFC 1997, as `AS:value`, or the name of a well-known one."""

    large_communities: tuple[str, ...] = ()
    """RFC 8092, as `AS:value:value`."""

    def __str__(self) -> str:
        """As ExaBGP's commands have it."""
        parts = []
        if self.as_path:
            parts.append(f"as-path [ {' '.join(map(str, self.as_path))} ]")
        if self.med is not None:
            parts.append(f"med {self.med}")
        if self.local_preference is not None:
            parts.append(f"local-preference {self.local_preference}")
        if self.communities:
            parts.append(f"community [ {' '.join(self.communities)} ]")
        if self.large_communities:
            parts.append(f"large-community [ {' '.join(self.large_communities)} ]")
        return " ".join(parts)


@dataclass(frozen=True)
class Route:
    """One announced address, a /32 or a /128, as some peers are told of it."""

    vip: IPAddress
    next_hop: IPAddress | None = None
    """None: the session's own address."""

    attributes: Attributes = Attributes()
    peers: frozenset[IPAddress] | None = None
    """None: all. Routes of one VIP have no peer in common."""

    @property
    def prefix(self) -> IPv4Network | IPv6Network:
        return ip_network(self.vip)

    @property
    def cidr(self) -> str:
        """The prefix as text."""
        return f"{self.vip}/{self.vip.max_prefixlen}"

    def goes_to(self, peer: IPAddress) -> bool:
        return self.peers is None or peer in self.peers

    def __lt__(self, other: "Route") -> bool:
        """For stable output: IPv4 first. Addresses of different versions do not compare by themselves."""
        return self._order < other._order

    @property
    def _order(self) -> tuple[tuple[int, ...], str, tuple[tuple[int, ...], ...]]:
        hops = (self.vip, self.next_hop) if self.next_hop is not None else (self.vip,)
        numbers = tuple(number for hop in hops for number in _number(hop))
        return numbers, str(self.attributes), tuple(sorted(map(_number, self.peers or ())))

    def __str__(self) -> str:
        told = f"{self.prefix} via {self.next_hop or 'self'} {self.attributes}".rstrip()
        return told if self.peers is None else f"{told} to {', '.join(map(str, sorted(self.peers, key=_number)))}"


def _number(address: IPAddress) -> tuple[int, ...]:
    return address.version, int(address)


@dataclass(frozen=True)
class Changes:
    withdraw: frozenset[Route]
    announce: frozenset[Route]


def diff(have: frozenset[Route], want: frozenset[Route]) -> Changes:
    """What turns *have* into *want*. A route that changed is only announced: BGP replaces it in one message."""
    kept = {route.vip for route in want}
    return Changes(
        withdraw=frozenset(route for route in have if route.vip not in kept),
        announce=want - have,
    )

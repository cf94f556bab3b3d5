"""Routes and what is to be done about them. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Route:
    """One announced address: a /32 or a /128."""

    vip: IPAddress
    next_hop: IPAddress | None = None
    """None: the session's own address."""

    @property
    def prefix(self) -> IPv4Network | IPv6Network:
        return ip_network(self.vip)

    def __lt__(self, other: "Route") -> bool:
        """For stable output: IPv4 first. Addresses of different versions do not compare by themselves."""
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, ...]:
        hop = self.next_hop
        return (self.vip.version, int(self.vip), *((hop.version, int(hop)) if hop is not None else ()))

    def __str__(self) -> str:
        return f"{self.prefix} via {self.next_hop or 'self'}"


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

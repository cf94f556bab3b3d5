"""How large packets to each member may be, and who was told: the answer to /api/v1/mtu."""

from collections.abc import Iterator
from dataclasses import dataclass

from appliance.api.sources import Observed
from appliance.api.views import Document, PoolView, pool_views, service_views
from appliance.decide import MemberView
from appliance.forwarding import LEAST_IPV6
from appliance.model import IP_HEADER, TCP_HEADER


@dataclass(frozen=True)
class Way:
    """One way to one member that has a next hop."""

    pool: PoolView
    member: MemberView
    link_mtu: int
    """Of the first link, bytes."""
    overhead: int
    path_mtu: int | None
    """What is known to get through beyond it, where that was learned."""

    @property
    def largest(self) -> int:
        """The largest packet of a client that gets there, bytes."""
        return (self.link_mtu if self.path_mtu is None else min(self.link_mtu, self.path_mtu)) - self.overhead


def ways(observed: Observed) -> Iterator[Way]:
    """All of them, in the order of pools in use."""
    for pool in pool_views(service_views(observed)).values():
        for member in pool.members:
            if member.next_hop is not None:
                overhead = pool.delivery.overhead(member.address.version)
                yield Way(pool, member, member.next_hop.mtu, overhead, member.path_mtu)


def too_big_told(observed: Observed, member: MemberView) -> int:
    """Clients' packets that did not fit and were answered: by the data plane, and after a router had complained."""
    told = observed.counters.told_too_big.get(member.id, 0) if observed.counters else 0
    return told + observed.path_mtu.passed_on.get(member.address, 0)


def mtu_document(observed: Observed) -> Document:
    """Per member and delivery; and what became of all the ICMP errors that this director was sent."""
    return {
        "apiVersion": "v1",
        "members": [_member(observed, way) for way in ways(observed)],
        "errors_heard": dict(observed.path_mtu.outcomes),
        "deaf": observed.path_mtu.deaf or None,
    }


def _member(observed: Observed, way: Way) -> Document:
    path = observed.snapshot.path_mtus.get(way.member.address) if way.path_mtu is not None else None
    return {
        "member": way.member.id,
        "address": str(way.member.address),
        "delivery": str(way.pool.delivery),
        "link_mtu": way.link_mtu,
        "overhead": way.overhead,
        "path_mtu": way.path_mtu,
        "path_mtu_age_s": round(max(0.0, observed.at - path.at), 1) if path is not None else None,
        "largest_packet": way.largest,
        "mss": {f"ipv{version}": way.largest - size - TCP_HEADER for version, size in IP_HEADER.items()},
        "carries_ipv6": way.largest >= LEAST_IPV6,
        "errors_sent": too_big_told(observed, way.member),
        "errors_heard": observed.path_mtu.heard.get(way.member.address, 0),
    }

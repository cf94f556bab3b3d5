"""Which virtual service a port belongs to, as intervals that do not overlap: the form that planes look ports up in."""

import heapq
from collections.abc import Iterable, Sequence

from appliance.forwarding import TableService

NO_SERVICE = -1
PORTS = 1 << 16


def port_intervals(services: Sequence[TableService]) -> Iterable[tuple[int, int]]:
    """(first port, service index) of what applies from there on; NO_SERVICE is a gap. Narrow beats wide (P11).

    Args:
        services: those of one VIP and protocol.
    """
    ranges = sorted(
        (ports.first, ports.width, at, ports.last, service.index)
        for at, service in enumerate(services)
        for ports in service.ports
    )
    edges = sorted({0} | {entry[0] for entry in ranges} | {entry[3] + 1 for entry in ranges})
    begun: list[tuple[int, int, int, int]] = []
    """(width, position, last port, service) of ranges that have begun. One that has ended goes when it comes first."""
    at = 0
    for edge in edges:
        if edge == PORTS:
            return
        while at < len(ranges) and ranges[at][0] == edge:
            heapq.heappush(begun, ranges[at][1:])
            at += 1
        while begun and begun[0][2] < edge:
            heapq.heappop(begun)
        yield edge, begun[0][3] if begun else NO_SERVICE

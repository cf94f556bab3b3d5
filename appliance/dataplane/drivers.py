"""The data planes there are. A new one is a package here and a line in this table."""

from collections.abc import Callable

from appliance.dataplane.auto import AutoDataPlane
from appliance.dataplane.base import DataPlane
from appliance.dataplane.raw.plane import RawDataPlane
from appliance.dataplane.xdp.plane import XdpDataPlane
from appliance.inheritance import Inheritance
from appliance.model import PlaneKind

DRIVERS: dict[PlaneKind, Callable[[tuple[str, ...], int, int, Inheritance | None], DataPlane]] = {
    PlaneKind.AUTO: AutoDataPlane,
    PlaneKind.XDP: lambda interfaces, pins, tables, left: XdpDataPlane(
        interfaces, pins=pins, slot_tables=tables, inheritance=left
    ),
    PlaneKind.RAW: lambda interfaces, pins, _tables, left: RawDataPlane(
        interfaces, pins=pins, inheritance=left, stays=True
    ),
}
"""Each makes a plane for a set of interfaces that remembers so many flows and has room for so many slot tables, and
leaves to the next process what goes on without this one.

`raw` needs CAP_NET_RAW, CAP_NET_ADMIN, nft (nftables 0.9.7 or later) and Linux 5.10; it sends faster with AF_XDP. `xdp`
needs that as well, and CAP_BPF, CAP_PERFMON, libbpf and Linux 5.15.
"""

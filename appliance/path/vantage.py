"""Which monitors ask which virtual services through the DSR path, and which ports. Pure."""

from collections.abc import Iterable, Sequence

from appliance.config.values import WILDCARD
from appliance.model import MonitorSpec, PortRange, Vantage, VirtualService


def asks_path(monitor: MonitorSpec, service: VirtualService) -> bool:
    """Whether a monitor asks members by the way that clients' packets for a virtual service go."""
    if not service.enabled:
        return False
    if monitor.vantage is None:
        return monitor.monitor_port is None or any(monitor.monitor_port in ports for ports in service.ports)
    return monitor.vantage is not Vantage.DIRECT


def ports_asked(ranges: Iterable[PortRange]) -> Sequence[int]:
    """The ports that stand for all of a virtual service's."""
    return sorted({port for ports in ranges if ports != WILDCARD for port in (ports.first, ports.last)})

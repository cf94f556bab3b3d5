"""What of a configuration does not fit this machine: `onward check --host`. Reads, and changes nothing."""

import platform
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.model import Config, DsrType, IPAddress, PlaneKind
from appliance.outer import Interface, addresses_of, not_routed, shown_by_ip
from appliance.path.vantage import asks_path

SHOWN = 5
"""Of members with the same trouble, so many are named."""

_XDP_KERNEL = (5, 15)


@dataclass(frozen=True)
class Found:
    """Something that does not fit."""

    text: str
    fatal: bool = True
    """Whether the director would not start, or not forward; else it is worth knowing."""


@dataclass(frozen=True)
class Link:
    mtu: int
    up: bool


@dataclass(frozen=True)
class Host:
    """What is known of a machine."""

    links: Mapping[str, Link]
    interfaces: tuple[Interface, ...]
    """Its addresses, each with the prefix that is on its segment."""

    release: str
    """Of the kernel, as uname(2) has it."""

    tun: bool
    """Whether there is /dev/net/tun."""

    rp_filter: Mapping[str, int]
    """By interface; the larger one of its own and that of all counts."""

    @property
    def addresses(self) -> frozenset[IPAddress]:
        return frozenset(interface.ip for interface in self.interfaces)


def this_host() -> Host:
    """
    Raises:
        MachineError: iproute2 is missing.
    """
    found = shown_by_ip()
    conf = Path("/proc/sys/net/ipv4/conf")
    return Host(
        links={link["ifname"]: Link(int(link["mtu"]), "UP" in link["flags"]) for link in found},
        interfaces=addresses_of(found),
        release=platform.release(),
        tun=Path("/dev/net/tun").exists(),
        rp_filter={folder.name: _number(folder / "rp_filter") for folder in conf.iterdir()} if conf.exists() else {},
    )


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def about_host(config: Config, host: Host, no_way: Callable[[IPAddress], str] | None = None) -> Iterator[Found]:
    """Everything that does not fit.

    Args:
        config: to be used there.
        host: the machine.
        no_way: why packets to an address find none, empty where they do; None asks this machine's routes.
    """
    yield from _interfaces(config, host)
    yield from _addresses(config, host)
    yield from _members(config, host, no_way or why_no_way)
    yield from _kernel(config, host, no_way or why_no_way)


def link_mtu(config: Config, host: Host) -> int | None:
    """The smallest MTU of the director's interfaces; None where none of them is there."""
    return min((host.links[name].mtu for name in config.director.interfaces if name in host.links), default=None)


def _interfaces(config: Config, host: Host) -> Iterator[Found]:
    there = ", ".join(name for name in host.links if name != "lo") or "none"
    for name in config.director.interfaces:
        if name not in host.links:
            yield Found(f"director.interfaces: there is no interface {name} on this machine; there are: {there}")
        elif not host.links[name].up:
            yield Found(f"director.interfaces: {name} is down; `ip link set {name} up`")


def _addresses(config: Config, host: Host) -> Iterator[Found]:
    for service in config.services:
        for vip in service.vips:
            if vip in host.addresses:
                yield Found(
                    f"virtual service {service.name}: {vip} is an address of this machine, which would take its "
                    "packets; remove it from the interface"
                )
    for peer in config.bgp.peers if config.bgp is not None else ():
        if peer.local_address is not None and peer.local_address not in host.addresses:
            yield Found(f"bgp peer {peer.address}: local_address {peer.local_address} is no address of this machine")
    if config.myself is not None and config.myself.address not in host.addresses:
        yield Found(f"fleet director {config.myself.name}: {config.myself.address} is no address of this machine")
    yield from map(Found, not_routed(config.director.outer_source_prefixes, host.interfaces))


def _members(config: Config, host: Host, no_way: Callable[[IPAddress], str]) -> Iterator[Found]:
    lost: dict[str, list[str]] = {}
    behind: list[str] = []
    seen = set()
    for service in config.services:
        l2 = service.profile.delivery.dsr_type is DsrType.L2
        for member in service.pool.members:
            name = f"{service.pool.name}/{member.name}"
            if (name, l2) in seen:
                continue
            seen.add((name, l2))
            if why := no_way(member.address):
                lost.setdefault(why, []).append(name)
            elif l2 and not any(member.address in interface.network for interface in host.interfaces):
                behind.append(name)
    for why, names in lost.items():
        yield Found(f"no way to {_some(names)}: {why}", fatal=False)
    if behind:
        yield Found(f"{_some(behind)}: on no segment of this machine, which L2 DSR needs; use L3 DSR")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"member{'s' if len(names) > 1 else ''} {', '.join(names[:SHOWN])}{more}"


def why_no_way(address: IPAddress) -> str:
    """Why this machine's routes have no way to an address; empty where they have one. Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), 9))
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def _kernel(config: Config, host: Host, no_way: Callable[[IPAddress], str]) -> Iterator[Found]:
    match = re.match(r"(\d+)\.(\d+)", host.release)
    version = (int(match[1]), int(match[2])) if match else _XDP_KERNEL
    if version < _XDP_KERNEL and config.director.plane is not PlaneKind.RAW:
        only = config.director.plane is PlaneKind.XDP
        way_out = 'set plane = "raw"' if only else "the raw plane is used"
        yield Found(f"director.plane: Linux {host.release} is too old for XDP (5.15); {way_out}", fatal=only)
    asks = any(asks_path(monitor, user) for user in config.services for monitor in user.pool.monitors)
    if asks and not host.tun:
        yield Found(
            'health monitors ask through the DSR path, and there is no /dev/net/tun; load it, or use vantage = "direct"'
        )
    everywhere = host.rp_filter.get("all", 0)
    filters = {name: max(everywhere, host.rp_filter.get(name, 0)) for name in config.director.interfaces}
    strict = [name for name, mode in filters.items() if mode == 1]
    vips = {vip for service in config.services for vip in service.vips if vip.version == 4}
    if asks and any(filters.values()) and (lost := sorted(vip for vip in vips if no_way(vip))):
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        yield Found(
            f"no route to VIP {lost[0]}{more}, which rp_filter wants on "
            f"{', '.join(name for name, mode in filters.items() if mode)}: replies to health checks are dropped; add a "
            "route (a default route will do), or set rp_filter = 0"
        )
    if asks and strict:
        yield Found(
            f"rp_filter = 1 (strict) on {', '.join(strict)}: replies to health checks are dropped unless this "
            "machine's route to the VIP leaves by the interface that they come in by",
            fatal=False,
        )

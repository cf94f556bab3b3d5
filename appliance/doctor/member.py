"""What a member says of itself: facts, which the checks judge. They come from `onward agent` there, or from a file.

Facts and not verdicts, so that a newer doctor makes more of an old agent's words. Pure; `observe` gathers them.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

IPAddress = IPv4Address | IPv6Address
VERSION = 1

LARGEST = 1 << 20
"""Bytes of a report, at most."""


class ReportError(ValueError):
    """What should be a report is none; the text says where and why."""


@dataclass(frozen=True)
class Address:
    address: str
    """Without its prefix length."""
    device: str
    flags: tuple[str, ...] = ()
    """`tentative`, `dadfailed`."""


@dataclass(frozen=True)
class Device:
    """An interface."""

    kind: str = ""
    """`ipip`, `ip6tnl`, `gre`, `tun`, `veth`, ...; empty: hardware."""
    up: bool = True
    mtu: int = 1500
    mac: str = ""
    local: str = ""
    """Of a tunnel: its own end; empty or 0.0.0.0: any."""
    remote: str = ""
    xdp: bool = False
    """Whether an XDP program is attached."""
    driver: str = ""
    queues: tuple[int, ...] = ()
    """Packets received by each queue, where the driver says so."""


@dataclass(frozen=True)
class Listener:
    protocol: str
    """`tcp` or `udp`."""
    address: str
    """`0.0.0.0` and `::` are all of a family."""
    port: int


@dataclass(frozen=True)
class Platform:
    """What the machine is, as far as fixes depend on it."""

    system: str = ""
    """`ubuntu 22.04`."""
    manager: str = ""
    """Who makes the network: `netplan`, `networkd`, `ifupdown`, `networkmanager`; empty: nobody that we know."""
    kernel: str = ""
    machine: str = ""
    """Vendor and product, as the firmware says: names hypervisors and clouds."""


@dataclass(frozen=True)
class Seen:
    """Packets of the asking director that the member saw while it was asked."""

    outer: int = 0
    """For the VIP in a tunnel, from the director."""
    inner: int = 0
    """For the VIP and from the director, out of a tunnel or without one."""
    replies: int = 0
    """From the VIP to the director."""


@dataclass(frozen=True)
class Persisted:
    """What the next boot would make of it."""

    known: bool = False
    """Whether the files could be read."""
    sysctls: dict[str, str] = field(default_factory=dict)
    """What the last word of all sysctl files is, and in which file, as `VALUE FILE`."""
    vips: dict[str, str] = field(default_factory=dict)
    """By VIP: the file that has it; VIPs that are in none are not here."""


@dataclass(frozen=True)
class Point:
    """One of the results of a check of the member's set-up."""

    name: str
    subject: str = ""
    verdict: str = "unknown"
    """`pass`, `fail` or `unknown`."""
    evidence: str = ""
    fix: str = ""


@dataclass(frozen=True)
class MemberReport:
    """A member's view of itself."""

    version: int = VERSION
    observed: bool = False
    """Whether there is more in it than points."""
    at: float = 0.0
    """Seconds since 1970."""

    platform: Platform = Platform()
    addresses: tuple[Address, ...] = ()
    devices: dict[str, Device] = field(default_factory=dict)
    sysctls: dict[str, int] = field(default_factory=dict)
    """By their names behind `net.`, such as `ipv4.conf.all.rp_filter`."""

    listeners: tuple[Listener, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)
    """By how much counters of the kernel have grown while it was asked: `TcpExt.IPReversePathFilter`, ..."""

    conntrack: tuple[int, int] | None = None
    """Entries, and how many there may be."""

    firewall: tuple[str, ...] = ()
    """Lines of the rule set."""
    firewalld_rpfilter: str = ""
    """`IPv6_rpfilter` of firewalld.conf; empty: no firewalld."""

    advmss: dict[str, int] = field(default_factory=dict)
    """By VIP: the MSS that its route to clients advertises, where one is set."""

    hairpins: tuple[str, ...] = ()
    """Connections to a VIP that begin and end on this very machine."""

    persisted: Persisted = Persisted()
    watched: bool = False
    """Whether it looked at packets while it was asked; else `seen` and `counters` say nothing."""
    seen: dict[str, Seen] = field(default_factory=dict)
    """By VIP."""

    points: tuple[Point, ...] = ()
    """Where it is such a check's result, and not an agent's words."""

    def has(self, vip: IPAddress) -> bool:
        return any(ip_address(one.address) == vip for one in self.addresses)

    def sysctl(self, name: str) -> int:
        """What counts; 0 where there is none of that name."""
        return self.sysctls.get(name, 0)

    def largest(self, device: str, name: str) -> int:
        """Of an IPv4 setting whose larger value counts, of `all` and of the device (rp_filter, arp_ignore, ...)."""
        return max(self.sysctl(f"ipv4.conf.all.{name}"), self.sysctl(f"ipv4.conf.{device}.{name}"))

    def packets(self, vips: Iterable[IPAddress]) -> Seen:
        """What was seen of these VIPs together."""
        mine = [self.seen[str(vip)] for vip in dict.fromkeys(vips) if str(vip) in self.seen]
        return Seen(sum(one.outer for one in mine), sum(one.inner for one in mine), sum(one.replies for one in mine))

    def document(self) -> dict[str, Any]:
        return asdict(self)


_ADAPTER = TypeAdapter(MemberReport)
T = TypeVar("T")


def parsed(adapter: TypeAdapter[T], text: bytes | str, *, of: str, printed_by: str) -> T:
    """A report of some kind from JSON, as far as its shape goes.

    Args:
        adapter: the kind.
        text: the report.
        of: whose it should be.
        printed_by: the command that prints such reports.

    Raises:
        ReportError: it is none.
    """
    if len(text) > LARGEST:
        raise ReportError(f"more than {LARGEST} bytes are no report of {of}")
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the report"
        raise ReportError(f"{place}: {first['msg']}; it should be what `{printed_by}` prints") from error


def read_report(text: bytes | str) -> MemberReport:
    """A report from JSON.

    Raises:
        ReportError: it is none.
    """
    report = parsed(_ADAPTER, text, of="a member", printed_by="onward agent --once")
    try:
        for one in report.addresses:
            ip_address(one.address)
    except ValueError as error:
        raise ReportError(f"addresses: {error}") from error
    if not report.observed and not report.points:
        raise ReportError("neither what `onward agent --once` prints nor points of a check of a set-up")
    if report.version != VERSION:
        raise ReportError(f"a report of version {report.version}; this doctor reads version {VERSION}")
    return report

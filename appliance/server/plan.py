"""What one member's machine needs for the virtual services that it carries. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from ipaddress import ip_network

from appliance.config.problems import did_you_mean
from appliance.model import (
    Config,
    Decapsulator,
    Delivery,
    Encapsulation,
    IPAddress,
    IPNetwork,
    Member,
    OuterSource,
    PortRange,
    Protocol,
    VirtualService,
)

LINK_MTU = 1500
TABLE = "onward_member"
"""Our table of nftables, of the family inet."""

ROUTE_TABLE = 7700
"""The first of our routing tables, one for each MSS, and the priority of the rules that lead there."""

INSIDE = "127.0.0.42/32"
"""An address for tunnel devices. With a loose reverse-path filter the kernel drops whatever comes by a device that has
no IPv4 address at all (fib_validate_source). It is never a source: no route leaves by the device."""

LOOSE = "2"
"""Of rp_filter; the larger of a device's value and that of `all` counts, so what `all` says does not matter."""


class Kind(StrEnum):
    """Tunnel devices, by the word that iproute2 has for them."""

    IPIP = "ipip"
    SIT = "sit"
    IP6TNL = "ip6tnl"
    GRE = "gre"
    IP6GRE = "ip6gre"


_MODULES = {
    Kind.IPIP: "ipip",
    Kind.SIT: "sit",
    Kind.IP6TNL: "ip6_tunnel",
    Kind.GRE: "ip_gre",
    Kind.IP6GRE: "ip6_gre",
}
_FALLBACKS = {Kind.IPIP: "tunl0", Kind.SIT: "sit0", Kind.IP6TNL: "ip6tnl0", Kind.GRE: "gre0", Kind.IP6GRE: "ip6gre0"}


@dataclass(frozen=True)
class Tunnel:
    """A tunnel device that takes packets from anybody; the firewall says who that may be."""

    kind: Kind
    local: IPAddress
    """The member's own address."""
    inner: tuple[int, ...]
    """IP versions that come out of it."""

    @property
    def device(self) -> str:
        return f"onward-{self.kind}"

    @property
    def module(self) -> str:
        return _MODULES[self.kind]

    @property
    def fallback(self) -> str:
        """The device that the module brings along: local and remote address are any, so there is room for one only."""
        return _FALLBACKS[self.kind]

    @property
    def mode(self) -> str:
        """What comes out, as iproute2 calls it; empty where the kind says it."""
        if self.kind is not Kind.IP6TNL:
            return ""
        if len(self.inner) > 1:
            return "any"
        return "ipip6" if 4 in self.inner else "ip6ip6"

    @property
    def filtered(self) -> bool:
        """Whether the kernel's reverse-path filter looks at what comes out: there is none for IPv6."""
        return 4 in self.inner


@dataclass(frozen=True)
class Wanted:
    """A virtual service, as the member sees it."""

    name: str
    protocol: Protocol
    ports: tuple[PortRange, ...]
    vips: tuple[IPAddress, ...]
    delivery: Delivery


@dataclass(frozen=True)
class Plan:
    """Everything that a member's machine needs."""

    member: str
    addresses: tuple[IPAddress, ...]
    """The member's own, at most one of each family."""
    services: tuple[Wanted, ...]
    sources: tuple[IPNetwork, ...]
    """Where directors' encapsulated packets come from; empty without tunnels."""
    decapsulator: Decapsulator
    interface: str
    """Where packets arrive."""
    mtu: int
    """Of the links between directors and member."""
    reached: tuple[tuple[str, tuple[IPAddress, ...]], ...]
    """By virtual service, the addresses by which its pool knows the member."""

    @cached_property
    def vips(self) -> tuple[IPAddress, ...]:
        found = {vip for service in self.services for vip in service.vips}
        return tuple(sorted(found, key=lambda vip: (vip.version, int(vip))))

    @cached_property
    def encapsulated(self) -> tuple[Wanted, ...]:
        return tuple(service for service in self.services if service.delivery.encapsulation is not None)

    @cached_property
    def protocols(self) -> Mapping[int, tuple[int, ...]]:
        """Protocols of outer headers, by the version of these. UDP stands for GUE."""
        found: dict[int, set[int]] = {}
        for service, own, vip in self._ways():
            if service.delivery.encapsulation is Encapsulation.GRE:
                number = 47
            elif service.delivery.encapsulation is Encapsulation.GUE:
                number = 17
            else:
                number = 4 if vip.version == 4 else 41
            found.setdefault(own.version, set()).add(number)
        return {version: tuple(sorted(numbers)) for version, numbers in sorted(found.items())}

    @cached_property
    def guarded(self) -> Mapping[int, tuple[int, ...]]:
        """Protocols that nobody but directors may send, by IP version: behind GUE stand the devices of IP in IP, which
        take that from anybody as it is."""
        found = {version: set(numbers) for version, numbers in self.protocols.items()}
        for tunnel in self.tunnels:
            if tunnel.kind in (Kind.IPIP, Kind.SIT, Kind.IP6TNL):
                found[tunnel.local.version] |= {4 if inner == 4 else 41 for inner in tunnel.inner}
        return {version: tuple(sorted(numbers)) for version, numbers in found.items()}

    @cached_property
    def tunnels(self) -> tuple[Tunnel, ...]:
        """The kernel's tunnel devices. For GUE they stand behind `fou`, which opens the UDP."""
        if self.decapsulator is not Decapsulator.KERNEL:
            return ()
        inner: dict[tuple[Kind, IPAddress], set[int]] = {}
        for service, own, vip in self._ways():
            if service.delivery.encapsulation is Encapsulation.GRE:
                kind = Kind.GRE if own.version == 4 else Kind.IP6GRE
            elif own.version == 6:
                kind = Kind.IP6TNL
            else:
                kind = Kind.IPIP if vip.version == 4 else Kind.SIT
            inner.setdefault((kind, own), set()).add(vip.version)
        return tuple(Tunnel(kind, own, tuple(sorted(inner[kind, own]))) for kind, own in sorted(inner, key=str))

    @property
    def gue(self) -> tuple[int, ...]:
        """Outer IP versions in which the kernel has to open GUE."""
        if self.decapsulator is not Decapsulator.KERNEL:
            return ()
        return tuple(version for version, numbers in self.protocols.items() if 17 in numbers)

    @cached_property
    def mss(self) -> Mapping[IPAddress, int]:
        """What VIPs must advertise to clients, whose segments fit the tunnel then. None for UDP and L2."""
        found: dict[IPAddress, int] = {}
        for service, own, vip in self._ways():
            if service.protocol is Protocol.TCP:
                size = service.delivery.mss(vip.version, own.version, self.mtu)
                found[vip] = min(size, found.get(vip, size))
        return {vip: found[vip] for vip in self.vips if vip in found}

    @property
    def route_tables(self) -> Mapping[int, int]:
        """Our routing tables, by MSS."""
        return {size: ROUTE_TABLE + place for place, size in enumerate(sorted(set(self.mss.values())))}

    def own(self, version: int) -> IPAddress | None:
        return next((address for address in self.addresses if address.version == version), None)

    def sources_of(self, version: int) -> tuple[IPNetwork, ...]:
        return tuple(source for source in self.sources if source.version == version)

    def sysctls(self) -> tuple[tuple[str, str, str], ...]:
        """Key, value and reason, without those of tunnel devices."""
        return (
            ("net.ipv4.conf.all.arp_ignore", "1", "answer ARP only for addresses of the interface that was asked"),
            ("net.ipv4.conf.all.arp_announce", "2", "never ask in the name of a VIP, which would move it in caches"),
        )

    def tunnel_sysctls(self) -> tuple[tuple[str, str, str], ...]:
        """The same, of tunnel devices: a key is there only while the device is."""
        return tuple(
            (f"net.ipv4.conf.{tunnel.device}.rp_filter", LOOSE, "clients are reached by another interface")
            for tunnel in self.tunnels
            if tunnel.filtered
        )

    def decap_arguments(self) -> tuple[str, ...]:
        """Of `onward decap run`; empty where the kernel does it."""
        if self.decapsulator is not Decapsulator.ONWARD or not self.encapsulated:
            return ()
        words = ["--interface", self.interface]
        for source in self.sources:
            words += ["--from", str(source)]
        for vip in self.vips:
            words += ["--vip", str(vip)]
        for address in self.addresses:
            words += ["--address", str(address)]
        return tuple(words)

    def _ways(self) -> Iterator[tuple[Wanted, IPAddress, IPAddress]]:
        """Each service that comes in a tunnel, with the outer address and a VIP."""
        reached = dict(self.reached)
        for service in self.encapsulated:
            for own in reached[service.name]:
                yield from ((service, own, vip) for vip in service.vips)


class PlanError(Exception):
    """There is no plan; every reason is in `problems`."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def plan_of(
    config: Config,
    member: str,
    *,
    services: Sequence[str] = (),
    sources: Sequence[IPNetwork] = (),
    decapsulator: Decapsulator = Decapsulator.KERNEL,
    interface: str = "eth0",
    mtu: int = LINK_MTU,
) -> Plan:
    """The plan for one machine.

    Args:
        config: the fleet's.
        member: `POOL/NAME`, a name, or an address.
        services: only these virtual services; all that the member carries when empty.
        sources: where directors' encapsulated packets come from; [[fleet.director]] says it when empty.
        decapsulator: who opens packets.
        interface: where packets arrive.
        mtu: of the links to the member, bytes.

    Raises:
        PlanError: no such service or member, or something is not known that the plan needs.
    """
    problems = [
        f"no virtual service is named {name}; {did_you_mean(name, [one.name for one in config.services])}"
        f"there are: {', '.join(one.name for one in config.services) or 'none'}"
        for name in services
        if name not in {one.name for one in config.services}
    ]
    if problems:
        raise PlanError(problems)
    chosen = [one for one in config.services if one.enabled and (not services or one.name in services)]
    carried = [(service, found) for service in chosen if (found := _members(service, member))]
    if not carried:
        known = sorted({name for service in chosen for name in service.pool.member_ids})
        close = did_you_mean(member, [*known, *(name.partition("/")[2] for name in known)])
        raise PlanError([f"no member {member} of these services; {close}there are: {', '.join(known) or 'none'}"])
    addresses = sorted({one.address for _, found in carried for one in found}, key=lambda a: (a.version, int(a)))
    for version in (4, 6):
        several = [str(address) for address in addresses if address.version == version]
        if len(several) > 1:
            those = ", ".join(several)
            raise PlanError(
                [f"{member} is several machines ({those}); name it by address or POOL/NAME, or give --service"]
            )
    return plan_for(
        config,
        member,
        [(service, tuple(one.address for one in found)) for service, found in carried],
        sources=sources,
        decapsulator=decapsulator,
        interface=interface,
        mtu=mtu,
    )


def plan_for(
    config: Config,
    name: str,
    carried: Sequence[tuple[VirtualService, tuple[IPAddress, ...]]],
    *,
    sources: Sequence[IPNetwork],
    decapsulator: Decapsulator,
    interface: str,
    mtu: int,
) -> Plan:
    """The plan for a machine that carries these virtual services, each by the addresses that directors send it to.

    Raises:
        PlanError: it is not known where directors send from.
    """
    plan = Plan(
        member=name,
        addresses=tuple(sorted({one for _, own in carried for one in own}, key=lambda a: (a.version, int(a)))),
        services=tuple(Wanted(one.name, one.protocol, one.ports, one.vips, one.profile.delivery) for one, _ in carried),
        sources=(),
        decapsulator=decapsulator,
        interface=interface,
        mtu=mtu,
        reached=tuple((one.name, own) for one, own in carried),
    )
    return _with_sources(plan, config, sources)


def _members(service: VirtualService, wanted: str) -> list[Member]:
    return [
        one
        for name, one in zip(service.pool.member_ids, service.pool.members, strict=True)
        if wanted in (name, one.name, str(one.address))
    ]


def _with_sources(plan: Plan, config: Config, given: Sequence[IPNetwork]) -> Plan:
    known, problems = (tuple(given), list[str]()) if given else _known_sources(plan, config)
    used = tuple(source for source in known if source.version in plan.protocols)
    problems += [
        f"it is not known from which IPv{version} addresses directors send to {plan.own(version)}; "
        "give --from PREFIX, or list directors with such addresses as [[fleet.director]]"
        for version in plan.protocols
        if not problems and not any(source.version == version for source in used)
    ]
    if problems:
        raise PlanError(problems)
    return replace(plan, sources=used)


def _known_sources(plan: Plan, config: Config) -> tuple[tuple[IPNetwork, ...], list[str]]:
    """Where the configuration says that directors send from, and why it does not say enough."""
    sources = {service.delivery.outer_source for service in plan.encapsulated}
    known: tuple[IPNetwork, ...] = ()
    if sources != {OuterSource.PREFIX}:
        known = tuple(ip_network(peer.address) for peer in config.fleet.directors)
    if OuterSource.PREFIX not in sources:
        return known, []
    mine = config.director.outer_source_prefixes
    others = [peer.name for peer in config.fleet.directors if peer.name != config.director.name]
    unknown = ", ".join(others) or ("" if mine else "directors")
    problem = (
        f"outer headers come from a prefix (outer_source), and that of {unknown} is not known here; "
        "give --from PREFIX for each director"
    )
    return known + mine, [problem] if unknown else []

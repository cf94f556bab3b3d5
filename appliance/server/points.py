"""Whether a member's machine has what it needs: every point with what was seen and what to do. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_network

from appliance.model import IPAddress, IPNetwork, Protocol
from appliance.server.firewall import mss_of, sources_in
from appliance.server.plan import INSIDE, Kind, Plan, Tunnel


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNKNOWN = "unknown"
    """It could not be seen, or it cannot be seen from here."""


@dataclass(frozen=True)
class Point:
    """One thing that a member needs."""

    name: str
    """What kind of thing, in words that stay: scripts may rely on them."""
    subject: str
    """Of which VIP, device, port or setting."""
    verdict: Verdict
    evidence: str
    """What was seen."""
    fix: str = ""
    """A command or a sentence that helps; empty where nothing is to be done."""


@dataclass(frozen=True)
class Link:
    """A network interface."""

    up: bool
    mtu: int
    addresses: frozenset[str]
    """`ADDRESS/LENGTH` each."""
    kind: str = ""
    """As iproute2 calls it: ipip, veth, ..."""
    local: str = ""
    """Of a tunnel."""
    mode: str = ""
    """What comes out of a tunnel over IPv6: ip6ip6, ipip6 or any."""
    troubled: frozenset[str] = frozenset()
    """Addresses that are still being checked for duplicates, or are duplicates."""


@dataclass(frozen=True)
class Listener:
    """A socket that takes connections or datagrams."""

    protocol: Protocol
    address: IPAddress | None
    """None: every one, as far as `versions` goes."""
    port: int
    versions: frozenset[int] = frozenset({4, 6})


@dataclass(frozen=True)
class WayBack:
    """How replies of a VIP leave."""

    device: str = ""
    advmss: int | None = None
    why_not: str = ""
    """Why there is no way."""


@dataclass(frozen=True)
class Decapsulating:
    """What a running `onward decap` says of itself."""

    interface: str
    sources: frozenset[str]
    vips: frozenset[str]
    addresses: frozenset[str]


@dataclass(frozen=True)
class Seen:
    """What is known of a machine."""

    links: Mapping[str, Link]
    sysctls: Mapping[str, str]
    """By key, those that a plan asks for and those of its devices; absent ones are not there."""
    listeners: tuple[Listener, ...]
    rules: object
    """Our table as `nft -j list table` prints it; None without one."""
    ways: Mapping[IPAddress, WayBack]
    """By VIP."""
    decap: tuple[Decapsulating, ...] = ()
    gue: frozenset[int] = frozenset()
    """IP versions in which the kernel opens GUE."""
    dropped_by_rp_filter: int | None = None
    """Since the machine started."""
    firewalld_rpfilter: str = ""
    """IPv6_rpfilter of a firewalld that runs."""
    unseen: Mapping[str, str] = field(default_factory=dict)
    """Why something of the above is not known, by the attribute's name."""


def judge(plan: Plan, seen: Seen) -> tuple[Point, ...]:
    """Every point of a plan, against what was seen."""
    return tuple(point for check in POINTS.values() for point in check(plan, seen))


def healthy(points: tuple[Point, ...]) -> bool:
    """Whether nothing is wrong, as far as can be seen."""
    return all(point.verdict is not Verdict.FAIL for point in points)


_QUIET = frozenset({"dummy", *Kind})
"""Kinds of devices, beside `lo`, that nobody outside can ask by ARP."""


def _interface(plan: Plan, seen: Seen) -> Iterator[Point]:
    """Directors' packets arrive where the rest of the points takes for granted that they do."""
    if "links" in seen.unseen:
        yield Point("interface", plan.interface, Verdict.UNKNOWN, seen.unseen["links"])
        return
    fix = f"give --interface with the one that has {' or '.join(map(str, plan.addresses))}"
    link = seen.links.get(plan.interface)
    if link is None:
        yield Point("interface", plan.interface, Verdict.FAIL, f"there is no {plan.interface} here", fix)
    elif not link.up:
        up = f"ip link set {plan.interface} up"
        yield Point("interface", plan.interface, Verdict.FAIL, f"{plan.interface} is down", up)
    else:
        yield Point("interface", plan.interface, Verdict.PASS, f"{plan.interface} is up")


def _vip(plan: Plan, seen: Seen) -> Iterator[Point]:
    """The VIP is an address of the loopback interface, with the length of a single address."""
    for vip in plan.vips:
        wanted = f"{vip}/{vip.max_prefixlen}"
        holders = {
            name: address
            for name, link in seen.links.items()
            for address in link.addresses
            if address.partition("/")[0] == str(vip)
        }
        fix = f"ip address replace {wanted} dev lo" + (" nodad" if vip.version == 6 else "")
        loud = [name for name in holders if name != "lo" and seen.links[name].kind not in _QUIET]
        troubled = [name for name in holders if str(vip) in seen.links[name].troubled]
        if not holders:
            yield Point("vip", str(vip), Verdict.FAIL, "no interface has it", fix)
        elif loud:
            yield Point(
                "vip",
                str(vip),
                Verdict.FAIL,
                f"{loud[0]} has it, where ARP is answered for it",
                f"ip address del {holders[loud[0]]} dev {loud[0]}; {fix}",
            )
        elif troubled:
            yield Point(
                "vip", str(vip), Verdict.FAIL, f"{troubled[0]} does not use it: it is, or may be, a duplicate", fix
            )
        elif wanted not in holders.values():
            name, had = next(iter(holders.items()))
            yield Point(
                "vip", str(vip), Verdict.FAIL, f"{name} has it as {had}", f"ip address del {had} dev {name}; {fix}"
            )
        else:
            yield Point("vip", str(vip), Verdict.PASS, f"{', '.join(holders)} has {wanted}")


_GOOD = {"arp_ignore": ("1", "2"), "arp_announce": ("2",)}


def _arp(plan: Plan, seen: Seen) -> Iterator[Point]:
    """Nobody hears of the VIP by ARP. The larger of an interface's value and that of `all` counts."""
    for name, good in _GOOD.items():
        keys = [f"net.ipv4.conf.{device}.{name}" for device in ("all", plan.interface)]
        values = {key: seen.sysctls[key] for key in keys if key in seen.sysctls}
        if not any(vip.version == 4 for vip in plan.vips):
            continue
        fix = f"sysctl -w {keys[0]}={good[0]}"
        evidence = ", ".join(f"{key} = {value}" for key, value in values.items())
        if not values:
            yield Point(name, plan.interface, Verdict.UNKNOWN, "cannot be read", fix)
        else:
            counts = max(values.values(), key=int)
            yield Point(
                name,
                plan.interface,
                Verdict.PASS if counts in good else Verdict.FAIL,
                evidence,
                "" if counts in good else fix,
            )


def _tunnel(plan: Plan, seen: Seen) -> Iterator[Point]:
    """Somebody takes packets out of their encapsulation."""
    for tunnel in plan.tunnels:
        name = _device_of(tunnel, seen)
        create = f"modprobe {tunnel.module}; {' '.join(link_add(tunnel))}; ip link set {tunnel.device} up"
        if name is None:
            found = f"no device of kind {tunnel.kind} for packets to {tunnel.local}"
            yield Point("tunnel", tunnel.device, Verdict.FAIL, found, create)
        elif not seen.links[name].up:
            yield Point("tunnel", name, Verdict.FAIL, f"{name} is down", f"ip link set {name} up")
        elif tunnel.mode and seen.links[name].mode not in (tunnel.mode, "any"):
            fix = f"ip -6 tunnel change {name} mode {tunnel.mode}"
            yield Point("tunnel", name, Verdict.FAIL, f"{name} opens {seen.links[name].mode} only", fix)
        else:
            local = seen.links[name].local or "any address"
            yield Point("tunnel", name, Verdict.PASS, f"{name} is up, for packets to {local}")
    for version in plan.gue:
        fix = f"modprobe fou; ip{' -6' if version == 6 else ''} fou add port 6080 gue"
        there = version in seen.gue
        said = f"the kernel {'opens' if there else 'does not open'} GUE on UDP port 6080 over IPv{version}"
        yield Point("tunnel", f"gue{version}", Verdict.PASS if there else Verdict.FAIL, said, "" if there else fix)
    if words := plan.decap_arguments():
        yield _decapsulating(plan, seen, "onward decap run " + " ".join(words))


def _decapsulating(plan: Plan, seen: Seen, command: str) -> Point:
    running = [one for one in seen.decap if one.interface == plan.interface]
    if not running:
        why = f"no `onward decap` runs on {plan.interface}"
        return Point("tunnel", plan.interface, Verdict.FAIL, why, command)
    lacks = [str(vip) for vip in plan.vips if str(vip) not in running[0].vips]
    lacks += [
        str(own) for own in plan.addresses if own.version in plan.protocols and str(own) not in running[0].addresses
    ]
    if lacks:
        why = f"the `onward decap` on {plan.interface} does not know {', '.join(lacks)}"
        return Point("tunnel", plan.interface, Verdict.FAIL, why, command)
    return Point("tunnel", plan.interface, Verdict.PASS, f"`onward decap` runs on {plan.interface}")


def _device_of(tunnel: Tunnel, seen: Seen) -> str | None:
    """The device that takes this tunnel's packets: ours, another one with our address, or the one of the module."""
    fitting = [
        name for name, link in seen.links.items() if link.kind == tunnel.kind and link.local == str(tunnel.local)
    ]
    for name in (tunnel.device, *fitting, tunnel.fallback):
        link = seen.links.get(name)
        if link is not None and (name != tunnel.fallback or link.up):
            return name
    return None


def link_add(tunnel: Tunnel) -> list[str]:
    """The command that makes a tunnel device."""
    anybody = "any" if tunnel.local.version == 4 else "::"
    words = ["ip", "link", "add", tunnel.device, "type", str(tunnel.kind)]
    if tunnel.mode:
        words += ["mode", tunnel.mode]
    return [*words, "local", str(tunnel.local), "remote", anybody]


def _rp_filter(plan: Plan, seen: Seen) -> Iterator[Point]:
    """What comes out of a tunnel is not dropped since clients are reached by another interface."""
    for tunnel in plan.tunnels:
        name = _device_of(tunnel, seen)
        if name is None or not tunnel.filtered:
            continue
        keys = [f"net.ipv4.conf.{device}.rp_filter" for device in ("all", name)]
        if any(key not in seen.sysctls for key in keys):
            yield Point("rp_filter", name, Verdict.UNKNOWN, "cannot be read")
            continue
        counts = max(int(seen.sysctls[key]) for key in keys)
        has = any("." in address for address in seen.links[name].addresses)
        evidence = ", ".join(f"{key} = {seen.sysctls[key]}" for key in keys)
        evidence += f"; {name} has {'an' if has else 'no'} IPv4 address"
        if seen.dropped_by_rp_filter:
            evidence += f"; {seen.dropped_by_rp_filter} packets were dropped by the filter since the start"
        if counts == 1:
            fix = f"sysctl -w {keys[1]}=2" + ("" if has else f"; ip address add {INSIDE} dev {name}")
            yield Point("rp_filter", name, Verdict.FAIL, f"{evidence}: strict", fix)
        elif counts == 2 and not has:
            fix = f"ip address add {INSIDE} dev {name}"
            yield Point("rp_filter", name, Verdict.FAIL, f"{evidence}: loose, which drops everything then", fix)
        else:
            yield Point("rp_filter", name, Verdict.PASS, evidence)
    if plan.tunnels and any(vip.version == 6 for vip in plan.vips) and seen.firewalld_rpfilter in ("yes", "strict"):
        yield Point(
            "rp_filter",
            "firewalld",
            Verdict.FAIL,
            f"IPv6_rpfilter={seen.firewalld_rpfilter} in firewalld.conf",
            "set IPv6_rpfilter=loose in /etc/firewalld/firewalld.conf; firewall-cmd --reload",
        )


def _there(vip: IPAddress, seen: Seen) -> bool:
    return any(address.partition("/")[0] == str(vip) for link in seen.links.values() for address in link.addresses)


def _route_back(plan: Plan, seen: Seen) -> Iterator[Point]:
    """Replies find a way to clients, and not by a tunnel."""
    devices = {tunnel.device for tunnel in plan.tunnels} | {tunnel.fallback for tunnel in plan.tunnels}
    for vip in plan.vips:
        way = seen.ways.get(vip)
        if not _there(vip, seen):
            yield Point("route_back", str(vip), Verdict.UNKNOWN, "no interface has the VIP, so the kernel cannot say")
        elif way is None:
            yield Point("route_back", str(vip), Verdict.UNKNOWN, seen.unseen.get("ways", "it was not looked for"))
        elif way.why_not:
            fix = f"ip{' -6' if vip.version == 6 else ''} route add default via ROUTER dev {plan.interface}"
            yield Point("route_back", str(vip), Verdict.FAIL, f"no way to clients: {way.why_not}", fix)
        elif way.device in devices:
            fix = f"ip{' -6' if vip.version == 6 else ''} route del default dev {way.device}"
            yield Point("route_back", str(vip), Verdict.FAIL, f"replies leave by the tunnel {way.device}", fix)
        else:
            yield Point("route_back", str(vip), Verdict.PASS, f"replies leave by {way.device}")


def _mss(plan: Plan, seen: Seen) -> Iterator[Point]:
    """Clients are told of segments that fit the tunnel."""
    for vip, wanted in plan.mss.items():
        if not _there(vip, seen):
            yield Point("mss", str(vip), Verdict.UNKNOWN, "no interface has the VIP, so the kernel cannot say")
            continue
        way = seen.ways.get(vip, WayBack())
        found = {"the route to clients": way.advmss, "our firewall rule": mss_of(seen.rules, vip)}
        said = {what: size for what, size in found.items() if size is not None}
        link = seen.links.get(way.device or plan.interface)
        natural = link.mtu - (40 if vip.version == 4 else 60) if link is not None else None
        counts = min([*said.values(), *([natural] if natural is not None else [])], default=None)
        evidence = "; ".join(f"{what} says {size}" for what, size in said.items()) or "nothing makes it smaller"
        if natural is not None:
            evidence += f"; the link would say {natural}"
        if counts is None:
            yield Point("mss", str(vip), Verdict.UNKNOWN, evidence)
        elif counts > wanted:
            table = plan.route_tables[wanted]
            fix = (
                f"ip{' -6' if vip.version == 6 else ''} rule add from {vip} lookup {table}, with the routes of table "
                f"main in it, each with advmss {wanted}"
            )
            yield Point("mss", str(vip), Verdict.FAIL, f"{evidence}; {wanted} fits the tunnel", fix)
        else:
            yield Point("mss", str(vip), Verdict.PASS, f"{evidence}; {wanted} fits the tunnel")


def _firewall(plan: Plan, seen: Seen) -> Iterator[Point]:
    """Only directors get packets into the tunnels."""
    for version in plan.protocols:
        subject = f"IPv{version}"
        if plan.decap_arguments():
            running = [one for one in seen.decap if one.interface == plan.interface]
            if running:
                found: frozenset[str] | None = running[0].sources
            else:
                continue
        elif "rules" in seen.unseen:
            yield Point("firewall", subject, Verdict.UNKNOWN, seen.unseen["rules"])
            continue
        else:
            found = sources_in(seen.rules, version)
        fix = "load the firewall rules that `onward server-setup` prints"
        if found is None:
            yield Point("firewall", subject, Verdict.FAIL, "tunnelled packets are taken from anybody", fix)
            continue
        allowed = [network for one in found if (network := ip_network(one)).version == version]
        wanted = plan.sources_of(version)
        missing = [one for one in wanted if not any(_within(one, network) for network in allowed)]
        more = [one for one in allowed if not any(_within(one, network) for network in wanted)]
        said = f"let in: {', '.join(sorted(map(str, allowed))) or 'nobody'}"
        if missing:
            said += f"; not {', '.join(map(str, missing))}"
        if more:
            said += f"; {', '.join(map(str, more))} is more than directors"
        bad = missing or more
        yield Point("firewall", subject, Verdict.FAIL if bad else Verdict.PASS, said, fix if bad else "")


def _within(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and other.supernet_of(one)  # type: ignore[arg-type]


def _forwarding(plan: Plan, seen: Seen) -> Iterator[Point]:
    """A machine that forwards sends packets for a VIP that it lacks back where they came from."""
    value = seen.sysctls.get("net.ipv4.ip_forward")
    if value is None or not any(vip.version == 4 for vip in plan.vips):
        return
    if value == "0":
        yield Point("forwarding", "IPv4", Verdict.PASS, "net.ipv4.ip_forward = 0")
    else:
        # Routers and container hosts forward on purpose, and it only matters while a VIP is missing.
        said = f"net.ipv4.ip_forward = {value}: a packet for a VIP that is missing would be sent back"
        yield Point(
            "forwarding", "IPv4", Verdict.UNKNOWN, said, "sysctl -w net.ipv4.ip_forward=0 unless this is a router"
        )


MANY_PORTS = 60000
"""A virtual service with so many ports means every port, and no server listens at all of them."""


def _listening(plan: Plan, seen: Seen) -> Iterator[Point]:
    """Somebody listens at every VIP and port."""
    if "listeners" in seen.unseen:
        yield Point("listening", "", Verdict.UNKNOWN, seen.unseen["listeners"])
        return
    for service in plan.services:
        if any(span.width > MANY_PORTS for span in service.ports):
            continue
        # Of a range the first and the last one, as directors do.
        for port in dict.fromkeys(port for span in service.ports for port in (span.first, span.last)):
            for vip in service.vips:
                yield _listener(service.protocol, vip, port, seen)


def _listener(protocol: Protocol, vip: IPAddress, port: int, seen: Seen) -> Point:
    subject = f"{vip} {protocol} {port}"
    there = [one for one in seen.listeners if (one.protocol, one.port) == (protocol, port)]
    bound = [one for one in there if one.address == vip]
    wide = [one for one in there if one.address is None and vip.version in one.versions]
    if bound:
        return Point("listening", subject, Verdict.PASS, "a server is bound to the VIP")
    if wide and protocol is Protocol.UDP:
        return Point(
            "listening",
            subject,
            Verdict.UNKNOWN,
            "a server is bound to every address; its replies come from the VIP only if it takes care of that",
            f"bind it to {vip}, unless it answers from the address that was asked (IP_PKTINFO)",
        )
    if wide:
        return Point("listening", subject, Verdict.PASS, "a server is bound to every address")
    others = ", ".join(sorted({str(one.address) for one in there if one.address is not None}))
    said = f"only at {others}" if others else "nobody listens"
    return Point(
        "listening", subject, Verdict.FAIL, said, f"let the server listen at {vip} port {port}, or at every address"
    )


POINTS: Mapping[str, Callable[[Plan, Seen], Iterator[Point]]] = {
    "interface": _interface,
    "vip": _vip,
    "arp": _arp,
    "tunnel": _tunnel,
    "rp_filter": _rp_filter,
    "firewall": _firewall,
    "route_back": _route_back,
    "mss": _mss,
    "forwarding": _forwarding,
    "listening": _listening,
}
"""A new check is a function and a line."""

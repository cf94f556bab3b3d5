"""What takes more than one value to judge: references, duplicates, contradictions. Pure.

Rules look at the raw TOML data, not at the typed tables, so that a file with a mistake in one place is still judged in
every other place: what cannot be read is skipped here, as `schema` has complained about it already.

To add a rule, write a function that yields findings and name it in RULES.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, TypeVar

from appliance.announce import USUAL_PREFERENCE
from appliance.config import monitors, values
from appliance.config.monitors import Kind
from appliance.config.problems import BadValueError, Finding, Location, did_you_mean, path_text
from appliance.model import (
    QUIC_LENGTH,
    Algorithm,
    DsrType,
    FleetStore,
    HaMode,
    IPAddress,
    IPNetwork,
    OuterSource,
    PortRange,
    ProfileType,
    Protocol,
    Role,
    Step,
    TtlPolicy,
)

_T = TypeVar("_T")
Raw = Mapping[str, Any]

MAX_WAYS = 65535
"""Slots name members by 16-bit numbers, of which one means nobody (forwarding.MAX_MEMBERS)."""

MAX_XDP_WAYS = 32767
"""The XDP program needs one bit of them for itself (dataplane/xdp/layout.MAX_WAYS)."""

MAX_ANSWERED = 1024
"""VIPs of which directors can tell each other who answers, in one greeting (fleet/channel.py)."""

MAX_METERS = 1 << 14
"""As dataplane/meters.py has them, one of which is nobody's."""


class _Any(Enum):
    ELEMENT = "every element of a list"


EACH = _Any.ELEMENT


def find(data: object, *pattern: str | _Any) -> Iterator[tuple[Location, Any]]:
    """Every value at *pattern*, with its location. What is absent, or not a table or list, is passed over."""
    if not pattern:
        yield (), data
        return
    step, *rest = pattern
    if step is EACH:
        parts = enumerate(data) if isinstance(data, list) else iter(())
        for i, part in parts:
            for location, value in find(part, *rest):
                yield (i, *location), value
    elif isinstance(data, dict) and isinstance(step, str) and step in data:
        for location, value in find(data[step], *rest):
            yield (step, *location), value


def read(parse: Callable[[object], _T], value: object) -> _T | None:
    """*value* parsed, or None where `schema` reports that it cannot be."""
    try:
        return parse(value)
    except BadValueError:
        return None


def found(data: object, parse: Callable[[object], _T], *pattern: str | _Any) -> Iterator[tuple[Location, _T]]:
    """Every value at *pattern* that can be parsed."""
    for location, raw in find(data, *pattern):
        value = read(parse, raw)
        if value is not None:
            yield location, value


def tables(data: object, *pattern: str | _Any) -> Iterator[tuple[Location, Raw]]:
    for location, value in find(data, *pattern):
        if isinstance(value, dict):
            yield location, value


def _member_names(place: Location, pool: Raw) -> Iterator[tuple[Location, str]]:
    """What the members of a pool are called. One without a name is called by its address.

    The second of two without names at the same address is left out: `repeated_elements` reports the address.
    """
    unnamed = set()
    for location, member in tables(pool, "member", EACH):
        key = "name" if "name" in member else "address"
        parse = values.name if key == "name" else values.unicast_address
        name = read(parse, member.get(key))
        if name is None or (key == "address" and name in unnamed):
            continue
        if key == "address":
            unnamed.add(name)
        yield (*place, *location, key), str(name)


# ---------------------------------------------------------------------------------------------------------------------
# Names


def duplicate_names(data: Raw) -> Iterator[Finding]:
    for kind in ("network_profile", "health_monitor", "pool", "virtual_service"):
        yield from _duplicates(
            ((location, name) for location, name in found(data, values.name, kind, EACH, "name")),
            f"is the name of another {kind}",
            "names must be unique; choose another",
        )
    for place, pool in tables(data, "pool", EACH):
        names = _member_names(place, pool)
        yield from _duplicates(names, "is the name of another member of this pool", "choose another name")


def _duplicates(named: Iterator[tuple[Location, object]], message: str, remedy: str) -> Iterator[Finding]:
    first: dict[object, Location] = {}
    for location, name in named:
        if name in first:
            where = path_text(first[name])
            yield Finding(location, f'"{name}" {message} ({where})', remedy)
        first.setdefault(name, location)


def unknown_references(data: Raw) -> Iterator[Finding]:
    yield from _references(data, "pool", "virtual_service", EACH, "pool")
    yield from _references(data, "network_profile", "virtual_service", EACH, "network_profile")
    yield from _references(data, "health_monitor", "pool", EACH, "health_monitors", EACH)


def _references(data: Raw, kind: str, *pattern: str | _Any) -> Iterator[Finding]:
    if not isinstance(data.get(kind, []), list):
        return
    # A name that is not allowed is a name all the same: one mistake, one complaint.
    known = [name for _, name in find(data, kind, EACH, "name") if isinstance(name, str)]
    for location, name in found(data, values.text, *pattern):
        if name not in known:
            there = f"{kind} names: {', '.join(known)}" if known else f"add a [[{kind}]] with that name"
            yield Finding(location, f'no {kind} is named "{name}"', did_you_mean(name, known) + there)


def repeated_elements(data: Raw) -> Iterator[Finding]:
    yield from _duplicates(
        found(data, values.interface, "director", "interfaces", EACH), "stands twice", "once will do"
    )
    for place, service in tables(data, "virtual_service", EACH):
        vips = ((place + location, vip) for location, vip in found(service, values.unicast_address, "vips", EACH))
        yield from _duplicates(vips, "stands twice", "once will do")
    for place, pool in tables(data, "pool", EACH):
        monitors = ((place + location, name) for location, name in found(pool, values.name, "health_monitors", EACH))
        yield from _duplicates(monitors, "stands twice", "once will do")
        addresses = (
            (place + location, address)
            for location, address in found(pool, values.unicast_address, "member", EACH, "address")
        )
        remedy = "give one of them a larger ratio instead"
        yield from _duplicates(addresses, "is the address of another member of this pool", remedy)


# ---------------------------------------------------------------------------------------------------------------------
# Network profiles and health monitors


def profile_contradictions(data: Raw) -> Iterator[Finding]:
    for place, profile in tables(data, "network_profile", EACH):
        kind = _profile_type(profile)
        timeout = read(values.integer(0, 14400, ""), profile.get("session_idle_timeout"))
        if timeout is not None and kind is ProfileType.TCP_FAST_PATH and 0 < timeout < 5:
            yield Finding(
                (*place, "session_idle_timeout"), f"{timeout} is too short for TCP", "use 5..14400, or 0 for never"
            )
        if timeout is not None and kind is ProfileType.UDP_FAST_PATH and not 2 <= timeout <= 3600:
            yield Finding((*place, "session_idle_timeout"), f"{timeout} is out of range for UDP", "use 2..3600")
        if _dsr_type(profile) is not DsrType.L2:
            continue
        for key, what in (
            ("encapsulation", "encapsulation"),
            ("dsr_encap_type", "encapsulation"),
            ("outer_df", "outer header"),
            ("outer_ttl", "outer header"),
            ("outer_source", "outer header"),
        ):
            for location, _ in find(profile, "dsr", key):
                yield Finding(
                    place + location,
                    f"L2 DSR has no {what}: it changes the MAC address only",
                    'leave it out, or use type = "l3"',
                )
        if read(values.ttl, profile.get("ttl")) is TtlPolicy.ROUTER:
            yield Finding((*place, "ttl"), "L2 DSR never changes the TTL", 'leave it out, or use dsr = { type = "l3" }')


def outer_source_contradictions(data: Raw) -> Iterator[Finding]:
    """Prefixes of outer sources: whose addresses they cannot have in them, and who needs them."""
    mine: dict[int, IPNetwork] = {}
    for place, prefix in found(data, values.source_prefix, "director", "outer_source_prefixes", EACH):
        if prefix.version in mine:
            yield Finding(
                place,
                f"{prefix} is the second prefix of IPv{prefix.version}",
                "one of each family will do; leave it out",
            )
        mine.setdefault(prefix.version, prefix)
    for what, *pattern in _ADDRESSES:
        for place, address in found(data, values.unicast_address, *pattern):
            prefix_there = mine.get(address.version)
            if prefix_there is not None and address in prefix_there:
                yield Finding(
                    place,
                    f"{address} is in {prefix_there}, of which outer headers have their sources",
                    f"it is {what}: use another prefix in director.outer_source_prefixes",
                )
    if any(role is Role.TIER2 for _, role in found(data, values.role, "director", "role")):
        return
    asking = {
        name
        for _, profile in tables(data, "network_profile", EACH)
        if _dsr_type(profile) is DsrType.L3
        and read(values.outer_source, _dsr(profile).get("outer_source")) is OuterSource.PREFIX
        and (name := read(values.name, profile.get("name")))
    }
    pools = _by_name(data, "pool")
    for place, service in tables(data, "virtual_service", EACH):
        if read(values.name, service.get("network_profile")) not in asking or service.get("traffic") is False:
            continue
        pool = pools.get(read(values.text, service.get("pool")), {})
        members = [address for _, address in found(pool, values.unicast_address, "member", EACH, "address")]
        for version in sorted({address.version for address in members} - mine.keys()):
            member = next(address for address in members if address.version == version)
            yield Finding(
                (*place, "network_profile"),
                f"its outer headers are to have sources of a prefix, and there is none of IPv{version} for {member}",
                "add one that is routed to this director to director.outer_source_prefixes, or set outer_source = "
                '"interface"',
            )


_ADDRESSES: tuple[tuple[str | _Any, ...], ...] = (
    ("a VIP", "virtual_service", EACH, "vips", EACH),
    ("a member", "pool", EACH, "member", EACH, "address"),
    ("a router", "bgp", "peer", EACH, "address"),
    ("a director's own address", "fleet", "director", EACH, "address"),
    ("an address of the director's own", "bgp", "peer", EACH, "local_address"),
    ("the director's router_id", "bgp", "router_id"),
    ("an address of the director's own", "api", "address"),
)


def _profile_type(profile: Raw) -> ProfileType | None:
    return read(values.profile_type, profile.get("type"))


def _dsr(profile: Raw) -> Raw:
    dsr = profile.get("dsr", {})
    return dsr if isinstance(dsr, dict) else {}


def _dsr_type(profile: Raw) -> DsrType | None:
    if not isinstance(profile.get("dsr", {}), dict):
        return None
    return read(values.dsr_type, _dsr(profile).get("type", _dsr(profile).get("dsr_type", "l3")))


def monitor_contradictions(data: Raw) -> Iterator[Finding]:
    for place, monitor in tables(data, "health_monitor", EACH):
        interval = read(values.seconds(0.1, 3600), monitor.get("send_interval", 10))
        timeout = read(values.seconds(0.05, 2400), monitor.get("receive_timeout"))
        if interval is not None and timeout is not None and timeout >= interval:
            yield Finding(
                (*place, "receive_timeout"),
                f"{timeout:g} s is not less than send_interval ({interval:g} s)",
                f"use less than {interval:g}, or a longer send_interval",
            )


def keys_of_other_kinds(data: Raw) -> Iterator[Finding]:
    """Keys that the monitor's kind has not, and those it cannot do without."""
    for place, monitor in tables(data, "health_monitor", EACH):
        kind = read(monitors.kind, monitor.get("type"))
        if kind is None:
            continue
        for key in monitor:
            owners = monitors.KEYS.get(key)
            if owners is not None and kind not in owners:
                others = " or ".join(f'"{owner}"' for owner in owners) if len(owners) < 4 else ""
                remedy = f"leave it out, or use type = {others}" if others else "leave it out"
                yield Finding((*place, key), f'this is nothing for type "{kind}"', remedy)
        key, example = monitors.REQUIRED.get(kind, ("type", ""))
        if key not in monitor:
            yield Finding((*place, key), "missing", f"write {example}")


def monitor_keys_that_exclude_each_other(data: Raw) -> Iterator[Finding]:
    for place, monitor in tables(data, "health_monitor", EACH):
        kind = read(monitors.kind, monitor.get("type"))
        words = [key for key in ("request", "response", "maintenance_response") if key in monitor]
        if kind is Kind.TCP and monitor.get("half_open") is True:
            for key in words:
                yield Finding((*place, key), "nothing is said over a half-open connection", "leave one of the two out")
        elif kind is Kind.TCP and words[-1:] == ["maintenance_response"] and "response" not in words:
            yield Finding((*place, "maintenance_response"), "nothing is read without a response", "add a response")
        if kind in (Kind.HTTP, Kind.HTTPS) and monitor.get("method") == "HEAD":
            for key in words:
                yield Finding((*place, key), "answers to HEAD have no body", 'leave it out, or use method = "GET"')
        rcode = read(monitors.rcode, monitor.get("rcode"))
        if kind is Kind.DNS and rcode not in ("NOERROR", monitors.ANY, None):
            for key in ("response", "qtype"):
                if key in monitor:
                    yield Finding((*place, key), f"an answer with rcode {rcode} has no records", "leave it out")
        yield from _tls_contradictions(place, monitor, kind)


def monitor_words_that_nobody_finds(data: Raw) -> Iterator[Finding]:
    """Words that no answer can have where they are looked for, and questions that do not arrive in one packet."""
    for place, monitor in tables(data, "health_monitor", EACH):
        kind = read(monitors.kind, monitor.get("type"))
        searched = read(monitors.response_size, monitor.get("response_size", monitors.RESPONSE_SIZES[0]))
        window = searched if kind in (Kind.HTTP, Kind.HTTPS) else monitors.WINDOWS.get(kind or Kind.PING)
        words = {key: read(values.text, monitor.get(key)) for key in ("request", "response", "maintenance_response")}
        for key in ("response", "maintenance_response"):
            length = len((words[key] or "").encode())
            if window is not None and length > window:
                remedy = "use fewer" + (", or a larger response_size" if kind in (Kind.HTTP, Kind.HTTPS) else "")
                yield Finding((*place, key), f"{length} bytes, and {window} of an answer are searched", remedy)
        response, maintenance = words["response"], words["maintenance_response"]
        if response and maintenance and maintenance in response:
            yield Finding(
                (*place, "maintenance_response"),
                "stands in the response, so members that are well would be taken for some that are worked on",
                "use words that only the one or the other has",
            )
        length = len((words["request"] or "").encode())
        if kind is Kind.UDP and length > monitors.DATAGRAM_BYTES:
            yield Finding(
                (*place, "request"),
                f"{length} bytes do not fit into one packet on every way",
                f"use {monitors.DATAGRAM_BYTES} at most",
            )


def _tls_contradictions(place: Location, monitor: Raw, kind: Kind | None) -> Iterator[Finding]:
    if kind is Kind.GRPC and monitor.get("tls", False) is False:
        for key in monitors.TLS_KEYS:
            if key in monitor:
                yield Finding((*place, key), "this monitor asks without TLS", "leave it out, or set tls = true")
        return
    if monitor.get("tls_verify") is False and "ca_file" in monitor:
        yield Finding((*place, "ca_file"), "with tls_verify = false nothing is verified", "leave one of the two out")
    if "key_file" in monitor and "cert_file" not in monitor:
        yield Finding((*place, "key_file"), "a key without its certificate", "add cert_file")


def nothing_to_probe(data: Raw) -> Iterator[Finding]:
    """A monitor without a port asks the first port of the virtual service, which must then be one."""
    portless = {monitor["name"] for _, monitor in tables(data, "health_monitor", EACH) if _is_portless(monitor)}
    pools = _by_name(data, "pool")
    for place, service in tables(data, "virtual_service", EACH):
        first = next((ports for _, ports in found(service, values.port_range, "ports", EACH)), None)
        pool = pools.get(read(values.name, service.get("pool")))
        if first != values.WILDCARD or pool is None:
            continue
        for _, name in found(pool, values.name, "health_monitors", EACH):
            if name in portless:
                yield Finding(
                    (*place, "ports", 0),
                    f'"*" leaves health monitor "{name}" without a port to ask',
                    "give the monitor a monitor_port",
                )


def _is_portless(monitor: Raw) -> bool:
    asks = read(monitors.kind, monitor.get("type")) is not Kind.PING
    return asks and read(values.name, monitor.get("name")) is not None and "monitor_port" not in monitor


def _by_name(data: Raw, kind: str) -> Mapping[str | None, Raw]:
    named = ((read(values.name, table.get("name")), table) for _, table in tables(data, kind, EACH))
    return {name: table for name, table in named if name is not None}


# ---------------------------------------------------------------------------------------------------------------------
# Pools and virtual services


def no_share_for_anyone(data: Raw) -> Iterator[Finding]:
    for place, pool in tables(data, "pool", EACH):
        ratios = [member.get("ratio", 1) for _, member in tables(pool, "member", EACH)]
        if ratios and all(ratio == 0 and ratio is not False for ratio in ratios):
            yield Finding(
                (*place, "member", 0, "ratio"),
                "every member of this pool has ratio 0, so none would get a packet",
                "give at least one member a ratio of 1 or more",
            )


def too_many_min_members(data: Raw) -> Iterator[Finding]:
    pools = _by_name(data, "pool")
    for place, service in tables(data, "virtual_service", EACH):
        wanted = read(values.integer(1, 65535, ""), service.get("min_members"))
        pool = pools.get(read(values.name, service.get("pool")))
        members = pool.get("member") if pool else None
        if wanted is not None and isinstance(members, list) and members and wanted > len(members):
            yield Finding(
                (*place, "min_members"),
                f"{wanted} is more than the {len(members)} in the pool, so the VIPs would never be announced",
                f"use 1..{len(members)}",
            )


def too_many_min_monitors(data: Raw) -> Iterator[Finding]:
    for place, pool in tables(data, "pool", EACH):
        wanted = read(values.integer(0, 50, ""), pool.get("min_monitors_up"))
        monitors = pool.get("health_monitors", [])
        if wanted is not None and isinstance(monitors, list) and wanted > len(monitors):
            yield Finding(
                (*place, "min_monitors_up"),
                f"{wanted} is more than the {len(monitors)} monitors of the pool, so no member would ever be up",
                f"use 1..{len(monitors)}, or leave it out: then all must say so" if monitors else "leave it out",
            )


def flap_contradictions(data: Raw) -> Iterator[Finding]:
    value = values.integer(1, 100000, "")
    for place, pool in tables(data, "pool", EACH):
        suppress, reuse = (read(value, pool.get(f"flap_{key}", default)) for key, default in FLAP_DEFAULTS)
        if suppress is not None and reuse is not None and reuse >= suppress:
            key = "flap_reuse" if "flap_reuse" in pool else "flap_suppress"
            yield Finding(
                (*place, key),
                f"flap_reuse {reuse} is not less than flap_suppress {suppress}, so nobody would be held",
                "use a smaller flap_reuse, or flap_half_life = 0 to hold nobody",
            )


def passive_contradictions(data: Raw) -> Iterator[Finding]:
    """Weights by what one director has seen."""
    fleet = data.get("fleet")
    several = isinstance(fleet, dict) and ("etcd" in fleet or sum(1 for _ in find(data, "fleet", "director", EACH)) > 1)
    for place, pool in tables(data, "pool", EACH):
        if read(values.kept_share, pool.get("passive_weight", 1)) in (None, 1.0):
            continue
        if pool.get("passive") is not True:
            yield Finding((*place, "passive_weight"), "nobody watches handshakes of this pool", "add passive = true")
        elif several:
            yield Finding(
                (*place, "passive_weight"),
                "directors of a fleet see different clients, and would send flows by different tables",
                "leave it out, and give the member another ratio when the doctor names it",
            )


FLAP_DEFAULTS = (("suppress", 2500), ("reuse", 1000))


def too_many_members(data: Raw) -> Iterator[Finding]:
    pools = _by_name(data, "pool")
    profiles = _by_name(data, "network_profile")
    ways: dict[tuple[object, ...], int] = {}
    director = data.get("director")
    raw = isinstance(director, dict) and director.get("plane") == "raw"
    most = MAX_WAYS if raw else MAX_XDP_WAYS
    for place, service in tables(data, "virtual_service", EACH):
        name = read(values.name, service.get("pool"))
        profile = profiles.get(read(values.name, service.get("network_profile")))
        if name not in pools or profile is None:
            continue
        members = pools[name].get("member")
        delivery = name, _dsr_type(profile), read(values.ttl, profile.get("ttl", "router"))
        ways[delivery] = len(members) if isinstance(members, list) else 0
        if sum(ways.values()) > most:
            remedy = "spread the virtual services over two fleets"
            if not raw:
                remedy += f', or write plane = "raw", which takes {MAX_WAYS}'
            yield Finding((*place, "pool"), f"more than {most} members in all", remedy)
            return


def used_addresses(data: Raw) -> Iterator[Finding]:
    """A VIP belongs to no machine: neither a member nor the director may be reached by it."""
    vips: dict[IPAddress, Location] = {}
    for location, vip in found(data, values.unicast_address, "virtual_service", EACH, "vips", EACH):
        vips.setdefault(vip, location)
    for location, address in found(data, values.unicast_address, "pool", EACH, "member", EACH, "address"):
        if address in vips:
            yield Finding(
                location,
                f"{address} is a VIP ({path_text(vips[address])})",
                "use the member's own address; the VIP stands on its loopback only",
            )
    for pattern, what in (
        (("bgp", "peer", EACH, "address"), "a router cannot have it"),
        (("bgp", "peer", EACH, "local_address"), "the director must not have it as its own"),
        (("bgp", "peer", EACH, "next_hop_v4"), "the director must not have it as its own"),
        (("bgp", "peer", EACH, "next_hop_v6"), "the director must not have it as its own"),
        (("bgp", "router_id"), "the director must not have it as its own"),
        (("bgp", "next_hop_v4"), "the director must not have it as its own"),
        (("bgp", "next_hop_v6"), "the director must not have it as its own"),
        (("api", "address"), "the director must not have it as its own"),
    ):
        for location, address in found(data, values.unicast_address, *pattern):
            if address in vips:
                yield Finding(
                    location, f"{address} is a VIP ({path_text(vips[address])}), and {what}", "use another address"
                )


@dataclass(frozen=True)
class _Claim:
    """One virtual service's hold on ports of a VIP."""

    ports: PortRange
    location: Location


def port_conflicts(data: Raw) -> Iterator[Finding]:
    """Of two that contain a port the narrower wins, so two of the same width must not overlap.

    Virtual services that are not enabled claim nothing.
    """
    profiles = _by_name(data, "network_profile")
    claims: dict[tuple[IPAddress, Protocol, bool], list[_Claim]] = {}
    reported: set[tuple[Location, Location]] = set()
    for place, service in tables(data, "virtual_service", EACH):
        profile = profiles.get(read(values.name, service.get("network_profile")))
        kind = _profile_type(profile) if profile else None
        if kind is None or service.get("enabled") is False:
            continue
        # A VIP that stands twice is reported as such, and would only double every finding here.
        vips = dict.fromkeys(vip for _, vip in found(service, values.unicast_address, "vips", EACH))
        mine = [_Claim(ports, place + where) for where, ports in found(service, values.port_range, "ports", EACH)]
        for vip in vips:
            # Proxies behind directors have the VIPs and ports of others, as `proxy_contradictions` wants it.
            others = claims.setdefault((vip, kind.protocol, _attracts(service)), [])
            for claim in mine:
                rival = next((other for other in others if _undecided(claim.ports, other.ports)), None)
                others.append(claim)
                if rival is not None and (claim.location, rival.location) not in reported:
                    reported.add((claim.location, rival.location))
                    yield Finding(
                        claim.location,
                        f"{vip} {kind.protocol} {_claimed(claim.ports, rival.ports)} ({path_text(rival.location)})",
                        "use another port or VIP, or a narrower range: the narrower one wins",
                    )


def _attracts(service: Raw) -> bool:
    return service.get("traffic", service.get("traffic_enabled", True)) is not False


def proxy_contradictions(data: Raw) -> Iterator[Finding]:
    """Of the virtual services that share a VIP and port, one attracts traffic: the others are proxies behind it."""
    profiles = _by_name(data, "network_profile")
    kinds = {name: _profile_type(profile) for name, profile in profiles.items()}
    attracting = [
        service
        for _, service in tables(data, "virtual_service", EACH)
        if _attracts(service)
        and service.get("enabled") is not False
        and kinds.get(read(values.name, service.get("network_profile"))) is ProfileType.TCP_FAST_PATH
    ]
    for place, service in tables(data, "virtual_service", EACH):
        kind = kinds.get(read(values.name, service.get("network_profile")))
        if kind is None:
            continue
        if kind is not ProfileType.TCP_PROXY:
            if not _attracts(service):
                key = "traffic" if "traffic" in service else "traffic_enabled"
                message = "only a full proxy attracts no traffic"
                yield Finding((*place, key), message, "use a network profile of type tcp_proxy, or leave it out")
            for key in ("server_port", "certificate"):
                if key in service:
                    message = "with direct server return members get packets as they are"
                    yield Finding((*place, key), message, "leave it out, or use a network profile of type tcp_proxy")
            continue
        if _attracts(service):
            yield Finding(
                (*place, "network_profile"),
                "directors are no proxies; nodes of the second tier are",
                "set traffic = false, and let a virtual service with DSR attract traffic for the same VIPs and ports",
            )
            continue
        certificate = service.get("certificate")
        if isinstance(certificate, str) and not certificate.startswith("/"):
            yield Finding((*place, "certificate"), f"{certificate} is not absolute", "write the path from / on")
        if service.get("enabled") is False:
            continue
        for where, vip in found(service, values.unicast_address, "vips", EACH):
            for _, ports in found(service, values.port_range, "ports", EACH):
                if not any(_has(other, vip, ports) for other in attracting):
                    yield Finding(
                        place + where,
                        f"no virtual service attracts traffic for {vip} TCP {ports}",
                        "add one with DSR, whose pool are the nodes that run this proxy",
                    )


def _has(service: Raw, vip: IPAddress, ports: PortRange) -> bool:
    has_vip = any(one == vip for _, one in found(service, values.unicast_address, "vips", EACH))
    return has_vip and any(
        span.first <= ports.first and ports.last <= span.last
        for _, span in found(service, values.port_range, "ports", EACH)
    )


def proxy_profiles(data: Raw) -> Iterator[Finding]:
    for place, profile in tables(data, "network_profile", EACH):
        proxy = _profile_type(profile) is ProfileType.TCP_PROXY
        if _profile_type(profile) is None:
            continue
        for key in ("dsr", "ttl") if proxy else ("http",):
            if key in profile:
                why = "a full proxy returns nothing directly" if proxy else "packets are not looked into"
                yield Finding((*place, key), why, "leave it out" + ("" if proxy else ', or use type = "tcp_proxy"'))


def follow_contradictions(data: Raw) -> Iterator[Finding]:
    fleet = data.get("fleet")
    stored = isinstance(fleet, dict) and "etcd" in fleet
    for place, table in tables(data, "pool", EACH, "follow"):
        ways = [key for key in ("folder", "dns", "store") if table.get(key, False) is not False]
        if len(ways) != 1:
            message = f"members come from {' and '.join(ways)}" if ways else "it does not say where members come from"
            yield Finding(place, message, "give one of folder, dns and store = true")
        if "store" in ways and not stored:
            yield Finding((*place, "store"), "the fleet has no store", "add [fleet.etcd], or use a folder or dns")


def node_of_tier2(data: Raw) -> Iterator[Finding]:
    director = data.get("director")
    role = read(values.role, director.get("role", Role.DIRECTOR)) if isinstance(director, dict) else None
    node = data.get("tier2")
    if role is Role.TIER2 and "tier2" not in data:
        yield Finding(("director", "role"), "a node of the second tier needs [tier2]", "write a [tier2] table")
    if isinstance(node, dict):
        versions = [address.version for _, address in found(node, values.unicast_address, "addresses", EACH)]
        if len(versions) != len(set(versions)):
            yield Finding(("tier2", "addresses"), "two addresses of one family", "give one of each at most")


def _undecided(a: PortRange, b: PortRange) -> bool:
    return a.width == b.width and a.first <= b.last and b.first <= a.last


def _claimed(ports: PortRange, rival: PortRange) -> str:
    if ports == rival:
        return f"port {ports} is in use already" if ports.width == 1 else f"ports {ports} are in use already"
    return f"ports {ports} overlap {rival}, a range of the same width"


# ---------------------------------------------------------------------------------------------------------------------
# BGP


def bgp_contradictions(data: Raw) -> Iterator[Finding]:
    yield from _duplicates(
        found(data, values.unicast_address, "bgp", "peer", EACH, "address"),
        "is the address of another peer",
        "leave one out",
    )
    own = next((address for _, address in found(data, values.ipv4_address, "bgp", "router_id")), None)
    for location, router in found(data, values.unicast_address, "bgp", "peer", EACH, "address"):
        if router == own:
            yield Finding(
                location,
                f"{router} is this director's own router_id",
                "use the router's address here, or an address of the director as router_id",
            )
    for place, peer in tables(data, "bgp", "peer", EACH):
        address = read(values.unicast_address, peer.get("address"))
        local = read(values.unicast_address, peer.get("local_address"))
        if address is None or local is None:
            continue
        if address.version != local.version:
            yield Finding(
                (*place, "local_address"),
                f"{local} and the peer's {address} are of different families",
                f"use an IPv{address.version} address",
            )
        elif address == local:
            yield Finding((*place, "local_address"), f"{local} is the peer's own address", "use the director's address")


def peer_contradictions(data: Raw) -> Iterator[Finding]:
    for place, peer in tables(data, "bgp", "peer", EACH):
        for one, other in (("password_file", "password"), ("ttl_security", "multihop"), ("passive", "ttl_security")):
            if peer.get(one, False) is not False and other in peer:
                yield Finding((*place, one), f"it excludes {other}", "leave one of the two out")
        if peer.get("passive") is True and "local_address" not in peer:
            yield Finding((*place, "passive"), "there is no address to wait at", "add local_address")
        if peer.get("next_hop_self") is True:
            for key in ("next_hop_v4", "next_hop_v6"):
                if key in peer:
                    yield Finding((*place, key), "it excludes next_hop_self", "leave one of the two out")


def bfd_contradictions(data: Raw) -> Iterator[Finding]:
    for place, peer in tables(data, "bgp", "peer", EACH):
        bfd = peer.get("bfd")
        if isinstance(bfd, dict):
            yield from _bfd_hops((*place, "bfd"), bfd.get("multihop", False), peer)
        hold_time = read(values.hold_time, peer.get("hold_time", values.HOLD_TIME_S))
        if not isinstance(bfd, dict) or not hold_time:
            continue
        interval = read(values.bfd_interval, bfd.get("interval", values.BFD_INTERVAL_S))
        multiplier = read(values.bfd_multiplier, bfd.get("multiplier", values.BFD_MULTIPLIER))
        if interval is not None and multiplier is not None and interval * multiplier >= hold_time:
            yield Finding(
                (*place, "bfd"),
                f"BFD would tell after {interval * multiplier:g} s, and BGP does that by itself after its hold time of "
                f"{hold_time} s",
                "use a shorter interval or a smaller multiplier",
            )


def _bfd_hops(place: Location, multihop: object, peer: Raw) -> Iterator[Finding]:
    """BFD on one hop and over several are two protocols; it must be that of the BGP session's way."""
    for key in ("multihop", "ttl_security"):
        hops = read(values.hops, peer.get(key))
        if hops is not None and multihop is (hops == 1):
            wanted = str(hops > 1).lower()
            yield Finding(
                place,
                f"BFD {'over several hops' if multihop else 'on one hop'}, and BGP with {key} = {hops}",
                f"write multihop = {wanted} in bfd, or another {key}",
            )


def announcing_contradictions(data: Raw) -> Iterator[Finding]:
    """What virtual services ask of their routes that no peer could get, or that others ask otherwise for a VIP."""
    peers = [peer for _, peer in tables(data, "bgp", "peer", EACH)]
    labels = {label for _, label in found(data, values.name, "bgp", "peer", EACH, "labels", EACH)}
    kinds = _kinds_of_peers(data)
    first: dict[IPAddress, tuple[Location, dict[str, object]]] = {}
    for place, service in tables(data, "virtual_service", EACH):
        if not isinstance(bgp := service.get("bgp", {}), dict):
            continue
        for location, label in found(bgp, values.name, "peer_labels", EACH):
            if peers and label not in labels:
                there = f"labels: {', '.join(sorted(labels))}" if labels else "no peer has labels"
                yield Finding(
                    (*place, "bgp", *location),
                    f'no BGP peer has the label "{label}"',
                    did_you_mean(label, labels) + there,
                )
        for key, inside, whom in (("local_preference", True, "our own AS"), ("prepend", False, "another AS")):
            if kinds == {not inside} and bgp.get(key):
                yield Finding((*place, "bgp", key), f"this is for peers of {whom}, and there are none", "leave it out")
        asked = {key: service.get(key) for key in ANNOUNCING_KEYS if key in service}
        for location, vip in found(service, values.unicast_address, "vips", EACH):
            where, other = first.setdefault(vip, (place, asked))
            if other != asked:
                yield Finding(
                    (*place, *location),
                    f"{vip} is announced otherwise by {path_text(where)}",
                    f"write the same {', '.join(ANNOUNCING_KEYS)} in both: a VIP has one route",
                )


def _kinds_of_peers(data: Raw) -> set[bool]:
    """Whether peers are of our own AS: there may be both."""
    own = next((number for _, number in found(data, values.as_number, "bgp", "local_as")), None)
    return {number == own for _, number in found(data, values.as_number, "bgp", "peer", EACH, "remote_as")}


ANNOUNCING_KEYS = ("ha", "prefer", "primaries", "needs_all", "bgp")


def ha_contradictions(data: Raw) -> Iterator[Finding]:
    fleet = [name for _, name in found(data, values.name, "fleet", "director", EACH, "name")]
    for place, service in tables(data, "virtual_service", EACH):
        mode = read(values.ha_mode, service.get("ha", "active_active"))
        if mode is None:
            continue
        for key, owner in (("prefer", HaMode.ACTIVE_STANDBY), ("primaries", HaMode.N_PLUS_M)):
            if key in service and mode is not owner:
                yield Finding((*place, key), f'this is nothing for ha = "{mode}"', f'leave it out, or use "{owner}"')
        if mode is HaMode.ACTIVE_ACTIVE:
            for location, _ in (*find(service, "bgp", "step"), *find(service, "bgp", "standby_communities")):
                yield Finding((*place, *location), f'ha = "{mode}" has no ranks', "leave it out, or use another ha")
            continue
        if len(fleet) < 2:
            yield Finding(
                (*place, "ha"), f'"{mode}" needs a fleet of directors', "write a [[fleet.director]] for each of them"
            )
            continue
        for location, name in found(service, values.name, "prefer", EACH):
            if name not in fleet:
                remedy = f"{did_you_mean(name, fleet)}directors: {', '.join(fleet)}"
                yield Finding((*place, *location), f'no director is named "{name}"', remedy)
        if mode is HaMode.N_PLUS_M:
            yield from _too_many_primaries(place, service, len(fleet))
        if True in _kinds_of_peers(data):
            yield from _no_room_for_ranks(place, service, mode, len(fleet))
        if _all_steps_are_zero(service):
            yield Finding((*place, "bgp", "step"), "all steps are 0, so no rank is worse than others", "leave one out")


def _too_many_primaries(place: Location, service: Raw, directors: int) -> Iterator[Finding]:
    if "primaries" not in service:
        yield Finding((*place, "ha"), "how many primaries is not said", f"write primaries = 1..{directors - 1}")
    wanted = read(values.primaries, service.get("primaries"))
    if wanted is not None and wanted >= directors:
        yield Finding(
            (*place, "primaries"),
            f"{wanted} of {directors} directors leave no spare",
            f'use 1..{directors - 1}, or ha = "active_active"',
        )


def _all_steps_are_zero(service: Raw) -> bool:
    steps = asdict(Step()) | {key: value for _, step in tables(service, "bgp", "step") for key, value in step.items()}
    return all(value == 0 for value in steps.values())


def _first(found_there: Iterator[tuple[Location, int]], otherwise: int) -> int:
    return next((value for _, value in found_there), otherwise)


def _no_room_for_ranks(place: Location, service: Raw, mode: HaMode, directors: int) -> Iterator[Finding]:
    number = values.integer(0, 4294967295, "")
    base = _first(found(service, number, "bgp", "local_preference"), USUAL_PREFERENCE)
    down = _first(found(service, number, "bgp", "step", "local_preference"), Step().local_preference)
    primaries = read(values.primaries, service.get("primaries", 1)) if mode is HaMode.N_PLUS_M else 1
    worst = directors - (primaries or 1)
    if worst * down > base:
        yield Finding(
            (*place, "bgp"),
            f"local preference {base} has no room for {worst} steps of {down}",
            f"write local_preference = {worst * down} or more, or a smaller step.local_preference",
        )


def missing_next_hops(data: Raw) -> Iterator[Finding]:
    """A VIP of one family can be announced over a session of the other only with a next hop that is written down."""
    peers = [address.version for _, address in found(data, values.unicast_address, "bgp", "peer", EACH, "address")]
    if not peers or len(peers) != sum(1 for _ in find(data, "bgp", "peer", EACH)):
        return
    for version in (4, 6):
        key = f"next_hop_v{version}"
        if version in peers or key in data["bgp"] or any(True for _ in find(data, "bgp", "peer", EACH, key)):
            continue
        for location, vip in found(data, values.unicast_address, "virtual_service", EACH, "vips", EACH):
            if vip.version == version:
                yield Finding(
                    location,
                    f"{vip} would be announced over IPv{10 - version} sessions only: there is no next hop for it",
                    f"set next_hop_v{version} in [bgp], or add an IPv{version} peer",
                )


# ---------------------------------------------------------------------------------------------------------------------
# What is remembered, and the fleet


def per_packet_is_for_udp(data: Raw) -> Iterator[Finding]:
    for place, profile in tables(data, "network_profile", EACH):
        for key in ("per_packet", "per_pkt_loadbalance"):
            if profile.get(key) is True and _profile_type(profile) is ProfileType.TCP_FAST_PATH:
                yield Finding(
                    (*place, key), "TCP connections cannot be spread packet by packet", "leave it out, or use UDP"
                )


def quic_contradictions(data: Raw) -> Iterator[Finding]:
    lengths = {"server_id_length": (values.integer(1, 15, ""), 4), "nonce_length": (values.integer(4, 18, ""), 12)}
    for place, pool in tables(data, "pool", EACH):
        known = list(tables(pool, "quic", EACH))
        ids = [((*place, *at, "config_id"), read(values.integer(0, 6, ""), one.get("config_id"))) for at, one in known]
        yield from _duplicates(
            ((where, number) for where, number in ids if number is not None),
            "is the config ID of another configuration of this pool",
            "give each its own, 0 to 6",
        )
        sizes: set[int | None] = set()
        for at, one in known:
            server, nonce = (read(parse, one.get(key, default)) for key, (parse, default) in lengths.items())
            sizes.add(server)
            if server is not None and nonce is not None and server + nonce > QUIC_LENGTH:
                yield Finding(
                    (*place, *at),
                    f"{server} bytes of server ID and {nonce} of nonce are {server + nonce}, and QUIC has room for 19",
                    f"set nonce_length = {QUIC_LENGTH - server}, or less",
                )
        yield from _own_server_ids(place, pool, [one for _, one in known], sizes)


def _own_server_ids(place: Location, pool: Raw, known: list[Raw], sizes: set[int | None]) -> Iterator[Finding]:
    """Server IDs that members are given."""
    own = [((*place, *at), name) for at, name in found(pool, values.server_id, "member", EACH, "server_id")]
    yield from _duplicates(
        ((where, name.hex()) for where, name in own),
        "is the server ID of another member of this pool",
        "choose another",
    )
    if own and "quic" not in pool:
        yield Finding(own[0][0], "the pool has no [[pool.quic]]", "write one, with config_id = 0, or leave it out")
    for where, name in own:
        if known and None not in sizes and len(name) not in sizes:
            wanted = ", ".join(map(str, sorted(size for size in sizes if size is not None)))
            yield Finding(
                where, f"{name.hex()} has {len(name)} bytes, and server_id_length is {wanted}", "make them equal"
            )
    if own and any("key_file" in one for one in known) and any("key_file" not in one for one in known):
        yield Finding(
            own[0][0],
            "some configurations have a key and some have not, and server IDs must not be the same in both",
            "leave server_id out: what follows from names is another for each config ID",
        )


def quic_is_over_udp(data: Raw) -> Iterator[Finding]:
    profiles = _by_name(data, "network_profile")
    services = [one for _, one in tables(data, "virtual_service", EACH)]
    for place, pool in tables(data, "pool", EACH):
        if not any(True for _ in tables(pool, "quic", EACH)):
            continue
        used = [profiles.get(one.get("network_profile"), {}) for one in services if one.get("pool") == pool.get("name")]
        if used and all(_profile_type(profile) is ProfileType.TCP_FAST_PATH for profile in used):
            yield Finding(
                (*place, "quic"),
                "only TCP services use the pool, and QUIC is over UDP",
                "add a virtual service with a UDP profile, or leave it out",
            )
        if any(profile.get(key) is True for profile in used for key in ("per_packet", "per_pkt_loadbalance")):
            yield Finding(
                (*place, "quic"),
                "a virtual service spreads the pool's datagrams one by one (per_packet)",
                "leave per_packet out: connections of QUIC stay at their member",
            )


def nothing_to_remember_by(data: Raw) -> Iterator[Finding]:
    """Algorithms that decide flow by flow, on a director that remembers no flows."""
    if next((pins for _, pins in found(data, values.integer(0, 1 << 22, ""), "director", "pins")), 1):
        return
    for location, algorithm in found(data, values.algorithm, "pool", EACH, "algorithm"):
        if algorithm is not Algorithm.CONSISTENT_HASH:
            yield Finding(
                location,
                f"{algorithm} remembers every flow, and this director remembers none (director.pins = 0)",
                'use "consistent_hash", or leave director.pins out',
            )


def window_contradictions(data: Raw) -> Iterator[Finding]:
    seconds = values.integer(5, 86400, "")
    for place, pool in tables(data, "pool", EACH):
        window, quiet = (read(seconds, pool.get(f"transition_{key}", default)) for key, default in WINDOW_DEFAULTS)
        if window is not None and quiet is not None and quiet > window and "transition_quiet" in pool:
            yield Finding(
                (*place, "transition_quiet"),
                f"{quiet} is longer than the window of {window}",
                f"use 5..{window}, or leave it out",
            )


WINDOW_DEFAULTS = (("window", 900), ("quiet", 300))


def api_contradictions(data: Raw) -> Iterator[Finding]:
    """Whoever can reach the API off this machine must be known, and nobody on the way may read along."""
    api = data.get("api")
    if not isinstance(api, dict):
        return
    secure = "tls_cert_file" in api
    for key in ("tls_key_file", "client_ca_file"):
        if key in api and not secure:
            yield Finding(("api", key), "this is for TLS, which takes a certificate", "add tls_cert_file")
    for kind in ("user", "token"):
        names = found(data, values.name, "api", kind, EACH, "name")
        yield from _duplicates(names, f"is the name of another {kind}", "names must be unique; choose another")
    known = False
    for place, user in tables(data, "api", "user", EACH):
        if "name" in user and "password_hash" not in user and "client_ca_file" not in api:
            remedy = "add a password_hash, from `onward api hash-password`, or client_ca_file for certificates"
            yield Finding((*place, "name"), "this user cannot log in", remedy)
        known = True
    for place, token in tables(data, "api", "token", EACH):
        both = "token_hash" in token and "token_file" in token
        if both or not ("token_hash" in token or "token_file" in token):
            what = "token_hash and token_file exclude each other" if both else "nothing says what this token is"
            remedy = "leave one of them out" if both else "add token_hash, from `onward api new-token`, or token_file"
            yield Finding((*place, "token_hash" if both else "name"), what, remedy)
        known = True
    address = read(values.any_address, api.get("address"))
    if address is not None and not address.is_loopback and not (secure and known):
        lacking = " and ".join(
            [*([] if secure else ["TLS (tls_cert_file)"]), *([] if known else ["an [[api.user]] or [[api.token]]"])]
        )
        yield Finding(
            ("api", "address"),
            f"{address} is no loopback address: whoever reaches it could look, or read passwords",
            f"add {lacking}, or use 127.0.0.1",
        )


def fleet_contradictions(data: Raw) -> Iterator[Finding]:
    names = dict(found(data, values.name, "fleet", "director", EACH, "name"))
    yield from _duplicates(iter(names.items()), "is the name of another director", "names are unique in a fleet")
    addresses = (
        ((*place, "address"), f"{address} port {read(values.port, peer.get('port', 7117))}")
        for place, peer in tables(data, "fleet", "director", EACH)
        if (address := read(values.unicast_address, peer.get("address"))) is not None
    )
    yield from _duplicates(addresses, "is that of another director", "leave one out")
    director = data.get("director")
    own = read(values.name, director.get("name")) if isinstance(director, dict) else None
    if isinstance(director, dict) and read(values.role, director.get("role")) is Role.TIER2:
        own = None  # a node is behind the directors, and none of them
    if names and own is not None and own not in names.values():
        yield Finding(
            ("fleet", "director"),
            f'this director, "{own}", is not among them: {", ".join(names.values())}',
            "the list is the same on all directors, and names them all",
        )
    versions = {a.version for _, a in found(data, values.unicast_address, "fleet", "director", EACH, "address")}
    if len(versions) > 1:
        yield Finding(("fleet", "director"), "some have IPv4, some IPv6 addresses", "use one family for all of them")
    fleet = data.get("fleet")
    if isinstance(fleet, dict):
        store = read(values.fleet_store, fleet.get("store", "none"))
        if store is FleetStore.ETCD and "etcd" not in fleet:
            yield Finding(("fleet", "store"), "there is no [fleet.etcd]", "write one, with endpoints")
        if store is FleetStore.ETCD and not names:
            yield Finding(("fleet", "store"), "the fleet has no directors", "write a [[fleet.director]] for each")
        if store is FleetStore.NONE and "etcd" in fleet:
            yield Finding(("fleet", "etcd"), "it is not used", 'set store = "etcd" in [fleet], or leave it out')


def arp_contradictions(data: Raw) -> Iterator[Finding]:
    """A segment has one answer for an address."""
    fleet = sum(1 for _ in find(data, "fleet", "director", EACH))
    for place, service in tables(data, "virtual_service", EACH):
        arp = service.get("arp") is True
        mode = read(values.ha_mode, service.get("ha", "active_active"))
        if arp and fleet > 1 and mode is not HaMode.ACTIVE_STANDBY:
            what = "one director answers for a VIP, and the others stand by"
            yield Finding((*place, "arp"), what, 'write ha = "active_standby"')
    first, unlike = _said_of_vips(data, "arp")
    for place, vip in unlike:
        where, arp = first[vip]
        what = f"{vip} is {'' if arp else 'not '}answered for by {path_text(where)}"
        yield Finding(place, what, "write the same arp in both")
    answered = [where for where, arp in first.values() if arp]
    if len(answered) > MAX_ANSWERED:
        remedy = "spread them over two fleets, or announce them by BGP"
        yield Finding((*answered[MAX_ANSWERED], "arp"), f"more than {MAX_ANSWERED} VIPs to answer for", remedy)


def other_ports_contradictions(data: Raw) -> Iterator[Finding]:
    """Ports that no virtual service has belong to the VIP, not to one of its services."""
    first, unlike = _said_of_vips(data, "reject_other_ports")
    for place, vip in unlike:
        where, rejects = first[vip]
        what = f"{path_text(where)} {'answers' if rejects else 'drops'} packets for other ports of {vip}"
        yield Finding(place, what, "write the same reject_other_ports in both")


def _said_of_vips(
    data: Raw, key: str
) -> tuple[dict[IPAddress, tuple[Location, bool]], list[tuple[Location, IPAddress]]]:
    """What the first virtual service of each VIP says of something that belongs to the VIP, and which one that is; and
    where others of the VIP say otherwise."""
    first: dict[IPAddress, tuple[Location, bool]] = {}
    unlike: list[tuple[Location, IPAddress]] = []
    for place, service in tables(data, "virtual_service", EACH):
        said = service.get(key) is True
        for location, vip in found(service, values.unicast_address, "vips", EACH):
            if first.setdefault(vip, (place, said))[1] != said:
                unlike.append(((*place, *location), vip))
    return first, unlike


LIMITS = ("per_source", "per_vip", "per_service")


def protection_contradictions(data: Raw) -> Iterator[Finding]:
    profiles = _by_name(data, "network_profile")
    for place, service in tables(data, "virtual_service", EACH):
        protection = service.get("protection")
        if not isinstance(protection, dict):
            continue
        profile = profiles.get(read(values.name, service.get("network_profile")))
        if profile is not None and _profile_type(profile) is ProfileType.UDP_FAST_PATH:
            for key in LIMITS:
                if key in protection:
                    yield Finding(
                        (*place, "protection", key),
                        "nobody can tell which datagram is the first of its flow",
                        "leave it out; deny and allow are for UDP, too",
                    )
        denied = {network for _, network in found(protection, values.prefix, "deny", EACH)}
        for location, network in found(protection, values.prefix, "allow", EACH):
            if network in denied:
                yield Finding(
                    (*place, "protection", *location), f"{network} is denied as well", "leave one of them out"
                )
        if protection.get("allow") and not protection.get("deny"):
            yield Finding(
                (*place, "protection", "allow"),
                "nobody is denied, so this makes no difference",
                'to let nobody else in, write deny = ["0.0.0.0/0", "::/0"]',
            )


def too_many_limits(data: Raw) -> Iterator[Finding]:
    """Data planes have a meter for each virtual service with limits, and for each of its VIPs."""
    total = 0
    for place, service in tables(data, "virtual_service", EACH):
        protection = service.get("protection")
        if isinstance(protection, dict) and any(key in protection for key in LIMITS):
            total += 1 + sum(1 for _ in find(service, "vips", EACH))
            if total >= MAX_METERS:
                remedy = "limit the largest ones only, or spread the virtual services over two fleets"
                yield Finding((*place, "protection"), f"more than {MAX_METERS - 1} limited services and VIPs", remedy)
                return


RULES: tuple[Callable[[Raw], Iterator[Finding]], ...] = (
    duplicate_names,
    unknown_references,
    repeated_elements,
    profile_contradictions,
    outer_source_contradictions,
    monitor_contradictions,
    keys_of_other_kinds,
    monitor_keys_that_exclude_each_other,
    monitor_words_that_nobody_finds,
    nothing_to_probe,
    no_share_for_anyone,
    too_many_min_members,
    too_many_min_monitors,
    flap_contradictions,
    passive_contradictions,
    too_many_members,
    used_addresses,
    port_conflicts,
    proxy_contradictions,
    proxy_profiles,
    follow_contradictions,
    node_of_tier2,
    bgp_contradictions,
    peer_contradictions,
    announcing_contradictions,
    ha_contradictions,
    bfd_contradictions,
    missing_next_hops,
    per_packet_is_for_udp,
    quic_contradictions,
    quic_is_over_udp,
    nothing_to_remember_by,
    window_contradictions,
    fleet_contradictions,
    api_contradictions,
    arp_contradictions,
    other_ports_contradictions,
    protection_contradictions,
    too_many_limits,
)
"""Every rule is asked, whatever the others find."""

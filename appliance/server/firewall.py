"""The member's rules for nftables: who may send in tunnels, what may come out of them, and the MSS. Pure."""

from collections.abc import Iterator

from appliance.model import IPAddress, Protocol
from appliance.packet.encap import GUE_PORT
from appliance.server.plan import TABLE, Plan

FAMILY = "inet"
_IP = {4: "ip", 6: "ip6"}


def ruleset(plan: Plan, *, mss: bool) -> str:
    """A file for `nft -f`, which may be loaded again and again; empty where there is nothing to say.

    A rule that lets something in cannot overrule another table that does not: `accepts` has what a firewall with a
    policy of its own needs.

    Args:
        plan: of the member.
        mss: whether the MSS is set here, and not by routes.
    """
    outside = list(_outside(plan))
    replies = list(_replies(plan)) if mss else []
    if not outside and not replies:
        return ""
    lines = [
        "# In place of an earlier version of the table; nothing else is touched.",
        f"table {FAMILY} {TABLE}",
        f"delete table {FAMILY} {TABLE}",
        f"table {FAMILY} {TABLE} {{",
    ]
    if outside:
        lines += _sets(plan)
        lines += [
            "\tchain outside {",
            "\t\ttype filter hook prerouting priority raw; policy accept;",
            *(f"\t\t{rule}" for rule in outside),
            "\t}",
        ]
    if replies:
        lines += [
            "\t# Clients' segments have to fit the tunnel. The answer to their SYN passes no director.",
            "\tchain replies {",
            "\t\ttype filter hook output priority mangle; policy accept;",
            *(f"\t\t{rule}" for rule in replies),
            "\t}",
        ]
    return "\n".join([*lines, "}", ""])


def accepts(plan: Plan) -> tuple[str, ...]:
    """What a firewall that lets in only what it knows has to let in, as rules of its input chain."""
    found = []
    for version, numbers in plan.protocols.items():
        sources = ", ".join(map(str, plan.sources_of(version)))
        # The program on the interface is in front of every firewall, so that it meets inner packets only.
        if not plan.decap_arguments():
            found += [f"{_IP[version]} saddr {{ {sources} }} {match} accept" for match in _matches(numbers)]
    for service in plan.services:
        ports = ", ".join(map(str, service.ports))
        for version in (4, 6):
            if vips := [str(vip) for vip in service.vips if vip.version == version]:
                found.append(
                    f"{_IP[version]} daddr {{ {', '.join(vips)} }} {service.protocol} dport {{ {ports} }} accept"
                )
    return tuple(dict.fromkeys(found))


def _sets(plan: Plan) -> Iterator[str]:
    def of(name: str, version: int, what: list[str], why: str) -> Iterator[str]:
        if what:
            yield f"\t# {why}"
            yield f"\tset {name}{version} {{"
            yield f"\t\ttype ipv{version}_addr; flags interval"
            yield f"\t\telements = {{ {', '.join(what)} }}"
            yield "\t}"

    for version in plan.protocols:
        yield from of("directors", version, list(map(str, plan.sources_of(version))), "Who may send in tunnels.")
    if plan.tunnels:
        for version in (4, 6):
            vips = [str(vip) for vip in plan.vips if vip.version == version]
            yield from of("vips", version, vips, "What may come out of them.")


def _matches(numbers: tuple[int, ...]) -> Iterator[str]:
    if bare := [str(number) for number in numbers if number != int(Protocol.UDP)]:
        yield f"meta l4proto {{ {', '.join(bare)} }}"
    if int(Protocol.UDP) in numbers:
        yield f"udp dport {GUE_PORT}"


def _outside(plan: Plan) -> Iterator[str]:
    """Anybody can send tunnelled packets, and what comes out of them has passed no filter on the way."""
    for version, numbers in plan.guarded.items():
        for match in _matches(numbers):
            to = f"{_IP[version]} daddr {plan.own(version)} {match}"
            yield f"{to} {_IP[version]} saddr != @directors{version} counter drop"
    if not plan.tunnels:
        return
    devices = ", ".join(f'"{tunnel.device}"' for tunnel in plan.tunnels)
    for version in (4, 6):
        if any(vip.version == version for vip in plan.vips):
            yield f"iifname {{ {devices} }} {_IP[version]} daddr != @vips{version} counter drop"
        else:
            yield f"iifname {{ {devices} }} meta nfproto ipv{version} counter drop"


def _replies(plan: Plan) -> Iterator[str]:
    for vip, size in plan.mss.items():
        answers = f"{_IP[vip.version]} saddr {vip} tcp flags & (syn | ack) == syn | ack"
        yield f"{answers} tcp option maxseg size > {size} tcp option maxseg size set {size}"


def mss_of(rules: object, vip: IPAddress) -> int | None:
    """What the rules that `nft -j list table` shows make of a VIP's MSS; None where they say nothing."""
    for rule in _rules(rules, "replies"):
        source = sets = None
        for part in rule:
            match part:
                case {"match": {"left": {"payload": {"field": "saddr"}}, "right": str(address)}}:
                    source = address
                case {"mangle": {"key": {"tcp option": {"name": "maxseg"}}, "value": int(size)}}:
                    sets = size
        if source == str(vip) and sets is not None:
            return sets
    return None


def sources_in(rules: object, version: int) -> frozenset[str] | None:
    """From where tunnelled packets are let in, by the rules that `nft -j list table` shows; None: from anywhere."""
    name = f"directors{version}"
    guards = any(
        {"drop": None} in rule
        and any(
            part.get("match", {}).get("op") == "!=" and part["match"].get("right") == f"@{name}"
            for part in rule
            if isinstance(part.get("match"), dict)
        )
        for rule in _rules(rules, "outside")
    )
    if not guards:
        return None
    for entry in _entries(rules):
        match entry:
            case {"set": {"name": found, "elem": list(elements)}} if found == name:
                return frozenset(filter(None, map(_element, elements)))
    return frozenset()


def _element(element: object) -> str:
    match element:
        case str(address):
            return address
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return f"{address}/{length}"
    return ""


def _rules(rules: object, chain: str) -> Iterator[list[dict[str, dict[str, object]]]]:
    for entry in _entries(rules):
        match entry:
            case {"rule": {"chain": found, "expr": list(parts)}} if found == chain:
                yield [part for part in parts if isinstance(part, dict)]


def _entries(rules: object) -> Iterator[object]:
    match rules:
        case {"nftables": list(entries)}:
            yield from entries

"""The tunnel to a member: does it get there, is it taken apart, and for whom? Pure."""

from appliance.doctor import fixes
from appliance.doctor.checks.reading import arrived, errors, packets, says, silent, tunnel_name
from appliance.doctor.evidence import IcmpError, MemberSeen, Reply
from appliance.doctor.finding import Fix, Judgement, Site, failed, passed, unknown
from appliance.doctor.member import Seen
from appliance.model import IPAddress

_UNREACHABLE = {4: 3, 6: 1}
_TIME_EXCEEDED = {4: 11, 6: 3}
_PARAMETER_PROBLEM_6 = 4
_NO_PROTOCOL, _NO_PORT = 2, 3


def _refusals(seen: MemberSeen) -> list[IcmpError]:
    """Errors that say that an outer packet is not wanted: not those that are too big, or whose TTL has ended."""
    return [
        error
        for error in errors(seen, outer=True)
        if (error.kind == _UNREACHABLE[error.sender.version] and not (error.sender.version == 4 and error.code == 4))
        or (error.sender.version == 6 and error.kind == _PARAMETER_PROBLEM_6)
    ]


def outer_path(seen: MemberSeen) -> Judgement | None:
    """Do packets of the tunnel's protocol get to the member?"""
    if not seen.tunnelled or not seen.paths or seen.hop is None:
        return None
    name, own = tunnel_name(seen), packets(seen)
    steps = [
        f"with a TTL of {step.hops}: {step.router or 'nobody says anything'}"
        for path in seen.paths
        for step in path.steps
    ]
    fix = Fix(
        Site.NETWORK,
        f"let {name} from the directors to {seen.address} through: firewalls, security groups and cloud networks often "
        "know TCP, UDP and ICMP only; GUE is UDP (port 6080) and passes most",
    )
    others = [error for error in _refusals(seen) if error.sender != seen.address]
    if others:
        return failed(f"{others[0].sender} does not let {name} through to {seen.member}", map(str, others), fix)
    if any(error.sender == seen.address for error in errors(seen, outer=True)) or arrived(seen.paths):
        return passed(f"{name} gets there")
    if own is not None:
        if own.outer or own.inner:
            return passed(f"{name} gets there", f"the member saw {_words(own)} of this director")
        last = [step.router for path in seen.paths for step in path.steps if step.router is not None]
        behind = f" behind {last[-1]}" if last else ""
        text = f"{name} gets lost on the way to {seen.member}{behind}: it saw none of this director's packets"
        return failed(text, [*(says(path) for path in silent(seen.paths)), *steps], fix)
    return unknown(f"nothing tells whether {name} gets there", *steps)


def decapsulation(seen: MemberSeen) -> Judgement | None:
    """Does the member take packets out of the tunnel?"""
    if not seen.tunnelled or not seen.paths:
        return None
    name, own, vip = tunnel_name(seen), packets(seen), seen.paths[0].vip
    mine = [error for error in _refusals(seen) if error.sender == seen.address]
    if mine:
        no_port = mine[0].sender.version == 4 and mine[0].code == _NO_PORT
        fix = _open_tunnel(seen, vip, loaded=no_port)
        why = "its tunnel device is down, or has other ends" if no_port else "it has nothing for that protocol"
        return failed(f"{seen.member} does not take packets out of {name}: {why}", map(str, mine), fix)
    if arrived(seen.paths) or any(path.own is not None and path.own.arrived for path in seen.paths):
        return passed(f"packets come out of {name}")
    if any(error.sender == seen.address for error in errors(seen, outer=False)):
        return passed(f"packets come out of {name}", *map(str, errors(seen, outer=False)))
    if own is not None and seen.report is not None and (own.outer or own.inner):
        if own.inner or seen.report.counters.get("TcpExt.IPReversePathFilter") or _bad_checksums(seen):
            return passed(f"packets come out of {name}", f"the member saw {own.inner} of them outside the tunnel")
        devices = [
            f"{device}: {one.kind or 'interface'}, {'up' if one.up else 'down'}{', with XDP' if one.xdp else ''}"
            for device, one in seen.report.devices.items()
        ]
        evidence = [f"it saw {own.outer} outer packets of this director, and none outside the tunnel", *devices]
        fix = _open_tunnel(seen, vip, loaded=False)
        return failed(f"{seen.member} does not take packets out of {name}", evidence, fix)
    return unknown(f"nothing tells whether {seen.member} takes packets out of {name}")


def _open_tunnel(seen: MemberSeen, vip: IPAddress, *, loaded: bool) -> Fix:
    """With what is known of the member and of this director."""
    addresses = seen.report.addresses if seen.report is not None else ()
    device = next((one.device for one in addresses if one.address == str(seen.address)), "IFACE")
    return fixes.decapsulate(seen.delivery, vip, seen.address, seen.outer_source, device, loaded=loaded)


def _words(own: Seen) -> str:
    """What a program in the driver takes out of a tunnel is not seen in it."""
    return f"{own.outer} packets in the tunnel and {own.inner} out of it"


def _bad_checksums(seen: MemberSeen) -> bool:
    return seen.report is not None and any("InCsumErrors" in name and n for name, n in seen.report.counters.items())


def closed_decapsulator(seen: MemberSeen) -> Judgement | None:
    """Does the member take packets out of tunnels from directors only?"""
    asked = [path for path in seen.paths if path.stranger is not None]
    if not seen.tunnelled or not asked:
        return None
    name = tunnel_name(seen)
    open_ = [path for path in asked if path.stranger is not None and path.stranger.reply is Reply.ANSWERED]
    if open_:
        evidence = [says(path, path.stranger, f"{name} from {path.stranger_source}, SYN inside") for path in open_]
        protocol = {4: "4", 6: "41"}[open_[0].vip.version] if name == "IP in IP" else "47"
        match = "udp dport 6080" if name == "GUE" else f"meta l4proto {protocol}"
        source = f"ip{'6' if seen.address.version == 6 else ''} saddr != {{ {seen.outer_source} }}"
        fix = Fix(
            Site.MEMBER,
            "take the tunnel from directors only (all of them in the list), or anybody can send packets in any name "
            "through it; "
            "`onward decap run --from` does so by itself",
            (
                "nft add table inet onward",
                "nft 'add chain inet onward tunnels { type filter hook prerouting priority -300; }'",
                f"nft 'add rule inet onward tunnels {match} {source} drop'",
            ),
        )
        return failed(f"{seen.member} takes packets out of {name} from anybody", evidence, fix)
    if any(path.small.reply is Reply.ANSWERED for path in asked):
        return passed(
            "a stranger's tunnel gets no answer",
            *(f"{name} from {path.stranger_source}: no answer" for path in asked),
        )
    return unknown("no answer by the tunnel at all")

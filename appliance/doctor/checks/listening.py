"""VIP, listener and what the member does with packets that have arrived. Pure."""

from collections.abc import Iterable

from appliance.doctor import fixes
from appliance.doctor.checks.reading import arrived, errors, place, says, silent
from appliance.doctor.evidence import MemberSeen, PathSeen, Reply
from appliance.doctor.finding import Fix, Judgement, Site, failed, passed, unknown
from appliance.doctor.member import MemberReport
from appliance.model import IPAddress, Protocol

_TIME_EXCEEDED = {4: 11, 6: 3}


def vip_present(seen: MemberSeen) -> Judgement | None:
    """Has the member the VIP as an address of its own?"""
    if not seen.paths:
        return None
    vips = list(dict.fromkeys(path.vip for path in seen.paths))
    answered = {path.vip for path in arrived(seen.paths)}
    report = seen.report
    missing = [vip for vip in vips if report is not None and not report.has(vip) and vip not in answered]
    evidence = [says(path) for path in seen.paths if path.vip not in answered]
    platform = report.platform if report is not None else None
    if missing and report is not None:
        there = ", ".join(f"{one.address} on {one.device}" for one in report.addresses) or "none"
        text = f"VIP {_words(missing)} is no address of {seen.member}"
        return failed(text, [*evidence, f"its addresses are: {there}"], fixes.vip_on_loopback(missing, platform))
    routed = _routed_on(seen)
    if routed:
        text = f"VIP {_words(routed)} is no address of {seen.member}, which would route the packet on"
        return failed(text, [*evidence, *map(str, errors(seen, outer=False))], fixes.vip_on_loopback(routed, platform))
    taken_out = [
        path.vip
        for path in silent(seen.paths)
        if path.vip not in answered and path.own is not None and path.own.arrived
    ]
    if taken_out and report is None:
        own = [
            says(path, path.own, "the same in the tunnel, for the member's own address,")
            for path in seen.paths
            if path.own
        ]
        text = f"{seen.member} takes packets out of the tunnel, and has no VIP {_words(taken_out)}"
        return failed(text, [*evidence, *own], fixes.vip_on_loopback(list(dict.fromkeys(taken_out)), platform))
    if report is not None or len(answered) == len(vips):
        return passed("the VIP is there", *(says(path) for path in arrived(seen.paths)))
    return unknown("no answer from the VIP, and no word from the member itself", *evidence)


def _words(vips: Iterable[IPAddress]) -> str:
    return ", ".join(map(str, dict.fromkeys(vips)))


def _routed_on(seen: MemberSeen) -> list[IPAddress]:
    """VIPs of which an ICMP error says that the packet's last hop was the member."""
    return [
        path.vip
        for path in seen.paths
        if not path.small.arrived
        and any(not error.outer and error.kind == _TIME_EXCEEDED[error.sender.version] for error in path.small.errors)
    ]


def no_loop(seen: MemberSeen) -> Judgement | None:
    """Would a packet for a VIP that the member has not go back to the routers, and round and round?"""
    report, names = seen.report, {4: "ipv4.ip_forward", 6: "ipv6.conf.all.forwarding"}
    forwards = [name for name in names.values() if report is not None and report.sysctl(name)]
    lost = [path.vip for path in seen.paths if report is not None and not report.has(path.vip)]
    routed = _routed_on(seen) or [vip for vip in lost if names[vip.version] in forwards]
    fix = fixes.sysctls(
        dict.fromkeys(forwards or names.values(), 0),
        "a member that is no router does not forward; one that is one needs the VIP before it gets packets for it",
    )
    if routed:
        evidence = [str(error) for error in errors(seen, outer=False)] + [f"net.{name} = 1" for name in forwards]
        text = f"{seen.member} sends packets for {_words(routed)} back to the network, to loop there"
        return failed(text, evidence, fix)
    if not seen.paths:
        return None
    return passed("no packet of the path was sent on")


def listener(seen: MemberSeen) -> Judgement | None:
    """Does the service listen on every VIP and port?"""
    closed = [
        path
        for path in seen.paths
        if path.small.reply is Reply.REFUSED or (path.small.reply is Reply.SILENT and _says_closed(seen.report, path))
    ]
    if closed:
        evidence = [says(path) for path in closed]
        evidence += [
            says(path, path.direct, "at its own address the same") for path in closed if path.direct is not None
        ]
        listeners = seen.report.listeners if seen.report is not None else ()
        for path in closed if seen.report is not None else ():
            on = [f"{one.address}:{one.port}" for one in listeners if one.port == path.port]
            evidence.append(f"port {path.port} is listened on at {', '.join(on) or 'no address'}")
        where = ", ".join(place(path) for path in closed)
        own = any(path.direct is not None and path.direct.reply is Reply.ANSWERED for path in closed)
        text = f"nothing listens on {where}" + (", though it does at the member's own address" if own else "")
        fix = Fix(
            Site.MEMBER,
            "let the service listen on all addresses, or on the VIP as well; ports are never translated",
            tuple(dict.fromkeys(f"ss -Hlnp 'sport = :{path.port}'" for path in closed)),
        )
        return failed(text, evidence, fix)
    open_ = [path for path in seen.paths if path.small.reply is Reply.ANSWERED]
    if open_ and not silent(seen.paths):
        return passed("every port that was asked is open", *(says(path) for path in open_))
    if not seen.paths:
        return None
    return unknown("no answer that would say whether anything listens", *(says(path) for path in silent(seen.paths)))


def _says_closed(report: MemberReport | None, path: PathSeen) -> bool:
    """Whether the member itself knows of nobody who listens there, though it has the VIP."""
    if report is None or not report.has(path.vip):
        return False
    everywhere = ("0.0.0.0", "::", str(path.vip))  # noqa: S104 - read, not bound
    return not any(
        one.protocol == str(path.protocol) and one.port == path.port and one.address in everywhere
        for one in report.listeners
    )


def udp_source(seen: MemberSeen) -> Judgement | None:
    """Do replies to datagrams come from the VIP?"""
    asked = [path for path in seen.paths if path.protocol is Protocol.UDP]
    if not asked:
        return None
    astray = [
        path for path in asked if path.small.source not in (None, path.vip) and path.small.reply is Reply.ANSWERED
    ]
    if astray:
        evidence = [says(path) for path in astray]
        fix = Fix(
            Site.MEMBER,
            "bind the service's UDP socket to the VIP, or answer with the address that the datagram was sent to "
            "(IP_PKTINFO, RFC 3542): named and unbound list it with `listen-on`/`interface`, nsd with `ip-address`, "
            "chrony with `bindaddress`",
        )
        text = f"{seen.member} answers datagrams for the VIP from another address, which clients do not take"
        return failed(text, evidence, fix)
    if all(path.small.reply is Reply.ANSWERED for path in asked):
        return passed("datagrams are answered from the VIP", *(says(path) for path in asked))
    return unknown(
        "no datagram came back; a udp or dns health monitor with a request tells the doctor what to ask",
        *(says(path) for path in asked),
    )


def hairpin(seen: MemberSeen) -> Judgement | None:
    """Is the member its own client? The VIP is its own address, so such connections never leave it."""
    if seen.report is None:
        return None
    mine = [one for one in seen.report.hairpins if any(str(path.vip) in one for path in seen.paths)]
    if mine:
        fix = Fix(
            Site.MEMBER,
            f"let programs on {seen.member} use another member's address, or run them elsewhere: from here, "
            "connections to the VIP always end at this member",
            (f"ss -Hnt dst {seen.paths[0].vip}",),
        )
        return failed(f"{seen.member} connects to its own VIP, so to itself", mine, fix)
    return passed("no connection from the member to a VIP of its own")

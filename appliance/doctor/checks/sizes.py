"""How large packets may be, and how they spread. Pure."""

from appliance.doctor import fixes
from appliance.doctor.checks.reading import place, says
from appliance.doctor.evidence import MemberSeen, Reply
from appliance.doctor.finding import Fix, Judgement, Site, failed, passed, unknown
from appliance.model import Encapsulation, Protocol

_MANY = 10_000
_SKEW = 0.9


def segment_size(seen: MemberSeen) -> Judgement | None:
    """Do full packets get to the member, and does it tell clients to send none that do not?"""
    asked = [path for path in seen.paths if path.protocol is Protocol.TCP and path.small.reply is Reply.ANSWERED]
    if not asked:
        return None
    for path in asked:
        if path.full is not None and path.full.reply is Reply.SILENT:
            evidence = [says(path), says(path, path.full, f"SYN of {path.full_length} bytes")]
            if path.fits is not None:
                evidence.append(f"the largest that was answered had {path.fits} bytes")
            header = 60 if path.vip.version == 6 else 40
            room = f" (or, as a way out, an MSS of {path.fits - header})" if path.fits is not None else ""
            fix = Fix(
                Site.NETWORK,
                f"raise the MTU on the way to {seen.address}, or let its routers' ICMP errors (fragmentation needed, "
                f"packet too big) come back to this director{room}",
                fixes.advertise(path.vip, path.fits - header).commands if path.fits is not None else (),
            )
            return failed(f"large packets for {place(path)} get lost on the way to {seen.member}", evidence, fix)
    near = seen.hop is not None and seen.hop.direct
    for path in asked:
        mss, limit = path.small.mss, path.mss_limit
        if mss is None or limit is None or mss <= limit:
            continue
        told = seen.report.advmss.get(str(path.vip)) if seen.report is not None else None
        evidence = [f"its SYN-ACK from {place(path)} says MSS {mss}; what fits by {seen.delivery} is {limit}"]
        if near and told is not None and told <= limit:
            continue
        if near and seen.report is None:
            return unknown(
                "it advertises a large MSS to this director, which is on its segment; clients may see less", *evidence
            )
        text = f"{seen.member} has clients send segments of {mss} bytes, and {limit} fit the way to it"
        return failed(text, evidence, fixes.advertise(path.vip, limit))
    return passed(
        "full packets get there, and the advertised MSS fits",
        *(says(path, path.full, f"SYN of {path.full_length} bytes") for path in asked if path.full is not None),
    )


def queues(seen: MemberSeen) -> Judgement | None:
    """Do tunnelled flows use all queues of the member's interface?"""
    report = seen.report
    device = _device(seen)
    if report is None or not seen.tunnelled or device is None:
        return None
    counts = report.devices[device].queues
    if len(counts) < 2 or sum(counts) < _MANY:
        return None
    if (
        max(counts) >= _SKEW * sum(counts)
        and seen.delivery.encapsulation is Encapsulation.IPIP
        and seen.outer_prefix is None
        and seen.address.version == 4
    ):
        fix = Fix(
            Site.DIRECTOR,
            'use outer_source = "prefix", or encapsulation = "gue": outer sources or UDP ports differ by flow then, so '
            "that the interface can spread them",
        )
        evidence = [f"{device}: packets by receive queue: {', '.join(map(str, counts))}"]
        return failed(
            f"all tunnelled packets of {seen.member} come in by one queue of {device}, so to one CPU", evidence, fix
        )
    return passed("packets spread over receive queues")


def _device(seen: MemberSeen) -> str | None:
    report = seen.report
    if report is None:
        return None
    found = next((one.device for one in report.addresses if one.address == str(seen.address)), None)
    return found if found in report.devices else None

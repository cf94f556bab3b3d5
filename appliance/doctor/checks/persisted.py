"""Whether a member would come back from a reboot as it is. Pure."""

from appliance.doctor import fixes
from appliance.doctor.evidence import MemberSeen
from appliance.doctor.finding import Fix, Judgement, Site, failed, passed, unknown


def persisted(seen: MemberSeen) -> Judgement | None:
    """Do the member's files say what its kernel does?"""
    report = seen.report
    if report is None:
        return None
    if not report.persisted.known:
        return unknown("its files were not read")
    lost = [path.vip for path in seen.paths if report.has(path.vip) and str(path.vip) not in report.persisted.vips]
    wrong = {}
    for name in ("ipv4.conf.all.arp_ignore", "ipv4.conf.all.arp_announce", "ipv4.conf.all.rp_filter"):
        running = report.sysctls.get(name)
        said = report.persisted.sysctls.get(f"net.{name}")
        value = said.split(" ")[0] if said else None
        if running is not None and (value != str(running) if value is not None else running != 0):
            wrong[name] = (running, said)
    if lost:
        fix = fixes.vip_on_loopback(list(dict.fromkeys(lost)), report.platform)
        names = ", ".join(map(str, dict.fromkeys(lost)))
        return failed(
            f"VIP {names} will be gone after a reboot of {seen.member}: no file has it",
            [f"searched: {report.platform.manager or 'all network files'}"],
            fix,
        )
    if wrong:
        evidence = [
            f"net.{name} is {running} now, and will be {said or 'the default of the kernel'}"
            for name, (running, said) in wrong.items()
        ]
        fix = fixes.sysctls(
            {name: running for name, (running, _) in wrong.items()}, "write down what is in force; the last file counts"
        )
        return failed(f"settings of {seen.member} will be others after a reboot", evidence, fix)
    return passed("its files say the same as its kernel")


def setup(seen: MemberSeen) -> Judgement | None:
    """What a check of its set-up on the member itself has found, where somebody has brought it."""
    points = seen.points
    if not points:
        return None
    bad = [point for point in points if point.verdict == "fail"]
    if bad:
        evidence = [f"{point.name} {point.subject}: {point.evidence}" for point in bad]
        fix = Fix(
            Site.MEMBER, "; ".join(dict.fromkeys(point.fix for point in bad if point.fix)) or "apply its set-up again"
        )
        return failed(f"{len(bad)} points of the set-up of {seen.member} are not as they should be", evidence, fix)
    return passed(f"all {len(points)} points of its set-up are as they should be")

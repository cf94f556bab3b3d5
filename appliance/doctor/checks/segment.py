"""The director's own segments: who answers for next hops, and who for VIPs. Pure."""

from appliance.doctor import fixes
from appliance.doctor.evidence import MemberSeen
from appliance.doctor.finding import Fix, Judgement, Site, failed, passed, unknown


def next_hop(seen: MemberSeen) -> Judgement:
    """Is there a way to the member, and does whoever has its address now get the frames?"""
    if seen.hop is None:
        where = f" by router {seen.gateway}" if seen.gateway is not None else ""
        fix = Fix(
            Site.NETWORK,
            "see why nobody answers for the next hop: cable, VLAN, machine, route",
            (f"ip route get {seen.address}", f"ip neighbour show {seen.gateway or seen.address}"),
        )
        return failed(f"there is no way to {seen.address}{where}: {seen.no_way}", [seen.no_way], fix)
    used, target = seen.hop.mac.hex(":"), seen.gateway or seen.address
    evidence = [f"frames to {target} go to {used} on {seen.hop.interface}"]
    if not seen.hop_macs:
        return unknown(f"nobody was heard to answer for {target} just now", *evidence)
    evidence.append(f"{target} is answered for by {', '.join(seen.hop_macs)}")
    if used not in seen.hop_macs:
        fix = Fix(
            Site.DIRECTOR,
            "let the kernel ask anew, and take out an entry that somebody has made permanent",
            (f"ip neighbour del {target} dev {seen.hop.interface}",),
        )
        return failed(f"frames for {seen.member} go to {used}, which does not have {target} any more", evidence, fix)
    if len(seen.hop_macs) > 1:
        fix = Fix(Site.NETWORK, f"find the second machine with {target}, and take the address from it")
        return failed(
            f"{len(seen.hop_macs)} machines on {seen.hop.interface} say that they have {target}", evidence, fix
        )
    return passed(f"{target} has {used}", *evidence)


def arp_quiet(seen: MemberSeen) -> Judgement | None:
    """Does the member leave ARP and neighbour discovery for VIPs alone? Else clients reach it past the directors."""
    mine = seen.macs
    answers = [(vip, mac) for vip, macs in seen.vip_macs.items() for mac in macs if mac in mine]
    report, wanted = seen.report, {"ipv4.conf.all.arp_ignore": 1, "ipv4.conf.all.arp_announce": 2}
    fix = fixes.sysctls(
        wanted, "keep quiet about addresses of the loopback interface (lo.arp_ignore alone does nothing)"
    )
    settings = []
    if report is not None:
        settings = [f"net.{name} = {report.sysctl(name)}" for name in wanted]
    if answers:
        evidence = [f"{vip} is answered for by {mac}, which is {seen.member}'s" for vip, mac in answers]
        vips = ", ".join(dict.fromkeys(str(vip) for vip, _ in answers))
        return failed(f"{seen.member} answers ARP or neighbour discovery for {vips}", [*evidence, *settings], fix)
    if seen.hop is None or not seen.hop.direct:
        return None if seen.tunnelled else unknown("it is on none of this director's segments")
    four = [vip for vip in seen.vip_macs if vip.version == 4]
    if not seen.vip_macs:
        return unknown("nobody was asked for VIPs on the segment")
    if four and report is not None and report.has(four[0]):
        device = next((one.device for one in report.addresses if one.address == str(seen.address)), "")
        announce = report.largest(device, "arp_announce")
        if announce < 2 and not seen.tunnelled:
            text = f"{seen.member} may name the VIP in ARP requests of its own (arp_announce = {announce})"
            return failed(text, settings, fix)
    asked = ", ".join(map(str, seen.vip_macs))
    return passed("it does not answer for VIPs", f"asked for {asked}: no answer of {', '.join(sorted(mine))}")

"""What drops packets on a member, and on their way back. Pure."""

from collections.abc import Iterator

from appliance.doctor import fixes
from appliance.doctor.checks.reading import arrived, packets, says, silent
from appliance.doctor.evidence import MemberSeen
from appliance.doctor.finding import Fix, Judgement, Site, failed, passed, unknown
from appliance.doctor.member import MemberReport

_RP = "TcpExt.IPReversePathFilter"
_TUNNELS = {"ipip", "gre", "gretap", "sit", "tun", "fou"}
_FULL = 0.9
"""Of a connection table: from here on it is no longer a matter of load whether connections are lost."""


def reverse_path(seen: MemberSeen) -> Judgement | None:
    """Does the member's rp_filter take what comes out of the tunnel?"""
    if not seen.tunnelled or not seen.paths or all(path.vip.version == 6 for path in seen.paths):
        return None
    if silent(seen.paths) and seen.report is not None:
        dropped = seen.report.counters.get(_RP, 0)
        if dropped:
            devices = [name for name, one in seen.report.devices.items() if one.kind in _TUNNELS]
            evidence = [f"nstat: {_RP.replace('.', '')} grew by {dropped} meanwhile", *_matrix(seen.report, devices)]
            return failed(
                f"rp_filter of {seen.member} drops what comes out of the tunnel",
                evidence,
                _rp_fix(seen.report, devices),
            )
    if arrived(seen.paths) and not silent(seen.paths):
        return passed("what comes out of the tunnel is taken")
    if silent(seen.paths) and seen.report is not None and seen.report.watched:
        return passed("rp_filter dropped nothing meanwhile", f"nstat: {_RP.replace('.', '')} grew by 0")
    return unknown("no answer, and no word from the member itself")


def _matrix(report: MemberReport, devices: list[str]) -> Iterator[str]:
    """What decides, device by device: the larger one of two values, and whether the device has an address."""
    for device in devices:
        address = next(
            (one.address for one in report.addresses if one.device == device and ":" not in one.address), None
        )
        yield (
            f"{device}: rp_filter {report.largest(device, 'rp_filter')}, the larger one of "
            f"{report.sysctl('ipv4.conf.all.rp_filter')} and {report.sysctl(f'ipv4.conf.{device}.rp_filter')}; "
            + (f"address {address}" if address else "no IPv4 address, so that loose mode drops as well")
        )


def _rp_fix(report: MemberReport, devices: list[str]) -> Fix:
    names = {f"ipv4.conf.{device}.rp_filter": 0 for device in ["all", *devices]}
    return fixes.sysctls(names, "the larger value of `all` and of the device counts, so both have to be 0")


def replies_arrive(seen: MemberSeen) -> Judgement | None:
    """Do replies that the member sends from the VIP come to this director?"""
    if not seen.paths:
        return None
    refused = [path for path in arrived(seen.paths) if path.kernel]
    if refused:
        evidence = [f"{says(path)}; its kernel says: {path.kernel}" for path in refused]
        device = seen.hop.interface if seen.hop is not None else "IFACE"
        fix = Fix(
            Site.DIRECTOR,
            "let the director's kernel take replies from VIPs: loose rp_filter where they come in, and no "
            "firewall rule against them",
            (f"sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{device}.rp_filter=2",),
        )
        return failed("replies come to this director, and its own kernel drops them", evidence, fix)
    quiet = silent(seen.paths)
    own = packets(seen, quiet)
    if not quiet:
        return passed("replies come back") if arrived(seen.paths) else unknown("nothing came that could be answered")
    if own is None or seen.report is None:
        return unknown("no answer, and no word from the member itself", *map(says, quiet))
    if not own.replies:
        return unknown("the member has sent no reply that could get lost")
    if any(n for name, n in seen.report.counters.items() if name == _RP or name.endswith("InCsumErrors")):
        return unknown("the member drops what it is asked, so what it sends answers something from before")
    evidence = [*map(says, quiet), f"the member sent {own.replies} packets from the VIP to this director meanwhile"]
    text = f"{seen.member} answers from the VIP, and something on the way back drops it"
    return failed(text, evidence, _anti_spoof(seen, seen.report.platform.machine))


_CLOUDS = (
    (
        ("openstack", "kvm"),
        "OpenStack: allow the VIP on the member's port (allowed address pairs), or port security off",
    ),
    (
        ("vmware",),
        "vSphere: allow forged transmits; NSX: put the VIP on SpoofGuard's list, and set URPF of the gateway to none",
    ),
    (("amazon", "ec2", "google"), "switch the source/destination check of the member's interface off"),
    (("microsoft",), "Hyper-V: MAC spoofing on; Azure does not deliver IP in IP and GRE at all: use GUE"),
)


def _anti_spoof(seen: MemberSeen, machine: str) -> Fix:
    """Whoever checks sources: the hypervisor's port first, then routers."""
    mine = next((text for words, text in _CLOUDS if any(word in machine.lower() for word in words)), "")
    text = (
        "packets with the VIP as source leave the member and nobody expects them from there: no strict RPF (URPF) on "
        "routers, no stateful firewall that has not seen the request, no anti-spoofing at the member's port"
    )
    return Fix(Site.NETWORK, f"{text}. {mine}" if mine else text, (f"mtr --tcp --address {seen.paths[0].vip} CLIENT",))


def checksums(seen: MemberSeen) -> Judgement | None:
    """Does the member find packets broken that come out of the tunnel?"""
    report = seen.report
    if report is None or not report.watched:
        return None
    broken = {name: n for name, n in report.counters.items() if name.endswith("InCsumErrors") and n}
    if broken and silent(seen.paths):
        devices = [name for name, one in report.devices.items() if one.kind in _TUNNELS] or ["IFACE"]
        fix = Fix(
            Site.MEMBER,
            "an offload computes checksums of tunnelled packets wrongly; switch it off",
            tuple(f"ethtool -K {device} rx off tx off tso off gso off" for device in devices),
        )
        evidence = [f"{name.replace('.', '')} grew by {n} meanwhile" for name, n in broken.items()]
        return failed(f"{seen.member} drops packets with wrong checksums", evidence, fix)
    return passed("no wrong checksums meanwhile")


def conntrack(seen: MemberSeen) -> Judgement | None:
    """Does connection tracking on the member stand in the way of one-way traffic?"""
    report = seen.report
    if report is None:
        return None
    notrack = any("notrack" in line for line in report.firewall)
    drops = [line.strip() for line in report.firewall if "invalid" in line and "drop" in line]
    fix = Fix(
        Site.MEMBER,
        "do not track the tunnel and the VIP, or accept them before anything asks for a state",
        (
            "nft add table inet onward",
            "nft 'add chain inet onward early { type filter hook prerouting priority raw; }'",
            f"nft add rule inet onward early ip daddr {seen.paths[0].vip if seen.paths else 'VIP'} notrack",
            "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1",
        ),
    )
    if report.conntrack is not None and report.conntrack[1] and report.conntrack[0] >= _FULL * report.conntrack[1]:
        used, most = report.conntrack
        text = f"the connection table of {seen.member} is full: new connections are dropped"
        return failed(text, [f"nf_conntrack_count {used} of nf_conntrack_max {most}"], fix)
    if drops and not notrack:
        text = f"the firewall of {seen.member} drops what connection tracking calls invalid, and VIPs are tracked"
        return failed(text, drops, fix)
    return passed("connection tracking drops nothing of VIPs")


def ipv6(seen: MemberSeen) -> Judgement | None:
    """What only IPv6 has: duplicate address detection on the VIP, and firewalld's own reverse path filter."""
    six = [path for path in seen.paths if path.vip.version == 6]
    if not six or seen.report is None:
        return None
    report = seen.report
    flagged = [
        one
        for one in report.addresses
        if any(one.address == str(path.vip) for path in six) and {"tentative", "dadfailed"} & set(one.flags)
    ]
    if flagged:
        one = flagged[0]
        fix = Fix(
            Site.MEMBER,
            "add the VIP without duplicate address detection, to the loopback interface",
            (
                f"ip -6 address del {one.address}/128 dev {one.device}",
                f"ip -6 address add {one.address}/128 dev lo nodad",
            ),
        )
        text = f"VIP {one.address} is {' and '.join(one.flags)} on {seen.member}, and so not used"
        return failed(text, [f"{one.address} on {one.device}: {' '.join(one.flags)}"], fix)
    if seen.tunnelled and report.firewalld_rpfilter.lower() in ("yes", "strict", "true"):
        fix = Fix(
            Site.MEMBER,
            "firewalld's reverse path filter drops what comes out of the tunnel",
            (
                "sed -i 's/^IPv6_rpfilter=.*/IPv6_rpfilter=loose/' /etc/firewalld/firewalld.conf",
                "firewall-cmd --reload",
            ),
        )
        evidence = [f"firewalld.conf: IPv6_rpfilter={report.firewalld_rpfilter}"]
        return failed(f"firewalld of {seen.member} filters IPv6 by reverse path, strictly", evidence, fix)
    return passed("nothing of IPv6's own is in the way")

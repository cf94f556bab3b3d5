"""What the doctor's checks make of evidence: each trouble by its name, and nothing of what is well."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.doctor.checks import DIRECTOR_CHECKS, MEMBER_CHECKS, judge
from appliance.doctor.client import Came
from appliance.doctor.evidence import (
    Asked,
    MemberSeen,
    PassiveSeen,
    PathSeen,
    PeerSeen,
    Reply,
    SessionSeen,
    Step,
    Visit,
)
from appliance.doctor.finding import Capable, Finding, Outcome, capabilities
from appliance.doctor.member import Address, Device, Listener, Persisted, Platform, Point, Seen
from appliance.model import Protocol
from tests.unit.doctor.evidence import (
    MAC,
    MEMBER,
    REFUSED,
    ROUTER,
    SILENT,
    VIP,
    VIP6,
    WELL,
    director,
    error,
    flat,
    member,
    path,
    report,
)


def visits(*came: Came, mss: int = 1428) -> tuple[Visit, ...]:
    """Of one client's machine."""
    return tuple(Visit("desk (192.0.2.7)", VIP, one, 0.002, mss if one is Came.ANSWERED else None) for one in came)


QUIET = {str(VIP): Seen(outer=2, inner=2), str(VIP6): Seen(outer=2, inner=2)}
"""Packets came, and out of the tunnel, and no reply went."""


def failed(findings: Sequence[Finding]) -> set[str]:
    return {one.check for one in findings if one.failed}


def names(seen: MemberSeen) -> set[str]:
    return failed(judge([seen], None))


WELL_MEMBERS = {
    "tunnel": member(),
    "tunnel, no own view": member(report=None),
    "flat": flat(),
    "flat, no own view": flat(report=None),
    "behind a router": member(hop=replace(member().hop, direct=False), gateway=ROUTER),  # type: ignore[type-var]
    "udp": member(path(protocol=Protocol.UDP, full=None, stranger=None)),
}


@pytest.mark.parametrize("seen", WELL_MEMBERS.values(), ids=WELL_MEMBERS)
def test_a_member_that_is_well_has_no_finding_and_is_capable(seen: MemberSeen) -> None:
    """Nothing fails, and all that is required passes, with the member's own view and without."""
    findings = judge([seen], director())
    assert failed(findings) == set()
    (capability,) = capabilities(findings)
    assert capability.capable is Capable.YES, capability.reasons


FAULTS: dict[str, tuple[MemberSeen, set[str]]] = {
    "VIP missing, it says": (
        member(path(small=SILENT), report=report(addresses=(Address(str(MEMBER), "eth0"),), seen=QUIET)),
        {"vip_present"},
    ),
    "VIP missing, the tunnel works for its own address": (
        member(path(small=SILENT, own=replace(WELL, source=MEMBER)), report=None),
        {"vip_present"},
    ),
    "no decapsulation: no protocol": (
        member(path(small=error(3, 2, str(MEMBER), outer=True)), report=None),
        {"decapsulation"},
    ),
    "no decapsulation: device down": (
        member(path(small=error(3, 3, str(MEMBER), outer=True)), report=None),
        {"decapsulation"},
    ),
    "no decapsulation: silent": (
        member(path(small=SILENT), report=report(seen={str(VIP): Seen(outer=2)})),
        {"decapsulation"},
    ),
    "rp_filter": (
        member(
            path(small=SILENT),
            report=report(
                seen=QUIET,
                counters={"TcpExt.IPReversePathFilter": 2},
                devices={"eth0": Device(mac=MAC), "tunl0": Device(kind="ipip")},
            ),
        ),
        {"reverse_path"},
    ),
    "a black hole for large packets": (member(path(full=SILENT, fits=1380)), {"segment_size"}),
    "a large MSS, behind a router": (
        member(path(small=replace(WELL, mss=1460)), hop=replace(member().hop, direct=False)),  # type: ignore[type-var]
        {"segment_size"},
    ),
    "a large MSS on the segment, and to clients as well": (
        member(path(small=replace(WELL, mss=1460))),
        {"segment_size"},
    ),
    "VIP in no file": (
        member(report=report(persisted=Persisted(True, report().persisted.sysctls, {}))),
        {"persisted"},
    ),
    "another sysctl after the next boot": (
        member(
            report=report(
                persisted=replace(
                    report().persisted,
                    sysctls=report().persisted.sysctls | {"net.ipv4.conf.all.arp_ignore": "0 /etc/sysctl.d/99"},
                )
            )
        ),
        {"persisted"},
    ),
    "answers ARP": (member(vip_macs={VIP: (MAC,)}), {"arp_quiet"}),
    "names the VIP in ARP": (
        flat(
            report=report(
                sysctls=report().sysctls | {"ipv4.conf.all.arp_announce": 0},
                persisted=replace(
                    report().persisted,
                    sysctls=report().persisted.sysctls | {"net.ipv4.conf.all.arp_announce": "0 /etc/sysctl.d/90"},
                ),
            )
        ),
        {"arp_quiet"},
    ),
    "listens elsewhere": (
        member(path(small=REFUSED), report=report(listeners=(Listener("tcp", str(MEMBER), 80),))),
        {"listener"},
    ),
    "nobody listens, it says": (
        member(path(protocol=Protocol.UDP, small=SILENT, full=None, stranger=None), report=report(listeners=())),
        {"listener"},
    ),
    "replies get lost": (member(path(small=SILENT), report=report(seen={str(VIP): Seen(2, 2, 2)})), {"replies_arrive"}),
    "replies are dropped by the director's kernel": (member(path(kernel="connection_timeout")), {"replies_arrive"}),
    "clients' ACKs do not come": (member(passive=PassiveSeen(40, 2, 0, 38, 0)), {"handshakes"}),
    "clients repeat their SYN": (member(passive=PassiveSeen(40, 2, 38, 0, 0)), {"handshakes"}),
    "replies reach no client": (member(visits=visits(Came.ANSWERED, Came.SILENT)), {"clients"}),
    "a firewall refuses clients": (member(visits=visits(Came.REFUSED)), {"clients"}),
    "clients send what does not fit": (member(visits=visits(Came.ANSWERED, mss=1448)), {"clients"}),
    "not like the others": (member(passive=PassiveSeen(40, 40, 0, 0, 0, 0.9, outlier="slow")), {"handshakes"}),
    "drops what is invalid": (member(report=report(firewall=("ct state invalid drop",))), {"conntrack"}),
    "its connection table is full": (member(report=report(conntrack=(9500, 10_000))), {"conntrack"}),
    "wrong checksums": (
        member(path(small=SILENT), report=report(seen=QUIET, counters={"Tcp.InCsumErrors": 2})),
        {"checksums"},
    ),
    "one queue": (
        member(report=report(devices={"eth0": Device(mac=MAC, queues=(50_000, 3, 0, 0))})),
        {"queues"},
    ),
    "the tunnel is filtered, silently": (
        member(path(small=SILENT, steps=(Step(1, ROUTER), Step(2, None))), report=report(seen={})),
        {"outer_path"},
    ),
    "the tunnel is refused by a router": (
        member(path(small=error(3, 13, str(ROUTER), outer=True)), report=None),
        {"outer_path"},
    ),
    "answers datagrams from elsewhere": (
        member(path(protocol=Protocol.UDP, full=None, stranger=None, small=Asked(Reply.ANSWERED, MEMBER, MAC))),
        {"udp_source"},
    ),
    "sends packets on": (
        member(
            path(small=error(11, 0, str(MEMBER), outer=False)),
            report=report(addresses=(Address(str(MEMBER), "eth0"),), sysctls={"ipv4.ip_forward": 1}, seen=QUIET),
        ),
        {"vip_present", "no_loop"},
    ),
    "no next hop": (member(hop=None, no_way="neighbour_unresolved: eth1", paths=(), report=None), {"next_hop"}),
    "a next hop that somebody else has now": (member(hop_macs=("02:00:00:00:09:09",)), {"next_hop"}),
    "two that say they are the next hop": (member(hop_macs=(MAC, "02:00:00:00:09:09")), {"next_hop"}),
    "a tentative VIP": (
        member(
            path(vip=VIP6, small=SILENT),
            report=report(addresses=(Address(str(VIP6), "eth0", ("tentative",)),), seen=QUIET),
        ),
        {"ipv6"},
    ),
    "firewalld": (member(path(vip=VIP6), report=report(firewalld_rpfilter="strict")), {"ipv6"}),
    "its own client": (member(report=report(hairpins=(f"{VIP} port 4000 to {VIP} port 80",))), {"hairpin"}),
    "takes tunnels from anybody": (member(path(stranger=WELL)), {"closed_decapsulator"}),
    "its own check says so": (
        member(points=(Point("vip", str(VIP), "pass"), Point("arp", "eth0", "fail", "arp_ignore = 0", "sysctl ..."))),
        {"setup"},
    ),
}


@pytest.mark.parametrize(("seen", "expected"), FAULTS.values(), ids=FAULTS)
def test_each_trouble_is_called_by_its_name_and_by_no_other(seen: MemberSeen, expected: set[str]) -> None:
    """One layer is broken, and the checks of all others keep quiet; every failure says where and how to mend it."""
    findings = judge([seen], director())
    assert failed(findings) == expected, [f"{one.check}: {one.judgement.text}" for one in findings if one.failed]
    for one in findings:
        if one.failed:
            assert one.judgement.fix is not None
            assert one.judgement.fix.text
            assert one.judgement.evidence


def test_every_check_of_members_has_a_trouble_that_it_finds() -> None:
    """No check is there that no evidence here makes fail."""
    assert set().union(*(expected for _, expected in FAULTS.values())) == set(MEMBER_CHECKS)


HOME = {
    "vip_not_local": director(local={VIP: "eth1"}),
    "duplicate_vip": director(answers={VIP: ("02:00:00:00:09:09",)}),
    "offloads": director(merging={"eth1": ("rx-gro",)}, plane="raw"),
    "tables_agree": director(peers=(PeerSeen("d2", {"web": 12.0}),)),
    "routing_sessions": director(sessions=(SessionSeen("192.0.2.1", True, 0),), late_s=0.7),
    "fragments": director(fragments_lost=3, hash_by_ports=("dns",)),
    "director_conntrack": director(conntrack=(990, 1000)),
}


@pytest.mark.parametrize(("name", "seen"), HOME.items(), ids=HOME)
def test_each_trouble_of_the_director(name: str, seen: object) -> None:
    """By its name, and nothing else fails."""
    assert failed(judge([], seen)) == {name}  # type: ignore[arg-type]
    assert set(HOME) == set(DIRECTOR_CHECKS)


def test_routers_that_are_lost() -> None:
    """A session that is down, and one that BFD loses again and again, are named without blaming the director's CPU."""
    seen = director(sessions=(SessionSeen("192.0.2.1", False, 0, "hold timer"), SessionSeen("192.0.2.2", True, 3)))
    (finding,) = [one for one in judge([], seen) if one.failed]
    assert finding.judgement.fix is not None
    assert (finding.check, str(finding.judgement.fix.site)) == ("routing_sessions", "network")


@pytest.mark.parametrize("manager", ["netplan", "networkd", "ifupdown", "networkmanager", ""])
def test_the_fix_is_for_the_platform(manager: str) -> None:
    """A VIP is added now, and for the next boot in the way of whoever makes that machine's network."""
    missing = report(addresses=(), platform=Platform(manager=manager), seen=QUIET)
    (finding,) = [one for one in judge([member(path(small=SILENT), report=missing)], None) if one.failed]
    assert finding.judgement.fix is not None
    commands = finding.judgement.fix.commands
    assert commands[0] == f"ip address add {VIP}/32 dev lo"
    tool = {"netplan": "netplan set", "networkd": "networkctl", "ifupdown": "interfaces.d", "networkmanager": "nmcli"}
    assert (tool[manager] in " ".join(commands[1:])) if manager else len(commands) == 1


def test_rules_for_members_name_the_prefix_of_outer_sources() -> None:
    """Where outer headers come from a prefix, that is who may send in tunnels, and whom to take packets from."""
    prefix = ip_network("198.51.100.64/26")
    for seen, wanted in (
        (member(path(stranger=WELL), outer_prefix=prefix), "ip saddr != { 198.51.100.64/26 } drop"),
        (
            member(path(small=error(3, 2, str(MEMBER), outer=True)), outer_prefix=prefix),
            "--from 198.51.100.64/26 --vip",
        ),
    ):
        fixes = [one.judgement.fix for one in judge([seen], None) if one.judgement.fix is not None]
        said = [text for fix in fixes for text in (fix.text, *fix.commands)]
        assert any(wanted in text for text in said), said


def test_what_cannot_be_told_is_unknown() -> None:
    """Without an answer and without the member's own view nothing fails, and nobody is called capable."""
    findings = judge([member(path(small=SILENT, full=None), report=None)], None)
    assert failed(findings) == set()
    (capability,) = capabilities(findings)
    assert capability.capable is Capable.UNKNOWN
    assert any("vip_present" in reason for reason in capability.reasons)


REPLIES = st.sampled_from(
    [
        WELL,
        REFUSED,
        SILENT,
        error(3, 2, str(MEMBER), outer=True),
        error(3, 13, str(ROUTER), outer=True),
        error(11, 0, str(MEMBER), outer=False),
        error(3, 4, str(ROUTER), outer=True),
    ]
)
PATHS = st.builds(
    path,
    vip=st.sampled_from([VIP, VIP6]),
    small=REPLIES,
    full=st.one_of(st.none(), REPLIES),
    own=st.one_of(st.none(), REPLIES),
    direct=st.one_of(st.none(), REPLIES),
    kernel=st.sampled_from([None, "", "connection_timeout"]),
    protocol=st.sampled_from(Protocol),
)
SEEN = st.dictionaries(st.sampled_from([str(VIP), str(VIP6)]), st.builds(Seen, *[st.integers(0, 3)] * 3))
REPORTS = st.one_of(
    st.none(),
    st.builds(
        report,
        seen=SEEN,
        watched=st.booleans(),
        counters=st.dictionaries(
            st.sampled_from(["TcpExt.IPReversePathFilter", "Tcp.InCsumErrors"]), st.integers(0, 2)
        ),
        addresses=st.sampled_from([(), report().addresses]),
    ),
)


@given(paths=st.lists(PATHS, max_size=3), own=REPORTS, by_tunnel=st.booleans())
def test_any_evidence_is_judged(paths: list[PathSeen], own: object, by_tunnel: bool) -> None:
    """Whatever is seen, every check answers; failures have a fix; what answers is not called broken below that."""
    made = (member if by_tunnel else flat)(*paths, report=own)
    findings = judge([replace(made, paths=tuple(paths))], None)
    for one in findings:
        assert (one.judgement.fix is not None) == one.failed
        assert one.judgement.text
        assert one.document()
    if paths and all(one.small.reply is Reply.ANSWERED for one in paths):
        below = {"outer_path", "decapsulation", "reverse_path", "vip_present", "no_loop", "listener"}
        assert not failed(findings) & below


def test_capability_says_no_before_it_says_unknown() -> None:
    """One required failure is enough, whatever else is not known."""
    findings = judge([member(path(small=error(3, 2, str(MEMBER), outer=True)), report=None)], None)
    (capability,) = capabilities(findings)
    assert capability.capable is Capable.NO
    assert all(reason.startswith("decapsulation") for reason in capability.reasons)
    assert {one.judgement.outcome for one in findings} >= {Outcome.FAIL, Outcome.UNKNOWN}


def test_what_clients_see_is_told_with_numbers() -> None:
    """Well, with what was seen; unknown where the director gets no answer either, so that one trouble has one name."""
    (well,) = [
        one for one in judge([member(visits=visits(Came.ANSWERED, Came.ANSWERED))], None) if one.check == "clients"
    ]
    assert well.judgement.outcome is Outcome.PASS
    assert well.judgement.evidence == (
        "desk (192.0.2.7): of 2 connections 2 came about, in 2.0 ms, segments of 1428 bytes",
    )
    silent = member(path(small=SILENT, direct=SILENT, full=None), visits=visits(Came.SILENT))
    (unclear,) = [one for one in judge([silent], None) if one.check == "clients"]
    assert unclear.judgement.outcome is Outcome.UNKNOWN
    assert not [one for one in judge([member()], None) if one.check == "clients"]

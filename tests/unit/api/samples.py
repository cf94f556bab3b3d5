"""Observations for tests: three virtual services on three VIPs, some of it well and some not."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from appliance.api.sources import Observed, PinsUse, ReloadStatus, StatusSources
from appliance.dataplane.base import Counters, Traffic
from appliance.dataplane.events import PacketEvent
from appliance.decide import Desired, decide
from appliance.doctor.finding import Finding, Fix, Report, Site, capabilities, failed, passed
from appliance.flapping import Flap
from appliance.fleet.agreement import Basis, Judged
from appliance.fleet.channel import COUNTS, ChannelStatus, PeerState
from appliance.fleet.channel import PeerStatus as FleetPeerStatus
from appliance.fleet.entries import DirectorCard
from appliance.fleet.store import Agreed, Source, StoreStatus
from appliance.looplag import LagSummary
from appliance.model import (
    Bfd,
    BgpPeer,
    Config,
    EffectiveState,
    Flapping,
    Health,
    NetworkProfile,
    PortRange,
    ProfileType,
)
from appliance.passive import Handshakes
from appliance.path.gate import Gate
from appliance.state import Snapshot, Unresolved
from bgp.bfd.messages import SessionView
from bgp.bfd.packet import Diag, State
from bgp.bfd.process import BfdStatus
from bgp.route import Route
from bgp.speaker import PeerStatus, Session, SpeakerStatus
from health.spec import Code, Result, Status, Target, Turn, Verdict
from health.strain import Delay, Durations, Strain
from tests.builders import L2, L3, SECRET, config, hop, member, pool, service, snapshot

NOW = 1_800_000_000.0
VIP, VIP6, DNS_VIP, OLD_VIP = map(ip_address, ("198.51.100.7", "2001:db8:f::7", "198.51.100.53", "198.51.100.9"))
PEER, PEER2 = "192.0.2.1", "192.0.2.2"


def sample_config() -> Config:
    web = service(
        vips=(VIP, VIP6),
        ports=(PortRange(80, 80), PortRange(443, 443)),
        pool=replace(pool(), flapping=Flapping()),
    )
    dns = service(
        name="dns",
        vips=(DNS_VIP,),
        ports=(PortRange(53, 53),),
        profile=NetworkProfile("udp-l2", ProfileType.UDP_FAST_PATH, L2, 10),
        pool=pool(member(11), member(12, ratio=3), name="dns", monitors=()),
        min_members=2,
    )
    old = service(
        name="old",
        vips=(OLD_VIP,),
        profile=NetworkProfile("tcp-l3", ProfileType.TCP_FAST_PATH, L3, 300),
        pool=pool(member(21, enabled=False), name="old"),
        enabled=False,
    )
    base = config(web, dns, old)
    assert base.bgp is not None
    peers = (
        replace(base.bgp.peers[0], bfd=Bfd(0.1, 3)),
        BgpPeer(ip_address(PEER2), 65000, 9, bfd=Bfd(0.05, 3, multihop=True)),
    )
    return replace(
        base, bgp=replace(base.bgp, peers=peers), source="/etc/onward/onward.toml", digest="0123456789abcdef"
    )


def sample_snapshot(**changes: Any) -> Snapshot:
    """web3 is down, and that too often; dns12 has no next hop, so DNS has too few members."""
    base = snapshot(sample_config(), {"web/web3": Health.DOWN})
    changes = {"flaps": {"web/web3": Flap(2743.0, NOW - 100, True, 3)}} | changes
    hops = dict(base.next_hops) | {
        member.address: hop(number, direct=True) for number, member in enumerate(base.config.pools[1].members, 31)
    }
    hops[ip_address("203.0.113.12")] = Unresolved("neighbour_unresolved", "eth1")
    return replace(base, next_hops=hops, **changes)


def sample_speaker() -> SpeakerStatus:
    web = frozenset({"198.51.100.7/32", "2001:db8:f::7/128"})
    return SpeakerStatus(
        running=True,
        peers={
            PEER: PeerStatus(Session.UP, NOW - 3700, "", web),
            PEER2: PeerStatus(Session.DOWN, NOW - 42, "hold timer expired"),
        },
        announced=frozenset({Route(VIP), Route(VIP6, ip_address("2001:db8:1::11"))}),
        updates={(PEER, "announce"): 4, (PEER, "withdraw"): 1},
    )


def sample_bfd() -> BfdStatus:
    """Up with the first router; the second one has not been heard for a while."""
    up = SessionView(
        state=State.UP,
        remote_state=State.UP,
        diag=Diag.NONE,
        remote_diag=Diag.NONE,
        since=NOW - 3600,
        transmit_s=0.1,
        receive_s=0.3,
        detection_s=0.9,
        packets_in=11_000,
        packets_out=41_000,
        downs=0,
        refused={"ttl": 7},
    )
    down = replace(
        up,
        state=State.DOWN,
        remote_state=State.DOWN,
        diag=Diag.TIME_EXPIRED,
        since=NOW - 42,
        transmit_s=1.0,
        receive_s=0.05,
        detection_s=0.15,
        downs=1,
        refused={},
        trouble="cannot send: Network is unreachable",
    )
    return BfdStatus(True, {PEER: up, PEER2: down}, {"no_session": 2}, "", "real-time")


def sample_health() -> tuple[Status, ...]:
    def status(number: int, verdict: Verdict, last: Result, good: int, bad: int) -> Status:
        target = Target(f"web/web{number}", ip_address(f"203.0.113.{number}"), 80)
        return Status("ping80", target, verdict, last, NOW - 100, good, bad)

    refused = Result(Code.CONNECTION_REFUSED, "connect: connection refused", 0.0004)
    turns = (Turn(Verdict.DOWN, NOW - 100, refused), Turn(Verdict.UP, NOW - 3600, Result(Code.OK, "", 0.001)))
    return (
        status(1, Verdict.UP, Result(Code.OK, "", 0.0009), 300, 0),
        status(2, Verdict.UP, Result(Code.OK, "", 0.0012), 299, 1),
        replace(
            status(3, Verdict.DOWN, refused, 200, 12),
            turns=turns,
            turned={Verdict.UP: 3, Verdict.DOWN: 3, Verdict.MAINTENANCE: 1},
            maintenance=4,
        ),
    )


def by_path(verdict: Verdict, last: Result, **changes: Any) -> Status:
    """A status of the member web3, asked through the path."""
    way = Gate((), SECRET, dict).way(ip_address("203.0.113.3"), L3)
    target = Target("web/web3", VIP, 443, way)
    return replace(Status("tcp/port", target, verdict, last, NOW - 50, 10, 2), **changes)


def sample_strain() -> Strain:
    """Some probes had to wait."""
    durations = Durations()
    for duration_s in (0.0009, 0.0012, 0.0004, 3.0):
        durations.add(duration_s)
    return Strain(12, 256, {Delay.LIMIT: 7, Delay.NO_RESOURCES: 0, Delay.LATE: 1}, {"ping80": durations})


def sample_counters(scale: int = 1) -> Counters:
    return Counters(
        services={
            ("web", str(VIP)): Traffic(120_000 * scale, 9_600_000 * scale, 3_000 * scale),
            ("web", str(VIP6)): Traffic(4_000 * scale, 480_000 * scale, 120 * scale),
            ("dns", str(DNS_VIP)): Traffic(900 * scale, 63_000 * scale, 0),
        },
        members={
            "web/web1": Traffic(62_000 * scale, 5_040_000 * scale, 1_560 * scale),
            "web/web2": Traffic(62_000 * scale, 5_040_000 * scale, 1_560 * scale),
            "dns/web11": Traffic(900 * scale, 63_000 * scale, 0),
        },
        reasons={"no_member": 17 * scale, "malformed": 3, "no_service": 250, "not_vip": 1234},
        replies={"icmp_too_big": 5},
        details={"ring_full": 0, "checksums_completed": 12},
    )


def sample_packets() -> tuple[PacketEvent, ...]:
    """One of each kind, at 4990 s and later; the clock of `observed` says 5000."""
    return (
        PacketEvent(4990.25, "new_flow", "", "eth1", 74, "192.0.2.7:40000", "198.51.100.7:80", 6),
        PacketEvent(4991.5, "drop", "no_service", "eth1", 60, "192.0.2.7:5353", "198.51.100.7:99", 17),
        PacketEvent(4992.0, "slow_path", "fragment", "eth2", 1514, "[2001:db8::7]", "[2001:db8:f::7]", 44),
        PacketEvent(4992.001, "reply", "icmp_too_big", "eth1", 1514, "192.0.2.7:40000", "198.51.100.7:80", 6),
        PacketEvent(4993.0, "drop", "malformed", "eth1", 60, "02:71:00:00:00:01", "02:71:00:00:00:02"),
    )


XDP = {
    "kind": "xdp",
    "interfaces": "eth1, eth2",
    "mode_eth1": "native",
    "mode_eth2": "generic",
    "why_eth2": "the driver xyz runs no XDP programs",
    "egress_eth3": "slow path: its driver sends no XDP frames",
}
"""Facts of an XDP plane that is not as fast as it could be."""


def _evenly(desired: Desired) -> Desired:
    """Equal shares, whatever the ring gives."""
    return replace(
        desired,
        services=tuple(
            replace(
                view,
                members=tuple(
                    replace(member, share=1 / in_rotation if member.no is None else 0.0) for member in view.members
                ),
            )
            for view in desired.services
            for in_rotation in [view.in_rotation]
        ),
    )


def observed(**changes: Any) -> Observed:
    snap = changes.pop("snapshot", None) or sample_snapshot()
    values: dict[str, Any] = {
        "at": NOW,
        "clock": 5000.0,
        "version": "1.2.3",
        "started_at": NOW - 90_000,
        "applied": _evenly(decide(snap)),
        "snapshot": snap,
        "counters": sample_counters(),
        "speaker": sample_speaker(),
        "health": sample_health(),
        "plane": {"kind": "raw", "transmit": "AF_XDP from the receive ring", "interfaces": "eth1"},
        "samples": sample_packets(),
        "reload": ReloadStatus(True, NOW - 500, "/etc/onward/onward.toml", "0123456789abcdef", taken_at=NOW - 500),
        "lag": LagSummary(0.0001, 0.002, 0.013, (90, 5, 3, 1, 0, 1, 0, 0, 0, 0, 0, 0), 0.042),
        "pins": PinsUse(131072, 40),
        "channel": sample_channel(),
        "agreed": sample_agreed(),
        "bfd": sample_bfd(),
        "strain": sample_strain(),
        "doctor": sample_doctor(),
        "handshakes": {("web", "web/web1"): Handshakes(50, 47, 2, 1, 4, 0.0125)},
        "transitions": {
            ("ipip", "web/web3", EffectiveState.OUT): 3,
            ("ipip", "web/web3", EffectiveState.IN_ROTATION): 2,
        },
        "ready": (("config", True, ""), ("data_plane", True, ""), ("programmed", True, ""), ("bgp", True, "")),
    }
    return Observed(**values | changes)


def sample_doctor() -> Report:
    """web1 is well, and web2 does not take packets out of the tunnel."""
    fix = Fix(Site.MEMBER, "load the tunnel's module", ("modprobe ipip",))
    error = "ICMP type 3 code 2 about the outer packet, from 203.0.113.2"
    findings = (
        Finding("decapsulation", "web", "web/web1", passed("packets come out of IP in IP"), required=True),
        Finding("decapsulation", "web", "web/web2", failed("no packets come out", [error], fix), required=True),
        Finding("duplicate_vip", "", "", passed("nobody else has a VIP")),
    )
    return Report(NOW - 30, 2.5, "schedule", findings, capable=tuple(capabilities(findings)))


def sample_channel() -> ChannelStatus:
    """d2 is there, and d3 is not."""

    def peer(name: str, state: PeerState, **changes: Any) -> FleetPeerStatus:
        values: dict[str, Any] = {"heard_s_ago": 0.2, "sent": 40, "received": 12, "refused": {}, "mismatches": {}}
        lost = {"lost_in": 0.25, "lost_out": 0.0}
        address = f"192.0.2.1{name[1:]} port 7117"
        return FleetPeerStatus(
            name=name,
            address=address,
            state=state,
            round_trip_s=0.001,
            dropped=0,
            trouble="",
            **lost | values | changes,
        )

    silent = {"heard_s_ago": None, "sent": 0, "received": 0, "refused": {"forged": 3}}
    counts = dict.fromkeys(COUNTS, 0) | {"openings": 30, "openings_refused": 2, "openings_unsent": 1}
    return ChannelStatus(
        "192.0.2.11 port 7117", (peer("d2", PeerState.JOINED), peer("d3", PeerState.SILENT, **silent)), counts
    )


def sample_agreed() -> Agreed:
    """All agree, but for this director's view of web2."""
    return Agreed(
        members={
            "web/web2": Judged(Health.UP, Basis.MAJORITY, Health.DOWN, ("d2", "d3"), ("d1",)),
            "web/web3": Judged(Health.DOWN, Basis.MAJORITY, Health.DOWN, (), ("d1", "d2", "d3")),
        },
        directors=tuple(DirectorCard(f"d{n}", ip_address(f"192.0.2.1{n}"), 7117, f"boot{n}") for n in (1, 2, 3)),
        log={},
        orders={},
        status=StoreStatus(True, "http://192.0.2.21:2379", NOW - 300, "", Source.FLEET),
    )


def healthy() -> Observed:
    """One service, all members up, one session up."""
    snap = snapshot(config())
    speaker = SpeakerStatus(
        running=True,
        peers={PEER: PeerStatus(Session.UP, NOW - 60, "", frozenset({"198.51.100.7/32"}))},
        announced=frozenset({Route(VIP)}),
    )
    return observed(snapshot=snap, speaker=speaker, health=sample_health()[:2], channel=None, agreed=None)


def shared(services: int = 3, members: int = 2) -> Observed:
    """Virtual services that share one pool: the first by UDP, the second by TCP and L2 DSR, all others by TCP and L3.

    Members are behind a router, so that L2 DSR has none in rotation.
    """
    addresses = [ip_address("2001:db8:1::") + number for number in range(1, members + 1)]
    web = pool(*(member(1, name=f"web{number}", address=address) for number, address in enumerate(addresses, 1)))
    profiles = {
        0: NetworkProfile("udp-l3", ProfileType.UDP_FAST_PATH, L3, 10),
        1: NetworkProfile("tcp-l2", ProfileType.TCP_FAST_PATH, L2, 300),
    }
    tcp = NetworkProfile("tcp-l3", ProfileType.TCP_FAST_PATH, L3, 300)
    snap = snapshot(
        config(
            *(
                service(
                    name=f"s{number}",
                    vips=(ip_address("2001:db8:f::") + number,),
                    profile=profiles.get(number, tcp),
                    pool=web,
                )
                for number in range(services)
            )
        )
    )
    counters = Counters(
        services={
            (view.name, str(view.vips[0])): Traffic(100, 8000, 0 if number == 0 else 7)
            for number, view in enumerate(snap.config.services)
        },
        members={f"web/{item.name}": Traffic(500, 40_000, 70) for item in web.members},
    )
    return observed(snapshot=snap, counters=counters, health=())


def sources(source: Callable[[], Observed] = observed, **changes: Any) -> StatusSources:
    """Sources that tell what *source* gives, at every call anew."""

    async def counters() -> Counters:
        counters = source().counters
        assert counters is not None
        return counters

    async def plane() -> Mapping[str, str]:
        return source().plane

    async def packets() -> Sequence[PacketEvent]:
        return source().samples

    given: dict[str, Callable[[], Any] | Callable[[], Awaitable[Any]] | float] = {
        "applied": lambda: source().applied,
        "snapshot": lambda: source().snapshot,
        "counters": counters,
        "speaker": lambda: source().speaker,
        "health": lambda: source().health,
        "plane": plane,
        "samples": packets,
        "reload": lambda: source().reload,
        "loop_lag": lambda: source().lag,
        "ready": lambda: source().ready,
        "pins": lambda: source().pins,
        "agreed": lambda: source().agreed,
        "channel": lambda: source().channel,
        "strain": lambda: source().strain,
        "doctor": lambda: source().doctor,
        "handshakes": lambda: source().handshakes,
        "started_at": source().started_at,
    }
    return StatusSources(**given | changes)  # type: ignore[arg-type]

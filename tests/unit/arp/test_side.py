"""What the kernel lets through to the sockets, and what other directors are told."""

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from appliance.arp.owner import Claim, Phase
from appliance.arp.side import _ROW, SILENT_S, STALE_S, STEP_S, ArpSide, Told, listener
from appliance.config.load import parse
from appliance.config.rules import MAX_ANSWERED
from appliance.dataplane.raw.kernel import attach_filter
from appliance.decide import Desired, No, VipView, Why
from appliance.fleet.wire import DIGESTS
from appliance.forwarding import ForwardingTables

FOUR = [IPv4Address("192.0.2.100"), IPv4Address("192.0.2.101")]
SIX = [IPv6Address("2001:db8:1::ab:cdef")]


def lets_through(program: bytes, packet: Packet) -> bool:
    """The kernel's own opinion, on a pair of sockets that lead nowhere."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        far.setblocking(False)
        attach_filter(far, program)
        near.send(bytes(Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:d1") / packet))
        try:
            return bool(far.recv(2000))
        except BlockingIOError:
            return False


def solicitation(target: str) -> Packet:
    return IPv6(src="fe80::9", dst="ff02::1:ffab:cdef", hlim=255) / ICMPv6ND_NS(tgt=target)


@pytest.mark.parametrize(
    ("packet", "wanted"),
    [
        (ARP(psrc="192.0.2.9", pdst="192.0.2.100"), True),
        (ARP(psrc="192.0.2.9", pdst="192.0.2.101"), True),
        (ARP(psrc="0.0.0.0", pdst="192.0.2.101"), True),
        (ARP(op=2, psrc="192.0.2.100", pdst="192.0.2.9"), True),
        (ARP(psrc="192.0.2.9", pdst="192.0.2.102"), False),
        (IP(src="192.0.2.9", dst="192.0.2.100") / UDP(), False),
    ],
)
def test_arp_that_concerns_vips_wakes_us(packet: Packet, wanted: bool) -> None:
    """Questions for VIPs, and whoever says that it has one; nothing else of a busy segment."""
    assert lets_through(listener(FOUR, ()), packet) == wanted
    assert lets_through(listener([IPv4Address(n) for n in range(600)], ()), packet) == (ARP in packet)


@pytest.mark.parametrize(
    ("packet", "wanted"),
    [
        (solicitation(str(SIX[0])), True),
        (IPv6(src=str(SIX[0]), dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=str(SIX[0])), True),
        (solicitation("2001:db8:1::ab:cdee"), False),
        (IPv6(dst=str(SIX[0])) / ICMPv6EchoRequest(data=bytes(32)), False),
        (IPv6(dst=str(SIX[0])) / UDP() / bytes(60), False),
        (ARP(pdst="192.0.2.100"), False),
    ],
)
def test_neighbour_discovery_that_concerns_vips_wakes_us(packet: Packet, wanted: bool) -> None:
    """The same for IPv6, on a socket that sees all packets."""
    assert lets_through(listener((), SIX), packet) == wanted


TEXT = """
schema_version = 1
[director]
name = "{name}"
interfaces = ["eth1"]
[fleet]
secret_file = "k"
[[fleet.director]]
name = "d1"
address = "192.0.2.11"
[[fleet.director]]
name = "d2"
address = "192.0.2.12"
[[network_profile]]
name = "l2"
type = "tcp_fast_path"
[[pool]]
name = "web"
[[pool.member]]
address = "192.0.2.21"
[[virtual_service]]
name = "web"
vips = {vips}
ports = [80]
network_profile = "l2"
pool = "web"
ha = "active_standby"
arp = true
"""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def side(name: str, told: Told, clock: Clock, vips: list[str]) -> ArpSide:
    text = TEXT.format(name=name, vips=vips).replace("'", '"')
    made = ArpSide(("eth1",), lambda: told, lambda: None, clock, lambda: 0.0)
    made.follow(parse(text, "x.toml", lambda _: b"0123456789abcdef"))
    return made


def desired(vips: list[str], no: No | None = None) -> Desired:
    views = tuple(VipView(IPv4Address(vip), ("web",), None, no, arp=True) for vip in vips)
    return Desired(ForwardingTables(), frozenset(), (), views)


def phases(one: ArpSide) -> set[tuple[Phase, str]]:
    return {(status.phase, status.why) for status in one.statuses()}


def run(clock: Clock, seconds: float, *sides: ArpSide) -> None:
    end = clock.now + seconds
    while clock.now < end:
        clock.now += STEP_S
        for one in sides:
            one._step()


def test_claims_of_many_vips_and_what_runs_out() -> None:
    """Two bits for each VIP, 32 in a number, alike on directors whatever the order in which they write them. What a
    director claims counts for a second after its event loop has said so."""
    vips = [f"192.0.2.{number}" for number in range(100, 170)]
    clock = Clock()
    told1: dict[str, tuple[float, dict[str, int]]] = {}
    told2: dict[str, tuple[float, dict[str, int]]] = {}
    one, two = side("d1", told1, clock, vips), side("d2", told2, clock, vips[::-1])
    for each in (one, two):
        each.applied(desired(vips, No(Why.LEARNING)))
    assert set(one.claims().values()) == {0}
    one.applied(desired(vips))
    run(clock, 1.0, one)
    assert phases(one) == {(Phase.ANSWERING, "")}
    rows = one.claims()
    assert len(rows) == 3
    assert rows.keys() == two.claims().keys() or not two.claims()
    assert sorted(rows.values()) == sorted(
        sum(Claim.ANSWERING << 2 * at for at in range(count)) for count in (32, 32, 6)
    )
    told2["d1"] = 0.1, dict(rows)
    two.applied(desired(vips))
    run(clock, 1.0, two)
    assert phases(two) == {(Phase.SILENT, "d1 answers")}
    told2["d1"] = SILENT_S + 0.1, dict(rows)
    run(clock, 1.0, two)
    assert phases(two) == {(Phase.ANSWERING, "")}
    clock.now += STALE_S + 0.1
    assert one.claims() == {} == two.claims()


def test_silence_comes_before_the_tables_and_answers_after_them() -> None:
    """What is decided may only silence; what is in force may answer."""
    vips, clock = ["192.0.2.100"], Clock()
    one = side("d1", {}, clock, vips)
    one.decided(desired(vips))
    run(clock, 1.0, one)
    assert phases(one) == {(Phase.SILENT, "nothing is decided yet")}
    one.applied(desired(vips))
    run(clock, 1.0, one)
    assert phases(one) == {(Phase.ANSWERING, "")}
    one.decided(desired(vips, No(Why.PLANE_DOWN, "stuck")))
    assert phases(one) == {(Phase.SILENT, "plane_down: stuck")}


def test_as_many_vips_as_one_greeting_holds() -> None:
    """The rule that bounds VIPs to answer for goes by what one greeting holds."""
    assert DIGESTS // 2 * _ROW == MAX_ANSWERED

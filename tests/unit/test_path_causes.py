"""What ICMP errors and results of probes through the path mean, and what the MSS of a SYN-ACK does."""

import socket
import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ParamProblem, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import GRE
from scapy.packet import Packet

from appliance.forwarding import NextHop
from appliance.model import Delivery, DsrType, Encapsulation
from appliance.path.causes import SENT_LENGTH, Heard, Trouble, explained, finding, flow_of, heard, quotes, unresolved
from appliance.path.segments import segments
from appliance.state import NEIGHBOUR_UNRESOLVED, Unresolved
from health.spec import Code, Result, Status, Target, Turn, Verdict
from tests.builders import L2, L3, To, hop

SILENT = Unresolved(NEIGHBOUR_UNRESOLVED, "203.0.113.1 does not answer on eth1")

VIP, VIP6 = ip_address("198.51.100.7"), ip_address("2001:db8:f::7")
MEMBER, MEMBER6 = ip_address("203.0.113.1"), ip_address("2001:db8:2::1")
ROUTER = ip_address("203.0.113.254")
OURS, OURS6 = "192.0.2.11", "2001:db8::b"
INNER = IP(src=OURS, dst=str(VIP)) / TCP(sport=40000, dport=80, flags="S")
INNER6 = IPv6(src=OURS6, dst=str(VIP6)) / TCP(sport=40000, dport=80, flags="S")
GUE = UDP(sport=50000, dport=6080) / b"\0\4\0\0"
FLOWS = {
    version: (socket.inet_pton(family, ours), vip.packed, 6, struct.pack("!HH", 40000, 80))
    for version, family, ours, vip in ((4, socket.AF_INET, OURS, VIP), (6, socket.AF_INET6, OURS6, VIP6))
}


def message(icmp: Packet, quoted: Packet) -> bytes:
    return bytes(icmp / bytes(quoted))


@pytest.mark.parametrize("length", [28, 1000])
@pytest.mark.parametrize(
    ("version", "icmp", "outer", "inner"),
    [
        (4, ICMP(type=3, code=2), IP(src=OURS, dst=str(MEMBER)), INNER),
        (4, ICMP(type=3, code=3), IP(src=OURS, dst=str(MEMBER)), INNER6),
        (4, ICMP(type=3, code=2), IP(src=OURS, dst=str(MEMBER)) / GRE(), INNER),
        (4, ICMP(type=3, code=3), IP(src=OURS, dst=str(MEMBER)) / GUE, INNER),
        (6, ICMPv6ParamProblem(code=1), IPv6(src=OURS6, dst=str(MEMBER6)), INNER6),
        (6, ICMPv6ParamProblem(code=1), IPv6(src=OURS6, dst=str(MEMBER6)) / GRE(), INNER6),
        (6, ICMPv6DestUnreach(code=4), IPv6(src=OURS6, dst=str(MEMBER6)) / GUE, INNER),
    ],
)
def test_whoever_has_no_decapsulator_says_so(
    version: int, icmp: Packet, outer: Packet, inner: Packet, length: int
) -> None:
    """By the error about the outer header, from the member itself; from others on the way it is a filter. The inner
    packet is known where the quote reaches so far."""
    member = MEMBER if version == 4 else MEMBER6
    quoted = outer / bytes(inner) if outer.haslayer(UDP) else outer / inner
    text = message(icmp, quoted)[: 8 + (length if version == 4 else length + 20)]
    protocol = quoted.proto if version == 4 else quoted.nh
    packet = bytes(inner)[: max(0, len(text) - 8 - len(bytes(outer)))]
    flow = FLOWS[inner.version] if length > 28 else None
    assert heard(version, text, member) == Heard(Trouble.NO_DECAPSULATION, member, member, protocol, flow, packet)
    assert heard(version, text, ROUTER) == Heard(Trouble.FILTERED, ROUTER, member, protocol, flow, packet)


@pytest.mark.parametrize(
    ("version", "icmp", "quoted"),
    [
        (4, ICMP(type=11, code=0), INNER),
        (6, ICMPv6TimeExceeded(code=0), INNER6),
    ],
)
def test_a_member_that_routes_on_is_known_by_the_flow(version: int, icmp: Packet, quoted: Packet) -> None:
    """The quote has what tells our flows apart: addresses, protocol, ports."""
    member = MEMBER if version == 4 else MEMBER6
    expected = Heard(Trouble.ROUTED_ON, member, flow=FLOWS[version], packet=bytes(quoted))
    assert heard(version, message(icmp, quoted), member) == expected


@pytest.mark.parametrize("version", [4, 6])
def test_echoes_are_known_by_identifier_and_number(version: int) -> None:
    """As `health.ways` has it."""
    echo = struct.pack("!BBH4s8x", 8 if version == 4 else 128, 0, 0, b"mark")
    head = IP(src=OURS, dst=str(VIP), proto=1) if version == 4 else IPv6(src=OURS6, dst=str(VIP6), nh=58)
    flow = flow_of(bytes(head / echo))
    assert flow is not None
    assert flow[2:] == (1 if version == 4 else 58, b"mark")


@pytest.mark.parametrize("inner", [INNER, INNER6], ids=["IPv4", "IPv6"])
def test_only_who_has_seen_a_packet_can_quote_it(inner: Packet) -> None:
    """What routers change does not count; everything else does, and so much of it must be there that nobody guesses."""
    whole = bytes(inner)
    sent, needed = whole[:SENT_LENGTH], (20 if inner.version == 4 else 40) + 8
    assert [length for length in range(len(whole) + 1) if quotes(whole[:length], sent)] == [
        *range(needed, len(whole) + 1)
    ]
    assert not quotes(whole, b"")
    changeable = {1, 8, 10, 11} if inner.version == 4 else {7}
    halves = set() if inner.version == 4 else {0, 1}  # version and traffic class; traffic class and flow label
    for at in range(needed):
        other = bytearray(whole)
        other[at] ^= 0xFF
        assert quotes(bytes(other), sent) == (at in changeable), at
        if at in halves:
            other[at] = whole[at] ^ (0x0F if at == 0 else 0xF0)
            assert quotes(bytes(other), sent), at


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (4, message(ICMP(type=3, code=4), IP(src=OURS, dst=str(MEMBER)) / INNER)),
        (4, message(ICMP(type=3, code=1), INNER)),
        (4, message(ICMP(type=11, code=0), IP(src=OURS, dst=str(MEMBER)) / INNER)),
        (4, message(ICMP(type=3, code=3), IP(src=OURS, dst=str(MEMBER)) / UDP(sport=50000, dport=53))),
        (6, message(ICMPv6DestUnreach(code=4), INNER6)),
        (4, b""),
        (6, b""),
    ],
)
def test_other_errors_say_nothing_of_the_path(version: int, text: bytes) -> None:
    """Too big, another port, the inner packet's own errors, and what is cut off."""
    assert heard(version, text, MEMBER) is None


@pytest.mark.parametrize("version", [4, 6])
def test_a_quote_may_end_anywhere(version: int) -> None:
    """Whatever is cut off, nothing is read beyond the end."""
    outer = IP(src=OURS, dst=str(MEMBER)) if version == 4 else IPv6(src=OURS6, dst=str(MEMBER6))
    icmp = ICMP(type=3, code=2) if version == 4 else ICMPv6ParamProblem(code=1)
    text = message(icmp, outer / INNER)
    needed = 8 + (20 if version == 4 else 40) + 4
    for length in range(len(text)):
        assert (heard(version, text[:length], MEMBER) is None) == (length < needed)


@pytest.mark.parametrize(
    ("code", "hop", "named"),
    [
        (Code.SERVER_UNREACHABLE, SILENT, True),
        (Code.CONNECTION_TIMEOUT, SILENT, True),
        (Code.NO_RESPONSE, SILENT, True),
        (Code.CONNECTION_REFUSED, SILENT, False),
        (Code.OK, SILENT, False),
        (Code.SERVER_UNREACHABLE, Unresolved("no_route", "to 203.0.113.1"), False),
        (Code.SERVER_UNREACHABLE, hop(), False),
        (Code.SERVER_UNREACHABLE, None, False),
    ],
)
def test_a_mac_address_that_nobody_tells_is_named(code: Code, hop: NextHop | Unresolved | None, named: bool) -> None:
    """Of members that cannot be reached at their own address; what has answered was reached."""
    result = Result(code, "connect: no route to host", 3.0)
    detail = "neighbour_unresolved: 203.0.113.1 does not answer on eth1"
    assert unresolved(result, hop) == (replace(result, code=Code.ARP_UNRESOLVED, detail=detail) if named else result)


TARGET = Target("web/web1", VIP, 80, To(MEMBER, L3))
GONE = Heard(Trouble.NO_DECAPSULATION, MEMBER, MEMBER)


@pytest.mark.parametrize(
    ("code", "known", "words"),
    [
        (Code.CONNECTION_REFUSED, None, "nothing listens on VIP 198.51.100.7 port 80 (why)"),
        (
            Code.CONNECTION_TIMEOUT,
            None,
            "no answer from VIP 198.51.100.7: not on loopback, not taken out of IP in IP, or replies",
        ),
        (Code.CONNECTION_TIMEOUT, GONE, "the member does not take packets out of IP in IP (why)"),
        (
            Code.NO_RESPONSE,
            Heard(Trouble.FILTERED, ROUTER, MEMBER),
            "203.0.113.254 does not let IP in IP through to the member (why)",
        ),
        (
            Code.SERVER_UNREACHABLE,
            Heard(Trouble.ROUTED_ON, MEMBER),
            "VIP 198.51.100.7 not on loopback: 203.0.113.1 would route the packet on (why)",
        ),
        (Code.RESPONSE_CODE_MISMATCH, None, "why"),
    ],
)
def test_a_bad_result_has_its_cause(code: Code, known: Heard | None, words: str) -> None:
    """The code stays; what the check itself has seen stands behind the cause."""
    result = explained(Result(code, "why", 0.5), TARGET, L3, known)
    assert (result.code, result.duration_s) == (code, 0.5)
    assert result.detail.startswith(words)


def test_silence_is_good_until_icmp_says_otherwise() -> None:
    """A good result without an answer is bad when the question did not arrive; one with an answer is good."""
    silent = Result(Code.OK, "no answer and no ICMP error", answered=False)
    assert explained(silent, TARGET, L3, None) == silent
    gue = Delivery(DsrType.L3, Encapsulation.GUE)
    assert explained(silent, TARGET, gue, GONE).code is Code.SERVER_UNREACHABLE
    assert "out of GUE" in explained(silent, TARGET, gue, GONE).detail
    assert explained(Result(Code.OK), TARGET, L3, GONE) == Result(Code.OK)
    worked_on = Result(Code.MAINTENANCE_PAYLOAD_CONTENT_MATCH, "found it")
    assert explained(worked_on, TARGET, L3, GONE) == worked_on


def status(verdict: Verdict, detail: str = "", *, direct: bool = False) -> Status:
    target = replace(TARGET, way=None) if direct else TARGET
    return Status("page", target, verdict, Result(Code.NO_RESPONSE, detail) if detail else Result(Code.OK))


def test_both_vantage_points_together_say_what_is_broken() -> None:
    """Service and path are told apart as far as somebody has looked; nothing is said when the path is well."""
    broken = status(Verdict.DOWN, "no answer")
    assert finding([status(Verdict.UP, direct=True), broken, broken]) == "service up, DSR path broken: no answer"
    assert finding([status(Verdict.DOWN, "dead", direct=True), broken]) == "service down: no answer"
    assert finding([status(Verdict.UNKNOWN, direct=True), broken]) == "through the DSR path: no answer"
    assert finding([broken]) == "through the DSR path: no answer"
    assert finding([status(Verdict.DOWN, "dead", direct=True), status(Verdict.UP)]) == ""
    rising = replace(status(Verdict.DOWN), turns=(Turn(Verdict.DOWN, 0.0, Result(Code.NO_RESPONSE, "before")),))
    assert finding([rising]) == "through the DSR path: before"


def test_an_mss_that_leaves_no_room_for_the_tunnel() -> None:
    """It is compared with what the delivery leaves of the link; L2 DSR takes nothing."""
    found = segments("web/web1", VIP, 80, MEMBER, L3, hop(), 1460)
    assert (found.limit, found.too_large, found.near) == (1440, True, False)
    assert "advertises MSS 1460 for 198.51.100.7 port 80" in found.note
    assert "set advmss 1440" in found.note
    assert segments("web/web1", VIP, 80, MEMBER, L3, hop(), 1440).note == ""
    assert segments("web/web1", VIP, 80, MEMBER, L2, hop(direct=True), 1460).note == ""
    assert segments("web/web1", VIP6, 80, MEMBER, L3, hop(mtu=1400), 1400).limit == 1320
    near = segments("web/web1", VIP, 80, MEMBER, L3, hop(direct=True), 1460)
    assert "clients may see less" in near.note

"""Routers' complaints about our own packets, made by Scapy: what is read of them, and what the client is told."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.config import conf
from scapy.packet import Packet, Raw

from appliance.forwarding import NextHop, TableMember
from appliance.model import Delivery, DfPolicy, DsrType, Encapsulation, TtlPolicy
from appliance.packet.encap import decrement_hop_limit, encapsulate
from appliance.packet.headers import IpHeader, parse_ip
from appliance.packet.quotes import TooBig, answer_to_client, read_too_big

conf.ipv6_enabled = True
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP  # noqa: E402
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt  # noqa: E402

VIP = {4: "198.51.100.7", 6: "2001:db8:f::7"}
CLIENT = {4: "192.0.2.9", 6: "2001:db8:c::9"}
US = {4: "203.0.113.1", 6: "2001:db8:1::1"}
MEMBER = {4: "203.0.113.18", 6: "2001:db8:3::2"}
VIPS = frozenset(map(ip_address, VIP.values()))
ROUTER = {4: "203.0.113.77", 6: "2001:db8:7::77"}

WAYS = [(encapsulation, outer, inner) for encapsulation in Encapsulation for outer in (4, 6) for inner in (4, 6)]
EVERY_WAY = pytest.mark.parametrize(("encapsulation", "outer", "inner"), WAYS)


def member(encapsulation: Encapsulation, outer: int, path_mtu: int = 1400, **how: object) -> TableMember:
    delivery = replace(Delivery(DsrType.L3, encapsulation, TtlPolicy.ROUTER, DfPolicy.COPY_INNER, 64), **how)
    hop = NextHop(2, "eth1", bytes(6), bytes(6), 1500, ip_address(US[outer]), False)
    return TableMember(0, "web/web1", ip_address(MEMBER[outer]), delivery, hop, path_mtu)


def of_client(version: int, size: int = 1440, **more: object) -> bytes:
    """A packet of so many bytes."""
    head: Packet = (
        IP(src=CLIENT[4], dst=VIP[4], flags="DF", id=7, ttl=9, **more)
        if version == 4
        else IPv6(src=CLIENT[6], dst=VIP[6], hlim=9, **more)
    )
    head = head / TCP(sport=40000, dport=80, flags="A")
    return bytes(head / Raw(b"q" * (size - len(head))))


def outer_packet(way: TableMember, packet: bytes, *, hop: bool = True) -> bytes:
    """What the director makes of it; its TTL is one less on the way."""
    version = packet[0] >> 4
    ip = parse_ip(packet, version)
    assert isinstance(ip, IpHeader)
    inner = decrement_hop_limit(packet, version) if hop else packet
    assert way.delivery.encapsulation is not None
    made = encapsulate(way.delivery.encapsulation, inner, ip, way, 0x12345678, 7)
    return decrement_hop_limit(made, made[0] >> 4)


def complaint(version: int, quote: bytes, mtu: int = 1400) -> bytes:
    """The ICMP message of a router."""
    if version == 4:
        return bytes(IP(src=ROUTER[4], dst=US[4]) / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(quote))[20:]
    return bytes(IPv6(src=ROUTER[6], dst=US[6]) / ICMPv6PacketTooBig(mtu=mtu) / Raw(quote))[40:]


@EVERY_WAY
def test_a_whole_quote_is_read(encapsulation: Encapsulation, outer: int, inner: int) -> None:
    """Whose packet it was, how it was wrapped, and what was in it."""
    packet = of_client(inner)
    way = member(encapsulation, outer)
    whole = outer_packet(way, packet)
    found = read_too_big(complaint(outer, whole[:500]), outer)
    assert found is not None
    assert (found.mtu, found.length, found.encapsulation) == (1400, len(whole), encapsulation)
    assert (str(found.source), str(found.destination)) == (US[outer], MEMBER[outer])
    assert found.inner_version == inner
    assert found.inner == decrement_hop_limit(packet, inner)[: len(found.inner)]
    assert len(found.inner) == 500 - way.delivery.overhead(outer)


@EVERY_WAY
def test_eight_bytes_are_enough_to_know_the_way(encapsulation: Encapsulation, outer: int, inner: int) -> None:
    """Old routers quote no more; then nobody can be told, but the next packet will be answered."""
    way = member(encapsulation, outer)
    size = 20 if outer == 4 else 40
    found = read_too_big(complaint(outer, outer_packet(way, of_client(inner))[: size + 8]), outer)
    assert found is not None
    assert found.encapsulation is encapsulation
    assert answer_to_client(found, way, VIPS) is None


@EVERY_WAY
@pytest.mark.parametrize("ttl", TtlPolicy)
def test_the_client_is_told(encapsulation: Encapsulation, outer: int, inner: int, ttl: TtlPolicy) -> None:
    """From the VIP, with the largest packet that fits, quoting its packet as it has sent it."""
    packet = of_client(inner)
    way = member(encapsulation, outer, ttl=ttl)
    whole = outer_packet(way, packet, hop=ttl is TtlPolicy.ROUTER)
    found = read_too_big(complaint(outer, whole[:1200]), outer)
    assert found is not None
    made = answer_to_client(found, way, VIPS)
    assert made is not None
    answer, vip = made
    assert vip == ip_address(VIP[inner]).packed
    room = 1400 - way.delivery.overhead(outer)
    if inner == 4:
        seen = IP(answer)
        assert (seen.src, seen.dst, seen[ICMP].type, seen[ICMP].code) == (VIP[4], CLIENT[4], 3, 4)
        assert seen[ICMP].nexthopmtu == room
        assert answer[28:] == packet[: 576 - 28]
        fresh = IP(bytes(seen))
        del fresh.chksum
        del fresh[ICMP].chksum
        assert bytes(fresh) == answer
    else:
        seen = IPv6(answer)
        assert (seen.src, seen.dst, seen[ICMPv6PacketTooBig].mtu) == (VIP[6], CLIENT[6], room)
        assert answer[48:] == packet[: 1200 - way.delivery.overhead(outer)]
        fresh = IPv6(bytes(seen))
        del fresh[ICMPv6PacketTooBig].cksum
        assert bytes(fresh) == answer


def told(packet: bytes, path_mtu: int = 1400, vips: frozenset[object] = VIPS, quoted: int = 576) -> bool:
    """Whether the sender of a packet in IP in IP over IPv4 is told."""
    way = member(Encapsulation.IPIP, 4, path_mtu)
    found = read_too_big(complaint(4, outer_packet(way, packet)[:quoted]), 4)
    assert found is not None
    return answer_to_client(found, way, vips) is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [4, 6])
def test_who_is_told_and_who_is_not(version: int) -> None:
    """Only about packets to VIPs that do not fit, and only where the quote has eight bytes of L4."""
    assert told(of_client(version))
    assert not told(of_client(version, size=1380))
    assert not told(of_client(version), vips=frozenset())
    assert told(of_client(version, size=1250), path_mtu=1200) is (version == 4)
    head = 20 + (20 if version == 4 else 40)
    assert told(of_client(version), quoted=head + 8)
    assert not told(of_client(version), quoted=head + 7)


def test_a_packet_that_will_be_fragmented_is_no_news_to_its_sender() -> None:
    """With DF clear the client has nothing to do."""
    plain = IP(src=CLIENT[4], dst=VIP[4], id=7, ttl=9) / UDP(sport=1, dport=53) / Raw(bytes(1400))
    assert not told(bytes(plain))


def test_who_may_not_be_told() -> None:
    """Sources that are no host, and ICMP errors, get no errors (RFC 1122, 3.2.2)."""
    assert not told(bytes(IP(src="224.0.0.9", dst=VIP[4], flags="DF") / UDP() / Raw(bytes(1400))))
    assert not told(bytes(IP(src=CLIENT[4], dst=VIP[4], flags="DF") / ICMP(type=3, code=1) / Raw(bytes(1400))))
    assert told(bytes(IP(src=CLIENT[4], dst=VIP[4], flags="DF") / UDP() / Raw(bytes(1400))))


def test_options_and_extension_headers_of_the_inner_packet() -> None:
    """They are no obstacle, and are quoted."""
    assert told(of_client(4, options=[IPOption_NOP()] * 4))
    head = IPv6(src=CLIENT[6], dst=VIP[6], hlim=9) / IPv6ExtHdrDestOpt() / TCP(sport=1, dport=80)
    assert told(bytes(head / Raw(bytes(1400))))


def _changed(message: bytes, at: int, value: int) -> bytes:
    """The message with another byte in its quote, and a right checksum."""
    quote = bytearray(message[8:])
    quote[at] = value
    return complaint(4, bytes(quote))


@pytest.mark.parametrize(
    "change",
    [
        lambda message: bytes((message[0], 1)) + message[2:],
        lambda message: bytes((11, 0)) + message[2:],
        lambda message: message[:-1] + bytes((message[-1] ^ 1,)),
        lambda message: message[:7],
        lambda message: complaint(4, message[8:27]),
        lambda message: complaint(4, message[8:28]),
        lambda message: _changed(message, 0, 0x65),
        lambda message: _changed(message, 0, 0x46),
        lambda message: _changed(message, 7, 1),
        lambda message: _changed(message, 9, 6),
        lambda message: _changed(message, 9, 41),
        lambda message: _changed(message, 9, 47),
        lambda message: _changed(message, 9, 17),
    ],
    ids=[
        *("code", "type", "checksum", "header", "cut", "no-payload", "version", "options", "fragment", "tcp"),
        *("other-inner", "no-gre", "no-gue"),
    ],
)
def test_what_is_none(change: Callable[[bytes], bytes]) -> None:
    """Any other ICMP, damaged ones, and those about packets that directors do not send."""
    message = complaint(4, outer_packet(member(Encapsulation.IPIP, 4), of_client(4))[:200])
    assert read_too_big(message, 4) is not None
    assert read_too_big(change(message), 4) is None


def test_what_stands_behind_the_quote_is_none_of_it() -> None:
    """Routers may add what they know (RFC 4884), and say where that begins."""
    quote = outer_packet(member(Encapsulation.IPIP, 4), of_client(4))[:128]
    message = IP(dst=US[4]) / ICMP(type=3, code=4, nexthopmtu=1400, length=32) / Raw(quote + b"\x20\0\0\0and more")
    found = read_too_big(bytes(message)[20:], 4)
    assert found is not None
    assert len(found.inner) == 108


@given(st.binary(max_size=200), st.sampled_from([4, 6]))
def test_any_bytes(data: bytes, version: int) -> None:
    """Whatever is sent to a director, reading it never raises."""
    start = b"\3\4" if version == 4 else b"\2\0"
    for message in (data, start + data):
        found = read_too_big(message, version)
        assert found is None or isinstance(found, TooBig)


@given(st.sampled_from(WAYS), st.lists(st.tuples(st.integers(0, 139), st.integers(0, 255)), max_size=4), st.data())
def test_damaged_quotes(
    way: tuple[Encapsulation, int, int], changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Nor does answering to what is left of a quote."""
    encapsulation, outer, inner = way
    one = member(encapsulation, outer)
    quote = bytearray(outer_packet(one, of_client(inner))[:140])
    for at, value in changes:
        quote[at] = value
    found = read_too_big(complaint(outer, bytes(quote[: data.draw(st.integers(0, 140))])), outer)
    if found is not None:
        made = answer_to_client(found, one, VIPS)
        assert made is None or made[1] in {vip.packed for vip in VIPS}

"""ICMP errors by themselves, and the token bucket."""

import struct

import pytest

from appliance.packet.action import Reply
from appliance.packet.checksum import checksum
from appliance.packet.headers import IpHeader, parse_ip
from appliance.packet.icmp import TokenBucket, time_exceeded, too_big
from tests.unit.packet.test_headers import ipv4, ipv6

ETHER4, ETHER6 = bytes(12) + b"\x08\x00", bytes(12) + b"\x86\xdd"


def answer(ethernet: bytes, packet: bytes, version: int) -> Reply | None:
    header = parse_ip(packet, version)
    assert isinstance(header, IpHeader)
    return time_exceeded(ethernet + packet, len(ethernet), header)


@pytest.mark.parametrize("size", [8, 100, 528, 529, 1400])
def test_ipv4_errors_have_at_most_576_bytes(size: int) -> None:
    """As much as fits is quoted, and both checksums are right."""
    packet = ipv4(bytes(range(1, 9)) * (size // 8) + bytes(size % 8))
    reply = answer(ETHER4, packet, 4)
    assert reply is not None
    error = reply.frame[14:]
    assert len(error) == min(576, 28 + len(packet)) == int.from_bytes(error[2:4], "big")
    assert error[28:] == packet[: len(error) - 28]
    assert checksum(error[:20]) == 0
    assert checksum(error[20:]) == 0


@pytest.mark.parametrize("size", [20, 1192, 1193, 1400])
def test_ipv6_errors_have_at_most_1280_bytes(size: int) -> None:
    """As much as fits is quoted, and the checksum over the pseudo-header is right."""
    packet = ipv6(b"\x07" * size)
    reply = answer(ETHER6, packet, 6)
    assert reply is not None
    error = reply.frame[14:]
    assert len(error) == min(1280, 48 + len(packet))
    assert error[48:] == packet[: len(error) - 48]
    assert checksum(error[8:40] + struct.pack("!II", len(error) - 40, 58) + error[40:]) == 0


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_no_answer_to_icmp_errors(kind: int) -> None:
    """An error is never answered with an error (RFC 1122, 3.2.2)."""
    assert answer(ETHER4, ipv4(bytes((kind,)) + bytes(7), protocol=1), 4) is None


@pytest.mark.parametrize(("kind", "answered"), [(0, True), (8, True), (3, False)])
def test_echo_may_be_answered(kind: int, answered: bool) -> None:
    """ICMP that is no error may cause one."""
    assert (answer(ETHER4, ipv4(bytes((kind,)) + bytes(7), protocol=1), 4) is not None) is answered


@pytest.mark.parametrize(("kind", "answered"), [(1, False), (127, False), (128, True)])
def test_no_answer_to_icmpv6_errors(kind: int, answered: bool) -> None:
    """Types below 128 are errors (RFC 4443, 2.1)."""
    assert (answer(ETHER6, ipv6(bytes((kind,)) + bytes(7), 58), 6) is not None) is answered


def test_no_answer_to_an_icmp_packet_without_type() -> None:
    """What may have been an error is not answered."""
    assert answer(ETHER4, ipv4(protocol=1), 4) is None


def test_mtu_field() -> None:
    """IPv4 has 16 bits for the MTU (RFC 1191); IPv6 has 32 and is told no less than 1280."""
    packet4, packet6 = ipv4(bytes(20)), ipv6(bytes(20))
    header4, header6 = parse_ip(packet4, 4), parse_ip(packet6, 6)
    assert isinstance(header4, IpHeader)
    assert isinstance(header6, IpHeader)
    reply4, reply6 = too_big(ETHER4 + packet4, 14, header4, 1480), too_big(ETHER6 + packet6, 14, header6, 1000)
    assert reply4 is not None
    assert reply6 is not None
    assert struct.unpack("!BB2xHH", reply4.frame[34:42]) == (3, 4, 0, 1480)
    assert struct.unpack("!BB2xI", reply6.frame[54:62]) == (2, 0, 1280)
    assert (reply4.kind, reply6.kind) == ("icmp_too_big", "icmp_too_big")


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    """A full bucket gives as many as it holds; then one for every 1/rate seconds."""
    bucket = TokenBucket(rate=10, burst=3)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(100.05)
    assert bucket.take(100.11)
    assert not bucket.take(100.11)


def test_bucket_does_not_overflow() -> None:
    """A long pause gives no more than a burst."""
    bucket = TokenBucket(rate=10, burst=2)
    assert [bucket.take(now) for now in (0.0, 0.0, 0.0)] == [True, True, False]
    assert [bucket.take(now) for now in (1000.0, 1000.0, 1000.0)] == [True, True, False]


def test_bucket_ignores_a_clock_that_runs_back() -> None:
    """Going back in time gives no tokens, neither then nor on the way forward."""
    bucket = TokenBucket(rate=1, burst=1)
    assert bucket.take(10.0)
    assert not bucket.take(5.0)
    assert not bucket.take(10.5)
    assert bucket.take(11.1)

"""The doctor's own packets are whole, and what answers say is read, from whoever sends them."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.doctor import packets
from appliance.doctor.packets import Said, read
from appliance.packet.checksum import checksum
from appliance.packet.headers import IpHeader, parse_ip
from appliance.packet.icmp import error_packet

FOUR = ip_address("203.0.113.1"), ip_address("198.51.100.7")
SIX = ip_address("2001:db8::1"), ip_address("2001:db8:f::7")
SYN_ACK = 0x12


def header(packet: bytes) -> IpHeader:
    found = parse_ip(packet, packet[0] >> 4)
    assert isinstance(found, IpHeader)
    return found


def summed(packet: bytes) -> int:
    """Zero when the checksum of what is in the packet is right."""
    ip = header(packet)
    payload = packet[ip.l4 :]
    return checksum(ip.source + ip.destination + struct.pack("!II", len(payload), ip.protocol) + payload)


@pytest.mark.parametrize("ends", [FOUR, SIX])
@given(length=st.integers(0, 1500), port=st.integers(1, 65535))
def test_questions_are_packets_as_any_sender_makes_them(ends: tuple, length: int, port: int) -> None:
    """Lengths and checksums are right, IPv4 has "don't fragment", and a SYN has the length that was wanted."""
    source, destination = ends
    for packet in (
        packets.syn(source, destination, (4000, port), 7, 2, length),
        packets.rst(source, destination, (4000, port), 8, 2),
        packets.datagram(source, destination, (4000, port), bytes(length), 2),
    ):
        ip = header(packet)
        assert (ip.length, ip.hop_limit, ip.dont_fragment) == (len(packet), 2, True)
        assert struct.unpack_from("!HH", packet, ip.l4) == (4000, port)
        assert summed(packet) == 0
    shortest = len(packets.syn(source, destination, (4000, port), 7, 2))
    assert len(packets.syn(source, destination, (4000, port), 7, 2, length)) == max(length, shortest)


@pytest.mark.parametrize("ends", [FOUR, SIX])
def test_a_syn_ack_and_its_mss(ends: tuple) -> None:
    """The port that it is for, what it acknowledges, and the MSS behind other options."""
    ours, vip = ends
    question = packets.syn(vip, ours, (80, 4000), 1, 64)
    ip = header(question)
    options = bytes((1, 3, 3, 7)) + struct.pack("!BBH", 2, 4, 1440)
    segment = struct.pack("!HHIIBBHHH", 80, 4000, 1, 8, 7 << 4, SYN_ACK, 65535, 0, 0) + options
    answer = read(question[: ip.l4] + segment, ours.version)
    assert answer is not None
    assert (answer.said, answer.port, answer.source, answer.acknowledged, answer.mss) == (
        Said.SYN_ACK,
        4000,
        vip,
        8,
        1440,
    )


@pytest.mark.parametrize(("kind", "code"), [(3, 2), (3, 3), (3, 13), (11, 0)])
@pytest.mark.parametrize("between", [b"", struct.pack("!HH", 0, 0x0800)])
def test_errors_say_whose_question_they_quote(kind: int, code: int, between: bytes) -> None:
    """Of the inner packet, of the outer one in IP in IP or GRE, and of so little of it that the port is not there."""
    ours, vip = FOUR
    member, router = ip_address("203.0.113.2"), ip_address("203.0.113.254")
    inner = packets.syn(ours, vip, (4000, 80), 7, 1)
    protocol = 47 if between else 4
    head = (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(between + inner), 0, 0, 64, protocol, 0)
        + ours.packed
        + member.packed
    )

    def said(quote: bytes) -> packets.Answer:
        message = struct.pack("!BBHI", kind, code, 0, 0)
        answer = read(error_packet(4, router.packed, ours.packed, message, quote), 4)
        assert answer is not None
        assert answer.error is not None
        assert (answer.error.kind, answer.error.code, answer.error.sender) == (kind, code, router)
        return answer

    whole, plain, short = said(head + between + inner), said(inner), said(head + (between + inner)[:8])
    assert (whole.error.outer, whole.port, whole.member) == (True, 4000, member)  # type: ignore[union-attr]
    assert (plain.error.outer, plain.port, plain.member) == (False, 4000, None)  # type: ignore[union-attr]
    assert (short.error.outer, short.port, short.member) == (True, 0, member)  # type: ignore[union-attr]


@given(noise=st.binary(max_size=200), version=st.sampled_from([4, 6]))
def test_noise_is_no_answer_and_no_error(noise: bytes, version: int) -> None:
    """Whoever sends to a director's own address does not end the doctor."""
    read(noise, version)
    whole = packets.syn(*(FOUR if version == 4 else SIX), (1, 2), 3, 4)
    for at in range(0, len(whole), 7):
        read(whole[:at] + noise[:5] + whole[at + 5 :], version)
    read(error_packet(4, FOUR[1].packed, FOUR[0].packed, struct.pack("!BBHI", 3, 3, 0, 0), noise), 4)

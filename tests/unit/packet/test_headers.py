"""Header parsing by itself; the vectors show it in its place."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.packet.action import Reason
from appliance.packet.checksum import checksum
from appliance.packet.headers import (
    Ethernet,
    IpHeader,
    Part,
    destination,
    is_extension,
    parse_ethernet,
    parse_ip,
    parse_ports,
)

MACS = bytes(12)


def ipv4(payload: bytes = b"", *, options: bytes = b"", flags: int = 0, protocol: int = 6, tos: int = 0) -> bytes:
    head = struct.pack(
        "!BBHHHBBH", 0x45 + len(options) // 4, tos, 20 + len(options) + len(payload), 1, flags, 9, protocol, 0
    )
    head += bytes((192, 0, 2, 1, 198, 51, 100, 7)) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(payload: bytes, next_header: int = 6) -> bytes:
    return struct.pack("!IHBB", 0x6B900000, len(payload), next_header, 9) + bytes(range(32)) + payload


@pytest.mark.parametrize(
    ("tags", "length"),
    [("", 14), ("81000064", 18), ("88a8000181000002", 22), ("8100000188a80002", 22)],
)
def test_tags_are_walked_over(tags: str, length: int) -> None:
    """The IP header begins behind up to two tags."""
    assert parse_ethernet(MACS + bytes.fromhex(tags + "0800") + bytes(20)) == Ethernet(length, 4)
    assert parse_ethernet(MACS + bytes.fromhex(tags + "86dd") + bytes(40)) == Ethernet(length, 6)


@pytest.mark.parametrize("rest", ["", "08", "0806", "8100", "81000064", "8100006408", "81000001" * 3 + "0800", "002e"])
def test_what_is_not_ip(rest: str) -> None:
    """Other types, cut types and three tags are not IP."""
    assert parse_ethernet(MACS + bytes.fromhex(rest)) is Reason.NOT_IP


def test_ipv4_fields() -> None:
    """What is read of an IPv4 header is what stands in it."""
    packet = ipv4(bytes(24), options=b"\x01" * 8, flags=0x4000, protocol=17, tos=0xB9)
    assert parse_ip(packet + b"padding", 4) == IpHeader(
        version=4,
        length=52,
        source=bytes((192, 0, 2, 1)),
        destination=bytes((198, 51, 100, 7)),
        traffic_class=0xB9,
        hop_limit=9,
        dont_fragment=True,
        part=Part.WHOLE,
        protocol=17,
        l4=28,
        ident=1,
    )


def test_ipv6_fields() -> None:
    """What is read of an IPv6 header is what stands in it, and it never is to be fragmented."""
    assert parse_ip(ipv6(bytes(20)) + b"padding", 6) == IpHeader(
        version=6,
        length=60,
        source=bytes(range(16)),
        destination=bytes(range(16, 32)),
        traffic_class=0xB9,
        hop_limit=9,
        dont_fragment=True,
        part=Part.WHOLE,
        protocol=6,
        l4=40,
    )


@pytest.mark.parametrize(
    ("flags", "part"),
    [(0, Part.WHOLE), (0x4000, Part.WHOLE), (0x2000, Part.FIRST), (0x2001, Part.LATER), (1, Part.LATER)],
)
def test_ipv4_parts(flags: int, part: Part) -> None:
    """Offset and more-fragments tell what of a packet it is."""
    header = parse_ip(ipv4(bytes(20), flags=flags), 4)
    assert isinstance(header, IpHeader)
    assert header.part is part


@pytest.mark.parametrize(
    ("position", "part"), [(0, Part.WHOLE), (1, Part.FIRST), (8, Part.LATER), (9, Part.LATER), (6, Part.WHOLE)]
)
def test_ipv6_parts(position: int, part: Part) -> None:
    """Offset and M tell what of a packet it is; reserved bits do not."""
    fragment = bytes((6, 0)) + position.to_bytes(2, "big") + b"\1\2\3\4"
    header = parse_ip(ipv6(fragment + bytes(20), 44), 6)
    assert isinstance(header, IpHeader)
    assert (header.part, header.l4, header.protocol, header.ident) == (part, 48, 6, 0x01020304)


@pytest.mark.parametrize("cut", range(20))
def test_cut_ipv4_headers(cut: int) -> None:
    """A header that is not there whole is malformed."""
    assert parse_ip(ipv4()[:cut], 4) is Reason.MALFORMED


@pytest.mark.parametrize("cut", range(40))
def test_cut_ipv6_headers(cut: int) -> None:
    """A header that is not there whole is malformed."""
    assert parse_ip(ipv6(b"")[:cut], 6) is Reason.MALFORMED


def test_destination_is_read_unchecked() -> None:
    """The destination can be asked of anything, and is short when cut off."""
    assert destination(b"", 4) == b""
    assert destination(ipv4(), 4) == bytes((198, 51, 100, 7))
    assert destination(ipv6(b""), 6) == bytes(range(16, 32))


def test_authentication_header_counts_in_words_of_four() -> None:
    """Its length field has another unit than that of all others (RFC 4302)."""
    header = parse_ip(ipv6(bytes((6, 4)) + bytes(22) + bytes(20), 51), 6)
    assert isinstance(header, IpHeader)
    assert header.l4 == 40 + 24


def test_extension_numbers() -> None:
    """TCP, UDP, ICMPv6 and no next header are no extension headers."""
    assert [number for number in range(256) if is_extension(number)] == [0, 43, 44, 51, 60, 135, 139, 140, 253, 254]


@st.composite
def nearly_headers(draw: st.DrawFn) -> bytes:
    """A header that is sound, and anything behind it; cut somewhere, or with one byte that is another."""
    payload, number = draw(st.binary(max_size=120)), draw(st.sampled_from([0, 6, 17, 43, 44, 51, 58, 59, 60, 135]))
    if draw(st.booleans()):
        options = draw(st.binary(max_size=40).filter(lambda some: len(some) % 4 == 0))
        packet = ipv4(payload, options=options, flags=draw(st.integers(0, 0xFFFF)), protocol=number)
    else:
        packet = ipv6(payload, number)
    match draw(st.sampled_from(["whole", "cut", "damaged"])):
        case "cut":
            return packet[: draw(st.integers(0, len(packet)))]
        case "damaged":
            at = draw(st.integers(0, len(packet) - 1))
            return packet[:at] + draw(st.binary(min_size=1, max_size=1)) + packet[at + 1 :]
    return packet + draw(st.binary(max_size=20))


@given(st.binary(max_size=200) | nearly_headers(), st.sampled_from([4, 6]))
@settings(deadline=None)
def test_any_bytes_are_a_header_or_a_reason(packet: bytes, version: int) -> None:
    """Parsing never raises, and what it accepts lies within the packet."""
    parse_ethernet(packet)
    header = parse_ip(packet, version)
    if isinstance(header, IpHeader):
        assert header.l4 <= header.length <= len(packet)
        if header.part is not Part.LATER and header.protocol in (6, 17):
            parse_ports(packet[: header.length], header)


@given(st.integers(0, 255), st.binary(max_size=120))
@settings(deadline=None)
def test_any_extension_chain_is_a_header_or_a_reason(first: int, payload: bytes) -> None:
    """The walk over extension headers ends, inside the packet."""
    header = parse_ip(ipv6(payload, first), 6)
    if isinstance(header, IpHeader):
        assert 40 <= header.l4 <= header.length == 40 + len(payload)

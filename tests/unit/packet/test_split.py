"""Fragments of IPv4 packets, put together again by rules written down a second time."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.packet.checksum import checksum
from appliance.packet.split import SMALLEST, split
from tests.unit.packet.test_forward import assert_split

ADDRESSES = ip_address("192.0.2.7").packed + ip_address("198.51.100.7").packed


def packet(data: bytes, options: bytes = b"", fragmentation: int = 0) -> bytes:
    """With options of a multiple of four bytes."""
    head = bytes((0x45 + len(options) // 4, 0)) + (20 + len(options) + len(data)).to_bytes(2, "big") + b"\x12\x34"
    head += fragmentation.to_bytes(2, "big") + b"\x40\x11\0\0" + ADDRESSES + options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + data


@given(
    st.binary(min_size=1, max_size=3000),
    st.integers(SMALLEST, 1500),
    st.integers(0, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words)),
    st.sampled_from([0, 0x2000, 0x2010, 0x0020]),
)
def test_pieces_fit_and_make_up_the_whole(data: bytes, mtu: int, options: bytes, fragmentation: int) -> None:
    """Whatever the options are, every piece fits, and together they are the packet's data, each byte once."""
    if fragmentation & 0x2000:
        data += bytes(-len(data) % 8)
    whole = packet(data, options, fragmentation)
    pieces = split(whole, mtu)
    assert all(len(piece) <= mtu for piece in pieces)
    if len(whole) <= mtu:
        assert pieces == [whole]
        return
    assert_split(whole, pieces)
    assert pieces[0][20 : 20 + len(options)] == options
    assert all(len(piece) > (piece[0] & 15) * 4 for piece in pieces)


@pytest.mark.parametrize(
    ("options", "later"),
    [
        (b"\x83\x07\x04" + bytes(4) + b"\x00", b"\x83\x07\x04" + bytes(5)),
        (b"\x07\x07\x04" + bytes(4) + b"\x00", b""),
        (b"\x01\x01\x94\x04\x00\x00\x01\x01", b"\x94\x04\x00\x00"),
        (b"\x00\x94\x04\x00\x00\x00\x00\x00", b""),
        (b"\x94\x00\x00\x00", b""),
        (b"\x94\x09\x00\x00", b""),
        (b"\x01\x01\x01\x94", b""),
    ],
    ids=["copied", "not-copied", "between", "behind-the-end", "no-length", "too-long", "cut"],
)
def test_options_of_later_pieces(options: bytes, later: bytes) -> None:
    """Those with the copied flag are in every piece; nonsense and what follows it is in the first only."""
    for piece in split(packet(bytes(300), options), 100)[1:]:
        assert piece[20 : (piece[0] & 15) * 4] == later

"""The Internet checksum against the examples of its RFCs and against adding word by word."""

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.packet.checksum import checksum, update


def by_words(data: bytes) -> int:
    """RFC 1071, section 4.1, as it stands there."""
    data += b"\0" * (len(data) % 2)
    total = 0
    for i in range(0, len(data), 2):
        total += data[i] << 8 | data[i + 1]
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def test_rfc_1071_example() -> None:
    """The numerical example of RFC 1071, section 3: the sum is ddf2."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF


def test_rfc_1624_example() -> None:
    """The example of RFC 1624, section 4, where the older formula gives -0 instead of 0."""
    assert update(0xDD2F, 0x5555, 0x3285) == 0x0000


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_equals_adding_word_by_word(data: bytes) -> None:
    """The remainder of one large number is the folded sum, also for zeros, nothing and odd lengths."""
    assert checksum(data) == by_words(data)


def test_ends_of_the_range() -> None:
    """Zeros sum to 0, all ones to minus zero."""
    assert checksum(b"") == 0xFFFF
    assert checksum(bytes(8)) == 0xFFFF
    assert checksum(b"\xff" * 8) == 0


@given(st.binary(min_size=20, max_size=60).filter(lambda data: len(data) % 2 == 0))
@settings(deadline=None)
def test_data_with_its_checksum_sums_to_zero(data: bytes) -> None:
    """What a receiver computes over a good header is 0."""
    assert checksum(data + checksum(data).to_bytes(2, "big")) == 0


@given(st.binary(min_size=16, max_size=16), st.integers(0, 0xFFFF))
@settings(deadline=None)
def test_update_equals_a_new_computation(rest: bytes, new: int) -> None:
    """Incrementally changed and computed anew are the same wherever anything but zeros is summed."""
    rest = b"\x45\x00" + rest
    old = int.from_bytes(rest[8:10], "big")
    changed = rest[:8] + new.to_bytes(2, "big") + rest[10:]
    assert update(checksum(rest), old, new) == checksum(changed)

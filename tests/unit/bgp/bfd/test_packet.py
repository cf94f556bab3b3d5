"""The codec: what is written is what is read, and what is malformed is refused with its reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.bfd import BFD

from bgp.bfd.packet import LENGTH, Diag, Packet, Refusal, RefusedError, State, decode, diag_name, encode

WORD = st.integers(0, 2**32 - 1)
PLAIN = Packet(State.UP, 7, 9, 3, 50_000, 60_000)


def packets():
    flags = st.booleans()
    return st.builds(
        Packet,
        state=st.sampled_from(State),
        my_discriminator=st.integers(1, 2**32 - 1),
        your_discriminator=st.integers(1, 2**32 - 1),
        multiplier=st.integers(1, 255),
        desired_min_tx_us=WORD,
        required_min_rx_us=WORD,
        diag=st.integers(0, 31),
        poll=flags,
        final=flags,
        independent=flags,
        demand=flags,
        required_min_echo_rx_us=WORD,
    )


@given(packets(), st.binary(max_size=8))
def test_what_is_written_is_read(packet, trailer):
    """Also with bytes behind it that are not its own."""
    assert decode(encode(packet) + trailer) == packet


@given(packets())
def test_an_independent_codec_agrees(packet):
    """Scapy finds every field where we have put it."""
    other = BFD(encode(packet))
    assert (other.version, other.diag, other.sta, other.detect_mult, other.len) == (
        1,
        packet.diag,
        packet.state,
        packet.multiplier,
        LENGTH,
    )
    assert (other.my_discriminator, other.your_discriminator) == (packet.my_discriminator, packet.your_discriminator)
    assert (other.min_tx_interval, other.min_rx_interval) == (packet.desired_min_tx_us, packet.required_min_rx_us)
    assert other.echo_rx_interval == packet.required_min_echo_rx_us
    flags = {"P": packet.poll, "F": packet.final, "C": packet.independent, "D": packet.demand, "A": False, "M": False}
    assert {flag for flag, is_set in flags.items() if is_set} == set(str(other.flags))


def changed(offset, value, size=LENGTH):
    data = bytearray(encode(PLAIN).ljust(size, b"\0"))
    data[offset] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Refusal.SHORT),
        (encode(PLAIN)[:-1], Refusal.SHORT),
        (changed(0, 0x00), Refusal.VERSION),
        (changed(0, 0x40), Refusal.VERSION),
        (changed(3, LENGTH - 1), Refusal.LENGTH),
        (changed(3, LENGTH + 1), Refusal.LENGTH),
        (changed(1, 0xC4), Refusal.LENGTH),  # authenticated, and no room for it
        (changed(2, 0), Refusal.MULTIPLIER),
        (changed(1, 0xC1), Refusal.MULTIPOINT),
        (encode(replace(PLAIN, my_discriminator=0)), Refusal.MY_DISCRIMINATOR),
        (encode(replace(PLAIN, your_discriminator=0)), Refusal.YOUR_DISCRIMINATOR),
        (encode(replace(PLAIN, your_discriminator=0, state=State.INIT)), Refusal.YOUR_DISCRIMINATOR),
        (encode(PLAIN)[:1] + b"\xc4\x03\x1c" + encode(PLAIN)[4:] + b"\x01\x04\x01x", Refusal.AUTHENTICATION),
    ],
)
def test_malformed_packets_are_refused(data, reason):
    """Each check of RFC 5880, section 6.8.6, has its own reason."""
    with pytest.raises(RefusedError) as caught:
        decode(data)
    assert caught.value.reason is reason


@pytest.mark.parametrize("state", [State.DOWN, State.ADMIN_DOWN])
def test_who_is_down_need_not_know_our_discriminator(state):
    """That is how sessions begin."""
    assert decode(encode(replace(PLAIN, your_discriminator=0, state=state))).state is state


@st.composite
def damaged(draw):
    """A packet of which up to two bytes are others."""
    data = bytearray(encode(draw(packets())) + draw(st.binary(max_size=8)))
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@given(st.binary(max_size=64) | damaged())
def test_any_bytes_are_a_packet_or_refused(data):
    """Nothing else comes out, whatever comes in; and what is taken can be written again."""
    try:
        packet = decode(data)
    except RefusedError:
        return
    assert decode(encode(packet)) == packet


def test_every_diagnostic_code_has_a_word():
    """Reserved ones, too."""
    assert diag_name(Diag.TIME_EXPIRED) == "time_expired"
    assert diag_name(31) == "code_31"
    assert len({diag_name(code) for code in range(32)}) == 32

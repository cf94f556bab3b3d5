"""Prefixes, rates and martians, each against another way to say the same."""

from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from appliance.model import IPNetwork, Protection, Rate
from appliance.packet.protection import SLACK_NS, Guard, boundaries, charged, is_exhausted, is_martian

SECOND = 1_000_000_000


def network(bits: int, number: int, length: int) -> IPNetwork:
    kind = IPv4Network if bits == 32 else IPv6Network
    return kind((number >> bits - length << bits - length if length else 0, length))


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, list[IPNetwork], list[IPNetwork], list[int]]:
    """Prefixes of one family that mostly lie within each other, and addresses at their edges."""
    bits = draw(st.sampled_from((32, 128)))
    centre = draw(st.integers(0, (1 << bits) - 1))
    near = st.integers(0, bits - 1).map(lambda bit: centre ^ 1 << bit)
    numbers = st.one_of(st.just(centre), near, st.sampled_from((0, (1 << bits) - 1)))
    some = draw(st.lists(st.builds(network, st.just(bits), numbers, st.integers(0, bits)), unique=True, max_size=12))
    split = draw(st.integers(0, len(some)))
    edges = [edge for net in some for edge in (int(net.network_address), int(net.broadcast_address))]
    asked = {edge + step for edge in edges for step in (-1, 0, 1)} | {centre}
    return bits, some[:split], some[split:], sorted(one for one in asked if 0 <= one < 1 << bits)


@given(cases())
def test_the_longest_prefix_decides(case: tuple[int, list[IPNetwork], list[IPNetwork], list[int]]) -> None:
    """An address is denied exactly when the longest of all prefixes that hold it denies it; boundaries ascend."""
    bits, deny, allow, asked = case
    vip = bytes(bits // 8)
    guard = Guard(Protection(tuple(deny), tuple(allow)), "web", vip, (None, None, None))
    assert list(guard.boundaries) == sorted(set(guard.boundaries))
    assert boundaries(deny, allow, 6 if bits == 32 else 4) == ()
    for number in asked:
        address = (IPv4Address if bits == 32 else IPv6Address)(number)
        holding = [
            (net.prefixlen, denied) for nets, denied in ((deny, 1), (allow, 0)) for net in nets if address in net
        ]
        assert guard.denies(address.packed) == bool(holding and max(holding)[1])


@given(
    st.integers(1, 1000),
    st.integers(1, 20),
    st.lists(st.integers(0, 3 * SECOND), max_size=60),
    st.integers(0, 1 << 60),
)
def test_a_meter_is_a_bucket(per_s: int, burst: int, pauses: list[int], begin: int) -> None:
    """Connections are taken exactly when a bucket of tokens, filled as time goes on, has a whole one left."""
    rate = Rate(per_s, burst)
    due, now, tokens = 0, begin + 10 * SECOND, Fraction(burst)
    for pause in pauses:
        now += pause
        tokens = min(Fraction(burst), tokens + Fraction(pause, rate.interval_ns))
        refused = is_exhausted(due, now, rate)
        assert refused == (tokens < 1)
        if not refused:
            due, tokens = charged(due, now, rate), tokens - 1


def test_what_a_slower_limit_has_left_behind_is_over() -> None:
    """After a reload nobody waits for longer than the new limit's own time, and a second for clocks."""
    slow, quick = Rate(0.001, 100), Rate(1000, 10)
    now = 10**15
    due = now
    for _ in range(100):
        due = charged(due, now, slow)
    assert is_exhausted(due, now, slow)
    assert not is_exhausted(due, now, quick)
    assert charged(due, now, quick) == now + quick.interval_ns
    longest = now + quick.tolerance_ns + quick.interval_ns + SLACK_NS
    assert is_exhausted(longest, now, quick)
    assert not is_exhausted(longest + 1, now, quick)


@given(st.one_of(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 255).map(lambda n: IPv4Address(n << 24))))
def test_martians_of_ipv4(source: IPv4Address) -> None:
    """Those that the standard library calls loopback, multicast, reserved or of "this network", and no others."""
    known = source.is_loopback or source.is_multicast or source.is_reserved or source in IPv4Network("0.0.0.0/8")
    assert is_martian(source.packed, IPv4Address("198.51.100.7").packed) == known
    assert is_martian(source.packed, source.packed)


@given(st.one_of(st.integers(0, 2**128 - 1), st.integers(0, 2**50), st.integers(0xFF << 120, 2**128 - 1)))
def test_martians_of_ipv6(number: int) -> None:
    """Multicast, and all with 80 zero bits in front: unspecified, loopback, IPv4 in IPv6 clothes."""
    source = IPv6Address(number)
    known = source.is_multicast or number < 1 << 48
    assert is_martian(source.packed, IPv6Address("2001:db8:f::7").packed) == known
    assert is_martian(source.packed, source.packed)

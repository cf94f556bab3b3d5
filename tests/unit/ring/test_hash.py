"""The flow hash: published values, scalar against vector, uniformity, what each mode leaves out."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.forwarding import SLOTS
from appliance.model import HashMode, IPAddress
from appliance.ring.hash import (
    KEYS,
    FlowKey,
    derive_keys,
    hash_columns,
    hash_flow,
    hash_words,
    slot_of,
    words,
)
from tests.vectors_io import hash_vectors

SECRET = bytes(range(16))
ports = st.integers(0, 0xFFFF)


@st.composite
def flows(draw: st.DrawFn) -> FlowKey:
    address = draw(st.sampled_from([st.ip_addresses(v=4), st.ip_addresses(v=6)]))
    return FlowKey(draw(address), draw(address), draw(st.integers(0, 255)), draw(ports), draw(ports))


@pytest.mark.parametrize("vector", hash_vectors(), ids=lambda v: f"{v.key.source}-{v.key.source_port}-{v.mode}")
def test_published_values(vector: object) -> None:
    """Words, hash and slot of every published flow are as published."""
    keys = derive_keys(vector.secret)
    assert words(vector.key, vector.mode) == vector.words
    assert hash_flow(keys, vector.key, vector.mode) == vector.hash32
    assert slot_of(vector.hash32, SLOTS) == vector.slot


@given(st.lists(flows(), min_size=1, max_size=20), st.sampled_from(HashMode), st.binary(min_size=16, max_size=40))
@settings(deadline=None)
def test_vector_equals_scalar(keys: list[FlowKey], mode: HashMode, secret: bytes) -> None:
    """NumPy columns and plain Python agree on every flow."""
    secret_keys = derive_keys(secret)
    for width in (4, 10):
        rows = [words(key, mode) for key in keys if len(words(key, mode)) == width]
        if rows:
            columns = list(np.array(rows, np.uint32).T)
            assert hash_columns(secret_keys, columns).tolist() == [hash_words(secret_keys, row) for row in rows]


@given(flows(), flows(), ports)
@settings(deadline=None)
def test_a_mode_does_not_see_what_it_leaves_out(key: FlowKey, other: FlowKey, port: int) -> None:
    """source_ip sees the source address only; source_ip_port that and the source port."""
    keys = derive_keys(SECRET)
    if key.source.version != other.source.version:
        return
    changed = FlowKey(key.source, other.destination, other.protocol, port, other.destination_port)
    same_port = FlowKey(key.source, other.destination, other.protocol, key.source_port, other.destination_port)
    assert hash_flow(keys, key, HashMode.SOURCE_IP) == hash_flow(keys, changed, HashMode.SOURCE_IP)
    assert hash_flow(keys, key, HashMode.SOURCE_IP_PORT) == hash_flow(keys, same_port, HashMode.SOURCE_IP_PORT)


@pytest.mark.parametrize("part", ["source", "destination", "protocol", "source_port", "destination_port"])
def test_five_tuple_sees_every_part(part: str) -> None:
    """Changing any one part of the flow key changes the five_tuple hash."""
    parts = {
        "source": ip_address("203.0.113.9"),
        "destination": ip_address("198.51.100.7"),
        "protocol": 6,
        "source_port": 40000,
        "destination_port": 80,
    }
    other = parts | {part: parts[part] + 1}  # type: ignore[operator]
    keys = derive_keys(SECRET)
    assert hash_flow(keys, FlowKey(**parts), HashMode.FIVE_TUPLE) != hash_flow(
        keys, FlowKey(**other), HashMode.FIVE_TUPLE
    )


@given(st.integers(0, 0xFFFFFFFF), st.integers(1, 1 << 17))
@settings(deadline=None)
def test_slot_is_in_range(hash32: int, size: int) -> None:
    """Every hash has a slot, whatever the size of the table."""
    assert 0 <= slot_of(hash32, size) < size


def test_secrets_differ() -> None:
    """Another secret is another hash, and all keys of one are different."""
    first, second = derive_keys(SECRET), derive_keys(SECRET[::-1])
    assert len({*first, *second}) == 2 * KEYS


def test_short_secret_is_refused() -> None:
    """A secret of less than 128 bits is an error that says so."""
    with pytest.raises(ValueError, match="at least 16 bytes, this one has 15"):
        derive_keys(bytes(15))


def _columns(
    sources: list[IPAddress], mode: HashMode, source_ports: list[int], destination: IPAddress
) -> list[np.ndarray]:
    rows = [
        words(FlowKey(source, destination, 6, port, 80), mode)
        for source, port in zip(sources, source_ports, strict=True)
    ]
    return list(np.array(rows, np.uint32).T)


V4, V6 = IPv4Address("198.51.100.7"), IPv6Address("2001:db8:f::7")
N = 20000
INPUTS: dict[str, tuple[list[IPAddress], list[int], IPAddress, tuple[HashMode, ...]]] = {
    "one client, sequential ports": (
        [IPv4Address("203.0.113.9")] * N,
        list(range(1024, 1024 + N)),
        V4,
        (HashMode.SOURCE_IP_PORT, HashMode.FIVE_TUPLE),
    ),
    "one IPv6 client, every second port": (
        [IPv6Address("2001:db8:c::9")] * N,
        list(range(1024, 1024 + 2 * N, 2)),
        V6,
        (HashMode.SOURCE_IP_PORT, HashMode.FIVE_TUPLE),
    ),
    "sequential IPv4 sources": (
        [IPv4Address(0x0A000000 + i) for i in range(N)],
        [40000] * N,
        V4,
        tuple(HashMode),
    ),
    "IPv4 sources, one per /24": (
        [IPv4Address(0x0A000001 + (i << 8)) for i in range(N)],
        [40000] * N,
        V4,
        tuple(HashMode),
    ),
    "sequential IPv6 sources": (
        [IPv6Address((0x20010DB8 << 96) + i) for i in range(N)],
        [40000] * N,
        V6,
        tuple(HashMode),
    ),
    "IPv6 sources, one per /64": (
        [IPv6Address((0x20010DB8 << 96) + (i << 64) + 1) for i in range(N)],
        [40000] * N,
        V6,
        tuple(HashMode),
    ),
    "address and port rise together": (
        [IPv4Address(0x0A000000 + i) for i in range(N)],
        [1024 + i for i in range(N)],
        V4,
        (HashMode.SOURCE_IP_PORT, HashMode.FIVE_TUPLE),
    ),
    "random": (
        [IPv4Address(int(i)) for i in np.random.default_rng(1).integers(0, 1 << 32, N)],
        np.random.default_rng(2).integers(0, 1 << 16, N).tolist(),
        V4,
        tuple(HashMode),
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_uniform_over_slots(name: str) -> None:
    """With any secret, structured inputs are spread over slots like random ones (chi-squared, 256 bins)."""
    sources, source_ports, destination, modes = INPUTS[name]
    bins, secrets = 256, 20
    for mode in modes:
        columns = _columns(sources, mode, source_ports, destination)
        statistics = []
        for number in range(secrets):
            hashes = hash_columns(derive_keys(number.to_bytes(16, "big")), columns)
            slots = (hashes * np.uint64(SLOTS)) >> np.uint64(32)
            counts = np.bincount((slots * np.uint64(bins) // np.uint64(SLOTS)).astype(np.int64), minlength=bins)
            expected = N / bins
            statistics.append(float(((counts - expected) ** 2 / expected).sum()))
        # Chi-squared with 255 degrees of freedom has mean 255 and standard deviation 22.6. A regular input may be
        # spread more evenly than a random one, but not less.
        assert np.mean(statistics) < 255 + 4 * 22.6 / secrets**0.5, (mode, statistics)
        assert max(statistics) < 255 + 6 * 22.6, (mode, statistics)


@pytest.mark.parametrize("bit", range(0, 32, 5))
def test_slots_do_not_follow_low_bits(bit: int) -> None:
    """Two flows that differ in one bit of the source address meet in a slot as seldom as any two."""
    sources = [IPv4Address(0x0A000000 + i) for i in range(1000)]
    neighbours = [IPv4Address(int(source) ^ 1 << bit) for source in sources]
    keys = derive_keys(SECRET)
    first = hash_columns(keys, _columns(sources, HashMode.SOURCE_IP, [0] * 1000, V4))
    second = hash_columns(keys, _columns(neighbours, HashMode.SOURCE_IP, [0] * 1000, V4))
    assert np.count_nonzero(first * np.uint64(SLOTS) >> np.uint64(32) == second * np.uint64(SLOTS) >> np.uint64(32)) < 5

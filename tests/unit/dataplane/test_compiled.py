"""Lookup, hash and loop addresses of compiled tables against their readable counterparts."""

import random
import struct
from dataclasses import replace
from ipaddress import IPv6Address, ip_address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.dataplane.raw.compiled import (
    NO_SERVICE,
    NOT_VIP,
    Addresses,
    Compiled,
    Keys,
    Lookup,
    LoopMacs,
)
from appliance.dataplane.raw.vector import hash_columns, masked_ports, pin_hash_columns
from appliance.forwarding import NO_MEMBER, ForwardingTables, Placement, TableService
from appliance.model import HashMode, PortRange, Protocol
from appliance.ring.hash import MASKS, FlowKey, derive_pin_keys, hash_flow, pin_hash, words
from appliance.ring.slots import pack
from tests.unit.dataplane.frames import INGRESS, VIPS, cycle, random_tables

PORTS = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda pair: PortRange(min(pair), max(pair)))
SERVICES = st.lists(
    st.tuples(st.sampled_from(VIPS[:3]), st.sampled_from(Protocol), st.lists(PORTS, min_size=1, max_size=4)),
    min_size=1,
    max_size=12,
)
SLOTS = cycle(1, size=251)


@given(SERVICES, st.integers(0, 1 << 32))
def test_lookup_finds_what_the_tables_find(described: list, seed: int) -> None:
    """Exact beats range beats wildcard, for every destination, alone and in a crowd."""
    services = tuple(
        TableService(number, f"s{number}", ip_address(vip), protocol, tuple(ports), HashMode.SOURCE_IP, SLOTS)
        for number, (vip, protocol, ports) in enumerate(described)
    )
    tables = ForwardingTables(bytes(16), services)
    words = {vip.packed: int.from_bytes(vip.packed, "little") for vip in tables.vips_v4}
    lookup = Lookup(services, words)
    rnd = random.Random(seed)
    edges = sorted({edge for s in services for p in s.ports for edge in (p.first - 1, p.first, p.last, p.last + 1)})
    asked = [
        (rnd.choice((*tables.vips_v4, ip_address("192.0.2.99"))), rnd.choice((6, 17, 1)), rnd.choice(edges) & 0xFFFF)
        for _ in range(40)
    ]
    keys = np.array([int.from_bytes(v.packed, "little") << 32 | p << 16 | port for v, p, port in asked], np.uint64)
    wanted = []
    for vip, protocol, port in asked:
        found = tables.find(vip, protocol, port)
        wanted.append(found.index if found else NO_SERVICE if vip in tables.vips else NOT_VIP)
    assert [lookup.find(keys[i : i + 1]) for i in range(len(keys))] == wanted
    crowd = lookup.find(keys)
    assert (crowd.tolist() if not isinstance(crowd, int) else [crowd] * len(keys)) == wanted


@given(st.binary(min_size=16, max_size=32), st.lists(st.binary(min_size=37, max_size=37), min_size=1, max_size=9))
def test_hash_is_the_one_of_the_ring(secret: bytes, raw: list[bytes]) -> None:
    """Every mode, both families: the same 32 bits as ring.hash."""
    keys = Keys(secret)
    for size in (4, 16):
        for mode in HashMode:
            flows = [
                FlowKey(ip_address(b[:size]), ip_address(b[16 : 16 + size]), b[36], *struct.unpack("!HH", b[32:36]))
                for b in raw
            ]
            columns = list(np.array([words(flow, mode) for flow in flows], np.uint64).T)
            wanted = [hash_flow(keys.numbers, flow, mode) for flow in flows]
            assert hash_columns(keys, columns).tolist() == wanted
            ports = np.array([struct.unpack("<I", b[32:36])[0] for b in raw], np.uint64)
            masked = masked_ports(ports, MASKS[mode].ports)
            assert (
                hash_columns(keys, [*columns[:-2], masked, columns[-1] if MASKS[mode].protocol else 0]).tolist()
                == wanted
            )


@given(st.binary(min_size=16, max_size=32), st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=9))
def test_hash_takes_numbers_for_what_is_the_same_for_all(secret: bytes, raw: list[bytes]) -> None:
    """Every mode, both families: destination and protocol of one service as numbers give the same hash as columns."""
    keys = Keys(secret)
    for size, vip in ((4, "198.51.100.7"), (16, "2001:db8:f::7")):
        for mode in HashMode:
            flows = [FlowKey(ip_address(b[:size]), ip_address(vip), 6, *struct.unpack("!HH", b[16:])) for b in raw]
            columns = np.array([words(flow, mode) for flow in flows], np.uint64).T
            half, numbers = size // 4, columns[:, 0].tolist()
            ports = columns[-2] if MASKS[mode].ports else 0
            got = hash_columns(keys, [*columns[:half], *numbers[half:-2], ports, numbers[-1]])
            assert got.tolist() == [hash_flow(keys.numbers, flow, mode) for flow in flows]


@given(st.binary(min_size=16, max_size=32), st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=9))
def test_pins_are_found_by_the_hash_of_the_ring(secret: bytes, raw: list[bytes]) -> None:
    """Both families, with destination and protocol as columns or as numbers: the same 64 bits as ring.hash."""
    keys = Keys(secret, derive_pin_keys)
    for size, vip in ((4, "198.51.100.7"), (16, "2001:db8:f::7")):
        flows = [FlowKey(ip_address(b[:size]), ip_address(vip), 6, *struct.unpack("!HH", b[16:])) for b in raw]
        columns = np.array([words(flow, HashMode.FIVE_TUPLE) for flow in flows], np.uint64).T
        wanted = [pin_hash(keys.numbers, words(flow, HashMode.FIVE_TUPLE)) for flow in flows]
        half, numbers = size // 4, columns[:, 0].tolist()
        assert pin_hash_columns(keys, list(columns)).tolist() == wanted
        numbered = [*columns[:half], *numbers[half:-2], columns[-2], numbers[-1]]
        assert pin_hash_columns(keys, numbered).tolist() == wanted


@given(
    st.lists(st.ip_addresses(v=6), min_size=1, max_size=20, unique=True), st.lists(st.ip_addresses(v=6), max_size=20)
)
def test_ipv6_addresses_are_found_exactly(known: list[IPv6Address], others: list[IPv6Address]) -> None:
    """Positions of those that are there, and `unknown` for all others, alone and in a crowd."""
    addresses = Addresses([address.packed for address in known])
    asked = [*known, *others]
    words = np.array([struct.unpack("<4I", address.packed) for address in asked], np.uint64).T
    wanted = [known.index(address) if address in known else len(known) for address in asked]
    assert addresses.positions(words).tolist() == wanted
    for i in range(len(asked)):
        assert addresses.positions(words[:, i : i + 1]).tolist() == [wanted[i]]


def test_ipv6_addresses_that_collide_are_told_apart() -> None:
    """The 64-bit mixture that finds addresses quickly may be the same for two of them."""
    multiplier = 0x9E3779B97F4A7C15
    low = 5
    high = (low * multiplier) & 0xFFFFFFFFFFFFFFFF
    colliding = [bytes(16), struct.pack("<QQ", high, low)]
    addresses = Addresses(colliding)
    words = np.array([struct.unpack("<4I", a) for a in [*colliding, b"x" * 16]], np.uint64).T
    assert addresses.positions(words).tolist() == [0, 1, 2]


def test_loop_addresses_match_as_a_whole() -> None:
    """The last two bytes are only a first look."""
    macs = LoopMacs([bytes.fromhex("020000000102"), bytes.fromhex("02aabbccddee")])
    asked = [bytes.fromhex(text) for text in ("020000000102", "020000010102", "02aabbccddee", "02aabbcc0102")]
    heads = np.array([int.from_bytes(mac[:4], "little") for mac in asked], np.uint32)
    tails = np.array([int.from_bytes(mac[4:], "little") for mac in asked], np.uint16)
    assert macs.tails[tails].tolist() == [True] * 4
    assert macs.match(heads, tails).tolist() == [True, False, True, False]


def test_services_of_one_pool_share_their_slots() -> None:
    """Fifty services on one pool take the memory of one table."""
    tables = random_tables(random.Random(5))
    slots = tables.services[0].slots
    services = tuple(
        TableService(
            i, f"s{i}", ip_address(f"198.51.100.{i}"), Protocol.TCP, (PortRange(80, 80),), HashMode.SOURCE_IP, slots
        )
        for i in range(50)
    )
    compiled = Compiled(ForwardingTables(bytes(16), services, tables.members), [INGRESS])
    assert len(compiled.ways) == len(slots)
    assert set(compiled.offsets) == {0}


def test_only_steady_slots_have_a_way() -> None:
    """A slot in a window, in the tail or without a member needs a closer look, as all of a per-flow service do."""
    tables = random_tables(random.Random(5))
    one, other = sorted(tables.members)[:2]
    words = [(one, one), (one, other), (one, NO_MEMBER), (NO_MEMBER, other), (NO_MEMBER, NO_MEMBER), (other, other)]
    slots = pack(*(np.array(half, np.uint32) for half in zip(*words, strict=True)))
    services = tuple(
        TableService(
            number, f"s{number}", ip_address(f"198.51.100.{number}"), Protocol.UDP, (PortRange(80, 80),),
            HashMode.SOURCE_IP, slots, placement=placement,
        )
        for number, placement in enumerate((Placement.HASH, *Placement))
    )  # fmt: skip
    compiled = Compiled(ForwardingTables(bytes(16), services, tables.members), [INGRESS])
    nobody, size = compiled.no_way, len(slots)
    assert compiled.offsets == [0, 0, size, 2 * size]
    assert compiled.ways[:size].tolist() == [compiled.dense[one], *[nobody] * 4, compiled.dense[other]]
    assert set(compiled.ways[size:].tolist()) == {nobody}
    assert compiled.gaps
    steady = ForwardingTables(bytes(16), tuple(replace(s, slots=cycle(one)) for s in services[:2]), tables.members)
    assert not Compiled(steady, [INGRESS]).gaps


def test_a_short_secret_is_refused() -> None:
    """The hash must not be guessable."""
    with pytest.raises(ValueError, match="16 bytes"):
        Compiled(ForwardingTables(b"short"), [INGRESS])

"""Outer sources of a prefix."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.forwarding import NextHop, TableMember
from appliance.model import Delivery, DsrType, Encapsulation, OuterSource
from appliance.packet.encap import source_of

HOP = NextHop(2, "eth1", bytes(6), bytes(6), 1500, ip_address("203.0.113.1"), False)
SPREAD = Delivery(DsrType.L3, Encapsulation.IPIP, outer_source=OuterSource.PREFIX)
WAY = TableMember(0, "web/web1", ip_address("203.0.113.18"), SPREAD, HOP)
PREFIXES = [
    *(ip_network(("198.51.111.255", length), strict=False) for length in range(20, 31)),
    *(ip_network((int(ip_address("2001:db8:ffff::ffff")), length), strict=False) for length in (32, 64, 96, 97, 120)),
]


@given(st.sampled_from(PREFIXES), st.integers(0, 0xFFFFFFFF))
def test_a_source_is_within_and_no_end_of_its_prefix(prefix, flow_hash: int) -> None:
    """Whatever the hash: an address of the prefix that a host can have, and one that is believed to be ours."""
    way = replace(WAY, outer_prefix=prefix)
    source = ip_address(source_of(way, flow_hash))
    assert source in prefix
    assert way.sends_from(source)
    assert source not in (prefix.network_address, prefix.broadcast_address)
    assert not way.sends_from(HOP.source)


@pytest.mark.parametrize("prefix", [one for one in PREFIXES if one.num_addresses <= 4096], ids=str)
def test_half_of_the_prefix_is_used_evenly(prefix) -> None:
    """Consecutive hashes meet every second host, each as often."""
    way = replace(WAY, outer_prefix=prefix)
    met = [source_of(way, flow_hash) for flow_hash in range(prefix.num_addresses)]
    assert {one.packed for one in prefix if way.sends_from(one)} == set(met)
    assert {met.count(source) for source in set(met)} == {2}
    assert len(set(met)) == prefix.num_addresses // 2


@given(st.integers(0, 0xFFFFFFFF))
def test_without_a_prefix_it_is_the_interfaces(flow_hash: int) -> None:
    """The hash has no part in it."""
    assert ip_address(source_of(WAY, flow_hash)) == HOP.source

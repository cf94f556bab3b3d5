"""Frames taken apart: what scapy has put into them is found, and nothing cut off raises."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.packet import Raw

from appliance.explain.headers import headers

INNER4 = IP(src="192.0.2.7", dst="198.51.100.7", ttl=63, tos=0xB9, flags="DF") / TCP(sport=40000, dport=443, flags="SE")
INNER6 = IPv6(src="2001:db8::7", dst="2001:db8:f::7", hlim=9, fl=0x12345) / UDP(sport=7, dport=53)
GUE = Raw(bytes((0, 4, 0, 0)))

FRAMES = {
    "plain": (INNER4, ["ipv4", "tcp"]),
    "tagged": (Dot1Q(vlan=7) / INNER6, ["ipv6", "udp"]),
    "4in4": (IP(dst="203.0.113.1") / INNER4, ["ipv4", "ipv4", "tcp"]),
    "6in4": (IP(dst="203.0.113.1", proto=41) / INNER6, ["ipv4", "ipv6", "udp"]),
    "4in6": (IPv6(dst="2001:db8::1", nh=4) / INNER4, ["ipv6", "ipv4", "tcp"]),
    "gre": (IP(dst="203.0.113.1") / GRE() / INNER6, ["ipv4", "gre", "ipv6", "udp"]),
    "gue": (IP(dst="203.0.113.1") / UDP(sport=50000, dport=6080) / GUE / INNER4, ["ipv4", "udp", "gue", "ipv4", "tcp"]),
    "later": (IP(dst="203.0.113.1", frag=100, proto=6) / Raw(bytes(40)), ["ipv4"]),
    "first6": (IPv6() / IPv6ExtHdrFragment(m=1, nh=17) / UDP(), ["ipv6", "fragment", "udp"]),
    "icmp": (IP() / ICMP(type=3, code=4, nexthopmtu=1400), ["ipv4", "icmp"]),
    "icmp6": (IPv6() / ICMPv6PacketTooBig(mtu=1300), ["ipv6", "icmpv6"]),
}


RAW = {
    name: bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)
    for name, (packet, _) in FRAMES.items()
}


@pytest.mark.parametrize("name", FRAMES)
def test_headers_are_found(name: str) -> None:
    """From the outermost to the innermost, in all encapsulations."""
    assert [one["header"] for one in headers(RAW[name])] == ["ethernet", *FRAMES[name][1]]


def test_fields() -> None:
    """With the names and values that they have in the packet."""
    frame = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / Dot1Q(vlan=9) / INNER4)
    ethernet, ip, tcp = headers(frame)
    assert ethernet == {
        "header": "ethernet",
        "source": "02:00:00:00:00:01",
        "destination": "02:00:00:00:00:02",
        "vlans": [9],
    }
    assert (ip["source"], ip["ttl"], ip["dscp"], ip["ecn"], ip["dont_fragment"]) == ("192.0.2.7", 63, 46, 1, True)
    assert (tcp["destination_port"], tcp["flags"]) == (443, ["syn", "ece"])
    six: dict[str, Any] = headers(RAW["tagged"])[1]
    assert (six["hop_limit"], six["flow_label"], six["length"]) == (9, 0x12345, 48)
    assert headers(RAW["icmp"])[-1]["mtu"] == 1400
    assert headers(RAW["icmp6"])[-1]["mtu"] == 1300


@given(st.sampled_from(sorted(FRAMES)), st.integers(0, 120), st.binary(max_size=8), st.integers(0, 100))
def test_nothing_raises(name: str, length: int, noise: bytes, at: int) -> None:
    """Cut off or overwritten anywhere, a frame has fewer headers or others."""
    frame = bytearray(RAW[name])
    frame[at : at + len(noise)] = noise
    headers(bytes(frame[:length]))

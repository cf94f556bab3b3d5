"""ARP and neighbour discovery, read and written: Scapy is the other opinion."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from appliance.arp.frames import Heard, What, announcement, answer, probe, read, solicited_node

V4, V6 = IPv4Address("192.0.2.100"), IPv6Address("2001:db8:1::ab:cdef")
C4, C6 = IPv4Address("192.0.2.9"), IPv6Address("fe80::9")
US, THEM = "02:00:00:00:00:d1", "02:00:00:00:00:09"
GROUP = "ff02::1:ffab:cdef"
OUR, THEIR = bytes.fromhex(US.replace(":", "")), bytes.fromhex(THEM.replace(":", ""))


def ether(packet: Packet, to: str = US) -> bytes:
    return bytes(Ether(src=THEM, dst=to) / packet)


def solicitation(source: str = str(C6), target: str = str(V6), hops: int = 255, code: int = 0) -> Packet:
    return IPv6(src=source, dst=GROUP, hlim=hops) / ICMPv6ND_NS(tgt=target, code=code)


ASK6 = solicitation() / ICMPv6NDOptSrcLLAddr(lladdr=THEM)


@pytest.mark.parametrize(
    ("frame", "wanted"),
    [
        (ARP(op=1, hwsrc=THEM, psrc=str(C4), pdst=str(V4)), Heard(What.ASKS, V4, THEIR, C4.packed)),
        (ARP(op=1, hwsrc=THEM, psrc="0.0.0.0", pdst=str(V4)), Heard(What.PROBES, V4, THEIR, b"")),
        (ARP(op=1, hwsrc=THEM, psrc=str(V4), pdst=str(V4)), Heard(What.HAS, V4, THEIR, V4.packed)),
        (ARP(op=2, hwsrc=THEM, psrc=str(V4), pdst=str(C4), hwdst=US), Heard(What.HAS, V4, THEIR, V4.packed)),
        (ASK6, Heard(What.ASKS, V6, THEIR, C6.packed)),
        (solicitation(), Heard(What.ASKS, V6, THEIR, C6.packed)),
        (solicitation("::"), Heard(What.PROBES, V6, THEIR, b"")),
        (
            IPv6(src=str(V6), dst="ff02::1", hlim=255)
            / ICMPv6ND_NA(tgt=str(V6), R=0, S=0, O=1)
            / ICMPv6NDOptDstLLAddr(lladdr=THEM),
            Heard(What.HAS, V6, THEIR, V6.packed),
        ),
    ],
    ids=["ask", "probe", "announce", "reply", "ask6", "ask6-bare", "probe6", "advertise6"],
)
def test_what_a_frame_says(frame: Packet, wanted: Heard) -> None:
    """Questions, probes, and everything by which somebody says that he has an address."""
    assert read(ether(frame)) == wanted


@pytest.mark.parametrize(
    "frame",
    [
        solicitation(hops=254),
        solicitation(code=1),
        solicitation("::") / ICMPv6NDOptSrcLLAddr(lladdr=THEM),
        solicitation(target="ff02::1"),
        solicitation() / ICMPv6NDOptSrcLLAddr(lladdr=THEM, len=0),
        IPv6(src=str(C6), dst=GROUP, hlim=255) / IPv6ExtHdrHopByHop() / ICMPv6ND_NS(tgt=str(V6)),
        IPv6(src=str(V6), dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=str(V6), S=1),
        ARP(op=3, hwsrc=THEM, psrc=str(C4), pdst=str(V4)),
        ARP(op=2, hwsrc=THEM, psrc="0.0.0.0", pdst=str(V4)),
        ARP(op=1, hwsrc="03:00:00:00:00:01", psrc=str(C4), pdst=str(V4)),
    ],
    ids=lambda packet: packet.summary()[:40],
)
def test_what_is_not_valid_says_nothing(frame: Packet) -> None:
    """What RFC 4861, 7.1 and RFC 826 have silently discarded: through a router, impossible options, groups."""
    assert read(ether(frame)) is None


def test_a_wrong_checksum_says_nothing() -> None:
    """Neighbour discovery is read with its checksum."""
    frame = bytearray(ether(ASK6))
    frame[-1] ^= 1
    assert read(bytes(frame)) is None


@given(st.binary(max_size=120), st.sampled_from((b"\x08\x06", b"\x86\xdd")))
def test_any_bytes(data: bytes, kind: bytes) -> None:
    """Whatever comes is never an exception."""
    read(bytes(12) + kind + data)
    whole = ether(ASK6)
    read(whole[: len(data)] + data)


def test_answers() -> None:
    """Who asks gets an answer of his own; a probe for an IPv6 address is answered to all, as it has no sender."""
    asked = read(ether(ARP(op=1, hwsrc=THEM, psrc=str(C4), pdst=str(V4))))
    assert asked is not None
    made = Ether(answer(asked, V4, OUR))
    assert (made.src, made.dst, made[ARP].op) == (US, THEM, 2)
    assert (made[ARP].hwsrc, made[ARP].psrc, made[ARP].hwdst, made[ARP].pdst) == (US, str(V4), THEM, str(C4))
    assert len(bytes(made)) == 60
    for question, to, mac, solicited in (
        (ASK6, str(C6), THEM, 1),
        (solicitation("::"), "ff02::1", "33:33:00:00:00:01", 0),
    ):
        asked = read(ether(question))
        assert asked is not None
        raw = answer(asked, V6, OUR)
        made = Ether(raw)
        assert (made.src, made.dst, made[IPv6].src, made[IPv6].dst) == (US, mac, str(V6), to)
        said = made[ICMPv6ND_NA]
        assert (made[IPv6].hlim, said.tgt, said.R, said.S, said.O) == (255, str(V6), 0, solicited, 1)
        assert made[ICMPv6NDOptDstLLAddr].lladdr == US
        assert read(raw) == (None if solicited and to == "ff02::1" else Heard(What.HAS, V6, OUR, V6.packed))


def test_probes_and_announcements() -> None:
    """They are what RFC 5227 and RFC 4862 say, and read as that."""
    assert read(probe(V4, OUR)) == Heard(What.PROBES, V4, OUR, b"")
    assert read(probe(V6, OUR)) == Heard(What.PROBES, V6, OUR, b"")
    assert read(announcement(V4, OUR)) == Heard(What.HAS, V4, OUR, V4.packed)
    assert read(announcement(V6, OUR)) == Heard(What.HAS, V6, OUR, V6.packed)
    four, six = Ether(probe(V4, OUR)), Ether(probe(V6, OUR))
    assert (four.dst, four[ARP].op, four[ARP].psrc, four[ARP].hwdst) == (
        "ff:ff:ff:ff:ff:ff",
        1,
        "0.0.0.0",
        "00:00:00:00:00:00",
    )
    assert (six.dst, six[IPv6].src, six[IPv6].dst) == ("33:33:ff:ab:cd:ef", "::", GROUP)
    assert six[ICMPv6ND_NS].tgt == str(V6)
    four = Ether(announcement(V4, OUR))
    assert (four.dst, four[ARP].op, four[ARP].psrc, four[ARP].pdst) == ("ff:ff:ff:ff:ff:ff", 1, str(V4), str(V4))
    assert solicited_node(V6) == IPv6Address(GROUP)

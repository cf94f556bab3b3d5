"""What a member counts of a director's packets: in the tunnel, out of it, and answers."""

import struct
from ipaddress import ip_address

import pytest

from appliance.doctor import packets
from appliance.doctor.member import Seen
from appliance.doctor.watch import Watch
from appliance.packet.checksum import checksum
from tests.unit.doctor.evidence import DIRECTOR, MEMBER, VIP

CLIENT = ip_address("192.0.2.7")
OUTGOING = True


class Counting(Watch):
    """Packets are given to it, and no socket is there."""

    def __init__(self) -> None:
        self._askers, self._vips = frozenset({DIRECTOR}), frozenset({VIP})
        self._counts = {VIP: {"outer": 0, "inner": 0, "replies": 0}}  # type: ignore[assignment]

    def take(self, at_once: int = 0) -> None:
        """Nothing waits."""

    def of(self, packet: bytes, *, outgoing: bool = False) -> Seen:
        self._count(packet, outgoing=outgoing)
        return self.seen()[str(VIP)]


@pytest.fixture
def watch() -> Counting:
    return Counting()


def syn(flags: int = 2, **ends: object) -> bytes:
    source, destination = ends.get("source", DIRECTOR), ends.get("destination", VIP)
    packet = bytearray(packets.syn(source, destination, (4000, 80), 1, 64))  # type: ignore[arg-type]
    packet[33] = flags
    return bytes(packet)


def outer(inner: bytes, protocol: int = 4, between: bytes = b"") -> bytes:
    addresses = DIRECTOR.packed + MEMBER.packed
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(between + inner), 0, 0, 64, protocol)
    return head + checksum(head + addresses).to_bytes(2, "big") + addresses + between + inner


def test_packets_of_the_director_in_and_out_of_the_tunnel(watch: Counting) -> None:
    """By what is inside; those of others, or for others, do not count."""
    assert watch.of(outer(syn())) == Seen(outer=1)
    assert watch.of(outer(syn(), 47, struct.pack("!HH", 0, 0x0800))) == Seen(outer=2)
    assert watch.of(outer(syn(), 17, struct.pack("!HHHHI", 50_000, 6080, 52, 0, 0))) == Seen(outer=3)
    assert watch.of(syn()) == Seen(outer=3, inner=1)
    for other in (syn(source=CLIENT), syn(destination=MEMBER), outer(syn(destination=MEMBER)), b"", b"\x45" * 30):
        assert watch.of(other) == Seen(outer=3, inner=1)


def test_answers_are_what_begins_or_refuses_a_connection(watch: Counting) -> None:
    """What goes on in an old one is none: a member repeats that for minutes, whatever comes of it."""
    reply = {"source": VIP, "destination": DIRECTOR}
    assert watch.of(syn(0x12, **reply), outgoing=OUTGOING) == Seen(replies=1)
    assert watch.of(syn(0x14, **reply), outgoing=OUTGOING) == Seen(replies=2)
    assert watch.of(packets.datagram(VIP, DIRECTOR, (5000, 4000), b"hello", 64), outgoing=OUTGOING) == Seen(replies=3)
    for other in (syn(0x11, **reply), syn(0x12, source=VIP, destination=CLIENT), syn(0x12, **reply)[:30]):
        assert watch.of(other, outgoing=OUTGOING) == Seen(replies=3)

"""What is said of captured frames: completed from their bytes where the plane kept no notes."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.capture.notes import Choice, Notes, comment, packets
from appliance.capture.pcap import Direction
from appliance.dataplane.recording import Captured, Sent
from appliance.explain.question import frame_of, packet_of
from appliance.forwarding import ForwardingTables, TableMember, TableService
from appliance.model import Delivery, DsrType, Encapsulation, HashMode, PortRange, Protocol
from appliance.packet.action import Verdict
from appliance.packet.forward import Ingress, PacketPath
from appliance.ring.hash import FlowKey
from tests.builders import L2, L3, SECRET, hop
from tests.unit.dataplane.frames import cycle

VIP = ip_address("198.51.100.7")
MAC = bytes((2, 0, 0, 0, 9, 1))
GUE = Delivery(DsrType.L3, Encapsulation.GUE)


def tables(delivery: Delivery) -> ForwardingTables:
    """The same machine in two pools, and three services: a port, a range and the rest."""
    address = ip_address("203.0.113.1")
    members = {n: TableMember(n, f"{pool}/m", address, delivery, hop(1)) for n, pool in ((1, "one"), (2, "two"))}
    services = [
        TableService(number, name, VIP, Protocol.UDP, (PortRange(*ports),), HashMode.FIVE_TUPLE, cycle(index))
        for number, (name, ports, index) in enumerate(
            (("rest", (1, 65535), 2), ("range", (8000, 8999), 1), ("port", (8080, 8080), 2))
        )
    ]
    return ForwardingTables(SECRET, tuple(services), members)


def captured(used: ForwardingTables, port: int) -> Captured:
    """As a plane tells of it that keeps no notes."""
    key = FlowKey(ip_address("192.0.2.7"), VIP, Protocol.UDP, 5, port)
    frame = frame_of(packet_of(key), MAC)
    action = PacketPath(used).forward(frame, Ingress(1, MAC, 1500))
    assert action.verdict is Verdict.TRANSMIT
    return Captured(7, "eth1", frame, len(frame), Verdict.TRANSMIT, sent=(Sent("eth2", action.frame, 99),))


@pytest.mark.parametrize("delivery", [L2, L3, GUE], ids=str)
@pytest.mark.parametrize(
    ("port", "service", "member"), [(8080, "port", "two/m"), (8081, "range", "one/m"), (6080, "rest", "two/m")]
)
def test_service_and_member_are_found(delivery: Delivery, port: int, service: str, member: str) -> None:
    """An exact port beats a range and the rest; the member is that of the service's own pool; and what a client sends
    to GUE's port is no tunnel."""
    used = tables(delivery)
    found = Notes(used).completed(captured(used, port))
    assert (found.service, found.member) == (service, member)
    key = FlowKey(ip_address("192.0.2.7"), VIP, Protocol.UDP, 5, port)
    assert found.slot == PacketPath(used).forward(frame_of(packet_of(key), MAC), Ingress(1, MAC, 1500)).slot


def test_what_was_cut_off_is_no_hindrance() -> None:
    """Headers suffice, although lengths say more."""
    used = tables(L3)
    whole = captured(used, 8080)
    key = FlowKey(ip_address("192.0.2.7"), VIP, Protocol.UDP, 5, 8080)
    frame = frame_of(packet_of(key, 900), MAC)
    assert Notes(used).completed(replace(whole, frame=frame[:64], length=len(frame))).service == "port"


@pytest.mark.parametrize("frame", [b"", bytes(14), bytes(12) + b"\x08\x00" + bytes(20), b"\xff" * 60])
def test_what_is_not_understood_stays_as_it_is(frame: bytes) -> None:
    """Nothing is made up."""
    odd = Captured(7, "eth1", frame, len(frame), Verdict.DROP, "malformed")
    assert Notes(tables(L3)).completed(odd) == odd
    assert comment(odd) == "drop reason=malformed"


def test_pieces_and_answers() -> None:
    """Every frame out has its own comment; sides can be had alone."""
    sent = (Sent("eth2", b"a", 1), Sent("eth2", b"b", 1), Sent("eth1", b"c", 1, "icmp_too_big"))
    one = Captured(7, "eth1", b"in", 2, Verdict.TRANSMIT, sent=sent, service="web", member="web/m", slot=0, by="pin")
    assert [packet.comment for packet in packets(one, 100)] == [
        "transmit service=web member=web/m slot=0 by=pin",
        "sent service=web member=web/m piece=1/2",
        "sent service=web member=web/m piece=2/2",
        "answer kind=icmp_too_big",
    ]
    assert [packet.direction for packet in packets(one, 0, "in")] == [Direction.IN]
    assert [packet.data for packet in packets(one, 0, "out")] == [b"a", b"b", b"c"]
    assert {packet.at_ns for packet in packets(one, 100)} == {107}
    assert Choice(member="web/m", verdict="transmit").takes(one)
    assert not Choice(verdict="drop").takes(one)

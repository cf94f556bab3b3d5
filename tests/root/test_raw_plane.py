"""The raw data plane with real sockets between network namespaces."""

import random
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from appliance.forwarding import ForwardingTables, NextHop, TableMember, TableService
from appliance.model import Delivery, HashMode, PortRange, Protocol
from appliance.packet.action import Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress, PacketPath
from tests.root.raw_rig import Rig, mac, rig
from tests.unit.dataplane.frames import L2, VIPS, cycle, random_frame, random_tables
from tests.vectors_io import canonical

pytestmark = pytest.mark.root

VIP4, VIP6 = ip_address("198.51.100.7"), ip_address("2001:db8:f::7")
SECRET = bytes(range(16))
INGRESS = Ingress(0, mac("d0"), 1500)
OURS = {ip_address(text).packed for text in VIPS}


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with rig() as made:
        yield made


def hop(bench: Rig, **changes: object) -> NextHop:
    values = {
        "ifindex": bench.ifindex("d1"),
        "interface": "d1",
        "source_mac": mac("d1"),
        "mac": mac("s0"),
        "mtu": 1500,
        "source": ip_address("203.0.113.1"),
        "direct": True,
    } | changes
    return NextHop(**values)  # type: ignore[arg-type]


def member(
    bench: Rig, index: int, delivery: Delivery = L2, address: str = "203.0.113.2", **changes: object
) -> TableMember:
    source = "2001:db8:2::1" if ":" in address else "203.0.113.1"
    return TableMember(
        index, f"web/m{index}", ip_address(address), delivery, hop(bench, source=ip_address(source), **changes)
    )


def tables(
    *members: TableMember,
    protocol: Protocol = Protocol.TCP,
    ports: PortRange = PortRange(80, 80),
    vips: tuple = (VIP4, VIP6),
) -> ForwardingTables:
    slots = cycle(*(one.index for one in members))
    services = tuple(
        TableService(number, "web", vip, protocol, (ports,), HashMode.FIVE_TUPLE, slots)
        for number, vip in enumerate(vips)
    )
    return ForwardingTables(SECRET, services, {one.index: one for one in members})


def udp(source_port: int, size: int = 18, vip: str = str(VIP4), **header: int) -> bytes:
    segment = struct.pack("!HHHH", source_port, 80, 8 + size, 0) + source_port.to_bytes(2, "big") * (size // 2)
    address = ip_address(vip)
    if address.version == 6:
        packet = struct.pack("!IHBB", 6 << 28, len(segment), 17, header.get("ttl", 64))
        return (
            mac("d0") + mac("c0") + b"\x86\xdd" + packet + ip_address("2001:db8:1::2").packed + address.packed + segment
        )
    head = struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, header.get("flags", 0x4000), header.get("ttl", 64), 17, 0
    )
    head += ip_address("192.0.2.2").packed + address.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return mac("d0") + mac("c0") + b"\x08\x00" + head + segment


def of_a_director(frame: bytes) -> bool:
    """What we forward goes to member MAC addresses or comes from ours; namespaces chat about neighbours, too."""
    return frame[12:14] in (b"\x08\x00", b"\x86\xdd") and frame[6:8] != b"\x33\x33" and not _is_icmp6(frame)


def _is_icmp6(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd" and frame[20] in (0, 58)


@pytest.mark.parametrize("use_xsk", [1, 0], ids=["af_xdp", "sendmmsg"])
@pytest.mark.parametrize("seed", range(3))
def test_random_frames_come_out_as_the_reference_says(bench: Rig, use_xsk: int, seed: int) -> None:
    """Frames of every kind through real rings, filters and senders are byte for byte what packet.forward makes of them."""
    rnd = random.Random(seed)
    with bench.plane(use_xsk=use_xsk) as plane:
        plane_tables = random_tables(rnd, ifindexes=(bench.ifindex("d1"),))
        path = PacketPath(plane_tables)
        plane.set(plane_tables)
        plane.check()
        kind = plane.describe()["transmit_d1"]
        assert kind == ("af_xdp" if use_xsk else "sendmmsg")
        frames = [random_frame(rnd, plane_tables, wrong=0.01) for _ in range(1500)]
        frames = [frame for frame in frames if len(frame) <= 1514]
        actions = [path.forward(frame, INGRESS) for frame in frames]
        wanted = sorted(canonical(action.frame) for action in actions if action.verdict is Verdict.TRANSMIT)
        assert len(wanted) > 300
        bench.far.receive(0, 0.1)
        bench.near.send(*frames)
        got = sorted(
            map(canonical, bench.far.receive(len(wanted), keep=lambda frame: frame[6:11] == bytes((2, 0, 0, 0, 2))))
        )
        assert got == wanted
        counters = plane.counters()
        assert sum(traffic.packets for traffic in counters.services.values()) == len(wanted)
        assert sum(traffic.packets for traffic in counters.members.values()) == len(wanted)
        assert sum(traffic.bytes for traffic in counters.members.values()) == sum(
            action_length(frame)
            for frame, action in zip(frames, actions, strict=True)
            if action.verdict is Verdict.TRANSMIT
        )
        drops = [str(action.reason) for action in actions if action.verdict is Verdict.DROP]
        assert {str(reason): number for reason, number in counters.reasons.items() if number} == {
            reason: drops.count(reason) for reason in set(drops)
        }


def action_length(frame: bytes) -> int:
    offset = 12
    while frame[offset : offset + 2] in (b"\x81\x00", b"\x88\xa8"):
        offset += 4
    packet = frame[offset + 2 :]
    return int.from_bytes(packet[2:4], "big") if packet[0] >> 4 == 4 else 40 + int.from_bytes(packet[4:6], "big")

"""Protection on live planes: floods of new connections, connections that are there, reloads; and CPUs at once."""

import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, ip_address

import pytest

from appliance.bpf.libbpf import TestRunner
from appliance.dataplane.recording import Wanted
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.program import Program
from appliance.dataplane.xdp.tables import Capacity, Egress
from appliance.forwarding import ForwardingTables, NextHop, TableMember, TableService
from appliance.model import HashMode, PortRange, Protection, Protocol, Rate
from appliance.packet.action import Reason
from appliance.packet.checksum import checksum
from tests.netns import until
from tests.root.plane_rig import Plane, Rig, mac, rig
from tests.unit.dataplane.frames import L2, cycle

pytestmark = pytest.mark.root

SECRET = bytes(range(16))
VIP = ip_address("198.51.100.7")
NEVER = 0.0001
"""Connections a second: no meter fills up while a test lasts."""

ACK, SYN = 0x10, 0x02
_XDP_TX = 3


@pytest.fixture(scope="module", params=("raw", "xdp"))
def bench(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(str(request.param)) as made:
        yield made


@pytest.fixture(scope="module")
def plane(bench: Rig) -> Iterator[Plane]:
    with bench.plane() as made:
        yield made


def tables(protection: Protection | None, ifindex: int) -> ForwardingTables:
    hop = NextHop(ifindex, "d1", mac("d1"), mac("s0"), 1500, ip_address("203.0.113.1"), direct=True)
    member = TableMember(1, "web/m", ip_address("203.0.113.2"), L2, hop)
    ports = (PortRange(80, 80),)
    service = TableService(0, "web", VIP, Protocol.TCP, ports, HashMode.FIVE_TUPLE, cycle(1), protection=protection)
    return ForwardingTables(SECRET, (service,), {1: member})


def segment(source: str, port: int, flags: int) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", port, 80, 1, 1, 0x50, flags, 65535, 0x1234, 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0x4000, 64, 6, 0)
    head += ip_address(source).packed + VIP.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return mac("d0") + mac("c0") + b"\x08\x00" + head + tcp


def arrivals(bench: Rig, plane: Plane, frames: Sequence[bytes]) -> Counter[tuple[str, int]]:
    """Send frames; what arrived at the member, by source and flags. All that was sent is accounted for by then."""

    def total() -> int:
        counters = plane.counters()
        ours = (Reason.DENIED, Reason.SOURCE_RATE, Reason.VIP_RATE, Reason.SERVICE_RATE)
        traffic = sum(one.packets for one in counters.services.values())
        return traffic + sum(counters.reasons.get(str(reason), 0) for reason in ours)

    before = total()
    bench.far.receive(0)
    bench.near.send(*frames)
    until(lambda: total() == before + len(frames), "all frames are accounted for")
    got = bench.far.receive(0, keep=lambda frame: frame[12:14] == b"\x08\x00" and frame[30:34] == VIP.packed)
    return Counter((str(ip_address(frame[26:30])), frame[47]) for frame in got)


def test_floods_end_and_connections_go_on(bench: Rig, plane: Plane) -> None:
    """Of a flood from one address so many connections come as its limit says; those that are there, and others',
    are not touched; neither is a packet lost when the limit becomes another, nor does the flooder begin anew."""
    ifindex = bench.ifindex("d1")
    plane.set(tables(Protection(per_source=Rate(NEVER, 20)), ifindex))
    flood = [segment("192.0.2.66", 1024 + number, SYN) for number in range(300)]
    steady = [segment(f"192.0.2.{100 + number % 50}", 5000 + number, ACK) for number in range(300)]
    mixed = [frame for pair in zip(flood, steady, strict=True) for frame in pair]
    got = arrivals(bench, plane, mixed)
    assert got["192.0.2.66", SYN] == 20
    assert sum(count for (_, flags), count in got.items() if flags == ACK) == 300
    assert plane.counters().reasons[Reason.SOURCE_RATE] == 280
    others = [segment(f"192.0.2.{number}", 1024, SYN) for number in range(100, 150)]
    assert sum(arrivals(bench, plane, others).values()) == 50
    plane.set(tables(Protection(per_source=Rate(NEVER, 30)), ifindex))
    got = arrivals(bench, plane, mixed)
    assert got["192.0.2.66", SYN] == 10
    assert sum(count for (_, flags), count in got.items() if flags == ACK) == 300
    # So many prefixes take other tables in the XDP plane, and the meters go along.
    many = tuple(IPv4Network((0x0A000000 + (number << 9), 24)) for number in range(600))
    plane.set(tables(Protection(many, per_source=Rate(NEVER, 31)), ifindex))
    assert arrivals(bench, plane, flood)["192.0.2.66", SYN] == 1
    plane.set(tables(None, ifindex))
    assert sum(arrivals(bench, plane, mixed).values()) == 600


def test_random_sources_do_not_keep_out_honest_ones(bench: Rig, plane: Plane) -> None:
    """Thousands of sources that come once have no effect on those whose limit is their own; a limit of the VIP takes no
    account of who comes, but packets of connections pass."""
    ifindex = bench.ifindex("d1")
    plane.set(tables(Protection(per_source=Rate(NEVER, 5)), ifindex))
    random = [segment(f"10.{number >> 8}.{number & 255}.1", 1024, SYN) for number in range(3000)]
    honest = [segment("192.0.2.9", 2000 + number, SYN) for number in range(5)]
    got = arrivals(bench, plane, [*random, *honest])
    assert sum(got.values()) == 3005
    plane.set(tables(Protection(per_vip=Rate(NEVER, 500)), ifindex))
    connected = [segment("192.0.2.9", 2000 + number, ACK) for number in range(50)]
    got = arrivals(bench, plane, [*random, *connected])
    assert got["192.0.2.9", ACK] == 50
    assert sum(got.values()) == 550


def test_limits_hold_while_somebody_captures(bench: Rig, plane: Plane) -> None:
    """A capture lets nobody in who has come too often before, and what comes meanwhile counts afterwards."""
    used = tables(Protection(per_source=Rate(NEVER, 20)), bench.ifindex("d1"))
    plane.set(used)
    flood = [segment("192.0.2.67", 1024 + number, SYN) for number in range(100)]
    assert sum(arrivals(bench, plane, flood[:15]).values()) == 15
    plane.ask("record_for_test", Wanted())
    assert sum(arrivals(bench, plane, flood[15:]).values()) == 5
    plane.ask("recorded", 5, used)
    assert sum(arrivals(bench, plane, flood).values()) == 0


def test_denied_clients_reach_nobody(bench: Rig, plane: Plane) -> None:
    """Whatever a denied client sends is dropped by name; a longer prefix lets some through."""
    deny, allow = IPv4Network("192.0.2.0/24"), IPv4Network("192.0.2.128/25")
    plane.set(tables(Protection((deny,), (allow,)), bench.ifindex("d1")))
    frames = [segment(f"192.0.2.{number}", 1024, flags) for number in range(1, 255) for flags in (SYN, ACK)]
    got = arrivals(bench, plane, frames)
    assert set(got) == {(f"192.0.2.{number}", flags) for number in range(128, 255) for flags in (SYN, ACK)}
    assert plane.counters().reasons[Reason.DENIED] == 2 * 127
    assert plane.explain(segment("192.0.2.1", 1, SYN)).reason is Reason.DENIED


def test_cpus_count_together() -> None:
    """Two CPUs that take connections at the same time take as many as the limit says: each one too many at most, who
    have looked at the last one at once."""
    program = Program(Capacity(slots=4 * 65568), pins=64)
    try:
        program.tables.stage(tables(Protection(per_vip=Rate(NEVER, 1000)), 7), lambda _: Egress(7))
        program.tables.publish()
        program.tables.set_port(layout.LOOPBACK, mac("d0"), 1500, layout.PORT_QUIET | layout.PORT_REMEMBER)
        sent = [0, 0]

        def run(which: int) -> None:
            runner = TestRunner(program.fd)
            for number in range(1500):
                frame = segment(f"10.0.{which}.1", 1024 + number, SYN)
                sent[which] += runner.run(frame).verdict == _XDP_TX

        threads = [threading.Thread(target=run, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1000 <= sum(sent) <= 1002
    finally:
        program.close()

"""The XDP plane under as much traffic as a CPU can make: tables change, and SYNs of random sources come in."""

import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest

from appliance.bpf.libbpf import Map, Object
from appliance.forwarding import ForwardingTables, TableService
from appliance.model import HashMode, PortRange, Protocol
from appliance.packet.checksum import checksum
from tests.netns import until
from tests.root.plane_rig import REPOSITORY, Plane, Rig, mac, rig, traffic_object
from tests.root.test_planes import SECRET, VIP4, member, serve_tcp, tables, udp, upload, vips_at
from tests.unit.dataplane.frames import L2, L3, cycle

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

SYN = 0x02


@pytest.fixture(scope="module")
def bench() -> Iterator[Rig]:
    with rig("xdp") as made:
        yield made


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@contextmanager
def counting(bench: Rig) -> Iterator[Map]:
    """What arrives at the member's end is counted by the last byte of its destination address, and dropped."""
    with Object(traffic_object()) as traffic:
        traffic.load()
        bench.ends["s0"].update(traffic.program("count_and_drop"))
        try:
            yield traffic.map("arrived")
        finally:
            bench.ends["s0"].update(traffic.program("leave_alone"))


def arrived(counts: Map) -> dict[int, int]:
    """Frames by last byte of the destination address."""
    found = {which: counts.lookup_sum(struct.pack("=I", which)) for which in range(256)}
    return {which: count for which, count in found.items() if count}


@dataclass
class Flood:
    sent: int = 0
    """Known when it is over."""


@contextmanager
def flood(bench: Rig, frame: bytes, seconds: float, sources: int = 0) -> Iterator[Flood]:
    """Frames of random flows from c0 for some seconds."""
    command = [sys.executable, "-m", "tests.root.inject", "c0", str(traffic_object()), str(seconds), str(sources)]
    words = bench.client.command(*command, frame.ljust(64, b"\0").hex())
    result = Flood()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as sender:
        assert sender.stdout is not None
        try:
            assert sender.stdout.readline() == "ready\n"
            yield result
            result.sent = int(sender.stdout.read())
        finally:
            sender.kill()


def two_tables(bench: Rig) -> tuple[ForwardingTables, ForwardingTables]:
    """Other members, other ways to those that stay, another number of services. Each MAC address is one member's."""

    def made(numbers: range, delivery: object, extra: int) -> ForwardingTables:
        members = [member(bench, n, delivery, mac=bytes((2, 0, 0, 0, 1, n))) for n in numbers]  # type: ignore[arg-type]
        one = tables(*members, protocol=Protocol.UDP)
        others = tuple(
            replace(one.services[0], index=2 + i, name=f"more{i}", ports=(PortRange(1000 + 10 * i, 1008 + 10 * i),))
            for i in range(extra)
        )
        return replace(one, services=one.services + others)

    return made(range(1, 9), L2, 0), made(range(5, 13), L3, 3)


class Tally:
    """What the director's end of the cable has received since, and what has become of it."""

    def __init__(self, bench: Rig, plane: Plane, counts: Map) -> None:
        self._bench, self._plane, self._counts = bench, plane, counts
        self._before = self._wire()

    def _wire(self) -> int:
        return int(self._bench.director.run("cat", "/sys/class/net/d0/statistics/rx_packets"))

    def received(self) -> int:
        """Frames that the program was given, but for the neighbours' chat."""
        reasons = self._plane.counters().reasons
        return self._wire() - self._before - sum(reasons.get(reason, 0) for reason in ("not_ip", "not_vip"))

    def check(self, sent: int, allowed: range) -> int:
        """Every frame is at the member's end, at a member that a table has named. What the cable itself could not take,
        at the speed of a generator without a brake, never came to the plane.

        Returns:
            How many there were.
        """
        until(lambda: sum(arrived(self._counts).values()) >= self.received(), "all frames have arrived")
        found = arrived(self._counts)
        assert set(found) <= set(allowed), "a frame went to somebody whom no table names"
        total = sum(found.values())
        counters = self._plane.counters()
        assert sum(traffic.packets for traffic in counters.members.values()) == total
        assert sum(traffic.packets for traffic in counters.services.values()) == total
        assert {r: n for r, n in counters.reasons.items() if n and r not in ("not_ip", "not_vip")} == {}
        assert self.received() == total
        assert total > sent * 0.5
        return total


@pytest.mark.parametrize("below", [False, True], ids=["set", "tables"])
def test_swaps_under_full_traffic_lose_nothing(bench: Rig, long: bool, below: bool) -> None:
    """However often tables change, each frame goes to a member that one of them names, and none is lost."""
    times = 10_000 if long else (1000 if below else 150)
    first, second = two_tables(bench)
    with bench.plane() as plane, counting(bench) as counts:
        plane.set(first)
        plane.set(second)
        tally, sent, done = Tally(bench, plane, counts), 0, threading.Event()

        def work() -> None:
            try:
                plane.ask("swap_maps" if below else "swap", first, second, times)
            finally:
                done.set()

        swapping = threading.Thread(target=work)
        swapping.start()
        while not done.is_set():
            with flood(bench, udp(0), 2.0) as frames:
                pass
            sent += frames.sent
        swapping.join()
        total = tally.check(sent, range(1, 13))
        print(f"{times} swaps, {total} frames of {sent}")
        assert len(arrived(counts)) == 12, "both tables were in force"


def test_maps_that_are_replaced_lose_nothing(bench: Rig) -> None:
    """Tables that outgrow the maps come with another program: no packet goes between, and counters go on."""
    small, _ = two_tables(bench)
    slots = small.services[0].slots
    with bench.plane() as plane, counting(bench) as counts:
        plane.set(small)
        tally = Tally(bench, plane, counts)
        with flood(bench, udp(0), 5.0) as frames:
            for extra in (300, 900, 2700):
                more = tuple(
                    TableService(2 + i, f"x{i}", VIP4, Protocol.TCP, (PortRange(p, p),), HashMode.FIVE_TUPLE, slots)
                    for i, p in enumerate(range(1000, 1000 + extra))
                )
                plane.set(replace(small, services=small.services + more))
        tally.check(frames.sent, range(1, 9))


def syn() -> bytes:
    """A SYN to port 81."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0) + bytes((192, 0, 2, 2)) + VIP4.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    segment = struct.pack("!HHIIBBHHH", 1, 81, 1, 0, 0x50, SYN, 1000, 0x1234, 0)
    return mac("d0") + mac("c0") + b"\x08\x00" + head + segment


def test_a_flood_of_syns_fills_nothing(bench: Rig, long: bool) -> None:
    """Memory stays as it is, connections go on, and a packet costs what it cost before."""
    seconds = 30.0 if long else 5.0
    rnd = np.random.default_rng(1)
    probes = [udp(int(port)) for port in rnd.integers(1024, 65000, 2000)]
    with bench.plane() as plane, vips_at(bench.member):
        # What the member's own stack makes of a flood is not the question: SYNs go to an address that nobody has.
        server, hole = member(bench, 1), member(bench, 2, mac=bytes((2, 0, 0, 0, 1, 99)))
        services = [
            TableService(i, name, VIP4, protocol, (PortRange(port, port),), HashMode.FIVE_TUPLE, slots)
            for i, (name, protocol, port, slots) in enumerate(
                (
                    ("web", Protocol.TCP, 80, cycle(1)),
                    ("flooded", Protocol.TCP, 81, cycle(2)),
                    ("dns", Protocol.UDP, 80, cycle(1, 2)),
                )
            )
        ]
        plane.set(ForwardingTables(SECRET, tuple(services), {1: server, 2: hole}))
        end = serve_tcp(bench.member, str(VIP4))
        try:
            assert upload(bench.client, str(VIP4), 1000) == 1000
            before, cost_before = plane.ask("facts"), plane.ask("cost", probes)
            with flood(bench, syn(), seconds, sources=17) as frames:
                sizes = [upload(bench.client, str(VIP4), 200_000) for _ in range(3)]
            sent = frames.sent
            after, cost_after = plane.ask("facts"), plane.ask("cost", probes)
        finally:
            end()
        flooded = plane.counters().services["flooded", str(VIP4)]
        grown = after["resident"] - before["resident"]
        print(f"{sent} SYNs in {seconds:g} s; {cost_before:.2f}, {cost_after:.2f} us a test run; {grown} bytes more")
        assert sizes == [200_000] * 3
        assert sent > 50_000 * seconds
        assert flooded.new_flows == flooded.packets > sent * 0.5
        assert after["maps"] == before["maps"]
        assert grown < 8 << 20
        assert cost_after < 1.5 * cost_before

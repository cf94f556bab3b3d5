"""The XDP plane under as much traffic as a CPU can make: tables change, and SYNs of random sources come in."""

import socket
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from appliance.bpf.libbpf import Map, Object
from appliance.forwarding import ForwardingTables, Placement, TableService
from appliance.model import HashMode, PortRange, Protocol
from appliance.packet.checksum import checksum
from appliance.packet.forward import PacketPath
from appliance.packet.placement import PinState
from tests.netns import Namespace, until
from tests.root.plane_rig import REPOSITORY, Plane, Rig, inside, mac, rig, traffic_object
from tests.root.test_planes import INGRESS, SECRET, VIP4, member, serve_tcp, tables, udp, upload, vips_at
from tests.unit.dataplane.frames import L2, L3, cycle

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

SYN = 0x02
FLOWS, FIRST_PORT = 1024, 1024
"""Of numbered frames; see flood.c."""

PPS = 50_000
"""Of numbered frames: what cables and sockets take without a loss while another CPU writes tables."""

REPEATS_S = 30.0
"""What a connection may take that a flood robs of some of its packets: TCP repeats a SYN after 1, 3, 7 and 15 s."""


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


@pytest.fixture(scope="module")
def flood_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("flood") / "flood"
    source = Path(__file__).with_name("flood.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(source)], check=True)
    return target


@contextmanager
def helper(space: Namespace, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A program that says "ready" and works until its input ends."""
    with subprocess.Popen(space.command(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> list[list[str]]:
    """End it: the words of the lines that it prints then."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return [line.split() for line in out.splitlines()]


@dataclass
class Flood:
    sender: subprocess.Popen[str]
    sent: int = 0
    """Known when it is over."""

    def goes_on(self) -> bool:
        return self.sender.poll() is None


@contextmanager
def flood(bench: Rig, frame: bytes, seconds: float, sources: int = 0) -> Iterator[Flood]:
    """Frames of random flows from c0 for some seconds."""
    command = [sys.executable, "-m", "tests.root.inject", "c0", str(traffic_object()), str(seconds), str(sources)]
    words = bench.client.command(*command, frame.ljust(64, b"\0").hex())
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as sender:
        result = Flood(sender)
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
        self._before = self._wire() - self._chat()

    def _wire(self) -> int:
        return int(self._bench.director.run("cat", "/sys/class/net/d0/statistics/rx_packets"))

    def _chat(self) -> int:
        reasons = self._plane.counters().reasons
        return sum(reasons.get(reason, 0) for reason in ("not_ip", "not_vip"))

    def received(self) -> int:
        """Frames that the program was given, but for the neighbours' chat."""
        return self._wire() - self._chat() - self._before

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
    times = 10_000 if long else 300
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


def grown(tables: ForwardingTables, extra: int) -> ForwardingTables:
    """So many virtual services more."""
    slots = tables.services[0].slots
    more = tuple(
        TableService(
            len(tables.services) + i, f"x{i}", VIP4, Protocol.TCP, (PortRange(p, p),), HashMode.FIVE_TUPLE, slots
        )
        for i, p in enumerate(range(1000, 1000 + extra))
    )
    return replace(tables, services=tables.services + more)


def test_each_numbered_frame_arrives_once_where_its_flow_may_go(bench: Rig, long: bool, flood_program: Path) -> None:
    """While tables change and outgrow their maps, every frame arrives exactly once, at one of the two members that the
    tables choose for its flow."""
    first, second = two_tables(bench)
    allowed: dict[int, set[str]] = defaultdict(set)
    for one in (first, second):
        path = PacketPath(one)
        for port in range(FIRST_PORT, FIRST_PORT + FLOWS):
            chosen = path.forward(udp(port), INGRESS).member
            allowed[port].add(one.members[chosen].next_hop.mac.hex())  # type: ignore[index]
    program = str(flood_program)
    with bench.plane() as plane, helper(bench.member, program, "take", "s0") as taker:
        plane.set(second)
        plane.set(first)
        with helper(bench.client, program, "send", "c0", str(PPS), str(FLOWS), udp(0).hex()) as sender:
            for extra in (0, 300, 900, 2700):
                plane.set(grown(first, extra))
                plane.ask("swap", second, first, 500 if long else 20)
            [[sent]] = ended(sender)
        until(lambda: plane.counters().services["web", str(VIP4)].packets == int(sent), "all frames are counted")
        [[frames, different, beyond, lost], *flows] = ended(taker)
        counters = plane.counters()
    print(f"{sent} frames sent; {frames} arrived, {different} different ones")
    assert int(lost) == 0, "the receiver was too slow; nothing is known of the plane"
    assert frames == different == beyond == sent
    assert int(sent) > PPS
    went: dict[int, set[str]] = defaultdict(set)
    by_mac: dict[str, int] = defaultdict(int)
    for port, address, count in flows:
        went[int(port)].add(address)
        by_mac[address] += int(count)
    assert went == allowed
    assert {name: traffic.packets for name, traffic in counters.members.items() if traffic.packets} == {
        f"web/m{int(address[-2:], 16)}": count for address, count in by_mac.items()
    }


def test_maps_that_are_replaced_lose_nothing(bench: Rig) -> None:
    """Tables that outgrow the maps come with another program: no packet goes between, and counters go on."""
    small, _ = two_tables(bench)
    for seconds in (8.0, 60.0):  # the second one for a machine that has other things to do
        with bench.plane() as plane, counting(bench) as counts:
            plane.set(small)
            tally = Tally(bench, plane, counts)
            with flood(bench, udp(0), seconds) as frames:
                for extra in (300, 900, 2700):
                    plane.set(grown(small, extra))
                goes_on = frames.goes_on()
            tally.check(frames.sent, range(1, 9))
        if goes_on:
            return
    raise AssertionError("the flood was over before the last change")


def syn(source_port: int = 1, port: int = 81) -> bytes:
    """A SYN from the client; its checksum is none that anybody looks at."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0) + bytes((192, 0, 2, 2)) + VIP4.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    segment = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 0x50, SYN, 1000, 0x1234, 0)
    return mac("d0") + mac("c0") + b"\x08\x00" + head + segment


def held_connection(bench: Rig, port: int) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection from that port of the client to port 82 of the VIP."""

    def listen() -> socket.socket:
        return socket.create_server((str(VIP4), 82))

    def connect() -> socket.socket:
        return socket.create_connection((str(VIP4), 82), timeout=REPEATS_S, source_address=("192.0.2.2", port))

    with inside(bench.member, listen) as listener:
        listener.settimeout(REPEATS_S)
        near = inside(bench.client, connect)
        far, _ = listener.accept()
    far.settimeout(REPEATS_S)
    return near, far


def cost_of_a_packet(plane: Plane, rnd: np.random.Generator) -> float:
    """Microseconds; the quickest of some tries, since others use this machine, too. Flows are new ones each time."""

    def tries() -> Iterator[float]:
        for _ in range(20):
            yield plane.ask("cost", [udp(int(port)) for port in rnd.integers(1024, 65000, 2000)])

    return min(tries())


def test_a_flood_of_syns_fills_nothing(bench: Rig, long: bool) -> None:
    """Memory stays as it is, connections go on and come about, and a packet costs what it cost before."""
    seconds = 30.0 if long else 5.0
    rnd = np.random.default_rng(1)
    with bench.plane() as plane, vips_at(bench.member):
        # What the member's own stack makes of a flood is not the question: SYNs go to an address that nobody has. So
        # does whatever of a connection goes to the wrong member.
        server, hole = member(bench, 1), member(bench, 2, mac=bytes((2, 0, 0, 0, 1, 99)))
        services = [
            TableService(i, name, VIP4, protocol, (PortRange(port, port),), HashMode.FIVE_TUPLE, slots)
            for i, (name, protocol, port, slots) in enumerate(
                (
                    ("web", Protocol.TCP, 80, cycle(1)),
                    ("flooded", Protocol.TCP, 81, cycle(2)),
                    ("held", Protocol.TCP, 82, cycle(1, 2)),
                    ("dns", Protocol.UDP, 80, cycle(1, 2)),
                )
            )
        ]
        plane.set(ForwardingTables(SECRET, tuple(services), {1: server, 2: hole}))
        port = next(port for port in range(20_000, 21_000) if plane.explain(syn(port, 82)).member == 1)
        end = serve_tcp(bench.member, str(VIP4))
        try:
            near, far = held_connection(bench, port)
            with near, far:
                assert upload(bench.client, str(VIP4), 1000) == 1000
                before, cost_before = plane.ask("facts"), cost_of_a_packet(plane, rnd)
                sizes, kept = [], 0
                with flood(bench, syn(), seconds, sources=17) as frames:
                    while frames.goes_on():
                        sizes.append(upload(bench.client, str(VIP4), 200_000, REPEATS_S))
                        near.sendall(sizes[-1].to_bytes(4))
                        kept += far.recv(4, socket.MSG_WAITALL) == sizes[-1].to_bytes(4)
                after, cost_after = plane.ask("facts"), cost_of_a_packet(plane, rnd)
        finally:
            end()
        counters = plane.counters()
        flooded = counters.services["flooded", str(VIP4)]
        more = after["resident"] - before["resident"]
        print(
            f"{frames.sent} SYNs in {seconds:g} s, {flooded.packets} forwarded; {len(sizes)} uploads; "
            f"{cost_before:.2f}, {cost_after:.2f} us a test run; {more} bytes more"
        )
        assert set(sizes) == {200_000}
        assert kept == len(sizes)
        assert frames.sent > 50_000 * seconds
        assert flooded.new_flows == flooded.packets > frames.sent * 0.5
        assert counters.services["held", str(VIP4)].new_flows == 1
        assert after["maps"] == before["maps"]
        assert more < 8 << 20
        assert cost_after < 1.5 * cost_before


def placed_one_by_one(bench: Rig, *chosen: int) -> ForwardingTables:
    """A service on port 82 whose new connections go to some of two members: a server, and an address that nobody has.
    By its slots alone, whatever comes goes to the latter."""
    server, hole = member(bench, 1), member(bench, 2, mac=bytes((2, 0, 0, 0, 1, 99)))
    service = TableService(
        0,
        "held",
        VIP4,
        Protocol.TCP,
        (PortRange(82, 82),),
        HashMode.FIVE_TUPLE,
        cycle(2),
        placement=Placement.PER_FLOW,
        choices=np.array(chosen, np.uint16),
    )
    return ForwardingTables(SECRET, (service,), {1: server, 2: hole})


def goes_on(near: socket.socket, far: socket.socket) -> bool:
    near.sendall(b"ping")
    return far.recv(4, socket.MSG_WAITALL) == b"ping"


def test_a_flood_of_syns_leaves_established_flows_alone(bench: Rig, long: bool) -> None:
    """Where every flow is remembered, those of a flood push out each other, and connections that were there go on."""
    seconds = 30.0 if long else 4.0
    with bench.plane(pins=4096) as plane, vips_at(bench.member):
        plane.set(placed_one_by_one(bench, 1))
        near, far = held_connection(bench, 20_000)
        with near, far:
            assert goes_on(near, far)
            plane.set(placed_one_by_one(bench, 2))
            before, rounds = plane.ask("facts"), 0
            with flood(bench, syn(port=82), seconds, sources=17) as frames:
                while frames.goes_on():
                    assert goes_on(near, far)
                    rounds += 1
            after = plane.ask("facts")
            live, _, _ = plane.ask("remembered")
        details = plane.counters().details
    print(f"{frames.sent} SYNs in {seconds:g} s, {rounds} rounds; {details}")
    assert rounds > 10
    assert frames.sent > 10_000 * seconds
    assert after["maps"] == before["maps"]
    assert len(live) <= 4096
    assert live.member[live.state == PinState.OPEN].tolist() == [1]
    assert details["pins_made"] > 4096
    assert details["pins_evicted_new"] > 4096
    assert details["pins_evicted_open"] == 0


def test_larger_maps_keep_what_is_remembered(bench: Rig) -> None:
    """Tables that outgrow the maps come with another program, which goes on with the flows of the one before."""
    with bench.plane() as plane, vips_at(bench.member):
        plane.set(placed_one_by_one(bench, 1))
        near, far = held_connection(bench, 20_001)
        with near, far:
            assert goes_on(near, far)
            others = placed_one_by_one(bench, 2)
            for extra in (0, 300, 900):
                plane.set(grown(others, extra))
                assert goes_on(near, far)
                live, delays, _ = plane.ask("remembered")
                assert live.member.tolist() == [1]
                assert delays["count"].tolist()[1] == 1
                plane.check()
                assert plane.describe()["mode_d0"] == "native", "nothing speaks against the program"
        assert plane.counters().details["pins_made"] == 1

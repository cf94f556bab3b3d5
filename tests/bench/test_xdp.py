"""What the XDP benchmark measures is what it says: the packets it makes, the program that gets them, what it counts."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from appliance.bpf.libbpf import Object, TestRunner
from appliance.dataplane.xdp.program import Program
from appliance.model import Delivery
from appliance.packet.checksum import checksum
from tests.bench import xdp
from tests.bench.xdp import (
    ACK,
    CLIENT_MAC,
    FRAME,
    IPIP,
    L2,
    MEMBER_MAC,
    OUR_MAC,
    SETTING,
    SYN,
    VIP4,
    VIP6,
    XDP_TX,
    Front,
    Traffic,
    compile_programs,
    loaded,
    net,
    over,
    tables,
)
from tests.bench.xdp_change import Stopwatch


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    compile_programs(folder)
    return folder


@pytest.fixture
def front(objects: Path) -> Iterator[Front]:
    made = Front(objects / "front.bpf.o")
    yield made
    made.close()


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    """The product's program with tables as the parameters say."""
    made = loaded(tables(**request.param))
    yield made
    made.close()


def frames(front: Front, traffic: Traffic, count: int) -> list[bytes]:
    """What front.bpf.c hands over: the program behind it leaves frames as they are."""
    front.aim(front.object.program("empty"), traffic)
    runner = TestRunner(front.object.program("front"))
    return [runner.run(front._frame).frame for _ in range(count)]


def flow(frame: bytes) -> tuple[bytes, int, bytes]:
    """Source, source port, destination."""
    at, size = (22, 16) if frame[12:14] == b"\x86\xdd" else (26, 4)
    port = int.from_bytes(frame[at + 2 * size : at + 2 * size + 2], "big")
    return frame[at : at + size], port, frame[at + size : at + 2 * size]


@pytest.mark.root
@pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])
def test_as_many_flows_as_are_asked_for(front: Front, v6: bool) -> None:
    """Eight flows are eight, each as often as the others; one is one; half a million do not come twice soon."""
    counts = Counter(flow(frame) for frame in frames(front, Traffic(8, v6=v6), 800))
    assert len(counts) == 8
    assert max(counts.values()) < 3 * min(counts.values())
    assert len({flow(frame) for frame in frames(front, Traffic(1, v6=v6), 20)}) == 1
    many = [flow(frame) for frame in frames(front, Traffic(524_288, v6=v6), 800)]
    assert len(set(many)) > 780
    assert many != sorted(many)


@pytest.mark.root
@pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])
def test_every_service_gets_its_packets(front: Front, v6: bool) -> None:
    """Destinations are the VIPs of all services, in equal numbers."""
    counts = Counter(flow(frame)[2] for frame in frames(front, Traffic(1024, 50, v6=v6), 1000))
    first = int(VIP6 if v6 else VIP4)
    assert set(counts) == {ip_address(first + number).packed for number in range(50)}
    assert min(counts.values()) >= 10


@pytest.mark.root
@pytest.mark.parametrize("flags", [ACK, SYN])
def test_packets_are_whole(front: Front, flags: int) -> None:
    """Addresses, TTL, flags and the checksum of the IPv4 header are right in every packet."""
    for frame in frames(front, Traffic(65_536, 100, flags=flags), 300):
        assert frame[:14] == OUR_MAC + CLIENT_MAC + b"\x08\x00"
        assert len(frame) == FRAME == 14 + int.from_bytes(frame[16:18], "big")
        assert checksum(frame[14:34]) == 0
        assert (frame[22], frame[47]) == (64, flags)


@pytest.mark.root
def test_datagrams_are_whole(front: Front) -> None:
    """The same of UDP: its length is right, too."""
    for frame in frames(front, Traffic(65_536, 100, udp=True), 300):
        assert len(frame) == FRAME == 34 + int.from_bytes(frame[38:40], "big")
        assert checksum(frame[14:34]) == 0
        assert (frame[23], frame[36:38]) == (17, (80).to_bytes(2, "big"))


@pytest.mark.root
@pytest.mark.parametrize("traffic", [Traffic(1024), Traffic(1024, flags=SYN)], ids=["ack", "syn"])
def test_what_is_to_be_remembered_is(front: Front, traffic: Traffic) -> None:
    """In the window of the benchmark each flow has its place, and its next packet finds it."""
    wanted = tables(IPIP, v6=False)
    one = wanted.services[0]
    owners = one.slots & np.uint32(0xFFFF)
    window = owners | (owners + np.uint32(1)) % np.uint32(8) << np.uint32(16)
    program = loaded(replace(wanted, services=(replace(one, slots=window),)))
    try:
        front.aim(program.fd, traffic)
        verdict, _ = front.run(30_000)
        assert verdict == XDP_TX
        live = program.pin_table().live()
        assert len(live) == 1024
        primary, previous = (owners[(live.flows["hash32"].astype(np.uint64) * len(owners)) >> 32], live.member)
        assert (previous == (primary if traffic.flags == SYN else (primary + 1) % 8)).all()
    finally:
        program.close()


@pytest.mark.root
@pytest.mark.parametrize(
    ("program", "kind"),
    [
        pytest.param({"delivery": L2, "v6": False}, L2, id="l2"),
        pytest.param({"delivery": IPIP, "v6": False}, IPIP, id="ipip"),
        pytest.param({"delivery": IPIP, "v6": True}, IPIP, id="ip6ip6"),
    ],
    indirect=["program"],
)
def test_each_repetition_is_as_the_first(front: Front, program: Program, kind: Delivery) -> None:
    """What a program does to a packet is undone before the next: no header on a header, no TTL that runs out."""
    v6 = program.tables.tables.services[0].vip.version == 6
    front.aim(program.fd, Traffic(1024, v6=v6))
    outer = 0 if kind is L2 else 40 if v6 else 20
    runner = TestRunner(front.object.program("front"))
    for repeat in (1, 2, 1000):
        verdict, frame, _ = runner.run(front._frame, repeat=repeat)
        assert verdict == XDP_TX
        assert len(frame) == FRAME + outer
        assert (frame[:4], frame[6:12]) == (MEMBER_MAC[:4], OUR_MAC)
        inner = frame[14 + outer :]
        assert inner[7 if v6 else 8] == (64 if kind is L2 else 63)
        assert v6 or checksum(inner[:20]) == 0


@pytest.mark.root
@pytest.mark.parametrize("program", [{"delivery": IPIP, "v6": False, "services": 100}], indirect=True)
def test_the_program_counts_what_is_measured(front: Front, program: Program) -> None:
    """Each repetition is one packet of one service and of one member in the real counters, and none is passed up."""
    front.aim(program.fd, Traffic(65_536, 100))
    front.run(20_000)
    counted = program.tables.traffic()
    services, members = counted.services, counted.members
    assert sum(traffic.packets for traffic in services.values()) == 20_000
    assert sum(traffic.packets for traffic in members.values()) == 20_000
    assert sum(traffic.new_flows for traffic in services.values()) == 0
    assert len(services) == 100
    assert min(traffic.packets for traffic in services.values()) > 150
    assert len(members) == 8
    assert min(traffic.packets for traffic in members.values()) > 1500
    assert not any(program.tables.exits().values())
    front.aim(program.fd, Traffic(65_536, 100, flags=SYN))
    front.run(1000)
    assert sum(traffic.new_flows for traffic in program.tables.traffic().services.values()) == 1000


@pytest.mark.root
def test_the_sender_is_told_from_stations_at_once(front: Front) -> None:
    """The client's address is not one of those that the program looks up a second time."""
    for delivery in (L2, IPIP):
        macs = {OUR_MAC[4:]} | {m.next_hop.mac[4:] for m in tables(delivery, v6=False, pools=1000).members.values()}
        assert CLIENT_MAC[4:] not in macs


@pytest.mark.root
def test_the_stand_in_remembers_every_flow(front: Front, objects: Path) -> None:
    """The program with the kernel's flow table has exactly the flows that there were, and forwards all the same."""
    program = loaded(tables(IPIP, v6=False), objects / "with_lru.bpf.o", ("with_lru",))
    try:
        front.aim(program.fd, Traffic(1024))
        verdict, _ = front.run(30_000)
        assert verdict == XDP_TX
        assert len(set(program._object.map("flows").keys())) == 1024
        members = program.tables.traffic().members
        assert sum(traffic.packets for traffic in members.values()) == 30_000
    finally:
        program.close()


@pytest.mark.root
def test_setting_is_that_of_the_program(objects: Path) -> None:
    """Python and front.bpf.c agree about the structure between them."""
    with Object(objects / "front.bpf.o") as opened:
        struct_ = opened.struct("setting")
    assert SETTING.fields is not None
    ours = {name: offset for name, (_, offset, *_) in SETTING.fields.items()}
    assert {name: place.offset for name, place in struct_.fields.items()} == ours
    assert struct_.size == SETTING.itemsize


def test_the_harness_is_taken_off_within_each_round() -> None:
    """Rounds of different speed give the same ratio, and a slow one does not shift the others."""
    times = {"empty": [50.0, 100.0, 50.0], "mine": [100.0, 200.0, 100.0], "theirs": [150.0, 300.0, 150.0]}
    assert net(times, "mine", "empty") == [50.0, 100.0, 50.0]
    assert over(net(times, "mine", "empty"), net(times, "theirs", "empty")) == [0.5, 0.5, 0.5]


def test_a_ratio_is_judged_by_the_median() -> None:
    """One bad round neither misses a goal nor meets it."""
    figure = xdp.ratio("x", [10.0, 10.0, 90.0], [100.0, 100.0, 100.0], "ns", 0.2, "")
    assert (figure.ratio, figure.ok) == (0.1, True)
    figure = xdp.rate_ratio("y", {"a": [90.0, 90.0, 10.0], "b": [100.0, 100.0, 100.0]}, "a", "b", 0.95)
    assert (figure.ratio, figure.ok) == (0.9, False)


def test_what_happens_behind_a_change_does_not_count_as_before_it() -> None:
    """Waiting that ends after the tables are in force is no part of what it took to put them in force."""
    watch = Stopwatch()
    watch.calls = {"wait": [(1.0, 1.25), (2.0, 3.0)], "stage": [(1.0, 1.75)]}
    assert watch.spent("wait", before=1.75) == 0.25
    assert watch.spent("wait", before=3.0) == 1.25
    assert watch.spent("publish", before=3.0) == 0


def test_a_watched_function_is_the_same_but_for_the_record() -> None:
    """Results and exceptions come through, and every call is recorded with its beginning and its end."""

    class Worker:
        def work(self, number: int) -> int:
            return 100 // number

    watch = Stopwatch()
    watch.watch(Worker, "work", "job")
    assert Worker().work(5) == 20
    with pytest.raises(ZeroDivisionError):
        Worker().work(0)
    assert len(watch.calls["job"]) == 2
    assert all(begin <= end for begin, end in watch.calls["job"])

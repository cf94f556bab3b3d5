"""Samples of what becomes of single packets."""

from collections.abc import Iterator
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from appliance.dataplane import auto
from appliance.dataplane.events import KEPT, EventLog, PacketEvent, describe_frame
from appliance.dataplane.fake import FakeDataPlane
from appliance.dataplane.raw import worker as module
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.idents import Idents
from appliance.dataplane.raw.layout import ETHERNET, Columns, stride_for
from appliance.dataplane.raw.worker import Port, Work, Worker
from appliance.dataplane.xdp.plane import XdpDataPlane
from appliance.forwarding import ForwardingTables, NextHop, TableMember, TableService
from appliance.model import HashMode, PortRange, Protocol
from appliance.packet.checksum import checksum
from tests.unit.dataplane.frames import CLIENT_MAC, INGRESS, L3, OUR_MAC, cycle

VIP, CLIENT = ip_address("198.51.100.7"), ip_address("192.0.2.7")
HOP = NextHop(2, "d1", bytes(6), b"\2\0\0\0\1\1", 1500, ip_address("192.0.2.1"), True)


def udp(port: int, size: int = 8, fragment: int = 0x4000) -> bytes:
    """A frame from the client to the VIP, with so many bytes of payload."""
    head = b"\x45\0" + (28 + size).to_bytes(2, "big") + b"\0\1" + fragment.to_bytes(2, "big") + b"\x40\x11\0\0"
    head += CLIENT.packed + VIP.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    segment = (40000).to_bytes(2, "big") + port.to_bytes(2, "big") + (8 + size).to_bytes(2, "big") + bytes(2 + size)
    return OUR_MAC + CLIENT_MAC + b"\x08\0" + head + segment


class Bench:
    """A worker whose thread is never started, on slots in plain memory, at a time of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        member = TableMember(1, "web/web1", ip_address("203.0.113.1"), L3, HOP)
        ports = (PortRange(5000, 5000),)
        service = TableService(0, "web", VIP, Protocol.UDP, ports, HashMode.FIVE_TUPLE, cycle(1, size=1000))
        tables = ForwardingTables(bytes(16), (service,), {1: member})
        frames = np.zeros((64, stride_for(1500)), np.uint8)
        columns = Columns(frames)
        self.sent: list[bytes] = []
        self.events = EventLog()
        sender = SimpleNamespace(send_frame=self.sent.append, send=lambda *_: None)
        ring = SimpleNamespace(interface=SimpleNamespace(name="eth1"), number=0, end=64)
        self.port = cast("Port", SimpleNamespace(ingress=INGRESS, ring=ring, slow=None, reply=sender))
        self.work = Work(Compiled(tables, [INGRESS]), cast("Any", {2: sender}))
        area = cast("Any", SimpleNamespace(columns=columns, frames=frames))
        self.worker = Worker(area, [self.port], self.work, 64, 6, self.events, Idents())
        self.columns = columns

    def forward(self, frame: bytes) -> None:
        """By the reference path."""
        self.worker._forward_frame(frame, self.port, self.work)

    def batch(self, frames: list[bytes]) -> None:
        for row, frame in enumerate(frames):
            self.columns.frames[row, ETHERNET : ETHERNET + len(frame)] = np.frombuffer(frame, np.uint8)
            self.columns.captured[row] = len(frame)
            self.columns.status[row] = 1
        self.worker._batch_from(0, self.port, self.work)
        self.columns.status[:] = 0  # as a sender would

    def seen(self) -> list[tuple[str, str]]:
        return [(event.what, event.reason) for event in self.events.latest()]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(monkeypatch)
    yield made
    made.worker.stop()


def test_a_log_keeps_the_latest() -> None:
    """Old samples make room for new ones, and all are counted."""
    log = EventLog()
    for number in range(KEPT + 10):
        log.add(PacketEvent(number, "drop", "malformed", "eth1", 60))
    assert [event.at for event in log.latest()] == list(range(10, KEPT + 10))
    assert log.seen == KEPT + 10


@pytest.mark.parametrize(
    ("frame", "described"),
    [
        (udp(5000), ("192.0.2.7:40000", "198.51.100.7:5000", 17)),
        (udp(5000)[:36], ("192.0.2.7", "198.51.100.7", 17)),
        (udp(5000, fragment=0x0010), ("192.0.2.7", "198.51.100.7", 17)),
        (udp(5000)[:20], ("02:71:00:00:00:01", "02:71:00:00:00:02", None)),
        (
            OUR_MAC
            + CLIENT_MAC
            + b"\x86\xdd\x60"
            + bytes(5)
            + b"\x06\x40"
            + ip_address("::1").packed
            + ip_address("::2").packed
            + b"\0\1\0\2",
            ("[::1]:1", "[::2]:2", 6),
        ),
    ],
    ids=["udp", "cut", "fragment", "no-ip", "ipv6"],
)
def test_frames_are_described_as_far_as_they_go(frame: bytes, described: tuple[str, str, int | None]) -> None:
    """Ports where there are any, addresses where there are any, else the MAC addresses."""
    assert describe_frame(frame) == described


def test_drops_and_replies_are_sampled(bench: Bench) -> None:
    """A packet that is too big is a drop and a reply, with what is known of it; one that is forwarded is no sample."""
    bench.forward(udp(5000))
    bench.forward(udp(9))
    bench.forward(udp(5000, 1472))
    assert len(bench.sent) == 2
    assert bench.seen() == [("drop", "no_service"), ("drop", "too_big"), ("reply", "icmp_too_big")]
    event = bench.events.latest()[0]
    assert event == PacketEvent(100.0, "drop", "no_service", "eth1", 50, "192.0.2.7:40000", "198.51.100.7:9", 17)
    assert type(event.reason) is str


def test_a_flood_is_cut_off_and_hides_nothing(bench: Bench) -> None:
    """Twenty samples at once and twenty a second of each reason, so what is rare is still seen."""
    for _ in range(1000):
        bench.forward(udp(9))
    bench.forward(udp(5000, fragment=0x0010))
    assert bench.seen() == [("drop", "no_service")] * 20 + [("drop", "fragment")]
    bench.now += 0.5
    for _ in range(1000):
        bench.forward(udp(9))
    assert bench.events.seen == 31


def test_batches_are_sampled(bench: Bench) -> None:
    """Of what a batch drops, one frame is a sample, with the reason that the reference gives."""
    bench.batch([udp(9)] * 30)
    assert bench.seen() == [("drop", "no_service")]
    assert bench.worker.vector.reasons == {"no_service": 30}
    bench.batch([udp(5000)] * 30)
    assert bench.events.seen == 1
    for _ in range(100):
        bench.batch([udp(9)] * 10)
    assert bench.events.seen == 20


def sample(at: float) -> PacketEvent:
    return PacketEvent(at, "drop", "malformed", "eth1", 60)


async def test_program_and_slow_path_are_told_together() -> None:
    """The XDP plane's samples are those of both, in the order of time."""
    slow = FakeDataPlane()
    slow.sampled = (sample(2.0), sample(4.0))
    plane = XdpDataPlane(("eth1",), slow_path=slow)
    for at in (1.0, 3.0):
        plane.events.add(sample(at))
    assert [event.at for event in await plane.samples()] == [1.0, 2.0, 3.0, 4.0]


async def test_auto_tells_those_of_the_chosen_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after it has fallen back."""
    xdp, raw = FakeDataPlane(), FakeDataPlane()
    monkeypatch.setattr(auto, "XdpDataPlane", lambda _interfaces, **_: xdp)
    monkeypatch.setattr(auto, "RawDataPlane", lambda _interfaces, **_: raw)
    xdp.sampled, raw.sampled = (sample(1.0),), (sample(2.0),)
    plane = auto.AutoDataPlane(("eth1",))
    assert await plane.samples() == xdp.sampled
    xdp.fail("no XDP here")
    await plane.start()
    assert await plane.samples() == raw.sampled
    assert (await plane.describe())["why_not_xdp"] == "no XDP here"

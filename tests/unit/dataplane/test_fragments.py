"""Fragments on the slow path of the raw plane: the forwarding thread's own code, with time and senders of ours."""

from collections.abc import Iterator
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import appliance.dataplane.raw.worker as module
from appliance.dataplane.events import EventLog
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.idents import Idents
from appliance.dataplane.raw.layout import Columns, stride_for
from appliance.dataplane.raw.worker import Port, Work, Worker
from appliance.forwarding import ForwardingTables, NextHop, TableMember, TableService
from appliance.model import HashMode, PortRange, Protocol
from appliance.packet.action import Reason
from appliance.packet.checksum import checksum
from appliance.packet.forward import PacketPath
from appliance.packet.fragments import HOLD_NS, LIFETIME_NS, Fragments
from tests.unit.dataplane.frames import INGRESS, L2, cycle

VIP4, VIP6 = ip_address("198.51.100.7"), ip_address("2001:db8:f::7")
PIECE = 64
CLIENTS = 5


def hop(index: int) -> NextHop:
    macs = bytes((2, 0, 0, 0, 2, 1)), bytes((2, 0, 0, 0, 0, index))
    return NextHop(2, "eth2", *macs, 1500, ip_address("203.0.113.9"), direct=True)


def tables(mode: HashMode = HashMode.FIVE_TUPLE) -> ForwardingTables:
    members = {
        index: TableMember(index, f"web/web{index}", ip_address(f"203.0.113.{index}"), L2, hop(index))
        for index in (1, 2, 3)
    }
    slots = cycle(1, 2, 3)
    services = tuple(
        TableService(number, "web", vip, Protocol.UDP, (PortRange(53, 53),), mode, slots)
        for number, vip in enumerate((VIP4, VIP6))
    )
    return ForwardingTables(bytes(range(16)), services, members)


def payload(version: int, client: int, ident: int, pieces: int) -> bytes:
    """A UDP datagram, of which every byte behind the header says whose it is."""
    size = pieces * PIECE
    port = 40000 + 100 * client + ident
    head = port.to_bytes(2, "big") + (53).to_bytes(2, "big") + size.to_bytes(2, "big") + bytes(2)
    return head + bytes((version, client, ident & 0xFF, 0)) * ((size - 8) // 4)


def frame(version: int, client: int, ident: int, number: int, pieces: int) -> bytes:
    """A fragment of it; the whole of it when it has only one piece."""
    body = payload(version, client, ident, pieces)[number * PIECE : (number + 1) * PIECE]
    more, offset = number < pieces - 1, number * PIECE // 8
    if version == 4:
        addresses = bytes((192, 0, 2, client)) + VIP4.packed
        head = b"\x45\0" + (20 + len(body)).to_bytes(2, "big") + ident.to_bytes(2, "big")
        head += (more << 13 | offset).to_bytes(2, "big") + b"\x40\x11"
        packet = head + checksum(head + bytes(2) + addresses).to_bytes(2, "big") + addresses + body
        return INGRESS.mac + bytes((2, 0, 0, 0, 0, 99)) + b"\x08\x00" + packet
    addresses = ip_address(f"2001:db8:{client}::1").packed + VIP6.packed
    extension = (
        b"" if pieces == 1 else bytes((17, 0)) + (offset << 3 | more).to_bytes(2, "big") + ident.to_bytes(4, "big")
    )
    head = (
        b"\x60\0\0\0" + (len(extension) + len(body)).to_bytes(2, "big") + (b"\x2c" if extension else b"\x11") + b"\x40"
    )
    return INGRESS.mac + bytes((2, 0, 0, 0, 0, 99)) + b"\x86\xdd" + head + addresses + extension + body


class Bench:
    """A forwarding thread that is not started, and whose rounds are ours."""

    def __init__(self, by: ForwardingTables) -> None:
        self.ns = 5_000_000_000
        self.sent: list[bytes] = []
        sender = SimpleNamespace(send_frame=self.sent.append)
        ring = SimpleNamespace(interface=SimpleNamespace(name="eth1"), number=0, end=64)
        self.port = cast("Port", SimpleNamespace(ingress=INGRESS, ring=ring, slow=None, reply=sender))
        compiled = Compiled(by, [INGRESS], fragments=Fragments(lambda: self.ns))
        self.work = Work(compiled, cast("Any", {member.next_hop.ifindex: sender for member in by.members.values()}))
        frames = np.zeros((1, stride_for(1500)), np.uint8)
        area = cast("Any", SimpleNamespace(columns=Columns(frames), frames=frames))
        self.worker = Worker(area, [self.port], self.work, 64, 6, EventLog(), Idents())

    def forward(self, frame: bytes, passed_ns: int = 0) -> None:
        """Time passes, and then a frame comes in."""
        self.wait(passed_ns)
        self.worker._forward_frame(frame, self.port, self.work)

    def wait(self, passed_ns: int) -> None:
        self.ns += passed_ns
        self.worker._give_up(self.worker._waiting.due(self.ns), self.work)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tables())
    monkeypatch.setattr(module.time, "monotonic_ns", lambda: made.ns)
    yield made
    made.worker.stop()


def place_of(by: ForwardingTables, version: int, client: int, ident: int) -> bytes:
    """The MAC address of the member of a datagram's flow: where a whole packet of the same ports goes."""
    return PacketPath(by).forward(frame(version, client, ident, 0, 1), INGRESS).frame[:6]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from((4, 6)),
        st.integers(1, CLIENTS),
        st.integers(0, 2),  # identification
        st.integers(0, 3),  # piece of four
        st.sampled_from((0, 0, 1, HOLD_NS // 3, HOLD_NS, LIFETIME_NS // 2)),
    ),
    max_size=120,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(events=EVENTS)
def test_any_order(monkeypatch: pytest.MonkeyPatch, events: list[tuple[int, int, int, int, int]]) -> None:
    """However fragments of many datagrams mix, are repeated and come late: each goes to the member of its flow, at the
    moment at which that is known, or is dropped after 2 ms."""
    by = tables()
    bench = Bench(by)
    monkeypatch.setattr(module.time, "monotonic_ns", lambda: bench.ns)
    firsts: dict[tuple[int, int, int], int] = {}
    held: list[tuple[int, tuple[int, int, int], bytes]] = []
    sent: list[bytes] = []
    dropped = 0

    def goes(name: tuple[int, int, int], one: bytes) -> bytes:
        return place_of(by, *name) + hop(1).source_mac + one[12:]

    for version, client, ident, number, passed in events:
        bench.forward(frame(version, client, ident, number, 4), passed)
        name, one = (version, client, ident), frame(version, client, ident, number, 4)
        due = [entry for entry in held if bench.ns - entry[0] >= HOLD_NS]
        for entry in due:
            # Of a datagram whose first has come it would not wait any more, unless that is forgotten.
            dropped += 1
            held.remove(entry)
        if number == 0:
            firsts[name] = bench.ns
            sent.append(goes(name, one))
            sent += [goes(name, other) for _, whose, other in held if whose == name]
            held = [entry for entry in held if entry[1] != name]
        elif bench.ns - firsts.get(name, -LIFETIME_NS) <= LIFETIME_NS:
            sent.append(goes(name, one))
        else:
            held.append((bench.ns, name, one))
        assert bench.sent == sent
        assert bench.worker.reasons[Reason.FRAGMENT] == dropped
    assert bench.worker.held_in_vain == dropped
    assert bench.worker.held >= dropped
    bench.worker.stop()


@pytest.mark.parametrize("version", [4, 6])
def test_reversed_datagrams_are_whole(bench: Bench, version: int) -> None:
    """When the first fragment comes last, all of them leave with it."""
    for number in (3, 2, 1):
        bench.forward(frame(version, 1, 1, number, 4), HOLD_NS // 4)
    assert bench.sent == []
    bench.forward(frame(version, 1, 1, 0, 4))
    assert len({out[:6] for out in bench.sent}) == 1
    assert len(bench.sent) == 4
    assert not bench.worker.reasons


def test_a_flood_of_orphans_ends(bench: Bench) -> None:
    """Later fragments without a first are dropped: when their time is over, or when their sender has its share."""
    for ident in range(1000):
        bench.forward(frame(4, 1, ident, 1, 4))
    assert bench.worker.reasons == {Reason.FRAGMENT: 1000 - 128}
    bench.forward(frame(4, 2, 7, 1, 4))
    bench.forward(frame(4, 2, 7, 0, 4))
    assert len(bench.sent) == 2, "others are not disturbed"
    bench.wait(HOLD_NS)
    assert bench.worker.reasons == {Reason.FRAGMENT: 1000}
    assert (bench.worker.held, bench.worker.held_in_vain) == (1001, 1000)


def test_a_protocol_that_only_the_first_tells(bench: Bench) -> None:
    """In IPv6, extension headers may stand behind the fragment header: later fragments name the first of these."""
    first, later = frame(6, 1, 1, 0, 4), frame(6, 1, 1, 3, 4)
    options = bytes((17, 0, 1, 4, 0, 0, 0, 0))
    length = int.from_bytes(first[18:20], "big") + len(options)
    first = first[:18] + length.to_bytes(2, "big") + first[20:54] + b"\x3c" + first[55:62] + options + first[62:]
    later = later[:54] + b"\x3c" + later[55:]
    bench.forward(later)
    assert bench.sent == []
    bench.forward(first)
    assert [out[12:] for out in bench.sent] == [first[12:], later[12:]]
    assert {out[:6] for out in bench.sent} == {place_of(tables(), 6, 1, 1)}


def test_a_first_fragment_that_is_dropped_takes_nobody_along(bench: Bench) -> None:
    """Nothing is remembered of a first fragment that was not sent."""
    wrong = frame(4, 1, 1, 0, 4)[:36] + (9).to_bytes(2, "big") + frame(4, 1, 1, 0, 4)[38:]
    bench.forward(wrong)
    bench.forward(frame(4, 1, 1, 1, 4))
    bench.wait(HOLD_NS)
    assert bench.worker.reasons == {Reason.NO_SERVICE: 1, Reason.FRAGMENT: 1}
    assert bench.sent == []

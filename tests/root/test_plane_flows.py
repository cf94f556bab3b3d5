"""Flows through changes, by real frames in real time: the same tests for each data plane."""

import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.dataplane.pins import PinTable
from appliance.forwarding import (
    NO_MEMBER,
    SLOTS,
    ChoiceOrder,
    ForwardingTables,
    Placement,
    TableMember,
    TableService,
)
from appliance.model import HashMode, PortRange, Protocol
from appliance.packet.action import By, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress, PacketPath
from appliance.packet.placement import PinState
from appliance.ring.slots import pack
from tests.netns import until
from tests.root.plane_child import KINDS
from tests.root.plane_rig import Plane, Rig, inside, mac, rig
from tests.root.test_planes import SECRET, VIP4, VIP6, drops_of, member, serve_tcp, vips_at
from tests.unit.dataplane.frames import L2

pytestmark = pytest.mark.root

ACK, SYN, FIN, RST = 0x10, 0x02, 0x11, 0x04
OLD, NEW = 1, 2
"""Members of most of these tests: the flows from before are on the first, new ones go to the second."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bench(kind: str) -> Iterator[Rig]:
    with rig(kind) as made:
        yield made


def away(index: int) -> bytes:
    """MAC addresses of members that are told apart by them."""
    return bytes((2, 0x71, 0, 0, 1, index))


def people(bench: Rig, *indices: int) -> dict[int, TableMember]:
    return {index: member(bench, index, L2, mac=away(index)) for index in indices}


def tables(
    members: dict[int, TableMember], primary: int = NEW, previous: int = OLD, **changes: Any
) -> ForwardingTables:
    """One service on two VIPs, all slots of which have the same word."""
    slots = pack(np.full(SLOTS, primary, np.uint32), np.full(SLOTS, previous, np.uint32))
    services = tuple(
        replace(
            TableService(number, "web", vip, Protocol.TCP, (PortRange(80, 80),), HashMode.FIVE_TUPLE, slots),
            **changes,
        )
        for number, vip in enumerate((VIP4, VIP6))
    )
    return ForwardingTables(SECRET, services, members)


def tcp(port: int, flags: int, vip: str = str(VIP4)) -> bytes:
    return packet(struct.pack("!HHIIBBHHH", port, 80, port, 2, 0x50, flags, 500, 0, 0), 6, vip)


def udp(port: int, vip: str = str(VIP4)) -> bytes:
    return packet(struct.pack("!HHHH", port, 80, 18, 0) + port.to_bytes(2, "big") * 5, 17, vip)


def packet(segment: bytes, protocol: int, vip: str) -> bytes:
    address = ip_address(vip)
    if address.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64)
        head += ip_address("2001:db8:1::2").packed + address.packed
        return mac("d0") + mac("c0") + b"\x86\xdd" + head + segment
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, 64, protocol, 0)
    head += ip_address("192.0.2.2").packed + address.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return mac("d0") + mac("c0") + b"\x08\x00" + head + segment


def port_of(frame: bytes) -> int:
    at = 34 if frame[12:14] == b"\x08\x00" else 54
    return int.from_bytes(frame[at : at + 2], "big")


def deliver(bench: Rig, *frames: bytes, dropped: int = 0) -> list[tuple[int, int]]:
    """Send frames; (source port, member) of those that came out, sorted.

    Args:
        dropped: nobody waits for so many of them, and the caller has to know when they would have come out.
    """
    bench.far.receive(0)
    bench.near.send(*frames)
    return came_out(bench, len(frames) - dropped)


def came_out(bench: Rig, wanted: int = 0) -> list[tuple[int, int]]:
    """So many at least, or whatever there is by now."""
    got = bench.far.receive(wanted, keep=lambda frame: frame[:5] == away(0)[:5])
    return sorted((port_of(frame), frame[5]) for frame in got)


def all_to(index: int, ports: Iterable[int]) -> list[tuple[int, int]]:
    return [(port, index) for port in sorted(ports)]


def states(plane: Plane) -> dict[int, tuple[int, int]]:
    """Of what is remembered: member and state, by the client's port."""
    live, _, _ = plane.ask("remembered")
    ports = [int.from_bytes(int(ports).to_bytes(4, "little")[:2], "big") for ports in live.flows["ports"]]
    return dict(zip(ports, zip(live.member.tolist(), live.state.tolist(), strict=True), strict=True))


@pytest.mark.parametrize("vip", [str(VIP4), str(VIP6)])
@pytest.mark.parametrize("size", [3, 200], ids=["few", "many"])
def test_flows_stay_through_window_and_tail(bench: Rig, size: int, vip: str) -> None:
    """Flows from before a change stay with their member, new ones go to the new one, and so it remains in the tail."""
    older, newer, unseen = range(1000, 1000 + size), range(2000, 2000 + size), range(3000, 3000 + size)
    with bench.plane() as plane:
        serving = people(bench, OLD, NEW)
        plane.set(tables(serving, OLD, OLD))
        assert deliver(bench, *(tcp(port, ACK, vip) for port in (*older, *newer))) == all_to(OLD, (*older, *newer))
        assert states(plane) == {}
        plane.set(tables(serving, NEW, OLD))
        assert deliver(bench, *(tcp(port, ACK, vip) for port in older)) == all_to(OLD, older)
        assert deliver(bench, *(tcp(port, SYN, vip) for port in newer)) == all_to(NEW, newer)
        assert states(plane) == dict.fromkeys(older, (OLD, PinState.NEW)) | dict.fromkeys(newer, (NEW, PinState.NEW))
        for after in (tables(serving, NEW, OLD), tables(serving, NEW, NO_MEMBER)):
            plane.set(after)
            assert deliver(bench, *(tcp(port, ACK, vip) for port in older)) == all_to(OLD, older)
            assert deliver(bench, *(tcp(port, ACK, vip) for port in newer)) == all_to(NEW, newer)
            assert plane.explain(tcp(older[0], ACK, vip)).by is By.PIN
        assert states(plane) == dict.fromkeys(older, (OLD, PinState.OPEN)) | dict.fromkeys(newer, (NEW, PinState.OPEN))
        assert deliver(bench, *(tcp(port, ACK, vip) for port in unseen)) == all_to(NEW, unseen)
        counters = plane.counters()
        assert counters.members[f"web/m{NEW}"].new_flows == counters.services["web", vip].new_flows == size
        assert counters.details["pins_made"] == 3 * size
        assert not any(number for name, number in counters.details.items() if name.startswith("pins_evicted"))
        assert not drops_of(counters)


@pytest.mark.parametrize("size", [3, 200], ids=["few", "many"])
def test_others_are_told_of_a_connection_before_it_goes_where_they_do_not_presume_it(bench: Rig, size: int) -> None:
    """No member sees a SYN of a window before it is told of; what cannot be told begins with the previous owner."""
    opened, refused, older = range(1000, 1000 + size), range(2000, 2000 + size), range(3000, 3000 + size)
    with bench.plane() as plane:
        plane.set(tables(people(bench, OLD, NEW), NEW, OLD))
        plane.ask("tell", size, 0.15 / size)
        bench.far.receive(0)
        bench.near.send(*(tcp(port, SYN) for port in opened))
        seen = {}
        while len(seen) < size:
            try:
                frame = bench.far.socket.recv(2000)
            except TimeoutError:  # the rig's, which is short
                continue
            if frame[:5] == away(0)[:5]:
                seen[port_of(frame)] = time.monotonic(), frame[5]
        told = plane.ask("told")
        assert {member for _, member in seen.values()} == {NEW}
        assert told.keys() == set(opened)
        assert all(told[port] < seen[port][0] for port in opened)
        assert deliver(bench, *(tcp(port, SYN) for port in refused)) == all_to(OLD, refused)
        assert deliver(bench, *(tcp(port, ACK) for port in older)) == all_to(OLD, older)
        for ports, member in ((opened, NEW), (refused, OLD)):
            assert deliver(bench, *(tcp(port, ACK) for port in ports)) == all_to(member, ports)
        assert plane.ask("told").keys() == set(opened), "nothing else has to be told at once"


def test_connections_begin_where_others_presume_them_while_nobody_tells(bench: Rig, kind: str) -> None:
    """A program that has outlived its forwarding thread sends nobody where others would not look for it; and without a
    program there is nobody to send."""
    ports = range(1000, 1050)
    with bench.plane() as plane:
        plane.set(tables(people(bench, OLD, NEW), NEW, OLD))
        plane.ask("tell", 1000, 0.0)
        assert deliver(bench, *(tcp(port, SYN) for port in ports)) == all_to(NEW, ports)
        plane.ask("injure", 0.0)
        bench.near.send(tcp(9, SYN))  # the thread dies of it
        time.sleep(0.5)
        more = range(2000, 2050)
        for some, member, flags in ((more, OLD, SYN), (ports, NEW, ACK), (more, OLD, ACK)):
            frames = [tcp(port, flags) for port in some]
            if kind != "raw":
                assert deliver(bench, *frames) == all_to(member, some)
            else:
                assert deliver(bench, *frames, dropped=len(frames)) == []
        time.sleep(0.5)
        assert came_out(bench) == []


def test_a_flood_of_connections_in_a_window_is_not_left_to_the_thread(bench: Rig, kind: str) -> None:
    """A program passes up some hundred in a moment, and what is more than that begins with the previous owner. Without
    a program, whoever tells says how much is too much."""
    ports, by_index = range(10_000, 22_000), people(bench, OLD, NEW)
    with bench.plane() as plane:
        plane.set(tables(by_index, NEW, OLD))
        plane.ask("tell", 1 << 30 if kind != "raw" else 5_000, 0.0)
        bench.far.receive(0)
        bench.near.send(*(tcp(port, SYN) for port in ports))
        until(lambda: len(states(plane)) == len(ports), "all are remembered")
        counters = plane.counters()
        opened = counters.members[by_index[NEW].id].new_flows
        assert 0 < opened < len(ports) * 0.9
        if kind != "raw":
            assert counters.details["xdp_slow_new_flow"] == opened
        assert plane.ask("told").keys() == {
            port for port, (member, _) in states(plane).items() if member == NEW and port in ports
        }


def test_a_repeated_syn_stays_and_a_later_one_is_a_new_connection(bench: Rig) -> None:
    """Within three seconds a SYN goes where the one before it went, whatever has changed; then by the slot."""
    unanswered, opened = 1000, 1001
    with bench.plane() as plane:
        serving = people(bench, OLD, NEW)
        plane.set(tables(serving, NEW, OLD))
        assert deliver(bench, *(tcp(port, SYN) for port in (unanswered, opened))) == all_to(NEW, (unanswered, opened))
        plane.set(tables(serving, OLD, NEW))
        again = [tcp(port, SYN) for port in (unanswered, opened, 1002)]
        assert deliver(bench, *again) == [(unanswered, NEW), (opened, NEW), (1002, OLD)]
        assert deliver(bench, tcp(opened, ACK)) == [(opened, NEW)]
        for port in (unanswered, opened):
            until(lambda: plane.explain(tcp(port, SYN)).member == OLD, "the SYN would open another connection")  # noqa: B023
        assert deliver(bench, tcp(unanswered, ACK)) == [(unanswered, NEW)]
        for flags in (SYN, ACK):
            assert deliver(bench, tcp(opened, flags)) == [(opened, OLD)]


def test_closed_flows_make_way(bench: Rig) -> None:
    """After FIN and RST the rest of a connection stays where it was, and the next one on its ports goes elsewhere."""
    with bench.plane() as plane:
        serving = people(bench, OLD, NEW)
        plane.set(tables(serving, NEW, OLD))
        ports = 1000, 1001
        assert deliver(bench, *(tcp(port, ACK) for port in ports)) == all_to(OLD, ports)
        plane.set(tables(serving, NEW, NO_MEMBER))
        assert deliver(bench, tcp(1000, FIN), tcp(1001, RST)) == all_to(OLD, ports)
        assert deliver(bench, *(tcp(port, ACK) for port in ports)) == all_to(OLD, ports)
        assert states(plane) == {1000: (OLD, PinState.FIN), 1001: (OLD, PinState.RST)}
        assert deliver(bench, *(tcp(port, SYN) for port in ports)) == all_to(NEW, ports)
        assert deliver(bench, *(tcp(port, ACK) for port in ports)) == all_to(NEW, ports)
        assert states(plane) == dict.fromkeys(ports, (NEW, PinState.OPEN))
        assert deliver(bench, tcp(1001, RST)) == [(1001, NEW)]
        until(lambda: set(states(plane)) == {1000}, "what was reset is forgotten")


def test_udp_flows_end_when_they_are_idle(bench: Rig) -> None:
    """A datagram keeps its flow where it is; when none has come for the idle timeout, the next one goes by the slot."""
    with bench.plane() as plane:
        serving = people(bench, OLD, NEW)
        plane.set(tables(serving, NEW, OLD, protocol=Protocol.UDP, idle_timeout_s=2))
        ports = 1000, 1001
        assert deliver(bench, *(udp(port) for port in ports)) == all_to(OLD, ports)
        plane.set(tables(serving, NEW, NO_MEMBER, protocol=Protocol.UDP, idle_timeout_s=2))

        def idle() -> bool:
            assert deliver(bench, udp(1000)) == [(1000, OLD)]
            return plane.explain(udp(1001)).by is By.SLOT

        until(idle, "the flow that nobody uses is over")
        assert deliver(bench, *(udp(port) for port in ports)) == [(1000, OLD), (1001, NEW)]


def test_flows_of_a_dead_member_move(bench: Rig) -> None:
    """What is remembered of a member that serves no more is nothing: its flows go by the slot, at once."""
    with bench.plane() as plane:
        plane.set(tables(people(bench, OLD, NEW), NEW, OLD))
        assert deliver(bench, tcp(1000, ACK), tcp(1001, SYN)) == [(1000, OLD), (1001, NEW)]
        plane.set(tables(people(bench, NEW, 3), 3, NO_MEMBER))
        assert deliver(bench, tcp(1000, ACK), tcp(1001, ACK)) == [(1000, 3), (1001, NEW)]


def test_while_nobody_takes_new_flows_old_ones_go_on(bench: Rig) -> None:
    """All members drain: a SYN is dropped as nobody's, packets of a connection reach its member."""
    with bench.plane() as plane:
        plane.set(tables(people(bench, OLD), NO_MEMBER, OLD))
        assert deliver(bench, tcp(1001, SYN), tcp(1000, ACK), dropped=1) == [(1000, OLD)]
        until(lambda: drops_of(plane.counters()) == {"no_member": 1}, "the SYN is counted")
        assert came_out(bench) == []
        assert plane.explain(tcp(1001, SYN)).verdict is Verdict.DROP


@pytest.mark.parametrize("size", [1, 40], ids=["few", "many"])
def test_flows_are_dealt_out_in_turn(bench: Rig, size: int) -> None:
    """An algorithm's choices are taken flow by flow, every member gets its share, and flows stay where they are."""
    choices = np.array([1, 2, 3, 2], np.uint16)
    with bench.plane() as plane:
        by = tables(people(bench, 1, 2, 3), 1, 1, placement=Placement.PER_FLOW, choices=choices)
        plane.set(by)
        ports = range(1000, 1000 + 4 * size)
        assert plane.explain(tcp(1000, SYN)).by is By.CHOICE
        opened = deliver(bench, *(tcp(port, SYN) for port in ports))
        shares = Counter(index for _, index in opened)
        assert len(opened) == len(ports)
        # Each CPU goes round by itself, so with more of them than one there may be a flow more or less.
        assert all(abs(shares[index] - wanted) <= 2 for index, wanted in ((1, size), (2, 2 * size), (3, size)))
        for flags in (ACK, SYN, ACK):
            assert deliver(bench, *(tcp(port, flags) for port in ports)) == opened
        assert plane.explain(tcp(1000, ACK)).by is By.PIN
        plane.set(replace(by, services=tuple(replace(one, choices=choices[:0]) for one in by.services)))
        assert deliver(bench, *(tcp(port, ACK) for port in (*ports, 999))) == [(999, 1), *opened]
        assert deliver(bench, tcp(998, SYN), tcp(999, ACK), dropped=1) == [(999, 1)]
        until(lambda: drops_of(plane.counters()) == {"no_member": 1}, "the SYN is counted")
        assert came_out(bench) == []


@pytest.mark.parametrize("order", ChoiceOrder)
def test_datagrams_are_dealt_out_one_by_one(bench: Rig, order: ChoiceOrder) -> None:
    """Placing packet by packet, the datagrams of one flow go to all members, and nothing is remembered."""
    choices = np.array([1, 2, 3], np.uint16)
    with bench.plane() as plane:
        changes = {"placement": Placement.PER_PACKET, "choices": choices, "choice_order": order}
        plane.set(tables(people(bench, 1, 2, 3), 1, 1, protocol=Protocol.UDP, **changes))
        shares = Counter(index for _, index in deliver(bench, *[udp(1000)] * 300))
        assert sum(shares.values()) == 300
        assert all(shares[index] > 50 for index in (1, 2, 3))
        if order is ChoiceOrder.SEQUENCE:
            assert max(shares.values()) - min(shares.values()) <= 2
        assert states(plane) == {}


def test_new_choices_are_no_news(bench: Rig, tmp_path: Path) -> None:
    """Algorithms make choices anew every second: that is logged at debug, and any other change at info."""
    choices = np.array([1, 2, 3], np.uint16)
    by = tables(people(bench, 1, 2, 3), 1, 1, placement=Placement.PER_FLOW, choices=choices)
    log = tmp_path / "log"
    with bench.plane(log=log) as plane:
        plane.set(by)
        assert set(levels(log, "plane.programmed")) == {"info"}
        log.write_text("")
        plane.set(replace(by, services=tuple(replace(one, choices=choices[::-1]) for one in by.services)))
        assert set(levels(log, "plane.programmed")) == {"debug"}
        log.write_text("")
        plane.set(tables(people(bench, 1, 2, 3), 2, 1, placement=Placement.PER_FLOW, choices=choices))
        assert set(levels(log, "plane.programmed")) == {"info"}


def levels(log: Path, event: str) -> list[str]:
    """Of each time that an event was logged."""
    return re.findall(rf"\[(\w+) *\] {re.escape(event)}", re.sub(r"\x1b\[[0-9;]*m", "", log.read_text()))


def test_looking_leaves_no_trace(bench: Rig) -> None:
    """`explain` says where a frame would go and why, as often as it is asked; nothing is remembered of it."""
    choices = np.array([1, 2, 3], np.uint16)
    with bench.plane() as plane:
        serving = people(bench, 1, 2, 3)
        plane.set(tables(serving, NEW, OLD))
        for _ in range(2):
            syn, plain = plane.explain(tcp(1000, SYN)), plane.explain(tcp(1001, ACK))
            assert (syn.member, syn.by) == (NEW, By.SLOT)
            assert (plain.member, plain.by) == (OLD, By.PREVIOUS)
            assert (syn.frame[:6], plain.frame[:6]) == (away(NEW), away(OLD))
        assert states(plane) == {}
        plane.set(tables(serving, 1, 1, placement=Placement.PER_FLOW, choices=choices))
        seen = {plane.explain(tcp(1000, SYN)).member for _ in range(5)}
        assert len(seen) == 1
        assert {index for _, index in deliver(bench, *(tcp(port, SYN) for port in (1, 2, 3)))} == {1, 2, 3}


@pytest.mark.parametrize("seed", range(2))
def test_bursts_through_changes_come_out_as_the_reference_says(bench: Rig, seed: int) -> None:
    """Thousands of frames of hundreds of flows, while owners change: each goes to the reference's member."""
    rnd = np.random.default_rng(seed)
    pins = PinTable.in_memory(1 << 14, time.monotonic_ns)
    with bench.plane() as plane:
        serving = people(bench, 1, 2, 3, 4)
        for _ in range(4):
            words = pack(*(rnd.integers(1, 5, SLOTS).astype(np.uint32) for _ in range(2)))
            words[rnd.random(SLOTS) < 0.3] |= np.uint32(NO_MEMBER << 16)
            by = tables(serving)
            by = replace(by, services=tuple(replace(one, slots=words) for one in by.services))
            plane.set(by)
            path = PacketPath(by, pins)
            ports = rnd.permutation(np.arange(1000, 1600)).tolist()
            flags = rnd.choice([ACK, ACK, SYN, FIN, RST], len(ports)).tolist()
            frames = [tcp(port, flag) for port, flag in zip(ports, flags, strict=True)]
            wanted = []
            for frame in frames:
                action = path.forward(frame, Ingress(0, mac("d0"), 1500))
                wanted.append((port_of(frame), action.member))
            assert deliver(bench, *frames) == sorted(wanted)


@pytest.mark.parametrize("vip", [str(VIP4), str(VIP6)])
def test_a_connection_lives_through_its_member_s_drain(bench: Rig, vip: str) -> None:
    """A real client's upload goes on at the old member while new connections go to the other one; both end well."""
    second = member(bench, NEW, L2, ifindex=bench.ifindex("d2"), interface="d2", source_mac=mac("d2"), mac=mac("t0"))
    serving = {OLD: member(bench, OLD), NEW: second}

    def connect() -> socket.socket:
        return socket.create_connection((vip, 80), timeout=5)

    def finish(connection: socket.socket, size: int) -> int:
        with connection:
            connection.sendall(b"x" * size)
            connection.shutdown(socket.SHUT_WR)
            return int(connection.recv(100))

    def packets(index: int) -> int:
        return plane.counters().members[f"web/m{index}"].packets

    bench.member.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__t0__rp_filter=0)
    with bench.plane() as plane, vips_at(bench.member):
        plane.set(tables(serving, OLD, OLD))
        end = serve_tcp(bench.member, vip)
        try:
            with inside(bench.client, connect) as old:
                old.sendall(b"x" * 100_000)
                plane.set(tables(serving, NEW, OLD))
                before = packets(NEW)
                old.sendall(b"x" * 100_000)
                until(lambda: states(plane), "the connection is remembered")
                # The server takes one connection after the other.
                assert packets(NEW) == before
                plane.set(tables(serving, NEW, NO_MEMBER))
                assert finish(old, 100_000) == 300_000
                assert packets(NEW) == before
            before = packets(OLD)
            assert finish(inside(bench.client, connect), 100_000) == 100_000
            assert packets(OLD) < before + 5  # the last words of the first connection may still have been on their way
            assert packets(NEW) > 50
        finally:
            end()

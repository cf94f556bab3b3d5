"""The XDP program by itself, run in the kernel on single packets: no interface, no slow path."""

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from appliance.bpf.libbpf import Object, TestRunner
from appliance.dataplane.raw.kernel import Interface
from appliance.dataplane.recording import Wanted
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.directory import build
from appliance.dataplane.xdp.plane import action_of, captured
from appliance.dataplane.xdp.program import LONGEST_TEST_FRAME, OBJECT, PROGRAMS, Program
from appliance.dataplane.xdp.tables import Capacity, Egress, needs_of
from appliance.forwarding import ForwardingTables, TableMember
from appliance.packet.action import Action, Reason, Verdict
from appliance.packet.forward import Ingress
from tests.netns import namespaces, veth
from tests.root.plane_rig import inside
from tests.vectors_io import Vector, difference, excuses, packet_vectors

pytestmark = pytest.mark.root

PINS = "slot", "placement", "choice_order", "pin_state", "pin", "quic_kind", "quic", "capture", "log", "log_gate"
"""Enumerations of what decides beside the slot, of captures and of the connection log."""

VECTORS = [vector for vector in packet_vectors() if 14 <= len(vector.frame) <= LONGEST_TEST_FRAME]
OUT_OF_REACH = [vector for vector in packet_vectors() if vector not in VECTORS]


def straight(member: TableMember) -> Egress:
    """Every interface can be sent to."""
    return Egress(member.next_hop.ifindex)


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    everything = Capacity(1 << 14, 4096, 4096, 4096, 4096, 4096, 64 * 65568)
    made = Program(everything)
    try:
        yield made
    finally:
        made.close()


def follow(program: Program, tables: ForwardingTables) -> None:
    if program.tables.tables is not tables:
        program.tables.stage(tables, straight)
        program.tables.publish()


def interface_of(ingress: Ingress) -> Interface:
    return Interface("lo", ingress.ifindex, ingress.mac, ingress.mtu, True, True)


def run(program: Program, vector: Vector) -> tuple[str, Action | None]:
    """The way out, and the action that it is, if it is one."""
    follow(program, vector.tables)
    outcome, out = program.run(vector.frame, interface_of(vector.ingress))
    action = action_of(outcome, out, vector.tables)
    return outcome.exit, action


def judged(program: Program, vector: Vector) -> tuple[str, bool]:
    """How the program differs from a vector, and whether it leaves the frame to the slow path."""
    way_out, action = run(program, vector)
    if action is None:
        expected = vector.action
        encrypted = any(one.config.key for service in vector.tables.services for one in service.quic)
        allowed = excuses(vector.frame, expected, encrypted=encrypted, rejecting=bool(vector.tables.rejecting))
        return "" if way_out in allowed else f"{way_out} although {expected.verdict} {expected.reason}", True
    return difference(vector.action, action), False


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_vector(program: Program, vector: Vector) -> None:
    """The program does with each frame what its vector says, or leaves it to the slow path for a good reason."""
    assert judged(program, vector)[0] == ""


def test_what_cannot_be_tried_out_is_too_long_or_too_short() -> None:
    """Vectors that the kernel's test runs do not take are few, and nothing that leaves in one piece."""
    assert len(OUT_OF_REACH) < 20
    plain = [vector for vector in OUT_OF_REACH if vector.action.verdict is Verdict.TRANSMIT]
    assert all(vector.action.further for vector in plain)


def test_nothing_was_counted(program: Program) -> None:
    """Trying out leaves no trace in the counters."""
    counted = program.tables.traffic()
    services, members = counted.services, counted.members
    assert not any(traffic.packets for traffic in [*services.values(), *members.values()])
    assert not any(program.tables.exits().values())


def test_layout_is_that_of_the_object() -> None:
    """Every structure has the same fields at the same places in Python and in the object, and so have the constants."""
    with Object(OBJECT) as opened:
        for name, dtype in layout.STRUCTS.items():
            struct = opened.struct(name)
            assert dtype.fields is not None
            ours = {field: (offset, kind.itemsize) for field, (kind, offset, *_) in dtype.fields.items()}
            assert {field: (place.offset, place.size) for field, place in struct.fields.items()} == ours, name
            assert struct.size == dtype.itemsize, name
        event = opened.struct("event")
        assert event.fields["head"].offset == layout.EVENT.size
        assert event.fields["head"].size == layout.EVENT_HEAD
        assert opened.struct("record").fields["bytes"].offset == layout.CAPTURED.size
        exits = opened.enum("exit")
        assert exits.pop("EXITS") == layout.EXITS == len(exits)
        for enum in ("way_kind", "way_flags", "port_flags", "index", *PINS):
            for name, value in opened.enum(enum).items():
                assert getattr(layout, name) == value, name


def test_every_exit_is_a_reason_or_the_slow_path() -> None:
    """Ways out that pass or drop have the names that all planes use."""
    with Object(OBJECT) as opened:
        names = [name.removeprefix("EXIT_").lower() for name in opened.enum("exit") if name != "EXITS"]
    others = {name for name in names if not name.startswith("slow_")} - {"transmit", "pass_unknown_interface"}
    assert {name.partition("_")[2] for name in others} <= set(Reason)


@pytest.mark.parametrize("name", PROGRAMS)
def test_both_programs_have_one_that_captures(name: str) -> None:
    """With Linux 5.18's way to read frames and with the one before: the frame as it arrived and as it left, cut where
    that is wanted, and what was decided."""
    vector = next(
        one
        for one in VECTORS
        if one.action.verdict is Verdict.TRANSMIT and len(one.frame) > 80 and not excuses(one.frame, one.action)
    )
    program, mac = Program(names=(name,)), vector.ingress.mac
    try:
        follow(program, vector.tables)
        with namespaces("a", "b", prefix="owX") as (a, b):
            veth(a, "a0", b, "b0")

            def work() -> int:
                ifindex = socket.if_nametoindex("a0")
                program.tables.set_port(ifindex, mac, 1500, layout.PORT_QUIET)  # nothing is sent
                program.use(program.load_watcher(Wanted(snaplen=70)))
                TestRunner(program.fd).run(vector.frame, ifindex)
                TestRunner(program.fd).run(vector.frame)  # by the loopback interface, as test runs do
                return ifindex

            ifindex = inside(a, work)
        assert program.watcher is not None
        (record,) = program.watcher.take(10)
        found = captured(record, program.tables.exit_name, program.tables.names(), {ifindex: "a0"})
        assert (found.frame, found.length, found.interface) == (vector.frame[:70], len(vector.frame), "a0")
        assert [(sent.frame, sent.length) for sent in found.sent] == [
            (vector.action.frame[:70], len(vector.action.frame))
        ]
        assert vector.action.member is not None
        assert found.member == vector.tables.members[vector.action.member].id
        assert (found.slot, found.by) == (vector.action.slot, str(vector.action.by))
    finally:
        program.close()


def test_needs_are_met_exactly(program: Program) -> None:
    """What tables take is what is counted beforehand, so that too small maps are noticed before anything is written."""
    tables = VECTORS[0].tables
    needs = needs_of(tables, build(tables.services, tables.secret))
    small = Program(replace(needs, ranges=max(1, needs.ranges)))
    try:
        small.tables.stage(tables, straight)
    finally:
        small.close()

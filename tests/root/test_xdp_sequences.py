"""The sequences, run over the XDP program in the kernel. What it leaves to the slow path is taken by the reference with
the program's memory, as by the plane."""

import time
from collections.abc import Iterator

import pytest

from appliance.dataplane.raw.kernel import Interface
from appliance.dataplane.xdp.plane import action_of
from appliance.dataplane.xdp.program import Program
from appliance.dataplane.xdp.tables import Capacity, Egress
from appliance.forwarding import ForwardingTables
from appliance.packet.action import Action
from appliance.packet.forward import PacketPath, Turns
from appliance.packet.fragments import Fragments
from tests.vectors_io import Sequence, Step, excuses, run_sequence, sequences

pytestmark = pytest.mark.root

FOREVER = 100_000.0
"""Seconds in which everything is over."""


class Bench:
    """A program whose clock can be moved on."""

    def __init__(self) -> None:
        self.program = Program(Capacity(slots=40 * 65568), pins=64)
        self._ahead = 0
        self.pins = self.program.pin_table(lambda: time.monotonic_ns() + self._ahead)
        self.program.meters.clock_ns = self.pins.clock_ns

    def wait(self, seconds: float) -> None:
        self._ahead += round(seconds * 1e9)
        self.program.tables.set_clock(self._ahead)

    def follow(self, tables: ForwardingTables) -> None:
        maps = self.program.tables
        maps.stage(tables, lambda member: Egress(member.next_hop.ifindex))
        maps.publish()
        maps.settle()

    def begin(self) -> None:
        """Remember nothing, not even whose turn it is."""
        self.pins.words[:] = 0
        self.follow(ForwardingTables())
        self.wait(FOREVER)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        made.program.close()


def by_program(bench: Bench, sequence: Sequence) -> str:
    """How the program, with the reference for what it leaves to the slow path, differs from a sequence."""
    bench.begin()
    ingress, turns = sequence.ingress, Turns()
    fragments = Fragments(bench.pins.clock_ns)
    interface = Interface("lo", ingress.ifindex, ingress.mac, ingress.mtu, True, True)

    def forward(step: Step) -> Action:
        tables = bench.program.tables.tables
        outcome, out = bench.program.run(step.frame, interface, remember=True)
        action = action_of(outcome, out, tables)
        if action is not None:
            return action
        assert step.action is not None
        assert outcome.exit in excuses(step.frame, step.action)
        path = PacketPath(tables, bench.pins, turns, fragments, bench.program.meters)
        return path.forward(step.frame, ingress, sequence.ident, waited=step.waited)

    return run_sequence(sequence, bench.wait, bench.follow, forward)


@pytest.mark.parametrize("sequence", sequences(), ids=lambda sequence: sequence.id)
def test_sequence(bench: Bench, sequence: Sequence) -> None:
    """The program does with each frame what its sequence says, or leaves it to the slow path for a good reason."""
    assert by_program(bench, sequence) == ""

"""Packet vectors and sequences, run over the reference. Data planes run the same ones in tests of their own."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from appliance.dataplane.meters import MeterTable
from appliance.dataplane.pins import PinTable
from appliance.forwarding import ForwardingTables
from appliance.packet.action import Action, By, Datagram
from appliance.packet.forward import PacketPath, Turns, forward
from appliance.packet.fragments import Decided, Fragments
from appliance.packet.placement import TICK_SHIFT, FlowFacts, Pin, Pins
from tests.vectors_io import (
    Sequence,
    Step,
    Vector,
    canonical,
    difference,
    packet_vectors,
    run_sequence,
    sequences,
)

VECTORS = packet_vectors()
SEQUENCES = sequences()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_vector(vector: Vector) -> None:
    """The reference does with each frame exactly what its vector says, byte for byte."""
    assert PacketPath(vector.tables).forward(vector.frame, vector.ingress, vector.ident) == vector.action


def test_ids_are_unique_and_sentences_are_there() -> None:
    """Every vector can be named, and says what it shows."""
    assert len({vector.id for vector in VECTORS}) == len(VECTORS)
    assert all(vector.sentence.endswith(".") for vector in VECTORS)


def test_plain_function_is_the_same() -> None:
    """`forward` and `PacketPath` are one thing."""
    vector = VECTORS[0]
    assert forward(vector.frame, vector.tables, vector.ingress, vector.ident) == vector.action


def test_difference_allows_padding_and_another_identification_only() -> None:
    """A plane may keep padding and choose the outer identification; any other byte must be right."""
    vector = next(vector for vector in VECTORS if vector.id == "IPIP-4in4-tcp-df-clear")
    right = vector.action
    other = PacketPath(vector.tables).forward(vector.frame, vector.ingress, vector.ident + 1)
    assert right.frame != other.frame
    assert difference(right, other) == ""
    assert canonical(right.frame + b"padding") == canonical(right.frame)
    damaged = right.frame[:-1] + bytes((right.frame[-1] ^ 1,))
    assert canonical(damaged) != canonical(right.frame)


class PinsByName(Pins):
    """Pins as what they are by their contract: a dictionary of flows."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self._flows: dict[int, tuple[Pin, int]] = {}

    def find(self, hash64: int, now: int) -> tuple[int, Pin] | None:
        if hash64 not in self._flows:
            return None
        pin, since = self._flows[hash64]
        return 0, replace(pin, age=now - since)

    def keep(self, pin: Pin, flow: FlowFacts, now: int, *, tell: bool = False) -> None:
        self._flows[flow.hash64] = pin, now - pin.age

    def may_open(self, *, look_only: bool = False) -> bool:
        return True


class Clock:
    """A monotonic clock that is wound by hand. It begins anywhere, also in the middle of a tick."""

    def __init__(self, ns: int = 0) -> None:
        self.ns = ns

    def wait(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def by_reference(sequence: Sequence, clock: Clock, pins: Pins, fragments: Fragments | None = None) -> str:
    """How the reference differs from a sequence."""
    turns, path = Turns(), PacketPath(ForwardingTables())
    meters = MeterTable.in_memory(lambda: clock.ns, sets=256)
    if fragments is None:
        fragments = Fragments(lambda: clock.ns)

    def follow(tables: ForwardingTables) -> None:
        nonlocal path
        path = PacketPath(tables, pins, turns, fragments, meters)

    def forward(step: Step) -> Action:
        seen = path.forward(step.frame, sequence.ingress, sequence.ident, look_only=True, waited=step.waited)
        action = path.forward(step.frame, sequence.ingress, sequence.ident, waited=step.waited)
        assert action == seen, "to look makes a difference"
        return action

    return run_sequence(sequence, clock.wait, follow, forward)


@pytest.mark.parametrize("begin", [0, 12_345_678_901_234, (1 << 44) - 5_000_000_000], ids=["zero", "between", "wrap"])
@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: sequence.id)
def test_sequence(sequence: Sequence, begin: int) -> None:
    """With the planes' memory of flows, every frame of a sequence goes where it has to, whenever it begins."""
    clock = Clock(begin)
    assert by_reference(sequence, clock, PinTable.in_memory(64, lambda: clock.ns)) == ""


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: sequence.id)
def test_sequence_by_dictionary(sequence: Sequence) -> None:
    """The same with any other memory that keeps its contract."""
    clock = Clock()
    assert by_reference(sequence, clock, PinsByName(lambda: clock.ns >> TICK_SHIFT)) == ""


def test_sequences_have_names_of_their_own() -> None:
    """Every sequence can be named, and says what it shows."""
    assert len({one.id for one in (*SEQUENCES, *VECTORS)}) == len(SEQUENCES) + len(VECTORS)
    assert all(sequence.sentence.endswith(".") for sequence in SEQUENCES)


def test_sequences_show_everything() -> None:
    """Each way to decide on a member is shown with L2 delivery and with tunnels of both families."""
    seen = {
        (step.action.by, step.frame[12:14], len(step.action.frame) - len(step.frame))
        for sequence in SEQUENCES
        for step in sequence.steps
        if step.action is not None and step.action.by is not None
    }
    for by in By:
        assert {(by, b"\x08\x00", 0), (by, b"\x08\x00", 20), (by, b"\x86\xdd", 0), (by, b"\x86\xdd", 40)} <= seen


class Forgetful(PinsByName):
    def keep(self, pin: Pin, flow: FlowFacts, now: int, *, tell: bool = False) -> None:
        pass


class ForgetfulFragments(Fragments):
    def keep(self, datagram: Datagram, decided: Decided) -> None:
        pass


def test_memory_makes_the_difference() -> None:
    """A plane that remembers nothing is found out wherever something is to be remembered."""
    for sequence in SEQUENCES:
        clock = Clock()
        decided = {step.action.by for step in sequence.steps if step.action is not None}
        text = by_reference(sequence, clock, Forgetful(lambda clock=clock: clock.ns >> TICK_SHIFT))
        assert bool(text) >= (By.PIN in decided)
        pins = PinTable.in_memory(64, lambda clock=clock: clock.ns)
        text = by_reference(sequence, clock, pins, ForgetfulFragments(lambda clock=clock: clock.ns))
        assert bool(text) >= (By.FIRST in decided)

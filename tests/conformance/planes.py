"""Each implementation, held to one vector or sequence."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

from appliance.dataplane.pins import PinTable
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.plane import explain
from appliance.dataplane.xdp.program import LONGEST_TEST_FRAME, Program
from appliance.dataplane.xdp.tables import Capacity
from appliance.packet.forward import PacketPath
from tests.root.test_xdp_program import judged
from tests.root.test_xdp_sequences import Bench, by_program
from tests.test_vectors import Clock, by_reference
from tests.unit.dataplane.test_raw_vectors import by_columns, by_raw, one_by_one
from tests.vectors_io import Sequence, Vector, difference

LEFT = "left to the slow path"
OUT_OF_REACH = "not to be tried out in a test run"


class Plane(Protocol):
    """An implementation."""

    def vector(self, vector: Vector) -> str:
        """How it differs; empty when it does not. LEFT and OUT_OF_REACH are no differences."""

    def sequence(self, sequence: Sequence) -> str:
        """The same for a sequence."""


class Reference:
    def vector(self, vector: Vector) -> str:
        action = PacketPath(vector.tables).forward(vector.frame, vector.ingress, vector.ident)
        return "" if action == vector.action else difference(vector.action, action) or "it differs in details"

    def sequence(self, sequence: Sequence) -> str:
        clock = Clock()
        return by_reference(sequence, clock, PinTable.in_memory(64, lambda: clock.ns))


class Raw:
    """Socket filter, vectorised passes, frames one by one, and slow path."""

    def __init__(self) -> None:
        self._compiled: tuple[Vector, Compiled] | None = None

    def vector(self, vector: Vector) -> str:
        known = self._compiled
        if known is None or known[0].tables is not vector.tables or known[0].ingress != vector.ingress:
            known = self._compiled = vector, Compiled(vector.tables, [vector.ingress])
        return difference(vector.action, explain(known[1], vector.ingress, 0, vector.frame))

    def sequence(self, sequence: Sequence) -> str:
        return by_raw(sequence, by_columns) or by_raw(sequence, one_by_one)


class Xdp:
    """The program, in test runs of the kernel."""

    def __init__(self, stack: ExitStack) -> None:
        self._program = Program(Capacity(1 << 14, 4096, 4096, 4096, 4096, 4096, 64 * 65568))
        stack.callback(self._program.close)
        self._bench = Bench()
        stack.callback(self._bench.program.close)

    def vector(self, vector: Vector) -> str:
        if not 14 <= len(vector.frame) <= LONGEST_TEST_FRAME:
            return OUT_OF_REACH
        text, left = judged(self._program, vector)
        return text or (LEFT if left else "")

    def sequence(self, sequence: Sequence) -> str:
        return by_program(self._bench, sequence)


def planes(stack: ExitStack) -> dict[str, Callable[[Vector | Sequence], str]]:
    """All implementations, by name; what they hold goes with the stack."""

    def judge(plane: Plane) -> Callable[[Vector | Sequence], str]:
        return lambda one: plane.vector(one) if isinstance(one, Vector) else plane.sequence(one)

    return {"reference": judge(Reference()), "raw": judge(Raw()), "XDP": judge(Xdp(stack))}

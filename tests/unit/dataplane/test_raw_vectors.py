"""The packet vectors and sequences, run over what the raw plane does with a frame."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from appliance.dataplane.meters import MeterTable
from appliance.dataplane.pins import PinTable
from appliance.dataplane.raw import bpf
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.layout import ETHERNET, Columns, Frames, stride_for
from appliance.dataplane.raw.plane import explain
from appliance.dataplane.raw.single import SinglePath
from appliance.dataplane.raw.turns import ColumnTurns
from appliance.dataplane.raw.vector import VectorPath
from appliance.forwarding import ForwardingTables
from appliance.packet.action import Action, Verdict
from appliance.packet.fragments import Fragments
from tests.vectors_io import Sequence, Step, Vector, difference, packet_vectors, run_sequence, sequences

Passes = Callable[[Frames, Compiled], bytes | None]
"""Forwards the frame in the first slot; None when it is not sent."""


@pytest.mark.parametrize("vector", packet_vectors(), ids=lambda vector: vector.id)
def test_vector(vector: Vector) -> None:
    """Filter, vectorised passes and slow path together do with each frame what its vector says."""
    compiled = Compiled(vector.tables, [vector.ingress])
    assert difference(vector.action, explain(compiled, vector.ingress, 0, vector.frame)) == ""
    assert not compiled.traffic.way_packets.any()


def by_columns(slots: Frames, compiled: Compiled) -> bytes | None:
    outcome = VectorPath(Columns(slots)).forward(slice(0, 1), 0, compiled)
    if not outcome.sends:
        return None
    send = outcome.sends[0]
    return slots[0, send.start : send.start + int(send.lengths[0])].tobytes()


def one_by_one(slots: Frames, compiled: Compiled) -> bytes | None:
    single = SinglePath(slots)
    made = single.forward(0, 0, compiled)
    return None if made is None else bytes(single.bytes_of(made))


def by_raw(sequence: Sequence, passes: Passes) -> str:
    """How the raw plane's parts differ from a sequence."""
    ns = 5_000_000_000
    pins, turns, fragments = PinTable.in_memory(64, lambda: ns), ColumnTurns(), Fragments(lambda: ns)
    ingress = sequence.ingress
    meters = MeterTable.in_memory(lambda: ns, sets=256)
    compiled = Compiled(ForwardingTables(), [ingress], pins, turns, fragments, meters)

    def wait(seconds: float) -> None:
        nonlocal ns
        ns += round(seconds * 1e9)

    def follow(tables: ForwardingTables) -> None:
        nonlocal compiled
        compiled = Compiled(tables, [ingress], pins, turns, fragments, meters)

    def forward(step: Step) -> Action:
        before = pins.words.copy()
        action = explain(compiled, ingress, 0, step.frame)
        assert np.array_equal(pins.words, before)
        assert explain(compiled, ingress, 0, step.frame) == action
        tables = compiled.tables
        plain, _ = bpf.classifier(sorted(tables.vips_v4), sorted(tables.vips_v6), ingress.mtu, bpf.Class.PLAIN)
        if step.frame[:6] != ingress.mac or not bpf.run(plain, step.frame):
            did = compiled.path.forward(step.frame, ingress, waited=step.waited)
            assert did == action or step.waited
            return did
        slots = np.zeros((1, stride_for(ingress.mtu)), np.uint8)
        slots[0, ETHERNET : ETHERNET + len(step.frame)] = np.frombuffer(step.frame, np.uint8)
        sent = passes(slots, compiled)
        if sent is None:
            assert action.verdict is not Verdict.TRANSMIT
            return action
        return replace(action, verdict=Verdict.TRANSMIT, frame=sent)

    return run_sequence(sequence, wait, follow, forward)


@pytest.mark.parametrize("passes", [by_columns, one_by_one])
@pytest.mark.parametrize("sequence", sequences(), ids=lambda sequence: sequence.id)
def test_sequence(sequence: Sequence, passes: Passes) -> None:
    """Frame after frame: what the plane says that it will do is what it does, and what the sequence says."""
    assert by_raw(sequence, passes) == ""

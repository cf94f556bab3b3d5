"""The packet vectors, run over what the raw plane does with a frame."""

import pytest

from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.plane import explain
from tests.vectors_io import Vector, difference, packet_vectors


@pytest.mark.parametrize("vector", packet_vectors(), ids=lambda vector: vector.id)
def test_vector(vector: Vector) -> None:
    """Filter, vectorised passes and slow path together do with each frame what its vector says."""
    compiled = Compiled(vector.tables, [vector.ingress])
    assert difference(vector.action, explain(compiled, vector.ingress, 0, vector.frame)) == ""
    assert not compiled.traffic.way_packets.any()

"""The packet vectors, run over the reference. Data planes run the same ones in tests of their own."""

import pytest

from appliance.packet.forward import PacketPath, forward
from tests.vectors_io import Vector, canonical, difference, packet_vectors

VECTORS = packet_vectors()


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

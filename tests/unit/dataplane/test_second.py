"""A second opinion: what a plane may do otherwise than the reference, and what not."""

from dataclasses import replace

import pytest

from appliance.dataplane.second import SecondOpinion, comparable, differences
from appliance.model import DfPolicy
from appliance.packet.action import Action, By, Reason, Reply, Verdict
from appliance.packet.forward import PacketPath
from tests.vectors_io import packet_vectors

VECTORS = [vector for vector in packet_vectors() if vector.action.verdict is Verdict.TRANSMIT]


def test_the_reference_agrees_with_itself() -> None:
    """On all vectors."""
    for vector in packet_vectors():
        opinion = SecondOpinion(vector.tables)
        expected = opinion.on(vector.frame, vector.ingress, None, None)
        assert differences(expected, PacketPath(vector.tables).forward(vector.frame, vector.ingress)) == []


def test_identifications_of_outer_packets_may_differ() -> None:
    """Where these may be fragmented, and nowhere else."""
    compared = 0
    for vector in VECTORS:
        if vector.action.further or vector.action.member is None:
            continue
        delivery = vector.tables.members[vector.action.member].delivery
        path = PacketPath(vector.tables)
        one, other = (path.forward(vector.frame, vector.ingress, ident) for ident in (7, 900))
        assert comparable(one.frame) == comparable(other.frame)
        if one.frame != other.frame:
            assert delivery.outer_df is DfPolicy.CLEAR or not one.frame[20] & 0x40
            compared += 1
    assert compared > 3


def test_a_tag_for_a_vlan_device_may_be_there() -> None:
    """The program writes it, the raw plane leaves it to the kernel."""
    frame = VECTORS[0].action.frame
    assert comparable(frame[:12] + b"\x81\x00\x00\x07" + frame[12:]) == comparable(frame)


@pytest.mark.parametrize("at", [0, 6, 12, 14, 22, 23, 30, -1])
def test_no_other_byte_may_differ(at: int) -> None:
    """Addresses, headers, payload."""
    frame = bytearray(VECTORS[0].action.frame)
    frame[at] ^= 1
    assert comparable(bytes(frame)) != comparable(VECTORS[0].action.frame)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"verdict": Verdict.DROP, "reason": Reason.TOO_BIG}, "verdict: the plane has drop, the reference transmit"),
        ({"by": By.PIN}, "decided by: the plane has pin, the reference slot"),
        ({"frame": b"abc"}, "frames: the plane has 1 (616263), the reference 1 ("),
        ({"reply": Reply(b"x", "icmp_too_big")}, "answer: the plane has icmp_too_big, the reference none"),
    ],
)
def test_differences_are_told(changes: dict[str, object], what: str) -> None:
    """Each by its name, with both sides."""
    right: Action = VECTORS[0].action
    found = differences(right, replace(right, **changes))  # type: ignore[arg-type]
    assert any(one.startswith(what) for one in found), found

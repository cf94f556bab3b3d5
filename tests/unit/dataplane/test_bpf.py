"""The socket filters: what the ring gets, what the slow path gets, what nobody gets."""

import random
from ipaddress import IPv4Address, IPv6Address

import pytest

from appliance.dataplane.raw import bpf
from appliance.dataplane.raw.bpf import MAX_INSTRUCTIONS, Class, classifier, run
from appliance.forwarding import ForwardingTables
from appliance.packet.action import Reason, Verdict
from appliance.packet.forward import PacketPath
from tests.unit.dataplane.frames import INGRESS, OUR_MAC, random_frame, random_tables
from tests.vectors_io import Vector, packet_vectors

SHAPES = {Reason.MALFORMED, Reason.OVERSIZED_FRAME, Reason.FRAGMENT, Reason.PROTOCOL, Reason.UNSUPPORTED_HEADER}


def classify(tables: ForwardingTables, frame: bytes, mtu: int = 1500) -> Class:
    arguments = sorted(tables.vips_v4), sorted(tables.vips_v6), mtu
    plain = run(classifier(*arguments, Class.PLAIN)[0], frame)
    odd = run(classifier(*arguments, Class.ODD)[0], frame)
    assert not (plain and odd)
    return Class.PLAIN if plain else Class.ODD if odd else Class.OTHER


@pytest.mark.parametrize("seed", range(20))
def test_random_frames_are_classified(seed: int) -> None:
    """A frame is taken exactly when the reference does not pass it, and is plain only if its shape is right."""
    rnd = random.Random(seed)
    tables = random_tables(rnd)
    path = PacketPath(tables)
    plain = 0
    for _ in range(60):
        frame = random_frame(rnd, tables, wrong=0.05)
        action, kind = path.forward(frame, INGRESS), classify(tables, frame)
        assert (kind is Class.OTHER) == (action.verdict is Verdict.PASS)
        if kind is Class.PLAIN:
            plain += 1
            assert action.reason not in SHAPES | {Reason.TTL_EXPIRED}
    assert plain > 5


@pytest.mark.parametrize("vector", packet_vectors(), ids=lambda vector: vector.id)
def test_vectors_are_classified(vector: Vector) -> None:
    """The same for the published vectors."""
    if vector.frame[:6] != vector.ingress.mac:
        return  # the kernel's packet type decides here, and `run` takes it as given
    kind = classify(vector.tables, vector.frame, vector.ingress.mtu)
    assert (kind is Class.OTHER) == (vector.action.verdict is Verdict.PASS)
    if kind is Class.PLAIN:
        assert vector.action.reason not in SHAPES


def frame_to(vip: IPv4Address | IPv6Address) -> bytes:
    head = OUR_MAC + bytes(6)
    if isinstance(vip, IPv4Address):
        return head + b"\x08\x00\x45" + bytes(15) + vip.packed + bytes(20)
    return head + b"\x86\xdd\x60" + bytes(23) + vip.packed + bytes(20)


@pytest.mark.parametrize("number", [1, 2, 8, 9, 100, 500])
def test_many_vips_are_known_exactly(number: int) -> None:
    """Hundreds of VIPs of both families, scattered or next to each other, fit into one program."""
    rnd = random.Random(number)
    vips4 = sorted(
        {IPv4Address(0xC6336400 + i) for i in range(number // 2)}
        | {IPv4Address(rnd.getrandbits(32)) for _ in range(number)}
    )
    vips6 = sorted(
        {IPv6Address((0x20010DB8 << 96) + i) for i in range(number)}
        | {IPv6Address(rnd.getrandbits(128)) for _ in range(9)}
    )
    program, exact = classifier(vips4, vips6, 1500, Class.ODD)
    assert exact
    assert len(program) <= MAX_INSTRUCTIONS
    assert all(i.jt <= 255 and i.jf <= 255 for i in program)
    assert len(bpf.assemble(program)) == 8 * len(program)
    for vip in (*rnd.sample(vips4, min(len(vips4), 60)), *rnd.sample(vips6, min(len(vips6), 60))):
        assert run(program, frame_to(vip))
        near = type(vip)(int(vip) ^ 1 << rnd.randrange(vip.max_prefixlen))
        assert run(program, frame_to(near)) == (near in vips4 or near in vips6)


def test_too_many_vips_admit_the_family() -> None:
    """What does not fit into a program admits more than the VIPs, of those families only that have any."""
    vips = [IPv4Address(0x0A000000 + 3 * i) for i in range(5000)]
    program, exact = classifier(vips, [], 1500, Class.ODD)
    assert not exact
    assert len(program) < 200
    assert run(program, frame_to(IPv4Address("192.0.2.1")))
    assert not run(program, frame_to(IPv6Address("2001:db8::1")))


def test_without_vips_nothing_is_admitted() -> None:
    """No tables, no traffic."""
    for accept in (Class.PLAIN, Class.ODD):
        program, exact = classifier([], [], 1500, accept)
        assert exact
        assert not run(program, frame_to(IPv4Address("198.51.100.7")))
        assert not run(program, frame_to(IPv6Address("2001:db8::1")))

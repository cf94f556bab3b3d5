"""Properties of the packet path over frames that nobody thought of."""

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.forwarding import SLOTS, ForwardingTables, TableMember, TableService
from appliance.model import Encapsulation, HashMode, PortRange, Protocol
from appliance.packet.action import Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.encap import TUNNELS
from appliance.packet.forward import Ingress, PacketPath
from tests.vectors_io import Vector, packet_vectors

VECTORS = packet_vectors()
SENT = [vector for vector in VECTORS if vector.action.verdict is Verdict.TRANSMIT]
PATHS = {id(vector.tables): PacketPath(vector.tables) for vector in VECTORS}


def path_of(vector: Vector) -> PacketPath:
    return PATHS[id(vector.tables)]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Vector, bytes]:
    """A vector and its frame with some bytes changed, cut off or added."""
    vector = draw(st.sampled_from(VECTORS))
    frame = bytearray(vector.frame)
    for _ in range(draw(st.integers(0, 4))):
        if frame:
            frame[draw(st.integers(0, min(len(frame), 90) - 1))] = draw(st.integers(0, 255))
    match draw(st.sampled_from(["keep", "cut", "add"])):
        case "cut":
            del frame[draw(st.integers(0, len(frame))) :]
        case "add":
            frame += draw(st.binary(max_size=40))
    return vector, bytes(frame)


def ip_offset(frame: bytes) -> int:
    offset = 12
    while frame[offset : offset + 2] in (b"\x81\x00", b"\x88\xa8"):
        offset += 4
    return offset + 2


def inner_of(frame: bytes, member: TableMember) -> bytes:
    """The client's packet in a frame that was sent to that member."""
    return frame[14 + member.delivery.overhead(member.address.version) :]


def without_ttl(packet: bytes) -> bytes:
    """All of a packet but what a router changes."""
    if packet[0] >> 4 == 4:
        return packet[:8] + packet[9:10] + packet[12:]
    return packet[:7] + packet[8:]


def assert_split(original: bytes, pieces: list[bytes]) -> None:
    """The pieces are those of the original, in their order, and nothing is missing."""
    first, length = int.from_bytes(original[6:8], "big"), int.from_bytes(original[2:4], "big")
    assert not first & 0x4000
    data, at = b"", first & 0x1FFF
    for number, piece in enumerate(pieces):
        head, flags = (piece[0] & 15) * 4, int.from_bytes(piece[6:8], "big")
        assert checksum(piece[:head]) == 0
        assert int.from_bytes(piece[2:4], "big") == len(piece)
        assert (flags & 0x1FFF, piece[4:6], piece[9:10]) == (at + len(data) // 8, original[4:6], original[9:10])
        last = number == len(pieces) - 1
        assert bool(flags & 0x2000) == (not last or bool(first & 0x2000))
        assert last or (len(piece) - head) % 8 == 0
        data += piece[head:]
    assert data == original[(original[0] & 15) * 4 : length]


@given(st.binary(max_size=120), st.sampled_from(VECTORS), st.integers(0, 0xFFFF))
@settings(deadline=None)
def test_any_bytes(frame: bytes, vector: Vector, ident: int) -> None:
    """Bytes without any sense are never an exception, nor anything but passed on."""
    assert path_of(vector).forward(frame, vector.ingress, ident).verdict is Verdict.PASS


@given(mutated())
@settings(deadline=None, max_examples=1000)
def test_mutated_frames(case: tuple[Vector, bytes]) -> None:
    """A damaged frame is never an exception, and what is sent of it is the client's packet, whole and unchanged."""
    vector, frame = case
    action = path_of(vector).forward(frame, vector.ingress, 1)
    assert (action.reason is None) == (action.verdict is Verdict.TRANSMIT) == bool(action.frame)
    if action.verdict is not Verdict.TRANSMIT:
        return
    original = frame[ip_offset(frame) :]
    member = vector.tables.members[action.member]
    if action.further:
        assert_split(original, [inner_of(out, member) for out in (action.frame, *action.further)])
        assert all(len(out) - 14 <= member.mtu for out in (action.frame, *action.further))
        return
    inner = inner_of(action.frame, member)
    assert without_ttl(inner) == without_ttl(original[: len(inner)])
    if original[0] >> 4 == 4:
        head = (original[0] & 15) * 4
        assert len(inner) == int.from_bytes(original[2:4], "big")
        assert checksum(original[:head]) == 0
        assert checksum(inner[:head]) == 0
    else:
        assert len(inner) == 40 + int.from_bytes(original[4:6], "big")
    least = original[0] >> 4 == 6 and len(inner) <= 1280  # goes whatever was learned of the way
    assert len(action.frame) - 14 <= (member.next_hop.mtu if least else member.mtu)
    assert action.ifindex == member.next_hop.ifindex
    assert inner[8 if inner[0] >> 4 == 4 else 7] == original[8 if original[0] >> 4 == 4 else 7] - (
        action.frame[14:] != inner and str(member.delivery.ttl) == "router"
    )


@given(
    st.sampled_from([vector for vector in SENT if vector.frame[12:14] == b"\x08\x00"]),
    st.integers(0, 19),
    st.integers(1, 255),
)
@settings(deadline=None)
def test_bad_header_checksum_is_never_sent(vector: Vector, position: int, change: int) -> None:
    """An IPv4 header that was damaged on the way is dropped, or no longer for a VIP."""
    frame = bytearray(vector.frame)
    frame[14 + position] ^= change
    action = path_of(vector).forward(bytes(frame), vector.ingress, 1)
    assert action.verdict is not Verdict.TRANSMIT
    assert action.reason in (Reason.MALFORMED, Reason.NOT_VIP)


@given(st.sampled_from(SENT), st.data())
@settings(deadline=None)
def test_cut_frames_are_never_sent(vector: Vector, data: st.DataObject) -> None:
    """A frame without its packet's last byte is not forwarded, wherever it was cut."""
    offset = ip_offset(vector.frame)
    packet = vector.frame[offset:]
    length = int.from_bytes(packet[2:4], "big") if packet[0] >> 4 == 4 else 40 + int.from_bytes(packet[4:6], "big")
    frame = vector.frame[: data.draw(st.integers(0, offset + length - 1))]
    assert path_of(vector).forward(frame, vector.ingress, 1).verdict is not Verdict.TRANSMIT


port_ranges = st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda ends: PortRange(min(ends), max(ends)))


@given(st.lists(st.lists(port_ranges, min_size=1, max_size=3), max_size=5), st.integers(0, 22))
@settings(deadline=None)
def test_lookup_agrees_with_the_tables(services: list[list[PortRange]], port: int) -> None:
    """The path finds the service that `ForwardingTables.find` finds, overlapping ranges included."""
    vip = ip_address("198.51.100.7")
    slots = next(iter(VECTORS[0].tables.services)).slots
    tables = ForwardingTables(
        bytes(16),
        tuple(
            TableService(number, f"s{number}", vip, Protocol.TCP, tuple(ranges), HashMode.FIVE_TUPLE, slots)
            for number, ranges in enumerate(services)
        ),
        VECTORS[0].tables.members,
    )
    vector = VECTORS[0]
    frame = vector.frame[:36] + port.to_bytes(2, "big") + vector.frame[38:]
    expected = tables.find(vip, Protocol.TCP, port)
    action = PacketPath(tables).forward(frame, vector.ingress)
    assert action.service == (expected.index if expected else None)


def test_no_tables() -> None:
    """Without services, everything is the kernel's."""
    path = PacketPath(ForwardingTables())
    for vector in VECTORS:
        assert path.forward(vector.frame, vector.ingress).verdict is Verdict.PASS


def test_ingress_is_known_by_its_mac_address() -> None:
    """The same frame on an interface with another MAC address is not ours."""
    vector = SENT[0]
    other = Ingress(9, b"\x02\0\0\0\0\x99", 1500)
    assert path_of(vector).forward(vector.frame, other).reason is Reason.NOT_VIP


@pytest.mark.parametrize("mode", HashMode)
def test_slot_is_within_the_table(mode: HashMode) -> None:
    """Every action that names a slot names one of the table."""
    slots = [vector.action.slot for vector in VECTORS if vector.action.slot is not None and str(mode) in vector.id]
    assert slots
    assert all(0 <= slot < SLOTS for slot in slots)


def test_every_encapsulation_has_a_writer() -> None:
    """Whatever a profile can name can be written, and is as long as said."""
    assert set(TUNNELS) == set(Encapsulation)
    for encapsulation, tunnel in TUNNELS.items():
        assert {len(tunnel.between(version, 1000, 0xFFFFFFFF)) for version in (4, 6)} == {encapsulation.between}

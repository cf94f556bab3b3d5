"""Files of packets: what is written is read, by us and by others; what others write is read; garbage is refused."""

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapNgReader, PcapWriter, RawPcapNgReader, wrpcapng

from appliance.capture.pcap import TAIL, Direction, Link, Packet, PcapError, Writer, lost_of, read

PACKETS = st.builds(
    Packet,
    data=st.binary(max_size=80),
    length=st.integers(0, 9000),
    at_ns=st.integers(0, 1 << 62),
    interface=st.sampled_from(["eth0", "eth1", "ä"]),
    direction=st.sampled_from(Direction),
    comment=st.text(max_size=30).map(lambda text: text.encode("utf-8", "ignore").decode()),
)


def written(*packets: Packet, lost: int = 0) -> bytes:
    writer = Writer("test")
    return writer.head() + b"".join(map(writer.packet, packets)) + writer.tail(lost, 1)


@given(st.lists(PACKETS, max_size=5))
def test_what_is_written_is_read(packets: list[Packet]) -> None:
    """Bytes, lengths, times, interfaces, directions and comments, whatever they are."""
    assert list(read(io.BytesIO(written(*packets)).read)) == packets


def test_others_read_it(tmp_path: Path) -> None:
    """Scapy finds the frames, their comments and directions, and how many were lost."""
    path = tmp_path / "x.pcapng"
    frame = bytes(12) + b"\x08\x00" + bytes(40)
    packets = (
        Packet(frame, 1000, 1_700_000_000_123_456_789, interface="eth0", direction=Direction.IN, comment="drop 1"),
        Packet(frame[:20], 1000, 1_700_000_000_123_456_789, interface="eth1", direction=Direction.OUT, comment="sent"),
    )
    path.write_bytes(written(*packets, lost=7))
    with PcapNgReader(str(path)) as reader:
        found = list(reader)
    assert [bytes(one) for one in found] == [frame, frame[:20]]
    assert [one.comments for one in found] == [[b"drop 1"], [b"sent"]]
    assert [one.wirelen for one in found] == [1000, 1000]
    assert [one.sniffed_on for one in found] == ["eth0", "eth1"]
    assert abs(float(found[0].time) - 1_700_000_000.123456) < 1e-3
    with RawPcapNgReader(str(path)) as raw:
        assert [meta.direction for _, meta in raw] == [Direction.IN, Direction.OUT]
    assert lost_of(path.read_bytes()[-TAIL:]) == 7
    assert lost_of(written(packets[0])[-TAIL:]) == 0
    assert path.read_bytes().endswith(struct.pack("<HHQI", 5, 8, 7, 0) + struct.pack("<I", 40))


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("nano", [True, False])
def test_pcap_of_others_is_read(endianness: str, nano: bool, tmp_path: Path) -> None:
    """In either byte order, with microseconds or nanoseconds."""
    path = tmp_path / "x.pcap"
    writer = PcapWriter(str(path), linktype=101, endianness=endianness, nano=nano)
    writer.write_header(None)
    writer.write_packet(b"\x45" + bytes(19), sec=5, usec=7000 if nano else 7, wirelen=100)
    writer.close()
    assert list(read(io.BytesIO(path.read_bytes()).read)) == [
        Packet(b"\x45" + bytes(19), 100, 5_000_007_000, Link.RAW_IP)
    ]


def test_pcapng_of_others_is_read(tmp_path: Path) -> None:
    """Those of scapy, with microseconds."""
    path = tmp_path / "x.pcapng"
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / Raw(bytes(46))
    frame.time = 5.000007
    wrpcapng(str(path), [frame])
    (found,) = read(io.BytesIO(path.read_bytes()).read)
    assert (found.data, found.at_ns, found.link) == (bytes(frame), 5_000_007_000, Link.ETHERNET)


def test_big_endian_sections_and_simple_packets() -> None:
    """A section may be of another byte order than the one before, with interfaces of its own."""

    def block(kind: int, body: bytes) -> bytes:
        total = struct.pack(">I", 12 + len(body))
        return struct.pack(">I", kind) + total + body + total

    other = block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1)) + block(1, struct.pack(">HHI", 1, 0, 4))
    other += block(99, bytes(8)) + block(3, struct.pack(">I", 60) + b"abcd")
    ours = Packet(bytes(14), 14, 1, interface="eth0")
    found = list(read(io.BytesIO(written(ours) + other).read))
    assert found == [ours, Packet(b"abcd", 60, 0)]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "neither a pcap nor a pcapng file"),
        (b"PK\x03\x04", "neither a pcap nor a pcapng file"),
        (b"\xa1\xb2\xc3\xd4" + bytes(3), "the file's header is cut off"),
        (b"\xd4\xc3\xb2\xa1" + bytes(20) + struct.pack("<IIII", 0, 0, 1 << 30, 0), "packet 1 of 1073741824 bytes"),
        (b"\xd4\xc3\xb2\xa1" + bytes(20) + struct.pack("<IIII", 0, 0, 5, 5), "packet 1 is cut off"),
        (Writer("x").head()[:20], "a block is cut off"),
        (Writer("x").head() + struct.pack("<II", 6, 8), "a block of 8 bytes is none"),
        (Writer("x").head() + struct.pack("<IIIIIIII", 6, 32, 5, 0, 0, 0, 0, 32), "of an interface that the file"),
        (Writer("x").head() + struct.pack("<III", 9, 12, 16), "another length"),
    ],
)
def test_what_is_no_file_of_packets(raw: bytes, why: str) -> None:
    """Each fault is named."""
    with pytest.raises(PcapError, match=why):
        list(read(io.BytesIO(raw).read))


@given(st.data())
def test_broken_files_are_refused_and_nothing_else(data: st.DataObject) -> None:
    """Whatever becomes of a file's bytes, reading it ends, with packets or with PcapError."""
    raw = bytearray(written(Packet(bytes(40), 40, 1, interface="eth0", comment="x"), Packet(bytes(3), 3, 2)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        list(read(io.BytesIO(raw[: data.draw(st.integers(0, len(raw)))]).read))
    except PcapError:
        pass

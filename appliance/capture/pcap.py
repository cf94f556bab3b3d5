"""Files of packets: pcapng (draft-ietf-opsawg-pcapng) written and read, pcap (draft-ietf-opsawg-pcap) read.

Written is what whoever captures here needs: one section, interfaces as they turn up, packets with a comment and a
direction, and at the end how many were lost. Read is what other programs write, in either byte order, with whatever
blocks and options; those of no use here are passed over.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

SECTION, INTERFACE, PACKET, STATISTICS = 0x0A0D0D0A, 1, 6, 5
"""Block types; that of a section reads the same in either byte order."""
_OLD_PACKET, _SIMPLE_PACKET = 2, 3
_BYTE_ORDER = 0x1A2B3C4D
_END, _COMMENT = 0, 1
_IF_NAME, _IF_TSRESOL, _FLAGS, _IF_DROP, _APPLICATION = 2, 9, 2, 5, 4
_NANOSECONDS = 9
_MAGIC = {
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
}
"""Of pcap files: byte order, and nanoseconds that the fraction of a second is counted in."""

LONGEST = 1 << 18
"""Bytes of a packet; more is no packet, but a broken file."""

_BLOCK_LIMIT = 1 << 24


class Link(IntEnum):
    """Link types (https://www.tcpdump.org/linktypes.html) that can be read."""

    ETHERNET = 1
    RAW_IP = 101


class Direction(IntEnum):
    """The lowest bits of `epb_flags`."""

    UNKNOWN = 0
    IN = 1
    OUT = 2


class PcapError(Exception):
    """This is no file of packets that can be read; the text says where and why."""


@dataclass(frozen=True)
class Packet:
    """One packet of a file."""

    data: bytes
    """What of it was captured."""
    length: int
    """Of all of it."""
    at_ns: int
    """Nanoseconds since 1970."""
    link: int = Link.ETHERNET
    interface: str = ""
    direction: Direction = Direction.UNKNOWN
    comment: str = ""


class Writer:
    """Makes the blocks of a pcapng file, one after the other."""

    def __init__(self, application: str) -> None:
        """
        Args:
            application: who writes it.
        """
        self._application = application
        self._interfaces: dict[str, int] = {}

    def head(self) -> bytes:
        """The beginning of the file."""
        options = _option(_APPLICATION, self._application.encode())
        return _block(SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + options + _option(_END))

    def packet(self, packet: Packet) -> bytes:
        """One packet, after its interface where it is the first one there. Ethernet only."""
        front = b""
        if packet.interface not in self._interfaces:
            self._interfaces[packet.interface] = len(self._interfaces)
            options = _option(_IF_NAME, packet.interface.encode()) + _option(_IF_TSRESOL, bytes((_NANOSECONDS,)))
            front = _block(INTERFACE, struct.pack("<HHI", Link.ETHERNET, 0, 0) + options + _option(_END))
        number = self._interfaces[packet.interface]
        head = struct.pack(
            "<IIIII", number, packet.at_ns >> 32, packet.at_ns & 0xFFFFFFFF, len(packet.data), packet.length
        )
        options = _option(_COMMENT, packet.comment.encode()) if packet.comment else b""
        options += _option(_FLAGS, struct.pack("<I", packet.direction)) + _option(_END)
        return front + _block(PACKET, head + _padded(packet.data) + options)

    def tail(self, lost: int, at_ns: int) -> bytes:
        """The end of the file: how many packets are not in it for want of room."""
        if not self._interfaces:
            return b""
        options = _option(_IF_DROP, struct.pack("<Q", lost)) + _option(_END)
        return _block(STATISTICS, struct.pack("<III", 0, at_ns >> 32, at_ns & 0xFFFFFFFF) + options)


TAIL = 40
"""Bytes of `Writer.tail`."""


def lost_of(tail: bytes) -> int:
    """How many packets a file of ours does not have for want of room.

    Args:
        tail: its last TAIL bytes.
    """
    if len(tail) < TAIL or tail[:4] != STATISTICS.to_bytes(4, "little"):
        return 0
    return int.from_bytes(tail[24:32], "little")


def read(take: Callable[[int], bytes]) -> Iterator[Packet]:
    """The packets of a pcap or pcapng file.

    Args:
        take: as `read` of a binary file.

    Raises:
        PcapError: it is neither, or is broken from some place on; what came before has been given.
    """
    magic = take(4)
    if magic in _MAGIC:
        yield from _pcap(take, *_MAGIC[magic])
    elif magic == SECTION.to_bytes(4, "big"):
        yield from _pcapng(take)
    else:
        raise PcapError("this is neither a pcap nor a pcapng file")


def _pcap(take: Callable[[int], bytes], order: str, unit_ns: int) -> Iterator[Packet]:
    (link,) = struct.unpack(f"{order}16xI", _exactly(take, 20, "the file's header"))
    number = 0
    while head := take(16):
        number += 1
        if len(head) < 16:
            raise PcapError(f"packet {number} is cut off")
        seconds, fraction, captured, length = struct.unpack(f"{order}IIII", head)
        data = _exactly(take, _reasonable(captured, number), f"packet {number}")
        yield Packet(data, length, seconds * 10**9 + fraction * unit_ns, link & 0xFFFF)


def _pcapng(take: Callable[[int], bytes]) -> Iterator[Packet]:
    order, number, interfaces = "<", 0, list[_Interface]()
    kind_bytes = SECTION.to_bytes(4, "big")
    while kind_bytes:
        rest = _exactly(take, 4, "a block")
        if kind_bytes == SECTION.to_bytes(4, "big"):
            marked = _exactly(take, 4, "a section")
            order = "<" if marked == _BYTE_ORDER.to_bytes(4, "little") else ">"
            if struct.unpack(f"{order}I", marked) != (_BYTE_ORDER,):
                raise PcapError("a section has no byte order")
            interfaces = []
            _body(take, order, rest, 4)
        else:
            (kind,) = struct.unpack(f"{order}I", kind_bytes)
            body = _body(take, order, rest, 0)
            if kind == INTERFACE:
                interfaces.append(_interface(body, order))
            elif kind in (PACKET, _OLD_PACKET, _SIMPLE_PACKET):
                number += 1
                yield _packet(kind, body, order, interfaces, number)
        kind_bytes = take(4)
        if kind_bytes and len(kind_bytes) < 4:
            raise PcapError("the file is cut off between two blocks")


@dataclass(frozen=True)
class _Interface:
    link: int
    name: str
    ticks: int
    """A second."""
    snaplen: int


def _interface(body: bytes, order: str) -> _Interface:
    if len(body) < 8:
        raise PcapError("an interface is cut off")
    link, _, snaplen = struct.unpack_from(f"{order}HHI", body)
    name, ticks = "", 10**6
    for code, value in _options(body[8:], order):
        if code == _IF_NAME:
            name = value.decode(errors="replace").rstrip("\0")
        elif code == _IF_TSRESOL and value:
            ticks = 1 << (value[0] & 0x7F) if value[0] & 0x80 else 10 ** (value[0] & 0x7F)
    return _Interface(link, name, ticks, snaplen)


def _packet(kind: int, body: bytes, order: str, interfaces: list[_Interface], number: int) -> Packet:
    if len(body) < 20 and not (kind == _SIMPLE_PACKET and len(body) >= 4):
        raise PcapError(f"packet {number} is cut off")
    if kind == _SIMPLE_PACKET:
        at, high, low, start = 0, 0, 0, 4
        (length,) = struct.unpack_from(f"{order}I", body)
        captured = min(length, (interfaces[0].snaplen if interfaces else 0) or length)
    else:
        form = f"{order}IIIII" if kind == PACKET else f"{order}HxxIIII"
        at, high, low, captured, length = struct.unpack_from(form, body)
        start = 20
    if at >= len(interfaces):
        raise PcapError(f"packet {number} is of an interface that the file does not have")
    data = body[start : start + _reasonable(captured, number)]
    if len(data) < captured:
        raise PcapError(f"packet {number} is cut off")
    comment, direction = "", Direction.UNKNOWN
    if kind != _SIMPLE_PACKET:
        for code, value in _options(body[start + (captured + 3 & ~3) :], order):
            if code == _COMMENT:
                comment = value.decode(errors="replace")
            elif code == _FLAGS and len(value) == 4:
                (flags,) = struct.unpack(f"{order}I", value)
                direction = Direction(flags & 3) if flags & 3 != 3 else Direction.UNKNOWN
    interface = interfaces[at]
    at_ns = (high << 32 | low) * 10**9 // interface.ticks
    return Packet(data, length, at_ns, interface.link, interface.name, direction, comment)


def _options(raw: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(raw):
        code, length = struct.unpack_from(f"{order}HH", raw, at)
        if code == _END:
            return
        yield code, raw[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)


def _body(take: Callable[[int], bytes], order: str, rest: bytes, had: int) -> bytes:
    """What a block has between its lengths, without *had* bytes that are read already."""
    (total,) = struct.unpack(f"{order}I", rest)
    if total < 12 + had or total % 4 or total > _BLOCK_LIMIT:
        raise PcapError(f"a block of {total} bytes is none")
    body = _exactly(take, total - 12 - had, "a block")
    if struct.unpack(f"{order}I", _exactly(take, 4, "a block")) != (total,):
        raise PcapError("a block says at its end another length than at its beginning")
    return body


def _reasonable(captured: int, number: int) -> int:
    if captured > LONGEST:
        raise PcapError(f"packet {number} of {captured} bytes is none")
    return captured


def _exactly(take: Callable[[int], bytes], size: int, what: str) -> bytes:
    data = take(size)
    if len(data) < size:
        raise PcapError(f"{what} is cut off")
    return data


def _option(code: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _block(kind: int, body: bytes) -> bytes:
    total = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + total + body + total

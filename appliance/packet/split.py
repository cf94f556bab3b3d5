"""IPv4 packets in pieces that fit (RFC 791, section 3.2): what a router does with one that is too big and may be
fragmented (M3).

It is the client's packet that is fragmented, not the one around it. What leaves is then packets like any other: members
take each out of its encapsulation by itself, also where they cannot put outer packets together (an XDP program cannot),
and their stacks put together the client's packet, as they would behind any router.
"""

import struct

from appliance.packet.checksum import checksum

SMALLEST = 68
"""A way that takes less cannot carry fragments of every packet: the longest header, and eight bytes (RFC 791)."""

_MORE, _OFFSET = 0x2000, 0x1FFF
_COPIED = 0x80
_END, _NO_OPERATION = 0, 1


def split(packet: bytes, mtu: int) -> list[bytes]:
    """An IPv4 packet as fragments, in their order; as it is where it fits. Those of a fragment are of the same whole.

    Args:
        packet: without padding, with DF clear and a header that fits into it.
        mtu: the longest that a fragment may be, SMALLEST or more.
    """
    if len(packet) <= mtu:
        return [packet]
    length = (packet[0] & 15) * 4
    head, data = packet[:length], packet[length:]
    flags = int.from_bytes(packet[6:8], "big")
    offset = flags & _OFFSET
    pieces, at = [], 0
    while at < len(data):
        room = mtu - len(head)
        last = len(data) - at <= room
        size = len(data) - at if last else room & ~7
        more = flags & _MORE if last else _MORE
        pieces.append(_piece(head, data[at : at + size], more | offset + at // 8))
        at += size
        head = _later_head(packet[:length])
    return pieces


def _piece(head: bytes, data: bytes, fragmentation: int) -> bytes:
    words = struct.pack("!BBH", 0x40 | len(head) // 4, head[1], len(head) + len(data)) + head[4:6]
    head = words + fragmentation.to_bytes(2, "big") + head[8:10] + bytes(2) + head[12:]
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + data


def _later_head(head: bytes) -> bytes:
    """The header of fragments but the first: options stay out that are not to be copied."""
    kept, at = b"", 20
    while at < len(head) and head[at] != _END:
        size = 1 if head[at] == _NO_OPERATION else head[at + 1] if at + 1 < len(head) else 0
        if not 0 < size <= len(head) - at or (head[at] != _NO_OPERATION and size < 2):
            break  # nonsense: whoever reads it will not understand what follows either
        if head[at] & _COPIED:
            kept += head[at : at + size]
        at += size
    return head[:20] + kept + bytes(-len(kept) % 4)

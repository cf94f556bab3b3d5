"""Where things are in a slot of a packet ring, and slots as NumPy columns.

A slot of a TPACKET_V2 ring as we ask for it (packet(7); `PACKET_RESERVE` makes the headroom that outer headers are
written into):

    0     struct tpacket2_hdr: status, length, captured length, ...
    74    Ethernet + outer IPv6 header, where one is written
    94    Ethernet + outer IPv4 header, where one is written
    114   Ethernet header as received
    128   IP header as received, on a multiple of 4

What GRE and GUE have between the two IP headers ends where the inner one begins, and the outer one is as much earlier.
"""

import struct
from math import lcm
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.model import Encapsulation

Frames = npt.NDArray[np.uint8]
"""Slots x stride bytes."""

Rows = slice | npt.NDArray[np.intp]
"""Slots to work on: a slice where they are neighbours, which is faster, else their numbers."""

TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1
TP_STATUS_CSUMNOTREADY, TP_STATUS_VLAN_VALID = 1 << 3, 1 << 4
TP_VLAN = 24
"""Where the slot's header has the VLAN tag that the kernel took out of the frame: TCI and TPID, two bytes each."""

IN_FLIGHT = 1 << 16
"""A slot that is being sent from: neither the kernel's nor ready, by a bit that the kernel does not use."""

RESERVE = 48
IP = 80 + RESERVE
"""The kernel puts the IP header of a frame with a 14-byte header 80 bytes after the slot's begin (TPACKET2_HDRLEN,
rounded up), plus the reserve."""

ETHERNET = IP - 14
OUTER4 = ETHERNET - 20
OUTER6 = ETHERNET - 40
"""Of IP in IP."""

PAGE = 4096


def stride_for(mtu: int) -> int:
    """Bytes from slot to slot so that packets of this size fit.

    An odd number of cache lines: with an even number, the same field of all slots would share a few cache sets.
    """
    lines = -(-(IP + mtu) // 64)
    return 64 * (lines | 1)


def block_for(stride: int) -> int:
    """Bytes of a ring's block: whole pages and whole slots, so that the whole ring has one stride."""
    return lcm(stride, PAGE)


def with_tag(frame: bytes, tag: bytes) -> bytes:
    """The frame as it was on the wire: the VLAN tag that came as metadata is in it again (P13).

    Args:
        frame: without the tag.
        tag: TCI and TPID in the machine's byte order, as the kernel gives them.
    """
    tci, tpid = struct.unpack("HH", tag)
    return frame[:12] + struct.pack("!HH", tpid or 0x8100, tci) + frame[12:]


class Columns:
    """The fields that the vectorised path reads and writes, one array each, all of the slots' length.

    They are views: what is written into them is in the slots. Numbers are in the machine's byte order (little-endian
    on all that we run on): a u4 column over packet bytes has the "words" of ring/hash.py.
    """

    def __init__(self, frames: Frames) -> None:
        """Views into *frames*, an array of slots x stride."""
        self.frames = frames
        self.status = self._column(0, "u4")
        self.captured = self._column(8, "u4")
        self.macs = self._column(ETHERNET, "V12")
        self.source_mac_head = self._column(ETHERNET + 6, "u4")
        self.link = self._column(ETHERNET + 10, "u4")
        """The end of the source address (low half) and the Ethernet type (high half): one number, most of the time the
        same for all frames of a batch."""

        self.head4 = self._column(IP, "V24")
        self.head6 = self._column(IP, "V44")
        self.ttl_word = self._column(IP + 8, "u4")
        self.hop_limit = self._column(IP + 7, "u1")
        self.tcp_flags4 = self._column(IP + 33, "u1")
        self.tcp_flags6 = self._column(IP + 53, "u1")
        self.outer4 = {kind: self._column(OUTER4 - kind.between, "V34") for kind in Encapsulation}
        self.outer6 = {kind: self._column(OUTER6 - kind.between, "V54") for kind in Encapsulation}
        """Ethernet and outer IP headers."""
        self.between = {
            kind: self._column(IP - kind.between, f"V{kind.between}") for kind in Encapsulation if kind.between
        }
        """What stands between the outer and the inner IP header."""

    def _column(self, offset: int, kind: str) -> npt.NDArray[Any]:
        return self.frames[:, offset : offset + np.dtype(kind).itemsize].view(kind)[:, 0]


def alike(column: npt.NDArray[Any]) -> bool:
    """Whether all numbers of a column, at least one, are the same. Comparing bytes beats any pass of NumPy."""
    raw = column.tobytes()
    return raw == raw[: column.itemsize] * len(column)

"""Completing checksums that were left to a device."""

import random
import struct

import numpy as np
import pytest

from appliance.dataplane.raw.layout import ETHERNET, Columns, stride_for
from appliance.dataplane.raw.partial import complete_frame, complete_rows
from appliance.packet.checksum import checksum
from tests.unit.dataplane.frames import CLIENT_MAC, OUR_MAC


def frames(rnd: random.Random, version: int, protocol: int, size: int) -> tuple[bytes, bytes]:
    """A frame with a partial checksum, and with the whole one."""
    addresses = rnd.randbytes(8 if version == 4 else 32)
    at = 16 if protocol == 6 else 6
    length = (20 if protocol == 6 else 8) + size
    segment = bytearray(rnd.randbytes(length))
    if protocol == 6:
        segment[12] = 0x50
    pseudo = addresses + struct.pack("!HH" if version == 4 else "!II", protocol, length)
    segment[at : at + 2] = (checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big")
    partial = bytes(segment)
    segment[at : at + 2] = bytes(2)
    segment[at : at + 2] = (checksum(pseudo + bytes(segment)) or 0xFFFF).to_bytes(2, "big")
    if version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, protocol, 0) + addresses
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    else:
        head = struct.pack("!IHBB", 6 << 28, length, protocol, 64) + addresses
    ethernet = OUR_MAC + CLIENT_MAC + (b"\x08\x00" if version == 4 else b"\x86\xdd")
    return ethernet + head + partial, ethernet + head + bytes(segment)


@pytest.mark.parametrize("seed", range(10))
def test_rows_and_frames_are_completed(seed: int) -> None:
    """All families, protocols and sizes at once, odd ones among them; bytes behind the packet do not count."""
    rnd = random.Random(seed)
    pairs = [
        frames(rnd, rnd.choice((4, 6)), rnd.choice((6, 17)), rnd.choice((0, 1, 2, 7, 100, 1001))) for _ in range(40)
    ]
    slots = np.full((50, stride_for(1500)), 0xEE, np.uint8)
    for row, (partial, _) in enumerate(pairs):
        slots[row, ETHERNET : ETHERNET + len(partial)] = np.frombuffer(partial, np.uint8)
    complete_rows(Columns(slots), np.arange(40))
    for row, (partial, whole) in enumerate(pairs):
        assert slots[row, ETHERNET : ETHERNET + len(whole)].tobytes() == whole
        assert complete_frame(partial) == whole


def test_frames_without_a_segment_stay_as_they_are() -> None:
    """What is not IP, broken, or neither TCP nor UDP has no checksum of ours to complete."""
    partial, _ = frames(random.Random(1), 4, 6, 10)
    icmp = partial[:23] + b"\1" + partial[24:]
    for frame in (b"", partial[:20], OUR_MAC + CLIENT_MAC + b"\x08\x06" + bytes(28), icmp):
        assert complete_frame(frame) == frame

"""Completing L4 checksums that a sender on this machine left to its device (CHECKSUM_PARTIAL: veth, virtio).

The field holds the sum of the pseudo-header. The complement of the sum of the whole segment, that field included, is
the checksum.
"""

import numpy as np
import numpy.typing as npt

from appliance.dataplane.raw.layout import IP, Columns
from appliance.packet.action import Reason
from appliance.packet.checksum import checksum
from appliance.packet.headers import parse_ethernet, parse_ip

_CHECKSUM_AT = {6: 16, 17: 6}
"""From the L4 header's begin, by protocol."""


def complete_rows(columns: Columns, rows: npt.NDArray[np.intp]) -> None:
    """Complete plain frames within their slots. Frames of one size are summed up together."""
    frames = columns.frames
    heads = frames[rows, IP : IP + 8]
    four = heads[:, 0] >> 4 == 4
    fields = heads.view(">u2")
    lengths = np.where(four, fields[:, 1] - 20, fields[:, 2]).astype(np.intp)
    l4 = np.where(four, IP + 20, IP + 40)
    protocols = np.where(four, frames[rows, IP + 9], heads[:, 6])
    at = l4 + np.where(protocols == 6, 16, 6)
    for length, begin in {(int(n), int(b)) for n, b in zip(lengths, l4, strict=True)}:
        same = (lengths == length) & (l4 == begin)
        chosen = rows[same]
        segments = frames[chosen, begin : begin + length + length % 2]
        if length % 2:
            segments[:, -1] = 0
        sums = segments.view(">u2").sum(axis=1, dtype=np.uint32)
        sums = (sums & 0xFFFF) + (sums >> 16)
        sums = (sums & 0xFFFF) + (sums >> 16)
        sums ^= np.uint32(0xFFFF)
        sums[sums == 0] = 0xFFFF  # zero means "none" in UDP, and is the same number in TCP
        frames[chosen[:, None], at[same][:, None] + np.arange(2)] = sums.astype(">u2").view(np.uint8).reshape(-1, 2)


def complete_frame(frame: bytes) -> bytes:
    """The same for one frame of any shape; what has no L4 header to complete is returned as it is."""
    link = parse_ethernet(frame)
    if isinstance(link, Reason):
        return frame
    ip = parse_ip(frame[link.length :], link.version)
    if isinstance(ip, Reason) or ip.protocol not in _CHECKSUM_AT:
        return frame
    begin, end = link.length + ip.l4, link.length + ip.length
    at = begin + _CHECKSUM_AT[ip.protocol]
    if at + 2 > end:
        return frame
    value = checksum(frame[begin:end]) or 0xFFFF
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]

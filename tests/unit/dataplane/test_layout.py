"""The geometry of slots and rings."""

import numpy as np
import pytest

from appliance.dataplane.raw.layout import IP, PAGE, Columns, alike, block_for, stride_for, with_tag
from appliance.model import Encapsulation


@pytest.mark.parametrize("mtu", [576, 1280, 1500, 1504, 2000, 4000, 9000, 9216])
def test_slots_hold_a_packet_and_avoid_each_others_cache_sets(mtu: int) -> None:
    """A slot takes the link's largest packet, and is an odd number of cache lines; blocks are whole pages of slots."""
    stride = stride_for(mtu)
    assert stride >= IP + mtu
    assert stride // 64 % 2 == 1
    assert stride - (IP + mtu) < 128
    assert block_for(stride) % PAGE == block_for(stride) % stride == 0


def test_the_usual_link_has_the_measured_stride() -> None:
    """1728 bytes for an MTU of 1500."""
    assert stride_for(1500) == 1728


def test_a_tag_goes_back_to_where_it_was() -> None:
    """The kernel takes the outer VLAN tag out of the frame; what is answered needs it again."""
    frame = bytes(range(12)) + b"\x08\x00rest"
    assert with_tag(frame, b"\x05\x60\x00\x81") == bytes(range(12)) + b"\x81\x00\x60\x05\x08\x00rest"
    assert with_tag(frame, b"\x05\x60\x00\x00")[12:14] == b"\x81\x00"


def test_outer_headers_leave_the_slots_own_header_alone() -> None:
    """The longest of them begin behind struct tpacket2_hdr and the address after it (52 bytes), where the status is."""
    columns = Columns(np.zeros((1, stride_for(1500)), np.uint8))
    longest = [columns.outer6[kind] for kind in Encapsulation] + [columns.outer4[kind] for kind in Encapsulation]
    begins = [column.ctypes.data - columns.frames.ctypes.data for column in longest]
    assert min(begins) >= 52


@pytest.mark.parametrize("kind", ["u1", "u4", "u8"])
def test_a_column_is_alike_if_no_number_differs(kind: str) -> None:
    """One number that differs is seen wherever it stands, also in a column that is spread over slots."""
    column = np.full((5, 3), 7, kind)[:, 1]
    assert alike(column)
    assert alike(column[:1])
    for at in range(5):
        other = column.copy()
        other[at] = 8
        assert not alike(other)

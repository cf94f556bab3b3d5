"""Netlink messages about interfaces, written by hand: VLAN devices and network cards are not everywhere."""

import struct
import sys

import pytest

from appliance.dataplane.xdp.linkfacts import Attached, Vlan, attributes, parse_attached, parse_vlan

IFNAME, LINK, LINKINFO, XDP = 3, 5, 18, 43
KIND, DATA, VLAN_ID, VLAN_PROTOCOL = 1, 2, 1, 5
ATTACHED, PROG_ID, DRV_PROG_ID, SKB_PROG_ID = 2, 4, 5, 6
NESTED = 0x8000


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def number(kind: int, value: int, size: int = 4) -> bytes:
    return attribute(kind, value.to_bytes(size, sys.byteorder))


def link(kind: bytes, data: bytes, *, parent: bytes = number(LINK, 7), flag: int = 0) -> bytes:
    info = attribute(KIND, kind) + attribute(DATA | flag, data)
    return attribute(IFNAME, b"eth0.5\0") + parent + attribute(LINKINFO | flag, info)


@pytest.mark.parametrize("protocol", [0x8100, 0x88A8])
@pytest.mark.parametrize("flag", [0, NESTED])
def test_a_vlan_device(protocol: int, flag: int) -> None:
    """Parent, protocol and number are read, whether or not nested attributes are marked as such."""
    data = number(VLAN_ID, 4094, 2) + attribute(VLAN_PROTOCOL, protocol.to_bytes(2, "big"))
    assert parse_vlan(link(b"vlan\0", data, flag=flag)) == Vlan(parent_ifindex=7, protocol=protocol, tag=4094)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        attribute(IFNAME, b"eth0\0"),
        link(b"macvlan\0", number(1, 4)),
        link(b"vlan\0", number(VLAN_ID, 5, 2), parent=b""),
        link(b"vlan\0", b""),
    ],
    ids=["nothing", "card", "macvlan", "no parent", "no number"],
)
def test_no_vlan_device(message: bytes) -> None:
    """Other kinds of interface, and devices that lack what makes a VLAN, are none."""
    assert parse_vlan(message) is None


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (number(ATTACHED, 0, 1), None),
        (b"", None),
        (number(ATTACHED, 1, 1) + number(PROG_ID, 70_000) + number(DRV_PROG_ID, 70_000), Attached("native", 70_000)),
        (number(ATTACHED, 2, 1) + number(PROG_ID, 5) + number(SKB_PROG_ID, 5), Attached("generic", 5)),
        (number(ATTACHED, 3, 1) + number(PROG_ID, 6), Attached("offloaded", 6)),
        (number(ATTACHED, 4, 1) + number(DRV_PROG_ID, 8) + number(SKB_PROG_ID, 9), Attached("multiple", 8)),
        (number(ATTACHED, 9, 1), None),
    ],
)
def test_the_program_on_an_interface(told: bytes, expected: Attached | None) -> None:
    """Each mode has its name; of several programs the native one is told; unknown modes are none."""
    assert parse_attached(attribute(IFNAME, b"eth0\0") + attribute(XDP | NESTED, told)) == expected


def test_broken_attributes_end_the_list() -> None:
    """What is cut off, or shorter than its own head, is not read, and what stands before it is."""
    good = attribute(1, b"abc")
    for bad in (b"", b"\x08\x00\x02", struct.pack("=HH", 3, 2), struct.pack("=HH", 40, 2) + bytes(8), bytes(4)):
        assert list(attributes(good + bad)) == [(1, b"abc")]

"""The program's structures (bpf/tables.h) as NumPy types. A test compares them with the object's type information."""

import struct

import numpy as np

CONTROL = np.dtype(
    [
        ("active", "<u4"),
        ("rows", "<u4"),
        ("services", "<u4"),
        ("ways", "<u4"),
        ("ident_step", "<u4"),
        ("slow_limit", "<u4"),
        ("tick_shift", "<u4"),
        ("spare", "<u4"),
    ]
)
GENERATION = np.dtype(
    [
        ("keys", "<u8", 12),
        ("seeds", "<u8", 4),
        ("ports_first", "<u4"),
        ("ports_mask", "<u4"),
        ("vips_first", "<u4"),
        ("vips_mask", "<u4"),
        ("entries_first", "<u4"),
        ("ranges_first", "<u4"),
        ("ways_first", "<u4"),
        ("stations_first", "<u4"),
        ("stations", "<u4"),
        ("spare", "<u4"),
        ("loops", "<u8", 1024),
    ]
)
ENTRY = np.dtype(
    [
        ("address", "<u8", 2),
        ("what", "<u4"),
        ("service", "<u4"),
        ("base", "<u8"),
        ("source_factor", "<u8"),
        ("ports_factor", "<u8"),
        ("ports_mask", "<u4"),
        ("slots", "<u4"),
        ("size", "<u4"),
        ("spare", "<u4"),
    ]
)
VIP = np.dtype(
    [
        ("address", "<u8", 2),
        ("what", "<u4"),
        ("spare", "<u4"),
        ("first", "<u4", 2),
        ("count", "<u4", 2),
        ("spares", "<u4", 6),
    ]
)
BUCKET = np.dtype([("slot", "<u4", 4)])
RANGE = np.dtype([("first", "<u2"), ("last", "<u2"), ("entry", "<u4")])
WAY = np.dtype(
    [
        ("macs", "u1", 12),
        ("kind", "u1"),
        ("flags", "u1"),
        ("limit", "<u2"),
        ("ifindex", "<u4"),
        ("tag", "<u2", 2),
        ("sum", "<u4"),
        ("spare", "<u4"),
        ("source", "<u4", 4),
        ("destination", "<u4", 4),
    ]
)
PORT = np.dtype([("ifindex", "<u4"), ("mtu", "<u4"), ("mac", "u1", 6), ("flags", "u1"), ("spare", "u1")])
TRAFFIC = np.dtype([("packets", "<u8"), ("bytes", "<u8")])
EXIT_COUNT = np.dtype([("packets", "<u8"), ("tick", "<u8")])
CPU = np.dtype([("tick", "<u8"), ("slow", "<u4"), ("ident", "<u4")])
OUTCOME = np.dtype(
    [("exit", "<u4"), ("entry", "<u4"), ("way", "<u4"), ("slot", "<u4"), ("service", "<u4"), ("hash", "<u4")]
)

STRUCTS = {
    "control": CONTROL,
    "generation": GENERATION,
    "entry": ENTRY,
    "vip": VIP,
    "bucket": BUCKET,
    "range": RANGE,
    "way": WAY,
    "port": PORT,
    "traffic": TRAFFIC,
    "exit_count": EXIT_COUNT,
    "cpu": CPU,
    "outcome": OUTCOME,
}
"""By the names that they have in C."""

EVENT = struct.Struct("<QIIII")
"""The beginning of `struct event`; EVENT_HEAD bytes of the frame follow."""

EVENT_HEAD = 96
PORTS, LOOPBACK = 256, 1
TEST_PORT = 2 * PORTS
PROBES = 4
EXITS = 22
NOBODY = 0xFFFF
MAX_WAYS = 0x8000
WAY_L2, WAY_OUTER4, WAY_OUTER6 = 0, 4, 6
WAY_ROUTED, WAY_SLOW, WAY_LINEAR = 1, 2, 4
PORT_QUIET, PORT_NO_TRANSMIT, PORT_PARTIAL = 1, 2, 4
"""Constants of the same names in C."""


def what(version: int, protocol: int, port: int) -> int:
    """The last part of an index key. *port* in host byte order; in C it is as in the packet."""
    return version << 24 | protocol << 16 | (port & 0xFF) << 8 | port >> 8

"""The program's structures (bpf/tables.h) as NumPy types. A test compares them with the object's type information."""

import struct

import numpy as np

from appliance.dataplane import logged, meters, pins
from appliance.model import Encapsulation
from appliance.packet import placement, protection

CONTROL = np.dtype(
    [
        ("active", "<u4"),
        ("rows", "<u4"),
        ("services", "<u4"),
        ("ways", "<u4"),
        ("ident_step", "<u4"),
        ("slow_limit", "<u4"),
        ("tick_shift", "<u4"),
        ("pin_sets", "<u4"),
        ("opening_limit", "<u4"),
        ("source_sets", "<u4"),
        ("clock", "<u8"),
    ]
)
GENERATION = np.dtype(
    [
        ("keys", "<u8", 12),
        ("pin_keys", "<u8", 12),
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
        ("policies_first", "<u4"),
        ("member_ways_first", "<u4"),
        ("guards_first", "<u4"),
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
        ("previous", "<u4"),
    ]
)
POLICY = np.dtype(
    [
        ("placement", "u1"),
        ("order", "u1"),
        ("idle", "<u2"),
        ("choices", "<u4"),
        ("length", "<u4"),
        ("stamp", "<u4"),
        ("quic", "<u4"),
        ("spare", "<u4", 3),
    ]
)
QUIC_CONFIG = np.dtype(
    [
        ("kind", "u1"),
        ("length", "u1"),
        ("server_id_length", "u1"),
        ("encode_length", "u1"),
        ("first", "<u4"),
        ("count", "<u4"),
        ("spare", "<u4"),
    ]
)
SERVER = np.dtype([("key", "<u8"), ("head", "<u8"), ("tail", "<u8"), ("way", "<u4"), ("spare", "<u4")])
TURN = np.dtype([("stamp", "<u4"), ("next", "<u4")])
VIP = np.dtype(
    [
        ("address", "<u8", 2),
        ("what", "<u4"),
        ("rejects", "<u4"),
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
        ("member", "<u2"),
        ("ttl", "u1"),
        ("front", "u1"),
        ("source", "<u4", 4),
        ("destination", "<u4", 4),
    ]
)
PORT = np.dtype([("ifindex", "<u4"), ("mtu", "<u4"), ("mac", "u1", 6), ("flags", "u1"), ("spare", "u1")])
TRAFFIC = np.dtype([("packets", "<u8"), ("bytes", "<u8")])
EXIT_COUNT = np.dtype([("packets", "<u8"), ("tick", "<u8")])
CPU = np.dtype(
    [
        ("tick", "<u8"),
        ("slow", "<u4"),
        ("ident", "<u4"),
        ("pins_made", "<u8"),
        ("pins_evicted", "<u8", 4),
        ("jiffies", "<u4"),
        ("pin_tick", "<u4"),
        ("opening_tick", "<u8"),
        ("opening", "<u8"),
        ("sources_forgotten", "<u8"),
    ]
)
OUTCOME = np.dtype(
    [
        ("exit", "<u4"),
        ("entry", "<u4"),
        ("way", "<u4"),
        ("slot", "<u4"),
        ("service", "<u4"),
        ("hash", "<u4"),
        ("by", "<u4"),
        ("spare", "<u4"),
    ]
)
GUARD = np.dtype(
    [
        ("interval", "<u8", 3),
        ("tolerance", "<u8", 3),
        ("boundaries_first", "<u4"),
        ("boundaries", "<u4"),
        ("meter", "<u4", 2),
    ]
)
BOUNDARY = np.dtype([("upper", "<u8"), ("lower", "<u8")])
SNAPLEN = 4096
WANTED = np.dtype(
    [
        ("client", "<u8", 2),
        ("client_mask", "<u8", 2),
        ("vip", "<u8", 2),
        ("vip_mask", "<u8", 2),
        ("snaplen", "<u4"),
        ("spare", "<u4"),
    ]
)
RECORD = np.dtype(
    [
        ("ns", "<u8"),
        ("exit", "<u4"),
        ("ifindex", "<u4"),
        ("entry", "<u4"),
        ("way", "<u4"),
        ("slot", "<u4"),
        ("service", "<u4"),
        ("by", "<u4"),
        ("length", "<u4"),
        ("captured", "<u4"),
        ("out_length", "<u4"),
        ("out_captured", "<u4"),
        ("bytes", "u1", 2 * SNAPLEN),
        ("spare", "<u4"),
    ]
)
DESK = np.dtype([("outcome", OUTCOME), ("lost", "<u8"), ("busy", "<u4"), ("spare", "<u4"), ("record", RECORD)])
PIN_SET = np.dtype([("word", "<u8", pins.WAYS)])

STRUCTS = {
    "control": CONTROL,
    "generation": GENERATION,
    "entry": ENTRY,
    "policy": POLICY,
    "quic_config": QUIC_CONFIG,
    "server": SERVER,
    "turn": TURN,
    "vip": VIP,
    "bucket": BUCKET,
    "range": RANGE,
    "way": WAY,
    "port": PORT,
    "traffic": TRAFFIC,
    "exit_count": EXIT_COUNT,
    "cpu": CPU,
    "outcome": OUTCOME,
    "wanted": WANTED,
    "record": RECORD,
    "desk": DESK,
    "pin_set": PIN_SET,
    "flow": pins.FLOW,
    "delay": pins.DELAY,
    "guard": GUARD,
    "boundary": BOUNDARY,
    "source": meters.SOURCE,
    "logged": logged.LOGGED,
}
"""By the names that they have in C."""

CAPTURED = struct.Struct("<QIIIIIIIIIII")
"""The beginning of `struct record`, up to its bytes."""

EVENT = struct.Struct("<QIIII")
"""The beginning of `struct event`; EVENT_HEAD bytes of the frame follow."""

EVENT_HEAD = 96
PORTS, LOOPBACK = 256, 1
TEST_PORT = 2 * PORTS
PROBES = 4
EXITS = 30
LOOK_CLOSER, NOBODY = 0x8000, 0xFFFF
WAY_L2, WAY_OUTER4, WAY_OUTER6, WAY_FAMILY = 0, 4, 6, 0x0F
WAY_CLEAR, WAY_SPREAD, WAY_GRE, WAY_GUE = 0x10, 0x20, 0x40, 0xC0
WAY_ROUTED, WAY_SLOW, WAY_LINEAR, WAY_UNBOUND = 1, 2, 4, 8
PORT_QUIET, PORT_NO_TRANSMIT, PORT_PARTIAL, PORT_REMEMBER = 1, 2, 4, 8
PLACEMENT_HASH, PLACEMENT_PER_FLOW, PLACEMENT_PER_PACKET = range(3)
ORDER_SEQUENCE, ORDER_RANDOM = range(2)
QUIC_NONE, QUIC_PLAIN, QUIC_KEY = range(3)
QUIC_SERVER_ID = 15
PIN_NEW, PIN_OPEN, PIN_FIN, PIN_RST = placement.PinState
PIN_STATES = len(placement.PinState)
WHEN_BITS, STATE_SHIFT, MEMBER_SHIFT, TAG_SHIFT = pins.WHEN_BITS, pins.STATE_SHIFT, pins.MEMBER_SHIFT, pins.TAG_SHIFT
PIN_TICK_SHIFT, JOURNAL = placement.TICK_SHIFT, pins.JOURNAL
GUARDED = 1 << 31
SCOPE_SERVICE, SCOPE_VIP, SCOPE_SOURCE = protection.Scope
SCOPES = len(protection.Scope)
LOG_PLACES, LOG_SETS = logged.PLACES, logged.SETS
LOG_BELOW, LOG_MISSED, LOG_GATES = logged.BELOW, logged.MISSED, logged.GATES
SOURCE_PLACES, METER_SLACK_NS = meters.PLACES, protection.SLACK_NS
RETRANSMISSION_TICKS, FIN_TICKS, RST_TICKS = placement.RETRANSMISSION_TICKS, placement.FIN_TICKS, placement.RST_TICKS
"""Constants of the same names in C."""

TUNNELS = {Encapsulation.IPIP: 0, Encapsulation.GRE: WAY_GRE, Encapsulation.GUE: WAY_GUE}
"""What an encapsulation adds to the kind of a way."""

MAX_WAYS = LOOK_CLOSER - 1
"""Numbers of ways that a slot can hold."""


def what(version: int, protocol: int, port: int) -> int:
    """The last part of an index key. *port* in host byte order; in C it is as in the packet."""
    return version << 24 | protocol << 16 | (port & 0xFF) << 8 | port >> 8

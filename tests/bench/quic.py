"""`tests/run bench quic`: what it costs to read connection IDs, by kind: the raw plane's passes, and the XDP program.

Both without receiving and sending. Kinds take turns, and of all rounds the quickest counts: the others say how busy the
machine was.
"""

import os
import random
import struct
import sys
import time
from collections import defaultdict
from ipaddress import ip_address

import numpy as np

from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.kernel import Interface
from appliance.dataplane.raw.layout import ETHERNET, Columns, stride_for
from appliance.dataplane.raw.vector import VectorPath
from appliance.dataplane.xdp.program import Program
from appliance.dataplane.xdp.tables import Capacity, Egress
from appliance.forwarding import ForwardingTables, NextHop, QuicServers, TableMember, TableService
from appliance.model import HashMode, PortRange, Protocol, QuicConfig
from appliance.packet import quic
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress
from tests.unit.dataplane.frames import L2, cycle

VIP, CLIENT = ip_address("198.51.100.7"), ip_address("192.0.2.2")
OURS, MEMBER, ROUTER = (bytes((2, 0, 0, 0, 0, number)) for number in (1, 2, 3))
INGRESS = Ingress(5, OURS, 1500)
KEY = bytes(range(16))
CLEAR = QuicConfig(0, 4, 12)
KINDS = {
    "no QUIC": None,
    "clear": CLEAR,
    "one block": QuicConfig(0, 4, 12, KEY),
    "three rounds": QuicConfig(0, 4, 8, KEY),
    "four rounds": QuicConfig(0, 9, 4, KEY),
}
BATCH, SIZE, SERVERS = 512, 1200, 64


def tables(config: QuicConfig | None) -> ForwardingTables:
    """One service and one member with many names."""
    hop = NextHop(5, "d0", OURS, MEMBER, 1500, ip_address("203.0.113.1"), direct=True)
    names = {} if config is None else {bytes((number,)) * config.server_id_length: 0 for number in range(SERVERS)}
    known = () if config is None else (QuicServers(config, names),)
    service = TableService(
        0, "fast", VIP, Protocol.UDP, (PortRange(443, 443),), HashMode.FIVE_TUPLE, cycle(0), 300, quic=known
    )
    return ForwardingTables(KEY, (service,), {0: TableMember(0, "fast/m", ip_address("203.0.113.2"), L2, hop)})


def frames(config: QuicConfig | None, rnd: random.Random) -> list[bytes]:
    """Datagrams with a short header, each of another client."""
    config, made = config or CLEAR, []
    for number in range(BATCH):
        name = bytes((number % SERVERS,)) * config.server_id_length
        payload = b"\x40" + quic.make(config, name, rnd.randbytes(config.nonce_length)) + bytes(SIZE)
        segment = struct.pack("!HHHH", 1024 + number, 443, 8 + len(payload), 0) + payload
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), number, 0x4000, 64, 17, 0)
        head += CLIENT.packed + VIP.packed
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        made.append(OURS + ROUTER + b"\x08\x00" + head + segment)
    return made


def raw(config: QuicConfig | None, rnd: random.Random) -> float:
    """Nanoseconds a datagram in the raw plane's passes."""
    compiled = Compiled(tables(config), [INGRESS])
    arrived = np.zeros((BATCH, stride_for(1500)), np.uint8)
    for row, frame in zip(arrived, frames(config, rnd), strict=True):
        row[ETHERNET : ETHERNET + len(frame)] = np.frombuffer(frame, np.uint8)
    slots = arrived.copy()
    path, took = VectorPath(Columns(slots)), []
    for _ in range(10):
        slots[:] = arrived
        begin = time.perf_counter()
        path.forward(slice(0, BATCH), 0, compiled)
        took.append((time.perf_counter() - begin) / BATCH * 1e9)
    return min(took)


def xdp(program: Program, config: QuicConfig | None, rnd: random.Random) -> float:
    """Nanoseconds of a test run of the program, the kernel's own work in it."""
    program.tables.stage(tables(config), lambda member: Egress(member.next_hop.ifindex))
    program.tables.publish()
    program.tables.settle()
    frame, interface = frames(config, rnd)[0], Interface("lo", 5, OURS, 1500, True, True)
    program.run(frame, interface)
    return float(min(program._runner.run(frame).ns for _ in range(2000)))


def main() -> int:
    if os.geteuid() != 0:
        print("the XDP program takes root")
        return 1
    rnd, found = random.Random(1), defaultdict[tuple[str, str], list[float]](list)
    program = Program(Capacity.planned(4))
    try:
        for _ in range(6):
            for kind, config in KINDS.items():
                found["raw", kind].append(raw(config, rnd))
                found["XDP", kind].append(xdp(program, config, rnd))
    finally:
        program.close()
    for plane in ("raw", "XDP"):
        base = min(found[plane, "no QUIC"])
        for kind, config in KINDS.items():
            took = min(found[plane, kind])
            left = "  left to the raw plane" if plane == "XDP" and config is not None and config.key else ""
            print(f"{plane:4} {kind:13} {took:5.0f} ns  {took - base:+5.0f} ns  {took / base:4.2f} x{left}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

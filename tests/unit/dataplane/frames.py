"""Random forwarding tables and random frames for them, most of them fit to be forwarded, some with something wrong."""

import random
import struct
from ipaddress import ip_address, ip_network

import numpy as np

from appliance.forwarding import NO_MEMBER, SLOTS, ForwardingTables, NextHop, SlotArray, TableMember, TableService
from appliance.model import (
    Delivery,
    DfPolicy,
    DsrType,
    Encapsulation,
    HashMode,
    IPNetwork,
    OuterSource,
    PortRange,
    Protocol,
    TtlPolicy,
)
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress
from appliance.ring.slots import pack

OUR_MAC = bytes.fromhex("027100000002")
CLIENT_MAC = bytes.fromhex("027100000001")
INGRESS = Ingress(7, OUR_MAC, 1500)
VIPS = ("198.51.100.7", "198.51.100.8", "198.51.100.9", "2001:db8:f::7", "2001:db8:f::8", "2001:db8:e::7")
STRANGERS = ("198.51.100.99", "2001:db8::99")

L2 = Delivery(DsrType.L2, None)
L3 = Delivery(DsrType.L3, Encapsulation.IPIP)


def random_delivery(rnd: random.Random) -> Delivery:
    """L2 a third of the time, else any tunnel, mostly with the usual outer header."""
    if rnd.random() < 0.33:
        return L2
    encapsulation, ttl = rnd.choice(list(Encapsulation)), rnd.choice(list(TtlPolicy))
    if rnd.random() < 0.7:
        return Delivery(DsrType.L3, encapsulation, ttl)
    outer = rnd.choice(list(DfPolicy)), rnd.choice((1, 63, 255)), rnd.choice(list(OuterSource))
    return Delivery(DsrType.L3, encapsulation, ttl, *outer)


def random_prefix(rnd: random.Random, version: int) -> IPNetwork:
    """Of any length that outer sources may have."""
    lengths, base = ((20, 26, 29, 30), "198.51.111.252") if version == 4 else ((32, 64, 97, 120), "2001:db8:ffff::ff00")
    return ip_network(f"{base}/{rnd.choice(lengths)}", strict=False)


def member_mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 1, number))


def cycle(*indices: int, size: int = SLOTS) -> SlotArray:
    """Slots owned in turn."""
    primary = np.resize(np.array(indices, np.uint32), size)
    return pack(primary, primary)


def random_tables(rnd: random.Random, ifindexes: tuple[int, ...] = (2, 3), mtus: tuple[int, ...] = (1500, 1500, 1400)):
    """One to twenty services on the VIPs, members of all deliveries and families; some slots belong to nobody."""
    members = {}
    for number in range(rnd.choice((1, 2, 8, 20))):
        six = rnd.random() < 0.5
        index = rnd.randrange(60000)
        hop = NextHop(
            ifindex=rnd.choice(ifindexes),
            interface="d1",
            source_mac=bytes((2, 0, 0, 0, 2, rnd.randrange(2))),
            mac=member_mac(number),
            mtu=rnd.choice(mtus),
            source=ip_address("2001:db8:1::1" if six else "192.0.2.1"),
            direct=True,
        )
        address = ip_address(f"2001:db8::{number + 1:x}" if six else f"203.0.113.{number + 1}")
        delivery = random_delivery(rnd)
        path_mtu = None if delivery is L2 or rnd.random() < 0.7 else rnd.choice((552, 1280, 1300))
        prefix = random_prefix(rnd, 6 if six else 4) if delivery.outer_source is OuterSource.PREFIX else None
        members[index] = TableMember(index, f"pool/m{number}", address, delivery, hop, path_mtu, prefix)
    pools = []
    for _ in range(rnd.choice((1, 3))):
        indices = rnd.sample(sorted(members), min(len(members), rnd.randrange(1, 6)))
        nobody = [NO_MEMBER] if rnd.random() < 0.3 else []
        pools.append(cycle(*indices, *nobody, size=SLOTS if rnd.random() < 0.8 else 251))
    services = []
    for number in range(rnd.choice((1, 1, 5, 20))):
        first = rnd.randrange(1, 2000)
        choices = (
            PortRange(80, 80),
            PortRange(443, 443),
            PortRange(first, first + rnd.randrange(500)),
            PortRange(1, 65535),
        )
        services.append(
            TableService(
                index=number,
                name=f"s{number}",
                vip=ip_address(rnd.choice(VIPS)),
                protocol=rnd.choice(list(Protocol)),
                ports=tuple(rnd.choices(choices, k=rnd.choice((1, 2)))),
                hash_mode=rnd.choice(list(HashMode)),
                slots=rnd.choice(pools),
            )
        )
    return ForwardingTables(rnd.randbytes(16), tuple(services), members)


def random_frame(rnd: random.Random, tables: ForwardingTables, wrong: float = 0.03) -> bytes:
    """A frame for one of the services; with probability *wrong* each of many details is not as it should be."""

    def off() -> bool:
        return rnd.random() < wrong

    service = rnd.choice(tables.services)
    vip = ip_address(rnd.choice(VIPS + STRANGERS)) if off() else service.vip
    protocol = rnd.choice((1, 6, 17, 44, 58)) if off() else int(service.protocol)
    port = rnd.randrange(65536) if rnd.random() < 0.1 else rnd.choice(service.ports).first
    payload = rnd.randbytes(rnd.choice((0, 1, 5, 18, 100, 1210, 1232, 1300, 1380, 1400, 1433, 1453, 1460, 1472)))
    if protocol == Protocol.TCP:
        offset = rnd.choice((0x40, 0x60, 0xF0)) if off() else 0x50
        ports = struct.pack("!HHII", rnd.randrange(65536), port, rnd.randrange(1 << 32), 2)
        segment = ports + struct.pack("!BBHHH", offset, rnd.choice((0, 2, 3, 0x10, 0x12, 0x18)), 5, 0, 0)
    else:
        length = rnd.choice((0, 7, 8, 9 + len(payload), rnd.randrange(65536))) if off() else 8 + len(payload)
        segment = struct.pack("!HHHH", rnd.randrange(65536), port, length, rnd.choice((0, 1)))
    segment += payload
    total_error = rnd.choice((1, -1, -30, 1000)) if off() else 0
    ttl = rnd.choice((0, 1)) if off() else rnd.choice((2, 64, 255))
    if vip.version == 4:
        options = b"\1\1\1\0" if off() else b""
        flags = rnd.choice((0x2000, 0x0010, 0x8000)) if off() else rnd.choice((0x4000, 0x4000, 0))
        total = max(0, 20 + len(options) + len(segment) + total_error)
        tos = rnd.choice((0, rnd.randrange(256)))
        head = struct.pack(
            "!BBHHHBBH", 0x45 + len(options) // 4, tos, total, rnd.randrange(65536), flags, ttl, protocol, 0
        )
        head += rnd.randbytes(4) + vip.packed + options
        value = checksum(head) ^ (rnd.randrange(1, 65536) if off() else 0)
        value = 0xFFFF if value == 0 and rnd.random() < 0.5 else value
        packet = head[:10] + value.to_bytes(2, "big") + head[12:] + segment
        ethertype = b"\x08\x00"
    else:
        first_word = (4 if off() else 6) << 28 | rnd.choice((0, rnd.randrange(1 << 28)))
        head = struct.pack("!IHBB", first_word, max(0, len(segment) + total_error), protocol, ttl)
        packet = head + rnd.randbytes(16) + vip.packed + segment
        ethertype = b"\x86\xdd"
    if rnd.random() < 0.5:
        packet = packet.ljust(46, b"\0")
    if off():
        packet = packet[: rnd.randrange(len(packet))]
    tags = rnd.choice((b"\x81\0\0\5", b"\x88\xa8\0\1\x81\0\0\3")) if off() else b""
    source = CLIENT_MAC
    if off():
        source = rnd.choice((member_mac(rnd.randrange(20)), bytes((2, 0, 0, 0, 2, 0)), OUR_MAC, b"\x02\x99\0\0\1\1"))
    return OUR_MAC + source + tags + ethertype + packet

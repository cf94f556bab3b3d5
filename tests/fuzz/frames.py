"""Random frames for given tables: built field by field with values at every edge, then damaged byte by byte."""

import random
import struct
from ipaddress import ip_address

import numpy as np

from appliance.forwarding import ForwardingTables, TableService
from appliance.model import DsrType, Protocol
from appliance.packet import quic
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress
from appliance.ring.hash import MASKS, derive_keys, hash_columns
from tests.fuzz.flows import Say, Tuple
from tests.unit.dataplane.frames import STRANGERS, VIPS

CLIENT_MAC = bytes.fromhex("027100000001")
LONGEST = 2990
BUILT = 0.3
"""The part of all frames that is built; the others are such frames, changed."""

SAID = 0.7
"""The part of all frames that belongs to flows, where there are any."""

_TCP = [say for say in Say if say.value >= 0]
_PIECES = (Say.FIRST, Say.LATER)
_TCP_SAYS = (*_TCP, *_PIECES, Say.ERROR, *[Say.SYN] * 4, *[Say.PLAIN] * 6, Say.PUSH, Say.FIN)
_UDP_SAYS = (*[Say.DATA] * 9, *_PIECES, Say.ERROR)

_FRAGMENTS = (0x2000, 0x2001, 0x0001, 0x1FFF, 0x3FFF, 0x4001, 0x6000, 0xA000, 0x8001)
_BYTES = (0, 1, 2, 4, 5, 6, 17, 0x3F, 0x40, 0x44, 0x45, 0x46, 0x4F, 0x50, 0x60, 0x7F, 0x80, 0xF0, 0xFE, 0xFF)
_CHECKSUMS = (0x0000, 0x0001, 0xFEFE, 0xFEFF, 0xFF00, 0xFFFE, 0x00FF, 0x0100)
_PROTOCOLS = (0, 1, 2, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135, 139, 140, 253, 254, 255)
_TAGS = (
    b"\x81\x00\x00\x05",
    b"\x88\xa8\x00\x01\x81\x00\x00\x03",
    b"\x88\xa8\x00\x01",
    b"\x81\x00\x00\x01\x81\x00\x00\x03",
    b"\x81\x00\x00\x01\x81\x00\x00\x03\x81\x00\x00\x04",
    b"\x91\x00\x00\x01",
    b"\x81\x00",
)
_TRAILERS = (1, 2, 4, 8, 100, 600)
_TTLS = (64, 64, 64, 64, 64, 2, 1, 0, 255, 3)
_SIZES = (0, 0, 0, 1, 5, 6, 18, 100)


class Frames:
    """A source of frames for one set of tables."""

    def __init__(self, rnd: random.Random, tables: ForwardingTables, ingress: Ingress, flows: int = 0) -> None:
        """
        Args:
            rnd: makes all choices.
            tables: that frames are for.
            ingress: where they arrive.
            flows: how many flows there are that say more than once what flows say; 0 makes every frame a stranger.
        """
        self._rnd = rnd
        self._tables = tables
        self._ingress = ingress
        hops = [member.next_hop for member in tables.members.values()]
        macs = [hop.mac for hop in hops] + [hop.source_mac for hop in hops] + [ingress.mac]
        # Near misses: the same tail, another head.
        self._macs = macs + [b"\x02\x99\x99\x99" + mac[4:] for mac in macs] + [b"\x03" + CLIENT_MAC[1:]]
        self._lengths = [member.inner_mtu for member in tables.members.values()] + [ingress.mtu]
        self._quic = [one for service in tables.services for one in service.quic]
        self._labels: list[tuple[TableService, bytes, bytes]] = []
        self._pool: list[bytes] = []
        self._flows = [self._flow() for _ in range(flows)]

    def take(self, count: int) -> list[bytes]:
        """So many frames."""
        frames = []
        rnd = self._rnd
        for _ in range(count):
            if self._flows and rnd.random() < SAID:
                frame = self._say()
            elif len(self._pool) < 8 or rnd.random() < BUILT:
                frame = self.build()
                if len(self._pool) < 256:
                    self._pool.append(frame)
                else:
                    self._pool[rnd.randrange(256)] = frame
            else:
                frame = self.change(rnd.choice(self._pool))
            frames.append(frame)
        return frames

    def look_for_labels(self, attempts: int = 1 << 20) -> None:
        """Find flows whose hash has no low bits: one in 2^20, of which outer flow labels know an exception."""
        rnd, tables = self._rnd, self._tables
        tunnels = {
            index
            for index, member in tables.members.items()
            if member.delivery.dsr_type is DsrType.L3 and member.address.version == 6
        }
        able = [service for service in tables.services if tunnels & set((service.slots & 0xFFFF)[:8].tolist())]
        if not able:
            return
        service = rnd.choice(able)
        numbers = np.random.default_rng(rnd.getrandbits(32))
        count = 1 if service.vip.version == 4 else 4
        sources = list(numbers.integers(0, 1 << 32, (count, attempts), np.uint64))
        source_port = rnd.randbytes(2)
        ports = source_port + service.ports[0].first.to_bytes(2, "big")
        masks = MASKS[service.hash_mode]
        vip = np.frombuffer(service.vip.packed, "<u4").astype(np.uint64)
        rest = [int(word) & masks.destination for word in vip]
        rest += [int.from_bytes(ports, "little") & masks.ports, int(service.protocol) & masks.protocol]
        columns = sources + [np.full(attempts, word, np.uint64) for word in rest]
        hashes = hash_columns(derive_keys(tables.secret), columns)
        for at in np.flatnonzero((hashes & np.uint64(0xFFFFF)) == 0):
            source = b"".join(int(column[at]).to_bytes(4, "little") for column in sources)
            self._labels.append((service, source, ports))

    def build(self) -> bytes:
        """A frame that is right in most respects."""
        rnd = self._rnd
        service = rnd.choice(self._tables.services)
        if self._quic and rnd.random() < 0.5:
            service = rnd.choice([one for one in self._tables.services if one.quic])
        vip = service.vip.packed
        source = rnd.randbytes(len(vip))
        ports = self._ports(service)
        if self._labels and rnd.random() < 0.1:
            service, source, ports = rnd.choice(self._labels)
            vip = service.vip.packed
        kind = rnd.random()
        if kind > 0.97:
            vip = ip_address(rnd.choice(VIPS + STRANGERS)).packed
            source = rnd.randbytes(len(vip))
        version = 4 if len(vip) == 4 else 6
        if kind < 0.07:
            protocol = 1 if version == 4 else 58
            body = self._icmp(version, source, vip, ports, int(service.protocol))
        elif kind < 0.10:
            protocol, body = rnd.choice(_PROTOCOLS), ports + rnd.randbytes(rnd.choice((4, 20, 40)))
        else:
            protocol = int(service.protocol)
            body = self._segment(protocol, ports, 20 if version == 4 else 40, source, vip)
        packet = self._ipv4(source, vip, protocol, body) if version == 4 else self._ipv6(source, vip, protocol, body)
        return self._link(version, packet)

    def _flow(self) -> Tuple:
        rnd = self._rnd
        service = rnd.choice(self._tables.services)
        span = rnd.choice(service.ports)
        port = rnd.choice((span.first, span.first, span.last))
        source = ip_address(rnd.randbytes(len(service.vip.packed)))
        return Tuple(source, service.vip, int(service.protocol), rnd.randrange(1024, 1028), port)

    def _say(self) -> bytes:
        """What a flow says; now and then it is gone, and another one has come."""
        rnd = self._rnd
        which = rnd.randrange(len(self._flows))
        if rnd.random() < 0.005:
            self._flows[which] = self._flow()
        flow = self._flows[which]
        say = rnd.choice(_TCP_SAYS if flow.protocol == Protocol.TCP else _UDP_SAYS)
        ttl = rnd.choice((64, 64, 64, 64, 64, 64, 64, 1))
        frame = flow.frame(say, self._ingress.mac, rnd.choice(_SIZES), ttl)
        if len(self._pool) < 256:
            self._pool.append(frame)
        return frame

    def _ports(self, service: TableService) -> bytes:
        rnd = self._rnd
        span = rnd.choice(service.ports)
        if rnd.random() < 0.7:
            port = span.first
        else:
            edges = (span.last, span.first - 1, span.last + 1, 0, 65535, rnd.randrange(span.first, span.last + 1))
            port = rnd.choice(edges)
        client = rnd.randrange(1024, 65536) if rnd.random() < 0.9 else rnd.choice((0, 65535, 256, 255, port & 0xFFFF))
        return struct.pack("!HH", client, min(max(port, 0), 65535))

    def _segment(self, protocol: int, ports: bytes, header: int, source: bytes, vip: bytes) -> bytes:
        rnd = self._rnd
        l4 = 20 if protocol == Protocol.TCP else 8
        size = rnd.choice(_SIZES)
        if rnd.random() < 0.2:
            size = rnd.choice(self._lengths) + rnd.choice((0, 1, -1)) - header - l4
        size = min(max(size, 0), LONGEST - header - l4)
        payload = bytes(size) if size > 100 else rnd.randbytes(size)
        if protocol == Protocol.UDP and self._quic and rnd.random() < 0.7:
            payload = (self._quic_packet() + payload)[: max(size, rnd.choice((7, 12, 27, 64)))]
            size = len(payload)
        available = l4 + size
        if protocol == Protocol.TCP:
            words = 5
            if rnd.random() < 0.1:
                words = rnd.choice((0, 4, 6, 15, min(15, available // 4), min(15, available // 4 + 1)))
            flags = rnd.choice((0x02, 0x10, 0x12, 0x18, 0x03, 0x06, 0x11, 0x00, 0xC2))
            head = ports + rnd.randbytes(8) + struct.pack("!BBHHH", words << 4 | rnd.choice((0, 0xF)), flags, 5, 0, 0)
            at = 16
        else:
            length = available
            if rnd.random() < 0.15:
                length = rnd.choice((0, 7, 8, available - 1, available + 1, 9, 65535))
            head = ports + struct.pack("!HH", length, rnd.choice((0, 1, 0xFFFF)))
            at = 6
        if rnd.random() < 0.03:
            # What stands there when a device was to complete the checksum.
            total = checksum(source + vip + struct.pack("!HH", protocol, available)) ^ 0xFFFF
            head = head[:at] + total.to_bytes(2, "big") + head[at + 2 :]
        return head + payload

    def _quic_packet(self) -> bytes:
        """A packet with a connection ID that names somebody, mostly; cut and bent at every edge."""
        rnd = self._rnd
        one = rnd.choice(self._quic)
        name = rnd.choice(sorted(one.servers)) if one.servers and rnd.random() < 0.9 else b""
        name = name or rnd.randbytes(one.config.server_id_length)
        cid = quic.make(one.config, name, rnd.randbytes(one.config.nonce_length), rnd.randrange(32))
        if rnd.random() < 0.2:
            cid += rnd.randbytes(rnd.choice((1, 3, 12)))
        if rnd.random() < 0.15:
            cid = cid[: rnd.choice((0, 1, len(cid) - 1, rnd.randrange(len(cid))))]
        if cid and rnd.random() < 0.15:
            cid = bytes((rnd.randrange(256),)) + cid[1:]
        if rnd.random() < 0.5:
            return bytes((rnd.randrange(0x80),)) + cid
        told = len(cid) if rnd.random() < 0.85 else rnd.choice((0, 1, len(cid) + 1, 20, 255))
        return bytes((rnd.randrange(0x80, 0x100),)) + rnd.randbytes(4) + bytes((told & 0xFF,)) + cid

    def _ipv4(self, source: bytes, vip: bytes, protocol: int, body: bytes) -> bytes:
        rnd = self._rnd
        options, flags, first = b"", rnd.choice((0x4000, 0x4000, 0)), 0x45
        total_error = 0
        odd = rnd.random()
        if odd < 0.04:
            options = rnd.choice((b"\1\1\1\0", b"\1\1\1\1\x07\x07\4\0\0\0\0\0", bytes(40)))
        elif odd < 0.08:
            flags = rnd.choice(_FRAGMENTS)
        elif odd < 0.11:
            total_error = rnd.choice((1, -1, 4, -len(body), -len(body) - 1, -19 - len(body), 1000))
        elif odd < 0.13:
            first = rnd.choice((0x44, 0x40, 0x55, 0x35, 0x65, 0xF5))
        elif odd < 0.15:
            flags |= 0x8000
        total = min(max(20 + len(options) + len(body) + total_error, 0), 65535)
        ident = rnd.randrange(65536)
        words = struct.pack(
            "!BBHHHBBH",
            first + len(options) // 4,
            rnd.choice((0, rnd.randrange(256))),
            total,
            ident,
            flags,
            rnd.choice(_TTLS),
            protocol,
            0,
        )
        head = words + source + vip + options
        value = checksum(head)
        if rnd.random() < 0.15:
            wanted = rnd.choice(_CHECKSUMS)
            ident = (ident + value - wanted) % 0xFFFF
            head = head[:4] + ident.to_bytes(2, "big") + head[6:]
            value = checksum(head)
        if value == 0 and rnd.random() < 0.5:
            value = 0xFFFF  # the other zero
        elif rnd.random() < 0.02:
            value ^= rnd.choice((1, 0x100, 0xFFFF, rnd.randrange(1, 65536)))
        return head[:10] + value.to_bytes(2, "big") + head[12:] + body

    def _ipv6(self, source: bytes, vip: bytes, protocol: int, body: bytes) -> bytes:
        rnd = self._rnd
        first_word = 6 << 28 | rnd.choice((0, rnd.getrandbits(28)))
        length_error = 0
        odd = rnd.random()
        if odd < 0.06:
            for _ in range(rnd.choice((1, 1, 2, 8, 9))):
                protocol, body = self._extension(protocol, body)
        elif odd < 0.09:
            length_error = rnd.choice((1, -1, 8, -len(body), 1000))
        elif odd < 0.11:
            first_word = first_word & 0x0FFFFFFF | rnd.choice((4, 0, 5, 7, 15)) << 28
        length = min(max(len(body) + length_error, 0), 65535)
        return struct.pack("!IHBB", first_word, length, protocol, rnd.choice(_TTLS)) + source + vip + body

    def _extension(self, following: int, body: bytes) -> tuple[int, bytes]:
        rnd = self._rnd
        kind = rnd.choice((60, 44, 0, 43, 51, 135, 253))
        if kind == 44:
            position = rnd.choice((0, 1, 8, 9, 0xFFF8, 7))
            return kind, struct.pack("!BBHI", following, 0, position, rnd.getrandbits(32)) + body
        units = rnd.choice((0, 0, 1, 2, 255))
        size = (units + 2) * 4 if kind == 51 else (units + 1) * 8
        middle = rnd.choice((b"\0\0", b"\1\4", b"\2\0"))
        return kind, (bytes((following, units)) + middle).ljust(min(size, 64), b"\0") + body

    def _icmp(self, version: int, source: bytes, vip: bytes, ports: bytes, protocol: int) -> bytes:
        """An error that quotes a member's answer, mostly."""
        rnd = self._rnd
        l4 = ports[2:] + ports[:2] + rnd.randbytes(rnd.choice((4, 0, 16, 500)))
        by = vip if rnd.random() < 0.95 else rnd.randbytes(len(vip))
        client = rnd.randbytes(len(vip))
        if version == 4:
            options = rnd.choice((b"", b"", b"\1\1\1\0"))
            flags = rnd.choice((0x4000, 0x4000, 0, 1, 0x2000))
            words = (0x45 + len(options) // 4, 0, 20 + len(options) + len(l4), 7, flags, 60, protocol, 0)
            quote = struct.pack("!BBHHHBBH", *words) + by + client + options + l4
        else:
            following, body = protocol, l4
            if rnd.random() < 0.2:
                following, body = self._extension(protocol, l4)
            quote = struct.pack("!IHBB", 6 << 28, len(body), following, 60) + by + client + body
        if rnd.random() < 0.2:
            quote = quote[: rnd.randrange(len(quote) + 1)]
        kind = rnd.choice((3, 11, 12, 1, 2, 4, 0, 5, 8, 128, 129, 135))
        message = struct.pack("!BBHI", kind, rnd.choice((0, 4)), 0, rnd.choice((0, 1400))) + quote
        pseudo = b"" if version == 4 else source + vip + struct.pack("!II", len(message), 58)
        value = checksum(pseudo + message) ^ (1 if rnd.random() < 0.05 else 0)
        return message[:2] + value.to_bytes(2, "big") + message[4:]

    def _link(self, version: int, packet: bytes) -> bytes:
        rnd = self._rnd
        head = self._ingress.mac + (CLIENT_MAC if rnd.random() < 0.93 else rnd.choice(self._macs))
        if rnd.random() < 0.01:
            head = (
                rnd.choice((b"\xff" * 6, self._ingress.mac[:5] + b"\x77", b"\x06" + self._ingress.mac[1:])) + head[6:]
            )
        if rnd.random() < 0.06:
            head += rnd.choice(_TAGS)
        ethertype = b"\x08\x00" if version == 4 else b"\x86\xdd"
        if rnd.random() < 0.01:
            ethertype = rnd.choice((b"\x08\x06", b"\x00\x26", b"\x86\xdd", b"\x08\x00"))
        padding = rnd.random()
        if padding < 0.3:
            packet = packet.ljust(46, b"\0")
        elif padding < 0.34:
            packet += bytes(rnd.choice(_TRAILERS))
        elif padding < 0.38:
            packet = packet.ljust(rnd.choice((60, 64, 67, 68, 69, 72)) - len(head) - 2, b"\0")
        return head + ethertype + packet

    def change(self, frame: bytes) -> bytes:
        """The frame with one thing after another damaged; mostly with an IPv4 header checksum that fits again."""
        rnd = self._rnd
        kind = rnd.random()
        if kind < 0.45:
            work = bytearray(frame)
            for _ in range(rnd.choice((1, 1, 1, 2, 4))):
                at = rnd.randrange(min(len(work), 80) or 1)
                if at < 12 and rnd.random() < 0.8:
                    at += 12  # most frames are for us
                if at < len(work):
                    how = rnd.random()
                    if how < 0.5:
                        work[at] ^= 1 << rnd.randrange(8)
                    elif how < 0.9:
                        work[at] = rnd.choice(_BYTES)
                    else:
                        work[at] = (work[at] + rnd.choice((1, 255))) & 0xFF
            frame = bytes(work)
        elif kind < 0.51:
            frame = frame[: rnd.randrange(len(frame) + 1)]
        elif kind < 0.57:
            frame = (frame + rnd.choice((b"\0", b"\xff", b"\0\0\0\0", rnd.randbytes(20))))[: LONGEST + 10]
        elif kind < 0.65:
            other = rnd.choice(self._pool)
            cut = rnd.choice((12, 14, 18, 26, 30, 34, 38, 54, rnd.randrange(80)))
            frame = frame[:cut] + other[cut:]
        elif len(frame) > 54:
            frame = self._other_client(frame)
        return _repaired(frame) if rnd.random() < 0.8 else frame

    def _other_client(self, frame: bytes) -> bytes:
        """The same packet from another client: another slot, another member."""
        at = 26 if frame[12:14] == b"\x08\x00" else 22
        size = 4 if at == 26 else 16
        return frame[:at] + self._rnd.randbytes(size) + frame[at + size :]


def _repaired(frame: bytes) -> bytes:
    """With the right IPv4 header checksum, where there is an untagged header to have one."""
    if len(frame) < 34 or frame[12:14] != b"\x08\x00":
        return frame
    end = 14 + (frame[14] & 15) * 4
    head = frame[14:24] + b"\0\0" + frame[26:end]
    return frame[:24] + checksum(head).to_bytes(2, "big") + frame[26:]

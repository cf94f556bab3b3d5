"""The other yardstick: a director as one writes it in asyncio first. One frame a callback: recv, decide, send.

    python naive.py RXIF TXIF VIP l2|l3 MEMBER_MAC OUTER_SOURCE MEMBER...

The decision is the appliance's (as in forward.c, whose arguments these are too), written plainly for bytes.
"""

import asyncio
import ctypes
import signal
import socket
import struct
import sys
from ipaddress import ip_address
from pathlib import Path

SOL_PACKET, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING, SO_ATTACH_FILTER, ETH_P_ALL = 263, 20, 23, 26, 3
SLOTS, PORT, MTU, M64, FINAL = 65537, 80, 1500, (1 << 64) - 1, 0xD6E8FEB86659FD93
KEYS = tuple(0x9E3779B97F4A7C15 * (i + 1) & M64 for i in range(11))


class Director:
    def __init__(self, rx: str, tx: str, vip: str, mode: str, member_mac: str, source: str, members: list[str]) -> None:
        self.v6, self.l3 = ip_address(vip).version == 6, mode == "l3"
        source_mac = Path(f"/sys/class/net/{tx}/address").read_text().strip()
        ethernet = bytes.fromhex((member_mac + source_mac).replace(":", "")) + (b"\x86\xdd" if self.v6 else b"\x08\x00")
        addresses = [ip_address(source).packed + ip_address(member).packed for member in members]
        self.members = [(ethernet, pair) for pair in addresses]
        self.slots = [i * 2654435761 % (1 << 32) >> 16 for i in range(SLOTS)]
        self.slots = [(owner % len(members)) * 0x10001 for owner in self.slots]
        self.packets, self.bytes = [0] * len(members), [0] * len(members)
        self.rx = _receive_socket(rx, ip_address(vip).packed)
        self.tx = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.tx.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self.tx.bind((tx, 0))

    def on_readable(self) -> None:
        try:
            frame = self.rx.recv(2048)
        except BlockingIOError:
            return
        out = self.rewrite6(frame) if self.v6 else self.rewrite4(frame)
        if out is not None:
            self.tx.send(out)

    def rewrite4(self, frame: bytes) -> bytes | None:
        tos, total, df, ttl, protocol, check = struct.unpack_from("!xBHxxBxBBH", frame, 14)
        source, destination, ports = struct.unpack_from("<III", frame, 26)
        dport = int.from_bytes(frame[36:38], "big")
        if total > len(frame) - 14 or total < 28 or _sum(frame[14:34]) != 0xFFFF:
            return None
        if (protocol == 6 and (total < 40 or frame[46] < 0x50)) or protocol not in {6, 17} or dport != PORT:
            return None
        k = KEYS
        h = k[0] + (k[1] + source) * (k[2] + destination) + (k[3] + ports) * (k[4] + protocol) & M64
        member = self.choose(h, total)
        if member is None:
            return None
        ethernet, addresses = member
        if not self.l3:
            return ethernet[:12] + frame[12:]
        if ttl <= 1 or total + 20 > MTU:
            return None
        header = struct.pack("!BBHHBBBBH8s", 0x45, tos, total + 20, 0, df & 0x40, 0, 64, 4, 0, addresses)
        check += 0x100  # RFC 1624, for a TTL one lower
        check = (check & 0xFFFF) + (check >> 16)
        inner = frame[14:22] + bytes((ttl - 1, protocol)) + check.to_bytes(2, "big") + frame[26 : 14 + total]
        return ethernet + header[:10] + (~_sum(header) & 0xFFFF).to_bytes(2, "big") + header[12:] + inner

    def rewrite6(self, frame: bytes) -> bytes | None:
        total, protocol, hops = 40 + int.from_bytes(frame[18:20], "big"), frame[20], frame[21]
        if total > len(frame) - 14 or total < 48:
            return None
        if (protocol == 6 and (total < 60 or frame[66] < 0x50)) or protocol not in {6, 17}:
            return None
        if int.from_bytes(frame[56:58], "big") != PORT:
            return None
        w = (*struct.unpack_from("<9I", frame, 22), protocol)
        h = KEYS[0]
        for i in range(0, 10, 2):
            h += (KEYS[i + 1] + w[i]) * (KEYS[i + 2] + w[i + 1])
        h &= M64
        member = self.choose(h, total)
        if member is None:
            return None
        ethernet, addresses = member
        if not self.l3:
            return ethernet[:12] + frame[12:]
        if hops <= 1 or total + 40 > MTU:
            return None
        word = int.from_bytes(frame[14:18], "big") & 0xFFF00000 | (h ^ h >> 32) & 0xFFFFF
        outer = struct.pack("!IHBB32s", word, total, 41, 64, addresses)
        return ethernet + outer + frame[14:21] + bytes((hops - 1,)) + frame[22 : 14 + total]

    def choose(self, h: int, length: int) -> tuple[bytes, bytes] | None:
        h ^= h >> 32
        h = h * FINAL & M64
        h ^= h >> 32
        slot = self.slots[((h * FINAL & M64) >> 32) * SLOTS >> 32]
        index = slot & 0xFFFF
        if index != slot >> 16:
            return None
        self.packets[index] += 1
        self.bytes[index] += length
        return self.members[index]


def _sum(data: bytes) -> int:
    total = sum(struct.unpack("!10H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def _receive_socket(interface: str, vip: bytes) -> socket.socket:
    """Packets to the VIP only, by a socket filter: IPv4 without options and fragments, or IPv6."""
    refuse, accept = (0x06, 0, 0, 0), (0x06, 0, 0, 0x40000)
    words = struct.unpack(f"!{len(vip) // 4}I", vip)
    if len(vip) == 4:
        program = [(0x28, 0, 0, 12), (0x15, 0, 7, 0x800), (0x30, 0, 0, 14), (0x15, 0, 5, 0x45), (0x20, 0, 0, 30)]
        program += [(0x15, 0, 3, words[0]), (0x28, 0, 0, 20), (0x45, 1, 0, 0x3FFF), accept, refuse]
    else:
        program = [(0x28, 0, 0, 12), (0x15, 0, 9, 0x86DD)]
        for i, word in enumerate(words):
            program += [(0x20, 0, 0, 38 + 4 * i), (0x15, 0, 7 - 2 * i, word)]
        program += [accept, refuse]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    s.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    s.bind((interface, ETH_P_ALL))
    s.setblocking(False)
    return s


async def main(arguments: list[str]) -> None:
    rx, tx, vip, mode, member_mac, source, *members = arguments
    director = Director(rx, tx, vip, mode, member_mac, source, members)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(director.rx.fileno(), director.on_readable)
    print("ready", flush=True)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

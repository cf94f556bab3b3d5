"""Raw sockets for probes below TCP and UDP: they hear what answers one probe, and nothing else.

The kernel gives a raw socket every packet of its protocol that comes from the address it is connected to, those of
other probes and connections included, and ICMP errors about them as well. A classic BPF program leaves only what
belongs to the probe, so that a flood costs no more than the kernel's look at it; of ICMP errors, what they quote is
compared.
"""

import asyncio
import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from health.checks.sockets import REPORT_ERRORS, carrying, opened, text
from health.spec import Target

_SO_ATTACH_FILTER = 26
"""asm-generic/socket.h; Python does not name it."""

_IPV4_HEADER = 0x0F
_LENGTH = 2048

# linux/bpf_common.h: BPF_LDX|BPF_B|BPF_MSH, BPF_LDX|BPF_IMM, BPF_LD|BPF_W|BPF_IND, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_LDX_HEADER, _LDX, _LD_WORD, _JEQ, _RET = 0xB1, 0x01, 0x40, 0x15, 0x06


@dataclass(frozen=True)
class Raw:
    """An open socket; packets are without their IP headers."""

    sock: socket.socket
    ours: Callable[[bytes], bool]

    def send(self, packet: bytes) -> None:
        """Send; errors are told by `receive`, which knows whether they are about this probe."""
        try:
            self.sock.send(packet)
        except OSError as error:
            if not self._is_foreign(error):
                raise

    async def receive(self) -> bytes:
        """The next packet for this probe.

        Raises:
            OSError: ICMP says that there will be none.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                packet = await loop.sock_recv(self.sock, _LENGTH)
            except OSError as error:
                if not self._is_foreign(error):
                    raise
            else:
                return packet[(packet[0] & _IPV4_HEADER) * 4 :] if self.sock.family == socket.AF_INET else packet
            await asyncio.sleep(0)  # as in secure.Stream: errors about others may be many

    def _is_foreign(self, error: OSError) -> bool:
        """Whether an error is about another flow to the same machine: ICMP errors have the packet's beginning."""
        quoted = []
        while True:
            try:
                quoted.append(self.sock.recvmsg(_LENGTH, 1024, socket.MSG_ERRQUEUE)[0])
            except OSError:
                break
        return bool(quoted) and not any(map(self.ours, quoted))


@contextmanager
def raw(target: Target, protocol: int, answer: tuple[int, int], ours: Callable[[bytes], bool]) -> Iterator[Raw]:
    """A raw socket connected to the target.

    Args:
        target: its port is of no interest.
        protocol: IANA number.
        answer: offset behind the IP header, and the 32-bit word that stands there in what answers the probe.
        ours: whether a packet with this beginning is one that this probe has sent.

    Raises:
        OSError: as `connect` does; without number when we lack the capability for it.
    """
    try:
        sock = opened(target, socket.SOCK_RAW, protocol)
    except PermissionError:
        raise PermissionError("raw sockets for health checks take CAP_NET_RAW") from None
    with sock:
        # IPv4's raw sockets have the header in front (raw(7)), those of IPv6 have not (RFC 3542, section 3).
        header = (_LDX_HEADER, 0, 0, 0) if sock.family == socket.AF_INET else (_LDX, 0, 0, 0)
        offset, word = answer
        _attach(sock, (header, (_LD_WORD, 0, 0, offset), (_JEQ, 0, 1, word), (_RET, 0, 0, 0xFFFF), (_RET, 0, 0, 0)))
        sock.setsockopt(*REPORT_ERRORS[sock.family], 1)
        sock.connect((text(target.address), 0))
        with carrying(target, sock, protocol, word.to_bytes(4, "big")):
            yield Raw(sock, ours)


def _attach(sock: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(buffer)))


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def random_word() -> int:
    """32 bits that nobody elsewhere can guess."""
    return int.from_bytes(os.urandom(4), "big")

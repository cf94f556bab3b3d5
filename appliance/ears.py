"""Sockets that hear ICMP errors about packets of our own.

Those to our addresses come by raw sockets: the kernel has checked them, and gives copies. Those to a prefix that outer
headers have their sources from are to addresses that no machine has: packet sockets see them, by whatever interface
they come, and the kernel has no use for them. Both see what the data planes leave alone, and so with any of these.
"""

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

from appliance.dataplane.raw import kernel
from appliance.model import IPAddress, IPNetwork
from appliance.packet.checksum import checksum
from appliance.packet.headers import ETH_IPV4, ETH_IPV6, IpHeader, Part, parse_ip

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ICMP = {4: 1, 6: 58}
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1
"""linux/icmp.h and linux/icmpv6.h."""

_LONGEST = 4096
"""Bytes of a packet that are read; errors have up to 1280."""

_LD_W, _LD_H, _LD_B, _LD_B_IND, _LDX_MSH, _AND, _JEQ, _JSET, _RET = 0x20, 0x28, 0x30, 0x50, 0xB1, 0x54, 0x15, 0x45, 0x06
_PACKET_TYPE = 0xFFFFF000 + 4
"""SKF_AD_OFF + SKF_AD_PKTTYPE: 0 is "for this host"."""


@dataclass(frozen=True)
class Told:
    """An ICMP message."""

    sender: IPAddress
    message: bytes
    """From its type on. Its checksum is right, but for that of ICMP from an `OwnEar`, which nobody has looked at."""


class Ear(Protocol):
    """Hears what it was made for. Nothing waits for packets here."""

    version: int
    """Of IP."""

    def read(self) -> Told | None:
        """The next message; None: what came is none.

        Raises:
            OSError: BlockingIOError when nothing is left; others tell of the socket, once.
        """

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class OwnEar:
    """Hears what is addressed to this machine."""

    def __init__(self, version: int, kinds: Iterable[int]) -> None:
        """
        Args:
            version: of IP.
            kinds: ICMP types that are let through, below 32.

        Raises:
            OSError: there is no such socket for us.
        """
        self.version: int = version
        self._sock = socket.socket(_FAMILY[version], socket.SOCK_RAW | socket.SOCK_NONBLOCK, _ICMP[version])
        blocked = 0xFFFFFFFF & ~sum(1 << kind for kind in kinds)
        if version == 4:
            self._sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", blocked))
        else:
            self._sock.setsockopt(_ICMP[6], _ICMP6_FILTER, struct.pack("=8I", blocked, *[0xFFFFFFFF] * 7))

    def read(self) -> Told | None:
        """See `Ear`."""
        packet, address = self._sock.recvfrom(_LONGEST)
        if not packet:
            return None
        message = packet[(packet[0] & 15) * 4 :] if self.version == 4 else packet
        return Told(ip_address(address[0].partition("%")[0]), message)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


class PrefixEar:
    """Hears what is addressed to a prefix that is routed to this machine."""

    def __init__(self, prefix: IPNetwork, kinds: Iterable[int]) -> None:
        """
        Args:
            prefix: that has no address of this machine.
            kinds: ICMP types that are let through.

        Raises:
            OSError: there is no such socket for us.
        """
        self.version: int = prefix.version
        every = socket.htons(ETH_IPV4 if prefix.version == 4 else ETH_IPV6)
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, every)
        try:
            kernel.attach_filter(self._sock, errors_to(prefix, kinds))
            self._sock.setsockopt(kernel.SOL_PACKET, kernel.PACKET_IGNORE_OUTGOING, 1)
            with suppress(BlockingIOError):
                while True:  # what came before the filter
                    self._sock.recv(1)
        except OSError:
            self._sock.close()
            raise

    def read(self) -> Told | None:
        """See `Ear`. What the kernel does for others is done here: lengths, checksums and senders are looked at.

        Any address of the prefix would do to get here; an error has to be for the source of what it quotes (RFC 792;
        RFC 4443, section 2.2).
        """
        packet = self._sock.recv(_LONGEST)
        ip = parse_ip(packet, self.version)
        if not isinstance(ip, IpHeader) or ip.protocol != _ICMP[self.version] or ip.part is not Part.WHOLE:
            return None
        message, sender = packet[ip.l4 : ip.length], ip_address(ip.source)
        quoted = message[20:24] if self.version == 4 else message[16:32]
        if quoted != ip.destination or sender.is_loopback or sender.is_multicast or sender.is_unspecified:
            return None
        pseudo_header = b""
        if self.version == 6:
            pseudo_header = ip.source + ip.destination + struct.pack("!II", len(message), _ICMP[6])
        return Told(sender, message) if checksum(pseudo_header + message) == 0 else None

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


def errors_to(prefix: IPNetwork, kinds: Iterable[int]) -> bytes:
    """What the kernel lets through: whole ICMP messages of these types to a prefix, that this machine is to have. As
    `struct sock_filter[]` (classic BPF), for packets that begin with their IP header."""
    four = prefix.version == 4
    code: list[tuple[int, int, int, int]] = []

    def want(value: int, *loads: tuple[int, int]) -> None:
        code.extend((load, 0, 0, k) for load, k in loads)
        code.extend(((_JEQ, 1, 0, value), (_RET, 0, 0, 0)))

    want(0, (_LD_W, _PACKET_TYPE))
    want(_ICMP[prefix.version], (_LD_B, 9 if four else 6))
    if four:
        code.extend(((_LD_H, 0, 0, 6), (_JSET, 0, 1, 0x3FFF), (_RET, 0, 0, 0)))
    words = len(prefix.network_address.packed) // 4
    networks, masks = (
        struct.unpack(f"!{words}I", address.packed) for address in (prefix.network_address, prefix.netmask)
    )
    for place, (network, mask) in enumerate(zip(networks, masks, strict=True)):
        if mask:
            want(network, (_LD_W, (16 if four else 24) + 4 * place), (_AND, mask))
    code.extend(((_LDX_MSH, 0, 0, 0), (_LD_B_IND, 0, 0, 0)) if four else ((_LD_B, 0, 0, 40),))
    for kind in kinds:
        code.extend(((_JEQ, 0, 1, kind), (_RET, 0, 0, _LONGEST)))
    code.append((_RET, 0, 0, 0))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)

"""Numbers and calls that Python's socket module does not have."""

import ctypes
import fcntl
import os
import resource
import socket
import struct
from dataclasses import dataclass

SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_AUXDATA, PACKET_VERSION, PACKET_RESERVE = 5, 6, 8, 10, 12
PACKET_FANOUT, PACKET_QDISC_BYPASS, PACKET_FANOUT_DATA, PACKET_IGNORE_OUTGOING = 18, 20, 22, 23
PACKET_FANOUT_CBPF, PACKET_FANOUT_FLAG_UNIQUEID, PACKET_FANOUT_FLAG_IGNORE_OUTGOING = 6, 0x2000, 0x4000
TPACKET_V2 = 1
SO_ATTACH_FILTER, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 26, 32, 33
ETH_P_ALL = 3

PROT_NONE, PROT_READ_WRITE = 0, 3
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_POPULATE = 0x1, 0x2, 0x10, 0x20, 0x8000

_SIOCGIFFLAGS, _SIOCGIFMTU, _SIOCGIFHWADDR, _SIOCETHTOOL = 0x8913, 0x8921, 0x8927, 0x8946
_ETHTOOL_GLINK = 0x0A
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4
_IFF_UP, _IFF_RUNNING = 0x1, 0x40

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]
libc.bind.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


def last_error(what: str) -> OSError:
    """The error of the libc call that has just failed on this thread."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def mmap(address: int, size: int, protection: int, flags: int, fd: int) -> int:
    """mmap(2).

    Raises:
        OSError: the kernel refused.
    """
    at = libc.mmap(address or None, size, protection, flags, fd, 0)
    if at is None or at == ctypes.c_void_p(-1).value:
        raise last_error("mmap")
    return int(at)


def forgo_dumps() -> None:
    """Have this process's memory not dumped where that is not wanted: RLIMIT_CORE is 0, and cannot be raised. That
    limit alone does not count for programs that get dumps by a pipe (core(5))."""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


@dataclass(frozen=True)
class Interface:
    """An interface as it is now."""

    name: str
    ifindex: int
    mac: bytes
    mtu: int
    up: bool
    carrier: bool
    """Up, and the link works."""


def read_interface(name: str) -> Interface | None:
    """Facts about an interface; None when there is none of that name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:

        def ask(request: int) -> bytes:
            return fcntl.ioctl(any_socket, request, struct.pack("16s24x", name.encode()))[16:]

        try:
            (flags,) = struct.unpack_from("H", ask(_SIOCGIFFLAGS))
            (mtu,) = struct.unpack_from("i", ask(_SIOCGIFMTU))
            mac = ask(_SIOCGIFHWADDR)[2:8]
            ifindex = socket.if_nametoindex(name)
        except OSError:
            return None
        try:
            # IFF_RUNNING would follow the link by up to a second; this does not.
            (carrier,) = struct.unpack_from("I", ethtool(any_socket, name, struct.pack("II", _ETHTOOL_GLINK, 0)), 4)
        except OSError:
            carrier = flags & _IFF_RUNNING
    return Interface(name, ifindex, mac, mtu, bool(flags & _IFF_UP), bool(carrier))


def ethtool(any_socket: socket.socket, interface: str, command: bytes) -> bytes:
    """One command of include/uapi/linux/ethtool.h.

    Returns:
        The command's structure as the kernel left it.

    Raises:
        OSError: EOPNOTSUPP where the interface does not know the command.
    """
    buffer = ctypes.create_string_buffer(command, len(command))
    fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(buffer)))
    return buffer.raw


def attach_filter(sock: socket.socket, code: bytes) -> None:
    """Make *code* (`struct sock_filter[]`) the filter of a socket, in place of the one it has.

    Raises:
        OSError: ENOMEM when it is larger than net.core.optmem_max allows.
    """
    _give_program(sock, socket.SOL_SOCKET, SO_ATTACH_FILTER, code)


def attach_chooser(sock: socket.socket, code: bytes) -> None:
    """Make *code* what chooses the member of the socket's group (packet(7), PACKET_FANOUT) for each frame. Returns when
    no frame is on its way any more that the program before has chosen for."""
    _give_program(sock, SOL_PACKET, PACKET_FANOUT_DATA, code)


def _give_program(sock: socket.socket, level: int, option: int, code: bytes) -> None:
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(level, option, struct.pack("HL", len(code) // 8, ctypes.addressof(buffer)))

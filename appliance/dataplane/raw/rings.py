"""Packet sockets: memory-mapped receive rings in one stretch of memory, and the plain sockets beside them."""

import ctypes
import errno
import socket
import struct
from collections.abc import Mapping

import numpy as np

from appliance.dataplane.raw import bpf, kernel
from appliance.dataplane.raw.layout import (
    RESERVE,
    TP_STATUS_CSUMNOTREADY,
    TP_STATUS_VLAN_VALID,
    Columns,
    block_for,
    with_tag,
)
from appliance.forwarding import ForwardingTables

_NOTHING = bpf.assemble((bpf.Instruction(0x06, 0, 0, 0),))
FIRST, SECOND = 0, 1
"""Members of a group: the one that is there for the longest time, and the next one. A group of one has but one."""

Groups = Mapping[str, tuple[int, int]]
"""By interface the numbers of the groups that its ring and its slow tap are in (`Tap.share`)."""

_SLOW_BUFFER = 4 << 20
"""Bytes that odd frames may wait in; a flood of them is cut off here, not in the ring."""


class Area:
    """The memory of all rings, one behind the other: one array of slots, and one UMEM for AF_XDP.

    Rings are mapped into a reserved stretch of addresses. Nothing may touch `frames` or what was made from it after
    `close`.
    """

    def __init__(self, stride: int, slots: int, rings: int) -> None:
        """
        Args:
            stride: bytes from slot to slot.
            slots: of each ring, at least; rounded up to whole blocks.
            rings: how many of them.
        """
        self.stride = stride
        self.block = block_for(stride)
        self.slots_per_block = self.block // stride
        self.blocks = -(-slots // self.slots_per_block)
        self.slots = self.blocks * self.slots_per_block
        self.ring_bytes = self.blocks * self.block
        self.size = rings * self.ring_bytes
        flags = kernel.MAP_PRIVATE | kernel.MAP_ANONYMOUS
        self.address = kernel.mmap(0, self.size, kernel.PROT_NONE, flags, -1)
        self.frames = np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.address)).reshape(-1, stride)
        self.columns = Columns(self.frames)

    def map(self, ring: int, fd: int) -> None:
        """Map a packet socket's ring at its place."""
        flags = kernel.MAP_SHARED | kernel.MAP_FIXED | kernel.MAP_POPULATE
        kernel.mmap(self.address + ring * self.ring_bytes, self.ring_bytes, kernel.PROT_READ_WRITE, flags, fd)

    def close(self) -> None:
        kernel.libc.munmap(self.address, self.size)


class Tap:
    """A packet socket on one interface that sees what arrives there before anything else does."""

    def __init__(self, interface: kernel.Interface, accept: bpf.Class) -> None:
        """Nothing is taken until `bind`, and nothing is admitted until `admit`."""
        self.interface = interface
        self._accept = accept
        # Protocol 0: nothing arrives before bind, so nothing can get past the filter and the ring.
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self.socket.setblocking(False)
        kernel.attach_filter(self.socket, _NOTHING)
        self.socket.setsockopt(kernel.SOL_PACKET, kernel.PACKET_IGNORE_OUTGOING, 1)
        self.lost = 0
        """Frames that found no room, so far."""

    def bind(self) -> None:
        """Take what arrives from now on.

        Raises:
            OSError: the interface is gone.
        """
        # All protocols, since that tap comes before the ingress hook where the kernel guard drops.
        self.socket.bind((self.interface.name, kernel.ETH_P_ALL))

    def share(self, group: int | None) -> int:
        """Be in a group, of which only one gets frames: the first until `choose`, also when the one before has closed
        its socket. So each frame comes to one of two processes, and to no other, whenever one takes the other's place.

        Args:
            group: which; None: a new one. One that nobody is in any more is made anew.

        Returns:
            Its number.

        Raises:
            OSError: the tap is not bound, its interface is down, or the group is of another interface.
        """
        kind = kernel.PACKET_FANOUT_CBPF | kernel.PACKET_FANOUT_FLAG_IGNORE_OUTGOING
        if group is None:
            kind |= kernel.PACKET_FANOUT_FLAG_UNIQUEID
        self.socket.setsockopt(kernel.SOL_PACKET, kernel.PACKET_FANOUT, struct.pack("I", kind << 16 | (group or 0)))
        if group is None:
            self.choose(FIRST)  # the kernel waits for frames on their way where one program replaces another
        return self.socket.getsockopt(kernel.SOL_PACKET, kernel.PACKET_FANOUT) & 0xFFFF

    def choose(self, member: int) -> None:
        """Have all frames come to one member of the group; returns when none is on its way to another."""
        kernel.attach_chooser(self.socket, bpf.assemble((bpf.Instruction(0x06, 0, 0, member),)))

    def admit(self, tables: ForwardingTables) -> bool:
        """Take frames for the VIPs of these tables from now on.

        Returns:
            Whether the filter knows the VIPs exactly; there may be too many of them for that.
        """
        vips4, vips6 = sorted(tables.vips_v4), sorted(tables.vips_v6)
        program, exact = bpf.classifier(vips4, vips6, self.interface.mtu, self._accept)
        try:
            kernel.attach_filter(self.socket, bpf.assemble(program))
        except OSError as error:
            if error.errno != errno.ENOMEM or not exact:
                raise
            exact = False
            program = bpf.coarse_classifier(vips4, vips6, self.interface.mtu, self._accept)
            kernel.attach_filter(self.socket, bpf.assemble(program))
        return exact

    def refuse(self) -> None:
        """Take no frames from now on."""
        kernel.attach_filter(self.socket, _NOTHING)

    def read_losses(self) -> None:
        """Bring `lost` up to date."""
        raw = self.socket.getsockopt(kernel.SOL_PACKET, kernel.PACKET_STATISTICS, 8)
        self.lost += struct.unpack("II", raw)[1]  # reading resets the kernel's numbers

    def clear_error(self) -> int:
        """The socket's pending error (an interface going down leaves one), which is then no longer pending."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        self.socket.close()


class RxRing(Tap):
    """The ring of plain frames of one interface."""

    def __init__(self, interface: kernel.Interface, area: Area, number: int) -> None:
        """
        Args:
            interface: where to listen.
            area: holds the ring's memory.
            number: of the ring in the area, and of the interface.

        Raises:
            OSError: no privilege, or not enough memory.
        """
        super().__init__(interface, bpf.Class.PLAIN)
        self.number = number
        self.first = number * area.slots
        self.end = self.first + area.slots
        self.head = self.first
        """The slot that the kernel fills next, among all slots of the area."""
        option = self.socket.setsockopt
        option(kernel.SOL_PACKET, kernel.PACKET_VERSION, kernel.TPACKET_V2)
        option(kernel.SOL_PACKET, kernel.PACKET_RESERVE, RESERVE)
        request = struct.pack("IIII", area.block, area.blocks, area.stride, area.slots)
        option(kernel.SOL_PACKET, kernel.PACKET_RX_RING, request)
        area.map(number, self.socket.fileno())


class SlowTap(Tap):
    """The odd frames of one interface."""

    def __init__(self, interface: kernel.Interface) -> None:
        super().__init__(interface, bpf.Class.ODD)
        self.socket.setsockopt(socket.SOL_SOCKET, kernel.SO_RCVBUFFORCE, _SLOW_BUFFER)
        self.socket.setsockopt(kernel.SOL_PACKET, kernel.PACKET_AUXDATA, 1)
        # One byte more than what the link carries shows that a frame is larger; how much more does not matter.
        self._size = interface.mtu + 14 + 2 * 4 + 1

    def read(self) -> tuple[bytes, bool] | None:
        """The next frame, and whether its L4 checksum is partial; None when there is none.

        A frame that is larger than the link is cut, though not to where it would fit.

        Raises:
            OSError: the interface went down or away.
        """
        try:
            frame, ancillary, _, _ = self.socket.recvmsg(self._size, socket.CMSG_SPACE(20))
        except BlockingIOError:
            return None
        for level, _, auxiliary in ancillary:
            if level == kernel.SOL_PACKET:
                (status,) = struct.unpack_from("I", auxiliary)
                if status & TP_STATUS_VLAN_VALID:
                    frame = with_tag(frame, auxiliary[16:20])
                return frame, bool(status & TP_STATUS_CSUMNOTREADY)
        return frame, False


def plain_sender(name: str) -> socket.socket:
    """A packet socket that only sends, by one interface."""
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    sender.setsockopt(kernel.SOL_PACKET, kernel.PACKET_QDISC_BYPASS, 1)
    sender.setsockopt(socket.SOL_SOCKET, kernel.SO_SNDBUFFORCE, 8 << 20)
    sender.setblocking(False)
    sender.bind((name, 0))
    return sender

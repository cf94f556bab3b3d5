"""AF_XDP for sending only: frames leave straight from the slots of the receive rings, which are the UMEM.

Copy mode, so it works on every interface and takes no XDP program. It is cheaper than AF_PACKET's way of sending by
more than what Python costs. See Documentation/networking/af_xdp.rst in the kernel's sources.
"""

import ctypes
import errno
import mmap
import socket
import struct
import time

import numpy as np
import numpy.typing as npt

from appliance.dataplane.raw import kernel
from appliance.dataplane.raw.layout import IN_FLIGHT, Rows
from appliance.dataplane.raw.rings import Area

AF_XDP, SOL_XDP = 44, 283
_XDP_MMAP_OFFSETS, _XDP_TX_RING, _XDP_UMEM_REG, _XDP_FILL_RING, _XDP_COMPLETION_RING = 1, 3, 4, 5, 6
_XDP_MAX_TX_SKB_BUDGET = 9
"""Linux 6.17: frames that one call may send; 32 without it."""

_XDP_SHARED_UMEM, _XDP_COPY = 1, 2
_UNALIGNED = 1
_PGOFF_TX, _PGOFF_FILL, _PGOFF_COMPLETION = 0x80000000, 0x100000000, 0x180000000
_DESCRIPTOR = np.dtype([("addr", "u8"), ("len", "u4"), ("options", "u4")])

MAX_FRAME = 4096
"""Chunks of a UMEM are a page at most, and a frame may not be longer than a chunk."""

_KICKS = 64
"""Calls in a row for one batch before something else gets its turn."""

_BUSY_TRIES, _BUSY_PAUSE_S = 40, 0.025
"""An earlier socket of the same queue is freed late, so bind may have to wait."""

_AGAIN = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.EBUSY})


class XskLostError(Exception):
    """The socket no longer sends: its interface is down or gone."""


class _Ring:
    """One of the single-producer single-consumer rings that are shared with the kernel."""

    def __init__(
        self, sock: socket.socket, option: int, page_offset: int, place: int, item: np.dtype, size: int
    ) -> None:
        sock.setsockopt(SOL_XDP, option, size)
        offsets = struct.unpack("16Q", sock.getsockopt(SOL_XDP, _XDP_MMAP_OFFSETS, 128))
        producer, consumer, items, _ = offsets[place : place + 4]
        self._memory = mmap.mmap(
            sock.fileno(), items + size * item.itemsize, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=page_offset
        )
        raw = np.frombuffer(self._memory, np.uint8)
        self.producer = raw[producer : producer + 4].view("u4")
        self.consumer = raw[consumer : consumer + 4].view("u4")
        self.items = raw[items:].view(item)


class XskSender:
    """Sends from slots by one interface. Its methods belong to the forwarding thread, but for the constructor."""

    def __init__(self, name: str, ifindex: int, area: Area, number: int, batch: int, share: "XskSender | None") -> None:
        """
        Args:
            name: of the interface.
            ifindex: the same.
            area: whose slots hold the frames.
            number: tells the slots in flight of one sender from those of others.
            batch: frames that are sent at once, for the kernel's budget.
            share: a sender on the same area whose UMEM to use; None registers one.

        Raises:
            OSError: AF_XDP is not to be had here.
        """
        self.name = name
        self._area = area
        self._size = 1 << (len(area.frames) - 1).bit_length()
        self._mark = IN_FLIGHT | number << 20
        self.socket = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._open(ifindex, batch, share)
        except BaseException:
            self.socket.close()
            raise
        self._sent = self._done = 0
        self._offsets = np.arange(len(area.frames), dtype=np.uint64) * np.uint64(area.stride)

    def _open(self, ifindex: int, batch: int, share: "XskSender | None") -> None:
        area, sock = self._area, self.socket
        # What waits in the device's queue counts against the socket's buffer.
        sock.setsockopt(socket.SOL_SOCKET, kernel.SO_SNDBUFFORCE, 32 << 20)
        if share is None:
            umem = struct.pack("QQIIII", area.address, area.size, MAX_FRAME, 0, _UNALIGNED, 0)
            sock.setsockopt(SOL_XDP, _XDP_UMEM_REG, umem)
        u8 = np.dtype("u8")
        # Nothing is ever received, yet bind insists on a fill ring.
        self._fill = _Ring(sock, _XDP_FILL_RING, _PGOFF_FILL, 8, u8, 64)
        self._completion = _Ring(sock, _XDP_COMPLETION_RING, _PGOFF_COMPLETION, 12, u8, self._size)
        self._tx = _Ring(sock, _XDP_TX_RING, _PGOFF_TX, 4, _DESCRIPTOR, self._size)
        self._addresses, self._lengths = self._tx.items["addr"], self._tx.items["len"]
        try:
            sock.setsockopt(SOL_XDP, _XDP_MAX_TX_SKB_BUDGET, batch)
        except OSError:
            pass  # an older kernel: 32 frames a call
        flags = _XDP_COPY if share is None else _XDP_SHARED_UMEM
        owner = 0 if share is None else share.socket.fileno()
        address = struct.pack("HHIII", AF_XDP, flags, ifindex, 0, owner)
        for attempt in range(_BUSY_TRIES):
            if kernel.libc.bind(sock.fileno(), address, len(address)) == 0:
                return
            if ctypes.get_errno() != errno.EBUSY or attempt == _BUSY_TRIES - 1:
                raise kernel.last_error("bind")
            time.sleep(_BUSY_PAUSE_S)

    @property
    def in_flight(self) -> int:
        """Slots that are not yet given back."""
        return self._sent - self._done & 0xFFFFFFFF

    def send(self, rows: Rows, start: int, lengths: npt.NDArray[np.uint64]) -> None:
        """Send frames that begin at byte *start* of their slots. The slots are free again when the frames have left.

        Raises:
            XskLostError: it is over with this sender; `abandon` it.
        """
        n = len(lengths)
        addresses = self._offsets[rows] + np.array(start, np.uint64)
        at = self._sent & self._size - 1
        room = self._size - at
        if n <= room:
            self._addresses[at : at + n] = addresses
            self._lengths[at : at + n] = lengths
        else:
            self._addresses[at:], self._addresses[: n - room] = addresses[:room], addresses[room:]
            self._lengths[at:], self._lengths[: n - room] = lengths[:room], lengths[room:]
        others = self._sent != self._done
        self._sent = self._sent + n & 0xFFFFFFFF
        self._tx.producer[0] = self._sent
        try:
            self._kick()
        except XskLostError:
            self._area.columns.status[rows] = self._mark
            raise
        if not others and int(self._completion.producer[0]) == self._sent:
            # All are back already, as on a device without a queue: no need to look at what each completion says.
            self._area.columns.status[rows] = 0
            self._done = self._sent
            self._completion.consumer[0] = self._done
        else:
            self._area.columns.status[rows] = self._mark
            self.reap()

    def _kick(self) -> None:
        for _ in range(_KICKS):
            try:
                self.socket.send(b"", socket.MSG_DONTWAIT)
            except OSError as error:
                # EBUSY: the device dropped one frame (which counts as sent) and the rest still waits.
                if error.errno not in _AGAIN:
                    raise XskLostError(f"{self.name}: {error.strerror}") from error
            if int(self._tx.consumer[0]) == self._sent:
                return

    def reap(self) -> None:
        """Free the slots whose frames have left, and send what a full queue has left behind.

        Raises:
            XskLostError: as `send`.
        """
        if self._sent == self._done:
            return
        produced = int(self._completion.producer[0])
        while self._done != produced:
            at = self._done & self._size - 1
            n = min(produced - self._done & 0xFFFFFFFF, self._size - at)
            rows = self._completion.items[at : at + n] // np.uint64(self._area.stride)
            self._area.columns.status[rows.view(np.int64)] = 0
            self._done = self._done + n & 0xFFFFFFFF
            self._completion.consumer[0] = self._done
        if self._sent != self._done and int(self._tx.consumer[0]) != self._sent:
            self._kick()

    def abandon(self) -> int:
        """Close, and free the slots that were in flight.

        Returns:
            How many of them there were.
        """
        self.close()
        status = self._area.columns.status
        stuck = status == self._mark
        status[stuck] = 0
        return int(np.count_nonzero(stuck))

    def close(self) -> None:
        """Let go of the socket. It lives, and keeps its queue, as long as a ring of it is mapped; so these go, too."""
        self.socket.close()
        del self._addresses, self._lengths, self._tx, self._fill, self._completion

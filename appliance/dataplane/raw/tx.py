"""Sending batches of frames from their slots: by AF_XDP where it is to be had, else one sendmmsg(2) a batch."""

import errno
import os
import socket

import numpy as np
import numpy.typing as npt
import structlog

from appliance.dataplane.raw import kernel
from appliance.dataplane.raw.layout import Rows
from appliance.dataplane.raw.rings import Area, plain_sender
from appliance.dataplane.raw.xsk import XskLostError, XskSender

log = structlog.get_logger()

_MMSG = np.dtype({"names": ["iov", "iovlen"], "formats": ["u8", "u8"], "offsets": [16, 24], "itemsize": 64})
_IOV = np.dtype([("base", "u8"), ("len", "u8")])


class MmsgSender:
    """One sendmmsg(2) a batch."""

    def __init__(self, name: str, area: Area, batch: int) -> None:
        """
        Raises:
            OSError: the interface is gone.
        """
        self.socket = plain_sender(name)
        self._area = area
        self._iov, self._mmsg = np.zeros(batch, _IOV), np.zeros(batch, _MMSG)
        self._mmsg["iov"] = self._iov.ctypes.data + np.arange(batch) * _IOV.itemsize
        self._mmsg["iovlen"] = 1
        self._bases, self._lengths = self._iov["base"], self._iov["len"]
        self._at = self._mmsg.ctypes.data
        self._slots = area.address + np.arange(len(area.frames), dtype=np.uint64) * np.uint64(area.stride)

    def send(self, rows: Rows, start: int, lengths: npt.NDArray[np.uint64]) -> int:
        """Send frames that begin at byte *start* of their slots, and free the slots.

        Returns:
            How many the kernel refused.
        """
        n = len(lengths)
        self._bases[:n] = self._slots[rows] + np.array(start, np.uint64)
        self._lengths[:n] = lengths
        done = failed = 0
        fd = self.socket.fileno()
        while done < n:
            sent = kernel.libc.sendmmsg(fd, self._at + done * _MMSG.itemsize, n - done, socket.MSG_DONTWAIT)
            if sent <= 0:  # only the first frame of a call can give an error: go on behind it
                failed += 1
                sent = 1
            done += sent
        self._area.columns.status[rows] = 0
        return failed

    def send_frame(self, frame: bytes | memoryview) -> bool:
        """Send one frame from anywhere; False when the kernel refused."""
        try:
            self.socket.send(frame)
        except OSError:
            return False
        return True


class Egress:
    """One interface that frames leave by. All methods but the constructor belong to the forwarding thread."""

    def __init__(self, name: str, ifindex: int, area: Area, batch: int) -> None:
        """Sends by sendmmsg(2) until `use_xsk`.

        Raises:
            OSError: the interface is gone.
        """
        self.name = name
        self.ifindex = ifindex
        self._mmsg = MmsgSender(name, area, batch)
        self.xsk: XskSender | None = None
        self.small_frames = True
        """Whether no frame is larger than AF_XDP takes."""
        self.failed = 0
        """Frames that the kernel refused, so far."""

    @property
    def kind(self) -> str:
        return "af_xdp" if self.xsk is not None and self.small_frames else "sendmmsg"

    @property
    def busy(self) -> bool:
        """Whether slots are still in flight."""
        return self.xsk is not None and self.xsk.in_flight != 0

    def send(self, rows: Rows, start: int, lengths: npt.NDArray[np.uint64]) -> None:
        if self.xsk is None or not self.small_frames:
            self.failed += self._mmsg.send(rows, start, lengths)
            return
        try:
            self.xsk.send(rows, start, lengths)
        except XskLostError as error:
            self._fall_back(error)

    def send_frame(self, frame: bytes | memoryview) -> None:
        if not self._mmsg.send_frame(frame):
            self.failed += 1

    def reap(self) -> None:
        if self.xsk is not None:
            try:
                self.xsk.reap()
            except XskLostError as error:
                self._fall_back(error)

    def _fall_back(self, error: XskLostError) -> None:
        if self.xsk is not None:
            self.failed += self.xsk.abandon()
            self.xsk = None
            log.warning("plane.tx_fallback", interface=self.name, transmit="sendmmsg", reason=str(error))

    def close(self) -> None:
        if self.xsk is not None:
            self.xsk.close()
            self.xsk = None
        self._mmsg.socket.close()


class NoEgress:
    """Stands for an interface that is gone: whatever is to leave by it has failed."""

    kind = "none"
    busy = False

    def __init__(self, name: str, ifindex: int, area: Area) -> None:
        self.name = name
        self.ifindex = ifindex
        self.failed = 0
        self._status = area.columns.status

    def send(self, rows: Rows, start: int, lengths: npt.NDArray[np.uint64]) -> None:
        self._status[rows] = 0
        self.failed += len(lengths)

    def send_frame(self, frame: bytes | memoryview) -> None:
        self.failed += 1

    def reap(self) -> None:
        """Nothing is ever in flight."""

    def close(self) -> None:
        """Nothing is open."""


Sender = Egress | NoEgress


def reason_of(error: OSError) -> str:
    """Why AF_XDP was refused, with a remedy where one is known."""
    remedies = {
        errno.EAFNOSUPPORT: "the kernel is built without AF_XDP (CONFIG_XDP_SOCKETS)",
        errno.EPERM: "not permitted; it takes CAP_NET_RAW and CAP_NET_ADMIN",
        errno.ENOBUFS: "not enough locked memory; raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity in a unit)",
        errno.EBUSY: "queue 0 of the interface belongs to another AF_XDP socket",
    }
    number = error.errno or 0
    return remedies.get(number, os.strerror(number))

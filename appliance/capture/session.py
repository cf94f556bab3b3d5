"""One capture of a running director: from a plane's frames to the bytes of a pcapng file, within limits."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from appliance import __version__
from appliance.capture.notes import Choice, Notes, packets
from appliance.capture.pcap import Writer
from appliance.dataplane.base import DataPlane
from appliance.dataplane.recording import Recording, Wanted
from appliance.forwarding import ForwardingTables

LOOK_S = 0.02
"""How often frames are taken from the plane."""

AT_ONCE = 512
"""Frames that are worked on in one go, in a worker thread."""


@dataclass(frozen=True)
class Limits:
    """When a capture ends by itself. Whatever comes first; there is always one of them."""

    frames: int = 1000
    """That arrived and are wanted."""
    seconds: float = 60.0
    bytes: int = 64 << 20
    """Of the file."""


@dataclass(frozen=True)
class Order:
    """What is to be captured."""

    wanted: Wanted = field(default_factory=Wanted)
    choice: Choice = field(default_factory=Choice)
    limits: Limits = field(default_factory=Limits)
    side: str = "both"


class Capture:
    """What one capture has come to."""

    def __init__(self, order: Order, tables: Callable[[], ForwardingTables]) -> None:
        """
        Args:
            order: what is wanted.
            tables: those in force.
        """
        self._order = order
        self._tables = tables
        self._notes = Notes(tables())
        self._writer = Writer(f"onward {__version__}")
        self._recording = Recording(order.wanted)
        self._ahead_ns = time.time_ns() - time.monotonic_ns()
        self._full = False
        self.frames = 0
        """In the file."""
        self.bytes = 0
        """Of the file."""

    @property
    def lost(self) -> int:
        """Frames that found no room."""
        return self._recording.lost

    async def run(self, plane: DataPlane) -> AsyncGenerator[bytes, None]:
        """The file, piece by piece. Pieces may be empty: then nothing has come for a moment.

        Raises:
            DataPlaneError: the plane cannot capture; there was no piece yet.
        """
        limits = self._order.limits
        await plane.record(self._recording)
        try:
            until = time.monotonic() + limits.seconds
            yield self._counted(self._writer.head())
            over = False
            while not over and not self._full and self.frames < limits.frames:
                over = time.monotonic() >= until
                seen, piece = await asyncio.to_thread(self._some)
                yield self._counted(piece)
                if not seen and not over:
                    await asyncio.sleep(LOOK_S)
        finally:
            await plane.record(None)
        yield self._counted(self._writer.tail(self.lost, time.time_ns()))

    def _counted(self, piece: bytes) -> bytes:
        self.bytes += len(piece)
        return piece

    def _some(self) -> tuple[int, bytes]:
        """Frames that have come: how many were looked at, and what of them goes into the file."""
        limits, tables = self._order.limits, self._tables()
        if tables is not self._notes.tables:
            self._notes = Notes(tables)
        taken = self._recording.take(min(AT_ONCE, limits.frames - self.frames))
        pieces, size = [], 0
        for one in taken:
            captured = self._notes.completed(one)
            if not self._order.choice.takes(captured):
                continue
            made = b"".join(
                self._writer.packet(packet) for packet in packets(captured, self._ahead_ns, self._order.side)
            )
            if self.bytes + size + len(made) > limits.bytes:
                self._full = True  # the next one may be smaller, but a file has no gaps
                break
            pieces.append(made)
            size += len(made)
            self.frames += 1
        return len(taken), b"".join(pieces)

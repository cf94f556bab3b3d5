"""Identifications of outer IPv4 packets that may be fragmented: none twice before it must be (RFC 6864).

A receiver puts fragments together by source, destination, protocol and this number. There are 65,536 of them, and all
packets to one member come from one address, so whoever sends more within a fragment's life of some seconds has to use
them again: `outer_df = "copy_inner"` keeps that to the few packets that come without DF.
"""

import numpy as np
import numpy.typing as npt


class Idents:
    """Numbers in turn: one instance for all that send from the same address."""

    def __init__(self, first: int = 0, step: int = 1) -> None:
        """
        Args:
            first: the first number.
            step: to the next; a power of two. What is between belongs to others, the CPUs of an XDP program.
        """
        self._next = first
        self.step = step

    def take(self) -> int:
        """A number, 0..65535."""
        ident = self._next
        self._next = ident + self.step & 0xFFFF
        return ident

    def take_many(self, count: int) -> npt.NDArray[np.int64]:
        """So many of them."""
        idents = self._next + self.step * np.arange(count) & 0xFFFF
        self._next = self._next + self.step * count & 0xFFFF
        return idents

"""A whole table, asked for block by block. Pure.

Who asks sets the pace, and asks again for parts that got lost; who answers keeps nothing but which places the last few
blocks were. Some blocks are asked for at once, so that it does not matter much how long an answer takes. Where a block
ends, only who answers knows, and says so in each part; so the next one can be asked for when the first part is there.
"""

from dataclasses import dataclass

from appliance.fleet.wire import ALL_PARTS, END, PARTS, Ask, Part

AT_ONCE = 3
"""Blocks that are under way at the same time."""

_PATIENCE_NS = 50_000_000
_MOST_PATIENCE = 4
"""It doubles so many times at most."""


@dataclass
class _Incoming:
    """A block on its way to us."""

    asked_ns: int | None = None
    """When, or when it grew last; None: not asked for yet."""
    tries: int = 0
    parts: int = 0
    """0: not known yet."""
    following: int = END
    got: int = 0

    @property
    def is_whole(self) -> bool:
        return self.parts > 0 and self.got == (1 << self.parts) - 1


class Asking:
    """One request for a whole table."""

    def __init__(self, number: int, now_ns: int) -> None:
        """
        Args:
            number: another one for each request of the same peer.
            now_ns: the monotonic clock.
        """
        self.began_ns = self.progress_ns = now_ns
        """When something of it came last."""
        self.pins = 0
        """That have come."""
        self._number = number
        self._blocks = {0: _Incoming()}
        self._next: int | None = None
        """Where the block begins that has not been opened yet; None: not known."""

    @property
    def is_done(self) -> bool:
        return not self._blocks and self._next == END

    def due(self, now_ns: int, round_trip_ns: int) -> list[Ask]:
        """What to ask for now: blocks for the first time, and those again that do not get any further."""
        asks = []
        for cursor, block in self._blocks.items():
            patience_ns = max(_PATIENCE_NS, 3 * round_trip_ns) << min(block.tries, _MOST_PATIENCE)
            if block.asked_ns is None or now_ns - block.asked_ns > patience_ns:
                block.tries += block.asked_ns is not None
                block.asked_ns = now_ns
                asks.append(Ask(self._number, cursor, ALL_PARTS & ~block.got))
        return asks

    def note(self, part: Part, pins: int, now_ns: int) -> None:
        """A part has come, maybe not for the first time, or one that nobody has asked for."""
        block = self._blocks.get(part.cursor)
        if part.number != self._number or block is None:
            return
        if not 0 <= part.part < part.parts <= PARTS or not part.cursor < part.following:
            return
        if not block.parts:
            block.parts, block.following = part.parts, part.following
            self._next = part.following
        if (block.parts, block.following) != (part.parts, part.following) or block.got >> part.part & 1:
            return
        block.got |= 1 << part.part
        block.asked_ns, block.tries = now_ns, 0
        self.pins += pins
        self.progress_ns = now_ns
        if block.is_whole:
            del self._blocks[part.cursor]
        if self._next is not None and self._next != END and len(self._blocks) < AT_ONCE:
            self._blocks[self._next] = _Incoming()
            self._next = None

"""Pauses between lives of a process that is started again and again."""

import asyncio

MIN_PAUSE_S = 0.2
MAX_PAUSE_S = 5.0
STEADY_S = 10.0
"""A life that lasted longer than this counts as a good one: the next pause is the shortest again."""


class Pauses:
    """Each twice as long as the one before, up to MAX_PAUSE_S."""

    def __init__(self) -> None:
        self._next_s = MIN_PAUSE_S

    async def rest(self, lasted_s: float, closing: asyncio.Event) -> None:
        """Wait, or until somebody wants an end.

        Args:
            lasted_s: how long the latest life was.
            closing: set when nothing is to be started again.
        """
        if lasted_s > STEADY_S:
            self._next_s = MIN_PAUSE_S
        try:
            async with asyncio.timeout(self._next_s):
                await closing.wait()
        except TimeoutError:
            pass
        self._next_s = min(2 * self._next_s, MAX_PAUSE_S)

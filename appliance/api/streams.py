"""Server-sent events (HTML Living Standard, section 9.2) to a bounded number of readers, none of which holds memory."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from appliance.api.problem import RefusedError

EVENT_STREAM = "text/event-stream"
MAX_STREAMS = 128
SLOW_READER_S = 5.0
"""A stream whose reader takes nothing for so long is cut."""

ALIVE_S = 15.0
"""Whoever hears nothing for longer may take the connection for dead."""

_HEADERS = {"Cache-Control": "no-store", "Content-Type": EVENT_STREAM}


class Streams:
    """All streams of a server."""

    def __init__(self, may_still: Callable[[web.Request], bool]) -> None:
        """
        Args:
            may_still: whether who has asked may go on seeing.
        """
        self._may_still = may_still
        self._closing = asyncio.Event()
        self.open = 0

    async def send(
        self, request: web.Request, more: Callable[[], Awaitable[bytes]], interval_s: float
    ) -> web.StreamResponse:
        """Send until the reader leaves, is too slow, may not see any more, or we close.

        All streams look at the same moments, so that what is made for one of them is there for the others.

        Args:
            request: for the stream.
            more: gives what there is to send now, whole events; empty: nothing.
            interval_s: between two looks; the first one is at once.

        Raises:
            RefusedError: there are too many.
        """
        if self.open >= MAX_STREAMS:
            raise RefusedError(503, f"{MAX_STREAMS} streams are open already; close some, or poll")
        self.open += 1
        clock = asyncio.get_running_loop().time
        try:
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request)
            await response.write(b"retry: 2000\n\n")
            said = clock()
            while not self._closing.is_set() and self._may_still(request):
                part = await more()
                if not part and clock() - said >= ALIVE_S:
                    part = b": alive\n\n"
                if part:
                    async with asyncio.timeout(SLOW_READER_S):
                        await response.write(part)
                    said = clock()
                await self._pause(interval_s - clock() % interval_s)
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.open -= 1
        return response

    def close(self) -> None:
        """All streams end."""
        self._closing.set()

    async def _pause(self, seconds: float) -> None:
        """Ends early when we close."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass


def event(name: str, data: str) -> bytes:
    """One event."""
    return (f"event: {name}\n" + "".join(f"data: {line}\n" for line in data.splitlines()) + "\n").encode()

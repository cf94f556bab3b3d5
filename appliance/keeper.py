"""What stands of operators' orders, kept for the process that follows, while the loop goes on: a disk that does not
answer must not keep it from renewing the lease on the routes."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from appliance.aside import aside

LIMIT_S = 5.0
"""How long whoever gives an order waits for the disk."""

Value = TypeVar("Value")


class Keeper(Generic[Value]):
    """Writes one file, in threads that nobody waits for longer than he wants, one after the other."""

    def __init__(
        self, save: Callable[[Value], None], kept: Value, limit_s: float = LIMIT_S, *, sure: bool = True
    ) -> None:
        """
        Args:
            save: replaces the file, whole; raises OSError.
            kept: what is there.
            limit_s: seconds to wait for the disk.
            sure: whether it is there indeed, and not in another place as yet.
        """
        self._save = save
        self._kept = kept
        self._sure = sure
        self._limit_s = limit_s
        self._writing = threading.Lock()

    def behind(self, value: Value) -> bool:
        """Whether the file says something else, or may do so. Not while it is written: the end of that decides."""
        return not self._writing.locked() and not (self._sure and self._kept == value)

    async def put(self, value: Value) -> None:
        """Keep it.

        Raises:
            TimeoutError: the disk does not answer: it may be kept later, or not; then the file is `behind`.
            OSError: it cannot be kept, and is not.
        """
        given_up = threading.Event()
        try:
            async with asyncio.timeout(self._limit_s):
                await aside(self._write, value, given_up)
        except TimeoutError:
            raise TimeoutError(f"the disk has not answered for {self._limit_s:g} s") from None
        finally:
            given_up.set()

    def _write(self, value: Value, given_up: threading.Event) -> None:
        """In a thread."""
        if not self._writing.acquire(timeout=self._limit_s):
            raise TimeoutError
        try:
            if given_up.is_set():
                return
            sure, self._sure = self._sure, False
            try:
                self._save(value)
            except OSError:
                # It may be there all the same, where only the name could not be brought to the disk.
                with suppress(OSError):
                    self._save(self._kept)
                    self._sure = sure
                raise
            self._kept, self._sure = value, True
        finally:
            self._writing.release()

"""Work in threads that keep nobody: whoever stops waiting, or the process at its end, leaves them behind.

`asyncio.to_thread` has threads that both the loop and the interpreter wait for as they end, however long the work
takes; nobody can stop a thread in the middle of parsing a large text. What is done here must be harmless to abandon at
any point, as by `kill -9`.
"""

import asyncio
import contextvars
import errno
import os
import sys
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

_busy: set[threading.Thread] = set()


async def aside(work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
    """What *work* returns or raises; as `asyncio.to_thread`.

    Raises:
        OSError: there can be no more threads.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: tuple[Result] | None, error: BaseException | None) -> None:
        if future.done():
            return  # nobody waits any more
        if result is not None:
            future.set_result(result[0])
        elif error is not None:
            future.set_exception(error)

    def run() -> None:
        result, failed = None, None
        try:
            result = (context.run(work, *args, **kwargs),)
        except BaseException as error:  # raised where the result is awaited
            failed = error
        try:
            loop.call_soon_threadsafe(settle, result, failed)
        except RuntimeError:
            pass  # the loop has ended
        finally:
            _busy.discard(threading.current_thread())

    thread = threading.Thread(target=run, name="aside", daemon=True)
    _busy.add(thread)
    try:
        thread.start()
    except RuntimeError as error:
        _busy.discard(thread)
        raise OSError(errno.EAGAIN, "there can be no more threads") from error
    return await future


def leave(code: int) -> None:
    """End the process at once where work goes on that nobody waits for: as the interpreter ends, it must not be in the
    middle of an extension's code. Returns where nothing goes on."""
    if _busy:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

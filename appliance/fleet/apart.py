"""An event loop and a thread of its own for what must not wait until the main loop has time."""

import asyncio
import threading
from collections.abc import Callable, Coroutine

import uvloop


async def apart(main: Callable[[], Coroutine[None, None, None]], name: str) -> None:
    """Run a coroutine in another thread, until it ends.

    Cancelling this cancels it. What it raises is raised here.

    Args:
        main: makes the coroutine.
        name: of the thread.
    """
    outer, inner = asyncio.get_running_loop(), uvloop.new_event_loop()
    ended: asyncio.Future[None] = outer.create_future()
    task = inner.create_task(main())

    def finish(error: BaseException | None) -> None:
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def work() -> None:
        error: BaseException | None = None
        try:
            inner.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except BaseException as caught:
            error = caught
        finally:
            inner.close()
            outer.call_soon_threadsafe(finish, error)

    threading.Thread(target=work, name=name, daemon=True).start()
    try:
        await asyncio.shield(ended)
    except asyncio.CancelledError:
        if not ended.done():
            inner.call_soon_threadsafe(task.cancel)
            await ended
        raise

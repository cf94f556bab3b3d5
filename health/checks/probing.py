"""What the probes of all kinds have in common: a time limit, and errors that become results."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from health.checks.errors import excerpt, result_of
from health.secure import result_of_tls
from health.spec import Code, Result

_LATE = {"connect": Code.CONNECTION_TIMEOUT, "handshake": Code.SSL_ERROR, "ask": Code.NO_RESPONSE}


@dataclass
class Progress:
    """How far a probe has come."""

    doing: str = "connect"
    """For people, and to know what a silence means: connect, handshake, send, read; ask is for datagrams."""

    late: Result | None = None
    """The result when time is over, where it is not the usual one."""


async def within(limit_s: float, ask: Callable[[Progress], Awaitable[Result]]) -> Result:
    """What *ask* finds, or what its failure says of the member; with the duration.

    Args:
        limit_s: for all of it, seconds.
        ask: is told the progress, to write down what it is doing.

    Raises:
        OSError: we are out of files or memory.
    """
    start = time.monotonic()  # uvloop's own clock stands still within one round of the loop
    progress = Progress()
    try:
        async with asyncio.timeout(limit_s):
            result = await ask(progress)
    except ssl.SSLError as error:
        result = result_of_tls(error, progress.doing)
    except TimeoutError as error:
        if error.errno is not None:  # the kernel's own: ETIMEDOUT
            result = result_of(error, progress.doing)
        elif progress.late is not None:
            result = progress.late
        else:
            code = _LATE.get(progress.doing, Code.PAYLOAD_TIMEOUT)
            result = Result(code, f"{progress.doing}: nothing within {limit_s:g} s")
    except OSError as error:
        result = result_of(error, progress.doing)
    return replace(result, duration_s=time.monotonic() - start)


def judged(answer: bytes, response: bytes, maintenance: bytes) -> Result | None:
    """What the words of an answer say; None: neither is in it.

    Args:
        answer: or its beginning.
        response: the expected words; none: anything will do.
        maintenance: words of a member that is worked on; they count before the expected ones. None: there are none.
    """
    if maintenance and maintenance in answer:
        return Result(Code.MAINTENANCE_PAYLOAD_CONTENT_MATCH, f"found {excerpt(maintenance)}")
    return Result(Code.OK) if response in answer else None


def mismatch(answer: bytes, response: bytes) -> Result:
    """An answer without the expected words."""
    return Result(Code.PAYLOAD_CONTENT_MISMATCH, f"expected {excerpt(response)}, got {excerpt(answer)}")

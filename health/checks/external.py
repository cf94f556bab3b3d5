"""External: a command of the operator's asks, and its exit status is the answer.

It is started directly, never by a shell, in a session of its own, and that session is killed when the probe ends,
however it ends: what the command has left in the background as well. Only a process that has made a session of its own
escapes that.

It gets no input, the root folder as its working directory, and no more of an environment than the operator's settings
and what to ask: IP and PORT, as in the seed system, and MEMBER (`pool/member`). Standard output and error are read
together. It runs as the user that the director runs as.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from health.checks.errors import excerpt, result_of
from health.checks.probing import Progress, judged, mismatch, within
from health.checks.starting import Process, Start
from health.spec import Code, Result, Target

OUTPUT_BYTES = 16 * 1024
"""A command that writes more is killed."""

GRACE_S = 0.5
"""For a killed command to be gone."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class ExternalCheck:
    """Good when the command ends with the expected status and, where words are expected, its output has them."""

    timeout_s: float
    """For all of it, seconds."""

    command: tuple[str, ...]
    """The program's path, and its arguments."""

    environment: tuple[tuple[str, str], ...] = ()
    exit_status: int = 0
    response: bytes = b""
    """Must be in the output; empty: the exit status is enough."""

    maintenance_response: bytes = b""
    """In the output, says that the member is worked on, whatever the exit status is."""

    _left: dict[str, Start] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By target: what waits inside the kernel for a file system that does not answer, and cannot be killed there."""

    async def probe(self, target: Target) -> Result:
        """Ask *target* once; see `health.spec.Check`. Takes up to GRACE_S longer when it must kill."""

        async def ask(progress: Progress) -> Result:
            progress.late = Result(Code.EXT_HM_ERROR, f"did not begin within {self.timeout_s:g} s")
            if (earlier := self._left.get(target.id)) is not None and (why := earlier.is_left()):
                return Result(Code.EXT_HM_ERROR, f"an earlier command {why}")
            self._left.pop(target.id, None)
            start = Start(self.command, self._environment(target))
            try:
                try:
                    process = await start.process()
                except OSError as error:
                    return replace(result_of(error, "start"), code=Code.EXT_HM_ERROR)
                progress.late = Result(Code.EXT_HM_ERROR, f"did not end within {self.timeout_s:g} s, killed")
                return self._judge(process, await _output(process))
            finally:
                if not await _end(start):
                    self._left[target.id] = start

        return await within(self.timeout_s, ask)

    def _environment(self, target: Target) -> dict[str, str]:
        told = {"IP": str(target.address), "PORT": str(target.port), "MEMBER": target.id}
        return {"PATH": _PATH, "LC_ALL": "C.UTF-8"} | dict(self.environment) | told

    def _judge(self, process: Process, said: bytes) -> Result:
        if len(said) > OUTPUT_BYTES:
            return Result(Code.RESPONSE_BUFFER_OVERFLOW, f"wrote more than {OUTPUT_BYTES} bytes, killed")
        found = judged(said, self.response, self.maintenance_response)
        if found is not None and found.maintenance:
            return found
        if (status := process.poll()) is not None and status != self.exit_status:
            how = f"exit status {status}" if status >= 0 else f"killed by {_signal_name(-status)}"
            return Result(Code.SCRIPT_ERROR, f"{how}: {excerpt(said)}" if said else how)
        return found or mismatch(said, self.response)


async def _output(process: Process) -> bytes:
    """What a command writes until it ends, or one byte more of it than may be."""
    said, open_ = b"", True
    with _news_of(process.end, process.output) as news:
        while len(said) <= OUTPUT_BYTES:
            await news.wait()
            news.clear()
            over = process.poll() is not None  # asked first: then all that it wrote is there to be read
            while open_ and len(said) <= OUTPUT_BYTES:
                try:
                    more = os.read(process.output, OUTPUT_BYTES + 1 - len(said))
                except BlockingIOError:
                    break
                said += more
                if not more:
                    open_ = False
                    asyncio.get_running_loop().remove_reader(process.output)  # it would be news for ever
            if over:
                break
    return said


async def _end(start: Start) -> bool:
    """Kill what is left of a command's session; whether the command itself is gone. Nothing may follow."""
    process = start.take()
    if process is None:
        return not start.is_left()
    process.kill()
    try:
        with _news_of(process.end) as news:
            async with asyncio.timeout(GRACE_S):
                while process.poll() is None:
                    await news.wait()
    except TimeoutError:
        return False
    finally:
        process.close()
    return True


@contextmanager
def _news_of(*handles: int) -> Iterator[asyncio.Event]:
    """Set whenever one of the file descriptors can be read."""
    loop = asyncio.get_running_loop()
    news = asyncio.Event()
    for handle in handles:
        loop.add_reader(handle, news.set)
    try:
        yield news
    finally:
        for handle in handles:
            loop.remove_reader(handle)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

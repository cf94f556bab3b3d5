"""External checks: real scripts that succeed, fail, hang, flood and leave children behind."""

import asyncio
import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from health.checks.external import OUTPUT_BYTES, ExternalCheck
from health.spec import Code, Result
from tests.netns import until
from tests.unit.health.serving import target

Run = Callable[..., Any]


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Makes an executable of a shell script's text."""

    def make(text: str) -> str:
        path = tmp_path / f"check-{len(list(tmp_path.iterdir()))}"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


def ask(run: Run, *command: str, **settings: Any) -> Result:
    result = run(ExternalCheck(**{"timeout_s": 5.0, "command": command} | settings).probe(target(8080, "2001:db8::7")))
    assert isinstance(result, Result)
    assert result.duration_s > 0
    return result


def alive(process: int) -> bool:
    """Whether a process runs; one that only waits to be asked how it ended does not."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


Script = Callable[[str], str]


def test_exit_status_and_words(run: Run, script: Script) -> None:
    """Status and output are judged; of a failure the detail has both."""
    fine = script("echo all is fine")
    assert ask(run, fine).good
    assert ask(run, fine, response=b"fine").good
    assert ask(run, script("exit 3"), exit_status=3).good
    for text, settings, code, detail in (
        ("exit 2", {}, Code.SCRIPT_ERROR, "exit status 2"),
        ("echo no database >&2; exit 1", {}, Code.SCRIPT_ERROR, r"exit status 1: 'no database\n'"),
        ("kill -SEGV $$", {}, Code.SCRIPT_ERROR, "killed by SIGSEGV"),
        ("echo well", {"exit_status": 1}, Code.SCRIPT_ERROR, r"exit status 0: 'well\n'"),
        ("echo well", {"response": b"fine"}, Code.PAYLOAD_CONTENT_MISMATCH, r"expected 'fine', got 'well\n'"),
        (
            "echo back soon; exit 1",
            {"maintenance_response": b"soon"},
            Code.MAINTENANCE_PAYLOAD_CONTENT_MATCH,
            "found 'soon'",
        ),
        ("echo fine", {"maintenance_response": b"soon", "response": b"fine"}, Code.OK, ""),
    ):
        result = ask(run, script(text), **settings)
        assert (result.code, result.detail) == (code, detail)


def test_arguments_and_environment(run: Run, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments come as they are, no shell looks at them; of our own environment nothing comes, nor input."""
    monkeypatch.setenv("SECRET", "not for scripts")
    show = script('for word; do echo "<$word>"; done; env | sort; pwd; cat; echo end')
    command, environment = (show, "$HOME;", "a b"), (("DATABASE", "shop"),)
    for words in (
        b"<$HOME;>\n<a b>\n",
        b"DATABASE=shop\nIP=2001:db8::7\nLC_ALL=C.UTF-8\nMEMBER=web/web1\n",
        b"\nPORT=8080\nPWD=/\n",
        b"\n/\nend\n",
    ):
        assert ask(run, *command, environment=environment, response=words).good, words
    assert ask(run, *command, response=b"SECRET").code is Code.PAYLOAD_CONTENT_MISMATCH


def test_commands_that_cannot_be_started(run: Run, tmp_path: Path) -> None:
    """No file, no program and no permission are errors of the monitor, with the kernel's words."""
    text = tmp_path / "text"
    text.write_text("no program")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\x7fELF nonsense")
    binary.chmod(0o755)
    for path, detail in (
        (tmp_path / "none", "start: no such file or directory"),
        (text, "start: permission denied"),
        (text / "below", "start: not a directory"),
        (binary, "start: exec format error"),
    ):
        result = ask(run, str(path))
        assert (result.code, result.detail) == (Code.EXT_HM_ERROR, detail)


def test_what_hangs_is_killed_with_all_its_children(run: Run, script: Script, tmp_path: Path) -> None:
    """At the time limit the command and what it has started are gone, those in the background included."""
    noted = tmp_path / "pids"
    hang = script(f"trap '' TERM INT HUP; sleep 60 & echo $! $$ > {noted}; (sleep 60; true) & echo begun; sleep 60")
    started = time.monotonic()
    result = ask(run, hang, timeout_s=0.5)
    assert (result.code, result.detail) == (Code.EXT_HM_ERROR, "did not end within 0.5 s, killed")
    assert time.monotonic() - started < 3
    for process in map(int, noted.read_text().split()):
        until(lambda process=process: not alive(process), f"the end of {process}")


def test_what_stays_in_the_background_is_killed_too(run: Run, script: Script, tmp_path: Path) -> None:
    """A command that ends well leaves nobody behind, and nobody who holds its output open is waited for."""
    noted = tmp_path / "pids"
    result = ask(run, script(f"sleep 60 & echo $! > {noted}; echo fine"), response=b"fine")
    assert result.good
    assert result.duration_s < 3
    child = int(noted.read_text())
    until(lambda: not alive(child), "the end of the child")


def test_a_flood_ends_early(run: Run, script: Script) -> None:
    """A command that writes without end is killed as soon as there is too much, long before the time limit."""
    result = ask(run, script("yes"), timeout_s=20.0)
    assert (result.code, result.detail) == (
        Code.RESPONSE_BUFFER_OVERFLOW,
        f"wrote more than {OUTPUT_BYTES} bytes, killed",
    )
    assert result.duration_s < 5
    assert ask(run, script(f"head -c {OUTPUT_BYTES} /dev/zero; echo >&2; exit 0"), timeout_s=5.0).code is (
        Code.RESPONSE_BUFFER_OVERFLOW
    )
    assert ask(run, script(f"head -c {OUTPUT_BYTES} /dev/zero")).good


def test_output_that_ends_before_the_command(run: Run, script: Script) -> None:
    """Closed output is no end, and waiting for the end costs nothing."""
    closes = script("exec >&- 2>&-; sleep 0.5; exit 4")
    before = time.process_time()
    result = ask(run, closes)
    assert (result.code, result.detail) == (Code.SCRIPT_ERROR, "exit status 4")
    assert result.duration_s >= 0.5
    assert time.process_time() - before < 0.4


def test_a_cancelled_probe_leaves_nobody(run: Run, script: Script, tmp_path: Path) -> None:
    """When a monitor is taken out of the configuration in the middle of a probe, the command dies."""
    noted = tmp_path / "pids"
    hang = script(f"echo $$ > {noted}; sleep 60")

    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(ExternalCheck(30.0, (hang,)).probe(target(80)))
            await asyncio.to_thread(until, lambda: noted.exists() and noted.read_text(), "the command's start")
            task.cancel()

    run(story())
    assert not alive(int(noted.read_text()))


def test_a_command_that_cannot_be_watched_is_not_left_behind(
    run: Run, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file to hear of its end by, the command is killed, and nothing is said of the member."""

    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def children() -> set[str]:
        return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}

    before = children()
    monkeypatch.setattr(os, "pidfd_open", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        ask(run, script("sleep 60"), timeout_s=5.0)
    assert children() <= before


def test_nothing_of_ours_is_inherited(run: Run, script: Script) -> None:
    """No open file of the director's gets into a command."""
    with Path("/etc/hostname").open() as ours:
        os.set_inheritable(ours.fileno(), True)
        shown = script("ls -l /proc/$$/fd")
        assert ask(run, shown, response=b"/dev/null").good
        assert not ask(run, shown, response=ours.name.encode()).good


@contextmanager
def held(path: str) -> Iterator[None]:
    """Nobody else can open a file, as with a file system that does not answer: the kernel lets them wait for us to give
    our lease back (fcntl(2), F_SETLEASE)."""
    ours = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # by which the kernel asks for it
    try:
        fcntl.fcntl(ours, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(ours)
        signal.signal(signal.SIGIO, before)


def test_a_start_that_does_not_end_holds_nobody_up(run: Run, script: Script) -> None:
    """While the kernel cannot read a command, the loop goes on and probes end in time; the command is killed as soon as
    it has begun."""
    hang = script("sleep 60")
    check = ExternalCheck(0.5, (hang,))

    async def story() -> tuple[Result, int]:
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(check.probe(target(80)))
            rounds = 0
            while not asking.done():
                await asyncio.sleep(0.01)
                rounds += 1
        return asking.result(), rounds

    with held(hang):
        result, rounds = run(story())
        assert (result.code, result.detail) == (Code.EXT_HM_ERROR, "did not begin within 0.5 s")
        assert rounds > 3
        result, _ = run(story())
        assert result.code is Code.EXT_HM_ERROR
        assert "an earlier command has not begun yet" in result.detail
    until(lambda: run(story())[0].detail == "did not end within 0.5 s, killed", "commands begin again")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_many_at_once(run: Run, script: Script) -> None:
    """Twenty commands at a time do not wait for each other, and none is left."""
    nap = script("sleep 0.3; echo fine")
    check = ExternalCheck(10.0, (nap,), response=b"fine")

    async def story() -> list[Result]:
        return await asyncio.gather(*(check.probe(target(80)) for _ in range(20)))

    started = time.monotonic()
    assert all(result.good for result in run(story()))
    assert time.monotonic() - started < 4
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL

"""The command as a whole: help, wrong usage, exit codes, pipes and signals."""

import os
import signal
import subprocess
import sys
from array import array
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD
from typing import IO

import pytest

import appliance.config
from appliance.cli.output import Exit
from appliance.cli.root import COMMANDS, call
from tests.netns import until

EXAMPLE = Path(appliance.config.__file__).parent / "example.toml"
ROOT = Path(__file__).parent.parent.parent.parent
ONWARD = [sys.executable, "-m", "appliance"]


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """`onward --help` is where scripts' authors look."""
    assert call(["--help"]) == Exit.OK
    text = " ".join(capsys.readouterr().out.split())
    for command, (_, line) in COMMANDS.items():
        assert f"{command} {line}" in text
    assert (
        "0 ok; 1 failed; 2 wrong usage; 3 the daemon does not answer; 4 the configuration is invalid; 5 not found; "
        "6 revoked meanwhile; 7 the data plane and its model differ; 8 not known whether it was done; with "
        "`status --exit-code` also 10 degraded, 11 down." in text in text
    )


def test_no_arguments_are_a_call_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    """A newcomer types the name alone."""
    assert call([]) == Exit.OK
    assert capsys.readouterr().out.startswith("Usage: onward COMMAND\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each can be imported, has help, and prints it without boxes."""
    assert call([command, "--help"]) == Exit.OK
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: onward {command}")
    assert not set(text) & set("│╭╮╰╯─")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], 'there is no command "chek"; did you mean `check`?'),
        (["check"], "CONFIG"),
        (["check", "--loud", "x"], "--loud"),
        (["check", "--loud"], "there is no option --loud"),
        (["check", "a", "b"], "b"),
        (["explain", "sctp"], "sctp"),
        (["version", "x"], "x"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was wrong and where to read on, on standard error."""
    assert call(arguments) == Exit.USAGE
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert output.err.splitlines()[-1].startswith("onward: see `onward")


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways to ask give the same line."""
    assert call(arguments) == Exit.OK
    assert capsys.readouterr().out.startswith(f"onward {appliance.__version__} (Python 3.")


def test_run_with_an_invalid_configuration_exits_with_4(capsys: pytest.CaptureFixture[str]) -> None:
    """All problems are printed, and nothing is started."""
    path = ROOT / "tests" / "bad_configs" / "many_mistakes.toml"
    assert call(["run", str(path)]) == Exit.CONFIG
    assert capsys.readouterr().err.splitlines()[-1] == "19 problems"


def test_help_imports_no_machinery() -> None:
    """The heavy modules are left to the commands that need them, so that help comes fast."""
    heavy = ("aiohttp", "pyroute2", "numpy", "uvloop", "pydantic", "structlog", "asyncio")
    code = (
        "import sys; from appliance.cli.root import call; call(['--help']);"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "[]"


def test_checking_imports_no_data_plane() -> None:
    """`onward check` needs pydantic, and that is all."""
    heavy = ("aiohttp", "pyroute2", "numpy", "uvloop", "structlog")
    code = (
        f"import sys; from appliance.cli.root import call; call(['check', '-q', {str(EXAMPLE)!r}]);"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_reader_who_leaves_early_is_no_failure() -> None:
    """`onward check FILE | head -1` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as output:
        run = subprocess.run(
            [*ONWARD, "check", str(EXAMPLE)], cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    assert run.returncode == Exit.OK
    assert "Traceback" not in run.stderr
    assert "BrokenPipe" not in run.stderr


@pytest.fixture
def reading() -> Iterator[subprocess.Popen[bytes]]:
    """A command that has read the beginning of its configuration, and waits for the rest."""
    with subprocess.Popen([*ONWARD, "check", "-"], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(b"# the first line\n")
            process.stdin.flush()
            until(lambda: _unread(process.stdin) == 0 and _sleeps(process.pid), "the command waits for more", 60)
            yield process
        finally:
            process.kill()


def _unread(pipe: IO[str]) -> int:
    """Bytes in a pipe that nobody has taken yet."""
    answer = array("i", [0])
    ioctl(pipe, FIONREAD, answer)
    return answer[0]


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_control_c_exits_with_130_quietly(reading: subprocess.Popen[bytes]) -> None:
    """As shells expect of a program that was interrupted, and without a traceback."""
    reading.send_signal(signal.SIGINT)
    assert reading.wait(60) == Exit.INTERRUPTED
    assert reading.stderr is not None
    assert reading.stderr.read() == b""

"""What all tests share."""

import os
import resource
import signal
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

# How long an example takes, to make or to run, says how busy the machine is, not whether the code is right. In CI the
# examples are the same every time, so that a change is not blamed for what chance found elsewhere.
settings.register_profile(
    "onward", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("onward")


# Whatever is started in the background of a script ignores it, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="tests of endurance run for minutes instead of seconds")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whoever wants nothing but tests with one of our marks does not import files without it, which takes long."""
    wanted = config.getoption("markexpr")
    if wanted in ("root", "lab") and collection_path.name.startswith("test_"):
        return None if f"pytest.mark.{wanted}" in collection_path.read_text() else True
    return None


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Whoever runs all parts gets a short list of what failed, in a file: no message, which may be of megabytes."""
    if (target := os.environ.get("ONWARD_FAILED")) and not hasattr(config, "workerinput"):
        reports = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
        with Path(target).open("a") as out:
            out.writelines(f"{report.nodeid} ({getattr(report, 'when', 'collection')})\n" for report in reports)


@pytest.fixture
def many_files():
    """Whatever is opened from here on has a number that select(2) does not know, as in a director that asks thousands
    of members."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    opened = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
    try:
        while opened[-1] < 1023:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        yield
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(autouse=True)
def own_logging():
    """A test that sets logging up does not leave it to the next one."""
    yield
    structlog.reset_defaults()

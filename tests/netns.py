"""Network namespaces for tests: made with `ip`, named after the test process, gone at the end."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

PATIENCE = float(os.environ.get("ONWARD_PATIENCE", "1"))
"""Deadlines are so many times longer: an emulated machine is slow."""

_numbers = count()


class Namespace:
    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, arguments: str) -> str:
        """`ip -n NAME ARGUMENTS`; raises when ip does."""
        return subprocess.run(
            ["ip", "-n", self.name, *arguments.split()], check=True, capture_output=True, text=True
        ).stdout

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs *arguments* inside."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str) -> str:
        return subprocess.run(self.command(*arguments), check=True, capture_output=True, text=True).stdout

    def sysctl(self, **settings: object) -> None:
        """Set sysctls; double underscores stand for dots."""
        for key, value in settings.items():
            self.run("sysctl", "-qw", f"{key.replace('__', '.')}={value}")


@contextmanager
def namespaces(*roles: str, prefix: str = "ow") -> Iterator[tuple[Namespace, ...]]:
    """Fresh namespaces with loopback up; deleted at the end, with everything in them."""
    number = next(_numbers)
    made = []
    try:
        for role in roles:
            space = Namespace(f"{prefix}{os.getpid()}-{number}-{role}")
            subprocess.run(["ip", "netns", "add", space.name], check=True)
            made.append(space)
            space.ip("link set lo up")
            space.sysctl(net__ipv6__conf__default__accept_dad=0, net__ipv6__conf__all__accept_dad=0)
        yield tuple(made)
    finally:
        for space in made:
            subprocess.run(["ip", "netns", "del", space.name], check=False)


def veth(a: Namespace, a_name: str, b: Namespace, b_name: str) -> None:
    """A cable between two namespaces, both ends up, checksums complete (packets meet raw sockets)."""
    a.ip(f"link add {a_name} type veth peer name {b_name} netns {b.name}")
    for space, name in ((a, a_name), (b, b_name)):
        space.run("ethtool", "-K", name, "tx", "off")
        space.ip(f"link set {name} up")


def until(condition: Callable[[], object], what: str, deadline_s: float = 10.0) -> object:
    """Poll until *condition* gives something true, and return that.

    Raises:
        AssertionError: the deadline passed; the text says what was waited for.
    """
    deadline_s *= PATIENCE
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")

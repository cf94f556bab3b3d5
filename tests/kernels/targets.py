"""What is tested inside, and what older kernels cannot do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

TARGETS = (
    "tests/kernels/features.py",
    "tests/root/test_xdp_program.py",
    "tests/root/test_xdp_edges.py",
    "tests/root/test_planes.py::test_tcp_by_l2",
    "tests/root/test_planes.py::test_tcp_by_ipip",
    "tests/root/test_decap.py",
)
"""The tests whose outcome depends on the kernel: the shortest that load everything, run every vector and carry real
connections."""
SLOW_TARGETS = ("tests/root/test_icmp_relay.py", "tests/root/test_netlink.py", "tests/root/test_planes.py")
"""More of them. An emulated processor takes too long for these, unless they are asked for."""


@dataclass(frozen=True)
class Lost:
    """What kernels before a version cannot do, so that tests of it are left out there."""

    before: tuple[int, int]
    tests: str
    """A pytest -k expression."""
    why: str


LOST = (
    Lost(
        (6, 3),
        "takes_no_frames or going_native or without_xdp",
        "the kernel does not say which interfaces send XDP frames",
    ),
    Lost(
        (6, 6),
        "decap_tc or (test_connections and tc)",
        "decap --mode tc needs tcx, and to shrink by one IP header in another 6.3; features.py proves that it says so",
    ),
)


def lost(version: tuple[int, int]) -> list[Lost]:
    return [entry for entry in LOST if version < entry.before]


def files(*, slow: bool) -> list[str]:
    """The tests to run."""
    return [*(TARGETS + SLOW_TARGETS if slow else TARGETS)]


def arguments(version: tuple[int, int], test_limit_s: int, targets: Sequence[str]) -> list[str]:
    """pytest's arguments for a kernel."""
    without = " and ".join(f"not ({entry.tests})" for entry in lost(version))
    common = ["-q", "-p", "no:cacheprovider", f"--timeout={test_limit_s}", *(["-k", without] if without else [])]
    return [*common, *targets]

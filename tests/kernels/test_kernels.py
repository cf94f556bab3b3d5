"""Which kernels are taken, and the archive that they boot from."""

import stat

from tests.kernels.machine import archive
from tests.kernels.packages import Kernel, newest
from tests.kernels.targets import arguments

DEBIAN = """
linux-image-amd64 linux-image-rt-amd64 linux-image-6.12-amd64 linux-image-6.1.0-9-amd64 linux-image-6.1.0-47-amd64
linux-image-6.1.0-47-amd64-dbg linux-image-6.1.0-47-amd64-unsigned linux-image-6.1.0-48-cloud-amd64
linux-image-6.1.0-47-rt-amd64 linux-image-6.12.48+deb13-amd64 linux-image-6.12.107+deb12-amd64
linux-image-6.12.107+deb12-cloud-amd64 linux-image-6.1.0-0.deb11.7-amd64
"""
UBUNTU = "linux-image-generic linux-image-5.15.0-25-generic linux-image-5.15.0-105-generic linux-image-5.15.0-105-kvm"


def test_the_newest_of_each_series_is_taken() -> None:
    """Numbers count as numbers, PREEMPT_RT is a series of its own, and packages without a kernel do not count."""
    assert newest(DEBIAN.split()) == [
        Kernel("6.1.0-47-amd64", "6.1"),
        Kernel("6.1.0-47-rt-amd64", "6.1-rt"),
        Kernel("6.12.107+deb12-amd64", "6.12"),
    ]
    assert newest(UBUNTU.split()) == [Kernel("5.15.0-105-generic", "5.15")]


def test_what_a_kernel_lacks_is_left_out() -> None:
    """A kernel older than a feature gets the expression that leaves its tests out; a newer one runs everything."""
    assert any("not (decap_tc or (test_connections and tc))" in word for word in arguments((6, 1), 1, []))
    assert "-k" not in arguments((6, 6), 1, [])


def test_archive() -> None:
    """Each entry is a header of 110 bytes, a name and a content, padded to four bytes; the last has a fixed name."""
    made = archive([("a", stat.S_IFREG | 0o644, b"hello")])
    assert made[:6] == b"070701"
    assert made[14:22] == b"000081A4"
    assert made[54:62] == b"00000005"
    assert made[110:120] == b"a\0hello\0\0\0"
    assert made[120:126] == b"070701"
    assert made[230:241] == b"TRAILER!!!\0"
    assert len(made) % 4 == 0

"""Waiting until no BPF program that is running now is running any more."""

import ctypes
import platform
import time

_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356}
_QUERY, _GLOBAL = 0, 1

PAUSE_S = 0.2
"""Instead, where the kernel cannot say: no program runs for a hundredth of that."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def wait_for_readers() -> None:
    """Return when every BPF program that had begun before this call has ended; takes some milliseconds.

    The kernel implements MEMBARRIER_CMD_GLOBAL as an RCU grace period (kernel/sched/membarrier.c), and XDP programs run
    inside RCU read-side critical sections. With a single CPU it need not wait: a program is not interrupted by us. It
    does not offer the command with nohz_full.
    """
    number = _MEMBARRIER.get(platform.machine())
    if number is not None:
        offered = _libc.syscall(number, _QUERY, 0, 0)
        if offered > 0 and offered & _GLOBAL and _libc.syscall(number, _GLOBAL, 0, 0) == 0:
            return
    time.sleep(PAUSE_S)

"""Waiting until no BPF program that is running now is running any more."""

import ctypes
import os
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
    inside RCU read-side critical sections. It does not offer the command with nohz_full, and does not wait when only
    one CPU is online, where we could yet have interrupted a program if the kernel is PREEMPT_RT: then time has to do.
    """
    number = _MEMBARRIER.get(platform.machine())
    if number is not None and os.sysconf("SC_NPROCESSORS_ONLN") > 1:
        offered = _libc.syscall(number, _QUERY, 0, 0)
        if offered > 0 and offered & _GLOBAL and _libc.syscall(number, _GLOBAL, 0, 0) == 0:
            return
    time.sleep(PAUSE_S)

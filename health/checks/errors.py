"""What the kernel's errors say about a member."""

import errno
import os

from health.spec import Code, Result

_CODES = {
    errno.ECONNREFUSED: Code.REFUSED,
    errno.ECONNRESET: Code.RESET,
    errno.ECONNABORTED: Code.RESET,
    errno.EPIPE: Code.RESET,
    errno.ETIMEDOUT: Code.TIMEOUT,
}

_OUR_OWN = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EBADF}
"""Errors that say nothing about the member: files or memory are used up, or the program is wrong. EINVAL is not among
them: that is how Linux reports a blackhole route."""


def result_of(error: OSError, doing: str, duration_s: float) -> Result:
    """The result of a probe that ended in *error*.

    Args:
        error: what the kernel said.
        doing: what was being done, for people: "connect", "read".
        duration_s: of the probe so far, seconds.

    Raises:
        OSError: *error* itself, when it is about us and not about the member.
    """
    if error.errno is None or error.errno in _OUR_OWN:
        raise error
    code = _CODES.get(error.errno, Code.UNREACHABLE)
    return Result(code, f"{doing}: {os.strerror(error.errno).lower()}", duration_s)


def excerpt(data: bytes, limit: int = 60) -> str:
    """The beginning of *data* in printable ASCII, quoted."""
    return ascii(data[:limit].decode("latin-1")) + ("..." if len(data) > limit else "")

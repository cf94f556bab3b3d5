"""What the kernel's errors say about a member."""

import errno
import os

from health.spec import Code, Result

_CODES = {
    errno.ECONNREFUSED: Code.CONNECTION_REFUSED,
    errno.ECONNRESET: Code.CONNECTION_RESET,
    errno.ECONNABORTED: Code.CONNECTION_RESET,
    errno.EPIPE: Code.CONNECTION_RESET,
    errno.ETIMEDOUT: Code.CONNECTION_TIMEOUT,
}

SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
"""Errors that say nothing about the member: files, memory, ports or processes are used up."""

_OUR_OWN = SHORT_OF | {errno.EBADF}
"""These, and a program that is wrong. EINVAL is not among them: that is how Linux reports a blackhole route."""


def result_of(error: OSError, doing: str) -> Result:
    """The result of a probe that ended in *error*.

    Args:
        error: what the kernel said.
        doing: what was being done: "connect", "read", or "ask" by datagrams.

    Raises:
        OSError: *error* itself, when it is about us and not about the member.
    """
    if error.errno is None or error.errno in _OUR_OWN:
        raise error
    code = _CODES.get(error.errno, Code.SERVER_UNREACHABLE)
    if doing == "ask" and code is Code.CONNECTION_REFUSED:  # that is how Linux words ICMP "port unreachable"
        code = Code.PORT_UNREACHABLE
    return Result(code, f"{doing}: {os.strerror(error.errno).lower()}")


def excerpt(data: bytes, limit: int = 60) -> str:
    """The beginning of *data* in printable ASCII, quoted."""
    return ascii(data[:limit].decode("latin-1")) + ("..." if len(data) > limit else "")


def shown(text: str, limit: int = 60) -> str:
    """The beginning of what a member has said, without what a terminal or a log might take for orders."""
    return "".join(filter(str.isprintable, text[:limit]))

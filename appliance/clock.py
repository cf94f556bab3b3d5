"""The time that decisions are made by: seconds since 1970, as at the start, and from then on as they pass.

Windows, drains and slow starts last for so many seconds, and other directors and the process that follows have to
understand when they began; so moments are in seconds since 1970. But when somebody sets the machine's clock, no time
has passed: all windows would end at once, or go on for as long as it was set back.
"""

import time
from collections.abc import Callable


def steady(
    wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """A clock that is not set while we run.

    Args:
        wall: seconds since 1970; asked once, now.
        monotonic: seconds, that only pass.
    """
    offset = wall() - monotonic()
    return lambda: offset + monotonic()

"""From paths in messages to places in an object. Pure."""

import re

from appliance.config.problems import Location, path_text

_STEP = re.compile(r"\.?([^.\[\]]+)|\[([0-9]+)\]")


def pointer(path: str, location: Location) -> str | None:
    """The JSON pointer (RFC 6901) of what a message is about.

    Args:
        path: as in `Problem.path`: `pool[3].member[1].ratio`.
        location: of the object: `("pool", 3)`.

    Returns:
        `/member/1/ratio`, empty for the object as a whole; None where the message is about something else.
    """
    base = path_text(location)
    rest = path.removeprefix(base)
    if not path.startswith(base) or (rest and rest[0] not in ".["):
        return None
    steps = (match[1] or match[2] for match in _STEP.finditer(rest))
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)

"""From paths in messages to places in an object. Pure."""

import re
from collections.abc import Sequence

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


def pointer_within(path: str, places: Sequence[tuple[str, Location]]) -> str | None:
    """The same into what several objects were given in; the innermost of them counts.

    Args:
        path: as in `Problem.path`.
        places: JSON pointers to the objects, and where they stand.
    """
    found = None
    for base, location in sorted(places, key=lambda place: len(place[1])):
        within = pointer(path, location)
        found = found if within is None else base + within
    return found

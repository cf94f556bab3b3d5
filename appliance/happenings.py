"""What has happened lately: the events of the log, in a ring, for those who want to see them as they come.

Every change of state is an event with its cause ("Events" in ARCHITECTURE.md), so nothing has to be noted twice.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

KEPT = 2000
MAX_TEXT = 500
"""Characters of a value that is kept."""

MAX_LIST = 50


@dataclass(frozen=True)
class Happening:
    """One event."""

    id: int
    """Grows, also from one process to the next: microseconds since 1970 at the start, and then by one."""

    at: float
    """Seconds since 1970."""

    level: str
    event: str
    fields: Mapping[str, Any]
    """As JSON values."""


class Happenings:
    """The latest events, from whichever thread they come."""

    def __init__(self, wall: Callable[[], float], kept: int = KEPT) -> None:
        """
        Args:
            wall: seconds since 1970.
            kept: how many events, at most.
        """
        self._wall = wall
        self._lock = threading.Lock()
        self._next = int(wall() * 1e6)
        self._ring: deque[Happening] = deque(maxlen=kept)

    def note(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """A processor of structlog: keeps the event and passes it on."""
        if method != "debug":
            fields = {
                key: _bounded(value) for key, value in event.items() if key not in ("event", "level", "exception")
            }
            with self._lock:
                self._ring.append(Happening(self._next, self._wall(), method, str(event.get("event", "")), fields))
                self._next += 1
        return event

    @property
    def last(self) -> int:
        """The id of the latest event; one less than the first one's where there is none yet."""
        return self._next - 1

    @property
    def first(self) -> int:
        """The id of the oldest event that is kept; of the next one where there is none."""
        with self._lock:
            return self._ring[0].id if self._ring else self._next

    def after(self, id_: int) -> list[Happening]:
        """Those with larger ids, in their order."""
        with self._lock:
            missing = max(0, id_ + 1 - self._ring[0].id) if self._ring else 0
            return list(islice(self._ring, missing, None))


def matching(happenings: list[Happening], wanted: Mapping[str, str]) -> Iterator[Happening]:
    """Those that are wanted.

    Args:
        happenings: to choose from.
        wanted: values by field; `event` may end with `*`; `level` is the least important one.
    """
    least = _LEVELS.get(wanted.get("level", "info"), 0)
    name = wanted.get("event", "*")
    rest = {key: value for key, value in wanted.items() if key not in ("event", "level")}
    for one in happenings:
        if _LEVELS.get(one.level, 0) < least:
            continue
        if not (one.event.startswith(name[:-1]) if name.endswith("*") else one.event == name):
            continue
        if all(str(one.fields.get(key)) == value for key, value in rest.items()):
            yield one


_LEVELS = {"info": 0, "warning": 1, "error": 2, "critical": 3}
LEVELS = tuple(_LEVELS)


def _bounded(value: Any) -> Any:
    """A value as JSON, and no larger than somebody wants to read."""
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
    if isinstance(value, list | tuple):
        return [_bounded(one) for one in value[:MAX_LIST]]
    if isinstance(value, Mapping):
        return {str(key): _bounded(one) for key, one in islice(value.items(), MAX_LIST)}
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"

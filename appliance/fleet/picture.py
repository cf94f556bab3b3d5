"""All that is in a fleet's store, read: kept up change by change. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from appliance.fleet import entries
from appliance.fleet.agreement import Verdicts
from appliance.fleet.client import Change, Entry
from appliance.fleet.entries import DirectorCard, Logged, Unreadable
from appliance.model import Order
from appliance.state import LogEntry, RingKey

_T = TypeVar("_T")


class Picture:
    """What a director knows of the store."""

    def __init__(self, unreadable: Callable[[str, str], None]) -> None:
        """
        Args:
            unreadable: called with a key and the reason when its value is not what this version knows.
        """
        self._unreadable = unreadable
        self._entries: dict[str, Entry] = {}
        self._deleted: dict[str, int] = {}
        """Revisions at which keys went that are not there."""
        self.directors: dict[str, DirectorCard] = {}
        """By name."""
        self.views: dict[str, dict[str, Verdicts]] = {}
        """What each director says, by pool and director."""
        self.settled: dict[str, Verdicts] = {}
        """What was agreed last, by pool."""
        self.orders: dict[str, Order] = {}
        """By `pool/member`."""
        self._logs: dict[str, tuple[RingKey, tuple[Logged, ...], tuple[LogEntry, ...]]] = {}

    def revision(self, key: str) -> int:
        """When it was last written; 0 when it is not there."""
        found = self._entries.get(key)
        return found.revision if found else 0

    def logged(self, ring: RingKey) -> tuple[Logged, ...]:
        """The oldest first."""
        found = self._logs.get(entries.log_place(ring))
        return found[1] if found else ()

    def logs(self) -> dict[RingKey, tuple[LogEntry, ...]]:
        """All of them; the oldest entry first."""
        return {ring: plain for ring, _, plain in self._logs.values()}

    def replace(self, all_of_it: Mapping[str, Entry]) -> None:
        """Begin anew."""
        for known in (self._entries, self._deleted, self.directors, self.views, self.settled, self.orders, self._logs):
            known.clear()
        self.take(Change(key, entry.value, entry.revision) for key, entry in all_of_it.items())

    def take(self, changes: Iterable[Change]) -> set[str]:
        """Changes of the store; those that are known already make no difference.

        Returns:
            Pools of which somebody says something else now.
        """
        pools = set()
        for change in changes:
            if change.revision < max(self.revision(change.key), self._deleted.get(change.key, 0)):
                continue
            if change.value is None:
                self._entries.pop(change.key, None)
                self._deleted[change.key] = change.revision
            else:
                self._entries[change.key] = Entry(change.value, change.revision)
            try:
                pool = self._read(change.key, change.value)
            except Unreadable as why:
                self._unreadable(change.key, str(why))
                pool = self._read(change.key, None)
            if pool is not None:
                pools.add(pool)
        return pools

    def forget(self, key: str) -> None:
        """It is not there any more, and since when is not known."""
        self._entries.pop(key, None)
        self._read(key, None)

    def _read(self, key: str, text: str | None) -> str | None:
        """
        Returns:
            The pool of which it says something, if it is one.

        Raises:
            Unreadable: nothing has changed then.
        """
        kind, _, place = key.partition("/")
        match kind:
            case entries.DIRECTORS:
                _put(self.directors, place, None if text is None else entries.decode_director(place, text))
            case entries.VERDICTS:
                director, _, pool = place.partition("/")
                _put(
                    self.views.setdefault(pool, {}),
                    director,
                    None if text is None else entries.decode_verdicts(pool, text),
                )
                return pool
            case entries.AGREED:
                _put(self.settled, place, None if text is None else entries.decode_agreed(place, text))
                return place
            case entries.ORDERS:
                _put(self.orders, place, None if text is None else entries.decode_order(text))
            case entries.LOG:
                _put(self._logs, place, None if text is None else _log(place, text))
        return None


def _put(known: dict[str, _T], name: str, value: _T | None) -> None:
    if value is None:
        known.pop(name, None)
    else:
        known[name] = value


def _log(place: str, text: str) -> tuple[RingKey, tuple[Logged, ...], tuple[LogEntry, ...]]:
    ring, logged = entries.decode_log(place, text)
    return ring, logged, tuple(item.entry for item in logged)

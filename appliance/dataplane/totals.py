"""Counters under construction: what several parts of a plane, and parts that are gone, have counted."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import TypeVar

from appliance.dataplane.base import Counters, Traffic

_Key = TypeVar("_Key", bound=Hashable)

Counted = Iterable[tuple[str, Traffic]]
"""Traffic by member; a member may come several times."""


class Later(Mapping[str, Traffic]):
    """Traffic by member, added up when somebody looks. Counters are read once a second, where a thousand virtual
    services may have twenty members each, and hardly anybody wants to know of all of them."""

    def __init__(self, *parts: Callable[[], Counted]) -> None:
        """
        Args:
            parts: what is added up; they say the same whenever they are asked.
        """
        self._parts = parts

    @cached_property
    def _made(self) -> dict[str, Traffic]:
        return added_up(chain.from_iterable(part() for part in self._parts))

    def __getitem__(self, member: str) -> Traffic:
        return self._made[member]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def __reduce__(self) -> tuple[type[dict[str, Traffic]], tuple[dict[str, Traffic]]]:
        """Other processes get the sum."""
        return dict, (self._made,)


class Totals:
    """A sum of counters, by name."""

    def __init__(self, *parts: Counters) -> None:
        self.services: dict[tuple[str, str], Traffic] = {}
        self.reasons: Counter[str] = Counter()
        self.replies: Counter[str] = Counter()
        self.told_too_big: Counter[str] = Counter()
        self.details: Counter[str] = Counter()
        self._members: list[Callable[[], Counted]] = []
        for part in parts:
            self.add(part)

    def add(self, part: Counters) -> None:
        self.services = added_up([*self.services.items(), *part.services.items()])
        self._members.append(part.members.items)
        self.reasons.update(part.reasons)
        self.replies.update(part.replies)
        self.told_too_big.update(part.told_too_big)
        self.details.update(part.details)

    def settle(self) -> None:
        """Add members up now: for totals that others are added to, again and again."""
        members = dict(Later(*self._members))
        self._members = [members.items]

    def counters(self) -> Counters:
        return Counters(
            services=dict(self.services),
            members=Later(*self._members),
            reasons=dict(self.reasons),
            replies=dict(self.replies),
            told_too_big=dict(self.told_too_big),
            details=dict(self.details),
        )


def added_up(counted: Iterable[tuple[_Key, Traffic]]) -> dict[_Key, Traffic]:
    """What comes several times is one sum."""
    found: dict[_Key, Traffic] = {}
    for key, traffic in counted:
        before = found.get(key)
        found[key] = traffic if before is None else before + traffic
    return found

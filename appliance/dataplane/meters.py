"""How many new connections have come, by virtual service, by VIP and by source: meters in plain memory.

    dues     u64: when a meter of a service or a VIP is full again, ns of the monotonic clock
    sources  (key, due) pairs of u64, four to a set and a cache line: the same for each source. Key 0 is empty

The rules are in packet/protection.py. The memory may be that of an XDP program's maps, which then counts in the same
meters. One number for all CPUs, changed by compare-and-swap, and none for each: a limit holds wherever packets arrive,
and costs CPUs nothing but the connections that are taken, which are as many as the limit says. Refused ones only read,
so a flood does not have CPUs quarrel over a cache line. (Python's writes here are no compare-and-swap. When both take a
connection at the same moment, one of them may not be counted.)

The table of sources is bounded. Where all four places of a set are taken, the one that is full again first is given up,
and that source begins with a full meter: too much is let through, and nobody is kept out.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.packet.action import Reason
from appliance.packet.protection import REASONS, Guard, Scope, charged, is_exhausted
from appliance.ring.hash import derive_pin_keys, pin_hash

METERS = 1 << 14
"""Of virtual services and VIPs with limits."""

PLACES = 4
"""Sources of a set."""

SOURCE_SETS = 1 << 14
"""65,536 sources, 1 MiB."""

SOURCE = np.dtype([("key", "<u8"), ("due", "<u8")])

Key = tuple[str, bytes]
"""Virtual service and VIP; of the service as a whole, without VIP."""


def layout(sets: int = SOURCE_SETS) -> Mapping[str, tuple[np.dtype[Any], int]]:
    """The parts of the memory: type and number of elements."""
    return {"dues": (np.dtype("<u8"), METERS), "sources": (SOURCE, sets * PLACES)}


class MeterTable:
    """The meters, and which of them belongs to whom."""

    def __init__(self, memory: Mapping[str, npt.NDArray[Any]], clock_ns: Callable[[], int]) -> None:
        """
        Args:
            memory: the parts that `layout` names.
            clock_ns: the monotonic clock.
        """
        self.clock_ns = clock_ns
        self.forgotten = 0
        """Sources that had to make room for others while they counted."""

        self._dues = memory["dues"]
        self._sources = memory["sources"]
        self._sets = len(self._sources) // PLACES
        self._numbers: dict[Key, int] = {}
        self._wanted: frozenset[Key] = frozenset()
        """Those of the latest tables. Those of the tables before, which may still be in force, keep theirs."""
        self._lock = threading.Lock()
        self._keys: tuple[int, ...] = ()
        self._secret = b""

    @classmethod
    def in_memory(cls, clock_ns: Callable[[], int], sets: int = SOURCE_SETS) -> "MeterTable":
        """Meters of their own."""
        return cls({name: np.zeros(count, dtype) for name, (dtype, count) in layout(sets).items()}, clock_ns)

    def clear(self) -> None:
        """Begin anew: everybody's meter is full."""
        self._dues[:] = 0
        self._sources[:] = 0

    def assign(self, guards: Iterable[Guard | None], secret: bytes) -> None:
        """See `protection.Meters`."""
        wanted = frozenset(
            key
            for guard in guards
            if guard is not None and guard.limited
            for key in ((guard.name, b""), (guard.name, guard.vip))
        )
        with self._lock:
            if (wanted, secret) == (self._wanted, self._secret):
                return
            numbers = {key: number for key, number in self._numbers.items() if key in wanted or key in self._wanted}
            taken = set(numbers.values())
            free = (number for number in range(1, METERS) if number not in taken)
            for key in sorted(wanted - numbers.keys()):
                number = next(free, None)
                if number is None:
                    raise ValueError(f"more than {METERS} virtual services and VIPs with limits")
                self._dues[number] = 0
                numbers[key] = number
            if secret != self._secret:
                self._keys, self._secret = derive_pin_keys(secret), secret
            self._numbers, self._wanted = numbers, wanted

    def numbers(self, guard: Guard) -> tuple[int, int]:
        """The meters of a guard's service and of its VIP; 0, which is nobody's, for tables that are long gone."""
        return self._numbers.get((guard.name, b""), 0), self._numbers.get((guard.name, guard.vip), 0)

    def admit(self, guard: Guard, source: bytes, *, look_only: bool = False) -> Reason | None:
        """See `protection.Meters`."""
        now, numbers, rates = self.clock_ns(), self.numbers(guard), guard.rates
        for scope in (Scope.SERVICE, Scope.VIP):
            rate = rates[scope]
            if rate is not None and is_exhausted(int(self._dues[numbers[scope]]), now, rate):
                return REASONS[scope]
        rate = rates[Scope.SOURCE]
        if rate is not None:
            at, key = self._find(numbers[0], source)
            before, due = self._sources[at].tolist()
            if before != key:
                if not look_only:
                    self.forgotten += due > now
                due = 0
            if is_exhausted(due, now, rate):
                return Reason.SOURCE_RATE
            if not look_only:
                self._sources[at] = key, charged(due, now, rate)
        for scope in (Scope.SERVICE, Scope.VIP):
            rate = rates[scope]
            if rate is not None and not look_only:
                self._dues[numbers[scope]] = charged(int(self._dues[numbers[scope]]), now, rate)
        return None

    def give_back(self, guard: Guard, source: bytes) -> None:
        """A connection that was taken a moment ago is to be judged anew."""
        numbers = self.numbers(guard)
        for scope in (Scope.SERVICE, Scope.VIP):
            rate = guard.rates[scope]
            if rate is not None:
                self._dues[numbers[scope]] -= np.uint64(rate.interval_ns)
        rate = guard.rates[Scope.SOURCE]
        if rate is not None:
            at, key = self._find(numbers[0], source)
            if int(self._sources["key"][at]) == key:
                self._sources["due"][at] -= np.uint64(rate.interval_ns)

    def _find(self, number: int, source: bytes) -> tuple[int, int]:
        """Where a source is, or is to be, and its key.

        Args:
            number: the meter of the virtual service.
            source: address, of which IPv6 has the upper half count.
        """
        words = [int.from_bytes(source[at : at + 4], "little") for at in range(0, min(len(source), 8), 4)]
        hash64 = pin_hash(self._keys, [*words, number] if len(source) == 4 else [*words, number, 0])
        first, key = (hash64 >> 32) * self._sets >> 32, hash64 or 1
        first *= PLACES
        places = self._sources[first : first + PLACES].tolist()
        for at, (there, _) in enumerate(places):
            if there == key:
                return first + at, key
        dues = [due for _, due in places]
        return first + dues.index(min(dues)), key

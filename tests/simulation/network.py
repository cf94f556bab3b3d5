"""What is between clients, directors and each other: routers that spread flows, and the channel that carries pins."""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from appliance.packet.placement import TICK_S


class Routers:
    """Equal-cost routes by the remainder of a hash: whoever comes or goes moves nearly all flows."""

    def __init__(self, directors: int) -> None:
        self.live = list(range(directors))

    def spread(self, hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        """The director of each hash; there is at least one."""
        return np.array(self.live)[hashes % np.uint32(len(self.live))]

    def withdraw(self, director: int) -> None:
        self.live.remove(director)

    def announce(self, director: int) -> None:
        self.live = sorted([*self.live, director])


@dataclass(frozen=True, slots=True)
class PinMessage:
    """What one director tells another about a flow."""

    key: int
    member: int
    state: int
    used: float
    """When, by the clock of the one that hears it. Messages carry an age, since clocks differ: so what has been under
    way for long looks younger than it is."""


Deliver = Callable[[int, float, Sequence[PinMessage]], None]


@dataclass
class PinChannel:
    """Datagrams between directors: they take their time, overtake each other, and some are lost.

    What arrives within one tick is delivered together, and nobody can tell the difference: a director that is about to
    look at a flow calls `advance` first.
    """

    directors: int
    delay_s: float
    loss: float
    chance: np.random.Generator
    deliver: Deliver
    """Called with the director that messages have arrived at, and when the last of them did."""

    phases: Sequence[float] = ()
    """By which a director's clock is ahead, if that matters."""

    sent: int = 0
    lost: set[tuple[int, int]] = field(default_factory=set)
    """(director, key): the latest message was lost."""

    def __post_init__(self) -> None:
        self.phases = self.phases or [0.0] * self.directors
        self._under_way: list[list[tuple[float, int, PinMessage]]] = [[] for _ in range(self.directors)]
        self._keys: list[Counter[int]] = [Counter() for _ in range(self.directors)]
        self._order = itertools.count()

    def send(self, now: float, to: Collection[int], key: int, member: int, state: int, used: float) -> None:
        for director in to:
            self.sent += 1
            if self.loss and self.chance.random() < self.loss:
                self.lost.add((director, key))
                continue
            self.lost.discard((director, key))
            delay = self.delay_s * self.chance.uniform(0.1, 1.9)
            message = PinMessage(key, member, state, used + delay)
            heapq.heappush(self._under_way[director], (now + delay, next(self._order), message))
            self._keys[director][key] += 1

    def advance(self, director: int, now: float, key: int | None = None) -> None:
        """Deliver what has arrived at a director by *now*; only if something about *key* is under way, if one is given.

        Messages about the same flow may not be kept back beyond the next look at it, all others may.
        """
        queue, keys, phase = self._under_way[director], self._keys[director], self.phases[director]
        if key is not None and key not in keys:
            return
        while queue and queue[0][0] <= now:
            tick, messages, at = int((queue[0][0] + phase) / TICK_S), [], now
            while queue and queue[0][0] <= now and int((queue[0][0] + phase) / TICK_S) == tick:
                at, _, message = heapq.heappop(queue)
                messages.append(message)
                keys[message.key] -= 1
                if not keys[message.key]:
                    del keys[message.key]
            self.deliver(director, at, messages)

    def forget(self, director: int) -> None:
        """A director is no more: what is under way to it is lost."""
        self._under_way[director].clear()
        self._keys[director].clear()

    def is_under_way(self, director: int, key: int) -> bool:
        return key in self._keys[director]

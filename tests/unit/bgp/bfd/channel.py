"""Two pure sessions with a wire between them, under simulated time: it loses, delays and, if told so, reorders."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from bgp.bfd.packet import State, decode, encode
from bgp.bfd.session import Session


@dataclass(order=True)
class _Flight:
    at: float
    number: int
    to: int = field(compare=False)
    data: bytes = field(compare=False)


class Channel:
    def __init__(
        self,
        sessions: tuple[Session, Session],
        lost: Callable[[int], bool] = lambda sender: False,
        delay: Callable[[], float] = lambda: 0.001,
    ) -> None:
        """
        Args:
            sessions: the two ends.
            lost: whether a packet of this end is lost.
            delay: seconds that the next packet is under way.
        """
        self.sessions = sessions
        self.lost = lost
        self.delay = delay
        self.reorders = False
        """Whether packets may overtake each other. BFD has no sequence numbers: while a session comes up, a "down" that
        arrives after the "up" that was sent behind it counts, and has to."""
        self.now = 0.0
        self.history: list[tuple[float, int, State]] = []
        """When which end became what."""
        self.sent: list[tuple[float, int, bytes]] = []
        self._flights: list[_Flight] = []
        self._latest = [0.0, 0.0]
        self._numbers = itertools.count()

    def step(self, end: int, act: Callable[..., list], *arguments: object) -> None:
        """Have one end do something; what it sends is under way."""
        before = self.sessions[end].state
        for packet in act(*arguments, self.now):
            data = encode(packet)
            self.sent.append((self.now, end, data))
            if not self.lost(end):
                at = self.now + self.delay()
                self._latest[end] = max(at, self._latest[end])
                arrival = at if self.reorders else self._latest[end]
                heapq.heappush(self._flights, _Flight(arrival, next(self._numbers), 1 - end, data))
        if self.sessions[end].state is not before:
            self.history.append((self.now, end, self.sessions[end].state))

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass up to *until*, or until *stop* is true."""
        while not stop():
            ticks = [(due, end) for end in (0, 1) if (due := self.sessions[end].due()) is not None]
            tick = min(ticks, default=(float("inf"), 0))
            flight = self._flights[0].at if self._flights else float("inf")
            at = min(tick[0], flight)
            if at > until:
                self.now = until
                return
            self.now = max(self.now, at)
            if flight <= tick[0]:
                landed = heapq.heappop(self._flights)
                self.step(landed.to, self.sessions[landed.to].receive, decode(landed.data))
            else:
                self.step(tick[1], self.sessions[tick[1]].tick)

    @property
    def up(self) -> bool:
        return all(session.state is State.UP for session in self.sessions)

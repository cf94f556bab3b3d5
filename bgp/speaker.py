"""The contract of a BGP speaker, and the fake that obeys it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from bgp.route import Route


class SpeakerError(Exception):
    """The speaker could not do what it was told; it goes on trying. The text says why."""


class Session(StrEnum):
    DOWN = "down"
    CONNECTED = "connected"
    UP = "up"


@dataclass(frozen=True)
class PeerStatus:
    session: Session
    since: float
    """Seconds since the epoch."""

    detail: str = ""
    routes_sent: frozenset[str] = frozenset()
    """Prefixes that ExaBGP has really sent to this peer in the present session."""


@dataclass(frozen=True)
class SpeakerStatus:
    running: bool
    peers: Mapping[str, PeerStatus] = field(default_factory=dict)
    """By peer address."""

    announced: frozenset[Route] = frozenset()
    """Routes that were acknowledged and are under our lease."""

    detail: str = ""
    updates: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """UPDATE messages that were sent since the start, by peer and type: `announce` or `withdraw`."""


@dataclass(frozen=True)
class Survival:
    """What goes on when this process ends, until another one takes over."""

    seconds: float = 0.0
    """For how long the routes may stay then; 0: not at all."""

    interfaces: frozenset[int] = frozenset()
    """By number: only while every one of them has an XDP program, which is what goes on."""

    process: int = 0
    """Or only while this process lives, when it is what goes on."""


class Speaker(Protocol):
    """Announces routes to peers."""

    async def set(self, routes: frozenset[Route]) -> None:
        """Announce exactly *routes*; withdraw everything else. Idempotent; returns when acknowledged. Whoever gives up
        waiting has told it all the same.

        Raises:
            SpeakerError: not acknowledged. The wanted set is remembered and replayed as soon as that is possible.
        """

    async def renew(self, survival: Survival | None = None) -> None:
        """Prolong the lease on the announced routes. To be called only after the data plane has proved itself.

        Without it for longer than the lease, every route is withdrawn, and comes back with the next call.

        Args:
            survival: what is to become of the routes when this process ends; by default they are withdrawn at once.
        """

    def status(self) -> SpeakerStatus:
        """What is known now; no I/O."""

    async def close(self) -> None:
        """Withdraw everything, then stop."""

    async def leave(self, survival: Survival) -> None:
        """Prolong the lease for the last time, and leave routes and sessions to the process that follows."""


class RecordingSpeaker:
    """A speaker that only remembers: for tests, and for a director without BGP."""

    def __init__(self) -> None:
        self.history: list[frozenset[Route]] = []
        self.renewals = 0
        self.survival: Survival | None = None
        """As it was told last."""

    @property
    def routes(self) -> frozenset[Route]:
        return self.history[-1] if self.history else frozenset()

    async def set(self, routes: frozenset[Route]) -> None:
        if routes != self.routes:
            self.history.append(routes)

    async def renew(self, survival: Survival | None = None) -> None:
        self.renewals += 1
        self.survival = survival

    def status(self) -> SpeakerStatus:
        return SpeakerStatus(running=True, announced=self.routes)

    async def close(self) -> None:
        await self.set(frozenset())

    async def leave(self, survival: Survival) -> None:
        await self.renew(survival)

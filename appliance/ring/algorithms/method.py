"""What an algorithm is, what it is told, and what there is to say about members it knows too little of."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from appliance.forwarding import NO_CHOICES, ChoiceArray, ChoiceOrder, Placement


@dataclass(frozen=True)
class Candidate:
    """A member that may take new flows."""

    index: int
    """TableMember.index."""

    id: str
    """For people, and unique among candidates."""

    weight: int
    """Relative share, from 1."""

    connections: int = 0
    """Flows that it has now, as far as they are known."""

    response_s: float | None = None
    """None: not known."""

    load: float | None = None
    """0 is idle, 1 is full; None: not known."""

    limit: int = 0
    """How many flows it can take at once; 0 is no limit."""

    @property
    def full(self) -> bool:
        """Whether it has as many flows as it can take."""
        return 0 < self.limit <= self.connections


class Need(StrEnum):
    """A number that an algorithm decides by."""

    CONNECTIONS = "connections"
    """And the limit, which only who is told of connections can keep."""
    RESPONSE = "response"
    LOAD = "load"
    CAPACITY = "capacity"
    """A limit, or else the load."""


class Choose(Protocol):
    def __call__(
        self, candidates: Sequence[Candidate], arrivals: float, before: ChoiceArray = NO_CHOICES, /
    ) -> ChoiceArray:
        """Who takes the next flows.

        Args:
            candidates: members in rotation, in the order of the pool.
            arrivals: how many flows are expected until the next time, on all directors together.
            before: the choices that are in force.

        Returns:
            1..sequence.LENGTH member indices, read-only; none when nobody takes flows.
        """


@dataclass(frozen=True)
class Method:
    """An algorithm."""

    placement: Placement
    """How the flows of its pools find their members; `per_packet` of a network profile overrules it."""

    order: ChoiceOrder
    """How choices are to be taken."""

    choose: Choose
    dynamic: bool = False
    """Choices follow numbers that change all the time: to be asked again every second."""

    needs: frozenset[Need] = frozenset()


@dataclass(frozen=True)
class Remark:
    """Why an algorithm treats a member other than it would like to."""

    member: str
    """Candidate.id."""

    why: str
    """Stable name: `at_limit`, `no_load`, `no_response_time`, `no_capacity`."""

    detail: str

    def __str__(self) -> str:
        return f"{self.why}: {self.detail}"


def remarks(method: Method, candidates: Sequence[Candidate]) -> tuple[Remark, ...]:
    """What people should know about members that an algorithm gives nothing, or knows too little of."""
    return tuple(_remarks(method.needs, candidates))


def _remarks(needs: frozenset[Need], candidates: Sequence[Candidate]) -> list[Remark]:
    found = []
    for one in candidates:
        if Need.CONNECTIONS in needs and one.full:
            found.append(
                Remark(one.id, "at_limit", f"has {one.connections} flows of {one.limit}, and gets no new ones")
            )
        if Need.LOAD in needs and one.load is None:
            found.append(Remark(one.id, "no_load", "does not tell its load, and counts as loaded as the others are"))
        if Need.RESPONSE in needs and one.response_s is None:
            found.append(
                Remark(one.id, "no_response_time", "no handshake was seen, and it counts as quick as the others are")
            )
        if Need.CAPACITY in needs and not one.limit and one.load is None:
            found.append(
                Remark(one.id, "no_capacity", "always in use: give it max_connections, or a load_port that answers")
            )
    return found

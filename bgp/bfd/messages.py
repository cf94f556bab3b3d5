"""What the director and its BFD process tell each other, each message one JSON object. Pure.

To the process, what should be, as often as one likes:

    {"sessions": [...]}     exactly these
    {"lease": 1.0, "director": 123, "survival": 10.0}
                            look alive for another second; and when the process of that number ends, for ten from then
                            on, until another one takes over. 0: it ends with the director
    {"close": true}         tell all peers that this is deliberate, and end

From it, a `Report`: at every change of state, and twice a second.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bgp.bfd.packet import Diag, State

MAX_BYTES = 1 << 20


@dataclass(frozen=True, order=True)
class SessionSettings:
    """A session that should be."""

    peer: str
    """Its address, in the form that `ipaddress` gives it. There is one session for each."""

    interval_us: int
    multiplier: int
    multihop: bool = False
    passive: bool = False
    local: str | None = None
    """Our address; None: whichever the kernel takes."""


@dataclass(frozen=True)
class SessionView:
    """A session, for people."""

    state: State
    remote_state: State
    diag: int
    remote_diag: int
    since: float
    """Seconds since the epoch."""

    transmit_s: float
    """Negotiated, before jitter; 0: the peer wants no packets."""
    receive_s: float
    detection_s: float
    """0: nothing was heard yet."""

    packets_in: int
    packets_out: int
    downs: int
    """How often it was up and is not any more."""

    refused: Mapping[str, int] = field(default_factory=dict)
    """Packets from the peer's address that were not taken, by reason."""

    trouble: str = ""
    """Why packets cannot be sent."""


@dataclass(frozen=True)
class Change:
    """A session's state turned."""

    peer: str
    before: State
    state: State
    remote_state: State
    diag: int
    remote_diag: int

    @property
    def path_lost(self) -> bool:
        """Whether this says that there is no way to the peer and back any more.

        That is not so when the peer's operator has ended the session (RFC 5882, section 3.2), and neither when we did
        ourselves.
        """
        heard_nothing = self.diag == Diag.TIME_EXPIRED
        not_heard = self.diag == Diag.NEIGHBOR_DOWN and self.remote_state is not State.ADMIN_DOWN
        return self.before is State.UP and self.state is State.DOWN and (heard_nothing or not_heard)


@dataclass(frozen=True)
class Report:
    """All that the process knows."""

    sessions: Mapping[str, SessionView]
    changes: tuple[Change, ...] = ()
    """Since the report before; the oldest first."""

    refused: Mapping[str, int] = field(default_factory=dict)
    """Packets from nobody's address, by reason."""

    trouble: str = ""
    """Why packets cannot be received."""

    priority: str = ""
    """How the process is scheduled: `real-time`, or `ordinary`."""


def sessions_message(sessions: Iterable[SessionSettings]) -> bytes:
    return json.dumps({"sessions": [asdict(each) for each in sorted(sessions)]}).encode()


def lease_message(seconds: float, director: int, survival_s: float = 0.0) -> bytes:
    return json.dumps({"lease": seconds, "director": director, "survival": survival_s}).encode()


def close_message() -> bytes:
    return json.dumps({"close": True}).encode()


def settings_of(message: Mapping[str, Any]) -> dict[str, SessionSettings]:
    """By peer: what a `sessions_message` asks for."""
    return {each["peer"]: SessionSettings(**each) for each in message["sessions"]}


def report_message(report: Report) -> bytes:
    return json.dumps(asdict(report)).encode()


def report_of(data: bytes) -> Report:
    """The report in a message that `report_message` made."""
    raw = json.loads(data)
    return Report(
        sessions={peer: SessionView(**_states(view)) for peer, view in raw["sessions"].items()},
        changes=tuple(Change(**_states(change)) for change in raw["changes"]),
        refused=raw["refused"],
        trouble=raw["trouble"],
        priority=raw["priority"],
    )


def _states(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: State(value) if key in ("before", "state", "remote_state") else value for key, value in raw.items()}

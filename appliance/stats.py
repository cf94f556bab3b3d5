"""What algorithms want to know of members, from what planes remember of flows. Pure.

A director sees one direction of flows only. So a *connection* is a flow that is remembered: from its first packet until
its client has reset it, or has closed it and acknowledges nothing more, or it was silent for the idle timeout. What the
member's side has closed or reset cannot be seen. A SYN that nothing has followed for a while is no connection: nobody
has answered it, or nobody was there. As directors tell each other of the flows they remember, connections are those of
all of them together.

The *response time* is that of the handshake: from the client's SYN to its first ACK. The client's distance is in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.dataplane.pins import LivePins
from appliance.model import MemberStats
from appliance.packet.placement import RETRANSMISSION_TICKS, PinState

HALF_TICKS = RETRANSMISSION_TICKS
"""How long a SYN without a successor counts, and a FIN. A flood of SYNs must not fill members up to their limits, nor
must the minute for which closed flows are remembered."""

RATE_S = 5.0
"""The rate of new flows forgets: after so long, what was before has 1/e of its weight."""

RESPONSE_SAMPLES = 16
"""The same for response times, in handshakes. Before there are so many, they are the plain mean."""

RESPONSE_STEP = 4.0
"""Afterwards, what is new counts as no more than so many times what was known, and no less than that part of it. A lost
SYN costs a client a second or three, and that is not the member's doing."""

FORGET_S = 300.0
"""A response time that was not seen for so long is not known any more."""


@dataclass(frozen=True)
class Response:
    """A member's response time."""

    seconds: float
    handshakes: int
    """That it rests on, RESPONSE_SAMPLES at most."""
    seen_ns: int
    """When the latest was counted."""


@dataclass(frozen=True)
class Seen:
    """Statistics, and what the next ones follow from."""

    members: Mapping[int, MemberStats] = field(default_factory=dict)
    """By member index."""

    at_ns: int = 0
    ids: Mapping[int, str] = field(default_factory=dict, repr=False)
    delays: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    """pins.DELAY, as they were."""

    responses: Mapping[str, Response] = field(default_factory=dict, repr=False)
    """By `pool/member`."""


def member_stats(
    live: LivePins,
    delays: npt.NDArray[Any],
    ids: Mapping[int, str],
    loads: Mapping[str, float],
    now_ns: int,
    before: Seen | None = None,
) -> Seen:
    """Statistics of members, best once a second.

    Args:
        live: what is remembered now.
        delays: pins.DELAY by member index, of the same memory. They are copied.
        ids: `pool/member` by member index, of all that are wanted. Of a member to which there are several ways, every
            one gets the statistics of all together.
        loads: by `pool/member`, 0..1; members that do not tell theirs are not in it.
        now_ns: the monotonic clock.
        before: what this has returned the last time, if it was called before.
    """
    delays = delays.copy()
    connections, new = _connections(live), _new(live, before.at_ns if before else now_ns)
    ways: dict[str, list[int]] = {}
    for index, member in ids.items():
        ways.setdefault(member, []).append(index)
    members: dict[int, MemberStats] = {}
    responses: dict[str, Response] = {}
    for member, indices in ways.items():
        known = [index for index in indices if before and before.ids.get(index) == member]
        rate = before.members[known[0]].new_per_s if before and known else 0.0
        response = _response(delays, known, member, now_ns, before) if before and known else None
        if response is not None:
            responses[member] = response
        stats = MemberStats(
            connections=int(connections[indices].sum()),
            new_per_s=_rate(rate, int(new[indices].sum()), before.at_ns if before else now_ns, now_ns),
            response_s=response.seconds if response else None,
            load=loads.get(member),
        )
        members |= dict.fromkeys(indices, stats)
    return Seen(members, now_ns, dict(ids), delays, responses)


def _connections(live: LivePins) -> npt.NDArray[np.int64]:
    """By member index."""
    half = (live.state == PinState.NEW) & (live.flows["opened"] == 1) | (live.state == PinState.FIN)
    counts = (live.state != PinState.RST) & ~(half & (live.age > HALF_TICKS))
    return np.bincount(live.member[counts], minlength=1 << 16)


def _new(live: LivePins, since_ns: int) -> npt.NDArray[np.int64]:
    """Flows that have got their places since then, by member index."""
    return np.bincount(live.member[live.flows["born_ns"] > since_ns], minlength=1 << 16)


def _rate(before: float, new: int, since_ns: int, now_ns: int) -> float:
    seconds = (now_ns - since_ns) / 1e9
    if seconds <= 0:
        return before
    return before + (1 - math.exp(-seconds / RATE_S)) * (new / seconds - before)


def _response(
    delays: npt.NDArray[Any], indices: Sequence[int], member: str, now_ns: int, before: Seen
) -> Response | None:
    earlier = before.responses.get(member)
    count = int(delays["count"][indices].sum()) - int(before.delays["count"][indices].sum())
    spent_ns = int(delays["ns"][indices].sum()) - int(before.delays["ns"][indices].sum())
    if count <= 0 or spent_ns < 0:  # fewer than before: another memory, that of a plane which has started anew
        return earlier if earlier and now_ns - earlier.seen_ns < FORGET_S * 1e9 else None
    seconds = spent_ns / count / 1e9
    if earlier is None:
        return Response(seconds, min(count, RESPONSE_SAMPLES), now_ns)
    if earlier.handshakes < RESPONSE_SAMPLES:
        fresh = count / (earlier.handshakes + count)
    else:
        seconds = min(max(seconds, earlier.seconds / RESPONSE_STEP), earlier.seconds * RESPONSE_STEP)
        fresh = 1 - math.exp(-count / RESPONSE_SAMPLES)
    handshakes = min(earlier.handshakes + count, RESPONSE_SAMPLES)
    return Response(earlier.seconds + fresh * (seconds - earlier.seconds), handshakes, now_ns)

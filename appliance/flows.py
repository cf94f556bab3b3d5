"""Who the flows of a member are, as far as they are remembered. Pure."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import numpy as np

from appliance.dataplane.pins import LivePins, addresses
from appliance.model import IPAddress, Protocol
from appliance.packet.placement import TICK_S, PinState


@dataclass(frozen=True)
class Flow:
    """One flow."""

    client: IPAddress
    client_port: int
    vip: IPAddress
    port: int
    protocol: Protocol
    state: PinState
    idle_s: float
    """Since its latest packet, to a second or so."""

    age_s: float
    """Since it is remembered."""


@dataclass(frozen=True)
class FlowsLeft:
    """What is remembered of a member."""

    open: int
    closing: int
    """Closed by the client, maybe not yet by the member."""

    longest_idle_s: float
    top_clients: tuple[tuple[IPAddress, int], ...]
    """Those with the most flows, and how many."""

    flows: tuple[Flow, ...]
    """Some of them: those that were active latest first."""

    @property
    def total(self) -> int:
        return self.open + self.closing


def flows_left(live: LivePins, indices: Collection[int], now_ns: int, limit: int, top: int = 5) -> FlowsLeft:
    """What is remembered of a member.

    Args:
        live: all live pins.
        indices: of all ways to the member.
        now_ns: the monotonic clock.
        limit: how many flows to name.
        top: how many clients to name.
    """
    mine = np.flatnonzero(np.isin(live.member, list(indices)))
    state, age = live.state[mine], live.age[mine]
    closing = int(np.count_nonzero(state >= PinState.FIN))
    clients = Counter(addresses(live.flows["source"][mine]))
    latest = mine[np.argsort(age, kind="stable")[:limit]]
    return FlowsLeft(
        open=len(mine) - closing,
        closing=closing,
        longest_idle_s=float(age.max()) * TICK_S if len(mine) else 0.0,
        top_clients=tuple((ip_address(client), count) for client, count in clients.most_common(top)),
        flows=tuple(flows_at(live, latest, now_ns)),
    )


def flows_at(live: LivePins, positions: np.ndarray[tuple[int], np.dtype[np.int64]], now_ns: int) -> Iterator[Flow]:
    """Those at some positions, in that order."""
    flows = live.flows[positions]
    for at, source, destination, record in zip(
        positions.tolist(), addresses(flows["source"]), addresses(flows["destination"]), flows, strict=True
    ):
        ports = int(record["ports"]).to_bytes(4, "little")
        yield Flow(
            client=ip_address(source),
            client_port=int.from_bytes(ports[:2], "big"),
            vip=ip_address(destination),
            port=int.from_bytes(ports[2:], "big"),
            protocol=Protocol(int(record["protocol"])),
            state=PinState(int(live.state[at])),
            idle_s=int(live.age[at]) * TICK_S,
            age_s=max(0.0, (now_ns - int(record["born_ns"])) / 1e9),
        )

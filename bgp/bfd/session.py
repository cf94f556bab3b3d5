"""One BFD session in asynchronous mode: the state machine and its timers (RFC 5880, section 6.8). Pure.

Time and chance come in as arguments; what is to be sent comes out. Whoever runs a session calls `receive` for every
packet that belongs to it, `tick` when `due` says so, and sends what both return, at once.

The table (section 6.2) is `_NEXT`; besides, INIT and UP become DOWN when nothing was heard for the detection time.

What others may be surprised by:

* While a session is not up it sends once a second at most, but every change of state at once; so two ends that are both
  there are up after one round trip.
* There is no poll sequence but in the state UP: elsewhere new timers count from the packet that has them.
* `hold` is for a system that must not look alive (section 6.8.17): the session goes down, says so once with the
  diagnostic "forwarding plane reset", and is silent until `release`.
* Neither echo nor demand mode of our own; a peer's demand mode is honoured.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bgp.bfd.packet import Diag, Packet, State

SLOW_US = 1_000_000
"""Desired Min TX Interval is at least this while the session is not up (section 6.8.3)."""

_NEXT = {
    State.DOWN: {State.DOWN: State.INIT, State.INIT: State.UP},
    State.INIT: {State.ADMIN_DOWN: State.DOWN, State.INIT: State.UP, State.UP: State.UP},
    State.UP: {State.ADMIN_DOWN: State.DOWN, State.DOWN: State.DOWN},
    State.ADMIN_DOWN: {},
}
"""Our state, the peer's state, our next one; where there is none, ours stays."""


@dataclass(frozen=True)
class Timers:
    interval_us: int
    """We send so often at most, and can take packets so often; microseconds."""

    multiplier: int
    """So many intervals without a packet from us, and the peer takes us for dead."""


class Session:
    """Our end."""

    def __init__(
        self, timers: Timers, discriminator: int, chance: Callable[[], float], now: float, *, passive: bool = False
    ) -> None:
        """
        Args:
            timers: what is configured.
            discriminator: not 0, and no other session's here.
            chance: evenly distributed in [0, 1).
            now: seconds on a clock that never goes back, as everywhere here.
            passive: say nothing before the peer has.
        """
        self.discriminator = discriminator
        self.state = State.DOWN
        self.diag = Diag.NONE
        self.since = now
        """When the state changed last."""

        self.remote_state = State.DOWN
        self.remote_diag: int = Diag.NONE
        self.packets_in = 0
        self.packets_out = 0
        self.downs = 0
        """How often it was up and is not any more."""

        self._timers = timers
        self._chance = chance
        self._passive = passive
        self._held = False
        self._remote_discriminator = 0
        self._remote_min_rx_us = 1
        self._remote_min_tx_us = 0
        self._remote_multiplier = 0
        self._remote_demand = False
        self._heard: float | None = None
        """None: nothing within the detection time."""

        self._desired_tx_us = max(timers.interval_us, SLOW_US)
        self._tx_us = self._desired_tx_us
        """In use: greater values count only when the poll sequence has ended."""
        self._rx_us = timers.interval_us
        """In use: smaller values count only when the poll sequence has ended."""
        self._poll = False
        self._poll_again = False
        """Timers changed during a poll sequence: one more has to follow."""

        self._sent = now
        self._next = now

    # -- what runs a session

    def due(self) -> float | None:
        """When `tick` has something to do; None: not before a packet comes."""
        times = [self._next] if self._transmitting() else []
        if self._heard is not None:
            times.append(self._heard + self.detection_s)
        return min(times, default=None)

    def tick(self, now: float) -> list[Packet]:
        """Let time pass. Hand over all packets that have come first: who is late himself must not blame the peer."""
        if self._heard is not None and now >= self._heard + self.detection_s:
            self._heard = None
            self._remote_discriminator = 0
            self.remote_state = State.DOWN
            if self.state in (State.INIT, State.UP):
                self._become(State.DOWN, Diag.TIME_EXPIRED, now)
                return self._send(now)
        if self._transmitting() and now >= self._next:
            return self._send(now)
        return []

    def receive(self, packet: Packet, now: float) -> list[Packet]:
        """Take a packet that passed `packet.decode`, and belongs to this session."""
        self.packets_in += 1
        self._heard = now
        before = self._interval_s()
        self._remote_discriminator = packet.my_discriminator
        self.remote_state = packet.state
        self.remote_diag = packet.diag
        self._remote_demand = packet.demand
        self._remote_min_rx_us = packet.required_min_rx_us
        self._remote_min_tx_us = packet.desired_min_tx_us
        self._remote_multiplier = packet.multiplier
        if packet.final and self._poll:
            self._poll_ended()
        if self._interval_s() != before:
            self._plan(now)
        if self._held or self.state is State.ADMIN_DOWN:
            return []
        state = _NEXT[self.state].get(packet.state)
        if state is not None:
            self._become(state, Diag.NEIGHBOR_DOWN if state is State.DOWN else Diag.NONE, now)
        return self._send(now, final=packet.poll) if packet.poll or state is not None else []

    # -- what an operator or the director wants

    def change(self, timers: Timers, now: float) -> None:
        """Other timers, without a break: by a poll sequence where the session is up (sections 6.8.3 and 6.5)."""
        before, self._timers = self._timers, timers
        if timers.interval_us == before.interval_us:
            return
        self._desired_tx_us = timers.interval_us if self.state is State.UP else max(timers.interval_us, SLOW_US)
        if self.state is State.UP:
            self._poll_again = self._poll
            self._poll = True
            self._tx_us = min(self._tx_us, self._desired_tx_us)
            self._rx_us = max(self._rx_us, timers.interval_us)
        else:
            self._tx_us, self._rx_us = self._desired_tx_us, timers.interval_us
        self._plan(now)

    def admin_down(self, now: float) -> list[Packet]:
        """Deliberately down, for good: the peer is not to take it for a failure of the path (section 6.8.16)."""
        self._become(State.ADMIN_DOWN, Diag.ADMIN_DOWN, now)
        return self._send(now)

    def hold(self, now: float) -> list[Packet]:
        """Say once that we are down, and nothing any more."""
        packets = []
        if self.state in (State.INIT, State.UP):
            self._become(State.DOWN, Diag.FORWARDING_PLANE_RESET, now)
            packets = self._send(now)
        self._held = True
        return packets

    def release(self, now: float) -> None:
        """End a `hold`."""
        if self._held:
            self._held = False
            self._next = now

    # -- what is shown

    @property
    def transmit_s(self) -> float:
        """Negotiated seconds between two packets of ours, before jitter; 0: the peer wants none."""
        return self._interval_s() if self._remote_min_rx_us else 0.0

    @property
    def receive_s(self) -> float:
        """Negotiated seconds between two packets of the peer, before jitter."""
        return max(self._rx_us, self._remote_min_tx_us) / 1e6

    @property
    def detection_s(self) -> float:
        """Seconds without a packet after which the peer is gone (section 6.8.4); 0 before the first packet."""
        return self._remote_multiplier * self.receive_s

    # -- inside

    def _become(self, state: State, diag: Diag, now: float) -> None:
        if self.state is State.UP:
            self.downs += 1
        self.state, self.diag, self.since = state, diag, now
        desired = self._timers.interval_us if state is State.UP else max(self._timers.interval_us, SLOW_US)
        self._poll = state is State.UP and desired != self._desired_tx_us
        self._poll_again = False
        self._desired_tx_us = self._tx_us = desired
        self._rx_us = self._timers.interval_us

    def _poll_ended(self) -> None:
        if self._poll_again:
            self._poll_again = False
            return
        self._poll = False
        self._tx_us, self._rx_us = self._desired_tx_us, self._timers.interval_us

    def _transmitting(self) -> bool:
        """Whether packets go out by the clock (section 6.8.7)."""
        quiet = self._remote_demand and self.state is State.UP and self.remote_state is State.UP and not self._poll
        return self._speaking() and self._remote_min_rx_us != 0 and not quiet

    def _speaking(self) -> bool:
        return not self._held and not (self._passive and self._remote_discriminator == 0)

    def _interval_s(self) -> float:
        return max(self._tx_us, self._remote_min_rx_us) / 1e6

    def _plan(self, now: float) -> None:
        """The next packet by the clock. A shorter interval counts from the packet before (section 6.8.3)."""
        # Jitter keeps many systems from falling into step. With a multiplier of 1 no packet may be missed, so a packet
        # comes a tenth before its time at least (section 6.8.7).
        longest = 0.90 if self._timers.multiplier == 1 else 1.0
        share = 0.75 + (longest - 0.75) * self._chance()
        self._next = max(now, self._sent + share * self._interval_s())

    def _send(self, now: float, *, final: bool = False) -> list[Packet]:
        self._sent = now
        self._plan(now)
        if not self._speaking():
            return []
        self.packets_out += 1
        return [
            Packet(
                state=self.state,
                my_discriminator=self.discriminator,
                your_discriminator=self._remote_discriminator,
                multiplier=self._timers.multiplier,
                desired_min_tx_us=self._desired_tx_us,
                required_min_rx_us=self._timers.interval_us,
                diag=self.diag,
                poll=self._poll and not final,
                final=final,
            )
        ]

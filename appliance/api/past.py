"""The last five minutes of traffic, second by second, so that charts have a past when somebody opens them.

Memory is bounded: three numbers of four bytes for each second and virtual service (3.6 MB for a thousand of them), and
one for each second and reason of drops.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.api.views import PASSES, RATES, Document
from appliance.dataplane.base import Counters, Traffic

SECONDS = 300
"""So many samples are kept."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Seen:
    clock: float
    counters: Counters
    totals: Mapping[str, Traffic]
    """By virtual service."""


class Past:
    """What has come. Unknown is NaN: before the first sample, where counters began anew, and where nobody counted."""

    def __init__(self) -> None:
        self._times = np.zeros(SECONDS)
        """Seconds since the epoch, of each sample."""

        self._pins = np.zeros(SECONDS, np.float32)
        self._rates: dict[str, Floats] = {}
        """By virtual service: packets, bytes and new flows a second, by sample."""

        self._drops: dict[str, Floats] = {}
        """By reason."""

        self._count = 0
        """Of all samples. The latest is at the place before that, modulo `SECONDS`."""

        self._last: _Seen | None = None

    def add(self, at: float, clock: float, counters: Counters | None, pins: int) -> None:
        """One more second.

        Args:
            at: seconds since the epoch.
            clock: seconds, by a clock that never jumps.
            counters: as they are then; None where the data plane does not tell.
            pins: flows that are remembered.
        """
        place = self._count % SECONDS
        self._times[place], self._pins[place] = at, pins
        for column in (*self._rates.values(), *self._drops.values()):
            column[place] = np.nan
        now = None if counters is None else _Seen(clock, counters, _by_service(counters))
        before, self._last = self._last, now
        if now is not None and before is not None and clock > before.clock:
            self._note(place, before, now)
        self._count += 1

    def _note(self, place: int, before: _Seen, now: _Seen) -> None:
        seconds = now.clock - before.clock
        for name in self._rates.keys() - now.totals.keys():
            del self._rates[name]  # nobody asks for it any more
        for name, traffic in now.totals.items():
            was = before.totals.get(name, Traffic())
            if name not in self._rates:
                self._rates[name] = np.full((SECONDS, len(RATES)), np.nan, np.float32)
            if traffic.packets >= was.packets:
                grown = traffic.packets - was.packets, traffic.bytes - was.bytes, traffic.new_flows - was.new_flows
                self._rates[name][place] = [one / seconds for one in grown]
        for reason, count in now.counters.reasons.items():
            if reason not in PASSES:
                if reason not in self._drops:
                    self._drops[reason] = np.full(SECONDS, np.nan, np.float32)
                self._drops[reason][place] = max(0, count - before.counters.reasons.get(reason, 0)) / seconds

    def document(self, name: str, *, flows_visible: bool) -> Document:
        """Of a virtual service and of the director, the oldest sample first.

        Args:
            name: of the virtual service.
            flows_visible: whether packets show the beginnings of its flows.
        """
        kept = min(self._count, SECONDS)
        places = np.arange(self._count - kept, self._count) % SECONDS
        rates = self._rates.get(name, np.full((SECONDS, len(RATES)), np.nan, np.float32))[places]
        columns = {key: _known(rates[:, at]) for at, key in enumerate(RATES)}
        if not flows_visible:
            columns["new_flows_per_s"] = [None] * kept
        return {
            "times": self._times[places].round(3).tolist(),
            **columns,
            "pins": self._pins[places].astype(int).tolist(),
            "drops": {
                reason: _known(column[places])
                for reason, column in list(self._drops.items())  # another thread may add one
                if np.nansum(column[places]) > 0
            },
        }


def _by_service(counters: Counters) -> dict[str, Traffic]:
    found: dict[str, Traffic] = {}
    for (name, _), traffic in counters.services.items():
        before = found.get(name)
        found[name] = traffic if before is None else before + traffic
    return found


def _known(column: Floats) -> list[float | None]:
    return [
        None if value != value else value for value in column.astype(float).round(1).tolist()
    ]  # NaN differs from itself

"""Members that come and go: every time one goes down it gets a penalty, which halves in a while. Above a threshold it
takes no new flows, until the penalty has fallen below another one (route flap damping, RFC 2439). Pure.

    penalty  2500 ┬ suppress   . |\\
                  │     |\\    |    \\.
             1000 ┼ ....|  \\.|........\\ reuse.......
                  └─────down──down──down──────────────▶ time
"""

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from appliance.model import Flapping

PENALTY = 1000.0
"""For going down once."""


@dataclass(frozen=True)
class Flap:
    """What is held against a member."""

    penalty: float
    """At `at`."""
    at: float
    """When it last went down, in seconds since 1970."""
    suppressed: bool
    """The penalty was above the threshold then, or had not fallen far enough since it was."""
    downs: int
    """How often it has gone down since it last had no penalty worth mentioning."""


def penalty(flap: Flap, terms: Flapping, now: float) -> float:
    """What is left of a member's penalty."""
    return flap.penalty * math.exp2(-max(0.0, now - flap.at) / terms.half_life_s)


def went_down(flap: Flap | None, terms: Flapping, now: float) -> Flap:
    """The record of a member that goes down now.

    A penalty never gets higher than twice the threshold: however long a member has come and gone, it is taken again
    after as many half-lives as it takes from there.
    """
    left = penalty(flap, terms, now) if flap is not None else 0.0
    fresh = flap is None or left < PENALTY / 10
    total = min(left + PENALTY, max(2 * terms.suppress, PENALTY))
    held = total > terms.suppress or (flap is not None and reuse_at(flap, terms) > now)
    return Flap(total, now, held, 1 if flap is None or fresh else flap.downs + 1)


def reuse_at(flap: Flap, terms: Flapping) -> float:
    """When a member takes new flows again, if it does not go down before, in seconds since 1970; -inf: it does."""
    if not flap.suppressed or flap.penalty <= terms.reuse:
        return float("-inf")
    return flap.at + terms.half_life_s * math.log2(flap.penalty / terms.reuse)


def held(flaps: Mapping[str, Flap | None], terms: Flapping | None, up: Set[str], now: float) -> Mapping[str, Flap]:
    """Which members take nothing new since they come and go.

    Nobody is held when more than half of those that are up would be: so many do not go wrong by themselves, and to hold
    them would make an outage of what was none.

    Args:
        flaps: by member.
        terms: the pool's; None: nobody is held.
        up: members that are up.
        now: seconds since 1970.
    """
    if terms is None:
        return {}
    found = {name: flap for name, flap in flaps.items() if flap is not None and reuse_at(flap, terms) > now}
    return found if 2 * len(found.keys() & up) <= len(up) else {}


def flapped(downs: Iterable[float], terms: Flapping) -> Flap | None:
    """The record of a member that went down at these moments, the earliest first."""
    flap = None
    for at in downs:
        flap = went_down(flap, terms, at)
    return flap

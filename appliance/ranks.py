"""Which director routers are to prefer for a VIP. Pure, and the same on all directors, without a word between them.

All directors that can serve a VIP announce it, and routers choose the best ways by the attributes that follow from the
ranks. So when a director is lost, whoever is left is known already; nobody has to be promoted for a VIP to be reached.
Too many with the best rank do no harm, since all directors have the same tables.
"""

import hashlib
from collections.abc import Sequence, Set

from appliance.model import HaMode, IPAddress, VirtualService


def order(service: VirtualService, vip: IPAddress, directors: Sequence[str]) -> tuple[str, ...]:
    """The directors of a fleet by rank for a VIP, the first one the best.

    Args:
        service: whose mode counts.
        vip: of it.
        directors: all that are configured, in any order that is the same on each.
    """
    if service.ha is HaMode.N_PLUS_M:
        return tuple(sorted(directors, key=lambda name: _weight(vip, name)))
    preferred = [name for name in service.prefer if name in directors]
    return (*preferred, *(name for name in directors if name not in preferred))


def _weight(vip: IPAddress, director: str) -> tuple[bytes, str]:
    """Rendezvous hashing: who is added or removed changes nobody else's place among the others."""
    return hashlib.blake2b(f"{vip}|{director}".encode(), digest_size=16).digest(), director


def standing(service: VirtualService, ranked: Sequence[str], me: str, away: Set[str] = frozenset()) -> int:
    """How many steps worse than the best this director's routes are to be: 0 is the best.

    Args:
        service: whose mode counts.
        ranked: what `order` says.
        me: this director.
        away: those of whom nothing has been heard lately, and those that do not announce the VIP. Whoever wrongly takes
            another one for gone is one more with the best rank.
    """
    if service.ha is HaMode.ACTIVE_ACTIVE or me not in ranked:
        return 0
    better = ranked[: ranked.index(me)]
    if service.ha is HaMode.ACTIVE_STANDBY:
        return len(better)  # routers find the next one by themselves
    return max(0, sum(name not in away for name in better) + 1 - service.primaries)

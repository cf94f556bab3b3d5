"""Taking a director out of service without cutting anybody off: routers are asked to take other ways, and only when
they do, the routes are withdrawn. Pure but for the file that keeps the order for the process that follows.

    announced ── drain ──▶ draining: worse attributes, and the community of RFC 8326
        ▲                      │  no packet for QUIET_S, or the time-out
        └────── undrain ── drained: nothing is announced; what comes all the same is forwarded as before
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

from appliance.keep import keep
from appliance.model import Drain

log = structlog.get_logger()

FORMAT = 1

QUIET_S = 2.0
"""Routers have taken another way when no packet came for so long."""


@dataclass(frozen=True)
class Seen:
    """What the counters have told of the traffic."""

    packets: int
    """Of all virtual services, ever."""

    quiet_since: float
    """When the latest packet was noticed, in seconds since 1970."""


def look(seen: Seen | None, packets: int, now: float) -> Seen:
    """Count again."""
    return seen if seen is not None and seen.packets == packets else Seen(packets, now)


def advance(drain: Drain, seen: Seen, now: float) -> Drain:
    """What becomes of a drain, now that so much traffic was seen."""
    if drain.over:
        return drain
    if now - max(seen.quiet_since, drain.since) >= QUIET_S:
        return replace(drain, over=f"no packet for {QUIET_S:g} s", moved=True)
    if now >= drain.until:
        return replace(drain, over=f"packets still come after {drain.until - drain.since:g} s")
    return drain


def save(path: Path, drain: Drain | None) -> None:
    """Keep it: a director that starts anew in the middle of maintenance must not announce.

    Raises:
        OSError: it cannot be kept.
    """
    if drain is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        keep(path, json.dumps({"format": FORMAT, **asdict(drain)}))


def load(path: Path) -> Drain | None:
    """What was ordered before; None without an order, or when it cannot be read, which is said."""
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']} instead of {FORMAT}")
        # Not to announce for a moment what is to be withdrawn.
        over = str(data["over"]) or "the director has started anew meanwhile"
        return Drain(float(data["since"]), float(data["until"]), over, bool(data["moved"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.error("drain.unreadable", file=str(path), error=str(error))
        return None

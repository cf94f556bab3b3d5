"""Taking a director out of service without cutting anybody off: routers are asked to take other ways, and only when
they do, the routes are withdrawn. Pure but for the file that keeps the order for the process that follows.

    announced ── drain ──▶ draining: worse attributes, and the community of RFC 8326
        ▲                      │  no packet for QUIET_S, or the time-out
        └────── undrain ── drained: nothing is announced; what comes all the same is forwarded as before
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

from appliance import plainjson
from appliance.keep import keep, sync_folder
from appliance.model import Drain

log = structlog.get_logger()

FORMAT = 1

LATEST = 1e11
"""Seconds since 1970."""

UNREADABLE = "drain.json could not be read, so it is not known whether this was ordered; `onward undrain` ends it"
"""Why routes are withdrawn without an order."""

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


def save(path: Path, drain: Drain | None, earlier: Path | None = None) -> None:
    """Keep it: a director that starts anew in the middle of maintenance must not announce.

    Args:
        path: of the file.
        drain: what is ordered; None: nothing.
        earlier: where an earlier version kept it, from where it may not have been brought.

    Raises:
        OSError: it cannot be kept.
    """
    if drain is None:
        for each in (path, earlier):
            if each is not None and each.exists():  # else a folder that nobody can write to would refuse
                each.unlink()
                sync_folder(each.parent)
    else:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        keep(path, json.dumps({"format": FORMAT, **asdict(drain)}))


def load(path: Path, now: float) -> Drain | None:
    """What was ordered before; None without an order.

    Where there is a file that cannot be read, there was an order, mostly: the director stays out of service until
    somebody says otherwise. The file is put aside, and that is said.

    Args:
        path: of the file.
        now: seconds since 1970.
    """
    try:
        data = plainjson.mapping(plainjson.parse(path.read_text()))
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']} instead of {FORMAT}")
        return Drain(
            plainjson.number(data["since"], 0, LATEST),
            plainjson.number(data["until"], 0, LATEST),
            # Not to announce for a moment what is to be withdrawn.
            plainjson.text(data["over"]) or "the director has started anew meanwhile",
            plainjson.flag(data["moved"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError) as error:
        aside, drain = path.with_suffix(".damaged"), Drain(now, now, UNREADABLE)
        log.error("drain.unreadable", file=str(path), error=repr(error), moved_to=str(aside))
        try:
            # At no moment is there no file: the next start is to be drained, too.
            aside.unlink(missing_ok=True)
            os.link(path, aside)
            save(path, drain)
        except OSError as why:
            log.warning("drain.not_written", error=str(why))
        return drain

"""The log of how pools became what they are, kept for the process that follows.

A director that starts anew must send flows from before a change to those that have them, as it did before. What it
needs for that is small: who was in rotation, who served, and since when. It is written whenever that changes.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import structlog

from appliance.model import Delivery, DsrType, Encapsulation, TtlPolicy
from appliance.state import LogEntry, LoggedMember, RingKey

log = structlog.get_logger()

FORMAT = 1

History = Mapping[RingKey, tuple[LogEntry, ...]]


def load(path: Path) -> History:
    """What an earlier process has written; nothing where there is none, or none that can be read."""
    try:
        return decode(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("history.unreadable", file=str(path), error=str(error), hint="changes from before are not known")
        return {}


def save(path: Path, history: History) -> None:
    """Replace what is there, whole.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_suffix(".new")
    with beside.open("w") as file:
        file.write(encode(history))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def encode(history: History) -> str:
    """As text."""
    rings = [
        {
            "pool": pool,
            "delivery": asdict(delivery),
            "entries": [
                {
                    "at": entry.at,
                    "settled": entry.settled,
                    "members": [asdict(m) | {"address": str(m.address)} for m in entry.members],
                }
                for entry in entries
            ],
        }
        for (pool, delivery), entries in history.items()
    ]
    return json.dumps({"format": FORMAT, "rings": rings})


def decode(text: str) -> History:
    """From text.

    Raises:
        ValueError, KeyError, TypeError: it is not what `encode` makes.
    """
    data = json.loads(text)
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']} instead of {FORMAT}")
    return {
        (ring["pool"], _delivery(**ring["delivery"])): tuple(
            LogEntry(float(entry["at"]), tuple(map(_member, entry["members"])), bool(entry["settled"]))
            for entry in ring["entries"]
        )
        for ring in data["rings"]
    }


def _plain(member: LoggedMember) -> dict[str, Any]:
    return asdict(member) | {"address": str(member.address)}


def _member(data: Mapping[str, Any]) -> LoggedMember:
    return LoggedMember(**{**data, "address": ip_address(data["address"])})


def _delivery(dsr_type: str, encapsulation: str | None, ttl: str) -> Delivery:
    return Delivery(
        DsrType(dsr_type),
        None if encapsulation is None else Encapsulation(encapsulation),
        TtlPolicy(ttl),
    )

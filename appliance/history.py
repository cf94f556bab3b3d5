"""The log of how pools became what they are, kept for the process that follows.

A director that starts anew must send flows from before a change to those that have them, as it did before. What it
needs for that is small: who was in rotation, who served, and since when. It is written whenever that changes, ring by
ring in the form that a fleet's store has it in.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import structlog

from appliance import plainjson
from appliance.fleet.entries import Logged, Unreadable, decode_log, encode_log, log_place
from appliance.keep import keep
from appliance.state import LogEntry, RingKey

log = structlog.get_logger()

FORMAT = 2

History = Mapping[RingKey, tuple[LogEntry, ...]]


def load(path: Path) -> History:
    """What an earlier process has written; nothing where there is none, or none that can be read."""
    try:
        return decode(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, Unreadable, ValueError, KeyError) as error:
        log.warning("history.unreadable", file=str(path), error=str(error), hint="changes from before are not known")
        return {}


def save(path: Path, history: History) -> None:
    """Replace what is there, whole.

    Raises:
        OSError: it cannot be written.
    """
    keep(path, encode(history))


def encode(history: History) -> str:
    """As text."""
    rings = {log_place(ring): encode_log(Logged("", entry) for entry in log) for ring, log in history.items()}
    return json.dumps({"format": FORMAT, "rings": rings})


def decode(text: str) -> History:
    """From text.

    Raises:
        Unreadable, ValueError, KeyError: it is not what `encode` makes.
    """
    data = plainjson.mapping(plainjson.parse(text))
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']} instead of {FORMAT}")
    logs = (decode_log(place, plainjson.text(log)) for place, log in plainjson.mapping(data["rings"]).items())
    return {ring: tuple(item.entry for item in logged) for ring, logged in logs}

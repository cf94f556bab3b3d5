"""What members' numbers stand for, kept for the process that follows: what is remembered of flows has nothing but them.

A small file in the runtime directory, written whenever another number is given out, before any packet can meet it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from appliance import plainjson
from appliance.fleet.entries import log_place
from appliance.forwarding import MAX_MEMBERS
from appliance.keep import keep
from appliance.model import Config
from appliance.state import MemberWay, ways

log = structlog.get_logger()

FORMAT = 1


@dataclass(frozen=True)
class Indices:
    """Numbers that were given out by the process before."""

    known: Mapping[MemberWay, int]
    """Of those ways that there still are."""

    unused: int
    """The first one that stood for nobody, and all behind it."""


def load(path: Path, config: Config) -> Indices | None:
    """What the process before has written; None: nothing, or it cannot be read.

    Args:
        path: of the file.
        config: in force now.
    """
    try:
        data = plainjson.mapping(plainjson.parse(path.read_text()))
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']} instead of {FORMAT}")
        given = plainjson.mapping(data["ways"]).items()
        known = {place: plainjson.whole(number, 0, MAX_MEMBERS - 1) for place, number in given}
        if len(set(known.values())) < len(known):
            raise ValueError("a number stands for two members")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        log.warning("indices.unreadable", file=str(path), error=str(error), hint="remembered flows are forgotten")
        return None
    return Indices(
        {way: known[place] for way in ways(config) if (place := _place(way)) in known},
        max(known.values(), default=-1) + 1,
    )


def save(path: Path, indices: Mapping[MemberWay, int]) -> None:
    """Replace what is there, whole.

    Raises:
        OSError: it cannot be written.
    """
    keep(path, json.dumps({"format": FORMAT, "ways": {_place(way): number for way, number in indices.items()}}))


def _place(way: MemberWay) -> str:
    return f"{log_place((way.pool, way.delivery))}/{way.address}"

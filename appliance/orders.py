"""What operators have ordered of members, kept over restarts: a drain must not end because a director starts anew."""

import json
from collections.abc import Mapping
from pathlib import Path

import structlog

from appliance.keep import keep
from appliance.model import AdminState, Order

log = structlog.get_logger()

FORMAT = 1

Orders = Mapping[str, Order]
"""By `pool/member`."""


def load(path: Path) -> Orders:
    """What was ordered before.

    A file that cannot be read is put aside, and said so: it must not keep a director from starting.
    """
    try:
        return decode(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        aside = path.with_suffix(".damaged")
        log.error("orders.unreadable", file=str(path), error=str(error), moved_to=str(aside))
        try:
            path.replace(aside)
        except OSError:
            pass  # whatever it is, the next order replaces it
        return {}


def save(path: Path, orders: Orders) -> None:
    """Replace what is there, whole.

    Raises:
        OSError: it cannot be written.
    """
    keep(path, encode(orders))


def encode(orders: Orders) -> str:
    """As text."""
    return json.dumps({"format": FORMAT, "orders": {member: as_json(order) for member, order in orders.items()}})


def as_json(order: Order) -> dict[str, object]:
    """An order as plain values."""
    return {"state": str(order.state), "since": order.since, "until": order.until, "ratio": order.ratio}


def decode(text: str) -> Orders:
    """From text.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not what `encode` makes.
    """
    data = json.loads(text)
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']} instead of {FORMAT}")
    return {
        member: Order(
            state=AdminState(raw["state"]),
            since=float(raw["since"]),
            until=None if raw["until"] is None else float(raw["until"]),
            ratio=None if raw["ratio"] is None else int(raw["ratio"]),
        )
        for member, raw in data["orders"].items()
    }

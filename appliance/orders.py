"""What operators have ordered of members, kept over restarts, stops and reboots: a drain must not end
because a director starts anew."""

import json
from collections.abc import Mapping
from pathlib import Path

import structlog

from appliance import plainjson
from appliance.fleet.entries import Unreadable, order_of
from appliance.keep import keep
from appliance.model import Order

log = structlog.get_logger()

FORMAT = 1

Orders = Mapping[str, Order]
"""By `pool/member`."""


def load(path: Path) -> Orders:
    """What was ordered before.

    A file that cannot be read is put aside, and said so: it must not keep a director from starting. Where an order is
    none that anybody could give, the others count.
    """
    try:
        orders, bad = decode(path.read_text())
        for member, why in bad.items():
            log.error("orders.unreadable", file=str(path), member=member, error=why)
        return orders
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
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
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    keep(path, encode(orders))


def take_over(old: Path, new: Path) -> Path:
    """Bring a file of an earlier version to where it is kept by now. Where there are two, the newer one counts: after a
    rollback, that is the one of the earlier version.

    Args:
        old: where it was.
        new: where it is looked for from now on; its folder is made.

    Returns:
        Where it is: *new*, or *old* when it cannot be brought there, or when nobody may look whether it is there.
    """
    if old == new:
        return new
    try:
        was, there = _written_at(old), _written_at(new)
        if was is None:
            return new
        if there is not None:
            log.warning("orders.two_files", counts=str(old if was > there else new), file=str(new), earlier=str(old))
        if there is None or was > there:
            text = old.read_text()
            new.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            keep(new, text)
        old.unlink()
    except (OSError, ValueError) as error:
        log.warning("orders.not_written", file=str(new), error=str(error))
        return _newer(old, new)
    return new


def _newer(old: Path, new: Path) -> Path:
    """Of two files that may be there and cannot be made one."""
    try:
        there = _written_at(new)
        was = _written_at(old)
    except OSError:
        return old
    return new if there is not None and (was is None or there >= was) else old


def _written_at(path: Path) -> float | None:
    """Seconds since 1970; None: it is not there.

    Raises:
        OSError: nobody may look.
    """
    try:
        return path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None


def encode(orders: Orders) -> str:
    """As text."""
    return json.dumps({"format": FORMAT, "orders": {member: as_json(order) for member, order in orders.items()}})


def as_json(order: Order) -> dict[str, object]:
    """An order as plain values."""
    return {"state": str(order.state), "since": order.since, "until": order.until, "ratio": order.ratio}


def decode(text: str) -> tuple[Orders, Mapping[str, str]]:
    """From text.

    Returns:
        Orders; and what is wrong with those that are none, by `pool/member`.

    Raises:
        ValueError, KeyError: it is not what `encode` makes.
    """
    data = plainjson.mapping(plainjson.parse(text))
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']} instead of {FORMAT}")
    orders: dict[str, Order] = {}
    bad: dict[str, str] = {}
    for member, raw in plainjson.mapping(data["orders"]).items():
        try:
            orders[member] = order_of(raw)
        except Unreadable as why:
            bad[member] = str(why)
    return orders, bad

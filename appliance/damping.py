"""A VIP that comes and goes is not announced again and again: routers farther away hold it against a route when it
flaps (RFC 2439), and drop it for much longer than we would. Pure."""

from dataclasses import dataclass

FLAPS = 3
WITHIN_S = 60.0
"""A VIP that was withdrawn so often within so long is held down."""


@dataclass(frozen=True)
class Record:
    """How a VIP has fared."""

    withdrawn: tuple[float, ...] = ()
    """When, by no will of an operator; the latest, and those within WITHIN_S before it, in seconds since 1970."""

    well_since: float | None = None
    """Since when nothing but a hold-down keeps it from being announced; None: something does."""


NEW = Record()


def follow(record: Record, now: float, *, well: bool, fell: bool) -> Record:
    """What the record says from now on.

    Args:
        record: what it said before.
        now: seconds since 1970.
        well: whether anything but a hold-down keeps the VIP from being announced.
        fell: whether it was announced until now, and is to be withdrawn by no will of an operator.
    """
    withdrawn = record.withdrawn
    if fell:
        withdrawn = (*(at for at in withdrawn if now - at < WITHIN_S), now)
    since = (now if record.well_since is None else record.well_since) if well else None
    return record if (withdrawn, since) == (record.withdrawn, record.well_since) else Record(withdrawn, since)


def held_until(record: Record, hold_down_s: float, now: float) -> float | None:
    """Until when a VIP that could be announced is not; None: it is."""
    if len(record.withdrawn) < FLAPS or record.well_since is None:
        return None
    ends = record.well_since + hold_down_s
    return ends if now < ends else None

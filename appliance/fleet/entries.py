"""What a fleet keeps in its store: keys, and values as JSON. Pure.

| key | value | written by |
|---|---|---|
| `directors/DIRECTOR` | who it is; under its lease | itself |
| `verdicts/DIRECTOR/POOL` | what it sees of each member, and since when; under its lease | itself |
| `agreed/POOL` | what was agreed last of each member | whoever sees first that it has changed |
| `log/POOL/DELIVERY` | how the pool became what it is | whoever changes first |
| `orders/POOL/MEMBER` | what operators want | any director |
| `ordered` | that there have been orders; without it, none there does not mean that none is wanted | who gives one |

Everything but what is under leases stays. Values that cannot be read, say of a newer version, are as if they were not
there: `Unreadable` says so, and it is for the caller to tell people. That goes for everything that no director writes:
what comes out of here, decisions can be made with.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address
from typing import Any

from appliance import plainjson
from appliance.fleet.agreement import Verdicts
from appliance.forwarding import MAX_MEMBERS
from appliance.model import (
    OUTER_TTL,
    AdminState,
    Delivery,
    DfPolicy,
    DsrType,
    Encapsulation,
    Health,
    IPAddress,
    Order,
    OuterSource,
    TtlPolicy,
)
from appliance.ring.slots import MAX_WEIGHT
from appliance.state import LONGEST_LOG, LogEntry, LoggedMember, RingKey, first_needed

LATEST = 1e11
"""Seconds since 1970: no moment that anybody speaks of is later."""

_NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")
"""Of a member: as configured, or with its address behind it, which has been given to those that leave under another."""

_USUAL_OUTER = DfPolicy.COPY_INNER, str(OUTER_TTL)
DIRECTORS, VERDICTS, AGREED, LOG, ORDERS = "directors", "verdicts", "agreed", "log", "orders"
ORDERED = "ordered"


class Unreadable(Exception):  # noqa: N818 - a fact about somebody else's value, not an error of ours
    """A value is not what this version knows."""


@dataclass(frozen=True)
class DirectorCard:
    """What a director says of itself."""

    name: str
    address: IPAddress
    port: int
    """Where it listens for what its peers know of flows, UDP."""

    boot: str
    """Another one for each process."""

    version: str = ""
    digest: str = ""
    """Of its forwarding tables: equal on all directors that do the same."""


@dataclass(frozen=True)
class Seen:
    """A director's verdict."""

    health: Health
    since: float
    """Seconds since 1970."""


def encode_director(card: DirectorCard) -> str:
    fields = asdict(card) | {"address": str(card.address)}
    del fields["name"]
    return _text(fields)


def decode_director(name: str, text: str) -> DirectorCard:
    try:
        data = plainjson.mapping(plainjson.parse(text))
        return DirectorCard(
            name=name,
            address=ip_address(plainjson.text(data["address"])),
            port=plainjson.whole(data["port"], 0, 0xFFFF),
            boot=plainjson.text(data["boot"]),
            version=plainjson.text(data["version"]),
            digest=plainjson.text(data["digest"]),
        )
    except (ValueError, KeyError) as error:
        raise Unreadable(repr(error)) from error


def encode_verdicts(pool: str, seen: Mapping[str, Seen]) -> str:
    """
    Args:
        pool: all members are of it.
        seen: by `pool/member`.
    """
    return _text(
        {member.removeprefix(f"{pool}/"): [seen[member].health, seen[member].since] for member in sorted(seen)}
    )


def decode_verdicts(pool: str, text: str) -> Verdicts:
    """By `pool/member`."""
    try:
        seen = {}
        for name, said in plainjson.mapping(plainjson.parse(text)).items():
            health, since = plainjson.sequence(said)
            plainjson.number(since, 0, LATEST)
            seen[f"{pool}/{name}"] = Health(plainjson.text(health))
        return seen
    except ValueError as error:
        raise Unreadable(repr(error)) from error


def encode_agreed(pool: str, agreed: Verdicts) -> str:
    """
    Args:
        pool: all members are of it.
        agreed: by `pool/member`.
    """
    return _text({member.removeprefix(f"{pool}/"): agreed[member] for member in sorted(agreed)})


def decode_agreed(pool: str, text: str) -> Verdicts:
    """By `pool/member`."""
    try:
        agreed = plainjson.mapping(plainjson.parse(text))
        return {f"{pool}/{name}": Health(plainjson.text(health)) for name, health in agreed.items()}
    except ValueError as error:
        raise Unreadable(repr(error)) from error


def encode_order(order: Order) -> str:
    return _text(asdict(order))


def decode_order(text: str) -> Order:
    try:
        return order_of(plainjson.parse(text))
    except ValueError as error:
        raise Unreadable(str(error)) from error


def order_of(value: object) -> Order:
    """An order from plain values.

    Raises:
        Unreadable: it is none that anybody could give.
    """
    try:
        data = plainjson.mapping(value)
        until, ratio = data["until"], data["ratio"]
        return Order(
            state=AdminState(plainjson.text(data["state"])),
            since=plainjson.number(data["since"], 0, LATEST),
            until=None if until is None else plainjson.number(until, 0, LATEST),
            ratio=None if ratio is None else plainjson.whole(ratio, 0, MAX_WEIGHT),
        )
    except (ValueError, KeyError) as error:
        raise Unreadable(repr(error)) from error


@dataclass(frozen=True)
class Logged:
    """An entry of a log, with the name of the director that wrote it."""

    by: str
    entry: LogEntry


def log_place(ring: RingKey) -> str:
    """The key without its first part, such as `web/l3.ipip.router`, or `web/l3.gue.router.clear.32` where outer headers
    are not the usual ones, or `web/l3.gue.router.clear.32.prefix`."""
    pool, delivery = ring
    words = [delivery.dsr_type, delivery.encapsulation or "none", delivery.ttl]
    source = (delivery.outer_source,) if delivery.outer_source is not OuterSource.INTERFACE else ()
    outer = delivery.outer_df, str(delivery.outer_ttl), *source
    return f"{pool}/{'.'.join((*words, *(outer if outer != _USUAL_OUTER else ())))}"


def appended(logged: Sequence[Logged], new: Logged, keep_s: float) -> tuple[Logged, ...]:
    """A log with one entry more, without what is too old to matter (`state.first_needed`).

    Time does not go back in a log, whatever the clocks of the directors say.

    Args:
        logged: the oldest first.
        new: what is added.
        keep_s: the longest window of what follows from the log.
    """
    if logged and new.entry.at < logged[-1].entry.at:
        new = replace(new, entry=replace(new.entry, at=logged[-1].entry.at))
    log = (*logged, new)
    return log[first_needed([item.entry for item in log], keep_s, new.entry.at) :]


def encode_log(logged: Iterable[Logged]) -> str:
    """Each entry tells what is different from the one before: logs of large pools stay small."""
    entries = []
    before: dict[str, list[Any]] = {}
    for item in logged:
        now = {
            f"{member.name} {member.address}": [
                member.weight,
                member.eligible,
                member.serving,
                member.ramp,
                member.leaving,
            ]
            for member in item.entry.members
        }
        entries.append(
            {
                "by": item.by,
                "at": item.entry.at,
                "settled": item.entry.settled,
                "is": {member: state for member, state in sorted(now.items()) if before.get(member) != state},
                "gone": sorted(before.keys() - now.keys()),
            }
        )
        before = now
    return _text(entries)


def decode_log(place: str, text: str) -> tuple[RingKey, tuple[Logged, ...]]:
    """Whose log, and its entries: the oldest first, members by name.

    Args:
        place: see `log_place`.
        text: the value.
    """
    try:
        ring = _ring(place)
        logged = []
        now: dict[str, LoggedMember] = {}
        found = plainjson.sequence(plainjson.parse(text))
        if len(found) > LONGEST_LOG:
            raise ValueError(f"{len(found)} entries, more than {LONGEST_LOG}")
        for entry in map(plainjson.mapping, found):
            gone = set(map(plainjson.text, plainjson.sequence(entry["gone"])))
            now = {member: state for member, state in now.items() if member not in gone}
            now |= {member: _logged(member, state) for member, state in plainjson.mapping(entry["is"]).items()}
            members = tuple(now[member] for member in sorted(now))
            _check(members)
            at, settled = plainjson.number(entry["at"], 0, LATEST), plainjson.flag(entry["settled"])
            logged.append(Logged(plainjson.text(entry["by"]), LogEntry(at, members, settled)))
        return ring, tuple(logged)
    except (ValueError, KeyError) as error:
        raise Unreadable(repr(error)) from error


def _logged(member: str, state: object) -> LoggedMember:
    name, _, address = member.rpartition(" ")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:40]!r} is not a member's name")
    weight, eligible, serving, ramp, leaving = plainjson.sequence(state)
    return LoggedMember(
        name,
        ip_address(address),
        plainjson.whole(weight, 0, MAX_WEIGHT),
        plainjson.flag(eligible),
        plainjson.flag(serving),
        plainjson.number(ramp, 0, 1),
        plainjson.flag(leaving),
    )


def _check(members: Sequence[LoggedMember]) -> None:
    """A ring can be made of them."""
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"{len(members)} members, more than {MAX_MEMBERS}")
    names = [member.name for member in members if not member.leaving]
    if len(names) > len(set(names)):
        raise ValueError("two members have the same name")


def _ring(place: str) -> RingKey:
    pool, _, delivery = place.partition("/")
    dsr_type, encapsulation, ttl, *outer = delivery.split(".")
    df, hops, *source = outer or _USUAL_OUTER
    plainjson.whole(int(hops), 1, 255)
    ring = (
        pool,
        Delivery(
            DsrType(dsr_type),
            None if encapsulation == "none" else Encapsulation(encapsulation),
            TtlPolicy(ttl),
            DfPolicy(df),
            int(hops),
            *map(OuterSource, source),
        ),
    )
    if log_place(ring) != place:
        raise ValueError(f"{place[:80]} should be called {log_place(ring)[:80]}")
    return ring


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))

"""Which kinds of objects there are. Pure.

A new kind is one more line in KINDS.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from appliance.config.problems import did_you_mean
from appliance.config.schema import (
    ApiTable,
    BgpTable,
    ConnectionLogTable,
    DirectorTable,
    DoctorTable,
    FleetDirectorTable,
    FleetTable,
    MemberTable,
    MonitorTable,
    PeerTable,
    PoolTable,
    ProfileTable,
    ServiceTable,
    Table,
    Tier2Table,
)


class UnknownKindError(Exception):
    """There is no such kind of object; the text says which there are."""


@dataclass(frozen=True)
class Kind:
    """A kind of object."""

    noun: str
    """As people and paths call it: `virtual-services`."""

    one: str
    """One of them: `virtual service`."""

    place: tuple[str, ...]
    """Where it stands in the files: `("virtual_service",)`, or `("bgp", "peer")` for a list within another object."""

    table: type[Table]
    """What it is made of."""

    key: str | None
    """What tells one from the other: a name or an address. None: there is only one."""

    needed: bool = False
    """Whether no configuration is without it."""

    optional: bool = False
    """Whether it is there with its defaults where nothing is written."""

    within: "Kind | None" = None
    """The kind of which each object has some of these; then names are `OWNER/NAME`."""

    def name_of(self, text: str) -> str:
        """The name as it is compared: addresses may be written in several ways."""
        if self.within is not None:
            owner, slash, name = text.partition("/")
            return f"{owner}{slash}{_address(name)}"
        return _address(text) if self.key == "address" else text

    def own_name(self, name: str) -> str:
        """A name without its owner's."""
        return name.partition("/")[2] if self.within is not None else name

    def named(self, values: Mapping[str, Any]) -> str:
        """The name that an object gives itself, without its owner's; empty where it has none. What is within another
        one goes by its address if it has no name."""
        name = values.get(self.key or "")
        if name is None and self.within is not None:
            name = values.get("address")
        if not isinstance(name, str):
            return ""
        return _address(name) if self.within is not None or self.key == "address" else name


def _address(text: str) -> str:
    return str(ip_address(text)) if is_address(text) else text


def is_address(text: str) -> bool:
    """Whether this is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


NETWORK_PROFILES = Kind("network-profiles", "network profile", ("network_profile",), ProfileTable, "name")
HEALTH_MONITORS = Kind("health-monitors", "health monitor", ("health_monitor",), MonitorTable, "name")
POOLS = Kind("pools", "pool", ("pool",), PoolTable, "name")
MEMBERS = Kind("members", "member", ("pool", "member"), MemberTable, "name", within=POOLS)
VIRTUAL_SERVICES = Kind("virtual-services", "virtual service", ("virtual_service",), ServiceTable, "name")
BGP_PEERS = Kind("bgp-peers", "BGP peer", ("bgp", "peer"), PeerTable, "address")
FLEET_DIRECTORS = Kind("fleet-directors", "director of the fleet", ("fleet", "director"), FleetDirectorTable, "name")
DIRECTOR = Kind("director", "director", ("director",), DirectorTable, None, needed=True)
API = Kind("api", "API", ("api",), ApiTable, None, optional=True)
CONNECTION_LOG = Kind("connection-log", "connection log", ("connection_log",), ConnectionLogTable, None, optional=True)
DOCTOR = Kind("doctor", "doctor", ("doctor",), DoctorTable, None, optional=True)
TIER2 = Kind("tier2", "second tier", ("tier2",), Tier2Table, None)
FLEET = Kind("fleet", "fleet", ("fleet",), FleetTable, None, needed=True)
BGP = Kind("bgp", "BGP", ("bgp",), BgpTable, None)

KINDS: Mapping[str, Kind] = {
    kind.noun: kind
    for kind in (
        VIRTUAL_SERVICES,
        MEMBERS,
        POOLS,
        NETWORK_PROFILES,
        HEALTH_MONITORS,
        BGP_PEERS,
        FLEET_DIRECTORS,
        DIRECTOR,
        API,
        CONNECTION_LOG,
        DOCTOR,
        TIER2,
        FLEET,
        BGP,
    )
}
"""Whoever names others comes before them."""


def parts_of(kind: Kind) -> tuple[Kind, ...]:
    """Kinds of objects that stand in lists within those of this kind."""
    return _PARTS[kind.noun]


def whole_of(kind: Kind) -> Kind | None:
    """The kind within whose objects those of this kind stand."""
    return next((other for other in KINDS.values() if kind in parts_of(other)), None)


_PARTS = {
    kind.noun: tuple(other for other in KINDS.values() if other.place[:-1] == kind.place) for kind in KINDS.values()
}

REFERENCES: tuple[tuple[Kind, str, Kind], ...] = (
    (VIRTUAL_SERVICES, "pool", POOLS),
    (VIRTUAL_SERVICES, "network_profile", NETWORK_PROFILES),
    (VIRTUAL_SERVICES, "prefer", FLEET_DIRECTORS),
    (POOLS, "health_monitors", HEALTH_MONITORS),
)
"""Which keys of which objects name which others: one, or a list of them."""


def kind_of(noun: str) -> Kind:
    """
    Raises:
        UnknownKindError: there is no such kind.
    """
    if noun not in KINDS:
        raise UnknownKindError(
            f"there is no kind of object {noun}; {did_you_mean(noun, KINDS)}there are: {', '.join(KINDS)}"
        )
    return KINDS[noun]


def references_of(kind: Kind) -> Iterator[tuple[str, Kind]]:
    """Keys of objects of a kind that name others, and of which kind those are."""
    return ((key, to) for of, key, to in REFERENCES if of is kind)

"""Which kinds of objects there are. Pure.

A new kind is one more line in KINDS.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from appliance.config.problems import did_you_mean
from appliance.config.schema import (
    ApiTable,
    BgpTable,
    DirectorTable,
    FleetDirectorTable,
    FleetTable,
    MonitorTable,
    PeerTable,
    PoolTable,
    ProfileTable,
    ServiceTable,
    Table,
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

    def name_of(self, text: str) -> str:
        """The name as it is compared: addresses may be written in several ways."""
        if self.key != "address":
            return text
        try:
            return str(ip_address(text))
        except ValueError:
            return text


NETWORK_PROFILES = Kind("network-profiles", "network profile", ("network_profile",), ProfileTable, "name")
HEALTH_MONITORS = Kind("health-monitors", "health monitor", ("health_monitor",), MonitorTable, "name")
POOLS = Kind("pools", "pool", ("pool",), PoolTable, "name")
VIRTUAL_SERVICES = Kind("virtual-services", "virtual service", ("virtual_service",), ServiceTable, "name")
BGP_PEERS = Kind("bgp-peers", "BGP peer", ("bgp", "peer"), PeerTable, "address")
FLEET_DIRECTORS = Kind("fleet-directors", "director of the fleet", ("fleet", "director"), FleetDirectorTable, "name")
DIRECTOR = Kind("director", "director", ("director",), DirectorTable, None, needed=True)
API = Kind("api", "API", ("api",), ApiTable, None, optional=True)
FLEET = Kind("fleet", "fleet", ("fleet",), FleetTable, None, needed=True)
BGP = Kind("bgp", "BGP", ("bgp",), BgpTable, None)

KINDS: Mapping[str, Kind] = {
    kind.noun: kind
    for kind in (
        VIRTUAL_SERVICES,
        POOLS,
        NETWORK_PROFILES,
        HEALTH_MONITORS,
        BGP_PEERS,
        FLEET_DIRECTORS,
        DIRECTOR,
        API,
        FLEET,
        BGP,
    )
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

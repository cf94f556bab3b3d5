"""Digests of forwarding tables, by which directors notice that they do not do the same. Pure.

One for each VIP, protocol and ports: how flows are told apart, by what they are placed, whose each slot is, and whose
its flows from before are while it changes hands. And one of which virtual services there are. What may differ is not in
it: indices, next hops, limits, what is chosen from second to second, and whether a slot that is over its window is in
the tail or steady.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from appliance.decide import Desired
from appliance.forwarding import NO_MEMBER, SlotArray, TableService
from appliance.model import Delivery, IPAddress
from appliance.ring.slots import unpack

SERVICES = "virtual services"
"""The name of the digest that tells which ones there are."""

_Column = npt.NDArray[np.uint64]


class TableDigests:
    """Digests of one decision after the other. What has not changed is not computed again."""

    def __init__(self) -> None:
        self._named: dict[int, int] = {}
        self._names: _Column = np.zeros(1 << 16, np.uint64)
        """By member index; 0 is nobody."""
        self._owners: dict[int, tuple[SlotArray, _Column, int]] = {}
        """By identity of the slots, which are kept beside for that; and by that of `_names`."""

    def of(self, desired: Desired) -> dict[str, int]:
        """64 bits for each table, by its name.

        A virtual service of which a director does not know yet who serves it has none: there is nothing to compare.
        """
        members = desired.tables.members
        named = {index: _member(member.id, member.address, member.delivery) for index, member in members.items()}
        if named != self._named:
            self._named, self._names = named, np.zeros(1 << 16, np.uint64)
            self._names[list(named)] = list(named.values())
        views = {view.service.name: view.service for view in desired.services}
        owners: dict[int, tuple[SlotArray, _Column, int]] = {}
        digests = {SERVICES: _digest(*sorted(map(_name, desired.tables.services)))}
        for table in desired.tables.services:
            service = views[table.name]
            if any(desired.rings[pool.name, service.profile.delivery].undecided for pool in service.pools):
                continue
            place = id(table.slots)
            if place not in owners:
                owners[place] = self._known(table.slots)
            digests[_name(table)] = _digest(
                str(table.hash_mode),
                str(table.placement),
                str(service.pool.algorithm),
                str(table.idle_timeout_s),
                repr([self._named_by_ids(quic.servers) for quic in table.quic]),
                str(owners[place][2]),
            )
        self._owners = owners
        return digests

    def _known(self, slots: SlotArray) -> tuple[SlotArray, _Column, int]:
        known = self._owners.get(id(slots))
        if known is None or known[1] is not self._names:
            return slots, self._names, _owners(self._names, slots)
        return known

    def _named_by_ids(self, servers: Mapping[bytes, int]) -> list[tuple[bytes, int]]:
        return [(server_id, self._named.get(index, 0)) for server_id, index in sorted(servers.items())]


def _name(table: TableService) -> str:
    return f"{table.vip} {table.protocol} {','.join(map(str, table.ports))}"


def _owners(names: _Column, slots: SlotArray) -> int:
    primary, previous = unpack(slots)
    # Where nobody takes new flows, each director falls back to whom it likes.
    window = (previous != NO_MEMBER) & (primary != NO_MEMBER)
    digest = hashlib.blake2b(names[primary].tobytes(), digest_size=8)
    digest.update(names[np.where(window, previous, primary)].tobytes())
    return int.from_bytes(digest.digest(), "little")


@lru_cache(maxsize=1 << 16)
def _member(name: str, address: IPAddress, delivery: Delivery) -> int:
    """As pins have members: by name, address and how packets reach them."""
    return _digest(name, str(address), str(delivery))


def _digest(*parts: str) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "little")

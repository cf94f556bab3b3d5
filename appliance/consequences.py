"""What a new configuration will do: from what is known and decided now, and the configuration, to everything that will
be otherwise. Pure.

Nothing is estimated that can be decided: a twin of the store takes the configuration, and `decide` says what follows,
as it will when the store itself takes it. That is what happens at once. Members that are new are out at first, until
they have been looked up and asked; what slots change hands when all of them turn out well is told beside it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.config.problems import path_text
from appliance.decide import Desired, arrived, decide
from appliance.forwarding import NO_MEMBER, NextHop, Placement, TableService
from appliance.model import Config, Delivery, Health, IPAddress
from appliance.objects.differences import Change
from appliance.ring.slots import unpack
from appliance.state import Snapshot, State, Unresolved
from appliance.wiring import WayTo, needs_restart, probes
from bgp.route import Route, diff


@dataclass(frozen=True)
class FlowsSeen:
    """Flows that are remembered, column by column."""

    service: npt.NDArray[np.int64]
    """TableService.index in the tables in force."""
    port: npt.NDArray[np.int64]
    """The VIP's."""
    slot: npt.NDArray[np.int64]
    member: npt.NDArray[np.int64]
    """TableMember.index."""

    def __len__(self) -> int:
        return len(self.slot)


NO_FLOWS = FlowsSeen(*(np.zeros(0, np.int64) for _ in range(4)))


@dataclass(frozen=True)
class Moves:
    """What changes hands in one virtual service. Machines count, not their names or pools."""

    service: str
    slots: float
    """Share of its slots, 0..1, whose new flows go to another machine at once."""

    slots_later: float
    """The same, when all members that are to be asked have turned out well, and the fleet knows them."""

    flows: int
    """Flows of it that are remembered now."""

    flows_moved: int
    """Of these, so many go on at another machine, or nowhere: they break."""

    hash_changes: bool = False
    """It hashes something else: every flow has another slot, and the shares are what to expect of many flows."""


@dataclass(frozen=True)
class Consequences:
    """Everything that will be otherwise."""

    changes: tuple[Change, ...] = ()
    added: tuple[str, ...] = ()
    """Virtual services."""
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    moves: tuple[Moves, ...] = ()
    """Of virtual services that were there before, where anything moves."""

    announce: frozenset[Route] = frozenset()
    """Routes that routers are told anew, or with other attributes."""
    withdraw: frozenset[Route] = frozenset()
    announce_later: frozenset[Route] = frozenset()
    """Routes besides, when all members that are to be asked have turned out well."""

    deliveries: tuple[str, ...] = ()
    """Of which virtual services members get their packets in another way, and what to do about it."""

    asked: tuple[str, ...] = ()
    """Members, as `pool/member`, that are asked something which nobody asks them now."""
    not_asked: tuple[str, ...] = ()
    """Members that are asked no more."""
    refused: tuple[str, ...] = ()
    """Why it cannot come into force in this process."""

    @property
    def summary(self) -> str:
        """In a line."""
        parts = [
            f"{len(names)} virtual service{'s' if len(names) > 1 else ''} {what}"
            for names, what in ((self.added, "added"), (self.changed, "changed"), (self.removed, "removed"))
            if names
        ]
        others = len(self.changes) - sum(change.kind == "virtual_service" for change in self.changes)
        if others:
            parts.append(f"{others} other change{'s' if others > 1 else ''}")
        return ", ".join(parts) or "nothing is different"


def consequences(
    state: State,
    before: Desired | None,
    in_force: Config,
    config: Config,
    way: WayTo,
    now: float,
    flows: FlowsSeen = NO_FLOWS,
    changes: Iterable[Change] = (),
) -> Consequences:
    """What follows from a new configuration.

    Args:
        state: a twin of the store (`State.twin`); it is changed.
        before: the decision in force; None: nothing is decided yet.
        in_force: the configuration as it was read; the store's own has members that are leaving as well.
        config: the new one.
        way: as for `wiring.probes`.
        now: seconds since 1970.
        flows: what is remembered of flows, by the tables of *before*.
        changes: what is written otherwise.
    """
    first = state.snapshot()
    known = before if before is not None else decide(first, None, now)
    probed = frozenset(probes(state.config, way))
    state.set_config(config, now)
    probed_then = frozenset(probes(state.config, way))
    after = decide(state.snapshot(), known, now)
    asked = _ids(probe.target.id for probe in probed_then - probed)
    still = {probe.target.id for probe in probed_then}
    later = _when_all_is_well(state, after, now, asked)
    routes = diff(known.routes, after.routes)
    old, new = ({one.name: one for one in each.services} for each in (in_force, config))
    return Consequences(
        changes=tuple(changes),
        added=tuple(name for name in new if name not in old),
        changed=tuple(name for name, service in new.items() if name in old and service != old[name]),
        removed=tuple(name for name in old if name not in new),
        moves=tuple(_moves(known, after, later, first, state.snapshot(), flows)),
        announce=routes.announce,
        withdraw=routes.withdraw,
        announce_later=diff(after.routes, later.routes).announce,
        deliveries=tuple(_deliveries(in_force, config)),
        asked=asked,
        not_asked=_ids(probe.target.id for probe in probed if probe.target.id not in still),
        refused=tuple(f"{path_text(one.location)}: {one.message}" for one in needs_restart(in_force, config)),
    )


def _ids(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


# ---------------------------------------------------------------------------------------------------------------------
# What moves

_SOMEWHERE = NextHop(0, "", bytes(6), bytes(6), 1500, IPv4Address(0), direct=True)


def _when_all_is_well(state: State, after: Desired, now: float, asked: Sequence[str]) -> Desired:
    """The decision when those who are to be asked have answered, and everybody new has been found."""
    snapshot = state.snapshot()
    hops: dict[IPAddress, NextHop] = {
        member.address: _SOMEWHERE
        for pool in snapshot.config.pools
        for member in pool.members
        if _not_looked_up(snapshot.next_hops.get(member.address))
    }
    well = {name: Health.UP for name in asked if snapshot.health.get(name, Health.UNKNOWN) is Health.UNKNOWN}
    later = after
    if hops or well:
        next_hops = {**snapshot.next_hops, **hops}
        snapshot = replace(snapshot, health={**snapshot.health, **well}, next_hops=next_hops, learning={})
        later = decide(snapshot, after, now)
    return arrived(snapshot, later, now)


def _not_looked_up(hop: NextHop | Unresolved | None) -> bool:
    return hop is None or (isinstance(hop, Unresolved) and hop.reason == "not_looked_up")


def _moves(
    before: Desired, after: Desired, later: Desired, first: Snapshot, then: Snapshot, flows: FlowsSeen
) -> Iterator[Moves]:
    old, new = _machines(first, then)
    remembered, broken = _flows(before, after, flows, old, new)
    tables_before, tables_after, tables_later = map(_tables, (before, after, later))
    configured = {view.service.name for view in after.services}
    shares: dict[tuple[object, ...], tuple[float, bool]] = {}

    def share(one: TableService | None, other: TableService | None) -> tuple[float, bool]:
        # Services that share their words are compared once.
        key = tuple((id(each.slots), each.placement, each.hash_mode) if each else None for each in (one, other))
        if key not in shares:
            shares[key] = _share(one, other, old, new)
        return shares[key]

    for view in before.services:
        name = view.service.name
        if name not in configured:
            yield Moves(name, 1.0, 1.0, remembered[name], broken[name])
            continue
        at_once, hash_changes = share(tables_before.get(name), tables_after.get(name))
        eventually, _ = share(tables_before.get(name), tables_later.get(name))
        if at_once or eventually or broken[name]:
            yield Moves(name, at_once, eventually, remembered[name], broken[name], hash_changes)


def _tables(desired: Desired) -> Mapping[str, TableService]:
    """By name, virtual services that are on the network. All VIPs of one have the same slots."""
    return {table.name: table for table in desired.tables.services}


_Machines = npt.NDArray[np.int64]
"""By member index, a number for the machine behind it; -1 is nobody."""


def _machines(first: Snapshot, then: Snapshot) -> tuple[_Machines, _Machines]:
    numbers: dict[IPAddress, int] = {}
    tables = []
    for snapshot in (first, then):
        table = np.full(NO_MEMBER + 1, -1, np.int64)
        for way, index in snapshot.indices.items():
            table[index] = numbers.setdefault(way.address, len(numbers))
        tables.append(table)
    return tables[0], tables[1]


def _share(
    before: TableService | None, after: TableService | None, old: _Machines, new: _Machines
) -> tuple[float, bool]:
    """The share of slots that change hands, and whether flows change slots besides.

    Where flows are placed one by one, no slot says where a new one goes, and none moves.
    """
    if before is None or before.placement is not Placement.HASH:
        return 0.0, False
    owner = old[unpack(before.slots)[0]]
    owned = owner >= 0
    if after is None or not owned.any():
        return float(owned.mean()), False
    heir = new[unpack(after.slots)[0]]
    if before.hash_mode is after.hash_mode:
        return float((owned & (owner != heir)).mean()), False
    size = int(max(owner.max(), heir.max())) + 1
    parts = [np.bincount(each[each >= 0], minlength=size) / len(each) for each in (owner, heir)]
    return float(owned.mean() - parts[0] @ parts[1]), True


def _flows(
    before: Desired, after: Desired, flows: FlowsSeen, old: _Machines, new: _Machines
) -> tuple[Counter[str], Counter[str]]:
    """By virtual service: flows that are remembered, and those that go on elsewhere or nowhere (packet/placement)."""
    remembered: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    order = np.argsort(flows.service << 16 | flows.port, kind="stable")
    places = (flows.service << 16 | flows.port)[order]
    for rows in np.split(order, np.flatnonzero(np.diff(places)) + 1) if len(order) else ():
        was = before.tables.services[int(flows.service[rows[0]])]
        then = after.tables.find(was.vip, was.protocol, int(flows.port[rows[0]]))
        slot, member = flows.slot[rows], flows.member[rows]
        here = old[_goes_to(was, before, slot, member)]
        there = np.full(len(rows), -1) if then is None else new[_goes_to(then, after, slot, member)]
        remembered[was.name] += len(rows)
        broken[was.name] += int(np.count_nonzero((here >= 0) & (here != there)))
    return remembered, broken


def _goes_to(
    service: TableService, desired: Desired, slot: npt.NDArray[np.int64], member: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The member that the next packets of flows go to."""
    serves = np.zeros(NO_MEMBER + 1, np.bool_)
    serves[list(desired.tables.members)] = True
    primary, previous = (half[slot].astype(np.int64) for half in unpack(service.slots))
    fallback = np.where(previous == NO_MEMBER, primary, previous)
    if service.placement is Placement.HASH:
        return np.where((primary != previous) & serves[member], member, fallback)
    return np.where(serves[member], member, fallback)


# ---------------------------------------------------------------------------------------------------------------------
# What members have to be ready for


def _deliveries(old: Config, new: Config) -> Iterator[str]:
    """Virtual services whose members get their packets in another way: a member that is not prepared for it drops
    them."""
    before = {service.name: service for service in old.services}
    for service in new.services:
        was = before.get(service.name)
        if was is None or not service.enabled:
            continue
        ways = [_in_words(each.profile.delivery) for each in (was, service)]
        if ways[0] != ways[1]:
            yield (
                f"{service.name}: packets come to members by {ways[1]} instead of {ways[0]}: prepare all of them "
                "before (`onward server-setup`), or they drop what comes and the virtual service is down"
            )


def _in_words(delivery: Delivery) -> str:
    if delivery.encapsulation is None:
        return "L2 DSR"
    return f"L3 DSR in {delivery.encapsulation.value.upper()}"


def as_document(found: Consequences) -> dict[str, Any]:
    """As plain values, for JSON."""
    return {
        "changes": [{**asdict(change), "text": str(change)} for change in found.changes],
        "services": {"added": list(found.added), "changed": list(found.changed), "removed": list(found.removed)},
        "moves": [asdict(moves) for moves in found.moves],
        "routes": {
            "announce": [str(route) for route in sorted(found.announce)],
            "withdraw": [str(route) for route in sorted(found.withdraw)],
            "announce_later": [str(route) for route in sorted(found.announce_later)],
        },
        "deliveries": list(found.deliveries),
        "members": {"asked": list(found.asked), "not_asked": list(found.not_asked)},
        "refused": list(found.refused),
        "summary": found.summary,
    }

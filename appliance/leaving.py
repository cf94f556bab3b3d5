"""Members and pools that the configuration does not have any more, and that still have flows. Pure.

A reload without a member must not cut what the member is doing: it stays in its pool, marked, until nothing refers to
it any more. A reload that gives a virtual service another pool must not cut what the members of the one before are
doing: that pool stays as it was, as one of the service's former pools.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from appliance.model import Config, Member, Pool, VirtualService


def with_leaving(new: Config, old: Config) -> Config:
    """A configuration with the members of an earlier one that it lacks. They leave under another name where theirs
    belongs to another address now.

    Args:
        new: as it was read.
        old: in force, with members that are leaving already.
    """
    before = {pool.name: pool for pool in old.pools}
    pools = {pool.name: _pool(pool, before[pool.name]) for pool in new.pools if pool.name in before}
    earlier = {service.name: service for service in old.services}
    services = tuple(_with_former(service, earlier.get(service.name)) for service in new.services)
    return with_pools(replace(new, services=services), pools)


def same_machines(new: Config, old: Config) -> Mapping[str, str]:
    """What members were called in an earlier configuration, by what they are called now, as `pool/member`: in one pool,
    the same address is the same machine, and another address is another one."""
    names = {(pool.name, member.address): member.name for pool in old.pools for member in pool.members}
    return {
        f"{pool.name}/{member.name}": f"{pool.name}/{names[pool.name, member.address]}"
        for pool in new.pools
        for member in pool.members
        if (pool.name, member.address) in names
    }


def _with_former(service: VirtualService, before: VirtualService | None) -> VirtualService:
    """A service with the pools that it used before, where its members could go on with the flows they have: those of
    another protocol are no flows of it. Another pool and another delivery at once are too much."""
    if before is None or before.protocol != service.protocol:
        return service
    if before.profile.delivery != service.profile.delivery and before.pool.name != service.pool.name:
        return service
    former = {pool.name: pool for pool in before.pools if pool.name != service.pool.name}
    return replace(service, former=tuple(former.values()))


def with_pools(config: Config, pools: Mapping[str, Pool]) -> Config:
    """A configuration with others in the place of some pools.

    Args:
        config: as it is.
        pools: by name.
    """

    def changed(service: VirtualService) -> VirtualService:
        if pools.keys().isdisjoint(pool.name for pool in service.pools):
            return service
        former = tuple(pools.get(pool.name, pool) for pool in service.former)
        return replace(service, pool=pools.get(service.pool.name, service.pool), former=former)

    return replace(config, services=tuple(map(changed, config.services)))


def _pool(new: Pool, old: Pool) -> Pool:
    if new == old:
        return old
    addresses, names = {member.address for member in new.members}, {member.name for member in new.members}
    leaving = [_leaving(member, names) for member in old.members if member.address not in addresses]
    return replace(new, members=(*new.members, *leaving)) if leaving else new


def _leaving(member: Member, names: set[str]) -> Member:
    name = f"{member.name}@{member.address}" if member.name in names else member.name
    return replace(member, name=name, leaving=True)


def with_latecomers(config: Config, leaving: Mapping[str, Sequence[Member]]) -> Config:
    """A configuration with members that were leaving before we began; itself when it has them all.

    Args:
        config: in force.
        leaving: members by pool.
    """
    pools: dict[str, Pool] = {}
    for pool in config.pools:
        addresses, names = {member.address for member in pool.members}, {member.name for member in pool.members}
        more = [m for m in leaving.get(pool.name, ()) if m.address not in addresses and m.name not in names]
        unique = {member.address: member for member in more}.values()
        if unique:
            pools[pool.name] = replace(pool, members=(*pool.members, *unique))
    return with_pools(config, pools) if pools else config

"""Members that the configuration does not have any more, and that still have flows. Pure.

A reload without a member must not cut what the member is doing: it stays in its pool, marked, until nothing refers to
it any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from appliance.model import Config, Member, Pool


def with_leaving(new: Config, old: Config) -> tuple[Config, Mapping[str, str]]:
    """A configuration with the members of an earlier one that it lacks.

    Args:
        new: as it was read.
        old: in force, with members that are leaving already.

    Returns:
        The configuration to put into force; and new ids of those that leave under another name, since theirs belongs to
        another address now, by their old ids.
    """
    before = {pool.name: pool for pool in old.pools}
    renamed: dict[str, str] = {}
    pools = {pool.name: _pool(pool, before[pool.name], renamed) for pool in new.pools if pool.name in before}
    services = tuple(replace(service, pool=pools.get(service.pool.name, service.pool)) for service in new.services)
    return replace(new, services=services), renamed


def _pool(new: Pool, old: Pool, renamed: dict[str, str]) -> Pool:
    if new == old:
        return old
    addresses, names = {member.address for member in new.members}, {member.name for member in new.members}
    leaving = [_leaving(member, old, names, renamed) for member in old.members if member.address not in addresses]
    return replace(new, members=(*new.members, *leaving)) if leaving else new


def _leaving(member: Member, pool: Pool, names: set[str], renamed: dict[str, str]) -> Member:
    name = member.name
    if name in names:
        name = f"{name}@{member.address}"
        renamed[f"{pool.name}/{member.name}"] = f"{pool.name}/{name}"
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
    if not pools:
        return config
    services = tuple(replace(service, pool=pools.get(service.pool.name, service.pool)) for service in config.services)
    return replace(config, services=services)

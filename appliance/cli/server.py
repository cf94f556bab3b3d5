"""`onward member add|set|remove`: members of pools, as they are configured."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from appliance.cli.nouns import NOUNS, changed_by, said, show_change, with_options
from appliance.cli.objects import Objects, RefusedChangeError, Shown, find, objects_at
from appliance.cli.options import Option, options_of
from appliance.cli.orders import OrderError, refused
from appliance.cli.output import Exit, complain
from appliance.config.schema import MemberTable
from appliance.objects.canonical import identity

POOLS = NOUNS["pool"][0]
OPTIONS = options_of(MemberTable, without=("name",))

Members = list[dict[str, Any]]


def _add(name: str, given: Mapping[str, Any]) -> int:
    def more(members: Members, member: str, values: Mapping[str, Any]) -> Members:
        if _position(members, member) is not None:
            raise OrderError(f"{name} is there already; `onward member set` changes it", Exit.FAILED)
        return [*members, {"name": member, **values}]

    return _change(name, given, more, "added")


def _set(name: str, given: Mapping[str, Any]) -> int:
    def other(members: Members, member: str, values: Mapping[str, Any]) -> Members:
        at = _there(members, name, member)
        if not values:
            raise OrderError("nothing is to be changed; give an option", Exit.USAGE)
        return [*members[:at], {**members[at], **values}, *members[at + 1 :]]

    return _change(name, given, other, "changed")


def _remove(name: str, given: Mapping[str, Any]) -> int:
    def fewer(members: Members, member: str, _: Mapping[str, Any]) -> Members:
        at = _there(members, name, member)
        return [*members[:at], *members[at + 1 :]]

    return _change(name, given, fewer, "removed")


def _position(members: Members, member: str) -> int | None:
    return next((at for at, one in enumerate(members) if member in (one.get("name"), identity(one))), None)


def _there(members: Members, name: str, member: str) -> int:
    at = _position(members, member)
    if at is None:
        known = ", ".join(str(identity(one)) for one in members) or "none"
        raise OrderError(f"there is no member {name}; its pool has: {known}", Exit.NOT_FOUND)
    return at


def _change(
    name: str,
    given: Mapping[str, Any],
    change: Callable[[Members, str, Mapping[str, Any]], Members],
    done: str,
) -> int:
    """The pool with other members; nobody else's change of it in between is lost."""
    common, values = changed_by(given, OPTIONS)
    pool_name, slash, member = name.partition("/")
    if not slash or not pool_name or not member:
        complain(f"{name} is not POOL/MEMBER; `onward member list` has them all")
        return Exit.USAGE
    try:
        objects: Objects = objects_at(common["socket"], common["config"])
        pool: Shown = find(objects, POOLS.noun, pool_name)
        members = change(list(pool.values["member"]), member, values)
        outcome = objects.change(
            "PATCH",
            POOLS.noun,
            pool_name,
            {"member": members},
            match=pool.etag,
            dry_run=common["dry_run"],
            reason=common["reason"],
        )
    except RefusedChangeError as error:
        for line in said(error, OPTIONS, _within):
            complain(line)
        return error.code
    except OrderError as error:
        return refused(error)
    show_change(objects, outcome, f"member {name} {done}", as_json=common["json"])
    return Exit.OK


def _within(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Of a place in the pool, that within a member."""
    return keys[2:] if keys[:1] == ("member",) else keys


def _command(
    function: Callable[[str, Mapping[str, Any]], int], options: Sequence[Option], text: str
) -> Callable[..., int]:
    def command(name: str, /, **given: Any) -> int:
        return function(name, given)

    return with_options(command, options, text)


add = _command(_add, OPTIONS, "Add a member to a pool. NAME is POOL/MEMBER.")
set_keys = _command(_set, OPTIONS, "Change some keys of a member, as configured. NAME is POOL/MEMBER.")
remove = _command(_remove, (), "Remove a member from a pool; the flows that it has go on. NAME is POOL/MEMBER.")

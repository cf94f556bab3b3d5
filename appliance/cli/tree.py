"""Where somebody is who edits an object in `onward configure`: levels within each other, keys and their values. Pure.

    level = Level("web", ProfileTable, values)
    level.enter("tcp_fast_path_profile")     # a level within it
    level.put("dsr_profile", ["dsr_type", "dsr_type_l2"])

Words of the seed system stand for keys of ours, and its levels are there: `profile` and `tcp_fast_path_profile` are the
network profile itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from appliance.cli.options import Option, options_of
from appliance.config.load import table_in
from appliance.config.problems import BadValueError, did_you_mean
from appliance.config.schema import MemberTable, PoolTable, ProfileTable, ServiceTable, spellings_of
from appliance.objects.canonical import hidden, identity

SEED: Mapping[type[BaseModel], Mapping[str, str]] = {
    ProfileTable: {"dsr_profile": "dsr"},
    PoolTable: {
        "servers": "member",
        "lb_algorithm": "algorithm",
        "lb_algorithm_hash": "hash",
        "health_monitor_refs": "health_monitors",
        "graceful_disable_timeout": "drain_timeout",
    },
    MemberTable: {"ip": "address"},
    ServiceTable: {"pool_ref": "pool", "network_profile_ref": "network_profile", "vip": "vips", "services": "ports"},
}
"""What the seed system calls some of our keys."""

SAME: Mapping[type[BaseModel], Mapping[str, Mapping[str, str]]] = {
    ProfileTable: {
        "profile": {},
        "tcp_fast_path_profile": {"type": "tcp_fast_path"},
        "udp_fast_path_profile": {"type": "udp_fast_path"},
    }
}
"""Levels of the seed system that are the same table here, and what it means to enter them."""


class InputError(Exception):
    """What was typed makes no sense; the text says why and what would."""


@dataclass
class Level:
    """A place in an object that is being edited."""

    label: str
    """In the prompt."""
    table: type[BaseModel]
    values: dict[str, Any]
    """Of the table here, as in the canonical form; changed in place."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """As they were."""
    entered: Mapping[str, Any] = field(init=False)
    """As they were when this level was entered."""

    def __post_init__(self) -> None:
        self.entered = _copy(self.values)

    @property
    def changed(self) -> bool:
        """Whether something was changed since this level was entered."""
        return _differs(self.values, self.entered)

    @property
    def options(self) -> Mapping[str, Option]:
        """Keys of this table that are no tables themselves, and lists of tables."""
        return {option.keys[0]: option for option in _options(self.table) if len(option.keys) == 1}

    @property
    def keys(self) -> list[str]:
        """All keys that there are here."""
        return list(self.table.model_fields)

    @property
    def same(self) -> Mapping[str, Mapping[str, str]]:
        return SAME.get(self.table, {})

    def key_of(self, word: str) -> str:
        """Our key for a word.

        Raises:
            InputError: there is none.
        """
        words = {spelling: key for key in self.keys for spelling in (key, *spellings_of(self.table, key))}
        words |= SEED.get(self.table, {})
        if word not in words:
            there = ", ".join([*self.same, *self.keys])
            raise InputError(f"there is no {word} here; {did_you_mean(word, [*words, *self.same])}there are: {there}")
        return words[word]

    def inner(self, key: str) -> type[BaseModel] | None:
        """The table at a key."""
        return table_in(self.table, key)

    def is_list_of_tables(self, key: str) -> bool:
        option = self.options.get(key)
        return option is not None and option.form == "tables"

    # -----------------------------------------------------------------------------------------------------------------

    def enter(self, word: str, name: str = "") -> "Level":
        """The level within this one that is called so; a list's element is made where there is none of that name.

        What is changed there counts here once `leave` has been called.

        Raises:
            InputError: there is none.
        """
        if word in self.same:
            return Level(word, self.table, {**_copy(self.values), **self.same[word]}, self.before)
        key = self.key_of(word)
        table = self.inner(key)
        if table is None:
            raise InputError(f"{word} is a value and no level; give one: {word} VALUE")
        if not self.is_list_of_tables(key):
            return Level(word, table, _copy(self.values.get(key) or {}), self.before.get(key) or {})
        of = self.options[key].of or {}
        identifier = self.options[key].identity
        if "name" in of and not _is_address(name):
            identifier = "name"  # a member has both
        if not name:
            raise InputError(f"which one? Give its {identifier}: {word} {identifier.upper()}")
        found = self._element(key, name)
        old: Mapping[str, Any] = next((one for one in self.before.get(key) or () if _is(one, name)), {})
        return Level(f"{word} {name}", table, _copy(found) if found is not None else {identifier: name}, old)

    def leave(self, inner: "Level") -> None:
        """What was changed in a level that `enter` gave counts here."""
        word, _, name = inner.label.partition(" ")
        if word in self.same:
            self.values.clear()
            self.values.update(inner.values)
            return
        key = self.key_of(word)
        if not self.is_list_of_tables(key):
            self.values[key] = inner.values
            return
        elements = list(self.values.get(key) or [])
        at = next((i for i, one in enumerate(elements) if _is(one, name)), len(elements))
        elements[at : at + 1] = [inner.values]
        self.values[key] = elements

    def _element(self, key: str, name: str) -> dict[str, Any] | None:
        return next((one for one in self.values.get(key) or () if _is(one, name)), None)

    # -----------------------------------------------------------------------------------------------------------------

    def put(self, word: str, given: Sequence[str]) -> None:
        """Give a key a value; a list's key one more; a table's key values of several keys in there.

        Raises:
            InputError: it cannot be.
        """
        if word in self.same or self.inner(key := self.key_of(word)) is not None:
            name = ""
            if word not in self.same and self.is_list_of_tables(self.key_of(word)):
                name, given = given[0], given[1:]
            level = self.enter(word, name)
            if len(given) % 2:
                raise InputError(f"{given[-1]} has no value; give pairs: KEY VALUE KEY VALUE")
            for inner, value in zip(given[::2], given[1::2], strict=True):
                level.put(inner, [value])
            self.leave(level)
            return
        option = self.options[key]
        if option.form == "list":
            had = list(self.values.get(key) or [])
            more = [value for value in self._checked(key, option, list(given)) if value not in had]
            self.values[key] = [*had, *more]
            return
        if len(given) != 1:
            raise InputError(
                f"{word} has one value, and not {' '.join(given)}; put quotes around what has blanks in it"
            )
        (self.values[key],) = self._checked(key, option, list(given))

    def _checked(self, key: str, option: Option, given: list[str]) -> list[Any]:
        """Values that a key may have, in the form that is recommended.

        Raises:
            InputError: one is none.
        """
        if option.form == "list" and isinstance(values := option.value(given), list):
            validated = [(value, *self._validated(key, [value])) for value in values]
            return [one.value if isinstance(one, Enum) else value for value, one in validated]
        value = option.value(given[0])
        if option.form == "boolean" and isinstance(value, str):
            value = {"yes": True, "no": False, "on": True, "off": False}.get(value.casefold(), value)
        one = self._validated(key, value)
        return [one.value if isinstance(one, Enum) else value]

    def _validated(self, key: str, value: object) -> Any:
        try:
            return _adapter(self.table, key).validate_python(value)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            cause = detail.get("ctx", {}).get("error")
            if isinstance(cause, BadValueError):
                raise InputError(f"{key}: {cause.message}; {cause.remedy}") from None
            raise InputError(f"{key}: {detail['msg']}") from None

    def take_back(self, word: str, given: Sequence[str]) -> None:
        """Back to the default; or one value out of a list, or one element of a list of tables.

        Raises:
            InputError: there is none.
        """
        key = self.key_of(word)
        if not given:
            self.values[key] = None
            return
        had = self.values.get(key)
        if not isinstance(had, list):
            raise InputError(f"{word} is no list: no {word}")
        tables = self.is_list_of_tables(key)
        left = [one for one in had if not (_is(one, given[0]) if tables else str(one) == given[0])]
        if len(left) == len(had):
            there = ", ".join(str(identity(one)) if tables else str(one) for one in had) or "nothing"
            raise InputError(f"{given[0]} is not in {word}; there is {there}")
        self.values[key] = left

    # -----------------------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[tuple[str, str, bool]]:
        """Keys, values as text, and whether they are other ones than before."""
        for key in self.keys:
            value = self.values.get(key)
            yield key, _brief(hidden({key: value})[key]), _differs(value, self.before.get(key))

    def patch(self) -> dict[str, Any]:
        """What has been changed, as a merge patch (RFC 7396) of what was there before."""
        return _patch(self.before, self.values)

    def elements(self, key: str) -> list[str]:
        """What elements of a list are called."""
        had = self.values.get(key) or ()
        return [str(identity(one)) if isinstance(one, Mapping) else str(one) for one in had]


@cache
def _options(table: type[BaseModel]) -> tuple[Option, ...]:
    return tuple(options_of(table))


@cache
def _adapter(table: type[BaseModel], key: str) -> TypeAdapter[Any]:
    found = table.model_fields[key]
    annotation: Any = found.annotation
    for one in found.metadata:
        annotation = Annotated[annotation, one]
    return TypeAdapter(annotation)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is(one: Mapping[str, Any], name: str) -> bool:
    return name in (one.get("name"), str(one.get("address")), str(identity(one)))


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list) else value


def _differs(value: Any, before: Any) -> bool:
    if isinstance(value, Mapping) and (isinstance(before, Mapping) or before is None):
        return any(_differs(value.get(key), (before or {}).get(key)) for key in {*value, *(before or {})})
    return bool(value != before)


def _patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if isinstance(new, Mapping) and (isinstance(old, Mapping) or old is None):
            if inner := _patch(old or {}, new):
                made[key] = inner
        elif new != old:
            made[key] = new
    return made


def _brief(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case Mapping():
            return "{ " + " ".join(f"{key}={_brief(one)}" for key, one in value.items() if one is not None) + " }"
        case list():
            return ", ".join(str(identity(one)) if isinstance(one, Mapping) else _brief(one) for one in value) or "none"
    return str(value)

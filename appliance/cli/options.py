"""Options of commands from the tables of the configuration: one for each key, nested ones with their path in front."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices, BaseModel

Schema = Mapping[str, Any]

_ALSO: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("dsr", "encapsulation"): ("--dsr-encap",),
    ("network_profile",): ("--profile",),
}
"""Shorter names of options."""


@dataclass(frozen=True)
class Option:
    """An option that stands for a key."""

    keys: tuple[str, ...]
    """Where it is in the object."""
    names: tuple[str, ...]
    """The first is the one that messages have."""
    help: str
    form: str
    """`boolean`, `integer`, `number`, `text`, `any` (a number or a text), `list` of these, `tables`, or `pairs` of
    texts."""
    words: tuple[str, ...] = ()
    """What it can be, if there are only so many."""
    identity: str = ""
    """Of `tables`: the key that stands for itself."""
    of: "Mapping[str, Option] | None" = None
    """Of `tables`: what each of them has."""

    def value(self, given: object) -> object:
        """What stands for what was given on the command line. Whether it is a good one is for others to say."""
        if self.form == "list" and isinstance(given, list):
            return [_scalar("any", word.strip(), self.words) for text in given for word in text.split(",") if word]
        if self.form == "tables" and isinstance(given, list):
            return [self._table(text) for text in given]
        if self.form == "pairs" and isinstance(given, list):
            return dict(text.partition("=")[::2] for text in given)
        return _scalar(self.form, given, self.words) if isinstance(given, str) else given

    def _table(self, text: str) -> dict[str, object]:
        table: dict[str, object] = {}
        for part in text.split(","):
            key, equals, value = part.strip().partition("=")
            if not equals:
                key, value = self.identity, key
            known = (self.of or {}).get(key)
            table[key] = _scalar(known.form if known else "text", value, known.words if known else ())
        return table


def _scalar(form: str, text: str, words: Sequence[str]) -> object:
    if form == "boolean" and text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    if form in ("integer", "number", "any") and re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    if form == "number" and re.fullmatch(r"-?\d{1,18}\.\d{1,18}", text):
        return float(text)
    # As it is usual on command lines: tcp-fast-path.
    spelled = text.replace("-", "_")
    return spelled if text not in words and spelled in words else text


def options_of(table: type[BaseModel], without: Iterable[str] = ()) -> list[Option]:
    """All options of a table.

    Args:
        table: of the schema.
        without: keys that are no options.
    """
    schema = table.model_json_schema()
    found = list(_options(table, schema, schema.get("$defs", {}), ()))
    return [option for option in found if option.keys[0] not in set(without)]


def _options(table: type[BaseModel], schema: Schema, defs: Schema, above: tuple[str, ...]) -> Iterator[Option]:
    for key, raw in schema.get("properties", {}).items():
        keys, shape = (*above, key), _resolved(raw, defs)
        about = str(raw.get("description") or shape.get("description") or "")
        if shape.get("type") == "object" and "properties" in shape:
            yield from _options(_inner(table, key), shape, defs, keys)
            continue
        items = _resolved(shape.get("items", {}), defs)
        if shape.get("type") == "array" and items.get("type") == "object":
            inner = {one.keys[-1]: one for one in _options(_inner(table, key), items, defs, ()) if len(one.keys) == 1}
            identity = "address" if "address" in inner else "name" if "name" in inner else next(iter(inner))
            about += f" Each is KEY=VALUE,...; what has no = is its {identity}."
            yield Option(keys, _names(table, keys, plural=True), about, "tables", (), identity, inner)
            continue
        form, words = _form(shape)
        if form == "pairs":
            about += " Each is NAME=VALUE."
        if form == "list":
            _, words = _form(items)
        yield Option(keys, _names(table, keys, plural=form == "list"), about, form, words)


def _resolved(shape: Schema, defs: Schema) -> Schema:
    """Behind references, and without null."""
    if "$ref" in shape:
        return _resolved(defs[shape["$ref"].rpartition("/")[2]], defs)
    if "anyOf" in shape:
        others = [one for one in shape["anyOf"] if one != {"type": "null"}]
        if len(others) < len(shape["anyOf"]) and len(others) == 1:
            return _resolved(others[0], defs)
        if len(others) < len(shape["anyOf"]):
            return {"anyOf": others}
    return shape


def _form(shape: Schema) -> tuple[str, tuple[str, ...]]:
    match shape.get("type"):
        case "boolean":
            return "boolean", ()
        case "integer" | "number":
            return str(shape["type"]), ()
        case "array":
            return "list", ()
        case "object":
            return "pairs", ()
        case "string":
            return "text", tuple(map(str, shape.get("enum", ())))
    return "any", ()


def _inner(table: type[BaseModel], key: str) -> type[BaseModel]:
    from appliance.config.load import table_in

    found = table_in(table, key)
    if found is None:
        raise TypeError(f"{table.__name__}.{key} is no table")
    return found


def _names(table: type[BaseModel], keys: tuple[str, ...], *, plural: bool) -> tuple[str, ...]:
    name = option_name(keys)
    names = [name]
    if plural and name.endswith("s"):
        names.append(f"{name[:-3]}y" if name.endswith("ies") else name[:-1])
    field = table.model_fields[keys[-1]]
    if isinstance(field.validation_alias, AliasChoices):
        above = keys[:-1]
        for word in map(str, field.validation_alias.choices):
            # The seed system's words have the table's name in front already.
            whole = (word,) if above and word.startswith(f"{above[-1]}_") else (*above, word)
            names.append(option_name(whole))
    return tuple(dict.fromkeys([*names, *_ALSO.get(keys, ())]))


def option_name(keys: Iterable[str]) -> str:
    """The option of a key: `--dsr-type`."""
    return "--" + "-".join(key.replace("_", "-") for key in keys)


def nested(values: Mapping[tuple[str, ...], object]) -> dict[str, Any]:
    """An object of values by the paths of their keys."""
    made: dict[str, Any] = {}
    for keys, value in values.items():
        at = made
        for key in keys[:-1]:
            at = at.setdefault(key, {})
        at[keys[-1]] = value
    return made


def named(options: Sequence[Option], keys: Sequence[str]) -> str | None:
    """How an option is called that is about a place in the object; None for none."""
    for length in range(len(keys), 0, -1):
        for option in options:
            if option.keys == tuple(keys[:length]):
                inside = ".".join(keys[length:])
                return f"{option.names[0]} [{inside}]" if inside else option.names[0]
    return None

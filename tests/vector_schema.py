"""Holding vector files to tests/vectors/schema.json: as much of JSON Schema (draft 2020-12) as that file uses."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from tests.vectors_io import DIRECTORY

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool}
_KNOWN = {
    *("type", "const", "enum", "oneOf", "$ref", "required", "properties", "additionalProperties", "minProperties"),
    "propertyNames",
    *("items", "minItems", "maxItems", "minLength", "pattern", "minimum", "maximum"),
    *("$schema", "$defs", "title", "description"),
}


@cache
def schema() -> dict[str, Any]:
    return json.loads((DIRECTORY / "schema.json").read_text())


def violations(text: Any, form: str = "") -> list[str]:
    """Where a file's JSON text is not as the schema says; empty when all is well.

    Args:
        text: parsed.
        form: one of the schema's $defs; by default a file of packet vectors.

    Raises:
        ValueError: the schema uses a keyword that is not known here.
    """
    root = schema()
    return list(_check(text, root["$defs"][form] if form else root, "$"))


def _check(value: Any, rule: dict[str, Any], where: str) -> Iterator[str]:
    unknown = rule.keys() - _KNOWN
    if unknown:
        raise ValueError(f"{where}: tests/vector_schema.py does not know {', '.join(sorted(unknown))}; teach it")
    if "$ref" in rule:
        yield from _check(value, schema()["$defs"][rule["$ref"].removeprefix("#/$defs/")], where)
    if "const" in rule and (value != rule["const"] or type(value) is not type(rule["const"])):
        yield f"{where} is {value!r}, not {rule['const']!r}"
    if "enum" in rule and value not in rule["enum"]:
        yield f"{where} is {value!r}, none of {rule['enum']}"
    if "oneOf" in rule:
        found = [list(_check(value, choice, where)) for choice in rule["oneOf"]]
        fitting = sum(not problems for problems in found)
        if fitting != 1:
            yield f"{where} has {fitting} of the forms that it may have one of: {min(found, key=len)}"
    if "type" in rule and not _is(value, rule["type"]):
        yield f"{where} is {value!r}, no {rule['type']}"
        return
    if isinstance(value, dict):
        yield from _check_object(value, rule, where)
    elif isinstance(value, list):
        yield from _check_size(len(value), rule, "Items", where)
        for number, item in enumerate(value):
            yield from _check(item, rule.get("items", {}), f"{where}[{number}]")
    elif isinstance(value, str):
        yield from _check_size(len(value), rule, "Length", where)
        if "pattern" in rule and not re.search(rule["pattern"], value):
            yield f"{where} is {value[:40]!r}, not of the form {rule['pattern']}"
    elif isinstance(value, int | float) and not rule.get("minimum", value) <= value <= rule.get("maximum", value):
        yield f"{where} is {value}, outside of {rule.get('minimum')}..{rule.get('maximum')}"


def _check_object(value: dict[str, Any], rule: dict[str, Any], where: str) -> Iterator[str]:
    yield from (f"{where} has no {name}" for name in rule.get("required", ()) if name not in value)
    yield from _check_size(len(value), rule, "Properties", where)
    others = rule.get("additionalProperties", {})
    for name, item in value.items():
        yield from _check(name, rule.get("propertyNames", {}), f"the name {where}.{name}")
        known = rule.get("properties", {}).get(name, others)
        if known is False:
            yield f"{where} has {name}, which nothing is known about"
        elif known is not True:
            yield from _check(item, known, f"{where}.{name}")


def _check_size(size: int, rule: dict[str, Any], what: str, where: str) -> Iterator[str]:
    if not rule.get(f"min{what}", size) <= size <= rule.get(f"max{what}", size):
        yield f"{where} has {size} {what.lower()}"


def _is(value: Any, kind: str) -> bool:
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, _TYPES[kind])

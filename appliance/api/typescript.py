"""The API's schemas as TypeScript, for the web application: `python -m appliance.api.typescript`."""

import json
from collections.abc import Mapping
from typing import Any

from appliance.api.records import COMPONENTS
from appliance.api.schemas import components

_NAMES = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}
_HEAD = "// Made by `python -m appliance.api.typescript`; a test compares. Not to be edited.\n"


def typescript(schemas: Mapping[str, Mapping[str, Any]]) -> str:
    """A declaration for each schema.

    Args:
        schemas: of OpenAPI 3.1, by name.
    """
    return _HEAD + "".join(f"\nexport type {name} = {_type(schema, 0)};\n" for name, schema in schemas.items())


def _type(schema: Mapping[str, Any], depth: int) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(COMPONENTS)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(dict.fromkeys(_type(choice, depth) for choice in choices))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_NAMES[one] for one in kind)
    if kind == "array":
        inner = _type(schema.get("items", {}), depth)
        return f"({inner})[]" if " " in inner and not inner.endswith("}") else f"{inner}[]"
    if kind == "object":
        return _object(schema, depth)
    return _NAMES.get(kind or "", "unknown")


def _object(schema: Mapping[str, Any], depth: int) -> str:
    properties = schema.get("properties")
    if not properties:
        rest = schema.get("additionalProperties")
        return f"Record<string, {_type(rest, depth) if isinstance(rest, Mapping) else 'unknown'}>"
    pad, required = "  " * (depth + 1), schema.get("required", ())
    lines = [
        f"{pad}{name}{'' if name in required else '?'}: {_type(inner, depth + 1)};"
        for name, inner in properties.items()
    ]
    return "{\n" + "\n".join(lines) + "\n" + "  " * depth + "}"


if __name__ == "__main__":
    print(typescript(components()), end="")

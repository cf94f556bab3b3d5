"""Small pieces that JSON Schemas (2020-12) are made of."""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
"""A JSON Schema."""

COMPONENTS = "#/components/schemas/"


def ref(name: str) -> Schema:
    return {"$ref": COMPONENTS + name}


def record(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these keys and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def by_name(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
MAX_REASON = 1000
REASON: Schema = {"type": "string", "maxLength": MAX_REASON}
"""A note for log and history."""

ANYTHING: Schema = {"type": "object"}
VERSION: Schema = {"const": "v1"}


def words(*known: str) -> Schema:
    """One of these."""
    return {"type": "string", "enum": list(known)}

"""One form for what can be written in several ways, and the way back to what is written. Pure.

The canonical form of an object is what its table in the files says, as JSON: keys as in TOML, values in the one
spelling that is recommended, and every key there, with its default where nothing is written. `null` is a key that is
not written and has no default of its own. Keys that a health monitor's type does not have are left out.
"""

import hashlib
import json
from collections.abc import Callable, Container, Mapping, Sequence
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, TypeVar, cast

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from appliance.config import monitors
from appliance.config.load import monitor_of, profile_of, state_dir_of, table_in
from appliance.config.monitors import Kind as MonitorKind
from appliance.config.problems import SECRETS
from appliance.config.schema import (
    DirectorTable,
    DsrTable,
    MemberTable,
    MonitorTable,
    ProfileTable,
    RateTable,
    spellings_of,
)
from appliance.model import OUTER_TTL, DfPolicy, DsrType, Encapsulation, OuterSource, PortRange

Raw = Mapping[str, Any]
_T = TypeVar("_T", bound=BaseModel)

HIDDEN = "[hidden]"
"""Stands where a secret is written, and means in a change that it stays. Brackets are no part of any secret."""

IDENTITY = ("name", "address")
"""What tells elements of a list of tables apart, as in config/layout.py."""


class NothingHiddenError(ValueError):
    """`[hidden]` stands where nothing was written before. The location is that of the value."""

    def __init__(self, location: tuple[str | int, ...]) -> None:
        super().__init__(location)
        self.location = location


# ---------------------------------------------------------------------------------------------------------------------
# From tables to the canonical form


def canonical(table: BaseModel, only: Container[str] | None = None) -> dict[str, Any]:
    """A checked table in its canonical form.

    Args:
        table: of the schema.
        only: these keys; None: all.
    """
    implied = _implied(table)
    return {
        key: implied.get(key) if (value := getattr(table, key)) is None else _plain(value)
        for key in _keys_of(table)
        if only is None or key in only
    }


def _keys_of(table: BaseModel) -> list[str]:
    keys = list(type(table).model_fields)
    if not isinstance(table, MonitorTable):
        return keys
    return [key for key in keys if table.type in monitors.KEYS.get(key, (table.type,))]


def _plain(value: Any) -> Any:
    """A value of the schema as JSON, in the spelling that its parser recommends."""
    match value:
        case BaseModel():
            return canonical(value)
        case Enum():
            return value.value
        case PortRange():
            whole = (value.first, value.last) == (1, 65535)
            return "*" if whole else value.first if value.first == value.last else f"{value.first}-{value.last}"
        case bytes():
            return value.hex()
        case bool() | int() | float() | str():
            return value
        case IPv4Network() | IPv6Network():
            return str(value)
        case list():
            return [_plain(each) for each in value]
        case (int() as first, int() as last):
            return _codes(first, last)
        case tuple() if value and isinstance(value[0], str):
            return list(value)
        case tuple():
            return dict(value)
    return str(value)


def _codes(first: int, last: int) -> int | str:
    """Status codes of HTTP."""
    if (first, last) == (100, 599):
        return "any"
    if first % 100 == 0 and last == first + 99:
        return f"{first // 100}xx"
    return first if first == last else f"{first}-{last}"


def _implied(table: BaseModel) -> Raw:
    """What counts for keys that are not written, where that follows from others of the same table."""
    find = _IMPLIED.get(type(table))
    return find(table) if find is not None else {}


def _without(table: _T, *keys: str) -> _T:
    """The same table, as if these keys were not written."""
    return table.model_copy(update=dict.fromkeys(keys))


def _of_profile(table: ProfileTable) -> Raw:
    profile = profile_of(_without(table, "session_idle_timeout", "ttl"))
    ttl = None if table.dsr.type is DsrType.L2 else profile.delivery.ttl.value
    return {"session_idle_timeout": profile.session_idle_timeout_s, "ttl": ttl}


def _of_dsr(table: DsrTable) -> Raw:
    if table.type is DsrType.L2:
        return {}
    return {
        "encapsulation": Encapsulation.IPIP.value,
        "outer_df": DfPolicy.COPY_INNER.value,
        "outer_ttl": OUTER_TTL,
        "outer_source": OuterSource.INTERFACE.value,
    }


_HTTP: dict[str, Any] = {"method": "GET", "path": "/", "response_codes": ["2xx"], "response_size": 2048}
_OF_KIND: Mapping[MonitorKind, dict[str, Any]] = {
    MonitorKind.HTTP: _HTTP,
    MonitorKind.HTTPS: _HTTP,
    MonitorKind.TLS: {"expiry_warning_days": 30},
    MonitorKind.EXTERNAL: {"exit_status": 0},
    MonitorKind.DNS: {"record_type": "A", "transport": "udp", "rcode": "NOERROR"},
}


def _of_monitor(table: MonitorTable) -> Raw:
    timeout: dict[str, Any] = {"receive_timeout": monitor_of(_without(table, "receive_timeout")).receive_timeout_s}
    if table.type is MonitorKind.DNS:
        searched = table.rcode in (None, "NOERROR", monitors.ANY)
        return timeout | _OF_KIND[table.type] | ({"qtype": monitors.Wanted.QUERY_TYPE.value} if searched else {})
    return timeout | _OF_KIND.get(table.type, {})


_IMPLIED: Mapping[type[BaseModel], Callable[[Any], Raw]] = {
    ProfileTable: _of_profile,
    DsrTable: _of_dsr,
    MonitorTable: _of_monitor,
    MemberTable: lambda table: {"name": str(table.address)},
    DirectorTable: lambda table: {"state_dir": str(state_dir_of(_without(table, "state_dir")))},
    RateTable: lambda table: {"burst": table.rate},
}


def etag(values: Raw, key: bytes = b"") -> str:
    """A strong validator (RFC 9110, section 8.8) of an object.

    Args:
        values: canonical, with secrets.
        key: makes it one that tells nobody about secrets who has not the key; 64 bytes of it count.
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f'"{hashlib.blake2b(text.encode(), key=key[:64], digest_size=12).hexdigest()}"'


# ---------------------------------------------------------------------------------------------------------------------
# Secrets


def hidden(values: Any) -> Any:
    """The same without secrets."""
    if isinstance(values, Mapping):
        return {
            key: HIDDEN if key in SECRETS and isinstance(value, str) else hidden(value) for key, value in values.items()
        }
    if isinstance(values, list):
        return [hidden(value) for value in values]
    return values


def revealed(values: Any, before: Any, location: tuple[str | int, ...] = ()) -> Any:
    """The same with the secrets that were there before.

    Raises:
        NothingHiddenError: there were none.
    """
    if isinstance(values, Mapping):
        was = before if isinstance(before, Mapping) else {}
        made = {}
        for key, value in values.items():
            if key in SECRETS and value == HIDDEN:
                if key not in was:
                    raise NothingHiddenError((*location, key))
                made[key] = was[key]
            else:
                made[key] = revealed(value, was.get(key), (*location, key))
        return made
    if isinstance(values, list):
        tables = [other for other in before if isinstance(other, Mapping)] if isinstance(before, list) else []
        same = {identity(other): other for other in reversed(tables)}
        return [
            revealed(value, same.get(identity(value)) if isinstance(value, Mapping) else None, (*location, i))
            for i, value in enumerate(values)
        ]
    return values


def identity(table: Raw) -> str:
    """What tells a table of a list from the others; addresses may be written in several ways."""
    found = next((table[key] for key in IDENTITY if key in table), None)
    try:
        return str(ip_address(found)) if isinstance(found, str) else repr(found)
    except ValueError:
        return str(found)


# ---------------------------------------------------------------------------------------------------------------------
# Back to what is written


def merged(target: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7396, section 2)."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def without_nulls(values: Any) -> Any:
    """TOML has no null: a key that is null is one that is not written."""
    if isinstance(values, Mapping):
        return {key: without_nulls(value) for key, value in values.items() if value is not None}
    if isinstance(values, list):
        return [without_nulls(value) for value in values]
    return values


def known_keys(table: type[BaseModel], values: Any) -> Any:
    """The same with keys as they are recommended, where they are written otherwise."""
    if not isinstance(values, Mapping):
        return values
    spelled: dict[str, str] = {word: name for name in table.model_fields for word in spellings_of(table, name)}
    made = {}
    for key, value in values.items():
        name = spelled.get(str(key), str(key))
        if name in made or (name != key and name in values):
            name = str(key)  # both spellings: who checks it says so
        inner = table_in(table, name)
        made[name] = known_keys(inner, value) if inner is not None else value
    return made


def written(table: BaseModel, before: BaseModel | None = None, was: Raw | None = None) -> dict[str, Any]:
    """What has to stand in the files for a table: no defaults; but what stands there already and says the same stays as
    it is.

    Args:
        table: what is wanted.
        before: what was in force in its place.
        was: how that was written.
    """
    wanted, had = canonical(table), canonical(before) if before is not None else {}
    implied, texts = _implied(table), was or {}
    made = {}
    for key, value in wanted.items():
        word = next((word for word in spellings_of(type(table), key) if word in texts), None)
        if word is not None and key in had and had[key] == value:
            made[word] = texts[word]
            continue
        inner, old = getattr(table, key), getattr(before, key, None)
        if value is None or (word is None and value == _default(table, key, implied)):
            continue
        text = texts.get(word) if word is not None else None
        if isinstance(inner, BaseModel):
            value = written(inner, *_pair(old, text))
        elif isinstance(inner, list) and inner and isinstance(inner[0], BaseModel):
            value = _written_list(cast("list[BaseModel]", inner), old, text)
        made[word or key] = value
    return made | {key: value for key, value in _out_of_place(table).items() if key not in wanted}


def _out_of_place(table: BaseModel) -> Raw:
    """What is said in a table and means nothing there, for whoever checks it to say so; but for defaults that it would
    have elsewhere, which a table has that was shown with all its keys and then became one of another type."""
    if not isinstance(table, MonitorTable):
        return {}
    return {
        key: value
        for key in table.model_fields_set
        if (value := _plain(getattr(table, key))) not in (None, _default(table, key, {}))
        and all(value != defaults.get(key) for defaults in _OF_KIND.values())
    }


def _default(table: BaseModel, key: str, implied: Raw) -> Any:
    default = type(table).model_fields[key].get_default()
    if default is PydanticUndefined:
        return PydanticUndefined
    return implied.get(key) if default is None else _plain(default)


def _pair(before: Any, was: Any) -> tuple[BaseModel | None, Raw | None]:
    if isinstance(before, BaseModel) and isinstance(was, Mapping):
        return before, was
    return None, None


def _written_list(tables: Sequence[BaseModel], before: Any, was: Any) -> list[dict[str, Any]]:
    """A list of tables: each is compared with the one before that has the same name or address."""
    known: dict[Any, tuple[Any, Any]] = {}
    if isinstance(before, list) and isinstance(was, list):
        known = {identity(canonical(old, IDENTITY)): (old, text) for old, text in zip(before, was, strict=True)}
    return [written(table, *_pair(*known.get(identity(canonical(table, IDENTITY)), (None, None)))) for table in tables]

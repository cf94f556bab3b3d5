"""The configuration file that an importer makes: tables with comments, and their TOML. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.config.values import name as parse_name

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_WIDTH = 120
_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}

Value = str | int | float | bool | Sequence["Value"] | Mapping[str, "Value"]


@dataclass
class Table:
    """One table of the file."""

    header: str
    """Its name with dots: `pool.member`."""

    values: dict[str, Value]
    comments: list[str] = field(default_factory=list)
    """Lines above it."""

    array: bool = True
    """Whether there may be more of the name."""

    off: bool = False
    """Whether it is written as a comment, since something in it has to be filled in first."""


def toml(preamble: Iterable[str], tables: Iterable[Table]) -> str:
    """The text of a configuration file.

    Args:
        preamble: comment lines at its top.
        tables: in order; a table of a table follows it.
    """
    lines = ["#:schema ./onward.schema.json", "#"]
    lines += [_comment(line) for line in preamble]
    lines += ["", "schema_version = 1"]
    for table in tables:
        lines.append("")
        lines += [_comment(line) for line in table.comments]
        body = [f"[[{table.header}]]" if table.array else f"[{table.header}]"]
        body += [line for key, value in table.values.items() for line in _pair(key, value)]
        lines += [f"# {line}".rstrip() for line in body] if table.off else body
    return "\n".join(lines) + "\n"


def _comment(line: str) -> str:
    # A control character ends a comment or makes the file unreadable.
    return f"# {''.join(c if c.isprintable() else ' ' for c in line)}".rstrip()


def _pair(key: str, value: Value) -> list[str]:
    line = f"{_key(key)} = {value_text(value)}"
    if len(line) <= _WIDTH or isinstance(value, str) or not isinstance(value, Sequence):
        return [line]
    return [f"{_key(key)} = [", *(f"  {value_text(element)}," for element in value), "]"]


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def value_text(value: Value) -> str:
    """A value in TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {value_text(each)}" for key, each in value.items()) + " }"
    return "[" + ", ".join(map(value_text, value)) + "]"


def _string(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(c) or (c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}") for c in text) + '"'


class Names:
    """Names that are allowed and unique."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str, otherwise: str) -> str:
        """*wanted* without characters that names have not, or *otherwise*; with a number behind it when it is taken."""
        text = re.sub(r"[^A-Za-z0-9_.:-]+", "-", wanted).lstrip(".:-").rstrip("-")[:58] or otherwise
        found, count = text, 1
        while found in self._taken:
            count += 1
            found = f"{text}-{count}"
        self._taken.add(found)
        return parse_name(found)


class Draft:
    """The tables of a document while they are being collected."""

    def __init__(self) -> None:
        self.profiles: list[Table] = []
        self.monitors: list[Table] = []
        self.pools: list[tuple[Table, list[Table]]] = []
        self.services: list[Table] = []
        self.bgp: list[Table] = []
        self._names: dict[str, Names] = {}

    def name(self, kind: str, wanted: str) -> str:
        return self._names.setdefault(kind, Names()).take(wanted, kind.replace("_", "-"))

    def profile(self, wanted: str, values: Mapping[str, Value], comment: str) -> str:
        """The name of the network profile of these values, which may be there already."""
        return self._shared("network_profile", self.profiles, wanted, values, comment)

    def monitor(self, wanted: str, values: Mapping[str, Value], comment: str) -> str:
        """The name of the health monitor of these values, which may be there already."""
        return self._shared("health_monitor", self.monitors, wanted, values, comment)

    def _shared(self, kind: str, tables: list[Table], wanted: str, values: Mapping[str, Value], comment: str) -> str:
        for table in tables:
            if (
                all(table.values.get(key) == value for key, value in values.items())
                and len(table.values) == len(values) + 1
            ):
                return str(table.values["name"])
        found = self.name(kind, wanted)
        tables.append(Table(kind, {"name": found, **values}, [comment]))
        return found

    def pool(self, wanted: str, values: Mapping[str, Value], members: Iterable[Table], comments: Sequence[str]) -> str:
        found = self.name("pool", wanted)
        self.pools.append((Table("pool", {"name": found, **values}, list(comments)), list(members)))
        return found

    def service(self, wanted: str, values: Mapping[str, Value], comments: Sequence[str]) -> str:
        found = self.name("virtual_service", wanted)
        self.services.append(Table("virtual_service", {"name": found, **values}, list(comments)))
        return found

    def tables(self, director: Table, fleet: Table) -> tuple[Table, ...]:
        """All of them in the order of the example file."""
        pools = [table for pool, members in self.pools for table in (pool, *members)]
        named = {name for table, _ in self.pools for name in _strings(table.values.get("health_monitors"))}
        monitors = [table for table in self.monitors if table.values["name"] in named]
        return (director, fleet, *self.bgp, *self.profiles, *monitors, *pools, *self.services)


def _strings(value: Value | None) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []

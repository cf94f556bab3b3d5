"""One configuration out of several files: tables are joined, lists of tables follow each other, and nothing that is
said in one file can be said otherwise in another. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.config.locate import Lines
from appliance.config.problems import Finding, Location, Problem, path_text, value_at


@dataclass(frozen=True)
class Part:
    """The text of one file."""

    source: str
    """What to call it in messages."""

    text: str


@dataclass
class Merged:
    """The data of all files as of one, and where each thing comes from.

    Positions in lists count over all files, in their order: that is what messages show as paths.
    """

    parts: Sequence[Part]
    data: dict[str, Any] = field(default_factory=dict)
    findings: list[tuple[int, Finding]] = field(default_factory=list)
    """What is said twice: in which part, and where in it."""

    begins: dict[Location, list[tuple[int, int]]] = field(default_factory=dict)
    """Of every list of tables: the position of each part's first element, and the part."""

    owners: dict[Location, int] = field(default_factory=dict)
    """Of every other key, the part that has it first."""

    def problems(self, findings: Sequence[Finding]) -> list[Problem]:
        """With source and line, in the order of files and lines."""
        lines: dict[int, Lines] = {}
        placed = [self._at_home(found) for found in findings] + [(part, found, found) for part, found in self.findings]
        problems = []
        for part, at, found in placed:
            if part not in lines:
                lines[part] = Lines(self.parts[part].text)
            line = lines[part].of(at.location)
            path = path_text(found.location)
            value = value_at(self.data, found.location)
            problems.append((part, Problem(self.parts[part].source, line, path, found.message, found.remedy, value)))
        return [problem for _, problem in sorted(problems, key=lambda pair: (pair[0], pair[1].line or 1))]

    def _at_home(self, found: Finding) -> tuple[int, Finding, Finding]:
        """The part that a finding is about, and the finding as its location is in there."""
        location = found.location
        for length in range(len(location), 0, -1):
            begins = self.begins.get(location[:length])
            if begins is not None:
                index = location[length] if len(location) > length else 0
                if not isinstance(index, int):
                    continue
                first, part = next((first, part) for first, part in reversed(begins) if first <= index)
                local = (*location[:length], index - first, *location[length + 1 :])
                return part, Finding(local if len(location) > length else location, found.message, found.remedy), found
            if (owner := self.owners.get(location[:length])) is not None:
                return owner, found, found
        return 0, found, found


def merge(parts: Sequence[Part], contents: Sequence[Mapping[str, Any]]) -> Merged:
    """
    Args:
        parts: the texts; the first one is the main file.
        contents: what they say, in the same order.
    """
    merged = Merged(parts)
    for number, content in enumerate(contents):
        for key, value in content.items():
            _add(merged, merged.data, (key,), key, value, number)
    return merged


def _add(merged: Merged, into: dict[str, Any], location: Location, key: str, value: Any, part: int) -> None:
    if key not in into:
        if _is_tables(value):
            merged.begins[location] = [(0, part)]
            into[key] = list(value)
        else:
            merged.owners[location] = part
            into[key] = {} if isinstance(value, dict) else value
            if isinstance(value, dict):
                for inner, inside in value.items():
                    _add(merged, into[key], (*location, inner), inner, inside, part)
        return
    there = into[key]
    if isinstance(value, dict) and isinstance(there, dict):
        for inner, inside in value.items():
            _add(merged, there, (*location, inner), inner, inside, part)
    elif _is_tables(value) and _is_tables(there):
        merged.begins[location].append((len(there), part))
        there.extend(value)
    elif location != ("schema_version",) or value != there:
        first = merged.owners[location] if location in merged.owners else merged.begins[location][0][1]
        other = merged.parts[first]
        finding = Finding(location, f"{other.source} says this already", "leave it out in one of the two files")
        merged.findings.append((part, finding))


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)

"""Changes of single things in the texts of a configuration that leave everything else as somebody has written it:
comments, order, blank lines. Pure.

    put(document, [Edit("pool", "web", {"name": "web", "member": [{"address": "203.0.113.21"}]})])

gives the document with the texts for `Transactions.change`. What comes out is read again and compared with what was
meant, so a text that cannot be changed this way is refused and not damaged.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.config.document import Document
from appliance.config.layout import Layout
from appliance.config.problems import ConfigError, Problem

NAMED = ("network_profile", "health_monitor", "pool", "virtual_service")
"""Kinds of which there are many, by name."""

SINGLE = ("director", "api", "connection_log", "doctor", "tier2", "fleet", "bgp")
"""Kinds of which there is one."""


@dataclass(frozen=True)
class Edit:
    """What one thing is to be."""

    kind: str
    """Of NAMED, or of SINGLE."""

    name: str | None
    """None for SINGLE."""

    values: Mapping[str, Any] | None
    """All its keys, as in TOML; those that it has and that are not here are taken out. None: it goes, with the comments
    right above it."""

    within: str | None = None
    """The file whose part of it is meant, where several have one."""


def put(document: Document, edits: Sequence[Edit]) -> Document:
    """Things become what they are to be; those that are not there yet are added, to the main file if none is named.

    Args:
        document: what is written now.
        edits: of different things; however many there are, each file is gone through once.

    Raises:
        ConfigError: there is no such kind, or nothing of that name to remove, or a text cannot be changed this way.
    """
    homes = _homes(document)
    mine: dict[str, list[tuple[Edit, int | None]]] = {}
    for edit in edits:
        if edit.kind not in (NAMED if edit.name is not None else SINGLE):
            known = ", ".join(NAMED if edit.name is not None else SINGLE)
            raise _problem(document.path.name, edit.kind, "there is no such kind of thing", f"known: {known}")
        there = homes.get((edit.kind, edit.name), {})
        file = edit.within or next(iter(there), document.path.name)
        if file not in there and edit.values is None:
            message = f"there is no {edit.kind} {edit.name or ''}".rstrip()
            raise _problem(document.path.name, edit.kind, message, "nothing was changed")
        mine.setdefault(file, []).append((edit, there.get(file)))
    texts, says = dict(document.texts), dict[str, Mapping[str, Any]]()
    for file, changes in mine.items():
        texts[file], says[file] = _edited(file, document.texts[file], document.data[file], changes)
        if not texts[file].strip() and file != document.path.name:
            del texts[file], says[file]  # nothing is left of it
    return document.having(texts, says)


def _homes(document: Document) -> dict[tuple[str, str | None], dict[str, int]]:
    """The files that have each thing, and where in there: its place in its list, 0 for what there is one of."""
    homes: dict[tuple[str, str | None], dict[str, int]] = {}
    for file in document.texts:
        for kind in SINGLE:
            if isinstance(document.data[file].get(kind), dict):
                homes.setdefault((kind, None), {})[file] = 0
        for kind in NAMED:
            found = document.data[file].get(kind)
            for i, table in enumerate(found if isinstance(found, list) else ()):
                if isinstance(table, dict) and isinstance(table.get("name"), str):
                    homes.setdefault((kind, table["name"]), {}).setdefault(file, i)
    return homes


def _edited(
    file: str, text: str, says: Mapping[str, Any], changes: Sequence[tuple[Edit, int | None]]
) -> tuple[str, Mapping[str, Any]]:
    """One file with its changes, and what it says then."""
    try:
        made, meant = _changed(text, says, changes)
        now = tomllib.loads(made)
    except ValueError as error:
        raise _problem(file, "", f"cannot be changed without damage: {error}", "change the file by hand") from None
    if now != meant:
        raise _problem(file, "", "cannot be changed without damage to something else", "change the file by hand")
    return made, now


def _changed(
    text: str, says: Mapping[str, Any], changes: Sequence[tuple[Edit, int | None]]
) -> tuple[str, Mapping[str, Any]]:
    """The text with its changes, and what it is to say."""
    layout, meant = Layout(text), dict(says)
    lists: dict[str, list[Any]] = {}
    as_values = set[str]()
    for edit, there in changes:
        kind, values = edit.kind, dict(edit.values) if edit.values is not None else None
        if edit.name is None:
            if values is None:
                layout.remove((kind,))
                meant.pop(kind)
            else:
                if there is None:
                    layout.append((kind,), values, array=False)
                else:
                    layout.update((kind,), says[kind], values)
                meant[kind] = values
            continue
        if kind not in lists:
            lists[kind] = list(says.get(kind, []))
            as_values |= {kind} if layout.list_as_value((kind,)) else set()
        if kind not in as_values:
            if values is None:
                layout.remove((kind, there or 0))
            elif there is None:
                layout.append((kind,), values, array=True)
            elif says[kind][there] != values:
                layout.update((kind, there), says[kind][there], values)
        if there is None:
            lists[kind].append(values)
        else:
            lists[kind][there] = values
    for kind, whole in lists.items():
        left = [one for one in whole if one is not None]
        if left:
            meant[kind] = left
        else:
            meant.pop(kind, None)
        if kind in as_values and left:
            layout.update_list((kind,), left)
        elif kind in as_values:
            layout.remove((kind,))
    if meant == says:
        return text, says
    made = layout.text()
    # New lines end as the others do.
    return made.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in text else made, meant


def _problem(source: str, path: str, message: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(source, None, path, message, remedy)])

"""Changes of single things in the texts of a configuration that leave everything else as somebody has written it:
comments, order, blank lines. Pure.

    edit.put(document, "pool", "web", {"name": "web", "member": [{"address": "203.0.113.21"}]})

gives the texts for `Transactions.change`. What comes out is read again and compared with what was meant, so a text that
cannot be changed this way is refused and not damaged.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import tomlkit
from tomlkit.items import AoT, Array, InlineTable, Item

from appliance.config.document import Document
from appliance.config.locate import Lines
from appliance.config.problems import ConfigError, Location, Problem

NAMED = ("network_profile", "health_monitor", "pool", "virtual_service")
"""Kinds of which there are many, by name."""

SINGLE = ("director", "api", "connection_log", "doctor", "tier2", "fleet", "bgp")
"""Kinds of which there is one."""

_IDENTITY = ("name", "address")
"""What tells the elements of a list of tables apart."""


_TRAILING = re.compile(r"^[ \t]*\n(?:^[ \t]*(?:#[^\n]*)?(?:\n|\Z))*\Z", re.MULTILINE)
"""Blank lines and comments at the end, from the first blank line on."""

_COMMENTS = re.compile(r"(?:^[ \t]*#[^\n]*\n)+\Z", re.MULTILINE)
"""Comments right above what follows."""


def put(
    document: Document, kind: str, name: str | None, values: Mapping[str, Any], within: str | None = None
) -> Mapping[str, str]:
    """One thing becomes what *values* say; one that is not there yet is added to the main file.

    Args:
        document: what is written now.
        kind: of NAMED, or of SINGLE.
        name: of the thing; None for SINGLE.
        values: all its keys, as in TOML. Keys that it has and *values* have not are taken out.
        within: the file whose part of the thing is meant, where several have a part of it.

    Raises:
        ConfigError: the kind is unknown, or the text cannot be changed this way.
    """
    file, position = _find(document, kind, name, within)
    text = document.texts[file]
    inline = _inline_range(text, kind) if name is not None else None
    if inline is not None:
        array, dumped = _array(text, kind, inline)
        if position is None:
            array.insert(len(array), _inline(values))
        else:
            _update(array[position[1]], values)
        new = dumped()
    elif position is None:
        new = _longer(text, [(kind, _tables([values]) if name is not None else _table(values))])
    else:
        start, end = _range(text, position)
        scattered = (start, end) == (0, len(text))
        # Comments behind a blank line are about what follows: what is added comes before them.
        end -= len(text[start:end]) - len(_TRAILING.sub("", text[start:end]))
        block: Any = tomlkit.parse(text[start:end])
        if name is None:
            _update(block[kind], values)
        else:
            _update(block[kind][position[1] if scattered else 0], values)
        new = text[:start] + tomlkit.dumps(block) + text[end:]
    return _checked(
        document, file, new, _meant(document.data[file], kind, position, dict(values), named=name is not None)
    )


def add(document: Document, things: Sequence[tuple[str, Mapping[str, Any]]]) -> Mapping[str, str]:
    """Many new things at once, each of a kind of NAMED; they come into the main file, as `put` does with one.

    Raises:
        ConfigError: they cannot come all at once; one by one they may.
    """
    file = document.path.name
    text, meant = document.texts[file], dict(document.data[file])
    if any(_inline_range(text, kind) is not None for kind, _ in things):
        raise _problem(file, "", "some would come into lists on one line", "put them there one by one")
    for kind, values in things:
        meant[kind] = [*meant.get(kind, []), dict(values)]
    return _checked(document, file, _longer(text, [(kind, _tables([values])) for kind, values in things]), meant)


def _longer(text: str, parts: Sequence[tuple[str, Any]]) -> str:
    """With tables at the end, a blank line above each."""
    blocks = []
    for kind, tables in parts:
        block = tomlkit.document()
        block.add(kind, tables)
        blocks.append(tomlkit.dumps(block).strip())
    return "\n\n".join([text.rstrip(), *blocks]) + "\n"


def remove(document: Document, kind: str, name: str | None, within: str | None = None) -> Mapping[str, str]:
    """One thing is taken out, with the comments that stand right above it.

    Args:
        document: what is written now.
        kind: of NAMED, or of SINGLE.
        name: of the thing; None for SINGLE.
        within: the file whose part of the thing is meant, where several have a part of it.

    Raises:
        ConfigError: there is none, or the text cannot be changed this way.
    """
    file, position = _find(document, kind, name, within)
    if position is None:
        raise _problem(document.path.name, kind, f"there is no {kind} {name or ''}".rstrip(), "nothing was changed")
    text = document.texts[file]
    inline = _inline_range(text, kind) if name is not None else None
    meant = _meant(document.data[file], kind, position, None, named=name is not None)
    if inline is not None and kind in meant:
        return _checked(document, file, _without_element(text, kind, inline, position[1]), meant)
    start, end = inline or _range(text, position)
    if inline is None and (start, end) == (0, len(text)):
        raise _problem(file, kind, "its tables are scattered over the file", "change the file by hand")
    above, below = text[:start], text[end:]
    kept = _COMMENTS.search(text, start, end) if below else None
    new = _COMMENTS.sub("", above) + (kept[0] if kept else "") + below
    return _checked(document, file, new, meant)


def _find(document: Document, kind: str, name: str | None, within: str | None = None) -> tuple[str, Location | None]:
    """The file that has it, and where in there; the main file (or the one that is asked for) where none has it."""
    if kind not in (NAMED if name is not None else SINGLE):
        known = ", ".join(NAMED if name is not None else SINGLE)
        raise _problem(document.path.name, kind, "there is no such kind of thing", f"known: {known}")
    for file in document.texts:
        if within not in (None, file):
            continue
        found = document.data[file].get(kind)
        if name is None and isinstance(found, dict):
            return file, (kind,)
        if name is not None and isinstance(found, list):
            for i, table in enumerate(found):
                if isinstance(table, dict) and table.get("name") == name:
                    return file, (kind, i)
    return within or document.path.name, None


def _range(text: str, position: Location) -> tuple[int, int]:
    """From where to where the tables at *position* stand; the whole text where others stand between them.

    A large file takes a second to look through, and minutes to be read by what keeps comments.
    """
    offsets = Lines(text).offsets
    mine = [offset for location, offset in offsets.items() if location[: len(position)] == position]
    others = [offset for location, offset in offsets.items() if location[: len(position)] != position[: len(location)]]
    start = min(mine)
    end = min((offset for offset in others if offset > start), default=len(text))
    if text[start] != "[" or max(mine) >= end:
        return 0, len(text)
    return start, end


def _inline_range(text: str, kind: str) -> tuple[int, int] | None:
    """From where to where an inline list of tables stands, `pool = [{...}, ...]`, with what follows it up to the next
    key; None where there is none."""
    if re.search(rf"""^[ \t]*["']?{kind}["']?[ \t]*=[ \t]*\[""", text, re.MULTILINE) is None:
        return None  # which is soon seen in a large file
    offsets = Lines(text).offsets
    start = offsets.get((kind,))
    if start is None or text[start] == "[":
        return None
    others = (offset for location, offset in offsets.items() if location[0] != kind and offset > start)
    return start, min(others, default=len(text))


def _array(text: str, kind: str, place: tuple[int, int]) -> tuple[Any, Callable[[], str]]:
    """The list at a place, to be changed, and what makes a text of it again."""
    start, end = place
    block: Any = tomlkit.parse(text[start:end])
    return block[kind], lambda: text[:start] + tomlkit.dumps(block) + text[end:]


def _without_element(text: str, kind: str, place: tuple[int, int], position: str | int) -> str:
    """An inline list without one of its tables, and without the comments right above that."""
    at = Lines(text).offsets[kind, position]
    line = text.rfind("\n", 0, at) + 1
    above = text[:line] if text[line:at].strip() else _COMMENTS.sub("", text[:line])
    array, dumped = _array(above + text[line:], kind, (place[0], place[1] - line + len(above)))
    del array[position]
    return dumped()


def _update(there: Any, values: Mapping[str, Any]) -> None:
    """A table gets these values, and no others. What has them already is not touched."""
    table: MutableMapping[str, Any] = there
    for key in [key for key in table if key not in values]:
        del table[key]
    for key, value in values.items():
        known = table.get(key)
        if known is not None and _plain(known) == value:
            continue
        if isinstance(value, Mapping) and isinstance(known, MutableMapping):
            _update(known, value)
        elif isinstance(known, AoT) and _is_tables(value):
            _update_list(known, value, _table)
        elif isinstance(known, Array) and isinstance(value, list) and value:
            _update_list(known, value, _inline)
        elif _is_tables(value) and not isinstance(table, InlineTable):
            table.pop(key, None)
            table[key] = _tables(value)
        else:
            table[key] = _inline(value)


def _update_list(there: AoT | Array, values: Sequence[Any], make: Callable[[Any], Any]) -> None:
    """A list becomes one of these values. What stays keeps its place and its comments: only what comes, goes or moves
    is touched."""
    known, wanted = [_identity(_plain(item)) for item in there], [_identity(value) for value in values]
    for what, i, j, first, last in reversed(SequenceMatcher(None, known, wanted, autojunk=False).get_opcodes()):
        if what == "equal":
            for at, value in zip(range(i, j), values[first:last], strict=True):
                if isinstance(value, Mapping):
                    _update(there[at], value)
            continue
        for at in reversed(range(i, j)):
            del there[at]
        for value in reversed(values[first:last]):
            there.insert(i, make(value))


def _identity(value: Any) -> str:
    """What tells one element of a list from another."""
    if isinstance(value, Mapping):
        value = next(((key, value[key]) for key in _IDENTITY if key in value), value)
    return repr(value)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _table(values: Mapping[str, Any]) -> Any:
    table = tomlkit.table()
    # What are tables of their own comes behind the plain values, or those would belong to them.
    for key, value in sorted(values.items(), key=lambda pair: _is_tables(pair[1])):
        table.add(key, _tables(value) if _is_tables(value) else _inline(value))
    return table


def _tables(values: Sequence[Mapping[str, Any]]) -> AoT:
    tables = tomlkit.aot()
    for value in values:
        tables.append(_table(value))
    return tables


def _inline(value: Any) -> Any:
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        for key, inner in value.items():
            table.append(key, _inline(inner))
        return table
    if isinstance(value, list):
        array = tomlkit.array()
        for inner in value:
            array.append(_inline(inner))
        return array
    return tomlkit.item(value)


def _plain(value: Any) -> Any:
    return value.unwrap() if isinstance(value, Item) else value


def _meant(
    says: Mapping[str, Any], kind: str, position: Location | None, values: dict[str, Any] | None, *, named: bool
) -> dict[str, Any]:
    """What the text is to say; *values* None: without that thing."""
    data = dict(says)
    if not named:
        data.pop(kind, None)
        return data if values is None else {**data, kind: values}
    there: Any = list(data.get(kind, []))
    data[kind] = there
    if position is None:
        there.append(values)
    elif values is None:
        del there[position[1]]
        if not there:
            del data[kind]
    else:
        there[position[1]] = values
    return data


def _checked(document: Document, file: str, text: str, meant: dict[str, Any]) -> Mapping[str, str]:
    try:
        says = tomllib.loads(text)
    except ValueError as error:
        raise _problem(file, "", f"cannot be changed without damage: {error}", "change the file by hand") from None
    if says != meant:
        raise _problem(file, "", "cannot be changed without damage to something else", "change the file by hand")
    return {**document.texts, file: text}


def _problem(source: str, path: str, message: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(source, None, path, message, remedy)])

"""A TOML text as it is laid out: tables in their order, each with its header, its keys and the comments that are about
it. Pure.

    layout = Layout(text)
    layout.update(("pool", 3), old, new)    # a table gets other values
    layout.remove(("pool", 7))
    layout.append(("pool",), {"name": "new"}, array=True)
    layout.text()

Comments right above a header are about that table, and those behind a blank line about what follows: they stay when
the table above them changes or goes. Keys, and lists that are values, are changed by tomlkit, in the text of their own
table only.
"""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import tomlkit
from tomlkit.items import Array, Item

from appliance.config.locate import Lines
from appliance.config.problems import Location

_IDENTITY = ("name", "address")
"""What tells the elements of a list of tables apart."""

_BLANK = re.compile(r"^[ \t]*\r?\n", re.MULTILINE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass
class _Segment:
    """A table of the text, without the tables that are in it."""

    location: Location
    above: str
    """Comments right above its header."""

    header: str
    """The line of it; empty for what stands before all headers."""

    body: str
    """Lines of keys, and the comments right behind them."""

    tail: str
    """From the first blank line on, up to what is about the next table."""

    gone: bool = False
    parsed: Any = None
    """The body, once it is changed."""

    @property
    def text(self) -> str:
        body = self.body if self.parsed is None else tomlkit.dumps(self.parsed)
        return f"{self.above}{self.header}{body}"


class Layout:
    """A text that is being changed."""

    def __init__(self, text: str) -> None:
        """
        Args:
            text: valid TOML.
        """
        self._slots = [[segment] for segment in _segments(text)]
        """Each segment of the text, with new ones before and behind it."""

        self._inside: dict[Location, list[int]] = {}
        """Which slots have a table, or one within it."""

        self._own: dict[Location, _Segment] = {}
        for number, (segment,) in enumerate(self._slots):
            self._own[segment.location] = segment
            for length in range(1, len(segment.location) + 1):
                self._inside.setdefault(segment.location[:length], []).append(number)

    def text(self) -> str:
        """What it has become."""
        made, tail = list[str](), ""
        for segment in (segment for slot in self._slots for segment in slot):
            if not segment.gone:
                made += [tail, segment.text]
                tail = segment.tail
            elif tail.strip():
                tail += segment.tail.lstrip("\r\n") if tail.endswith("\n\n") else segment.tail
            elif segment.tail.strip():
                tail = segment.tail
            else:
                # One blank line is enough between what was above and what was below.
                tail = max(tail, segment.tail, key=len)
        whole, top = "".join((*made, tail)), self._own[()]
        return whole if top.text or top.tail else whole.lstrip("\r\n")  # where the first table was at the very top

    # -----------------------------------------------------------------------------------------------------------------
    # Tables

    def append(self, at: Location, values: Mapping[str, Any], *, array: bool) -> None:
        """One more table at the end.

        Args:
            at: where it is, or the list that it is an element of.
            values: what is in it.
            array: whether it is an element of a list.
        """
        last = next(slot[-1] for slot in reversed(self._slots) if slot)
        if last.location or f"{last.text}{last.tail}".strip():
            last.tail = f"{last.tail.rstrip()}\n\n" if last.tail.strip() else "\n"
        self._slots.append([_new(at, values, array=array)])

    def remove(self, at: Location) -> None:
        """A table goes, with what is in it and the comments right above."""
        numbers = set(self._inside.get(at, ()))
        for number in numbers:
            for segment in self._slots[number]:
                if _is_in(segment, at):
                    segment.gone = True
                    segment.tail = "" if number + 1 in numbers else segment.tail  # that is about what goes as well
        if at not in self._own and _has(around := self._container(at[:-1]), at[-1]):
            del around[at[-1]]

    def update(self, at: Location, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """A table gets other values. What has them already is not touched.

        Args:
            at: where it is.
            old: what it says.
            new: what it is to say.
        """
        if self._inside.get(at) is None:
            self._update_inline(at, new)
            return
        for key in old:
            if key not in new:
                self.remove((*at, key))
        for key, value in new.items():
            inner, had = (*at, key), old.get(key)
            if key in old and had == value:
                continue
            if inner in self._inside and isinstance(had, Mapping) and isinstance(value, Mapping):
                self.update(inner, had, value)
            elif inner in self._inside and isinstance(had, list) and _is_tables(value):
                self._update_tables(inner, had, value)
            elif _is_tables(value) and not _has(self._container(at), key):
                for one in value:
                    self._behind(self._inside[at][-1], [_new(inner, one, array=True)])
            else:
                if inner in self._inside:
                    self.remove(inner)
                self._set(at, key, value)

    def list_as_value(self, at: Location) -> bool:
        """Whether a list is written as a value, `pool = [{...}, ...]`."""
        return isinstance(self._container(at), Array)

    def _update_tables(self, at: Location, old: Sequence[Any], new: Sequence[Any]) -> None:
        """Elements of a list with headers come, go, change and move, each with its comments."""
        steps = _steps(old, new)
        loose: dict[str, list[int]] = {}
        for what, i, j, _, _ in steps:
            for position in range(i, j) if what != "equal" else ():
                loose.setdefault(_identity(old[position]), []).append(position)
        # A blank line above each new one, where the last two have one between them.
        space = "\n" * (len(old) > 1 and self._is_spaced((*at, len(old) - 1)))
        for what, i, _, first, last in steps:
            made = list[_Segment]()
            for offset, value in enumerate(new[first:last]):
                moved = loose.get(_identity(value)) if what != "equal" else [i + offset]
                if not moved:
                    made.append(_new(at, value, array=True, tail=space))
                    continue
                position = moved.pop(0)
                if old[position] != value:
                    self.update((*at, position), old[position], value)
                if what != "equal":
                    made += self._taken((*at, position), space)
            if made and i < len(old):
                self._slots[self._inside[(*at, i)][0]][:0] = made
            elif made:
                self._behind(self._inside[at][-1], made)
        for positions in loose.values():
            for position in positions:
                self.remove((*at, position))

    def _taken(self, at: Location, space: str) -> list[_Segment]:
        """A table that moves; what is below it stays where it is."""
        taken = list[_Segment]()
        for number in self._inside[at]:
            taken += [segment for segment in self._slots[number] if _is_in(segment, at)]
            self._slots[number] = [segment for segment in self._slots[number] if not _is_in(segment, at)]
        left = _Segment((), "", "", "", taken[-1].tail, gone=True)
        taken[-1].tail = space
        self._slots[self._inside[at][-1]].append(left)
        return taken

    def _is_spaced(self, at: Location) -> bool:
        return _BLANK.match(self._slots[self._inside[at][0] - 1][-1].tail) is not None

    def _behind(self, number: int, new: Sequence[_Segment]) -> None:
        """Tables behind another one, and before the comments about what follows."""
        slot = self._slots[number]
        new[-1].tail, slot[-1].tail = slot[-1].tail, new[-1].tail
        slot += new

    # -----------------------------------------------------------------------------------------------------------------
    # Keys

    def _container(self, at: Location) -> Any:
        """What tomlkit knows of a table or a list; None where only headers say that it is there."""
        for length in range(len(at), -1, -1):
            segment = self._own.get(at[:length])
            if segment is None:
                continue
            if segment.parsed is None:
                segment.parsed = tomlkit.parse(segment.body)
            found = segment.parsed
            for step in at[length:]:
                if not _has(found, step):
                    return None
                found = found[step]
            return found
        return None

    def _set(self, at: Location, key: str, value: Any) -> None:
        """A key of a table, in its own text."""
        container = self._container(at)
        if container is None:
            container = self._with_header(at)
        known = container.get(key)
        if isinstance(value, Mapping) and isinstance(known, MutableMapping):
            self._update_inline((*at, key), value)
        elif isinstance(known, Array) and isinstance(value, list) and value:
            self.update_list((*at, key), value)
        else:
            container[key] = _inline(value)

    def _with_header(self, at: Location) -> Any:
        """A table that only those within it are written of gets a header of its own."""
        number = self._inside[at][0]
        segment = _new(at, {}, array=False, tail="\n")
        segment.parsed = tomlkit.document()
        self._slots[number].insert(0, segment)
        self._own[at] = segment
        return segment.parsed

    def _update_inline(self, at: Location, new: Mapping[str, Any]) -> None:
        container = self._container(at)
        for key in [key for key in container if key not in new]:
            del container[key]
        for key, value in new.items():
            container = self._container(at)
            if key not in container or _plain(container[key]) != value:
                self._set(at, key, value)

    def update_list(self, at: Location, new: Sequence[Any]) -> None:
        """A list that is written as a value becomes another one."""
        steps = _steps([_plain(item) for item in self._container(at)], new)
        self._strip(at, [position for what, i, j, _, _ in steps if what != "equal" for position in range(i, j)])
        for what, i, j, first, last in reversed(steps):
            if what == "equal":
                for position, value in zip(range(i, j), new[first:last], strict=True):
                    if isinstance(value, Mapping):
                        self._update_inline((*at, position), value)
                continue
            if i < j:
                array = self._container(at)
                for position in reversed(range(i, j)):
                    del array[position]
            if first < last:
                self._insert(at, i, new[first:last])

    def _strip(self, at: Location, positions: Sequence[int]) -> None:
        """The comments right above elements of a list that go, go with them."""
        if not positions:
            return
        segment, text, offsets = self._read_again(at)
        cut = False
        for position in sorted(positions, reverse=True):
            line = text.rfind("\n", 0, offsets[position]) + 1
            above = line if text[line : offsets[position]].strip() else _comments_above(text, line)
            if above < line:
                text, cut = text[:above] + text[line:], True
        if cut:
            segment.parsed = tomlkit.parse(text)

    def _insert(self, at: Location, position: int, values: Sequence[Any]) -> None:
        """New elements of a list, above the comments of the one that they come before."""
        array = self._container(at)
        if position < len(array):
            segment, text, offsets = self._read_again(at)
            line = text.rfind("\n", 0, offsets[position]) + 1
            indent = text[line : offsets[position]]
            if not indent.strip():
                line = _comments_above(text, line)
                new = "".join(f"{indent}{_inline(value).as_string()},\n" for value in values)
                segment.parsed = tomlkit.parse(text[:line] + new + text[line:])
                return
        elif len(array):
            self._with_comma(at)
            array = self._container(at)
        for value in reversed(values):
            array.insert(position, _inline(value))

    def _with_comma(self, at: Location) -> None:
        """A comma behind the last element of a list of several lines, where there is none."""
        segment, text, offsets = self._read_again(at)
        end = Lines(text).ends[(*at[len(segment.location) :], len(offsets) - 1)]
        rest = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*").match(text, end)
        behind = rest.end() if rest else end
        if text[behind] == "]" and "\n" in text[end:behind]:
            segment.parsed = tomlkit.parse(f"{text[:end]},{text[end:]}")

    def _read_again(self, at: Location) -> tuple[_Segment, str, list[int]]:
        """The text that a list is in as a value, and where its elements begin."""
        segment = next(self._own[at[:length]] for length in range(len(at), -1, -1) if at[:length] in self._own)
        text, inside = tomlkit.dumps(segment.parsed), at[len(segment.location) :]
        offsets = Lines(text).offsets
        return segment, text, [offsets[(*inside, i)] for i in range(len(self._container(at)))]


def _segments(text: str) -> list[_Segment]:
    """All of them: first what stands before all headers, empty if need be."""
    if text and not text.endswith("\n"):
        text += "\n"
    lines = Lines(text)
    made = list[_Segment]()
    location: Location = ()
    begin, above, content = 0, "", 0
    heads = [(table, text.rfind("\n", 0, start) + 1, end) for table, start, end in lines.headers]
    for table, start, end in (*heads, (None, len(text), lines.end)):
        # What is on the line of the last value, a comment say, is still a part of it.
        body = text.find("\n", end) + 1 if end else 0
        stop = _comments_above(text, start, body) if table is not None else start
        about = text[stop:start]
        blank = _BLANK.search(text, body, stop)
        cut = (blank.start() if blank else stop) if body else 0
        made.append(_Segment(location, above, text[begin:content], text[content:cut], text[cut:stop]))
        if table is not None:
            location, begin, above = table, start, about
            content = text.find("\n", start) + 1
    return made


def _comments_above(text: str, line: int, least: int = 0) -> int:
    """Where the comments right above a line begin; at *least* at the earliest."""
    while line > least:
        before = text.rfind("\n", least, line - 1) + 1 or least
        if not text[before:line].lstrip(" \t").startswith("#"):
            break
        line = before
    return line


def _new(at: Location, values: Mapping[str, Any], *, array: bool, tail: str = "") -> _Segment:
    """A table as it is written where there was none; those in it come behind it."""
    words = [key for key in at if isinstance(key, str)]
    name = ".".join(key if _BARE.fullmatch(key) else tomlkit.string(key).as_string() for key in words)
    keys = tomlkit.document()
    for key, value in values.items():
        if not _is_tables(value):
            keys.add(key, _inline(value))
    inner = "".join(
        _new((*at, key), one, array=True).text for key, value in values.items() if _is_tables(value) for one in value
    )
    return _Segment(at, "", f"[[{name}]]\n" if array else f"[{name}]\n", tomlkit.dumps(keys) + inner, tail)


def _is_in(segment: _Segment, at: Location) -> bool:
    """Whether it is a table, or within it."""
    return segment.location[: len(at)] == at


def _steps(old: Sequence[Any], new: Sequence[Any]) -> list[tuple[str, int, int, int, int]]:
    """What makes one list of another, as of `difflib`."""
    known, wanted = [_identity(one) for one in old], [_identity(one) for one in new]
    return list(SequenceMatcher(None, known, wanted, autojunk=False).get_opcodes())


def _identity(value: Any) -> str:
    """What tells one element of a list from another."""
    if isinstance(value, Mapping):
        value = next(((key, value[key]) for key in _IDENTITY if key in value), value)
    return repr(value)


def _has(container: Any, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(container, Array) and step < len(container)
    return isinstance(container, MutableMapping) and step in container


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


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

"""Which line each key of a TOML text stands on. Pure.

`tomllib` reads values but gives no positions. This scanner reads no values: it walks a text that `tomllib` has accepted
already, so it needs to know only where keys begin and where values end (TOML 1.0.0).
"""

import bisect
import re

from appliance.config.problems import Location

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_BETWEEN = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
"""White space, line ends and comments."""

_SCALAR = re.compile(r"[^,\]}#\n]*")
_ESCAPE = re.compile(r'\\(?:["\\bfnrt]|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))')
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


_PLAIN = re.compile(r"""([A-Za-z0-9_-]+)[ \t]*=[ \t]*(?:"[^"\\\n]*"(?!")|[A-Za-z0-9+-][^#\n]*)""")
"""A bare key with a short text, a number or the like: most lines of most files."""


class Lines:
    """The lines of every key and list element of one text."""

    def __init__(self, text: str) -> None:
        """Scan *text*, which must be valid TOML."""
        self._ends = [match.start() for match in re.finditer("\n", text)]
        scanner = _Scanner(text)
        self.offsets = scanner.offsets
        """Where each thing begins, by its location: the bracket of a table's header, or a key."""

        self.ends = scanner.ends
        """Where each element of a list that is written as a value ends."""

        self.headers = scanner.headers
        """All headers, in their order: the table's location, where the header begins, and where what is above it ends
        (a value or a header; then come blank lines and comments)."""

        self.end = scanner.end
        """Where the last value or header ends."""

    def of(self, location: Location) -> int:
        """The line of *location*, or of the nearest thing around it that is written down; the file is around all."""
        for length in range(len(location), 0, -1):
            offset = self.offsets.get(location[:length])
            if offset is not None:
                return bisect.bisect_left(self._ends, offset) + 1
        return 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self.offsets: dict[Location, int] = {}
        self.headers: list[tuple[Location, int, int]] = []
        self.ends: dict[Location, int] = {}
        self._text = text
        self._at = 0
        self._arrays: dict[Location, int] = {}
        """How many elements each array of tables has so far."""

        table: Location = ()
        above = 0
        while self._skip(_BETWEEN) < len(text):
            start = self._at
            if text[start] == "[":
                table = self._header()
                self.headers.append((table, start, above))
            elif plain := _PLAIN.match(text, start):
                self._note((*table, plain[1]), start)
                self._at = plain.end()
            else:
                self._pair(table)
            above = self._at
        self.end = above

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        if match:
            self._at = match.end()
        return self._at

    def _note(self, location: Location, offset: int) -> None:
        self.offsets.setdefault(location, offset)

    def _header(self) -> Location:
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        keys = self._key()
        self._at += 2 if is_array else 1
        location: Location = ()
        for i, key in enumerate(keys):
            location += (key,)
            if i == len(keys) - 1 and is_array:
                self._note(location, start)
                self._arrays[location] = self._arrays.get(location, 0) + 1
            elif location not in self._arrays:
                self._note(location, start)
                continue
            location += (self._arrays[location] - 1,)
            self._note(location, start)
        return location

    def _pair(self, table: Location) -> None:
        start = self._at
        location = table
        for key in self._key():
            location += (key,)
            self._note(location, start)
        self._at += 1  # the equals sign
        self._value(location)

    def _key(self) -> list[str]:
        """A dotted key; afterwards the cursor is on what follows it and its white space."""
        parts = []
        while True:
            self._skip(_BLANK)
            start = self._at
            if self._text[start] in "\"'":
                self._string()
                raw = self._text[start + 1 : self._at - 1]
                parts.append(_ESCAPE.sub(_unescape, raw) if self._text[start] == '"' else raw)
            else:
                self._skip(_BARE_KEY)
                parts.append(self._text[start : self._at])
            self._skip(_BLANK)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _value(self, location: Location) -> None:
        self._skip(_BLANK)
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._at += 1
            position = 0
            while self._text[self._skip(_BETWEEN)] != "]":
                self._note((*location, position), self._at)
                self._value((*location, position))
                self.ends[*location, position] = self._at
                position += 1
                if self._text[self._skip(_BETWEEN)] == ",":
                    self._at += 1
            self._at += 1
        elif first == "{":
            self._at += 1
            while self._text[self._skip(_BETWEEN)] != "}":
                self._pair(location)
                if self._text[self._skip(_BETWEEN)] == ",":
                    self._at += 1
            self._at += 1
        else:
            self._skip(_SCALAR)

    def _string(self) -> None:
        quote = self._text[self._at]
        delimiter = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(delimiter)
        while not self._text.startswith(delimiter, self._at):
            self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
        self._at += len(delimiter)
        if len(delimiter) == 3:
            # Up to two more quotes before the closing three belong to the string.
            while self._text.startswith(quote, self._at):
                self._at += 1


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else _ESCAPES[match[0][1]]

"""The language of keepalived.conf: words, blocks in braces, comments, includes, definitions. Pure.

Follows keepalived.conf(5): `#` and `!` begin comments, double quotes keep words together, `$NAME=value` defines what
`$NAME` and `${NAME}` are replaced by, over several lines where each ends with a backslash.
"""

import re
from collections import deque

from appliance.config.problems import ConfigError, Problem
from appliance.importers.base import Node, Source, broken

MAX_LINES = 50_000
"""That definitions are replaced by."""

MAX_FILES = 256
MAX_DEPTH = 32
"""Of blocks in blocks; there are five in keepalived."""

_MAX_LINE = 65536
_SHOWN = 60
_DEFINITION = re.compile(r"\s*\$([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)(?=\s|$)")
_WORD = re.compile(r'(?:\$\{\w+\}|[^\s"#!{}])+')
_INCLUDE = re.compile(r"include[abmrw]{0,4}")

SECRETS = frozenset({"auth_pass", "password"})
"""Keywords whose words are not repeated."""


class Word(Node):
    """One word."""

    __slots__ = ("value",)

    def __init__(self, place: str, value: str) -> None:
        super().__init__(place, value[:_SHOWN])
        self.value = value


class Directive(Node):
    """A keyword with its words, and what stands in braces behind it."""

    __slots__ = ("_of", "block", "keyword", "words")

    def __init__(self, place: str, words: list[str]) -> None:
        secret = words[0] in SECRETS
        shown = f"{words[0]} …" if secret else " ".join(words)
        super().__init__(place, shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…")
        self.keyword = words[0]
        self.words = [Word(place, word) for word in words]
        self.block: list[Directive] = []
        self._of: dict[str, list[Directive]] = {}
        """What is in the block, by keyword."""

        self.parts = list(self.words)
        if secret:
            for word in self.words[1:]:
                word.text = "…"

    def has(self, directive: "Directive") -> None:
        self.block.append(directive)
        self._of.setdefault(directive.keyword, []).append(directive)
        self.parts.append(directive)

    @property
    def arguments(self) -> list[str]:
        """Its words behind the keyword, without using them."""
        return [word.value for word in self.words[1:]]

    def argument(self, i: int = 0) -> str | None:
        """One of them, which counts as used, and so does the keyword."""
        self.words[0].use()
        if len(self.words) <= i + 1:
            return None
        self.words[i + 1].use()
        return self.words[i + 1].value

    def all(self) -> list[str]:
        """All of them, used."""
        for word in self.words:
            word.use()
        return self.arguments

    def each(self, *keywords: str) -> list["Directive"]:
        """What is in the block with one of these keywords, in the order of the file."""
        found = [directive for keyword in keywords for directive in self._of.get(keyword, ())]
        return found if len(keywords) == 1 else sorted(found, key=lambda directive: directive.order)


class Missing(Directive):
    """An include of what is not there."""

    __slots__ = ()


class Conditional(Directive):
    """A line that counts on some directors only."""

    __slots__ = ()


class Definition(Directive):
    """A definition, which is used where it is referred to."""

    __slots__ = ("lines",)

    def __init__(self, place: str, name: str, lines: list["_Line"]) -> None:
        super().__init__(place, [f"${name}=", *(line.text for line in lines if line.text)])
        self.lines = lines


class _Line:
    """A line, and where it stands."""

    __slots__ = ("number", "source", "text")

    def __init__(self, source: str, number: int, text: str) -> None:
        self.source = source
        self.number = number
        self.text = text

    @property
    def place(self) -> str:
        return f"{self.source}:{self.number}"


def parse(source: Source) -> Directive:
    """The tree of a file and all that it includes. Its root has one word, the file's name.

    Raises:
        ConfigError: braces or quotes do not match, or it never ends.
    """
    return _Parser(source).root


class _Parser:
    def __init__(self, source: Source) -> None:
        self._include = source.include
        self._lines = deque(_lines(source.name, source.text))
        self._definitions: dict[str, Definition] = {}
        self._files = 0
        self.root = Directive(source.name, [source.name])
        self.root.words[0].use()
        self._open: list[tuple[Directive, _Line]] = []
        """Blocks that are not closed yet, and where each was opened."""

        self._last: Directive | None = None
        """What an opening brace belongs to."""

        self._replaced = 0
        while self._lines:
            self._take(self._lines.popleft())
        if self._open:
            directive, line = self._open[-1]
            raise _bad(line, f"the block of `{directive.text}` is not closed", "write a } where it ends")

    @property
    def _into(self) -> Directive:
        return self._open[-1][0] if self._open else self.root

    def _take(self, line: _Line) -> None:
        if line.text.lstrip().startswith("@"):
            tokens = _tokens(line)
            if any(is_brace for _, is_brace in tokens):
                raise _bad(line, "a conditional line opens or closes a block", "leave in the lines of one director")
            self._into.has(Conditional(line.place, [word for word, _ in tokens]))
            return
        if match := _DEFINITION.fullmatch(line.text):
            self._define(match[1], match[2], line)
            return
        if (lines := self._block_of_lines(line)) is not None:
            self._replaced += len(lines)
            if self._replaced > MAX_LINES:
                raise _bad(line, "definitions go on for ever", "see whether one has itself in it")
            self._lines.extendleft(reversed(lines))
            return
        line = _Line(line.source, line.number, self._substituted(line))
        self._words_of(line)

    def _define(self, name: str, value: str, line: _Line) -> None:
        lines = [_Line(line.source, line.number, value)]
        while lines[-1].text.rstrip().endswith("\\"):
            lines[-1].text = lines[-1].text.rstrip()[:-1]
            if not self._lines:
                break
            lines.append(self._lines.popleft())
        definition = Definition(line.place, name, lines)
        self._into.has(definition)
        self._definitions[name] = definition

    def _block_of_lines(self, line: _Line) -> list[_Line] | None:
        """What a line stands for that has nothing but the name of a definition over several lines."""
        match = _REFERENCE.fullmatch(line.text.strip())
        found = self._definitions.get(match[1] or match[2]) if match else None
        if found is None or len(found.lines) == 1:
            return None
        found.all()
        return [_Line(each.source, each.number, each.text) for each in found.lines]

    def _substituted(self, line: _Line) -> str:
        text = line.text

        def value(match: re.Match[str]) -> str:
            found = self._definitions.get(match[1] or match[2])
            if found is None or len(found.lines) > 1:
                return match[0]
            found.all()
            return found.lines[0].text.strip()

        for _ in range(MAX_DEPTH):
            again = _REFERENCE.sub(value, text)
            if again == text:
                return text
            text = again
            if len(text) > _MAX_LINE:
                break
        raise _bad(line, "a definition has itself in it", "see what its names stand for")

    def _words_of(self, line: _Line) -> None:
        words: list[str] = []
        for word, is_brace in _tokens(line):
            if not is_brace:
                words.append(word)
                continue
            self._finish(line, words)
            words = []
            if word == "{":
                if self._last is None:
                    raise _bad(line, "a block without a keyword", "write what it is in front of the {")
                if len(self._open) == MAX_DEPTH:
                    raise _bad(line, f"more than {MAX_DEPTH} blocks in each other", "close blocks with }")
                self._open.append((self._last, line))
                self._last = None
            else:
                if not self._open:
                    raise _bad(line, "a } without a {", "leave it out, or look for a } too many above")
                self._open.pop()
                self._last = None
        self._finish(line, words)

    def _finish(self, line: _Line, words: list[str]) -> None:
        if not words:
            return
        if _INCLUDE.fullmatch(words[0]) and len(words) > 1:
            self._included(line, words)
            return
        self._last = Directive(line.place, words)
        self._into.has(self._last)

    def _included(self, line: _Line, words: list[str]) -> None:
        found = self._include(words[1], line.source)
        directive = (Directive if found else Missing)(line.place, words)
        self._into.has(directive)
        if not found:
            return
        directive.argument()
        self._files += len(found)
        if self._files > MAX_FILES:
            raise _bad(line, f"more than {MAX_FILES} files are included", "see whether one includes itself")
        self._lines.extendleft(reversed([each for name, text in found for each in _lines(name, text)]))


def _lines(source: str, text: str) -> list[_Line]:
    return [_Line(source, number, line) for number, line in enumerate(text.split("\n"), 1)]


_Token = tuple[str, bool]
"""A word, or a brace: then the second is true."""


def _tokens(line: _Line) -> list[_Token]:
    tokens: list[_Token] = []
    text, at = line.text, 0
    while at < len(text):
        c = text[at]
        if c in "#!":
            break
        if c.isspace():
            at += 1
        elif c in "{}":
            tokens.append((c, True))
            at += 1
        elif c == '"':
            value, at = _quoted(line, at + 1)
            tokens.append((value, False))
        else:
            match = _WORD.match(text, at)
            end = match.end() if match else at + 1
            tokens.append((text[at:end], False))
            at = end
    return tokens


def _quoted(line: _Line, at: int) -> tuple[str, int]:
    """What stands in quotes, and where they end."""
    text, value = line.text, list[str]()
    while at < len(text):
        if text[at] == '"':
            return "".join(value), at + 1
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        value.append(text[at])
        at += 1
    raise _bad(line, "a quote is not closed", 'write a " where the word ends')


def _bad(line: _Line, message: str, remedy: str) -> ConfigError:
    return broken(line.source, line.number, "", message, remedy)


def problem(node: Node, message: str, remedy: str) -> Problem:
    """A mistake in a directive."""
    source, _, line = node.place.rpartition(":")
    return Problem(source, int(line), node.text, message, remedy)

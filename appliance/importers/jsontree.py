"""JSON as a tree of nodes with paths. Pure."""

import json
import re
from collections.abc import Iterator
from typing import NoReturn

from appliance.config.problems import ConfigError, Problem, path_text, shown
from appliance.importers.base import Node, Source

MAX_DEPTH = 64
"""Of tables and lists in each other; a controller's objects have some ten."""

_SECRET = re.compile(r"secret|password|passphrase|private_key|token|community_string")
"""Keys whose values are not repeated."""

_Path = tuple[str | int, ...]


class Json(Node):
    """A value: a table (`keys`), a list (`items`) or a scalar (`value`)."""

    __slots__ = ("items", "key", "keys", "value")

    def __init__(self, place: str, key: str | int, value: object, text: str) -> None:
        super().__init__(place, text)
        self.key = key
        self.value = value
        self.keys: dict[str, Json] = {}
        self.items: list[Json] = []

    @property
    def is_table(self) -> bool:
        return isinstance(self.value, _Pairs)

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, list) and not isinstance(self.value, _Pairs)

    def get(self, *path: str) -> "Json | None":
        """What is at a path of keys; None: nothing."""
        found: Json | None = self
        for key in path:
            found = found.keys.get(key) if found is not None else None
        return found

    def peek(self, *path: str) -> object:
        """The scalar at a path, without using it; None: there is none."""
        found = self.get(*path)
        return None if found is None or found.parts or found.is_table or found.is_list else found.value

    def each(self) -> Iterator["Json"]:
        """The elements of a list; a table alone counts as a list of one."""
        return iter(self.items if self.is_list else [self])


class _Pairs(list[tuple[str, object]]):
    """The keys and values of a table, repeated ones among them."""


def parse(source: Source) -> Json:
    """The tree of a text.

    Raises:
        ConfigError: it is no JSON, or a key stands twice in a table.
    """
    try:
        data = json.loads(source.text, object_pairs_hook=_Pairs, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
        raise ConfigError([Problem(source.name, error.lineno, "", message, "give the export as it is")]) from None
    except (ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(
            [Problem(source.name, None, "", f"not usable: {message}", "give the export as it is")]
        ) from None
    problems: list[Problem] = []
    root = _node(data, (), source.name, problems)
    if problems:
        raise ConfigError(problems)
    return root


def is_secret(key: str | int) -> bool:
    """Whether the value of a key is nothing for reports."""
    return isinstance(key, str) and _SECRET.search(key) is not None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number of JSON")


def _node(value: object, path: _Path, source: str, problems: list[Problem]) -> Json:
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()  # halves of a character cannot be written again
    key = path[-1] if path else ""
    text = "a table" if isinstance(value, _Pairs) else "null" if value is None else shown(value)
    if is_secret(key) and isinstance(value, str):
        text = "…"
    node = Json(path_text(path) or source, key, value, text)
    if len(path) > MAX_DEPTH:
        problems.append(
            Problem(source, None, path_text(path[:8]), f"more than {MAX_DEPTH} tables in each other", "cut it")
        )
    elif isinstance(value, _Pairs):
        for name, each in value:
            name = name.encode("utf-8", "replace").decode()
            if name in node.keys:
                problems.append(
                    Problem(source, None, path_text((*path, name)), "the key stands twice", "leave one out")
                )
            node.keys[name] = _node(each, (*path, name), source, problems)
        node.parts = list(node.keys.values())
    elif isinstance(value, list):
        node.items = [_node(each, (*path, i), source, problems) for i, each in enumerate(value)]
        node.parts = list(node.items)
    return node

"""What is wrong with a configuration, where, and what to do about it. Pure."""

import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

Location = tuple[str | int, ...]
"""Keys and list positions from the top of the file: `("pool", 0, "member", 1, "ratio")`."""

SECRETS = frozenset({"password", "password_hash", "token_hash"})
"""Keys whose values nobody repeats: messages end up in logs."""

_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


@dataclass(frozen=True)
class Problem:
    """One mistake."""

    source: str
    """The file, as the operator named it."""

    line: int | None
    """From 1; None when the file as a whole is meant."""

    path: str
    """`pool[0].member[1].ratio`; empty when the file as a whole is meant."""

    message: str
    """What is wrong, with the value."""

    remedy: str
    """What to do."""

    value: str | int | float | bool | None = None
    """What stands there, where that is a single value and no secret."""

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        what = f"{self.path}: {self.message}" if self.path else self.message
        return f"{place}: {what}; {self.remedy}" if self.remedy else f"{place}: {what}"


class ConfigError(Exception):
    """A configuration cannot be used. Every mistake that could be found is in `problems`, in the order of lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class BadValueError(ValueError):
    """One value is not what its key asks for. The place is added by whoever knows it."""

    def __init__(self, message: str, remedy: str) -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message}; {remedy}")


@dataclass(frozen=True)
class Finding:
    """A mistake at a location, before the line is looked up."""

    location: Location
    message: str
    remedy: str


def path_text(location: Location) -> str:
    """`("pool", 0, "name")` as `pool[0].name`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """A wrong value the way it stands in TOML, shortened."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list):
        text = "a list"
    else:
        text = str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def value_at(data: object, location: Location) -> str | int | float | bool | None:
    """The single value at a location, as JSON has it; None for tables, lists, secrets and what is not there."""
    if SECRETS & set(location):
        return None
    for step in location:
        if isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        elif isinstance(data, dict):
            data = data.get(step)
        else:
            return None
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    return data if isinstance(data, str | int | float | bool) else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean `ratio`? ` when one known word is close to *word*, else empty."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`? " if close else ""

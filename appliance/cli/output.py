"""What commands have in common: exit codes, tables, colour, JSON, problems."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

from cyclopts import Parameter

if TYPE_CHECKING:  # a command that reads no configuration need not wait for its modules
    from appliance.config.problems import Problem

API_VERSION = "v1"
"""Stands in every JSON document; what scripts may rely on changes only with it."""


Output = Literal["table", "wide", "json", "yaml", "name"]
"""Of what lists things: a table, a wide one, for programs, or names alone, one a line."""

Form = Literal["table", "json", "yaml"]
FormOption = Annotated[Form, Parameter(name=["--output", "-o"], help="As text, as JSON, or as YAML.")]
"""Of commands that show something else than lists (listing.py has theirs)."""


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    """The daemon does not answer."""
    CONFIG = 4
    """The configuration is invalid or cannot be read."""
    NOT_FOUND = 5
    REVOKED = 6
    """Somebody else has ordered something that makes waiting futile."""
    DIFFERENT = 7
    """The data plane does not do what its model says: an error of ours."""
    UNKNOWN = 8
    """It is not known whether what was asked for was done: no answer came after it had been sent."""
    INTERRUPTED = 130


def table(header: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> str:
    """A plain aligned table, without boxes and without blanks at the ends of lines.

    Args:
        header: the columns' names.
        rows: cells, shown by `str`.
        right: columns to align to the right.
    """
    lines = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    to_right = set(right)

    def aligned(line: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if name in to_right else cell.ljust(width)
            for cell, width, name in zip(line, widths, header, strict=True)
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(aligned, lines))


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values, one pair a line, values aligned."""
    lines = [(name, str(value)) for name, value in pairs]
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in lines)


def colour_wanted(stream: TextIO) -> bool:
    """Whether people look at *stream* and like colour (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO) -> str:
    """*text* with an SGR code (ECMA-48) around it where colour is wanted."""
    return f"\033[{code}m{text}\033[0m" if colour_wanted(stream) else text


def print_json(document: Mapping[str, object], stream: TextIO | None = None) -> None:
    """One document with a version, on standard output unless said otherwise."""
    print(json.dumps({"apiVersion": API_VERSION, **document}, indent=2, ensure_ascii=False), file=stream)


def structured(document: Any, form: Form, *, on_a_line: bool = False) -> str:
    """A document in a form that programs read.

    Args:
        document: anything that JSON knows.
        form: "json" or "yaml".
        on_a_line: one of many that follow each other: JSON on a line, YAML with its mark in front.
    """
    if form == "yaml":
        import yaml

        return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, explicit_start=on_a_line)).rstrip()
    return json.dumps(document, indent=None if on_a_line else 2, ensure_ascii=False)


def complain(message: str) -> None:
    """One line on standard error."""
    print(f"{paint('onward:', '31', sys.stderr)} {message}", file=sys.stderr)


def warn(message: str) -> None:
    print(f"{paint('warning:', '33', sys.stderr)} {message}", file=sys.stderr)


def print_problems(problems: Sequence["Problem"]) -> None:
    """Every mistake of a configuration on standard error, one a line, and how many there are."""
    for problem in problems:
        place, _, rest = str(problem).partition(": ")
        print(f"{paint(place + ':', '1', sys.stderr)} {rest}", file=sys.stderr)
    print(f"{len(problems)} problem{'s' if len(problems) != 1 else ''}", file=sys.stderr)


def quiet_stdout() -> None:
    """Nobody reads our output any more: what is still buffered must not raise once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

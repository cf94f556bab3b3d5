"""What all commands that list things have in common: the table, other forms of output, order, and looking again.

A command describes its table by a `View`, takes `ListOptions`, and calls `show`.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from appliance.cli.orders import OrderError, refused
from appliance.cli.output import API_VERSION, Exit, Output, complain, table
from appliance.cli.status import AnswerError, UnreachableError, unanswered

WATCH_S = 1.0

Document = Mapping[str, Any]


@Parameter(name="*")
@dataclass(frozen=True)
class ListOptions:
    """How a list is to be shown."""

    output: Annotated[
        Output,
        Parameter(name=["--output", "-o"], help="A table, a wide one, JSON, YAML, or the names alone, one a line."),
    ] = "table"
    as_json: Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="The same as -o json.")] = (
        False
    )
    no_header: Annotated[
        bool, Parameter(name="--no-header", negative="", show_default=False, help="Only the rows of the table.")
    ] = False
    sort_by: Annotated[
        str | None,
        Parameter(name="--sort-by", help='A column\'s name; with "-" in front, the largest first.'),
    ] = None
    watch: Annotated[
        list[float] | None,
        Parameter(
            name=["--watch", "-w"],
            consume_multiple=(0, 1),
            negative="",
            help="Show again every so many seconds (1 when none are given), until Ctrl-C; as JSON, a document a line.",
        ),
    ] = None

    @property
    def form(self) -> Output:
        return "json" if self.as_json else self.output

    @property
    def pause_s(self) -> float | None:
        """None: it is shown once."""
        return None if self.watch is None else self.watch[0] if self.watch else WATCH_S


DEFAULTS = ListOptions()


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    get: Callable[[Document], object]
    """What it says of a row; what rows are sorted by."""
    text: Callable[[Any], str] = str
    """That, as it is shown."""
    right: bool = False
    wide: bool = False
    """Shown with `-o wide` only."""


@dataclass(frozen=True)
class View:
    """How a document is shown as a table."""

    columns: Sequence[Column]
    rows: Callable[[Document], Sequence[Document]]
    name: Callable[[Document], str]
    """Of a row: what other commands take for it."""
    document: Callable[[Document], Document] = lambda document: document
    """What JSON and YAML have."""
    above: Callable[[Document], Iterable[str]] = lambda _: ()
    below: Callable[[Document], Iterable[str]] = lambda _: ()
    empty: str = ""
    """In the place of a table without rows."""


class UsageError(Exception):
    """The options make no sense here."""


class NotFoundError(Exception):
    """What is asked for is not there; the text says what is."""


def show(view: View, options: ListOptions, fetch: Callable[[], Document]) -> int:
    """Show a list once, or again and again.

    Args:
        view: what the list looks like.
        options: how it is wanted.
        fetch: asks for the document; raises OrderError, UnreachableError, AnswerError or NotFoundError.

    Returns:
        The exit code.
    """
    pause_s = options.pause_s
    if pause_s is not None and not 0.1 <= pause_s <= 3600:
        complain("--watch takes 0.1 to 3600 seconds")
        return Exit.USAGE
    try:
        document: Document | None = fetch()
        if document is not None and pause_s is None:
            print(rendered(view, document, options))
            return Exit.OK
        return _watch(view, document, options, fetch, pause_s or WATCH_S)
    except OrderError as error:
        return refused(error)
    except (UnreachableError, AnswerError) as error:
        return unanswered(error)
    except (UsageError, NotFoundError) as error:
        complain(str(error))
        return Exit.USAGE if isinstance(error, UsageError) else Exit.NOT_FOUND


def _watch(
    view: View, document: Document | None, options: ListOptions, fetch: Callable[[], Document], pause_s: float
) -> int:
    """Once a director has answered, its absence is news and no reason to leave: it may be starting again."""
    clear = "\x1b[H\x1b[J" if sys.stdout.isatty() and options.form in ("table", "wide") else ""
    try:
        while True:
            if document is not None:
                print(clear + rendered(view, document, options), flush=True)
            time.sleep(pause_s)
            try:
                document = fetch()
            except UnreachableError as error:
                document = None
                complain(str(error))
            except OrderError as error:
                if error.code is not Exit.UNREACHABLE:
                    raise
                document = None
                complain(str(error))
    except KeyboardInterrupt:
        return Exit.OK


def rendered(view: View, document: Document, options: ListOptions) -> str:
    """A document as it is wanted.

    Raises:
        UsageError: there is no column to sort by that is called so.
    """
    form = options.form
    rows = _sorted(view, view.rows(document), options.sort_by)
    if form in ("json", "yaml"):
        whole = {"apiVersion": API_VERSION, **view.document(document)}
        if form == "json":
            # A document a line is what scripts can read while it goes on.
            return json.dumps(whole, indent=None if options.watch is not None else 2, ensure_ascii=False)
        import yaml

        return str(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, explicit_start=True)).rstrip()
    if form == "name":
        return "\n".join(map(view.name, rows))
    columns = [column for column in view.columns if form == "wide" or not column.wide]
    header = [column.name for column in columns]
    cells = [[column.text(column.get(row)) for column in columns] for row in rows]
    lines = table(header, cells, right=[column.name for column in columns if column.right]).splitlines()
    if options.no_header:
        return "\n".join(lines[1:])
    if not rows and view.empty:
        lines = [view.empty]
    return "\n".join([*view.above(document), *lines, *view.below(document)])


def _sorted(view: View, rows: Sequence[Document], sort_by: str | None) -> Sequence[Document]:
    if sort_by is None:
        return rows
    wanted = sort_by.removeprefix("-").casefold().replace("_", " ").replace("-", " ")
    found = [column for column in view.columns if column.name.casefold() == wanted]
    if not found:
        names = ", ".join(column.name.casefold() for column in view.columns if column.name)
        raise UsageError(f"there is no column {sort_by.removeprefix('-')!r} to sort by; columns: {names}")
    get = found[0].get

    return sorted(rows, key=lambda row: _natural(get(row)), reverse=sort_by.startswith("-"))


def _natural(value: object) -> list[tuple[int, float, str]]:
    """Numbers by size, also within texts: web2 comes before web10. What is not there is the least."""
    if value is None:
        return []
    if isinstance(value, bool | int | float):
        return [(0, float(value), "")]
    parts = re.split(r"(\d+)", str(value).casefold())
    return [(0, float(part), "") if part.isdecimal() else (1, 0.0, part) for part in parts if part]


def or_dash(value: object) -> str:
    """A cell of what may not be there."""
    return "-" if value is None or value == "" else str(value)

"""`onward config`: configurations that were in force, what another one would do, and the way back."""

import re
import time
import tomllib
from collections.abc import Mapping
from difflib import unified_diff
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter
from appliance.cli.listing import DEFAULTS, Column, ListOptions, View, or_dash
from appliance.cli.listing import show as show_list
from appliance.cli.objects import OfFiles, objects_at
from appliance.cli.orders import (
    CHANGE_TIMEOUT_S,
    AtRestartOption,
    ConfigOption,
    Document,
    ForceOption,
    OrderError,
    ReasonOption,
    SocketOption,
    ask,
    refused,
    where,
)
from appliance.cli.output import Exit, complain, print_json, print_problems, structured
from appliance.cli.plans import exit_of, orders_at, show_outcome
from appliance.cli.reload import REFUSED
from appliance.config.document import read_document
from appliance.config.merge import Part, merge
from appliance.config.problems import ConfigError

app = App(
    name="config",
    help="Configurations that were in force, and what another one would do.",
    help_formatter=HelpFormatter(),
)

JsonOption = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON.")]
SCHEMA = files("appliance.config") / "onward.schema.json"
_BROKEN = 2
"""Of `diff`, as diff(1): 0 the same, 1 different, 2 trouble."""


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _mark(number: int, document: Mapping[str, Any]) -> str:
    return "*" if number == document["in_force"] else "+" if number == document["staged"] else ""


HISTORY = View(
    columns=(
        Column("REVISION", lambda row: f"{row['number']}{row['mark']}"),
        Column("SINCE", lambda row: row["at"], _moment),
        Column("WHO", lambda row: row["who"], or_dash),
        Column("BY", lambda row: row["via"]),
        Column("WHAT", lambda row: row["summary"], or_dash),
        Column("DIGEST", lambda row: row["digest"][:16], wide=True),
        Column("WHY", lambda row: row["why"]),
    ),
    rows=lambda document: [
        {**row, "in_force": row["number"] == document["in_force"], "mark": _mark(row["number"], document)}
        for row in document["revisions"]
    ],
    name=lambda row: str(row["number"]),
)


@app.command
def history(*, config: ConfigOption = None, socket: SocketOption = None, options: ListOptions = DEFAULTS) -> int:
    """List the revisions: what was in force since when, by whom, and why. The latest comes first; * is in force, and +
    waits for a restart."""
    return show_list(
        HISTORY, options, lambda: ask(where(socket, config), "GET", "/v1/config/revisions", timeout_s=CHANGE_TIMEOUT_S)
    )


@app.command
def show(
    revision: int | None = None,
    /,
    *,
    json: JsonOption = False,
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Print the texts of a revision, or of what is in force.

    Parameters
    ----------
    revision
        A number from `onward config history`.
    """
    try:
        document = _texts_of(where(socket, config), revision)
    except OrderError as error:
        return refused(error)
    if json:
        print_json(document)
        return Exit.OK
    texts = document["texts"]
    for name, text in texts.items():
        if len(texts) > 1:
            print(f"# ---- {name}")
        print(text, end="" if text.endswith("\n") else "\n")
    return Exit.OK


@app.command
def diff(
    other: str | None = None,
    /,
    *,
    text: Annotated[bool, Parameter(name="--text", negative="", show_default=False)] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Say what another configuration would do: services, slots and flows that move, routes, members to be asked.

    Nothing is changed. Exit code 0 when nothing is different, 1 when something is, 2 or more when it cannot be said or
    would be refused.

    Parameters
    ----------
    other
        A revision's number, or a configuration file; by default the files of the director as they are now.
    text
        Print the lines that differ.
    """
    try:
        path = where(socket, config)
        in_force = _texts_of(path, None)
        texts, places = _other(path, other, in_force)
        if text:
            lines = list(_unified(in_force["texts"], texts))
            print("".join(lines), end="")
            return 1 if lines else Exit.OK
        body = {"texts": texts, "dry_run": True, "force": True}  # the files are what is asked about
        outcome = ask(path, "PUT", "/v1/config", body, timeout_s=CHANGE_TIMEOUT_S, also=REFUSED)
        outcome["orders"] = orders_at(path)
        outcome["problems"] = [_placed(problem, places) for problem in outcome["problems"]]
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
    except OrderError as error:
        complain(str(error))
        return max(error.code, _BROKEN)
    show_outcome(outcome, json=json)
    if outcome["ok"]:
        return Exit.OK if outcome["unchanged"] else 1
    return max(exit_of(outcome), _BROKEN)


@app.command
def rollback(
    revision: int,
    /,
    *,
    dry_run: Annotated[bool, Parameter(name="--dry-run", negative="")] = False,
    force: ForceOption = False,
    at_restart: AtRestartOption = False,
    json: JsonOption = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Put an earlier revision into force again, and its texts into the files.

    It becomes a revision of its own, so this can be undone as well. The revision that is in force takes back what waits
    for a restart.

    Exit codes: 0 done; 4 it would be refused as it is written, or takes a restart; 1 not done; 3 no director answers; 5
    there is no such revision; 8 no answer came, and `onward config history` says whether it was done.

    Parameters
    ----------
    revision
        A number from `onward config history`.
    dry_run
        Say what would happen, and do nothing.
    """
    body = {
        "revision": revision,
        "dry_run": dry_run,
        "force": force,
        "at_restart": at_restart,
        "reason": reason,
    }
    try:
        path = where(socket, config)
        outcome = ask(path, "POST", "/v1/config/rollback", body, timeout_s=CHANGE_TIMEOUT_S, also=REFUSED)
    except OrderError as error:
        return refused(error)
    return show_outcome(outcome, json=json)


@app.command
def export(
    *,
    output: Annotated[
        Literal["toml", "json", "yaml"], Parameter(name=["--output", "-o"], help="As TOML, JSON or YAML.")
    ] = "toml",
    json: JsonOption = False,
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Print the whole configuration as one document: all its files together, with their secrets, without comments.

    It is that of the director; with --config, and no director that runs with it, that of the file. `onward check`,
    `onward run` and `onward apply -f` take what is printed.
    """
    try:
        data = _merged(socket, config)
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
    except OrderError as error:
        return refused(error)
    if json or output == "json":
        print_json(data)
    elif output == "yaml":
        print(structured(data, "yaml"))
    else:
        import tomlkit

        print(tomlkit.dumps(data), end="")
    return Exit.OK


def _merged(socket: Path | None, config: Path | None) -> Document:
    """All files as one.

    Raises:
        ConfigError, OrderError: they cannot be read.
    """
    if config is not None and isinstance(objects_at(socket, config), OfFiles):
        from appliance.config.load import load_document

        document = read_document(config)
        load_document(document)
        parts = document.parts
    else:
        texts = _texts_of(where(socket, config), None)["texts"]
        parts = tuple(Part(name, text) for name, text in texts.items())
    return merge(parts, [tomllib.loads(part.text) for part in parts]).data


@app.command
def schema() -> int:
    """Print the JSON Schema of configuration files, for editors and other programs."""
    print(SCHEMA.read_text(), end="")
    return Exit.OK


def _texts_of(path: Path, revision: int | None) -> Document:
    resource = "/v1/config" if revision is None else f"/v1/config/revisions/{revision}"
    return ask(path, "GET", resource, timeout_s=CHANGE_TIMEOUT_S)


def _other(path: Path, other: str | None, in_force: Document) -> tuple[dict[str, str], dict[str, str]]:
    """The texts to compare with, by the names that they would have with the director; and where they are, by the place
    that the director would look for them at.

    Raises:
        ConfigError, OrderError: they cannot be read.
    """
    main = Path(in_force["path"])
    if other is not None and other.isdecimal():
        texts = dict(_texts_of(path, int(other))["texts"])
        return texts, {str(main.parent / name): f"revision {other}, {name}" for name in texts}
    document = read_document(main if other is None else Path(other))
    names = {name: main.name if name == document.path.name else name for name in document.texts}
    return (
        {names[name]: text for name, text in document.texts.items()},
        {str(main.parent / names[name]): str(document.path.parent / name) for name in names},
    )


def _placed(problem: Document, places: Mapping[str, str]) -> Document:
    """A mistake at the place where whoever asked has the text."""
    pattern = re.compile("|".join(map(re.escape, places)))
    texts = {key: problem[key] for key in ("source", "message", "remedy", "text")}
    return {**problem, **{key: pattern.sub(lambda found: places[found[0]], text) for key, text in texts.items()}}


def _unified(before: dict[str, str], after: dict[str, str]) -> "list[str]":
    lines: list[str] = []
    for name in {**before, **after}:
        old, new = (texts.get(name, "").splitlines(keepends=True) for texts in (before, after))
        lines += unified_diff(old, new, f"in force/{name}", f"new/{name}")
    return lines

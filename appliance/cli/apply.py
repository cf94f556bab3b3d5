"""`onward apply`: all objects of a file in one step."""

import json as jsons
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from appliance.cli.nouns import ConfigOption, DryRun, Json, show_change
from appliance.cli.objects import How, RefusedChangeError, objects_at
from appliance.cli.orders import AtRestartOption, ForceOption, OrderError, ReasonOption, SocketOption, refused
from appliance.cli.output import Exit, complain
from appliance.config.problems import did_you_mean
from appliance.objects.kinds import KINDS, Kind

STDIN = "-"
_CHANGE = ("op", "name", "object", "if_match")
_SHOWN = ("apiVersion", "kind", "etag", "file", "used_by", "items")
"""What `show` and `list` print besides."""

Change = dict[str, Any]


class InputError(Exception):
    """A file does not say what is to be changed; the text says why."""


def apply(
    *,
    file: Annotated[
        tuple[str, ...], Parameter(name=["--file", "-f"], negative="", required=True, allow_leading_hyphen=True)
    ],
    dry_run: DryRun = False,
    force: ForceOption = False,
    at_restart: AtRestartOption = False,
    if_match: Annotated[
        str | None,
        Parameter(name="--if-match", help="Only while the configuration as a whole has this ETag; --json prints it."),
    ] = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    socket: SocketOption = None,
    json: Json = False,
) -> int:
    """Make and change all objects of a file in one step, or none: one revision, with every mistake told at once.

    A file is JSON, YAML or TOML. It has tables as the configuration has them ([[pool]], [[virtual_service]]): an object
    with a name becomes what is said, and keys that are not said have their defaults; of what there is one of, the keys
    that are said change. Or it has what `show` and `list` print with -o json or yaml: objects with their `kind`; an
    `etag` there must still be the object's. Beside `kind` there may be `op`: put, create, patch, delete; then `name` is
    enough to delete. Objects that no file has stay as they are.

    Exit codes: 0 done; 1 not done: something has changed meanwhile, or it could not be put into force; 2 a file cannot
    be read; 3 no director answers; 4 the configuration would have mistakes; 8 no answer came, and `onward config
    history` says whether it was done.

    Parameters
    ----------
    file
        What is to be; - is standard input. May be repeated: all of them in one step.
    """
    try:
        changes, places = read(file)
        objects = objects_at(socket, config)
        outcome = objects.apply(changes, match=if_match, how=How(dry_run, reason, force, at_restart))
    except InputError as error:
        complain(str(error))
        return Exit.USAGE
    except RefusedChangeError as error:
        for mistake in error.mistakes:
            complain(f"{_place(mistake.keys, changes, places) or mistake.place}: {mistake.text}")
        return error.code
    except OrderError as error:
        return refused(error)
    counts = dict.fromkeys(("made", "changed", "removed", "unchanged"), 0)
    for one in outcome["changes"]:
        counts[one["result"]] += 1
        if not json:
            print(f"{_id(one)}: {one['result']}")
    told = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
    show_change(objects, outcome, told, as_json=json)
    return Exit.OK


def _place(keys: tuple[str, ...] | None, changes: list[Change], places: list[str]) -> str | None:
    """Where a mistake is, in the file that was given."""
    if keys is None or len(keys) < 2 or not keys[1].isdecimal():
        return None
    number = int(keys[1])
    inside = ".".join(keys[3:] if keys[2:3] == ("object",) else keys[2:])
    return f"{places[number]}: {_id(changes[number])}{': ' if inside else ''}{inside}"


def _id(change: Mapping[str, Any]) -> str:
    name = change.get("name")
    return f"{change['kind']}/{name}" if name else str(change["kind"])


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read(files: tuple[str, ...]) -> tuple[list[Change], list[str]]:
    """All changes of some files, and the file of each.

    Raises:
        InputError: one cannot be read.
    """
    changes, places = list[Change](), list[str]()
    for name in files:
        try:
            text = sys.stdin.read() if name == STDIN else Path(name).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        label = "standard input" if name == STDIN else name
        found = [change for document in _documents(text, label) for change in changes_of(document, label)]
        if not found:
            raise InputError(f"{label}: there is no object in it")
        changes += found
        places += [label] * len(found)
    return changes, places


def _documents(text: str, label: str) -> list[Any]:
    """What is written, in whichever form it is."""
    errors = []
    forms = {"JSON": _json, "TOML": _toml, "YAML": _yaml}
    named = {".json": "JSON", ".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}.get(Path(label).suffix)
    for form in forms if named is None else [named]:
        try:
            return [jsons.loads(jsons.dumps(one, default=str)) for one in forms[form](text)]
        except (ValueError, TypeError) as error:
            errors.append(f"as {form}: {' '.join(str(error).split())}")
    raise InputError(f"{label}: cannot be read {'; '.join(errors)}")


def _json(text: str) -> list[Any]:
    return [jsons.loads(text, object_pairs_hook=_each_once)]


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is given twice")
    return made


def _toml(text: str) -> list[Any]:
    return [tomllib.loads(text)]


def _yaml(text: str) -> list[Any]:
    import yaml

    from appliance.config.yaml12 import LoaderOfUniqueKeys

    try:
        return [one for one in yaml.load_all(text, LoaderOfUniqueKeys) if one is not None]
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def changes_of(document: Any, label: str) -> Iterator[Change]:
    """What a document wants to be changed.

    Raises:
        InputError: it is none of the forms that there are.
    """
    if isinstance(document, list):
        for one in document:
            yield from changes_of(one, label)
    elif not isinstance(document, dict):
        raise InputError(f"{label}: {document!r:.40} is no object")
    elif "kind" in document:
        yield from _shown(document, label)
    else:
        for key, value in document.items():
            if key not in ("schema_version", "apiVersion"):
                yield from _tables(key, value, label)


def _shown(document: Mapping[str, Any], label: str) -> Iterator[Change]:
    """Objects as they are shown."""
    if strange := sorted(map(str, document.keys() - {*_CHANGE, *_SHOWN})):
        known = ("kind", *_CHANGE)
        raise InputError(
            f"{label}: {strange[0]}: unknown key; {did_you_mean(strange[0], known)}known: {', '.join(known)}"
        )
    if "items" in document:
        items = document["items"]
        for one in items if isinstance(items, list) else [items]:
            if not isinstance(one, dict):
                raise InputError(f"{label}: {one!r:.40} is no object")
            yield from _shown({"kind": document["kind"], **one}, label)
        return
    made = {"kind": document["kind"], **{key: document[key] for key in _CHANGE if document.get(key) not in (None, "")}}
    if document.get("etag"):
        made.setdefault("if_match", document["etag"])
    yield made


def _tables(key: str, value: Any, label: str) -> Iterator[Change]:
    """Objects as they stand in the configuration."""
    whole = {kind.place[0]: kind for kind in KINDS.values() if len(kind.place) == 1}
    if key not in whole:
        raise InputError(f"{label}: {key}: unknown key; {did_you_mean(key, whole)}known: kind, {', '.join(whole)}")
    kind = whole[key]
    if kind.key is not None:
        yield from _named(kind, value, f"{label}: {key}")
        return
    if not isinstance(value, dict):
        raise InputError(f"{label}: {key}: this is no table")
    rest = dict(value)
    for inner in KINDS.values():
        if inner.within is None and len(inner.place) == 2 and inner.place[0] == key and inner.place[1] in rest:
            yield from _named(inner, rest.pop(inner.place[1]), f"{label}: {key}.{inner.place[1]}")
    if rest or not value:
        yield {"op": "patch", "kind": kind.noun, "object": rest}


def _named(kind: Kind, value: Any, place: str) -> Iterator[Change]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InputError(f"{place}: this is no list of tables")
    for position, one in enumerate(value):
        name = kind.named(one)
        if not name:
            raise InputError(f"{place}[{position}]: it has no {kind.key}")
        yield {"kind": kind.noun, "name": name, "object": one}

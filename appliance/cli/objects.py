"""The objects of a configuration: those of a running director, or those of files that none runs with.

Both ways lead through the same core (`appliance.objects`) and the same checks, and say the same of what is wrong.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from pwd import getpwuid
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from appliance.cli.orders import Document, OrderError, ask, exchange, where
from appliance.cli.output import Exit

TIMEOUT_S = 120.0
_REFUSED = (400, 409, 412, 422, 500)
"""Statuses whose documents may say what is wrong with an object."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """An object, with what is known about it."""

    name: str
    values: dict[str, Any]
    """Canonical."""
    etag: str
    file: str
    used_by: tuple[str, ...]


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a change."""

    keys: tuple[str, ...] | None
    """Where in the object; None: it is about something else."""
    text: str
    """What, and what to do about it."""
    place: str
    """The same place in the files, for people."""


class RefusedChangeError(OrderError):
    """The configuration would have mistakes with this change, or could not be put into force."""

    def __init__(self, mistakes: Sequence[Mistake], code: Exit = Exit.CONFIG) -> None:
        super().__init__("; ".join(one.text for one in mistakes), code)
        self.mistakes = mistakes


class Objects(Protocol):
    """Where objects are."""

    where: str
    """For people."""

    def all(self, noun: str) -> list[Shown]:
        """All of a kind.

        Raises:
            OrderError: they cannot be read.
        """

    def change(
        self,
        method: str,
        noun: str,
        name: str,
        values: Values | None,
        *,
        match: str | None = None,
        dry_run: bool = False,
        reason: str = "",
    ) -> Document:
        """Make, replace, patch or remove an object.

        Args:
            method: POST makes it, PUT replaces it, PATCH changes some keys (RFC 7396), DELETE removes it.
            noun: its kind.
            name: of the object; empty for what there is one of.
            values: keys as in TOML; None for DELETE.
            match: ETags of which it must have one.
            dry_run: only say what would happen.
            reason: a note for the history.

        Returns:
            What came of it: `consequences` where a director says them, `diff`, `etag`, `revision`.

        Raises:
            RefusedChangeError: the configuration would have mistakes.
            OrderError: it was not made, and why.
        """


def find(objects: Objects, noun: str, name: str) -> Shown:
    """One object.

    Raises:
        OrderError: there is none, or it cannot be read.
    """
    from appliance.objects.kinds import kind_of

    kind = kind_of(noun)
    wanted = kind.name_of(name)
    there = objects.all(noun)
    for one in there:
        if one.name == wanted:
            return one
    from appliance.config.problems import did_you_mean

    names = [one.name for one in there]
    known = f"there are: {', '.join(names)}" if names else "there is none yet"
    raise OrderError(f"there is no {kind.one} {name}; {did_you_mean(name, names)}{known}", Exit.NOT_FOUND)


def objects_at(socket: Path | None, config: Path | None) -> Objects:
    """The objects of a director, or of files: those of *config* when no director runs with it.

    Raises:
        OrderError: neither can be had.
    """
    if config is None or socket is not None:
        return OfDirector(where(socket, config))
    running = OfDirector(where(None, config))
    try:
        if Path(running.source()).resolve() == config.resolve():
            return running  # nothing changes behind its back
    except OrderError as error:
        if error.code is not Exit.UNREACHABLE:
            raise
    return OfFiles(config)


# ---------------------------------------------------------------------------------------------------------------------


class OfDirector:
    """Asked over its control socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self.where = f"the director at {socket}"

    def source(self) -> str:
        """Its main configuration file.

        Raises:
            OrderError: nobody answers.
        """
        return str(ask(self._socket, "GET", "/v1/config", timeout_s=TIMEOUT_S)["path"])

    def all(self, noun: str) -> list[Shown]:
        """See `Objects.all`."""
        from appliance.objects.kinds import kind_of

        if kind_of(noun).key is None:
            return self._single(noun)
        items = ask(self._socket, "GET", f"/v1/objects/{noun}", timeout_s=TIMEOUT_S)["items"]
        return [Shown(one["name"], one["object"], one["etag"], one["file"], tuple(one["used_by"])) for one in items]

    def _single(self, noun: str) -> list[Shown]:
        try:
            values, headers = exchange(self._socket, "GET", f"/v1/objects/{noun}", timeout_s=TIMEOUT_S)
        except OrderError as error:
            if error.code is Exit.NOT_FOUND:
                return []
            raise
        return [Shown("", values, headers["ETag"], "", ())]

    def change(
        self,
        method: str,
        noun: str,
        name: str,
        values: Values | None,
        *,
        match: str | None = None,
        dry_run: bool = False,
        reason: str = "",
    ) -> Document:
        """See `Objects.change`."""
        query = urlencode({key: value for key, value in (("dry_run", "true" * dry_run), ("reason", reason)) if value})
        one = "" if method == "POST" or not name else f"/{quote(name, safe='')}"
        path = f"/v1/objects/{noun}{one}" + (f"?{query}" if query else "")
        headers = {} if match is None else {"If-Match": match}
        outcome, _ = exchange(self._socket, method, path, values, timeout_s=TIMEOUT_S, also=_REFUSED, headers=headers)
        if outcome.get("errors"):
            code = Exit.CONFIG if outcome["step"] in ("parse", "validate", "diff") else Exit.FAILED
            raise RefusedChangeError([_mistake_of(error) for error in outcome["errors"]], code)
        if "detail" in outcome:
            raise OrderError(str(outcome["detail"]), Exit.FAILED)
        return outcome


def _mistake_of(error: Mapping[str, Any]) -> Mistake:
    line = f":{error['line']}" if error["line"] else ""
    place = f"{error['file']}{line}: {error['path']}" if error["path"] else f"{error['file']}{line}"
    text = f"{error['message']}; {error['hint']}" if error["hint"] else str(error["message"])
    pointer = error["pointer"]
    keys = (
        None
        if pointer is None
        else tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])
    )
    return Mistake(keys, text, place)


# ---------------------------------------------------------------------------------------------------------------------


class OfFiles:
    """Read from and written to files that no director runs with."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the main file.
        """
        self._path = path
        self.where = str(path)

    def all(self, noun: str) -> list[Shown]:
        """See `Objects.all`."""
        from appliance.objects.canonical import etag
        from appliance.objects.kinds import kind_of

        catalogue = self._catalogue()
        return [
            Shown(entry.name, entry.values, etag(entry.values), entry.file, catalogue.used_by(entry))
            for entry in catalogue.all(kind_of(noun))
        ]

    def _catalogue(self) -> Any:
        """
        Raises:
            OrderError: the files have mistakes.
        """
        from appliance.config.document import read_document
        from appliance.config.load import load_document
        from appliance.config.problems import ConfigError
        from appliance.objects.catalogue import Catalogue

        try:
            document = read_document(self._path)
            load_document(document)
        except ConfigError as error:
            first, more = error.problems[0], len(error.problems) - 1
            rest = f" (and {more} more)" if more else ""
            raise OrderError(f"{first}{rest}; `onward check {self._path}` names all", Exit.CONFIG) from None
        return Catalogue(document)

    def change(
        self,
        method: str,
        noun: str,
        name: str,
        values: Values | None,
        *,
        match: str | None = None,
        dry_run: bool = False,
        reason: str = "",
    ) -> Document:
        """See `Objects.change`. Consequences are not known, since nobody runs with these files."""
        from appliance.config.document import DocumentError, Pending, decide_on, finish, forget
        from appliance.config.load import load_document
        from appliance.config.problems import ConfigError
        from appliance.objects.canonical import etag
        from appliance.objects.catalogue import (
            ALWAYS,
            Catalogue,
            Change,
            Condition,
            InUseError,
            NotThereError,
            StaleError,
            TakenError,
        )
        from appliance.objects.kinds import kind_of
        from appliance.objects.pointers import pointer

        kind, catalogue = kind_of(noun), self._catalogue()
        before = catalogue.document
        condition = ALWAYS if match is None else Condition(frozenset(tag.strip() for tag in match.split(",")))
        given = values or {}
        made: Change | None = None
        try:
            match method:
                case "POST":
                    made = catalogue.create(kind, given, condition)
                case "PUT":
                    made = catalogue.replace(kind, name, given, condition)
                case "PATCH":
                    made = catalogue.patch(kind, name, given, condition)
                case _:
                    made = catalogue.delete(kind, name, condition)
            after = before.having(made.texts)
            load_document(after)
        except NotThereError as error:
            raise OrderError(str(error), Exit.NOT_FOUND) from None
        except (TakenError, InUseError, StaleError) as error:
            raise OrderError(str(error), Exit.FAILED) from None
        except ConfigError as error:
            at = made.location if made is not None else None
            raise RefusedChangeError(
                [
                    _mistake_of(
                        {
                            "pointer": pointer(one.path, at) if at is not None else None,
                            "file": one.source,
                            "line": one.line,
                            "path": one.path,
                            "message": one.message,
                            "hint": one.remedy,
                        }
                    )
                    for one in error.problems
                ]
            ) from None
        if not dry_run and dict(after.texts) != dict(before.texts):
            note = {"who": _user(), "via": "file", "why": reason}
            try:
                decide_on(after, note)
                finish(Pending(after, note))
                forget(after.path)
            except DocumentError as error:
                raise OrderError(str(error), Exit.FAILED) from None
        entry = Catalogue(after).find(kind, made.name) if made.location is not None else None
        lines: list[str] = []
        for file in {**before.texts, **after.texts}:
            old, new = (document.texts.get(file, "").splitlines() for document in (before, after))
            lines += unified_diff(old, new, file, f"{file}, new", lineterm="")
        return {
            "dry_run": dry_run,
            "unchanged": not lines,
            "etag": etag(entry.values) if entry is not None else None,
            "diff": "\n".join(lines),
        }


def _user() -> str:
    try:
        return getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"

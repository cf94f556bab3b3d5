"""The objects of a configuration: those of a running director, or those of files that none runs with.

Both ways lead through the same core (`appliance.objects`) and the same checks, and say the same of what is wrong.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from pwd import getpwuid
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

from appliance.cli.orders import CHANGE_TIMEOUT_S, Document, OrderError, ask, exchange, where
from appliance.cli.output import Exit

if TYPE_CHECKING:
    from appliance.config.document import Document as ConfigDocument
    from appliance.config.problems import Location, Problem

TIMEOUT_S = 120.0
"""For an answer to a question: a large configuration is a long one."""

_REFUSED = (400, 409, 412, 422, 500, 503)
"""Statuses whose documents may say what is wrong with an object."""

Values = Mapping[str, Any]
Places = Sequence[tuple[str, "Location"]]
"""As in `objects.pointers.pointer_within`."""


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
class How:
    """In which way a change is to be made."""

    dry_run: bool = False
    """Only say what would happen."""

    reason: str = ""
    """A note for the history."""

    force: bool = False
    """Also where files say something else than what is in force."""

    at_restart: bool = False
    """Only write it, for the next start of the director. To files that nobody runs with everything is written so."""

    @property
    def query(self) -> str:
        """For a director."""
        flags = {name: "true" for name in ("dry_run", "force", "at_restart") if getattr(self, name)}
        return urlencode({**flags, **({"reason": self.reason} if self.reason else {})})


AS_USUAL = How()


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
        how: How = AS_USUAL,
    ) -> Document:
        """Make, replace, patch or remove an object.

        Args:
            method: POST makes it, PUT replaces it, PATCH changes some keys (RFC 7396), DELETE removes it.
            noun: its kind.
            name: of the object; empty for what there is one of, `OWNER/NAME` for what is within another one.
            values: keys as in TOML; None for DELETE.
            match: ETags of which it must have one.
            how: it is to be made.

        Returns:
            What came of it: `consequences` where a director says them, `diff`, `etag`, `revision`.

        Raises:
            RefusedChangeError: the configuration would have mistakes.
            OrderError: it was not made, and why.
        """

    def apply(self, changes: Sequence[Values], *, match: str | None = None, how: How = AS_USUAL) -> Document:
        """Change several objects, all or none.

        Args:
            changes: as `objects.changes.read_steps` takes them.
            match: ETags of which the configuration as a whole must have one.
            how: it is to be made.

        Returns:
            What came of it, as for `change`, and `changes`.

        Raises:
            RefusedChangeError: some cannot be made, or the configuration would have mistakes.
            OrderError: they were not made, and why.
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
    if kind.key is None:
        raise OrderError(f"there is no [{'.'.join(kind.place)}] in the configuration", Exit.NOT_FOUND)
    from appliance.config.problems import did_you_mean

    names = [one.name for one in there]
    known = f"there are: {', '.join(names)}" if names else "there is none yet"
    raise OrderError(f"there is no {kind.one} {name}; {did_you_mean(name, names)}{known}", Exit.NOT_FOUND)


def objects_at(socket: Path | None, config: Path | None, *, staged: bool = False) -> Objects:
    """The objects of a director, or of files: those of *config* when no director runs with it.

    Args:
        socket: of the director; None: the usual one.
        config: its main file.
        staged: as they wait for the next start, if any do.

    Raises:
        OrderError: neither can be had.
    """
    if config is None or socket is not None:
        return OfDirector(where(socket, config), staged=staged)
    running = OfDirector(where(None, config), staged=staged)
    try:
        if Path(running.source()).resolve() == config.resolve():
            return running  # nothing changes behind its back
    except OrderError as error:
        if not error.absent:
            raise  # one that is busy, or hangs, runs with these files all the same
    return OfFiles(config)


# ---------------------------------------------------------------------------------------------------------------------


class OfDirector:
    """Asked over its control socket."""

    def __init__(self, socket: Path, *, staged: bool = False) -> None:
        self._socket = socket
        self._which = "?staged=true" if staged else ""
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
        items = ask(self._socket, "GET", f"/v1/objects/{noun}{self._which}", timeout_s=TIMEOUT_S)["items"]
        return [Shown(one["name"], one["object"], one["etag"], one["file"], tuple(one["used_by"])) for one in items]

    def _single(self, noun: str) -> list[Shown]:
        try:
            values, headers = exchange(self._socket, "GET", f"/v1/objects/{noun}{self._which}", timeout_s=TIMEOUT_S)
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
        how: How = AS_USUAL,
    ) -> Document:
        """See `Objects.change`."""
        from appliance.objects.kinds import kind_of

        kind = kind_of(noun)
        owner, _, own = name.rpartition("/") if kind.within is not None else ("", "", name)
        above = f"{kind.within.noun}/{quote(owner, safe='')}/" if kind.within is not None else ""
        one = "" if method == "POST" or not own else f"/{quote(own, safe='')}"
        return self._ask(method, f"/v1/objects/{above}{noun}{one}", values, match, how)

    def apply(self, changes: Sequence[Values], *, match: str | None = None, how: How = AS_USUAL) -> Document:
        """See `Objects.apply`."""
        body = {"changes": list(changes)}
        return self._ask("POST", "/v1/transactions", body, match, how)

    def _ask(self, method: str, path: str, body: Values | None, match: str | None, how: How) -> Document:
        path += f"?{how.query}" if how.query else ""
        headers = {} if match is None else {"If-Match": match}
        outcome, _ = exchange(
            self._socket, method, path, body, timeout_s=CHANGE_TIMEOUT_S, also=_REFUSED, headers=headers
        )
        if outcome.get("errors"):
            mistaken = outcome["status"] not in (409, 412, 503) and outcome["step"] in ("parse", "validate", "diff")
            code = Exit.CONFIG if mistaken else Exit.FAILED
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
        how: How = AS_USUAL,
    ) -> Document:
        """See `Objects.change`. Consequences are not known, since nobody runs with these files."""
        with self._alone():
            return self._change(method, noun, name, values, match, how)

    def _change(
        self, method: str, noun: str, name: str, values: Values | None, match: str | None, how: How
    ) -> Document:
        from appliance.objects.canonical import etag
        from appliance.objects.catalogue import ALWAYS, Catalogue, Change, Condition
        from appliance.objects.kinds import kind_of

        kind, catalogue = kind_of(noun), self._catalogue()
        condition = ALWAYS if match is None else Condition(frozenset(tag.strip() for tag in match.split(",")))
        given, owner = values or {}, name.rpartition("/")[0]
        made: list[Change] = []

        def edit() -> Mapping[str, str]:
            match method:
                case "POST":
                    made.append(catalogue.create(kind, given, condition, owner))
                case "PUT":
                    made.append(catalogue.replace(kind, name, given, condition))
                case "PATCH":
                    made.append(catalogue.patch(kind, name, given, condition))
                case _:
                    made.append(catalogue.delete(kind, name, condition))
            return made[0].texts

        def places() -> Places:
            return [("", one.location) for one in made if one.location is not None]

        after, outcome = self._changed(catalogue.document, edit, places, how)
        entry = Catalogue(after).find(kind, made[0].name) if made[0].location is not None else None
        return {**outcome, "etag": etag(entry.values) if entry is not None else None}

    def apply(self, changes: Sequence[Values], *, match: str | None = None, how: How = AS_USUAL) -> Document:
        """See `Objects.apply`."""
        with self._alone():
            return self._apply(changes, match, how)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change after the other: each reads what the one before has written."""
        try:
            folder = os.open(self._path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            yield  # whoever reads the file says what is wrong with it
            return
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _apply(self, changes: Sequence[Values], match: str | None, how: How) -> Document:
        from appliance.config.load import load_document
        from appliance.config.problems import ConfigError
        from appliance.objects.changes import ChangesError, Made, make, read_steps, results

        before = self._catalogue().document
        tag = f'"{before.digest}"'
        if match is not None and not {"*", tag} & {one.strip() for one in match.split(",")}:
            raise OrderError(f"{self._path} has changed since; it has the ETag {tag} by now", Exit.FAILED)
        made: list[Made] = []

        def edit() -> Mapping[str, str]:
            made.append(make(before, read_steps(list(changes), str(self._path))))
            return made[0].texts

        try:
            after, outcome = self._changed(before, edit, lambda: made[0].places if made else (), how)
        except ChangesError as error:
            mistakes = [_mistake_from(one.problem, one.pointer) for one in error.mistakes]
            if error.rest is not None:
                try:
                    load_document(error.rest.after)
                except ConfigError as others:
                    mistakes += [_mistake_at(one, error.rest.places) for one in others.problems]
            code = Exit.FAILED if any(one.stale for one in error.mistakes) else Exit.CONFIG
            raise RefusedChangeError(mistakes, code) from None
        done = [
            {"op": str(one.step.op), "kind": one.step.kind.noun, "name": one.step.name, "result": str(one.result)}
            for one in results(made[0], before)
        ]
        return {**outcome, "etag": f'"{after.digest}"', "changes": done}

    def _changed(
        self,
        before: "ConfigDocument",
        edit: Callable[[], Mapping[str, str]],
        places: Callable[[], Places],
        how: How,
    ) -> tuple["ConfigDocument", Document]:
        """Other texts, checked and written."""
        from appliance.config.document import DocumentError, Pending, decide_on, finish, forget
        from appliance.config.load import load_document
        from appliance.config.problems import ConfigError
        from appliance.objects.catalogue import InUseError, NotThereError, StaleError, TakenError

        try:
            after = before.having(edit())
            load_document(after)
        except NotThereError as error:
            raise OrderError(str(error), Exit.NOT_FOUND) from None
        except (TakenError, InUseError, StaleError) as error:
            raise OrderError(str(error), Exit.FAILED) from None
        except ConfigError as error:
            raise RefusedChangeError([_mistake_at(one, places()) for one in error.problems]) from None
        if not how.dry_run and dict(after.texts) != dict(before.texts):
            note = {"who": _user(), "via": "file", "why": how.reason}
            try:
                decide_on(after, note)
                finish(Pending(after, note))
                forget(after.path)
            except DocumentError as error:
                raise OrderError(str(error), Exit.FAILED) from None
        lines: list[str] = []
        for file in {**before.texts, **after.texts}:
            old, new = (document.texts.get(file, "").splitlines() for document in (before, after))
            lines += unified_diff(old, new, file, f"{file}, new", lineterm="")
        return after, {"dry_run": how.dry_run, "unchanged": not lines, "diff": "\n".join(lines)}


def _mistake_at(problem: "Problem", places: Places) -> Mistake:
    from appliance.objects.pointers import pointer_within

    return _mistake_from(problem, pointer_within(problem.path, places))


def _mistake_from(problem: "Problem", pointer: str | None) -> Mistake:
    return _mistake_of(
        {
            "pointer": pointer,
            "file": problem.source,
            "line": problem.line,
            "path": problem.path,
            "message": problem.message,
            "hint": problem.remedy,
        }
    )


def _user() -> str:
    try:
        return getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"

"""All objects of a configuration, and the texts that it has after a change of one of them. Pure.

    catalogue = Catalogue(document)
    catalogue.get(POOLS, "web").values               # canonical
    catalogue.patch(POOLS, "web", {"hash": "source_ip"}).texts    # for `Transactions.change`

A change says nothing of whether the configuration is a good one afterwards: that is for `load_document`, as it is for a
file that somebody has edited.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ValidationError

from appliance.config import edit
from appliance.config.document import Document
from appliance.config.problems import ConfigError, Location, Problem, did_you_mean, path_text
from appliance.objects.canonical import (
    NothingHiddenError,
    canonical,
    etag,
    identity,
    known_keys,
    merged,
    revealed,
    without_nulls,
    written,
)
from appliance.objects.kinds import REFERENCES, Kind, is_address, references_of

Raw = Mapping[str, Any]


class NotThereError(Exception):
    """There is no such object."""


class TakenError(Exception):
    """There is one of that name already."""


class InUseError(Exception):
    """Others need the object."""

    def __init__(self, text: str, users: tuple[str, ...]) -> None:
        super().__init__(text)
        self.users = users


class StaleError(Exception):
    """The object is not what the change was made for."""

    def __init__(self, text: str, etag: str | None) -> None:
        """
        Args:
            text: says so.
            etag: of what there is; None when there is nothing any more.
        """
        super().__init__(text)
        self.etag = etag


@dataclass(frozen=True)
class Entry:
    """An object as it is written."""

    kind: Kind
    name: str
    """Empty where there is one of the kind only."""

    file: str
    """Where it stands, relative to the main file's folder; the first place of several."""

    location: Location
    """Where it stands in all files taken together, as in messages."""

    raw: Raw
    """As TOML says it."""

    @cached_property
    def table(self) -> BaseModel:
        return self.kind.table.model_validate(self.raw)

    @property
    def checked(self) -> BaseModel | None:
        """The same; None where it has mistakes, as it may have in the middle of several changes."""
        try:
            return self.table
        except ValidationError:
            return None

    @cached_property
    def values(self) -> dict[str, Any]:
        """Canonical."""
        return canonical(self.table)

    @property
    def id(self) -> str:
        return f"{self.kind.noun}/{self.name}" if self.name else self.kind.noun


@dataclass(frozen=True)
class Condition:
    """What must hold for a change: `If-Match` and `If-None-Match: *` (RFC 9110, section 13.1)."""

    any_of: frozenset[str] | None = None
    """ETags of which the object must have one; None: whichever. `*` is any object that is there."""

    absent: bool = False
    """There must be no such object."""

    key: bytes = b""
    """For ETags, as in `canonical.etag`."""

    def check(self, entry: Entry | None, what: str) -> None:
        """
        Raises:
            StaleError: it does not hold.
        """
        now = etag(entry.values, self.key) if entry is not None else None
        if self.absent and now is not None:
            raise StaleError(f"{what} is there already", now)
        if self.any_of is not None and (now is None or not self.any_of & {now, "*"}):
            raise StaleError(f"{what} {'has changed since' if now else 'is not there any more'}", now)


ALWAYS = Condition()


@dataclass(frozen=True)
class Change:
    """What a change of one object makes of the configuration."""

    texts: Mapping[str, str]
    """As in `Document.texts`."""

    kind: Kind
    name: str
    location: Location | None
    """Where the object stands afterwards, as in `Entry.location`; None when it is gone."""


class Catalogue:
    """All objects of a document that has no mistakes."""

    def __init__(self, document: Document) -> None:
        """
        Args:
            document: one that `load_document` takes.
        """
        self.document = document
        self._data = document.data
        self._known: dict[str, dict[str, Entry]] = {}

    # -----------------------------------------------------------------------------------------------------------------
    # Looking

    def all(self, kind: Kind) -> list[Entry]:
        """In the order of files."""
        return list(self._named(kind).values())

    def find(self, kind: Kind, name: str = "") -> Entry | None:
        if kind.within is None:
            return self._named(kind).get(kind.name_of(name))
        owner = self.find(kind.within, name.partition("/")[0])
        inside = self.inside(kind, owner) if owner is not None else ()
        return next((entry for entry in inside if entry.name == kind.name_of(name)), None)

    def inside(self, kind: Kind, owner: Entry) -> Iterator[Entry]:
        """Those of a kind that are within one other object, in its order."""
        for position, raw in enumerate(_at(owner.raw, kind.place[1:])):
            location = (*owner.location, kind.place[-1], position)
            yield Entry(kind, f"{owner.name}/{kind.named(raw)}", owner.file, location, raw)

    def get(self, kind: Kind, name: str = "") -> Entry:
        """
        Raises:
            NotThereError: there is none; the text names what is like it.
        """
        entry = self.find(kind, name)
        if entry is None:
            raise NotThereError(self._none_of(kind, name))
        return entry

    def place_of(self, kind: Kind, name: str) -> Location:
        """Where an object stands, or would stand."""
        entry = self.find(kind, name)
        return entry.location if entry is not None else self._next(kind, name)

    def used_by(self, entry: Entry) -> tuple[str, ...]:
        """Which objects name it: `virtual-services/web`."""
        return self._users.get((entry.kind.noun, entry.name), ())

    def _none_of(self, kind: Kind, name: str) -> str:
        if kind.key is None:
            return f"nothing is configured for {kind.one}; [{'.'.join(kind.place)}] is not written anywhere"
        if kind.within is not None:
            owner = self.find(kind.within, name.partition("/")[0])
            if owner is None:
                return f"there is no {kind.one} {name}: {self._none_of(kind.within, name.partition('/')[0])}"
            names = [entry.name for entry in self.inside(kind, owner)]
        else:
            names = list(self._named(kind))
        known = (
            f"there are: {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}" if names else "there is none yet"
        )
        return f"there is no {kind.one} {name}; {did_you_mean(name, names)}{known}"

    def _named(self, kind: Kind) -> dict[str, Entry]:
        if kind.noun not in self._known:
            self._known[kind.noun] = {entry.name: entry for entry in self._read(kind)}
        return self._known[kind.noun]

    def _read(self, kind: Kind) -> Iterator[Entry]:
        if kind.key is None:
            parts = self._parts(kind)
            if parts or kind.optional:
                whole: dict[str, Any] = {}
                for part in parts.values():
                    _join(whole, part)
                yield Entry(kind, "", next(iter(parts), self.document.path.name), kind.place, whole)
            return
        if kind.within is not None:
            for owner in self.all(kind.within):
                yield from self.inside(kind, owner)
            return
        count = 0
        for file, data in self._data.items():
            for raw in _at(data, kind.place):
                yield Entry(kind, kind.named(raw), file, (*kind.place, count), raw)
                count += 1

    def _parts(self, kind: Kind) -> dict[str, Raw]:
        """What each file says of what there is one of."""
        return {file: data[kind.place[0]] for file, data in self._data.items() if kind.place[0] in data}

    @cached_property
    def _users(self) -> dict[tuple[str, str], tuple[str, ...]]:
        users: dict[tuple[str, str], tuple[str, ...]] = {}
        for of in dict.fromkeys(kind for kind, _, _ in REFERENCES):
            for entry in self.all(of):
                for key, to in references_of(of):
                    value = entry.raw.get(key, [])
                    for name in filter(_is_text, value if isinstance(value, list) else [value]):
                        users[to.noun, name] = (*users.get((to.noun, name), ()), entry.id)
        return users

    # -----------------------------------------------------------------------------------------------------------------
    # Changing

    def create(self, kind: Kind, values: Raw, condition: Condition = ALWAYS, owner: str = "") -> Change:
        """One more.

        Args:
            kind: of which there are many.
            values: keys as in TOML; null is a key that is not written.
            condition: must hold.
            owner: where it is within another object: the name of that.

        Raises:
            NotThereError: there is no such owner.
            TakenError: there is one of that name.
            ConfigError: it has no name.
        """
        name = kind.named(values)
        if kind.within is not None:
            self.get(kind.within, owner)
        if not name:
            path = path_text((*self._next(kind, f"{owner}/"), kind.key or ""))
            raise _problem(self.document, path, "missing", f"say which {kind.one} it is")
        name = f"{owner}/{name}" if kind.within is not None else name
        condition.check(self.find(kind, name), f"{kind.one} {name}")
        if self.find(kind, name) is not None:
            raise TakenError(f"there is a {kind.one} {name} already; change that one, or choose another {kind.key}")
        return self._put(kind, kind.name_of(name), values)

    def replace(self, kind: Kind, name: str, values: Raw, condition: Condition = ALWAYS) -> Change:
        """The object becomes what *values* say, and keys that they lack have their defaults; one that is not there is
        made.

        Args:
            kind: of the object.
            name: of the object; empty where there is one only.
            values: keys as in TOML; null is a key that is not written, `[hidden]` a secret that stays.
            condition: must hold.

        Raises:
            StaleError: the condition does not hold.
            ConfigError: *values* are of another object, or the text cannot be changed this way.
        """
        condition.check(self.find(kind, name), f"{kind.one} {name}".rstrip())
        return self._put(kind, kind.name_of(name), values)

    def patch(self, kind: Kind, name: str, patch: Raw, condition: Condition = ALWAYS) -> Change:
        """Some keys of the object change, by a JSON merge patch (RFC 7396): null is back to the default, lists are
        replaced as a whole.

        Args, Raises: as for `replace`, and

        Raises:
            NotThereError: there is none.
        """
        entry = self.get(kind, name)
        condition.check(entry, f"{kind.one} {name}".rstrip())
        table = entry.checked
        before = written(table) if table is not None else entry.raw
        return self._put(kind, entry.name, merged(before, known_keys(kind.table, patch)))

    def delete(self, kind: Kind, name: str, condition: Condition = ALWAYS) -> Change:
        """The object goes, and the comments right above it.

        Raises:
            NotThereError: there is none.
            StaleError: the condition does not hold.
            InUseError: others name it, or no configuration is without it.
            ConfigError: the text cannot be changed this way.
        """
        entry = self.get(kind, name)
        condition.check(entry, f"{kind.one} {name}".rstrip())
        if kind.needed:
            raise InUseError(f"no configuration is without [{kind.place[0]}]; change it instead", ())
        if users := self.used_by(entry):
            more = f" and {len(users) - 5} more" if len(users) > 5 else ""
            raise InUseError(
                f"{kind.one} {entry.name} is used by {', '.join(users[:5])}{more}; take it out there first", users
            )
        if kind.within is not None:
            texts = self._put_in_owner(kind, kind.within, entry.name, None)
        elif len(kind.place) == 2:
            texts = self._put_within(kind, entry.name, None)
        elif kind.key is None:
            texts = self.document.texts
            for file in self._parts(kind):
                texts = edit.remove(self.document.having(texts), kind.place[0], None, file)
        else:
            texts = edit.remove(self.document, kind.place[0], _written_name(entry))
        return Change(texts, kind, entry.name, None)

    def _put(self, kind: Kind, name: str, given: Raw) -> Change:
        """One object, given whole."""
        entry, at, values = self.find(kind, name), self.place_of(kind, name), self._written(kind, name, given)
        if kind.within is not None:
            texts = self._put_in_owner(kind, kind.within, name, values)
        elif len(kind.place) == 2:
            texts = self._put_within(kind, name, values)
        elif kind.key is None:
            texts = self._put_single(kind, values)
        else:
            texts = edit.put(self.document, kind.place[0], _written_name(entry) if entry else name, values)
        return Change(texts, kind, name, at)

    def added(self, objects: Sequence[tuple[Kind, str, Raw]]) -> Mapping[str, str]:
        """The texts with many more objects of kinds of which there are many, none of which is there yet.

        Args:
            objects: kinds, names and values of all of them, as for `replace`.

        Raises:
            ConfigError: some cannot be made, or not all at once.
        """
        return edit.add(
            self.document,
            [(kind.place[0], self._written(kind, kind.name_of(name), values)) for kind, name, values in objects],
        )

    def _written(self, kind: Kind, name: str, given: Raw) -> dict[str, Any]:
        """What stands in the files for an object that is given whole."""
        entry, at = self.find(kind, name), self.place_of(kind, name)
        values = self._ready(kind, entry, at, given)
        if kind.key is not None:
            values = self._with_name(kind, name, at, values)
        try:
            table = kind.table.model_validate(values)
        except ValidationError:
            pass  # who checks the configuration says what is wrong, with all else that is
        else:
            had = entry.checked if entry is not None else None
            values = written(table, had, entry.raw if entry is not None and had is not None else None)
        return values

    def _with_name(self, kind: Kind, name: str, at: Location, values: dict[str, Any]) -> dict[str, Any]:
        """With the name that the request is about.

        Raises:
            ConfigError: they have another one.
        """
        own, key = kind.own_name(name), kind.key or ""
        by_address = kind.within is not None and is_address(own)
        values = {"address" if by_address else key: own, **values}
        if kind.named(values) != own:
            message = f"this is another {kind.one} than {name}, which the request is about"
            remedy = "leave it out; to rename one, make another and remove this one"
            raise _problem(self.document, path_text((*at, key)), message, remedy)
        return values

    def _ready(self, kind: Kind, entry: Entry | None, at: Location, given: Raw) -> dict[str, Any]:
        """Without nulls, and with secrets."""
        try:
            values: dict[str, Any] = revealed(without_nulls(given), entry.raw if entry is not None else None)
        except NothingHiddenError as error:
            path = path_text((*at, *error.location))
            raise _problem(self.document, path, "no secret is written here", "give one, or leave it out") from None
        for location in _nulls(values):
            raise _problem(self.document, path_text((*at, *location)), "null in a list", "leave it out")
        return values

    def _next(self, kind: Kind, name: str) -> Location:
        """Where a new object will stand: behind those of the file that it is added to, which are the first."""
        if kind.key is None:
            return kind.place
        if kind.within is not None:
            owner = self.find(kind.within, name.partition("/")[0])
            above = owner.location if owner is not None else self._next(kind.within, name)
            return (*above, kind.place[-1], len(_at(owner.raw, kind.place[1:])) if owner is not None else 0)
        file = self._home(kind)
        return (*kind.place, sum(1 for entry in self.all(kind) if entry.file == file or self._before(entry.file, file)))

    def _home(self, kind: Kind) -> str:
        """The file that new objects of a kind go to: the main one, or the first that has what they are within."""
        if len(kind.place) == 1:
            return self.document.path.name
        return next((name for name, data in self._data.items() if kind.place[0] in data), self.document.path.name)

    def _before(self, file: str, other: str) -> bool:
        names = list(self._data)
        return names.index(file) < names.index(other)

    def _put_within(self, kind: Kind, name: str, values: Raw | None) -> Mapping[str, str]:
        """An object of a list within another one; None: it goes."""
        of, key = kind.place
        entry = self.find(kind, name)
        file = entry.file if entry is not None else self._home(kind)
        whole = self._data[file].get(of)
        if whole is None:
            raise _problem(
                self.document, path_text(kind.place), f"there is no [{of}] yet", f"make {of} first, with its {key}"
            )
        there = _at(whole, (key,))
        at = next((i for i, one in enumerate(there) if kind.named(one) == name), len(there))
        there[at : at + 1] = [dict(values)] if values is not None else []
        changed = {**whole, key: there} if there else {other: value for other, value in whole.items() if other != key}
        if not changed:
            return edit.remove(self.document, of, None, file)
        return edit.put(self.document, of, None, changed, file)

    def _put_in_owner(self, kind: Kind, within: Kind, name: str, values: Raw | None) -> Mapping[str, str]:
        """An object of a list within one of many others; None: it goes.

        Raises:
            NotThereError: there is no such owner.
        """
        owner = self.get(within, name.partition("/")[0])
        there, own = _at(owner.raw, kind.place[1:]), kind.own_name(name)
        at = next((i for i, one in enumerate(there) if kind.named(one) == own), len(there))
        there[at : at + 1] = [dict(values)] if values is not None else []
        return self._put(within, owner.name, {**owner.raw, kind.place[-1]: there}).texts

    def _put_single(self, kind: Kind, values: Raw) -> Mapping[str, str]:
        """What there is one of, each key in the file that has it; new ones in the first that says anything of it."""
        of = kind.place[0]
        parts = self._parts(kind) or {self.document.path.name: {}}
        shares: dict[str, dict[str, Any]] = {file: {} for file in parts}
        first = next(iter(parts))
        for key, value in values.items():
            homes = [file for file, part in parts.items() if key in part]
            if len(homes) < 2:
                shares[homes[0] if homes else first][key] = value
                continue
            for file, share in _shared_out(value, {file: parts[file][key] for file in homes}).items():
                shares[file][key] = share
        texts = self.document.texts
        for file, share in shares.items():
            if share != parts[file]:
                texts = edit.put(self.document.having(texts), of, None, share, file)
        return texts


def _shared_out(value: Any, parts: Mapping[str, Any]) -> dict[str, Any]:
    """A list of tables, or a table, that several files have parts of: what each of them gets."""
    first = next(iter(parts))
    shares: dict[str, Any]
    if isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        shares = {file: [] for file in parts}
        home = {identity(one): file for file, part in parts.items() for one in part}
        for one in value:
            shares[home.get(identity(one), first)].append(one)
        return {file: share for file, share in shares.items() if share}
    if isinstance(value, Mapping):
        shares = {file: {} for file in parts}
        for key, inner in value.items():
            shares[next((file for file, part in parts.items() if key in part), first)][key] = inner
        return shares
    return {first: value}


def _at(data: Raw, place: tuple[str, ...]) -> list[dict[str, Any]]:
    """The list of tables at a place, if there is one."""
    found: Any = data
    for key in place:
        found = found.get(key, {}) if isinstance(found, Mapping) else {}
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _join(into: dict[str, Any], part: Raw) -> None:
    """As config/merge.py does, with parts that do not contradict each other."""
    for key, value in part.items():
        there = into.get(key)
        if isinstance(value, dict):
            into[key] = dict(there or {})
            _join(into[key], value)
        elif isinstance(value, list) and there is not None:
            into[key] = [*there, *value]
        else:
            into[key] = value


def _written_name(entry: Entry) -> str:
    """As it stands in the file."""
    return str(entry.raw[entry.kind.key or ""])


def _nulls(value: Any, location: Location = ()) -> Iterator[Location]:
    if value is None:
        yield location
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _nulls(inner, (*location, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _nulls(inner, (*location, i))


def _problem(document: Document, path: str, message: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(str(document.path), None, path, message, remedy)])

"""All objects of a configuration, and the texts that it has after changes of some of them. Pure.

    catalogue = Catalogue(document)
    catalogue.get(POOLS, "web").values               # canonical
    catalogue.patch(POOLS, "web", {"hash": "source_ip"}).texts    # for `Transactions.change`
    draft = Draft(catalogue)                         # many changes, one after the other
    draft.delete(VIRTUAL_SERVICES, "old")
    draft.after().texts

A change says nothing of whether the configuration is a good one afterwards: that is for `load_document`, as it is for a
file that somebody has edited.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ValidationError

from appliance.config import edit
from appliance.config.document import Document
from appliance.config.load import table_in
from appliance.config.problems import ConfigError, Location, Problem, did_you_mean, path_text
from appliance.config.schema import spellings_of
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
from appliance.objects.kinds import KINDS, REFERENCES, Kind, is_address, parts_of, references_of

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

    after: Document
    kind: Kind
    name: str
    location: Location | None
    """Where the object stands afterwards, as in `Entry.location`; None when it is gone."""

    @property
    def texts(self) -> Mapping[str, str]:
        return self.after.texts


class _Known:
    """All objects of a document, to be looked at."""

    def __init__(self, document: Document) -> None:
        """
        Args:
            document: one that `load_document` takes.
        """
        self.document = document
        self._data: dict[str, dict[str, Any]] = {file: dict(data) for file, data in document.data.items()}
        self._known: dict[str, dict[str, Entry]] = {}
        self._parts_known: dict[tuple[str, str], dict[str, Entry]] = {}

    # -----------------------------------------------------------------------------------------------------------------
    # Looking

    def all(self, kind: Kind) -> list[Entry]:
        """In the order of files."""
        return list(self._named(kind).values())

    def find(self, kind: Kind, name: str = "") -> Entry | None:
        if kind.within is None:
            return self._named(kind).get(kind.name_of(name))
        owner = self.find(kind.within, name.partition("/")[0])
        if owner is None:
            return None
        found = self._parts_known.get((kind.noun, owner.name))
        if found is None:
            found = {}
            for entry in self.inside(kind, owner):
                found.setdefault(entry.name, entry)
            self._parts_known[kind.noun, owner.name] = found
        return found.get(kind.name_of(name))

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
        return tuple(self._users.get((entry.kind.noun, entry.name), ()))

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
    def _users(self) -> dict[tuple[str, str], dict[str, None]]:
        users: dict[tuple[str, str], dict[str, None]] = {}
        for of in dict.fromkeys(kind for kind, _, _ in REFERENCES):
            for entry in self.all(of):
                for used in _uses(entry):
                    users.setdefault(used, {})[entry.id] = None
        return users

    def _next(self, kind: Kind, name: str) -> Location:
        """Where a new object will stand: behind those of the file that it is added to, which are the first."""
        if kind.key is None:
            return kind.place
        if kind.within is not None:
            owner = self.find(kind.within, name.partition("/")[0])
            above = owner.location if owner is not None else self._next(kind.within, name)
            return (*above, kind.place[-1], len(_at(owner.raw, kind.place[1:])) if owner is not None else 0)
        file = self._home(kind)
        return (
            *kind.place,
            sum(1 for entry in self.all(kind) if entry.file == file or self._is_before(entry.file, file)),
        )

    def _home(self, kind: Kind) -> str:
        """The file that new objects of a kind go to: the main one, or the first that has what they are within."""
        if len(kind.place) == 1:
            return self.document.path.name
        return next((name for name, data in self._data.items() if kind.place[0] in data), self.document.path.name)

    def _is_before(self, file: str, other: str) -> bool:
        names = list(self._data)
        return names.index(file) < names.index(other)


class Catalogue(_Known):
    """All objects of a document that has no mistakes."""

    def create(self, kind: Kind, values: Raw, condition: Condition = ALWAYS, owner: str = "") -> Change:
        """One more; see `Draft.create`."""
        return self._changed(kind, lambda draft: draft.create(kind, values, condition, owner))

    def replace(self, kind: Kind, name: str, values: Raw, condition: Condition = ALWAYS) -> Change:
        """The object becomes what *values* say; see `Draft.replace`."""
        return self._changed(kind, lambda draft: draft.replace(kind, name, values, condition))

    def patch(self, kind: Kind, name: str, patch: Raw, condition: Condition = ALWAYS) -> Change:
        """Some keys of the object change; see `Draft.patch`."""
        return self._changed(kind, lambda draft: draft.patch(kind, name, patch, condition))

    def delete(self, kind: Kind, name: str, condition: Condition = ALWAYS) -> Change:
        """The object goes; see `Draft.delete`."""
        change = self._changed(kind, lambda draft: draft.delete(kind, name, condition))
        return replace(change, location=None)

    def _changed(self, kind: Kind, make: "Callable[[Draft], str]") -> Change:
        draft = Draft(self)
        name = make(draft)
        return Change(draft.after(), kind, name, self.place_of(kind, name))


class Draft(_Known):
    """Objects while some of them change. The texts follow at the end, so that many changes cost little more than one.

    Where objects stand is told as if each file still had what it had before; names count, and places do not.
    """

    def __init__(self, before: Catalogue) -> None:
        """
        Args:
            before: what to begin with.
        """
        super().__init__(before.document)
        self._before = before
        self._edits: dict[tuple[str, str | None, str | None], Raw | None] = {}
        self._lists: dict[tuple[str, str], _Parts] = {}
        """Those of one object each, where any of them has been asked for."""

        self._counted = False
        """Whether it is known who uses whom."""

    def after(self) -> Document:
        """What is written afterwards.

        Raises:
            ConfigError: the texts cannot be changed this way.
        """
        for kind, name in [(KINDS[noun], name) for noun, name in self._lists]:
            if kind.within is not None:
                self._settle(kind, kind.within, name)
        return edit.put(
            self.document,
            [edit.Edit(kind, name, values, within) for (kind, name, within), values in self._edits.items()],
        )

    # -----------------------------------------------------------------------------------------------------------------
    # Looking

    def find(self, kind: Kind, name: str = "") -> Entry | None:
        """As in a catalogue."""
        if kind.within is None:
            for inner in parts_of(kind):
                self._settle(inner, kind, name)
            return super().find(kind, name)
        owner = self._named(kind.within).get(name.partition("/")[0])
        if owner is None:
            return None
        parts = self._parts_of(kind, owner)
        at = parts.places.get(kind.own_name(kind.name_of(name)))
        if at is None:
            return None
        raw = parts.raw[at] or {}
        return Entry(kind, f"{owner.name}/{kind.named(raw)}", owner.file, (*owner.location, kind.place[-1], at), raw)

    def used_by(self, entry: Entry) -> tuple[str, ...]:
        """As in a catalogue."""
        self._counted = True
        return super().used_by(entry)

    def _named(self, kind: Kind) -> dict[str, Entry]:
        if kind.noun not in self._known and kind.key is not None and len(kind.place) == 1:
            self._known[kind.noun] = dict(self._before._named(kind))  # noqa: SLF001
        return super()._named(kind)

    def _parts_of(self, kind: Kind, owner: Entry) -> "_Parts":
        if (kind.noun, owner.name) not in self._lists:
            raw = _at(owner.raw, kind.place[1:])
            places: dict[str, int] = {}
            for at, one in enumerate(raw):
                places.setdefault(kind.named(one), at)
            self._lists[kind.noun, owner.name] = _Parts([*raw], places)
        return self._lists[kind.noun, owner.name]

    # -----------------------------------------------------------------------------------------------------------------
    # Changing

    def create(self, kind: Kind, values: Raw, condition: Condition = ALWAYS, owner: str = "") -> str:
        """One more.

        Args:
            kind: of which there are many.
            values: keys as in TOML; null is a key that is not written.
            condition: must hold.
            owner: where it is within another object: the name of that.

        Returns:
            Its name.

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

    def replace(self, kind: Kind, name: str, values: Raw, condition: Condition = ALWAYS) -> str:
        """The object becomes what *values* say, and keys that they lack have their defaults; one that is not there is
        made.

        Args:
            kind: of the object.
            name: of the object; empty where there is one only.
            values: keys as in TOML; null is a key that is not written, `[hidden]` a secret that stays.
            condition: must hold.

        Returns:
            Its name as it is compared.

        Raises:
            StaleError: the condition does not hold.
            ConfigError: *values* are of another object, or the text cannot be changed this way.
        """
        condition.check(self.find(kind, name), f"{kind.one} {name}".rstrip())
        return self._put(kind, kind.name_of(name), values)

    def patch(self, kind: Kind, name: str, patch: Raw, condition: Condition = ALWAYS) -> str:
        """Some keys of the object change, by a JSON merge patch (RFC 7396): null is back to the default, lists are
        replaced as a whole.

        Args, Returns, Raises: as for `replace`, and

        Raises:
            NotThereError: there is none.
        """
        entry = self.get(kind, name)
        condition.check(entry, f"{kind.one} {name}".rstrip())
        known = known_keys(kind.table, patch)
        raw = _without_nulled(kind.table, entry.raw, known)
        table = entry.checked
        before = known_keys(kind.table, written(table, table, raw) if table is not None else raw)
        return self._put(kind, entry.name, merged(before, known), raw)

    def delete(self, kind: Kind, name: str, condition: Condition = ALWAYS) -> str:
        """The object goes, and the comments right above it.

        Returns:
            Its name as it is compared.

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
            self._put_in_owner(kind, kind.within, entry.name, None)
        elif len(kind.place) == 2:
            self._put_within(kind, entry.name, None)
        elif kind.key is None:
            for file in self._parts(kind):
                self._put_part(kind.place[0], file, None)
        else:
            self._put_named(kind, entry.name, None)
        return entry.name

    def _put(self, kind: Kind, name: str, given: Raw, was: Raw | None = None) -> str:
        """One object, given whole.

        Args:
            kind: of it.
            name: of it.
            given: its values.
            was: how it is written, as far as that is to stay; None: as it is.
        """
        values = self._written(kind, name, given, was)
        if kind.within is not None:
            self._put_in_owner(kind, kind.within, name, values)
        elif len(kind.place) == 2:
            self._put_within(kind, name, values)
        elif kind.key is None:
            self._put_single(kind, values)
        else:
            self._put_named(kind, name, values)
        return name

    def _written(self, kind: Kind, name: str, given: Raw, was: Raw | None) -> dict[str, Any]:
        """What stands in the files for an object that is given whole."""
        entry = self.find(kind, name)
        values = self._ready(kind, name, entry, given)
        if kind.key is not None:
            values = self._with_name(kind, name, values)
        try:
            table = kind.table.model_validate(values)
        except ValidationError:
            pass  # who checks the configuration says what is wrong, with all else that is
        else:
            had = entry.checked if entry is not None else None
            texts = was if was is not None or entry is None else entry.raw
            values = written(table, had, texts if had is not None else None)
        return values

    def _with_name(self, kind: Kind, name: str, values: dict[str, Any]) -> dict[str, Any]:
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
            raise _problem(self.document, path_text((*self.place_of(kind, name), key)), message, remedy)
        return values

    def _ready(self, kind: Kind, name: str, entry: Entry | None, given: Raw) -> dict[str, Any]:
        """Without nulls, and with secrets."""
        try:
            values: dict[str, Any] = revealed(without_nulls(given), entry.raw if entry is not None else None)
        except NothingHiddenError as error:
            path = path_text((*self.place_of(kind, name), *error.location))
            raise _problem(self.document, path, "no secret is written here", "give one, or leave it out") from None
        for location in _nulls(values):
            path = path_text((*self.place_of(kind, name), *location))
            raise _problem(self.document, path, "null in a list", "leave it out")
        return values

    def _put_named(self, kind: Kind, name: str, values: Raw | None) -> None:
        """One of many; None: it goes."""
        there, known = self._before.find(kind, name), self._named(kind)
        was = known.pop(name, None) if values is None else known.get(name)
        edited = (kind.place[0], _written_name(there) if there is not None else name, None)
        if values is None and there is None:
            self._edits.pop(edited, None)
        else:
            self._edits[edited] = values
        for key in [key for key in self._lists if key[1] == name and KINDS[key[0]].within is kind]:
            del self._lists[key]
        if self._counted and was is not None:
            for used in _uses(was):
                self._users[used].pop(was.id, None)
        if values is not None:
            place: Location = was.location if was is not None else (*kind.place, len(known))
            now = known[name] = Entry(kind, name, was.file if was is not None else self._home(kind), place, values)
            for used in _uses(now) if self._counted else ():
                self._users.setdefault(used, {})[now.id] = None

    def _put_within(self, kind: Kind, name: str, values: Raw | None) -> None:
        """An object of a list within what there is one of; None: it goes."""
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
        self._put_part(of, file, changed or None)

    def _put_part(self, of: str, file: str, values: dict[str, Any] | None) -> None:
        """What one file says of what there is one of; None: nothing."""
        if values is None and of not in self.document.data[file]:
            self._edits.pop((of, None, file), None)
        else:
            self._edits[of, None, file] = values
        if values is None:
            self._data[file].pop(of, None)
        else:
            self._data[file][of] = values
        for other in KINDS.values():
            if other.place[0] == of:
                self._known.pop(other.noun, None)

    def _put_in_owner(self, kind: Kind, within: Kind, name: str, values: Raw | None) -> None:
        """An object of a list within one of many others; None: it goes.

        Raises:
            NotThereError: there is no such owner.
        """
        owner, own = self._named(within).get(name.partition("/")[0]), kind.own_name(name)
        if owner is None:
            raise NotThereError(self._none_of(within, name.partition("/")[0]))
        parts = self._parts_of(kind, owner)
        parts.changed = True
        if values is None:
            parts.raw[parts.places.pop(own)] = None
        elif own in parts.places:
            parts.raw[parts.places[own]] = dict(values)
        else:
            parts.places[own] = len(parts.raw)
            parts.raw.append(dict(values))

    def _settle(self, kind: Kind, within: Kind, name: str) -> None:
        """An object gets what has become of those within it."""
        parts = self._lists.pop((kind.noun, name), None)
        if parts is not None and parts.changed:
            left = [one for one in parts.raw if one is not None]
            self._put_named(within, name, {**self._named(within)[name].raw, kind.place[-1]: left})

    def _put_single(self, kind: Kind, values: Raw) -> None:
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
        for file, share in shares.items():
            if share != parts[file]:
                # A file of which nothing is left says nothing of it, as long as another one does.
                self._put_part(of, file, share if share or not any(shares.values()) else None)


@dataclass
class _Parts:
    """What is within one object, on its way."""

    raw: list[Raw | None]
    """None is what has gone."""

    places: dict[str, int]
    """By name: which of them."""

    changed: bool = False


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


def _without_nulled(table: type[BaseModel], raw: Raw, patch: Raw) -> Raw:
    """What is written, without the keys that a patch takes out: they have their defaults then, whatever those are."""
    made = dict(raw)
    for key, value in patch.items():
        words = spellings_of(table, key) if key in table.model_fields else [key]
        inner = table_in(table, key)
        for word in [word for word in words if word in made]:
            if value is None:
                del made[word]
            elif inner is not None and isinstance(value, Mapping) and isinstance(made[word], Mapping):
                made[word] = _without_nulled(inner, made[word], value)
    return made


def _uses(entry: Entry) -> Iterator[tuple[str, str]]:
    """Which others an object names."""
    for key, to in references_of(entry.kind):
        value = entry.raw.get(key, [])
        for name in filter(_is_text, value if isinstance(value, list) else [value]):
            yield to.noun, name


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

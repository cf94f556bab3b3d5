"""Changes of several objects that are made together or not at all. Pure.

    steps = read_steps([{"kind": "pools", "object": {...}}, {"op": "delete", "kind": "pools", "name": "old"}], "here")
    made = make(document, steps)
    made.texts                  # for `Transactions.change`

Their order does not matter: wholes come before what is within them, what goes comes last, users before what they use.
However many there are, each file is gone through once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from appliance.config.document import Document
from appliance.config.problems import ConfigError, Location, Problem, did_you_mean, path_text
from appliance.objects.canonical import etag
from appliance.objects.catalogue import (
    Catalogue,
    Condition,
    Draft,
    InUseError,
    NotThereError,
    StaleError,
)
from appliance.objects.kinds import KINDS, Kind, UnknownKindError, kind_of, whole_of
from appliance.objects.pointers import pointer

Raw = Mapping[str, Any]


class Op(StrEnum):
    """What is done with an object."""

    PUT = "put"
    """It becomes what is said, and is made where it is not there."""

    CREATE = "create"
    """It is made, and must not be there."""

    PATCH = "patch"
    """Some keys change (RFC 7396); what there is one of is made where nothing is written of it yet."""

    DELETE = "delete"


class Result(StrEnum):
    """What became of an object."""

    MADE = "made"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"


@dataclass(frozen=True)
class Step:
    """What is wanted of one object."""

    number: int
    """Its place among those that were given."""

    op: Op
    kind: Kind
    name: str
    values: Raw
    match: frozenset[str] | None
    """ETags of which the object must have one."""

    @property
    def id(self) -> str:
        return f"{self.kind.noun}/{self.name}" if self.name else self.kind.noun

    @property
    def base(self) -> str:
        """The JSON pointer to the object in what was given."""
        return f"/changes/{self.number}/object"


@dataclass(frozen=True)
class Done:
    """What became of one object."""

    step: Step
    result: Result
    etag: str | None
    """None when it is gone."""


@dataclass(frozen=True)
class Mistake:
    """Why one of them cannot be made."""

    pointer: str
    """Into what was given (RFC 6901)."""

    problem: Problem
    stale: bool = False
    """The object is not what the change was made for."""

    taken: bool = False
    """It is to be made, and is there already."""


class ChangesError(Exception):
    """Some of the changes make no sense; all of those are told."""

    def __init__(self, mistakes: Sequence[Mistake], rest: "Made | None" = None) -> None:
        """
        Args:
            mistakes: at least one.
            rest: what the others make of the configuration.
        """
        super().__init__("; ".join(str(mistake.problem) for mistake in mistakes))
        self.mistakes = tuple(mistakes)
        self.rest = rest


@dataclass(frozen=True)
class Made:
    """What changes make of the configuration."""

    after: Document
    places: Sequence[tuple[str, Location]]
    """Where the objects that were given stand afterwards: JSON pointers, and locations as in `Entry.location`."""

    steps: Sequence[Step]

    @property
    def texts(self) -> Mapping[str, str]:
        return self.after.texts


# ---------------------------------------------------------------------------------------------------------------------
# Reading them

_KEYS = ("op", "kind", "name", "object", "if_match")


def read_steps(given: object, source: str) -> list[Step]:
    """Changes as they are sent: `{"op", "kind", "name", "object", "if_match"}` each.

    Args:
        given: the list.
        source: what messages call it.

    Raises:
        ChangesError: they are something else.
    """
    if not isinstance(given, list) or not given:
        raise ChangesError([_mistake("/changes", source, "no list of changes", "give at least one")])
    steps, mistakes = [], list[Mistake]()
    seen: dict[str, int] = {}
    for number, one in enumerate(given):
        try:
            step = _step(one, number, source)
        except ChangesError as error:
            mistakes += error.mistakes
            continue
        if step.id in seen:
            first = f"it is in /changes/{seen[step.id]} already"
            mistakes.append(_mistake(f"/changes/{number}", source, f"{step.id}: {first}", "say all of it in one"))
        seen.setdefault(step.id, number)
        steps.append(step)
    gone = {step.id: step.number for step in steps if step.op is Op.DELETE}
    for step in steps:
        if step.op is not Op.DELETE and (whole := _whole_of(step)) in gone:
            message = f"{whole} goes (/changes/{gone[whole]}), and {step.id} is in it"
            mistakes.append(_mistake(f"/changes/{step.number}", source, message, "leave one of them out"))
    if mistakes:
        raise ChangesError(mistakes)
    return steps


def _whole_of(step: Step) -> str:
    """The object that another one is within; empty where it is in none."""
    whole = whole_of(step.kind)
    if whole is None:
        return ""
    return f"{whole.noun}/{step.name.partition('/')[0]}" if whole.key is not None else whole.noun


def _step(one: object, number: int, source: str) -> Step:
    at = f"/changes/{number}"
    if not isinstance(one, dict):
        raise ChangesError([_mistake(at, source, "this is no object", f"known keys: {', '.join(_KEYS)}")])
    mistakes = [
        _mistake(f"{at}/{_escaped(key)}", source, "unknown key", f"{did_you_mean(key, _KEYS)}known: {', '.join(_KEYS)}")
        for key in one
        if key not in _KEYS
    ]
    op, values, kind = one.get("op", "put"), one.get("object", {}), None
    if op not in list(Op):
        mistakes.append(_mistake(f"{at}/op", source, f"{op!r} is none", f"there are: {', '.join(Op)}"))
    try:
        kind = kind_of(str(one.get("kind", "")))
    except UnknownKindError as error:
        mistakes.append(_mistake(f"{at}/kind", source, str(error), ""))
    if not isinstance(values, dict) or (op == Op.DELETE) == ("object" in one):
        remedy = "leave it out" if op == Op.DELETE else "give its keys and values"
        mistakes.append(_mistake(f"{at}/object", source, f"this is nothing for {op}", remedy))
    tags = one.get("if_match")
    if tags is not None and not isinstance(tags, str):
        mistakes.append(_mistake(f"{at}/if_match", source, "this is no ETag", "leave it out, or give a text"))
    name = one.get("name")
    if kind is not None and isinstance(values, dict):
        name = _name(kind, name, values)
        if name is None:
            which = "OWNER/NAME" if kind.within is not None else kind.key
            mistakes.append(_mistake(f"{at}/name", source, f"it is not said which {kind.one}", f"give its {which}"))
    if mistakes or kind is None:
        raise ChangesError(mistakes)
    match = frozenset(tag.strip() for tag in tags.split(",")) if tags is not None else None
    return Step(number, Op(op), kind, kind.name_of(str(name)), values, match)


def _name(kind: Kind, given: object, values: Raw) -> str | None:
    """The name of an object; None where none is given, or one where there is no place for it."""
    if kind.key is None:
        return "" if given in (None, "") else None
    if given is None and kind.within is None:
        given = kind.named(values)
    if not isinstance(given, str) or not given:
        return None
    return given if (kind.within is None) or all(given.partition("/")[::2]) else None


def _mistake(at: str, source: str, message: str, remedy: str) -> Mistake:
    return Mistake(at, Problem(source, None, at, message, remedy))


def _escaped(key: object) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


# ---------------------------------------------------------------------------------------------------------------------
# Making them


def make(document: Document, steps: Sequence[Step], key: bytes = b"") -> Made:
    """
    Args:
        document: one that `load_document` takes.
        steps: of different objects.
        key: for ETags, as in `canonical.etag`.

    Raises:
        ChangesError: some cannot be made. Whether the others make a good configuration is for `load_document` to say.
        ConfigError: the texts cannot be changed this way.
    """
    first = Catalogue(document)
    draft = Draft(first)
    mistakes = dict[int, Mistake]()
    for step in sorted(steps, key=turn):
        base = step.base
        condition = Condition(step.match, absent=step.op is Op.CREATE, key=key)
        try:
            # What must hold is about what is in force, not about what was made of it meanwhile.
            condition.check(first.find(step.kind, step.name), f"{step.kind.one} {step.name}".rstrip())
            _make(draft, step)
        except ConfigError as error:
            problem = error.problems[0]
            base += pointer(problem.path, draft.place_of(step.kind, step.name)) or ""
            mistakes[step.number] = Mistake(base, problem)
        except (NotThereError, InUseError, StaleError) as error:
            at = path_text(draft.place_of(step.kind, step.name))
            changed = isinstance(error, StaleError)
            taken = changed and step.op is Op.CREATE and step.match is None
            problem = Problem(str(document.path), None, at, str(error), "")
            mistakes[step.number] = Mistake(base, problem, stale=changed and not taken, taken=taken)
    written = draft.after()
    after = Catalogue(written)
    found = ((step.base, after.find(step.kind, step.name)) for step in steps if step.number not in mistakes)
    made = Made(written, [(base, entry.location) for base, entry in found if entry is not None], steps)
    if mistakes:
        raise ChangesError([mistakes[number] for number in sorted(mistakes)], made)
    return made


def turn(step: Step) -> tuple[bool, int]:
    """When it is its turn."""
    if step.op is Op.DELETE:
        return True, list(KINDS).index(step.kind.noun)
    return False, len(step.kind.place)


def _make(draft: Draft, step: Step) -> None:
    nothing_yet = step.kind.key is None and draft.find(step.kind) is None
    if step.op is Op.DELETE:
        draft.delete(step.kind, step.name)
    elif step.op is Op.PATCH and not nothing_yet:
        draft.patch(step.kind, step.name, step.values)
    else:
        draft.replace(step.kind, step.name, step.values)


def results(made: Made, before: Document, key: bytes = b"") -> list[Done]:
    """What became of each object, in the order in which they were given.

    Args:
        made: of *before*; a configuration without mistakes.
        before: the configuration before.
        key: for ETags, as in `canonical.etag`.
    """
    old, new = Catalogue(before), Catalogue(made.after)
    done = []
    for step in made.steps:
        was, now = (catalogue.find(step.kind, step.name) for catalogue in (old, new))
        had, has = (etag(entry.values, key) if entry is not None else None for entry in (was, now))
        if has is None:
            result = Result.REMOVED
        elif had is None:
            result = Result.MADE
        else:
            result = Result.UNCHANGED if had == has else Result.CHANGED
        done.append(Done(step, result, has))
    return done

"""What is written otherwise in one configuration than in another, object by object. Pure.

    [str(change) for change in differences(before, after)]      # ["~ pool web: hash source_ip -> five_tuple"]

Canonical forms are compared: another spelling, a comment, a default that is written out, the order of objects are no
difference. Objects that nothing uses count like others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.config.document import Document
from appliance.config.problems import SECRETS
from appliance.objects.catalogue import Catalogue, Entry
from appliance.objects.kinds import FLEET_DIRECTORS, KINDS, NETWORK_PROFILES, VIRTUAL_SERVICES, Kind, parts_of


@dataclass(frozen=True)
class Change:
    """One value that is written otherwise."""

    kind: str
    """`virtual_service`, `pool`, `member`, `health_monitor`, `network_profile`, `director`, `bgp`, `bgp.peer`, ...;
    `file` is one that the configuration names."""

    name: str
    what: str
    """Which of its values; empty: the whole thing."""

    before: str
    """Empty: there was none."""
    after: str
    """Empty: there is none any more."""

    def __str__(self) -> str:
        what = f"{self.kind} {self.name}".rstrip() + (f": {self.what}" if self.what else "")
        if not self.what:
            return f"+ {what} {self.after}".rstrip() if self.after else f"- {what}"
        return f"~ {what} {self.before or '(none)'} -> {self.after or '(none)'}"


def differences(
    before: Document,
    after: Document,
    files: Mapping[str, str] | None = None,
    files_after: Mapping[str, str] | None = None,
) -> Iterator[Change]:
    """Every value that is written otherwise. Secrets are told as such.

    Args:
        before: without mistakes.
        after: without mistakes.
        files: digests of what *before* names (secrets, certificates).
        files_after: the same of *after*.
    """
    for name, digest in (files or {}).items():
        if (files_after or {}).get(name, digest) != digest:
            yield Change("file", name, "content", "(as it was)", "(another)")
    old, new = Catalogue(before), Catalogue(after)
    for kind in reversed([*KINDS.values()]):  # what others use comes before them
        was, now = _objects(old, kind, new), _objects(new, kind, old)
        if kind is FLEET_DIRECTORS:
            yield from _order([name for name in was if name in now], [name for name in now if name in was])
        for name in (*was, *(name for name in now if name not in was)):
            yield from _between(kind, name, was.get(name), now.get(name), new)


def _objects(catalogue: Catalogue, kind: Kind, other: Catalogue) -> dict[str, Entry]:
    """All of a kind, but for members of pools that are written as they are in the other one."""
    if kind.within is None:
        return {entry.name: entry for entry in catalogue.all(kind)}
    found: dict[str, Entry] = {}
    for owner in catalogue.all(kind.within):
        same = other.find(kind.within, owner.name)
        if same is None or same.raw != owner.raw:
            found |= {entry.name: entry for entry in catalogue.inside(kind, owner)}
    return found


def _order(was: list[str], now: list[str]) -> Iterator[Change]:
    """Who comes first takes over first."""
    if was != now:
        yield Change("fleet", "", "order of directors", ", ".join(was), ", ".join(now))


def _between(kind: Kind, name: str, was: Entry | None, now: Entry | None, after: Catalogue) -> Iterator[Change]:
    word = kind.place[-1] if kind.within is not None else ".".join(kind.place)
    if was is None and now is not None:
        yield Change(word, name, "", "", _in_a_word(now, after))
    elif was is not None and now is None:
        yield Change(word, name, "", "there", "")
    elif was is not None and now is not None and was.raw != now.raw:
        parts = {other.place[-1] for other in parts_of(kind)}
        had, has = ({key: each.values[key] for key in each.values if key not in parts} for each in (was, now))
        yield from _values(word, name, had, has)


def _values(
    word: str, name: str, before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[Change]:
    """What differs between two tables, down to the single value."""
    for key in (*before, *(key for key in after if key not in before)):
        was, now = before.get(key), after.get(key)
        if was == now:
            continue
        if isinstance(was or now, Mapping) and isinstance(now or was, Mapping):
            yield from _values(word, name, was or {}, now or {}, f"{prefix}{key}.")
        elif key in SECRETS or prefix == "environment.":
            yield Change(word, name, f"{prefix}{key}", "(secret)" if was else "", _secret(was, now))
        elif _text(was) != _text(now):
            yield Change(word, name, f"{prefix}{key}", _text(was), _text(now))
        elif was or now:  # of which texts do not show what is different
            yield Change(word, name, f"{prefix}{key}", _text(was), f"{_text(now)} (otherwise)")


def _secret(was: object, now: object) -> str:
    if now is None:
        return ""
    return "(another secret)" if was else "(secret)"


def _in_a_word(entry: Entry, catalogue: Catalogue) -> str:
    """What a new object is."""
    values = entry.values
    if entry.kind is VIRTUAL_SERVICES:
        profile = catalogue.find(NETWORK_PROFILES, str(values["network_profile"]))
        protocol = str(profile.values["type"]).partition("_")[0] if profile is not None else ""
        return f"{_text(values['vips'])} {protocol} {_text(values['ports'])} -> pool {values['pool']}"
    return str(values["address"]) if "address" in values else "there"


def _text(value: object) -> str:
    """A value for people."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case list():
            return ", ".join(map(_text, value))
        case Mapping():
            shown = (f"{key}={'(secret)' if key in SECRETS else _text(inner)}" for key, inner in value.items() if inner)
            return f"({', '.join(shown)})"
    # A value fakes no lines, and tells a terminal nothing.
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(value))

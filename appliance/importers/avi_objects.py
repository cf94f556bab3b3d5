"""Objects of an Avi controller: which there are, what their references mean, and typed values of theirs. Pure.

Fields, defaults and ranges are those of the SDK's schema, 30.2.1.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from appliance.config.problems import BadValueError, Problem, shown
from appliance.importers.base import Grade, Report, Source, State
from appliance.importers.jsontree import Json, parse

_T = TypeVar("_T")

TYPES = (
    "VirtualService",
    "VsVip",
    "Pool",
    "PoolGroup",
    "NetworkProfile",
    "HealthMonitor",
    "ApplicationProfile",
    "ApplicationPersistenceProfile",
    "VrfContext",
    "ServiceEngineGroup",
)
"""What is imported, or looked at."""

_CANONICAL = {name.lower(): name for name in TYPES}

Unused = Mapping[str, tuple[Any, str, str]]
"""Keys without an equivalent: their default, what is missing, and a remedy."""

ANYTHING = object()
"""As a default: the key is lost whatever it says."""

NOTHING = object()
"""As a default: it makes no difference, whatever it says."""

COMMON: Mapping[str, str] = {
    "uuid": "objects have names here",
    "url": "objects have names here",
    "tenant_ref": "there are no tenants",
    "cloud_ref": "there are no clouds: a director runs on any Linux machine",
    "vrf_ref": "there is one routing table, the machine's",
    "vrf_context_ref": "there is one routing table, the machine's",
    "_last_modified": "the file has a history of its own",
    "_create_time": "the file has a history of its own",
    "created_by": "the file has a history of its own",
    "cloud_config_cksum": "it is for the controller",
    "configpb_attributes": "it is for the controller",
    "version": "it is for the controller",
    "system_default": "there are no defaults of a system",
    "markers": "there are no markers",
    "labels": "there are no labels of objects",
    "is_federated": "it is for several sites",
}
"""Keys of all objects that make no difference."""


class Objects:
    """All objects of an input, with what has been said about them."""

    def __init__(self, source: Source) -> None:
        """Raises ConfigError: the text is no JSON."""
        self.source = source
        self.root = parse(source)
        self.report = Report(self.root)
        self.problems: list[Problem] = []
        self.of: dict[str, list[Json]] = {name: [] for name in TYPES}
        self.others: list[tuple[str, Json]] = []
        self._sort(self.root)
        self._called: dict[tuple[str, str, object], list[Json]] = {}
        """Objects by kind, and by name and uuid: there may be thousands, each with references."""

        for kind, nodes in self.of.items():
            for node in nodes:
                for key in ("name", "uuid"):
                    self._called.setdefault((kind, key, node.peek(key)), []).append(node)

    def _sort(self, root: Json) -> None:
        if root.is_list:
            for each in root.items:
                self._by_url(each)
            return
        results = root.get("results")
        if results is not None and results.is_list:
            for each in results.items:
                self._by_url(each)
            for key in ("count", "next", "previous"):
                if (node := root.get(key)) is not None:
                    self.report.ignored(node, "it is about the answer, not about objects")
            if (node := root.get("next")) is not None and node.value is not None:
                self.report.lost(node, "the answer has more pages", "ask for all of them, with page_size=200")
            return
        if isinstance(root.peek("url"), str):
            self._by_url(root)
            return
        for key, node in root.keys.items():
            name = _CANONICAL.get(key.lower().replace("_", ""))
            if name is None:
                self.others.append((key, node))
                continue
            for each in node.each():
                if each.is_table:
                    self.of[name].append(each)
                else:
                    self.bad(each, f"{each.text} is no object", "give the export as it is")

    def _by_url(self, node: Json) -> None:
        url = node.peek("url")
        match = re.search(r"/api/([a-z]+)(?:/|$)", url) if isinstance(url, str) else None
        if match is None:
            self.bad(node, "nothing says what kind of object this is", 'it needs its url: ".../api/pool/pool-1234"')
        elif match[1] in _CANONICAL:
            self.of[_CANONICAL[match[1]]].append(node)
        else:
            self.others.append((match[1], node))

    def bad(self, node: Json, message: str, remedy: str) -> None:
        path = "" if node is self.root else node.place
        self.problems.append(Problem(self.source.name, None, path, message, remedy))

    # -----------------------------------------------------------------------------------------------------------------
    # References

    def ref(self, kind: str, reference: Json) -> Json | None:
        """The object of a kind that is meant: by name, by uuid, or by an URL with one of them."""
        text = reference.value
        if not isinstance(text, str):
            if text is not None:
                self.bad(reference, f"{reference.text} is no reference", "it should be a string")
            reference.use()
            return None
        names, uuids, tenant = _meant(text)
        wanted = [*((kind, "name", name) for name in names), *((kind, "uuid", uuid) for uuid in uuids)]
        found = sorted((node for key in wanted for node in self._called.get(key, ())), key=lambda node: node.order)
        same_tenant = [node for node in found if tenant and tenant in _meant(str(node.peek("tenant_ref") or ""))[0]]
        chosen = next(iter(same_tenant or found), None)
        if chosen is not None:
            reference.use()
        return chosen

    def ref_at(self, kind: str, node: Json, key: str) -> tuple[Json | None, Json | None]:
        """The reference at a key, and the object that it means."""
        reference = node.get(key)
        return reference, self.ref(kind, reference) if reference is not None else None

    # -----------------------------------------------------------------------------------------------------------------
    # Values

    def text(self, node: Json, *path: str) -> str | None:
        """A string; None where there is none, or an empty one."""
        found = node.get(*path)
        if found is None:
            return None
        found.use()
        if found.value is not None and not isinstance(found.value, str):
            self.bad(found, f"{found.text} is not a string", "give the export as it is")
            return None
        return found.value or None

    def flag(self, node: Json, otherwise: bool, *path: str) -> bool:
        found = node.get(*path)
        if found is None or found.value is None:
            return otherwise
        found.use()
        if not isinstance(found.value, bool):
            self.bad(found, f"{found.text} is neither true nor false", "give the export as it is")
            return otherwise
        return found.value

    def whole(self, node: Json, otherwise: int, first: int, last: int, *path: str) -> int:
        found = node.get(*path)
        if found is None or found.value is None:
            return otherwise
        found.use()
        value = found.value
        if isinstance(value, bool) or not isinstance(value, int) or not first <= value <= last:
            self.bad(found, f"{found.text} is not a whole number from {first} to {last}", "give the export as it is")
            return otherwise
        return value

    def word(self, node: Json, parse: Callable[[object], _T], *path: str) -> _T | None:
        """A word that we know under the same name; None: there is none, or it has no equivalent, which is told."""
        found = node.get(*path)
        value = self.text(node, *path)
        if found is None or value is None:
            return None
        try:
            return parse(value)
        except BadValueError as error:
            self.report.lost(found, error.message, error.remedy)
            return None

    def address(self, node: Json | None, parse: Callable[[object], _T]) -> _T | None:
        """The address in `{"addr": "192.0.2.1", "type": "V4"}`; None: there is none, or none of use, which is told."""
        if node is None or node.value is None:
            return None
        value, kind = self.text(node, "addr"), self.text(node, "type")
        if value is None:
            self.report.lost(node, "there is no addr in it", "write the address")
            return None
        if kind not in (None, "V4", "V6"):
            self.report.about(
                Grade.LOST, node, f"{shown(value)} is of type {kind}", "write its address of type V4 or V6"
            )
            return None
        try:
            found = parse(value)
        except BadValueError as error:
            self.report.about(Grade.LOST, node, error.message, error.remedy)
            return None
        if kind is not None and (kind == "V6") != (":" in value):
            self.bad(node, f"{value} is not of type {kind}", "correct one of them")
        return found

    # -----------------------------------------------------------------------------------------------------------------
    # What is left

    def tell_rest(self, node: Json, unused: Unused) -> None:
        """Tell what nobody has used of an object: keys without an equivalent, and those that make no difference."""
        for key, child in node.keys.items():
            if all(leaf.state is not State.UNREAD for leaf in child.leaves()):
                continue
            if key in COMMON:
                self.report.ignored(child, COMMON[key])
            elif key in unused:
                default, message, remedy = unused[key]
                if default is NOTHING:
                    self.report.ignored(child, message)
                elif (
                    default is not ANYTHING and type(child.value) is type(default) and child.value == default
                ):  # 0 is not False
                    self.report.ignored(child, "this is the default, and does nothing")
                elif child.value is None or (not child.parts and (child.is_table or child.is_list)):
                    self.report.ignored(child, "it is empty")
                else:
                    self.report.tell(Grade.LOST, child, message, remedy)
            elif child.value is None or child.value == "" or (not child.parts and (child.is_table or child.is_list)):
                self.report.ignored(child, "it is empty")


def _meant(text: str) -> tuple[set[str], set[str], str | None]:
    """The names and uuids that a reference may mean, and its tenant."""
    try:
        parts = urlsplit(text)
        query = parse_qs(parts.query)
    except ValueError:
        return {text}, {text}, None
    if "/" not in text:
        return {text}, {text}, None
    last = unquote(parts.path.rstrip("/").rpartition("/")[2])
    names = set(query.get("name", []))
    if not names:
        names = {unquote(parts.fragment)} if parts.fragment else set()
        return names, {last} | set(query.get("uuid", [])), None
    return names, set(query.get("uuid", [])), query.get("tenant", [None])[0]


def name_of(reference: Json | None) -> str:
    """The name in a reference to what is not in the input, for decisions by well-known names."""
    if reference is None or not isinstance(reference.value, str):
        return ""
    names, uuids, _ = _meant(reference.value)
    return min(names or uuids or {""})

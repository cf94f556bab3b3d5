"""Every word and value of an input is either in the document or in the report."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from appliance.config.problems import ConfigError
from appliance.importers.base import Finding, Grade, Imported, Node, State
from appliance.importers.jsontree import Json, is_secret
from tests.unit.importers.samples import FILES, FOLDER, INPUTS, imported, result, sample

WHOLE = (Grade.LOST, Grade.IGNORED, Grade.TODO)
"""Findings of these grades may stand for all that is in their place."""


def values(data: object) -> Iterator[object]:
    """The leaves of JSON, by another walk than the importer's."""
    if isinstance(data, dict) and data:
        for value in data.values():
            yield from values(value)
    elif isinstance(data, list) and data:
        for value in data:
            yield from values(value)
    else:
        yield data if isinstance(data, str | int | float | bool) else str(data)


def words(text: str) -> Iterator[str]:
    """The words of a keepalived.conf, without braces, comments and definitions, by another way than the importer's."""
    definition = False
    for line in text.splitlines():
        going_on = definition
        definition = line.endswith("\\") and (definition or line.startswith("$"))
        if going_on or line.lstrip().startswith("$"):
            continue
        bare = re.sub(r'[#!][^"]*$', "", line)
        for word in re.findall(r'"([^"]*)"|(\S+)', bare):
            found = word[0] or word[1]
            if found not in ("{", "}"):
                yield found.replace("${WEB}", "203.0.113")


def test_the_tree_of_json_has_every_value() -> None:
    """What the parser does not see could be dropped without a word."""
    leaves = [leaf for leaf in imported("avi").root.leaves() if isinstance(leaf, Json)]
    found = Counter(
        str(leaf.value) if leaf.value is None or isinstance(leaf.value, list) else leaf.value for leaf in leaves
    )
    assert found == Counter(values(json.loads(sample("avi"))))
    assert len(leaves) > 250


def test_the_tree_of_keepalived_has_every_word() -> None:
    """Words of included files among them."""
    expanded = ("CHECK_PORT", "CHECK", "TCP_CHECK", "8443", "connect_timeout", "connect_port", "3", "NOBODY")
    found = Counter(getattr(leaf, "value", leaf.text) for leaf in imported("keepalived").root.leaves())
    files = (FOLDER / "keepalived").rglob("*.conf")
    missing = Counter(word for file in files for word in words(file.read_text())) - found
    assert missing == Counter()
    assert sum(found.values()) > 350
    assert all(any(word in leaf for leaf in found) for word in expanded)


def test_the_tree_of_ipvsadm_has_every_word() -> None:
    """A line is cut into the words that stand in it."""
    found = Counter(leaf.text for leaf in imported("ipvsadm").root.leaves())
    assert found == Counter(sample("ipvsadm").split())


@pytest.mark.parametrize("kind", INPUTS)
def test_every_leaf_is_used_or_told(kind: str) -> None:
    """And what is told has a finding at its place, or at that of something around it."""
    found = imported(kind)
    for leaf, around in with_ancestors(found.root):
        assert leaf.state is not State.UNREAD, leaf.place
        if leaf.state is State.TOLD:
            assert covered(found, around), leaf.place


def with_ancestors(root: Node) -> Iterator[tuple[Node, list[Node]]]:
    """Every leaf, with what it is in, itself included."""
    waiting: list[list[Node]] = [[root]]
    while waiting:
        path = waiting.pop()
        if not path[-1].parts:
            yield path[-1], path
        waiting += [[*path, part] for part in path[-1].parts]


def covered(found: Imported, around: list[Node]) -> Finding | None:
    places = {(node.place, node.text) for node in around} | {(node.place, "") for node in around[-2:]}
    return next((finding for finding in found.findings if (finding.place, finding.what) in places), None)


@pytest.mark.parametrize("kind", INPUTS)
def test_every_used_leaf_makes_a_difference(kind: str, request: pytest.FixtureRequest) -> None:
    """A value that is read and then has no effect would be dropped in silence; so each is changed, one at a time.

    Every fourth of them; with --long all.
    """
    text, before = sample(kind), result(kind)
    without_effect = []
    step = 1 if request.config.getoption("--long") else 4
    for leaf, other in itertools.islice(changed_leaves(kind, text), 0, None, step):
        try:
            after = result(kind, other)
        except ConfigError:
            continue
        if after == before:
            without_effect.append((leaf.place, leaf.text))
    assert without_effect == []


def changed_leaves(kind: str, text: str) -> Iterator[tuple[Node, str]]:
    """Leaves that were used, each with a text in which it alone is another."""
    root = imported(kind).root
    if kind.startswith("avi"):
        for leaf in root.leaves():
            if isinstance(leaf, Json) and leaf.state is State.USED and not is_secret(leaf.key):
                yield leaf, changed_json(text, leaf)
        return
    lines = text.splitlines()
    for leaf in root.leaves():
        source, _, line = leaf.place.rpartition(":")
        if leaf.state is not State.USED or not line or source != FILES[kind]:
            continue
        value = str(getattr(leaf, "value", leaf.text))
        number = int(line) - 1
        if lines[number].split().count(value) == 1:
            wanted = str(int(value) + 1) if value.isdigit() else "203.0.113.77"
            other = " ".join(wanted if word == value else word for word in lines[number].split())
            yield leaf, "\n".join([*lines[:number], other, *lines[number + 1 :]])


def changed_json(text: str, leaf: Json) -> str:
    data = json.loads(text)
    keys = [int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", leaf.place)]
    holder = data
    for key in keys[:-1]:
        holder = holder[key]
    value = leaf.value
    if isinstance(value, bool):
        holder[keys[-1]] = not value
    elif isinstance(value, int):
        holder[keys[-1]] = value + 1
    elif isinstance(value, str):
        # What a reference means may stand in it twice.
        holder[keys[-1]] = "gone" if re.search(r"_refs?(\[|$)", leaf.place) else f"{value}x"
    return json.dumps(data)


def tables_of(data: object, path: str = "") -> Iterator[tuple[dict[str, object], str]]:
    if isinstance(data, dict):
        yield data, path
        for key, value in data.items():
            yield from tables_of(value, f"{path}.{key}" if path else key)
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from tables_of(value, f"{path}[{i}]")


@pytest.mark.parametrize("kind", ["avi", "avi-wide"])
def test_unknown_keys_of_json_are_named(kind: str) -> None:
    """A key of a version to come is in the report, wherever it stands."""
    data = json.loads(sample(kind))
    places = []
    for table, path in list(tables_of(data)):
        table["a_key_of_tomorrow"] = 42
        places.append(f"{path}.a_key_of_tomorrow" if path else "a_key_of_tomorrow")
    findings = imported(kind, json.dumps(data)).findings
    assert len(places) > 80
    for place in places:
        assert any(
            finding.place == place
            or (place.startswith((f"{finding.place}.", f"{finding.place}[")) and finding.grade in WHOLE)
            for finding in findings
        ), place


@pytest.mark.parametrize("kind", ["keepalived", "keepalived-wide"])
def test_unknown_words_of_keepalived_are_named(kind: str) -> None:
    """In every block, behind every keyword."""
    lines: list[str] = []
    for line in sample(kind).splitlines():
        lines.append(line)
        # Addresses stand in groups without keywords, and another word is a mistake.
        if "{" in line and not line.rstrip().endswith("\\") and "virtual_server_group" not in line:
            lines.append("a_word_of_tomorrow 42")
    found = imported(kind, "\n".join(lines))
    leaves = [(leaf, around) for leaf, around in with_ancestors(found.root) if leaf.text == "a_word_of_tomorrow"]
    assert len(leaves) > 20
    for leaf, around in leaves:
        finding = covered(found, around)
        assert finding is not None, leaf.place
        assert finding.grade in WHOLE or finding.what.startswith("a_word_of_tomorrow"), leaf.place
        assert leaf.state is State.TOLD, leaf.place


@pytest.mark.parametrize("kind", ["ipvsadm", "ipvsadm-wide"])
def test_unknown_options_of_ipvsadm_are_named(kind: str) -> None:
    """At the end of every line."""
    lines = [f"{line} --of-tomorrow 42" for line in sample(kind).splitlines() if not line.startswith("--set")]
    findings = imported(kind, "\n".join(lines)).findings
    for number in range(1, len(lines) + 1):
        assert any(
            finding.what == "--of-tomorrow" or (finding.grade in WHOLE and finding.what.startswith("-"))
            for finding in findings
            if finding.place == f"{FILES[kind]}:{number}"
        ), number

"""What is named in code is named in the documents, and the other way round."""

import re
import tomllib
from pathlib import Path

import pytest

from appliance.config import schema

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = (ROOT / "appliance" / "ARCHITECTURE.md").read_text()
SOURCES = [path for folder in ("appliance", "bgp", "health") for path in (ROOT / folder).rglob("*.py")]


def events():
    code = re.compile(
        r"""\blog\.(?:debug|info|warning|error|exception|log)\(\s*(?:[^"()]*?,\s*)?["]([a-z_]+\.[a-z_]+)["]"""
    )
    return {name for path in SOURCES for name in code.findall(path.read_text())}


def test_every_event_is_documented():
    """An operator who greps for an event's name finds what it means."""
    found = events()
    assert len(found) > 25
    documented = set(re.findall(r"`([a-z]+\.[a-z_]+)`", ARCHITECTURE.split("## Events")[1].split("## Metrics")[0]))
    assert found - documented == set()
    assert (
        documented - found - {"bgp.exabgp_log", "health.up", "health.down", "health.maintenance", "bgp.interrupted"}
        == set()
    )


def test_every_metric_is_documented():
    """The golden metrics file has every metric there is; so must the table."""
    lines = (ROOT / "tests" / "golden" / "metrics.txt").read_text().splitlines()
    exported = {line.split()[2] for line in lines if line.startswith("# HELP")}
    documented = set(re.findall(r"`(onward_[a-z_]+)`", ARCHITECTURE))
    assert {name for name in exported if name.startswith("onward_")} == documented


def test_every_key_stands_in_the_example():
    """Whoever looks for a setting finds it in the example file, set or commented out."""
    example = (ROOT / "appliance" / "config" / "example.toml").read_text()
    tomllib.loads(example)
    keys = {
        field.alias or name
        for table in vars(schema).values()
        if isinstance(table, type) and hasattr(table, "model_fields")
        for name, field in table.model_fields.items()
    }
    missing = {
        key
        for key in keys
        if not re.search(rf"(?m)^\W*(?:\[+)?(?:\w+\.)?{key}\b", example) and f"{key} =" not in example
    }
    assert missing == set()


OTHERS = {"__pycache__", "node_modules", "dist"}
"""Folders of what others have written, or programs have made."""


def texts():
    folders = ("appliance", "bgp", "health", "tests", "containerlab", "systemd", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if OTHERS.isdisjoint(path.parts)]
    for path in [*ROOT.glob("*.*"), *inside]:
        if path.is_file() and path.suffix not in {".o", ".pyc"} and path != Path(__file__):
            yield path, path.read_text(errors="replace")


@pytest.mark.parametrize(
    "word", [r"https?://[^ ]*(?:pypi|npmjs|deb\.debian|archive\.ubuntu)", r"/root/\.", r"\bissue #?\d"]
)
def test_no_file_names_a_package_host_or_a_machine(word):
    """The project speaks of itself alone."""
    assert [str(path) for path, text in texts() if re.search(word, text)] == []


def test_every_command_line_in_the_readme_exists():
    """The README's commands are files that can be run."""
    for command in re.findall(r"(?m)^(?:sudo )?(containerlab/\w+|tests/run)\b", (ROOT / "README.md").read_text()):
        assert (ROOT / command).stat().st_mode & 0o111


def test_no_document_has_a_gap():
    """Nobody ships a text with a place that was still to be filled in."""
    for path in (*ROOT.glob("*.md"), *ROOT.glob("appliance/**/*.md"), *ROOT.glob("tests/**/*.md")):
        if OTHERS.isdisjoint(path.parts):
            assert not re.findall(r"\b(?:[A-Z]+FIGURES|TODO|TBD|FIXME|XXX+)\b", path.read_text()), path

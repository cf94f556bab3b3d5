"""The shipped JSON Schema and the shipped example are in step with the code."""

import json
import tomllib
from pathlib import Path

import appliance.config
from appliance import forwarding
from appliance.config import rules
from appliance.config.load import load
from appliance.config.schema import File, json_schema

FOLDER = Path(appliance.config.__file__).parent


def test_the_json_schema_is_current() -> None:
    """When this fails: `python -m appliance.config.schema > appliance/config/onward.schema.json`."""
    assert (FOLDER / "onward.schema.json").read_text() == json_schema()


def test_every_key_has_a_description() -> None:
    """Editors show it; there is no other reference of keys."""
    schema = json.loads(json_schema())
    for name, table in schema["$defs"].items():
        for key, value in table["properties"].items():
            assert "description" in value or "$ref" in value or "items" in value, f"{name}.{key}"
        assert table["additionalProperties"] is False


def test_every_required_key_has_an_example() -> None:
    """A message about a missing key shows how it would be written."""
    schema = json.loads(json_schema())
    for name, table in schema["$defs"].items():
        for key in table.get("required", []):
            assert table["properties"][key].get("examples"), f"{name}.{key}"


def test_the_example_is_valid() -> None:
    """People begin with it, so it must pass, and its first line leads editors to the schema."""
    path = FOLDER / "example.toml"
    config = load(path)
    assert [service.name for service in config.services] == ["web", "dns"]
    assert path.read_text().startswith("#:schema ./onward.schema.json\n")


def test_the_example_mentions_every_key() -> None:
    """Every key of every table stands in the example, set or commented out."""
    text = (FOLDER / "example.toml").read_text()
    data = tomllib.loads(text)
    assert set(data) | {"api", "connection_log", "doctor", "tier2"} == set(File.model_fields)
    for table in json.loads(json_schema())["$defs"].values():
        for key in table["properties"]:
            assert any(form in text for form in (f"{key} = ", f"[{key}]", f".{key}]")), key


def test_the_limit_of_members_is_that_of_the_slots() -> None:
    """`rules` repeats the number so that checking a file need not import NumPy."""
    assert rules.MAX_WAYS == forwarding.MAX_MEMBERS

"""Options of commands from the schema of the configuration."""

from typing import Any

import pytest

from appliance.cli.nouns import NOUNS
from appliance.cli.options import Option, named, nested, options_of
from appliance.config.schema import MonitorTable, PoolTable, ProfileTable, ServiceTable


def option(table: Any, name: str) -> Option:
    (found,) = (one for one in options_of(table) if name in one.names)
    return found


@pytest.mark.parametrize("noun", NOUNS)
def test_names_are_clear(noun: str) -> None:
    """No two options of a noun have a name in common, each is a lower-case word and has a help text."""
    options = options_of(NOUNS[noun][0].table)
    names = [name for one in options for name in one.names]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and name.startswith("--") and "_" not in name for name in names)
    assert all(one.help for one in options)


def test_every_key_has_an_option() -> None:
    """Those of nested tables have their path in front; other spellings of a key are other names of its option."""
    keys = {one.keys for one in options_of(ProfileTable)}
    assert {key for key, *_ in keys} == set(ProfileTable.model_fields)
    assert ("dsr", "outer_ttl") in keys
    assert option(ProfileTable, "--dsr-encap-type") is not None
    assert option(ProfileTable, "--dsr-encap").keys == ("dsr", "encapsulation")
    assert option(ServiceTable, "--vip").names == ("--vips", "--vip")
    assert option(ServiceTable, "--bgp-community").keys == ("bgp", "communities")


@pytest.mark.parametrize(
    ("table", "name", "given", "value"),
    [
        (ProfileTable, "--type", "tcp-fast-path", "tcp_fast_path"),
        (
            ProfileTable,
            "--type",
            "TCP-FAST-PATH",
            "TCP-FAST-PATH",
        ),  # for the configuration to read, or not
        (ProfileTable, "--session-idle-timeout", "60", 60),
        (ProfileTable, "--session-idle-timeout", "a minute", "a minute"),
        (MonitorTable, "--send-interval", "0.5", 0.5),
        (MonitorTable, "--send-interval", "nan", "nan"),
        (MonitorTable, "--environment", ["A=1", "B=x=y"], {"A": "1", "B": "x=y"}),
        (ServiceTable, "--port", ["80,443", "8000-8010", "*"], [80, 443, "8000-8010", "*"]),
        (ServiceTable, "--vips", ["198.51.100.7,2001:db8::7"], ["198.51.100.7", "2001:db8::7"]),
        (ServiceTable, "--network-profile", "tcp-l3", "tcp-l3"),  # a name, and no word of a choice
        (PoolTable, "--member", ["192.0.2.1"], [{"address": "192.0.2.1"}]),
        (
            PoolTable,
            "--member",
            ["192.0.2.1,ratio=2,enabled=false"],
            [{"address": "192.0.2.1", "ratio": 2, "enabled": False}],
        ),
        (PoolTable, "--member", ["192.0.2.1,nonsense=x"], [{"address": "192.0.2.1", "nonsense": "x"}]),
    ],
)
def test_values(table: Any, name: str, given: Any, value: Any) -> None:
    """Numbers, lists, tables and words as TOML has them; what is none is for the configuration to refuse."""
    assert option(table, name).value(given) == value


def test_places() -> None:
    """From values to objects, and from places in objects back to options."""
    assert nested({("a",): 1, ("b", "c"): 2, ("b", "d"): 3}) == {"a": 1, "b": {"c": 2, "d": 3}}
    options = options_of(PoolTable)
    assert named(options, ("hash",)) == "--hash"
    assert named(options, ("member", "3", "ratio")) == "--member [3.ratio]"
    assert named(options, ("nowhere",)) is None
    assert named(options, ()) is None

"""The shipped JSON Schema and the shipped example are in step with the code."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema_rs
import pytest

import appliance.config
from appliance import forwarding
from appliance.config import rules
from appliance.config.foreign import FOREIGN
from appliance.config.load import load, parse
from appliance.config.problems import ConfigError
from appliance.config.schema import File, json_schema, spellings_of
from appliance.dataplane.xdp import layout

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
        for key in (key for key, value in table["properties"].items() if "deprecated" not in value):
            assert any(form in text for form in (f"{key} = ", f"[{key}]", f".{key}]")), key


def test_the_limit_of_members_is_that_of_the_slots() -> None:
    """`rules` repeats the number so that checking a file need not import NumPy."""
    assert rules.MAX_WAYS == forwarding.MAX_MEMBERS
    assert rules.MAX_XDP_WAYS == layout.MAX_WAYS


@pytest.mark.parametrize(("plane", "most"), [("auto", 32767), ("xdp", 32767), ("raw", 65535)])
def test_no_more_members_than_a_data_plane_takes(plane: str, most: int) -> None:
    """Checked before anything runs, with the way out."""
    head = f'''schema_version = 1
[director]
name = "d1"
interfaces = ["eth1"]
plane = "{plane}"
[fleet]
secret_file = "fleet.key"
[[network_profile]]
name = "p"
type = "tcp_fast_path"
'''

    def mistakes(members: int) -> list[str]:
        text = head
        for pool in range(2):
            count = members // 2 + (pool and members % 2)
            addresses = (f"10.{pool}.{i >> 8}.{i & 255}" for i in range(count))
            inside = ", ".join(f'{{address = "{address}"}}' for address in addresses)
            text += f'[[pool]]\nname = "p{pool}"\nmember = [{inside}]\n'
            text += f'[[virtual_service]]\nname = "s{pool}"\nvips = ["198.51.100.{pool}"]\nports = [80]\n'
            text += f'network_profile = "p"\npool = "p{pool}"\n'
        found = rules.too_many_members(tomllib.loads(text))
        return [f"{finding.message}; {finding.remedy}" for finding in found]

    assert mistakes(most) == []
    (told,) = mistakes(most + 1)
    assert told.startswith(f"more than {most} members in all; spread the virtual services over two fleets")
    assert ('or write plane = "raw"' in told) == (plane != "raw")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('type = "tcp_fast_path"', 'type = "PROTOCOL_TYPE_TCP_FAST_PATH"'),
        ('type = "tcp_fast_path"', 'type = "TCP_FAST_PATH"'),
        ('type = "tcp_fast_path"', 'type = "udp_fast_path"\nper_pkt_loadbalance = true'),
        ("dsr = { }", 'dsr = { dsr_type = "DSR_TYPE_L3", dsr_encap_type = "ENCAP_IPINIP" }'),
        ("dsr = { }", 'dsr = { dsr_type = "dsr_type_l2" }'),
        ("dsr = { }", 'dsr = { type = "L3", encapsulation = "encap_gre" }'),
        ('type = "tcp"', 'type = "HEALTH_MONITOR_TCP"'),
        ("# pool", 'lb_algorithm = "LB_ALGORITHM_CONSISTENT_HASH"'),
        ("# pool", 'lb_algorithm_hash = "LB_ALGORITHM_CONSISTENT_HASH_SOURCE_IP_ADDRESS_AND_PORT"'),
        ("# pool", "min_health_monitors_up = 1"),
        ("# service", "traffic_enabled = true\nadvertise_down_vs = true"),
        ("# service", 'ha_mode = "HA_MODE_SHARED_PAIR"'),
    ],
)
def test_editors_accept_the_spellings_that_are_read(old: str, new: str) -> None:
    """Those of the seed system beside ours; and not any other."""
    text = """schema_version = 1
[director]
name = "d1"
interfaces = ["eth1"]
[fleet]
secret_file = "fleet.key"
[[network_profile]]
name = "p"
type = "tcp_fast_path"
dsr = { }
[[health_monitor]]
name = "m"
type = "tcp"
[[pool]]
name = "web"
health_monitors = ["m"]
# pool
[[pool.member]]
address = "203.0.113.21"
[[virtual_service]]
name = "web"
vips = ["198.51.100.7"]
ports = [80]
network_profile = "p"
pool = "web"
# service
"""
    assert old in text
    editors = jsonschema_rs.validator_for(json.loads(json_schema()))
    spelled = text.replace(old, new, 1)
    parse(spelled, "onward.toml", lambda _: bytes(range(32)))
    assert [str(error) for error in editors.iter_errors(tomllib.loads(spelled))] == []
    word = re.search(r'"([A-Za-z_0-9]+)"', new)
    if word is not None:
        strange = text.replace(old, new.replace(word[1], f"x{word[1]}"), 1)
        assert not editors.is_valid(tomllib.loads(strange))
        with pytest.raises(ConfigError):
            parse(strange, "onward.toml", lambda _: bytes(range(32)))


def test_keys_of_the_seed_system_that_are_none_here_are_explained() -> None:
    """Each with its reason and the way out; none of them is a key, or another name of one."""
    for table, keys in FOREIGN.items():
        known = {word for name in table.model_fields for word in spellings_of(table, name)}
        assert not known & keys.keys(), table
        assert all(why and remedy for why, remedy in keys.values())

"""`onward apply`: all objects of a file, in whichever form they are written."""

import io
import json
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from appliance.cli.apply import InputError, read
from appliance.cli.root import call
from appliance.config.load import load
from tests.unit.cli.test_config import Served, serving
from tests.unit.cli.test_nouns import file, run

__all__ = ["file"]  # a fixture

SHOP = """# as it stands in a configuration
[[virtual_service]]
name = "shop"
vips = ["198.51.100.8"]
ports = ["8000-8099", 443]
network_profile = "tcp"
pool = "shop"

[[pool]]
name = "shop"
[[pool.member]]
address = "203.0.113.8"

[api]
port = 8081
"""


def given(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as made:
        yield made


def test_tables_as_in_the_configuration(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From TOML, JSON and YAML alike; the second time nothing is different."""
    before = file.read_text()
    tables = tomllib.loads(SHOP)
    for name, text in (
        ("shop.toml", SHOP),
        ("shop.json", json.dumps(tables)),
        ("shop.yaml", yaml.safe_dump(tables)),
        ("shop", yaml.safe_dump([tables, {"schema_version": 1}])),
    ):
        path = given(tmp_path, name, text)
        file.write_text(before)
        assert run(file, f"apply -f {path} --dry-run") == 0
        assert file.read_text() == before
        capsys.readouterr()
        assert run(file, f"apply -f {path}") == 0
        output = capsys.readouterr().out
        assert "virtual-services/shop: made" in output
        assert "2 made, 1 changed; written to" in output
        after = file.read_text()
        assert after.startswith(before.rstrip())
        load(file)
        assert tomllib.loads(after)["virtual_service"][1]["ports"] == ["8000-8099", 443]
        assert run(file, f"apply -f {path}") == 0
        assert "nothing is different" in capsys.readouterr().out
        assert file.read_text() == after


def test_what_is_shown_can_be_applied(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of `list` and `show`, changed by hand; but not over what somebody else has changed since."""
    assert run(file, "pool list -o yaml") == 0
    pools = given(tmp_path, "pools.yaml", capsys.readouterr().out.replace("ratio: 1", "ratio: 4"))
    assert run(file, "networkprofile show tcp -o json") == 0
    text = capsys.readouterr().out.replace('"session_idle_timeout": 300', '"session_idle_timeout": 77')
    shown = given(tmp_path, "tcp.json", text)
    assert run(file, f"apply -f {shown} -f {pools} --json") == 0
    outcome = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["result"]) for one in outcome["changes"]] == [("tcp", "changed"), ("web", "changed")]
    written = tomllib.loads(file.read_text())
    assert (written["network_profile"][0]["session_idle_timeout"], written["pool"][0]["member"][0]["ratio"]) == (77, 4)
    assert run(file, f"apply -f {pools}") == 1
    assert f"{pools}: pools/web: pool web has changed since" in capsys.readouterr().err
    patch = {"op": "patch", "kind": "pools", "name": "web", "object": {"hash": "source_ip"}}
    words = ["apply", "-f", given(tmp_path, "p.json", json.dumps(patch)), "--config", str(file), "--if-match"]
    assert call([*words, outcome["etag"]]) == 0
    assert call([*words, outcome["etag"]]) == 1
    assert "has changed since" in capsys.readouterr().err


def test_standard_input(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Several documents, with what is to be done of each; parts of what there is one of are objects, too."""
    text = """
kind: virtual-services
op: delete
name: www
---
- {kind: pools, op: delete, name: web}
- bgp: {local_as: 64512, router_id: 192.0.2.11, peer: [{address: 192.0.2.1, remote_as: 65000}]}
"""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    capsys.readouterr()
    assert run(file, "apply -f -") == 0
    output = capsys.readouterr().out
    assert "bgp-peers/192.0.2.1: made" in output
    assert "2 made, 2 removed; written to" in output
    written = tomllib.loads(file.read_text())
    assert written.keys() == {"schema_version", "director", "fleet", "network_profile", "bgp"}
    assert written["bgp"]["peer"] == [{"address": "192.0.2.1", "remote_as": 65000}]


def test_all_mistakes_are_told_at_their_objects(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At once; and nothing is changed."""
    before = file.read_text()
    one = given(tmp_path, "one.toml", SHOP.replace("[[pool]]", "[[pool]]\nhahs = 1").replace("443", "70000"))
    two = given(tmp_path, "two.json", json.dumps({"kind": "pools", "op": "delete", "name": "web"}))
    assert run(file, f"apply -f {one} -f {two}") == 4
    error = capsys.readouterr().err
    assert f"{two}: pools/web: pool web is used by virtual-services/www" in error
    assert f"{one}: pools/shop: hahs: unknown key" in error
    assert f"{one}: virtual-services/shop: ports" in error
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "pool = ", "cannot be read as TOML"),
        ("a.json", '{"pool": [], "pool": []}', "a key is given twice"),
        ("a.yaml", "pool: []\npool: []", "a key is given twice"),
        ("a.yaml", "pool: {", "cannot be read as YAML"),
        ("a.toml", "", "there is no object in it"),
        ("a.toml", "[[pol]]", "pol: unknown key; did you mean `pool`?"),
        ("a.toml", "pool = 3", "pool: this is no list of tables"),
        ("a.toml", "[[pool]]", "pool[0]: it has no name"),
        ("a.toml", "director = 3", "director: this is no table"),
        ("a.json", "[3]", "3 is no object"),
        ("a.json", '{"kind": "pools", "opp": "put"}', "opp: unknown key; did you mean `op`?"),
        ("a.json", '{"kind": "pools", "items": [1]}', "1 is no object"),
        ("a", "\0", "cannot be read as JSON"),
    ],
)
def test_what_is_no_object_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    """With the file and what it should be."""
    path = given(tmp_path, name, text)
    with pytest.raises(InputError) as why:
        read((path,))
    assert str(why.value).startswith(f"{path}: ")
    assert said in str(why.value)


def test_scalars_of_yaml_are_those_of_version_1_2(tmp_path: Path) -> None:
    """`no` is a word, and what looks like a time is none."""
    path = given(tmp_path, "a.yaml", "kind: pools\nname: no\nobject: {x: 22:22, y: 1.5, z: null}")
    (change,), _ = read((path,))
    assert change == {"kind": "pools", "name": "no", "object": {"x": "22:22", "y": 1.5, "z": None}}


async def test_a_running_director_takes_it_as_one_revision(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First what would move; then all of it, or nothing."""
    path = given(tmp_path, "shop.toml", SHOP.partition("[api]")[0])
    assert await served.onward("apply", "-f", path, "--dry-run") == 0
    assert "+ virtual_service shop 198.51.100.8 tcp " in capsys.readouterr().out
    assert served.director.revision() == 1
    assert await served.onward("apply", "-f", path, "--reason", "a shop") == 0
    assert "2 made; revision 2 is in force" in capsys.readouterr().out
    assert served.director.in_force == ["a", "shop"]
    stale = {"kind": "pools", "name": "a", "etag": '"old"', "object": {"member": [], "hahs": 1}}
    assert await served.onward("apply", "-f", given(tmp_path, "a.json", json.dumps(stale))) == 1
    bad = given(tmp_path, "b.json", json.dumps({**stale, "etag": None}))
    assert await served.onward("apply", "-f", bad) == 4
    assert f"{bad}: pools/a: hahs: unknown key" in capsys.readouterr().err
    assert await served.onward("apply", "-f", str(tmp_path / "none")) == 2
    assert served.director.revision() == 2


async def test_single_members_and_what_there_is_one_of_at_a_director(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each by its own resource; with an ETag where one is wanted."""
    assert await served.onward("member", "add", "a/203.0.113.5", "--ratio", "2") == 0
    assert "member a/203.0.113.5 added; revision 2 is in force" in capsys.readouterr().out
    assert await served.onward("member", "set", "a/203.0.113.5", "--unset", "ratio") == 0
    assert await served.onward("member", "set", "a/203.0.113.5", "--ratio", "3", "--if-match", '"old"') == 1
    assert await served.onward("member", "set", "a/203.0.113.5", "--ratio", "-1") == 4
    assert "onward: --ratio: " in capsys.readouterr().err
    assert await served.onward("member", "set", "b/x", "--ratio", "3") == 5
    assert await served.onward("member", "remove", "a/203.0.113.5") == 0
    assert await served.onward("doctor", "set", "--interval", "60") == 0
    assert await served.onward("doctor", "show") == 0
    assert "interval           60" in capsys.readouterr().out
    assert await served.onward("tier2", "config", "show") == 5
    assert await served.onward("fleet", "show", "-o", "toml") == 0

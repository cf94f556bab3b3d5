"""The conventions of the command line, row by row: each verb is a command, also in completion and in the manual page;
what lists things takes the same options; exit codes are those of the help."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.api.views import status_document
from appliance.cli.completion import candidates
from appliance.cli.manual import page
from appliance.cli.output import Exit
from appliance.cli.root import COMMANDS, call
from tests.unit.api.samples import observed, shared
from tests.unit.cli.directors import control
from tests.unit.cli.test_config import Served
from tests.unit.cli.test_nouns import file
from tests.unit.cli.test_nouns_served import served
from tests.unit.config.test_document import web

__all__ = ["file", "served"]  # fixtures

VERBS = """
run; check; diff; reload; status; show; service list; service show
server list; server drain; server maint; server ready; server weight
bgp peers; bgp routes; flow list; flow lookup; bpf list; top; events
config show; config schema; config export
profile list; profile show; profile create; profile set; profile delete
doctor; sysdump; import avi; import keepalived; import ipvsadm; server-setup; lab up; lab down; lab exec
drain; explain; config diff; config history; config rollback
virtualservice list; pool list; networkprofile list; healthmonitor list
"""
ALL = [words.split() for line in VERBS.strip().splitlines() for words in line.split(";")]

LISTS = """
service list; server list; bgp peers; bgp routes; flow list; bpf list; profile list; config history; status; show
plane list; plane slots; plane neighbours; plane counters
"""
LISTING = [words.split() for line in LISTS.strip().splitlines() for words in line.split(";")]


@pytest.fixture(scope="module")
def manual() -> str:
    return page()


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_verb_is_a_command(words: list[str], manual: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a help of its own, a place in the manual page, and completion of its name."""
    assert words[0] in COMMANDS
    assert call([*words, "--help"]) == Exit.OK
    assert capsys.readouterr().out.startswith(f"Usage: onward {' '.join(words)}")
    assert f".SS onward {' '.join(words)}\n".replace("-", "\\-") in manual
    assert words[-1] in [one.text for one in candidates((*words[:-1], words[-1][:2]))]


@pytest.mark.parametrize("words", LISTING, ids=" ".join)
def test_what_lists_things_takes_the_same_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A table, a wide one, JSON, YAML, names; without header; again and again."""
    assert call([*words, "--help"]) == Exit.OK
    said = capsys.readouterr().out
    for option in ("-o, --output", "--json", "--no-header", "-w, --watch"):
        assert option in said, option
    assert "one of table, wide, json, yaml, name" in " ".join(said.split())


def asked(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert call([*words, "--socket", str(path)]) == Exit.OK
    return capsys.readouterr().out


def test_status_and_show_in_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`show` is the part about virtual services, of one or of all; names are theirs; a wide text is not cut."""
    path = tmp_path / "control.sock"
    document: dict[str, Any] = status_document(observed())
    names = [service["name"] for service in document["services"]]
    with control(path, {"/v1/status": document}):
        assert asked(path, capsys, "status", "-o", "name").split() == names
        assert asked(path, capsys, "show", "-o", "name").split() == names
        whole, wide = asked(path, capsys, "status"), asked(path, capsys, "status", "-o", "wide")
        assert "…" not in wide
        bare = asked(path, capsys, "status", "--no-header")
        assert bare.splitlines()[0].startswith(names[0])
        assert "MEMBER" in whole
        assert "MEMBER" not in bare
        one = asked(path, capsys, "show", names[0])
        assert one.startswith(f"{names[0]}  ")
        assert one in whole or one.strip() in whole
        assert "\nBGP" in whole
        assert "BGP" not in one
        found = json.loads(asked(path, capsys, "show", names[0], "--json"))
        assert [service["name"] for service in found["services"]] == [names[0]]
        assert list(found["pools"]) == [found["services"][0]["pool_key"]]
        assert yaml.safe_load(asked(path, capsys, "show", names[0], "-o", "yaml")) == found
        assert call(["show", "nonsense", "--socket", str(path)]) == Exit.NOT_FOUND
        assert f"there are: {', '.join(names)}" in capsys.readouterr().err
    several: dict[str, Any] = status_document(shared(services=2, members=3))
    with control(path := tmp_path / "other.sock", {"/v1/status": several}):
        assert "\npool " in asked(path, capsys, "show", several["services"][0]["name"])


def test_maps_of_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the kernel has them; where no program forwards, that is said."""
    path = tmp_path / "control.sock"
    slots = {"name": "slots", "key_bytes": 4, "value_bytes": 8, "entries": 262144, "bytes": 2097152}
    with control(path, {"/v1/maps": {"apiVersion": "v1", "program": "balance", "items": [slots]}}):
        program, header, row = asked(path, capsys, "bpf", "list").splitlines()
        assert program == "program balance"
        assert header.split() == ["MAP", "KEY", "VALUE", "ROOM", "FOR", "BYTES"]
        assert row.split() == ["slots", "4", "8", "262144", "2097152"]
        assert asked(path, capsys, "plane", "list", "-o", "name") == "slots\n"
    with control(path := tmp_path / "raw.sock", {"/v1/maps": {"apiVersion": "v1", "program": None, "items": []}}):
        assert "No BPF program forwards here" in asked(path, capsys, "bpf", "list")


async def test_all_files_in_one(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is exported of a running director is the same configuration, in each form, for those who take it."""
    served.director.write("b", web("b", 2))
    assert await served.onward("reload") == Exit.OK
    capsys.readouterr()
    alone, found = tmp_path / "alone", {}
    alone.mkdir()
    (alone / "fleet.key").write_bytes((tmp_path / "fleet.key").read_bytes())
    for form, parse in (("toml", tomllib.loads), ("json", json.loads), ("yaml", yaml.safe_load)):
        assert await served.onward("config", "export", "-o", form) == Exit.OK
        text = capsys.readouterr().out
        found[form] = parse(text)
        (alone / f"all.{form}").write_text(text)
    assert [pool["name"] for pool in found["toml"]["pool"]] == ["a", "b"]
    assert found["toml"] == found["yaml"]
    assert found["json"] == {"apiVersion": "v1", **found["toml"]}
    for form in ("toml", "json", "yaml"):
        assert await served.onward("apply", "-f", f"{alone}/all.{form}", "--dry-run") == Exit.OK
        assert "nothing is different" in capsys.readouterr().out
    assert call(["check", str(alone / "all.toml")]) == Exit.OK


def test_all_files_of_nobody(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--config` and no director that runs with it, the files are read, and their mistakes told."""
    (file.parent / "conf.d").mkdir()
    (file.parent / "conf.d/more.toml").write_text('[[network_profile]]\nname = "dns"\ntype = "udp_fast_path"\n')
    assert call(["config", "export", "--config", str(file)]) == Exit.OK
    assert [one["name"] for one in tomllib.loads(capsys.readouterr().out)["network_profile"]] == ["tcp", "dns"]
    (file.parent / "conf.d/more.toml").write_text("[[network_profil]]\n")
    assert call(["config", "export", "--config", str(file)]) == Exit.CONFIG
    assert "did you mean" in capsys.readouterr().err


def test_profile_is_another_word(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For network profiles, with their names in completion."""
    of = ["--config", str(file)]
    assert call(["profile", "create", "far", "--type", "tcp-fast-path", "--dsr-type", "l3", *of]) == Exit.OK
    capsys.readouterr()
    assert call(["profile", "list", "-o", "name", *of]) == Exit.OK
    assert capsys.readouterr().out.split() == ["tcp", "far"]
    assert [one.text for one in candidates(("profile", "show", *of, ""))] == ["tcp", "far"]

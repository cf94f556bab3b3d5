"""`onward virtualservice` and its like, on files that no director runs with."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.cli.nouns import NOUNS
from appliance.cli.root import COMMANDS, call
from appliance.config.load import load
from appliance.objects.kinds import KINDS

CONFIG = """\
schema_version = 1

[director]
name = "d1"
interfaces = ["eth1"]
runtime_dir = "{folder}/run"

[fleet]
secret_file = "fleet.key"

# how packets get there
[[network_profile]]
name = "tcp"
type = "tcp_fast_path"

[[pool]]
name = "web"  # the first one

[[pool.member]]
name = "web1"
address = "203.0.113.1"

[[virtual_service]]
name = "www"
vips = ["198.51.100.7"]
ports = [80]
network_profile = "tcp"
pool = "web"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
    path = tmp_path / "onward.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def run(file: Path, line: str) -> int:
    return call([*line.split(), "--config", str(file)])


def table(file: Path, kind: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in tomllib.loads(file.read_text())[kind] if one["name"] == name)
    return dict(found)


def test_the_seed_systems_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network profile in one line; what stands in the file stays, comments too, and what is new is short."""
    before = file.read_text()
    assert run(file, "networkprofile create web --type tcp-fast-path --dsr-type l3 --dsr-encap ipinip") == 0
    assert file.read_text().startswith(before.rstrip())
    assert table(file, "network_profile", "web") == {"name": "web", "type": "tcp_fast_path"}
    output = capsys.readouterr().out
    assert '+type = "tcp_fast_path"' in output
    assert f"network profile web made; written to {file}" in output
    load(file)
    assert run(file, "networkprofile set web --dsr-encap ENCAP_GRE --session-idle-timeout 60") == 0
    assert table(file, "network_profile", "web") == {
        "name": "web",
        "type": "tcp_fast_path",
        "session_idle_timeout": 60,
        "dsr": {"encapsulation": "gre"},
    }


def test_lists(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table, names, JSON and YAML, as with every list."""
    assert run(file, "virtualservice list") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "VIPS", "PORTS", "PROFILE", "POOL", "ENABLED", "USED", "BY"]
    assert row.split() == ["www", "198.51.100.7", "80", "tcp", "web", "true", "-"]
    assert run(file, "service list -o name") == 0
    assert capsys.readouterr().out == "www\n"
    assert run(file, "pool list --json") == 0
    (item,) = json.loads(capsys.readouterr().out)["items"]
    assert item["used_by"] == ["virtual-services/www"]
    assert item["object"]["algorithm"] == "consistent_hash"
    assert run(file, "healthmonitor list") == 0
    assert capsys.readouterr().out == "There is no health monitor yet.\n"


def test_one_object(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All keys with their defaults; and as TOML that could stand in a file."""
    assert run(file, "networkprofile show tcp") == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["dsr.encapsulation"] == ["ipip"]
    assert lines["session_idle_timeout"] == ["300"]
    assert lines["used"] == ["by", "virtual-services/www"]
    assert run(file, "pool show web -o toml") == 0
    (pool,) = tomllib.loads(capsys.readouterr().out)["pool"]
    assert pool["member"][0]["address"] == "203.0.113.1"
    assert run(file, "pool show web -o yaml") == 0
    assert yaml.safe_load(capsys.readouterr().out)["object"]["name"] == "web"


def test_what_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Code 5, and what is there instead."""
    for line in ("pool show wed", "pool set wed --algorithm random", "pool delete wed"):
        assert run(file, line) == 5
        assert "did you mean `web`?" in capsys.readouterr().err


def test_mistakes_are_told_at_the_options(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All at once, each by the name of its option with what to do about it; nothing is written."""
    before = file.read_text()
    assert (
        run(file, "networkprofile create x --type udp-fast-path --dsr-encap nonsense --session-idle-timeout 99999") == 4
    )
    said = capsys.readouterr().err
    assert "onward: --dsr-encapsulation: " in said
    assert "onward: --session-idle-timeout: " in said
    assert run(file, "networkprofile create x") == 4
    assert "onward: --type: missing" in capsys.readouterr().err
    assert run(file, "virtualservice set www --pool nobody") == 4
    assert "onward: --pool: " in capsys.readouterr().err
    assert run(file, "pool create x --member 203.0.113.9,ratio=99999999") == 4
    assert "onward: --member [0.ratio]: " in capsys.readouterr().err
    assert file.read_text() == before


def test_a_mistake_that_is_elsewhere(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a change makes wrong in another object is told with that one's place in the file."""
    assert run(file, "networkprofile set tcp --dsr-type l2 --dsr-outer-ttl 3") == 4
    assert "--dsr-outer-ttl: " in capsys.readouterr().err
    assert run(file, "virtualservice create dup --vip 198.51.100.7 --port 80 --profile tcp --pool web") == 4
    assert "198.51.100.7" in capsys.readouterr().err


def test_nothing_is_written_by_a_dry_run(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The difference is shown."""
    before = file.read_text()
    assert run(file, "pool set web --hash source-ip --dry-run") == 0
    output = capsys.readouterr().out
    assert '+hash = "source_ip"' in output
    assert "nothing was changed (dry run)" in output
    assert file.read_text() == before


def test_lists_of_values(file: Path) -> None:
    """Separated by commas, or given several times; numbers, ranges and words."""
    assert run(file, "networkprofile create udp --type udp_fast_path") == 0
    line = "virtualservice create dns --vips 198.51.100.53,2001:db8:f::53 --port 53 --port 8000-8010"
    line += " --profile udp --pool web"
    assert run(file, line) == 0
    made = table(file, "virtual_service", "dns")
    assert made["vips"] == ["198.51.100.53", "2001:db8:f::53"]
    assert made["ports"] == [53, "8000-8010"]
    assert run(file, "virtualservice set dns --no-enabled --bgp-med 5") == 0
    assert table(file, "virtual_service", "dns")["enabled"] is False
    assert table(file, "virtual_service", "dns")["bgp"] == {"med": 5}


def test_back_to_the_default(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By option or by key; what is no key is wrong usage."""
    assert run(file, "pool set web --drain-timeout 60 --hash source_ip") == 0
    assert run(file, "pool set web --unset drain-timeout --unset hash") == 0
    assert table(file, "pool", "web").get("drain_timeout", 0) == 0
    assert "hash" not in table(file, "pool", "web")
    assert run(file, "pool set web --unset drane") == 2
    assert run(file, "pool set web") == 2
    assert "nothing is to be changed" in capsys.readouterr().err
    assert run(file, "pool set web --unset hash") == 0
    assert "nothing is different" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["bgp", "--bgp", "protection", "protection.per_vip", "protection-per-vip"])
def test_a_whole_table_back_to_its_defaults(file: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With all that it says, at whatever depth; what is beside it stays."""

    def now() -> Any:
        capsys.readouterr()
        assert run(file, "virtualservice show www --json") == 0
        return json.loads(capsys.readouterr().out)["object"]

    fresh = now()
    options = "--bgp-med 5 --bgp-local-preference 7 --protection-deny 192.0.2.0/24 --protection-per-vip-rate 100"
    assert run(file, f"virtualservice set www {options}") == 0
    wanted = now()
    assert run(file, f"virtualservice set www --unset={word}") == 0
    if "per" in word:
        assert wanted["protection"]["per_vip"]["rate"] == 100
        wanted["protection"]["per_vip"] = None
    else:
        wanted[word.removeprefix("--")] = fresh[word.removeprefix("--")]
    assert now() == wanted


def test_only_what_somebody_has_seen_is_changed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With an ETag of before, nothing is changed and it is said."""
    assert run(file, "pool show web --json") == 0
    etag = json.loads(capsys.readouterr().out)["etag"]
    assert call(["pool", "set", "web", "--hash", "source_ip", "--if-match", etag, "--config", str(file)]) == 0
    assert call(["pool", "set", "web", "--hash", "five_tuple", "--if-match", etag, "--config", str(file)]) == 1
    assert "has changed since" in capsys.readouterr().err
    assert table(file, "pool", "web")["hash"] == "source_ip"


def test_what_is_used_cannot_be_removed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who uses it is named; afterwards it can."""
    assert run(file, "pool delete web") == 1
    assert "used by virtual-services/www" in capsys.readouterr().err
    assert run(file, "virtualservice delete www") == 0
    assert run(file, "pool delete web --dry-run") == 0
    assert table(file, "pool", "web")
    assert run(file, "pool delete web") == 0
    assert "pool" not in tomllib.loads(file.read_text())


def test_members(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Added, changed and removed one by one; the others and their comments stay."""
    assert run(file, "pool create blue --member 203.0.113.21,name=b1,ratio=3 --member 203.0.113.22") == 0
    assert table(file, "pool", "blue")["member"] == [
        {"name": "b1", "address": "203.0.113.21", "ratio": 3},
        {"address": "203.0.113.22"},
    ]
    assert run(file, "member add web/web2 --address 203.0.113.2") == 0
    assert run(file, "server set web/web1 --ratio 5") == 0
    assert [(one["name"], one.get("ratio")) for one in table(file, "pool", "web")["member"]] == [
        ("web1", 5),
        ("web2", None),
    ]
    assert "# the first one" in file.read_text()
    capsys.readouterr()
    assert run(file, "member add web/web2 --address 203.0.113.3") == 1
    assert run(file, "member set web/web9 --ratio 1") == 5
    assert run(file, "member set web/web1 --ratio many") == 4
    assert "onward: --ratio: " in capsys.readouterr().err
    assert run(file, "member set web --ratio 1") == 2
    assert run(file, "member remove web/web2") == 0
    assert [one["name"] for one in table(file, "pool", "web")["member"]] == ["web1"]


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_has_its_commands(noun: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And every option its help."""
    assert noun in COMMANDS
    words = [noun, "config"] if noun == "tier2" else [noun]
    assert call([*words, "--help"]) == 0
    text = capsys.readouterr().out
    kind = NOUNS[noun][0]
    many = kind.key is not None
    verbs = ["show", "set", *(["list", "create"] if many else []), *([] if kind.needed else ["delete"])]
    assert [verb for verb in verbs if not re.search(rf"^  {verb} ", text, re.MULTILINE)] == []
    assert call([*words, "create" if many else "set", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--dry-run" in text
    assert ("NAME" in text.splitlines()[0]) == many


def test_every_kind_of_object_has_its_noun() -> None:
    """Members have theirs with their orders."""
    assert {kind.noun for kind, _ in NOUNS.values()} == KINDS.keys() - {"members"}


def test_what_there_is_one_of(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shown, changed, made where it is not there yet, and taken out; beside commands of the same noun."""
    assert run(file, "director show") == 0
    assert re.search(r"interfaces +eth1\n", capsys.readouterr().out)
    assert run(file, "director set --plane raw --reason slow") == 0
    assert tomllib.loads(file.read_text())["director"]["plane"] == "raw"
    assert "director changed; written to" in capsys.readouterr().out
    assert run(file, "bgp set --local-as 64512 --router-id 192.0.2.11") == 4
    assert "write a [[bgp.peer]] table" in capsys.readouterr().err
    peer = '[[bgp.peer]]\naddress = "192.0.2.1"\nremote_as = 65000\n'
    file.write_text(f'{file.read_text()}\n[bgp]\nlocal_as = 64512\nrouter_id = "192.0.2.11"\n{peer}')
    assert run(file, "bgp set --local-as 64513") == 0
    assert "BGP changed; written to" in capsys.readouterr().out
    assert run(file, "bgp show --json") == 0
    assert json.loads(capsys.readouterr().out)["object"]["local_as"] == 64513
    assert peer in file.read_text()
    for line in ("api set --port 8081", "doctor set --interval 0", "connectionlog set --one-of 10"):
        assert run(file, line) == 0
    written = tomllib.loads(file.read_text())
    assert (written["api"], written["doctor"], written["connection_log"]) == (
        {"port": 8081},
        {"interval": 0},
        {"one_of": 10},
    )
    capsys.readouterr()
    assert run(file, "doctor set --interval 1") == 4
    assert "onward: --interval: " in capsys.readouterr().err
    assert run(file, "doctor show --json") == 0
    etag = json.loads(capsys.readouterr().out)["etag"]
    assert call(["doctor", "set", "--interval", "60", "--if-match", etag, "--config", str(file)]) == 0
    assert call(["doctor", "set", "--interval", "90", "--if-match", etag, "--config", str(file)]) == 1
    assert run(file, "bgp delete") == 0
    assert run(file, "tier2 config delete") == 5
    assert "bgp" not in tomllib.loads(file.read_text())
    assert run(file, "fleet set --unset secret-file") == 4


def test_secrets_are_not_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in tables nor in documents; what stands in their place means that they stay."""
    file.write_text(
        file.read_text() + '\n[bgp]\nlocal_as = 65010\nrouter_id = "192.0.2.11"\n'
        '[[bgp.peer]]\naddress = "192.0.2.1"\nremote_as = 65000\npassword = "sesame"\n'
    )
    for words in ("show 192.0.2.1", "show 192.0.2.1 -o toml", "show 192.0.2.1 --json", "list --json", "list -o wide"):
        assert run(file, f"bgppeer {words}") == 0
        output = capsys.readouterr().out
        assert "sesame" not in output
        assert "[hidden]" in output or words == "list -o wide"
    assert run(file, "bgppeer set 192.0.2.1 --hold-time 30") == 0
    assert 'password = "sesame"' in file.read_text()
    assert run(file, "bgppeer list") == 0
    assert "192.0.2.1  65000" in capsys.readouterr().out


def test_a_file_with_mistakes_is_not_touched(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They have to be put right first, whatever is to be changed."""
    file.write_text(file.read_text() + "\nnonsense = 1\n")
    assert run(file, "pool list") == 4
    assert "onward check" in capsys.readouterr().err


def test_who_changes_files_at_the_same_time_overwrites_nobody(file: Path) -> None:
    """Each of six commands reads what the ones before have written."""
    words = [sys.executable, "-m", "appliance", "member", "add"]
    pool = load(file).services[0].pool
    commands = [
        subprocess.Popen(
            [*words, f"{pool.name}/n{number}", "--address", f"203.0.113.{200 + number}", "--config", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for number in range(6)
    ]
    assert [(command.communicate()[1], command.returncode) for command in commands] == [(b"", 0)] * 6
    after = load(file).services[0].pool
    assert {member.name for member in after.members} == {member.name for member in pool.members} | {
        f"n{number}" for number in range(6)
    }

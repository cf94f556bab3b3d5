"""`onward quic`: what members need to know, and whose a connection ID is."""

import json
from pathlib import Path

import pytest

from appliance.cli.output import Exit
from appliance.cli.root import call
from appliance.config.load import load
from appliance.packet import quic

CONFIG = """\
schema_version = 1
[director]
name = "d1"
interfaces = ["eth1"]
[fleet]
secret_file = "fleet.key"
[[network_profile]]
name = "udp"
type = "udp_fast_path"
[[pool]]
name = "fast"
[[pool.quic]]
config_id = 1
key_file = "one.key"
[[pool.quic]]
config_id = 0
server_id_length = 2
nonce_length = 5
encode_length = true
[[pool.member]]
name = "a"
address = "203.0.113.21"
[[pool.member]]
name = "b"
address = "203.0.113.22"
[[pool]]
name = "dns"
[[pool.member]]
address = "203.0.113.53"
[[virtual_service]]
name = "fast"
vips = ["198.51.100.7"]
ports = [443]
network_profile = "udp"
pool = "fast"
[[virtual_service]]
name = "dns"
vips = ["198.51.100.53"]
ports = [53]
network_profile = "udp"
pool = "dns"
"""
KEY = "00112233445566778899aabbccddeeff"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "fleet.key").write_bytes(b"0123456789abcdef")
    (tmp_path / "one.key").write_text(":".join(KEY[at : at + 2] for at in range(0, 32, 2)) + "\n")
    (tmp_path / "onward.toml").write_text(CONFIG)
    return tmp_path / "onward.toml"


def test_each_member_is_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each member and configuration: all it takes to make connection IDs, and of the key where it is."""
    assert call(["quic", "config", str(file), "--json"]) == Exit.OK
    text = capsys.readouterr().out
    assert KEY not in text.replace(":", "")
    rows = json.loads(text)["members"]
    assert [(row["member"], row["config_id"], row["new_ids"]) for row in rows] == [
        ("a", 1, True),
        ("b", 1, True),
        ("a", 0, False),
        ("b", 0, False),
    ]
    assert [(row["key_file"], row["nonce_length"], row["encode_length"]) for row in rows[1:3]] == [
        ("one.key", 12, False),
        (None, 5, True),
    ]


def test_what_members_make_names_them(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that follows what was printed for it is found by its connection IDs."""
    (pool, _) = load(file).pools
    configs = {one.config_id: one for one in pool.quic}
    assert call(["quic", "config", str(file), "--pool", "fast", "--member", "b", "--json"]) == Exit.OK
    for row in json.loads(capsys.readouterr().out)["members"]:
        cid = quic.make(configs[row["config_id"]], bytes.fromhex(row["server_id"]), bytes(row["nonce_length"]))
        assert call(["quic", "whose", str(file), cid.hex()]) == Exit.OK
        assert capsys.readouterr().out == "fast/b\n"


def test_a_table_for_people(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json it is a table with a line for each."""
    assert call(["quic", "config", str(file)]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["POOL", "MEMBER", "CONFIG"]
    assert len(lines) == 5
    assert "none: readable" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["config", "{file}", "--pool", "fats"], Exit.NOT_FOUND, "no pool fats carries QUIC; did you mean `fast`?"),
        (["config", "{file}", "--pool", "dns"], Exit.NOT_FOUND, "no pool dns carries QUIC"),
        (["config", "{file}", "--member", "c"], Exit.NOT_FOUND, "no member c"),
        (["config", "/nowhere"], Exit.CONFIG, "no such file"),
        (["whose", "{file}", "xyz"], Exit.USAGE, "xyz is not hexadecimal"),
        (["whose", "{file}", "e0" + "00" * 19], Exit.NOT_FOUND, "names nobody"),
    ],
)
def test_what_is_not_there(
    arguments: list[str], code: Exit, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every "no" has its exit code, and says why."""
    assert call(["quic", *(one.format(file=file) for one in arguments)]) == code
    assert said in capsys.readouterr().err


def test_another_key_is_another_configuration(file: Path) -> None:
    """A reload notices a key that has changed in its file."""
    before = load(file).digest
    (file.parent / "one.key").write_text("ff" * 16)
    assert load(file).digest != before

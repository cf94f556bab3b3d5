"""What the environment says of a director to ask, and what options say: an option counts before it, everywhere."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.completion import candidates
from appliance.cli.root import call
from tests.unit.cli.directors import control
from tests.unit.cli.test_nouns import file

__all__ = ["file"]  # a fixture

MEMBERS = {"members": [{"id": "theirs/m1", "address": "203.0.113.1", "state": "in_rotation"}]}
POOLS = {"items": [{"name": "theirs", "object": {"name": "theirs"}, "etag": '"1"', "file": "x", "used_by": []}]}


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A director that the environment names, and that none of the options here does."""
    path = tmp_path / "control.sock"
    with control(path, {"/v1/members": MEMBERS, "/v1/objects/pools": POOLS}):
        monkeypatch.setenv("ONWARD_SOCKET", str(path))
        yield path


def names(words: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert call(words) == 0
    return capsys.readouterr().out.split()


def test_the_environment_names_a_director(running: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is asked where no option says otherwise; completion offers its names."""
    assert names(["pool", "list", "-o", "name"], capsys) == ["theirs"]
    assert [one.text for one in candidates(("member", "drain", ""))] == ["theirs/m1"]
    assert [one.text for one in candidates(("pool", "show", ""))] == ["theirs"]


def test_a_file_that_is_named_is_the_one_that_changes(
    running: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the director of the environment, of which nobody has spoken."""
    of = ["--config", str(file)]
    assert names(["pool", "list", "-o", "name", *of], capsys) == ["web"]
    assert [one.text for one in candidates(("pool", "show", *of, ""))] == ["web"]
    assert [one.text for one in candidates(("pool", "show", f"--config={file}", ""))] == ["web"]
    assert call(["networkprofile", "create", "vv", "--type", "tcp-fast-path", *of]) == 0
    assert "vv" in file.read_text()
    capsys.readouterr()
    assert call(["explain", "tcp", "192.0.2.7:40000", "198.51.100.7:80", *of, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["member"]["id"].startswith("web/")


@pytest.mark.parametrize(
    "words", [["member", "list"], ["drain"], ["status"], ["reload"], ["config", "history"], ["top"]]
)
def test_the_director_of_a_file_that_is_named_is_asked(
    running: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nobody, when it does not run: never the one of the environment, be it by a socket or by an address."""
    monkeypatch.setenv("ONWARD_URL", f"unix:{running}")
    other = tmp_path / "other.toml"
    other.write_text(f'[director]\nruntime_dir = "{tmp_path}/other"\n')
    for option in (["--config", str(other)], ["--socket", f"{tmp_path}/other/control.sock"]):
        assert call([*words, *option]) == 3
        assert f"{tmp_path}/other/control.sock" in capsys.readouterr().err

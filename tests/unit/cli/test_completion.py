"""Completion: what shells are told, and that bash understands it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.completion import BASH, candidates
from appliance.cli.root import COMMANDS, call
from tests.unit.cli.directors import control
from tests.unit.cli.test_nouns import file

ROOT = Path(__file__).parents[3]
MEMBERS = {
    "members": [
        {"id": "web/web1", "address": "203.0.113.1", "state": "in_rotation"},
        {"id": "web/web2", "address": "203.0.113.2", "state": "draining"},
        {"id": "dns/ns1", "address": "2001:db8:1::53", "state": "out"},
    ]
}
REVISIONS = {"revisions": [{"number": 12, "via": "reload", "summary": "1 pool"}]}


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "control.sock"
    with control(path, {"/v1/members": MEMBERS, "/v1/config/revisions": REVISIONS}):
        yield str(path)


def texts(*words: str) -> list[str]:
    return [one.text for one in candidates(words)]


def test_commands() -> None:
    """All of them, or those that begin so; then those of a command."""
    assert texts("") == list(COMMANDS)
    assert texts("che") == ["check"]
    assert texts("member", "d") == ["drain"]
    assert {"peers", "routes", "why", "show", "set", "delete"} == set(texts("bgp", ""))
    assert texts("completion", "") == ["bash", "zsh", "fish"]  # and not what shells ask with


def test_options_and_their_words() -> None:
    """Options where one begins, and what one can be; of its value nothing else is offered."""
    assert "--sort-by" in texts("member", "list", "--")
    assert texts("member", "list", "--out") == ["--output"]
    assert texts("member", "list", "-o", "") == ["table", "wide", "json", "yaml", "name"]
    assert texts("member", "list", "--no-header", "--output", "y") == ["yaml"]
    assert texts("member", "drain", "--timeout", "") == []
    assert texts("explain", "tcp", "--k") == ["--kind"]


def test_names_of_what_there_is(socket: str) -> None:
    """Asked of the director that the other words name, in the place where a name belongs and nowhere else."""
    asked = ("--socket", socket)
    assert texts("member", "drain", *asked, "") == ["web/web1", "web/web2", "dns/ns1"]
    assert texts("member", "drain", *asked, "web/web2") == ["web/web2"]
    assert texts("member", "drain", *asked, "web/web2", "") == []
    assert texts("member", "list", *asked, "") == ["web", "dns"]
    assert texts("health", *asked, "d") == ["dns", "dns/ns1"]
    assert texts("node", "drain", *asked, "2001:") == ["2001:db8:1::53"]
    assert texts("config", "rollback", *asked, "") == ["12"]
    assert [one.about for one in candidates(("member", "ready", *asked, "web/web2"))] == ["203.0.113.2, draining"]


__all__ = ["file"]  # a fixture


def test_names_of_objects(file: Path) -> None:
    """Of files, too: the noun's own, and what a key names; not for one that is still to be made."""
    of = ("--config", str(file))
    assert texts("pool", "show", *of, "") == ["web"]
    assert texts("virtualservice", "set", *of, "www", "--pool", "") == ["web"]
    assert texts("virtualservice", "create", *of, "x", "--network-profile", "t") == ["tcp"]
    assert texts("networkprofile", "create", *of, "x", "--dsr-type", "") == ["l3", "l2"]
    assert "--dsr-encap" in texts("networkprofile", "create", "x", "--dsr-enc")
    assert set(texts("pool", "")) == {"list", "show", "create", "set", "delete"}


def test_without_a_director(tmp_path: Path) -> None:
    """There is nothing to offer, and nothing is said."""
    assert texts("member", "drain", "--socket", str(tmp_path / "none"), "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each asks the command that is being completed."""
    assert call(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"--shell {shell}" in script
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("onward mem", ["member"]),
        ("onward member ready --socket {socket} web", ["web/web1", "web/web2"]),
        ("onward node drain --socket {socket} 2001:db8:1", ["1::53"]),  # bash has the rest in words before
        ("onward member list -o 'js", ["json"]),
        ("onward nothing ", []),
    ],
)
def test_bash(line: str, replies: list[str], socket: str, tmp_path: Path) -> None:
    """The script in a real shell, with the variables that it gets while somebody types."""
    onward = tmp_path / "onward"
    onward.write_text(f'#!/bin/sh\nexec {sys.executable} -m appliance "$@"\n')
    onward.chmod(0o755)
    line = line.format(socket=socket)
    program = f'{BASH}\nCOMP_LINE=$1 COMP_POINT=${{#1}} COMP_WORDS=($2)\n_onward\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", program, "bash", line, str(onward)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == replies

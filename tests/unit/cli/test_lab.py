"""`onward lab` where no lab is needed; the rest is in tests/root/test_lab_runner.py."""

import json
import os
from pathlib import Path

import pytest

from appliance.cli.output import Exit
from appliance.cli.root import call
from appliance.lab import runner
from appliance.lab.node import Holder, Node


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of labs of our own, and we count as root."""
    monkeypatch.setattr(runner, "STATE", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def record(state: Path, name: str, *nodes: Holder) -> None:
    named = [Node(f"n{number}", f"{name}-n{number}", holder) for number, holder in enumerate(nodes, 1)]
    document = {"source": f"/{name}.clab.yml", "nodes": [node.record() for node in named]}
    (state / f"{name}.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "--json"], ["inspect", "lab"], ["down", "lab"], ["exec", "n1", "true"]]
)
def test_without_root_it_says_so(
    arguments: list[str], state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others than root cannot see whether a node runs: that is an error with the remedy, and no dead lab."""
    record(state, "lab", Holder.of(os.getpid()))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert call(["lab", *arguments]) == Exit.FAILED
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "onward: labs and their network namespaces need root; use sudo\n")


@pytest.mark.parametrize("arguments", [["down", "nope"], ["inspect", "nope"], ["exec", "--lab", "nope", "n1"]])
def test_an_unknown_lab_is_not_found(arguments: list[str], state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code for that is 5, with or without other labs."""
    assert call(["lab", *arguments]) == Exit.NOT_FOUND
    record(state, "lab", Holder.of(os.getpid()))
    assert call(["lab", *arguments]) == Exit.NOT_FOUND
    assert capsys.readouterr().err.splitlines() == ["onward: no lab nope is up; see `onward lab list`"] * 2


def test_an_unknown_node_is_not_found(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for a node, without any lab and in one that has no such node."""
    assert call(["lab", "exec", "nope"]) == Exit.NOT_FOUND
    record(state, "lab", Holder.of(os.getpid()))
    assert call(["lab", "exec", "nope"]) == Exit.NOT_FOUND
    assert capsys.readouterr().err.endswith("onward: lab lab has no node nope; it has n1\n")


def test_states(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All nodes up, some, none: up, degraded with the names of those that have died, dead."""
    alive = Holder.of(os.getpid())
    died = Holder(alive.pid, alive.pid_namespace + 1)
    record(state, "a", alive, alive)
    record(state, "b", alive, died, died)
    record(state, "c", died)
    assert call(["lab", "list"]) == Exit.OK
    assert capsys.readouterr().out.splitlines()[1:] == [
        "a    up                          2  /a.clab.yml",
        "b    degraded (n2, n3 died)      3  /b.clab.yml",
        "c    dead                        1  /c.clab.yml",
    ]

"""The table of vectors and rows, and the runner for other directors' programs: right ones pass, mistaken ones fail."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance import __main__ as runner
from tests.conformance.foreign import ADAPTERS, Simple, hold
from tests.conformance.rows import ROWS, gaps, justified, row_of
from tests.root.plane_rig import REPOSITORY

pytestmark = pytest.mark.root

SOURCE = REPOSITORY / "tests" / "conformance" / "simple.bpf.c"

MISTAKES = [
    ("TTL stays", "*hop_limit -= 1;", ""),
    ("DF always set outside", "whole_only = (ip4->frag_off & BE16(0x4000)) != 0", "whole_only = 1"),
    ("6-in-4 as IP in IP", "? IPPROTO_IPIP : IPPROTO_IPV6", "? IPPROTO_IPIP : IPPROTO_IPIP"),
]


def compiled(folder: Path, right: str = "", wrong: str = "") -> Path:
    """The small director, with a mistake or without."""
    text = SOURCE.read_text()
    assert right in text
    source, target = folder / "simple.bpf.c", folder / "simple.bpf.o"
    source.write_text(text.replace(right, wrong) if right else text)
    build = [sys.executable, REPOSITORY / "systemd" / "build_bpf.py", "--only", source, "--to", target]
    subprocess.run(build, check=True, capture_output=True)
    return target


def test_another_director_is_held_to_a_hundred_vectors(tmp_path: Path) -> None:
    """A program with its own maps passes all that it can be asked; why it is not asked the others is counted."""
    result = hold(compiled(tmp_path), Simple())
    assert result.failures == []
    assert result.held >= 100
    assert all(result.left_out.values())


@pytest.mark.parametrize(("name", "right", "wrong"), MISTAKES, ids=[name for name, *_ in MISTAKES])
def test_a_mistake_is_found(name: str, right: str, wrong: str, tmp_path: Path) -> None:
    """With one mistake in it, the same program fails some vector."""
    assert hold(compiled(tmp_path, right, wrong), Simple()).failures


def test_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with the number of vectors, and fails when one is not as expected."""
    assert runner.theirs(compiled(tmp_path), "simple") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" vectors, 0 of them not as expected")
    mistake = MISTAKES[0]
    assert runner.theirs(compiled(tmp_path, mistake[1], mistake[2]), "simple") == 1
    assert set(ADAPTERS) == {"simple"}


def test_every_row_has_vectors_or_a_reason() -> None:
    """A row without either is named, and so is a reason that is none any more."""
    counts = dict.fromkeys(ROWS, 1)
    assert gaps(counts | {"L2": 0}, {"L2": "why"}) == []
    assert gaps(counts | {"P4": 0}, {}) == [f"row P4 ({ROWS['P4']}) has no vector, and no reason"]
    assert gaps(counts, {"P4": "why"}) == ["row P4 is listed as without vectors, and has 1"]
    assert set(justified()) == {"P13", "L2", "L3", "L6", "M4", "M6", "C9"}
    assert [row_of(name) for name in ("P4-ipv4", "IPIP-4in4", "turns-ipv4-l2", "C13-x")] == [
        "P4",
        "IPIP",
        "flows",
        "C13",
    ]

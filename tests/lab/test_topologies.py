"""Every topology in `containerlab/`: up, checked by its own script, down, and nothing left; several at once."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance.lab.runner import STATE, Lab

FOLDER = Path(__file__).parents[2] / "containerlab"
OTHERS = {"quickstart", "fleet"}
"""These have tests of their own."""

NAMES = sorted({path.name.removesuffix(".clab.yml") for path in FOLDER.glob("*.clab.yml")} - OTHERS)
TOGETHER = 3
"""So many are up at a time."""

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]


def copy_of(name: str) -> str:
    """A name of our own: whoever has the lab up on this machine keeps it."""
    return f"{name}-t{os.getpid() % 10000}"


def namespaces() -> set[str]:
    return {path.name for path in Path("/run/netns").glob("clab-*-t*")}


def checked(name: str, lab: str) -> str:
    done = subprocess.run([FOLDER / name / "check", lab], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(params=[NAMES[at : at + TOGETHER] for at in range(0, len(NAMES), TOGETHER)], ids=" ".join)
def labs(request: pytest.FixtureRequest) -> Iterator[dict[str, Lab]]:
    """Several at once."""
    made: dict[str, Lab] = {}
    with ExitStack() as stack:
        for name in request.param:
            made[name] = stack.enter_context(Lab.up(FOLDER / f"{name}.clab.yml", name=copy_of(name), reconfigure=True))
        for lab in made.values():
            lab.wait(90.0)
        yield made
    left = [path.name for path in STATE.glob("*") if any(path.name.startswith(copy_of(name)) for name in made)]
    assert left == []
    assert not {space for space in namespaces() if any(copy_of(name) in space for name in made)}


def test_topologies_do_what_they_show(labs: dict[str, Lab]) -> None:
    """The check of each, while others are up beside it."""
    for name, lab in labs.items():
        said = checked(name, lab.name)
        assert said.count("ok: ") >= 2, said


def test_one_topology_is_up_twice() -> None:
    """Two copies do not know of each other: what dies in one is there in the other."""
    names = [copy_of("l2-dsr"), f"{copy_of('l2-dsr')}b"]
    with ExitStack() as stack:
        made = [stack.enter_context(Lab.up(FOLDER / "l2-dsr.clab.yml", name=name, reconfigure=True)) for name in names]
        for lab in made:
            lab.wait(60.0)
        made[0].down()
        assert "ok: " in checked("l2-dsr", names[1])


def test_every_topology_is_in_the_table_and_has_a_check() -> None:
    """In README.md; those with tests of their own need no script."""
    table = (FOLDER / "README.md").read_text()
    for path in FOLDER.glob("*.clab.yml"):
        assert f"({path.name})" in table
    for name in NAMES:
        assert os.access(FOLDER / name / "check", os.X_OK)

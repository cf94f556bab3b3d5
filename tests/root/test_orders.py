"""Operators' orders and whole directors: what outlives what."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns import until
from tests.root.plane_rig import REPOSITORY
from tests.root.test_reload import Director, directors, members

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

MORE = '[[pool.member]]\nname = "web2"\naddress = "192.0.2.98"\n\n[[virtual_service]]'


def onward(director: Director, *words: str) -> str:
    """What a command says to the director."""
    command = [sys.executable, "-m", "appliance", *words, "--config", str(director.folder / "onward.toml")]
    return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=60).stdout


def stop(director: Director) -> None:
    """As systemd does: a stop leaves no runtime directory."""
    assert director.process is not None
    os.kill(director.process.pid, signal.SIGTERM)
    assert director.process.wait(30) == 0
    shutil.rmtree(director.folder / "run")


def orders(director: Director) -> dict[str, tuple[str, int | None]]:
    """State and ratio that were ordered, by member; and each order has its mark in the table."""
    listed = json.loads(onward(director, "member", "list", "--json"))["members"]
    found = {one["id"]: (one["order"]["state"], one["order"]["ratio"]) for one in listed if one["order"] is not None}
    assert onward(director, "member", "list", "--no-header").count("*") == len(found)
    return found


def test_orders_outlive_a_stop_without_the_runtime_directory(tmp_path: Path) -> None:
    """A member that is down for maintenance gets no clients because the machine was started anew; nor does a weight
    end; those that an earlier version kept elsewhere count, once."""
    with directors(tmp_path) as (one, _):
        one.write()
        path = one.folder / "onward.toml"
        run = f'runtime_dir = "{one.folder}/run"'
        text = path.read_text().replace(run, f'{run}\nstate_dir = "{one.folder}/state"')
        path.write_text(text.replace("[[virtual_service]]", MORE, 1))
        one.start()
        onward(one, "member", "maint", "web/web1")
        onward(one, "member", "weight", "web/web2", "7")
        before = orders(one)
        assert before == {"web/web1": ("maint", None), "web/web2": ("ready", 7)}
        stop(one)
        one.start()
        assert orders(one) == before
        assert members(one)["web/web1"] == "out"

        # As an earlier version has left it.
        stop(one)
        (one.folder / "run").mkdir()
        shutil.move(one.folder / "state/orders.json", one.folder / "run/orders.json")
        one.start()
        assert orders(one) == before
        assert not (one.folder / "run/orders.json").exists()
        onward(one, "reload", "--reset-runtime")
        until(lambda: not orders(one), "all orders are taken back")
        stop(one)
        one.start()
        assert not orders(one)

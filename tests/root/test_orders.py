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


def test_a_disk_that_hangs_while_an_order_is_given(tmp_path: Path) -> None:
    """The director goes on answering, the order is refused, and nothing of it is on the disk when that goes on."""
    image, state = tmp_path / "image", tmp_path / "d1/state"
    with directors(tmp_path) as (one, _), image.open("wb") as file:
        file.truncate(16 << 20)
        state.mkdir()
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, state], check=True)
        try:
            one.write()
            path = one.folder / "onward.toml"
            run = f'runtime_dir = "{one.folder}/run"'
            path.write_text(path.read_text().replace(run, f'{run}\nstate_dir = "{state}"'))
            one.start()
            onward(one, "member", "weight", "web/web1", "7")
            subprocess.run(["fsfreeze", "-f", state], check=True)
            try:
                words = [sys.executable, "-m", "appliance", "member", "drain", "web/web1", "--config", str(path)]
                with subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as giving:
                    while giving.poll() is None:
                        assert one.status() is not None
                    assert giving.stderr is not None
                    assert "it is not known whether it is kept" in giving.stderr.read()
                assert giving.returncode != 0
                assert orders(one) == {"web/web1": ("ready", 7)}
            finally:
                subprocess.run(["fsfreeze", "-u", state], check=True)
            until(lambda: '"drain"' not in (state / "orders.json").read_text(), "what was refused is gone")
            onward(one, "member", "weight", "web/web1", "8")
            assert orders(one) == {"web/web1": ("ready", 8)}
            stop(one)
        finally:
            if one.process is not None and one.process.poll() is None:
                one.process.terminate()
                one.process.wait(20)
            subprocess.run(["umount", state], check=True)

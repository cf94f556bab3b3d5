"""The unit files: what they allow, and that systemd understands them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.app import CHECK_INTERVAL_S, FEED_S
from appliance.dataplane.raw.keeper import BEGIN_S
from appliance.dataplane.raw.plane import AWAY_S, STUCK_S

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = sorted((SYSTEMD / "units").glob("*.service"))
EXPOSED = 22
"""Tenths, as `systemd-analyze security` counts; about 20 is the least for what has to own a machine's network."""


def settings(unit: Path) -> list[tuple[str, str]]:
    lines = unit.read_text().splitlines()
    return [(key, value) for key, found, value in (line.partition("=") for line in lines) if found and key[0] != "#"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_not_exposed(unit: Path) -> None:
    """systemd-analyze's own measure of how much a unit may do."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSED}", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_every_line(unit: Path, tmp_path: Path) -> None:
    """An unknown key or value is only a warning, and then does nothing."""
    there = tmp_path / unit.name.replace("@", "@eth1")
    # What is not installed here is not what is asked.
    there.write_text(re.sub(r"/opt/onward/bin/onward", "/bin/true", re.sub("Documentation=.*", "", unit.read_text())))
    shutil.copy(unit, tmp_path / f"template-{unit.name}")
    done = subprocess.run(["systemd-analyze", "verify", str(there)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if unit.stem.partition("@")[0] in line]
    assert complaints == []


def test_the_director_may_do_what_it_must_and_nothing_else() -> None:
    """Four capabilities, and no root."""
    director = settings(SYSTEMD / "units/onward.service")
    wanted = {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"}
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert [set(value.split()) for name, value in director if name == key] == [wanted]
    assert ("User", "onward") in director
    assert "notify-reload" not in (SYSTEMD / "units/onward.service").read_text(), "systemd 252 does not know it"


def test_the_unit_keeps_what_the_director_leaves() -> None:
    """The store's size is told to the director, which takes it for a yes; runtime files stay over a restart, and so do
    children."""
    director = dict(settings(SYSTEMD / "units/onward.service"))
    assert director["Environment"] == f"FDSTORE={director['FileDescriptorStoreMax']}"
    assert director["RuntimeDirectoryPreserve"] == "restart"
    assert director["KillMode"] == "process"
    assert director["OOMPolicy"] == "continue"


def test_the_watchdog_outlasts_an_end_that_waits() -> None:
    """A director that dies of a part of it waits for its keeper, and nobody feeds the watchdog meanwhile; the last time
    may be as long ago as it goes unfed between two answers of the plane."""
    director = dict(settings(SYSTEMD / "units/onward.service"))
    unfed_s = FEED_S + CHECK_INTERVAL_S + STUCK_S
    assert unfed_s + BEGIN_S + AWAY_S < float(director["WatchdogSec"]) * 0.8

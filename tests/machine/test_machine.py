"""The service as it is installed, on a machine of its own with systemd as PID 1, booted once for all of this file."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.machine.boot import Machine, machine
from tests.root.plane_rig import REPOSITORY
from tests.root.test_restart import KILLED_S, longest, upgraded

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

LIMIT_S = 300.0
RELEASES = "/opt/onward/releases"

INSTALL = """
cd {repository}
source systemd/install
# Everything but pip, which would take minutes: the dependencies are those of the checkout.
new_release() {{ echo {releases}/first; }}
supported
install_it "" yes
"""


def release(made: Machine, name: str, product: Path) -> str:
    """An environment like those that `install` makes, with the packages of *product* and our own dependencies."""
    place = f"{RELEASES}/{name}"
    root = made.root / place.lstrip("/")
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(root)], check=True)
    site = next((root / "lib").glob("python*/site-packages"))
    for package in ("appliance", "bgp", "health"):
        shutil.copytree(product / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / "onward_lb-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onward-lb\nVersion: 0.1.0\n")
    (site / "zz-dependencies.pth").write_text(f"{Path(sys.prefix)}/lib/{site.parent.name}/site-packages\n")
    command = root / "bin/onward"
    command.write_text(f"#!{place}/bin/python3\nimport sys\nfrom appliance.__main__ import main\nsys.exit(main())\n")
    command.chmod(0o755)
    return place


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Any]]:
    """What was seen on the machine."""
    with machine() as made:
        first = release(made, "first", REPOSITORY)
        second = release(made, "second", upgraded(tmp_path_factory.mktemp("next")))
        made.write("/install.sh", INSTALL.format(repository=REPOSITORY, releases=RELEASES))
        made.run("bash", "-e", "/install.sh")
        before = set(listed(made))
        script = f"cd {REPOSITORY} && {sys.executable} -m tests.machine.inside {first} {second}"
        code, output = made.boot(script, LIMIT_S)
        assert code == 0, output[-6000:]
        (line,) = [line for line in output.splitlines() if line.startswith("JSON ")]
        seen = json.loads(line.removeprefix("JSON "))
        made.run("bash", "-ec", f"cd {REPOSITORY}; systemd/install --purge")
        yield {**seen, "installed": before, "after purge": set(listed(made)), "users": made.run("getent", "passwd")}


def listed(made: Machine) -> Iterator[str]:
    """Files of ours on the machine."""
    for where in ("etc/**/*onward*", "usr/local/**/*onward*", "opt/onward", "opt/onward/bin/*", "var/lib/*onward*"):
        for path in made.root.glob(where):
            yield str(path.relative_to(made.root))


def test_it_is_installed_and_starts(found: Mapping[str, Any]) -> None:
    """Files in their places; a start that ends when the director forwards, by XDP, as its own user."""
    assert {
        "opt/onward/bin/onward",
        "etc/systemd/system/onward.service",
        "etc/onward",
        "usr/local/bin/onward",
        "usr/local/share/man/man1/onward.1",
    } <= found["installed"]
    assert found["user"] == "onward"
    assert found["start"]["status"].startswith("forwarding")
    assert found["plane"]["mode_eth1"] == "native"
    assert found["kept"] >= 8, "link, six maps, BFD"


def test_a_reload_blocks_and_a_bad_one_fails(found: Mapping[str, Any]) -> None:
    """systemctl reload returns when the change is in force; a refused one fails, says why, and changes nothing."""
    reload = found["reload"]
    before, good, bad, again = reload["digests"]
    assert good != before == again
    assert bad == good
    assert "530000" in reload["refused"]["status"]
    assert reload["refused"]["state"] == "active"
    assert reload["same process"]


@pytest.mark.parametrize("how", ["killed", "restarted", "upgraded"])
def test_nothing_is_lost(found: Mapping[str, Any], how: str) -> None:
    """Under traffic: SIGKILL, `systemctl restart`, and an upgrade to another layout of maps."""
    assert found[how]["sent"] > 1000
    assert found[how]["lost"] == 0
    assert found["version"]


def test_a_director_that_hangs_is_replaced(found: Mapping[str, Any]) -> None:
    """SIGSTOP: the watchdog ends it, and the next one serves."""
    assert found["hung"]["by watchdog"]


def test_a_stop_leaves_the_machine_as_it_was(found: Mapping[str, Any]) -> None:
    """Links, addresses, routes, rules, nftables, traffic control, offloads, sysctls, processes; of BPF, the kernel has
    none of the objects any more that the director had."""
    assert found["bpf"] == ["link", "map", "prog"]
    assert found["left"] == {}
    assert found["left by raw"] == {}


def test_nothing_is_lost_on_the_raw_plane(found: Mapping[str, Any]) -> None:
    """By an upgrade under traffic: a keeper forwards between the two processes."""
    assert found["raw plane"] == "raw"
    assert found["raw restarted"]["sent"] > 1000
    assert found["raw restarted"]["lost"] == 0


def test_little_is_lost_when_the_raw_plane_is_killed(found: Mapping[str, Any]) -> None:
    """SIGKILL: the keeper that stands by takes over, long before another process could."""
    assert found["raw killed"]["sent"] > 1000
    assert longest(found["raw killed"]) < KILLED_S


def test_a_version_that_does_not_start(found: Mapping[str, Any]) -> None:
    """An upgrade to it fails and says so, and the version before runs again."""
    after = found["upgraded to a broken one"]
    assert "the new version does not start" in after["said"]
    assert after["in use"] == f"{RELEASES}/first/bin/onward"
    assert after["state"] == "active"


def test_units_of_members(found: Mapping[str, Any]) -> None:
    """VIPs come and go with their units, in both families; decapsulation as well, and takes its program along."""
    assert found["members"] == {"up": [True, True], "down": [False, False], "program left": False}


def test_it_is_taken_out(found: Mapping[str, Any]) -> None:
    """With everything, when that is asked for."""
    assert found["after purge"] == set()
    assert "onward" not in found["users"]

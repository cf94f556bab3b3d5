"""A director whose prefix of outer sources is not routed to it, but one of its machine's own networks."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns import namespaces
from tests.root.plane_rig import REPOSITORY

pytestmark = pytest.mark.root

CONFIG = """schema_version = 1
[director]
name = "d1"
interfaces = ["d0"]
plane = "raw"
outer_source_prefixes = ["{prefix}"]
runtime_dir = "{folder}/run"
state_dir = "{folder}/state"
[fleet]
secret_file = "fleet.key"
"""


@pytest.mark.parametrize("prefix", ["192.0.2.0/28", "192.0.2.64/26", "2001:db8:1::/64"], ids=["own", "on-link", "six"])
def test_it_does_not_start_and_a_check_of_the_machine_says_why(tmp_path: Path, prefix: str) -> None:
    """Both in the same words."""
    path = tmp_path / "onward.toml"
    path.write_text(CONFIG.format(prefix=prefix, folder=tmp_path))
    (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
    (tmp_path / "fleet.key").chmod(0o600)
    with namespaces("d") as (space,):
        space.ip("link add d0 type veth peer name d1")
        for name in ("d0", "d1"):
            space.ip(f"link set {name} up")
        for address in ("192.0.2.11/24", "2001:db8:1::11/64"):
            space.ip(f"address add {address} dev d0")

        def complaints(*words: str) -> list[str]:
            command = space.command(sys.executable, "-m", "appliance", *words, str(path))
            done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 1, done.stderr
            said = [
                line[line.index("director.outer_source_prefixes") :]
                for line in done.stderr.splitlines()
                if prefix in line
            ]
            assert len(said) == 1, done.stderr
            return said

        assert complaints("run") == complaints("check", "--host")

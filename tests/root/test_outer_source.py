"""A director whose prefix of outer sources is not routed to it, but one of its machine's own networks."""

import re
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
outer_source_prefixes = ["192.0.2.0/28", "2001:db8:1:0:8000::/66"]
runtime_dir = "{folder}/run"
state_dir = "{folder}/state"
[fleet]
secret_file = "fleet.key"
"""


def test_it_does_not_start_and_a_check_of_the_machine_says_why(tmp_path: Path) -> None:
    """Both in the same words: one prefix has the machine's address in it, the other one is on its segment."""
    path = tmp_path / "onward.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
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
            return re.findall(r"director\.outer_source_prefixes: .*", done.stderr)

        said = complaints("run")
        assert "192.0.2.11 of 192.0.2.0/28 is an address of this machine" in said[0]
        assert "2001:db8:1:0:8000::/66 overlaps 2001:db8:1::/64, which is on a segment of this machine" in said[1]
        assert complaints("check", "--host") == said

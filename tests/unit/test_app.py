"""What can be said of the composition without running it."""

from pathlib import Path

import pytest

from appliance import app
from appliance.config.load import ConfigError
from appliance.model import PlaneKind

CONFIG = """
schema_version = 1

[director]
name = "d1"
interfaces = ["eth1"]
plane = "auto"

[fleet]
secret_file = "fleet.key"
"""


def test_the_plane_of_the_command_line_beats_the_file(tmp_path: Path) -> None:
    """So it is at the start, and after every reload."""
    (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
    (tmp_path / "fleet.key").chmod(0o600)
    path = tmp_path / "onward.toml"
    path.write_text(CONFIG)
    assert app._load(path, None).director.plane is PlaneKind.AUTO
    assert app._load(path, PlaneKind.RAW).director.plane is PlaneKind.RAW
    path.write_text(CONFIG.replace("auto", "both"))
    with pytest.raises(ConfigError):
        app._load(path, PlaneKind.RAW)

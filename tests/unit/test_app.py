"""What can be said of the composition without running it."""

import time
from functools import partial
from pathlib import Path

import pytest

from appliance import app
from appliance.config.document import read_document
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


@pytest.mark.parametrize("step", [-1000.0, 1000.0])
async def test_decisions_do_not_follow_a_step_of_the_clock(tmp_path: Path, monkeypatch, step: float) -> None:
    """Whoever sets the machine's clock ends no window: all that decides has the time of the start, and counts on."""
    (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
    (tmp_path / "fleet.key").chmod(0o600)
    path = tmp_path / "onward.toml"
    path.write_text(
        CONFIG.replace('name = "d1"', f'name = "d1"\nruntime_dir = "{tmp_path}"').replace('"auto"', '"raw"')
    )
    parse = partial(app.parsed, plane=None)
    director = app.Director(parse(read_document(path)), parse)
    began, real = time.monotonic(), time.time()
    monkeypatch.setattr(time, "time", lambda: real + step)
    clocks = {
        "decisions": director._reconciler._clock,
        "orders": director._orders._clock,
        "verdicts": director._fleet._wall,
        "flows and reloads": director._now,
    }
    for what, clock in clocks.items():
        assert abs(clock() - (real + time.monotonic() - began)) < 1, what


def test_the_plane_of_the_command_line_beats_the_file(tmp_path: Path) -> None:
    """So it is at the start, and after every reload."""
    (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
    (tmp_path / "fleet.key").chmod(0o600)
    path = tmp_path / "onward.toml"
    path.write_text(CONFIG)
    assert app.parsed(read_document(path), None).config.director.plane is PlaneKind.AUTO
    assert app.parsed(read_document(path), PlaneKind.RAW).config.director.plane is PlaneKind.RAW
    path.write_text(CONFIG.replace("auto", "both"))
    with pytest.raises(ConfigError):
        app.parsed(read_document(path), PlaneKind.RAW)

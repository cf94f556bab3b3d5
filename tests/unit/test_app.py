"""What can be said of the composition without running it."""

import time
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from appliance import app, drain
from appliance.config.document import read_document
from appliance.config.load import ConfigError
from appliance.model import Drain, PlaneKind
from appliance.orders import take_over
from appliance.passive import Handshakes

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


@pytest.mark.parametrize("where", ["run", "state"])
async def test_a_drain_of_the_director_outlives_its_runtime_directory(tmp_path: Path, where: str) -> None:
    """It is kept in the state directory; what an earlier version kept in the other one is brought there."""
    (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
    (tmp_path / "fleet.key").chmod(0o600)
    for name in ("run", "state"):
        (tmp_path / name).mkdir()
    path = tmp_path / "onward.toml"
    folders = f'runtime_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"'
    path.write_text(CONFIG.replace('name = "d1"', f'name = "d1"\n{folders}').replace('"auto"', '"raw"'))
    drain.save(tmp_path / where / "drain.json", Drain(1.0, 2.0))
    parse = partial(app.parsed, plane=None)
    assert app.Director(parse(read_document(path)), parse)._state.drain is not None
    assert (tmp_path / "state/drain.json").exists()
    assert not (tmp_path / "run/drain.json").exists()


def test_what_cannot_be_brought_to_its_new_place_counts_where_it_is(tmp_path: Path) -> None:
    """Orders of an earlier version are not lost because the state directory cannot be made; one that is there wins."""
    (tmp_path / "file").touch()
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("old")
    with capture_logs() as logs:
        assert take_over(old, tmp_path / "file/new.json") == old
    assert [one["event"] for one in logs] == ["orders.not_written"]
    new.write_text("new")
    assert take_over(old, new) == new
    assert new.read_text() == "new"


POOL = """
[[pool]]
name = "web"
passive = true
passive_weight = 0.5
[[pool.member]]
name = "web1"
address = "203.0.113.1"
[[pool.member]]
name = "web2"
address = "203.0.113.2"
[[pool.member]]
name = "web3"
address = "203.0.113.3"

[[network_profile]]
name = "tcp"
type = "tcp_fast_path"

[[virtual_service]]
name = "web"
vips = ["198.51.100.7"]
ports = [80]
network_profile = "tcp"
pool = "web"
"""


async def test_outliers_among_clients_handshakes_get_less(tmp_path: Path) -> None:
    """What was seen of handshakes is a reason for the decision, and an event; a reload without the key ends it."""
    (tmp_path / "fleet.key").write_bytes(bytes(range(32)))
    (tmp_path / "fleet.key").chmod(0o600)
    path = tmp_path / "onward.toml"
    text = CONFIG.replace('name = "d1"', f'name = "d1"\nruntime_dir = "{tmp_path}"').replace('"auto"', '"raw"') + POOL
    path.write_text(text)
    parse = partial(app.parsed, plane=None)
    director = app.Director(parse(read_document(path)), parse)
    fine = dict.fromkeys((("web", "web/web1"), ("web", "web/web3")), Handshakes(100, 100))
    director._passive._known = fine | {("web", "web/web2"): Handshakes(100, 30, 70)}
    with capture_logs() as logs:
        director._hold_outliers()
        director._hold_outliers()
        assert list(director._state.snapshot().outliers) == ["web/web2"]
        path.write_text(text.replace("passive_weight = 0.5\n", ""))
        director._state.set_config(parse(read_document(path)).config)
        director._hold_outliers()
    assert director._state.snapshot().outliers == {}
    why = "70% of its handshakes fail, 0% at the median member"
    assert [(one["event"], one["member"], one.get("reason", "")) for one in logs] == [
        ("member.outlier", "web/web2", why),
        ("member.outlier_over", "web/web2", ""),
    ]


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

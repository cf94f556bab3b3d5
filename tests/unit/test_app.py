"""What can be said of the composition without running it."""

import os
import socket
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from appliance import app, drain, orders
from appliance.config.document import read_document
from appliance.config.load import ConfigError
from appliance.model import AdminState, Config, Drain, Order, PlaneKind
from appliance.orders import take_over
from appliance.passive import Handshakes
from tests import builders

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
    """Orders of an earlier version are not lost because the state directory cannot be made."""
    (tmp_path / "file").touch()
    old = tmp_path / "old.json"
    old.write_text("old")
    with capture_logs() as logs:
        assert take_over(old, tmp_path / "file/new.json") == old
    assert [one["event"] for one in logs] == ["orders.not_written"]


@pytest.mark.parametrize("counts", ["old", "new"])
def test_of_two_files_the_newer_one_counts(tmp_path: Path, counts: str) -> None:
    """After a rollback and an upgrade, it is the one of the earlier version; and that is said."""
    files = {name: tmp_path / f"{name}.json" for name in ("old", "new")}
    for name, path in files.items():
        path.write_text(name)
        os.utime(path, (2.0, 2.0) if name == counts else (1.0, 1.0))
    with capture_logs() as logs:
        assert take_over(files["old"], files["new"]) == files["new"]
    assert [(one["event"], one["counts"]) for one in logs] == [("orders.two_files", str(files[counts]))]
    assert files["new"].read_text() == counts
    assert not files["old"].exists()


def test_a_state_directory_that_nobody_may_search_is_a_warning(tmp_path: Path, monkeypatch) -> None:
    """A director starts with it."""
    real = Path.stat

    def stat(path: Path, **kwargs: bool) -> os.stat_result:
        if path.parent == tmp_path / "state":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **kwargs)

    monkeypatch.setattr(Path, "stat", stat)  # tests run as root, who may search everything
    old = tmp_path / "old.json"
    with capture_logs() as logs:
        assert take_over(old, tmp_path / "state/new.json") == old
    assert [(one["event"], one["log_level"]) for one in logs] == [("orders.not_written", "warning")]


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


def _director(folder: Path) -> app.Director:
    """With orders kept in its runtime directory, which is its state directory, too."""
    (folder / "fleet.key").write_bytes(bytes(range(32)))
    (folder / "fleet.key").chmod(0o600)
    path = folder / "onward.toml"
    path.write_text(
        CONFIG.replace('name = "d1"', f'name = "d1"\nruntime_dir = "{folder}"').replace('"auto"', '"raw"') + POOL
    )
    parse = partial(app.parsed, plane=None)
    return app.Director(parse(read_document(path)), parse)


async def test_what_stands_from_before_is_loud(tmp_path: Path, monkeypatch) -> None:
    """A drained director warns at its start, with the number of orders and those for members that are gone, and the
    supervisor's status has it as its first word until it is taken back."""
    drain.save(tmp_path / "drain.json", Drain(1.0, 2.0))
    given = {"web/web1": Order(AdminState.DRAIN, 1.0), "web/gone": Order(AdminState.MAINT, 1.0)}
    orders.save(tmp_path / "orders.json", given)
    director = _director(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with capture_logs() as logs:
            director._say_what_stands()
        director._tell("x")
        director._state.set_drain(None)
        director._tell("x")
        assert supervisor.recv(1000) == b"STATUS=drained (`onward undrain`); x"
        assert supervisor.recv(1000) == b"STATUS=x"
    events = {one["event"]: one for one in logs if one["log_level"] == "warning"}
    assert events.keys() == {"director.still_drained", "orders.still_in_force", "orders.without_member"}
    assert events["orders.still_in_force"]["number"] == 2
    assert events["orders.without_member"]["members"] == ["web/gone"]


def test_two_directors_do_not_share_a_state_directory(tmp_path: Path) -> None:
    """The second one is refused as long as the first one is there; a folder that cannot be made is a warning."""

    def config(state: Path) -> Config:
        made = builders.config()
        return replace(made, director=replace(made.director, state_dir=state))

    first = app._lock_state(config(tmp_path / "state"))
    assert first is not None
    with first, pytest.raises(app.StartError, match="running already"):
        app._lock_state(config(tmp_path / "state"))
    again = app._lock_state(config(tmp_path / "state"))
    assert again is not None
    again.close()
    (tmp_path / "file").touch()
    with capture_logs() as logs:
        assert app._lock_state(config(tmp_path / "file/state")) is None
    assert [one["event"] for one in logs] == ["orders.not_locked"]

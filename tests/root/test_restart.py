"""A director that ends and comes back under a supervisor that keeps descriptors: what clients and routers see of it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.failures.ends import FLOWS
from tests.failures.stage import Stage, stage
from tests.netns import until
from tests.root.plane_rig import REPOSITORY
from tests.supervisor import Supervisor

pytestmark = [pytest.mark.root, pytest.mark.timeout(150)]

GOES_ON_S = 1.0
"""How long traffic flows before and after."""


@contextmanager
def only(folder: Path, router: str) -> Iterator[Stage]:
    """The only director there is, by XDP, watched by BFD: whatever it misses, clients miss."""
    with Supervisor() as supervisor, stage(folder, router, directors=1, plane="xdp", supervisor=supervisor) as made:
        yield made


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with only(tmp_path_factory.mktemp("restart"), "frr") as made:
        yield made


def end(made: Stage, how: signal.Signals) -> None:
    """The process ends; what it leaves is left."""
    process = made.processes["d1"]
    process.send_signal(how)
    process.wait(20)


def took_over(made: Stage) -> bool:
    """Whether the process that was started last follows its own tables."""
    names = [event["event"] for event in made.events("d1")]
    return "director.took_over" in names[len(names) - names[::-1].index("director.started") :]


def again(made: Stage) -> None:
    made.start("d1")
    until(lambda: took_over(made), "the next process has taken over", 40.0)
    made.gets_well()


def seen_by_router(made: Stage) -> object:
    """Since when it has its BGP session, and how often BFD went down."""
    if made.router == "bird":
        text = made.spaces["r"].run("birdc", "-s", str(made.folder / "bird.ctl"), "show", "protocols")
        return re.findall(r"^d1 .*", text, re.MULTILINE)
    log = (made.folder / "bgpd.log").read_text()
    return log.count("%ADJCHANGE"), log.count("Down")


@pytest.mark.parametrize("how", [signal.SIGUSR1, signal.SIGKILL], ids=["restarted", "killed"])
def test_nothing_is_lost_and_routers_see_nothing(alone: Stage, how: signal.Signals) -> None:
    """A director that is to be followed by another process, or is killed: every datagram arrives, the route, the BGP
    session and the BFD session stay."""
    alone.gets_well()
    bfd = alone.peer("d1")["bfd"]
    session = seen_by_router(alone)
    with alone.traffic() as said, alone.never_without_a_route():
        time.sleep(GOES_ON_S)
        end(alone, how)
        time.sleep(GOES_ON_S)  # nobody is there
        again(alone)
        time.sleep(GOES_ON_S)
    assert said["sent"] > 1000
    assert said["lost"] == 0
    assert seen_by_router(alone) == session
    assert alone.peer("d1")["bfd"]["downs"] == bfd["downs"]
    assert alone.peer("d1")["bfd"]["since"] == pytest.approx(bfd["since"], abs=2.0), "it is the same session"


def test_flows_stay_remembered(alone: Stage) -> None:
    """In a pool whose algorithm decides flow by flow each is a pin: as many are there when the next process, which has
    seen no packet of them, follows its own tables; and they go on where they were."""
    stay_remembered(alone)


def stay_remembered(alone: Stage) -> None:
    path = alone.folder / "d1.toml"
    before = path.read_text()
    text = changed(before, 'name = "web"\nhealth_monitors', 'name = "web"\nalgorithm = "round_robin"\nhealth_monitors')
    path.write_text(changed(text, 'type = "udp_fast_path"', 'type = "udp_fast_path"\nsession_idle_timeout = 300'))
    try:
        alone.order("d1", "reload")
        with alone.traffic():
            time.sleep(GOES_ON_S)
        until(lambda: alone.status("d1")["pins"]["live"] == FLOWS, "every flow is remembered")
        end(alone, signal.SIGKILL)
        again(alone)
        until(lambda: alone.status("d1")["pins"]["live"] == FLOWS, "every flow is remembered still")
        assert "plane.pins_not_adopted" not in [event["event"] for event in alone.events("d1")]
    finally:
        path.write_text(before)
        alone.order("d1", "reload")


def test_bird_sees_nothing_either(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Its session and its route stay as well, when the director is killed; and with --long, again and again."""
    with only(tmp_path, "bird") as made:
        for how in [signal.SIGKILL, signal.SIGUSR1] * (5 if pytestconfig.getoption("--long") else 1):
            test_nothing_is_lost_and_routers_see_nothing(made, how)


@pytest.fixture(scope="module")
def by_raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The only director there is, without XDP."""
    folder = tmp_path_factory.mktemp("raw")
    with Supervisor() as supervisor, stage(folder, "bird", directors=1, plane="raw", supervisor=supervisor) as made:
        yield made


def keepers(made: Stage) -> list[str]:
    assert made.supervisor is not None
    return [name for name in made.supervisor.kept if name.startswith("keeper.")]


def test_the_raw_plane_is_followed_without_loss(by_raw: Stage) -> None:
    """A keeper forwards while nobody else does: no datagram is lost, the router sees nothing, and the keeper ends when
    the next process follows tables of its own."""
    by_raw.gets_well()
    session = seen_by_router(by_raw)
    with by_raw.traffic() as said, by_raw.never_without_a_route():
        time.sleep(GOES_ON_S)
        end(by_raw, signal.SIGUSR1)
        assert len(keepers(by_raw)) == 1
        time.sleep(GOES_ON_S)  # nobody but the keeper is there
        again(by_raw)
        time.sleep(GOES_ON_S)
    assert said["sent"] > 1000
    assert said["lost"] == 0
    assert not keepers(by_raw)
    until(lambda: "plane.keeper_ended" in [event["event"] for event in by_raw.events("d1")], "it ends")
    assert seen_by_router(by_raw) == session


def test_the_raw_planes_flows_stay_remembered(by_raw: Stage) -> None:
    """The same as with XDP, also when the director was killed."""
    by_raw.gets_well()
    stay_remembered(by_raw)


@pytest.mark.parametrize("who", ["supervisor", "keeper"])
def test_a_keeper_that_nobody_follows(by_raw: Stage, who: str) -> None:
    """When the supervisor lets go, nothing is left; when the keeper dies, the router is told at once."""
    by_raw.gets_well()
    assert by_raw.supervisor is not None
    end(by_raw, signal.SIGUSR1)
    (name,) = keepers(by_raw)
    pid = int(name.rpartition(".")[2])
    assert by_raw.fib() == {"d1"}
    if who == "keeper":
        os.kill(pid, signal.SIGKILL)
    else:
        by_raw.supervisor.let_go()
        until(lambda: not Path(f"/proc/{pid}").exists(), "the keeper ends")
        assert left_in_kernel(by_raw)["tables"] == ""
    by_raw.fib_becomes(deadline_s=8.0)
    by_raw.start("d1")
    by_raw.gets_well()


def test_a_director_that_nobody_starts_again_is_left_by_routers(alone: Stage) -> None:
    """When the supervisor gives up, the program goes, and the routes with it; not after the grace only."""
    alone.gets_well()
    assert alone.supervisor is not None
    end(alone, signal.SIGKILL)
    time.sleep(GOES_ON_S)
    assert alone.fib() == {"d1"}, "within the grace it is there"
    began = time.monotonic()
    alone.supervisor.let_go()
    alone.fib_becomes(deadline_s=8.0)
    assert time.monotonic() - began < 8.0
    alone.start("d1")
    alone.gets_well()


def test_a_stop_leaves_nothing_behind(alone: Stage) -> None:
    """After a life before that was killed: no program, no rule, no route, no table, no offload that was switched
    off, no process; and nothing is kept any more."""
    alone.gets_well()
    assert alone.supervisor is not None
    end(alone, signal.SIGKILL)
    again(alone)
    end(alone, signal.SIGTERM)
    alone.fib_becomes()
    until(lambda: not alone.supervisor.kept, "nothing is kept")  # type: ignore[union-attr]
    until(lambda: not alone.pids("d1"), "no process is left", 20.0)
    assert left_in_kernel(alone) == {
        "program": "",
        "tables": "",
        "rules": 0,
        "links": {"lo", "eth1"},
        "gro": gro(alone, "m"),
    }
    alone.start("d1")
    alone.gets_well()


def gro(made: Stage, name: str) -> str:
    return re.findall(r"generic-receive-offload: (\w+)", made.spaces[name].run("ethtool", "-k", "eth1"))[0]


def left_in_kernel(made: Stage) -> dict[str, object]:
    space = made.spaces["d1"]
    links = json.loads(space.ip("-j link show"))
    rules = space.ip("-4 rule show") + space.ip("-6 rule show")
    return {
        "program": "".join(str(link.get("xdp", "")) for link in links),
        "tables": space.run("nft", "list", "tables").strip(),
        "rules": rules.count("fwmark"),
        "links": {link["ifname"] for link in links},
        "gro": gro(made, "d1"),
    }


def upgraded(folder: Path) -> Path:
    """A copy of the product as a next version whose maps are laid out otherwise, program and Python alike."""
    root = folder / "next"
    for part in ("appliance", "bgp", "health", "tests"):
        shutil.copytree(REPOSITORY / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "systemd", root / "systemd")
    tables, layout = root / "appliance/dataplane/bpf/tables.h", root / "appliance/dataplane/xdp/layout.py"
    tables.write_text(
        changed(tables.read_text(), "\tu32 source_sets;\n", "\tu32 source_sets;\n\tu32 next_version[16];\n")
    )
    layout.write_text(
        changed(layout.read_text(), '("source_sets", "<u4"),', '("source_sets", "<u4"), ("next_version", "<u4", 16),')
    )
    for path in root.rglob("*.bpf.o"):
        path.unlink()
    subprocess.run([sys.executable, str(root / "systemd/build_bpf.py"), "--quiet"], check=True)
    return root


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    return text.replace(old, new)


def test_another_version_with_other_maps_takes_over(alone: Stage, tmp_path: Path) -> None:
    """An upgrade under traffic: the program of the version before goes on until the next one's is in its place."""
    alone.gets_well()
    alone.product = upgraded(tmp_path)
    try:
        with alone.traffic() as said, alone.never_without_a_route():
            time.sleep(GOES_ON_S)
            end(alone, signal.SIGUSR1)
            again(alone)
            time.sleep(GOES_ON_S)
        assert said["lost"] == 0
        assert str(alone.product) in Path(f"/proc/{alone.processes['d1'].pid}/cwd").readlink().as_posix()
    finally:
        alone.product = None

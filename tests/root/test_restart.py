"""A director that ends and comes back under a supervisor that keeps descriptors: what clients and routers see of it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.failures.ends import FLOWS, PORT
from tests.failures.stage import VIP, Stage, stage
from tests.netns import Namespace, until
from tests.root.plane_rig import REPOSITORY
from tests.supervisor import Supervisor

pytestmark = [pytest.mark.root, pytest.mark.timeout(150)]

GOES_ON_S = 1.0
"""How long traffic flows before and after."""

MORE = {
    "ended_by": [signal.SIGKILL, signal.SIGSTOP],
    "hangs": ["alone", "before", "followed"],
    "leaves_by": [signal.SIGUSR1, signal.SIGKILL],
}
"""The first of each, and with --long the others."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in MORE.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(name, MORE[name] if metafunc.config.getoption("--long") else MORE[name][:1], ids=str)


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


def of_the_last(made: Stage) -> list[dict[str, Any]]:
    """What the process has logged that was started last, from its start on."""
    events = made.events("d1")
    return events[max(n for n, event in enumerate(events) if event["event"] == "director.started") :]


def took_over(made: Stage) -> bool:
    """Whether the process that was started last follows its own tables."""
    return "director.took_over" in [event["event"] for event in of_the_last(made)]


def begun(made: Stage) -> int:
    """How many processes have begun so far."""
    return [event["event"] for event in made.events("d1")].count("director.started")


def again(made: Stage) -> None:
    before = begun(made)
    made.start("d1")
    until(lambda: begun(made) > before and took_over(made), "the next process has taken over", 40.0)
    made.gets_well()


def seen_by_router(made: Stage) -> tuple[float, float]:
    """Whether it has its BGP session and since when, or how often sessions came and went."""
    if made.router == "bird":
        text = made.spaces["r"].run("birdc", "-s", str(made.folder / "bird.ctl"), "show", "protocols")
        ((hours, minutes, seconds, state),) = re.findall(r"^d1 .* (\d+):(\d+):([\d.]+) +(\w+)", text, re.MULTILINE)
        return state == "Established", int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    log = (made.folder / "bgpd.log").read_text()
    return log.count("%ADJCHANGE"), log.count("Down")


def same(session: tuple[float, float]) -> object:
    """What is equal to it if nothing has happened meanwhile. The machine's clock may be corrected a little."""
    return pytest.approx(session, abs=0.1)


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
    assert seen_by_router(alone) == same(session)
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


def keepers(made: Stage) -> list[int]:
    """Those that could begin, or have begun."""
    assert made.supervisor is not None
    return [int(name.removeprefix("keeper.")) for name in made.supervisor.kept if name.startswith("keeper.")]


def keepers_told(made: Stage) -> list[int]:
    """The keepers that the present director has had."""
    return [event["pid"] for event in of_the_last(made) if event["event"] == "plane.keeper_stands"]


def stands(made: Stage) -> int:
    """All is well, a keeper stands by, and whoever guards the routes knows that."""
    made.gets_well()
    until(
        lambda: keepers(made) == keepers_told(made)[-1:] != [], "its own keeper stands by, and no other is there", 30.0
    )
    assert made.supervisor is not None
    said, before = made.supervisor.said, made.supervisor.said.count("WATCHDOG=1")
    until(lambda: said.count("WATCHDOG=1") > before, "the lease was renewed since")
    return keepers(made)[0]


def has_ended(made: Stage, pid: int) -> bool:
    return ("plane.keeper_ended", pid) in [(event["event"], event.get("pid")) for event in made.events("d1")]


def test_the_raw_plane_is_followed_without_loss(by_raw: Stage) -> None:
    """A keeper forwards while nobody else does: no datagram is lost and none comes twice, at either change; the router
    sees nothing, and the keeper ends when the next process follows tables of its own."""
    pid = stands(by_raw)
    session = seen_by_router(by_raw)
    with by_raw.traffic() as said, by_raw.never_without_a_route():
        time.sleep(GOES_ON_S)
        end(by_raw, signal.SIGUSR1)
        assert keepers(by_raw) == [pid]
        time.sleep(GOES_ON_S)  # nobody but the keeper is there
        again(by_raw)
        time.sleep(GOES_ON_S)
    assert said["sent"] > 1000
    assert (said["lost"], said["twice"]) == (0, 0)
    assert pid not in keepers(by_raw)
    until(lambda: has_ended(by_raw, pid), "it ends")
    assert seen_by_router(by_raw) == same(session)


KILLED_S = 1.0
"""A flow's longest outage when the director is killed: in the middle it is some milliseconds, see ARCHITECTURE.md. To
start an interpreter and what it takes to forward is two seconds."""


def test_the_raw_plane_is_killed(by_raw: Stage) -> None:
    """The keeper that has stood by forwards: flows miss what came while the process died, nothing comes twice, and the
    router sees nothing, not even when the next process takes over."""
    pid = stands(by_raw)
    session = seen_by_router(by_raw)
    with by_raw.never_without_a_route():
        with by_raw.traffic() as said:
            time.sleep(GOES_ON_S)
            end(by_raw, signal.SIGKILL)
            time.sleep(GOES_ON_S)  # nobody but the keeper is there
        with by_raw.traffic() as later:
            again(by_raw)
    assert said["sent"] > 1000
    assert longest(said) < KILLED_S
    assert said["twice"] == 0
    assert (later["lost"], later["twice"]) == (0, 0)
    until(lambda: has_ended(by_raw, pid), "it ends")
    assert seen_by_router(by_raw) == same(session)


def longest(said: Mapping[str, Any]) -> float:
    """Of the outages of all flows, seconds."""
    assert all(end is not None for _, end in said["outages"]), "a flow is broken"
    return max((end - began for began, end in said["outages"]), default=0.0)


def test_a_keeper_that_stands_by_sleeps(by_raw: Stage) -> None:
    """It does not run at all while tables stay as they are."""
    pid = stands(by_raw)

    def times_run() -> int:
        status = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))
        return sum(map(int, re.findall(r"^(?:non)?voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)))

    def sleeps() -> bool:
        before = times_run()
        time.sleep(GOES_ON_S)
        return times_run() == before

    until(sleeps, "it sleeps for a second", 20.0)


def test_a_keeper_dies_or_hangs_while_it_stands_by(by_raw: Stage, ended_by: signal.Signals) -> None:
    """Another one takes its place, and knows what has changed since: the director is killed and its flows go on."""
    pid = stands(by_raw)
    path = by_raw.folder / "d1.toml"
    before = path.read_text()
    path.write_text(changed(before, f"ports = [{PORT}]", "ports = [5353]"))
    try:
        by_raw.order("d1", "reload")
        os.kill(pid, ended_by)
        until(lambda: pid not in keepers(by_raw), "nobody counts on it any more", 20.0)
        assert stands(by_raw) != pid
        assert pid not in by_raw.pids("d1")
    finally:
        path.write_text(before)
        by_raw.order("d1", "reload")
    with by_raw.traffic() as said:
        time.sleep(GOES_ON_S)
        end(by_raw, signal.SIGKILL)
        time.sleep(GOES_ON_S)
    assert longest(said) < KILLED_S
    again(by_raw)


def test_a_keeper_that_hangs_instead_of_forwarding(by_raw: Stage, hangs: str) -> None:
    """Nobody counts on it: the router is told at once, and so is the next process, which takes its place all the same,
    also when that was about to wait; from then on each datagram arrives, once."""
    pid, lives_before = stands(by_raw), begun(by_raw)
    if hangs == "before":
        os.kill(pid, signal.SIGSTOP)
    end(by_raw, signal.SIGKILL)
    if hangs == "alone":
        time.sleep(GOES_ON_S)
        assert by_raw.fib() == {"d1"}, "it forwards"
        os.kill(pid, signal.SIGSTOP)
    if hangs != "followed":
        by_raw.fib_becomes(deadline_s=8.0)
    by_raw.start("d1")
    if hangs == "followed":
        until(lambda: begun(by_raw) > lives_before, "the next process has begun", 20.0)
        os.kill(pid, signal.SIGSTOP)
        until(lambda: "plane.keeper_hangs" in [event["event"] for event in of_the_last(by_raw)], "that is noticed")
    by_raw.gets_well()
    until(lambda: pid not in by_raw.pids("d1"), "it was ended")
    with by_raw.traffic() as said:
        time.sleep(GOES_ON_S)
    assert (said["lost"], said["twice"]) == (0, 0)


def test_a_keeper_guards_the_kernel(by_raw: Stage) -> None:
    """While it forwards alone, somebody deletes what keeps the kernel from answering for VIPs: it is back at once, and
    the next process has it still."""
    stands(by_raw)
    space = by_raw.spaces["d1"]
    before = space.run("nft", "list", "ruleset")
    assert VIP in before
    end(by_raw, signal.SIGUSR1)
    space.run("nft", "flush", "ruleset")
    until(lambda: space.run("nft", "list", "ruleset") == before, "the kernel is kept away again", 5.0)
    assert by_raw.fib() == {"d1"}
    again(by_raw)
    assert space.run("nft", "list", "ruleset") == before


def tables(space: Namespace) -> list[str]:
    """Of nftables."""
    return space.run("nft", "list", "tables").splitlines()


def test_interfaces_that_nobody_has_any_more(by_raw: Stage, leaves_by: signal.Signals) -> None:
    """A director is followed by one of other interfaces: what the first one has changed at those that it alone had is
    as before, no datagram is lost, and of two tables one is left."""
    path, space = by_raw.folder / "d1.toml", by_raw.spaces["d1"]
    before, only = path.read_text(), tables(space)
    space.ip("link add d9 type veth peer name e9")
    for name in ("d9", "e9"):
        space.ip(f"link set {name} up")
    space.run("ethtool", "-K", "d9", "gro", "on")
    try:
        stands(by_raw)
        path.write_text(changed(before, 'interfaces = ["eth1"]', 'interfaces = ["eth1", "d9"]'))
        end(by_raw, signal.SIGUSR1)
        again(by_raw)
        until(lambda: len(tables(space)) == 1 and tables(space) != only, "it has a table of its own, and no other")
        assert gro(by_raw, "d1", "d9") == "off"
        stands(by_raw)
        path.write_text(before)
        with by_raw.traffic() as said:
            end(by_raw, leaves_by)
            again(by_raw)
            until(lambda: tables(space) == only, "what the one before had is gone")
        assert gro(by_raw, "d1", "d9") == "on"
        assert said["twice"] == 0
        assert said["lost"] == 0 or leaves_by is signal.SIGKILL
    finally:
        path.write_text(before)
        space.ip("link del d9")
        by_raw.gets_well()


def test_a_stop_of_the_raw_plane_leaves_nothing_behind(by_raw: Stage) -> None:
    """No keeper either, nor what it would have needed."""
    stands(by_raw)
    end(by_raw, signal.SIGTERM)
    assert by_raw.supervisor is not None
    until(lambda: not by_raw.supervisor.kept, "nothing is kept")  # type: ignore[union-attr]
    until(lambda: not by_raw.pids("d1"), "no process is left", 20.0)
    left = left_in_kernel(by_raw)
    assert left["tables"] == ""
    assert left["gro"] == gro(by_raw, "m")
    by_raw.start("d1")
    by_raw.gets_well()


def test_the_raw_planes_flows_stay_remembered(by_raw: Stage) -> None:
    """The same as with XDP, also when the director was killed."""
    by_raw.gets_well()
    stay_remembered(by_raw)


@pytest.mark.parametrize(
    ("who", "how"),
    [("supervisor", signal.SIGUSR1), ("supervisor", signal.SIGKILL), ("keeper", signal.SIGKILL)],
    ids=["restarted-supervisor", "killed-supervisor", "killed-keeper"],
)
def test_a_keeper_that_nobody_follows(by_raw: Stage, who: str, how: signal.Signals) -> None:
    """When the supervisor lets go, nothing is left, and the kernel is kept from clients' packets until the router sends
    none; when the keeper dies, the router is told at once."""
    pid = stands(by_raw)
    assert by_raw.supervisor is not None
    end(by_raw, how)
    time.sleep(GOES_ON_S)
    assert by_raw.fib() == {"d1"}, "within the grace it is there"
    if who == "keeper":
        os.kill(pid, signal.SIGKILL)
    else:
        by_raw.supervisor.let_go()
        until(lambda: not tables(by_raw.spaces["d1"]), "the keeper ends")
        assert by_raw.fib() == set()
        until(lambda: not Path(f"/proc/{pid}").exists(), "it has ended")
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


def gro(made: Stage, name: str, interface: str = "eth1") -> str:
    return re.findall(r"generic-receive-offload: (\w+)", made.spaces[name].run("ethtool", "-k", interface))[0]


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

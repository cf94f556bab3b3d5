"""HA modes in real routers: FRR by eBGP, BIRD by iBGP, IPv4 and IPv6; in their RIBs and in their kernels."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from ipaddress import ip_address

import pytest

from appliance.announce import HIGHEST
from appliance.damping import FLAPS
from appliance.model import HaMode
from appliance.ranks import order
from tests.builders import service
from tests.netns import until
from tests.root.ha_lab import BIRD_ROUTER, DIRECTORS, FRR_ROUTER, PORT, SERVICE, stage

pytestmark = pytest.mark.root

STANDBY = ("198.51.100.7", "2001:db8:f::7")
SPREAD = ("198.51.100.8", "2001:db8:f::8")
OUTSIDE = "198.51.100.9"
SHARED = "198.51.100.10"
WATCHED = "198.51.100.11"

SERVICES = (
    SERVICE.format(
        name="standby",
        vips=list(STANDBY),
        pool="web",
        rest='ha = "active_standby"\nprefer = ["d2"]\nbgp = { communities = ["65010:7"], standby_communities = '
        '["65010:8"], large_communities = ["65010:1:7"] }',
    )
    + SERVICE.format(name="spread", vips=list(SPREAD), pool="web", rest='ha = "n_plus_m"\nprimaries = 2')
    + SERVICE.format(
        name="outside",
        vips=[OUTSIDE],
        pool="web",
        rest='bgp = { peer_labels = ["outside"], prepend = 2, med = 30 }',
    )
    + SERVICE.format(name="shared", vips=[SHARED], pool="web", rest="")
    + SERVICE.format(name="watched", vips=[WATCHED], pool="watched", rest="")
)

RANKS = ["d2", "d1", "d3"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with stage(tmp_path_factory.mktemp("ha")) as made:
        made.configure(SERVICES, director="drain_on_stop = 15")
        made.start(*DIRECTORS)
        made.fib_becomes(SHARED, *DIRECTORS, deadline_s=90.0)
        yield made


@pytest.fixture
def all_there(running):
    """All directors announce, also when a test before has failed."""
    running.start(*(name for name, process in running.processes.items() if process.poll() is not None))
    for name in DIRECTORS:
        running.order(name, "undrain")  # where a test before has failed
    running.fib_becomes(SHARED, *DIRECTORS, deadline_s=60.0)
    for vip in STANDBY:
        running.fib_becomes(vip, "d2")
    return running


def ranked(vip: str) -> list[str]:
    return list(order(service(ha=HaMode.N_PLUS_M), ip_address(vip), list(DIRECTORS)))


@pytest.mark.parametrize("vip", STANDBY)
def test_standbys_announce_with_worse_attributes(all_there, vip):
    """Both routers know all three ways, tell them apart by the step of each rank, and take one."""
    outside, inside = all_there.frr_paths(vip), all_there.bird_paths(vip)
    assert outside.keys() == inside.keys() == set(DIRECTORS)
    for rank, name in enumerate(RANKS):
        assert (outside[name].med, outside[name].as_path) == (100 * rank, (65010,))
        assert (inside[name].preference, inside[name].as_path) == (100 - 10 * rank, ())
        for way in (outside[name], inside[name]):
            assert way.communities == ({"65010:7", "65010:8"} if rank else {"65010:7"})
            assert way.large == {"65010:1:7"}
            assert way.chosen == (rank == 0)


def test_labels_prepends_and_med(all_there):
    """Only the router with the label is told, with the longer path; VIPs without wishes go to both as they are."""
    ways = all_there.frr_paths(OUTSIDE)
    assert {(way.med, way.as_path) for way in ways.values()} == {(30, (65010,) * 3)}
    assert ways.keys() == set(DIRECTORS)
    assert all_there.bird_paths(OUTSIDE) == {}
    all_there.fib_becomes(OUTSIDE, *DIRECTORS, routers="f")
    assert {(way.med, way.preference) for way in all_there.bird_paths(SHARED).values()} == {(None, 100)}


def test_the_views_say_what_routers_say(all_there):
    """`onward bgp` on each director: whom it tells what, and why one router is not told."""
    for rank, name in enumerate(RANKS):
        told = json.loads(all_there.onward(name, "bgp", "why", STANDBY[0], "--json").stdout)["vips"][0]
        assert told["ranked"] == RANKS
        assert told["standing"] == rank
        meds = {each["peer"]: (each["told"], each["attributes"]["med"]) for each in told["peers"]}
        assert meds == {FRR_ROUTER: (True, 100 * rank), BIRD_ROUTER: (True, 100 * rank)}
        assert all_there.frr_paths(STANDBY[0])[name].med == 100 * rank
        text = all_there.onward(name, "bgp", "why", OUTSIDE).stdout
        assert f"is announced to {FRR_ROUTER}\n" in text
        assert f"{BIRD_ROUTER}: not told, labels" in text


def shows(stage, name: str, vip: str, *others: str) -> None:
    """A director's dashboard says, soon, that these others have a VIP."""
    ask = stage.spaces[name].command("curl", "-s", "http://127.0.0.1:8080/api/v1/summary")

    def elsewhere() -> list[str]:
        rows = json.loads(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)["services"]
        return next(one["elsewhere"] for row in rows for one in row["vips"] if one["vip"] == vip)

    until(lambda: elsewhere() == sorted(others), f"{name} shows that {vip} is to be had from {others}", 60.0)


def test_each_shows_who_else_has_a_vip(all_there):
    """Standby or not, it is those that routers have it from; one that is drained has it no more."""
    for vip in (STANDBY[0], SHARED):
        for name in DIRECTORS:
            shows(all_there, name, vip, *set(DIRECTORS) - {name})
    assert all_there.order("d3", "drain").returncode == 0
    for vip in (STANDBY[0], SHARED):
        shows(all_there, "d1", vip, "d2")
    assert all_there.order("d3", "undrain").returncode == 0


@pytest.mark.parametrize("vip", SPREAD)
def test_two_of_three_share_a_vip(all_there, vip):
    """N+M: routers spread over the primaries, and know the spare."""
    first, second, spare = ranked(vip)
    all_there.fib_becomes(vip, first, second)
    for ways in (all_there.frr_paths(vip), all_there.bird_paths(vip)):
        assert ways.keys() == set(DIRECTORS)
        assert not ways[spare].chosen


def test_the_next_one_takes_over_and_gives_back(all_there):
    """A director dies: routers go on with the next at once, and with the preferred one when it is back, without a
    moment that has no way."""
    all_there.kill("d2")
    began = time.monotonic()
    for vip in STANDBY:
        all_there.fib_becomes(vip, "d1", deadline_s=5.0)
    print(f"\nkilled -> both routers, both families by the standby {time.monotonic() - began:.3f} s")
    for vip in SPREAD:
        ranks = ranked(vip)
        left = [name for name in ranks if name != "d2"]
        all_there.fib_becomes(vip, *left, deadline_s=20.0)  # a spare takes the place of a primary that is away
    print(f"killed -> two primaries again {time.monotonic() - began:.1f} s")
    all_there.start("d2")
    began = time.monotonic()
    missing = 0
    while all_there.fib("f", STANDBY[0]) != {"d2"}:
        missing += not all_there.fib("f", STANDBY[0])
        assert time.monotonic() - began < 60
    assert missing == 0
    for vip in STANDBY:
        all_there.fib_becomes(vip, "d2")
    for vip in SPREAD:
        all_there.fib_becomes(vip, *ranked(vip)[:2], deadline_s=40.0)


def test_with_all_primaries_gone_the_spare_has_it(all_there):
    """Routers know it already: nothing has to be decided."""
    vip = SPREAD[0]
    *gone, spare = ranked(vip)
    for name in gone:
        all_there.kill(name)
    took = all_there.fib_becomes(vip, spare, deadline_s=5.0)
    print(f"\nboth primaries killed -> the spare {took:.3f} s")
    all_there.start(*gone)


@contextmanager
def traffic(where, vip):
    """Datagrams from FRR's machine to a VIP. The dictionary says in the end how many were sent, and how many came."""
    script = [sys.executable, "-m", "tests.root.ha_traffic"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    counter = subprocess.Popen(where.spaces["m"].command(*script, "count"), **pipes)
    assert counter.stdout.readline() == "ready\n"
    sender = subprocess.Popen(where.spaces["f"].command(*script, "send", vip), **pipes)
    result = {}
    try:
        yield result
        result["sent"] = int(sender.communicate(timeout=30)[0])
        time.sleep(0.5)  # the last ones are under way
        result |= json.loads(counter.communicate(timeout=30)[0])
    finally:
        for process in (sender, counter):
            process.kill()
            process.wait()


def service_of(where, name):
    return where.status(name)["director"]["service"]["state"]


def test_a_drained_director_loses_no_packet(all_there):
    """Routers are asked to take another way, and do; only then the routes go; and so it stays until that is taken back,
    also in a new process."""
    vip = STANDBY[0]
    with traffic(all_there, vip) as result:
        time.sleep(1.0)
        assert all_there.order("d2", "drain", "--reason", "test").returncode == 0
        worst = until(lambda: (way := all_there.frr_paths(vip)["d2"]).med == HIGHEST and way, "worse", 5.0)
        assert len(worst.as_path) == 4
        assert worst.communities & {"65535:0", "gracefulShutdown", "graceful-shutdown"}
        inside = all_there.bird_paths(vip)["d2"]
        assert inside.preference == 0
        assert "65535:0" in inside.communities
        assert all_there.order("d2", "drain", "--wait").returncode == 0
        for router in ("frr_paths", "bird_paths"):
            until(lambda router=router: "d2" not in getattr(all_there, router)(vip), "withdrawn", 5.0)
        time.sleep(0.5)
    print(f"\n{result}")
    assert result["missing"] == []
    assert result["came"] == result["sent"] > 400
    assert service_of(all_there, "d2") == "drained"
    all_there.kill("d2")
    all_there.start("d2")
    until(lambda: all_there.status("d2") and service_of(all_there, "d2") == "drained", "still drained", 60.0)
    until(lambda: all_there.status("d2")["services"][0]["vips"][0]["reason"] == "drained", "not announced", 60.0)
    assert all_there.order("d2", "undrain").returncode == 0
    all_there.fib_becomes(vip, "d2", deadline_s=60.0)


def test_a_director_that_is_to_end_lets_routers_go_first(all_there):
    """SIGTERM with drain_on_stop: no packet is lost, it ends before the time-out, and the next process announces."""
    vip = STANDBY[0]
    with traffic(all_there, vip) as result:
        time.sleep(1.0)
        began = time.monotonic()
        all_there.processes["d2"].send_signal(signal.SIGTERM)
        assert all_there.processes["d2"].wait(20.0) == 0
        took = time.monotonic() - began
        time.sleep(0.5)
    print(f"\nSIGTERM -> ended {took:.1f} s, {result}")
    assert result["missing"] == []
    assert result["came"] == result["sent"] > 400
    all_there.fib_becomes(vip, "d1")
    all_there.start("d2")
    all_there.fib_becomes(vip, "d2", deadline_s=40.0)


@contextmanager
def listening(where):
    """The watched member answers."""
    command = [sys.executable, "-m", "http.server", str(PORT)]
    process = subprocess.Popen(
        where.spaces["m"].command(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def downs(where, name):
    """When a director had the verdict that its member is down."""
    return [
        datetime.fromisoformat(event["timestamp"]).timestamp()
        for event in where.events(name)
        if event["event"] == "health.down"
    ]


def test_a_lost_member_withdraws_its_vip_at_once_and_flapping_is_held_down(all_there):
    """Within 100 ms of the verdict the withdrawal is on the wire. The third time in a minute the VIP stays away for a
    while, though the member is back."""
    command = all_there.spaces["f"].command(sys.executable, "-m", "tests.root.ha_wire")
    wire = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert wire.stdout.readline() == "ready\n"
        for _ in range(FLAPS):
            with listening(all_there):
                all_there.fib_becomes(WATCHED, *DIRECTORS, routers="f", deadline_s=30.0)
            all_there.fib_becomes(WATCHED, deadline_s=10.0)
    finally:
        wire.kill()
        lines = wire.communicate()[0].splitlines()
    seen = [line.split() for line in lines]
    took = []
    for name, host in DIRECTORS.items():
        updates = [float(at) for at, source in seen if source == f"192.0.2.{host}"]
        verdicts = downs(all_there, name)[-FLAPS:]
        took += [min(at for at in updates if at >= verdict) - verdict for verdict in verdicts]
    print(f"\nverdict -> withdrawal on the wire: {', '.join(f'{1000 * each:.0f}' for each in sorted(took))} ms")
    assert sorted(took)[len(took) // 2] < 0.1
    with listening(all_there):
        until(lambda: vip_of(all_there, "d1")["reason"] == "held_down", "held down", 10.0)
        began = time.monotonic()
        all_there.fib_becomes(WATCHED, *DIRECTORS, deadline_s=30.0)
        print(f"well again -> announced {time.monotonic() - began:.1f} s later")


def vip_of(where, name):
    return where.status(name)["services"][-1]["vips"][0]

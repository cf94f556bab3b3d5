"""Routes reach real routers and leave them again, whoever dies. FRR: eBGP, IPv4, MD5. BIRD: iBGP over IPv6."""

import json
import os
import signal
import time

import pytest

from bgp.guard import ADOPTION_LEASE_S
from bgp.launch import BEAT_S, SILENCES
from tests.netns import until
from tests.root.bgp_lab import V4, V6, Speaker, alive, children, kill_exabgp, lab

pytestmark = pytest.mark.root

# Bounds are wide: they tell the mechanism that is tested from the hold time (9 s), also on a busy machine. The figures
# of a quiet one are printed (pytest -s).

BOTH = (V4.partition("/")[0], V6.partition("/")[0])


@pytest.fixture(params=["frr", "bird"], scope="module")
def where(request, tmp_path_factory):
    with lab(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture
def start(where, tmp_path, record_property):
    """Starts speakers, all with one runtime directory; leaves nothing running and no route."""
    runtime_dir = tmp_path / "run"
    started = []

    def start(**changes):
        speaker = Speaker(where, runtime_dir, **changes)
        started.append(speaker)
        return speaker

    yield start
    for speaker in started:
        speaker.end()
    kill_exabgp(runtime_dir)
    where.fib_becomes()


def announced(where, speaker):
    speaker.is_up()
    speaker.sets(*BOTH)
    return where.fib_becomes(V4, V6)


def test_announces_and_withdraws(where, start):
    """What is set is in the router's kernel, for both families; what is not set is not; close leaves nothing."""
    speaker = start()
    announced(where, speaker)
    status = speaker.status()
    assert status["running"]
    assert status["announced"] == [V4, V6]
    until(lambda: speaker.status()["peers"][where.peer]["sent"], "sent")
    status = speaker.status()
    assert status["peers"][where.peer] == {"session": "up", "sent": [V4, V6], "detail": ""}
    speaker.sets(BOTH[1])
    where.fib_becomes(V6)
    pid = speaker.exabgp_pid
    began = time.monotonic()
    speaker.call("close")
    print(f"\n{where.name}: close {time.monotonic() - began:.3f} s, then FIB {where.fib_becomes():.3f} s")
    assert not alive(pid)
    assert list(speaker.runtime_dir.iterdir()) == []


MANY = [f"203.0.113.{number}" for number in range(1, 121)] + [f"2001:db8:e::{number:x}" for number in range(1, 121)]


def kernel(where):
    """Which of MANY the router's kernel has a route for."""
    routes = json.loads(where.router.ip("-j route show")) + json.loads(where.router.ip("-j -6 route show"))
    return {route["dst"] for route in routes} & set(MANY)


def test_many_routes_go_together(where, start):
    """More than fit into one command, of both families: announced, some of them withdrawn, others made worse; and the
    guard withdraws all by itself."""
    speaker = start()
    speaker.is_up()
    began = time.monotonic()
    speaker.sets(*MANY)
    until(lambda: kernel(where) == set(MANY), "all of them", 30.0)
    print(f"\n{where.name}: {len(MANY)} routes -> FIB {time.monotonic() - began:.3f} s")
    worse = [{"vip": vip, "med": 7, "communities": ["65010:7"]} for vip in MANY[10:120]]
    until(lambda: not speaker.refusal("set", *worse, *MANY[120:]), "set", 30.0)
    until(lambda: kernel(where) == set(MANY[10:]), "without ten", 30.0)
    assert speaker.status()["announced"] == sorted(f"{vip}/{128 if ':' in vip else 32}" for vip in MANY[10:])
    speaker.call("renewing", False)
    until(lambda: not kernel(where), "none without the lease", 30.0)
    speaker.call("renewing", True)
    until(lambda: kernel(where) == set(MANY[10:]), "back with it", 30.0)


def test_replays_after_exabgp_died(where, start):
    """A killed ExaBGP takes its routes along, is started again, and gets the wanted routes."""
    speaker = start()
    announced(where, speaker)
    pid = speaker.exabgp_pid
    os.kill(pid, signal.SIGKILL)
    gone = where.fib_becomes()
    back = where.fib_becomes(V4, V6)
    print(f"\n{where.name}: ExaBGP SIGKILL -> FIB gone {gone:.3f} s, back after {back:.3f} s more")
    assert gone < 1.5
    assert speaker.exabgp_pid != pid


def test_withdraws_when_the_speaker_dies_and_is_adopted(where, start):
    """A killed speaker's routes are withdrawn at once; its successor finds the session still up."""
    speaker = start()
    announced(where, speaker)
    pid = speaker.exabgp_pid
    speaker.kill()
    gone = where.fib_becomes()
    print(f"\n{where.name}: speaker SIGKILL -> FIB gone {gone:.3f} s")
    assert gone < 1.5
    second = start()
    began = time.monotonic()
    announced(where, second)
    print(f"{where.name}: start -> adopted, FIB {time.monotonic() - began:.3f} s")
    assert second.exabgp_pid == pid


def test_other_configuration_is_not_adopted(where, start):
    """A successor with another configuration ends the ExaBGP that it finds and starts its own."""
    first = start()
    first.is_up()
    pid = first.exabgp_pid
    first.kill()
    second = start(linger_s=29.0)
    announced(where, second)
    assert not alive(pid)
    assert second.exabgp_pid != pid


def test_withdraws_without_renewal(where, start):
    """Routes live as long as the lease is renewed, and come back with it."""
    speaker = start()
    announced(where, speaker)
    speaker.call("renewing", False)
    gone = where.fib_becomes()
    print(f"\n{where.name}: last renewal -> FIB gone {gone:.3f} s")
    assert gone < 3.0
    assert speaker.status()["announced"] == []
    speaker.call("renewing", True)
    print(f"{where.name}: renewal -> FIB {where.fib_becomes(V4, V6):.3f} s")


def test_kills_an_exabgp_that_hangs(where, start):
    """A stopped ExaBGP is killed by its guard, far before the hold time, and replaced."""
    speaker = start(watchdog_s=1.5)
    announced(where, speaker)
    os.kill(speaker.exabgp_pid, signal.SIGSTOP)
    gone = where.fib_becomes()
    print(f"\n{where.name}: ExaBGP SIGSTOP -> FIB gone {gone:.3f} s")
    assert gone < 5.0
    where.fib_becomes(V4, V6)


def test_guard_death_is_not_noticed_by_the_router(where, start):
    """ExaBGP starts another guard; it adopts session and routes, and the lease holds again."""
    speaker = start()
    announced(where, speaker)
    pid = speaker.exabgp_pid
    os.kill(children(pid)[0], signal.SIGKILL)
    until(lambda: not speaker.status()["running"], "the speaker notices")
    until(lambda: where.fib() == {V4, V6} and speaker.status()["announced"] == [V4, V6], "leased again")
    deadline = time.monotonic() + ADOPTION_LEASE_S + 0.5
    while time.monotonic() < deadline:
        assert where.fib() == {V4, V6}
    assert speaker.exabgp_pid == pid
    (peer,) = speaker.status()["peers"].values()
    assert (peer["session"], peer["sent"]) == ("up", [V4, V6])
    speaker.call("renewing", False)
    where.fib_becomes()


def test_starts_before_there_is_a_way_to_the_router(where, start):
    """A director that boots faster than its network announces as soon as the session is up."""
    with where.without_addresses():
        speaker = start()
        until(lambda: "refused by ExaBGP" in speaker.refusal("set", *BOTH), "refused", 60.0)
    speaker.is_up()
    where.fib_becomes(V4, V6)


def test_lingers_then_ends(where, start):
    """Without a speaker ExaBGP does not stay for ever."""
    speaker = start(linger_s=0.5)
    speaker.is_up()
    pid = speaker.exabgp_pid
    speaker.kill()
    until(lambda: not alive(pid), "ExaBGP ended", 5.0)


def test_a_guard_that_hangs_does_not_keep_the_routes_of_a_speaker_that_dies(where, start):
    """Guard and speaker gone at the same moment: ExaBGP ends by itself, and the router has no route any more."""
    speaker = start()
    announced(where, speaker)
    pid = speaker.exabgp_pid
    (guard,) = children(pid)
    os.kill(guard, signal.SIGSTOP)
    speaker.kill()
    try:
        gone = where.fib_becomes()
        print(f"\n{where.name}: guard SIGSTOP, speaker SIGKILL -> FIB gone {gone:.3f} s")
        assert gone < BEAT_S * SILENCES + 1.5
        assert not alive(pid)
    finally:
        os.kill(guard, signal.SIGKILL)

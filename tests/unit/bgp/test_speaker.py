"""The whole speaker, with its real guard and a fake ExaBGP."""

import asyncio
import os
import signal
import stat
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from bgp import exabgp_text as text
from bgp.config import BgpSpeakerConfig, Neighbor
from bgp.exabgp import ExaBgpSpeaker, _with_unsent
from bgp.route import Route
from bgp.speaker import PeerStatus, Session, SpeakerError
from bgp.supervisor import _environment
from tests.root.bgp_lab import alive, children

FAKE = Path(__file__).with_name("fake_exabgp.py")
PROGRAM = (sys.executable, "-u", str(FAKE))
A, B = Route(ip_address("198.51.100.7")), Route(ip_address("198.51.100.8"))
PEER = "192.0.2.1"


@pytest.fixture
def config(tmp_path):
    neighbor = Neighbor(ip_address(PEER), 65000, local_address=ip_address("192.0.2.11"))
    return BgpSpeakerConfig(65010, ip_address("192.0.2.11"), (neighbor,), tmp_path / "run", lease_s=30.0, linger_s=20.0)


async def until(condition, what):
    async with asyncio.timeout(30.0):
        while not condition():  # noqa: ASYNC110 - what we wait for happens in other processes
            await asyncio.sleep(0.01)
    assert condition(), what


@asynccontextmanager
async def running(config, *, close=True):
    speaker = ExaBgpSpeaker(config, PROGRAM)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(speaker.run())
        try:
            await until(lambda: speaker.status().running, "the guard is there")
            await speaker.renew()
            yield speaker
        finally:
            if close:
                await speaker.close()
            task.cancel()


def pid(config):
    return int(config.pid_path.read_text())


async def announced(speaker, *routes):
    """The lease may still be under way."""
    for _ in range(1000):
        try:
            await speaker.set(frozenset(routes))
        except SpeakerError:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError("not announced")


async def test_sets_and_tells_what_was_really_sent(config):
    """Acknowledged is one thing, sent another; status has both."""
    async with running(config) as speaker:
        await announced(speaker, A, B)
        assert speaker.status().announced == {A, B}
        await until(lambda: len(speaker.status().peers[PEER].routes_sent) == 2, "sent")
        assert speaker.status().peers[PEER].session is Session.UP
        await speaker.set(frozenset({B}))
        assert speaker.status().announced == {B}
        await until(lambda: speaker.status().peers[PEER].routes_sent == {"198.51.100.8/32"}, "withdrawn")
        updates = speaker.status().updates
        assert updates[PEER, "announce"] >= 1
        assert updates[PEER, "withdraw"] == 1


@pytest.mark.usefixtures("many_files")
async def test_runs_with_thousands_of_files(config):
    """Whether ExaBGP lives is known also where its number among open files is a high one."""
    async with running(config) as speaker:
        await announced(speaker, A)
        os.kill(first := pid(config), signal.SIGKILL)
        await until(lambda: config.pid_path.exists() and pid(config) != first, "another one")


async def test_files_are_private_and_gone_after_close(config):
    """Passwords are in them; and nothing stays behind."""
    async with running(config) as speaker:
        for path in (config.configuration_path, config.pid_path, config.socket_path, config.log_path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        exabgp = pid(config)
        await speaker.close()
        assert list(config.runtime_dir.iterdir()) == []
        assert not alive(exabgp)


async def test_before_it_runs_it_remembers(config):
    """set raises, and the route is announced when there is an ExaBGP and a lease."""
    speaker = ExaBgpSpeaker(config, PROGRAM)
    with pytest.raises(SpeakerError, match="ExaBGP is not there"):
        await speaker.set(frozenset({A}))
    await speaker.renew()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(speaker.run())
        await until(lambda: speaker.status().running, "running")
        await speaker.renew()
        await until(lambda: speaker.status().announced == {A}, "replayed")
        await speaker.close()


async def test_without_lease_it_says_so(config):
    """Nothing is announced for a data plane that has not proved itself."""
    speaker = ExaBgpSpeaker(config, PROGRAM)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(speaker.run())
        await until(lambda: speaker.status().running, "running")
        with pytest.raises(SpeakerError, match=r"lease .* not renewed"):
            await speaker.set(frozenset({A}))
        assert speaker.status().announced == frozenset()
        await speaker.close()


async def test_replays_after_exabgp_died(config):
    """A new ExaBGP gets everything that is wanted."""
    async with running(config) as speaker:
        await announced(speaker, A)
        first = pid(config)
        os.kill(first, signal.SIGKILL)
        await until(lambda: not speaker.status().running, "noticed")
        assert speaker.status().peers[PEER].session is Session.DOWN
        await until(lambda: speaker.status().running, "started again")
        await speaker.renew()
        await until(lambda: speaker.status().announced == {A}, "replayed")
        assert pid(config) != first


async def test_replaces_a_guard_that_hangs(config):
    """ExaBGP is killed with it, for the routes are no longer guarded."""
    async with running(config) as speaker:
        await announced(speaker, A)
        first = pid(config)
        guard = children(first)[0]
        os.kill(guard, signal.SIGSTOP)
        await speaker.renew()
        await until(lambda: "guard does not answer" in speaker.status().detail, "noticed")
        await until(lambda: speaker.status().running, "started again")
        assert pid(config) != first
        assert not alive(guard)


async def test_adopts_its_predecessors_exabgp(config):
    """A cancelled run leaves ExaBGP; the same configuration finds it, another one replaces it."""
    async with running(config, close=False) as speaker:
        await announced(speaker, A)
        first = pid(config)
    async with running(config, close=False) as speaker:
        assert pid(config) == first
        assert speaker.status().announced == frozenset()  # the guard had withdrawn it
    async with running(replace(config, watchdog_s=4.0)):
        assert pid(config) != first


async def test_adopts_what_another_installation_has_started(config):
    """After an upgrade the guard has another path and other contents; sessions must not end for that."""
    async with running(config, close=False):
        first = pid(config)
    text = config.configuration_path.read_text()
    others = text.replace("Made by: ", "Made by: another ").replace("guard.py", "older/guard.py")
    assert others != text
    config.configuration_path.write_text(others)
    async with running(config, close=False):
        assert pid(config) == first
    config.configuration_path.write_text(text.replace("version 1", "version 0"))
    async with running(config):
        assert pid(config) != first


async def test_close_without_run_ends_what_an_earlier_run_left(config):
    """Nothing stays, however it came to be there."""
    async with running(config, close=False):
        first = pid(config)
    await ExaBgpSpeaker(config, PROGRAM).close()
    assert list(config.runtime_dir.iterdir()) == []
    assert not alive(first)


async def test_close_before_anything_happened(config):
    """No files, no process, no error."""
    await ExaBgpSpeaker(config, PROGRAM).close()
    assert not config.runtime_dir.exists()


async def test_refusal_of_exabgp_names_the_route(config):
    """The others are announced all the same."""
    async with running(config) as speaker:
        await announced(speaker, A)
        bad = Route(ip_address("203.0.113.66"))
        with pytest.raises(SpeakerError, match=r"203\.0\.113\.66/32 via self: refused by ExaBGP"):
            await speaker.set(frozenset({A, B, bad}))
        assert speaker.status().announced == {A, B}


async def test_no_answer_is_an_error(config):
    """set does not wait for ever."""
    async with running(config) as speaker:
        await announced(speaker, A)
        with pytest.raises(SpeakerError, match=r"did not acknowledge 203\.0\.113\.67/32"):
            await speaker.set(frozenset({A, Route(ip_address("203.0.113.67"))}))
        assert speaker.status().announced == {A}


async def test_route_without_a_usable_next_hop_does_not_hold_up_the_rest(config):
    """It is named with its remedy; others are announced and withdrawn."""
    v6 = Route(ip_address("2001:db8:f::7"))
    async with running(config) as speaker:
        await announced(speaker, A)
        with pytest.raises(SpeakerError, match="set next_hop_v6"):
            await speaker.set(frozenset({B, v6}))
        assert speaker.status().announced == {B}


async def test_invalid_configuration_is_told(config):
    """When ExaBGP does not take the configuration, status has its words, and the speaker goes on trying."""
    config = replace(config, runtime_dir=config.runtime_dir.with_name("invalid"))
    speaker = ExaBgpSpeaker(config, PROGRAM)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(speaker.run())
        await until(lambda: "refuses its configuration: fake validation" in speaker.status().detail, "told")
        assert not speaker.status().running
        await speaker.close()


def test_impossible_configuration_is_refused(config):
    """At once, with every problem."""
    with pytest.raises(SpeakerError, match="hold time 1 s: use 0"):
        ExaBgpSpeaker(replace(config, neighbors=(Neighbor(ip_address(PEER), 65000, hold_time_s=1),)))


async def test_unusable_directory_is_told(config, tmp_path):
    """A file in the way: which one, and what to do."""
    (tmp_path / "run").write_text("")
    speaker = ExaBgpSpeaker(config, PROGRAM)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(speaker.run())
        await until(lambda: "make the directory writable" in speaker.status().detail, "told")
        await speaker.close()


def test_follows_the_session(config):
    """Up, what was sent, down with the reason: a new session starts with nothing sent; strangers are ignored."""
    speaker = ExaBgpSpeaker(config, PROGRAM)
    prefix = frozenset({"198.51.100.7/32"})
    speaker._take(text.PeerState(PEER, Session.UP, ""))
    speaker._take(text.Sent(PEER, prefix, frozenset()))
    speaker._take(text.Sent("192.0.2.99", prefix, frozenset()))
    assert list(speaker.status().peers) == [PEER]
    peer = speaker.status().peers[PEER]
    assert (peer.session, peer.routes_sent) == (Session.UP, prefix)
    speaker._take(text.PeerState(PEER, Session.DOWN, "notification received (6,2)"))
    peer = speaker.status().peers[PEER]
    assert (peer.session, peer.detail, peer.routes_sent) == (Session.DOWN, "notification received (6,2)", frozenset())


def test_a_lost_peer_is_down_until_exabgp_has_a_new_session(config):
    """At once, without what was sent to it; what is said of the old session afterwards does not count."""
    speaker = ExaBgpSpeaker(config, PROGRAM)
    prefix = frozenset({"198.51.100.7/32"})
    speaker._take(text.PeerState(PEER, Session.UP, ""))
    speaker._take(text.Sent(PEER, prefix, frozenset()))
    speaker.lost(PEER, "BFD: time_expired")
    speaker._take(text.Sent(PEER, prefix, frozenset()))
    peer = speaker.status().peers[PEER]
    assert (peer.session, peer.detail, peer.routes_sent) == (Session.DOWN, "BFD: time_expired", frozenset())
    speaker.lost("192.0.2.99", "BFD: time_expired")
    assert list(speaker.status().peers) == [PEER]
    speaker._take(text.PeerState(PEER, Session.UP, ""))
    speaker._take(text.Sent(PEER, prefix, frozenset()))
    peer = speaker.status().peers[PEER]
    assert (peer.session, peer.routes_sent) == (Session.UP, prefix)


async def test_exabgp_is_told_to_end_a_lost_session(config):
    """It does, and has a new one; the wanted routes are wanted all the time, and other peers are not touched."""
    other = Neighbor(ip_address("192.0.2.2"), 65000, local_address=ip_address("192.0.2.11"))
    async with running(replace(config, neighbors=(*config.neighbors, other))) as speaker:
        await announced(speaker, A)
        await until(lambda: all(peer.routes_sent for peer in speaker.status().peers.values()), "sent")
        before = speaker.status().peers["192.0.2.2"]
        speaker.lost(PEER, "BFD: time_expired")
        assert speaker.status().peers[PEER].session is Session.DOWN
        await until(lambda: speaker.status().peers[PEER].detail == "notification sent (6,10)", "torn down")
        await until(lambda: speaker.status().peers[PEER].session is Session.UP, "a new one")
        assert speaker.status().announced == {A}
        assert speaker.status().peers["192.0.2.2"] == before


def test_route_that_never_went_out_is_named():
    """Acknowledged, the session up, time enough, and not sent: the peer's status says so."""
    up = PeerStatus(Session.UP, 0.0, routes_sent=frozenset({"198.51.100.7/32"}))
    assert _with_unsent(PEER, up, frozenset({A, B}), late=False) == up
    assert _with_unsent(PEER, up, frozenset({A}), late=True) == up
    assert _with_unsent(PEER, up, frozenset({A, B}), late=True).detail.startswith(
        "not sent: 198.51.100.8/32; does the peer"
    )
    other = replace(B, peers=frozenset({ip_address("192.0.2.2")}))
    assert _with_unsent(PEER, up, frozenset({A, other}), late=True) == up
    down = replace(up, session=Session.DOWN)
    assert _with_unsent(PEER, down, frozenset({A, B}), late=True) == down


def test_environment_is_exabgps_own():
    """Settings for another ExaBGP on this machine do not reach ours."""
    made = _environment(
        {"exabgp_tcp_bind": "192.0.2.1", "EXABGP_ETC": "/etc/exabgp", "exabgp.api.ack": "no", "PATH": "/bin"}
    )
    assert made["PATH"] == "/bin"
    assert made["EXABGP_ENVFILE"] == "/dev/null"
    assert not {"exabgp_tcp_bind", "EXABGP_ETC", "exabgp.api.ack"} & set(made)

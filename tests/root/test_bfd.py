"""BFD with real routers: FRR's bfdd and BIRD, IPv4 and IPv6, on one hop and over several, 3 x 50 ms.

Bounds are wide, since the machine may be busy; the figures are printed (pytest -s). What does the director's process
no harm shares one, with all sessions up; what is about that process only is done with one router.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import pytest

from appliance.packet.checksum import checksum
from bgp.bfd.engine import SINGLE_HOP_PORT
from bgp.bfd.packet import Diag, Packet, State, encode
from bgp.bfd.process import LEASE_S
from tests.netns import PATIENCE, until
from tests.root.bfd_lab import INTERVAL_MS, WAYS, Director, Wire, lab, now, quiet
from tests.root.bgp_lab import children

pytestmark = pytest.mark.root

DETECTION_S = 3 * INTERVAL_MS / 1000
SLACK_S = 0.5 * PATIENCE
"""What a busy machine may add."""


@pytest.fixture(params=["frr", "bird"], scope="module")
def where(request, tmp_path_factory):
    with lab(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


OURS = pytest.mark.parametrize("where", ["bird"], indirect=True)
"""What is tested is ours alone: one router is as good as the other."""


class Standing:
    """A director with a session for each way, which tests share."""

    def __init__(self, where):
        self._where = where
        self._director = None

    def get(self):
        if self._director is None:
            self._director = Director(self._where)
        self._director.set(*(way.settings() for way in WAYS.values()))
        for way in WAYS.values():
            steady(self._director, way)
        return self._director

    def end(self):
        if self._director is not None:
            self._director.end()
            self._director = None


@pytest.fixture(scope="module")
def shared(where):
    made = Standing(where)
    yield made
    made.end()


@pytest.fixture
def standing(shared):
    return shared.get()


@pytest.fixture
def start(where, shared):
    """Starts directors with sessions; ends them."""
    started = []
    shared.end()  # the port is free

    def start(*ways, up=True, **changes):
        made = Director(where)
        started.append(made)
        made.set(*(way.settings(**changes) for way in ways))
        for way in ways if up else ():
            made.becomes(way, "up")
        return made

    yield start
    for made in started:
        made.end()


@pytest.fixture
def watch(where):
    """Watches ways on the router's side."""
    wires = []

    def watch(way):
        wires.append(Wire(where, way))
        return wires[-1]

    yield watch
    for wire in wires:
        wire.close()


def from_router(state):
    return lambda seen: seen.outgoing and seen.state == state


def from_us(seen):
    return not seen.outgoing


def steady(director, way):
    """Up, with the poll sequences over: the view."""

    def negotiated():
        view = director.session(way)
        return view if view.get("detection_s") == pytest.approx(DETECTION_S) else None

    director.becomes(way, "up")
    return until(negotiated, "timers negotiated")


def downs(director):
    return {way.name: director.session(way)["downs"] for way in WAYS.values()}


def test_up_and_down_within_the_detection_time(where, standing, watch):
    """Both sides agree on state and timers; with the wires cut, both know within three intervals; then they heal."""
    wires = {way.name: watch(way) for way in WAYS.values()}
    for way in WAYS.values():
        view = steady(standing, way)
        assert (view["remote_state"], view["diag"]) == ("up", 0)
        assert view["transmit_s"] == view["receive_s"] == pytest.approx(INTERVAL_MS / 1000)
    before = downs(standing)
    time.sleep(1.0)
    began = now()
    with where.cut() as (deaf, unheard):
        for way in WAYS.values():
            wire = wires[way.name]
            down = standing.becomes(way, "down")
            router = wire.first(began, "the router notices", from_router("down"))
            last = wire.last(unheard, from_us)
            ours, theirs = down["since"] - deaf, router.at - unheard
            print(f"\n{where.name} {way.name}: cut -> we know {ours * 1000:.0f} ms, the router {theirs * 1000:.0f} ms")
            assert down["diag"] == Diag.TIME_EXPIRED
            if unheard - deaf < DETECTION_S / 2:  # else ours may have told it before
                assert router.diag == Diag.TIME_EXPIRED
                assert router.at - last.at > DETECTION_S / 2
            assert ours < DETECTION_S + SLACK_S
            assert theirs < DETECTION_S + SLACK_S
    for way in WAYS.values():
        assert standing.becomes(way, "up")["downs"] == before[way.name] + 1
        changes = standing.call("status")["changes"]
        assert {"peer": way.theirs, "state": "down", "path_lost": True} in changes


def test_what_is_on_the_wire(where, shared, watch):
    """Hop limit 255, CS6, a source port of the range for each session, a poll when the timers change; then 50 ms less
    the jitter."""
    shared.end()
    wires = [(way, watch(way)) for way in WAYS.values()]
    director = shared.get()
    began = now()
    time.sleep(2.5)
    sources = set()
    for way, wire in wires:
        ours = [seen for seen in wire.look() if not seen.outgoing]
        assert {seen.hop_limit for seen in ours} == {254 if way.multihop else 255}
        assert {seen.traffic_class for seen in ours} == {0xC0}
        ((source, port),) = {(seen.source, seen.source_port) for seen in ours if seen.at >= began}
        assert 49152 <= port <= 65535
        sources.add((source, port))
        first_up = next(seen for seen in ours if seen.state == "up" and not seen.final)
        assert (first_up.desired_min_tx_us, first_up.multiplier) == (INTERVAL_MS * 1000, 3)
        assert any(seen.poll for seen in ours)
        assert not ours[-1].poll
        gaps = sorted(
            later.at - earlier.at
            for earlier, later in pairwise(seen for seen in ours if seen.at >= began and not seen.final)
        )
        print(f"\n{way.name}: {len(gaps)} gaps, {gaps[0] * 1000:.1f} to {gaps[-1] * 1000:.1f} ms")
        assert len(gaps) > 40
        assert gaps[len(gaps) // 2] == pytest.approx(0.875 * INTERVAL_MS / 1000, rel=0.1)
    assert {source for source, _ in sources} == {way.ours for way in WAYS.values()}
    assert len({port for _, port in sources}) == len(WAYS)
    status = director.call("status")
    assert (status["running"], status["detail"]) == (True, "")
    assert [view["state"] for view in status["sessions"].values()] == ["up"] * len(WAYS)


def test_our_timers_change_by_a_poll(where, standing, watch):
    """To slower and back, without a break; the router confirms each."""
    changed = WAYS["v6"], WAYS["v4-multihop"]
    wires = [(way, watch(way)) for way in changed]
    before = downs(standing)
    for interval in (200_000, 50_000):
        began = now()
        standing.set(*(way.settings(**({"interval_us": interval} if way in changed else {})) for way in WAYS.values()))
        for way, wire in wires:
            poll = wire.first(began, "poll", lambda seen: from_us(seen) and seen.poll)
            assert poll.desired_min_tx_us == interval
            wire.first(poll.at, "final", lambda seen: seen.outgoing and seen.final)
            until(
                lambda way=way, wanted=interval: standing.session(way)["transmit_s"] == pytest.approx(wanted / 1e6),
                "negotiated",
            )
        time.sleep(0.5)
    assert downs(standing) == before


def test_the_routers_timers_change_by_a_poll(where, standing, watch):
    """We confirm at once, and follow."""
    way = WAYS["v4"]
    wire, before = watch(way), downs(standing)
    try:
        for ms in (300, INTERVAL_MS):
            began = now()
            where.timers(ms)
            poll = wire.first(began, "poll", lambda seen: seen.outgoing and seen.poll)
            final = wire.first(poll.at, "final", lambda seen: from_us(seen) and seen.final)
            print(f"\n{where.name}: poll -> final {(final.at - poll.at) * 1000:.2f} ms")
            assert final.at - poll.at < SLACK_S
            until(lambda wanted=ms: standing.session(way)["receive_s"] == pytest.approx(wanted / 1000), "followed")
    finally:
        where.timers(INTERVAL_MS)
    assert downs(standing) == before


def test_the_routers_operator_ends_it(where, standing):
    """Admin-down from the router takes the session down, and is no lost path."""
    if where.name == "bird":
        commands = [["birdc", "-s", str(where.folder / "bird.ctl"), verb, "bfd1"] for verb in ("disable", "enable")]
        shut, open_again = (lambda c=command: where.router.run(*c) for command in commands)
    else:
        shut, open_again = (
            lambda w=word: where.vtysh("configure", "bfd", "peer 192.0.2.11", w) for word in ("shutdown", "no shutdown")
        )
    way = WAYS["v4"]
    shut()
    try:
        view = standing.becomes(way, "down")
        told = standing.call("status")["changes"][-1]
        print(f"\n{where.name}: operator's end: diag {view['diag']}, remote {view['remote_state']}")
        if where.name == "frr":
            assert (view["diag"], view["remote_state"]) == (Diag.NEIGHBOR_DOWN, "admin_down")
            assert not told["path_lost"]
    finally:
        open_again()
    standing.becomes(way, "up", 20.0)


FORGED = Packet(State.DOWN, 99, 0, 3, 1_000_000, 50_000, diag=Diag.TIME_EXPIRED)

FORGE = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(sys.argv[1]))
sender.bind((sys.argv[2], 0))
for text in sys.argv[3:]:
    sender.sendto(bytes.fromhex(text), ("192.0.2.11", 3784))
"""


def forge(where, ttl, source, *packets):
    texts = [packet.hex() for packet in packets]
    where.router.run(sys.executable, "-c", FORGE, str(ttl), source, *texts)


def test_packets_from_afar_are_refused(where, standing):
    """A "down" with the router's own address ends the session with a TTL of 255 only (GTSM)."""
    way = WAYS["v4"]
    before = downs(standing)["v4"]
    refused = standing.session(way)["refused"].get("ttl", 0)
    forge(where, 254, way.theirs, encode(FORGED), encode(replace(FORGED, state=State.ADMIN_DOWN)))
    until(lambda: standing.session(way)["refused"].get("ttl") == refused + 2, "counted")
    assert (standing.session(way)["state"], standing.session(way)["downs"]) == ("up", before)
    forge(where, 255, way.theirs, encode(FORGED))
    until(lambda: standing.session(way)["downs"] == before + 1, "a neighbour is believed")
    standing.becomes(way, "up")


def test_router_takes_us_down_when_we_are_killed(where, start, watch):
    """A killed director is told of at once, by the process that outlives it for a moment; then it is silent."""
    way = WAYS["v4"]
    wire, director = watch(way), start(way)
    steady(director, way)
    began = now()
    os.kill(director.process.pid, signal.SIGKILL)
    router = wire.first(began, "the router notices", from_router("down"))
    print(f"\n{where.name}: director SIGKILL -> router down {(router.at - began) * 1000:.0f} ms")
    assert router.at - began < DETECTION_S + SLACK_S
    assert wire.first(began, "told", lambda seen: from_us(seen) and seen.state == "down").diag == (
        Diag.FORWARDING_PLANE_RESET
    )
    quiet(wire, now() + 0.2, from_us, 2.0)


def test_router_takes_us_down_when_the_bfd_process_is_killed_or_stopped(where, start, watch):
    """Then nobody can tell it, and the detection time counts. A new process takes over by itself."""
    way = WAYS["v6"]
    wire, director = watch(way), start(way)
    for number in (signal.SIGKILL, signal.SIGSTOP):
        steady(director, way)
        (pid,) = children(director.process.pid)
        began = now()
        os.kill(pid, number)
        router = wire.first(began, "the router notices", from_router("down"))
        print(f"\n{where.name}: BFD process {number.name} -> router down {(router.at - began) * 1000:.0f} ms")
        assert router.diag == Diag.TIME_EXPIRED
        assert router.at - began < DETECTION_S + SLACK_S
        until(lambda old=pid: old not in children(director.process.pid), "replaced", 15.0)
        director.becomes(way, "up", 15.0)


def test_router_takes_us_down_when_we_hang(where, start, watch):
    """A stopped director, and one whose event loop is stuck, lose the lease; and are taken back afterwards."""
    way = WAYS["v4"]
    wire, director = watch(way), start(way)
    steady(director, way)
    began = now()
    os.kill(director.process.pid, signal.SIGSTOP)
    router = wire.first(began, "the router notices", from_router("down"))
    print(f"\n{where.name}: director SIGSTOP -> router down {(router.at - began) * 1000:.0f} ms")
    quiet(wire, router.at + 0.1, from_us, 1.5)
    os.kill(director.process.pid, signal.SIGCONT)
    assert 0.5 * LEASE_S < router.at - began < LEASE_S + SLACK_S
    director.becomes(way, "up")
    steady(director, way)
    began = now()
    director.call("block", 3.0)
    router = wire.first(began, "the router notices", from_router("down"))
    assert 0.5 * LEASE_S < router.at - began < LEASE_S + SLACK_S
    director.becomes(way, "up")
    changes = director.call("status")["changes"]
    assert not any(change["path_lost"] for change in changes)


@OURS
def test_a_busy_director_loses_nothing(where, start, watch):
    """Half a second of a stuck loop, and tens of ms at a time of a held interpreter, short of the lease: packets go out
    as ever. A machine that stands still itself may spoil that once or twice, but not each time."""
    way = WAYS["v4"]
    wire, director = watch(way), start(way)
    longest = []
    for _ in range(3):
        steady(director, way)
        began = time.monotonic()
        director.call("compute", 20_000)
        much = int(20_000 * min(7.5, max(1.0, 0.3 * LEASE_S / (time.monotonic() - began))))
        began = now()
        director.call("block", 0.5)
        held = [director.call("compute", much)["seconds"] for _ in range(5)]
        packets = [seen for seen in wire.look() if seen.at >= began]
        longest.append(max(later.at - earlier.at for earlier, later in pairwise(filter(from_us, packets))))
        print(f"\nheld for {max(held) * 1000:.0f} ms at most, longest gap {longest[-1] * 1000:.1f} ms")
        assert max(held) > 0.01
        if longest[-1] < DETECTION_S:
            assert not list(filter(from_router("down"), packets))
            return
    raise AssertionError(f"gaps of {longest} s")


def test_close_is_deliberate(where, start, watch):
    """The router hears that we end the sessions, so that it need not take the path for broken."""
    ways = WAYS["v4"], WAYS["v6-multihop"]
    wires = [watch(way) for way in ways]
    director = start(*ways)
    for way in ways:
        steady(director, way)
    began = now()
    director.call("close")
    for wire in wires:
        told = wire.first(began, "told", from_us)
        while told.state != "admin_down":  # one that was under way
            told = wire.first(told.at + 1e-6, "told", from_us)
        assert told.diag == Diag.ADMIN_DOWN
        router = wire.first(began, "the router follows", from_router("down"))
        assert (router.diag, children(director.process.pid)) == (Diag.NEIGHBOR_DOWN, [])
        quiet(wire, told.at + 0.01, from_us, 0.7)


@OURS
def test_a_session_that_is_taken_out_ends_deliberately(where, start, watch):
    """The others go on; it is told for a while, and then forgotten."""
    kept, gone = WAYS["v4"], WAYS["v6"]
    wire, director = watch(gone), start(kept, gone)
    began = now()
    director.set(kept.settings())
    wire.first(began, "told", lambda seen: from_us(seen) and seen.state == "admin_down")
    until(lambda: gone.theirs not in director.call("status")["sessions"], "gone")
    until(lambda: now() - wire.look()[-1].at >= 0 and not [s for s in wire.look() if from_us(s) and s.at > now() - 2.0],
          "silent", 10.0)  # fmt: skip
    director.set(kept.settings(), gone.settings())
    director.becomes(gone, "up")
    assert director.session(kept)["downs"] == 0


def test_passive_waits_for_the_router(where, start):
    """Both routers begin by themselves, so the session comes up."""
    way = WAYS["v4"]
    director = start(way, passive=True)
    assert steady(director, way)["packets_in"] > 0


@OURS
def test_what_is_no_sessions_is_counted(where, start):
    """Strangers, unknown discriminators, those of another session, malformed packets: each by its reason."""
    way = WAYS["v4"]
    where.router.ip("addr add 192.0.2.99/24 dev eth1")
    try:
        director = start(way)
        steady(director, way)
        earlier = director.session(way)["refused"]  # of the router's session with the director before this one
        up = replace(FORGED, state=State.UP, your_discriminator=12345)
        forge(where, 255, "192.0.2.99", encode(FORGED), encode(up), b"short")
        until(lambda: director.call("status")["refused"] == {"no_session": 2, "short": 1}, "strangers")
        forge(where, 255, way.theirs, encode(up), encode(replace(FORGED, multiplier=0)))
        expected = {"no_session": earlier.get("no_session", 0) + 1, "multiplier": 1}
        until(lambda: director.session(way)["refused"] == expected, "the peer's")
        assert (director.session(way)["state"], director.session(way)["downs"]) == ("up", 0)
    finally:
        where.router.ip("addr del 192.0.2.99/24 dev eth1")


def frame(mac, ttl, source, length=24):
    """A datagram for the director's BFD port, without a checksum."""
    udp = struct.pack("!HHHH", 1024, 3784, 8 + length, 0) + bytes(length)
    addresses = ip_address(source).packed + ip_address("192.0.2.11").packed
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, ttl, 17, 0) + addresses
    ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
    return bytes.fromhex(mac.replace(":", "")) + bytes(6) + b"\x08\0" + ip + udp


@OURS
@pytest.mark.parametrize(("ttl", "source", "reason"), [(64, "192.0.2.1", "ttl"), (255, "192.0.2.99", "version")])
def test_a_flood_of_strangers_takes_no_session_down(where, start, tmp_path, ttl, source, reason):
    """Hundreds of thousands a second, from far away in the router's name, or from a neighbour that is no peer."""
    program = tmp_path / "flood"
    subprocess.run(["gcc", "-O2", "-o", program, Path(__file__).with_name("flood.c")], check=True)
    way = WAYS["v4"]
    director = start(way, interval_us=300_000)  # the router has to get the CPU now and then
    until(lambda: director.session(way).get("detection_s") == pytest.approx(0.9), "timers negotiated")
    mac = json.loads(where.director.ip("-j link show eth1"))[0]["address"]
    command = [str(program), "send", "eth1", "400000", "1", frame(mac, ttl, source).hex()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    flood = subprocess.Popen(where.router.command(*command), **pipes)
    try:
        assert flood.stdout.readline() == "ready\n"
        time.sleep(3.0)
        sent = int(flood.communicate()[0])
    finally:
        flood.kill()
        flood.wait()
    refused = director.call("status")["refused"] | director.session(way)["refused"]
    rows = where.director.run("cat", "/proc/net/udp").splitlines()[1:]
    lost = sorted(int(row.split()[-1]) for row in rows if row.split()[1].endswith(f":{SINGLE_HOP_PORT:04X}"))
    print(f"\n{sent} from {source} with TTL {ttl}, seen: {refused}, lost in the queues: {lost}")
    assert refused[reason] > 100
    assert lost[-1] > 0, "that was no flood"
    assert lost[0] == 0, "packets of the router's may be among them"
    assert (director.session(way)["state"], director.session(way)["downs"]) == ("up", 0)


@OURS
def test_a_port_in_use_is_told_and_taken_when_it_is_free(where, start):
    """Another program has the port, one more director for instance: what to do. Without it, all is well
    by itself."""
    way = WAYS["v4"]
    holder = subprocess.Popen(
        where.director.command(
            sys.executable, "-c", "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1);"
            "s.bind(('', 3784)); print('held', flush=True); time.sleep(100)"
        ),
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        director = start(way, up=False)
        detail = until(lambda: director.call("status")["detail"], "told")
        assert "UDP port 3784, IPv4: Address already in use; stop whatever uses it" in detail
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    director.becomes(way, "up", 15.0)
    assert director.call("status")["detail"] == ""


@OURS
def test_starts_before_it_has_an_address(where, start):
    """A director that boots faster than its network says why it cannot send, and is up when it can."""
    way = WAYS["v4"]
    where.director.ip("addr del 192.0.2.11/24 dev eth1")
    try:
        director = start(way, up=False, local=way.ours)
        until(lambda: "cannot send" in director.session(way).get("trouble", ""), "told")
    finally:
        where.director.ip("addr add 192.0.2.11/24 dev eth1")
    director.becomes(way, "up")
    assert director.session(way)["trouble"] == ""


@OURS
def test_the_socket_pair_is_all_that_it_knows(where, start):
    """Signals that a terminal or a supervisor sends to all do not end it before the director has."""
    way = WAYS["v4"]
    director = start(way)
    (pid,) = children(director.process.pid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    time.sleep(0.5)
    assert children(director.process.pid) == [pid]
    assert director.session(way)["downs"] == 0

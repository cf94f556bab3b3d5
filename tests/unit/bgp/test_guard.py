"""The guard, between a fake ExaBGP and a speaker that this test plays."""

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.dataplane.raw.keeper import PROOF_S, Proof
from bgp import guard as guard_module
from tests.netns import until
from tests.root.bgp_lab import children

FAKE = Path(__file__).with_name("fake_exabgp.py")
GUARD = Path(guard_module.__file__)
ROUTE = "198.51.100.7/32"
OTHER = "198.51.100.8/32"
LONG_S = 60.0


class Lines:
    """Lines from a descriptor, with a deadline."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.rest = b""
        self.lines: list[str] = []
        self.ended = False

    def poll(self, timeout_s: float) -> None:
        if not self.ended and select.select([self.fd], [], [], timeout_s)[0]:
            data = os.read(self.fd, 1 << 16)
            self.ended = not data
            *lines, self.rest = (self.rest + data).split(b"\n")
            self.lines += [line.decode() for line in lines]

    def until(self, wanted: str, deadline_s: float = 20.0) -> str:
        """Skip to the first line that contains *wanted*."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            while self.lines:
                line = self.lines.pop(0)
                if wanted in line:
                    return line
            assert not self.ended, f"ended without {wanted!r}"
            self.poll(0.1)
        raise AssertionError(f"no {wanted!r} within {deadline_s} s")


class Speaker(Lines):
    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        super().__init__(connection.fileno())

    def send(self, *lines: str) -> None:
        self.socket.sendall("".join(f"{line}\n" for line in lines).encode())

    def reply(self, number: int) -> dict:
        return json.loads(self.until(f'"number": {number},'))

    def hello(self) -> dict:
        return json.loads(self.until('"guard": "hello"'))


class Stage:
    """The fake ExaBGP with its guard."""

    def __init__(self, folder: Path, linger_s: float, watchdog_s: float) -> None:
        self.path = folder / "g.sock"
        beat = self.path.with_name("beat")
        run = f'"{sys.executable}" -I -S "{GUARD}" --socket "{self.path}" --beat "{beat}"'
        run += f" --linger {linger_s} --watchdog {watchdog_s}"
        configuration = folder / "exabgp.conf"
        configuration.write_text(f"process guard {{\n    run {run};\n}}\nneighbor 192.0.2.1 {{\n}}\n")
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(FAKE), "server", str(configuration)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.commands = Lines(self.process.stdout.fileno())
        self.speakers: list[Speaker] = []

    def control(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n".encode())

    def speaker(self) -> Speaker:
        def connect() -> bool:
            return connection.connect_ex(str(self.path)) == 0

        connection = socket.socket(socket.AF_UNIX)
        until(connect, "the guard listens", 20.0)
        made = Speaker(connection)
        self.speakers.append(made)
        return made

    def close(self) -> None:
        for speaker in self.speakers:
            speaker.socket.close()
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def stage(tmp_path):
    made = []

    def make(linger_s=LONG_S, watchdog_s=LONG_S):
        made.append(Stage(tmp_path, linger_s, watchdog_s))
        return made[-1]

    yield make
    for each in made:
        each.close()


def announce(number, prefix=ROUTE):
    return f"announce {number} {prefix} announce route {prefix} next-hop 192.0.2.11"


def test_passes_commands_on_and_answers_in_order(stage):
    """Each command reaches ExaBGP and is answered under its own number, refusals included."""
    exabgp = stage()
    speaker = exabgp.speaker()
    assert speaker.hello()["exabgp"] == exabgp.process.pid
    refused = announce(3, "203.0.113.66/32")
    speaker.send("lease 1 60", announce(2), refused, announce(4, OTHER), f"withdraw 5 {ROUTE}", "dance 6")
    assert [speaker.reply(number)["ok"] for number in (1, 6)] == [True, False]  # not ExaBGP's: answered at once
    speaker.send("lease 7 60", announce(8))
    assert speaker.reply(8)["ok"]
    for command in (f"announce route {ROUTE}", "203.0.113.66", f"announce route {OTHER}", f"withdraw route {ROUTE}"):
        exabgp.commands.until(command)


def test_ends_the_session_with_a_peer(stage):
    """ExaBGP gets its own command, with the code of RFC 9384; routes stay."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    speaker.send("lease 1 60", announce(2), "teardown 3 192.0.2.1")
    assert speaker.reply(3)["ok"]
    exabgp.commands.until("neighbor 192.0.2.1 teardown 10")


def test_refusal_is_passed_on(stage):
    """ExaBGP's `error` becomes a reply that is not ok; what follows is not mixed up."""
    speaker = stage().speaker()
    speaker.hello()
    speaker.send("lease 1 60", announce(2, "203.0.113.66/32"), announce(3))
    assert speaker.reply(2) == {"guard": "reply", "number": 2, "ok": False, "error": "refused by ExaBGP"}
    assert speaker.reply(3)["ok"]


def test_socket_is_private(stage):
    """Nobody but our own user may announce."""
    exabgp = stage()
    exabgp.speaker()
    assert stat.S_IMODE(exabgp.path.stat().st_mode) == 0o600


def test_withdraws_when_the_lease_ends(stage):
    """Without renewal every route is withdrawn, the speaker hears of it, and may announce again after a renewal."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    speaker.send("lease 1 0.5", announce(2), announce(3, OTHER))
    exabgp.commands.until(f"withdraw attributes next-hop 0.0.0.0 nlri {ROUTE} {OTHER}")
    withdrawn = json.loads(speaker.until('"guard": "withdrawn"'))
    assert withdrawn == {"guard": "withdrawn", "why": "the lease has ended", "after": 3}
    speaker.send(announce(4))
    assert speaker.reply(4)["error"] == "the lease has ended"
    speaker.send("lease 5 60", announce(6))
    assert speaker.reply(6)["ok"]


def test_nothing_is_announced_without_a_lease(stage):
    """A lease comes first."""
    speaker = stage().speaker()
    speaker.hello()
    speaker.send(announce(1))
    assert speaker.reply(1)["error"] == "the lease has ended"


def test_withdraws_at_once_when_the_speaker_is_gone(stage):
    """The end of the connection ends the lease."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    speaker.send("lease 1 60", announce(2))
    speaker.reply(2)
    speaker.socket.close()
    exabgp.commands.until(f"withdraw route {ROUTE}", 5.0)
    assert exabgp.speaker().hello()["routes"] == []


def test_newcomer_hears_what_it_missed(stage):
    """A speaker that connects late gets the peers' states, the routes and what was really sent."""
    exabgp = stage()
    first = exabgp.speaker()
    first.hello()
    first.send("lease 1 60", announce(2))
    first.until('"announce"')
    second = exabgp.speaker()
    assert json.loads(second.until('"state"'))["neighbor"]["state"] == "up"
    hello = second.hello()
    assert hello["routes"] == [ROUTE]
    assert hello["sent"] == {"192.0.2.1": [ROUTE]}


def test_session_end_clears_what_was_sent(stage):
    """A new session starts with nothing sent."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    speaker.send("lease 1 60", announce(2))
    speaker.until('"announce"')
    down = {"type": "state", "neighbor": {"address": {"peer": "192.0.2.1"}, "state": "down", "reason": "test"}}
    exabgp.control("emit " + json.dumps(down))
    speaker.until('"down"')
    assert exabgp.speaker().hello()["sent"] == {}


def test_slow_reader_never_blocks_exabgp(stage):
    """A speaker that does not read is dropped, and its routes with it; ExaBGP goes on writing."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    speaker.send("lease 1 60", announce(2))
    speaker.reply(2)
    flood = "emit " + json.dumps({"type": "notification", "filler": "x" * 60000})
    for _ in range(120):  # some 7 MB
        exabgp.control(flood)
    exabgp.commands.until(f"withdraw route {ROUTE}")
    assert exabgp.speaker().hello()["routes"] == []


def test_slow_exabgp_does_not_block_the_speaker(stage):
    """Commands wait for an ExaBGP that does not read; the lease is renewed all the same."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    exabgp.control("stall")
    many = range(2, 3002)  # beyond what a pipe takes
    speaker.send("lease 1 60", *map(announce, many), announce(3002, OTHER), "lease 3003 60")
    assert speaker.reply(3003)["ok"]
    exabgp.control("go on")
    exabgp.commands.until(OTHER)
    assert speaker.reply(3002)["ok"]


def test_adopts_what_a_guard_before_it_left(stage):
    """A new guard knows the sessions and routes that are there, in spite of a stray answer, and keeps the routes for a
    speaker; ExaBGP itself tells it nothing."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    speaker.send("lease 1 60", announce(2), announce(3, OTHER))
    speaker.reply(3)
    exabgp.control("respawn")
    exabgp.commands.until("show adj-rib out")
    exabgp.commands.until("show adj-rib out")
    again = exabgp.speaker()
    assert json.loads(again.until('"state"'))["neighbor"] == {"address": {"peer": "192.0.2.1"}, "state": "up"}
    hello = again.hello()
    assert hello["routes"] == [ROUTE, OTHER]
    assert hello["sent"] == {"192.0.2.1": [ROUTE, OTHER]}
    again.send("lease 1 60", announce(2, "203.0.113.66/32"), f"withdraw 3 {OTHER}")
    assert not again.reply(2)["ok"]
    assert again.reply(3)["ok"]


def test_adopted_routes_go_when_no_speaker_comes(stage):
    """The adoption is a short one."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    speaker.send("lease 1 60", announce(2))
    speaker.reply(2)
    exabgp.control("respawn")
    exabgp.commands.until(f"withdraw route {ROUTE}")


def test_kills_an_exabgp_that_does_not_answer(stage):
    """Routers see a closed connection at once, a silent one only after the hold time."""
    exabgp = stage(watchdog_s=0.5)
    exabgp.speaker().hello()
    exabgp.control("mute")
    assert exabgp.process.wait(20.0) == -signal.SIGKILL


def test_spares_an_exabgp_that_stood_still_with_the_whole_machine(stage):
    """After a pause of everything ExaBGP gets its full time to answer."""
    exabgp = stage(watchdog_s=0.6)
    hello = exabgp.speaker().hello()
    (guard,) = children(hello["exabgp"])
    exabgp.commands.until("# ping")
    for pid in (exabgp.process.pid, guard):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)  # the pause is what is tested
    os.kill(guard, signal.SIGCONT)
    time.sleep(0.2)
    os.kill(exabgp.process.pid, signal.SIGCONT)
    exabgp.commands.until("# ping")
    assert exabgp.process.poll() is None


def test_pings_keep_a_quiet_exabgp_alive(stage):
    """Silence without a question is not a hang: the guard asks first."""
    exabgp = stage(watchdog_s=0.5)
    for _ in range(3):
        exabgp.commands.until("# ping")
    assert exabgp.process.poll() is None


def test_ends_exabgp_when_nobody_comes(stage):
    """No orphan stays."""
    exabgp = stage(linger_s=0.3)
    assert exabgp.process.wait(20.0) == -signal.SIGTERM
    assert not exabgp.path.exists()


def test_garbage_from_the_speaker_ends_the_connection(stage):
    """Who does not speak the protocol is no speaker."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    speaker.send("lease one hour")
    until(lambda: speaker.poll(0.1) or speaker.ended, "dropped")
    assert exabgp.speaker().hello()["routes"] == []


def test_garbage_from_exabgp_is_survived(stage):
    """Lines that nobody understands, or that are no JSON, change nothing."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    for line in (
        "{",
        '{"type": "state"}',
        '{"neighbor": []}',
        '{"type": "update", "neighbor": {}}',
        "192.0.2.1",
        "\x00",
    ):
        exabgp.control(f"emit {line}")
    speaker.send("lease 1 60", announce(2))
    assert speaker.reply(2)["ok"]


def test_a_survival_without_a_program_is_none(stage):
    """A speaker says that its program goes on: where there is none, routes are withdrawn at once all the same."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    loopback = socket.if_nametoindex("lo")
    speaker.send(f"lease 1 60 60 {loopback}", announce(2))
    speaker.reply(2)
    assert not guard_module.has_program(loopback)
    speaker.socket.close()
    exabgp.commands.until(f"withdraw route {ROUTE}", 5.0)


def test_an_interface_that_is_not_there_has_no_program():
    """The kernel says so, and that is no error."""
    assert not guard_module.has_program(0x7FFFFFF0)


def left_to_a_process(stage):
    """A guard whose speaker has said that this process forwards on for a minute, and then has gone."""
    exabgp = stage()
    speaker = exabgp.speaker()
    speaker.hello()
    speaker.send(f"lease 1 60 60 1 {os.getpid()}", announce(2))
    speaker.reply(2)
    exabgp.commands.until(f"announce route {ROUTE}")
    speaker.socket.close()
    return exabgp


def test_a_process_that_proves_nothing_is_not_counted_on(stage):
    """It lives, but does not say that it forwards: routes are withdrawn."""
    left_to_a_process(stage).commands.until(f"withdraw route {ROUTE}", 5.0)


@pytest.mark.parametrize("denies", [True, False], ids=["denies", "silent"])
def test_routes_stay_as_long_as_a_process_proves_that_it_forwards(stage, tmp_path, denies):
    """Not a lease longer; and no longer at all when it says that it does not forward."""
    proof = Proof(tmp_path, f"keeper.{os.getpid()}")
    proof.give(time.monotonic())
    exabgp = left_to_a_process(stage)
    end = time.monotonic() + 1.5 * guard_module.PROOF_S
    while time.monotonic() < end:
        proof.give(time.monotonic())
        exabgp.commands.poll(0.1)
    assert not [line for line in exabgp.commands.lines if "withdraw" in line]
    if denies:
        proof.deny("all interfaces are down")
    exabgp.commands.until(f"withdraw route {ROUTE}", 5.0)


def test_both_sides_mean_the_same_by_a_proof(tmp_path):
    """What the keeper writes, the guard and the next director read alike: fresh, old, none, and a "no" of two lines."""
    proof = Proof(tmp_path, "keeper.7")

    def readers(now):
        return [proof.doubts(lambda: now), guard_module.doubts(str(tmp_path), 7, 0.0, lambda: now)]

    assert guard_module.PROOF_S == PROOF_S
    assert all(readers(100.0)), "there is none"
    proof.prepare()
    assert all(readers(100.0)), "there is room for one"
    proof.give(100.0)
    assert readers(100.0 + PROOF_S / 2) == ["", ""]
    assert readers(100.0) == ["", ""]
    assert all(readers(99.9)), "it is of a time to come"
    proof.give(99.9996)
    assert readers(99.9996) == ["", ""]
    for word in (b"inf", b"-inf", b"nan", b"1e999", b"soon", b"\xff\xfe", b"1e400\0", b"100.0 100.0"):
        proof.path.write_bytes(word)
        assert all(readers(100.0)), word
    assert all(readers(100.1 + PROOF_S))
    proof.deny("interface eth1\nis gone")
    assert readers(100.0) == ["interface eth1 is gone"] * 2
    proof.remove()
    assert all(readers(100.0))
    Proof(tmp_path / "gone", "keeper.7").deny("nobody follows")  # to nobody: the service was stopped for good


def test_a_proof_that_cannot_be_written_ends_nobody(tmp_path):
    """On a full disk a keeper is told so before it counts; one that forwards goes on, and its proof gets old."""
    proof = Proof(tmp_path, "keeper.7")
    proof.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        proof.prepare()
    proof.give(100.0)
    proof.deny("nobody follows")

"""The pin channel between network namespaces: a bad network, and somebody who reads all and forges addresses."""

import random
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.utils import rdpcap

from appliance.fleet.session import WINDOW
from appliance.fleet.wire import SHORTEST, Kind
from tests.netns import Namespace, namespaces, until, veth
from tests.root.pin_rig import Director, start
from tests.unit.fleet.ends import hashes

pytestmark = pytest.mark.root

A, B = "192.0.2.1", "192.0.2.2"
A6, B6 = "2001:db8::1", "2001:db8::2"


@contextmanager
def two_machines() -> Iterator[tuple[Namespace, Namespace]]:
    with namespaces("a", "b", prefix="owp") as (a, b):
        veth(a, "eth1", b, "eth1")
        for space, address, address6 in ((a, A, A6), (b, B, B6)):
            space.ip(f"addr add {address}/24 dev eth1")
            space.ip(f"addr add {address6}/64 dev eth1 nodad")
        yield a, b


def director(
    space: Namespace, me: list[str], *peers: list[str], first: int = 0, pins: int = 1 << 16
) -> AbstractContextManager[Director]:
    return start(space.command(), me, *peers, first=first, pins=pins)


def are_joined(*directors: Director) -> bool:
    return all(one.peer()["state"] == "joined" for one in directors)


@pytest.mark.parametrize("version", [4, 6])
def test_a_network_that_loses_datagrams(version: int):
    """With a tenth of all datagrams lost, a director gets all pins when it joins, and all news afterwards."""
    mine, yours = (["a", A], ["b", B]) if version == 4 else (["a", A6], ["b", B6])
    with two_machines() as (a, b):
        for space in (a, b):
            space.run("nft", "add table inet lossy; add chain inet lossy in { type filter hook input priority 0; }")
            space.run("nft", "add rule inet lossy in udp dport 7117 numgen random mod 10 == 0 drop")
        with director(a, mine, yours) as one:
            one.ask("keep", 0, 5000, 0, 10)
            with director(b, yours, mine, first=70) as other:
                facts = other.ask("joined", 5)
                assert facts["missing"] == []
                assert other.known() == one.known()
                one.ask("keep", 5000, 6000, 1, 10)
                other.ask("keep", 6000, 7000, 2, 10)
                until(lambda: other.known() == one.known() >= hashes(range(5000, 5100)), "both know the same")
                print(f"IPv{version}: {facts['pins']['a']} pins in {facts['seconds']:.2f} s")


def test_what_was_told_before_a_director_died():
    """Connections that it may have forwarded are known to the other one, whatever its event loop was busy with."""
    numbers = range(100, 150)
    with two_machines() as (a, b):
        living_one, dying_one = director(b, ["b", B], ["a", A], first=70), director(a, ["a", A], ["b", B])
        with living_one as living, dying_one as dying:
            until(lambda: are_joined(living, dying), "they have met")
            assert dying.die("tell_and_die", numbers.start, numbers.stop, 1) == -signal.SIGKILL
            time.sleep(0.2)
            assert living.ask("known") == {str(number): 1 for number in hashes(numbers)}


def test_a_whole_table_before_the_first_announcement():
    """A director that starts has the 64 k pins of another one within a second, more on a busy machine."""
    with two_machines() as (a, b), director(a, ["a", A], ["b", B], pins=1 << 17) as one:
        for begin in range(0, 65536, 8192):
            one.ask("keep", begin, begin + 8192)
        with director(b, ["b", B], ["a", A], pins=1 << 17) as other:
            facts = other.ask("joined", 2)
            assert facts["missing"] == []
            assert other.known() == one.known()
            print(f"{facts['pins']['a']} pins in {facts['seconds']:.2f} s")
            assert facts["seconds"] < 5


def test_a_peer_that_is_dead_or_gone():
    """One that does not answer holds nobody up, and one that dies is noticed and costs nothing but greetings."""
    with two_machines() as (a, b), director(a, ["a", A], ["b", B]) as one:
        facts = one.ask("joined", 1)
        assert (facts["pins"], facts["missing"]) == ({}, ["b"])
        assert facts["seconds"] < 1.5
        with director(b, ["b", B], ["a", A]) as other:
            until(lambda: are_joined(one, other), "they have met")
        until(lambda: one.peer()["state"] == "silent", "the silence is noticed")
        before = one.ask("status")["counts"]
        one.ask("keep", 0, 2000)
        time.sleep(2)
        after = one.ask("status")["counts"]
        assert after["news"] == before["news"]
        assert after["datagrams_sent"] - before["datagrams_sent"] <= 4
        with director(b, ["b", B], ["a", A]) as other:
            until(lambda: other.known() == one.known(), "a new life gets everything")


def recorded(file: Path, source: str) -> list[bytes]:
    """What a director has sent."""
    return [bytes(packet[UDP].payload) for packet in rdpcap(str(file)) if packet.sprintf("%IP.src%") == source]


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("forge") / "forge"
    source = Path(__file__).with_name("forge.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(source)], check=True)
    return target


def test_forged_datagrams(forge: Path, tmp_path: Path, request: pytest.FixtureRequest):
    """Of a hundred thousand (--long: a million) forged, repeated, foreign and truncated datagrams from a peer's address
    none is taken; genuine pins still arrive, and the director has time for other things."""
    total = 1_000_000 if request.config.getoption("--long") else 100_000
    file = tmp_path / "wire.pcap"
    with ExitStack() as stack:
        a, b = stack.enter_context(two_machines())
        watch = subprocess.Popen(
            b.command("tcpdump", "-Z", "root", "-U", "-i", "eth1", "-w", str(file), "udp port 7117"),
            stderr=subprocess.DEVNULL,
        )
        stack.callback(watch.wait)
        stack.callback(watch.terminate)
        until(file.exists, "tcpdump listens")
        one = stack.enter_context(director(a, ["a", A], ["b", B]))
        with director(b, ["b", B], ["a", A]) as earlier:
            until(lambda: are_joined(one, earlier), "they have met")
            time.sleep(1)
        until(lambda: len(recorded(file, B)) > 5, "the recording of an earlier life")
        greetings = [data for data in recorded(file, B) if data[4] == Kind.HELLO]
        other = stack.enter_context(director(b, ["b", B], ["a", A]))
        until(lambda: are_joined(one, other), "they have met")
        other.ask("keep", 0, 2000, 1, 10)
        until(lambda: one.known() == other.known(), "all are told")
        until(lambda: len(recorded(file, B)) >= 2 * WINDOW // 10, "the recording")
        samples = recorded(file, B)
        random.Random(5).shuffle(samples)
        samples = samples[:64]
        whole = [data for data in samples if len(data) > SHORTEST + 1000] or samples

        attacks = (("head", whole), ("tag", whole), ("no", samples), ("cut", whole), ("no", greetings))
        for number, (change, chosen) in enumerate(attacks):
            genuine = range(10_000 + 100 * number, 10_100 + 100 * number)
            data = b"".join(struct.pack("<H", len(one_of)) + one_of for one_of in chosen)
            count = total // 5
            before, counts = one.peer(), one.ask("status")["counts"]
            began_cpu, _ = one.ask("usage")
            began = time.monotonic()
            attack = subprocess.Popen(
                b.command(str(forge), B, A, "7117", str(count), change),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert attack.stdin is not None
            attack.stdin.write(data)
            attack.stdin.close()
            other.ask("keep", genuine.start, genuine.stop, 2, 10)
            assert attack.wait(60) == 0
            assert attack.stdout is not None
            sent, seconds = attack.stdout.read().split()
            attack.stdout.close()
            until(lambda span=genuine: hashes(span) & other.known() <= one.known(), "genuine pins arrive", 20)
            ended_cpu, lag_s = one.ask("usage")
            wall = time.monotonic() - began
            after = one.peer()
            refused = {
                reason: count - before["refused"].get(reason, 0)
                for reason, count in after["refused"].items()
                if count != before["refused"].get(reason, 0)
            }
            read = one.ask("status")["counts"]["datagrams_received"] - counts["datagrams_received"]
            cpu = (ended_cpu - began_cpu) / wall
            print(
                f"{change:5} {int(sent):7} at {int(sent) / float(seconds):8,.0f}/s: refused {refused or 0}, dropped by "
                f"the kernel {after['dropped'] - before['dropped']}, read {read}; genuine pins after {wall:.2f} s, "
                f"CPU {cpu:.0%}, loop late by {lag_s * 1000:.0f} ms at most"
            )
            assert cpu < 0.5
            assert lag_s < 2
            if chosen is not greetings:  # which are answered
                assert sum(refused.values()) + after["dropped"] - before["dropped"] >= 0.9 * int(sent) - 100
        assert are_joined(one, other)
        members = one.ask("known")
        told = other.ask("known")
        assert {number: told.get(number) for number in members} == members, "every pin here was told by the peer"

"""The raw plane's keeper, as its director's process has it."""

import asyncio
import contextlib
import errno
import os
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import structlog

from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.raw import bpf, kernel
from appliance.dataplane.raw.guard import KernelGuard
from appliance.dataplane.raw.keeper import NAME, Proof, _Post, clear_up, doubts, lives, relieve
from appliance.dataplane.raw.plane import RawDataPlane
from appliance.dataplane.raw.rings import FIRST, SECOND, RxRing, SlowTap
from appliance.forwarding import NO_MEMBER, ForwardingTables, TableService
from appliance.inheritance import Inheritance
from appliance.model import HashMode, PortRange, Protocol
from tests.netns import Namespace, namespaces, until, veth
from tests.root.plane_rig import REPOSITORY, Wire, inside
from tests.supervisor import Supervisor
from tests.unit.dataplane.frames import cycle

pytestmark = [pytest.mark.root, pytest.mark.timeout(150)]

SWITCHES, FRAMES = 20, 2000


def descriptors() -> Counter[str]:
    """What this process has open, by kind."""
    kinds: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, some of which are closed again
        try:
            kinds[re.sub(r"\d+", "", os.readlink(f"/proc/self/fd/{fd}"))] += 1  # noqa: PTH115
        except FileNotFoundError:
            pass  # that of the listing itself
    return kinds


def when_at_rest(left: Inheritance) -> Counter[str]:
    """The same, when one keeper stands by and those before it are gone."""

    def rests() -> bool:
        threads = [thread for thread in threading.enumerate() if thread.name == "keeper"]
        return len(threads) == len(left.names(NAME)) == descriptors()["anon_inode:[pidfd]"] == 1

    until(rests, "there is one keeper", 30.0)
    return descriptors()


def test_reopening_leaves_no_descriptor_behind(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """An interface is another one again and again, each time with another keeper: as much is open as before."""
    reopenings = 50 if pytestconfig.getoption("--long") else 10
    with Supervisor() as supervisor, namespaces("d") as (space,):
        space.ip("link add d0 type veth peer name d1")
        for name in ("d0", "d1"):
            space.ip(f"link set {name} up")
        left = Inheritance(supervisor.environment(), os.getpid(), tmp_path)

        async def story() -> tuple[Counter[str], Counter[str]]:
            plane = RawDataPlane(("d0",), slots=64, use_xsk=False, inheritance=left, stays=True)
            await plane.start()
            try:
                await plane.set(ForwardingTables())
                before = when_at_rest(left)
                for number in range(reopenings):
                    space.ip(f"link set d0 mtu {1400 + number}")
                    await plane.set(ForwardingTables())
                return before, when_at_rest(left)
            finally:
                await plane.close()

        before, after = inside(space, lambda: asyncio.run(story()))
        assert before["anon_inode:[eventfd]"], "they are counted"
        assert after == before
        assert not left.names(""), "nothing is left to anybody"


def fill(folder: Path) -> Path:
    """A file that takes all the room that there is."""
    full = folder / "full"
    with full.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return full


def test_a_full_disk_has_no_keeper_or_one_that_proves_itself(tmp_path: Path) -> None:
    """Without room for a proof nobody is counted on, and the log says why; one that has stood by before the disk was
    full proves that it forwards all the same, and ends when it is relieved."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    try:
        with Supervisor() as supervisor, namespaces("d") as (space,), structlog.testing.capture_logs() as logs:
            space.ip("link add d0 type veth peer name d1")
            for name in ("d0", "d1"):
                space.ip(f"link set {name} up")
            left = Inheritance(supervisor.environment(), os.getpid(), tmp_path)
            full = fill(tmp_path)

            async def story() -> None:
                plane = RawDataPlane(("d0",), slots=64, use_xsk=False, inheritance=left, stays=True)
                await plane.start()
                try:
                    await plane.set(ForwardingTables())
                    until(lambda: any("No space left" in str(log.get("reason")) for log in logs), "it is told", 30.0)
                    assert not left.names(NAME), "nobody counts on it"
                    full.unlink()
                    until(lambda: bool(left.names(NAME)), "there is room, so there is one", 30.0)
                    fill(tmp_path)
                    await plane.stay()
                    (name,) = left.names(NAME)
                    until(lambda: doubts(name, tmp_path) == "", "it proves that it forwards")
                    assert relieve(left.get(name) or -1, name) == ("", True), "it ends"
                    until(lambda: not lives(name), "it has ended")
                finally:
                    await plane.close()

            inside(space, lambda: asyncio.run(story()))
            assert not list(tmp_path.glob(f"{NAME}*")), "no proof is left behind"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def of_vips(*vips: IPv4Address) -> ForwardingTables:
    """Tables of virtual services without members."""
    ports = (PortRange(80, 80),)
    services = (
        TableService(number, "web", vip, Protocol.TCP, ports, HashMode.FIVE_TUPLE, cycle(NO_MEMBER))
        for number, vip in enumerate(vips)
    )
    return ForwardingTables(bytes(16), tuple(services), {})


def test_proofs_of_keepers_that_have_ended_are_removed(tmp_path: Path) -> None:
    """The number is one that no process has, or another process's; other files are left alone."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name in (f"{NAME}{gone.pid}", KEEPER, f"{NAME}toml", "orders.json"):
        (tmp_path / name).write_text("no: nobody follows")
    clear_up(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{NAME}toml", "orders.json"]


def test_a_director_that_cannot_begin_leaves_the_keeper_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper forwards, and the next director has no memory for its rings: guard and offloads are as before, and the
    director after that takes the keeper's place. Where nobody forwards, such a director leaves nothing."""
    with Supervisor() as supervisor, namespaces("d") as (space,):
        space.ip("link add d0 type veth peer name d1")
        for name in ("d0", "d1"):
            space.ip(f"link set {name} up")
        space.run("ethtool", "-K", "d0", "gro", "on")
        left = Inheritance(supervisor.environment(), os.getpid(), tmp_path)

        def director() -> RawDataPlane:
            return RawDataPlane(("d0",), slots=64, use_xsk=False, inheritance=left, stays=True)

        def state() -> tuple[str, str]:
            return space.run("nft", "list", "ruleset"), space.run("ethtool", "-k", "d0")

        def no_rings(*_: object) -> None:
            raise OSError(errno.ENOMEM, "no memory")

        async def cannot_begin() -> None:
            with monkeypatch.context() as patched:
                patched.setattr(RxRing, "bind", no_rings)
                with pytest.raises(DataPlaneError, match="not enough memory"):
                    await director().start()

        async def story() -> tuple[tuple[str, str], tuple[str, str]]:
            await cannot_begin()
            assert state()[0] == ""
            plane = director()
            await plane.start()
            await plane.set(of_vips(IPv4Address("198.51.100.1")))
            until(lambda: bool(left.names(NAME)), "a keeper stands by", 30.0)
            await plane.stay()
            await plane.close(leave=True)
            (name,) = left.names(NAME)
            until(lambda: doubts(name, tmp_path) == "", "it forwards")
            before = state()
            await cannot_begin()
            after = state()
            assert doubts(name, tmp_path) == ""
            plane = director()
            await plane.start()
            await plane.set(of_vips(IPv4Address("198.51.100.1")))
            assert not lives(name)
            await plane.close()
            return before, after

        before, after = inside(space, lambda: asyncio.run(story()))
    assert "198.51.100.1" in before[0]
    assert after == before


DIRECTOR = """
import asyncio, os, sys
from pathlib import Path
from appliance.dataplane.raw import kernel
from appliance.dataplane.raw.plane import RawDataPlane
from appliance.inheritance import Inheritance

async def story():
    left = Inheritance(os.environ, os.getpid(), Path(sys.argv[1]))
    plane = RawDataPlane(("d0",), slots=64, use_xsk=False, inheritance=left, stays=True)
    await plane.start()
    await plane.close()

asyncio.run(story())
sys.exit(kernel.libc.prctl(kernel.PR_GET_DUMPABLE, 0, 0, 0, 0))
"""
"""Its exit code is 0 when it would not be dumped, else 1."""


@pytest.mark.parametrize("unwanted", [True, False], ids=["no-dumps", "dumps"])
def test_no_dump_delays_the_keeper_where_none_is_wanted(tmp_path: Path, unwanted: bool) -> None:
    """With a hard limit of 0 the kernel does not even begin, wherever dumps go; else it is left to the operator."""
    limit = ["prlimit", "--core=0:0"] if unwanted else ["prlimit", "--core=0:"]
    with Supervisor() as supervisor, namespaces("d") as (space,):
        space.ip("link add d0 type veth peer name d1")
        for name in ("d0", "d1"):
            space.ip(f"link set {name} up")
        command = space.command(*limit, sys.executable, "-c", DIRECTOR, str(tmp_path))
        done = subprocess.run(command, cwd=REPOSITORY, env=supervisor.environment(), check=False)
    assert done.returncode == (0 if unwanted or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else 1)


@contextmanager
def standing(space: Namespace, folder: Path, *vips: IPv4Address) -> Iterator[tuple[_Post, Callable[[], None]]]:
    """A keeper's post in this process, its plane has these VIPs; the call ends its director, whose kernel guard has the
    first one only."""
    space.ip("link add d0 type veth peer name d1")
    for name in ("d0", "d1"):
        space.ip(f"link set {name} up")

    def stand() -> RawDataPlane:
        guard = KernelGuard(("d0",))
        guard.install()
        guard.set(vips[:1], [])
        plane = RawDataPlane(("d0",), slots=64, use_xsk=False, stands={})
        asyncio.run(plane.start())
        plane.follow(of_vips(*vips))
        return plane

    plane = inside(space, stand)
    ours, director = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    life, lives_on = os.pipe()
    post = _Post(ours, life, plane, Proof(folder, KEEPER))
    thread = threading.Thread(target=lambda: inside(space, post.hold))
    thread.start()
    try:
        yield post, lambda: os.close(lives_on)
    finally:
        director.close()
        thread.join()
        inside(space, lambda: asyncio.run(plane.close(leave=True)))
        ours.close()
        os.close(life)


KEEPER, ALWAYS = f"{NAME}{os.getpid()}", 1 << 20
NFT = str(shutil.which("nft"))


def nft_fails(folder: Path, times: int) -> None:
    """The nft in *folder* fails so often, then it is the real one."""
    (folder / "fails").write_text("x" * times)
    fake = folder / "nft.new"
    fake.write_text(f'#!/bin/sh\ncd {folder}\n[ -s fails ] || exec {NFT} "$@"\ntruncate -s -1 fails\nexit 1\n')
    fake.chmod(0o755)
    fake.rename(folder / "nft")


def test_a_keeper_outlives_a_failing_nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the packets while nft fails: its director's guard is whole, so it proves that it forwards, and makes the
    guard its own as soon as nft works. Where the guard is gone as well, it goes on if nft works soon, else it ends."""
    first, second = IPv4Address("198.51.100.1"), IPv4Address("198.51.100.2")
    proof = tmp_path / KEEPER
    with namespaces("d") as (space,), standing(space, tmp_path, first, second) as (post, end):

        def rules() -> str:
            return space.run(NFT, "list", "ruleset")

        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        nft_fails(tmp_path, ALWAYS)
        end()
        until(lambda: post.forwards, "it has begun")
        word = proof.read_text()
        until(lambda: proof.read_text() != word, "it proves that it forwards")
        assert str(second) not in rules()
        nft_fails(tmp_path, 0)
        until(lambda: str(second) in rules(), "the guard is its own")
        before = rules()
        nft_fails(tmp_path, 2)
        space.run(NFT, "flush", "ruleset")
        until(lambda: rules() == before, "it is back")
        assert not (tmp_path / "fails").read_text(), "nft has failed"
        assert not post.trouble
        nft_fails(tmp_path, ALWAYS)
        space.run(NFT, "flush", "ruleset")
        until(lambda: bool(post.trouble), "nft fails for good", 20.0)


def test_each_frame_comes_to_one_of_two_whenever_one_takes_the_place_of_the_other() -> None:
    """Frames come all the time, the kernel is told again and again whose they are, and in the end the first one goes
    away without a word: not one frame is missing, and none is there twice."""
    with namespaces("a", "b") as (sender, receiver):
        veth(sender, "a0", receiver, "b0")
        wire = Wire(sender, "a0")
        got: list[int] = []
        of_each: Counter[int] = Counter()

        def story() -> None:
            interface = kernel.read_interface("b0")
            assert interface is not None
            taps = [SlowTap(interface), SlowTap(interface)]
            group = None
            for tap in taps:
                tap.bind()
                group = tap.share(group)
                kernel.attach_filter(tap.socket, bpf.assemble((bpf.Instruction(0x06, 0, 0, 0xFFFF),)))

            def hear() -> None:
                for place, tap in enumerate(taps):
                    while tap.socket.fileno() >= 0 and (read := tap.read()) is not None:
                        if read[0][12:14] == b"\x88\xb5":
                            got.append(struct.unpack_from("!I", read[0], 14)[0])
                            of_each[place] += 1

            done = threading.Event()

            def send() -> None:
                header = interface.mac + bytes.fromhex("020000000001") + b"\x88\xb5"
                for number in range(FRAMES):
                    wire.send(header + struct.pack("!I", number) + bytes(50))
                    if number % 4 == 0:
                        done.wait(0.001)
                done.set()

            thread = threading.Thread(target=send)
            thread.start()
            for number in range(SWITCHES):
                taps[0].choose((SECOND, FIRST)[number % 2])
                hear()
            while not done.is_set():
                hear()
            thread.join()
            hear()
            taps[0].close()
            wire.send(
                interface.mac + bytes.fromhex("020000000001") + b"\x88\xb5" + struct.pack("!I", FRAMES) + bytes(50)
            )
            until(lambda: hear() or FRAMES in got, "what comes then is for the other one")
            taps[1].close()

        inside(receiver, story)
        wire.close()
    assert sorted(got) == list(range(FRAMES + 1))
    assert min(of_each[0], of_each[1]) > 0, "both had some"

"""The raw plane's keeper, as its director's process has it."""

import asyncio
import contextlib
import os
import re
import struct
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest
import structlog

from appliance.dataplane.raw import bpf, kernel
from appliance.dataplane.raw.keeper import NAME, doubts, lives, relieve
from appliance.dataplane.raw.plane import RawDataPlane
from appliance.dataplane.raw.rings import FIRST, SECOND, SlowTap
from appliance.forwarding import ForwardingTables
from appliance.inheritance import Inheritance
from tests.netns import namespaces, until, veth
from tests.root.plane_rig import Wire, inside
from tests.supervisor import Supervisor

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
                    assert relieve(left.get(name) or -1, name) == "", "it ends"
                    until(lambda: not lives(name), "it has ended")
                finally:
                    await plane.close()

            inside(space, lambda: asyncio.run(story()))
            assert not list(tmp_path.glob(f"{NAME}*")), "no proof is left behind"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


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

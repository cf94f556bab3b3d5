"""A data plane in a process of its own (so that it can live in a namespace), told what to do through a pipe.

usage: python -m tests.root.plane_child KIND INTERFACE[,INTERFACE...] KEYWORD=VALUE...
       python -m tests.root.plane_child nursery SOCKET
Each request on stdin and each answer on stdout is one line: base64 of a pickle. A request is (method, arguments); an
answer is (True, value) or (False, error text).

A nursery has imported everything already, and forks such processes: see `nursery`.
"""

import asyncio
import base64
import ctypes
import gc
import os
import pickle
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from appliance.capture.notes import Notes
from appliance.dataplane.auto import AutoDataPlane
from appliance.dataplane.base import Counters, DataPlane, DataPlaneError
from appliance.dataplane.pins import LivePins, PinTable
from appliance.dataplane.raw.plane import RawDataPlane
from appliance.dataplane.recording import Captured, Recording, Wanted
from appliance.dataplane.xdp import tables as xdp_tables
from appliance.dataplane.xdp.attach import Mode
from appliance.dataplane.xdp.plane import XdpDataPlane
from appliance.forwarding import ForwardingTables
from appliance.packet.action import Action

KINDS = ("raw", "xdp", "xdp-generic")
"""What every test of a plane runs with. There are also `xdp-auto`, which chooses the mode, and `auto`."""


def make(kind: str, interfaces: tuple[str, ...], settings: dict[str, int]) -> DataPlane:
    """Settings are keywords of the raw plane, which is behind the XDP program, too; `link_NAME` is a link to adopt, and
    `slot_tables` for the XDP plane."""
    links = {key.removeprefix("link_"): settings.pop(key) for key in list(settings) if key.startswith("link_")}
    if kind == "auto":
        return AutoDataPlane(interfaces)
    slot_tables = settings.pop("slot_tables", 0)
    raw = RawDataPlane(interfaces, **settings)
    if kind == "raw":
        return raw
    mode = {"xdp": Mode.NATIVE, "xdp-generic": Mode.GENERIC, "xdp-auto": Mode.AUTO}[kind]
    return XdpDataPlane(interfaces, mode=mode, slow_path=raw, links=links, slot_tables=slot_tables)


async def injure(plane: RawDataPlane | XdpDataPlane, stall_s: float) -> None:
    """Let the forwarding thread meet a bug in its next batch: it dies of it, or is busy for that long."""
    if isinstance(plane, XdpDataPlane):
        assert isinstance(plane._slow, RawDataPlane)
        plane = plane._slow
    assert plane._session is not None
    worker = plane._session.worker

    def bug(*_: object) -> int:
        if not stall_s:
            raise RuntimeError("a bug in the forwarding thread")
        del worker._ring  # type: ignore[attr-defined]
        time.sleep(stall_s)
        return worker._ring(*_)  # type: ignore[arg-type]

    worker._ring = bug  # type: ignore[method-assign,assignment]


async def swap(
    plane: RawDataPlane | XdpDataPlane, first: ForwardingTables, second: ForwardingTables, times: int
) -> None:
    """Set tables again and again, in turn."""
    for number in range(times):
        await plane.set((first, second)[number % 2])


async def swap_maps(plane: XdpDataPlane, first: ForwardingTables, second: ForwardingTables, times: int) -> None:
    """The same below the plane, where it is quicker: the program's tables only."""
    assert plane._program is not None
    tables = plane._program.tables
    before = tables.tables

    def work() -> None:
        for number in range(times):
            tables.stage((first, second)[number % 2], plane._member_egress, same_egress=True)
            tables.publish()
        tables.stage(before, plane._member_egress)
        tables.publish()

    await asyncio.to_thread(work)


async def set_and_look(
    plane: XdpDataPlane, tables: ForwardingTables, frame: bytes, interface: str
) -> list[tuple[Action | None, Action]]:
    """Set tables. What program and slow path make of a frame whenever it is waited for packets by the tables before."""
    seen, wait = [], xdp_tables.wait_for_readers

    def look() -> None:
        by_program = plane._try_out(frame, plane._attached[interface].interface)
        seen.append((by_program, asyncio.run(plane._slow.explain(frame, interface))))
        wait()

    xdp_tables.wait_for_readers = look
    try:
        await plane.set(tables)
    finally:
        xdp_tables.wait_for_readers = wait
    return seen


async def cost(plane: XdpDataPlane, frames: list[bytes]) -> float:
    """Microseconds that the program's test runs take, the quickest of some rounds."""
    assert plane._program is not None
    program, interface = plane._program, next(iter(plane._attached.values())).interface

    def work() -> float:
        took = []
        for _ in range(5):
            begin = time.perf_counter()
            for frame in frames:
                program.run(frame, interface)
            took.append((time.perf_counter() - begin) / len(frames) * 1e6)
        return min(took)

    with plane._lock:
        return await asyncio.to_thread(work)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def facts(plane: RawDataPlane | XdpDataPlane) -> dict[str, int]:
    """Memory of the process and of the program's maps, bytes; descriptors of links."""
    resident = resident_bytes()
    found = {"resident": resident}
    if isinstance(plane, XdpDataPlane) and plane._program is not None:
        found["maps"] = plane._program.memory()
        found |= {f"link_{name}": fd for name, fd in plane.links().items()}
    return found


async def watch(plane: DataPlane, rounds: list[ForwardingTables]) -> list[Counters]:
    """Set one after the other, and read counters all the while."""
    readings: list[Counters] = []
    done = False

    async def read() -> None:
        while not done:
            readings.append(await plane.counters())
            await asyncio.sleep(0.001)

    async def change() -> None:
        nonlocal done
        try:
            for tables in rounds:
                await plane.set(tables)
        finally:
            done = True

    await asyncio.gather(read(), change())
    return readings


async def corrupt(plane: XdpDataPlane, what: str, field: str = "") -> None:
    """Invert the bits of the program's tables, those in force and the others: all of a map, or a field of its rows."""
    assert plane._program is not None
    view = plane._program.tables._views[what]
    view = view[field] if field else view
    view[:] = ~view


async def descriptors(_: DataPlane, kind: str) -> int:
    """How many of the process's descriptors are of a kind: `bpf_link`, `bpf-map`."""

    def work() -> int:
        found = 0
        for entry in Path("/proc/self/fd").iterdir():
            try:
                found += kind in str(entry.readlink())
            except FileNotFoundError:
                pass  # the one that reads the directory
        return found

    return await asyncio.to_thread(work)


async def remembered(plane: DataPlane) -> tuple[LivePins, np.ndarray, int]:
    """Live pins, counted handshakes, and when that was."""
    return plane.pins.live(), plane.pins.delays.copy(), time.monotonic_ns()


class Herald:
    """Takes its time to tell, and remembers until when."""

    def __init__(self, pins: PinTable, grants: int, takes_s: float) -> None:
        self.is_heard = True
        self.told: dict[int, float] = {}
        """By the client's port: `time.monotonic` when it was told of."""
        self._pins, self._left, self._takes_s = pins, grants, takes_s

    def grant(self, wanted: int) -> int:
        granted = min(wanted, self._left)
        self._left -= granted
        return granted

    def tell(self, positions: np.ndarray) -> None:
        time.sleep(self._takes_s)
        ports = self._pins.flows["ports"][positions].astype("<u4").view(">u2")[::2]
        self.told |= dict.fromkeys(ports.tolist(), time.monotonic())


async def tell(plane: DataPlane, grants: int, takes_s: float) -> None:
    """From now on others are told of new connections, of so many."""
    plane.pins.herald = Herald(plane.pins, grants, takes_s)
    await asyncio.sleep(0.2)  # a round of the forwarding thread


async def told(plane: DataPlane) -> dict[int, float]:
    assert isinstance(plane.pins.herald, Herald)
    return plane.pins.herald.told


RECORDINGS: list[Recording] = []


async def record_for_test(plane: DataPlane, wanted: Wanted) -> None:
    """Begin to capture."""
    RECORDINGS[:] = [Recording(wanted, room=100_000)]
    await plane.record(RECORDINGS[0])


async def recorded(plane: DataPlane, at_least: int, tables: ForwardingTables) -> tuple[list[Captured], int]:
    """End it, as soon as so many frames have been captured: with notes, and how many were lost."""
    notes, found = Notes(tables), list[Captured]()
    deadline = time.monotonic() + 10
    while len(found) < at_least and time.monotonic() < deadline:
        found += await asyncio.to_thread(RECORDINGS[0].take, 1000)
        await asyncio.sleep(0.01)
    found += await asyncio.to_thread(RECORDINGS[0].take, 1000)
    await plane.record(None)
    return [notes.completed(one) for one in found], RECORDINGS[0].lost


async def explain_all(plane: DataPlane, frames: list[bytes], interface: str) -> list[Action]:
    return [await plane.explain(frame, interface) for frame in frames]


EXTRA = {
    "record_for_test": record_for_test,
    "recorded": recorded,
    "explain_all": explain_all,
    "injure": injure,
    "swap": swap,
    "swap_maps": swap_maps,
    "set_and_look": set_and_look,
    "cost": cost,
    "facts": facts,
    "watch": watch,
    "corrupt": corrupt,
    "descriptors": descriptors,
    "remembered": remembered,
    "tell": tell,
    "told": told,
}
"""What tests want to do beyond the contract."""


async def serve(kind: str, interfaces: str, *keywords: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = {key: int(value) for key, _, value in (keyword.partition("=") for keyword in keywords)}
    plane = make(kind, tuple(interfaces.split(",")), settings)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        method, arguments = pickle.loads(base64.b64decode(line))  # noqa: S301 - our own parent
        try:
            call = partial(EXTRA[method], plane) if method in EXTRA else getattr(plane, method)
            answer = (True, await call(*arguments))
        except DataPlaneError as error:
            answer = (False, str(error))
        print(base64.b64encode(pickle.dumps(answer)).decode(), flush=True)


CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x20000
MS_SLAVE_RECURSIVELY, MNT_DETACH = 0x84000, 2


def enter(namespace: str) -> None:
    """As `ip netns exec` does: the network namespace, and the /sys that belongs to it (ip-netns(8))."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open() as handle:
        done = [libc.setns(handle.fileno(), CLONE_NEWNET), libc.unshare(CLONE_NEWNS)]
    done.append(libc.mount(b"", b"/", b"none", MS_SLAVE_RECURSIVELY, None))
    done += [libc.umount2(b"/sys", MNT_DETACH), libc.mount(namespace.encode(), b"/sys", b"sysfs", 0, None)]
    if any(done):
        raise OSError(ctypes.get_errno(), f"no way into {namespace}: {done}")


def nursery(orders: socket.socket) -> None:
    """Fork a process for each order until nobody can give any more; answers are process numbers.

    An order is a namespace and the arguments of `serve`, with descriptors for standard input, output and error.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever gives orders sees by itself when one has ended
    gc.freeze()
    while True:
        order, files, _, _ = socket.recv_fds(orders, 65536, 3)
        if not order:
            return
        if process := os.fork():
            for number in files:
                os.close(number)
            orders.send(str(process).encode())
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        orders.close()
        for standard, number in enumerate(files):
            os.dup2(number, standard)
            os.close(number)
        namespace, *arguments = order.decode().split("\0")
        enter(namespace)
        asyncio.run(serve(*arguments))
        return


if __name__ == "__main__":
    if sys.argv[1] == "nursery":
        nursery(socket.socket(fileno=int(sys.argv[2])))
    else:
        asyncio.run(serve(*sys.argv[1:]))

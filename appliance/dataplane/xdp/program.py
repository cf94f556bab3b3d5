"""The XDP program, loaded: its maps sized and filled, test runs, samples."""

import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.bpf.libbpf import BpfError, Map, Object, RingBuffer, TestRunner, possible_cpus
from appliance.dataplane.base import DataPlaneError, MapFacts
from appliance.dataplane.logged import LoggedFlows
from appliance.dataplane.meters import MeterTable
from appliance.dataplane.pins import DEFAULT_PINS, PinTable, sets_for
from appliance.dataplane.raw.kernel import Interface
from appliance.dataplane.recording import Wanted
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.tables import LOG_MAPS, METER_MAPS, PIN_MAPS, Capacity, Outcome, Tables, pin_sizes, sizes

OBJECT = Path(__file__).parent.parent / "bpf" / "balance.bpf.o"
PROGRAMS = ("balance_frags", "balance_linear")
"""The first that the kernel takes: frames in several buffers need Linux 5.18."""

WATCHING = {"balance_frags": "watch_frags", "balance_linear": "watch_linear"}
"""What stands in their place while somebody captures."""

CAPTURE_BYTES = 1 << 22
"""Frames that may wait for whoever captures: a power of two."""

LONGEST_TEST_FRAME = 3000
"""Test runs take what fits into a page with headroom and the kernel's own data; the rest is no business of theirs."""


class Program:
    """One loaded object. `close` takes it out of the kernel once it is attached nowhere any more."""

    def __init__(
        self,
        capacity: Capacity | None = None,
        path: Path = OBJECT,
        names: Sequence[str] = PROGRAMS,
        *,
        pins: int = DEFAULT_PINS,
        pin_maps: Mapping[str, Map] | None = None,
        meters: MeterTable | None = None,
    ) -> None:
        """Load it.

        Args:
            capacity: of the maps.
            path: the object.
            names: programs in it; the first that the kernel takes is used.
            pins: flows to remember at once, at most.
            pin_maps: of a program in whose place this one is to come: it goes on with what that one remembers of flows,
                and *pins* does not count.
            meters: of that program.

        Raises:
            BpfError: libbpf is missing, or kernel or privileges do not allow it; the text says which.
        """
        self._path = path
        self._watcher: Watcher | None = None
        capacity = capacity or Capacity()
        _raise_memlock_limit()
        pin_sets = sets_for(pins) if pin_maps is None else pin_maps["pin_words"].max_entries
        self._object, self.name = _load(capacity, path, names, pin_sets, pin_maps or {})
        try:
            self._fd = self._object.program(self.name)
            self.meters = meters or MeterTable(self._memory(METER_MAPS), time.monotonic_ns)
            """How many connections the program has let through."""
            self.tables = Tables(self._object, capacity, possible_cpus(), pin_sets, self.meters)
            self._runner = TestRunner(self._fd)
        except BaseException:
            self._object.close()
            raise
        self._port: tuple[bytes, int, int] | None = None

    @property
    def fd(self) -> int:
        """Of the program that is to be attached; another one while somebody captures."""
        return self._fd if self._watcher is None else self._watcher.fd

    @property
    def watcher(self) -> "Watcher | None":
        """Who tells of frames, while somebody captures."""
        return self._watcher

    def load_watcher(self, wanted: Wanted) -> "Watcher":
        """Load the program that captures, on the very same maps. That takes as long as the usual one.

        Raises:
            BpfError: the kernel refuses it.
        """
        return Watcher(self._path, WATCHING[self.name], self._object, wanted)

    def use(self, watcher: "Watcher | None") -> None:
        """Let `fd` and `run` be of the program that captures; None: of the usual one. It is up to the caller to attach
        it. An earlier one is closed.

        Args:
            watcher: from `load_watcher`; belongs to this object from now on.
        """
        before, self._watcher = self._watcher, watcher
        self._runner = TestRunner(self.fd)
        if before is not None:
            before.close()

    def run(self, frame: bytes, interface: Interface, *, remember: bool = False) -> tuple[Outcome, bytes]:
        """What the program does with a frame that arrives on an interface, without counting or sending it.

        Args:
            frame: 14 to LONGEST_TEST_FRAME bytes.
            interface: its address and MTU count.
            remember: let it leave behind what any packet leaves: pins, and turns that are over.

        Raises:
            BpfError: the kernel refuses the test.
        """
        port = interface.mac, interface.mtu, layout.PORT_QUIET | (layout.PORT_REMEMBER if remember else 0)
        if port != self._port:
            self.tables.set_port(layout.LOOPBACK, *port)
            self._port = port
        frame_out = self._runner.run(frame).frame
        return self.tables.outcome(), frame_out

    def samples(self, callback: Callable[[bytes], None]) -> RingBuffer:
        """A reader of the samples that the program takes of what it does: `struct event`, each as bytes."""
        return RingBuffer(self._object.map("events"), callback)

    def memory(self) -> int:
        """Bytes that the maps take in the kernel."""
        return sum(one.bytes for one in self.maps())

    def maps(self) -> list[MapFacts]:
        """All maps, as the kernel has them."""
        names = [*sizes(Capacity(), 1), *KEPT_MAPS, "egress", "events", *CAPTURE_MAPS]
        found = [self._object.map(name) for name in names]
        return [MapFacts(one.name, one.key_size, one.value_size, one.max_entries, one.locked_bytes) for one in found]

    def pin_maps(self) -> dict[str, Map]:
        """The maps that remember flows, count connections and log them. They stay while anybody uses them."""
        return {name: self._object.map(name) for name in KEPT_MAPS}

    def pin_table(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> PinTable:
        """What the program remembers of flows, for one writer beside it.

        Args:
            clock_ns: the monotonic clock, as far ahead as `Tables.set_clock` says.
        """
        return PinTable(self._memory(PIN_MAPS), writer=possible_cpus(), clock_ns=clock_ns)

    def logged_flows(self) -> LoggedFlows:
        """The flows of the connection log."""
        return LoggedFlows(self._memory(LOG_MAPS), time.monotonic_ns)

    def _memory(self, maps: Mapping[str, tuple[str, np.dtype[Any]]]) -> dict[str, npt.NDArray[Any]]:
        """The memory of some maps, by the parts that they are."""
        memory = {}
        for name, (part, dtype) in maps.items():
            found = self._object.map(name)
            memory[part] = np.frombuffer(found.memory(found.max_entries * found.value_size), dtype)
        return memory

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
        self.tables.close()
        self._object.close()


KEPT_MAPS = *PIN_MAPS, *METER_MAPS, *LOG_MAPS
"""Those that a program hands over to the one in its place."""

CAPTURE_MAPS = "wanteds", "desks", "captured"


class Watcher:
    """The program that captures: it forwards as the other one does, by the same tables, and tells of every frame."""

    def __init__(self, path: Path, name: str, watched: Object, wanted: Wanted) -> None:
        """Load it.

        Args:
            path: the object.
            name: of the program in it.
            watched: whose maps it uses, loaded.
            wanted: which frames it tells of.

        Raises:
            BpfError: the kernel refuses it.
        """
        self._object = Object(path)
        self._ring: RingBuffer | None = None
        self._lock = threading.Lock()
        self._lost = 0
        self._found: list[bytes] = []
        cpus = possible_cpus()
        try:
            self._object.only(name)
            for shared in (*sizes(Capacity(), 1), *KEPT_MAPS, "egress", "events", "types"):
                self._object.reuse(shared, watched.map(shared).fd)
            self._object.resize("desks", cpus)
            self._object.resize("captured", CAPTURE_BYTES)
            self._object.load()
            self.fd = self._object.program(name)
            self._object.map("wanteds").update(bytes(4), _wanted(wanted))
            self._desks = np.frombuffer(
                self._object.map("desks").memory(cpus * layout.DESK.itemsize), layout.DESK, count=cpus
            )
            self._ring = RingBuffer(self._object.map("captured"), self._take)
        except BaseException:
            self._object.close()
            raise

    def _take(self, raw: bytes) -> None:
        self._found.append(raw)

    def take(self, limit: int) -> list[bytes]:
        """The oldest `struct record`s, as many at most. Harmless when closed. For any thread."""
        with self._lock:
            if self._ring is None:
                return []
            self._ring.consume(limit)
            found, self._found = self._found, []
            return found

    @property
    def lost(self) -> int:
        """Frames so far that found no room."""
        with self._lock:
            return self._lost if self._ring is None else int(self._desks["lost"].sum())

    def close(self) -> None:
        """It goes on where it is attached, until another one takes its place; but nobody hears of it any more."""
        with self._lock:
            if self._ring is None:
                return
            self._lost = int(self._desks["lost"].sum())
            self._ring.close()
            self._ring = None
            del self._desks
        self._object.close()


def _wanted(wanted: Wanted) -> bytes:
    raw = np.zeros(1, layout.WANTED)
    raw["snaplen"] = min(wanted.snaplen, layout.SNAPLEN)
    if wanted.client is not None:
        raw["client"][0] = _mapped(wanted.client.network_address.packed)
        raw["client_mask"][0] = _mapped(wanted.client.netmask.packed, b"\xff")
    if wanted.vip is not None:
        raw["vip"][0] = _mapped(wanted.vip.packed)
        raw["vip_mask"][0] = 0xFFFFFFFFFFFFFFFF
    return raw.tobytes()


def _mapped(address: bytes, front: bytes = b"\0") -> npt.NDArray[np.uint64]:
    """An address as two words, IPv4 mapped (RFC 4291, 2.5.5.2); of an IPv4 mask, *front* fills the rest."""
    if len(address) == 4:
        address = front * 10 + b"\xff\xff" + address
    return np.frombuffer(address, "<u8")


def _load(
    capacity: Capacity, path: Path, names: Sequence[str], pin_sets: int, pin_maps: Mapping[str, Map]
) -> tuple[Object, str]:
    refused: BpfError | None = None
    for name in names:
        loading = Object(path)
        try:
            loading.only(name)
            for map_name, elements in sizes(capacity, possible_cpus()).items():
                loading.resize(map_name, elements)
            for map_name, elements in pin_sizes(pin_sets, possible_cpus()).items():
                if map_name in pin_maps:
                    loading.reuse(map_name, pin_maps[map_name].fd)
                else:
                    loading.resize(map_name, elements)
            loading.load()
        except BpfError as error:
            loading.close()
            refused = error
        else:
            return loading, name
    if refused is None:
        raise DataPlaneError("no XDP program to load")
    raise refused


def _raise_memlock_limit() -> None:
    """Maps count as locked memory before Linux 5.11, and for whoever lacks CAP_SYS_RESOURCE the hard limit is all."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))

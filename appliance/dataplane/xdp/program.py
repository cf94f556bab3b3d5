"""The XDP program, loaded: its maps sized and filled, test runs, samples."""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.bpf.libbpf import BpfError, Map, Object, RingBuffer, TestRunner, possible_cpus
from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.meters import MeterTable
from appliance.dataplane.pins import DEFAULT_PINS, PinTable, sets_for
from appliance.dataplane.raw.kernel import Interface
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.tables import METER_MAPS, PIN_MAPS, Capacity, Outcome, Tables, pin_sizes, sizes

OBJECT = Path(__file__).parent.parent / "bpf" / "balance.bpf.o"
PROGRAMS = ("balance_frags", "balance_linear")
"""The first that the kernel takes: frames in several buffers need Linux 5.18."""

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
        capacity = capacity or Capacity()
        _raise_memlock_limit()
        pin_sets = sets_for(pins) if pin_maps is None else pin_maps["pin_words"].max_entries
        self._object, self.name = _load(capacity, path, names, pin_sets, pin_maps or {})
        try:
            self.fd = self._object.program(self.name)
            self.meters = meters or MeterTable(self._memory(METER_MAPS), time.monotonic_ns)
            """How many connections the program has let through."""
            self.tables = Tables(self._object, capacity, possible_cpus(), pin_sets, self.meters)
            self._runner = TestRunner(self.fd)
        except BaseException:
            self._object.close()
            raise
        self._port: tuple[bytes, int, int] | None = None

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
        names = [*sizes(Capacity(), 1), *PIN_MAPS, *METER_MAPS, "egress", "events"]
        return sum(self._object.map(name).locked_bytes for name in names)

    def pin_maps(self) -> dict[str, Map]:
        """The maps that remember flows, and count connections. They stay while anybody uses them."""
        return {name: self._object.map(name) for name in (*PIN_MAPS, *METER_MAPS)}

    def pin_table(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> PinTable:
        """What the program remembers of flows, for one writer beside it.

        Args:
            clock_ns: the monotonic clock, as far ahead as `Tables.set_clock` says.
        """
        return PinTable(self._memory(PIN_MAPS), writer=possible_cpus(), clock_ns=clock_ns)

    def _memory(self, maps: Mapping[str, tuple[str, np.dtype[Any]]]) -> dict[str, npt.NDArray[Any]]:
        """The memory of some maps, by the parts that they are."""
        memory = {}
        for name, (part, dtype) in maps.items():
            found = self._object.map(name)
            memory[part] = np.frombuffer(found.memory(found.max_entries * found.value_size), dtype)
        return memory

    def close(self) -> None:
        self.tables.close()
        self._object.close()


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

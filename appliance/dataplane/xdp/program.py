"""The XDP program, loaded: its maps sized and filled, test runs, samples."""

import resource
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.bpf.libbpf import BpfError, Object, RingBuffer, TestRunner, possible_cpus
from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.raw.kernel import Interface
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.tables import Capacity, Outcome, Tables, sizes

OBJECT = Path(__file__).parent.parent / "bpf" / "balance.bpf.o"
PROGRAMS = ("balance_frags", "balance_linear")
"""The first that the kernel takes: frames in several buffers need Linux 5.18."""

LONGEST_TEST_FRAME = 3000
"""Test runs take what fits into a page with headroom and the kernel's own data; the rest is no business of theirs."""


class Program:
    """One loaded object. `close` takes it out of the kernel once it is attached nowhere any more."""

    def __init__(self, capacity: Capacity | None = None, path: Path = OBJECT, names: Sequence[str] = PROGRAMS) -> None:
        """Load it.

        Args:
            capacity: of the maps.
            path: the object.
            names: programs in it; the first that the kernel takes is used.

        Raises:
            BpfError: libbpf is missing, or kernel or privileges do not allow it; the text says which.
        """
        capacity = capacity or Capacity()
        _raise_memlock_limit()
        self._object, self.name = _load(capacity, path, names)
        try:
            self.fd = self._object.program(self.name)
            self.tables = Tables(self._object, capacity, possible_cpus())
            self._runner = TestRunner(self.fd)
        except BaseException:
            self._object.close()
            raise
        self._mac = bytes(6)
        self._mtu = 0

    def run(self, frame: bytes, interface: Interface) -> tuple[Outcome, bytes]:
        """What the program does with a frame that arrives on an interface, without counting or sending it.

        Args:
            frame: 14 to LONGEST_TEST_FRAME bytes.
            interface: its address and MTU count.

        Raises:
            BpfError: the kernel refuses the test.
        """
        if (interface.mac, interface.mtu) != (self._mac, self._mtu):
            self.tables.set_port(layout.LOOPBACK, interface.mac, interface.mtu, layout.PORT_QUIET)
            self._mac, self._mtu = interface.mac, interface.mtu
        frame_out = self._runner.run(frame).frame
        return self.tables.outcome(), frame_out

    def samples(self, callback: Callable[[bytes], None]) -> RingBuffer:
        """A reader of the samples that the program takes of what it does: `struct event`, each as bytes."""
        return RingBuffer(self._object.map("events"), callback)

    def memory(self) -> int:
        """Bytes that the maps take in the kernel."""
        return sum(self._object.map(name).locked_bytes for name in [*sizes(Capacity(), 1), "egress", "events"])

    def close(self) -> None:
        self.tables.close()
        self._object.close()


def _load(capacity: Capacity, path: Path, names: Sequence[str]) -> tuple[Object, str]:
    refused: BpfError | None = None
    for name in names:
        loading = Object(path)
        try:
            loading.only(name)
            for map_name, elements in sizes(capacity, possible_cpus()).items():
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

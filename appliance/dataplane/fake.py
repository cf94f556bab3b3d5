"""A data plane in memory: obeys the contract, forwards nothing, and prints itself as text."""

from collections.abc import Mapping, Sequence

from appliance.dataplane.base import Counters, DataPlaneError, MapFacts
from appliance.dataplane.events import PacketEvent
from appliance.dataplane.logged import LoggedFlows
from appliance.dataplane.pins import PinTable
from appliance.dataplane.recording import Recording
from appliance.forwarding import ForwardingTables, TableService
from appliance.packet.action import Action
from appliance.packet.forward import Ingress, PacketPath
from appliance.ring.slots import shares


class FakeDataPlane:
    """For tests and dry runs. `str()` shows the tables in force, one line for each service and port range:

    198.51.100.7:443/tcp  web1 50%  web2 50%
    """

    def __init__(self, interfaces: tuple[str, ...] = (), ingress: Ingress | None = None) -> None:
        """
        Args:
            interfaces: names for `describe`.
            ingress: the interface that explained frames arrive on; None takes any frame as addressed to us.
        """
        self._interfaces = interfaces
        self._ingress = ingress
        self.tables = ForwardingTables()
        """Those in force."""
        self.started = False
        self.closed = False
        self.left = False
        """Whether it was closed so that the next one takes over."""
        self.surviving: frozenset[int] = frozenset()
        """What `survivors` returns."""
        self.sets = 0
        """How often tables were set, equal ones included."""
        self._failure: str | None = None
        self.counted = Counters()
        """What `counters` returns."""
        self.clock_ns = 0
        """What the pins take for the time."""
        self.pins = PinTable.in_memory(1 << 10, lambda: self.clock_ns)
        """What is remembered of flows: what a test puts there."""
        self.logged = LoggedFlows.in_memory(lambda: self.clock_ns)
        """Flows of the connection log, the same."""
        self.sampled: tuple[PacketEvent, ...] = ()
        """What `samples` returns."""
        self.recording: Recording | None = None
        """Where a test puts what becomes of frames."""

    def fail(self, text: str | None) -> None:
        """Let `start`, `set` and `check` raise DataPlaneError with this text from now on; None lets them work again."""
        self._failure = text

    async def start(self) -> None:
        """Be ready."""
        self._may_fail()
        self.started = True

    async def set(self, tables: ForwardingTables) -> None:
        """Make these the tables in force.

        Raises:
            DataPlaneError: told to fail, or not started.
        """
        self._may_fail()
        if not self.started:
            raise DataPlaneError("the data plane was not started")
        self.sets += 1
        self.tables = tables

    async def check(self) -> None:
        """
        Raises:
            DataPlaneError: told to fail, or not started.
        """
        self._may_fail()
        if not self.started:
            raise DataPlaneError("the data plane was not started")

    async def counters(self) -> Counters:
        """What the test has put into `counted`."""
        return self.counted

    async def explain(self, frame: bytes, interface: str) -> Action:
        """What the reference says."""
        path = PacketPath(self.tables, self.pins)
        return path.forward(frame, self._ingress or Ingress(0, frame[:6], 1500), look_only=True)

    async def samples(self) -> Sequence[PacketEvent]:
        """What the test has put into `sampled`."""
        return self.sampled

    async def record(self, recording: Recording | None) -> None:
        """
        Raises:
            DataPlaneError: told to fail, or not started.
        """
        await self.check()
        self.recording = recording

    async def describe(self) -> Mapping[str, str]:
        """Facts for people."""
        return {"kind": "fake", "interfaces": ", ".join(self._interfaces)}

    async def maps(self) -> Sequence[MapFacts]:
        """None."""
        return ()

    async def stay(self) -> None:
        """Nothing to do."""

    def keeper(self) -> int:
        """None."""
        return 0

    def survivors(self) -> frozenset[int]:
        """What the test has put into `surviving`."""
        return self.surviving

    async def close(self, *, leave: bool = False) -> None:
        """Forget the tables."""
        self.left = leave
        self.closed = True
        self.started = False
        self.tables = ForwardingTables()

    def _may_fail(self) -> None:
        if self._failure is not None:
            raise DataPlaneError(self._failure)

    def __str__(self) -> str:
        return "".join(f"{line}\n" for service in self.tables.services for line in self._lines(service))

    def _lines(self, service: TableService) -> list[str]:
        owners = {self.tables.members[index].id: share for index, share in shares(service.slots).items()}
        parts = [f"{owner.partition('/')[2]} {share:.0%}" for owner, share in sorted(owners.items())]
        address = f"[{service.vip}]" if service.vip.version == 6 else str(service.vip)
        return ["  ".join((f"{address}:{ports}/{service.protocol}", *(parts or ["nobody"]))) for ports in service.ports]

"""The fastest data plane that works here: XDP, else raw sockets."""

from collections.abc import Mapping, Sequence

import structlog

from appliance.dataplane.base import Counters, DataPlane, DataPlaneError, MapFacts
from appliance.dataplane.events import PacketEvent
from appliance.dataplane.logged import LoggedFlows
from appliance.dataplane.pins import DEFAULT_PINS, PinTable
from appliance.dataplane.raw.plane import RawDataPlane
from appliance.dataplane.recording import Recording
from appliance.dataplane.xdp.plane import XdpDataPlane
from appliance.forwarding import ForwardingTables
from appliance.inheritance import Inheritance
from appliance.packet.action import Action

log = structlog.get_logger()


class AutoDataPlane:
    """Chooses when it is started; from then on it is that plane."""

    def __init__(
        self,
        interfaces: tuple[str, ...],
        pins: int = DEFAULT_PINS,
        slot_tables: int = 0,
        inheritance: Inheritance | None = None,
    ) -> None:
        """
        Args:
            interfaces: names of those that packets for VIPs arrive on.
            pins: flows to remember at once, at most.
            slot_tables: to have room for from the beginning.
            inheritance: where to leave what outlives this process, and what an earlier one has left.
        """
        self._inheritance = inheritance
        self._interfaces = interfaces
        self._pins = pins
        self._chosen: DataPlane = XdpDataPlane(interfaces, pins=pins, slot_tables=slot_tables, inheritance=inheritance)
        self._why_not_xdp = ""

    @property
    def pins(self) -> PinTable:
        """See `DataPlane.pins`."""
        return self._chosen.pins

    @property
    def logged(self) -> LoggedFlows:
        """See `DataPlane.logged`."""
        return self._chosen.logged

    async def start(self) -> None:
        """Take over the interfaces, by XDP if that is possible.

        Raises:
            DataPlaneError: neither plane can.
        """
        try:
            await self._chosen.start()
        except DataPlaneError as error:
            self._why_not_xdp = str(error)
            log.warning("plane.fallback", kind="raw", reason=self._why_not_xdp)
            self._chosen = RawDataPlane(self._interfaces, pins=self._pins, inheritance=self._inheritance, stays=True)
            await self._chosen.start()

    async def set(self, tables: ForwardingTables) -> None:
        """See `DataPlane.set`."""
        await self._chosen.set(tables)

    async def check(self) -> None:
        """See `DataPlane.check`."""
        await self._chosen.check()

    async def counters(self) -> Counters:
        """See `DataPlane.counters`."""
        return await self._chosen.counters()

    async def explain(self, frame: bytes, interface: str) -> Action:
        """See `DataPlane.explain`."""
        return await self._chosen.explain(frame, interface)

    async def samples(self) -> Sequence[PacketEvent]:
        """See `DataPlane.samples`."""
        return await self._chosen.samples()

    async def record(self, recording: Recording | None) -> None:
        """See `DataPlane.record`."""
        await self._chosen.record(recording)

    async def describe(self) -> Mapping[str, str]:
        """Facts of the plane that was chosen, and why it is not the fastest one."""
        facts = dict(await self._chosen.describe())
        if self._why_not_xdp:
            facts["why_not_xdp"] = self._why_not_xdp
        return facts

    async def maps(self) -> Sequence[MapFacts]:
        """See `DataPlane.maps`."""
        return await self._chosen.maps()

    async def stay(self) -> None:
        """See `DataPlane.stay`."""
        await self._chosen.stay()

    def keeper(self) -> int:
        """See `DataPlane.keeper`."""
        return self._chosen.keeper()

    def survivors(self) -> frozenset[int]:
        """See `DataPlane.survivors`."""
        return self._chosen.survivors()

    async def close(self, *, leave: bool = False) -> None:
        """See `DataPlane.close`."""
        await self._chosen.close(leave=leave)

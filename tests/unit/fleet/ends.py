"""Two ends of a pin channel for tests: members, tables, pins, and what is between them."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from appliance.dataplane.pins import PinTable, addresses
from appliance.fleet.channel import PinChannel
from appliance.forwarding import TableMember
from appliance.model import FleetPeer
from appliance.packet.placement import FlowFacts, Pin, PinState
from tests.builders import L3, hop
from tests.netns import PATIENCE

SECRET = b"the secret of all directors"
IDLE = 281


def members(first: int = 0, names: Iterable[str] = ("w0", "w1", "w2", "w3")) -> dict[int, TableMember]:
    """The same members on every director, by indices that begin somewhere else on each."""
    return {
        first + i: TableMember(first + i, f"web/{name}", ip_address(f"203.0.113.{int(name[1:]) + 1}"), L3, hop())
        for i, name in enumerate(names)
    }


def table(pins: int = 4096, clock_ns: Callable[[], int] = time.monotonic_ns) -> PinTable:
    return PinTable.in_memory(pins, clock_ns)


def flow(number: int, idle: int = IDLE, protocol: int = 6) -> FlowFacts:
    """Every number is another flow, with a hash that is spread as the real one."""
    hash64 = random.Random(number).getrandbits(64)
    return FlowFacts(
        IPv4Address(0xC6336400 + number % 256).packed,
        ip_address("198.51.100.7").packed,
        (1024 + number % 60000).to_bytes(2, "big") + b"\x00\x50",
        protocol,
        hash64,
        hash64 >> 32,
        idle,
        opened=True,
    )


def keep(
    pins: PinTable,
    numbers: Iterable[int],
    member: int = 0,
    state: PinState = PinState.OPEN,
    idle: int = IDLE,
    *,
    opened: bool = True,
):
    """What the data plane does when it sees a packet of each of these flows."""
    for number in numbers:
        pins.keep(Pin(member, state), replace(flow(number, idle), opened=opened), pins.now())


def known(pins: PinTable) -> dict[int, int]:
    """Live pins: hash and member."""
    live = pins.live()
    return dict(zip(live.flows["hash64"].tolist(), live.member.tolist(), strict=True))


def hashes(numbers: Iterable[int]) -> set[int]:
    return {flow(number).hash64 for number in numbers}


def sources(pins: PinTable) -> set[bytes]:
    return set(addresses(pins.live().flows["source"]))


def directors(*names: str, version: int = 4) -> list[FleetPeer]:
    """Directors on the loopback interface, at addresses that no other test process uses."""
    if version == 6:  # there is only one address
        return [FleetPeer(name, ip_address("::1"), 20000 + os.getpid() % 4000 * 10 + i) for i, name in enumerate(names)]
    first = IPv4Address("127.0.0.0") + (os.getpid() % 65000 + 1) * 256
    return [FleetPeer(name, first + 1 + i) for i, name in enumerate(names)]


async def until(condition: Callable[[], object], what: str, deadline_s: float = 10.0, pause_s: float = 0.005) -> None:
    end = time.monotonic() + deadline_s * PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s * PATIENCE} s: {what}"
        await asyncio.sleep(pause_s)


@contextlib.asynccontextmanager
async def running(*channels: PinChannel) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """The channels run inside, and have ended afterwards."""
    async with asyncio.TaskGroup() as tasks:
        own = [tasks.create_task(channel.run()) for channel in channels]
        try:
            yield own
        finally:
            for task in own:
                task.cancel()


class Relay(asyncio.DatagramProtocol):
    """The network between two directors: it loses, repeats, delays and reorders, and remembers what has passed."""

    def __init__(self, chance: random.Random, loss: float = 0.0, repeat: float = 0.0, delay_s: float = 0.0) -> None:
        self.loss, self.repeat, self.delay_s = loss, repeat, delay_s
        self.passed: list[bytes] = []
        self.cut = False
        self._chance = chance
        self._target: tuple[str, int] = ("", 0)
        self._out: asyncio.DatagramTransport | None = None

    def between(self, out: asyncio.DatagramTransport, target: tuple[str, int]) -> None:
        """Datagrams that come in go to *target*, and look as if they came from the address of *out*."""
        self._out, self._target = out, target

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self.cut:
            return
        self.passed.append(data)
        for _ in range(1 + (self._chance.random() < self.repeat)):
            if self._chance.random() >= self.loss:
                loop = asyncio.get_running_loop()
                loop.call_later(self._chance.random() * self.delay_s, self.send, data)

    def send(self, data: bytes) -> None:
        """Put a datagram of one's own on the wire."""
        assert self._out is not None
        self._out.sendto(data, self._target)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there yet, or any more."""


@contextlib.asynccontextmanager
async def network(
    a: FleetPeer, b: FleetPeer, seen_by: Mapping[str, FleetPeer], **faults: float
) -> AsyncIterator[tuple[Relay, Relay]]:
    """Relays from a to b and from b to a.

    Args:
        a: a director, where it really listens.
        b: another one.
        seen_by: where each of them believes the other one to be, by its own name: addresses of the relays.
        faults: of both.
    """
    loop = asyncio.get_running_loop()
    chance = random.Random(7)
    ends = []
    for here in (a, b):
        believed = seen_by[here.name]
        ends.append(
            await loop.create_datagram_endpoint(
                lambda: Relay(chance, **faults), local_addr=(str(believed.address), believed.port)
            )
        )
    (from_a, relay_a), (from_b, relay_b) = ends
    relay_a.between(from_b, (str(b.address), b.port))
    relay_b.between(from_a, (str(a.address), a.port))
    try:
        yield relay_a, relay_b
    finally:
        from_a.close()
        from_b.close()
        await asyncio.sleep(0)

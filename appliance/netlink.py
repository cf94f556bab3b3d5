"""Next hops from the kernel: which interface and which MAC addresses lead to each member, kept up to date.

pyroute2 does not work on uvloop (its sockets are of a family that uvloop refuses), so it lives here only, on a thread
with a loop of the standard library. The thread is level-triggered: any event that could matter makes it look at
everything again; a lost or doubled event does no harm, and every few seconds it looks anyway.

The kernel's own neighbour discovery does the resolving. A next hop without a usable entry, or with a stale one, is
nudged (NTF_USE), as if a packet were waiting for it: so what the data plane needs stays resolved though the data plane
sends around the kernel.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from typing import Any

import structlog
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from appliance.forwarding import NextHop
from appliance.model import IPAddress
from appliance.routes import BATCH, RTN_LOCAL, RTN_UNICAST, Route, Routes
from appliance.state import INTERFACE_DOWN, LOCAL_ADDRESS, NEIGHBOUR_UNRESOLVED, Unresolved

log = structlog.get_logger()

IFF_UP, IFF_LOWER_UP = 1 << 0, 1 << 16
NTF_USE = 1 << 0

NUD_STALE, NUD_DELAY, NUD_PROBE = 0x04, 0x08, 0x10
NUD_USABLE = 0x02 | NUD_STALE | NUD_DELAY | NUD_PROBE | 0x40 | 0x80
"""REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT: states in which the kernel itself would send to the MAC address."""

SETTLE_S = 0.02
"""Events come in bursts (a link coming up is a dozen); one look after the burst is enough."""

LOOK_ANYWAY_S = 5.0

AGAIN = 1000
"""So many routes at most are asked for anew when nothing has happened: of more members, each time others."""

BREATH_S = 0.001
"""Between batches of questions: other threads have work to do."""

_NEIGHBOURS = {"RTM_NEWNEIGH", "RTM_DELNEIGH"}
"""Events that change no routes."""

NextHops = Mapping[IPAddress, NextHop | Unresolved]


@dataclass(frozen=True)
class _Link:
    name: str
    mac: bytes
    mtu: int
    up: bool


class Netlink:
    """Follows the next hops of a set of addresses.

    `report` is called on the thread of the loop that called `start`, with the complete mapping, whenever it changed.
    """

    def __init__(self, report: Callable[[NextHops], None]) -> None:
        self._report = report
        self._targets: frozenset[IPAddress] = frozenset()
        self._vips: frozenset[IPAddress] = frozenset()
        self._own: frozenset[IPAddress] = frozenset()
        self._had: set[IPAddress] = set()
        """Of `_own`, those that this machine had at some time."""
        self._last: NextHops | None = None
        self._thread: threading.Thread | None = None
        self._inner: asyncio.AbstractEventLoop | None = None
        self._outer: asyncio.AbstractEventLoop | None = None
        self._ended: Future[None] = Future()
        self._wake: asyncio.Event | None = None
        self._asked_at = float("-inf")
        self._routes: dict[IPAddress, Route | None] = {}
        """As they were asked for last; empty when that may not be true any more."""
        self._stopping = False

    async def run(self) -> None:
        """Follow until cancelled.

        Raises:
            OSError: netlink is not to be had.
        """
        self._outer = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._main, name="netlink", daemon=True)
        self._thread.start()
        try:
            await asyncio.wrap_future(self._ended)
        finally:
            self._stopping = True
            self._nudge()
            await asyncio.to_thread(self._thread.join, 2.0)

    def follow(
        self, targets: Iterable[IPAddress], vips: Iterable[IPAddress] = (), own: Iterable[IPAddress] = ()
    ) -> None:
        """Make these the addresses to follow; to be called on the outer loop's thread.

        Args:
            targets: to be resolved.
            vips: only reported when they are addresses of this machine; nobody is asked for them.
            own: only reported when they are addresses of this machine whose interface is down, or were addresses of it:
                the kernel takes those of IPv6 off an interface that is put down.
        """
        wanted = frozenset(targets), frozenset(vips), frozenset(own)
        if wanted != (self._targets, self._vips, self._own):
            self._targets, self._vips, self._own = wanted
            self._nudge()

    def _nudge(self) -> None:
        if self._inner is not None and self._wake is not None:
            try:
                self._inner.call_soon_threadsafe(self._wake.set)
            except RuntimeError:
                pass  # the loop has ended: nobody is left to wake

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._follow())
        except BaseException as error:
            if not self._ended.cancelled():
                self._ended.set_exception(error)
        else:
            if not self._ended.cancelled():
                self._ended.set_result(None)

    async def _follow(self) -> None:
        self._wake = asyncio.Event()
        self._inner = asyncio.get_running_loop()
        # Two sockets: an error answered to a request would end the iteration over events on the same one.
        async with AsyncIPRoute() as kernel, AsyncIPRoute() as listener:
            await listener.bind()
            with closing(Routes()) as routes:
                async with asyncio.TaskGroup() as tasks:
                    events = tasks.create_task(self._events(listener, self._wake), name="netlink-events")
                    while not self._stopping:
                        self._wake.clear()
                        self._publish(await self._look(kernel, routes))
                        try:
                            async with asyncio.timeout(LOOK_ANYWAY_S):
                                await self._wake.wait()
                        except TimeoutError:
                            pass
                        await asyncio.sleep(SETTLE_S)
                    events.cancel()

    async def _events(self, listener: AsyncIPRoute, wake: asyncio.Event) -> None:
        """Any event will do: the look that follows sees what there is. Only routes need not be asked for again when
        nothing but neighbours has changed."""
        while True:
            async for event in listener.get():
                if event["event"] not in _NEIGHBOURS:
                    self._routes = {}
                wake.set()

    def _publish(self, hops: NextHops) -> None:
        if hops != self._last and self._outer is not None and not self._stopping:
            self._last = hops
            self._outer.call_soon_threadsafe(self._report, hops)

    async def _look(self, kernel: AsyncIPRoute, routes: Routes) -> NextHops:
        targets, vips, followed = self._targets, self._vips, self._own
        if not targets and not vips and not followed:
            return {}
        links = {link["index"]: _link(link) async for link in await kernel.link("dump")}
        neighbours = {
            (entry["ifindex"], entry.get("dst")): (entry["state"], entry.get("lladdr"))
            async for entry in await kernel.neigh("dump")
        }
        nudged: set[tuple[int, str]] = set()
        known = self._routes
        if (now := asyncio.get_running_loop().time()) - self._asked_at >= LOOK_ANYWAY_S:
            self._asked_at = now
            for target in tuple(islice(known, AGAIN)):  # the oldest answers come first
                del known[target]
        missing = sorted(targets - known.keys(), key=int)
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            known |= zip(batch, routes.to(batch), strict=True)
            await asyncio.sleep(BREATH_S)
        hops: dict[IPAddress, NextHop | Unresolved] = {}
        by_gateway: dict[Route, NextHop | Unresolved] = {}
        for target in targets:
            route = known[target]
            hop = by_gateway.get(route) if route is not None else None
            if hop is None:
                hop = await self._hop(kernel, target, route, links, neighbours, nudged)
                if route is not None and route.gateway is not None and isinstance(hop, NextHop):
                    by_gateway[route] = hop
            hops[target] = hop
        if vips or followed:
            own: dict[IPAddress, set[int]] = {}
            async for address in await kernel.addr("dump"):
                own.setdefault(ip_address(address.get("address")), set()).add(address["index"])
            hops |= {
                vip: Unresolved(LOCAL_ADDRESS, f"{vip} is an address of this director") for vip in vips & own.keys()
            }
            self._had |= followed & own.keys()
            for one in followed & self._had:
                on = [links[index] for index in own.get(one, ()) if index in links]
                if not any(link.up for link in on):
                    where = f"{on[0].name} is down" if on else "on no interface any more"
                    hops[one] = Unresolved(INTERFACE_DOWN, where)
        return hops

    async def _hop(
        self,
        kernel: AsyncIPRoute,
        target: IPAddress,
        route: Route | None,
        links: Mapping[int, _Link],
        neighbours: Mapping[tuple[int, str | None], tuple[int, str | None]],
        nudged: set[tuple[int, str]],
    ) -> NextHop | Unresolved:
        why_none = _why_none(route, target)
        if route is None or why_none is not None:
            return why_none or Unresolved("no_route", f"to {target}")
        ifindex = route.interface
        link = links.get(ifindex) if ifindex is not None else None
        if link is None or ifindex is None:
            return Unresolved("no_route", f"to {target}")
        if not link.up:
            return Unresolved(INTERFACE_DOWN, link.name)
        via = route.gateway or str(target)
        state, lladdr = neighbours.get((ifindex, via), (0, None))
        usable = bool(state & NUD_USABLE) and lladdr is not None
        if (not usable or state & NUD_STALE) and (ifindex, via) not in nudged:
            nudged.add((ifindex, via))
            await _use(kernel, ifindex, via)
        if not usable or lladdr is None:
            return Unresolved(NEIGHBOUR_UNRESOLVED, f"{via} does not answer on {link.name}")
        if route.source is None:
            return Unresolved("no_source_address", f"{link.name} has no address to send to {target} from")
        return NextHop(
            ifindex=ifindex,
            interface=link.name,
            source_mac=link.mac,
            mac=_mac(lladdr),
            mtu=min(link.mtu, route.mtu or link.mtu),
            source=route.source,
            direct=route.gateway is None,
        )


def _link(message: Any) -> _Link:
    flags = message["flags"]
    return _Link(
        name=message.get("ifname"),
        mac=_mac(message.get("address")),
        mtu=message.get("mtu"),
        up=bool(flags & IFF_UP and flags & IFF_LOWER_UP),
    )


def _mac(text: str | None) -> bytes:
    """A tunnel's or loopback's "address" may be none, or no MAC address: then nothing can be sent there by us."""
    parsed = bytes.fromhex((text or "").replace(":", ""))
    return parsed if len(parsed) == 6 else bytes(6)


def _why_none(route: Route | None, target: IPAddress) -> Unresolved | None:
    if route is None:
        return Unresolved("no_route", f"to {target}")
    if route.kind == RTN_LOCAL:
        return Unresolved(LOCAL_ADDRESS, f"{target} is an address of this director")
    if route.kind != RTN_UNICAST:
        return Unresolved("no_route", f"to {target}: the route is of another type (blackhole, prohibit, ...)")
    return None


async def _use(kernel: AsyncIPRoute, ifindex: int, address: str) -> None:
    """Ask the kernel to resolve, as if a packet were waiting."""
    try:
        # Not "add", which refuses what is there already; with NTF_USE nothing of an entry is replaced.
        await kernel.neigh("replace", dst=address, ifindex=ifindex, state=0, flags=NTF_USE)
    except NetlinkError as error:
        # The link went away between the look and now; the next look will say so.
        log.debug("netlink.nudge_failed", address=address, error=str(error))

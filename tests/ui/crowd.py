"""A server with 1,000 virtual services of 20 members each, all with traffic and health, on a loop that is measured.

python -m tests.ui.crowd    ->  its address on standard output, and the CPU time of a summary that is made from nothing;
                                then, for each line of input, what was measured since the last one, as JSON
"""

import asyncio
import gc
import json
import sys
import time
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import uvloop

from appliance.api.server import ApiServer, summary_text
from appliance.api.sources import PinsUse, observe
from appliance.api.summary import Summaries
from appliance.app import GC_THRESHOLDS
from appliance.dataplane.base import Counters, Traffic
from appliance.dataplane.raw.plane import SWITCH_S
from appliance.dataplane.totals import Later, Totals
from appliance.decide import MemberView, No, ServiceView, VipView, Why
from appliance.looplag import LoopLag
from appliance.model import EffectiveState, Health
from health.spec import Code, Result, Status, Target, Verdict
from tests.builders import config, hop, member, pool, service
from tests.unit.api.samples import observed, sources

SERVICES, MEMBERS = 1000, 20
TICK_S = 0.02


def crowd() -> tuple[ServiceView, ...]:
    """Every fiftieth service has lost a member."""
    way = hop(1)
    made = []
    for number in range(SERVICES):
        name = f"service-{number:04}"
        members = pool(*(member(one) for one in range(1, MEMBERS + 1)), name=name)
        vip = ip_address(f"198.18.{number // 250}.{number % 250 + 1}")
        made.append(
            ServiceView(
                service(name=name, vips=(vip,), pool=members),
                tuple(
                    MemberView(
                        id=f"{name}/{one.name}",
                        name=one.name,
                        address=one.address,
                        ratio=1,
                        health=Health.UP,
                        state=EffectiveState.OUT if out else EffectiveState.IN_ROTATION,
                        no=No(Why.HEALTH_DOWN) if out else None,
                        index=number * MEMBERS + place,
                        share=1 / MEMBERS,
                        next_hop=way,
                    )
                    for place, one in enumerate(members.members)
                    for out in [place == 0 and number % 50 == 0]
                ),
                None,
            )
        )
    return tuple(made)


@dataclass
class Measured:
    """Of some time, seconds."""

    lag: list[float] = field(default_factory=list)
    """How late timers were."""

    longest_slice_s: float = 0.0
    """CPU time of the loop's own thread within a tick, the most."""

    began: float = field(default_factory=time.monotonic)
    cpu_began: float = field(default_factory=time.process_time)

    def told(self) -> str:
        lag = sorted(self.lag)
        seconds = time.monotonic() - self.began
        return json.dumps(
            {
                "lag_p50_s": lag[len(lag) // 2],
                "lag_p99_s": lag[len(lag) * 99 // 100],
                "lag_max_s": lag[-1],
                "longest_slice_s": self.longest_slice_s,
                "cpu_part": (time.process_time() - self.cpu_began) / seconds,
            }
        )


async def measure(lag: LoopLag, kept: list[Measured]) -> None:
    """How late timers are, and what the loop does."""
    loop = asyncio.get_running_loop()
    while True:
        due, used = loop.time() + TICK_S, time.thread_time()
        await asyncio.sleep(TICK_S)
        now = loop.time()
        lag.add(max(0.0, now - due), now)
        kept[-1].lag.append(max(0.0, now - due))
        kept[-1].longest_slice_s = max(kept[-1].longest_slice_s, time.thread_time() - used)


def statuses(views: tuple[ServiceView, ...]) -> tuple[Status, ...]:
    """Each member has been asked by one monitor."""
    return tuple(
        Status("page", Target(one.id, one.address, 80, None), Verdict.UP, Result(Code.OK), since=1.0)
        for view in views
        for one in view.members
    )


async def main() -> None:
    views = crowd()
    base = observed()
    assert base.applied is not None
    vips = tuple(VipView(vip, (view.service.name,), None) for view in views for vip in view.service.vips)
    applied = replace(base.applied, services=views, vips=vips, routes=frozenset())
    begun = time.monotonic()
    keys = [(view.service.name, str(vip)) for view in views for vip in view.service.vips]
    members, health = [member.id for view in views for member in view.members], list(statuses(views))

    def count() -> Counters:
        packets = int((time.monotonic() - begun) * 1000)
        services = {key: Traffic(packets * n, packets * n * 800, packets * n // 9) for n, key in enumerate(keys)}
        return Totals(Counters(services, Later(lambda: [(name, Traffic(packets)) for name in members]))).counters()

    async def counters() -> Counters:
        return await asyncio.to_thread(count)  # as the planes do

    snapshot = replace(base.snapshot, config=config(*(view.service for view in views)))
    lag = LoopLag()
    given = sources(
        lambda: base,
        applied=lambda: applied,
        snapshot=lambda: snapshot,
        counters=counters,
        health=lambda: tuple(health),
        loop_lag=lag.summary,
        pins=lambda: PinsUse(131072, 7),
        agreed=lambda: None,
        speaker=lambda: None,
    )
    server = ApiServer(ip_address("127.0.0.1"), 0, given)
    # As the director does (app.py, dataplane/raw/plane.py).
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_S)
    await server.start()
    seen, used = await observe(given), time.process_time()
    summary_text(Summaries().summary(seen))
    print(server.url, time.process_time() - used, flush=True)
    kept = [Measured()]
    async with asyncio.TaskGroup() as tasks:
        working = [tasks.create_task(measure(lag, kept)), tasks.create_task(server.keep_past())]
        while await asyncio.to_thread(sys.stdin.readline):
            kept.append(Measured())
            print(kept[-2].told(), flush=True)
        for task in working:
            task.cancel()
    await server.close()


if __name__ == "__main__":
    uvloop.run(main())

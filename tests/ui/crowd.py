"""A server with 1,000 virtual services of 20 members each, all with traffic, on a loop whose lag is measured.

python -m tests.ui.crowd    ->  its address on standard output; at end of input, the loop's lag, as JSON
"""

import asyncio
import gc
import json
import sys
import time
from dataclasses import replace
from ipaddress import ip_address

import uvloop

from appliance.api.server import ApiServer
from appliance.api.sources import PinsUse
from appliance.app import GC_THRESHOLDS
from appliance.dataplane.base import Counters, Traffic
from appliance.dataplane.raw.plane import SWITCH_S
from appliance.decide import MemberView, No, ServiceView, VipView, Why
from appliance.looplag import LoopLag
from appliance.model import EffectiveState, Health
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


async def measure(lag: LoopLag) -> None:
    """How late timers are."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        now = loop.time()
        lag.add(max(0.0, now - due), now)


async def main() -> None:
    views = crowd()
    base = observed()
    assert base.applied is not None
    vips = tuple(VipView(vip, (view.service.name,), None) for view in views for vip in view.service.vips)
    applied = replace(base.applied, services=views, vips=vips, routes=frozenset())
    begun = time.monotonic()
    keys = [(view.service.name, str(vip)) for view in views for vip in view.service.vips]

    async def counters() -> Counters:
        packets = int((time.monotonic() - begun) * 1000)
        return Counters({key: Traffic(packets * n, packets * n * 800, packets * n // 9) for n, key in enumerate(keys)})

    snapshot = replace(base.snapshot, config=config(*(view.service for view in views)))
    lag = LoopLag()
    server = ApiServer(
        ip_address("127.0.0.1"),
        0,
        sources(
            applied=lambda: applied, snapshot=lambda: snapshot, counters=counters, health=tuple, loop_lag=lag.summary,
            pins=lambda: PinsUse(131072, 7), agreed=lambda: None, speaker=lambda: None,
        ),
    )  # fmt: skip
    # As the director does (app.py, dataplane/raw/plane.py).
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_S)
    await server.start()
    print(server.url, flush=True)
    async with asyncio.TaskGroup() as tasks:
        measuring = tasks.create_task(measure(lag))
        await asyncio.to_thread(sys.stdin.read)
        measuring.cancel()
    await server.close()
    found = lag.summary()
    print(json.dumps({"p50_s": found.p50_s, "p99_s": found.p99_s, "max_s": found.max_s}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())

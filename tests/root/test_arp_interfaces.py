"""Who answers for VIPs on a segment, with two interfaces."""

import asyncio

import pytest

from appliance.arp.owner import Phase
from appliance.arp.side import ArpSide
from appliance.decide import decide
from tests.builders import config, service, snapshot
from tests.netns import PATIENCE, namespaces, veth
from tests.root.plane_rig import inside

pytestmark = pytest.mark.root


async def becomes(side, phase):
    while side.statuses()[0].phase is not phase:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.02)
    return side.statuses()[0].why


async def loses_one(director):
    """What is said of the only VIP: at first, without the second interface, and with it again."""
    side = ArpSide(("eth1", "eth2"), dict, lambda: None)
    given = config(service(arp=True))
    side.follow(given)
    side.applied(decide(snapshot(given)))
    seen = []
    async with asyncio.timeout(20 * PATIENCE), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(side.run())
        for state, phase in (("up", Phase.ANSWERING), ("down", Phase.SILENT), ("up", Phase.ANSWERING)):
            director.ip(f"link set eth2 {state}")
            seen.append(await becomes(side, phase))
        running.cancel()
    return seen


def test_one_interface_of_two_that_is_lost_silences_a_director():
    """Forwarding goes on by the other one; but who asks on the segment of the lost one has to be answered by others."""
    with namespaces("d", "n") as (director, neighbour):
        for name in ("eth1", "eth2"):
            veth(director, name, neighbour, name)
        first, lost, again = inside(director, lambda: asyncio.run(loses_one(director)))
    assert "interface eth2 is down" in lost
    assert "eth2" not in first + again

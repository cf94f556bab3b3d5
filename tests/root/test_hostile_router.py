"""Routers that send what they must not, too much, or nothing at all: a good router and clients see nothing of it."""

import time

import pytest

from tests.failures.matrix import members_lost
from tests.failures.stage import ROUTER, stage, worst_ms
from tests.netns import PATIENCE, until
from tests.root.raw_bgp import BROKEN, ENDLESS, FLOOD, OPENINGS

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

KINDS = [*BROKEN, *OPENINGS]
SHARES = [[*KINDS[number::5], "listen"] for number in range(5)]
"""Each router does one thing in each connection, so five at a time get it done sooner."""

HOSTILE = [*SHARES, ["flood"], ["flap"], ["deaf"]]
FLOODING, FLAPPING, DEAF = (f"192.0.2.{101 + len(SHARES) + number}" for number in range(3))


def test_hostile_routers_disturb_nobody(tmp_path):
    """Every kind of broken message, 100,000 routes, a session that flaps every second and one that does not read: not a
    packet of clients is late, the good router's session stays, and it still hears at once of what has changed."""
    with stage(tmp_path, directors=1, bfd=False, hostile=HOSTILE) as made:
        exabgp, since = made.exabgp("d1"), made.peer("d1")["since"]
        with made.traffic() as said:
            for number, ways in enumerate(SHARES):
                address = f"192.0.2.{101 + number}"
                until(
                    lambda address=address, ways=ways: (
                        {e["closed"] for e in made.said(address) if "closed" in e} >= set(ways) - set(ENDLESS)
                    ),
                    f"{address} has done its worst",
                    60.0,
                )
            until(lambda: {"flooded": FLOOD} in made.said(FLOODING), "the flood is over", 30.0)
            until(lambda: made.said(FLAPPING).count({"open": "flap"}) >= 3, "it flaps", 30.0)
            until(lambda: {"open": "deaf"} in made.said(DEAF), "one does not read", 30.0)
            time.sleep(1.0)
        print(f"\n{said['lost']} of {said['sent']} datagrams lost, longest outage {worst_ms(said):.0f} ms")
        assert worst_ms(said) < 100 * PATIENCE
        assert made.peer("d1")["since"] == since
        assert made.exabgp("d1") == exabgp
        lost = [event for event in made.events("d1") if event["event"] == "bgp.session_down"]
        assert ROUTER not in {event["peer"] for event in lost}
        withdrawal = members_lost(made)
        print(f"meanwhile: verdict -> withdrawal on the wire {withdrawal.took_ms[0]:.0f} ms")
        assert withdrawal.took_ms[0] < 1000 * PATIENCE

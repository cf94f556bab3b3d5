"""What is remembered of flows, as decisions and other directors are told of it."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.dataplane.pins import PinTable
from appliance.decide import decide
from appliance.model import Health, ProfileType
from appliance.packet.placement import TICK_S, FlowFacts, Pin, PinState, idle_ticks
from appliance.seen import outdated, seen, services_of
from appliance.state import Learning
from tests.builders import config, member, pool, service, snapshot

VIP = ip_address("198.51.100.7")


class Memory:
    """A table of pins with a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pins = PinTable.in_memory(1 << 10, lambda: int(self.now_s * 1e9))

    def keep(self, port: int, index: int, idle_s: int, protocol: int = 6, age: int = 0) -> None:
        ports = port.to_bytes(2, "big") + b"\0\x50"
        hash64 = port << 32 | port
        facts = FlowFacts(bytes([192, 0, 2, 1]), VIP.packed, ports, protocol, hash64, port << 16, idle_ticks(idle_s))
        self.pins.keep(Pin(index, PinState.OPEN, age), facts, self.pins.now())

    def look(self, desired):
        """As a director does once a second."""
        self.pins.sweep()
        live = self.pins.live()
        services = services_of(live, desired)
        self.pins.set_idle(*outdated(live, desired, services))
        return seen(live, desired, services, self.now_s)


def timeouts(tcp_s: int, udp_s: int):
    """A TCP and a UDP service of one pool on one VIP, and their idle timeouts."""
    tcp = service()
    profile = replace(tcp.profile, name="udp-l3", type=ProfileType.UDP_FAST_PATH, session_idle_timeout_s=udp_s)
    udp = service(name="dns", profile=profile)
    return config(service(profile=replace(tcp.profile, session_idle_timeout_s=tcp_s)), udp)


@pytest.mark.parametrize(("before_s", "after_s"), [(100, 1000), (1000, 100), (100, 0), (0, 100)])
def test_an_idle_timeout_that_a_reload_changes_counts_for_flows_that_are_there(before_s, after_s):
    """They are over when planes say so, neither earlier nor later, and those of other services are left alone."""
    memory = Memory()
    memory.keep(1, 0, before_s)
    memory.keep(2, 0, 500, protocol=17)
    memory.look(decide(snapshot(timeouts(after_s, 500))))
    for silence_s, tcp, udp in ((50, True, True), (200, after_s != 100, True), (700, after_s != 100, False)):
        memory.now_s = 1000.0 + silence_s
        live = memory.pins.live()
        assert sorted(live.flows["protocol"].tolist()) == [6] * tcp + [17] * udp
        memory.now_s += 3 * TICK_S
        memory.look(decide(snapshot(timeouts(after_s, 500))))
        assert len(memory.pins.words.nonzero()[0]) == tcp + udp


def test_flows_of_a_pool_are_seen_while_another_waits_for_its_members():
    """A pool of which nothing is known yet has no words, and its services no facts."""
    memory = Memory()
    memory.keep(1, 0, 300)
    new = service(name="new", vips=(ip_address("198.51.100.8"),), pool=pool(member(9), name="new"))
    given = config(service(), new)
    desired = decide(snapshot(given, {"new/web9": Health.UNKNOWN}, learning={"new": Learning.AGAIN}))
    found = memory.look(desired)
    assert found.flows == {0: 1}
    assert [key[0] for key in desired.courses] == ["web"]

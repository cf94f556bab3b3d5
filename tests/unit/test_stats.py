"""What is made of remembered flows: connections, rates and response times of members."""

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address

import numpy as np
import pytest

from appliance.dataplane.pins import DELAY, LOCAL, REMOTE, PinTable
from appliance.model import MemberStats
from appliance.packet.placement import TICK_SHIFT, FlowFacts, Pin, PinState
from appliance.ring.hash import pin_hash
from appliance.stats import FORGET_S, RESPONSE_STEP, Seen, member_stats

SECOND = 10**9
IDS = {1: "web/a", 2: "web/b"}


@dataclass
class Memory:
    """A plane's memory, with a clock that moves when told to."""

    now_ns: int = 1000 * SECOND
    number: int = 0
    before: Seen | None = None
    ids: dict[int, str] = field(default_factory=lambda: dict(IDS))

    def __post_init__(self) -> None:
        self.pins = PinTable.in_memory(1 << 14, lambda: self.now_ns)

    def open(
        self, member: int, *states: PinState, protocol: int = 6, opened: bool = True, origin: int = LOCAL
    ) -> FlowFacts:
        """A new flow that goes through these states at once."""
        self.number += 1
        self.now_ns += 1000
        flow = FlowFacts(
            source=(ip_address("192.0.2.0") + self.number % 256).packed,
            destination=ip_address("198.51.100.7").packed,
            ports=struct.pack("!HH", self.number >> 8, 80),
            protocol=protocol,
            hash64=pin_hash(range(1, 12), (self.number, 7, 7, 7)),
            hash32=7,
            idle=281,
            opened=opened,
            origin=origin,
        )
        for state in states or (PinState.NEW,):
            self.to(flow, member, state)
        return flow

    def to(self, flow: FlowFacts, member: int, state: PinState) -> None:
        self.pins.keep(Pin(member, state), flow, self.pins.now())

    def handshake(self, member: int, took_s: float, times: int = 1) -> None:
        """What a plane counts of handshakes."""
        self.pins.delays[member]["count"] += times
        self.pins.delays[member]["ns"] += round(times * took_s * SECOND)

    def look(self, seconds: float = 1.0, **loads: float) -> dict[int, MemberStats]:
        """Statistics after some time."""
        self.now_ns += round(seconds * SECOND)
        told = {f"web/{name}": load for name, load in loads.items()}
        self.before = member_stats(self.pins.live(), self.pins.delays, self.ids, told, self.now_ns, self.before)
        return dict(self.before.members)


def test_nothing_is_known_at_first() -> None:
    """Members without flows have no connections, no rate and no response time; everybody that is asked for is there."""
    assert Memory().look() == {1: MemberStats(), 2: MemberStats()}


def test_connections_are_live_flows() -> None:
    """New and open flows count, and those that other directors have told of; reset ones do not."""
    memory = Memory()
    memory.open(1)
    memory.open(1, PinState.NEW, PinState.OPEN)
    memory.open(1, PinState.OPEN, opened=False, origin=REMOTE)
    memory.open(1, PinState.NEW, PinState.OPEN, PinState.RST)
    memory.open(2, PinState.NEW, PinState.OPEN)
    memory.open(3)
    seen = memory.look()
    assert [seen[1].connections, seen[2].connections] == [3, 1]
    assert set(seen) == {1, 2}


def test_flows_end() -> None:
    """A closed flow counts while its client goes on acknowledging, and a silent one until the idle timeout."""
    memory = Memory()
    flow = memory.open(1, PinState.NEW, PinState.OPEN, PinState.FIN)
    memory.open(2, PinState.NEW, PinState.OPEN)
    for _ in range(5):
        assert memory.look(2)[1].connections == 1
        memory.to(flow, 1, PinState.FIN)
    seen = memory.look(5)
    assert [seen[1].connections, seen[2].connections] == [0, 1]
    assert memory.look(281 * (1 << TICK_SHIFT) / SECOND)[2].connections == 0


def test_half_open_flows_count_for_a_moment_only() -> None:
    """A SYN that nothing follows is no connection after three seconds; a UDP flow of one datagram is one."""
    memory = Memory()
    for _ in range(100):
        memory.open(1)
    memory.open(2, protocol=17, opened=False)
    memory.open(2, protocol=6, opened=False)  # learned from a packet within the flow
    assert memory.look()[1].connections == 100
    seen = memory.look(4)
    assert [seen[1].connections, seen[2].connections] == [0, 2]


def test_rate_of_new_flows() -> None:
    """Steady arrivals are told as they are, short flows included, and forgotten when they end."""
    memory = Memory()
    memory.look()
    for _ in range(40):
        for _ in range(30):
            memory.open(1, PinState.NEW, PinState.OPEN, PinState.RST)
        seen = memory.look()
    assert seen[1].new_per_s == pytest.approx(30, rel=0.01)
    assert seen[2].new_per_s == 0
    for _ in range(20):
        seen = memory.look()
    assert seen[1].new_per_s < 1


def test_looks_at_odd_times() -> None:
    """The rate does not depend on how often somebody looks, and two looks at one moment do no harm."""
    memory = Memory()
    memory.look()
    for round_ in range(80):
        for _ in range(10):
            memory.open(1)
        seen = memory.look(0.25 if round_ % 2 else 0.75)
        assert memory.look(0) == seen
    assert seen[1].new_per_s == pytest.approx(20, rel=0.4)


def test_response_time_is_a_mean_that_forgets() -> None:
    """The first handshakes give their mean; later ones move it, the more of them the further."""
    memory = Memory()
    memory.look()
    memory.handshake(1, 0.010, 10)
    assert memory.look()[1].response_s == pytest.approx(0.010)
    memory.handshake(1, 0.020, 10)
    assert memory.look()[1].response_s == pytest.approx(0.015)
    memory.handshake(1, 0.020, 1000)
    assert memory.look()[1].response_s == pytest.approx(0.020, rel=0.01)
    assert memory.look()[2].response_s is None


def test_one_slow_handshake_makes_little_difference() -> None:
    """A client whose SYN was lost does not make its member look slow; a member that is slow does look so soon."""
    memory = Memory()
    memory.look()
    memory.handshake(1, 0.010, 100)
    memory.look()
    memory.handshake(1, 3.0)
    assert memory.look()[1].response_s < 0.010 * (1 + RESPONSE_STEP / 16)
    for _ in range(20):
        memory.handshake(1, 0.5, 10)
        seen = memory.look()
    assert seen[1].response_s == pytest.approx(0.5, rel=0.05)


def test_old_response_times_are_forgotten() -> None:
    """Without handshakes the response time stays for a while, and then it is not known."""
    memory = Memory()
    memory.look()
    memory.handshake(1, 0.010)
    memory.look()
    assert memory.look(FORGET_S - 10)[1].response_s == pytest.approx(0.010)
    assert memory.look(20)[1].response_s is None
    memory.handshake(1, 0.5)
    assert memory.look()[1].response_s == pytest.approx(0.5)


def test_a_plane_that_starts_anew() -> None:
    """Counters that begin again at zero are no handshakes of negative length."""
    memory = Memory()
    memory.look()
    memory.handshake(1, 0.010, 50)
    memory.look()
    memory.pins.delays[:] = np.zeros(1, DELAY)
    memory.handshake(1, 7.0, 3)
    assert memory.look()[1].response_s == pytest.approx(0.010)
    memory.handshake(1, 0.010, 3)
    assert memory.look()[1].response_s == pytest.approx(0.010)


def test_an_index_that_is_given_to_another_member() -> None:
    """What was seen of the member before is not taken for the new one's."""
    memory = Memory()
    memory.look()
    memory.open(1)
    memory.handshake(1, 0.010, 50)
    memory.look()
    memory.ids[1] = "web/c"
    memory.handshake(1, 5.0)
    seen = memory.look(5)
    assert seen[1] == MemberStats()


def test_two_ways_to_one_member() -> None:
    """A member that is reached by two deliveries is one machine: each way shows what is seen of both."""
    memory = Memory(ids={1: "web/a", 2: "web/a"})
    memory.look()
    memory.open(1)
    memory.open(2)
    memory.handshake(1, 0.010)
    memory.handshake(2, 0.030)
    seen = memory.look()
    assert seen[1] is seen[2]
    assert seen[1].connections == 2
    assert seen[1].response_s == pytest.approx(0.020)


def test_loads_are_passed_on() -> None:
    """What members say of their load is with their statistics, as long as they say it."""
    memory = Memory()
    seen = memory.look(a=0.25)
    assert [seen[1].load, seen[2].load] == [0.25, None]
    assert memory.look()[1].load is None


def test_handshakes_that_a_table_counts() -> None:
    """From a SYN to the client's first ACK: what the table measures is what is shown."""
    memory = Memory()
    memory.look()
    flow = memory.open(1)
    memory.now_ns += 40_000_000
    memory.to(flow, 1, PinState.OPEN)
    memory.now_ns += 40_000_000
    memory.to(flow, 1, PinState.OPEN)
    assert memory.look()[1].response_s == pytest.approx(0.040)

"""Algorithms: what they choose, and what becomes of thousands of flows with the reference packet path and its pins."""

import math
import random
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.dataplane.pins import REMOTE, PinTable, addresses
from appliance.forwarding import (
    NO_CHOICES,
    ChoiceArray,
    ChoiceOrder,
    ForwardingTables,
    Placement,
    TableMember,
    TableService,
)
from appliance.model import Algorithm, HashMode, PortRange, Protocol
from appliance.packet.action import Action, By, Reason
from appliance.packet.checksum import checksum
from appliance.packet.forward import PacketPath, Turns
from appliance.packet.placement import FlowFacts, Pin, PinState, idle_ticks
from appliance.ring.algorithms import ALGORITHMS, Candidate, Method, Remark, remarks
from appliance.ring.algorithms.fastest_response import LEAST
from appliance.ring.algorithms.least_connections import expected, pour
from appliance.ring.algorithms.sequence import LENGTH, portions, portions_for_all, smooth
from appliance.ring.slots import RingMember, build_slots
from tests.builders import SECRET, hop
from tests.unit.dataplane.frames import CLIENT_MAC, INGRESS, L3, OUR_MAC

VIP = ip_address("198.51.100.7")
SYN, ACK, FIN = 0x02, 0x10, 0x11
DYNAMIC = [name for name, method in ALGORITHMS.items() if method.dynamic]
PER_FLOW = [name for name, method in ALGORITHMS.items() if method.placement is Placement.PER_FLOW]


def candidates(*weights: int, **changes: object) -> list[Candidate]:
    """Members 10, 11, ... with these weights. A change is one value for all, or a list with one for each."""
    return [
        Candidate(
            index=10 + number,
            id=f"web{number}",
            weight=weight,
            **{key: value[number] if isinstance(value, list) else value for key, value in changes.items()},
        )
        for number, weight in enumerate(weights)
    ]


def ask(
    name: Algorithm, members: Sequence[Candidate], arrivals: float = 10.0, before: ChoiceArray = NO_CHOICES
) -> ChoiceArray:
    return ALGORITHMS[name].choose(members, arrivals, before)


def shares(choices: ChoiceArray) -> dict[int, float]:
    return {int(index): count / len(choices) for index, count in Counter(choices.tolist()).items()}


def chi_squared(observed: Sequence[int], wanted: Sequence[float]) -> float:
    """How far off counts are, in standard deviations of a normal distribution (Wilson and Hilferty, 1931)."""
    total, degrees = sum(observed), len(observed) - 1
    statistic = sum(
        (count - total * share) ** 2 / (total * share) for count, share in zip(observed, wanted, strict=True)
    )
    spread = 2 / (9 * degrees)
    return float(((statistic / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def frame(number: int, flags: int | None, destination_port: int = 80) -> bytes:
    """A packet of flow *number*: TCP with these flags, or UDP."""
    client = ip_address("192.0.2.0") + 1 + number % 250
    ports = struct.pack("!HH", 1024 + number // 250, destination_port)
    if flags is None:
        protocol, segment = Protocol.UDP, ports + struct.pack("!HH", 8, 0)
    else:
        protocol, segment = Protocol.TCP, ports + struct.pack("!IIBBHHH", number, 0, 0x50, flags, 1000, 0, 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, 64, protocol, 0)
    head += client.packed + VIP.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return OUR_MAC + CLIENT_MAC + b"\x08\x00" + head + segment


@dataclass
class Director:
    """The reference packet path with a memory, and what a control plane would tell it."""

    members: list[Candidate]
    algorithm: Algorithm
    placement: Placement | None = None
    cpus: int = 1
    protocol: Protocol = Protocol.TCP
    now_ns: int = 10**12
    choices: ChoiceArray = field(default_factory=lambda: NO_CHOICES)
    out: set[int] = field(default_factory=set)
    """Members that take no new flows but keep theirs."""

    def __post_init__(self) -> None:
        rng = random.Random(7)
        self.pins = PinTable.in_memory(1 << 16, lambda: self.now_ns)
        self.turns = [Turns(lambda: rng.getrandbits(32)) for _ in range(self.cpus)]
        self.choose()

    @property
    def method(self) -> Method:
        return ALGORITHMS[self.algorithm]

    def choose(self, arrivals: float = 100.0) -> None:
        """Ask the algorithm anew, and forward by that."""
        takers = [one for one in self.members if one.index not in self.out]
        self.choices = self.method.choose(takers, arrivals, self.choices)
        slots = build_slots(
            tuple(RingMember(one.id, one.weight, one.index, one.index not in self.out) for one in self.members)
        )
        placement = self.placement or self.method.placement
        order = self.method.order if placement is not Placement.HASH else ChoiceOrder.SEQUENCE
        service = TableService(
            index=0,
            name="web",
            vip=VIP,
            protocol=self.protocol,
            ports=(PortRange(80, 80),),
            hash_mode=HashMode.FIVE_TUPLE,
            slots=slots,
            placement=placement,
            choice_order=order,
            choices=self.choices if placement is not Placement.HASH else NO_CHOICES,
        )
        tables = ForwardingTables(
            SECRET,
            (service,),
            {
                one.index: TableMember(one.index, f"web/{one.id}", ip_address("203.0.113.1") + number, L3, hop())
                for number, one in enumerate(self.members)
            },
        )
        self.paths = [PacketPath(tables, self.pins, turns) for turns in self.turns]

    def send(self, number: int, flags: int | None = SYN) -> int | None:
        """The member that a packet of a flow goes to."""
        return self.action(number, flags).member

    def action(self, number: int, flags: int | None = SYN) -> Action:
        return self.paths[number % self.cpus].forward(frame(number, flags), INGRESS)

    def count(self, **changes: object) -> None:
        """Put numbers of live flows into the members, as statistics would."""
        live = Counter(self.pins.live().member.tolist())
        self.members = [replace(one, connections=live[one.index], **changes) for one in self.members]

    def sync_to(self, other: "Director") -> None:
        """Tell another director of all that is remembered."""
        live = self.pins.live()
        sources, destinations = addresses(live.flows["source"]), addresses(live.flows["destination"])
        for member, state, age, flow, source, destination in zip(
            live.member, live.state, live.age, live.flows, sources, destinations, strict=True
        ):
            facts = FlowFacts(
                source=source,
                destination=destination,
                ports=int(flow["ports"]).to_bytes(4, "little"),
                protocol=int(flow["protocol"]),
                hash64=int(flow["hash64"]),
                hash32=int(flow["hash32"]),
                idle=int(flow["idle"]),
                opened=bool(flow["opened"]),
                origin=REMOTE,
            )
            other.pins.keep(Pin(int(member), PinState(int(state)), int(age)), facts, other.pins.now())


# What they choose, each by itself


def test_turns_are_those_of_nginx() -> None:
    """Weights 5, 1, 1 give the sequence that the smooth weighted round robin of nginx is known for."""
    assert (ask(Algorithm.ROUND_ROBIN, candidates(5, 1, 1)) - 10).tolist() == [0, 0, 1, 0, 2, 0, 0]


def test_equal_weights_take_turns_in_the_order_of_the_pool() -> None:
    """Weights are reduced: three members with weight 100 each are a round of three."""
    assert ask(Algorithm.ROUND_ROBIN, candidates(100, 100, 100)).tolist() == [10, 11, 12]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40))
def test_shares_are_weights_and_prefixes_too(weights: list[int]) -> None:
    """Shares are right to 0.1 %, and wherever a round ends, nobody is ahead or behind by more than one turn or so."""
    choices = ask(Algorithm.ROUND_ROBIN, candidates(*weights))
    assert len(choices) <= LENGTH
    wanted = np.array(weights) / sum(weights)
    got = np.bincount(choices - 10, minlength=len(weights)) / len(choices)
    assert np.abs(got - wanted).max() <= 0.001
    taken = (choices[:, None] == np.arange(10, 10 + len(weights))).cumsum(axis=0)
    assert np.abs(taken - np.arange(1, len(choices) + 1)[:, None] * got).max() < 1.5


def test_tiny_shares_are_not_forgotten() -> None:
    """A member with a thousandth of a thousandth still comes once in the longest sequence."""
    assert sorted(shares(ask(Algorithm.RANDOM, candidates(1000, 1, *[1000] * 1000)))) == list(range(10, 1012))


def test_more_members_than_choices() -> None:
    """A pool larger than the longest sequence uses as many members as fit, the heaviest first."""
    choices = ask(Algorithm.ROUND_ROBIN, candidates(*[2] * 4000, *[3] * 1000))
    assert len(choices) == LENGTH
    assert set(range(4010, 5010)) <= set(choices.tolist())


@pytest.mark.parametrize("name", Algorithm)
@given(data=st.data())
def test_every_algorithm_chooses_of_its_candidates(name: Algorithm, data: st.DataObject) -> None:
    """Choices are 1 to 4,096 indices of candidates, read-only, the same for the same numbers; none without anybody."""
    numbers = st.builds(
        Candidate,
        index=st.integers(0, 65534),
        id=st.just("m"),
        weight=st.integers(1, 1000),
        connections=st.integers(0, 10**6),
        response_s=st.none() | st.floats(0, 100),
        load=st.none() | st.floats(0, 1),
        limit=st.just(0) | st.integers(1, 10**6),
    )
    members = data.draw(st.lists(numbers, max_size=20, unique_by=lambda one: one.index))
    arrivals = data.draw(st.floats(0, 1e6))
    earlier = ask(name, data.draw(st.permutations(members)), arrivals)
    choices = ask(name, members, arrivals, earlier)
    assert choices.dtype == np.uint16
    assert len(choices) <= LENGTH
    assert not choices.flags.writeable
    assert (choices == ask(name, members, arrivals, earlier)).all()
    takers = [one for one in members if not (ALGORITHMS[name].dynamic and one.full)]
    assert bool(len(choices)) == bool(takers)
    assert set(choices.tolist()) <= {one.index for one in takers}


@pytest.mark.parametrize("name", DYNAMIC)
def test_nobody_gets_flows_at_its_limit(name: Algorithm) -> None:
    """A member that has as many flows as it can take is left out, and people can see why."""
    members = candidates(1, 1, 1, limit=[100, 100, 0], connections=[99, 100, 500], load=0.5)
    choices = ask(name, members, 1)
    assert 11 not in choices
    assert 10 in choices
    assert Remark("web1", "at_limit", "has 100 flows of 100, and gets no new ones") in remarks(
        ALGORITHMS[name], members
    )
    assert not len(ask(name, candidates(1, 1, limit=10, connections=10)))


@pytest.mark.parametrize("name", [name for name in DYNAMIC if name is not Algorithm.FEWEST_SERVERS])
def test_equal_numbers_give_shares_by_weight(name: Algorithm) -> None:
    """Where numbers make no difference, weights do."""
    weights = (1, 2, 5)
    got = shares(
        ask(name, candidates(*weights, connections=[1000 * w for w in weights], load=0.3, response_s=0.01), 80)
    )
    assert [got[10 + number] for number in range(3)] == pytest.approx([w / 8 for w in weights], abs=0.005)


@pytest.mark.parametrize("name", DYNAMIC)
def test_numbers_that_nobody_knows_make_no_difference(name: Algorithm) -> None:
    """Right after the start all there is are weights."""
    got = shares(ask(name, candidates(1, 3)))
    assert [got[10], got[11]] == pytest.approx([0.25, 0.75], abs=0.01)


# Least connections


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 5000), st.integers(0, 6000)), min_size=1, max_size=20),
    st.integers(1, 10000),
)
def test_water_finds_its_level(members: list[tuple[int, int, int]], flows: int) -> None:
    """All flows are given while there is room, and whoever got some is as full for its weight as the others are."""
    takers = [
        Candidate(number, str(number), weight, connections, limit=connections + room if room else 0)
        for number, (weight, connections, room) in enumerate(members)
    ]
    given_ = pour(takers, flows)
    rooms = [one.limit - one.connections if one.limit else math.inf for one in takers]
    assert given_.sum() == pytest.approx(min(flows, sum(rooms)))
    assert all(0 <= got <= room for got, room in zip(given_, rooms, strict=True))
    levels = [(one.connections + got) / one.weight for one, got in zip(takers, given_, strict=True)]
    raised = max((level for level, got in zip(levels, given_, strict=True) if got > 1e-6), default=0)
    for level, got, room in zip(levels, given_, rooms, strict=True):
        assert level >= raised - 1e-4 or got == pytest.approx(room)


def test_who_has_least_comes_first() -> None:
    """A member with far fewer flows gets all that are expected; who has a little less gets as much more."""
    choices = ask(Algorithm.LEAST_CONNECTIONS, candidates(1, 1, 2, connections=[500, 0, 1000]), 60)
    assert set(choices.tolist()) == {11}
    choices = ask(Algorithm.LEAST_CONNECTIONS, candidates(1, 1, 2, connections=[500, 484, 1000]), 60)
    assert shares(choices) == pytest.approx({10: 12 / 64, 11: 28 / 64, 12: 24 / 64}, abs=0.002)
    assert choices[0] == 11


@pytest.mark.parametrize("cpus", [1, 2, 4, 16])
def test_a_gap_is_closed_and_not_turned_round(cpus: int) -> None:
    """Somebody who is eight behind gets eight more than the others, wherever CPUs begin with their choices."""
    choices = ask(Algorithm.LEAST_CONNECTIONS, candidates(1, 1, connections=[100, 92]), 32)
    taken = Counter(
        int(choices[(cpu * len(choices) // cpus + turn) % len(choices)])
        for cpu in range(cpus)
        for turn in range(32 // cpus)
    )
    assert abs(taken[11] - 20) <= 2


def test_thousands_of_arrivals_are_dealt_out_by_shares() -> None:
    """However many flows come until the next count, levels are even then."""
    choices = ask(Algorithm.LEAST_CONNECTIONS, candidates(1, 1, 1, connections=[0, 3000, 6000]), 8192)
    assert shares(choices) == pytest.approx({10: 5596 / 8192, 11: 2596 / 8192}, abs=0.004)


@pytest.mark.parametrize("cpus", [1, 4])
@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 2, 3, 10)])
def test_connections_even_out(weights: tuple[int, ...], cpus: int) -> None:
    """With flows that end at random, one member stuck with long ones, and a new one, counts come to stand by weight."""
    rng = random.Random(3)
    director = Director(candidates(*weights), Algorithm.LEAST_CONNECTIONS, cpus=cpus)
    number, open_flows = 0, {}
    for second in range(60):
        director.now_ns += 10**9
        director.count()
        director.choose(40)
        for _ in range(40):
            number += 1
            open_flows[number] = director.send(number)
            director.send(number, ACK)
        live = Counter(open_flows.values())
        levels = [live[one.index] / one.weight for one in director.members]
        for flow, member in list(open_flows.items()):
            # The first member's flows last ten times as long.
            if rng.random() < (0.01 if member == 10 else 0.1):
                del open_flows[flow]
                director.pins.keep(Pin(member, PinState.RST, 3), facts_of(director, flow), director.pins.now())
        if second == 30:
            director.members.append(Candidate(14, "new", 1))
    assert max(levels) - min(levels) <= 4 + 0.04 * max(levels)


def facts_of(director: Director, number: int) -> FlowFacts:
    """What is written down of a flow, from the memory itself."""
    ports = int.from_bytes(struct.pack("!HH", 1024 + number // 250, 80), "little")
    source = bytes(10) + b"\xff\xff" + (ip_address("192.0.2.0") + 1 + number % 250).packed
    flows = director.pins.flows
    [position] = np.flatnonzero(
        (flows["ports"] == ports) & (flows["source"][:, 1] == int.from_bytes(source[8:], "little"))
    )
    flow = flows[position]
    return FlowFacts(
        source[12:], VIP.packed, ports.to_bytes(4, "little"), 6, int(flow["hash64"]), int(flow["hash32"]), 281
    )


def test_short_flows_that_nobody_counts_go_by_weight() -> None:
    """Where all that comes is over before it is counted, levels are even, and everybody gets its share."""
    choices = ask(Algorithm.LEAST_CONNECTIONS, candidates(1, 2, 5), 0)
    assert shares(choices) == pytest.approx({10: 1 / 8, 11: 2 / 8, 12: 5 / 8}, abs=0.004)
    assert len(shares(ask(Algorithm.LEAST_CONNECTIONS, candidates(*[1] * 700), 0))) == 700


def test_the_horizon_goes_in_steps() -> None:
    """What is dealt out is never less than what is expected and hardly more, and is not moved by small changes."""
    assert [expected(rate, 3) for rate in (0, 3, 4, 4.1, 60, 64, 65, 70)] == [4, 4, 4, 5, 64, 64, 77, 77]
    assert all(rate <= expected(rate, 1) <= 1.2 * rate + 1 for rate in range(1, 5000))


# Least load, fastest response


def test_load_makes_shares() -> None:
    """Shares are weight times what is free; who is full gets nothing."""
    got = shares(ask(Algorithm.LEAST_LOAD, candidates(1, 1, 2, 1, load=[0.5, 0.75, 0.875, 1.0])))
    assert got == pytest.approx({10: 0.5, 11: 0.25, 12: 0.25}, abs=0.001)


def test_who_tells_no_load_counts_as_the_average() -> None:
    """A member without a report is as free as the others on the average, and people are told."""
    members = candidates(1, 1, 1, load=[0.2, 0.8, None])
    assert shares(ask(Algorithm.LEAST_LOAD, members))[12] == pytest.approx(1 / 3, abs=0.001)
    assert [(remark.member, remark.why) for remark in remarks(ALGORITHMS[Algorithm.LEAST_LOAD], members)] == [
        ("web2", "no_load")
    ]


def test_all_full_is_no_reason_to_drop() -> None:
    """When nobody has anything free, weights decide."""
    for name in (Algorithm.LEAST_LOAD, Algorithm.FEWEST_SERVERS):
        got = shares(ask(name, candidates(1, 3, load=1.0)))
        assert got == pytest.approx({10: 0.25, 11: 0.75}, abs=0.001), name


def test_response_times_make_shares() -> None:
    """Twice as quick is twice the share; somebody very slow keeps a twentieth of what weights would give."""
    got = shares(ask(Algorithm.FASTEST_RESPONSE, candidates(1, 1, response_s=[0.01, 0.02])))
    assert got == pytest.approx({10: 2 / 3, 11: 1 / 3}, abs=0.001)
    got = shares(ask(Algorithm.FASTEST_RESPONSE, candidates(1, 1, 2, response_s=[0.001, 0.001, 30.0])))
    assert got[12] == pytest.approx(LEAST * 0.5, rel=0.05)


def test_unseen_members_count_as_the_average() -> None:
    """A member without any handshake gets about an even share, and people are told."""
    members = candidates(1, 1, 1, response_s=[0.01, 0.01, None])
    assert shares(ask(Algorithm.FASTEST_RESPONSE, members))[12] == pytest.approx(1 / 3, abs=0.001)
    [remark] = remarks(ALGORITHMS[Algorithm.FASTEST_RESPONSE], members)
    assert str(remark).startswith("no_response_time: no handshake was seen")


@pytest.mark.parametrize("name", [Algorithm.LEAST_LOAD, Algorithm.FASTEST_RESPONSE])
def test_small_changes_change_nothing(name: Algorithm) -> None:
    """Choices that are about as good as those in force are those in force, and large changes are followed."""
    before = ask(name, candidates(1, 1, 1, response_s=[0.010, 0.011, 0.012], load=[0.5, 0.55, 0.6]))
    close = candidates(1, 1, 1, response_s=[0.0101, 0.0109, 0.0121], load=[0.505, 0.545, 0.602])
    assert ask(name, close, before=before) is before
    far = candidates(1, 1, 1, response_s=[0.020, 0.011, 0.012], load=[0.8, 0.55, 0.6])
    assert ask(name, far, before=before) is not before
    assert ask(name, close[:2], before=before) is not before


# Fewest servers


def test_the_first_members_are_filled_first() -> None:
    """As many members are in use as it takes, in the order of the pool."""

    def used(*connections: int) -> list[int]:
        members = candidates(1, 1, 1, 1, limit=100, connections=list(connections))
        return sorted(shares(ask(Algorithm.FEWEST_SERVERS, members, 5)))

    assert used(0, 0, 0, 0) == [10]
    assert used(85, 0, 0, 0) == [10]
    assert used(86, 0, 0, 0) == [10, 11]
    assert used(90, 84, 0, 0) == [10, 11]
    assert used(90, 86, 0, 0) == [10, 11, 12]
    assert used(100, 100, 100, 60) == [13]  # all are in use, and one has room
    assert used(100, 100, 100, 100) == []


def test_load_tells_who_is_full() -> None:
    """Without limits, weights are capacities, and load says how much of them is used."""

    def used(*loads: float) -> list[int]:
        return sorted(shares(ask(Algorithm.FEWEST_SERVERS, candidates(2, 1, 1, load=list(loads)))))

    assert used(0.8, 0.0, 0.0) == [10]
    assert used(0.95, 0.0, 0.0) == [10, 11]
    assert used(0.9, 0.8, 0.9) == [10, 11, 12]


def test_members_come_and_go_without_fluttering() -> None:
    """A demand that swings around a limit does not switch a member on and off; one that falls does switch it off."""
    rng = random.Random(5)
    before, turns, used = NO_CHOICES, 0, []
    for round_ in range(400):
        demand = (95 if round_ < 200 else 60) + rng.randrange(-8, 9)
        first = min(demand, 90)
        members = candidates(1, 1, 1, limit=100, connections=[first, demand - first, 0])
        before = ask(Algorithm.FEWEST_SERVERS, members, 1, before)
        turns += used[-1:] != [now := sorted(set(before.tolist()))]
        used.append(now)
    assert used[20] == used[199] == [10, 11]
    assert used[-1] == [10]
    assert turns <= 3


def test_who_cannot_be_known_to_be_full_is_always_in_use() -> None:
    """A member with neither limit nor load takes its share by weight, and people are told how to change that."""
    members = candidates(1, 1, 1, limit=[100, 0, 100])
    assert sorted(shares(ask(Algorithm.FEWEST_SERVERS, members))) == [10, 11]
    [remark] = remarks(ALGORITHMS[Algorithm.FEWEST_SERVERS], members)
    assert (remark.member, remark.why) == ("web1", "no_capacity")


def test_flows_fill_servers_one_after_the_other() -> None:
    """Growing traffic fills one member after the other and never above its limit; falling traffic empties the last."""
    director = Director(candidates(1, 1, 1, limit=200), Algorithm.FEWEST_SERVERS)
    seen = []
    for _ in range(12):
        number = 40 * len(seen)
        for flow in range(number, number + 40):
            director.send(flow)
            director.send(flow, ACK)
        director.count()
        director.choose(40)
        seen.append([one.connections for one in director.members])
        assert max(seen[-1]) <= 200
    assert seen[2] == [120, 0, 0]
    assert seen[5][2] == 0
    assert sum(seen[11]) == 480
    assert seen[11][2] > 0


# Flows


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 3, 10)], ids=["equal", "unequal"])
@pytest.mark.parametrize("name", Algorithm)
def test_flows_are_spread_by_weight_and_stay(name: Algorithm, weights: tuple[int, ...]) -> None:
    """Of 3,000 connections everybody gets its share, and every later packet of each goes where its first one went."""
    director = Director(candidates(*weights), name)
    flows = {number: director.send(number) for number in range(3000)}
    counts = Counter(flows.values())
    observed = [counts[one.index] for one in director.members]
    wanted = [weight / sum(weights) for weight in weights]
    if name in (Algorithm.ROUND_ROBIN, Algorithm.LEAST_CONNECTIONS):
        assert np.abs(np.array(observed) / 3000 - wanted).max() < 0.006
    else:
        assert chi_squared(observed, wanted) < 3.3
    for flags in (ACK, FIN):
        assert {number: director.send(number, flags) for number in flows} == flows


@pytest.mark.parametrize("name", PER_FLOW)
def test_flows_stay_whoever_comes_and_goes(name: Algorithm) -> None:
    """Members are drained, come back and are added; nobody's flow moves, and new ones go to whoever takes them."""
    director = Director(candidates(1, 2, 3), name)
    flows: dict[int, int | None] = {}
    changes = [
        lambda: director.out.add(12),
        lambda: director.members.append(Candidate(20, "web20", 2)),
        lambda: director.out.discard(12),
        lambda: director.out.update({10, 11}),
    ]
    for round_, change in enumerate([lambda: None, *changes]):
        change()
        director.count()
        director.choose()
        new = {number: director.send(number) for number in range(500 * round_, 500 * round_ + 500)}
        takers = {one.index for one in director.members} - director.out
        assert set(new.values()) <= takers
        if name is not Algorithm.LEAST_CONNECTIONS:  # there, who is new gets all until it has as many as the others
            assert set(new.values()) == takers
        flows |= new
        director.now_ns += 20 * 10**9
        assert {number: director.send(number, ACK) for number in flows} == flows


@pytest.mark.parametrize("name", PER_FLOW)
def test_flows_of_a_member_that_died_go_elsewhere(name: Algorithm) -> None:
    """They are taken by their slots' owner, and stay there; the others' flows do not notice."""
    director = Director(candidates(1, 1, 1), name)
    flows = {number: director.send(number) for number in range(900)}
    director.members = [one for one in director.members if one.index != 11]
    director.choose()
    moved = {number: director.send(number, ACK) for number in flows}
    assert all(moved[number] == member for number, member in flows.items() if member != 11)
    assert {moved[number] for number, member in flows.items() if member == 11} == {10, 12}
    director.count()
    director.choose()
    assert {number: director.send(number, ACK) for number in flows} == moved


@pytest.mark.parametrize("name", PER_FLOW)
def test_nobody_left_drops_new_flows_only(name: Algorithm) -> None:
    """When all members drain, new connections are dropped by name, and those that are open go on."""
    director = Director(candidates(1, 1), name)
    flows = {number: director.send(number) for number in range(100)}
    director.out = {10, 11}
    director.choose()
    assert director.action(1000).reason is Reason.NO_MEMBER
    assert {number: director.send(number, ACK) for number in flows} == flows


@pytest.mark.parametrize("name", PER_FLOW)
def test_udp_flows_stay(name: Algorithm) -> None:
    """The first datagram of a flow takes the next choice, and the others follow it."""
    director = Director(candidates(1, 1, 1), name, protocol=Protocol.UDP)
    flows = {number: director.send(number, None) for number in range(600)}
    director.count()
    director.choose()
    assert min(Counter(flows.values()).values()) > 140
    assert {number: director.send(number, None) for number in flows} == flows


@pytest.mark.parametrize("name", Algorithm)
def test_per_packet(name: Algorithm) -> None:
    """With `per_packet` datagrams of one flow are spread by weight, and nothing is remembered."""
    director = Director(candidates(1, 2), name, placement=Placement.PER_PACKET, protocol=Protocol.UDP)
    actions = [director.action(1, None) for _ in range(1500)]
    assert {action.by for action in actions} == {By.CHOICE}
    assert Counter(action.member for action in actions)[10] == pytest.approx(500, abs=70)
    assert not len(director.pins.live())
    if ALGORITHMS[name].order is ChoiceOrder.SEQUENCE and not ALGORITHMS[name].dynamic:
        assert [action.member for action in actions[:6]] == [11, 10, 11] * 2


# When a director is lost


@pytest.mark.parametrize("name", PER_FLOW)
def test_another_director_goes_on_with_what_it_was_told(name: Algorithm) -> None:
    """Flows stay when routers turn to a director that knows them, and after a restart that is told again."""
    first, second = Director(candidates(1, 2, 3), name), Director(candidates(1, 2, 3), name)
    flows = {number: first.send(number) for number in range(1000)}
    first.sync_to(second)
    assert {number: second.send(number, ACK) for number in flows} == flows
    again = Director(candidates(1, 2, 3), name)
    second.sync_to(again)
    assert {number: again.send(number, ACK) for number in flows} == flows


@pytest.mark.parametrize("members", [2, 5])
@pytest.mark.parametrize("name", PER_FLOW)
def test_without_being_told_all_but_one_in_n_break(name: Algorithm, members: int) -> None:
    """A director that knows nothing of a flow goes by its slot, so (n-1)/n of the flows of n members break."""
    first, second = (Director(candidates(*[1] * members), name) for _ in range(2))
    flows = {number: first.send(number) for number in range(2000)}
    broken = sum(second.send(number, ACK) != member for number, member in flows.items())
    assert broken / 2000 == pytest.approx((members - 1) / members, abs=0.04)


@pytest.mark.parametrize("name", PER_FLOW)
def test_what_was_not_told_does_not_move_twice(name: Algorithm) -> None:
    """Wherever a flow that nobody knew has landed, there it stays, and the other director can be told of it."""
    director = Director(candidates(1, 1, 1), name)
    landed = {number: director.send(number, ACK) for number in range(300)}
    director.count()
    director.choose()
    assert {number: director.send(number, ACK) for number in landed} == landed
    other = Director(candidates(1, 1, 1), name)
    director.sync_to(other)
    assert {number: other.send(number, ACK) for number in landed} == landed


# Small things


def test_portions_add_up() -> None:
    """Shares are rounded so that nothing is left over; where all are to come, whoever has a share comes once."""
    uneven = np.array([1.0, 1e-9, 0.0, 3.0])
    assert portions(uneven, 100).tolist() == [25, 0, 0, 75]
    assert portions_for_all(uneven).tolist() == [LENGTH // 4, 1, 0, LENGTH // 4 * 3 - 1]


def test_rounds_are_remembered() -> None:
    """The same round is made once, and cannot be written into."""
    assert smooth((2, 1)) is smooth((2, 1))
    with pytest.raises(ValueError, match="read-only"):
        smooth((2, 1))[0] = 1


def test_idle_ticks_of_the_tests() -> None:
    """The idle timeout that tests write down is that of the service."""
    assert idle_ticks(300) == 281

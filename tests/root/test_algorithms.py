"""Algorithms with real planes and real frames: each with each."""

import asyncio
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.forwarding import NO_CHOICES, SLOTS, ForwardingTables, NextHop, Placement, TableMember, TableService
from appliance.model import Algorithm, HashMode, PortRange, Protocol
from appliance.packet.action import Reason
from appliance.ring.algorithms import ALGORITHMS, Candidate
from appliance.ring.hash import FlowKey, derive_keys, hash_flow, slot_of
from appliance.ring.slots import RingMember, build_slots
from appliance.stats import Seen, member_stats
from health.load import Agent, ask
from health.spec import Target
from tests.fuzz.flows import Say, Tuple
from tests.root.plane_child import KINDS
from tests.root.plane_rig import Plane, Rig, inside, mac, rig
from tests.unit.dataplane.frames import L2, member_mac

pytestmark = pytest.mark.root

SECRET = bytes(range(16))
BOTH_ORDERS = [Algorithm.ROUND_ROBIN, Algorithm.RANDOM]
"""Planes know choices and no algorithms: where only that matters, one of each order will do."""


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(str(request.param)) as made:
        yield made


@pytest.fixture(scope="module")
def plane(bench: Rig) -> Iterator[Plane]:
    """One for all tests; each has VIPs and members of its own."""
    with bench.plane() as made:
        yield made


class Pool:
    """Members behind a plane, and the control loop that a director would run for them once a second.

    Members are spoken of by number, from 1 on.
    """

    made = 0

    def __init__(
        self,
        bench: Rig,
        plane: Plane,
        algorithm: Algorithm,
        weights: Sequence[int],
        *,
        protocol: Protocol = Protocol.TCP,
        per_packet: bool = False,
        limits: Sequence[int] | None = None,
    ) -> None:
        self.bench, self.plane, self.algorithm, self.protocol = bench, plane, algorithm, protocol
        self.vip = ip_address("198.51.100.1") + Pool.made % 200
        self.first = 1 + Pool.made % 50 * 5
        Pool.made += 1
        self.members = [
            Candidate(self.first + number, f"m{number}", weight, limit=limit)
            for number, (weight, limit) in enumerate(zip(weights, limits or [0] * len(weights), strict=True), 1)
        ]
        self.draining: set[int] = set()
        self.per_packet = per_packet
        self.choices = NO_CHOICES
        self.loads: dict[str, float] = {}
        self.seen: Seen | None = None
        self.hop = NextHop(bench.ifindex("d1"), "d1", mac("d1"), bytes(6), 1500, ip_address("203.0.113.1"), direct=True)
        self.choose()

    def choose(self, arrivals: float = 100) -> None:
        """Ask the algorithm, and let the plane follow."""
        method = ALGORITHMS[self.algorithm]
        takers = [one for one in self.members if self.takes(one)]
        placement = Placement.PER_PACKET if self.per_packet else method.placement
        self.choices = method.choose(takers, arrivals, self.choices)
        self.slots = build_slots(
            tuple(RingMember(one.id, one.weight, one.index, self.takes(one)) for one in self.members)
        )
        service = TableService(
            index=0,
            name="web",
            vip=self.vip,
            protocol=self.protocol,
            ports=(PortRange(80, 80),),
            hash_mode=HashMode.FIVE_TUPLE,
            slots=self.slots,
            placement=placement,
            choice_order=method.order,
            choices=NO_CHOICES if placement is Placement.HASH else self.choices,
        )
        members = {
            one.index: TableMember(
                one.index,
                f"web/{one.id}",
                ip_address("203.0.113.10") + one.index,
                L2,
                replace(self.hop, mac=member_mac(one.index)),
            )
            for one in self.members
        }
        self.plane.set(ForwardingTables(SECRET, (service,), members))

    def takes(self, one: Candidate) -> bool:
        """Whether a member takes new flows."""
        return one.index - self.first not in self.draining

    def flow(self, number: int) -> Tuple:
        return Tuple(ip_address("192.0.2.10") + number % 200, self.vip, self.protocol, 2000 + number // 200, 80)

    def look(self) -> None:
        """Take statistics, as a director does, and put them into the members."""
        live, delays, now_ns = self.plane.ask("remembered")
        ids = {one.index: one.id for one in self.members}
        self.seen = member_stats(live, delays, ids, self.loads, now_ns, self.seen)
        self.members = [
            replace(one, connections=known.connections, response_s=known.response_s, load=known.load)
            for one, known in ((one, self.seen.members[one.index]) for one in self.members)
        ]

    def send(self, flows: Iterable[Tuple], say: Say, wanted: int | None = None) -> Mapping[Tuple, list[int]]:
        """Send a packet of each flow; returns the members that they came out for."""
        flows = list(flows)
        self.bench.near.send(*(one.frame(say, mac("d0")) for one in flows))
        frames = self.bench.far.receive(len(flows) if wanted is None else wanted, keep=self._is_ours)
        known = {(one.source.packed, one.ports[:2]): one for one in flows}
        went: dict[Tuple, list[int]] = {}
        for frame in frames:
            went.setdefault(known[frame[26:30], frame[34:36]], []).append(frame[5] - self.first)
        return went

    def open(self, numbers: Iterable[int]) -> dict[Tuple, int]:
        """New connections, and the member of each."""
        return one_each(self.send(map(self.flow, numbers), Say.SYN))

    def _is_ours(self, frame: bytes) -> bool:
        return frame[:5] == member_mac(0)[:5] and frame[12:14] == b"\x08\x00" and frame[30:34] == self.vip.packed


def one_each(went: Mapping[Tuple, list[int]]) -> dict[Tuple, int]:
    assert {len(members) for members in went.values()} <= {1}, "a frame came twice"
    return {one: members[0] for one, members in went.items()}


def shares(went: Mapping[Tuple, int]) -> dict[int, float]:
    return {member: count / len(went) for member, count in Counter(went.values()).items()}


@pytest.mark.parametrize("name", Algorithm)
def test_connections_are_spread_and_stay(bench: Rig, plane: Plane, name: Algorithm) -> None:
    """Everybody gets its share by weight, and every later packet goes where its SYN went, whatever changes."""
    pool = Pool(bench, plane, name, (1, 2, 3))
    flows = pool.open(range(900))
    assert len(flows) == 900
    assert shares(flows) == pytest.approx({1: 1 / 6, 2: 2 / 6, 3: 3 / 6}, abs=0.06)
    assert one_each(pool.send(flows, Say.PLAIN)) == flows
    if name is Algorithm.CONSISTENT_HASH:
        return  # what happens to it in changes is the matter of transitions
    pool.draining = {3}
    pool.members.append(Candidate(pool.first + 4, "m4", 1))
    pool.look()
    pool.choose()
    assert one_each(pool.send(flows, Say.PLAIN)) == flows
    new = pool.open(range(1000, 1200))
    assert len(new) == 200
    assert 3 not in new.values()
    assert 4 in new.values()
    assert one_each(pool.send([*flows, *new], Say.FIN)) == flows | new


@pytest.mark.parametrize("name", BOTH_ORDERS)
def test_nobody_takes_new_flows(bench: Rig, plane: Plane, name: Algorithm) -> None:
    """When all members drain, SYNs are dropped and counted, and open connections go on."""
    pool = Pool(bench, plane, name, (1, 1))
    flows = pool.open(range(100))
    pool.draining = {1, 2}
    pool.choose()
    before = plane.counters().reasons.get(Reason.NO_MEMBER, 0)
    assert not pool.send(map(pool.flow, range(500, 550)), Say.SYN, 0)
    assert plane.counters().reasons[Reason.NO_MEMBER] - before == 50
    assert one_each(pool.send(flows, Say.PLAIN)) == flows


@pytest.mark.parametrize("name", BOTH_ORDERS)
def test_udp_flows_stay(bench: Rig, plane: Plane, name: Algorithm) -> None:
    """The first datagram of a flow takes a choice, and the others follow it."""
    pool = Pool(bench, plane, name, (1, 1, 1), protocol=Protocol.UDP)
    flows = one_each(pool.send(map(pool.flow, range(600)), Say.DATA))
    assert shares(flows) == pytest.approx(dict.fromkeys((1, 2, 3), 1 / 3), abs=0.07)
    pool.look()
    pool.choose()
    assert one_each(pool.send(flows, Say.DATA)) == flows


@pytest.mark.parametrize("name", Algorithm)
def test_per_packet(bench: Rig, plane: Plane, name: Algorithm) -> None:
    """With `per_packet` the datagrams of one flow are spread by weight, and nothing is remembered."""
    pool = Pool(bench, plane, name, (1, 2), protocol=Protocol.UDP, per_packet=True)
    [[_, members]] = pool.send([pool.flow(1)] * 600, Say.DATA).items()
    assert len(members) == 600
    assert Counter(members)[1] == pytest.approx(200, abs=50)
    live, _, _ = plane.ask("remembered")
    assert not {one.index for one in pool.members} & set(live.member.tolist())


def test_least_connections_evens_out(bench: Rig, plane: Plane) -> None:
    """A member that has many flows gets none until the others have as many for their weight."""
    pool = Pool(bench, plane, Algorithm.LEAST_CONNECTIONS, (1, 1, 2))
    pool.draining = {2, 3}
    pool.choose()
    first = pool.open(range(200))
    assert set(first.values()) == {1}
    one_each(pool.send(first, Say.PLAIN))
    pool.draining = set()
    levels = []
    for round_ in range(4):
        pool.look()
        pool.choose(200)
        new = pool.open(range(1000 + 200 * round_, 1200 + 200 * round_))
        one_each(pool.send(new, Say.PLAIN))
        levels.append(shares(new).get(1, 0.0))
    pool.look()
    assert levels[:2] == [0, 0]
    assert sum(one.connections for one in pool.members) == 1000
    by_weight = [one.connections / one.weight for one in pool.members]
    assert max(by_weight) - min(by_weight) <= 15


def test_a_limit_is_kept(bench: Rig, plane: Plane) -> None:
    """A member with as many flows as it can take gets no more, to within one for each CPU; with all full, SYNs drop."""
    pool = Pool(bench, plane, Algorithm.LEAST_CONNECTIONS, (1, 1), limits=(40, 60))
    flows: dict[Tuple, int] = {}
    for round_ in range(20):
        pool.look()
        pool.choose(10)
        if not len(pool.choices):
            break
        new = pool.open(range(1000 * round_, 1000 * round_ + 10))
        flows |= new
        one_each(pool.send(new, Say.PLAIN))
    assert 10 <= round_ < 13
    assert all(0 <= one.connections - one.limit <= (os.cpu_count() or 1) for one in pool.members)
    assert not pool.send([pool.flow(90_000)], Say.SYN, 0)
    one_each(pool.send([one for one, member in flows.items() if member == 1][:20], Say.RST))
    pool.look()
    pool.choose(5)
    assert set(pool.open(range(91_000, 91_005)).values()) == {1}


def test_fastest_response_sees_who_is_slow(bench: Rig, plane: Plane) -> None:
    """Handshakes are measured from one side, and a member whose clients wait gets fewer new ones, but still some."""
    pool = Pool(bench, plane, Algorithm.FASTEST_RESPONSE, (1, 1, 1))
    pool.look()
    flows = pool.open(range(300))
    quick = {one: member for one, member in flows.items() if member != 2}
    one_each(pool.send(quick, Say.PLAIN))
    time.sleep(1.0)  # that is how slow the other one's answers are
    one_each(pool.send([one for one in flows if one not in quick], Say.PLAIN))
    pool.look()
    quick_s, slow_s, other_s = (one.response_s for one in pool.members)
    assert slow_s is not None
    assert quick_s is not None
    assert 1.0 < slow_s < 3.0
    assert quick_s < slow_s - 0.9
    assert other_s == pytest.approx(quick_s, rel=0.5)
    pool.choose()
    went = shares(pool.open(range(1000, 2000)))
    assert 0.01 < went[2] < 0.28
    assert went[2] == pytest.approx((1 / slow_s) / (1 / slow_s + 1 / quick_s + 1 / other_s), abs=0.05)


@contextmanager
def agents(bench: Rig, lines: Sequence[bytes]) -> Iterator[list[Agent]]:
    """Agents at the member's end, one for each line; yields how they are asked."""
    listeners = [
        inside(bench.member, lambda port=port: socket.create_server(("203.0.113.2", port)))
        for port in range(8081, 8081 + len(lines))
    ]

    def serve(listener: socket.socket, line: bytes) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # shut down
            with connection:
                connection.sendall(line)

    threads = [threading.Thread(target=serve, args=pair) for pair in zip(listeners, lines, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield [
            Agent(Target(f"m{number}", ip_address("203.0.113.2"), listener.getsockname()[1]), 1.0, 2.0)
            for number, listener in enumerate(listeners, 1)
        ]
    finally:
        for listener, thread in zip(listeners, threads, strict=True):
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            listener.close()


def test_least_load_believes_agents(bench: Rig, plane: Plane) -> None:
    """What agents beside the members say is free makes the shares."""
    with agents(bench, [b"up 100%\n", b"50%\n", b"0%\n"]) as asked:
        pool = Pool(bench, plane, Algorithm.LEAST_LOAD, (1, 1, 1))
        for agent in asked:
            result, reply = inside(bench.director, lambda agent=agent: asyncio.run(ask(agent)))
            assert result.good, result
            assert reply.load is not None
            pool.loads[agent.target.id] = reply.load
        pool.look()
        pool.choose()
        assert shares(pool.open(range(900))) == pytest.approx({1: 2 / 3, 2: 1 / 3}, abs=0.06)


def test_fewest_servers_fill_one_by_one(bench: Rig, plane: Plane) -> None:
    """Members come into use as traffic grows, and the last one goes out of use as it falls."""
    pool = Pool(bench, plane, Algorithm.FEWEST_SERVERS, (1, 1, 1), limits=(100, 100, 100))
    flows: dict[Tuple, int] = {}
    used = []
    for round_ in range(6):
        pool.look()
        pool.choose(40)
        new = pool.open(range(1000 * round_, 1000 * round_ + 40))
        used.append(set(new.values()))
        flows |= new
        one_each(pool.send(new, Say.PLAIN))
    assert used[:2] == [{1}, {1}]
    assert used[2] == {1, 2}
    assert 3 in used[5]
    pool.look()
    assert max(one.connections for one in pool.members) <= 100
    one_each(pool.send([one for one, member in flows.items() if member != 1], Say.RST))
    pool.look()
    pool.choose(1)
    assert 3 not in pool.open(range(9000, 9010)).values()


@pytest.mark.parametrize("name", BOTH_ORDERS)
def test_flows_that_nobody_has_told_of_go_by_their_slots(bench: Rig, plane: Plane, name: Algorithm) -> None:
    """What a director does after a restart without peers, or with another one's flows: all would do the same."""
    pool = Pool(bench, plane, name, (1, 1, 1))
    landed = one_each(pool.send(map(pool.flow, range(600)), Say.PLAIN))
    keys = derive_keys(SECRET)
    for one, member in landed.items():
        key = FlowKey(one.source, one.destination, one.protocol, one.source_port, one.destination_port)
        slot = slot_of(hash_flow(keys, key, HashMode.FIVE_TUPLE), SLOTS)
        assert member == int(pool.slots[slot] & 0xFFFF) - pool.first
    assert len(landed) == 600
    assert one_each(pool.send(landed, Say.PLAIN)) == landed

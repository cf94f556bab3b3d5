"""What is said of a new configuration beforehand is what then happens, by real decisions and the real packet path."""

from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from appliance.consequences import Consequences, Moves, as_document, consequences
from appliance.dataplane.pins import PinTable
from appliance.decide import decide
from appliance.forwarding import SLOTS, Placement
from appliance.model import AdminState, Algorithm, Config, HashMode, Health, IPAddress, Order, Pool, PortRange
from appliance.packet.forward import PacketPath
from appliance.packet.placement import FlowFacts, Pin, PinState
from appliance.ring.hash import slot_of
from appliance.ring.slots import unpack
from appliance.seen import flows_of, seen, services_of
from appliance.state import Snapshot, State
from appliance.wiring import probes
from bgp.route import diff
from tests.builders import L2, To, config, hop, member, pool, service
from tests.unit.dataplane.frames import INGRESS
from tests.unit.dataplane.test_placing import ACK, frame

START = 1_000_000.0
VIPS = tuple(map(ip_address, ("198.51.100.7", "198.51.100.8")))
FLOWS = [frame(port, ACK) for port in range(1024, 1324)]


class Director:
    """The store, the decisions and the memory of a director."""

    def __init__(self, first: Config) -> None:
        self.read = first
        self.state = State(first, lambda: None)
        self.state.set_plane_error(None)
        self.state.set_next_hops({member(number).address: hop(number, direct=True) for number in range(1, 6)})
        for one in first.pools:
            for name in one.member_ids:
                self.state.set_health(name, Health.UP)
        self.pins = PinTable.in_memory(1 << 10, lambda: int(self.now * 1e9))
        self.now = START
        self.decided = decide(self.state.snapshot(), None, self.now)

    def reload(self, new: Config) -> None:
        self.state.set_config(new, self.now)
        self.decided = decide(self.state.snapshot(), self.decided, self.now)
        self.read = new

    def packets(self, *, look_only: bool = False) -> list[IPAddress | None]:
        """One of every flow: the machines that they go to."""
        path = PacketPath(self.decided.tables, self.pins)
        actions = [path.forward(flow, INGRESS, look_only=look_only) for flow in FLOWS]
        members = self.decided.tables.members
        return [members[action.member].address if action.member in members else None for action in actions]

    def look(self) -> None:
        live = self.pins.live()
        found = seen(live, self.decided, services_of(live, self.decided), self.now)
        self.state.set_pins(found, signal=False)

    def foresee(self, new: Config) -> Consequences:
        flows = flows_of(self.pins.live(), self.decided)
        return consequences(self.state.twin(), self.decided, self.read, new, To, self.now, flows)

    def owners(self) -> dict[str, list[IPAddress | None]]:
        """Of the slots of each virtual service that is on the network."""
        members = self.decided.tables.members
        machines = [members[index].address if index in members else None for index in range(100)]
        return {
            table.name: [machines[index] if index < 100 else None for index in unpack(table.slots)[0].tolist()]
            for table in self.decided.tables.services
        }


MEMBERS = st.lists(
    st.builds(member, st.integers(1, 7), ratio=st.integers(0, 3), enabled=st.booleans()),
    min_size=1,
    max_size=5,
    unique_by=lambda one: one.address,
)
POOLS = st.builds(
    lambda name, members, algorithm, mode, monitored: replace(
        pool(*members, name=name), algorithm=algorithm, hash_mode=mode, **({} if monitored else {"monitors": ()})
    ),
    st.sampled_from(["blue", "green"]),
    MEMBERS,
    st.sampled_from([Algorithm.CONSISTENT_HASH, Algorithm.CONSISTENT_HASH, Algorithm.ROUND_ROBIN]),
    st.sampled_from([HashMode.FIVE_TUPLE, HashMode.FIVE_TUPLE, HashMode.SOURCE_IP_PORT]),
    st.booleans(),
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """One or two virtual services, of one pool or of two."""
    pools = {one.name: one for one in draw(st.lists(POOLS, min_size=1, max_size=2))}
    services = [
        service(
            name=name,
            vips=draw(st.sampled_from([VIPS[at : at + 1], VIPS[at : at + 1], VIPS])) if name == "web" else VIPS[1:],
            ports=(PortRange(port, port),),
            pool=draw(st.sampled_from(list(pools.values()))),
            enabled=draw(st.sampled_from([True, True, False])),
            min_members=draw(st.integers(1, 2)),
        )
        for at, name, port in ((0, "web", 80), (1, "shop", 8080))[: draw(st.integers(1, 2))]
    ]
    return config(*services)


def told(snapshot: Snapshot) -> Snapshot:
    """What of a snapshot can be compared."""
    return replace(snapshot, pins=replace(snapshot.pins, facts={}))


@settings(max_examples=60, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    first=configs(),
    second=configs(),
    third=configs(),
    orders=st.dictionaries(
        st.sampled_from([f"{name}/web{number}" for name in ("blue", "green") for number in range(1, 5)]),
        st.sampled_from([AdminState.DRAIN, AdminState.MAINT]),
        max_size=2,
    ),
    down=st.sets(st.sampled_from(["blue/web1", "green/web2"])),
)
def test_what_is_foretold_is_what_happens(
    first: Config, second: Config, third: Config, orders: dict[str, AdminState], down: set[str]
) -> None:
    """In the middle of another change, with members that drain and members that are down: slots, flows, routes and
    checks; and to foretell something changes nothing."""
    director = Director(first)
    for name, state in orders.items():
        director.state.set_order(name, Order(state, START))
    for name in down:
        director.state.set_health(name, Health.DOWN, START)
    director.reload(second)
    director.now += 2
    director.packets()
    director.look()
    director.decided = decide(director.state.snapshot(), director.decided, director.now)

    known = told(director.state.snapshot())
    foretold = director.foresee(third)
    assert told(director.state.snapshot()) == known

    routes, owners, asked = director.decided.routes, director.owners(), set(probes(director.state.config, To))
    before = director.packets(look_only=True)
    remembered = flows_of(director.pins.live(), director.decided)
    tables = {table.name: table for table in director.decided.tables.services}
    names = [table.name for table in director.decided.tables.services]
    director.reload(third)
    after, heirs = director.packets(look_only=True), director.owners()
    tables_then = {table.name: table for table in director.decided.tables.services}

    turned = diff(routes, director.decided.routes)
    assert (foretold.announce, foretold.withdraw) == (turned.announce, turned.withdraw)
    then = set(probes(director.state.config, To))
    assert set(foretold.asked) == {probe.target.id for probe in then - asked}
    assert set(foretold.not_asked) == {probe.target.id for probe in asked} - {probe.target.id for probe in then}

    old, new = ({one.name: one for one in each.services} for each in (second, third))
    assert set(foretold.added) == new.keys() - old.keys()
    assert set(foretold.removed) == old.keys() - new.keys()
    assert set(foretold.changed) == {name for name in old.keys() & new.keys() if old[name] != new[name]}

    moves = {one.service: one for one in foretold.moves}
    for name, machines in owners.items():
        # Of the tables, not of what is written: a former pool may be in force.
        if tables[name].placement is not Placement.HASH:
            continue
        if name in tables_then and tables_then[name].hash_mode is not tables[name].hash_mode:
            continue  # an expectation, see below
        there = heirs.get(name, [None] * len(machines))
        moved = sum(one is not None and one != other for one, other in zip(machines, there, strict=True))
        at_once = moves[name].slots if name in moves else 0.0
        if name in new:
            assert at_once == pytest.approx(moved / len(machines))
        else:
            assert at_once == 1.0

    if not any(one.hash_changes for one in foretold.moves) and old["web"].vips == new.get("web", old["web"]).vips:
        known_flows = {names[index] for index in remembered.service.tolist()}
        assert known_flows <= {"web"}
        broken = sum(one is not None and one != other for one, other in zip(before, after, strict=True))
        foretold_broken = moves["web"].flows_moved if "web" in moves else 0
        if len(remembered) == len(FLOWS):  # all of them: so none is one that only its slot knows
            assert foretold_broken == broken
        else:
            assert foretold_broken <= broken


def test_members_that_are_to_be_asked_are_told_and_what_moves_when_they_are_up() -> None:
    """A third member beside two gets a third of the slots when it has turned out well. Until then the others share
    them, and half of them change hands for that."""
    director = Director(config(service(pool=pool(member(1), member(2)))))
    foretold = director.foresee(config(service(pool=pool(member(1), member(2), member(6)))))
    assert foretold.asked == ("web/web6",)
    (moves,) = foretold.moves
    assert moves.slots == pytest.approx(1 / 6, abs=0.01)
    assert moves.slots_later == pytest.approx(1 / 3, abs=0.01)


def test_a_hash_of_something_else_gives_every_flow_another_slot() -> None:
    """What is told is the share of many flows that go elsewhere, and that it is that."""
    director = Director(config(service(pool=pool(member(1), member(2)))))
    before = director.packets()
    new = config(service(pool=replace(pool(member(1), member(2)), hash_mode=HashMode.SOURCE_IP_PORT)))
    (moves,) = director.foresee(new).moves
    assert moves == Moves("web", moves.slots, moves.slots, 0, 0, hash_changes=True)
    director.reload(new)
    moved = np.mean([one != other for one, other in zip(before, director.packets(), strict=True)])
    assert moves.slots == pytest.approx(float(moved), abs=0.15)


def test_flows_of_a_member_that_goes_on_are_not_counted_as_broken() -> None:
    """A member that is removed keeps what it has; one by another delivery is the same machine."""
    blue: Pool = pool(member(1), member(2))
    director = Director(config(service(pool=pool(member(1)))))
    director.reload(config(service(pool=blue)))
    director.state.set_health("web/web2", Health.UP)
    director.reload(config(service(pool=blue)))  # a window, so that flows are remembered
    director.packets()
    director.look()
    gone = director.foresee(config(service(pool=pool(member(2)))))
    (moves,) = gone.moves
    assert moves.flows == len(director.pins.live()) > len(FLOWS) / 3
    assert moves.flows_moved == 0
    assert moves.slots == pytest.approx(0.5, abs=0.01)
    profile = replace(service().profile, name="tcp-l2", delivery=L2)
    other = director.foresee(config(service(pool=blue, profile=profile)))
    (told,) = other.deliveries
    assert told.startswith(
        "web: packets come to members by L2 DSR instead of L3 DSR in IPIP: prepare all of them before"
    )


def test_a_disabled_service_moves_all_and_withdraws_its_route() -> None:
    """The VIP is told no more, and nobody owns its slots."""
    director = Director(config())
    foretold = director.foresee(config(service(enabled=False)))
    assert [route.vip for route in foretold.withdraw] == [VIPS[0]]
    assert [(one.service, one.slots) for one in foretold.moves] == [("web", 1.0)]
    document = as_document(foretold)
    assert document["routes"]["withdraw"] == ["198.51.100.7/32 via self"]
    assert document["summary"] == "1 virtual service changed"


def test_what_takes_a_restart_is_told() -> None:
    """In a dry run as well."""
    director = Director(config())
    (refused,) = director.foresee(config(bgp=False)).refused
    assert refused == "bgp: BGP -> no BGP"


def test_nothing_is_nothing() -> None:
    """The same configuration again has no consequences."""
    director = Director(config())
    assert director.foresee(config()) == Consequences()
    assert director.foresee(config()).summary == "nothing is different"


def test_what_is_remembered_in_a_steady_slot_does_not_count() -> None:
    """Planes do not look there, so such a flow goes by its slot, before and after: another delivery breaks none."""
    director = Director(config(service(pool=pool(member(1), member(2)))))
    (table,) = director.decided.tables.services
    for port in range(1, 50):
        ports, hash64 = bytes([0, port, 0, 80]), port << 57 | port
        facts = FlowFacts(bytes([192, 0, 2, 1]), VIPS[0].packed, ports, 6, hash64, port << 24, 0)
        owner = int(unpack(table.slots)[0][slot_of(port << 24, SLOTS)])
        director.pins.keep(Pin(1 - owner, PinState.OPEN), facts, director.pins.now())
    profile = replace(service().profile, delivery=L2)
    foretold = director.foresee(config(service(pool=pool(member(1), member(2)), profile=profile)))
    assert foretold.moves == ()
    assert len(director.pins.live()) == 49

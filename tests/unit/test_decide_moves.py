"""A reload gives a virtual service another pool: what becomes of the flows that it has."""

import random
from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest

from appliance.dataplane.pins import PinTable
from appliance.decide import course_key, decide
from appliance.forwarding import NO_MEMBER
from appliance.leaving import with_leaving
from appliance.model import AdminState, Algorithm, HashMode, Health, Order, ProfileType
from appliance.packet.forward import PacketPath
from appliance.ring.slots import unpack
from appliance.ring.transition import pin_facts
from appliance.seen import seen, services_of
from appliance.state import PinsSeen, State
from appliance.wiring import probes
from tests.builders import L2, To, config, hop, member, pool, service
from tests.unit.dataplane.frames import INGRESS
from tests.unit.dataplane.test_placing import ACK, SYN, frame

START = 1_000_000.0
BLUE, GREEN = pool(member(1), member(2), name="blue"), pool(member(3), member(4), name="green")
OTHER = service(name="other", vips=(ip_address("198.51.100.8"),), pool=GREEN)


class Director:
    """The store and the decisions of a director without a data plane."""

    def __init__(self, *services, pins=1 << 10):
        given = config(*services)
        self._director = replace(given.director, pins=pins)
        self.state = State(replace(given, director=self._director), lambda: None)
        self.state.set_plane_error(None)
        self.state.set_next_hops({member(number).address: hop(number, direct=True) for number in range(1, 9)})
        self.now, self.decided = START, None
        for one in given.pools:
            self.up(one)
        self.decide()

    def up(self, *pools, health=Health.UP):
        for name in (name for one in pools for name in one.member_ids):
            self.state.set_health(name, health)

    def reload(self, *services):
        self.state.set_config(replace(config(*services), director=self._director), self.now)

    def decide(self, after=0.0):
        """One round, as the reconciler makes it."""
        self.now += after
        self.decided = decide(self.state.snapshot(), self.decided, self.now)
        self.state.forget(self.decided.gone, self.decided.moved)
        return self.decided

    def forgets(self):
        """A look at what is remembered: nothing."""
        nothing = np.zeros(0, np.int64)
        facts = pin_facts(np.inf, nothing, nothing.astype(np.uint16), nothing.astype(np.float32))
        self.state.set_pins(PinsSeen(dict.fromkeys(self.decided.courses, facts), {}), signal=False)

    def owners(self, name="web"):
        """Primary and previous owner of each slot, as names."""
        table = next(one for one in self.decided.tables.services if one.name == name)
        names = np.full(1 << 16, "nobody", "U20")
        for index, one in self.decided.tables.members.items():
            names[index] = one.id
        assert names[NO_MEMBER] == "nobody"
        return tuple(names[half] for half in unpack(table.slots))

    def shown(self, name="web"):
        view = next(one for one in self.decided.services if one.service.name == name)
        return {one.id: (str(one.state), str(one.no.why) if one.no else None) for one in view.members}


def pools_of(owners):
    return {str(owner).partition("/")[0] for owner in owners}


@pytest.mark.parametrize("others", [(), (OTHER,)], ids=["to a new pool", "to a pool in use"])
def test_flows_stay_with_the_members_of_the_pool_before(others):
    """New flows go to the new pool, those that are there stay where they are until the window is over and nobody is
    remembered elsewhere; then the old pool is gone, with everything that was known of it."""
    director = Director(service(pool=BLUE), *others)
    (before, _) = director.owners()
    director.reload(service(pool=GREEN), *others)
    director.up(GREEN)
    director.decide(1)
    primary, previous = director.owners()
    assert pools_of(primary) == {"green"}
    assert (previous == before).all()
    assert director.shown()["blue/web1"] == ("draining", "removed")
    assert director.shown()["green/web3"] == ("in_rotation", None)
    assert director.decided.routes
    if others:
        assert pools_of(director.owners("other")[1]) == {"green"}, "nobody else has flows of that pool"
        assert "blue/web1" not in director.shown("other")

    director.decide(899)
    assert (director.owners()[1] == before).all()
    director.decide(2)
    assert pools_of(director.owners()[1]) == {"nobody"}
    assert {"blue/web1", "blue/web2"} <= {one.id for one in director.decided.tables.members.values()}
    director.forgets()
    director.decide(31)
    director.decide()
    assert [one.name for one in director.state.config.pools] == ["green"]
    assert director.state.config.services[0].former == ()
    assert {key[0] for key in director.decided.courses} == {"green"}
    assert len(director.decided.courses) == 1
    assert {one.id for one in director.decided.tables.members.values()} == {"green/web3", "green/web4"}
    assert "blue/web1" not in director.state.snapshot().health
    slots = director.decided.tables.services
    assert all(one.slots is slots[0].slots for one in slots)


def test_a_pool_that_stays_in_use_serves_both():
    """The members of a pool that another service goes on using are nobody's leftovers."""
    other = replace(OTHER, pool=BLUE)
    director = Director(service(pool=BLUE), other)
    before, _ = director.owners()
    director.reload(service(pool=GREEN), other)
    director.up(GREEN)
    director.decide(1)
    assert (director.owners()[1] == before).all()
    assert [words.tolist() for words in director.owners("other")] == [before.tolist()] * 2
    assert director.shown("other") == {"blue/web1": ("in_rotation", None), "blue/web2": ("in_rotation", None)}
    assert director.shown().keys() == {"green/web3", "green/web4"}


def test_until_members_of_the_new_pool_are_known_the_old_one_goes_on():
    """A pool that is new has no healthy members yet: the service is not interrupted, whoever dies meanwhile."""
    director = Director(service(pool=BLUE))
    before, _ = director.owners()
    director.reload(service(pool=GREEN))
    director.decide(1)
    assert [words.tolist() for words in director.owners()] == [before.tolist()] * 2
    assert director.decided.routes
    assert director.shown()["green/web3"] == ("out", "health_unknown")
    assert director.shown()["blue/web1"] == ("in_rotation", None)
    assert {probe.target.id for probe in probes(director.state.config, To)} == {*BLUE.member_ids, *GREEN.member_ids}

    director.state.set_health("blue/web1", Health.DOWN)
    director.decide(1)
    assert {str(owner) for owner in director.owners()[0]} == {"blue/web2"}
    director.up(GREEN)
    director.decide(1)
    primary, previous = director.owners()
    assert pools_of(primary) == {"green"}
    assert {str(owner) for owner in previous} == {"blue/web2"}


def test_until_then_its_words_go_by_its_hash():
    """Whose slot a flow is in depends on the hash, so the old pool's words take the old pool's."""
    director = Director(service(pool=replace(BLUE, hash_mode=HashMode.SOURCE_IP)))
    director.reload(service(pool=GREEN))
    assert director.decide(1).tables.services[0].hash_mode is HashMode.SOURCE_IP
    director.up(GREEN)
    assert director.decide(1).tables.services[0].hash_mode is HashMode.FIVE_TUPLE


def test_a_member_that_dies_takes_only_its_flows_along():
    """A member of the old pool that fails in the window hands over its slots at once, and the others keep theirs."""
    director = Director(service(pool=BLUE))
    before, _ = director.owners()
    director.reload(service(pool=GREEN))
    director.up(GREEN)
    director.decide(1)
    director.state.set_health("blue/web1", Health.DOWN)
    director.decide(1)
    _, previous = director.owners()
    assert (previous[before == "blue/web2"] == "blue/web2").all()
    assert not (previous[before == "blue/web1"] == "blue/web1").any()


def test_there_and_back_again_and_on_to_a_third():
    """Reloads in quick succession: who had the flows that nobody remembers has them still."""
    third = pool(member(5), name="third")
    director = Director(service(pool=BLUE))
    before, _ = director.owners()
    director.reload(service(pool=GREEN))
    director.up(GREEN)
    director.decide(1)
    director.reload(service(pool=third))
    director.up(third)
    director.decide(1)
    primary, previous = director.owners()
    assert pools_of(primary) == {"third"}
    assert (previous == before).all()
    assert [one.name for one in director.state.config.services[0].former] == ["green", "blue"]
    director.reload(service(pool=BLUE))
    director.decide(1)
    primary, previous = director.owners()
    assert (primary == before).all()
    assert pools_of(previous) == {"nobody"}, "those that came meanwhile are remembered"
    assert {"green/web3", "third/web5"} <= {one.id for one in director.decided.tables.members.values()}


def test_an_algorithm_that_decides_flow_by_flow_keeps_them_as_long_as_they_last():
    """Its flows are remembered, so the old members are needed until the last one is over."""
    by_turns = replace(GREEN, algorithm=Algorithm.ROUND_ROBIN)
    director = Director(service(pool=replace(BLUE, algorithm=Algorithm.ROUND_ROBIN)))
    director.reload(service(pool=by_turns))
    director.up(GREEN)
    director.decide(1)
    web1 = next(one.index for one in director.decided.tables.members.values() if one.id == "blue/web1")
    for _ in range(3):
        director.forgets()
        director.state.set_pins(replace(director.state.snapshot().pins, flows={web1: 1}), signal=False)
        director.decide(1000)
    assert web1 in director.decided.tables.members
    director.forgets()
    director.decide(1)
    director.decide()
    assert web1 not in director.decided.tables.members


def test_what_cannot_go_on_begins_anew():
    """Without pins, by another delivery, or with another protocol there are no flows to keep."""
    director = Director(service(pool=BLUE), pins=0)
    director.reload(service(pool=GREEN))
    director.up(GREEN)
    director.decide(1)
    director.decide(1)
    assert [pools_of(words) for words in director.owners()] == [{"green"}, {"green"}]
    assert [one.name for one in director.state.config.pools] == ["green"]

    old = service(pool=BLUE)
    for profile in (
        replace(old.profile, delivery=L2),
        replace(old.profile, type=ProfileType.UDP_FAST_PATH),
    ):
        new = with_leaving(config(service(pool=GREEN, profile=profile)), config(old))
        assert new.services[0].former == ()
    new = with_leaving(config(service(pool=GREEN)), config(old))
    assert course_key(new.services[0])[3] == "web"


@pytest.mark.parametrize("seed", range(6))
def test_not_one_flow_breaks(seed):
    """Flows that say something now and then, through reloads to and fro, drains, and members that come up late: each
    stays with its member as long as that lives."""
    rnd = random.Random(seed)
    pools = [BLUE, GREEN, pool(member(5), member(6), member(1), name="third")]
    director = Director(service(pool=BLUE), OTHER)
    pins = PinTable.in_memory(1 << 12, lambda: int(director.now * 1e9))
    flows, dead, ports = {}, set(), iter(range(1, 1 << 16))

    def send(port, flags):
        path = PacketPath(director.decided.tables, pins)
        action = path.forward(frame(port, flags), INGRESS)
        one = director.decided.tables.members.get(action.member)
        return one and one.address

    def look():
        live = pins.live()
        found = seen(live, director.decided, services_of(live, director.decided), director.now)
        director.state.set_pins(found, signal=False)

    for _ in range(60):
        match rnd.randrange(6):
            case 0:
                director.reload(service(pool=rnd.choice(pools)), OTHER)
            case 1:
                name = rnd.choice(rnd.choice(pools).member_ids)
                order = rnd.choice([None, Order(AdminState.DRAIN, director.now)])
                director.state.set_order(name, order)
            case 2 if rnd.random() < 0.2:
                gone = rnd.choice([member(number).address for number in range(1, 7)])
                dead.add(gone)
                for name in (f"{one.name}/{m.name}" for one in pools for m in one.members if m.address == gone):
                    director.state.set_health(name, Health.DOWN)
        for one in pools:  # verdicts of members that nobody has given up, sooner or later
            for m in one.members:
                if m.address not in dead and rnd.random() < 0.4:
                    director.state.set_health(f"{one.name}/{m.name}", Health.UP)
        look()
        director.decide(rnd.choice((0, 1, 5)))
        flows = {port: address for port, address in flows.items() if address not in dead}
        for port in [next(ports) for _ in range(rnd.randrange(8))]:
            if (address := send(port, SYN)) is not None:
                flows[port] = address
        for _ in range(rnd.randrange(1, 5)):
            director.decide(rnd.uniform(1, 140))
            for port, address in flows.items():
                assert send(port, ACK) == address, (port, director.now - START)
            look()
    assert len(flows) > 20

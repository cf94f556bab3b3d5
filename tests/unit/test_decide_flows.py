"""Flows through whatever a director is told: a client's packets, by the reference, with what is remembered of them."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.dataplane.pins import PinTable
from appliance.decide import Why
from appliance.model import (
    AdminState,
    Algorithm,
    DfPolicy,
    EffectiveState,
    Encapsulation,
    HashMode,
    Health,
    Order,
    OuterSource,
    ProfileType,
    Protocol,
)
from appliance.packet.forward import PacketPath, Turns
from appliance.reconcile import mask
from appliance.seen import outdated, seen, services_of
from appliance.wiring import hash_changes
from tests.builders import member, pool, service
from tests.fuzz.flows import Say, Tuple
from tests.unit.dataplane.frames import INGRESS
from tests.unit.test_decide_moves import Director

SOURCE, VIP = ip_address("192.0.2.1"), ip_address("198.51.100.7")
ONE_OTHER = service(name="other", vips=(ip_address("198.51.100.8"),), pool=pool(member(5), name="other"))


class Clients:
    """A director, and clients of one of its VIPs."""

    def __init__(self, *services, protocol=Protocol.TCP, count=90):
        self.director = Director(*services)
        self.pins = PinTable.in_memory(1 << 12, lambda: int(self.director.now * 1e9))
        self.turns = Turns()
        self.protocol = protocol
        self.at = {number: self.send(number, opens=True) for number in range(count)}
        assert None not in self.at.values()

    @property
    def state(self):
        return self.director.state

    def send(self, number, *, opens=False):
        """The address of the member that a packet of a flow reaches; None: it was dropped."""
        say = Say.DATA if self.protocol is Protocol.UDP else Say.SYN if opens else Say.PLAIN
        packet = Tuple(SOURCE, VIP, self.protocol, 2000 + number, 80).frame(say, INGRESS.mac)
        tables = self.director.decided.tables
        action = PacketPath(tables, self.pins, self.turns).forward(packet, INGRESS)
        return tables.members[action.member].address if action.member in tables.members else None

    def of(self, number):
        """The flows that a member has."""
        return [flow for flow, address in self.at.items() if address == member(number).address]

    def broken(self, flows=None):
        """Flows whose next packet does not reach the member that has them."""
        return {n: got for n in (self.at if flows is None else flows) if (got := self.send(n)) != self.at[n]}

    def look(self):
        """Once a second: what is remembered. Whether the decision has to know at once."""
        self.pins.sweep()
        live, decided = self.pins.live(), self.director.decided
        self.pins.set_idle(*outdated(live, decided, services_of(live, decided)))
        live = self.pins.live()
        found = seen(live, decided, services_of(live, decided), self.director.now)
        self.state.set_pins(found, signal=False)
        return found.late

    def decide(self, after=0.0):
        before = self.director.decided
        decided = self.director.decide(after)
        if not before.remembered <= decided.remembered:
            self.pins.forget(mask(decided.remembered))
        return decided

    def passes(self, seconds, step=20.0, flows=None):
        """Time, in which flows go on: all, or some."""
        for _ in range(round(seconds / step)):
            assert not self.broken(flows)
            self.director.now += step
            self.look()
            self.decide()

    def order(self, name, state):
        self.state.set_order(name, Order(state, self.director.now))


TWO = pool(member(1), member(2))
AWAY = {
    "removed": replace(TWO, members=(member(1),)),
    "ratio 0": replace(TWO, members=(member(1), member(2, ratio=0))),
    "disabled": replace(TWO, members=(member(1), member(2, enabled=False))),
    "drained": TWO,
}


@pytest.mark.parametrize("how", AWAY)
@pytest.mark.parametrize("silent_s", [1, 1000], ids=["in the window", "in the tail"])
def test_members_that_live_keep_their_flows_when_nobody_takes_new_ones(how, silent_s):
    """The only member in rotation dies. Another one, on its way out, lives and goes on with what it has; new flows are
    dropped; and when the first one is back, everything is as it was."""
    clients = Clients(service(pool=TWO), ONE_OTHER)
    if how == "drained":
        clients.order("web/web2", AdminState.DRAIN)
    clients.director.reload(service(pool=AWAY[how]), ONE_OTHER)
    clients.decide()
    clients.passes(silent_s, step=min(silent_s, 20.0))
    clients.state.set_health("web/web1", Health.DOWN, clients.director.now)
    clients.decide(1)
    assert not clients.broken(clients.of(2))
    assert clients.send(1001, opens=True) is None
    clients.passes(100, flows=clients.of(2))
    clients.state.set_health("web/web1", Health.UP, clients.director.now)
    clients.decide(1)
    assert not clients.broken(clients.of(2))
    assert clients.send(1002, opens=True) == member(1).address


def test_who_comes_back_first_waits_for_the_others():
    """All members fail at once, since the director was cut off. With a part of them nothing is forwarded: what others
    have would be reset. When all are back every flow is where it was."""
    clients = Clients(service(pool=TWO), ONE_OTHER)
    for name in TWO.member_ids:
        clients.state.set_health(name, Health.DOWN, clients.director.now)
    clients.decide(1)
    clients.state.set_health("web/web1", Health.UP, clients.director.now)
    clients.decide(1)
    assert {clients.send(number) for number in clients.at} == {None}
    clients.state.set_health("web/web2", Health.UP, clients.director.now)
    clients.decide(1)
    assert not clients.broken()


def test_a_window_that_ends_while_nobody_is_known_to_take_flows_is_no_reason_to_hurry():
    """The next look is some seconds ahead, however long ago the window should have ended."""
    clients = Clients(service(pool=TWO), ONE_OTHER)
    clients.director.reload(service(pool=AWAY["removed"]), ONE_OTHER)
    clients.decide()
    clients.state.set_health("web/web1", Health.DOWN, clients.director.now)
    assert clients.decide(1).recheck_at > clients.director.now
    assert clients.decide(2000).recheck_at > clients.director.now


def udp(idle_s):
    return replace(service().profile, type=ProfileType.UDP_FAST_PATH, session_idle_timeout_s=idle_s)


@pytest.mark.parametrize(
    ("protocol", "before", "after"),
    [
        (Protocol.TCP, service(pool=replace(TWO, window_s=60.0)), service(pool=replace(TWO, window_s=40.0))),
        (Protocol.TCP, service(pool=replace(TWO, window_s=60.0)), service(pool=replace(TWO, window_s=900.0))),
        (Protocol.UDP, service(pool=TWO, profile=udp(30)), service(pool=TWO, profile=udp(60))),
    ],
    ids=["shorter", "longer", "udp"],
)
@pytest.mark.parametrize("others", [(), (ONE_OTHER, replace(ONE_OTHER, name="same", pool=TWO))], ids=["", "others"])
def test_another_window_changes_no_words(protocol, before, after, others):
    """Flows that have outlived their window are remembered, and a reload of the window's length forgets none of them;
    afterwards slots get steady as ever, when the flows are over."""
    others = tuple(replace(one, pool=after.pool) if one.name == "same" else one for one in others)
    first = tuple(replace(one, pool=before.pool) if one.name == "same" else one for one in others)
    clients = Clients(before, *first, protocol=protocol)
    clients.order("web/web1", AdminState.DRAIN)
    clients.decide(1)
    clients.passes(120, step=15.0)
    course = clients.director.decided.services[0].course
    assert course.tails
    assert not course.windows
    clients.director.reload(after, *others)
    clients.decide(0.5)
    assert clients.of(1)
    assert not clients.broken()
    clients.passes(120, step=15.0)
    clients.director.now += 1000
    clients.look()
    clients.decide()
    assert clients.director.decided.services[0].course.steady


def delivered(**changes):
    profile = service().profile
    return replace(profile, delivery=replace(profile.delivery, **changes))


DELIVERIES = [
    delivered(outer_ttl=32),
    delivered(outer_df=DfPolicy.CLEAR),
    delivered(encapsulation=Encapsulation.GRE),
    delivered(outer_source=OuterSource.PREFIX),
]


@pytest.mark.parametrize("profile", DELIVERIES, ids=["ttl", "df", "gre", "source"])
@pytest.mark.parametrize("phase", ["window", "tail", "per flow", "moving"])
def test_another_way_to_the_same_members_breaks_no_flow(profile, phase):
    """A reload that changes how packets get to members: whatever is remembered goes over, and the window goes on."""
    there = replace(TWO, algorithm=Algorithm.ROUND_ROBIN) if phase == "per flow" else TWO
    clients = Clients(service(pool=there), ONE_OTHER)
    if phase == "moving":
        there = pool(member(3), member(4), name="new")
        clients.director.reload(service(pool=there), ONE_OTHER)
        clients.director.up(there)
    else:
        clients.order("web/web1", AdminState.DRAIN)
    clients.decide()
    clients.passes(1000 if phase == "tail" else 60)
    clients.director.reload(service(pool=there, profile=profile), ONE_OTHER)
    before, after = clients.director.decided, clients.decide(0.5)
    assert not clients.broken()
    assert {one.delivery for one in after.tables.members.values() if "other" not in one.id} == {profile.delivery}
    assert before.services[0].course == after.services[0].course
    clients.passes(1000)


def test_a_way_that_another_service_goes_on_using_is_not_taken_away():
    """The service that has another one begins anew on it."""
    second = replace(ONE_OTHER, pool=TWO)
    clients = Clients(service(pool=TWO), second)
    clients.director.reload(service(pool=TWO), replace(second, profile=DELIVERIES[0]))
    clients.decide(1)
    assert not clients.broken()
    assert len(clients.director.decided.tables.members) == 4


RENAMED = {
    "one": (member(1, name="a"), member(2), member(3)),
    "all": tuple(member(number, name=f"x{number}") for number in (1, 2, 3)),
    "swapped": (member(1, name="web2"), member(2, name="web1"), member(3)),
}


@pytest.mark.parametrize("members", RENAMED.values(), ids=RENAMED)
def test_members_that_get_other_names_keep_their_flows(members):
    """A reload that renames members takes none of them out, and withdraws nothing; who is down stays so, by whatever
    name."""
    clients = Clients(service())
    clients.state.set_health("web/web2", Health.DOWN, clients.director.now)
    clients.decide(1)
    clients.at = {flow: address for flow, address in clients.at.items() if address != member(2).address}
    clients.director.reload(service(pool=pool(*members)))
    after = clients.decide(1)
    assert not clients.broken()
    assert after.routes
    states = {one.address: (one.state, one.no and one.no.why) for one in after.services[0].members}
    assert states == {
        member(1).address: (EffectiveState.IN_ROTATION, None),
        member(2).address: (EffectiveState.OUT, Why.HEALTH_DOWN),
        member(3).address: (EffectiveState.IN_ROTATION, None),
    }
    clients.passes(1000)


@pytest.mark.parametrize("then", ["by hash", "left by the other"])
def test_a_former_pool_that_another_service_uses_counts_as_long_as_flows_do(then):
    """Flows of an algorithm that decides flow by flow are remembered at the members of the pool before. That another
    service uses it, too, does not end them: whatever becomes of the new pool's algorithm, and of the other service."""
    turns = replace(TWO, algorithm=Algorithm.ROUND_ROBIN)
    new = pool(member(3), member(4), name="new")
    second = replace(ONE_OTHER, pool=turns)
    clients = Clients(service(pool=turns), second)
    clients.director.reload(service(pool=replace(new, algorithm=Algorithm.ROUND_ROBIN)), second)
    clients.director.up(new)
    clients.decide()
    clients.passes(1200)
    if then == "by hash":
        clients.director.reload(service(pool=new), second)
    else:
        clients.director.reload(service(pool=replace(new, algorithm=Algorithm.ROUND_ROBIN)), ONE_OTHER)
        clients.director.up(ONE_OTHER.pool)
    clients.decide()
    clients.passes(1200)
    clients.director.now += 1000  # now they are over
    for _ in range(3):
        clients.director.now += 40
        clients.look()
        clients.decide()
    assert clients.state.config.services[0].former == ()


@pytest.mark.parametrize("algorithm", [Algorithm.CONSISTENT_HASH, Algorithm.ROUND_ROBIN])
def test_another_hash_gives_flows_other_slots(algorithm):
    """Half of the flows of two members move, as the event says; those that are remembered one by one do not."""
    there = replace(TWO, algorithm=algorithm)
    clients = Clients(service(pool=there))
    clients.look()
    given = clients.state.config
    clients.director.reload(service(pool=replace(there, hash_mode=HashMode.SOURCE_IP_PORT)))
    clients.decide(1)
    said = [change.share for change in hash_changes(given, clients.state.config)]
    assert said == ([0.5] if algorithm is Algorithm.CONSISTENT_HASH else [])
    assert abs(len(clients.broken()) / len(clients.at) - sum(said)) < 0.15

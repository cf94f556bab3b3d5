"""A director's side of its fleet: when it may announce, what it tells of whom."""

import asyncio
import time
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
import structlog

from appliance.dataplane.pins import PinTable
from appliance.decide import Why, decide
from appliance.fleet.channel import PeerState
from appliance.fleet.client import RefusedError, UnavailableError
from appliance.fleet.entries import DirectorCard, encode_director, encode_order
from appliance.fleet.fake import FakeCluster, FakeStore
from appliance.fleet.giving import hand_over
from appliance.fleet.side import FleetSide
from appliance.model import AdminState, Drain, Etcd, Fleet, FleetPeer, HaMode, HashMode, Health, Order
from appliance.packet.placement import FlowFacts, Pin, PinState
from appliance.ranks import order
from appliance.ring.hash import derive_pin_keys, flow_words, pin_hash
from appliance.state import State
from tests.builders import config, member, pool, service, snapshot

pytestmark = pytest.mark.timeout(30)


class Director:
    """Store, decisions and a fleet's side, put together as in `app.py`, with no data plane but its pins."""

    def __init__(self, name, peers, etcd=None, wanted=None):
        given = config(wanted) if wanted is not None else config()
        given = replace(given, director=replace(given.director, name=name), fleet=Fleet(peers, etcd))
        self.pins = PinTable.in_memory(1 << 10, time.monotonic_ns)
        self.state = State(given, lambda: None)
        self.looks = 0
        self.side = FleetSide(given, self.state, lambda: self.pins, self.look)
        self.decided = None

    async def look(self):
        self.looks += 1

    def learn(self):
        self.state.set_next_hops(snapshot().next_hops)
        self.state.set_plane_error(None)
        for number in (1, 2, 3):
            self.state.set_health(f"web/web{number}", Health.UP)

    def decide(self):
        self.decided = decide(self.state.snapshot(), self.decided, time.time())
        self.side.applied(self.decided)
        return self.decided

    def no(self):
        return self.decided.vips[0].no


def remember(director, port, index):
    source, destination, ports = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 7]), port.to_bytes(2, "big") + b"\0\x50"
    words = flow_words(source, destination, ports, 6, HashMode.FIVE_TUPLE)
    hash64 = pin_hash(derive_pin_keys(director.state.config.secret), words)
    facts = FlowFacts(source, destination, ports, 6, hash64, 7, 280)
    director.pins.keep(Pin(index, PinState.OPEN), facts, director.pins.now())


@pytest.fixture
def fleet(unused_udp_port_factory):
    peers = tuple(FleetPeer(name, ip_address("127.0.0.1"), unused_udp_port_factory()) for name in ("d1", "d2"))
    return [Director(name, peers) for name in ("d1", "d2")]


async def until(so, what):
    deadline = time.monotonic() + 15
    while True:
        if so():
            return
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def test_who_is_asked_otherwise_is_what_it_was():
    """Until there is a verdict, as long as anybody asks at all."""
    one = Director("d1", ())
    one.side.judge("web/web1", Health.UNKNOWN)
    assert one.state.snapshot().health == {}
    for health in (Health.UP, Health.DOWN):
        one.side.judge("web/web1", health)
        one.side.judge("web/web1", Health.UNKNOWN)
        assert one.state.snapshot().health == {"web/web1": health}
    one.side.judge("web/web1", Health.UNKNOWN, asked=False)
    assert one.state.snapshot().health == {"web/web1": Health.UNKNOWN}


async def test_a_director_hears_of_flows_before_it_announces(fleet):
    """The first table that could be announced is not, until the other's pins are there, by the members' own numbers."""
    one, two = fleet
    one.learn()
    one.decide()
    for port in range(40000, 40100):
        remember(one, port, 1)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one.side.run()), tasks.create_task(two.side.run())]
        await until(lambda: two.side.channel is not None, "the channel")
        await asyncio.sleep(0.5)
        assert two.decide().vips[0].no.why is Why.PLANE_DOWN
        two.learn()
        two.decide()
        assert two.no().why is Why.JOINING
        await until(lambda: two.state.snapshot().joining is None, "joined")
        assert len(two.pins.live()) == 100
        assert two.looks == 1
        assert set(two.pins.live().member.tolist()) == {1}
        two.decide()
        assert two.no() is None
        for task in running:
            task.cancel()


async def test_whoever_was_cut_off_asks_again(fleet):
    """A director whose plane has failed may not announce again before it has heard what became of flows meanwhile."""
    one, two = fleet
    for director in fleet:
        director.learn()
        director.decide()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one.side.run()), tasks.create_task(two.side.run())]
        await until(lambda: two.state.snapshot().joining is None, "joined")
        two.decide()
        assert two.no() is None
        await asyncio.sleep(0.1)
        two.state.set_plane_error("the interface is down")
        await until(lambda: two.state.snapshot().joining is not None, "cut off")
        looks = two.looks
        two.state.set_plane_error(None)
        assert two.decide().vips[0].no.why is Why.JOINING
        await until(lambda: two.state.snapshot().joining is None, "joined again")
        assert two.looks == looks + 1
        for task in running:
            task.cancel()


async def test_flows_of_a_member_that_is_new_here_are_looked_at_at_once(fleet):
    """Others know a member earlier: what they have told of its flows counts as soon as there are tables with it."""
    one, two = fleet
    more = config(service(pool=pool(*map(member, (1, 2, 3, 4)))))
    more = replace(more, fleet=one.state.config.fleet)
    one.state.set_config(replace(more, director=one.state.config.director))
    for director in fleet:
        director.learn()
        director.decide()
    index = {view.name: view.index for view in one.decided.services[0].members}["web4"]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one.side.run()), tasks.create_task(two.side.run())]
        await until(lambda: two.state.snapshot().joining is None, "joined")
        two.decide()
        await until(lambda: two.side.pins_status().peers[0].state is PeerState.JOINED, "they know each other")
        remember(one, 40000, index)
        await until(lambda: two.side.pins_status().counts["unknown_member"], "the flow is told of and put aside")
        looks = two.looks
        two.state.set_config(replace(more, director=two.state.config.director))
        two.side.follow(two.state.config)
        assert len(two.pins.live()) == 1
        await asyncio.sleep(0.05)
        assert two.looks == looks, "there are no tables with the member yet"
        two.decide()
        await until(lambda: two.looks == looks + 1, "the look")
        two.decide()
        await asyncio.sleep(0.05)
        assert two.looks == looks + 1
        for task in running:
            task.cancel()


async def test_a_director_whose_peers_are_dead_goes_on_alone(fleet):
    """Nobody answers: after a short while it announces all the same."""
    one, _ = fleet
    one.learn()
    one.decide()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(one.side.run())
        began = time.monotonic()
        await until(lambda: one.state.snapshot().joining is None, "alone")
        assert time.monotonic() - began > 1.5
        assert one.decide().vips[0].no is None
        running.cancel()


VIP = ip_address("198.51.100.7")


@pytest.fixture
def spare_and_primary(unused_udp_port_factory):
    """Two directors of which one is enough; the second is the one that should be preferred."""
    peers = tuple(FleetPeer(name, ip_address("127.0.0.1"), unused_udp_port_factory()) for name in ("d1", "d2"))
    wanted = service(ha=HaMode.N_PLUS_M, primaries=1)
    first, second = order(wanted, VIP, ["d1", "d2"])
    made = [Director(name, peers, wanted=wanted) for name in (second, first)]
    for director in made:
        director.learn()
        director.decide()
    return made


async def test_a_primary_that_lives_but_does_not_announce_is_replaced(spare_and_primary, monkeypatch):
    """Because of its plane, because routers have lost it, because it is drained; and not before it has had the VIP for
    a while the spare steps back."""
    monkeypatch.setattr("appliance.fleet.side.RETURN_S", 1.5)
    spare, primary = spare_and_primary
    reached = {str(ip_network(VIP))}
    primary.side._reached = lambda: frozenset(reached)

    def standing():
        return spare.decide().vips[0].standing

    async def replaced(fails, mends, why):
        await until(lambda: standing() == 1, f"{why}: the primary has it")
        fails()
        primary.decide()
        await until(lambda: standing() == 0, why)
        mends()
        primary.state.set_joining(None)
        assert primary.decide().vips[0].no is None
        began = time.monotonic()
        await until(lambda: standing() == 1, f"{why}: it steps back")
        assert time.monotonic() - began > 0.4, why

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each.side.run()) for each in (spare, primary)]
        for each in (spare, primary):
            await until(lambda each=each: each.state.snapshot().joining is None, "joined")
            each.decide()
        await replaced(
            lambda: primary.state.set_plane_error("the interface is down"),
            lambda: primary.state.set_plane_error(None),
            "its plane is down",
        )
        await replaced(reached.clear, lambda: reached.add(str(ip_network(VIP))), "no router has it from there")
        await replaced(
            lambda: primary.state.set_drain(Drain(1.0, 2.0)), lambda: primary.state.set_drain(None), "it is drained"
        )
        for task in running:
            task.cancel()


@pytest.mark.parametrize("ha", list(HaMode))
async def test_who_has_not_a_vip_says_so(ha, unused_udp_port_factory, monkeypatch):
    """Whatever the HA mode: all are to show who else has it."""
    monkeypatch.setattr("appliance.fleet.side.RETURN_S", 1.5)
    peers = tuple(FleetPeer(name, ip_address("127.0.0.1"), unused_udp_port_factory()) for name in ("d1", "d2"))
    one, other = (Director(name, peers, wanted=service(ha=ha)) for name in ("d1", "d2"))
    for each in (one, other):
        each.learn()
        each.decide()

    def lack_it():
        return one.state.snapshot().absent.get(VIP, frozenset())

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each.side.run()) for each in (one, other)]
        for each in (one, other):
            await until(lambda each=each: each.state.snapshot().joining is None, "joined")
            each.decide()
        await until(lambda: not lack_it(), "the other one has it")
        other.state.set_plane_error("the interface is down")
        other.decide()
        await until(lambda: lack_it() == {"d2"}, "the other one has it no more")
        for task in running:
            task.cancel()


def with_directors(director, *peers):
    """What a reload does that has this list of directors."""
    given = replace(director.state.config, fleet=replace(director.state.config.fleet, directors=peers))
    director.state.set_config(given)
    director.side.follow(given)


async def test_a_director_is_added_to_one_that_runs(fleet):
    """The one that runs goes on announcing and tells the new one its flows; one that is taken out is told no more."""
    ours, theirs = fleet[0].state.config.fleet.directors
    one, two = Director("d1", (ours,)), fleet[1]
    for director in (one, two):
        director.learn()
        director.decide()
    remember(one, 40000, 1)
    async with asyncio.TaskGroup() as tasks:
        alone = tasks.create_task(one.side.run())
        await until(lambda: one.side.channel is not None, "it runs")
        assert one.side.pins_status() is None
        assert one.decide().vips[0].no is None
        with_directors(one, ours, theirs)
        assert one.decide().vips[0].no is None
        joining = tasks.create_task(two.side.run())
        await until(lambda: two.state.snapshot().joining is None, "joined")
        assert len(two.pins.live()) == 1
        assert [peer.name for peer in one.side.pins_status().peers] == ["d2"]
        assert one.decide().vips[0].no is None

        one.state.set_plane_error("the interface is down")
        await until(lambda: one.state.snapshot().joining is not None, "cut off, with somebody to ask now")
        one.state.set_plane_error(None)
        one.decide()
        await until(lambda: one.state.snapshot().joining is None, "joined again")
        assert one.looks == 1

        with_directors(one, ours)
        assert one.side.pins_status() is None
        told = two.side.pins_status().peers[0].received
        remember(one, 40001, 1)
        await asyncio.sleep(0.2)
        assert two.side.pins_status().peers[0].received == told
        for task in (alone, joining):
            task.cancel()


@pytest.mark.parametrize("returns", [True, False], ids=["late", "never"])
async def test_a_director_waits_a_while_for_what_the_fleet_has_agreed_on(fleet, returns):
    """An order from before it began counts from the first announcement on; a store that is away holds nobody up."""
    cluster = FakeCluster(time.monotonic)
    order = Order(AdminState.DRAIN, 1.0)
    await cluster.apply({"orders/web/web1": encode_order(order)}, None)
    await cluster.stop()
    one = Director("d1", fleet[0].state.config.fleet.directors, Etcd(("http://192.0.2.1:2379",), "/onward/"))
    one.side.agreement._store = FakeStore(cluster)
    two = fleet[1]
    for director in (one, two):
        director.learn()
        director.decide()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one.side.run()), tasks.create_task(two.side.run())]
        await until(lambda: two.state.snapshot().joining is None, "joined")
        assert one.state.snapshot().joining is not None
        if returns:
            await cluster.start()
        await until(lambda: one.state.snapshot().joining is None, "joined, too")
        assert one.state.orders == ({"web/web1": order} if returns else {})
        for task in running:
            task.cancel()


async def test_no_connections_begin_that_a_director_with_a_lease_would_not_hear_of(fleet):
    """Nothing is heard of it here, and the store has its card: connections stay where it would look for them."""
    cluster = FakeCluster(time.monotonic)
    ours, theirs = fleet[0].state.config.fleet.directors
    one = Director("d1", (ours, theirs), Etcd(("http://192.0.2.1:2379",), "/onward/"))
    one.side.agreement._store = FakeStore(cluster)
    card = {"directors/d2": encode_director(DirectorCard("d2", theirs.address, theirs.port, "boot"))}
    await cluster.apply(card, None)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(one.side.run())
        await until(lambda: one.side.agreed().status.connected and one.side.channel.is_heard, "it should be told")
        assert one.pins.may_open_all(5) == 0
        await cluster.apply(dict.fromkeys(card), None)
        await until(lambda: one.pins.may_open_all(5) == 5, "its lease has ended")
        await cluster.apply(card, None)
        await until(lambda: one.pins.may_open_all(5) == 0, "it is back")
        await cluster.stop()
        await until(lambda: not one.side.agreed().status.connected, "the store is away")
        assert one.pins.may_open_all(5) == 0
        running.cancel()


async def test_orders_of_one_command_reach_the_store_together(fleet):
    """At one revision, so whatever happens to the store in between, all directors see all of them or none."""
    cluster = FakeCluster(time.monotonic)
    one = Director("d1", fleet[0].state.config.fleet.directors, Etcd(("http://192.0.2.1:2379",), "/onward/"))
    one.side._store = FakeStore(cluster)
    drain = Order(AdminState.DRAIN, 1.0)
    await one.side.order({"a/x": drain, "b/x": drain, "c/x": None})
    await one.side.order({"a/x": None, "b/x": replace(drain, since=2.0)})
    revisions = [cluster.entries["orders/b/x"].revision]
    assert cluster.entries.keys() == {"ordered", "orders/b/x"}
    first, changes = await cluster.since(1)
    assert {change.key for change in changes} == {"ordered", "orders/a/x", "orders/b/x"}
    second, changes = await cluster.since(first)
    assert {change.key for change in changes} == {"ordered", "orders/a/x", "orders/b/x"}
    assert revisions == [second] == [cluster.revision]


async def test_an_order_counts_as_given_when_it_has_come_back(fleet):
    """Else a change of anything else, from a moment before, would take it back here until the store tells of it."""
    peers, cluster = fleet[0].state.config.fleet.directors, FakeCluster(time.monotonic)
    one = sharing("d1", peers, cluster)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(one.side.run())
        await until(lambda: one.side.agreed().status.connected, "connected")
        for given in (DRAIN, MAINT, None):
            await one.side.order({"web/web1": given})
            assert one.state.orders.get("web/web1") == given
        running.cancel()


async def test_orders_that_the_store_does_not_take(fleet):
    """A store that is away, and more than it takes at once: an error, and nothing of it is in the store."""
    cluster = FakeCluster(time.monotonic)
    one = Director("d1", fleet[0].state.config.fleet.directors, Etcd(("http://192.0.2.1:2379",), "/onward/"))
    one.side._store = FakeStore(cluster)
    drain = Order(AdminState.DRAIN, 1.0)
    with pytest.raises(RefusedError, match="101 orders at once"):
        await one.side.order({f"pool{number}/x": drain for number in range(101)})
    await cluster.stop()
    with pytest.raises(UnavailableError):
        await one.side.order({"a/x": drain, "b/x": drain})
    assert cluster.entries == {}


MAINT, DRAIN = Order(AdminState.MAINT, 1.0), Order(AdminState.DRAIN, 2.0)


def sharing(name, peers, cluster, **orders):
    """A director with its way to the store, and orders from before it began."""
    made = Director(name, peers, Etcd(("http://192.0.2.1:2379",), "/onward/"))
    made.side._store = made.side.agreement._store = FakeStore(cluster)
    for name_of_member, before in orders.items():
        made.state.set_order(f"web/{name_of_member}", before)
    return made


@pytest.mark.parametrize("how", ["rebuilt", "emptied"])
async def test_a_store_that_has_lost_everything_takes_no_order_back(fleet, how):
    """Another, empty cluster, or somebody has deleted all: orders go on, one director puts them back, and says so."""
    peers, cluster = fleet[0].state.config.fleet.directors, FakeCluster(time.monotonic)
    both = [sharing(name, peers, cluster) for name in ("d1", "d2")]
    orders = {"web/web1": MAINT, "web/web2": DRAIN}
    seen = []
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each.side.run()) for each in both]
        await both[0].side.order(orders)
        await until(lambda: all(each.state.orders == orders for each in both), "all know")
        for each in both:
            set_order = each.state.set_order
            each.state.set_order = lambda name, order, known=set_order: (seen.append(name), known(name, order))
        with structlog.testing.capture_logs() as logs:
            if how == "rebuilt":
                await cluster.stop()
                await until(lambda: not any(each.side.agreed().status.connected for each in both), "away")
                cluster = FakeCluster(time.monotonic)
                for each in both:
                    each.side._store._cluster = cluster
            else:
                await cluster.apply(dict.fromkeys(cluster.entries), None)
            await until(lambda: {"ordered", "orders/web/web1", "orders/web/web2"} <= cluster.entries.keys(), "put back")
            await until(
                lambda: all(
                    each.side.agreed().status.connected and each.side.agreed().orders == orders for each in both
                ),
                "both are back",
            )
        assert [e["members"] for e in logs if e["event"] == "fleet.orders_handed_over"] == [sorted(orders)]
        assert seen == []
        with structlog.testing.capture_logs() as logs:
            await both[1].side.order({"web/web1": None})
            await until(lambda: all(each.state.orders == {"web/web2": DRAIN} for each in both), "it is taken back")
        told = [(e["member"], e["order"]) for e in logs if e["event"] == "fleet.ordered"]
        assert told == [("web/web1", "ready")] * 2
        for task in running:
            task.cancel()


async def test_orders_from_before_there_was_a_store(fleet):
    """A director that gets a store brings the orders that it has. A store in which orders were given, and taken back,
    counts for more than what a director remembers."""
    peers, cluster = fleet[0].state.config.fleet.directors, FakeCluster(time.monotonic)
    one = sharing("d1", peers, cluster, web1=MAINT)
    none = sharing("d2", peers, cluster)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(none.side.run())
        await until(lambda: none.side.agreed().status.connected, "one without orders is there first")
        running = tasks.create_task(one.side.run())
        await until(lambda: none.state.orders == {"web/web1": MAINT}, "both know")
        assert one.state.orders == {"web/web1": MAINT}
        await none.side.order({"web/web1": None})
        await until(lambda: not one.state.orders, "it is taken back")
        for task in (first, running):
            task.cancel()
    late = sharing("d1", peers, cluster, web1=MAINT)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(late.side.run())
        with structlog.testing.capture_logs() as logs:
            await until(lambda: not late.state.orders, "an order from orders.json that was taken back meanwhile")
        assert [e["member"] for e in logs if e["event"] == "fleet.ordered"] == ["web/web1"]
        running.cancel()


async def test_more_orders_than_the_store_takes_at_once_are_handed_over():
    """All of them, by one director; the other one leaves alone what is there."""
    cluster = FakeCluster(time.monotonic)
    orders = {f"web/web{number}": DRAIN for number in range(250)}
    async with FakeStore(cluster).session() as session:
        assert await hand_over(session, [], orders)
        assert cluster.entries.keys() == {"ordered", *(f"orders/{name}" for name in orders)}
        before = dict(cluster.entries)
        assert not await hand_over(session, [], {"web/web1": MAINT}), "somebody was first"
        assert cluster.entries == before
    cluster = FakeCluster(time.monotonic)
    await cluster.apply({"orders/web/web7": encode_order(MAINT)}, None)
    async with FakeStore(cluster).session() as session:
        assert await hand_over(session, cluster.entries.keys(), orders), (
            "somebody had begun, and the store was away then"
        )
        assert cluster.entries.keys() == before.keys()
        assert cluster.entries["orders/web/web7"].value == encode_order(MAINT)


async def test_two_that_hand_over_the_same_orders_at_the_same_moment(fleet):
    """One of them is first, and the other one has read the store before that: neither takes an order back meanwhile."""
    peers, cluster = fleet[0].state.config.fleet.directors, FakeCluster(time.monotonic)
    both = [sharing(name, peers, cluster, web1=MAINT) for name in ("d1", "d2")]
    with structlog.testing.capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.side.agreement.run()) for each in both]
            await until(lambda: all(each.side.agreed().orders for each in both), "both have them from the store")
            for task in running:
                task.cancel()
    events = [entry["event"] for entry in logs]
    assert events.count("fleet.orders_handed_over") == 1
    assert "fleet.ordered" not in events
    assert all(each.state.orders == {"web/web1": MAINT} for each in both)

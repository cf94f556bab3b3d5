"""The order of effects, and what happens when one of them fails. Fakes that obey the contracts; no real time."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address

import structlog

from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.fake import FakeDataPlane
from appliance.model import AdminState, EffectiveState, Health, Order
from appliance.packet.placement import FlowFacts, Pin, PinState
from appliance.reconcile import Reconciler
from appliance.state import State, Unresolved
from bgp.route import Route
from bgp.speaker import RecordingSpeaker, SpeakerError
from tests.builders import config, member, pool, service, snapshot

VIP_ROUTE = Route(snapshot().config.services[0].vips[0])
VIP, VIP_2 = ip_address("198.51.100.7"), ip_address("198.51.100.8")


class Journal:
    """Writes down what plane and speaker were told, in order."""

    def __init__(self):
        self.lines = []
        self.refuse_plane = None
        self.refuse_proof = None
        self.refuse_speaker = False
        self.speaker = RecordingSpeaker()
        self.plane = FakeDataPlane()
        inner_set, inner_routes = self.plane.set, self.speaker.set

        async def set_tables(tables):
            if self.refuse_plane:
                raise DataPlaneError(self.refuse_plane)
            await inner_set(tables)
            self.lines.append(f"program {len(tables.members)}")
            async with self._heard:
                self._heard.notify_all()

        async def set_routes(routes):
            if self.refuse_speaker:
                raise SpeakerError("no guard")
            await inner_routes(routes)
            self.lines.append(f"routes {len(routes)}")
            async with self._heard:
                self._heard.notify_all()

        async def check():
            if self.refuse_proof:
                raise DataPlaneError(self.refuse_proof)

        self.plane.set, self.plane.check, self.speaker.set = set_tables, check, set_routes
        self._heard = asyncio.Condition()

    async def told(self, routes):
        """Wait until the speaker was told exactly *routes*."""
        async with self._heard:
            await self._heard.wait_for(lambda: self.speaker.routes == routes)

    async def written(self, *lines):
        """Wait until these are the latest lines."""
        async with self._heard:
            await self._heard.wait_for(lambda: self.lines[-len(lines) :] == list(lines))


def setup():
    journal, changed = Journal(), asyncio.Event()
    state = State(config(), changed.set)
    for name, health in snapshot().health.items():
        state.set_health(name, health)
    state.set_next_hops(snapshot().next_hops)
    return journal, state, Reconciler(state, journal.plane, journal.speaker, changed)


async def test_programs_before_it_announces():
    """The first round only programs: nothing is announced before the plane has proved itself."""
    journal, _, reconciler = setup()
    await journal.plane.start()
    assert await reconciler.once()
    assert journal.lines == ["program 3", "routes 0"]
    assert await reconciler.once()
    assert journal.lines[2:] == ["program 3", "routes 1"]
    assert journal.speaker.routes == {VIP_ROUTE}


async def test_withdraws_before_it_programs():
    """A VIP that nobody can serve any more is withdrawn while the old table still forwards."""
    journal, state, reconciler = setup()
    await journal.plane.start()
    await reconciler.once()
    await reconciler.once()
    journal.lines.clear()
    for number in (1, 2, 3):
        state.set_health(f"web/web{number}", Health.DOWN)
    await reconciler.once()
    assert journal.lines == ["routes 0", "program 0", "routes 0"]


async def test_a_plane_that_refuses_withdraws_everything_and_recovers():
    """Tables that were not taken are not announced; when they are taken again, the route comes back."""
    journal, state, reconciler = setup()
    await journal.plane.start()
    await reconciler.once()
    await reconciler.once()
    journal.refuse_plane = "nft is gone"
    state.set_health("web/web1", Health.DOWN)
    assert not await reconciler.once()
    assert state.snapshot().plane_error == "nft is gone"
    assert not await reconciler.once()
    assert journal.speaker.routes == frozenset()
    journal.refuse_plane = None
    await reconciler.once()
    await reconciler.once()
    assert journal.speaker.routes == {VIP_ROUTE}
    assert state.snapshot().plane_error is None


async def test_a_plane_that_cannot_prove_itself_is_not_announced_for():
    """The tables were taken, the proof failed: no route, and the doubt is in the store until a proof succeeds."""
    journal, state, reconciler = setup()
    await journal.plane.start()
    journal.refuse_proof = "thread is stuck"
    assert not await reconciler.once()
    assert not await reconciler.once()
    assert journal.lines == ["program 3", "program 3"]
    assert journal.speaker.routes == frozenset()
    assert state.snapshot().plane_error == "thread is stuck"
    journal.refuse_proof = None
    await reconciler.once()
    await reconciler.once()
    assert journal.speaker.routes == {VIP_ROUTE}


async def test_a_speaker_that_fails_does_not_stop_forwarding():
    """BGP trouble is retried; the tables are in force all the same."""
    journal, _, reconciler = setup()
    await journal.plane.start()
    await reconciler.once()
    journal.refuse_speaker = True
    assert not await reconciler.once()
    assert reconciler.applied is not None
    journal.refuse_speaker = False
    assert await reconciler.once()
    assert journal.speaker.routes == {VIP_ROUTE}


async def hangs(_):
    """A speaker that takes what it is told, and never confirms."""
    await asyncio.Event().wait()


async def test_tables_do_not_wait_for_a_speaker_that_hangs():
    """A member that dies is out of the tables at once, whatever BGP has still to do: announce, or withdraw."""
    journal, state, reconciler = setup()
    await journal.plane.start()
    confirms, journal.speaker.set = journal.speaker.set, hangs
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reconciler.run(), name="reconcile")
        for numbers, left in (((), 3), ((1,), 2), ((2, 3), 0)):
            for number in numbers:
                state.set_health(f"web/web{number}", Health.DOWN)
            await journal.written(f"program {left}")
        journal.speaker.set = confirms
        for number in (1, 2, 3):
            state.set_health(f"web/web{number}", Health.UP)
        await journal.told(frozenset({VIP_ROUTE}))
        running.cancel()


async def test_it_is_told_when_a_vip_is_announced_however_long_that_took():
    """Refused at first, confirmed later: one event, when it is true; and another one when it was withdrawn between."""
    journal, state, reconciler = setup()
    await journal.plane.start()
    with structlog.testing.capture_logs() as logs:
        await reconciler.once()
        journal.refuse_speaker = True
        await reconciler.once()
        assert "vip.announced" not in [entry["event"] for entry in logs]
        journal.refuse_speaker = False
        for error in (None, None, "thread is stuck", None, None):
            state.set_plane_error(error)
            journal.refuse_proof = error
            await reconciler.once()
    assert [entry["event"] for entry in logs].count("vip.announced") == 2


NO_ORDER = Order(AdminState.READY, 1.0, None, -1)
"""No store and no file lets this through; here it stands for whatever decisions cannot be made with."""


async def test_without_a_decision_the_one_before_stays():
    """Tables and routes stay, the error is told once, and what happens meanwhile counts when there is one again."""
    journal, state, reconciler = setup()
    await journal.plane.start()
    await reconciler.once()
    await reconciler.once()
    tables = journal.plane.tables
    state.set_order("web/web1", NO_ORDER)
    state.set_health("web/web2", Health.DOWN)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert not await reconciler.once()
        assert journal.plane.tables == tables
        assert journal.speaker.routes == {VIP_ROUTE}
        assert "weight -1" in reconciler.error
        state.set_order("web/web1", None)
        assert await reconciler.once()
    assert len(journal.plane.tables.members) == 2
    assert not reconciler.error
    assert [entry["event"] for entry in logs if "decision" in entry["event"]] == ["decision.failed", "decision.made"]


async def test_without_a_decision_nothing_is_announced_that_is_not_carried():
    """The plane fails meanwhile: the route goes; and comes back with the plane, before anything can be decided."""
    journal, state, reconciler = setup()
    await journal.plane.start()
    await reconciler.once()
    await reconciler.once()
    state.set_order("web/web1", NO_ORDER)
    journal.refuse_proof = "thread is stuck"
    await reconciler.once()
    await reconciler.once()
    assert journal.speaker.routes == frozenset()
    journal.refuse_proof = None
    await reconciler.once()
    await reconciler.once()
    assert reconciler.error
    assert journal.speaker.routes == {VIP_ROUTE}


async def test_a_first_decision_that_cannot_be_made():
    """A director that has never decided anything announces nothing, goes on, and says why."""
    journal, state, reconciler = setup()
    await journal.plane.start()
    state.set_order("web/web1", NO_ORDER)
    assert not await reconciler.once()
    assert reconciler.error
    assert journal.lines == []
    state.set_order("web/web1", None)
    await reconciler.once()
    await reconciler.once()
    assert journal.speaker.routes == {VIP_ROUTE}


async def test_run_takes_a_burst_of_changes_as_one():
    """However many signals, one more round sees them all."""
    journal, state, reconciler = setup()
    await journal.plane.start()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reconciler.run(), name="reconcile")
        async with asyncio.timeout(5):
            await journal.told(frozenset({VIP_ROUTE}))
            for number in (1, 2, 3):
                state.set_health(f"web/web{number}", Health.DOWN)
            await journal.written("routes 0", "program 0", "routes 0")
        running.cancel()
    assert journal.lines.count("program 0") == 1


async def test_pins_of_a_dead_member_are_forgotten_and_those_of_a_pool_that_is_cut_off_are_not():
    """A member that comes back has none of its flows; a director that was cut off for a moment knows all of them."""
    journal, state, reconciler = setup()
    await journal.plane.start()
    await reconciler.once()
    pins = journal.plane.pins
    for index in (0, 1):
        facts = FlowFacts(bytes([192, 0, 2, 1]), bytes([198, 51, 100, 7]), bytes(4), 6, index + 7, 0, 300)
        pins.keep(Pin(index, PinState.OPEN), facts, pins.now())
    hops = state.snapshot().next_hops
    state.set_next_hops({address: Unresolved("interface_down") for address in hops})
    await reconciler.once()
    assert len(pins.live()) == 2
    state.set_next_hops(hops)
    await reconciler.once()
    state.set_health("web/web1", Health.DOWN)
    await reconciler.once()
    assert pins.live().member.tolist() == [1]


async def test_what_an_earlier_process_has_left_is_not_touched_too_early():
    """While that is held, the plane proves itself and nothing is set; what is decided then comes into force at once."""
    journal, state, reconciler = setup()
    holding = [True]
    reconciler = Reconciler(
        state, journal.plane, journal.speaker, asyncio.Event(), holds=lambda desired: holding[0] and bool(desired.vips)
    )
    await journal.plane.start()
    assert not await reconciler.once()
    assert journal.lines == []
    assert state.snapshot().plane_error is None, "so the lease goes on"
    assert reconciler.applied is None
    journal.refuse_proof = "the program is gone"
    assert not await reconciler.once()
    assert state.snapshot().plane_error == "the program is gone"
    journal.refuse_proof = None
    assert not await reconciler.once()
    holding[0] = False
    assert await reconciler.once()
    assert journal.lines == ["program 3", "routes 1"]


async def test_states_that_members_come_into_are_counted():
    """Once for all virtual services of a pool; the state that a member begins with is none, and one that has gone is
    forgotten."""
    journal, changed = Journal(), asyncio.Event()
    shared = pool(member(1), member(2))
    services = [service(name=name, vips=(vip,), pool=shared) for name, vip in (("a", VIP), ("b", VIP_2))]
    state = State(config(*services), changed.set)
    reconciler = Reconciler(state, journal.plane, journal.speaker, changed)
    await journal.plane.start()
    for name in ("web/web1", "web/web2"):
        state.set_health(name, Health.UP)
    state.set_next_hops(snapshot().next_hops)
    await reconciler.once()
    begun = dict(reconciler.transitions)
    for health in (Health.DOWN, Health.UP, Health.DOWN):
        state.set_health("web/web2", health)
        await reconciler.once()
    new = {way: count for way, count in reconciler.transitions.items() if begun.get(way) != count}
    assert begun == {}
    assert new == {
        ("ipip", "web/web2", EffectiveState.OUT): 2,
        ("ipip", "web/web2", EffectiveState.IN_ROTATION): 1,
    }
    state.set_config(config(*(replace(one, pool=pool(member(1))) for one in services)))
    await reconciler.once()
    assert reconciler.transitions == {}

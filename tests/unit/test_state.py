"""The store signals what changed, and nothing else."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from appliance.flapping import flapped
from appliance.model import Flapping, Health
from appliance.state import IndexAllocator, Learning, LogEntry, LoggedMember, MemberWay, State
from tests.builders import L2, L3, config, hop, member, pool, service


def test_a_setter_that_changes_nothing_signals_nothing():
    """Saying the same thing twice wakes nobody twice."""
    signals = []
    state = State(config(), lambda: signals.append(1))
    state.set_health("web/web1", Health.UP)
    state.set_health("web/web1", Health.UP)
    assert len(signals) == 1
    hops = {member(1).address: hop()}
    state.set_next_hops(hops)
    state.set_next_hops(dict(hops))
    assert len(signals) == 2
    state.set_plane_error(None)
    state.set_plane_error(None)
    assert len(signals) == 3
    state.set_config(state.config)
    assert len(signals) == 3


def test_a_snapshot_does_not_change_under_its_reader():
    """What was learned later is not in an earlier snapshot."""
    state = State(config(), lambda: None)
    before = state.snapshot()
    state.set_health("web/web1", Health.DOWN)
    assert before.health == {}
    assert state.snapshot().health == {"web/web1": Health.DOWN}


def test_a_member_that_left_is_kept_until_it_is_forgotten_and_then_has_to_prove_itself_again():
    """A configuration without a member lets it leave, with its health; when nothing needs it, nothing is left of it."""
    state = State(config(), lambda: None)
    state.set_health("web/web1", Health.UP)
    state.set_health("web/web2", Health.UP)
    state.set_config(config(service(pool=pool(member(2)))))
    assert state.snapshot().health == {"web/web1": Health.UP, "web/web2": Health.UP}
    assert [(m.name, m.leaving) for m in state.config.pools[0].members] == [
        ("web2", False),
        ("web1", True),
        ("web3", True),
    ]
    state.forget(["web/web1", "web/web3"])
    assert state.snapshot().health == {"web/web2": Health.UP}
    assert [m.name for m in state.config.pools[0].members] == ["web2"]


def test_what_is_held_against_members_that_come_and_go():
    """Going down from up counts; out of maintenance, or without terms, it does not. It is held against a machine, and
    not against whoever gets its name."""
    flapping = replace(pool(), flapping=Flapping())
    state = State(config(service(pool=flapping)), lambda: None)
    state.set_health("web/web1", Health.DOWN, 1.0)
    assert state.snapshot().flaps == {}
    for at in (10.0, 20.0, 30.0):
        state.set_health("web/web1", Health.UP, at - 5)
        state.set_health("web/web1", Health.DOWN, at)
    assert state.snapshot().flaps == {"web/web1": flapped((10.0, 20.0, 30.0), Flapping())}
    for health in (Health.UP, Health.MAINTENANCE, Health.DOWN):
        state.set_health("web/web2", health, 40.0)
    assert "web/web2" not in state.snapshot().flaps
    replaced = replace(flapping, members=(replace(member(1), address=member(9).address), member(2), member(3)))
    state.set_config(config(service(pool=replaced)), 50.0)
    (name,) = state.snapshot().flaps
    assert name != "web/web1"
    assert name in {f"web/{m.name}" for m in state.config.pools[0].members if m.address == member(1).address}
    plain = State(config(), lambda: None)
    plain.set_health("web/web1", Health.UP)
    plain.set_health("web/web1", Health.DOWN)
    assert plain.snapshot().flaps == {}


def test_a_new_process_learns_from_the_log_who_came_and_went():
    """Who went out all at once was down; who drained first was meant to go. What this process has seen itself counts
    more, and later news of others tell it nothing that it has not seen."""
    given = config(service(pool=replace(pool(), flapping=Flapping())))

    def entry(at, taking, serving):
        return LogEntry(
            at, tuple(LoggedMember(f"web{n}", member(n).address, 1, n in taking, n in serving) for n in (1, 2, 3))
        )

    log = [
        entry(10.0, {1, 2, 3}, {1, 2, 3}),
        entry(20.0, {2}, {2, 3}),
        entry(30.0, {1, 2}, {1, 2}),
        entry(40.0, {2}, {2}),
    ]
    history = {("web", L3): tuple(log)}
    state = State(given, lambda: None)
    state.set_history(history)
    assert state.snapshot().flaps == {"web/web1": flapped((20.0, 40.0), Flapping())}
    there = State(given, lambda: None)
    for name in ("web/web1", "web/web2", "web/web3"):
        there.set_health(name, Health.UP)
    there.set_next_hops({member(n).address: hop() for n in (1, 2, 3)})
    there.set_history(history)
    assert there.snapshot().flaps == {}


def test_maintenance_has_a_beginning():
    """Since when a member says that it is worked on is known as long as it does."""
    state = State(config(), lambda: None)
    state.set_health("web/web1", Health.UP, 1.0)
    state.set_health("web/web1", Health.MAINTENANCE, 2.0)
    state.set_health("web/web1", Health.MAINTENANCE, 3.0)
    assert state.snapshot().maintained_since == {"web/web1": 2.0}
    state.set_health("web/web1", Health.UP, 4.0)
    assert state.snapshot().maintained_since == {}


def test_the_same_member_by_two_deliveries_has_two_indices():
    """Slots name a way to a member, not just the member."""
    given_index = IndexAllocator().update([MemberWay("web", "web1", L2), MemberWay("web", "web1", L3)])
    assert len(set(given_index.values())) == 2


@given(st.lists(st.sets(st.integers(0, 9), min_size=0, max_size=10), min_size=1, max_size=12))
def test_an_index_is_a_members_own_for_its_life(rounds):
    """Whatever comes and goes, who stays keeps its number, and no number is given twice at a time."""
    allocator = IndexAllocator()
    before = {}
    for present in rounds:
        now = allocator.update(MemberWay("p", str(n), L3) for n in sorted(present))
        assert len(set(now.values())) == len(now) == len(present)
        assert all(now[way] == index for way, index in before.items() if way in now)
        before = now


def test_what_is_known_of_a_machine_goes_by_its_address():
    """Health, penalties and times follow a member to its new name; who gets a name that is known begins anew."""
    terms = replace(pool(member(1), member(2)), flapping=Flapping())
    state = State(config(service(pool=terms)), lambda: None)
    for at, health in ((1.0, Health.UP), (2.0, Health.DOWN), (3.0, Health.UP)):
        state.set_health("web/web1", health, at)
    state.set_health("web/web2", Health.MAINTENANCE, 4.0)
    members = (member(1, name="web2", enabled=False), member(2, name="b"), member(3, name="web1"))
    state.set_config(config(service(pool=replace(terms, members=members))), 5.0)
    known = state.snapshot()
    assert known.health == {"web/web2": Health.UP, "web/b": Health.MAINTENANCE}
    assert known.up_since == {"web/web2": 3.0}
    assert known.maintained_since == {"web/b": 4.0}
    assert known.flaps == {"web/web2": flapped((2.0,), Flapping())}
    assert known.off_since == {"web/web2": 5.0}
    again = (member(1, name="last", enabled=False), member(2, name="b"), member(3, name="web1"))
    state.set_config(config(service(pool=replace(terms, members=again))), 6.0)
    assert state.snapshot().off_since == {"web/last": 5.0}, "it has been out since then"


def test_who_served_unasked_is_up_until_a_monitor_says_otherwise():
    """A pool that gets its first monitors goes on; but nobody is trusted who did not serve, or was not there."""
    unasked = pool(member(1), member(2, enabled=False), monitors=())
    state = State(config(service(pool=unasked)), lambda: None)
    state.set_next_hops({member(1).address: hop()})
    state.end_learning("web")
    asked = pool(member(1, name="renamed"), member(2), member(3))
    state.set_config(config(service(pool=asked)), 5.0)
    assert state.snapshot().health == {"web/renamed": Health.UP}
    assert state.snapshot().learning == {}, "or the VIP would be withdrawn"
    state.set_health("web/renamed", Health.DOWN, 6.0)
    state.set_config(config(service(pool=replace(asked, min_monitors_up=1))), 7.0)
    assert state.snapshot().health == {"web/renamed": Health.DOWN}, "only what has had no monitor"


def test_who_gets_packets_in_another_way_keeps_its_index():
    """Whatever its delivery is now, a member is the same machine; unless somebody goes on using the old way."""
    given = config()
    other = replace(given.services[0].profile, delivery=replace(L3, outer_ttl=7))
    state = State(given, lambda: None)
    before = {way.address: index for way, index in state.snapshot().indices.items()}
    state.set_history({("web", L3): (LogEntry(1.0, ()),)})
    state.set_config(config(service(profile=other)))
    after = state.snapshot()
    assert {way.address: index for way, index in after.indices.items()} == before
    assert {way.delivery for way in after.indices} == {other.delivery}
    assert after.history["web", other.delivery] == (LogEntry(1.0, ()),)
    state.set_config(config(service(profile=other), service(name="two")))
    both = state.snapshot().indices
    assert {way.address: index for way, index in both.items() if way.delivery == other.delivery} == before
    assert len(both) == 2 * len(before)


def test_a_freed_index_waits_until_fresh_ones_are_used_up():
    """A plane may still hold a freed number for packets in flight."""
    allocator = IndexAllocator()
    first = allocator.update([MemberWay("p", "a", L3)])
    allocator.update([])
    second = allocator.update([MemberWay("p", "b", L3)])
    assert set(first.values()).isdisjoint(second.values())


def ready(state):
    state.set_plane_error(None)
    state.set_next_hops({member(n).address: hop(n) for n in (1, 2, 3)})


def test_learning_ends_when_every_member_is_decided():
    """A new director knows enough when each member is down, or up with a way to it."""
    state = State(config(), lambda: None)
    ready(state)
    assert state.snapshot().learning == {"web": Learning.FIRST}
    state.set_health("web/web1", Health.UP)
    state.set_health("web/web2", Health.DOWN)
    assert state.snapshot().undecided(pool()) == ["web3"]
    state.set_health("web/web3", Health.UP)
    assert state.snapshot().learning == {}
    state.set_health("web/web3", Health.UNKNOWN)
    assert state.snapshot().learning == {}, "one member in doubt is no reason to begin again"


def test_learning_begins_again_when_no_member_is_usable():
    """Being cut off looks like all members failing: then bad verdicts are in doubt until every member is usable."""
    state = State(config(), lambda: None)
    ready(state)
    for n in (1, 2, 3):
        state.set_health(f"web/web{n}", Health.UP)
    assert state.snapshot().learning == {}
    for n in (1, 2, 3):
        state.set_health(f"web/web{n}", Health.DOWN)
    assert state.snapshot().learning == {"web": Learning.AGAIN}
    state.set_health("web/web1", Health.UP)
    assert state.snapshot().undecided(pool()) == ["web2", "web3"]
    state.set_health("web/web2", Health.UP)
    state.set_health("web/web3", Health.UP)
    assert state.snapshot().learning == {}


def test_learning_can_be_ended():
    """A member that never shows itself must not hold everything up."""
    signals = []
    state = State(config(), lambda: signals.append(1))
    state.end_learning("web")
    state.end_learning("web")
    assert state.snapshot().learning == {}
    assert len(signals) == 1

"""Decisions one after the other: what becomes of flows when members come, go, drain and change."""

from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest

from appliance.decide import ARRIVAL_S, Why, arrived, decide
from appliance.forwarding import NO_MEMBER, SLOTS
from appliance.model import AdminState, EffectiveState, Etcd, Fleet, FleetPeer, Health, Order, ProfileType
from appliance.ring.slots import unpack
from appliance.ring.transition import pin_facts
from appliance.state import Learning, PinsSeen, State
from tests.builders import config, member, pool, service, snapshot

START = 1_000_000.0
DRAIN = Order(AdminState.DRAIN, START)


def words(desired):
    primary, previous = unpack(desired.tables.services[0].slots)
    return primary.astype(int), previous.astype(int)


def view(desired, number):
    return desired.services[0].members[number - 1]


def nothing_remembered(desired):
    """Pin facts of a director that remembers no flow."""
    nothing = np.zeros(0, np.int64)
    facts = pin_facts(np.inf, nothing, nothing.astype(np.uint16), nothing.astype(np.float32))
    return PinsSeen(dict.fromkeys(desired.courses, facts), {})


def drained():
    """A pool of three in which web1 has been ordered to drain, and the pool before that."""
    before = decide(snapshot(), now=START)
    return before, decide(snapshot(orders={"web/web1": DRAIN}), before, START + 1)


def test_a_draining_member_keeps_its_flows_and_gets_no_new_ones():
    """Its slots have another primary and fall back to it; it stays in the tables; no other slot changes."""
    before, after = drained()
    (old, _), (primary, previous) = words(before), words(after)
    assert (primary != 0).all()
    assert (previous == old).all()
    assert (primary[old != 0] == old[old != 0]).all()
    assert 0 in after.tables.members
    assert (view(after, 1).state, view(after, 1).no.why) == (EffectiveState.DRAINING, Why.DRAIN)
    assert not view(after, 1).drained


@pytest.mark.parametrize("changes", [{"enabled": False}, {"ratio": 0}], ids=["disabled", "ratio 0"])
def test_a_reload_that_takes_a_member_out_drains_it(changes):
    """What a configuration says of new flows breaks none of the old ones."""
    before = decide(snapshot(), now=START)
    given = config(service(pool=pool(member(1, **changes), member(2), member(3))))
    after = decide(snapshot(given), before, START + 1)
    assert view(after, 1).state is EffectiveState.DRAINING
    assert (words(after)[1] == words(before)[0]).all()


def test_a_dead_member_hands_over_at_once():
    """Nobody falls back to it, and nothing has to be remembered."""
    before = decide(snapshot(), now=START)
    after = decide(snapshot(health={"web/web1": Health.DOWN}), before, START + 1)
    primary, previous = words(after)
    assert (primary == previous).all()
    assert (primary != 0).all()
    assert 0 not in after.tables.members


def test_a_member_that_comes_back_gets_new_flows_only():
    """Its slots fall back to those that stood in for it."""
    down = decide(snapshot(health={"web/web1": Health.DOWN}), now=START)
    back = decide(snapshot(), down, START + 1)
    assert (words(back)[0] == words(decide(snapshot()))[0]).all()
    assert (words(back)[1] == words(down)[0]).all()


def test_a_window_ends_and_then_the_tail():
    """After the window nobody falls back any more; when nothing is remembered either, the table is steady."""
    _, after = drained()
    given = snapshot(orders={"web/web1": DRAIN})
    assert decide(given, after, START + 800).tables.same(after.tables)
    tail = decide(given, after, START + 902)
    primary, previous = words(tail)
    assert set(previous[primary != previous].tolist()) == {NO_MEMBER}
    assert view(tail, 1).drained
    still = decide(given, tail, START + 910)
    assert still.tables.same(tail.tables)
    steady = decide(replace(given, pins=nothing_remembered(tail)), tail, START + 933)
    assert (words(steady)[0] == words(steady)[1]).all()
    assert steady.recheck_at is None


def test_a_window_ends_early_when_nobody_uses_it():
    """After `quiet_s` without a packet for the old owner the window closes."""
    _, after = drained()
    given = snapshot(orders={"web/web1": DRAIN}, pins=nothing_remembered(after))
    assert decide(given, after, START + 290).services[0].course.windows
    assert not decide(given, after, START + 302).services[0].course.windows


def test_flows_that_are_remembered_keep_the_table_from_being_steady():
    """As long as one flow is elsewhere, its slot is looked at; and a draining member with such flows is not drained."""
    _, after = drained()
    given = snapshot(orders={"web/web1": DRAIN})
    tail = decide(given, after, START + 902)
    one = np.flatnonzero(words(after)[1] == 0)[:1]
    facts = pin_facts(START + 932, one, np.zeros(1, np.uint16), np.zeros(1, np.float32))
    pins = PinsSeen(dict.fromkeys(tail.courses, facts), {0: 1})
    later = decide(replace(given, pins=pins), tail, START + 933)
    assert later.services[0].course.tails == 1
    assert not view(later, 1).drained


def test_flows_that_others_have_told_of_count_whatever_has_changed_since():
    """A director hears of flows elsewhere, and its next decision is about other words than those that they were looked
    at with: the slots of these flows are looked at all the same."""
    before = decide(snapshot(), now=START)
    owned = np.flatnonzero(words(before)[0] == 1)[:5]
    facts = pin_facts(START, owned, np.zeros(len(owned), np.uint16), np.zeros(len(owned), np.float32))
    pins = PinsSeen(dict.fromkeys(before.courses, facts), {0: len(owned)})
    changed = decide(snapshot(health={"web/web3": Health.DOWN}), before, START + 1)
    after = decide(snapshot(health={"web/web3": Health.DOWN}, pins=pins), changed, START + 2)
    assert (words(after)[1][owned] == NO_MEMBER).all()
    assert after.services[0].course.tails == len(owned)


@pytest.mark.parametrize("protocol", [ProfileType.TCP_FAST_PATH, ProfileType.UDP_FAST_PATH])
def test_a_reload_may_change_the_window_of_a_pool_that_is_on_its_way(protocol):
    """Slots in a window stay in it, and it is as long as the configuration says now, counted from its beginning."""

    def given(window_s):
        profile = replace(service().profile, type=protocol, session_idle_timeout_s=window_s)
        return config(service(profile=profile, pool=replace(pool(), window_s=float(window_s))))

    before = decide(snapshot(given(900)), now=START)
    after = decide(snapshot(given(900), orders={"web/web1": DRAIN}), before, START + 1)
    for window_s in (600, 1200):
        later = decide(snapshot(given(window_s), orders={"web/web1": DRAIN}), after, START + 500)
        assert all((mine == earlier).all() for mine, earlier in zip(words(later), words(after), strict=True))
        end = START + 1 + window_s
        later = decide(snapshot(given(window_s), orders={"web/web1": DRAIN}), later, end - 1)
        assert (words(later)[1] == words(after)[1]).all()
        later = decide(snapshot(given(window_s), orders={"web/web1": DRAIN}), later, end)
        assert not later.services[0].course.windows


def test_there_and_back_again():
    """A drain that is taken back within its window: slots are as before, and flows from in between are remembered."""
    before, after = drained()
    again = decide(snapshot(), after, START + 5)
    primary, previous = words(again)
    changed = words(before)[0] == 0
    assert (primary == words(before)[0]).all()
    assert (previous[changed] == NO_MEMBER).all()
    assert (previous[~changed] == primary[~changed]).all()


def test_the_time_of_a_drain_ends():
    """With a time-out, what is left is cut, and the decision knows when to look."""
    before = decide(snapshot(), now=START)
    given = snapshot(orders={"web/web1": replace(DRAIN, until=START + 60)})
    after = decide(given, before, START)
    assert after.recheck_at == START + 5
    cut = decide(given, after, START + 60)
    assert (view(cut, 1).state, view(cut, 1).no.why) == (EffectiveState.OUT, Why.DRAIN_OVER)
    assert 0 not in cut.tables.members


def test_maintenance_is_at_once():
    """Nothing goes to the member from then on."""
    before = decide(snapshot(), now=START)
    after = decide(snapshot(orders={"web/web1": Order(AdminState.MAINT, START)}), before, START)
    assert (view(after, 1).state, view(after, 1).no.why) == (EffectiveState.OUT, Why.MAINT)
    assert 0 not in words(after)[0]
    assert 0 not in words(after)[1]


def test_all_members_drain():
    """New flows are dropped, old ones go on, however long it takes."""
    before = decide(snapshot(), now=START)
    given = snapshot(orders={f"web/web{n}": DRAIN for n in (1, 2, 3)})
    after = decide(given, before, START)
    primary, previous = words(decide(given, after, START + 5000))
    assert (primary == NO_MEMBER).all()
    assert (previous == words(before)[0]).all()
    assert after.routes == frozenset()


def test_a_removed_member_stays_until_its_flows_are_over():
    """A reload without a member lets it leave; when nothing refers to it any more it is named as gone."""
    state = State(config(), lambda: None)
    state.set_next_hops(snapshot().next_hops)
    state.set_plane_error(None)
    for number in (1, 2, 3):
        state.set_health(f"web/web{number}", Health.UP, START)
    before = decide(state.snapshot(), None, START)
    state.set_config(config(service(pool=pool(member(2), member(3)))), START + 1)
    after = decide(state.snapshot(), before, START + 1)
    leaving = after.services[0].members[-1]
    assert (leaving.id, leaving.state, leaving.no.why) == ("web/web1", EffectiveState.DRAINING, Why.REMOVED)
    assert after.gone == frozenset()
    assert set(words(after)[1].tolist()) == {0, 1, 2}
    assert set(words(after)[0].tolist()) == {1, 2}
    over = decide(state.snapshot(), after, START + 950)
    assert over.gone == {"web/web1"}
    state.forget(over.gone)
    end = decide(state.snapshot(), over, START + 951)
    assert [m.id for m in end.services[0].members] == ["web/web2", "web/web3"]
    assert set(end.tables.members) == {1, 2}


def test_an_address_that_changes_hands_keeps_its_flows_apart():
    """A member that gets another address is another machine: flows of the old one stay with it."""
    state = State(config(), lambda: None)
    state.set_health("web/web1", Health.UP, START)
    moved = replace(member(1), address=member(9).address)
    state.set_config(config(service(pool=pool(moved, member(2), member(3)))), START)
    names = {m.name: (m.address, m.leaving) for m in state.config.pools[0].members}
    assert names[f"web1@{member(1).address}"] == (member(1).address, True)
    assert names["web1"] == (member(9).address, False)
    assert state.snapshot().health[f"web/web1@{member(1).address}"] is Health.UP


def test_a_slow_start_gives_slots_back_step_by_step():
    """A part of its slots after a part of the time, always more, and all in the end."""
    given = config(service(pool=replace(pool(member(1), member(2), member(3)), slow_start_s=100.0)))
    since = {"web/web1": START}
    last = decide(snapshot(given, health={"web/web1": Health.DOWN}), now=START)
    owned = set()
    for second in (0, 25, 50, 75, 100):
        last = decide(snapshot(given, up_since=since), last, START + second)
        mine = set(np.flatnonzero(words(last)[0] == 0).tolist())
        assert owned < mine
        assert abs(len(mine) / SLOTS * 3 - min(1, (second + 5) / 100)) < 0.03
        owned = mine
    assert view(last, 1).ramp == 1.0


SLOW = replace(pool(member(1), member(2), member(3)), slow_start_s=100.0)
COMES = {
    "down": (SLOW, {"health": {"web/web1": Health.DOWN}}),
    "maint": (SLOW, {"orders": {"web/web1": Order(AdminState.MAINT, START)}}),
    "drained": (SLOW, {"orders": {"web/web1": DRAIN}}),
    "said so itself": (SLOW, {"health": {"web/web1": Health.MAINTENANCE}}),
    "disabled": (replace(SLOW, members=(member(1, enabled=False), *SLOW.members[1:])), {}),
    "ratio 0": (replace(SLOW, members=(member(1, ratio=0), *SLOW.members[1:])), {}),
    "not there": (replace(SLOW, members=SLOW.members[1:]), {}),
    "no verdict yet": (SLOW, {"health": {"web/web1": Health.UNKNOWN}}),
}
"""How a pool, and what is known of it, may be before its first member comes into rotation."""


@pytest.mark.parametrize(("pool_before", "known"), COMES.values(), ids=COMES)
def test_who_comes_into_rotation_starts_slowly_whatever_it_was_before(pool_before, known):
    """From the moment at which it takes new flows, and not sooner; a process that begins later has the same slots."""
    all_well, out = config(service(pool=SLOW)), config(service(pool=pool_before))
    indices = snapshot(all_well).indices
    last = decide(snapshot(out, indices=indices, **known), now=START)
    last = decide(snapshot(out, indices=indices, **known), last, START + 900)
    assert not (words(last)[0] == 0).any()
    for second in (1000, 1050, 1099):
        last = decide(snapshot(all_well), last, START + second)
        assert view(last, 1).ramp == pytest.approx(min(1, (second + 5) / 100 - 10), abs=0.06)
        assert last.recheck_at is not None
        there = decide(snapshot(all_well, history=last.log), now=START + second)
        assert view(there, 1).ramp == view(last, 1).ramp
        assert (words(there)[0] == words(last)[0]).all()
    last = decide(snapshot(all_well), last, START + 1100)
    assert [view(last, number).ramp for number in (1, 2, 3)] == [1, 1, 1]
    assert (words(last)[0] == words(decide(snapshot(all_well), now=START))[0]).all()


def test_nobody_starts_slowly_because_a_director_does():
    """A director that begins does not know since when a member is well, and others may have it in full since long."""
    given = config(service(pool=SLOW))
    out = decide(snapshot(given, orders={"web/web1": DRAIN}), now=START)
    for history in ({}, out.log):
        waits = snapshot(given, {"web/web1": Health.UNKNOWN}, history=history, learning={"web": Learning.FIRST})
        new = decide(waits, now=START + 60)
        new = decide(snapshot(given, history=history), new, START + 61)
        assert view(new, 1).ramp == 1.0
        assert view(decide(snapshot(given), new, START + 62), 1).ramp == 1.0


def test_a_member_that_gets_another_name_does_not_start_anew():
    """It is who it was: nothing of it is cold."""
    last = decide(snapshot(config(service(pool=SLOW))), now=START)
    renamed = replace(SLOW, members=(member(1, name="www"), *SLOW.members[1:]))
    assert view(decide(snapshot(config(service(pool=renamed))), last, START + 1), 1).ramp == 1.0


def test_slow_starts_that_a_log_does_not_reach_back_to():
    """A log that has lost when a member began has how far it was: what follows is late by a step at most, and the
    director that was there goes on as it began."""
    given = config(service(pool=SLOW))
    last = decide(snapshot(given, health={"web/web1": Health.DOWN}), now=START)
    for second in range(60):
        last = decide(snapshot(given), last, START + second)
    key = next(iter(last.log))
    short = {key: tuple(entry for entry in last.log[key] if entry.at >= START + 30)}
    assert last.log[key][0].at < START + 30
    later = decide(snapshot(given, history=short), now=START + 59)
    assert view(last, 1).ramp - 0.05 <= view(later, 1).ramp <= view(last, 1).ramp == 0.6
    kept = decide(snapshot(given), replace(last, log=short), START + 60)
    assert view(kept, 1).ramp == pytest.approx(0.65)


def test_panic_keeps_the_last_good_set():
    """More members down at once than can be true: the pool stays as it was, and says so."""
    given = config(service(pool=replace(pool(member(1), member(2), member(3)), panic_percent=50)))
    before = decide(snapshot(given), now=START)
    one = decide(snapshot(given, health={"web/web1": Health.DOWN}), before, START)
    assert view(one, 1).state is EffectiveState.OUT
    down = {"web/web1": Health.DOWN, "web/web2": Health.DOWN}
    two = decide(snapshot(given, health=down), one, START)
    assert two.services[0].panic.why is Why.PANIC
    assert [v.state for v in two.services[0].members] == [
        EffectiveState.OUT,
        EffectiveState.IN_ROTATION,
        EffectiveState.IN_ROTATION,
    ]
    assert two.tables.same(one.tables)


def test_a_process_that_follows_knows_what_was_before():
    """With the log of the process before it, a new one makes the same words."""
    _, after = drained()
    given = snapshot(orders={"web/web1": DRAIN}, history=after.log)
    again = decide(given, None, START + 10)
    assert (words(again)[0] == words(after)[0]).all()
    assert (words(again)[1] == words(after)[1]).all()
    assert (words(decide(snapshot(orders={"web/web1": DRAIN}), None, START + 10))[1] != words(after)[1]).any()


def test_without_pins_every_change_is_for_all_packets():
    """A director that remembers no flows has no windows: what is in the table counts."""
    given = config()
    given = replace(given, director=replace(given.director, pins=0))
    before = decide(snapshot(given), now=START)
    after = decide(snapshot(given, orders={"web/web1": DRAIN}), before, START + 1)
    assert (words(after)[0] == words(after)[1]).all()


def test_udp_windows_last_for_an_idle_timeout():
    """Nobody can tell a new UDP flow from an old one, so new ones must not be kept for long."""
    profile = replace(service().profile, type=ProfileType.UDP_FAST_PATH, session_idle_timeout_s=10)
    given = config(service(profile=profile))
    before = decide(snapshot(given), now=START)
    after = decide(snapshot(given, orders={"web/web1": DRAIN}), before, START)
    assert decide(snapshot(given, orders={"web/web1": DRAIN}), after, START + 9).services[0].course.windows
    assert not decide(snapshot(given, orders={"web/web1": DRAIN}), after, START + 10).services[0].course.windows


TWO = Fleet((FleetPeer("d1", ip_address("192.0.2.1")), FleetPeer("d2", ip_address("192.0.2.2"))))


def in_fleet(**known):
    return replace(snapshot(**known), config=replace(config(), fleet=TWO))


def test_in_a_fleet_a_member_that_comes_back_is_known_to_all_before_it_gets_new_flows():
    """It is in the tables at once, so that flows that another director has given it are followed; slots come later."""
    down = decide(in_fleet(health={"web/web1": Health.DOWN}), decide(in_fleet(), now=START), START + 1)
    back = decide(in_fleet(), down, START + 2)
    assert (view(back, 1).state, view(back, 1).no.why) == (EffectiveState.OUT, Why.ARRIVING)
    assert 0 in back.tables.members
    assert (words(back)[0] == words(down)[0]).all()
    assert back.recheck_at == START + 2 + ARRIVAL_S
    still = decide(in_fleet(), back, START + 2.9)
    assert view(still, 1).no.why is Why.ARRIVING
    there = decide(in_fleet(), still, back.recheck_at)
    assert view(there, 1).state is EffectiveState.IN_ROTATION
    assert view(there, 1).arrives_at is None
    assert (words(there)[0] == words(decide(snapshot()))[0]).all()
    assert arrived(in_fleet(), back, START + 2).services[0].members == there.services[0].members


def test_nobody_waits_for_others_to_know_it_without_others():
    """A director by itself, one that has just started, and members of which there is no other."""
    down = {"web/web1": Health.DOWN}
    alone = decide(snapshot(), decide(snapshot(health=down), now=START), START + 1)
    assert view(alone, 1).state is EffectiveState.IN_ROTATION
    assert view(decide(in_fleet(), now=START), 1).state is EffectiveState.IN_ROTATION
    none = dict.fromkeys((f"web/web{number}" for number in (1, 2, 3)), Health.DOWN)
    gone = decide(in_fleet(health=none), decide(in_fleet(), now=START), START + 1)
    first = decide(in_fleet(health={**none, "web/web1": Health.UP}), gone, START + 2)
    assert view(first, 1).state is EffectiveState.IN_ROTATION
    # One by itself would get everything: it waits for nobody to come, and nobody waits for its sake.
    second = decide(in_fleet(health={**none, "web/web1": Health.UP, "web/web2": Health.UP}), first, START + 2.5)
    assert view(second, 2).no.why is Why.ARRIVING
    both = decide(in_fleet(), first, START + 2.5)
    assert [view(both, number).state for number in (1, 2, 3)] == [EffectiveState.IN_ROTATION] * 3


def test_no_vip_goes_for_members_that_arrive():
    """Where those that were there are too few for the virtual service, the new ones get flows at once."""
    given = replace(config(service(min_members=2)), fleet=TWO)
    maintained = Order(AdminState.MAINT, START)
    before = decide(snapshot(given, orders={"web/web3": maintained}), decide(snapshot(given), now=START), START + 1)
    after = decide(snapshot(given, orders={"web/web1": maintained}), before, START + 2)
    assert view(after, 3).state is EffectiveState.IN_ROTATION
    assert after.routes == before.routes != frozenset()


def test_a_member_that_served_all_along_waits_for_nobody():
    """A drain that is taken back gives it its slots at once: everybody has it in the tables."""
    drained = decide(in_fleet(orders={"web/web1": DRAIN}), decide(in_fleet(), now=START), START + 1)
    assert view(decide(in_fleet(), drained, START + 2), 1).state is EffectiveState.IN_ROTATION


ETCD = Fleet((FleetPeer("d1", ip_address("192.0.2.1")),), Etcd(("http://192.0.2.9:2379",), "/onward/"))


def cut_off(fleet, *, after=1.0, then=None):
    """Decisions of a director of such a fleet: before, and while it alone cannot reach web2, which stays up."""
    given = snapshot(replace(config(), fleet=fleet))
    before = decide(given, now=START)
    hops = {address: hop for address, hop in given.next_hops.items() if address != view(before, 2).address}
    return before, decide(replace(given, next_hops=hops), before, START + after), replace(given, next_hops=hops), given


def test_a_member_that_this_director_alone_cannot_reach_keeps_its_flows():
    """New ones go elsewhere from here; its own wait for it, however long it takes, and find it when it is back."""
    before, cut, given, healed = cut_off(ETCD)
    owned = np.flatnonzero(words(before)[0] == 1)
    member = view(cut, 2)
    assert (member.alone, member.state, member.no.why) == (True, EffectiveState.DRAINING, Why.UNREACHABLE)
    assert member.next_hop == view(before, 2).next_hop
    for later in (cut, decide(given, cut, START + 5000)):
        primary, previous = words(later)
        assert (primary[owned] != 1).all()
        assert (previous[owned] == 1).all()
        assert 1 in later.tables.members
        assert later.log == before.log, "for the others nothing has changed"
    after = decide(healed, later, START + 5001)
    primary, previous = words(after)
    assert (primary[owned] == 1).all()
    assert (previous[owned] == NO_MEMBER).all()
    assert view(after, 2).state is EffectiveState.IN_ROTATION


def test_a_member_that_the_fleet_gives_up_meanwhile_is_dead():
    """Waiting ends when the others cannot reach it either."""
    before, cut, given, _ = cut_off(ETCD)
    owned = np.flatnonzero(words(before)[0] == 1)
    dead = decide(replace(given, health=dict(given.health) | {"web/web2": Health.DOWN}), cut, START + 2)
    primary, previous = words(dead)
    assert not ((primary[owned] == 1) | (previous[owned] == 1)).any()
    assert not view(dead, 2).alone


def test_without_a_store_a_member_that_cannot_be_reached_is_dead():
    """Nobody says that it is up but this director's own monitor, which will soon know better."""
    before, cut, _, _ = cut_off(Fleet())
    owned = np.flatnonzero(words(before)[0] == 1)
    primary, previous = words(cut)
    assert not ((primary[owned] == 1) | (previous[owned] == 1)).any()
    assert view(cut, 2).state is EffectiveState.OUT


def test_a_director_that_was_not_there_knows_how_far_a_slow_start_is():
    """The log says since when the member is back, and a process that begins later has the same slots."""
    slow = replace(config().services[0].pool, slow_start_s=100.0)
    given = config(service(pool=slow))
    down = decide(snapshot(given, {"web/web2": Health.DOWN}), decide(snapshot(given), now=START - 9), START)
    up = snapshot(given, up_since={"web/web2": START + 10})
    there = decide(up, decide(up, down, START + 10), START + 40)
    assert 0 < view(there, 2).ramp < 1
    restarted = decide(replace(up, up_since={}, history=there.log), now=START + 40)
    assert view(restarted, 2).ramp == view(there, 2).ramp
    assert (words(restarted)[0] == words(there)[0]).all()

"""From what is known to what should be true, with a reason for every "no"."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.decide import Why, decide
from appliance.flapping import flapped, reuse_at
from appliance.forwarding import NO_MEMBER
from appliance.model import Algorithm, EffectiveState, Flapping, Health, NetworkProfile, PortRange, ProfileType
from appliance.state import LOCAL_ADDRESS, Learning, PathMtu, State, Unresolved
from bgp.route import Route
from tests.builders import L2, config, hop, member, pool, service, snapshot

VIP = ip_address("198.51.100.7")


def only(desired):
    return desired.services[0]


def test_all_well_announces_the_vip_and_shares_the_slots():
    """Three equal members own a third each, and the VIP is announced."""
    desired = decide(snapshot())
    assert desired.routes == {Route(VIP)}
    assert [round(view.share, 2) for view in only(desired).members] == [0.33, 0.33, 0.33]
    assert only(desired).no is None
    assert desired.tables.find(VIP, 6, 80).name == "web"
    assert set(desired.tables.members) == {0, 1, 2}


MEMBER_CASES = [
    ({"health": {"web/web1": Health.DOWN}}, {}, Why.HEALTH_DOWN),
    ({"health": {"web/web1": Health.UNKNOWN}}, {}, Why.HEALTH_UNKNOWN),
    ({}, {"enabled": False}, Why.DISABLED),
    ({}, {"ratio": 0}, Why.RATIO_ZERO),
]


@pytest.mark.parametrize(("known", "changes", "why"), MEMBER_CASES, ids=[case[2] for case in MEMBER_CASES])
def test_a_member_is_out_with_its_reason(known, changes, why):
    """Whatever keeps a member out of rotation is named, and it owns no slot."""
    given = config(service(pool=pool(member(1, **changes), member(2), member(3))))
    view = only(decide(snapshot(given, **known))).members[0]
    assert (view.state, view.no.why, view.share) == (EffectiveState.OUT, why, 0.0)


def test_a_member_without_next_hop_is_out_and_says_what_is_missing():
    """The netlink side's words reach the reason."""
    base = snapshot()
    hops = dict(base.next_hops) | {member(1).address: Unresolved("neighbour_unresolved", "203.0.113.1 does not answer")}
    view = only(decide(snapshot(next_hops=hops))).members[0]
    assert view.no.why is Why.UNREACHABLE
    assert "neighbour_unresolved 203.0.113.1 does not answer" in str(view.no)


def test_l2_members_must_be_on_the_segment():
    """A MAC rewrite cannot reach a member behind a router; the reason names the way out."""
    profile = NetworkProfile("tcp-l2", ProfileType.TCP_FAST_PATH, L2, 300)
    given = config(service(profile=profile, pool=pool(member(1), member(2))))
    hops = {member(1).address: hop(1, direct=True), member(2).address: hop(2, direct=False)}
    views = only(decide(snapshot(given, next_hops=hops))).members
    assert views[0].no is None
    assert views[1].no.why is Why.NOT_ON_SEGMENT
    assert "use L3 DSR" in views[1].no.detail


def test_the_last_member_out_withdraws_the_vip_with_the_reason():
    """No member in rotation: no route, and every slot says "nobody"."""
    down = {f"web/web{n}": Health.DOWN for n in (1, 2, 3)}
    desired = decide(snapshot(health=down))
    assert desired.routes == frozenset()
    assert desired.vips[0].no.why is Why.BELOW_MIN_MEMBERS
    assert (desired.tables.services[0].slots & 0xFFFF == NO_MEMBER).all()


def test_min_members_counts_members_in_rotation():
    """Two of three in rotation are too few where three are wanted."""
    given = config(service(min_members=3))
    desired = decide(snapshot(given, health={"web/web1": Health.DOWN}))
    assert desired.routes == frozenset()
    assert "2 in rotation, 3 wanted" in str(desired.vips[0].no)


def test_advertise_down_keeps_the_route_but_never_without_a_plane():
    """An operator may want an empty VIP announced; a plane that does not forward is another matter."""
    given = config(service(advertise_down=True))
    down = {f"web/web{n}": Health.DOWN for n in (1, 2, 3)}
    assert decide(snapshot(given, health=down)).routes == {Route(VIP)}
    desired = decide(snapshot(given, plane_error="thread is stuck"))
    assert desired.routes == frozenset()
    assert str(desired.vips[0].no) == "plane_down: thread is stuck"


def test_advertise_down_waits_until_a_new_director_has_heard_of_its_members():
    """It has nobody to send packets to, where others may have; when all are known, dead or not, it announces."""
    state = State(config(service(advertise_down=True)), lambda: None)
    state.set_next_hops(snapshot().next_hops)
    state.set_plane_error(None)
    desired = decide(state.snapshot())
    assert desired.routes == frozenset()
    assert str(desired.vips[0].no) == "learning: web: not heard of web1, web2, web3 yet"
    for number in (1, 2):
        state.set_health(f"web/web{number}", Health.DOWN)
    assert str(decide(state.snapshot()).vips[0].no) == "learning: web: not heard of web3 yet"
    state.set_health("web/web3", Health.DOWN)
    assert decide(state.snapshot()).routes == {Route(VIP)}
    plain = State(config(service(advertise_down=True, pool=pool(member(1), monitors=()))), lambda: None)
    plain.set_plane_error(None)
    assert str(decide(plain.snapshot()).vips[0].no) == "learning: web: not heard of web1 yet"
    plain.set_next_hops({member(1).address: Unresolved("neighbour_unresolved")})
    assert decide(plain.snapshot()).routes == {Route(VIP)}


def test_a_new_director_has_to_hear_of_all_pools_of_a_vip():
    """One pool is known, the other one is not: packets for that could only be dropped. One that is dead does not count,
    nor does one that has lost its members later."""
    dns = service(name="dns", ports=(PortRange(53, 53),), pool=pool(member(9), name="dns"))
    state = State(config(service(), dns), lambda: None)
    state.set_next_hops(snapshot(config(service(), dns)).next_hops)
    state.set_plane_error(None)
    for number in (1, 2, 3):
        state.set_health(f"web/web{number}", Health.UP)
    assert str(decide(state.snapshot()).vips[0].no) == "learning: dns: not heard of web9 yet"
    state.set_health("dns/web9", Health.DOWN)
    assert decide(state.snapshot()).routes == {Route(VIP)}
    state.set_health("dns/web9", Health.UP)
    state.set_health("dns/web9", Health.UNKNOWN)
    assert decide(state.snapshot()).routes == {Route(VIP)}


def test_a_vip_may_need_all_of_its_services():
    """One dead service withdraws it, with its name as the reason; one that is disabled, or announced without members,
    does not."""
    dead = service(name="dns", ports=(PortRange(53, 53),), pool=pool(member(9), name="dns"), needs_all=True)
    down = {"dns/web9": Health.DOWN}
    desired = decide(snapshot(config(service(needs_all=True), dead), health=down))
    assert desired.routes == frozenset()
    assert str(desired.vips[0].no) == "not_all_services_up: dns: below_min_members: 0 in rotation, 1 wanted"
    assert decide(snapshot(config(service(needs_all=True), dead))).routes == {Route(VIP)}
    for other in (replace(dead, enabled=False), replace(dead, advertise_down=True)):
        assert decide(snapshot(config(service(needs_all=True), other), health=down)).routes == {Route(VIP)}


def test_a_vip_stays_while_any_of_its_services_serves():
    """One dead service does not take its neighbour on the same VIP along."""
    dead = service(name="dns", ports=(PortRange(53, 53),), pool=pool(member(9), name="dns"))
    desired = decide(snapshot(config(service(), dead), health={"dns/web9": Health.DOWN}))
    assert desired.routes == {Route(VIP)}
    assert desired.services[1].no.why is Why.BELOW_MIN_MEMBERS


def test_a_disabled_service_is_not_in_the_tables():
    """Its packets are nobody's business, and its VIP is not announced."""
    desired = decide(snapshot(config(service(enabled=False))))
    assert desired.tables.services == ()
    assert desired.vips[0].no.why is Why.SERVICE_DISABLED


def test_without_bgp_nothing_is_announced_and_the_reason_says_so():
    """A director without [bgp] still forwards."""
    desired = decide(snapshot(config(bgp=False)))
    assert desired.routes == frozenset()
    assert desired.vips[0].no.why is Why.NO_BGP
    assert desired.tables.services


def test_what_was_learned_of_a_way_is_in_the_tables_of_tunnels():
    """A smaller path MTU makes the member's largest packet smaller; a larger one, or L2 DSR, makes no difference."""
    first = decide(snapshot())
    sizes = {member.id: member.inner_mtu for member in first.tables.members.values()}
    assert set(sizes.values()) == {1480}
    learned = {member(1).address: PathMtu(1400, 5.0), member(2).address: PathMtu(9000, 5.0)}
    then = decide(snapshot(path_mtus=learned), first)
    assert {m.id: m.inner_mtu for m in then.tables.members.values()} == sizes | {"web/web1": 1380}
    assert not first.tables.same(then.tables)
    assert (then.tables.services[0].slots == first.tables.services[0].slots).all()
    forgotten = decide(snapshot(), then)
    assert {m.id: m.inner_mtu for m in forgotten.tables.members.values()} == sizes
    near = {one.address: hop(one.address.packed[-1], direct=True) for one in map(member, (1, 2, 3))}
    profile = NetworkProfile("tcp-l2", ProfileType.TCP_FAST_PATH, L2, 300)
    l2 = decide(snapshot(config(service(profile=profile)), path_mtus=learned, next_hops=near))
    assert {m.inner_mtu for m in l2.tables.members.values()} == {1500}


def test_pings_are_answered_for_vips_that_are_up():
    """A VIP that is announced answers, one that is not does not; without BGP it is the service that counts."""
    down = {f"web/web{number}": Health.DOWN for number in (1, 2, 3)}
    assert decide(snapshot()).tables.answering == {VIP}
    assert decide(snapshot(health=down)).tables.answering == frozenset()
    assert decide(snapshot(config(service(advertise_down=True)), health=down)).tables.answering == {VIP}
    assert decide(snapshot(plane_error="stuck")).tables.answering == frozenset()
    assert decide(snapshot(config(bgp=False))).tables.answering == {VIP}
    assert decide(snapshot(config(bgp=False), health=down)).tables.answering == frozenset()
    assert not decide(snapshot()).tables.same(decide(snapshot(plane_error="stuck")).tables)


def test_a_failure_moves_only_the_flows_of_the_member_that_failed():
    """The overlay's promise, seen through the decision."""
    before = decide(snapshot()).tables.services[0].slots & 0xFFFF
    after = decide(snapshot(health={"web/web2": Health.DOWN})).tables.services[0].slots & 0xFFFF
    index = decide(snapshot()).services[0].members[1].index
    moved = before != after
    assert (before[moved] == index).all()
    assert (after != index).all()


def test_services_of_one_pool_and_delivery_share_their_slots():
    """One table in memory however many VIPs and ports use it."""
    shared = pool()
    given = config(service(pool=shared), service(name="alt", ports=(PortRange(8080, 8080),), pool=shared))
    tables = decide(snapshot(given)).tables
    assert tables.services[0].slots is tables.services[1].slots


def test_equal_knowledge_gives_equal_tables():
    """Idempotence starts with tables that can be compared, whenever they were made."""
    tables = decide(snapshot()).tables
    assert tables.same(decide(snapshot()).tables)
    assert not tables.same(decide(snapshot(health={"web/web1": Health.DOWN})).tables)
    moved = tables.services[0].slots.copy()
    moved[0] += 1
    other = replace(tables, services=tuple(replace(service, slots=moved) for service in tables.services))
    assert not tables.same(other)


def test_what_has_not_changed_is_taken_over():
    """With thousands of members, the data plane sees at once that most of them are the very same."""
    known = snapshot()
    before = decide(known)
    after = decide(known, before)
    assert after.tables.services[0].slots is before.tables.services[0].slots
    assert all(after.tables.members[index] is member for index, member in before.tables.members.items())
    changed = decide(snapshot(health={"web/web1": Health.DOWN}), before)
    fresh = decide(snapshot(health={"web/web1": Health.DOWN}))
    assert changed.tables.same(fresh.tables)
    assert changed.services == fresh.services


def test_a_new_director_waits_for_the_first_verdict_of_every_member():
    """Announcing a table that other directors contradict would break their flows; the reason says who is waited for."""
    waiting, learning = {"web/web2": Health.UNKNOWN}, {"web": Learning.FIRST}
    desired = decide(snapshot(health=waiting, learning=learning))
    assert desired.routes == frozenset()
    assert str(desired.vips[0].no) == "learning: not heard of web2 yet"
    assert decide(snapshot(learning=learning)).routes == {Route(VIP)}
    assert decide(snapshot(health={"web/web2": Health.DOWN}, learning=learning)).routes == {Route(VIP)}
    assert decide(snapshot(health=waiting)).routes == {Route(VIP)}, "a member added later withdraws nothing"


def test_a_director_that_was_cut_off_waits_for_all_members():
    """A verdict from that time may have been our own fault, so a member that is down is waited for, too."""
    down = {"web/web2": Health.DOWN}
    desired = decide(snapshot(health=down, learning={"web": Learning.AGAIN}))
    assert desired.routes == frozenset()
    assert str(desired.vips[0].no) == "learning: not heard of web2 yet"


def test_a_vip_that_is_our_own_address_is_left_alone():
    """Taking its packets from the kernel could cut the director off: not in the tables, not announced, and why."""
    base = snapshot()
    hops = dict(base.next_hops) | {VIP: Unresolved(LOCAL_ADDRESS, "198.51.100.7 is an address of this director")}
    desired = decide(snapshot(next_hops=hops))
    assert desired.tables.vips == frozenset()
    assert desired.routes == frozenset()
    assert desired.vips[0].no.why is Why.LOCAL_ADDRESS


def test_a_member_that_is_worked_on_drains():
    """A member that says so gets no new flows and keeps those that it has, and its slots fall back to it meanwhile."""
    first = decide(snapshot(), None, 1000.0)
    second = decide(snapshot(health={"web/web1": Health.MAINTENANCE}), first, 1001.0)
    view = only(second).members[0]
    assert (view.state, view.no.why, view.share) == (EffectiveState.DRAINING, Why.MAINTENANCE, 0.0)
    assert view.index in second.tables.members
    slots = second.tables.services[0].slots
    assert view.index not in slots & 0xFFFF
    assert (slots >> 16 == view.index).sum() == (first.tables.services[0].slots & 0xFFFF == view.index).sum() > 0
    gone = only(decide(snapshot(health={"web/web1": Health.DOWN}), second, 1002.0)).members[0]
    assert (gone.state, gone.no.why) == (EffectiveState.OUT, Why.HEALTH_DOWN)


def test_maintenance_of_all_is_no_doubt():
    """When all members say so, nobody gets new flows, and those that there are go on; the pool is not "cut off"."""
    given = snapshot(health=dict.fromkeys(("web/web1", "web/web2", "web/web3"), Health.MAINTENANCE))
    second = decide(given, decide(snapshot(), None, 1000.0), 1001.0)
    assert [view.state for view in only(second).members] == [EffectiveState.DRAINING] * 3
    assert set(second.tables.members) == {0, 1, 2}
    assert given.usable(given.config.pools[0])


def test_maintenance_ends_with_the_drain_time_out():
    """What is left is cut when the pool's drain_timeout has passed since the member first said so."""
    given = config(service(pool=replace(pool(), drain_timeout_s=60.0)))
    known = snapshot(given, {"web/web1": Health.MAINTENANCE}, maintained_since={"web/web1": 1000.0})
    draining = decide(known, decide(snapshot(given), None, 999.0), 1059.0)
    assert only(draining).members[0].state is EffectiveState.DRAINING
    assert draining.recheck_at == 1060.0
    cut = only(decide(known, draining, 1060.0)).members[0]
    assert (cut.state, cut.no.why) == (EffectiveState.OUT, Why.DRAIN_OVER)


def test_monitors_that_are_not_believed_do_not_end_maintenance():
    """In a panic members stay as they were, but one that says itself that it is worked on is believed."""
    given = config(service(pool=replace(pool(), panic_percent=30)))
    health = {"web/web1": Health.MAINTENANCE, "web/web2": Health.DOWN}
    second = decide(snapshot(given, health), decide(snapshot(given)))
    assert [view.state for view in only(second).members] == [
        EffectiveState.DRAINING, EffectiveState.IN_ROTATION, EffectiveState.IN_ROTATION,
    ]  # fmt: skip


FLAP = flapped((1000.0, 1010.0, 1020.0), Flapping())


def test_a_member_that_comes_and_goes_is_held():
    """It is up, and gets no new flows until its penalty has gone; the decision knows when that is."""
    given = config(service(pool=replace(pool(), flapping=Flapping())))
    first = decide(snapshot(given), None, 1020.0)
    second = decide(snapshot(given, flaps={"web/web1": FLAP}, path_mtus={}), replace(first, rings={}), 1030.0)
    view = only(second).members[0]
    assert (view.state, view.no.why) == (EffectiveState.DRAINING, Why.FLAPPING)
    assert "went down 3 times lately: penalty 2932" in str(view.no)
    ends = reuse_at(FLAP, Flapping())
    later = decide(snapshot(given, flaps={"web/web1": FLAP}), second, ends)
    assert only(later).members[0].state is EffectiveState.IN_ROTATION


def test_holding_waits_for_nobody():
    """Time alone takes a held member back: the decision is to be looked at again then."""
    given = config(service(pool=replace(pool(), flapping=Flapping())))
    assert decide(snapshot(given, flaps={"web/web1": FLAP}), None, 1030.0).recheck_at == reuse_at(FLAP, Flapping())


def test_an_outlier_keeps_a_part_of_its_share():
    """By hash and by choice: in rotation with less, and says why; with its share again when it is like the others."""
    for algorithm in (Algorithm.CONSISTENT_HASH, Algorithm.RANDOM):
        given = config(service(pool=replace(pool(), algorithm=algorithm, passive_weight=0.25)))
        first = decide(snapshot(given), None, 1000.0)
        second = decide(snapshot(given, outliers={"web/web1": "it is late"}), first, 1010.0)
        odd, others = only(second).members[0], only(second).members[1:]
        assert odd.state is EffectiveState.IN_ROTATION
        assert odd.remark == "keeps 25% of its share: it is late"
        assert not any(view.remark for view in others)
        assert odd.share == pytest.approx(only(first).members[0].share / 4, rel=0.1)
        assert sum(view.share for view in only(second).members) == pytest.approx(1.0)
        after = decide(snapshot(given), second, 1020.0)
        assert [(view.share, view.remark) for view in only(after).members] == [
            (view.share, "") for view in only(first).members
        ]
        plain = config(service(pool=replace(pool(), algorithm=algorithm)))
        assert not only(decide(snapshot(plain, outliers={"web/web1": "it is late"}))).members[0].remark


def test_a_pool_without_terms_holds_nobody():
    """flap_half_life = 0."""
    assert only(decide(snapshot(flaps={"web/web1": FLAP}), None, 1030.0)).members[0].no is None

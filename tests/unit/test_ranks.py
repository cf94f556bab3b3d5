"""Which director routers are to prefer: the same on all, and never nobody."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decide import Desired, decide
from appliance.model import BgpPeer, FleetPeer, HaMode, IPAddress
from appliance.ranks import order, standing
from bgp.route import Attributes
from tests.builders import config, service, snapshot

VIP = ip_address("198.51.100.7")
FLEETS = st.lists(st.sampled_from([f"d{n}" for n in range(9)]), min_size=2, max_size=7, unique=True)
MODES = st.sampled_from(HaMode)
NUMBERS = st.integers(0, 255)


def made(mode: HaMode, fleet: list[str], primaries: int = 1, prefer: tuple[str, ...] = ()):
    return service(ha=mode, primaries=min(primaries, len(fleet) - 1), prefer=prefer)


@given(MODES, FLEETS, NUMBERS, st.integers(1, 6), st.data())
def test_whoever_is_left_there_are_as_many_best_ones_as_there_should_be(mode, fleet, last, primaries, data):
    """For any directors that are alive and know it of each other: N best ones, or all when they are fewer, and one at
    least; in a fixed order of preference the first one alive is better than all others."""
    vip = ip_address(f"198.51.100.{last}")
    wanted = made(mode, fleet, primaries)
    alive = data.draw(st.lists(st.sampled_from(fleet), min_size=1, unique=True))
    away = frozenset(fleet) - frozenset(alive)
    stands = {name: standing(wanted, order(wanted, vip, fleet), name, away - {name}) for name in alive}
    best = [name for name in alive if stands[name] == min(stands.values())]
    count = {HaMode.ACTIVE_ACTIVE: len(alive), HaMode.ACTIVE_STANDBY: 1, HaMode.N_PLUS_M: wanted.primaries}[mode]
    assert len(best) == min(count, len(alive))
    if mode is not HaMode.ACTIVE_STANDBY:
        assert min(stands.values()) == 0


@given(FLEETS, NUMBERS, st.integers(1, 6), st.data())
def test_who_hears_less_only_adds_best_ones(fleet, last, primaries, data):
    """Each director may take any others for gone that are not: there are never fewer primaries for it."""
    wanted = made(HaMode.N_PLUS_M, fleet, primaries)
    ranked = order(wanted, ip_address(f"198.51.100.{last}"), fleet)
    errors = {name: frozenset(data.draw(st.lists(st.sampled_from(fleet)))) - {name} for name in fleet}
    best = {name for name in fleet if standing(wanted, ranked, name) == 0}
    assert best <= {name for name in fleet if standing(wanted, ranked, name, errors[name]) == 0}


@given(MODES, FLEETS, NUMBERS, st.data())
def test_ranks_are_the_same_on_all_directors(mode, fleet, last, data):
    """All are there once; for N+M not even the order in the configuration matters, and who leaves changes nobody else's
    place."""
    vip, wanted = ip_address(f"198.51.100.{last}"), made(mode, fleet)
    ranked = order(wanted, vip, fleet)
    assert sorted(ranked) == sorted(fleet)
    if mode is HaMode.N_PLUS_M:
        assert order(wanted, vip, data.draw(st.permutations(fleet))) == ranked
    gone = data.draw(st.sampled_from(fleet))
    left = order(wanted, vip, [name for name in fleet if name != gone])
    assert left == tuple(name for name in ranked if name != gone)


def test_preferred_directors_come_first():
    """In their order; then the others as the fleet lists them."""
    fleet = ["d1", "d2", "d3", "d4"]
    assert order(made(HaMode.ACTIVE_STANDBY, fleet, prefer=("d3", "d2")), VIP, fleet) == ("d3", "d2", "d1", "d4")


def test_vips_are_spread_over_the_fleet():
    """N+M: each director is among the best for its share of many VIPs."""
    fleet = ["d1", "d2", "d3"]
    wanted = made(HaMode.N_PLUS_M, fleet, 2)
    chosen = Counter(name for n in range(250) for name in order(wanted, ip_address(f"198.51.100.{n}"), fleet)[:2])
    assert sum(chosen.values()) == 500
    assert all(130 < count < 205 for count in chosen.values()), chosen


def decided(
    me: str,
    mode: HaMode,
    away: frozenset[str] = frozenset(),
    absent: Mapping[IPAddress, frozenset[str]] | None = None,
    **changes: object,
) -> Desired:
    given_config = config(service(ha=mode, **changes))
    assert given_config.bgp is not None
    peers = (*given_config.bgp.peers, BgpPeer(ip_address("192.0.2.2"), 65010, 9))
    fleet = tuple(FleetPeer(f"d{n}", ip_address(f"192.0.2.1{n}")) for n in (1, 2, 3))
    return decide(
        snapshot(
            replace(
                given_config,
                bgp=replace(given_config.bgp, peers=peers),
                director=replace(given_config.director, name=me),
                fleet=replace(given_config.fleet, directors=fleet),
            ),
            away=away,
            absent=absent or {},
        )
    )


def told(desired: Desired) -> dict[str, Attributes]:
    (view,) = desired.vips
    return {str(peer): route.attributes for route in view.routes for peer in route.peers or ()}


@pytest.mark.parametrize(("me", "steps"), [("d1", 0), ("d2", 1), ("d3", 2)])
def test_every_director_announces_and_routers_can_tell_them_apart(me, steps):
    """MED for other ASes, local preference within our own."""
    desired = decided(me, HaMode.ACTIVE_STANDBY)
    assert told(desired) == {
        "192.0.2.1": Attributes(med=100 * steps),
        "192.0.2.2": Attributes(med=100 * steps, local_preference=100 - 10 * steps),
    }
    assert (desired.vips[0].ranked, desired.vips[0].standing) == (("d1", "d2", "d3"), steps)
    assert len(desired.routes) == 2


def test_a_spare_takes_the_place_of_one_that_is_away():
    """2+1: the third becomes one of the best when nothing is heard of another one, or that has not this VIP."""
    ranked = decided("d1", HaMode.N_PLUS_M, primaries=2).vips[0].ranked
    spare = decided(ranked[2], HaMode.N_PLUS_M, primaries=2)
    assert [decided(name, HaMode.N_PLUS_M, primaries=2).vips[0].standing for name in ranked] == [0, 0, 1]
    assert told(spare)["192.0.2.1"].med == 100
    for name in ranked[:2]:
        promoted = decided(ranked[2], HaMode.N_PLUS_M, frozenset({name}), primaries=2)
        assert told(promoted)["192.0.2.1"].med == 0
        promoted = decided(ranked[2], HaMode.N_PLUS_M, absent={VIP: frozenset({name})}, primaries=2)
        assert told(promoted)["192.0.2.1"].med == 0
    elsewhere = {ip_address("198.51.100.8"): frozenset(ranked)}
    assert told(decided(ranked[2], HaMode.N_PLUS_M, absent=elsewhere, primaries=2))["192.0.2.1"].med == 100


def test_nobody_is_worse_in_active_active():
    """No steps, no attributes: as if there were no ranks."""
    desired = decided("d3", HaMode.ACTIVE_ACTIVE)
    assert [str(route) for route in desired.routes] == ["198.51.100.7/32 via self"]

"""Server IDs of members in connection IDs of QUIC: the same for all directors, and stable."""

from dataclasses import replace
from ipaddress import ip_address

from appliance.decide import decide
from appliance.model import EffectiveState, Health, NetworkProfile, Pool, ProfileType, QuicConfig
from appliance.server_ids import collisions, server_ids
from tests.builders import L3, SECRET, config, member, pool, service, snapshot

QUIC = QuicConfig(2, 4, 12)
UDP = NetworkProfile("udp", ProfileType.UDP_FAST_PATH, L3, 10)


def carrying(*configs: QuicConfig, of: Pool | None = None) -> Pool:
    return replace(of or pool(), quic=configs or (QUIC,))


def test_other_members_make_no_difference() -> None:
    """A member that comes or goes changes nobody else's ID."""
    few, many = pool(*map(member, (2, 5))), pool(*map(member, range(1, 20)))
    ids = server_ids(many, QUIC, SECRET)
    assert server_ids(few, QUIC, SECRET) == {name: ids[name] for name in ("web2", "web5")}
    assert len(set(ids.values())) == 19
    assert {len(one) for one in ids.values()} == {4}


def test_what_makes_a_difference() -> None:
    """Another pool, config ID, length or secret gives other IDs; a key gives none."""
    ids = server_ids(pool(), QUIC, SECRET)
    others = [
        server_ids(pool(name="other"), QUIC, SECRET),
        server_ids(pool(), replace(QUIC, config_id=3), SECRET),
        server_ids(pool(), replace(QUIC, server_id_length=5), SECRET),
        server_ids(pool(), QUIC, SECRET + b"!"),
    ]
    for other in others:
        assert not set(ids.values()) & {one[:4] for one in other.values()}
    assert server_ids(pool(), replace(QUIC, key=bytes(16), nonce_length=9), SECRET) == ids


def test_one_that_is_given_counts_where_it_fits() -> None:
    """What stands in the configuration is the ID, in configurations of its length."""
    given = pool(member(1, server_id=b"abcd"), member(2))
    assert server_ids(given, QUIC, SECRET)["web1"] == b"abcd"
    assert server_ids(given, replace(QUIC, server_id_length=3), SECRET)["web1"] != b"abc"


def test_collisions_are_found() -> None:
    """Two members with one ID are named."""
    given = pool(member(1, server_id=b"abcd"), member(2), member(3, server_id=b"abcd"))
    assert list(collisions(given, QUIC, SECRET)) == [("web3", "web1")]
    assert not list(collisions(pool(), QUIC, SECRET))


def test_decided_for_udp_only() -> None:
    """Of two services of a pool, the one over UDP finds members by their IDs."""
    given = carrying()
    web = service(pool=given)
    fast = service(name="fast", profile=UDP, pool=given, vips=(ip_address("198.51.100.7"), ip_address("2001:db8:f::7")))
    tables = decide(snapshot(config(web, fast))).tables
    ids = server_ids(given, QUIC, SECRET)
    found = {one.vip: one.quic for one in tables.services if one.name == "fast"}
    assert len(found) == 2
    for ((known,),) in zip(found.values(), strict=True):
        assert known.config is QUIC
        assert {tables.members[index].id for index in known.servers.values()} == {"web/web1", "web/web2", "web/web3"}
        assert tables.members[known.servers[ids["web2"]]].id == "web/web2"
    assert [one.quic for one in tables.services if one.name == "web"] == [()]


def test_who_drains_is_named_and_who_is_down_is_not() -> None:
    """Connections of a member that drains go on; those of one that is down go by their hash."""
    given = carrying(of=pool(member(1, enabled=False), member(2), member(3), member(4)))
    asked = snapshot(config(service(profile=UDP, pool=given)))
    before = decide(asked)
    down = decide(replace(asked, health=dict(asked.health) | {"web/web2": Health.DOWN}), before, 1.0)
    (known,) = down.tables.services[0].quic
    names = {down.tables.members[index].id for index in known.servers.values()}
    states = {view.name: view.state for view in down.services[0].members}
    assert states["web2"] is EffectiveState.OUT
    assert "web/web2" not in names
    assert {"web/web1", "web/web3", "web/web4"} == names


def test_a_former_pool_is_still_understood() -> None:
    """After a reload that gives a service another pool, connections to members of the one before go on; where both mean
    another thing by one config ID, the new one counts."""
    old = carrying(QUIC, QuicConfig(5, 4, 12))
    new = replace(carrying(QUIC, of=pool(member(7), member(8))), name="other")
    now = service(profile=UDP, pool=new, former=(old,))
    both = {one.config.config_id: one for one in decide(snapshot(config(now))).tables.services[0].quic}
    assert both.keys() == {2, 5}
    assert len(both[2].servers) == 5
    assert len(both[5].servers) == 3
    keyed = replace(new, quic=(replace(QUIC, key=bytes(16)),))
    other = decide(snapshot(config(replace(now, pool=keyed)))).tables.services[0].quic
    assert {one.config.config_id: len(one.servers) for one in other} == {2: 2, 5: 3}


def test_nothing_new_is_the_same_value() -> None:
    """Without news, the next decision has the very same services, so that planes have nothing to do."""
    asked = snapshot(config(service(profile=UDP, pool=carrying())))
    before = decide(asked)
    assert decide(asked, before, 1.0).tables.services[0] is before.tables.services[0]

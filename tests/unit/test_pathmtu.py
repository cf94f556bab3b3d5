"""What is believed of the ways to members, and for how long."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.forwarding import ForwardingTables, TableService
from appliance.model import Encapsulation, HashMode, PortRange, Protocol
from appliance.pathmtu import FLOOR, LEAST_IPV4, LIFE_S, Outcome, PathMtus
from appliance.state import PathMtu, State
from tests.builders import config, snapshot
from tests.unit.dataplane.frames import cycle
from tests.unit.packet.test_quotes import MEMBER, VIP, complaint, member, of_client, outer_packet

NOW = 1_000_000.0


def tables(*encapsulations: Encapsulation, outer: int = 4) -> ForwardingTables:
    """One member, reached by these."""
    ways = {
        number: replace(member(kind, outer), path_mtu=None, index=number) for number, kind in enumerate(encapsulations)
    }
    services = tuple(
        TableService(number, "web", ip_address(vip), Protocol.TCP, (PortRange(80, 80),), HashMode.FIVE_TUPLE, cycle(0))
        for number, vip in enumerate(VIP.values())
    )
    return ForwardingTables(bytes(16), services, ways)


TABLES = {version: tables(Encapsulation.IPIP, outer=version) for version in (4, 6)}
ADDRESS = {version: ip_address(MEMBER[version]) for version in (4, 6)}


def says(mtu: int, version: int = 4, size: int = 1480 - 20, kind: Encapsulation = Encapsulation.IPIP) -> bytes:
    """A router's message about a packet of the client's of that size."""
    return complaint(version, outer_packet(member(kind, version), of_client(4, size))[:300], mtu)


@pytest.mark.parametrize("version", [4, 6])
def test_a_smaller_way_is_learned_and_the_client_told(version: int) -> None:
    """The first complaint is news; the same again is none, and renews the old one; a larger one changes nothing."""
    paths = PathMtus()
    heard = paths.hear(says(1400, version), version, TABLES[version], NOW)
    assert (heard.outcome, heard.member, heard.mtu) == (Outcome.LEARNED, ADDRESS[version], 1400)
    assert heard.answer is not None
    assert paths.learned == {ADDRESS[version]: PathMtu(1400, NOW)}
    again = paths.hear(says(1400, version), version, TABLES[version], NOW + 60)
    assert (again.outcome, again.mtu) == (Outcome.KNOWN, 0)
    assert again.answer is not None
    larger = paths.hear(says(1450, version), version, TABLES[version], NOW + 90)
    assert larger.outcome is Outcome.KNOWN
    assert paths.learned == {ADDRESS[version]: PathMtu(1400, NOW + 60)}
    assert paths.facts().outcomes == {
        Outcome.LEARNED: 1,
        Outcome.KNOWN: 2,
        Outcome.NOT_OURS: 0,
        Outcome.TOO_SMALL: 0,
        Outcome.TOO_MANY: 0,
    }
    assert paths.facts().heard == {ADDRESS[version]: 3}
    assert paths.facts().passed_on == {ADDRESS[version]: 3}


def test_after_ten_minutes_it_is_forgotten() -> None:
    """Not a second before; and at once where the clock was put back, since nobody knows how old it is then."""
    paths = PathMtus()
    paths.hear(says(1400), 4, TABLES[4], NOW)
    assert paths.age(NOW + LIFE_S - 1) == []
    assert paths.age(NOW + LIFE_S) == [ADDRESS[4]]
    assert paths.learned == {}
    paths.hear(says(1400), 4, TABLES[4], NOW)
    assert paths.age(NOW - 1) == [ADDRESS[4]]


@pytest.mark.parametrize(
    ("version", "mtu", "believed"),
    [
        *((4, mtu, None) for mtu in (0, 68, 551)),
        *((4, mtu, max(mtu, 576)) for mtu in (552, 576, 577)),
        *((6, mtu, None) for mtu in (0, 1279)),
        (6, 1280, 1280),
    ],
)
def test_there_is_a_floor(version: int, mtu: int, believed: int | None) -> None:
    """Nothing below what real networks have is believed, and never less assumed than every host takes."""
    paths = PathMtus()
    heard = paths.hear(says(mtu, version), version, TABLES[version], NOW)
    assert heard.outcome is (Outcome.TOO_SMALL if believed is None else Outcome.LEARNED)
    assert {path.mtu for path in paths.learned.values()} == ({believed} if believed else set())
    assert believed is not None or heard.answer is None


def test_who_knows_the_network_says_what_is_least() -> None:
    """A floor of the operator's own holds for IPv4 ways; it cannot be lower than what every host takes."""
    paths = PathMtus()
    assert paths.hear(says(1399), 4, TABLES[4], NOW, 1400).outcome is Outcome.TOO_SMALL
    assert paths.hear(says(1400), 4, TABLES[4], NOW, 1400).mtu == 1400
    assert paths.hear(says(100), 4, TABLES[4], NOW, 68).mtu == FLOOR[4]
    assert paths.hear(says(1280, 6), 6, TABLES[6], NOW, 1400).mtu == 1280


@pytest.mark.parametrize(
    "message",
    [
        says(1480),
        says(1400, size=1380),
        says(1400, size=1500),
        says(1400, kind=Encapsulation.GRE),
        complaint(
            4, outer_packet(replace(member(Encapsulation.IPIP, 4), address=ip_address("203.0.113.99")), of_client(4))
        ),
        complaint(
            4,
            outer_packet(
                replace(
                    member(Encapsulation.IPIP, 4),
                    next_hop=replace(member(Encapsulation.IPIP, 4).next_hop, source=ip_address("203.0.113.66")),
                ),
                of_client(4),
            ),
        ),
        b"\3\4nonsense",
        b"",
    ],
    ids=["fits", "fitted", "longer-than-our-link", "other-tunnel", "no-member", "not-from-us", "nonsense", "nothing"],
)
def test_what_we_cannot_have_sent_is_not_believed(message: bytes) -> None:
    """The quote has to be a packet of ours that really was too big for what the router says."""
    paths = PathMtus()
    heard = paths.hear(message, 4, TABLES[4], NOW)
    assert (heard.outcome, heard.answer, paths.learned) == (Outcome.NOT_OURS, None, {})
    assert paths.facts().heard == {}


@pytest.mark.parametrize("version", [4, 6])
def test_with_a_prefix_any_address_of_it_is_ours(version: int) -> None:
    """Outer packets come from addresses of the prefix, and what quotes one from elsewhere is not ours: not even one
    from the interface."""
    prefix = ip_network({4: "198.51.100.64/26", 6: "2001:db8:d::/64"}[version])
    plain = TABLES[version].members[0]
    spread = replace(plain, outer_prefix=prefix)
    paths, ours = PathMtus(), replace(TABLES[version], members={0: spread})
    for mtu, way in (
        (1400, spread),
        (1300, plain),
        (1200, replace(spread, outer_prefix=prefix.supernet(new_prefix=21))),
    ):
        message = complaint(version, outer_packet(way, of_client(4, 1460))[:300], mtu)
        heard = paths.hear(message, version, ours, NOW)
        assert heard.outcome is (Outcome.LEARNED if way is spread else Outcome.NOT_OURS)
        assert (heard.answer is not None) == (way is spread)
    assert paths.learned == {ADDRESS[version]: PathMtu(1400, NOW)}
    assert paths.hear(says(1300, version), version, TABLES[version], NOW).outcome is Outcome.LEARNED


def test_each_encapsulation_of_a_member_counts() -> None:
    """A member of two pools may be reached in two ways; the path is one."""
    both = tables(Encapsulation.IPIP, Encapsulation.GUE)
    paths = PathMtus()
    assert paths.hear(says(1400, kind=Encapsulation.GUE, size=1460), 4, both, NOW).outcome is Outcome.LEARNED
    assert paths.hear(says(1300), 4, both, NOW).outcome is Outcome.LEARNED
    assert paths.learned == {ADDRESS[4]: PathMtu(1300, NOW)}


def test_news_have_a_limit_and_come_back() -> None:
    """Somebody who knows our packets cannot have new tables made as often as he likes (M6)."""
    paths = PathMtus()
    outcomes = [paths.hear(says(1400 - n), 4, TABLES[4], NOW).outcome for n in range(150)]
    assert outcomes == [Outcome.LEARNED] * 100 + [Outcome.TOO_MANY] * 50
    assert paths.learned[ADDRESS[4]].mtu == 1301
    assert paths.hear(says(1301), 4, TABLES[4], NOW).outcome is Outcome.KNOWN
    assert paths.hear(says(1000), 4, TABLES[4], NOW + 1).outcome is Outcome.LEARNED


def test_clients_are_told_up_to_a_limit_for_each_vip() -> None:
    """A flood of complaints is not passed on to clients as one."""
    paths = PathMtus()
    told = [paths.hear(says(1400), 4, TABLES[4], NOW).answer is not None for _ in range(50)]
    assert told == [True] * 20 + [False] * 30
    assert paths.facts().passed_on == {ADDRESS[4]: 20}


@given(
    st.lists(st.tuples(st.sampled_from([4, 6]), st.integers(0, 1600), st.integers(0, 300)), max_size=30),
)
def test_beliefs_are_within_bounds(story: list[tuple[int, int, int]]) -> None:
    """Whatever routers say: between the floor and the link, never growing before it is forgotten, never old."""
    paths, now = PathMtus(), NOW
    for version, mtu, pause in story:
        now += pause
        paths.age(now)
        before = paths.learned.get(ADDRESS[version])
        heard = paths.hear(says(mtu, version), version, TABLES[version], now)
        after = paths.learned.get(ADDRESS[version])
        assert (heard.outcome is Outcome.LEARNED) == (after is not None and (before is None or after.mtu < before.mtu))
        assert mtu >= {4: LEAST_IPV4, 6: 1280}[version] or after == before
        if after is not None:
            assert FLOOR[version] <= after.mtu < 1500
            assert before is None or after.mtu <= before.mtu
            assert now - after.at < LIFE_S


def test_the_store_signals_what_makes_a_difference() -> None:
    """A renewed belief is no reason to decide anew; another one, and none, is."""
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    state = State(config(), changed)
    address = snapshot().config.pools[0].members[0].address
    for number, mtu, wanted in ((0, 1400, 1), (1, 1400, 1), (2, 1300, 2)):
        state.set_path_mtus({address: PathMtu(mtu, NOW + number)})
        assert (changes, state.snapshot().path_mtus[address].at) == (wanted, NOW + number)
    state.set_path_mtus({})
    assert changes == 3

"""Which pins a director tells of, when, and what it makes of those that it is told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.fleet.telling import ASIDE_NS, BACKLOG, REFRESH_MS, REPEAT_MS, ROUND_MS, Telling
from appliance.fleet.wire import AGE_SHIFT, END, ENTRY, Keys
from appliance.packet.placement import TICK_S, PinState
from appliance.stats import member_stats
from tests.unit.fleet.ends import SECRET, flow, hashes, keep, known, members, table

KEYS = Keys.derive(SECRET)
MS = 1_000_000
ALL = 1 << 20


class Director:
    """A table and what is told of it, with a clock that the test sets."""

    def __init__(self, first: int = 0, pins: int = 4096, start_ns: int = 10**12) -> None:
        self.now_ns = start_ns
        self.pins = table(pins, lambda: self.now_ns)
        self.telling = Telling(self.pins, KEYS)
        self.telling.set_members(members(first))

    def wait(self, ms: float) -> None:
        self.now_ns += int(ms * MS)

    def news(self) -> np.ndarray:
        self.telling.look()
        return self.telling.tell(self.telling.news(ALL))

    def due(self) -> np.ndarray:
        """A round of the whole table at once."""
        return self.telling.tell(self.telling.due(1.0, ALL))

    def dump(self) -> np.ndarray:
        positions, following = self.telling.block(0, ALL)
        assert following == END
        return self.telling.read(positions)[0]


def test_a_new_flow_is_news_once():
    """What the data plane has put into its journal is told, and then it is not news any more."""
    a = Director()
    keep(a.pins, range(100))
    assert set(a.news()["hash64"].tolist()) == hashes(range(100))
    assert len(a.news()) == 0


def test_another_member_is_news():
    """A flow that has moved is told at once, with its new member."""
    a = Director()
    keep(a.pins, [1], member=0)
    a.news()
    keep(a.pins, [1], member=2)
    assert a.news()["member"].tolist() == [KEYS.member(members()[2])]


def test_told_flows_are_known_by_the_others_own_indices():
    """Indices of members are a director's own affair; what counts is who they are."""
    a, b = Director(), Director(first=40)
    keep(a.pins, range(3), member=1)
    keep(a.pins, range(3, 6), member=3)
    heard = b.telling.hear(a.news().tobytes())
    assert (heard.merged, heard.unknown, heard.unfit) == (6, 0, 0)
    expected = dict.fromkeys(hashes(range(3)), 41) | dict.fromkeys(hashes(range(3, 6)), 43)
    assert known(b.pins) == expected


def test_facts_of_a_flow_arrive():
    """Addresses, ports, protocol, hashes and idle timeout are the same there."""
    a, b = Director(), Director()
    keep(a.pins, [7], idle=99)
    b.telling.hear(a.news().tobytes())
    here, there = a.pins.live().flows[0], b.pins.live().flows[0]
    for name in ("source", "destination", "hash64", "ports", "hash32", "idle", "protocol", "opened"):
        assert np.array_equal(here[name], there[name]), name
    assert there["origin"] == 1


@pytest.mark.parametrize("phase_ms", [0, 500, 1000])
@pytest.mark.parametrize("state", [PinState.NEW, PinState.OPEN])
def test_a_client_that_uses_a_port_again_is_told_from_its_earlier_connection(phase_ms, state):
    """All within a second: a connection ends, and another one from the same port goes to another member. Whoever
    remembers the earlier one, and did not hear of its end, believes the later, in whatever order both are told."""
    a, b, late = Director(), Director(), Director()
    a.wait(phase_ms)
    for other in (b, late):
        other.wait(phase_ms)
    keep(a.pins, [1], member=1, state=PinState.NEW)
    keep(a.pins, [1], member=1)
    earlier = a.news().tobytes()
    b.telling.hear(earlier)
    for one in (a, b, late):
        one.wait(200)
    keep(a.pins, [1], member=1, state=PinState.FIN)
    keep(a.pins, [1], member=2, state=PinState.NEW)
    if state is PinState.OPEN:
        keep(a.pins, [1], member=2)
    later = a.news().tobytes()
    b.telling.hear(later)
    late.telling.hear(later)
    late.telling.hear(earlier, 200 * MS)
    expected = dict.fromkeys(hashes([1]), 2)
    assert (known(b.pins), known(late.pins)) == (expected, expected)
    for one in (a, b, late):  # and it is told so to whoever asks
        one.wait(5)
        third = Director()
        third.now_ns = one.now_ns
        third.telling.hear(one.dump().tobytes())
        assert known(third.pins) == expected


def test_what_a_syn_has_opened_comes_before_what_was_guessed():
    """A director that met a flow in the middle, and heard too late where it began, believes who saw its SYN."""
    a, b = Director(), Director()
    keep(a.pins, [1], member=2)
    told = a.news().tobytes()
    keep(b.pins, [1], member=1, opened=False)
    b.telling.hear(told)
    a.telling.hear(b.dump().tobytes())
    assert known(a.pins) == known(b.pins) == dict.fromkeys(hashes([1]), 2)


def test_a_flood_of_syns_counts_everywhere_for_a_moment_only():
    """SYNs that nothing follows are connections for three seconds, also where others have told of them: at once, in the
    whole table, and when their member was not known at first; and no director counts their handshakes but one."""
    a, b, late, third = Director(), Director(), Director(first=40), Director()
    keep(a.pins, range(100), member=1, state=PinState.NEW)
    told = a.news().tobytes()
    b.telling.hear(told)
    late.telling.set_members({})
    assert late.telling.hear(told).unknown == 100
    late.telling.set_members(members(40))
    third.telling.hear(b.dump().tobytes())
    everybody = {"made it": (a, 1), "was told": (b, 1), "put aside": (late, 41), "asked": (third, 1)}

    def connections() -> dict[str, int]:
        return {
            name: member_stats(one.pins.live(), one.pins.delays, {index: "web/w1"}, {}, one.now_ns)
            .members[index]
            .connections
            for name, (one, index) in everybody.items()
        }

    assert connections() == dict.fromkeys(everybody, 100)
    for one, _ in everybody.values():
        one.wait(5000)
    assert connections() == dict.fromkeys(everybody, 0)
    keep(b.pins, range(10), member=1)  # the handshake ends there: nobody knows there when it began
    assert connections() == dict.fromkeys(everybody, 0) | {"was told": 10}
    assert b.pins.delays["count"].sum() == 0


def test_news_is_told_again_soon():
    """The first telling may get lost, so there is a second one soon, and others at intervals that grow."""
    a = Director()
    keep(a.pins, [1])
    a.news()
    intervals, since = [], 0
    for _ in range(1000):
        a.wait(100)
        since += 100
        if len(a.due()):
            intervals.append(since)
            since = 0
    assert intervals[:5] == [REPEAT_MS, 4 * REPEAT_MS, 16 * REPEAT_MS, 64 * REPEAT_MS, REFRESH_MS]


@pytest.mark.parametrize("idle", [3, 10, 57, 281, 0])
def test_a_flow_is_told_again_each_third_of_its_idle_timeout(idle):
    """Nobody forgets a silent flow sooner than its director does, and a round may still be added to the interval."""
    a = Director()
    keep(a.pins, [1], idle=idle)
    a.news()
    longest = min(idle * TICK_S * 1000 / 3, REFRESH_MS) if idle else REFRESH_MS
    told, last = 0, 0.0
    end = longest * 2.8
    now = 0.0
    while now < end:
        a.wait(ROUND_MS / 2)
        now += ROUND_MS / 2
        if len(a.due()):
            assert now - last <= longest + 1
            told, last = told + 1, now
    assert 2 <= told <= 10


def test_a_flow_that_is_over_is_not_told():
    """Its place may not have been emptied yet."""
    a = Director()
    keep(a.pins, [1], idle=3)
    keep(a.pins, [2], idle=300)
    a.wait(5 * TICK_S * 1000)
    assert set(a.due()["hash64"].tolist()) == hashes([2])
    assert set(a.dump()["hash64"].tolist()) == hashes([2])


def test_a_change_of_state_is_told_with_the_next_round():
    """Others count flows too: one that has ended should not linger there."""
    a, b = Director(), Director()
    keep(a.pins, [1])
    b.telling.hear(a.news().tobytes())
    for director in (a, b):
        director.wait(REPEAT_MS)
    a.due()
    keep(a.pins, [1], state=PinState.FIN)
    b.telling.hear(a.due().tobytes())
    assert b.pins.live().state.tolist() == [PinState.FIN]
    assert len(a.due()) == 0


def test_nothing_echoes():
    """What was heard is not told, however long one waits, unless somebody asks for everything."""
    a, b = Director(), Director()
    keep(a.pins, range(50))
    b.telling.hear(a.news().tobytes())
    b.now_ns = a.now_ns
    for _ in range(10):
        assert len(b.news()) == len(b.due()) == 0
        b.wait(20_000)
    assert len(b.dump()) == 50


def test_who_uses_a_flow_tells_of_it():
    """When routers move a flow to another director, that one takes over telling, and the first one stops."""
    a, b = Director(), Director()
    keep(a.pins, [1])
    b.telling.hear(a.news().tobytes())
    for director in (a, b):
        director.wait(5000)
    keep(b.pins, [1])
    told = b.due()
    assert set(told["hash64"].tolist()) == hashes([1])
    a.telling.hear(told.tobytes())
    for _ in range(10):
        a.wait(REFRESH_MS)
        assert len(a.due()) == 0
    b.wait(REFRESH_MS)
    assert len(b.due()) == 1


def test_who_uses_a_flow_tells_of_it_whatever_was_in_its_place_before():
    """A place in which a flow of our own was told of lately, for long, gets one that another director has told of."""
    a, b = Director(pins=8), Director(pins=8)
    keep(a.pins, [1], idle=281)
    b.telling.hear(a.news().tobytes())
    (before,) = b.pins.words.nonzero()
    for _ in range(3):
        b.wait(REFRESH_MS)
        keep(b.pins, [1], idle=281)
        assert len(b.due()) == 1
    keep(b.pins, [1], state=PinState.RST)
    b.due()
    b.wait(5000)
    assert b.pins.sweep() == 1
    assert len(b.due()) == 0
    a.now_ns = b.now_ns
    keep(a.pins, [2], idle=14)
    b.telling.hear(a.news().tobytes())
    assert b.pins.words.nonzero() == (before,)
    b.wait(2000)
    keep(b.pins, [2], idle=14)
    assert set(b.due()["hash64"].tolist()) == hashes([2])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4000)), max_size=40))
@settings(max_examples=30)
def test_flows_do_not_get_younger_by_being_told(passes):
    """Directors that ask each other for their tables again and again do not keep a flow alive that nobody uses."""
    fleet = [Director(start_ns=10**12 + 10**9 * i * 77_777 // 1000) for i in range(4)]
    keep(fleet[0].pins, [1], idle=60)
    used, elapsed = fleet[0].now_ns, 0
    for teller, hearer, ms in passes:
        for director in fleet:
            director.wait(ms)
        elapsed += ms
        fleet[hearer].telling.hear(fleet[teller].dump().tobytes())
        for i, director in enumerate(fleet):
            for age in director.pins.live().age.tolist():
                # An age in ticks may be up to one too small, as clocks are in the middle of a tick.
                true_age = (fleet[0].now_ns - used) / (TICK_S * 1e9)
                assert age >= int(true_age) - (i == 0), (i, age, true_age)


def test_time_under_way_counts():
    """A pin that somebody has held back is as old as it is."""
    a, b = Director(), Director()
    keep(a.pins, [1, 2])
    told = a.news()
    for director in (a, b):
        director.wait(10 * TICK_S * 1000)
    b.telling.hear(told.tobytes(), np.array([0, 10 * int(TICK_S * 1e9)]))
    assert sorted(b.pins.live().age.tolist()) in ([0, 10], [1, 11])


def test_pins_of_unknown_members_wait_for_them():
    """A pin to somebody whom our tables do not have would lead nowhere. It takes effect when they have, a bit older."""
    a, b = Director(), Director()
    b.telling.set_members(members(0, ["w0"]))
    keep(a.pins, [1], member=0)
    keep(a.pins, [2], member=1)
    keep(a.pins, [3], member=1, idle=10)
    assert b.telling.hear(a.news().tobytes()).unknown == 2
    assert known(b.pins) == dict.fromkeys(hashes([1]), 0)
    b.wait(12 * TICK_S * 1000)
    assert b.telling.set_members(members(0, ["w0", "w2"])) == 0
    assert b.telling.set_members(members()) == 1  # the other one is over
    assert known(b.pins) == dict.fromkeys(hashes([1]), 0) | dict.fromkeys(hashes([2]), 1)
    assert set(b.pins.live().age.tolist()) <= {12, 13}
    assert b.telling.set_members({}) == b.telling.set_members(members()) == 0


def test_what_is_put_aside_is_bounded():
    """By number and by time; what had to be given up for lack of room is counted, so that it can be asked for again."""
    a, b = Director(), Director(pins=64)
    b.telling.set_members({})
    lost = 0
    for begin in range(0, 200, 10):
        keep(a.pins, range(begin, begin + 10))
        lost += b.telling.hear(a.news().tobytes()).lost
    assert lost == 140
    for director in (a, b):
        director.wait(ASIDE_NS / MS + 1000)
    keep(a.pins, range(200, 210))
    assert b.telling.hear(a.news().tobytes()).lost == 0
    assert b.telling.set_members(members()) == 10


def test_flows_of_members_that_are_gone_are_not_told():
    """And they are when the member comes back."""
    a = Director()
    keep(a.pins, [1], member=1)
    a.telling.set_members(members(0, ["w0"]))
    assert len(a.news()) == len(a.dump()) == 0
    a.telling.set_members(members())
    a.wait(1000)
    assert len(a.due()) == 1


def test_nonsense_is_not_taken():
    """A director with another idea of time, states or protocols cannot spoil the table."""
    a, b = Director(), Director()
    keep(a.pins, range(6))
    entries = a.news()
    entries["state"][0] = 8
    entries["protocol"][1] = 1
    entries["age"][2] = 0xFFFFFFFF
    entries["age"][3] = 300 << (30 - AGE_SHIFT)
    entries["member"][4] = 0
    heard = b.telling.hear(entries.tobytes())
    assert (heard.merged, heard.unknown, heard.unfit) == (1, 1, 4)
    assert len(known(b.pins)) == 1


@given(st.binary(min_size=0, max_size=17 * ENTRY.itemsize))
def test_no_entry_makes_the_reader_fail(data):
    """Whatever stands in entries: they are taken or not."""
    b = Director()
    whole = data[: len(data) // ENTRY.itemsize * ENTRY.itemsize]
    heard = b.telling.hear(whole)
    assert heard.merged + heard.unknown + heard.unfit == len(whole) // ENTRY.itemsize


def test_the_whole_table_in_blocks():
    """Block by block every live pin is given once, and blocks are full until the last one."""
    a = Director(pins=4096)
    keep(a.pins, range(1500))
    expected = set(known(a.pins))
    found, cursor, sizes = [], 0, []
    while cursor != END:
        positions, following = a.telling.block(cursor, 100)
        assert following > cursor
        cursor = following
        sizes.append(len(positions))
        found += a.telling.read(positions)[0]["hash64"].tolist()
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert set(sizes[:-1]) == {100}


def test_the_next_block_begins_where_a_wrong_cursor_says():
    """A cursor behind the end is an empty end, not a failure."""
    a = Director()
    for cursor in (4096, 5000, END - 1, END):
        positions, following = a.telling.block(cursor, 10)
        assert (len(positions), following) == (0, END)


def test_a_place_that_changes_while_it_is_read_is_left_out():
    """Half of one flow and half of another is nobody's pin."""
    a = Director()
    keep(a.pins, [1])
    position, _ = a.pins.find(flow(1).hash64, a.pins.now())
    a.pins.flows["hash64"][position] ^= 1
    assert len(a.telling.read(np.array([position]))[0]) == 0


def test_news_that_must_wait():
    """With little room, news is told in the order in which it came, and none of it is lost."""
    a = Director()
    keep(a.pins, range(10))
    a.telling.look()
    keep(a.pins, range(10, 20))
    a.telling.look()
    first = a.telling.tell(a.telling.news(10))
    assert a.telling.waiting == 10
    assert set(first["hash64"].tolist()) == hashes(range(10))
    assert set(a.telling.tell(a.telling.news(100))["hash64"].tolist()) == hashes(range(10, 20))
    assert a.telling.waiting == 0
    assert len(a.telling.news(100)) == 0


def test_too_much_news_waits_for_the_round():
    """The queue of news is bounded; what falls out of it is found in the table."""
    a = Director(pins=1 << 17)
    forgotten = 0
    for begin in range(0, BACKLOG + 8000, 4000):
        keep(a.pins, range(begin, begin + 4000))
        forgotten += a.telling.look()
    assert forgotten > 0
    assert a.telling.waiting <= BACKLOG
    told = set(a.telling.tell(a.telling.news(ALL))["hash64"].tolist())
    told |= set(a.due()["hash64"].tolist())
    assert told == set(known(a.pins))


def test_an_empty_table_costs_nothing_to_look_at():
    """In the steady state nothing is remembered, so nothing is told."""
    a = Director()
    assert len(a.news()) == len(a.due()) == len(a.dump()) == 0

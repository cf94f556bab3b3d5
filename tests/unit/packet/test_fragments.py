"""What is remembered of datagrams in fragments, and where fragments wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.packet.action import Datagram
from appliance.packet.fragments import HOLD_NS, LIFETIME_NS, Decided, Fragments, Waiting

SECOND = 1_000_000_000
VIP = bytes((198, 51, 100, 7))


def datagram(client: int, ident: int = 7) -> Datagram:
    return Datagram(bytes((192, 0, 2, client)), VIP, ident, 17)


def decided(member: int) -> Decided:
    return Decided(17, bytes((1, 2, 0, 53)), member)


class Clock:
    def __init__(self) -> None:
        self.ns = 5 * SECOND

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_was_decided_last_counts_for_30_s(clock: Clock) -> None:
    """A first fragment is remembered in the place of an earlier one, and forgotten after 30 s."""
    memory = Fragments(clock)
    memory.keep(datagram(1), decided(1))
    clock.ns += LIFETIME_NS
    assert memory.find(datagram(1)) == decided(1)
    memory.keep(datagram(1), decided(2))
    clock.ns += LIFETIME_NS
    assert memory.find(datagram(1)) == decided(2)
    assert memory.find(datagram(2)) is None
    clock.ns += 1
    assert memory.find(datagram(1)) is None
    memory.keep(datagram(2), decided(2))
    assert len(memory) == 1, "what is over makes room"
    assert memory.kept == 3


def test_one_sender_has_its_share(clock: Clock) -> None:
    """A flood of first fragments of one sender displaces its own."""
    memory = Fragments(clock, limit=64, each=16)
    for client in range(1, 4):
        memory.keep(datagram(client), decided(client))
    for ident in range(1000):
        memory.keep(datagram(9, ident), decided(9))
    assert [memory.find(datagram(client)) for client in range(1, 4)] == [decided(1), decided(2), decided(3)]
    assert len(memory) == 19
    assert memory.find(datagram(9, 984)) is not None
    assert memory.find(datagram(9, 983)) is None


def test_an_ipv6_network_is_one_sender(clock: Clock) -> None:
    """Addresses of one /64 share what one sender may have."""
    memory = Fragments(clock, limit=64, each=4)

    def of(network: int, host: int) -> Datagram:
        return Datagram(bytes((0x20, 1, 0xD, 0xB8, 0, 0, 0, network)) + host.to_bytes(8, "big"), bytes(16), 1, 0)

    memory.keep(of(2, 1), decided(1))
    for host in range(100):
        memory.keep(of(1, host), decided(1))
    assert memory.find(of(2, 1)) is not None
    assert len(memory) == 5


def test_many_senders_displace_the_oldest(clock: Clock) -> None:
    """The table is bounded whoever fills it."""
    memory = Fragments(clock, limit=64, each=16)
    for client in range(200):
        memory.keep(datagram(client), decided(1))
    assert [client for client in range(200) if memory.find(datagram(client))] == list(range(136, 200))


def test_frames_wait_for_2_ms() -> None:
    """Frames are due in the order in which they came, those that were released not at all."""
    waiting: Waiting[str] = Waiting()
    assert [
        waiting.add(datagram(client), name, 100, at) for client, name, at in ((1, "a", 0), (2, "b", 1), (1, "c", 2))
    ] == [
        [],
        [],
        [],
    ]
    assert waiting.due(HOLD_NS - 1) == []
    assert waiting.release(datagram(1)) == ["a", "c"]
    assert waiting.release(datagram(1)) == []
    assert waiting.due(HOLD_NS) == []
    assert waiting.due(HOLD_NS + 1) == ["b"]
    assert not waiting


def test_no_more_bytes_wait_than_there_is_room_for() -> None:
    """The oldest make room for others, and one that is larger than all the room does not wait at all."""
    waiting: Waiting[int] = Waiting(max_bytes=1000)
    assert [waiting.add(datagram(n), n, 400, n) for n in range(4)] == [[], [], [0], [1]]
    assert waiting.add(datagram(9), 9, 1001, 9) == [2, 3, 9]
    assert not waiting


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "add", "release", "due"]),
            st.integers(1, 4),
            st.integers(0, 2),
            st.integers(0, HOLD_NS),
            st.integers(1, 500),
        )
    )
)
def test_waiting_is_what_a_list_would_be(events: list[tuple[str, int, int, int, int]]) -> None:
    """Whatever comes, is released and becomes due: every frame is handed back once, when a plain list says so."""
    waiting: Waiting[int] = Waiting(limit=8, each=4, max_bytes=2000)
    model: list[tuple[int, Datagram, int, int]] = []  # since when, whose, size, which
    now = 0
    for number, (what, client, ident, passed, size) in enumerate(events):
        now += passed
        one = datagram(client, ident)
        if what == "add":
            got = waiting.add(one, number, size, now)
            mine = [entry for entry in model if entry[1].source == one.source]
            gone = mine[:1] if len(mine) == 4 else model[:1] if len(model) == 8 else []
            model = [entry for entry in model if entry not in gone] + [(now, one, size, number)]
            while sum(entry[2] for entry in model) > 2000:
                gone.append(model.pop(0))
        elif what == "release":
            got = waiting.release(one)
            gone = [entry for entry in model if entry[1] == one]
            model = [entry for entry in model if entry[1] != one]
        else:
            got = waiting.due(now)
            gone = [entry for entry in model if now - entry[0] >= HOLD_NS]
            model = [entry for entry in model if now - entry[0] < HOLD_NS]
        assert got == [entry[3] for entry in gone]
        assert len(waiting) == len(model)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=200))
def test_nobody_loses_his_share(arrivals: list[tuple[int, int]]) -> None:
    """However senders mix, the last datagrams of each are known, as many as its share, while the table is not full."""
    clock = Clock()
    memory = Fragments(clock, limit=24, each=4)
    last: dict[int, list[int]] = {}
    for client, ident in arrivals:
        memory.keep(datagram(client, ident), decided(client))
        mine = last.setdefault(client, [])
        if ident in mine:
            mine.remove(ident)
        mine.append(ident)
    for client, idents in last.items():
        assert all(memory.find(datagram(client, ident)) for ident in idents[-4:])
    assert len(memory) == sum(min(4, len(idents)) for idents in last.values())

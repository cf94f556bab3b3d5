"""What a fleet writes down."""

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.fleet import entries
from appliance.fleet.entries import DirectorCard, Logged, Seen, Unreadable, appended
from appliance.model import AdminState, Delivery, DfPolicy, DsrType, Encapsulation, Health, Order, TtlPolicy
from appliance.state import LONGEST_LOG, LogEntry, LoggedMember, same_ring


def state(number: int, **changes: object) -> LoggedMember:
    usual: dict[str, object] = {"weight": 1, "eligible": True, "serving": True} | changes
    return LoggedMember(f"web{number}", ip_address(f"203.0.113.{number}"), **usual)


def at(when: float, *members: LoggedMember, by: str = "d1") -> Logged:
    return Logged(by, LogEntry(when, members))


def test_director_card() -> None:
    """A director's card comes back as it was, with the name from the key."""
    card = DirectorCard("d1", ip_address("2001:db8::1"), 7117, "4711", "0.1.0", "abc")
    assert entries.decode_director("d1", entries.encode_director(card)) == card


def test_verdicts() -> None:
    """People can read who sees what since when, and directors get it back."""
    text = entries.encode_verdicts("web", {"web/b": Seen(Health.DOWN, 5.5), "web/a": Seen(Health.UP, 1.0)})
    assert text == '{"a":["up",1.0],"b":["down",5.5]}'
    assert entries.decode_verdicts("web", text) == {"web/a": Health.UP, "web/b": Health.DOWN}


def test_agreed() -> None:
    """What was agreed comes back."""
    agreed = {"web/a": Health.UP, "web/b": Health.DOWN}
    assert entries.decode_agreed("web", entries.encode_agreed("web", agreed)) == agreed


@pytest.mark.parametrize(
    "order", [Order(AdminState.DRAIN, 10.0, 20.5, None), Order(AdminState.READY, 10.0, None, 3)], ids=str
)
def test_order(order: Order) -> None:
    """Operators' orders come back."""
    assert entries.decode_order(entries.encode_order(order)) == order


@pytest.mark.parametrize(
    "delivery",
    [
        Delivery(DsrType.L2, None),
        Delivery(DsrType.L3, Encapsulation.IPIP, TtlPolicy.TRANSPARENT),
        Delivery(DsrType.L3, Encapsulation.GRE),
        Delivery(DsrType.L3, Encapsulation.GUE, outer_df=DfPolicy.CLEAR),
        Delivery(DsrType.L3, Encapsulation.GUE, outer_ttl=32),
    ],
    ids=lambda delivery: entries.log_place(("web", delivery)),
)
def test_log_place(delivery: Delivery) -> None:
    """A log's key says whose it is."""
    place = entries.log_place(("web", delivery))
    assert entries.decode_log(place, "[]") == (("web", delivery), ())


ENTRY = st.lists(
    st.builds(
        state,
        st.integers(1, 6),
        weight=st.integers(0, 4),
        eligible=st.booleans(),
        serving=st.booleans(),
        ramp=st.floats(0, 1),
        leaving=st.booleans(),
    ),
    unique_by=lambda member: member.name,
)


@given(st.lists(st.tuples(ENTRY, st.booleans()), max_size=8))
def test_log_comes_back(states: list[tuple[list[LoggedMember], bool]]) -> None:
    """A log comes back entry by entry, members by name, although only what changes is written."""
    logged = [
        Logged("d1", LogEntry(float(number), tuple(members), over)) for number, (members, over) in enumerate(states)
    ]
    _, back = entries.decode_log("web/l3.ipip.router", entries.encode_log(logged))
    assert [item.entry.at for item in back] == [item.entry.at for item in logged]
    for one, other in zip(back, logged, strict=True):
        assert same_ring(one.entry, other.entry)
        assert one.entry.settled is other.entry.settled
        assert [member.name for member in one.entry.members] == sorted(member.name for member in other.entry.members)


def test_same_ring() -> None:
    """Members in another order are the same; that windows are over is news, but not that they go on elsewhere."""
    open_, over = LogEntry(1.0, (state(1), state(2))), LogEntry(2.0, (state(2), state(1)), settled=True)
    assert same_ring(open_, LogEntry(3.0, (state(2), state(1))))
    assert not same_ring(open_, over)
    assert same_ring(over, open_)
    assert same_ring(over, over)
    assert not same_ring(open_, LogEntry(1.0, (state(1), state(2, eligible=False))))


def test_log_is_small() -> None:
    """Logs of large pools stay small: as many changes as a log takes, among 100 members, fit well into 1.5 MB."""
    logged: tuple[Logged, ...] = ()
    for number in range(LONGEST_LOG):
        members = [state(place, weight=1000, eligible=number % 100 != place) for place in range(1, 101)]
        logged = appended(logged, at(1e9 + number, *members), 1e6)
    assert len(logged) == LONGEST_LOG
    assert len(entries.encode_log(logged)) < 200 * LONGEST_LOG + 10_000


def test_log_keeps_what_slots_follow_from() -> None:
    """A log begins with the latest entry that was in force for a whole window; what is older goes."""
    logged: tuple[Logged, ...] = ()
    for when in (0, 100, 200, 1101, 1200):
        logged = appended(logged, at(when, state(1, weight=when)), keep_s=900)
    assert [item.entry.at for item in logged] == [200, 1101, 1200]


def test_log_does_not_go_back_in_time() -> None:
    """An entry of a director whose clock is behind comes after what was there before it."""
    logged = appended((at(1000, state(1)),), at(990.5, state(1, weight=2)), 900)
    assert [item.entry.at for item in logged] == [1000, 1000]


def test_log_has_an_end() -> None:
    """However much happens within the window, a log stays within its bounds."""
    logged: tuple[Logged, ...] = ()
    for number in range(LONGEST_LOG + 5):
        logged = appended(logged, at(number / 1000), 900)
    assert len(logged) == LONGEST_LOG
    assert logged[-1].entry.at == (LONGEST_LOG + 4) / 1000


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "[1]", '{"a":1}', '{"a":["sideways",1]}', "null", "7"])
@pytest.mark.parametrize(
    "decode",
    [
        partial(entries.decode_director, "d1"),
        partial(entries.decode_verdicts, "web"),
        partial(entries.decode_agreed, "web"),
        entries.decode_order,
        partial(entries.decode_log, "web/l3.ipip.router"),
    ],
)
def test_what_others_write_does_no_harm(decode: Callable[[str], object], text: str) -> None:
    """Whatever stands in the store, it can be read or it is said to be unreadable."""
    if text == "[]" and getattr(decode, "func", None) is entries.decode_log:
        assert decode(text)
    else:
        with pytest.raises(Unreadable):
            decode(text)


def test_a_log_of_an_unknown_delivery_is_unreadable() -> None:
    """A newer version's encapsulation is nothing that this version could replay."""
    with pytest.raises(Unreadable):
        entries.decode_log("web/l3.teleport.router", "[]")

"""What a fleet writes down."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.fleet import entries
from appliance.fleet.entries import DirectorCard, Logged, Seen, Unreadable, appended
from appliance.model import AdminState, Delivery, DsrType, Encapsulation, Health, Order, TtlPolicy
from appliance.state import LogEntry, LoggedMember


def state(number: int, *, weight: int = 1, eligible: bool = True, serving: bool = True, ramp: float = 1.0):
    return LoggedMember(f"web{number}", ip_address(f"203.0.113.{number}"), weight, eligible, serving, ramp)


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
    assert entries.decode_verdicts("d1/web", text) == ("d1", "web", {"web/a": Health.UP, "web/b": Health.DOWN})


def test_agreed() -> None:
    """What was agreed comes back."""
    agreed = {"web/a": Health.UP, "web/b": Health.DOWN}
    assert entries.decode_agreed("web", entries.encode_agreed("web", agreed)) == ("web", agreed)


@pytest.mark.parametrize(
    "order", [Order(AdminState.DRAIN, 10.0, 20.5, None), Order(AdminState.READY, 10.0, None, 3)], ids=str
)
def test_order(order: Order) -> None:
    """Operators' orders come back."""
    assert entries.decode_order("web/a", entries.encode_order(order)) == ("web/a", order)


@pytest.mark.parametrize(
    "delivery",
    [Delivery(DsrType.L2, None), Delivery(DsrType.L3, Encapsulation.IPIP, TtlPolicy.TRANSPARENT)],
    ids=str,
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
    ),
    unique_by=lambda member: member.name,
)


@given(st.lists(ENTRY, max_size=8))
def test_log_comes_back(states: list[list[LoggedMember]]) -> None:
    """A log comes back entry by entry, members by name, although only what changes is written."""
    logged = [at(float(number), *members) for number, members in enumerate(states)]
    _, back = entries.decode_log("web/l3.ipip.router", entries.encode_log(logged))
    assert [item.entry.at for item in back] == [item.entry.at for item in logged]
    for one, other in zip(back, logged, strict=True):
        assert entries.same_ring(one.entry, other.entry)
        assert [member.name for member in one.entry.members] == sorted(member.name for member in other.entry.members)


def test_log_is_small() -> None:
    """Logs of large pools stay small: a thousand changes among 100 members fit well into a value of etcd (1.5 MB)."""
    logged: tuple[Logged, ...] = ()
    for number in range(1000):
        members = [state(place, weight=1000, eligible=number % 100 != place) for place in range(1, 101)]
        logged = appended(logged, at(1e9 + number, *members), 1e6)
    assert len(entries.encode_log(logged)) < 200_000


def test_log_keeps_what_slots_follow_from() -> None:
    """What is within the window stays, and the newest entry before it; older ones go."""
    logged: tuple[Logged, ...] = ()
    for when in (0, 100, 200, 1050, 1101):
        logged = appended(logged, at(when, state(1, weight=when)), keep_s=900)
    assert [item.entry.at for item in logged] == [200, 1050, 1101]
    assert [item.entry.at for item in appended(logged, at(1099.5), keep_s=900)] == [200, 1050, 1101, 1101]


def test_log_has_an_end() -> None:
    """However much happens within the window, a log stays within its bounds."""
    logged: tuple[Logged, ...] = ()
    for number in range(entries.MAX_LOGGED + 5):
        logged = appended(logged, at(number / 1000), 900)
    assert len(logged) == entries.MAX_LOGGED
    assert logged[-1].entry.at == (entries.MAX_LOGGED + 4) / 1000


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "[1]", '{"a":1}', '{"a":["sideways",1]}', "null", "7"])
@pytest.mark.parametrize(
    ("decode", "place", "empty"),
    [
        (entries.decode_director, "d1", ()),
        (entries.decode_verdicts, "d1/web", ()),
        (entries.decode_agreed, "web", ()),
        (entries.decode_order, "web/a", ()),
        (entries.decode_log, "web/l3.ipip.router", ("[]",)),
    ],
)
def test_what_others_write_does_no_harm(decode, place: str, empty: tuple[str, ...], text: str) -> None:
    """Whatever stands in the store, it can be read or it is said to be unreadable."""
    if text in empty:
        decode(place, text)
    else:
        with pytest.raises(Unreadable):
            decode(place, text)


def test_a_log_of_an_unknown_delivery_is_unreadable() -> None:
    """A newer version's encapsulation is nothing that this version could replay."""
    with pytest.raises(Unreadable):
        entries.decode_log("web/l3.teleport.router", "[]")

"""What a fleet writes down."""

import json
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.decide import decide
from appliance.fleet import entries
from appliance.fleet.entries import DirectorCard, Logged, Seen, Unreadable, appended
from appliance.model import (
    AdminState,
    Delivery,
    DfPolicy,
    DsrType,
    Encapsulation,
    Health,
    Order,
    OuterSource,
    TtlPolicy,
)
from appliance.ring.slots import MAX_WEIGHT
from appliance.state import LONGEST_LOG, LogEntry, LoggedMember, State, same_ring
from tests.builders import L3, config, snapshot


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
        Delivery(DsrType.L3, Encapsulation.IPIP, outer_source=OuterSource.PREFIX),
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


DEEP = "[" * 100_000


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "[1]", '{"a":1}', '{"a":["sideways",1]}', "null", "7", DEEP])
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ratio", "-1"),
        ("ratio", str(MAX_WEIGHT + 1)),
        ("ratio", "1e999"),
        ("ratio", "1.5"),
        ("ratio", "true"),
        ("ratio", '"2"'),
        ("since", "1e999"),
        ("since", "NaN"),
        ("since", "1" + "0" * 400),
        ("until", "-1"),
        ("state", "[]"),
    ],
)
def test_orders_that_nobody_could_give_are_unreadable(field: str, value: str) -> None:
    """Weights that no ring takes, moments that are none, text and truth in the place of numbers."""
    good = {"state": '"drain"', "since": "1.0", "until": "2", "ratio": str(MAX_WEIGHT)}
    assert entries.decode_order(_object(good)).ratio == MAX_WEIGHT
    with pytest.raises(Unreadable):
        entries.decode_order(_object(good | {field: value}))


def _object(fields: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"


WEB = entries.log_place(("web", L3))


@pytest.mark.parametrize(
    "member",
    [
        {"web1 203.0.113.1": ["1", True, True, 1.0, False]},
        {"web1 203.0.113.1": [-1, True, True, 1.0, False]},
        {"web1 203.0.113.1": [MAX_WEIGHT + 1, True, True, 1.0, False]},
        {"web1 203.0.113.1": [1, "yes", True, 1.0, False]},
        {"web1 203.0.113.1": [1, True, True, None, False]},
        {"web1 203.0.113.1": [1, True, True, float("nan"), False]},
        {"web1 203.0.113.1": [1, True, True, 1.5, False]},
        {"web1 203.0.113.1": [1, True, True]},
        {"web1": [1, True, True, 1.0, False]},
        {"web\ud800 203.0.113.1": [1, True, True, 1.0, False]},
        {"web1 203.0.113.1": [1, True, True, 1.0, False], "web1 203.0.113.2": [1, True, True, 1.0, False]},
    ],
    ids=str,
)
def test_logs_that_no_director_writes_are_unreadable(member: dict[str, object]) -> None:
    """Of members that no ring takes: weights, shares, names, the same name twice."""
    log = [{"by": "d9", "at": 1.0, "settled": False, "is": member, "gone": []}]
    with pytest.raises(Unreadable):
        entries.decode_log(WEB, json.dumps(log))


@pytest.mark.parametrize("outer", [".copy_inner.64", ".clear.-5", ".clear.1_0"])
def test_a_log_has_one_place(outer: str) -> None:
    """Two values for one ring would contradict each other."""
    with pytest.raises(Unreadable):
        entries.decode_log(WEB + outer, "[]")


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 2**25, 10**400])
    | st.floats()
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = st.sampled_from([f"web{number} 203.0.113.{address}" for number in range(1, 5) for address in range(1, 5)])
STATES = st.tuples(
    st.integers(-1, 3) | ANYTHING,
    st.booleans() | ANYTHING,
    st.booleans(),
    st.floats(-0.1, 1.1) | ANYTHING,
    st.booleans(),
)
LOGS = st.lists(
    st.fixed_dictionaries(
        {
            "by": st.just("d9") | ANYTHING,
            "at": st.floats(0, 2000) | ANYTHING,
            "settled": st.booleans(),
            "is": st.dictionaries(MEMBERS | st.text(max_size=6), STATES | ANYTHING, max_size=3),
            "gone": st.lists(MEMBERS, max_size=2) | ANYTHING,
        }
    ),
    max_size=3,
)
VALUES = ANYTHING | st.fixed_dictionaries(
    {
        "state": st.sampled_from(["ready", "drain", "maint"]) | ANYTHING,
        "since": st.floats(0, 2000) | ANYTHING,
        "until": st.none() | st.floats(0, 2000) | ANYTHING,
        "ratio": st.none() | st.integers(0, 3) | ANYTHING,
    }
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_with_any_order_there_is_a_decision(value: object) -> None:
    """Whatever anybody writes: it is unreadable, or decisions can be made with it."""
    try:
        order = entries.decode_order(json.dumps(value))
    except Unreadable:
        return
    assert decide(snapshot(orders={"web/web1": order}), None, 1000.0).services


@settings(max_examples=300, deadline=None)
@given(LOGS | ANYTHING)
def test_with_any_log_there_is_a_decision(value: object) -> None:
    """The same for logs: by a director that begins with one, and by one that is told of it."""
    try:
        ring, logged = entries.decode_log(WEB, json.dumps(value))
    except Unreadable:
        return
    history = {ring: tuple(item.entry for item in logged)}
    assert decide(snapshot(history=history), None, 1000.0).services
    told = State(config(), lambda: None)
    told.set_history(history)
    assert decide(told.snapshot(), None, 1000.0).services


@given(ANYTHING)
def test_anything_is_read_or_unreadable(value: object) -> None:
    """Nothing else comes out of a decoder, whatever goes in."""
    text = json.dumps(value)
    decoders: list[Callable[[str], object]] = [
        partial(entries.decode_director, "d1"),
        partial(entries.decode_verdicts, "web"),
        partial(entries.decode_agreed, "web"),
        entries.decode_order,
        partial(entries.decode_log, WEB),
    ]
    for decode in decoders:
        try:
            decode(text)
        except Unreadable:
            pass

"""What a director believes of what another one tells it."""

import random

from hypothesis import given
from hypothesis import strategies as st

from appliance.fleet.session import LATE_NS, NONCE_NS, SILENT_NS, WINDOW, ReplayWindow, Session
from appliance.fleet.wire import Datagram, Kind, Refusal

MS = 1_000_000
SECOND = 1000 * MS
OURS = 22


def datagram(kind: Kind = Kind.PINS, sequence: int = 1, life: int = 11, to_life: int = OURS, clock: int = 0, nonce=0):
    return Datagram(kind, life, to_life, sequence, clock, memoryview(nonce.to_bytes(8, "little")))


def session() -> Session:
    return Session(OURS, random.Random(5).getrandbits)


def meet(us: Session, now_ns: int = 0, life: int = 11, sequence: int = 1, clock: int = 0, took_ns: int = MS) -> None:
    """The peer answers a greeting of ours."""
    nonce = us.greet(now_ns)
    answer = datagram(Kind.ANSWER, sequence, life, clock=clock, nonce=nonce)
    assert us.judge(answer, now_ns + took_ns) is None


@given(st.lists(st.integers(1, 3 * WINDOW), max_size=200))
def test_a_number_is_taken_once(sequences):
    """Of every number at most one is taken, and every new one that the window still covers is."""
    window, seen, top = ReplayWindow(), set(), 0
    for sequence in sequences:
        assert window.take(sequence) == (sequence not in seen and sequence > top - WINDOW)
        seen.add(sequence)
        top = max(top, sequence)


def test_numbers_far_apart():
    """A gap longer than the window, up to the last number there is, changes nothing."""
    window = ReplayWindow()
    assert window.take(1)
    assert window.take(1 << 63)
    assert window.take((1 << 64) - 1)
    assert not window.take(1 << 63)
    assert window.take((1 << 64) - WINDOW)
    assert not window.take((1 << 64) - WINDOW - 1)


def test_nothing_is_believed_before_an_answer():
    """A peer that has not answered a greeting of ours may be a recording."""
    us = session()
    assert us.judge(datagram(), 0) is Refusal.OTHER_LIFE
    assert us.judge(datagram(Kind.HELLO, nonce=3), 0) is None
    assert us.peer_life is None
    assert not us.is_near(0)


def test_an_answer_proves_a_life():
    """Once the peer has answered, its datagrams are taken, each once."""
    us = session()
    meet(us)
    assert us.peer_life == 11
    assert us.round_trip_ns == MS
    assert us.judge(datagram(sequence=2), MS) is None
    assert us.judge(datagram(sequence=2), MS) is Refusal.REPLAYED
    assert us.is_near(SILENT_NS)
    assert not us.is_near(SILENT_NS + MS)


def test_an_answer_counts_once_and_for_a_short_time():
    """Whoever repeats an answer, or comes late with it, has proved nothing."""
    us = session()
    nonce = us.greet(0)
    answer = datagram(Kind.ANSWER, 9, nonce=nonce)
    assert us.judge(answer, NONCE_NS + 1) is Refusal.UNASKED
    nonce = us.greet(NONCE_NS)
    answer = datagram(Kind.ANSWER, 10, nonce=nonce)
    assert us.judge(answer, NONCE_NS + MS) is None
    assert us.judge(answer, NONCE_NS + MS) is Refusal.UNASKED
    assert us.judge(datagram(Kind.ANSWER, 11, nonce=nonce ^ 1), NONCE_NS + MS) is Refusal.UNASKED


def test_several_greetings_may_be_under_way():
    """A slow path, on which the next greeting leaves before the last answer comes, is no obstacle."""
    us = session()
    first, second = us.greet(0), us.greet(SECOND)
    assert us.judge(datagram(Kind.ANSWER, 1, nonce=first), SECOND + 500 * MS) is None
    assert us.judge(datagram(Kind.ANSWER, 2, nonce=second), SECOND + 900 * MS) is None


def test_an_earlier_life_does_not_come_back():
    """After a restart of the peer nothing of its earlier life is taken, however new its numbers are."""
    us = session()
    old = us.greet(0)
    assert us.judge(datagram(Kind.ANSWER, 1, nonce=old), MS) is None
    meet(us, now_ns=SECOND, life=12)
    assert us.peer_life == 12
    assert us.judge(datagram(sequence=500), SECOND) is Refusal.OTHER_LIFE
    assert us.judge(datagram(Kind.ANSWER, 501, nonce=old), SECOND) is Refusal.UNASKED
    assert us.judge(datagram(Kind.HELLO, 502), SECOND) is None
    assert us.peer_life == 12
    assert us.judge(datagram(sequence=2, life=12), SECOND) is None


def test_what_was_sent_to_an_earlier_life_of_ours_is_refused():
    """A recording from before our start is worthless."""
    us = session()
    meet(us)
    assert us.judge(datagram(sequence=2, to_life=OURS - 1), MS) is Refusal.OTHER_LIFE
    nonce = us.greet(MS)
    assert us.judge(datagram(Kind.ANSWER, 3, to_life=OURS - 1, nonce=nonce), MS) is Refusal.OTHER_LIFE


def test_greetings_of_the_life_that_we_know_are_counted_like_all_else():
    """A repeated greeting is a replay and keeps nobody alive."""
    us = session()
    meet(us)
    assert us.judge(datagram(Kind.HELLO, 2), MS) is None
    assert us.judge(datagram(Kind.HELLO, 2), SECOND) is Refusal.REPLAYED
    assert us.heard_ns == MS


def test_what_was_held_back_is_refused():
    """A datagram that was under way for seconds is not news, whatever its number."""
    us = session()
    hour = 3600 * SECOND  # clocks have nothing in common
    meet(us, now_ns=0, clock=hour)
    assert us.judge(datagram(sequence=2, clock=hour + 10 * SECOND), 10 * SECOND + LATE_NS) is None
    assert us.judge(datagram(sequence=3, clock=hour + 10 * SECOND), 10 * SECOND + LATE_NS + MS) is Refusal.LATE


def test_how_long_a_datagram_was_under_way():
    """At most since the peer's clock stood where it says; a peer whose clock runs ahead has sent it just now."""
    us = session()
    meet(us, now_ns=SECOND, clock=50 * SECOND)
    assert us.under_way_ns(datagram(clock=51 * SECOND), 4 * SECOND) == 2 * SECOND
    assert us.under_way_ns(datagram(clock=60 * SECOND), 4 * SECOND) == 0


def test_clocks_that_drift_are_followed():
    """Over days, clocks that do not run alike would make everything late, or nothing."""
    us = session()
    now, sequence = 0, 1
    for _ in range(1000):
        meet(us, now_ns=now, clock=now * 999 // 1000, sequence=sequence)
        fresh = now + 500 * MS
        assert us.judge(datagram(sequence=sequence + 1, clock=fresh * 999 // 1000), fresh + MS) is None
        now += 60 * SECOND
        sequence += 2


def test_a_slow_answer_does_not_spoil_the_clock():
    """An answer that took long says little about the peer's clock, as long as there is a better one."""
    us = session()
    meet(us, now_ns=0, clock=0)
    meet(us, now_ns=SECOND, clock=SECOND + 1900 * MS, sequence=2, took_ns=1900 * MS)
    held = datagram(sequence=3, clock=4 * SECOND)
    assert us.judge(held, 4 * SECOND + LATE_NS + MS) is Refusal.LATE


def test_a_peer_whose_clock_stood_still_is_believed_again():
    """After a suspend its datagrams look late until its next answer."""
    us = session()
    meet(us)
    assert us.judge(datagram(sequence=2, clock=SECOND), 100 * SECOND) is Refusal.LATE
    meet(us, now_ns=100 * SECOND, clock=SECOND, sequence=3)
    assert us.judge(datagram(sequence=4, clock=2 * SECOND), 101 * SECOND) is None


def test_what_is_missing_counts_once_the_peer_knows_us():
    """What it has sent to an earlier life of ours is not meant to arrive; from its first word to this one on it is."""
    us = session()
    meet(us, sequence=1)
    assert us.judge(datagram(sequence=100), MS) is None
    assert us.missing(2 * MS) == 0
    for sequence in range(102, 121, 2):
        assert us.judge(datagram(sequence=sequence), 3 * MS) is None
    assert us.missing(4 * MS) == 0.5
    assert us.judge(datagram(sequence=120), 5 * MS) is Refusal.REPLAYED
    assert us.missing(6 * MS) == 0.5, "a replay is not the one that is missing"
    meet(us, 7 * MS, life=12, sequence=5000)
    assert us.missing(8 * MS) == 0, "another life has other numbers"

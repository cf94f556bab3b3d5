"""The state machine: every transition, timers, poll sequences; and two of them with a bad wire in between."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgp.bfd.packet import Diag, Packet, State, decode
from bgp.bfd.session import Session, Timers
from tests.unit.bgp.bfd.channel import Channel

FAST = Timers(50_000, 3)
HEARD = Packet(State.DOWN, 2, 0, 3, 1_000_000, 50_000)


def made(state=State.DOWN, timers=FAST, chance=lambda: 0.5, **settings):
    """A session in *state*, all of whose packets were heard at time 0, with its poll sequence over."""
    session = Session(timers, 1, chance, 0.0, **settings)
    remote = {State.DOWN: (), State.INIT: (State.DOWN,), State.UP: (State.DOWN, State.UP)}
    if state is State.ADMIN_DOWN:
        session.admin_down(0.0)
    for each in remote.get(state, ()):
        session.receive(replace(HEARD, state=each), 0.0)
    if state is State.UP:
        session.receive(up(final=True), 0.0)
    assert session.state is state
    return session


def up(**changes):
    """What a peer that is up says: 60 ms, multiplier 3."""
    return replace(HEARD, **{"state": State.UP, "your_discriminator": 1, "desired_min_tx_us": 60_000} | changes)


D, I, U, A = State.DOWN, State.INIT, State.UP, State.ADMIN_DOWN  # noqa: E741 - the letters of the table


@pytest.mark.parametrize(
    ("state", "remote", "then"),
    [
        *((D, A, D), (D, D, I), (D, I, U), (D, U, D)),
        *((I, A, D), (I, D, I), (I, I, U), (I, U, U)),
        *((U, A, D), (U, D, D), (U, I, U), (U, U, U)),
        *((A, A, A), (A, D, A), (A, I, A), (A, U, A)),
    ],
)
def test_table(state, remote, then):
    """What RFC 5880, section 6.8.6, makes of each state with each state of the peer; a change is told at once."""
    session = made(state)
    downs = session.downs
    sent = session.receive(replace(up(), state=remote), 0.01)
    assert session.state is then
    assert [packet.state for packet in sent] == ([then] if then is not state else [])
    if then is not state:
        assert session.diag is (Diag.NEIGHBOR_DOWN if then is D else Diag.NONE)
        assert session.since == 0.01
    assert session.downs - downs == (state is U and then is not U)


@pytest.mark.parametrize(("state", "then"), [(D, D), (I, D), (U, D), (A, A)])
def test_time_out(state, then):
    """Nothing for the detection time ends a session that was on; the peer's discriminator is forgotten in any case."""
    session = made(state)
    session.receive(replace(up(), state=U if state is U else D), 0.0) if state in (U, A) else None
    session.tick(session.detection_s - 0.001)
    assert session.state is state
    end = max(0.01, session.detection_s)
    sent = session.tick(end)
    assert session.state is then
    if state in (I, U):
        assert (session.diag, session.remote_state) == (Diag.TIME_EXPIRED, D)
        assert [(packet.state, packet.your_discriminator) for packet in sent] == [(D, 0)]


@pytest.mark.parametrize("state", State)
def test_admin_down_is_told_and_stays(state):
    """Whatever the session was, and whatever the peer says after."""
    session = made(state)
    assert [(packet.state, packet.diag) for packet in session.admin_down(0.1)] == [(A, Diag.ADMIN_DOWN)]
    for remote in State:
        session.receive(replace(up(poll=True), state=remote), 0.2)
    assert session.state is A


@pytest.mark.parametrize("state", State)
def test_hold_says_down_once_and_then_nothing(state):
    """Neither by the clock, nor in answer to a poll, nor to a peer that begins; release begins anew."""
    session = made(state)
    told = session.hold(0.1)
    assert [(packet.state, packet.diag) for packet in told] == (
        [(D, Diag.FORWARDING_PLANE_RESET)] if state in (I, U) else []
    )
    for remote in State:
        assert session.receive(replace(up(poll=True), state=remote), 0.2) == []
    assert [session.tick(0.3 + number) for number in range(5)] == [[]] * 5
    assert session.hold(6.0) == []
    session.release(6.0)
    assert [packet.state for packet in session.tick(6.0)] == [session.state]
    if state is not A:
        assert session.receive(HEARD, 6.1)[0].state is I


def test_slow_until_up():
    """A second between packets while not up, the configured interval then; less the jitter."""
    session = made()
    assert session.transmit_s == 1.0
    sent = session.receive(HEARD, 0.0) + session.receive(replace(HEARD, state=I), 0.0)
    assert [(packet.state, packet.desired_min_tx_us, packet.poll) for packet in sent] == [
        (I, 1_000_000, False),
        (U, 50_000, True),
    ]
    assert session.transmit_s == pytest.approx(0.05)


@pytest.mark.parametrize(("multiplier", "longest"), [(1, 0.90), (2, 1.0), (3, 1.0)])
@pytest.mark.parametrize("chance", [0.0, 0.5, 1 - 2**-53])
def test_jitter(multiplier, longest, chance):
    """0 to 25 % before the time; with a multiplier of 1, 10 to 25 %."""
    session = made(U, Timers(100_000, multiplier), lambda: chance)
    session.receive(up(), 1.0)
    session.tick(1.0)
    due = session._next - 1.0
    assert due == pytest.approx(0.1 * (0.75 + (longest - 0.75) * chance))


def test_the_slower_of_both_counts():
    """We send as seldom as the peer wants, and wait as long as the peer takes: section 6.8.2 and 6.8.4."""
    session = made(U)
    session.receive(up(required_min_rx_us=200_000, desired_min_tx_us=300_000, multiplier=5), 1.0)
    assert session.transmit_s == pytest.approx(0.2)
    assert session.receive_s == pytest.approx(0.3)
    assert session.detection_s == pytest.approx(1.5)


def test_a_faster_peer_is_served_at_once():
    """A smaller Required Min RX Interval counts from the packet before, not from the next one (section 6.8.3)."""
    session = made(U, chance=lambda: 1.0)
    session.receive(up(required_min_rx_us=1_000_000), 1.0)
    session.tick(1.0)
    assert session._next == pytest.approx(2.0)
    session.receive(up(required_min_rx_us=50_000), 1.02)
    assert session.due() == pytest.approx(1.05)
    session.tick(1.05)
    session.receive(up(required_min_rx_us=1_000_000), 1.06)
    session.receive(up(required_min_rx_us=50_000), 1.5)
    assert session.tick(1.5) != []


def test_silence_that_the_peer_has_asked_for():
    """A Required Min RX Interval of 0, and demand mode while both are up: nothing by the clock, but answers."""
    for wish in ({"required_min_rx_us": 0}, {"demand": True}):
        session = made(U)
        session.receive(up(**wish), 0.1)
        assert session.due() == pytest.approx(0.1 + session.detection_s)
        assert session.tick(0.2) == []
        assert [packet.final for packet in session.receive(up(poll=True, **wish), 0.2)] == [True]
    demanding = made(U)
    demanding.receive(up(demand=True), 0.1)
    demanding.change(Timers(80_000, 3), 0.1)
    assert [packet.poll for packet in demanding.tick(0.2)] == [True]


def test_passive_waits_for_the_peer():
    """And waits again when the peer is gone."""
    session = made(passive=True)
    assert session.due() is None
    assert session.tick(5.0) == []
    assert [packet.state for packet in session.receive(HEARD, 5.0)] == [I]
    assert session.tick(6.0) != []
    gone = session.tick(5.0 + session.detection_s)
    assert (session.state, gone, session.due()) == (D, [], None)


def test_a_poll_is_answered_at_once():
    """With F and without P, also during a poll of our own."""
    session = made(U)
    session.change(Timers(100_000, 3), 0.1)
    (answer,) = session.receive(up(poll=True), 0.11)
    assert (answer.final, answer.poll) == (True, False)
    assert [packet.poll for packet in session.tick(0.2)] == [True]


def test_slower_by_a_poll():
    """We slow down when the peer has confirmed it, and not before."""
    session = made(U)
    session.change(Timers(200_000, 4), 0.1)
    (polling,) = session.tick(0.2)
    assert (polling.poll, polling.desired_min_tx_us, polling.required_min_rx_us) == (True, 200_000, 200_000)
    assert polling.multiplier == 4
    assert session.transmit_s == pytest.approx(0.05)
    assert session.receive_s == pytest.approx(0.2)
    session.receive(up(final=True), 0.2)
    assert session.transmit_s == pytest.approx(0.2)
    assert not session.tick(1.0)[0].poll


def test_faster_by_a_poll():
    """We are faster at once, but expect that of the peer only when it has confirmed it."""
    session = made(U, Timers(200_000, 3))
    session.change(FAST, 0.1)
    assert session.transmit_s == pytest.approx(0.05)
    assert session.receive_s == pytest.approx(0.2)
    session.receive(up(final=True), 0.2)
    assert session.receive_s == pytest.approx(0.06)


def test_a_change_during_a_poll_is_polled_for_itself():
    """The answer to the first poll does not confirm the second change."""
    session = made(U)
    session.change(Timers(100_000, 3), 0.1)
    session.change(Timers(300_000, 3), 0.1)
    session.receive(up(final=True), 0.2)
    assert session.transmit_s == pytest.approx(0.05)
    assert session.tick(1.0)[0].poll
    session.receive(up(final=True), 1.0)
    assert session.transmit_s == pytest.approx(0.3)


def test_another_multiplier_alone_needs_no_poll():
    """It counts with the packet that has it."""
    session = made(U)
    session.change(Timers(50_000, 5), 0.1)
    (packet,) = session.tick(0.2)
    assert (packet.multiplier, packet.poll) == (5, False)


def test_timers_changed_while_down_are_used_when_up():
    """And keep to the slow start meanwhile."""
    session = made()
    session.change(Timers(80_000, 3), 0.0)
    assert session.transmit_s == 1.0
    session.receive(HEARD, 0.0)
    session.receive(replace(HEARD, state=I), 0.0)
    assert session.transmit_s == pytest.approx(0.08)


def test_slower_than_a_second_needs_no_poll_to_be_up():
    """The timers are the same up and down."""
    session = Session(Timers(2_000_000, 3), 1, lambda: 0.5, 0.0)
    session.receive(HEARD, 0.0)
    (packet,) = session.receive(replace(HEARD, state=I), 0.0)
    assert (packet.state, packet.poll, packet.desired_min_tx_us) == (U, False, 2_000_000)


# ---------------------------------------------------------------------------------------------------------------------
# Two ends

timers = st.builds(Timers, st.sampled_from([50_000, 100_000, 300_000, 1_500_000]), st.integers(1, 5))


def pair(chance, one=FAST, other=FAST, **second):
    return Session(one, 11, chance, 0.0), Session(other, 22, chance, 0.0, **second)


@settings(deadline=None)
@given(timers, timers, st.booleans(), st.integers(0, 2**32))
def test_up_and_never_down_without_loss(one, other, passive, seed):
    """Whatever the timers; delays of up to 10 ms, and reordering, do not matter; both see the same timers."""
    # With a multiplier of 1 jitter leaves a tenth of the interval: 5 ms of 50 that packets may be late.
    chance = random.Random(seed)
    delay = 0.004 if 1 in (one.multiplier, other.multiplier) else 0.01
    channel = Channel(pair(chance.random, one, other, passive=passive), delay=lambda: chance.random() * delay)
    channel.run(5.0, lambda: channel.up)
    assert channel.up
    assert channel.now < 2.1
    channel.run(channel.now + 0.1)
    channel.reorders = True
    channel.run(60.0)
    assert channel.up
    assert [session.downs for session in channel.sessions] == [0, 0]
    left, right = channel.sessions
    assert left.transmit_s == right.receive_s == pytest.approx(max(one.interval_us, other.interval_us) / 1e6)
    assert left.detection_s == pytest.approx(other.multiplier * left.receive_s)


@settings(deadline=None)
@given(timers, timers, st.integers(0, 2**32), st.floats(0, 1))
def test_loss_is_detected_in_time(one, other, seed, phase):
    """The wire is cut in both directions: both ends know within the detection time, and not much before."""
    chance = random.Random(seed)
    channel = Channel(pair(chance.random, one, other), delay=lambda: chance.random() * 0.002)
    channel.run(20.0 + phase)
    assert channel.up
    cut = channel.now
    channel.lost = lambda sender: True
    channel.run(cut + 30.0, lambda: not any(session.state is U for session in channel.sessions))
    for session in channel.sessions:
        assert (session.state, session.diag) == (D, Diag.TIME_EXPIRED)
    multipliers = (other.multiplier, one.multiplier)
    interval = max(one.interval_us, other.interval_us) / 1e6
    for at, end, state in channel.history[-2:]:
        assert state is D
        assert at - cut <= interval * multipliers[end] + 0.003
        assert at - cut >= interval * (multipliers[end] - 1) - 0.003


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 1))
def test_one_way_loss_is_known_to_both(seed, deaf):
    """Who hears nothing says so, and the other one, who hears that, is down at once."""
    chance = random.Random(seed)
    channel = Channel(pair(chance.random), delay=lambda: 0.001)
    channel.run(10.0)
    channel.lost = lambda sender: sender != deaf
    channel.run(10.3)
    assert [session.state for session in channel.sessions].count(U) == 0
    assert channel.sessions[deaf].diag is Diag.TIME_EXPIRED
    assert channel.sessions[1 - deaf].diag is Diag.NEIGHBOR_DOWN
    assert channel.sessions[1 - deaf].remote_diag == Diag.TIME_EXPIRED


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.3))
def test_comes_up_through_loss_and_again_after_an_outage(seed, loss):
    """With up to 30 % of all packets lost it takes longer, and after a cut wire all begins anew."""
    chance = random.Random(seed)
    channel = Channel(
        pair(chance.random, Timers(50_000, 10), Timers(50_000, 10)),
        lost=lambda sender: chance.random() < loss,
        delay=lambda: chance.random() * 0.02,
    )
    channel.run(60.0, lambda: channel.up)
    assert channel.up
    channel.reorders = True
    usual, channel.lost = channel.lost, lambda sender: True
    channel.run(channel.now + 15.0)  # ten times the second that a peer names which is not up yet, and some more
    assert [session.state for session in channel.sessions] == [D, D]
    channel.lost = usual
    channel.run(channel.now + 60.0, lambda: channel.up)
    assert channel.up


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_two_packets_in_a_row_may_be_lost(seed):
    """With a multiplier of 4 that is no reason to go down: the third one comes within three intervals."""
    chance = random.Random(seed)
    runs = [0, 0]

    def lost(sender):
        runs[sender] = runs[sender] + 1 if runs[sender] < 2 and chance.random() < 0.5 else 0
        return bool(runs[sender])

    channel = Channel(pair(chance.random, Timers(50_000, 4), Timers(50_000, 4)), delay=lambda: 0.001)
    channel.run(10.0)
    channel.lost = lost
    channel.run(60.0)
    assert [session.downs for session in channel.sessions] == [0, 0]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), timers), min_size=1, max_size=6), st.integers(0, 2**32))
def test_timers_change_without_a_break(changes, seed):
    """Any number of changes at both ends, also during polls: no end ever takes the other one for dead."""
    chance = random.Random(seed)
    channel = Channel(pair(chance.random, Timers(50_000, 3), Timers(100_000, 3)), delay=lambda: chance.random() * 0.004)
    channel.run(5.0)
    for end, change in changes:
        new = Timers(change.interval_us, max(2, change.multiplier))
        channel.sessions[end].change(new, channel.now)
        channel.run(channel.now + chance.random() * 3)
    channel.run(channel.now + 20.0)
    assert channel.up
    assert [session.downs for session in channel.sessions] == [0, 0]
    assert channel.sessions[0].transmit_s == channel.sessions[1].receive_s
    assert not any(decode(data).poll for at, _, data in channel.sent if at > channel.now - 5.0)


def test_packets_come_by_the_negotiated_clock():
    """Between 75 % and 100 % of the interval while nothing happens."""
    chance = random.Random(1)
    channel = Channel(pair(chance.random))
    channel.run(30.0)
    times = [at for at, end, _ in channel.sent if end == 0 and at > 10.0]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) > 400
    assert min(gaps) >= 0.0375 - 1e-9
    assert max(gaps) <= 0.05 + 1e-9


def test_a_held_end_is_noticed_at_once_and_comes_back():
    """The peer goes down with the one packet, hears nothing any more, and both are up again after the release."""
    chance = random.Random(2)
    channel = Channel(pair(chance.random))
    channel.run(10.0)
    channel.step(0, channel.sessions[0].hold)
    channel.run(10.01)
    assert (channel.sessions[1].state, channel.sessions[1].remote_diag) == (D, Diag.FORWARDING_PLANE_RESET)
    count = sum(end == 0 for _, end, _ in channel.sent)
    channel.run(20.0)
    assert sum(end == 0 for _, end, _ in channel.sent) == count
    assert channel.sessions[1].state is D
    channel.sessions[0].release(channel.now)
    channel.run(25.0, lambda: channel.up)
    assert channel.up

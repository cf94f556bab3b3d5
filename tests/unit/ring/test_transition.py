"""Slot words over time: who is where, how long, and that nobody is sent to a member that does not serve."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from appliance.forwarding import NO_MEMBER, SLOTS, SlotArray
from appliance.ring.slots import pack, unpack
from appliance.ring.transition import TAIL_S, Course, PinFacts, Step, follow, is_quiet, pin_facts, replay, start

N = NO_MEMBER
WINDOW = 900.0
MEMBERS = frozenset(range(4))
SIZE = 4


def steady(*owners: int) -> SlotArray:
    primary = np.array(owners, np.uint32)
    return pack(primary, primary)


def words(course: Course) -> list[tuple[int, int]]:
    primary, previous = unpack(course.slots)
    return list(zip(primary.tolist(), previous.tolist(), strict=True))


def owners(course: Course) -> list[int]:
    """Where the flows are that nobody remembers."""
    return [primary if previous == N else previous for primary, previous in words(course)]


def pins(*elsewhere: bool, quiet: float = float("inf")) -> PinFacts:
    """Member 0 has flows where *elsewhere* says so."""
    slot = np.flatnonzero(elsewhere)
    return pin_facts(np.inf, slot, np.zeros(len(slot), np.uint16), np.full(len(slot), quiet, np.float32))


@dataclass(frozen=True)
class Event:
    """Time passes, and then somebody else is to own the slots."""

    after: float
    serving: frozenset[int]
    wanted: tuple[int, ...]
    told: bool
    """Whether it is known that all flows that are remembered are at their primaries."""


@st.composite
def events(draw: st.DrawFn) -> Event:
    serving = draw(st.frozensets(st.sampled_from(sorted(MEMBERS))))
    takes = sorted(draw(st.frozensets(st.sampled_from(sorted(serving))))) if serving else []
    one = st.sampled_from(takes) if takes else st.just(N)
    wanted = draw(st.tuples(*[one] * SIZE))
    return Event(draw(st.sampled_from((0.0, 1.0, 29.0, 31.0, 899.0, 901.0))), serving, wanted, draw(st.booleans()))


def facts_of(event: Event) -> PinFacts | None:
    return pins(*[False] * SIZE) if event.told else None


def course_after(history: list[Event]) -> tuple[Course, float]:
    """What comes of events, and the time then."""
    course, now = start(steady(*[0] * SIZE)), 0.0
    for event in history:
        now += event.after
        course = follow(course, steady(*event.wanted), event.serving, now, WINDOW, facts=facts_of(event))
    return course, now


histories = st.lists(events(), max_size=6)


@pytest.mark.parametrize(
    ("before", "wanted", "serving", "after"),
    [
        ((0, 0), 0, {0}, (0, 0)),
        ((0, 0), 1, {0, 1}, (1, 0)),
        ((0, 0), 1, {1}, (1, 1)),
        ((0, 0), N, {0}, (N, 0)),
        ((0, 0), N, set(), (N, N)),
        ((1, 0), 1, {0, 1}, (1, 0)),
        ((1, 0), 2, {0, 1, 2}, (2, 0)),
        ((1, 0), 0, {0, 1}, (0, N)),
        ((1, 0), 1, {1}, (1, N)),
        ((1, 0), 0, {0}, (0, N)),
        ((1, 0), 2, {1, 2}, (2, N)),
        ((1, 0), N, {0, 1}, (N, 0)),
        ((1, 0), N, {1}, (N, 1)),
        ((1, 0), N, {2}, (N, 2)),
        ((1, 0), N, set(), (N, N)),
        ((1, N), 1, {1}, (1, N)),
        ((1, N), 2, {1, 2}, (2, 1)),
        ((1, N), 2, {2}, (2, N)),
        ((1, N), N, {1}, (N, 1)),
        ((1, N), N, {0}, (N, 0)),
        ((N, 0), N, {0}, (N, 0)),
        ((N, 0), 0, {0}, (0, N)),
        ((N, 0), 1, {0, 1}, (1, 0)),
        ((N, 0), 1, {1}, (1, N)),
        ((N, N), 1, {1}, (1, 1)),
    ],
)
def test_next_words(before: tuple[int, int], wanted: int, serving: set[int], after: tuple[int, int]) -> None:
    """The word that follows a word at once, by who is wanted and who serves."""
    word = pack(np.array([before[0]], np.uint32), np.array([before[1]], np.uint32))
    course = Course(word, np.zeros(1), int(before[0] != before[1] != N), int(before[1] == N != before[0]))
    assert words(follow(course, steady(wanted), serving, 1.0, WINDOW)) == [after]


@given(histories, events())
def test_nobody_goes_to_a_member_that_does_not_serve(history: list[Event], event: Event) -> None:
    """Whatever was before, words name members that serve and no others, and their owners are those that are wanted."""
    before, now = course_after(history)
    course = follow(before, steady(*event.wanted), event.serving, now + event.after, WINDOW, facts=facts_of(event))
    assert {index for word in words(course) for index in word} <= {*event.serving, N}
    assert tuple(primary for primary, _ in words(course)) == event.wanted


@given(histories, events())
def test_unremembered_flows_are_found(history: list[Event], event: Event) -> None:
    """As long as no window is over, flows that nobody remembers are where they were, if their member serves."""
    before, now = course_after(history)
    course = follow(before, steady(*event.wanted), event.serving, now + event.after, WINDOW)
    ages = (now + event.after - before.since).tolist()
    for (primary, previous), age, was, now_at in zip(words(before), ages, owners(before), owners(course), strict=True):
        windowed = primary != previous != N
        if was in event.serving and not (windowed and age >= WINDOW):
            assert now_at == was


@given(histories, events())
def test_following_twice_is_following_once(history: list[Event], event: Event) -> None:
    """What has been followed already changes nothing more, and is not even made anew."""
    before, now = course_after(history)
    now += event.after
    course = follow(before, steady(*event.wanted), event.serving, now, WINDOW, facts=facts_of(event))
    assert follow(course, steady(*event.wanted), event.serving, now, WINDOW) is course


wishes = st.tuples(*[st.sampled_from(sorted(MEMBERS))] * SIZE)


@given(histories, st.lists(wishes, min_size=1, max_size=5), st.sampled_from((0.0, 31.0, 901.0)))
def test_changes_in_one_go_are_changes_one_by_one(
    history: list[Event], changes: list[tuple[int, ...]], after: float
) -> None:
    """Who has missed some changes finds flows that nobody remembers at the same members as who has seen all."""
    before, now = course_after(history)
    now += after
    step_by_step = before
    for wanted in changes:
        step_by_step = follow(step_by_step, steady(*wanted), MEMBERS, now, WINDOW)
    at_once = follow(before, steady(*changes[-1]), MEMBERS, now, WINDOW)
    # Where nobody has taken flows for as long as a window, there are none to be found.
    some = [
        primary != N or (previous != N and now - since < WINDOW)
        for (primary, previous), since in zip(words(before), before.since.tolist(), strict=True)
    ]
    assert np.array(owners(step_by_step))[some].tolist() == np.array(owners(at_once))[some].tolist()


@given(histories, events())
def test_everything_becomes_steady(history: list[Event], event: Event) -> None:
    """When nothing changes any more and nobody is remembered elsewhere, the slots end as they are wanted."""
    assume(N not in event.wanted)
    course, now = course_after([*history, event])
    wanted = steady(*event.wanted)
    for wait in (WINDOW + 1, TAIL_S + 1):
        now += wait
        course = follow(course, wanted, event.serving, now, WINDOW, facts=pins(*[False] * SIZE))
    assert words(course) == [(owner, owner) for owner in event.wanted]
    assert course.steady
    assert course.next_at is None


@given(histories)
def test_courses_know_what_they_are(history: list[Event]) -> None:
    """Windows, tails, the members that slots fall back to and the next moment are those of the words."""
    course, now = course_after(history)
    pairs = words(course)
    assert course.windows == sum(primary != previous != N for primary, previous in pairs)
    assert course.tails == sum(previous == N != primary for primary, previous in pairs)
    assert course.previous() == {previous for primary, previous in pairs if primary != previous != N}
    ending = [since for (one, two), since in zip(pairs, course.since.tolist(), strict=True) if N != one != two != N]
    assert course.next_at == (min(ending) + WINDOW if ending else None)
    assert course.next_at is None or now - WINDOW < course.next_at <= now + WINDOW


@given(histories, events())
def test_nothing_happens_before_its_time(history: list[Event], event: Event) -> None:
    """Until the next moment comes, the same wishes lead to the same words; at that moment they do not."""
    course, now = course_after([*history, event])
    wanted = steady(*event.wanted)
    course = follow(course, wanted, event.serving, now, WINDOW)
    if course.next_at is not None:
        assert follow(course, wanted, event.serving, max(now, course.next_at - 0.001), WINDOW) is course
        assert follow(course, wanted, event.serving, course.next_at, WINDOW) is not course


def test_a_window_ends_in_a_tail_and_a_tail_when_nobody_is_left() -> None:
    """Window, tail of a minimal length, tail as long as somebody is remembered elsewhere, steady."""
    wanted, serving = steady(1, 1), {0, 1}
    course = follow(start(steady(0, 0)), wanted, serving, 10, WINDOW)
    assert course.next_at == 910
    course = follow(course, wanted, serving, 910, WINDOW, facts=pins(True, False))
    assert words(course) == [(1, N), (1, N)]
    course = follow(course, wanted, serving, 911, WINDOW, facts=pins(True, False))
    assert words(course) == [(1, N), (1, N)]
    course = follow(course, wanted, serving, 910 + TAIL_S, WINDOW, facts=pins(True, False))
    assert words(course) == [(1, N), (1, 1)]
    course = follow(course, wanted, serving, 5000, WINDOW)
    assert words(course) == [(1, N), (1, 1)], "what is not known is taken for remembered"
    course = follow(course, wanted, serving, 5001, WINDOW, facts=pins(False, False))
    assert course.slots is wanted


@pytest.mark.parametrize(
    ("age", "quiet", "is_over"),
    [(299, float("inf"), False), (300, float("inf"), True), (600, 299, False), (600, 300, True), (200, 400, False)],
)
def test_a_quiet_window_may_close(age: float, quiet: float, is_over: bool) -> None:
    """When nothing has used the old owner for so long, and the window is that old itself."""
    course = follow(start(steady(0)), steady(1), {0, 1}, 0, WINDOW)
    assert is_quiet(course, pins(True, quiet=quiet), age, 300) == is_over


def test_windows_close_together() -> None:
    """One that is still in use keeps all of its table open; slots without a window or without an owner do not count."""
    course = follow(start(steady(0, 0, 2)), steady(1, 1, 2), {0, 1, 2}, 0, WINDOW)
    quiet = pin_facts(0, np.arange(2), np.zeros(2, np.uint16), np.array([300, 299], np.float32))
    assert not is_quiet(course, quiet, 400, 300)
    assert is_quiet(course, quiet, 400, 299)
    assert not is_quiet(start(steady(0)), pins(False), 400, 0)
    assert not is_quiet(follow(start(steady(0)), steady(N), {0}, 0, WINDOW), pins(False), 400, 300)


def test_what_has_settled_is_over() -> None:
    """Windows that were open at that time end in their tails; one that begins with it does not."""
    course = follow(start(steady(0, 0)), steady(1, 0), {0, 1}, 10, WINDOW)
    course = follow(course, steady(1, 1), {0, 1}, 20, WINDOW, settled_at=20)
    assert words(course) == [(1, N), (1, 0)]
    assert follow(course, steady(1, 1), {0, 1}, 21, WINDOW, settled_at=19) is course
    log = [Step(0, steady(0, 0), MEMBERS), Step(10, steady(1, 0), MEMBERS), Step(20, steady(1, 1), MEMBERS, True)]
    replayed = replay(log, 21, WINDOW)
    assert replayed is not None
    assert words(replayed) == words(course)


def test_windows_without_new_flows_do_not_end() -> None:
    """While all drain, old flows stay with the last owner for as long as it takes, and nobody is to be woken for it."""
    course = follow(start(steady(0)), steady(N), {0}, 0, WINDOW)
    assert course.next_at is None
    assert follow(course, steady(N), {0}, 10 * WINDOW, WINDOW, pins(False), 10 * WINDOW) is course
    course = follow(start(steady(1)), steady(N), {0, 1}, 0, WINDOW)
    assert follow(course, steady(N), {0, 1}, 10 * WINDOW, WINDOW, pins(False), 10 * WINDOW) is course


def test_the_others_tell_of_flows() -> None:
    """A slot that is steady here becomes a tail when another director remembers flows elsewhere."""
    course = start(steady(1, 1))
    course = follow(course, course.slots, {0, 1}, 10, WINDOW, facts=pins(True, False))
    assert words(course) == [(1, N), (1, 1)]


def test_a_window_goes_on_through_other_changes() -> None:
    """A second change does not give the old owner more time, since its flows were asked for all along."""
    course = follow(start(steady(0)), steady(1), {0, 1}, 0, WINDOW)
    course = follow(course, steady(2), {0, 1, 2}, 800, WINDOW)
    assert words(course) == [(2, 0)]
    assert course.next_at == WINDOW
    course = follow(course, steady(3), {0, 1, 2, 3}, WINDOW, WINDOW)
    assert words(course) == [(3, 2)], "from the end of the window on, unremembered flows were those of its owner"
    assert course.next_at == 2 * WINDOW


def test_what_pins_say() -> None:
    """Which members each slot has flows of, and since when all of these are quiet."""
    facts = pin_facts(
        10.0,
        np.array([7, 7, 7, 8, 3, 9]),
        np.array([0, 0, 1, 1, 2, 2], np.uint16),
        np.array([50, 20, 5, 5, 5, 5], np.float32),
    )
    rows = zip(facts.slot.tolist(), facts.member.tolist(), facts.quiet_s.tolist(), strict=True)
    assert list(rows) == [(3, 2, 5), (7, 0, 20), (7, 1, 5), (8, 1, 5), (9, 2, 5)]
    serves = np.array([True, True, True])
    assert np.flatnonzero(facts.elsewhere(np.full(SLOTS, 1, np.uint32), serves)).tolist() == [3, 7, 9]
    assert np.flatnonzero(facts.elsewhere(np.full(SLOTS, 2, np.uint32), serves)).tolist() == [7, 8]
    assert np.flatnonzero(facts.elsewhere(np.full(SLOTS, 1, np.uint32), ~serves)).tolist() == []
    assert replace(facts, everywhere=True).elsewhere(np.full(SLOTS, 1, np.uint32), serves).all()


def test_what_was_seen_counts_through_changes() -> None:
    """Flows are where they are, whatever has become of slots since they were looked at."""
    facts = pin_facts(10.0, np.array([0, 1]), np.array([0, 1], np.uint16), np.zeros(2, np.float32))
    course = follow(start(steady(0, 0)), steady(2, 2), {2}, 11, WINDOW, facts)
    assert words(course) == [(2, 2), (2, 2)], "nobody that they are at serves"
    course = follow(course, steady(2, 2), {0, 2}, 12, WINDOW, facts)
    assert words(course) == [(2, N), (2, 2)]
    course = follow(course, steady(1, 1), {0, 1, 2}, 12 + WINDOW, WINDOW, facts)
    assert words(course) == [(1, 2), (1, 2)]


def test_what_was_seen_before_says_nothing_of_later() -> None:
    """A tail that has begun since then, and whatever is long ago."""
    course = follow(start(steady(0)), steady(1), {0, 1}, 0, WINDOW)
    course = follow(course, steady(1), {0, 1}, WINDOW, WINDOW, pins(False))
    assert words(course) == [(1, N)]
    nothing = np.zeros(0, np.int64)
    for at, ago, over in ((0, 0, False), (-1, 0, False), (1, 0, True), (1, TAIL_S, False)):
        facts = pin_facts(WINDOW + at, nothing, nothing.astype(np.uint16), nothing.astype(np.float32))
        later = follow(course, steady(1), {0, 1}, WINDOW + TAIL_S + ago, WINDOW, facts)
        assert later.steady == over if TAIL_S - at + ago <= TAIL_S / 2 else not later.steady


@given(st.lists(events(), min_size=1, max_size=6))
def test_replaying_is_having_been_there(history: list[Event]) -> None:
    """Who replays what others have seen has the same words, but for tails, which nobody can know of."""
    at, steps = 0.0, []
    for event in history:
        at += event.after
        steps.append(Step(at, steady(*event.wanted), event.serving))
    course = start(steps[0].wanted)
    for step in steps[1:]:
        course = follow(course, step.wanted, step.serving, step.at, WINDOW)
    now = at + 100
    course = follow(course, steps[-1].wanted, steps[-1].serving, now, WINDOW)
    replayed = replay(steps, now, WINDOW)
    assert replayed is not None
    assert words(replayed) == words(course)
    assert replayed.next_at == course.next_at


def test_a_window_that_was_over_does_not_come_back() -> None:
    """Where all drain long after a window, who follows the log afterwards finds flows where the others have them."""
    log = [Step(0, steady(0), MEMBERS), Step(10, steady(1), MEMBERS), Step(2000, steady(N), MEMBERS)]
    course = follow(start(steady(0)), steady(1), MEMBERS, 10, WINDOW)
    course = follow(course, steady(1), MEMBERS, 10 + WINDOW, WINDOW)
    course = follow(course, steady(N), MEMBERS, 2000, WINDOW)
    replayed = replay(log, 2001, WINDOW)
    assert replayed is not None
    assert words(replayed) == words(course) == [(N, 1)]


def test_nothing_to_replay() -> None:
    """Without a log there is no past."""
    assert replay([], 0, WINDOW) is None

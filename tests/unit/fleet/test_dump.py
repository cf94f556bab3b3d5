"""How a whole table is asked for."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.fleet.dump import AT_ONCE, Asking
from appliance.fleet.wire import ALL_PARTS, END, PARTS, Ask, Part

MS = 1_000_000
NUMBER = 7


def answer(ask: Ask, blocks: dict[int, tuple[int, int]]) -> list[Part]:
    """The parts of a block that are wanted. *blocks*: parts and what follows, by cursor."""
    parts, following = blocks[ask.cursor]
    return [Part(ask.number, ask.cursor, following, i, parts) for i in range(parts) if ask.wanted >> i & 1]


@given(st.lists(st.integers(1, PARTS), min_size=1, max_size=8), st.integers(0, 40), st.integers(0, 2**32))
@settings(max_examples=40)
def test_everything_comes_in_spite_of_losses(sizes, loss_percent, seed):
    """Whatever is lost, repeated or overtaken: in the end each part has been counted once."""
    chance = random.Random(seed)
    blocks = {100 * i: (size, 100 * (i + 1) if i + 1 < len(sizes) else END) for i, size in enumerate(sizes)}
    asking, now_ns = Asking(NUMBER, 0), 0
    under_way: list[Part] = []
    for _ in range(10_000):
        for ask in asking.due(now_ns, MS):
            if chance.randrange(100) >= loss_percent:
                under_way += answer(ask, blocks)
        chance.shuffle(under_way)
        arriving, under_way = under_way[:40], under_way[40:]
        for part in arriving:
            if chance.randrange(100) >= loss_percent:
                for _ in range(1 + (chance.randrange(10) == 0)):
                    asking.note(part, 17, now_ns)
        if asking.is_done:
            break
        now_ns += 10 * MS
    assert asking.is_done
    assert asking.pins == 17 * sum(sizes)
    assert asking.due(now_ns + 10**12, MS) == []


def test_some_blocks_are_asked_for_at_once():
    """The next one as soon as it is known where it begins, up to a limit."""
    asking = Asking(NUMBER, 0)
    assert asking.due(0, MS) == [Ask(NUMBER, 0, ALL_PARTS)]
    assert asking.due(0, MS) == []
    asked = []
    for cursor in (0, 10, 20):
        asking.note(Part(NUMBER, cursor, cursor + 10, 0, 5), 1, MS)
        asked += [ask.cursor for ask in asking.due(MS, MS)]
    assert asked == [10, 20]
    assert AT_ONCE == 3
    for part in range(1, 5):
        asking.note(Part(NUMBER, 0, 10, part, 5), 1, MS)
    assert [ask.cursor for ask in asking.due(MS, MS)] == [30]


def test_what_is_missing_is_asked_for_again():
    """Only that, after a while without any progress, and less and less often."""
    asking = Asking(NUMBER, 0)
    asking.due(0, MS)
    asking.note(Part(NUMBER, 0, END, 1, 3), 1, 10 * MS)
    assert asking.due(60 * MS, MS) == []
    assert asking.due(61 * MS, MS) == [Ask(NUMBER, 0, ALL_PARTS & ~2)]
    assert asking.due(160 * MS, MS) == []
    assert asking.due(162 * MS, MS) == [Ask(NUMBER, 0, ALL_PARTS & ~2)]


def test_a_slow_path_is_given_time():
    """Nothing is asked for again before an answer can be there."""
    asking = Asking(NUMBER, 0)
    asking.due(0, 200 * MS)
    assert asking.due(600 * MS, 200 * MS) == []
    assert len(asking.due(601 * MS, 200 * MS)) == 1


@pytest.mark.parametrize(
    "part",
    [
        Part(NUMBER + 1, 0, END, 0, 1),
        Part(NUMBER, 5, END, 0, 1),
        Part(NUMBER, 0, 0, 0, 1),
        Part(NUMBER, 0, END, 1, 1),
        Part(NUMBER, 0, END, 0, 0),
        Part(NUMBER, 0, END, 0, PARTS + 1),
    ],
)
def test_parts_that_make_no_sense_change_nothing(part):
    """Of another request, of a block that was not asked for, or with numbers that contradict each other."""
    asking = Asking(NUMBER, 0)
    asking.due(0, MS)
    asking.note(part, 1, MS)
    assert (asking.pins, asking.is_done, asking.progress_ns) == (0, False, 0)
    asking.note(Part(NUMBER, 0, END, 0, 1), 1, MS)
    assert asking.is_done

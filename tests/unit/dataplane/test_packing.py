"""Tables on their way to another process: `dataplane.raw.packing`."""

import os
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from appliance.dataplane.raw.packing import Packer, Unpacker

SIZE = 1 << 14
ARRAYS = tuple(np.full(SIZE, number, np.uint32) for number in range(5))


def passed(packer: Packer, unpacker: Unpacker, value: object) -> tuple[Any, int]:
    """What arrives, and how many bytes that took."""
    fd = packer.pack(value)
    try:
        return unpacker.unpack(fd), os.fstat(fd).st_size
    finally:
        os.close(fd)


@given(st.lists(st.lists(st.sampled_from(range(len(ARRAYS))), max_size=6), min_size=1, max_size=8))
def test_what_the_value_before_had_is_not_sent_again(values: list[list[int]]) -> None:
    """Whatever arrays come in whatever order, all arrive, and only those that are new take room."""
    packer, unpacker = Packer(), Unpacker()
    before: set[int] = set()
    for numbers in values:
        arrived, size = passed(packer, unpacker, {"arrays": [ARRAYS[number] for number in numbers]})
        assert [array.tolist() for array in arrived["arrays"]] == [[number] * SIZE for number in numbers]
        assert size // (SIZE * 4) == len(set(numbers) - before)
        before = set(numbers)


def test_what_was_one_array_is_one() -> None:
    """Services of one pool share their slots at the other end as well, and of the type that they had."""
    choices = np.array([3, 1], np.uint16)
    arrived, _ = passed(Packer(), Unpacker(), (choices, choices))
    assert arrived[0] is arrived[1]
    assert arrived[0].dtype == np.uint16
    assert not arrived[0].flags.writeable


def test_an_array_in_the_place_of_one_that_is_gone_is_another() -> None:
    """However Python gives memory out again."""
    packer, unpacker = Packer(), Unpacker()
    for number in range(50):
        arrived, _ = passed(packer, unpacker, [np.full(100, number)])
        assert arrived[0].tolist() == [number] * 100

"""Members' numbers outlive the process."""

from dataclasses import replace

import pytest

from appliance import indices
from appliance.state import State
from tests.builders import config


def without_first(whole):
    """The same without the first member of the first pool."""
    service = whole.services[0]
    pool = replace(service.pool, members=service.pool.members[1:])
    return replace(whole, services=(replace(service, pool=pool), *whole.services[1:]))


def test_the_next_process_gives_the_same_numbers(tmp_path):
    """Whatever the order in which it meets members; and none to another member that a former one has had."""
    path = tmp_path / "indices.json"
    first = State(config(), lambda: None).snapshot().indices
    turned = {way: len(first) - 1 - number for way, number in first.items()}
    indices.save(path, turned)
    found = indices.load(path, config())
    assert found is not None
    assert State(config(), lambda: None, found.known, found.unused).snapshot().indices == turned
    less = without_first(config())
    found = indices.load(path, less)
    assert found is not None
    state = State(less, lambda: None, found.known, found.unused)
    state.set_config(config())
    again = state.snapshot().indices
    came_back = next(way for way in again if way not in found.known)
    assert again[came_back] >= found.unused > max(turned.values())


@pytest.mark.parametrize("text", [None, "", "[]", '{"format": 2}', '{"format": 1, "ways": {"a": 1, "b": 1}}'])
def test_what_cannot_be_read_is_not_known(tmp_path, text):
    """Not there, not ours, of another version, or with a number that stands for two."""
    if text is not None:
        (tmp_path / "indices.json").write_text(text)
    assert indices.load(tmp_path / "indices.json", config()) is None

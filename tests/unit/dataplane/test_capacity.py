"""How large the XDP program's maps are made."""

import pytest

from appliance.dataplane.xdp.tables import TABLE, Capacity, Space
from appliance.decide import slot_tables
from tests.builders import config, pool, service


@pytest.mark.parametrize(("tables", "mib"), [(0, 2), (1, 2), (3, 2), (4, 2.5), (40, 20.5), (127, 64), (400, 100.6)])
def test_slots_by_the_configuration(tables: int, mib: float) -> None:
    """A few MiB for a few pools, half a MiB for each of more, and a bound that only steady tables go beyond."""
    size = Capacity.planned(tables).slots
    assert size * 2 / (1 << 20) == pytest.approx(mib, abs=0.1)
    assert size >= 2 * tables * TABLE


@pytest.mark.parametrize("tables", [1, 2, 5, 8, 31])
def test_all_tables_may_change_at_once_again_and_again(tables: int) -> None:
    """Whatever stretches are free by then, in whatever order."""
    space = Space(Capacity.planned(tables).slots, "slots")
    there = [(space.take(TABLE), TABLE) for _ in range(tables)]
    for length in (2 * TABLE, 2 * TABLE, TABLE, 2 * TABLE, 2 * TABLE, 2 * TABLE, TABLE):
        new = [(space.take(length), length) for _ in range(tables)]
        for first, old in there:
            space.give(first, old)
        there = new


def test_services_that_share_slots_need_them_once() -> None:
    """Services of one pool and one way of delivery have one table, and each other pool has one."""
    first, second = service(), service(name="other")
    assert slot_tables(config(first, second)) == 1
    assert slot_tables(config(first, second, service(name="third", pool=pool(name="more")))) == 2

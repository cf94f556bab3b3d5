"""What clients miss when something dies, once each: `tests/run failures` does it again and again, and has the figures.

Bounds are wide: they tell what does it (lease, guard, BFD) from the hold time (9 s), also on a busy machine.
"""

from collections.abc import Iterator

import pytest

from tests.failures.matrix import BLOCKED, CUT, DETACHED, DOWN, FROZEN, GUARD, SIGKILL, SIGSTOP, run
from tests.failures.stage import Stage, stage
from tests.netns import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(150)]


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[Stage]:
    """Two directors that share a VIP, and a router that watches them by BFD."""
    with stage(tmp_path_factory.mktemp("failures")) as made:
        yield made


def misses(made: Stage, failure) -> float:
    missed, said = run(made, failure)
    print(f"\n{failure.name}: {missed:.0f} ms, {said['lost']} of {said['sent']} datagrams")
    return missed


@pytest.mark.parametrize("failure", [SIGKILL, SIGSTOP, BLOCKED, CUT, DOWN, FROZEN], ids=lambda failure: failure.name)
def test_routers_leave_a_director_that_may_not_forward(watched, failure):
    """Whatever becomes of it: long before the hold time, and flows go on by the other one."""
    assert misses(watched, failure) < 4000 * PATIENCE


def test_a_detached_program_and_a_guard_that_hangs(tmp_path):
    """Without its XDP program a director forwards on, so routers keep it. With a guard that hangs while the director
    dies, and without BFD, ExaBGP ends by itself."""
    with stage(tmp_path, plane="xdp", bfd=False) as made:
        assert misses(made, DETACHED) < 500 * PATIENCE
        assert misses(made, GUARD) < 5000 * PATIENCE

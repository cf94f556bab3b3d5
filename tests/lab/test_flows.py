"""No flow breaks, in short: the fleet with both data planes at once, ten thousand flows, the changes that matter."""

import pytest

from tests.flows import story
from tests.flows.__main__ import loads, run
from tests.flows.story import Story

pytestmark = [pytest.mark.lab, pytest.mark.timeout(150)]


def test_no_flow_breaks_whatever_happens_to_members_and_directors(tmp_path):
    """Drain, removal, weight, crash, the loss of a director in the middle of it, and the way back: nothing breaks."""
    wanted = loads(flows=10_000, connections=600, duration_s=30, seed=1)
    result = run(tmp_path, "mixed", lambda told: story.short(told, 3), wanted, at_least=10_000)
    assert result.begun >= 10_000
    assert result.all_broken == []
    assert result.all_lost  # the crash was one
    assert max(happening.alive for happening in result.happenings) >= 700


def test_flows_break_when_directors_remember_nothing(tmp_path):
    """The same fleet without pins: a drain alone breaks flows. So the test above can fail."""

    def drain(told: Story) -> None:
        told.happens("drain m2")
        told.fleet.member("drain", "m2")
        told.passes(2)

    result = run(tmp_path, "mixed", drain, loads(flows=1000, connections=400, duration_s=5, seed=2), pins=0)
    assert {flow.member for flow in result.all_broken} == {2}

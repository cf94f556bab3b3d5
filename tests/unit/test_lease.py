"""No proof, no lease."""

import pytest

from appliance.dataplane.fake import FakeDataPlane
from appliance.lease import renew
from appliance.state import State
from bgp.speaker import RecordingSpeaker, Survival
from tests.builders import config


@pytest.fixture
async def parts():
    state, plane, speaker = State(config(), lambda: None), FakeDataPlane(), RecordingSpeaker()
    await plane.start()
    state.set_plane_error(None)
    return state, plane, speaker


async def test_a_plane_that_proves_itself_renews_the_lease(parts):
    """Each proof is one renewal."""
    _, _, speaker = parts
    assert await renew(*parts)
    assert await renew(*parts)
    assert speaker.renewals == 2


async def test_a_plane_that_cannot_prove_itself_lets_the_lease_run_out(parts):
    """The reason goes into the store, where the decision finds it; the speaker hears nothing."""
    state, plane, speaker = parts
    plane.fail("thread is stuck")
    assert not await renew(*parts)
    assert speaker.renewals == 0
    assert state.snapshot().plane_error == "thread is stuck"


async def test_doubts_in_the_store_are_not_overruled(parts):
    """Tables that were refused are no better because the old ones still forward."""
    state, _, speaker = parts
    state.set_plane_error("nft refused the rules")
    assert not await renew(*parts)
    assert speaker.renewals == 0
    assert state.snapshot().plane_error == "nft refused the rules"


async def test_the_speaker_hears_what_goes_on_without_us(parts):
    """With each renewal: interfaces that are forwarded on, and for how long routes may stay."""
    state, plane, speaker = parts
    plane.surviving = frozenset({3})
    assert await renew(state, plane, speaker, 30.0)
    assert speaker.survival == Survival(30.0, frozenset({3}))

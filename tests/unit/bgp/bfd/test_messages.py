"""What the director and its BFD process tell each other."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.bfd.messages import (
    Change,
    Report,
    SessionSettings,
    SessionView,
    report_message,
    report_of,
    sessions_message,
    settings_of,
)
from bgp.bfd.packet import Diag, State

COUNTS = st.dictionaries(st.text(max_size=9), st.integers(0, 9), max_size=3)
SECONDS = st.floats(0, 1e10)
STATES = st.sampled_from(State)
SETTINGS = st.builds(SessionSettings, st.ip_addresses().map(str), st.integers(1), st.integers(1, 255))
VIEWS = st.builds(
    SessionView,
    state=STATES,
    remote_state=STATES,
    since=SECONDS,
    transmit_s=SECONDS,
    receive_s=SECONDS,
    detection_s=SECONDS,
    refused=COUNTS,
)
CHANGES = st.builds(Change, before=STATES, state=STATES, remote_state=STATES)
REPORTS = st.builds(
    Report,
    sessions=st.dictionaries(st.text(max_size=9), VIEWS, max_size=3),
    changes=st.lists(CHANGES, max_size=3).map(tuple),
    refused=COUNTS,
)


@given(st.lists(SETTINGS, unique_by=lambda each: each.peer))
def test_settings_arrive_as_they_were(sessions):
    """Each under its peer."""
    assert settings_of(json.loads(sessions_message(sessions))) == {each.peer: each for each in sessions}


@given(REPORTS)
def test_reports_arrive_as_they_were(report):
    """States are states again."""
    assert report_of(report_message(report)) == report


@pytest.mark.parametrize(
    ("before", "state", "remote", "diag", "lost"),
    [
        (State.UP, State.DOWN, State.DOWN, Diag.TIME_EXPIRED, True),
        (State.UP, State.DOWN, State.DOWN, Diag.NEIGHBOR_DOWN, True),
        (State.UP, State.DOWN, State.ADMIN_DOWN, Diag.NEIGHBOR_DOWN, False),
        (State.UP, State.DOWN, State.UP, Diag.FORWARDING_PLANE_RESET, False),
        (State.UP, State.ADMIN_DOWN, State.UP, Diag.ADMIN_DOWN, False),
        (State.INIT, State.DOWN, State.DOWN, Diag.TIME_EXPIRED, False),
        (State.INIT, State.UP, State.UP, Diag.NONE, False),
    ],
)
def test_a_lost_path_was_there_and_is_not(before, state, remote, diag, lost):
    """Nobody's deliberate end is a failure of the path, and what never was up cannot be lost."""
    assert Change("192.0.2.1", before, state, remote, diag, Diag.NONE).path_lost is lost

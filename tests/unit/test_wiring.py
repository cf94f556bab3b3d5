"""What is probed, what verdicts make of a member, what needs a restart."""

from dataclasses import replace

import pytest

from appliance.model import Health
from appliance.wiring import health_of, learning_limit_s, needs_restart, probes
from health.spec import Verdict
from tests.builders import MONITOR, config, member, pool, service


def test_every_monitor_probes_every_enabled_member():
    """The port is the monitor's own, else the first one of the virtual service."""
    other = replace(MONITOR, name="other", monitor_port=8080)
    given = config(service(pool=pool(member(1), member(2, enabled=False), monitors=(MONITOR, other))))
    wanted = {(probe.monitor, probe.target.id, probe.target.port) for probe in probes(given)}
    assert wanted == {("ping80", "web/web1", 80), ("other", "web/web1", 8080)}


def test_a_probe_has_what_its_monitor_says():
    """Kind, pace, settings and quick start go from the configuration to the probe."""
    slow = replace(MONITOR, kind="tls", quick_start=False, settings=(("expiry_warning_days", 3),))
    (probe,) = probes(config(service(pool=pool(member(1), monitors=(slow,)))))
    assert (probe.kind, probe.quick_start, probe.settings) == ("tls", False, (("expiry_warning_days", 3),))
    assert (probe.interval_s, probe.timeout_s) == (slow.send_interval_s, slow.receive_timeout_s)


UP, DOWN, UNKNOWN = Verdict.UP, Verdict.DOWN, Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("verdicts", "health"),
    [
        ({UP}, Health.UP),
        ({DOWN}, Health.DOWN),
        ({UP, DOWN}, Health.DOWN),
        ({UNKNOWN, DOWN}, Health.DOWN),
        ({UNKNOWN}, Health.UNKNOWN),
        ({UP, UNKNOWN}, None),
    ],
)
def test_one_bad_verdict_is_enough_and_a_new_monitor_changes_nothing(verdicts, health):
    """Down beats all; a verdict that is missing beside others leaves the member as it was."""
    assert health_of(verdicts) is health


def test_learning_lasts_as_long_as_members_need_to_come_up():
    """Rise and one more interval and time-out, but never longer than the limit."""
    assert learning_limit_s(pool(), 15.0) == 4.0
    assert learning_limit_s(pool(monitors=(replace(MONITOR, send_interval_s=10.0),)), 15.0) == 15.0
    assert learning_limit_s(pool(monitors=()), 15.0) == 1.0


def test_a_reload_may_not_change_what_the_process_stands_on():
    """Interfaces, BGP and the fleet's secret take a restart; services do not."""
    old = config()
    assert list(needs_restart(old, config(service(min_members=2)))) == []
    (sentence,) = needs_restart(old, replace(old, secret=b"another sixteen bytes"))
    assert "[fleet] changed" in sentence
    assert "restart" in sentence
    assert len(list(needs_restart(old, replace(old, bgp=None)))) == 1
    assert len(list(needs_restart(old, replace(old, director=replace(old.director, interfaces=("eth2",)))))) == 1

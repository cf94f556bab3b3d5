"""The dashboard and the alert rules: they ask for what there is, and say what they should."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import appliance.monitoring
from appliance.api.metrics import exposition
from appliance.api.sources import Observed
from appliance.arp.owner import Phase
from appliance.arp.side import VipStatus
from appliance.model import AdminState, Order
from appliance.monitoring.dashboard import ROWS, dashboard
from appliance.state import PinsSeen
from health.spec import Code, Result, Verdict
from tests.monitoring import promtool
from tests.unit.api.samples import NOW, VIP, XDP, by_path, healthy, observed, sample_snapshot, shared

FOLDER = Path(appliance.monitoring.__file__).parent
RULES, DASHBOARD = FOLDER / "onward.rules.yml", FOLDER / "onward.dashboard.json"
RULES_TEST = Path(__file__).parent.parent / "monitoring" / "onward.rules.test.yml"

OF_PROMETHEUS = {"up": {"instance", "job"}}
SELECTOR = re.compile(r"(?<![\w{\"$])((?:onward|process)_[a-z_]+|up)(?:\{([^}]*)\})?(?!\w)")
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')


def rarely() -> Observed:
    """What most directors have no samples of: a member that drains with flows, a VIP that is answered for, an MSS."""
    snap = sample_snapshot(orders={"web/web1": Order(AdminState.DRAIN, NOW)})
    services = tuple(replace(one, arp=True) for one in snap.config.services)
    snap = replace(snap, config=replace(snap.config, services=services))
    (index,) = (index for way, index in snap.indices.items() if str(way.address) == "203.0.113.1")
    snap = replace(snap, pins=PinsSeen(flows={index: 7}))
    by_path_ = by_path(Verdict.UP, Result(Code.OK), mss=1460)
    return observed(snapshot=snap, health=(by_path_,), arp=(VipStatus(VIP, Phase.ANSWERING, "", NOW, 12, 0),))


SEEN = {"sample": observed(), "xdp": observed(plane=XDP), "healthy": healthy(), "shared": shared(), "rarely": rarely()}


def series() -> Iterator[tuple[str, dict[str, str]]]:
    """What directors of several kinds have told: name and labels of each sample."""
    for seen in SEEN.values():
        for line in exposition(seen).decode().splitlines():
            if not line.startswith("#"):
                name, _, labels = line.rpartition(" ")[0].partition("{")
                yield name, {**dict(re.findall(r'(\w+)="([^"]*)"', labels)), "instance": "d1"}


SERIES = list(series())


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> dict[str, tuple[str, str]]:
    """All PromQL that we ship, and the text that uses its labels."""
    panels = {f"panel {panel.title}": query for row in ROWS for panel in row.panels for query in panel.queries}
    alerts = {
        f"alert {rule['alert']}": (rule["expr"], " ".join(re.findall(r"\{\{.*?\}\}", json.dumps(rule["annotations"]))))
        for rule in rules()
    }
    return panels | alerts


def spoken(query: str) -> str:
    """A panel's query as Grafana sends it when everything is chosen."""
    return query.replace("$__rate_interval", "5m").replace("$instance", ".+").replace("$service", ".+")


def fits(labels: dict[str, str], matchers: list[tuple[str, str, str]]) -> bool:
    def one(name: str, how: str, value: str) -> bool:
        have = labels.get(name, "")
        return bool(re.fullmatch(value, have)) if how == "=~" else (have == value) == (how == "=")

    return all(one(*matcher) for matcher in matchers)


@pytest.mark.parametrize("name", queries())
def test_whatever_is_asked_for_exists(name: str) -> None:
    """Each selector finds a sample of a director: with that name, and with labels and values that there are."""
    query, _ = queries()[name]
    selectors = SELECTOR.findall(spoken(query))
    assert selectors
    for metric, written in selectors:
        if metric in OF_PROMETHEUS:
            continue
        matchers = MATCHER.findall(written)
        assert any(metric == there and fits(labels, matchers) for there, labels in SERIES), f"{metric}{{{written}}}"


@pytest.mark.parametrize("name", queries())
def test_labels_that_are_used_are_there(name: str) -> None:
    """What is grouped by, joined on, or shown in a legend or an alert's text is a label of the metric."""
    query, text = queries()[name]
    known = {
        label
        for metric, _ in SELECTOR.findall(spoken(query))
        for there, labels in [*SERIES, *OF_PROMETHEUS.items()]
        if there == metric
        for label in labels
    }
    grouped = {label for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in group.split(", ")}
    shown = set(re.findall(r"\{\{\s*(?:\$labels\.)?([a-z_]\w*)\s*\}\}", text))
    assert grouped | shown <= known
    (by,) = re.findall(r"^(?:sum|min|max|avg) by \(([^)]*)\)", query) or [None]
    assert by is None or shown <= set(by.split(", "))


def test_panels_can_be_parsed(tmp_path: Path) -> None:
    """Prometheus reads every query of the dashboard."""
    asked = [spoken(query) for row in ROWS for panel in row.panels for query, _ in panel.queries]
    recorded = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(asked)]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": recorded}]}))
    code, said = promtool("check", "rules", "--lint=none", str(path))
    assert (code, f"{len(asked)} rules found" in said) == (0, True), said


def test_the_dashboard_is_current() -> None:
    """When this fails: `python -m appliance.monitoring.dashboard > appliance/monitoring/onward.dashboard.json`."""
    assert DASHBOARD.read_text() == json.dumps(dashboard(), indent=2) + "\n"


def test_panels_stand_beside_each_other() -> None:
    """No two panels share a field of Grafana's grid, none is outside, and their numbers are all different."""
    fields: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & fields
        assert max(x for x, _ in mine) < 24
        fields |= mine
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """Prometheus takes the rules, and their tests pass."""
    for path in (RULES, RULES_TEST):
        shutil.copy(path, tmp_path)
    assert promtool("check", "rules", str(tmp_path / RULES.name))[0] == 0
    code, said = promtool("test", "rules", str(tmp_path / RULES_TEST.name))
    assert code == 0, said


def test_every_alert_is_tested() -> None:
    """Each fires in a test, for the series that it should and for no others, and has one of two severities."""
    groups = yaml.safe_load(RULES_TEST.read_text())["tests"]
    fired = {case["alertname"] for group in groups for case in group["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules()}
    for rule in rules():
        assert set(rule["labels"]) == {"severity"}
        assert rule["labels"]["severity"] in {"critical", "warning"}


@pytest.mark.parametrize("kind", SEEN)
def test_prometheus_has_no_complaint_about_names(kind: str) -> None:
    """`promtool check metrics` on what a director of each kind tells."""
    text = exposition(SEEN[kind]).decode()
    assert promtool("check", "metrics", stdin=text) == (0, "")

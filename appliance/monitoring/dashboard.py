"""The Grafana dashboard, as a table of panels. `python -m appliance.monitoring.dashboard` prints the JSON that Grafana
imports (onward.dashboard.json).

Panels show rates and states of the directors that are chosen above; nothing needs recording rules.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = 38
"""Of dashboards, as Grafana 10 writes them; later ones bring it up to date themselves."""

WIDTH = 24
"""Columns of Grafana's grid."""

HERE = 'instance=~"$instance"'
SERVICE = f'{HERE},service=~"$service"'

Json = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    queries: Sequence[tuple[str, str]]
    """PromQL, and how to call what it gives."""
    unit: str = "short"
    about: str = ""
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    bad_from: float | None = None
    """From this value on it is red; of `stat` only."""


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


def _rate(metric: str, by: str, matchers: str = HERE) -> str:
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[$__rate_interval]))"


def _stat(title: str, query: str, about: str, bad_from: float | None = 1, unit: str = "short") -> Panel:
    return Panel(title, [(query, "")], unit, about, kind="stat", width=4, height=4, bad_from=bad_from)


ONE_WAY = "Client to member only: replies never pass a director."

ROWS = (
    Row(
        "At a glance",
        (
            _stat("Directors", f"count(onward_build_info{{{HERE}}})", "That answer.", None),
            _stat(
                "Parts that do not work",
                f"sum(1 - onward_ready{{{HERE}}})",
                "Of all directors; /readyz of each names them.",
            ),
            _stat(
                "Virtual services down",
                f'sum(max by (service, vip) (onward_service_state{{{SERVICE},state="down"}}))',
                "On any director.",
            ),
            _stat(
                "Members down",
                f'sum(max by (member) (onward_member_health{{{HERE},health="down"}}))',
                "As any director sees them.",
            ),
            _stat(
                "VIPs not announced",
                f"sum(onward_vip_wanted{{{HERE}}}) - sum(onward_vip_announced{{{HERE}}})",
                "That should be, counted at every director.",
            ),
            _stat(
                "BGP sessions down",
                f"sum(1 - onward_bgp_session_up{{{HERE}}}) or vector(0)",
                "Of all directors and peers.",
            ),
        ),
    ),
    Row(
        "Traffic",
        (
            Panel(
                "Packets", [(_rate("onward_service_packets_total", "service", SERVICE), "{{service}}")], "pps", ONE_WAY
            ),
            Panel("Bytes", [(_rate("onward_service_bytes_total", "service", SERVICE), "{{service}}")], "Bps", ONE_WAY),
            Panel(
                "New TCP connections",
                [(_rate("onward_service_flows_created_total", "service", SERVICE), "{{service}}")],
                "cps",
                "SYNs. UDP flows have no beginning that could be counted.",
            ),
            Panel(
                "Packets by director",
                [(_rate("onward_service_packets_total", "instance", SERVICE), "{{instance}}")],
                "pps",
                "How evenly routers spread flows over directors.",
            ),
            Panel(
                "Packets by member", [(_rate("onward_member_packets_total", "member"), "{{member}}")], "pps", ONE_WAY
            ),
            Panel(
                "Drops",
                [(_rate("onward_drops_total", "reason") + " > 0", "{{reason}}")],
                "pps",
                "Frames that were not forwarded, by reason; reasons without any are left out.",
            ),
        ),
    ),
    Row(
        "Members",
        (
            Panel(
                "In rotation",
                [(f'min by (service) (onward_service_members{{{SERVICE},state="in_rotation"}})', "{{service}}")],
                about="At the director that has the fewest.",
            ),
            Panel(
                "Share of slots",
                [(f"avg by (member) (onward_member_slot_share_ratio{{{HERE}}})", "{{member}}")],
                "percentunit",
                "What part of a pool's new flows a member gets.",
            ),
            Panel(
                "Flows remembered",
                [(f"sum by (member) (onward_member_flows_remembered{{{HERE}}})", "{{member}}")],
                about="Of members that drain: what is still there.",
            ),
            Panel(
                "Health checks, 99th percentile",
                [
                    (
                        (
                            "histogram_quantile(0.99, sum by (monitor, le) "
                            f"(rate(onward_check_duration_seconds_bucket{{{HERE}}}[$__rate_interval])))"
                        ),
                        "{{monitor}}",
                    )
                ],
                "s",
                "How long probes take.",
            ),
            Panel(
                "Verdicts that turned",
                [
                    (
                        (
                            "sum by (member, verdict) "
                            f"(increase(onward_check_turns_total{{{HERE}}}[$__rate_interval])) > 0"
                        ),
                        "{{member}} {{verdict}}",
                    )
                ],
                about="Members that come and go.",
            ),
            Panel(
                "Bad results",
                [(_rate("onward_checks_total", "member", HERE + ',result="bad"') + " > 0", "{{member}}")],
                "ops",
                "Probes that failed, whatever the verdict.",
            ),
        ),
    ),
    Row(
        "Routing",
        (
            Panel(
                "VIPs announced",
                [(f"sum by (instance) (onward_vip_announced{{{HERE}}})", "{{instance}}")],
                about="Confirmed by the speaker, with a session up.",
            ),
            Panel(
                "BGP sessions",
                [(f"onward_bgp_session_up{{{HERE}}}", "{{instance}} {{peer}}")],
                "bool_on_off",
                "With each peer.",
            ),
            Panel(
                "BFD sessions lost",
                [(f"increase(onward_bfd_downs_total{{{HERE}}}[$__rate_interval])", "{{instance}} {{peer}}")],
            ),
            Panel(
                "Slots that change hands",
                [(f"sum by (service, phase) (onward_transition_slots{{{SERVICE}}})", "{{service}} {{phase}}")],
                about="Flows in them are remembered, until all of them have ended.",
            ),
            Panel(
                "Memory for flows",
                [(f"onward_pins_fill_ratio{{{HERE}}}", "{{instance}}")],
                "percentunit",
                "How much of it is in use.",
            ),
            Panel(
                "Told to other directors",
                [(_rate("onward_fleet_openings_total", "result"), "{{result}}")],
                "cps",
                "New connections in slots that change hands.",
            ),
        ),
    ),
    Row(
        "Directors",
        (
            Panel(
                "Event loop late, worst of the last minute",
                [(f"onward_loop_lag_recent_max_seconds{{{HERE}}}", "{{instance}}")],
                "s",
            ),
            Panel(
                "Processor",
                [(f"rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval])", "{{instance}}")],
                "percentunit",
                "Of one CPU, by the process; what the XDP program takes is the kernel's.",
            ),
            Panel("Memory", [(f"process_resident_memory_bytes{{{HERE}}}", "{{instance}}")], "bytes"),
            Panel(
                "Errors and pings answered",
                [(_rate("onward_icmp_sent_total", "kind"), "{{kind}}")],
                "pps",
                "ICMP of our own.",
            ),
            Panel(
                "Revision of the configuration",
                [(f"onward_config_revision{{{HERE}}}", "{{instance}}")],
                about="Each director counts its own.",
            ),
            Panel(
                "What the plane counts of itself",
                [(_rate("onward_plane_events_total", "event") + " > 0", "{{event}}")],
                "ops",
            ),
        ),
    ),
)


def dashboard() -> Json:
    """The dashboard as Grafana imports it: it asks for the data source then."""
    panels: list[Json] = []
    top = 0
    for row in ROWS:
        panels.append(
            _placed({"type": "row", "title": row.title, "collapsed": False, "panels": []}, panels, 0, top, 24, 1)
        )
        top += 1
        left = 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top = 0, top + panel.height
            panels.append(_placed(_panel(panel), panels, left, top, panel.width, panel.height))
            left += panel.width
        top += row.panels[-1].height
    return {
        "__inputs": [{"name": "DS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"}],
        "__requires": [{"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "2.0.0"}],
        "uid": "onward",
        "title": "Onward",
        "description": "Layer-4 load balancing with direct server return: all directors of a fleet.",
        "tags": ["onward"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                _variable("instance", "Director", "onward_build_info"),
                _variable("service", "Virtual service", "onward_service_state"),
            ]
        },
        "panels": panels,
    }


def _placed(panel: Json, before: Sequence[Json], x: int, y: int, width: int, height: int) -> Json:
    return {"id": len(before) + 1, **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


SOURCE = {"type": "prometheus", "uid": "${DS}"}


def _panel(panel: Panel) -> Json:
    stat = panel.kind == "stat"
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.bad_from is not None:
        steps.append({"color": "red", "value": panel.bad_from})
    defaults: Json = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    options: Json = (
        {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"}
        if stat
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    )
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend or "__auto",
                "instant": stat,
                "range": not stat,
            }
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }


def _variable(label: str, title: str, metric: str) -> Json:
    query = f"label_values({metric}, {label})"
    return {
        "name": label,
        "label": title,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))

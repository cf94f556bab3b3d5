"""Prometheus metrics."""

import platform
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from math import inf, nan

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from appliance.api.metrics import exposition, families, lines
from appliance.api.sources import Observed
from appliance.api.views import status_document
from appliance.dataplane.base import Counters
from appliance.decide import decide
from appliance.leaving import with_leaving
from appliance.packet.action import Reason
from appliance.state import PinsSeen
from tests import golden
from tests.builders import config, member, pool, service, snapshot
from tests.unit.api.samples import XDP, healthy, observed, sample_snapshot, shared


def samples(seen: Observed) -> dict[tuple[str, ...], float]:
    """By name and label values in the order of label names."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(exposition(seen).decode())
        for sample in family.samples
    }


def test_exposition_is_as_published() -> None:
    """Every metric with its help and labels, as dashboards and rules rely on them."""
    published = exposition(observed()).decode().splitlines(keepends=True)
    text = "".join(line for line in published if "process_" not in line)
    golden.check("metrics.txt", text.replace(platform.python_version(), "PYTHON"))


def test_text_is_that_of_the_library() -> None:
    """Whatever stands in labels, texts and numbers, each line is as prometheus_client has it."""

    class All(Collector):
        def collect(self) -> Iterable[Metric]:
            odd = GaugeMetricFamily("odd", 'a \\ and\na "line"', labels=("b", "a"))
            for number, value in enumerate((0, True, -1.5, 1e6, 123456789.25, 1e21, inf, -inf, nan)):
                odd.add_metric(('"\\\n', f"\u00e4{number}"), value)
            yield odd
            yield CounterMetricFamily("none", "No sample.", labels=("a",))
            yield from families(observed())

    registry = CollectorRegistry(auto_describe=False)
    registry.register(All())
    assert "".join(line for metric in All().collect() for line in lines(metric)) == generate_latest(registry).decode()


def test_process_metrics() -> None:
    """The process's own memory, time and files are there too."""
    assert samples(observed())["process_resident_memory_bytes",] > 0


@pytest.mark.parametrize(
    "seen",
    [observed(), healthy(), observed(applied=None, counters=None, speaker=None), observed(health=())],
    ids=["sample", "healthy", "starting", "unmonitored"],
)
def test_names_follow_the_rules(seen: Observed) -> None:
    """Names are ours, counters and only they end in _total, times and sizes have base units, help texts are there."""
    names = set()
    for family in families(seen):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name not in names
        names.add(name)
        assert re.fullmatch(r"onward_[a-z][a-z_]*[a-z]", name)
        assert (family.type == "counter") == name.endswith("_total")
        assert not re.search(r"milli|micro|_bool|_ms\b|_count$", name)
        assert family.documentation.endswith(".")
        labels = [tuple(sample.labels.items()) for sample in family.samples if not sample.name.endswith("_bucket")]
        assert family.type == "histogram" or len(labels) == len(set(labels))


def test_traffic_says_that_replies_are_not_in_it() -> None:
    """Whoever reads a packet, byte or flow counter is told that it is one half."""
    found = families(observed())
    about = re.compile("packets|(?<!mss_)(?<!limit_)bytes|flows_created|drops")
    counted = [family for family in found if family.type == "counter" and about.search(family.name)]
    assert len(counted) == 7
    assert all("Client to member only" in family.documentation for family in counted)


def test_exactly_one_state_holds() -> None:
    """Of each state set one is 1 and the others are 0."""
    found = samples(observed())
    states = {key[2]: value for key, value in found.items() if key[:2] == ("onward_service_state", "dns")}
    assert states == {"up": 0, "down": 1, "disabled": 0}
    health = {
        key[1]: value for key, value in found.items() if key[0] == "onward_member_health" and key[2] == "web/web3"
    }
    assert health == {"unknown": 0, "up": 0, "down": 1, "maintenance": 0}


def test_members_stand_once_per_pool() -> None:
    """However many services share a pool, a member has one sample of each kind, or one for each way of delivery."""
    seen = shared(services=30, members=4)
    counts = Counter(sample.name for family in families(seen) for sample in family.samples)
    assert counts["onward_member_state"] == 4 * 2 * 3
    assert counts["onward_member_slot_share_ratio"] == 4 * 2
    assert counts["onward_member_ratio"] == counts["onward_member_packets_total"] == 4
    found = samples(seen)
    # Labels in the order of their names: delivery, member, pool, state.
    assert found["onward_member_state", "ipip", "web/web1", "web", "in_rotation"] == 1
    assert found["onward_member_state", "l2", "web/web1", "web", "in_rotation"] == 0
    assert found["onward_service_members", "s0", "in_rotation"] == 4
    assert found["onward_service_members", "s1", "out"] == 4


def test_udp_has_no_flow_samples() -> None:
    """Where flows have no visible beginning there is no sample, since 0 would be a number."""
    found = samples(shared())
    flows = [key[1] for key in found if key[0] == "onward_service_flows_created_total"]
    assert flows == ["s1", "s2"]
    assert ("onward_member_flows_created_total", "dns/web11", "dns") not in samples(observed())
    assert found["onward_member_flows_created_total", "web/web1", "web"] == 70


def test_wanted_and_announced() -> None:
    """Whether a VIP should be announced and whether it is are two metrics, so that an alert can compare them."""
    found = samples(observed())
    assert found["onward_vip_wanted", "198.51.100.7"] == found["onward_vip_announced", "198.51.100.7"] == 1
    assert found["onward_vip_wanted", "198.51.100.53"] == found["onward_vip_announced", "198.51.100.53"] == 0


def test_reasons_start_at_zero() -> None:
    """Every reason has a sample before it first happens, or the first drop would be no increase."""
    found = samples(healthy())
    assert {key[1] for key in found if key[0] in ("onward_drops_total", "onward_passes_total")} == set(Reason)


def test_histogram_is_cumulative() -> None:
    """Buckets of the loop's lateness add up to the count."""
    found = samples(observed())
    buckets = [value for key, value in found.items() if key[0] == "onward_loop_lag_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found["onward_loop_lag_seconds_count",] == 100
    assert found["onward_loop_lag_seconds_sum",] == pytest.approx(0.042)


def test_a_failed_plane_is_a_metric() -> None:
    """While the data plane is in doubt, onward_plane_up is 0."""
    assert samples(observed(snapshot=sample_snapshot(plane_error="stuck")))["onward_plane_up",] == 0
    assert samples(observed())["onward_plane_up",] == 1


def test_the_plane_that_forwards() -> None:
    """The kind is a label, and each interface of an XDP plane has one mode; of a silent plane there is nothing."""
    found = samples(observed(plane=XDP))
    assert found["onward_plane_info", "xdp"] == 1
    modes = {key[1:]: value for key, value in found.items() if key[0] == "onward_plane_interface_mode"}
    assert modes == {
        ("eth1", "native"): 1,
        ("eth1", "generic"): 0,
        ("eth1", "none"): 0,
        ("eth2", "native"): 0,
        ("eth2", "generic"): 1,
        ("eth2", "none"): 0,
    }
    silent = samples(observed(plane={}))
    assert not [key for key in silent if key[0] in ("onward_plane_info", "onward_plane_interface_mode")]


def test_members_of_a_pool_that_services_have_left_are_counted_once_and_for_their_pool() -> None:
    """Two services have other pools now, and the members of the one before drain for both of them."""
    blue, green, third = (pool(member(number), name=name) for number, name in enumerate(("blue", "green", "third"), 1))
    services = [service(name=name, vips=(ip_address(f"198.51.100.{at}"),), pool=blue) for at, name in enumerate("ab")]
    old = config(*services)
    before = decide(snapshot(old))
    new = [replace(one, pool=to) for one, to in zip(services, (green, third), strict=True)]
    moving = with_leaving(config(*new), old)
    snap = snapshot(moving)
    index = next(i for way, i in snap.indices.items() if way.pool == "blue")
    snap = replace(snap, pins=PinsSeen(flows={index: 7}))
    seen = observed(snapshot=snap, applied=decide(snap, before, 1.0), counters=Counters())
    found = samples(seen)
    said = [line for line in exposition(seen).decode().splitlines() if "blue/web1" in line]
    assert len({line.rpartition(" ")[0] for line in said}) == len(said)
    assert found["onward_member_state", "ipip", "blue/web1", "blue", "draining"] == 1
    assert found["onward_member_flows_remembered", "blue/web1", "blue"] == 7
    assert status_document(seen)["pools"]["green+ipip"]["members"][1]["id"] == "blue/web1"

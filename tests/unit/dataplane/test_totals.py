"""Sums of counters."""

import pickle
import random

from appliance.dataplane.base import Counters, Traffic
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.plane import traffic_of
from appliance.dataplane.totals import Later, Totals
from tests.unit.dataplane.frames import INGRESS, random_tables

WEB, DNS = ("web", "198.51.100.7"), ("dns", "198.51.100.53")


def test_parts_are_added_by_name() -> None:
    """What several parts have counted is one number; what only one of them knows stays as it is."""
    one = Counters({WEB: Traffic(1, 2, 3)}, {"web/a": Traffic(1, 2, 3)}, {"no_member": 4})
    other = Counters({WEB: Traffic(10, 20, 30), DNS: Traffic(5)}, {"web/a": Traffic(10, 20, 30), "dns/b": Traffic(5)})
    for totals in (Totals(one, other), Totals(Totals(one).counters(), other)):
        totals.reasons["no_member"] += 1
        found = totals.counters()
        assert found.services == {WEB: Traffic(11, 22, 33), DNS: Traffic(5)}
        assert found.members == {"web/a": Traffic(11, 22, 33), "dns/b": Traffic(5)}
        assert found.reasons == {"no_member": 5}


def test_members_are_added_up_for_who_looks() -> None:
    """Once, and not before; or when nothing is to be added any more."""
    asked = []

    def part() -> list[tuple[str, Traffic]]:
        asked.append(1)
        return [("web/a", Traffic(1)), ("web/a", Traffic(2))]

    totals = Totals(Counters(members=Later(part)))
    found = Totals(totals.counters()).counters()
    assert asked == []
    assert (found.members["web/a"], len(found.members), list(found.members)) == (Traffic(3), 1, ["web/a"])
    assert len(asked) == 1
    totals.settle()
    totals.add(Counters(members={"web/a": Traffic(4)}))
    asked.clear()
    assert totals.counters().members == {"web/a": Traffic(7)}
    assert asked == []
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - our own


def test_what_was_read_stays() -> None:
    """Counters say what was counted when they were read, whenever somebody looks at their members."""
    compiled = Compiled(random_tables(random.Random(1)), [INGRESS])
    compiled.traffic.way_packets += 3
    compiled.traffic.service_packets += 5
    first = traffic_of(compiled)
    compiled.traffic.way_packets += 4
    compiled.traffic.service_packets += 6
    second = traffic_of(compiled)
    ways = [member.id for member in compiled.members]
    assert ways
    for counters, each in ((first, 3), (second, 7)):
        assert {name: one.packets for name, one in counters.members.items()} == {
            name: each * ways.count(name) for name in ways
        }
    assert sum(one.packets for one in first.services.values()) == 5 * len(compiled.tables.services)

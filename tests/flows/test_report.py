"""The account, the edits and the size of the load: what `tests/run flows` says is what was."""

import itertools
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from appliance.config.load import load
from appliance.lab import topology
from tests.flows.__main__ import loads
from tests.flows.fleet import CLIENTS, DIRECTORS, MEMBERS, ROUTERS, TOPOLOGY, with_ratio, without
from tests.flows.report import Happening, Outage, account, causes, died_with_its_member, examples, table
from tests.flows.story import Story, all_at_once, crashed, cut_off, short, whole
from tests.flows.workload import Broken

FLOW = Broken(
    flow=1,
    protocol="tcp",
    source="192.0.2.2",
    port=10000,
    vip="198.51.100.10",
    why="Connection reset by peer",
    member=3,
    by=7,
    state="open",
    again=False,
    sent=5,
    heard=4,
    born=100.0,
    at=120.0,
    cause=120.0,
    answered=119.0,
)


@pytest.mark.parametrize(
    ("flow", "lost"),
    [
        (FLOW, True),
        (replace(FLOW, member=4), False),
        (replace(FLOW, cause=109.0), False),  # broken before the member died
        (replace(FLOW, cause=190.0), True),  # silent until long after
        (replace(FLOW, born=151.0, cause=160.0), False),  # began after its return
        (replace(FLOW, member=None, by=3), True),  # turned away by the dead member
        (replace(FLOW, member=None, by=3, cause=151.0), False),
        (replace(FLOW, member=None, by=None), False),
        (replace(FLOW, member=7, by=3), False),  # another member's flow, sent to the dead one
    ],
)
def test_only_flows_of_a_dead_member_are_lost_with_it(flow, lost):
    """Every other broken flow counts, whenever it broke and whoever broke it."""
    assert died_with_its_member(flow, [Outage(3, since=110.0, until=150.0)]) is lost


@pytest.mark.parametrize("tell", [partial(crashed, member="m8"), partial(cut_off, member="m8"), all_at_once, short])
def test_an_outage_ends_with_the_restart(tell, monkeypatch):
    """A flow that began once the servers ran again is broken, however long directors take to send the member flows."""
    seconds = itertools.count(100.0)
    monkeypatch.setattr("time.time", lambda: next(seconds))
    fleet, story = RecordedFleet(seconds), Story.__new__(Story)
    story.fleet, story.outages, story.happens, story.passes = fleet, [], lambda text: None, lambda seconds: None
    tell(story, pause_s=0.0)
    (outage,) = story.outages
    born = fleet.began + 2
    assert fleet.killed < fleet.began <= outage.until < born < fleet.in_rotation_again
    assert outage.since < fleet.killed
    late = replace(FLOW, member=outage.member, born=born, cause=born + 50)
    assert not died_with_its_member(late, [outage])
    assert died_with_its_member(replace(late, born=outage.since - 1), [outage])


class RecordedFleet:
    """Notes when a member was killed, began again, and was waited for; nothing runs."""

    def __init__(self, seconds):
        self._seconds = seconds

    def kill_servers(self, member):
        self.killed = next(self._seconds)

    def start_servers(self, member):
        self.began = next(self._seconds)

    unplug, plug_in = kill_servers, start_servers

    def until(self, so, what):
        if re.fullmatch(r"m[89] is in rotation everywhere", what):
            for _ in range(10):
                self.in_rotation_again = next(self._seconds)

    def __getattr__(self, name):
        return lambda *args: None


def test_a_member_that_never_comes_back_has_lost_its_flows_for_good():
    """An outage without an end goes on."""
    assert died_with_its_member(replace(FLOW, born=1e9, cause=2e9), [Outage(3, since=110.0)])


def test_broken_flows_are_put_down_to_the_last_happening_before_their_first_failure():
    """Not to the one that was current when the deadline was over."""
    happenings = [Happening("beginning", 90.0, 0), Happening("drain m2", 119.0, 50), Happening("crash m9", 121.0, 60)]
    flows = [
        FLOW,
        replace(FLOW, cause=95.0),
        replace(FLOW, at=150.0, cause=120.0),
        replace(FLOW, member=9, cause=122.0),
    ]
    result = account(100, happenings, flows, [Outage(9, 121.0)])
    assert {position: len(found) for position, found in result.broken.items()} == {0: 1, 1: 2}
    assert {position: len(found) for position, found in result.lost.items()} == {2: 1}
    assert len(result.all_broken) == 3


def test_the_table_shows_what_each_happening_cost():
    """One line a happening; a director that does not say how much it remembers has a dash."""
    happenings = [
        Happening("beginning", 90.0, 0, {"d1": 0}, 0.01),
        Happening("drain m2", 119.0, 50, {"d1": 12, "d2": 9}, 1.24),
    ]
    assert table(account(100, happenings, [FLOW], []), ["d1", "d2"]).splitlines() == [
        "happening    at  alive  broken  lost  waited  pins d1  pins d2",
        "beginning   0 s      0       0     0   0.0 s        0        -",
        "drain m2   29 s     50       1     0   1.2 s       12        9",
    ]


def test_causes_are_counted_by_who_had_and_who_broke_a_flow():
    """Most frequent first."""
    assert causes([FLOW, replace(FLOW, member=None, by=None, why="no answer in time"), FLOW]) == [
        "     2 tcp Connection reset by peer; had m3, by m7",
        "     1 tcp no answer in time; had nobody, by nobody",
    ]


def test_examples_are_of_many_kinds():
    """A rare kind is told although others are more frequent and earlier."""
    many = [replace(FLOW, cause=100.0 + second) for second in range(9)]
    rare = replace(FLOW, why="no answer in time", cause=200.0)
    assert examples([*many, rare], 3) == [many[0], many[1], rare]


def test_a_flow_that_had_no_answer_failed_with_its_first_unanswered_request():
    """Not when the deadline was over."""
    line = {
        "flow": 1,
        "protocol": "udp",
        "source": "192.0.2.2",
        "port": 1,
        "vip": "198.51.100.10",
        "why": "no answer in time",
        "member": -1,
        "by": -1,
        "sent": 3,
        "heard": 0,
        "state": "open",
        "again": False,
        "at": 150.0,
        "born": 100.0,
        "asked": 119.5,
        "answered": 0,
        "marks": [{"at": 101.0, "flags": 20, "member": 7}],
    }
    flow = Broken.from_line(line)
    assert (flow.cause, flow.member, flow.by, flow.answered) == (119.5, None, None, None)
    assert flow.marks[0].reset
    assert Broken.from_line({**line, "why": "another member"}).cause == 150.0


def test_the_topology_is_one_without_doubts():
    """What the lab cannot realise would be a warning."""
    fleet = topology.load(TOPOLOGY)
    assert fleet.warnings == ()
    assert {node.name for node in fleet.nodes} >= {*MEMBERS, *DIRECTORS, *ROUTERS, *CLIENTS}


@pytest.mark.parametrize("director", ["d1", "d2", "d3"])
def test_edits_change_one_member_in_every_pool(director, tmp_path):
    """The lab's files take every edit, and the product takes the result."""
    source = TOPOLOGY.parent / "fleet" / director / "onward.toml"
    text = source.read_text().replace("../fleet.key", str(TOPOLOGY.parent / "fleet" / "fleet.key"))

    def pools(edited: str) -> dict[str, dict[str, tuple[int, bool]]]:
        path = tmp_path / "onward.toml"
        path.write_text(edited)
        services = load(path).services
        return {s.pool.name: {m.name: (m.ratio, m.enabled) for m in s.pool.members} for s in services}

    assert set(pools(text)["web"]) == set(MEMBERS)
    assert set(pools(without("m8")(text))["web"]) == set(MEMBERS) - {"m8"}
    assert "m8" not in pools(without("m8")(text))["edge"]
    edited = pools(with_ratio("m7", 2)(with_ratio("m1", 5)(with_ratio("m1", 3)(text))))
    assert edited["web"]["m1"] == (5, True)
    assert edited["web"]["m10"] == (1, True)
    assert edited["web"]["m7"] == edited["edge"]["m7"] == (2, True)
    with pytest.raises(ValueError, match="nothing in the configuration"):
        without("m11")(text)


def test_the_load_makes_the_wanted_number_of_flows():
    """Kept flows with those that replace them, and short ones, are as many as were asked for."""
    for flows, connections, duration in ((100_000, 2000, 330), (10_000, 600, 35)):
        both = loads(flows, connections, duration, seed=1).values()
        expected = sum(
            load.connections * (1 + duration / load.life_s)
            + load.udp_flows * (1 + 2 * duration / load.life_s)
            + (load.tcp_rate + load.udp_rate) * duration
            for load in both
        )
        assert expected == pytest.approx(flows, rel=0.01)
        assert sum(load.connections for load in both) == connections


def test_readme_says_how_many_things_happen() -> None:
    """In the story that `tests/run flows` tells."""
    happened: list[str] = []
    story = MagicMock(outages=[])
    story.happens = happened.append
    whole(story, 0.0)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert re.findall(r"(\d+) things\s+happen", readme) == [str(len(happened))]

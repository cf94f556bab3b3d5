"""The product's rules for flows, in a model of a fleet that is small enough for every run of the tests."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from tests.simulation.__main__ import main
from tests.simulation.model import SCENARIOS, Scenario, Settings, traffic
from tests.simulation.report import OURS, RANDOM, SCHEMES, Run, find, run

SMALL = Settings(
    flows=200,
    slots=1024,
    pins=1 << 12,
    life_s=60,
    gap_s=5,
    keepalive_s=22,
    silence_s=31,
    window_s=120,
    idle_s=50,
    poll_s=10,
)

ALWAYS = (
    *(("mix-both", seed) for seed in (1, 2)),
    *((RANDOM, seed) for seed in (1, 2)),
    ("all-drain", 1),
    ("crash-in-window", 1),
    ("ends-meet", 1),
    ("late", 1),
    ("mix-silent", 1),
    ("log", 1),
    ("old-log", 1),
    ("quiet-end", 1),
    ("remove-and-join", 1),
    ("restart", 1),
    ("slow-start", 1),
)
"""Scenarios in which nothing may break, with their seeds."""


def only(name: str, seed: int, schemes: Iterable[str] = (OURS,), settings: Settings = SMALL) -> list[Run]:
    return list(run(find(name, settings, seed), settings, seed, schemes))


def explain(result: Run) -> str:
    return "\n".join(map(str, result.outcome.breaks[:5]))


@pytest.mark.parametrize(("name", "seed"), ALWAYS)
def test_not_one_flow_breaks(name: str, seed: int) -> None:
    """Whatever happens to members and directors, every flow stays with its member for as long as that lives."""
    [result] = only(name, seed)
    assert result.outcome.flows > 1000
    assert result.outcome.broken == 0, explain(result)


def test_other_schemes_break_flows() -> None:
    """The model can tell the difference: every other scheme breaks flows of members that live."""
    results = only("mix", 1, [name for name in SCHEMES if name != OURS])
    assert all(result.outcome.broken > 0 for result in results), [(r.scheme, r.outcome.broken) for r in results]


def test_nothing_is_remembered_when_nothing_changes() -> None:
    """In the steady state there is no state of any flow, and directors have nothing to tell each other."""
    [result] = only("still", 1)
    assert (result.outcome.peak, result.outcome.messages, result.outcome.broken) == (0, 0, 0)


def test_nothing_is_remembered_when_changes_are_over() -> None:
    """Some time after the last change tables are steady again, and all pins are gone."""
    [result] = only("drain", 1)
    assert result.outcome.peak > 0
    assert result.outcome.left == 0
    assert result.outcome.steady


@pytest.mark.parametrize("name", ["no-dump", "no-log", "wrong", "silent"])
def test_known_limits_are_real(name: str) -> None:
    """What is said to break flows does: otherwise the model would not see it, or the limit were none."""
    [result] = only(name, 1, settings=replace(SMALL, flows=500))
    assert result.scenario.limit is not None
    assert result.outcome.broken > 0
    assert "rules" not in result.outcome.causes, explain(result)


def test_the_same_seed_gives_the_same_run() -> None:
    """A break that was found once can be looked at again."""
    first, second = only("wrong", 5)[0], only("wrong", 5)[0]
    assert first.outcome == second.outcome


def test_traffic_is_what_clients_send() -> None:
    """Every flow begins with a packet that opens it, and none is silent for as long as its idle timeout."""
    settings = replace(SMALL, udp=0.5)
    work = traffic(settings, 1, 600)
    assert (work.at[1:] >= work.at[:-1]).all()
    first = np.unique(work.flow, return_index=True)[1]
    assert work.opens[first].all()
    assert work.gap.max() < settings.idle_s
    assert 0.3 < (work.slot >= settings.slots).mean() < 0.7


@pytest.mark.parametrize(
    "words",
    [
        *("--loss 2", "--loss -0.1", "--loss nan", "--delay -1", "--delay inf", "--flows -5", "--flows 0"),
        *("--members 5", "--directors 1", "--seed -1", "--scenario mixx", "--flows 1e3"),
    ],
)
def test_what_no_fleet_can_be_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything runs, with the option's name and what there may be."""
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert words.split()[0].strip("-") in said
    assert "from" in said or "there are" in said


def test_scenarios_have_names_of_their_own() -> None:
    """One name, one scenario, and a wrong name says which ones there are."""
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert isinstance(find("mix", SMALL, 1), Scenario)
    with pytest.raises(ValueError, match="no scenario 'mixx'; there are still, "):
        find("mixx", SMALL, 1)

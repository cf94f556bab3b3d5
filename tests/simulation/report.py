"""Schemes by name, runs by scenario, and what people see of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from appliance.ring.slots import build_slots
from tests.simulation.engine import Build, Engine, Outcome, end_of
from tests.simulation.model import SCENARIOS, Scenario, Settings, Traffic, random_events, traffic
from tests.simulation.network import Routers
from tests.simulation.schemes import Ours, RememberAll, Stateless, TwoColumns, maglev

OURS = "ours: two columns, shared pins, tail"


def _local(settings: Settings, work: Traffic, routers: Routers, chance: np.random.Generator) -> TwoColumns:
    return TwoColumns(settings, routers, chance, tells=False)


def _shared(settings: Settings, work: Traffic, routers: Routers, chance: np.random.Generator) -> TwoColumns:
    return TwoColumns(settings, routers, chance, tells=True)


SCHEMES: Mapping[str, Build] = {
    "Maglev over live members": lambda settings, *_: Stateless(settings, maglev),
    "the same, and each remembers all flows": lambda settings, *_: RememberAll(settings),
    "base and overlay": lambda settings, *_: Stateless(settings, build_slots),
    "two columns, pins of one's own": _local,
    "two columns, shared pins of new flows": _shared,
    OURS: Ours,
}

RANDOM = "random"


def find(name: str, settings: Settings, seed: int) -> Scenario:
    """A scenario by name; `random` is another one for each seed.

    Raises:
        ValueError: there is none of that name.
    """
    if name == RANDOM:
        return Scenario(RANDOM, "anything, in any order", random_events(settings, seed))
    for scenario in SCENARIOS:
        if scenario.name == name:
            return scenario
    raise ValueError(f"no scenario {name!r}; there are {', '.join(s.name for s in SCENARIOS)}, {RANDOM}")


@dataclass(frozen=True)
class Run:
    scenario: Scenario
    scheme: str
    outcome: Outcome

    @property
    def failed(self) -> bool:
        """Flows of the product broke where none may. One that changes directors within the moment that its pin takes to
        the others always may."""
        unexcused = self.outcome.broken - self.outcome.causes["pin under way"]
        return self.scheme == OURS and self.scenario.limit is None and unexcused > 0


def run(scenario: Scenario, settings: Settings, seed: int, schemes: Iterable[str] = SCHEMES) -> Iterator[Run]:
    """One scenario, scheme after scheme, with the same traffic."""
    fitted = replace(settings, **scenario.settings)
    work = traffic(fitted, seed, end_of(scenario, fitted))
    for name in schemes:
        yield Run(scenario, name, Engine(SCHEMES[name], scenario, fitted, work, seed).run())


HEADER = f"{'':40}{'flows':>9}{'broken':>8}{'on living':>11}{'bystanders':>12}{'remembered':>12}{'messages':>10}"
"""Of the columns in `line`: all flows; those that broke; those of them whose member lived; those of members that
nothing had happened to; how many flows one director remembered at most; messages between directors."""


def line(name: str, outcome: Outcome) -> str:
    """One row of figures."""
    return (
        f"{name:40}{outcome.flows:9,}{outcome.broken + outcome.crashed:8,}{outcome.broken:11,}"
        f"{outcome.bystanders:12,}{outcome.peak:12,}{outcome.messages:10,}"
    )


def details(result: Run, most: int = 5) -> Iterator[str]:
    """Why flows of the product broke, and where to look."""
    causes = ", ".join(f"{cause} {count}" for cause, count in result.outcome.causes.most_common())
    if causes:
        yield f"    because: {causes}"
    if result.failed:
        for one in result.outcome.breaks[:most]:
            yield (
                f"    at {one.at:.3f} s flow {one.flow} (key {one.key}), {one.kind} at director {one.director}: "
                f"on {one.member}, sent to {one.went_to} by slot {one.word}: {one.cause}"
            )

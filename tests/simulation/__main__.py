"""`tests/run simulate`: schemes side by side while everything changes, then the product in every scenario."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.simulation.model import SCENARIOS, Scenario, Settings
from tests.simulation.report import HEADER, OURS, RANDOM, Run, details, find, line, run

_N = TypeVar("_N", int, float)


def main(arguments: Sequence[str] | None = None) -> int:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="tests/run simulate", description="which flows break when members and directors come and go"
    )
    parser.add_argument("--seed", type=_from(0, int), default=1, metavar="N")
    parser.add_argument(
        "--flows", type=_from(1, int), default=default.flows, metavar="N", help=f"open at a time ({default.flows})"
    )
    parser.add_argument("--members", type=_from(6, int), default=default.members, metavar="N", help="from 6")
    parser.add_argument("--directors", type=_from(2, int), default=default.directors, metavar="N", help="from 2")
    parser.add_argument("--loss", type=_from(0, float, 1), metavar="P", help="of messages between directors, 0..1")
    parser.add_argument("--delay", type=_from(0, float, 3600), metavar="T", help="of these messages, in seconds")
    parser.add_argument(
        "--scenario",
        metavar="NAME",
        help=f"only this one, all schemes: {', '.join(s.name for s in SCENARIOS)}, {RANDOM}",
    )
    options = parser.parse_args(arguments)
    settings = Settings(flows=options.flows, members=options.members, directors=options.directors)
    network = {name: value for name, value in (("loss", options.loss), ("delay_s", options.delay)) if value is not None}
    try:
        chosen = [find(options.scenario or "mix", settings, options.seed)]
    except ValueError as error:
        parser.error(str(error))

    failed = 0

    def show(name: str, result: Run) -> None:
        nonlocal failed
        failed += result.failed
        print(line(name, result.outcome))
        for text in details(result):
            print(text, flush=True)

    print(f"seed {options.seed}, {options.flows:,} flows at a time, {options.members} members, "
          f"{options.directors} directors\n\n{chosen[0].name}: {chosen[0].sentence}\n{HEADER}")  # fmt: skip
    for result in run(_on(chosen[0], network), settings, options.seed):
        show(result.scheme, result)
    if options.scenario is None:
        for title, some in (
            ("no flow may break", [s for s in SCENARIOS if s.limit is None]),
            ("known limits", [s for s in SCENARIOS if s.limit is not None]),
        ):
            print(f"\nthe product, {title}\n{HEADER}")
            for scenario in some:
                for result in run(_on(scenario, network), settings, options.seed, [OURS]):
                    show(scenario.name, result)
                if scenario.limit:
                    print(f"    limit: {scenario.limit}")
    if failed:
        print(f"\nflows broke in {failed} scenarios where none may")
    return 1 if failed else 0


def _from(least: int, kind: type[_N], most: float = 1e6) -> Callable[[str], _N]:
    """What reads a number in a range."""

    def read(text: str) -> _N:
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text} is not {what} from {least} to {most:,.0f}")
        return number

    return read


def _on(scenario: Scenario, network: dict[str, float]) -> Scenario:
    """The scenario over another channel than its own; where that loses messages, flows may break."""
    limit = scenario.limit or ("messages are lost" if network.get("loss") else None)
    return Scenario(scenario.name, scenario.sentence, scenario.events, {**scenario.settings, **network}, limit)


if __name__ == "__main__":
    sys.exit(main())

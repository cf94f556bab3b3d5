"""Benchmark of large configurations: `python -m tests.bench.config`. Prints ratios to a yardstick, the standard
library's `tomllib` on the same text in the same round, and seconds with the goals.

1,000 virtual services, two to a pool of 100 members: 50,000 members. 1,000 pools of 100 members cannot be had, since
slots name 65,535 members at most; how soon that is said is measured as well.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from appliance import app
from appliance.config.document import Document, read_document
from appliance.config.load import Loaded
from appliance.config.problems import ConfigError
from appliance.consequences import Consequences, consequences
from appliance.decide import Desired, decide
from appliance.model import Config, Health
from appliance.objects.differences import differences
from appliance.revisions import Author, Revisions
from appliance.state import State
from appliance.transaction import Effects, Outcome, Transactions
from tests.builders import To, hop

NOW = 1e6
GOALS = {"load": 5.0, "reload.unchanged": 1.0}

HEAD = """schema_version = 1
[director]
name = "d1"
interfaces = ["eth1"]
plane = "raw"
[fleet]
secret_file = "fleet.key"
[[network_profile]]
name = "tcp"
type = "tcp_fast_path"
"""


def text(services: int, pools: int, members: int) -> str:
    """A configuration of that size."""
    parts = [HEAD]
    for pool in range(pools):
        parts.append(f'\n[[pool]]\nname = "pool{pool}"\n')
        for member in range(members):
            number = pool * members + member
            address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            parts.append(f'[[pool.member]]\nname = "m{member}"\naddress = "{address}"\n')
    parts += (
        f'\n[[virtual_service]]\nname = "s{service}"\nvips = ["198.18.{service >> 8}.{service & 255}"]\n'
        f'ports = [80]\nnetwork_profile = "tcp"\npool = "pool{service % pools}"\n'
        for service in range(services)
    )
    return "".join(parts)


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def known(config: Config) -> State:
    """A store that has heard well of everybody."""
    state = State(config, lambda: None)
    state.set_plane_error(None)
    one = hop()
    state.set_next_hops({member.address: one for pool in config.pools for member in pool.members})
    for pool in config.pools:
        state.end_learning(pool.name)
    for pool in config.pools:
        for name in pool.member_ids:
            state.set_health(name, Health.UP)
    return state


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--services", type=int, default=1000)
    options.add_argument("--members", type=int, default=100)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), given.rounds, given.services, given.members)


def measure(folder: Path, rounds: int, services: int, members: int) -> None:
    path = folder / "onward.toml"
    (folder / "fleet.key").write_bytes(bytes(range(32)))
    raw = text(services, services // 2, members)
    path.write_text(raw)
    parse = partial(app.parsed, plane=None)
    loaded = parse(read_document(path))
    state = known(loaded.config)
    began = time.perf_counter()
    applied = decide(state.snapshot(), None, NOW)
    first = time.perf_counter() - began
    print(f"{services} virtual services, {services * members // 2} members, {len(raw) >> 10} KiB")
    print(f"the first decision, every table built: {first:.2f} s")

    async def foresee(new: Loaded) -> Consequences:
        changes = differences(loaded.document, new.document, loaded.named, new.named)
        return consequences(state.twin(), applied, loaded.config, new.config, To, NOW, changes=changes)

    async def program(_new: Loaded, _old: Loaded) -> None:
        raise AssertionError("nothing is programmed here")

    read = partial(read_document, path)
    effects = Effects(read, parse, foresee, program, lambda _: None, time.time, time.perf_counter)
    transactions = Transactions(effects, Revisions(folder / "revisions"), loaded)
    others = {
        "changed": raw.replace('name = "m7"\n', 'name = "m7"\nratio = 2\n', 1),
        "too_many": text(services, services, members),
    }
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        times = one_round(path, raw, others, transactions, parse, state, applied)
        for what, took in times.items():
            found.setdefault(what, []).append((took, took / times["tomllib"]))
    for what, pairs in found.items():
        took, ratios = ([pair[at] for pair in pairs] for at in (0, 1))
        goal = f"   goal {GOALS[what]:g} s" if what in GOALS else ""
        print(
            f"config.{what:20} {statistics.median(ratios):6.2f} x tomllib ({min(ratios):.2f}..{max(ratios):.2f})"
            f"   {statistics.median(took):6.2f} s{goal}"
        )


def one_round(
    path: Path,
    raw: str,
    others: Mapping[str, str],
    transactions: Transactions,
    parse: Callable[[Document], Loaded],
    state: State,
    applied: Desired,
) -> dict[str, float]:
    """Seconds by what was done."""
    author = Author("", "bench")
    path.write_text(raw)
    times = {"tomllib": seconds(lambda: tomllib.loads(raw))}
    times["load"] = seconds(lambda: parse(read_document(path)))
    times["reload.unchanged"] = seconds(lambda: asyncio.run(transactions.reload(author)))
    path.write_text(others["changed"])
    outcomes: list[Outcome] = []
    times["reload.dry_run"] = seconds(lambda: outcomes.append(asyncio.run(transactions.reload(author, dry_run=True))))
    moves = outcomes[0].consequences.moves
    print(
        f"one ratio doubled: {len(moves)} virtual services move, {max(one.slots for one in moves):.2%} of their slots"
    )
    twin = state.twin()
    twin.set_config(parse(read_document(path)).config, NOW)
    times["decide.one_changed"] = seconds(lambda: decide(twin.snapshot(), applied, NOW))
    path.write_text(others["too_many"])
    times["refused.too_many"] = seconds(lambda: refused(parse, path))
    return times


def refused(parse: Callable[..., object], path: Path) -> None:
    try:
        parse(read_document(path))
    except ConfigError as error:
        if not any("members in all" in str(problem) for problem in error.problems):
            raise
    else:
        raise AssertionError("more members than slots can name were taken")


if __name__ == "__main__":
    main()

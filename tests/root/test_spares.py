"""Fleets with spares: whoever dies, as many directors as there should be have the VIP again; always one at least."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import combinations

import pytest

from appliance.model import HaMode
from appliance.ranks import order
from tests.builders import service
from tests.failures.stage import VIP, Stage, stage
from tests.netns import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@contextmanager
def fleet(folder, primaries: int, spares: int) -> Iterator[Stage]:
    names = [f"d{number + 1}" for number in range(primaries + spares)]
    ranked = order(service(ha=HaMode.N_PLUS_M), ip_address(VIP), names)
    with stage(folder, directors=len(names), bfd=False, ha="n_plus_m", primaries=primaries, order=ranked) as made:
        yield made


def survives(made: Stage, *gone: str) -> None:
    """Directors die at the same moment; as many as there should be have the VIP again. Then they come back."""
    began = time.monotonic()
    for name in gone:
        made.processes[name].kill()
    wanted = made.left(*gone)
    until(lambda: made.fib().isdisjoint(gone) and made.fib() >= wanted, f"{wanted}, not {made.fib()}", 20.0)
    took = time.monotonic() - began
    print(f"\n{' and '.join(gone)} killed -> {', '.join(sorted(wanted))} after {took:.2f} s")
    for name in gone:
        made.processes[name].wait()
    made.start(*gone)
    # Also spares, which routers know without using them: else nobody would be left after the next failure.
    until(lambda: all(made.peer(name).get("routes_sent") for name in gone), f"{gone} announce again", 60.0)
    until(lambda: made.fib() >= set(made.best), f"{made.best}, not {made.fib()}", 20.0)


def breaks(made: Stage, *, everything: bool) -> None:
    """Every single and every double failure; or the three that matter most."""
    first, second, spare = made.best[0], made.best[1], made.spares[0]
    some = [(first,), (first, second), (second, spare)]
    every = [gone for count in (1, 2) for gone in combinations(made.directors, count)]
    for gone in every if everything else some:
        survives(made, *gone)


def pytest_generate_tests(metafunc):
    """Five directors and fifteen failures take minutes."""
    if "sizes" in metafunc.fixturenames:
        metafunc.parametrize("sizes", [(2, 1), (3, 2)] if metafunc.config.getoption("--long") else [(2, 1)])


@pytest.mark.timeout(900)
def test_whoever_dies_there_are_as_many_as_there_should_be(tmp_path, sizes, pytestconfig):
    """Alone or with another one, while the router has a route all the time; then spares step back. A primary that is
    drained, so lives on and does not announce, is replaced as well."""
    with fleet(tmp_path, *sizes) as made:
        with made.never_without_a_route():
            breaks(made, everything=pytestconfig.getoption("--long"))
            made.fib_becomes(*made.best)
        drained = made.best[0]
        with made.never_without_a_route():
            made.order(drained, "drain")
            made.fib_becomes(*made.left(drained))
            made.order(drained, "undrain")
            until(lambda: made.fib() > set(made.best), "the primary is back, and the spare still there", 15.0)
            made.fib_becomes(*made.best)

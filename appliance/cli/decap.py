"""`onward decap`."""

import signal
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Annotated, TypeVar

from cyclopts import App, Parameter

from appliance.cli.output import Exit, complain, facts, warn
from appliance.decap.decap import Decap, DecapError, Mode, Settings, overlapping

_T = TypeVar("_T")

app = App(
    name="decap",
    help="Take packets out of their encapsulation, on a member of L3 DSR.",
    help_formatter="plain",
    help_format="plaintext",
)

LOOK_S = 5
"""Seconds between two looks whether the interface is still there."""


@app.command
def run(
    *,
    interface: str,
    sources: Annotated[list[str], Parameter(name="--from", negative="")],
    vip: Annotated[list[str], Parameter(negative="")],
    address: Annotated[list[str] | None, Parameter(negative="")] = None,
    mode: Mode = Mode.AUTO,
) -> int:
    """Decapsulate IP in IP, GRE and GUE of all families until SIGTERM or SIGINT. SIGUSR1 prints the counters.

    Inner packets go on as if they had come on the same interface; put the VIPs on the loopback interface.

    Parameters
    ----------
    interface:
        Where encapsulated packets arrive.
    sources:
        Prefix of directors' addresses. Repeat it for more; packets from elsewhere are not touched.
    vip:
        An inner destination. Repeat it for more; others are dropped.
    address:
        An outer destination. Repeat it for more; by default the addresses that the interface has now.
    mode:
        auto takes native XDP, or generic XDP where the driver has none; tc works behind offloads (Linux 6.6).
    """
    problems: list[str] = []
    settings = Settings(
        interface=interface,
        directors=tuple(_each(sources, "--from", ip_network, "a prefix like 203.0.113.0/24", problems)),
        vips=tuple(_each(vip, "--vip", ip_address, "an address", problems)),
        addresses=tuple(_each(address or [], "--address", ip_address, "an address", problems)),
        mode=mode,
    )
    if problems:
        for problem in problems:
            complain(problem)
        return Exit.USAGE
    for text in overlapping(settings):
        warn(text)
    waited = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        with Decap(settings) as decap:
            return _hold(decap, waited)
    except DecapError as error:
        complain(str(error))
        return Exit.FAILED


def _hold(decap: Decap, waited: set[signal.Signals]) -> int:
    ours = ", ".join(map(str, decap.addresses))
    why = f" (native: {decap.why_generic})" if decap.why_generic else ""
    print(f"{decap.settings.interface}: decapsulating in {decap.mode.value} mode{why}, to {ours}", flush=True)
    while True:
        got = signal.sigtimedwait(waited, LOOK_S)
        if got is not None:
            print(facts(decap.counters().items()), flush=True)
            if got.si_signo != signal.SIGUSR1:
                return Exit.OK
        elif not decap.attached():
            complain(
                f"interface {decap.settings.interface} is gone, and the program with it; start again when it is back"
            )
            return Exit.FAILED


def _each(
    texts: Iterable[str], option: str, parse: Callable[[str], _T], what: str, problems: list[str]
) -> Iterator[_T]:
    for text in texts:
        try:
            yield parse(text)
        except ValueError as error:
            problems.append(f"{option} {text}: {error}; give {what}")

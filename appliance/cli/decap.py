"""`onward decap`."""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Annotated, TypeVar

from cyclopts import App, Parameter

from appliance.cli.output import Exit, complain, facts, print_json, warn
from appliance.decap import talk
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

END_S = 5.0
"""How long a program may take to end."""

Interface = Annotated[str, Parameter(help="Where encapsulated packets arrive.")]


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
        with Decap(settings) as decap, talk.listen(interface) as questions:
            return _hold(decap, waited, questions)
    except DecapError as error:
        complain(str(error))
        return Exit.FAILED


@app.command
def status(*, interface: Interface, as_json: Annotated[bool, Parameter(name=["--json"], negative="")] = False) -> int:
    """Show what the program on an interface takes out of encapsulation, from whom, and how many packets.

    Exit codes: 0 done; 5 none runs there.

    Parameters
    ----------
    as_json:
        Print JSON.
    """
    try:
        document = talk.ask(interface)
    except DecapError as error:
        complain(str(error))
        return Exit.NOT_FOUND
    if as_json:
        print_json(document)
        return Exit.OK
    settings = [(name, _text(value)) for name, value in document.items() if name != "counters"]
    print(facts([*settings, *document["counters"].items()]))
    return Exit.OK


@app.command
def stop(*, interface: Interface) -> int:
    """End the program on an interface.

    Exit codes: 0 it has ended; 1 it may not be ended, or does not end; 5 none runs there.
    """
    try:
        if talk.end(interface, END_S):
            return Exit.OK
    except DecapError as error:
        complain(str(error))
        return Exit.FAILED
    complain(f"no `onward decap` runs on {interface}")
    return Exit.NOT_FOUND


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _hold(decap: Decap, waited: set[signal.Signals], questions: socket.socket) -> int:
    ours = ", ".join(map(str, decap.addresses))
    why = f" (native: {decap.why_generic})" if decap.why_generic else ""
    print(f"{decap.settings.interface}: decapsulating in {decap.mode.value} mode{why}, to {ours}", flush=True)
    # Signals are blocked, so that none comes between a look at them and the wait: this descriptor wakes us.
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for one in waited:
        signal.signal(one, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, waited)
    looked = time.monotonic()
    while True:
        ready, _, _ = select.select([questions.fileno(), wake], [], [], LOOK_S)
        if questions.fileno() in ready:
            talk.answer(questions, lambda: _document(decap))
        for number in os.read(wake, 64) if wake in ready else b"":
            print(facts(decap.counters().items()), flush=True)
            if number != signal.SIGUSR1:
                return Exit.OK
        if time.monotonic() - looked >= LOOK_S:
            looked = time.monotonic()
            if not decap.attached():
                name = decap.settings.interface
                complain(f"interface {name} is gone, and the program with it; start again when it is back")
                return Exit.FAILED


def _document(decap: Decap) -> Mapping[str, object]:
    return {
        "interface": decap.settings.interface,
        "pid": os.getpid(),
        "mode": decap.mode.value,
        "from": list(map(str, decap.settings.directors)),
        "vips": list(map(str, decap.settings.vips)),
        "addresses": list(map(str, decap.addresses)),
        "counters": decap.counters(),
    }


def _each(
    texts: Iterable[str], option: str, parse: Callable[[str], _T], what: str, problems: list[str]
) -> Iterator[_T]:
    for text in texts:
        try:
            yield parse(text)
        except ValueError as error:
            problems.append(f"{option} {text}: {error}; give {what}")

"""The demo: the whole path, shown and proved. Started by `containerlab/demo`."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from appliance.config.load import ConfigError
from appliance.lab.node import LabError, Node, Process
from appliance.lab.runner import Lab
from containerlab.tour import picture
from containerlab.tour.lab import Captures, Status, next_hops, rotation, status, until
from containerlab.tour.quickstart import (
    DIRECTORS,
    MEMBERS,
    PLACES,
    RESPONDER,
    RUN,
    TOPOLOGY,
    VIPS,
    kill,
    proofs,
    start,
    url,
)

NAME = "demo"
"""Another name than the topology's own: a lab that somebody brought up by hand is left alone."""

RATE = 12.0
"""New flows a second to each of the eight targets: enough to see, little enough to read every capture."""

HELD = 200


Line = dict[str, Any]
"""What a traffic program says at a time."""


@dataclass
class Record:
    """What the client saw, for the table and the picture."""

    start: float
    samples: list[picture.Sample] = field(default_factory=list)
    events: list[picture.Event] = field(default_factory=list)
    window: deque[tuple[float, dict[str, dict[str, int]]]] = field(default_factory=lambda: deque(maxlen=8))
    good: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def take(self, line: Line) -> None:
        good: dict[str, dict[str, int]] = line["good"]
        failed: dict[str, int] = line["failed"]
        at: float = line["at"]
        by_member: Counter[str] = Counter()
        for counts in good.values():
            by_member.update(counts)
        self.window.append((at, good))
        span = at - (self.window[-2][0] if len(self.window) > 1 else self.start)
        rates = {member: count / span for member, count in by_member.items()}
        self.samples.append(picture.Sample(at - self.start, rates, sum(failed.values()) / span))
        self.good += sum(by_member.values())
        self.failed += sum(failed.values())
        self.errors.update(line["errors"])

    def mark(self, text: str) -> None:
        self.events.append(picture.Event(time.time() - self.start, text))

    def rates(self) -> dict[tuple[str, str], float]:
        """Answers a second by (TCP or UDP, member), over the last two seconds."""
        sums: Counter[tuple[str, str]] = Counter()
        for _, good in self.window:
            for target, counts in good.items():
                for member, count in counts.items():
                    sums["UDP" if target.startswith("udp") else "TCP", member] += count
        span = max(0.25, self.window[-1][0] - self.window[0][0] + 0.25) if self.window else 1.0
        return {key: count / span for key, count in sums.items()}


@dataclass(frozen=True)
class Held:
    """What became of the long connections."""

    open: Counter[str] = field(default_factory=Counter)
    """Still open, by member."""

    broken: Counter[str] = field(default_factory=Counter)
    """Broken so far, by member."""

    @classmethod
    def of(cls, line: Line) -> "Held":
        return cls(Counter(line["open"]), Counter(entry["member"] for entry in line["broken"]))


class Client:
    """Programs in the client node, whose lines are read as they come."""

    def __init__(self, node: Node, *arguments: str, take: Callable[[Line], None]) -> None:
        self._process: Process = node.popen([sys.executable, "-m", "containerlab.tour.traffic", *arguments])
        self._take = take
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._take(json.loads(line))

    def stop(self) -> None:
        self._process.terminate()
        self._thread.join(10)
        self._process.communicate(timeout=10)


class Demo:
    def __init__(self, console: Console, lab: Lab, folder: Path) -> None:
        self.console = console
        self.lab = lab
        self.folder = folder
        self.record = Record(time.time())
        self.held = Held()
        self.passed = 0
        self.failed = 0
        self._live: Live | None = None
        self._step = ""
        self.documents: dict[str, Status | None] = {}
        self._asked = 0.0

    # ---- telling

    def headline(self, text: str) -> None:
        self._step = text
        self.console.print(f"\n[bold]{text}[/bold]")

    def claim(self, text: str, holds: bool, evidence: str = "") -> None:
        mark = "[green]✓[/green]" if holds else "[red]✗[/red]"
        self.passed += holds
        self.failed += not holds
        self.console.print(f"  {mark} {text}" + (f" [dim]({evidence})[/dim]" if evidence else ""))

    def show(self, seconds: float) -> None:
        """Let the table run for a while."""
        until(lambda: False, seconds, self.tick)

    def tick(self) -> None:
        if time.monotonic() - self._asked > 0.5:
            self._asked = time.monotonic()
            self.documents = {name: status(self.lab.node(name)) for name in DIRECTORS}
        if self._live:
            self._live.update(self.table())

    def table(self) -> RenderableType:
        """Who gets what at this moment."""
        rates = self.record.rates()
        most = max([*rates.values(), 1.0])
        members = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("MEMBER", "DELIVERY", "STATE", "TCP/s", "", "UDP/s", ""):
            members.add_column(title, justify="right" if title.endswith("/s") else "left")
        for name, (address, _) in MEMBERS.items():
            up = {True} == set().union(*(rotation(document, name) for document in self.documents.values()))
            delivery = "L3 IPIP" if name in {"m1", "m2"} else "L2"
            row: list[RenderableType] = [f"{name}  {address}", delivery]
            row.append(Text("in rotation", style="green") if up else Text("out", style="red"))
            for protocol, colour in (("TCP", "cyan"), ("UDP", "magenta")):
                rate = rates.get((protocol, name), 0.0)
                row += [f"{rate:.0f}", Text("█" * round(14 * rate / most), style=colour)]
            members.add_row(*row)
        directors = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("DIRECTOR", "PACKETS", "VIPS ANNOUNCED", "ROUTER SENDS HERE"):
            directors.add_column(title, justify="right" if title == "PACKETS" else "left")
        hops = next_hops(self.lab.node("r1"), "198.51.100.10")
        for name, (address, _) in DIRECTORS.items():
            document = self.documents.get(name)
            if document is None:
                directors.add_row(name, "-", Text("no answer", style="red"), "yes" if address in hops else "no")
                continue
            vips = {vip["vip"]: vip["announced"] for service in document["services"] for vip in service["vips"]}
            announced = sum(vips.values())
            directors.add_row(
                name,
                f"{forwarded(document):,}",
                Text(f"{announced} of {len(vips)}", style="green" if announced == len(vips) else "yellow"),
                "yes" if address in hops else "no",
            )
        summary = Text(f"client: {self.record.good:,} answers, {self.record.failed} failed", style="dim")
        if self.held.open:
            summary.append(f"; {self.held.open.total()} of {HELD} long connections open")
        return Group(Text(), Text(self._step, style="bold"), members, Text(), directors, summary)

    # ---- acting

    def live(self) -> Live:
        self._live = Live(self.table(), console=self.console, refresh_per_second=4, transient=True)
        return self._live

    def wait_for(self, what: str, condition: Callable[[], bool], deadline_s: float) -> None:
        took = until(condition, deadline_s, self.tick)
        self.claim(
            what,
            took is not None,
            f"after {took:.1f} s" if took is not None else f"not in {deadline_s:.0f} s",
        )

    def all_say(self, member: str, present: bool) -> bool:
        """Whether every director has the member in (or out of) rotation, in all its pools."""
        return all(rotation(status(self.lab.node(name)), member) == {present} for name in DIRECTORS)

    def nothing_fails(self, text: str, without: str = "") -> None:
        """Watch for three seconds: no request fails, and none is answered by the member *without*."""
        failed, good, errors = self.record.failed, self.record.good, self.record.errors.copy()
        self.show(3)
        answered = {member for _, member in self.record.rates()}
        lost = self.record.failed - failed
        why = "; ".join(self.record.errors - errors)
        evidence = f"{self.record.good - good} answers, {lost} failed{f': {why}' if why else ''}"
        self.claim(text, not lost and without not in answered, evidence)

    def hold(self, line: Line) -> None:
        self.held = Held.of(line)

    def open_connections(self, client: Node, url: str) -> Client:
        self.held = Held()
        keeper = Client(client, "hold", url, "--connections", str(HELD), take=self.hold)
        until(lambda: self.held.open.total() == HELD, 10, self.tick)
        return keeper


def first_packet(demo: Demo, began: float) -> None:
    """How long somebody waits on a fresh machine, installation and all, until a member has answered by a director."""
    client = demo.lab.node("client")
    ask = ["curl", "-sf", "-m", "0.5", "-o", "/dev/null", url(next(iter(VIPS)))]
    answered = until(lambda: client.run(ask, check=False).returncode == 0, 60.0)
    demo.claim(
        "the first packet was forwarded, and answered",
        answered is not None,
        f"{time.time() - began:.1f} s after the command was typed",
    )


def transfers(demo: Demo) -> None:
    demo.headline("10 MB each way through every VIP, checksums at both ends")
    client = demo.lab.node("client")
    for vip, delivery in VIPS.items():
        said = client.run([sys.executable, "-m", "containerlab.tour.traffic", "transfer", url(vip)], timeout=120)
        result = json.loads(said.stdout)
        demo.claim(
            f"{delivery} DSR, {vip}: upload and download intact",
            result["upload_ok"] and result["download_ok"],
            f"member {result['member']}, {80 / result['upload_s']:.0f} and {80 / result['download_s']:.0f} Mbit/s",
        )


def story(demo: Demo) -> None:
    """Traffic, and what happens to it when things are stopped."""
    lab, record = demo.lab, demo.record
    client = lab.node("client")
    web = "http://198.51.100.10"
    capture = Captures(lab, PLACES, demo.folder)
    record.start = time.time()
    traffic = Client(
        client,
        "load",
        *(url(vip) for vip in VIPS),
        *(url(vip, "udp", 5000) for vip in VIPS),
        "--rate",
        str(RATE),
        take=record.take,
    )
    with demo.live():
        demo.headline("Traffic: HTTP and UDP, IPv4 and IPv6, L3 and L2 DSR")
        demo.show(5)
        seen = capture.stop()  # the proofs need seconds of traffic, not minutes
        both = {name for name, document in demo.documents.items() if document and forwarded(document)}
        demo.claim(
            "both directors forward, every answer came",
            len(both) == 2 and record.failed == 0,
            f"{record.good:,} answers",
        )
        keeper = demo.open_connections(client, web)
        demo.claim(f"{HELD} long connections to {web} are open", demo.held.open.total() == HELD)
        on_m2 = demo.held.open["m2"]

        demo.headline("Stop member m1")
        record.mark("m1 stopped")
        kill(lab.node("m1"), RESPONDER, signal.SIGKILL)
        demo.wait_for("m1 is out of rotation at both directors", lambda: demo.all_say("m1", False), 15)
        record.mark("m1 out")
        demo.show(2.5)  # whoever still waits for an answer of m1 gives up
        demo.nothing_fails("nobody gets m1 any more, and nothing fails", without="m1")
        breaks = demo.held.broken
        demo.claim(
            "no connection to another member broke",
            set(breaks) <= {"m1"} and demo.held.open["m2"] == on_m2,
            f"{breaks['m1']} ended with m1, {on_m2} on m2 live on",
        )

        demo.headline("Start member m1 again")
        record.mark("m1 started")
        start(lab, "m1", RESPONDER)
        demo.wait_for("m1 is back in rotation at both directors", lambda: demo.all_say("m1", True), 15)
        record.mark("m1 back")
        demo.show(4)
        # UDP flows that were there before stay where they are for an idle timeout: nobody sees which ones are new.
        demo.wait_for("m1 gets its flows back", lambda: {("TCP", "m1"), ("UDP", "m1")} <= set(record.rates()), 15)

        demo.headline("Kill director d1")
        keeper.stop()
        keeper = demo.open_connections(client, web)
        record.mark("d1 killed")
        r1 = lab.node("r1")
        kill(lab.node("d1"), RUN, signal.SIGKILL)
        demo.wait_for(
            "the router sends everything to d2",
            lambda: all(next_hops(r1, vip) and not next_hops(r1, vip) & set(DIRECTORS["d1"]) for vip in VIPS),
            5,
        )
        demo.show(2.5)
        demo.nothing_fails("traffic flows by d2 alone, and nothing fails")
        demo.claim(
            "no long connection broke: d2 computes the same ring",
            not demo.held.broken and demo.held.open.total() == HELD,
            f"{demo.held.open.total()} of {HELD} open",
        )

        demo.headline("Start director d1 again")
        record.mark("d1 started")
        start(lab, "d1", RUN)
        demo.wait_for(
            "the router shares the traffic among both again",
            lambda: all(len(next_hops(r1, vip)) == 2 for vip in VIPS),
            20,
        )
        record.mark("d1 back")
        demo.show(4)
        demo.claim("still no long connection broke", not demo.held.broken)
    keeper.stop()
    traffic.stop()
    demo.headline("What the captures prove")
    for claim in proofs(lab, seen):
        demo.claim(claim.text, claim.holds, claim.evidence)


def forwarded(document: Status) -> int:
    """Packets that a director has sent to members."""
    return sum(vip["traffic"]["packets"] or 0 for service in document["services"] for vip in service["vips"])


def tell_what_to_try(console: Console, lab: Lab) -> None:
    console.print(
        f"""
The lab is still up. Try, as root:

  .venv/bin/onward lab exec --lab {lab.name} client -- curl -s http://198.51.100.10/
  .venv/bin/onward lab exec --lab {lab.name} r1 -- vtysh -c 'show ip route 198.51.100.10'
  .venv/bin/onward lab exec --lab {lab.name} d1 -- onward status --watch
  .venv/bin/onward lab exec --lab {lab.name} r2 -- tcpdump -ni eth2 'proto 4 or proto 41'
  .venv/bin/onward lab exec --lab {lab.name} d1 -- curl -s http://127.0.0.1:8080/metrics

and take it down with

  .venv/bin/onward lab down {lab.name}""",
        highlight=False,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="containerlab/demo", description="The whole path, shown and proved.")
    parser.add_argument("--keep", action="store_true", help="leave the lab up at the end")
    parser.add_argument(
        "--picture", type=Path, default=Path("onward-demo.svg"), help="where to write it (.svg or .png)"
    )
    parser.add_argument("--began", type=float, default=time.time(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    for number in (signal.SIGTERM, signal.SIGHUP):  # an ended demo takes its lab down, too
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="onward-demo-"))
    lab: Lab | None = None
    finished = False
    try:
        with console.status("Bringing up a client, two routers, two directors and four members ..."):
            lab = Lab.up(TOPOLOGY, name=NAME)
        console.print(f"[bold]Lab up[/bold] [dim]({time.monotonic() - started:.1f} s)[/dim]")
        demo = Demo(console, lab, folder)
        with console.status("Waiting for the first packet, health verdicts and BGP ..."):
            first_packet(demo, options.began)
            lab.wait()
        demo.claim(
            "every VIP is announced by both directors, IPv4 and IPv6",
            all(len(next_hops(lab.node("r1"), vip)) == 2 for vip in VIPS),
            f"{time.monotonic() - started:.1f} s after the start",
        )
        transfers(demo)
        story(demo)
        picture.draw(demo.record.samples, demo.record.events, list(MEMBERS), options.picture)
        _give_to_caller(options.picture)
        console.print(f"\npicture: {options.picture}   [dim]{time.monotonic() - started:.0f} s in all[/dim]")
        finished = True
        if options.keep:
            tell_what_to_try(console, lab)
        print(f"\n{demo.passed} passed, {demo.failed} failed", flush=True)
        return 1 if demo.failed else 0
    except (LabError, ConfigError, subprocess.SubprocessError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lab is not None and not (options.keep and finished):
            with console.status("Taking the lab down ..."):
                lab.down()


def _give_to_caller(path: Path) -> None:
    """Under sudo the picture belongs to the person, not to root."""
    if "SUDO_UID" in os.environ and "SUDO_GID" in os.environ:
        os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))


if __name__ == "__main__":
    sys.exit(main())

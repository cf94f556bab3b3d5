"""The fleet lab, and what can be done to its directors and members while it runs."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from appliance.lab.launchers import PRIORITY
from appliance.lab.node import Node, tail
from appliance.lab.runner import Lab
from containerlab.tour.lab import next_hops, status

ROOT = Path(__file__).resolve().parents[2]
TOPOLOGY = ROOT / "containerlab" / "fleet.clab.yml"

DIRECTORS = {"d1": 1, "d2": 2, "d3": 3}
"""Number in its addresses."""
ROUTERS = ("r1", "r2")
CLIENTS = {
    "c1": [*(f"192.0.2.{n}" for n in range(2, 10)), *(f"2001:db8:1::{n}" for n in range(2, 6))],
    "c2": [*(f"192.0.2.{n}" for n in range(66, 74)), *(f"2001:db8:2::{n}" for n in range(2, 6))],
}
MEMBERS = tuple(f"m{n}" for n in range(1, 11))
POOLS = {"web": MEMBERS, "edge": MEMBERS[6:]}
TARGETS = {"198.51.100.10": 0.6, "2001:db8:f::10": 0.2, "198.51.100.20": 0.2}
"""VIPs, and their shares of the flows."""

PLANES = {
    "raw": {"d1": "raw", "d2": "raw", "d3": "raw"},
    "xdp": {"d1": "xdp", "d2": "xdp", "d3": "xdp"},
    "mixed": {"d1": "xdp", "d2": "raw", "d3": "xdp"},
}

FLEET_WITH_STORE = """[fleet]
store = "etcd"
etcd = { endpoints = ["http://203.0.113.20:2379"] }
"""

RUN = "onward run /etc/onward/onward.toml"
SERVE = "traffic serve"

Edit = Callable[[str], str]
"""Makes another configuration file of one."""


class FleetError(Exception):
    """The fleet did not do what the story needs; the text says what was waited for."""


def member_number(name: str) -> int:
    return int(name.removeprefix("m"))


def without(member: str) -> Edit:
    """The configuration without a member, in all pools."""
    return lambda text: _edited(rf'^ *\{{ name = "{member}",.*\n', "", text)


def with_ratio(member: str, ratio: int) -> Edit:
    """The configuration with another weight for a member, in all pools."""
    return lambda text: _edited(
        rf'(\{{ name = "{member}",[^}}]*?)(, ratio = \d+)? \}}', rf"\1, ratio = {ratio} }}", text
    )


def _edited(pattern: str, replacement: str, text: str) -> str:
    edited, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
    if not count:
        raise ValueError(f"nothing in the configuration matches {pattern}")
    return edited


def compiled(folder: Path) -> Path:
    """The workload's program."""
    source = Path(__file__).with_name("traffic.c")
    target = folder / "traffic"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(source), "-lm"], check=True)
    return target


class Fleet:
    """The lab that is up."""

    def __init__(self, lab: Lab, program: Path, configs: Mapping[str, str]) -> None:
        self.lab = lab
        self.program = program
        self._original = dict(configs)
        self._edits: list[tuple[str, Edit]] = []
        self._killed: set[str] = set()

    @classmethod
    @contextmanager
    def up(
        cls, folder: Path, planes: Mapping[str, str], *, store: bool, pins: int | None = None, logs: Path | None = None
    ) -> Iterator["Fleet"]:
        """Bring it up, and wait until everything is announced.

        Args:
            folder: for the program and the files that differ from the lab's own; must be empty, and readable in nodes.
            planes: data plane by director.
            store: whether directors agree through the lab's etcd.
            pins: how many flows directors remember; None leaves it to them.
            logs: folder for what the nodes' programs have said, kept whatever happens; None keeps nothing.
        """
        program = compiled(folder)
        shutil.copytree(TOPOLOGY.parent / "fleet", folder / "fleet")
        configs = {}
        for director, plane in planes.items():
            path = folder / "fleet" / director / "onward.toml"
            settings = [f'plane = "{plane}"'] + ([] if pins is None else [f"pins = {pins}"])
            configs[director] = path.read_text().replace("[director]\n", "\n".join(["[director]", *settings, ""]), 1)
            if store:
                configs[director] = configs[director].replace("[fleet]\n", FLEET_WITH_STORE, 1)
            path.write_text(configs[director])
        topology = folder / "fleet.clab.yml"
        topology.write_text(_with_servers(TOPOLOGY.read_text(), program))
        with Lab.up(topology, name=f"owf{os.getpid()}", reconfigure=True) as lab:
            lab.wait()
            fleet = cls(lab, program, configs)
            try:
                fleet.until(fleet.all_in_rotation, "every member in rotation at every director")
                yield fleet
            finally:
                for node in lab.nodes:
                    if logs is not None and lab.log(node).exists():
                        logs.mkdir(parents=True, exist_ok=True)
                        shutil.copy(lab.log(node), logs)

    # ---- questions

    def node(self, name: str) -> Node:
        return self.lab.node(name)

    def status(self, director: str) -> dict[str, Any] | None:
        """What a director says of itself; None while it does not answer."""
        return status(self.node(director))

    def states(self, director: str) -> dict[str, str]:
        """State by `pool/member`; nothing while it does not answer."""
        document = self.status(director)
        if document is None:
            return {}
        return {
            f"{pool}/{member['name']}": member["state"]
            for pool, view in document["pools"].items()
            for member in view["members"]
        }

    def next_hops(self, router: str) -> frozenset[str]:
        """The directors that a router's kernel really sends to."""
        names = {f"203.0.113.{10 + number}": name for name, number in DIRECTORS.items()}
        hops = next_hops(self.node(router), "198.51.100.10")
        return frozenset(names.get(hop, hop) for hop in hops)

    def all_in_rotation(self) -> bool:
        return all(set(self.states(name).values()) == {"in_rotation"} for name in DIRECTORS)

    def in_rotation(self, member: str, present: bool, directors: tuple[str, ...] = tuple(DIRECTORS)) -> bool:
        """Whether these directors agree that a member takes new flows, or that it takes none."""

        def agreed(states: dict[str, str]) -> bool:
            mine = {state == "in_rotation" for place, state in states.items() if place.endswith(f"/{member}")}
            return bool(states) and (mine == {present} or (not mine and not present))

        return all(agreed(self.states(name)) for name in directors)

    def until(self, condition: Callable[[], bool], what: str, deadline_s: float = 30.0) -> None:
        """Wait for something.

        Raises:
            FleetError: it did not come true in time.
        """
        end = time.monotonic() + deadline_s
        while not condition():
            self.check()
            if time.monotonic() > end:
                raise FleetError(f"not within {deadline_s:g} s: {what}")
            time.sleep(0.1)

    # ---- what an operator does

    def member(self, verb: str, member: str, *options: str) -> None:
        """`onward member VERB` at every director, in every pool that has the member, one director after the other."""
        for director in DIRECTORS:
            for pool, members in POOLS.items():
                if member in members:
                    self.node(director).run(["onward", "member", verb, f"{pool}/{member}", *options])

    def reload(self, edits: Mapping[str, Edit], *, stagger_s: float = 0.3) -> None:
        """Give every director its file with these edits (by name) and all that were made before, one after the other.

        Args:
            edits: by what each is called later in `undo`.
            stagger_s: seconds between two directors: nobody reloads a fleet in one moment.
        """
        self._edits += list(edits.items())
        self._reload(stagger_s)

    def undo(self, *names: str, stagger_s: float = 0.3) -> None:
        """Take edits back."""
        self._edits = [(name, edit) for name, edit in self._edits if name not in names]
        self._reload(stagger_s)

    def _reload(self, stagger_s: float) -> None:
        for position, director in enumerate(DIRECTORS):
            if position:
                time.sleep(stagger_s)
            self._write(director)
            if self.running(director):
                kill(self.node(director), RUN, signal.SIGHUP)

    def _write(self, director: str) -> None:
        text = self._original[director]
        for _, edit in self._edits:
            text = edit(text)
        node = self.node(director)
        # The file is bound read-only into the node; a new one is mounted over it there.
        node.write("/run/onward.toml", text)
        node.run(["mount", "--bind", "/run/onward.toml", "/etc/onward/onward.toml"])

    # ---- what goes wrong

    def running(self, director: str) -> bool:
        return any(RUN in command for _, command in self.node(director).holder.processes())

    def kill_director(self, director: str) -> None:
        """SIGKILL: nothing is said to anybody, and BGP's guard notices."""
        self._killed.add(director)
        kill(self.node(director), RUN, signal.SIGKILL)

    def start_director(self, director: str) -> None:
        self.node(director).start([*PRIORITY, *RUN.split()], self.lab.log(director))
        self._killed.discard(director)

    def check(self) -> None:
        """
        Raises:
            FleetError: a director has ended that nobody has killed.
        """
        for director in DIRECTORS:
            if director not in self._killed and not self.running(director):
                raise FleetError(f"{director} has ended by itself; it said at last: {tail(self.lab.log(director))}")

    def unplug(self, name: str) -> None:
        """The cable of a director or member comes out."""
        self.node("tor").run(["ip", "link", "set", name, "down"])

    def plug_in(self, name: str) -> None:
        """And in again."""
        self.node("tor").run(["ip", "link", "set", name, "up"])

    def kill_servers(self, member: str) -> None:
        """SIGKILL: their kernel resets what comes next."""
        node = self.node(member)
        kill(node, SERVE, signal.SIGKILL)
        self.until(lambda: not _processes(node, SERVE), f"{member}'s servers are gone", 5)

    def start_servers(self, member: str) -> None:
        command = [str(self.program), "serve", str(member_number(member))]
        self.node(member).start(command, self.lab.log(member))


def _processes(node: Node, program: str) -> list[int]:
    return [pid for pid, command in node.holder.processes() if program in command]


def kill(node: Node, program: str, number: int) -> None:
    """Send a signal to a node's program.

    Raises:
        FleetError: it does not run.
    """
    pids = _processes(node, program)
    if not pids:
        raise FleetError(f"{node.name}: {program} does not run")
    for pid in pids:
        os.kill(pid, number)


def _with_servers(text: str, program: Path) -> str:
    """The topology with our servers instead of the lab's own."""
    document = yaml.safe_load(text)
    del document["topology"]["groups"]["member"]["cmd"]
    for name in MEMBERS:
        document["topology"]["nodes"][name]["entrypoint"] = f"{program} serve {member_number(name)}"
    return json.dumps(document)  # JSON is YAML

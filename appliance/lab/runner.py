"""Brings a topology up in network namespaces, and down again without a trace.

State is in /run/onward-lab: NAME.json says what was made, NAME/ has the nodes' logs. It is written before and while
things are made, so that `down` works after any accident. Nothing is ever looked for by its name alone: processes are
those on record, and a node's process 1 takes everything in the node with it.
"""

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from appliance.keep import keep
from appliance.lab import holder, topology
from appliance.lab.launchers import launcher
from appliance.lab.node import NETNS, Holder, LabError, Node, NotFoundError, complete_checksums, tail

STATE = Path("/run/onward-lab")
END_S = 10.0
"""How long the kernel may take to end a node."""

READY_S = 60.0
READY_COMMAND_S = 10.0
READY_PAUSE_S = 0.25


class Lab:
    """A topology that is up.

    As a context manager it goes down at the end of the block.
    """

    def __init__(self, name: str, source: str, nodes: dict[str, Node]) -> None:
        self.name = name
        self.source = source
        self.nodes = nodes
        self.warnings: tuple[str, ...] = ()
        """About the topology file."""

    # ---- coming up

    @classmethod
    def up(cls, file: Path | str, *, name: str | None = None, reconfigure: bool = False) -> "Lab":
        """Realise a topology file.

        Args:
            name: another name than the file's, for a second copy.
            reconfigure: take down first what is up under that name.

        Raises:
            ConfigError: the file has mistakes.
            LabError: it is up already, a program is missing, a command of a node failed; what was made is gone again.
        """
        wanted = topology.load(Path(file))
        lab = cls(name or wanted.name, str(Path(file).resolve()), {})
        lab.warnings = wanted.warnings
        if not re.match(topology.NAME, lab.name):
            raise LabError(f"{lab.name} is no name for a lab; use letters, digits, `_`, `.` and `-`, at most 30")
        _need_root_and_programs()
        with lab._lock():
            lab._make_way(reconfigure)
            lab._save()
            try:
                lab._make(wanted)
            except BaseException:
                lab.down()
                raise
        return lab

    def _make_way(self, reconfigure: bool) -> None:
        try:
            before = self.find(self.name)
        except LabError:
            return
        if before.alive() and not reconfigure:
            raise LabError(
                f"lab {self.name} is up already; `onward lab down {self.name}`, or `onward lab up --reconfigure`"
            )
        before.end()  # one that has died is swept in passing
        for log in (STATE / self.name).glob("*.log"):
            log.unlink()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Only one at a time brings this lab up."""
        folder = STATE / self.name
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(f"lab {self.name} is just being brought up; wait for that to end") from None
            yield
        finally:
            os.close(descriptor)

    def _make(self, wanted: topology.Topology) -> None:
        self._start_holders(wanted)
        for bridge in wanted.bridges:
            _ip(self.nodes[bridge.node], [f"link add {bridge.name} type bridge", f"link set {bridge.name} up"])
        for link in wanted.links:
            self._cable(link)
        for node in wanted.nodes:
            launcher(node.image)(self.nodes[node.name], node, self.log(node.name))
        for node in wanted.nodes:
            for command in node.exec:
                with self.log(node.name).open("a") as output:
                    place = output.seek(0, os.SEEK_END)
                    try:
                        self.nodes[node.name].run_quietly(command, output)
                    except LabError:
                        said = self.log(node.name).read_bytes()[place:].decode(errors="replace").strip()
                        raise LabError(
                            f"{node.name}: exec {shlex.join(command)} failed: {said or 'it said nothing'}"
                        ) from None

    def _start_holders(self, wanted: topology.Topology) -> None:
        prefix = {"": "", "__lab-name": f"{self.name}-"}.get(wanted.prefix, f"{wanted.prefix}-{self.name}-")
        starting = []
        try:
            for node in wanted.nodes:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", holder.__file__, self.name, node.name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd="/",
                    start_new_session=True,
                )
                starting.append((node, process))
                settings = {
                    "hostname": node.hostname,
                    "sysctls": dict(node.sysctls),
                    "binds": [(str(bind.source), str(bind.target), bind.read_only) for bind in node.binds],
                }
                _tell(process, json.dumps(settings))
            for node, process in starting:
                assert process.stdout is not None  # noqa: S101 - we asked for a pipe
                pid, answer = process.stdout.readline(), process.stdout.readline().strip()
                if answer != "ready":
                    raise LabError(f"{node.name}: {answer or 'its process 1 did not start'}")
                netns = f"{prefix}{node.name}"
                if (NETNS / netns).exists():
                    raise LabError(
                        f"a network namespace {netns} exists already; `ip netns delete {netns}`, or use another name"
                    )
                self.nodes[node.name] = Node(
                    node.name,
                    netns,
                    Holder.of(int(pid)),
                    node.image,
                    {"HOSTNAME": node.hostname, **node.env},
                    node.ready,
                )
                self._save()
                _run("ip", "netns", "attach", netns, pid.strip())
                _tell(process, "go")
        finally:
            for _, process in starting:
                # A child that did not hear `go` ends with its input.
                process.communicate()

    def _cable(self, link: topology.Link) -> None:
        a, b = self.nodes[link.a.node], self.nodes[link.b.node]
        macs = [f"address {end.mac} " if end.mac else "" for end in (link.a, link.b)]
        add = f"link add {link.a.interface} {macs[0]}mtu {link.mtu} type veth"
        _ip(a, [f"{add} peer name {link.b.interface} {macs[1]}mtu {link.mtu} netns {b.netns}"])
        for node, end in ((a, link.a), (b, link.b)):
            complete_checksums(node.netns_path, end.interface)
            lines = [f"link set {end.interface} master {end.bridge}"] if end.bridge else []
            lines += [
                f"address add {address} dev {end.interface}{' nodad' if address.version == 6 else ''}"
                for address in end.addresses
            ]
            _ip(node, [*lines, f"link set {end.interface} up"])

    # ---- being up

    @classmethod
    def find(cls, name: str) -> "Lab":
        """A lab by its name.

        Raises:
            NotFoundError: there is none of that name.
            LabError: its record cannot be understood.
        """
        path = STATE / f"{name}.json"
        try:
            record = json.loads(path.read_text())
            return cls(name, record["source"], {node["name"]: Node.from_record(node) for node in record["nodes"]})
        except FileNotFoundError:
            known = ", ".join(lab.name for lab in cls.all()) or "none"
            raise NotFoundError(f"no lab {name} is up (up: {known})") from None
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(
                f"{path} was written by another version ({error!r}); take the lab down with that one"
            ) from None

    @classmethod
    def all(cls) -> list["Lab"]:
        return [cls.find(path.stem) for path in sorted(STATE.glob("*.json"))]

    @classmethod
    def the_one(cls, name_or_file: str | None = None) -> "Lab":
        """A lab by its name or file; without either the only one that is up.

        Raises:
            NotFoundError: there is none.
            LabError: there is more than one.
        """
        labs = cls.all()
        if name_or_file is not None:
            file = str(Path(name_or_file).resolve())
            labs = [lab for lab in labs if lab.name == name_or_file] or [lab for lab in labs if lab.source == file]
        if not labs:
            raise NotFoundError(f"no lab {name_or_file or ''} is up; see `onward lab list`".replace("  ", " "))
        if len(labs) > 1:
            raise LabError(f"several labs are up ({', '.join(lab.name for lab in labs)}); say which one")
        return labs[0]

    def node(self, name: str) -> Node:
        """A node by its name.

        Raises:
            NotFoundError: there is none of that name.
            LabError: it has died.
        """
        if name not in self.nodes:
            raise NotFoundError(f"lab {self.name} has no node {name}; it has {', '.join(self.nodes)}")
        if not self.nodes[name].holder.alive():
            raise LabError(f"node {name} of lab {self.name} has died; `onward lab down {self.name}` and up again")
        return self.nodes[name]

    def alive(self) -> bool:
        """Whether any node still runs."""
        return any(node.holder.alive() for node in self.nodes.values())

    def state(self) -> tuple[str, list[str]]:
        """`up`, `degraded` or `dead`, and the names of the nodes that have died."""
        died = [node.name for node in self.nodes.values() if not node.holder.alive()]
        return "up" if self.nodes and not died else "degraded" if len(died) < len(self.nodes) else "dead", died

    def log(self, node: str) -> Path:
        """The file with what a node's programs said."""
        return STATE / self.name / f"{node}.log"

    def wait(self, deadline_s: float = READY_S) -> None:
        """Wait until the command of every node's label `onward.ready` succeeds.

        Raises:
            LabError: not within the deadline.
        """
        end = time.monotonic() + deadline_s
        for node in self.nodes.values():
            while node.ready and (doubt := _doubt(node)):
                if time.monotonic() > end:
                    raise LabError(
                        f"{node.name} is not ready after {deadline_s:g} s: {shlex.join(node.ready)}: {doubt}; "
                        f"{self.log(node.name)} ends with: {tail(self.log(node.name))}"
                    )
                time.sleep(READY_PAUSE_S)

    # ---- going down

    def down(self) -> None:
        """End every process of the lab and remove what was made. Does no harm when repeated.

        Raises:
            LabError: the kernel did not end a node in time; it is still on record.
        """
        on_record = self._on_record()
        self.end()
        if on_record:
            shutil.rmtree(STATE / self.name, ignore_errors=True)
            self._state_file.unlink(missing_ok=True)
        self.nodes = {}

    def end(self) -> None:
        """End every process and namespace; the record and the logs stay."""
        on_record = self._on_record()
        for node in self.nodes.values():
            if node.holder.alive():
                os.kill(node.holder.pid, signal.SIGKILL)
        end = time.monotonic() + END_S
        for node in self.nodes.values():
            while node.holder.alive():
                if time.monotonic() > end:
                    raise LabError(f"node {node.name}: process {node.holder.pid} does not end; try again")
                time.sleep(0.005)
            if on_record and node.netns_path.exists():
                _run("ip", "netns", "delete", node.netns)

    def _on_record(self) -> bool:
        """Whether the names are still ours: somebody may have replaced this lab by another of the same name."""
        try:
            return self.find(self.name).nodes == self.nodes
        except LabError:
            return False

    def __enter__(self) -> "Lab":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # ---- what is on record

    @property
    def _state_file(self) -> Path:
        return STATE / f"{self.name}.json"

    def _save(self) -> None:
        keep(self._state_file, json.dumps(self._record()))

    def _record(self) -> dict[str, object]:
        return {"source": self.source, "nodes": [node.record() for node in self.nodes.values()]}


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None  # noqa: S101 - we asked for a pipe
    try:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has failed, and says so on its output


def _doubt(node: Node) -> str:
    """Why a node is not ready; empty when it is."""
    try:
        result = node.run(node.ready, check=False, timeout=READY_COMMAND_S)
    except subprocess.TimeoutExpired:
        return f"no end within {READY_COMMAND_S:g} s"
    said = (result.stderr or result.stdout).strip().rpartition("\n")[2]
    return f"exit code {result.returncode} {said}".strip() if result.returncode else ""


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(f"{' '.join(command)}: {result.stderr.strip()}")


def _ip(node: Node, lines: Sequence[str]) -> None:
    """`ip -batch` in a node.

    Raises:
        LabError: with the line that failed.
    """
    result = subprocess.run(
        ["ip", "-n", node.netns, "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if result.returncode:
        reason, _, place = result.stderr.strip().partition("\nCommand failed -:")
        line = lines[int(place) - 1] if place.isdigit() else "; ".join(lines)
        raise LabError(f"{node.name}: ip {line}: {reason}")


def need_root() -> None:
    """Without root a node's process 1 looks dead, whether it runs or not.

    Raises:
        LabError: we are somebody else.
    """
    if os.geteuid() != 0:
        raise LabError("labs and their network namespaces need root; use sudo")


def _need_root_and_programs() -> None:
    need_root()
    missing = [program for program in ("ip", "nsenter", "setsid") if shutil.which(program) is None]
    if missing:
        raise LabError(f"not installed: {', '.join(missing)}; apt-get install iproute2 util-linux")


def processes(lab: Lab) -> Iterator[tuple[str, int, str]]:
    """Node, PID on this machine and command line of everything that runs in a lab."""
    for node in lab.nodes.values():
        for pid, command in node.holder.processes():
            yield node.name, pid, command

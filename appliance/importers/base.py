"""What importers take and give, and how the input is read so that nothing of it gets lost. Pure.

The input is a tree of nodes, whose leaves are its words or values. Whoever takes a value into the document uses its
leaf; whatever cannot be taken is told. When an importer is done, what is left is told as well, so a setting that no
line of code knows of stands in the report.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from appliance.config.problems import ConfigError, Problem
from appliance.importers.document import Table


class Grade(StrEnum):
    """What a finding means for whoever takes the imported configuration into use; the worst first."""

    LOST = "lost"
    """It has no equivalent, and the imported configuration does without."""

    CHANGED = "changed"
    """It was imported as something that does not do quite the same."""

    TODO = "todo"
    """Something that the input does not say has to be written, or to be done on other machines."""

    IGNORED = "ignored"
    """It makes no difference: descriptions, identifiers, defaults, what we do anyway."""


class State(Enum):
    """What has become of a leaf."""

    UNREAD = auto()
    USED = auto()
    TOLD = auto()


class Node:
    """A word or value of the input, or what belongs together in it."""

    __slots__ = ("order", "parts", "place", "state", "text")

    _count = itertools.count()

    def __init__(self, place: str, text: str) -> None:
        self.place = place
        """Where it stands, for people: `keepalived.conf:12`, `Pool[0].servers[1].port`."""

        self.text = text
        """What stands there, shortened."""

        self.parts: list[Node] = []
        self.state = State.UNREAD
        self.order = next(self._count)

    def leaves(self) -> Iterator["Node"]:
        """The leaves of it, in the order of the input; itself when it has no parts."""
        waiting: list[Node] = [self]
        while waiting:
            node = waiting.pop()
            if node.parts:
                waiting += reversed(node.parts)
            else:
                yield node

    def mark(self, state: State) -> None:
        """Say of every leaf of it that nobody has read what became of it."""
        for leaf in self.leaves():
            if leaf.state is State.UNREAD:
                leaf.state = state

    def use(self) -> None:
        self.mark(State.USED)


@dataclass(frozen=True)
class Finding:
    """One thing that the document does not say, or not quite."""

    grade: Grade
    place: str
    what: str
    """The input there, shortened."""

    message: str
    remedy: str

    def __str__(self) -> str:
        what = f" {self.what}:" if self.what else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.place}:{what} {self.message}{remedy}"


class Report:
    """Findings about one input."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._found: dict[Finding, int] = {}
        """With the order of the input. What is asked for by several members is told once."""

    def tell(self, grade: Grade, node: Node, message: str, remedy: str = "") -> None:
        """Add a finding that stands for every leaf of *node* which was not used."""
        node.mark(State.TOLD)
        self.about(grade, node, message, remedy)

    def about(self, grade: Grade, node: Node, message: str, remedy: str = "") -> None:
        """Add a finding about *node* as a whole; what is in it has to be used or told besides."""
        self._found.setdefault(Finding(grade, node.place, node.text, message, remedy), node.order)

    def lost(self, node: Node, message: str, remedy: str = "") -> None:
        self.tell(Grade.LOST, node, message, remedy)

    def left_out(self, node: Node, message: str, remedy: str = "") -> None:
        """Add a finding that nothing of *node* is imported, whatever of it was read to find that out."""
        for leaf in node.leaves():
            leaf.state = State.TOLD
        self.about(Grade.LOST, node, message, remedy)

    def changed(self, node: Node, message: str, remedy: str = "") -> None:
        self.tell(Grade.CHANGED, node, message, remedy)

    def todo(self, node: Node, message: str, remedy: str = "") -> None:
        self.tell(Grade.TODO, node, message, remedy)

    def ignored(self, node: Node, message: str) -> None:
        self.tell(Grade.IGNORED, node, message)

    def note(self, grade: Grade, place: str, message: str, remedy: str) -> None:
        """Add a finding about what the input does not say."""
        self._found.setdefault(Finding(grade, place, "", message, remedy), -1)

    def close(self, unknown: str, remedy: str) -> tuple[Finding, ...]:
        """All findings, the worst grade first, each grade in the order of the input.

        Args:
            unknown: said of everything that was neither used nor told.
            remedy: what to do about it.
        """
        for node in self._rest():
            self.lost(node, unknown, remedy)
        grades = list(Grade)
        return tuple(sorted(self._found, key=lambda found: (grades.index(found.grade), self._found[found])))

    def _rest(self) -> Iterator[Node]:
        """The largest nodes of which no leaf was read."""
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            states = {leaf.state for leaf in node.leaves()}
            if states == {State.UNREAD} and node is not self._root:
                yield node
            elif State.UNREAD in states:
                waiting += reversed(node.parts)


Include = Callable[[str, str], Sequence[tuple[str, str]]]
"""Gives the names and texts of files: by a pattern, and the name of the file that asks for them."""


def no_files(_pattern: str, _asker: str) -> Sequence[tuple[str, str]]:
    """For importers of inputs that are one file."""
    return ()


KEY_FILE = "fleet.key"
"""Where the key of the fleet is, beside the configuration, unless said otherwise."""


@dataclass(frozen=True)
class Site:
    """What no input says, and the document has to."""

    director: str | None = None
    interfaces: tuple[str, ...] = ()
    secret_file: str = KEY_FILE
    router_id: str | None = None
    next_hop_v6: str | None = None


@dataclass(frozen=True)
class Source:
    """An input."""

    name: str
    text: str
    include: Include = no_files


@dataclass(frozen=True)
class Imported:
    """What has become of an input."""

    tables: tuple[Table, ...]
    findings: tuple[Finding, ...]
    root: Node
    """The input, whose leaves are all used or told."""


Importer = Callable[[Source, Site], Imported]
"""Reads an input.

Raises:
    ConfigError: it is no such input. Every mistake that could be found is in `problems`.
"""


def frame(source: Source, site: Site, report: Report, director: str | None = None) -> tuple[Table, Table]:
    """The tables that every document needs, `[director]` and `[fleet]`.

    Args:
        source: the input.
        site: what the operator has said.
        report: gets what the operator has to see to.
        director: what the input calls the machine, in characters of ours.
    """
    if not site.interfaces:
        report.note(
            Grade.TODO,
            source.name,
            "it does not say where packets for VIPs arrive; eth0 is a guess",
            "correct director.interfaces, or import with --interface",
        )
    comments = ["This machine."] if site.interfaces else ["This machine. Correct the interfaces: eth0 is a guess."]
    return (
        Table(
            "director",
            {"name": site.director or director or "d1", "interfaces": list(site.interfaces or ("eth0",))},
            comments,
            array=False,
        ),
        Table(
            "fleet",
            {"secret_file": site.secret_file},
            ["The key of the flow hash, the same on every director: head -c 32 /dev/urandom | base64 > fleet.key"],
            array=False,
        ),
    )


def no_bgp(source: Source, report: Report) -> None:
    """Say that nothing is announced, where the input knows nothing of routers."""
    report.note(
        Grade.TODO,
        source.name,
        "it does not say which routers are to be told of the VIPs, so nothing is announced",
        "write [bgp] with a [[bgp.peer]] for each router, or route the VIPs to the directors by hand",
    )


def broken(source: str, line: int | None, path: str, message: str, remedy: str) -> ConfigError:
    """What an importer raises when the input cannot be read at all."""
    return ConfigError([Problem(source, line, path, message, remedy)])

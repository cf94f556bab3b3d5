"""Containerlab topology files: the part of the format that the lab realises, checked in full before anything is made.

Whatever is accepted here means the same under containerlab (schema of 2026-08); what the lab cannot do is refused with
the reason, never skipped in silence. Three deliberate differences: links have an MTU of 1500 where none is given (9500
there); addresses are usable at once (no duplicate address detection); a command in `exec` that fails stops the lab.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from appliance.config.problems import ConfigError, Finding, Location, Problem, did_you_mean, path_text, shown
from appliance.config.yaml12 import Loader

DEFAULT_MTU = 1500
"""Bytes. Containerlab's own default of 9500 would hide every mistake with the size of encapsulated packets."""

REFUSED = {
    "mgmt": "the lab has no management network; reach nodes with `onward lab exec`",
    "settings": "certificates are containerlab's own; take it out",
    "debug": "it is containerlab's own; take it out",
    "runtime": "nodes are namespaces here, there is no container runtime; take it out",
    "license": "no node here takes a license; take it out",
    "config": "configuration templates are not rendered here; bind a file",
    "components": "no node here has line cards; take it out",
    "certificate": "certificates are containerlab's own; bind a file",
    "stages": "nodes start together; wait with `onward lab up --wait` and the label onward.ready",
    "startup-config": "bind the file to the place where its program looks for it",
    "mgmt-ipv4": "the lab has no management network; put addresses on links",
    "mgmt-ipv6": "the lab has no management network; put addresses on links",
}
"""Keys of the format that cannot be honoured, and what to do instead."""

IGNORED = ("ports", "devices", "volumes", "user", "memory", "cpu", "cpu-set")
"""Keys without a meaning for a namespace; each use gives a warning."""

READY_LABEL = "onward.ready"
"""Label of a node: a command that succeeds once the node does its work (`onward lab up --wait`)."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,29}$"
_INTERFACE = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$"
_MAC = r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"

_T = TypeVar("_T")
Scalar = str | int | float | bool
InterfaceName = Annotated[str, StringConstraints(pattern=_INTERFACE)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _NodeTable(_Table):
    kind: Literal["linux", "bridge"] | None = None
    group: str | None = None
    image: str | None = None
    entrypoint: str | None = None
    cmd: str | None = None
    exec: list[str] = []
    binds: list[str] = []
    env: dict[str, Scalar] = {}
    sysctls: dict[str, int | str] = {}
    labels: dict[str, Scalar] = {}
    hostname: Annotated[str, StringConstraints(pattern=NAME)] | None = None
    network_mode: str | None = Field(default=None, alias="network-mode")
    ports: Any = None
    devices: Any = None
    volumes: Any = None
    user: Any = None
    memory: Any = None
    cpu: Any = None
    cpu_set: Any = Field(default=None, alias="cpu-set")


class _EndTable(_Table):
    node: str
    interface: InterfaceName
    mac: Annotated[str, StringConstraints(pattern=_MAC)] | None = None
    ipv4: IPv4Interface | None = None
    ipv6: IPv6Interface | None = None


class _LinkTable(_Table):
    """Both forms of a link: brief (ends are texts, addresses stand beside) and typed (everything stands at its end)."""

    type: Literal["veth"] | None = None
    endpoints: Annotated[list[str | _EndTable], Field(min_length=2, max_length=2)]
    mtu: Annotated[int, Field(ge=68, le=65535)] = DEFAULT_MTU
    ipv4: Annotated[list[IPv4Interface | Literal[""]], Field(max_length=2)] = []
    ipv6: Annotated[list[IPv6Interface | Literal[""]], Field(max_length=2)] = []
    labels: dict[str, Scalar] = {}
    vars: Any = None


class _TopologyTable(_Table):
    defaults: _NodeTable = _NodeTable()
    kinds: dict[str, _NodeTable] = {}
    groups: dict[str, _NodeTable] = {}
    nodes: Annotated[dict[str, _NodeTable | None], Field(min_length=1)]
    links: list[_LinkTable] = []


class _FileTable(_Table):
    name: Annotated[str, StringConstraints(pattern=NAME)]
    prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{0,30}$")] = "clab"
    topology: _TopologyTable


@dataclass(frozen=True)
class Bind:
    """A file or folder of this machine that a node sees at another place."""

    source: Path
    target: PurePosixPath
    read_only: bool


@dataclass(frozen=True)
class Node:
    """One namespace, with defaults, kind and group merged in."""

    name: str
    hostname: str
    image: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    exec: tuple[tuple[str, ...], ...]
    binds: tuple[Bind, ...]
    env: Mapping[str, str]
    sysctls: Mapping[str, str]
    labels: Mapping[str, str]

    @property
    def ready(self) -> tuple[str, ...]:
        """The command of the label `onward.ready`; empty when there is none."""
        return tuple(shlex.split(self.labels.get(READY_LABEL, "")))


@dataclass(frozen=True)
class Bridge:
    """An Ethernet segment: a bridge inside a node's namespace (containerlab's `NAME|NODE`)."""

    name: str
    node: str


@dataclass(frozen=True)
class End:
    """One end of a link."""

    node: str
    interface: str
    bridge: str | None
    """The bridge whose port this is."""
    mac: str | None
    addresses: tuple[IPv4Interface | IPv6Interface, ...]


@dataclass(frozen=True)
class Link:
    """A cable between two interfaces."""

    a: End
    b: End
    mtu: int


@dataclass(frozen=True)
class Topology:
    """A checked file."""

    source: Path
    name: str
    prefix: str
    nodes: tuple[Node, ...]
    bridges: tuple[Bridge, ...]
    links: tuple[Link, ...]
    warnings: tuple[str, ...]


def load(path: Path) -> Topology:
    """Read a topology file.

    Raises:
        ConfigError: with every mistake in it, each with its line and a remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8: {error}"
        raise ConfigError([Problem(str(path), None, "", f"cannot be read: {reason}", "name a topology file")]) from None
    return _Reader(path, text).topology()


class _Reader:
    """Collects findings; `topology` raises when there are any."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text
        self._lines: dict[Location, int] = {(): 1}
        self._findings: list[Finding] = []
        self._warnings: list[str] = []

    def topology(self) -> Topology:
        document = self._document()
        try:
            table = _FileTable.model_validate(document)
        except ValidationError as error:
            self._findings += _from_pydantic(error.errors(include_url=False))
            raise self._error() from None
        self._stop()
        nodes, bridges = self._nodes(table.topology)
        links = tuple(self._links(table.topology.links, nodes, bridges))
        self._stop()
        return Topology(
            source=self._path,
            name=table.name,
            prefix=table.prefix,
            nodes=tuple(nodes.values()),
            bridges=tuple(bridges.values()),
            links=links,
            warnings=tuple(self._warnings),
        )

    def _stop(self) -> None:
        if self._findings:
            raise self._error()

    def _error(self) -> ConfigError:
        problems = {
            Problem(
                str(self._path), self._line(found.location), path_text(found.location), found.message, found.remedy
            ): None
            for found in self._findings
        }
        return ConfigError(sorted(problems, key=lambda problem: problem.line or 0))

    def _line(self, location: Location) -> int:
        """Of the location, or of the nearest thing around it that is written down."""
        while location not in self._lines:
            location = location[:-1]
        return self._lines[location]

    def _found(self, location: Location, message: str, remedy: str) -> None:
        self._findings.append(Finding(location, message, remedy))

    def _document(self) -> object:
        for number, line in enumerate(self._text.splitlines(), 1):
            if "${" in line:
                self._lines["${", number] = number
                self._found(("${", number), "variables are not filled in here", "write the value")
        try:
            loader = Loader(self._text)
            root = loader.get_single_node()
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = None if mark is None else mark.line + 1
            reason = " ".join(str(getattr(error, "problem", None) or error).split())
            raise ConfigError([Problem(str(self._path), place, "", f"not YAML: {reason}", "correct it")]) from None
        if root is None:
            raise ConfigError([Problem(str(self._path), 1, "", "the file is empty", "write `name` and `topology`")])
        self._walk(root, ())
        return loader.construct_document(root)

    def _walk(self, node: yaml.Node, location: Location) -> None:
        """Note where everything stands, and keys that are written twice: YAML would take the last one in silence."""
        if isinstance(node, yaml.SequenceNode):
            for position, item in enumerate(node.value):
                self._lines[(*location, position)] = item.start_mark.line + 1
                self._walk(item, (*location, position))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = (*location, str(key.value))
                if place in self._lines:
                    self._found(place, "written twice", "keep one")
                self._lines[place] = key.start_mark.line + 1
                self._walk(value, place)

    def _nodes(self, table: _TopologyTable) -> tuple[dict[str, Node], dict[str, Bridge]]:
        for kind in table.kinds:
            if kind not in ("linux", "bridge"):
                self._found(("topology", "kinds", kind), *_bad_kind(kind))
        nodes: dict[str, Node] = {}
        bridges: dict[str, Bridge] = {}
        for name, own in table.nodes.items():
            place: Location = ("topology", "nodes", name)
            layers = self._layers(table, own or _NodeTable(), place)
            if _last(layer.kind for layer in layers) == "bridge":
                bridge = self._bridge(name, layers, table.nodes, place)
                if bridge:
                    bridges[name] = bridge
            elif not re.match(NAME, name):
                self._found(
                    place, f"{shown(name)} is no name for a node", "use letters, digits, `_`, `.` and `-`, at most 30"
                )
            else:
                nodes[name] = self._node(name, layers, place)
        return nodes, bridges

    def _layers(self, table: _TopologyTable, own: _NodeTable, place: Location) -> list[_NodeTable]:
        """What applies to a node, the weakest first."""
        group = _last((table.defaults.group, own.group))
        if group is not None and group not in table.groups:
            self._found(
                (*place, "group"), f"there is no group {shown(group)}", did_you_mean(group, table.groups).strip()
            )
        in_group = table.groups.get(group or "", _NodeTable())
        kind = _last((table.defaults.kind, in_group.kind, own.kind)) or "linux"
        layers = [
            _NodeTable.model_validate({"kind": kind}),
            table.defaults,
            table.kinds.get(kind, _NodeTable()),
            in_group,
            own,
        ]
        for key in IGNORED:
            if any(getattr(layer, key.replace("-", "_")) is not None for layer in layers):
                self._warnings.append(
                    f"{self._path}: {path_text((*place, key))} has no meaning for a namespace; ignored"
                )
        return layers

    def _bridge(
        self, name: str, layers: list[_NodeTable], nodes: Mapping[str, _NodeTable | None], place: Location
    ) -> Bridge | None:
        interface, separator, node = name.partition("|")
        remedy = (
            f"call it `{interface}|NODE` with `network-mode: container:NODE`; NODE's namespace then holds the bridge"
        )
        if not separator or not re.match(_INTERFACE, interface):
            self._found(place, "bridges of this machine itself are not touched", remedy)
            return None
        if node not in nodes or "|" in node:
            self._found(place, f"there is no node {shown(node)} to hold the bridge", remedy)
            return None
        mode = _last(layer.network_mode for layer in layers)
        if mode != f"container:{node}":
            self._found((*place, "network-mode"), f"{shown(mode or '')} does not name the bridge's node", remedy)
        return Bridge(interface, node)

    def _node(self, name: str, layers: list[_NodeTable], place: Location) -> Node:
        if _last(layer.network_mode for layer in layers) is not None:
            self._found((*place, "network-mode"), "only bridges may live in another node's namespace", "take it out")
        binds: dict[PurePosixPath, Bind] = {}
        for layer in layers:
            for text in layer.binds:
                bind = self._bind(text, (*place, "binds"))
                if bind:
                    binds[bind.target] = bind
        env = {key: _text(value) for layer in layers for key, value in layer.env.items()}
        sysctls = {key.replace("/", "."): str(value) for layer in layers for key, value in layer.sysctls.items()}
        for key in sysctls:
            if not re.match(r"^net\.[A-Za-z0-9_.-]+$", key) or ".." in key:
                self._found(
                    (*place, "sysctls", key), "not a setting of a network namespace", "only net.* can be set for a node"
                )
        commands = [self._split(text, (*place, "exec")) for layer in layers for text in layer.exec]
        labels = {key: _text(value) for layer in layers for key, value in layer.labels.items()}
        self._split(labels.get(READY_LABEL, ""), (*place, "labels", READY_LABEL))
        return Node(
            name=name,
            hostname=_last(layer.hostname for layer in layers) or name,
            image=_last(layer.image for layer in layers) or "",
            entrypoint=self._split(_last(layer.entrypoint for layer in layers) or "", (*place, "entrypoint")),
            cmd=self._split(_last(layer.cmd for layer in layers) or "", (*place, "cmd")),
            exec=tuple(command for command in commands if command),
            binds=tuple(binds.values()),
            env=env,
            sysctls=sysctls,
            labels=labels,
        )

    def _split(self, text: str, place: Location) -> tuple[str, ...]:
        try:
            return tuple(shlex.split(text))
        except ValueError as error:
            self._found(place, f"{shown(text)} is no command: {str(error).lower()}", "close the quotation")
            return ()

    def _bind(self, text: str, place: Location) -> Bind | None:
        source, separator, rest = text.partition(":")
        target, _, options = rest.partition(":")
        if not separator or not source or not target.startswith("/") or ".." in PurePosixPath(target).parts:
            self._found(
                place, f"{shown(text)} is no bind", "write `SOURCE:/absolute/target` or `SOURCE:/absolute/target:ro`"
            )
            return None
        if options not in ("", "ro", "rw"):
            self._found(place, f"{shown(options)} is no option of a bind", "use `ro`, or nothing")
            return None
        path = (self._path.parent / Path(source).expanduser()).resolve()
        if not path.exists():
            self._found(place, f"{path} does not exist", "paths are relative to the topology file")
            return None
        return Bind(path, PurePosixPath(target), options == "ro")

    def _links(
        self, tables: list[_LinkTable], nodes: Mapping[str, Node], bridges: Mapping[str, Bridge]
    ) -> Iterator[Link]:
        used: dict[tuple[str, str], int] = {}
        for name, bridge in bridges.items():
            if (bridge.node, bridge.name) in used:
                self._found(
                    ("topology", "nodes", name), f"{bridge.node} has a bridge {bridge.name} already", "rename one"
                )
            used[bridge.node, bridge.name] = -1
        for position, table in enumerate(tables):
            place: Location = ("topology", "links", position)
            ends = [
                self._end(table, side, nodes, bridges, (*place, "endpoints", side))
                for side in range(len(table.endpoints))
            ]
            for side, end in enumerate(ends):
                if end is None:
                    continue
                if (end.node, end.interface) in used or end.interface == "lo":
                    self._found(
                        (*place, "endpoints", side),
                        f"{end.node} has an interface {end.interface} already",
                        "rename one",
                    )
                used[end.node, end.interface] = position
            a, b = ends
            if a and b:
                yield Link(a, b, table.mtu)

    def _end(
        self, table: _LinkTable, side: int, nodes: Mapping[str, Node], bridges: Mapping[str, Bridge], place: Location
    ) -> End | None:
        written = table.endpoints[side]
        if isinstance(written, str):
            node, separator, interface = written.rpartition(":")
            if not separator or not re.match(_INTERFACE, interface):
                self._found(
                    place, f"{shown(written)} is no endpoint", "write `NODE:INTERFACE`, the interface at most 15 long"
                )
                return None
            mac = None
            addresses = [family[side] for family in (table.ipv4, table.ipv6) if side < len(family)]
        else:
            node, interface, mac = written.node, written.interface, written.mac
            addresses = [written.ipv4 or "", written.ipv6 or ""]
            if table.ipv4 or table.ipv6:
                self._found(
                    place, "addresses stand at the link and at its ends", "with ends as tables, write them there"
                )
        if node not in nodes and node not in bridges:
            remedy = did_you_mean(node, [*nodes, *bridges]).strip() or "list it under `nodes`"
            self._found(place, f"there is no node {shown(node)}", remedy)
            return None
        bridge = bridges.get(node)
        given = tuple(address for address in addresses if address != "")
        if bridge and given:
            self._found(place, "the port of a bridge has no address", "leave it empty on this side")
        return End(
            node=bridge.node if bridge else node,
            interface=interface,
            bridge=bridge.name if bridge else None,
            mac=mac,
            addresses=given,
        )


def _last(values: Iterable[_T | None]) -> _T | None:
    """The strongest of several layers that says something."""
    found = None
    for value in values:
        found = found if value is None else value
    return found


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bad_kind(kind: str) -> tuple[str, str]:
    return f"nodes of kind {shown(kind)} cannot be realised here", "use `linux` with an image, or a namespaced `bridge`"


def _from_pydantic(errors: list[ErrorDetails]) -> Iterator[Finding]:
    """In our words; of a value that may have several shapes only the shape that was meant is explained."""
    for error in errors:
        # Pydantic names the branch of a union it tried; those parts are no places in the file.
        raw = error["loc"]
        location = tuple(part for part in raw if not (isinstance(part, str) and _is_branch(part)))
        key, kind, value = str(location[-1]) if location else "", error["type"], error["input"]
        if kind == "extra_forbidden":
            if key in REFUSED:
                yield Finding(location, "not supported by the lab", REFUSED[key])
            else:
                remedy = did_you_mean(key, _known(raw)).strip() or "take it out"
                yield Finding(location, f"there is no such key {shown(key)} here", remedy)
        elif key == "kind":
            yield Finding(location, *_bad_kind(str(value)))
        elif key == "type":
            yield Finding(
                location, f"links of type {shown(value)} cannot be realised here", "use `veth`, or leave it out"
            )
        elif kind == "missing":
            yield Finding(location, "missing", "add it")
        elif "endpoints" in location and "str" in raw and isinstance(value, dict):
            continue  # it is a table; its own mistakes are told
        elif "endpoints" in location and raw[-1] == "_EndTable":
            continue  # it is a text; told by the other branch
        else:
            message = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
            yield Finding(location, f"{shown(value)} will not do: {message}", "correct it")


def _is_branch(part: str) -> bool:
    return part in ("str", "int", "float", "bool", "_EndTable") or part.startswith(
        ("literal[", "constrained-", "function-")
    )


def _known(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = _NodeTable
    if len(location) == 1:
        model = _FileTable
    elif len(location) == 2:
        model = _TopologyTable
    elif "links" in location:
        model = _EndTable if "endpoints" in location else _LinkTable
    return [field.alias or name for name, field in model.model_fields.items()]

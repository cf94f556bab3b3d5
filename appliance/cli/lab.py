"""`onward lab`."""

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter
from appliance.cli.listing import DEFAULTS, Column, Document, ListOptions, View, show
from appliance.cli.output import Exit, complain, print_json, print_problems, table, warn
from appliance.cli.progress import progress
from appliance.config.problems import ConfigError
from appliance.lab.node import LabError, NotFoundError
from appliance.lab.runner import READY_S, STATE, Lab, need_root, processes

app = App(
    name="lab",
    help="Build a network with directors, routers and members on this machine.",
    help_formatter=HelpFormatter(),
    help_format="plaintext",
)

_P = ParamSpec("_P")


def _told(command: Callable[_P, int]) -> Callable[_P, int]:
    """Mistakes become a message and an exit code."""

    @functools.wraps(command)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except ConfigError as error:
            print_problems(error.problems)
            return Exit.CONFIG
        except LabError as error:
            complain(str(error))
            return Exit.NOT_FOUND if isinstance(error, NotFoundError) else Exit.FAILED

    return call


@app.command
@_told
def up(
    file: Path,
    /,
    *,
    name: str | None = None,
    reconfigure: Annotated[bool, Parameter(negative="")] = False,
    wait: Annotated[bool, Parameter(negative="")] = False,
    timeout: float = READY_S,
) -> int:
    """Bring a containerlab topology up in network namespaces.

    Parameters
    ----------
    file:
        The topology file.
    name:
        Another name for the lab than the file's: a second copy beside the first.
    reconfigure:
        Take down first what is up under that name.
    wait:
        Return only when every node with a label onward.ready is ready.
    timeout:
        Seconds to wait at most.
    """
    started = time.monotonic()
    with progress(f"bringing {file.name} up"):
        lab = Lab.up(file, name=name, reconfigure=reconfigure)
    for warning in lab.warnings:
        warn(warning)
    if wait:
        with progress(f"waiting until the nodes of {lab.name} are ready"):
            lab.wait(timeout)
    took_s = time.monotonic() - started
    print(f"lab {lab.name}: {len(lab.nodes)} nodes up in {took_s:.1f} s; logs in {STATE / lab.name}")
    return Exit.OK


@app.command
@_told
def down(lab: str | None = None, /) -> int:
    """Take a lab down: every process, namespace and file of it.

    Parameters
    ----------
    lab:
        Its name or its topology file; not needed when only one is up.
    """
    need_root()
    found = Lab.the_one(lab)
    found.down()
    print(f"lab {found.name}: down")
    return Exit.OK


@app.command(name="exec")
@_told
def execute(
    node: str,
    /,
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    lab: str | None = None,
) -> int:
    """Run a command in a node, with this terminal; a shell when none is given. Its exit code becomes ours.

    Parameters
    ----------
    node:
        Name of the node.
    command:
        The command. Write -- before it when it has options of its own.
    lab:
        Name or topology file of the lab; not needed when only one is up.
    """
    need_root()
    there = Lab.the_one(lab).node(node)
    sys.stdout.flush()
    arguments = there.command(*(command or ("bash",)))
    os.execvpe(arguments[0], arguments, there.environment())  # noqa: S606 - no shell on purpose


@app.command(name="list")
@_told
def show_all(*, options: ListOptions = DEFAULTS) -> int:
    """List the labs on this machine: up, degraded when nodes have died, dead when all have."""
    need_root()
    return show(LABS, options, lambda: {"labs": [_document(lab) for lab in Lab.all()]})


@app.command
@_told
def inspect(lab: str | None = None, /, *, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Show the nodes of a lab and what runs in them.

    Parameters
    ----------
    lab:
        Its name or its topology file; not needed when only one is up.
    json:
        Print JSON.
    """
    need_root()
    found = Lab.the_one(lab)
    if json:
        print_json(_document(found))
        return Exit.OK
    nodes = [
        (node.name, "up" if node.holder.alive() else "dead", node.holder.pid, node.netns, node.image)
        for node in found.nodes.values()
    ]
    print(table(("NODE", "STATE", "PID", "NETNS", "IMAGE"), nodes, right=("PID",)))
    print()
    print(table(("NODE", "PID", "PROCESS"), processes(found), right=("PID",)))
    return Exit.OK


@app.command
def responder(*, name: str | None = None) -> int:
    """Answer HTTP on port 80 and UDP on port 5000 with the name of this node: a member's service for tests.

    Parameters
    ----------
    name:
        What to answer; the host name by default.
    """
    import asyncio
    import socket

    from appliance.lab.responder import run

    asyncio.run(run(name or socket.gethostname()))
    return Exit.OK


def _state(lab: Document) -> str:
    down = [node["name"] for node in lab["nodes"] if not node["up"]]
    return f"{lab['state']} ({', '.join(down)} died)" if lab["state"] == "degraded" else str(lab["state"])


LABS = View(
    columns=(
        Column("LAB", lambda lab: lab["name"]),
        Column("STATE", _state),
        Column("NODES", lambda lab: len(lab["nodes"]), right=True),
        Column("FILE", lambda lab: lab["file"]),
    ),
    rows=lambda document: document["labs"],
    name=lambda lab: str(lab["name"]),
)


def _document(lab: Lab) -> dict[str, object]:
    running = list(processes(lab))
    return {
        "name": lab.name,
        "file": lab.source,
        "state": lab.state()[0],
        "nodes": [
            {
                "name": node.name,
                "up": node.holder.alive(),
                "pid": node.holder.pid,
                "netns": node.netns,
                "image": node.image,
                "log": str(lab.log(node.name)),
                "processes": [{"pid": pid, "command": command} for name, pid, command in running if name == node.name],
            }
            for node in lab.nodes.values()
        ],
    }

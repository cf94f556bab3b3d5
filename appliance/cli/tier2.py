"""`onward tier2`: a node of the second tier."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from appliance import log
from appliance.cli.help import HelpFormatter
from appliance.cli.output import Exit, complain, print_json, print_problems, table
from appliance.config.load import load
from appliance.config.problems import ConfigError
from appliance.model import Config
from appliance.server.machine import MachineError
from appliance.server.plan import PlanError
from appliance.tier2 import haproxy, runtime
from appliance.tier2.node import Node, NodeError, paths_in

app = App(
    name="tier2",
    help="A node of the second tier: a full proxy behind directors, which answers clients directly.",
    help_formatter=HelpFormatter(),
    help_format="plaintext",
)
app.command("appliance.cli.nouns:tier2_config", name="config", help="[tier2] of the configuration: show, set, delete.")

AsJson = Annotated[bool, Parameter(name=["--json"], negative="", help="Print JSON.")]


@app.command
def run(config: Path, /) -> int:
    """Run the node in the foreground, until SIGTERM or SIGINT; `onward run` does the same for role = "tier2".

    It takes the VIPs and opens tunnels as `onward server-setup --apply` does, runs HAProxy, and registers in the
    folders of pools that follow it as soon as a back end is up. On SIGTERM it leaves these, waits for its last
    connection, and takes everything back; a second SIGTERM ends it at once. SIGHUP reads the configuration again.

    Exit codes: 0 ended as told; 1 it cannot begin or go on; 4 the configuration is invalid.

    Parameters
    ----------
    config
        The configuration file.
    """
    try:
        checked = load(config)
        log.configure()
        Node(checked, lambda: load(config)).run()
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
    except (NodeError, MachineError, haproxy.ProxyError, PlanError) as error:
        complain(str(error))
        return Exit.FAILED
    return Exit.OK


@app.command
def show(config: Path, /) -> int:
    """Print the configuration of HAProxy that this one makes.

    Exit codes: 0 done; 1 HAProxy has no words for something; 4 the configuration is invalid.

    Parameters
    ----------
    config
        The configuration file.
    """
    try:
        checked = load(config)
        print(haproxy.text(checked.proxies, paths_in(Path(checked.director.runtime_dir))), end="")
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
    except haproxy.ProxyError as error:
        complain(str(error))
        return Exit.FAILED
    return Exit.OK


@app.command
def status(config: Path, /, *, as_json: AsJson = False) -> int:
    """Show what the proxies of the node on this machine do: connections, and the state of back ends.

    Exit codes: 0 done; 3 HAProxy does not answer; 4 the configuration is invalid.

    Parameters
    ----------
    config
        The configuration file.
    """
    try:
        checked: Config = load(config)
        loads = runtime.loads(Path(checked.director.runtime_dir) / "haproxy.sock")
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
    except runtime.RuntimeApiError as error:
        complain(str(error))
        return Exit.UNREACHABLE
    if as_json:
        proxies = {
            name: {"sessions": load.sessions, "total": load.total, "servers": dict(load.servers)}
            for name, load in loads.items()
        }
        print_json({"node": checked.director.name, "proxies": proxies})
        return Exit.OK
    rows = [
        (name, load.sessions, load.total, server, state)
        for name, load in loads.items()
        for server, state in load.servers.items()
    ]
    print(table(("PROXY", "OPEN", "TOTAL", "BACK END", "STATE"), rows, ("OPEN", "TOTAL")))
    return Exit.OK

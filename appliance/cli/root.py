"""The tree of commands. Names and one-line helps stand here, so that `onward --help` imports none of them."""

from collections.abc import Sequence

from cyclopts import App, CycloptsError, UnknownCommandError

from appliance.cli.help import HelpFormatter
from appliance.cli.output import Exit, complain
from appliance.config.problems import did_you_mean

HELP = """Layer-4 load balancer with direct server return."""

EPILOGUE = """Exit codes: 0 ok; 1 failed; 2 wrong usage; 3 the daemon does not answer; 4 the configuration is invalid; \
5 not found; 6 revoked meanwhile; 7 the data plane and its model differ; 8 not known whether it was done; with \
`status --exit-code` also 10 degraded, 11 down.
"""

COMMANDS = {
    "run": ("appliance.cli.run:run", "Run a director in the foreground."),
    "check": ("appliance.cli.check:check", "Check a configuration file; needs neither root nor a daemon."),
    "import": ("appliance.cli.imports:app", "Turn a configuration of another load balancer into one of ours."),
    "reload": ("appliance.cli.reload:reload", "Let a running director read its configuration again."),
    "config": ("appliance.cli.config:app", "See what configurations were in force, what a new one would do; go back."),
    "diff": ("appliance.cli.config:diff", "Say what another configuration would do; the same as config diff."),
    "explain": ("appliance.cli.explain:explain", "Say what becomes of a packet, and why."),
    "flow": ("appliance.cli.flow:app", "List flows that are remembered; say where one would go."),
    "plane": ("appliance.cli.plane:app", "Show maps, slots, next hops and counters of the data plane."),
    "bpf": ("appliance.cli.plane:bpf", "The same as plane."),
    "virtualservice": ("appliance.cli.nouns:virtualservice", "Virtual services: list, show, create, set, delete."),
    "service": ("appliance.cli.nouns:service", "The same as virtualservice."),
    "pool": ("appliance.cli.nouns:pool", "Pools: list, show, create, set, delete."),
    "networkprofile": ("appliance.cli.nouns:networkprofile", "Network profiles: list, show, create, set, delete."),
    "profile": ("appliance.cli.nouns:profile", "The same as networkprofile."),
    "healthmonitor": ("appliance.cli.nouns:healthmonitor", "Health monitors: list, show, create, set, delete."),
    "bgppeer": ("appliance.cli.nouns:bgppeer", "BGP peers: list, show, create, set, delete."),
    "fleetdirector": ("appliance.cli.nouns:fleetdirector", "Directors of the fleet: list, show, create, set, delete."),
    "director": ("appliance.cli.nouns:director", "The director, as it is configured: show, set."),
    "fleet": ("appliance.cli.nouns:fleet", "The fleet, as it is configured: show, set."),
    "connectionlog": ("appliance.cli.nouns:connectionlog", "The log of connections: show, set, delete."),
    "apply": ("appliance.cli.apply:apply", "Change all objects of a file in one step, or none."),
    "configure": ("appliance.cli.configure:configure", "Change objects in a shell, with save, cancel and Tab."),
    "status": ("appliance.cli.status:app", "Show what a running director does."),
    "show": ("appliance.cli.show:show", "Show virtual services with VIPs and members, as status does."),
    "top": ("appliance.cli.top:top", "Show what a running director does, live, the busiest first."),
    "bgp": ("appliance.cli.bgp:app", "Show who is told of which VIPs, and why not; how BGP is configured."),
    "member": ("appliance.cli.member:app", "Drain, release, weight, add, set or remove members; see their flows."),
    "server": ("appliance.cli.member:server", "The same as member."),
    "node": ("appliance.cli.node:app", "Orders for a machine, in all pools that it is a member of."),
    "health": ("appliance.cli.health:health", "Show what every health monitor says of every member."),
    "doctor": ("appliance.cli.doctor:app", "Find out what of a DSR deployment is broken, and what to do about it."),
    "agent": ("appliance.cli.agent:agent", "Tell directors that know a secret what a member sees of itself."),
    "client": ("appliance.cli.client:client", "Try virtual services as a client does, for the doctor."),
    "mtu": ("appliance.cli.mtu:mtu", "Show how large packets to each member may be."),
    "quic": ("appliance.cli.quic:app", "Show what members need to make connection IDs of QUIC, and whose one is."),
    "drain": ("appliance.cli.drain:drain", "Take the director itself out of service, without cutting anybody off."),
    "undrain": ("appliance.cli.drain:undrain", "Put it back into service."),
    "events": ("appliance.cli.events:events", "Show what has happened, with cause and time."),
    "samples": ("appliance.cli.samples:samples", "Show what became of single packets lately."),
    "capture": ("appliance.cli.capture:capture", "Write packets, and what became of them, to a file."),
    "api": ("appliance.cli.api:app", "How the API is configured; password hashes and tokens for those who may use it."),
    "sysdump": ("appliance.cli.sysdump:sysdump", "Write one archive for a report of a problem, without secrets."),
    "lab": ("appliance.cli.lab:app", "Build a network with directors, routers and members on this machine."),
    "server-setup": ("appliance.cli.server_setup:server_setup", "Set members' machines up for direct server return."),
    "tier2": ("appliance.cli.tier2:app", "Run a full proxy behind directors, and see what it does."),
    "decap": ("appliance.cli.decap:app", "Take packets out of their encapsulation, on a member of L3 DSR."),
    "completion": ("appliance.cli.completion:app", "Print what your shell needs to complete command lines."),
    "version": ("appliance.cli.version:version", "Print the version."),
}
"""A new command is one file and one line."""


def _version() -> str:
    from appliance.cli.version import version_text

    return version_text()


def build() -> App:
    app = App(
        name="onward",
        help=HELP,
        help_epilogue=EPILOGUE,
        help_formatter=HelpFormatter(),
        help_format="plaintext",
        version=_version,
        # It is caught in __main__, where the exit code is decided.
        suppress_keyboard_interrupt=False,
        # A command returns its exit code.
        result_action="return_int_as_exit_code_else_zero",
    )
    for name, (target, text) in COMMANDS.items():
        app.command(target, name=name, help=text)
    return app


def call(arguments: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        The exit code, see `Exit`.
    """
    try:
        return int(build()(list(arguments), exit_on_error=False, print_error=False))
    except CycloptsError as error:
        # Its own rendering draws boxes.
        complain(_text(error))
        complain(f"see `{_help_command(error)}`")
        return Exit.USAGE


def _text(error: CycloptsError) -> str:
    if isinstance(error, UnknownCommandError) and not error.command_chain:
        # Its own text imports every command in search of similar names.
        word = (error.unused_tokens or [""])[0]
        return f'there is no command "{word}"; {did_you_mean(word, COMMANDS)}commands: {", ".join(COMMANDS)}'
    return " ".join(str(error).split())


def _help_command(error: CycloptsError) -> str:
    return " ".join(["onward", *(error.command_chain or ()), "--help"])

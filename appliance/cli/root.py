"""The tree of commands. Names and one-line helps stand here, so that `onward --help` imports none of them."""

from collections.abc import Sequence

from cyclopts import App, CycloptsError, UnknownCommandError

from appliance.cli.help import HelpFormatter
from appliance.cli.output import Exit, complain
from appliance.config.problems import did_you_mean

HELP = """Layer-4 load balancer with direct server return."""

EPILOGUE = """Exit codes: 0 ok; 1 failed; 2 wrong usage; 3 the daemon does not answer; 4 the configuration is invalid; \
5 not found; 7 the data plane and its model differ; with `status --exit-code` also 10 degraded, 11 down.
"""

COMMANDS = {
    "run": ("appliance.cli.run:run", "Run a director in the foreground."),
    "check": ("appliance.cli.check:check", "Check a configuration file; needs neither root nor a daemon."),
    "import": ("appliance.cli.imports:app", "Turn a configuration of another load balancer into one of ours."),
    "reload": ("appliance.cli.reload:reload", "Let a running director read its configuration again."),
    "config": ("appliance.cli.config:app", "See what configurations were in force, what a new one would do; go back."),
    "explain": ("appliance.cli.explain:explain", "Say what becomes of a packet, and why."),
    "status": ("appliance.cli.status:app", "Show what a running director does."),
    "bgp": ("appliance.cli.bgp:app", "Show who is told of which VIPs, with which attributes, and why not."),
    "member": ("appliance.cli.member:app", "Drain, stop, release or weight members; see what is left of their flows."),
    "node": ("appliance.cli.node:app", "The same for a machine, in all pools that it is a member of."),
    "health": ("appliance.cli.health:health", "Show what every health monitor says of every member."),
    "mtu": ("appliance.cli.mtu:mtu", "Show how large packets to each member may be."),
    "quic": ("appliance.cli.quic:app", "Show what members need to make connection IDs of QUIC, and whose one is."),
    "drain": ("appliance.cli.drain:drain", "Take the director itself out of service, without cutting anybody off."),
    "undrain": ("appliance.cli.drain:undrain", "Put it back into service."),
    "samples": ("appliance.cli.samples:samples", "Show what became of single packets lately."),
    "capture": ("appliance.cli.capture:capture", "Write packets, and what became of them, to a file."),
    "api": ("appliance.cli.api:app", "Make password hashes and tokens for those who may use the API."),
    "lab": ("appliance.cli.lab:app", "Build a network with directors, routers and members on this machine."),
    "decap": ("appliance.cli.decap:app", "Take packets out of their encapsulation, on a member of L3 DSR."),
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

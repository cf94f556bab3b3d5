"""The manual page onward(1), made from the commands' own help: `python -m appliance.cli.manual`."""

import io
import sys
from collections.abc import Iterator

from cyclopts import App
from rich.console import Console

from appliance import __version__
from appliance.cli.root import COMMANDS, EPILOGUE, HELP, build

WIDTH = 78

_FILES = {
    "/etc/onward/onward.toml, /etc/onward/conf.d/*.toml": "the configuration; onward check says what is wrong with it",
    "/opt/onward/share/onward/example.toml": "every setting, with its default",
    "/opt/onward/share/onward/ARCHITECTURE.md": "events, metrics, and what happens when something dies",
    "/run/onward": "sockets, and what a director leaves to the process that follows",
    "/var/lib/onward": "operators' orders, and revisions of the configuration: what outlives a stop and a reboot",
}
_ENVIRONMENT = {
    "ONWARD_SOCKET": "control socket of the director to ask, where neither --socket nor --config says which",
    "ONWARD_URL": "its API, for commands that take --url, where no option says which",
    "ONWARD_TOKEN, ONWARD_CA_FILE": "the token for that API, and certificates that are believed beside the system's",
    "NO_COLOR": "text without colour",
}
_SIGNALS = {
    "SIGHUP": "read the configuration again, as onward reload does",
    "SIGTERM, SIGINT": "withdraw all routes and end; a second one does not wait for anything",
    "SIGUSR1": "end, and leave routes, sessions and the XDP program to the process that follows; where nothing can be "
    "left, as SIGTERM",
}


def page() -> str:
    """The page, for man(1)."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield f'.TH ONWARD 1 "" "{_plain(__version__)}" "Onward"'
    yield from (".SH NAME", f"onward \\- {_plain(HELP.rstrip('.'))}")
    yield from (".SH SYNOPSIS", ".B onward", ".I command", "[...]")
    yield ".SH COMMANDS"
    app = build()
    for name in sorted(COMMANDS):
        for words in _commands(app, (name,)):
            yield f".SS onward {_plain(' '.join(words))}"
            yield from (".nf", *map(_plain, _help(app, words)), ".fi")
    first, _, codes = EPILOGUE.strip().partition(": ")
    yield from (f'.SH "{first.upper()}"', _plain(codes))
    yield ".SH SIGNALS"
    for name, text in _SIGNALS.items():
        yield from (".TP", f".B {name}", _plain(text))
    yield ".SH ENVIRONMENT"
    for name, text in _ENVIRONMENT.items():
        yield from (".TP", f".B {_plain(name)}", _plain(text))
    yield ".SH FILES"
    for name, text in _FILES.items():
        yield from (".TP", f".I {_plain(name)}", _plain(text))


def _commands(app: App, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """A command and those below it."""
    yield words
    at = app
    for word in words:
        at = at[word]
    for name in sorted(name for name in at if not name.startswith("-")):
        yield from _commands(app, (*words, name))


def _help(app: App, words: tuple[str, ...]) -> list[str]:
    into = io.StringIO()
    app.help_print(list(words), console=Console(file=into, width=WIDTH, no_color=True))
    text, _, _ = into.getvalue().partition(EPILOGUE.split()[0] + " codes:")  # they stand in the page once
    return [line.rstrip() for line in text.strip().splitlines()]


def _plain(text: str) -> str:
    """Text of which roff takes nothing for its own: no escapes, no requests at the beginning of a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    sys.stdout.write(page())

"""`onward completion`: what shells need to complete command lines of ours, and what they ask while somebody types."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter
from appliance.cli.orders import OrderError, ask, where
from appliance.cli.output import Exit

if TYPE_CHECKING:
    from cyclopts.argument import Argument

app = App(
    name="completion",
    help="Print what your shell needs to complete commands, options, and names of what there is.",
    help_formatter=HelpFormatter(),
    help_format="plaintext",
)

TIMEOUT_S = 1.0
"""Whoever waits for names has pressed a key."""

BASH = """\
# bash: put this into ~/.bashrc:  source <(onward completion bash)
_onward() {
	local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT}
	COMPREPLY=($("${COMP_WORDS[0]}" completion line --shell bash -- "$line" 2>/dev/null))
}
complete -o default -F _onward onward
"""

ZSH = """\
#compdef onward
# zsh: put this into ~/.zshrc, behind compinit:  source <(onward completion zsh)
_onward() {
	local -a found
	found=("${(@f)$("${words[1]}" completion words --shell zsh -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ -n ${found[1]} ]]; then compadd -Q -a found; else _files; fi
}
compdef _onward onward
"""

FISH = """\
# fish: put this into ~/.config/fish/completions/onward.fish
function __onward_complete
    set -l words (commandline -opc)
    set -l found ($words[1] completion words --shell fish -- $words[2..-1] (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        string join \\n -- $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c onward -f -a '(__onward_complete)'
"""

Shell = Literal["bash", "zsh", "fish"]


@app.command
def bash() -> int:
    """Print the script for bash; `source <(onward completion bash)` in ~/.bashrc."""
    print(BASH, end="")
    return Exit.OK


@app.command
def zsh() -> int:
    """Print the script for zsh; `source <(onward completion zsh)` in ~/.zshrc, behind compinit."""
    print(ZSH, end="")
    return Exit.OK


@app.command
def fish() -> int:
    """Print the script for fish; its place is ~/.config/fish/completions/onward.fish."""
    print(FISH, end="")
    return Exit.OK


@app.command(name="words", show=False)
def for_words(
    *words: Annotated[str, Parameter(allow_leading_hyphen=True)], shell: Annotated[Shell, Parameter("--shell")]
) -> int:
    """Print what the last of some words can become.

    Parameters
    ----------
    words
        Behind `onward`, up to the cursor; the last one is empty when a new one is to begin.
    shell
        Who asks.
    """
    print("\n".join(_told(words or ("",), shell)))
    return Exit.OK


@app.command(name="line", show=False)
def for_line(
    line: Annotated[str, Parameter(allow_leading_hyphen=True)], /, *, shell: Annotated[Shell, Parameter("--shell")]
) -> int:
    """Print what the last word of a line can become. bash takes words apart at colons, so it is asked for the line.

    Parameters
    ----------
    line
        Up to the cursor.
    shell
        Who asks.
    """
    words = _split(line)[1:] or [""]
    # What stands before the last colon is there already, as far as bash is concerned.
    kept = words[-1].rpartition(":")[0]
    cut = len(kept) + 1 if ":" in words[-1] else 0
    print("\n".join(candidate[cut:] for candidate in _told(words, shell)))
    return Exit.OK


def _split(line: str) -> list[str]:
    """Words of a command line that may end within one."""
    for quote in ("", "'", '"'):  # one of these may still be open
        try:
            words = shlex.split(line + quote)
        except ValueError:
            continue
        return [*words, ""] if not quote and line[-1:].isspace() else words
    return line.split()


def _told(words: Sequence[str], shell: Shell) -> Iterator[str]:
    for found in candidates(words):
        yield f"{found.text}\t{found.about}" if shell == "fish" and found.about else found.text


# ---------------------------------------------------------------------------------------------------------------------
# What there is to say


@dataclass(frozen=True)
class Candidate:
    """What a word can become."""

    text: str
    about: str = ""


def candidates(words: Sequence[str]) -> list[Candidate]:
    """What the last of some words can become: commands, options, words of a choice, or names of live things.

    Args:
        words: behind `onward`, at least one.
    """
    *before, last = words
    command, path, rest = _command(before)
    found: list[Candidate] = []
    if not rest and list(_commands(command, path)):
        found += _commands(command, path)
    if command.default_command is not None:
        found += _arguments(command, path, rest, last, words)
    return [one for one in found if one.text.startswith(last)]


def _command(words: Sequence[str]) -> tuple[App, list[str], list[str]]:
    """The command that some words lead to, its names, and the words behind it."""
    from appliance.cli.root import build

    command, path, rest = build(), list[str](), list(words)
    while rest and not rest[0].startswith("-") and rest[0] in set(command):
        path.append(rest.pop(0))
        command = command[path[-1]]
    return command, path, rest


def _commands(command: App, path: Sequence[str]) -> Iterator[Candidate]:
    from appliance.cli.root import COMMANDS

    if not path:  # nothing need be imported for these
        yield from (Candidate(name, about) for name, (_, about) in COMMANDS.items())
        return
    for name in command:
        if not name.startswith("-") and command[name].show:
            about = command[name].help or getattr(command[name].default_command, "__doc__", None) or ""
            yield Candidate(name, about.strip().partition("\n")[0])


def _arguments(
    command: App, path: Sequence[str], rest: Sequence[str], last: str, words: Sequence[str]
) -> Iterator[Candidate]:
    arguments = [one for one in command.assemble_argument_collection() if one.show]
    options = {name: one for one in arguments for name in one.names if name.startswith("-")}
    pending: Argument | None = None
    positions = 0
    for word in rest:
        if pending is not None:
            pending = None
        elif word in options:
            pending = options[word] if options[word].token_count()[0] else None
        elif not word.startswith("-"):
            positions += 1
    if last.startswith("-") and pending is None:
        yield from (Candidate(name, _about(one)) for name, one in options.items() if name.startswith("--"))
        return
    wanted = pending or next((one for one in arguments if one.index == positions), None)
    if wanted is not None:
        yield from (Candidate(word) for word in wanted.get_choices() or ())
        yield from _names(path, str(wanted.field_info.name), words)


def _about(argument: "Argument") -> str:
    return str(argument.parameter.help or "").partition("\n")[0]


def _names(path: Sequence[str], what: str, words: Sequence[str]) -> Iterator[Candidate]:
    """Names of live things, if it is one that is asked for."""
    try:
        if path[0] in OBJECTS or (path[0] in SINGLE and path[-1] == "set"):
            yield from _objects(path[0], what, words)
        elif (find := NAMES.get((path[0], what)) or NAMES.get(("", what))) is not None:
            yield from find(_socket(words))
    except (OrderError, KeyError, TypeError):
        return  # there is no director, or an older one: then there is nothing to offer


def _director(words: Sequence[str]) -> tuple[Path | None, Path | None]:
    """Socket and configuration file that are named."""
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    given = {option: Path(value) for option, value in pairwise(split) if option in ("--socket", "--config")}
    return given.get("--socket"), given.get("--config")


def _socket(words: Sequence[str]) -> Path:
    return where(*_director(words))


def _objects(noun: str, what: str, words: Sequence[str]) -> Iterator[Candidate]:
    """Names of objects: of the noun's own kind, or of what a key of it names; or the words that a key can be."""
    from appliance.cli.nouns import NOUNS
    from appliance.cli.objects import objects_at
    from appliance.cli.options import options_of
    from appliance.objects.kinds import references_of

    kind, _ = NOUNS[noun]
    for option in options_of(kind.table):
        if "_".join(option.keys) == what:
            yield from map(Candidate, option.words)
    wanted = kind if what == "name" and kind.key is not None else dict(references_of(kind)).get(what)
    if wanted is not None:
        yield from (Candidate(one.name) for one in objects_at(*_director(words)).all(wanted.noun))


def _ask(socket: Path, resource: str) -> Mapping[str, Any]:
    return ask(socket, "GET", resource, timeout_s=TIMEOUT_S)


def _members(socket: Path) -> Iterator[Candidate]:
    for member in _ask(socket, "/v1/members")["members"]:
        yield Candidate(member["id"], f"{member['address']}, {member['state'].replace('_', ' ')}")


def _pools_and_members(socket: Path) -> Iterator[Candidate]:
    yield from _pools(socket)
    yield from _members(socket)


def _pools(socket: Path) -> Iterator[Candidate]:
    members = _ask(socket, "/v1/members")["members"]
    yield from (Candidate(name) for name in dict.fromkeys(member["id"].partition("/")[0] for member in members))


def _addresses(socket: Path) -> Iterator[Candidate]:
    members = _ask(socket, "/v1/members")["members"]
    yield from (Candidate(address) for address in dict.fromkeys(member["address"] for member in members))


def _revisions(socket: Path) -> Iterator[Candidate]:
    for revision in _ask(socket, "/v1/config/revisions")["revisions"]:
        yield Candidate(str(revision["number"]), f"{revision['via']}: {revision['summary']}")


OBJECTS = (
    *("virtualservice", "service", "pool", "networkprofile", "profile", "healthmonitor", "bgppeer", "fleetdirector"),
)
"""Commands about objects of the configuration of which there are many."""

SINGLE = ("director", "fleet", "connectionlog", "api", "bgp", "doctor", "tier2")
"""Commands that are also about an object of the configuration of which there is one."""

NAMES: dict[tuple[str, str], Callable[[Path], Iterator[Candidate]]] = {
    ("", "member"): _members,
    ("member", "name"): _members,
    ("server", "name"): _members,
    ("health", "member"): _pools_and_members,
    ("flow", "member"): _members,
    ("", "pool"): _pools,
    ("node", "address"): _addresses,
    ("config", "revision"): _revisions,
    ("config", "other"): _revisions,
}
"""By command (or any) and parameter: where its names come from."""

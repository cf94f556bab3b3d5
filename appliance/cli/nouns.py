"""`onward virtualservice`, `pool`, `networkprofile`, `healthmonitor` and other nouns: objects of the configuration, one
by one. What options they take follows from the schema of the configuration."""

import inspect
import json as jsons
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from appliance.cli.help import VERBS as VERBS_OF_ONE
from appliance.cli.help import HelpFormatter
from appliance.cli.listing import DEFAULTS, Column, Document, ListOptions, View, or_dash
from appliance.cli.listing import show as show_list
from appliance.cli.objects import How, Objects, RefusedChangeError, Shown, find, objects_at
from appliance.cli.options import Option, named, nested, option_name, options_of
from appliance.cli.orders import AtRestartOption, ForceOption, OrderError, ReasonOption, SocketOption, refused
from appliance.cli.output import API_VERSION, Exit, complain, facts, paint, print_json
from appliance.cli.plans import plan
from appliance.objects.canonical import hidden, without_nulls
from appliance.objects.kinds import (
    API,
    BGP,
    BGP_PEERS,
    CONNECTION_LOG,
    DIRECTOR,
    DOCTOR,
    FLEET,
    FLEET_DIRECTORS,
    HEALTH_MONITORS,
    NETWORK_PROFILES,
    POOLS,
    TIER2,
    VIRTUAL_SERVICES,
    Kind,
)

ConfigOption = Annotated[
    Path | None,
    Parameter(
        name="--config",
        help="Configuration file of the director to ask; without one that runs, the file itself is changed.",
    ),
]
DryRun = Annotated[
    bool, Parameter(name="--dry-run", negative="", show_default=False, help="Say what would happen, and do nothing.")
]
IfMatch = Annotated[
    str | None,
    Parameter(name="--if-match", help="Only while its ETag is this one; `show -o wide` has it."),
]
Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON.")]
Form = Literal["table", "wide", "json", "yaml", "toml"]

NAME = "name"
_NAME = inspect.Parameter(NAME, inspect.Parameter.POSITIONAL_ONLY, annotation=str)


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def app_of(kind: Kind, word: str, about: str) -> App:
    """The commands of a noun.

    Args:
        kind: of objects.
        word: the noun.
        about: one line of help.
    """
    app = App(name=word, help=about, help_formatter=HelpFormatter(), help_format="plaintext")
    for verb in VERBS if kind.key is not None else VERBS_OF_ONE:
        if verb != "delete" or not kind.needed:
            app.command(command(kind, verb), name=verb)
    return app


VERBS = ("list", "show", "create", "set", "delete")


def command(kind: Kind, verb: str) -> Callable[..., int]:
    """One command about objects of a kind."""
    if verb == "list":
        return _listing(kind)
    if verb == "show":
        return _showing(kind)
    if verb == "delete":
        return _deleting(kind)
    options = options_of(kind.table, without=(kind.key or "",))
    if verb == "create":
        return creating(kind, options, f"Make a {kind.one}.", "made")
    # Lists of tables would be replaced as a whole: members have commands of their own. Those that what there is one of
    # must have are given as it is made.
    fields = kind.table.model_fields
    first = {key for key in fields if kind.key is None and fields[key].is_required()}
    changing = [option for option in options if option.form != "tables" or option.keys[0] in first]
    text = f"Change some keys of a {kind.one}; what no option is given for stays."
    return setting(kind, changing, text if kind.key is not None else VERBS_OF_ONE["set"].format(kind.place[0]))


def _listing(kind: Kind) -> Callable[..., int]:
    def list_all(*, config: ConfigOption = None, socket: SocketOption = None, options: ListOptions = DEFAULTS) -> int:
        def fetch() -> Document:
            found = objects_at(socket, config).all(kind.noun)
            return {"kind": kind.noun, "items": [_item(one) for one in found]}

        return show_list(_view(kind), options, fetch)

    return _documented(list_all, f"List all: {kind.noun.replace('-', ' ')}.")


def _showing(kind: Kind) -> Callable[..., int]:
    def show(
        name: str = "",
        /,
        *,
        config: ConfigOption = None,
        socket: SocketOption = None,
        output: Annotated[
            Form, Parameter(name=["--output", "-o"], help="Keys and values, with ETag and file, or another format.")
        ] = "table",
        json: Json = False,
    ) -> int:
        try:
            found = find(objects_at(socket, config), kind.noun, name)
        except OrderError as error:
            return refused(error)
        print(shown(kind, found, "json" if json else output))
        return Exit.OK

    text = f"Show one {kind.one}: all keys, defaults too."
    return _named(show, kind, text if kind.key is not None else VERBS_OF_ONE["show"].format(kind.place[0]))


def creating(kind: Kind, options: Sequence[Option], text: str, done: str) -> Callable[..., int]:
    """The command that makes an object.

    Args:
        kind: of objects.
        options: that it takes.
        text: its help.
        done: what is said of the object afterwards.
    """

    def create(name: str, /, **given: Any) -> int:
        common, values = changed_by(given, options)
        own = kind.own_name(name)
        return change("POST", kind, name, {kind.key or NAME: own, **values}, common, options, done)

    return with_options(create, kind, options, text)


def setting(kind: Kind, options: Sequence[Option], text: str) -> Callable[..., int]:
    """The command that changes some keys of an object; see `creating`."""

    def set_keys(name: str = "", /, **given: Any) -> int:
        common, values = changed_by(given, options)
        for word in common.pop("unset") or ():
            keys = _keys_named(word, options)
            if keys is None:
                complain(f"--unset {word}: there is no option or key of that name; see `--help`")
                return Exit.USAGE
            values = _joined(values, nested({keys: None}))
        if not values:
            complain("nothing is to be changed; give an option, or --unset")
            return Exit.USAGE
        return change("PATCH", kind, name, values, common, options, "changed")

    return with_options(set_keys, kind, options, text, changes=True)


def _deleting(kind: Kind) -> Callable[..., int]:
    text = f"Remove a {kind.one}, unless something uses it."
    return deleting(kind, text if kind.key is not None else VERBS_OF_ONE["delete"].format(kind.place[0]))


def deleting(kind: Kind, text: str) -> Callable[..., int]:
    """The command that removes an object; see `creating`."""

    def delete(
        name: str = "",
        /,
        *,
        dry_run: DryRun = False,
        force: ForceOption = False,
        at_restart: AtRestartOption = False,
        if_match: IfMatch = None,
        reason: ReasonOption = "",
        config: ConfigOption = None,
        socket: SocketOption = None,
        json: Json = False,
    ) -> int:
        common = {
            "dry_run": dry_run,
            "force": force,
            "at_restart": at_restart,
            "if_match": if_match,
            "reason": reason,
            "config": config,
            "socket": socket,
            "json": json,
        }
        return change("DELETE", kind, name, None, common, (), "removed")

    return _named(delete, kind, text)


def _named(function: Callable[..., int], kind: Kind, text: str) -> Callable[..., int]:
    """A command with its help; it takes a name where there are several of the kind, and only then."""
    whole = inspect.signature(function, eval_str=True)
    named = [] if kind.key is None else [_NAME]
    parameters = [*named, *(one for one in whole.parameters.values() if one.name != NAME)]
    return _taking(function, parameters, text)


def _taking(function: Callable[..., int], parameters: Sequence[inspect.Parameter], text: str) -> Callable[..., int]:
    """A command that takes these; what one takes is read from its signature."""
    function.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": int}
    return _documented(function, text)


def _documented(function: Callable[..., int], text: str) -> Callable[..., int]:
    function.__doc__ = text
    return function


def with_options(
    function: Callable[..., int], kind: Kind, options: Sequence[Option], text: str, *, changes: bool = False
) -> Callable[..., int]:
    """A command whose options are those of a table, and the common ones."""
    own = [_parameter("_".join(option.keys), _annotation(option), None) for option in options]
    common = [
        _parameter("dry_run", DryRun, default=False),
        _parameter("force", ForceOption, default=False),
        _parameter("at_restart", AtRestartOption, default=False),
        _parameter("reason", ReasonOption, ""),
        _parameter("config", ConfigOption, None),
        _parameter("socket", SocketOption, None),
        _parameter("json", Json, default=False),
    ]
    if changes:
        unset = Annotated[
            list[str] | None,
            Parameter(name="--unset", help="Back to its default: an option, a key, a table."),
        ]
        common = [_parameter("unset", unset, None), _parameter("if_match", IfMatch, None), *common]
    return _taking(function, [*([] if kind.key is None else [_NAME]), *own, *common], text)


def _parameter(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _annotation(option: Option) -> Any:
    about = option.help if not option.words else f"{option.help} [one of {', '.join(option.words)}]"
    if option.form == "boolean":
        negative = option.names[0].replace("--", "--no-", 1)
        return Annotated[bool | None, Parameter(name=list(option.names), negative=negative, help=about)]
    if option.form in ("list", "tables", "pairs"):
        about += " Several: separated by commas, or given several times." if option.form == "list" else ""
        return Annotated[list[str] | None, Parameter(name=list(option.names), negative="", help=about)]
    return Annotated[str | None, Parameter(name=list(option.names), help=about)]


_NOT_GIVEN: Mapping[str, Any] = {
    "dry_run": False,
    "force": False,
    "at_restart": False,
    "if_match": None,
    "reason": "",
    "config": None,
    "socket": None,
    "json": False,
    "unset": None,
}


def changed_by(given: Mapping[str, Any], options: Sequence[Option]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is common to all commands, and the values of keys."""
    own = {"_".join(option.keys): option for option in options}
    # Only what was given is handed over.
    common = {**_NOT_GIVEN, **{name: value for name, value in given.items() if name not in own}}
    values = {option.keys: option.value(given[name]) for name, option in own.items() if given.get(name) is not None}
    return common, nested(values)


def _keys_named(word: str, options: Sequence[Option]) -> tuple[str, ...] | None:
    for option in options:
        if word in (*option.names, *(name.removeprefix("--") for name in option.names), ".".join(option.keys)):
            return option.keys
    # A table with all that it says.
    for option in options:
        for length in range(1, len(option.keys)):
            keys = option.keys[:length]
            if word in (name := option_name(keys), name.removeprefix("--"), ".".join(keys)):
                return keys
    return None


def _joined(values: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(values)
    for key, value in more.items():
        both = isinstance(made.get(key), dict) and isinstance(value, dict)
        made[key] = _joined(made[key], value) if both else value
    return made


# ---------------------------------------------------------------------------------------------------------------------
# Changing


def change(
    method: str,
    kind: Kind,
    name: str,
    values: Mapping[str, Any] | None,
    common: Mapping[str, Any],
    options: Sequence[Option],
    done: str,
) -> int:
    """Change one object, and print what came of it, or why it was not done."""
    if kind.within is not None and not all(name.partition("/")[::2]):
        complain(f"{name} is not {kind.within.one.upper()}/{kind.one.upper()}; `onward {kind.one} list` has them all")
        return Exit.USAGE
    try:
        objects = objects_at(common["socket"], common["config"])
        how = How(common["dry_run"], common["reason"], common["force"], common["at_restart"])
        lists = [one.names[0] for one in options if one.form == "tables" and values and one.keys[0] in values]
        if method == "PATCH" and kind.key is None and lists:
            if objects.all(kind.noun):
                complain(f"{lists[0]} is for the first time; they are there, and have commands of their own")
                return Exit.USAGE
            method, done = "PUT", "made"
        try:
            outcome = objects.change(method, kind.noun, name, values, match=common["if_match"], how=how)
        except OrderError as error:
            if error.code is not Exit.NOT_FOUND or method != "PATCH" or kind.key is not None:
                raise
            outcome = objects.change("PUT", kind.noun, name, values, match=common["if_match"], how=how)
            done = "made"
    except RefusedChangeError as error:
        for line in said(error, options):
            complain(line)
        return error.code
    except OrderError as error:
        return refused(error)
    show_change(objects, outcome, f"{kind.one} {name}".rstrip() + f" {done}", as_json=common["json"])
    return Exit.OK


def said(error: RefusedChangeError, options: Sequence[Option]) -> list[str]:
    """Mistakes at the options' names; those that are about something else at their place in the files."""
    lines = []
    for mistake in error.mistakes:
        option = named(options, mistake.keys) if mistake.keys is not None else None
        lines.append(f"{option or mistake.place}: {mistake.text}")
    return lines


def show_change(objects: Objects, outcome: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print what came of a change."""
    if as_json:
        print_json({key: value for key, value in outcome.items() if key != "apiVersion"})
        return
    if outcome["unchanged"] and not outcome.get("written"):
        print("nothing is different: what is written is so already")
        return
    if "consequences" in outcome:
        print("\n".join(plan(outcome["consequences"])))
    else:
        for line in str(outcome["diff"]).splitlines():
            print(paint(line, {"+": "32", "-": "31"}.get(line[:1], "0"), sys.stdout))
    if outcome["dry_run"]:
        print("nothing was changed (dry run)")
        return
    if outcome.get("at_restart") and outcome.get("staged") is not None:
        staged = outcome["staged"]
        keys = "; ".join(staged["takes_restart"])
        print(f"{text} for the next start; revision {staged['revision']} waits for a restart of the director: {keys}")
        return
    revision = outcome.get("revision")
    print(f"{text}; " + (f"revision {revision} is in force" if revision is not None else f"written to {objects.where}"))


# ---------------------------------------------------------------------------------------------------------------------
# Showing


def _item(one: Shown) -> dict[str, Any]:
    """Without secrets: `[hidden]` in their place means in a change that they stay."""
    values = hidden(one.values)
    return {"name": one.name, "etag": one.etag, "file": one.file, "used_by": list(one.used_by), "object": values}


def shown(kind: Kind, found: Shown, form: Form) -> str:
    """One object as text."""
    if form == "json":
        return jsons.dumps({"apiVersion": API_VERSION, "kind": kind.noun, **_item(found)}, indent=2, ensure_ascii=False)
    if form == "yaml":
        import yaml

        whole = {"apiVersion": API_VERSION, "kind": kind.noun, **_item(found)}
        return str(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)).rstrip()
    if form == "toml":
        return toml_of(kind, hidden(found.values))
    pairs = list(flat(hidden(found.values)))
    pairs.append(("used by", ", ".join(found.used_by) or "nothing"))
    if form == "wide":
        pairs += [("file", found.file), ("etag", found.etag)]
    return facts(pairs)


def flat(values: Mapping[str, Any], above: str = "") -> "list[tuple[str, str]]":
    """Keys with their paths, and values as text."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        path = f"{above}.{key}" if above else key
        if isinstance(value, Mapping):
            pairs += flat(value, path)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, one in enumerate(value):
                label = one.get("name") or one.get("address") or number
                brief = " ".join(f"{inner}={_word(each)}" for inner, each in flat(one) if each not in ("-", "none"))
                pairs.append((f"{path} {label}", brief))
        else:
            pairs.append((path, _word(value)))
    return pairs


def _word(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case list():
            return ", ".join(map(_word, value)) or "none"
    return str(value)


def toml_of(kind: Kind, values: Mapping[str, Any]) -> str:
    """An object as it could stand in a file, with all its keys."""
    import tomlkit

    document = tomlkit.document()
    inner: Any = [without_nulls(values)] if kind.key is not None else without_nulls(values)
    for key in reversed(kind.place):
        inner = {key: inner}
    document.update(inner)
    return tomlkit.dumps(document).rstrip()


def _view(kind: Kind) -> View:
    columns = [Column(title, _at(path), or_dash, right=right) for title, path, right in _COLUMNS[kind.noun]]
    return View(
        columns=(
            Column((kind.key or NAME).upper(), lambda row: row["name"]),
            *columns,
            Column("USED BY", lambda row: ", ".join(row["used_by"]), or_dash),
            Column("FILE", lambda row: row["file"], or_dash, wide=True),
            Column("ETAG", lambda row: row["etag"], wide=True),
        ),
        rows=lambda document: document["items"],
        name=lambda row: str(row["name"]),
        empty=f"There is no {kind.one} yet.",
    )


def _at(path: str) -> Callable[[Document], object]:
    def get(row: Document) -> object:
        value: Any = row["object"]
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, list):
            tables = bool(value) and isinstance(value[0], Mapping)
            return len(value) if tables or path == "member" else ",".join(map(str, value))
        return _word(value) if isinstance(value, bool) else value

    return get


_COLUMNS: Mapping[str, Sequence[tuple[str, str, bool]]] = {
    VIRTUAL_SERVICES.noun: (
        ("VIPS", "vips", False),
        ("PORTS", "ports", False),
        ("PROFILE", "network_profile", False),
        ("POOL", "pool", False),
        ("ENABLED", "enabled", False),
    ),
    POOLS.noun: (
        ("MEMBERS", "member", True),
        ("ALGORITHM", "algorithm", False),
        ("HASH", "hash", False),
        ("MONITORS", "health_monitors", False),
    ),
    NETWORK_PROFILES.noun: (
        ("TYPE", "type", False),
        ("DSR", "dsr.type", False),
        ("ENCAPSULATION", "dsr.encapsulation", False),
        ("IDLE S", "session_idle_timeout", True),
    ),
    HEALTH_MONITORS.noun: (
        ("TYPE", "type", False),
        ("VANTAGE", "vantage", False),
        ("INTERVAL", "send_interval", True),
        ("PORT", "monitor_port", True),
    ),
    BGP_PEERS.noun: (("AS", "remote_as", True), ("HOLD TIME", "hold_time", True), ("LABELS", "labels", False)),
    FLEET_DIRECTORS.noun: (("ADDRESS", "address", False), ("PORT", "port", True)),
}
"""By kind: titles, and where their values are."""

NOUNS: Mapping[str, tuple[Kind, str]] = {
    "virtualservice": (VIRTUAL_SERVICES, "Virtual services: VIPs, a protocol and ports, with a pool."),
    "service": (VIRTUAL_SERVICES, "The same as virtualservice."),
    "pool": (POOLS, "Pools: members, and how flows find them."),
    "networkprofile": (NETWORK_PROFILES, "Network profiles: TCP or UDP, and how packets get to members."),
    "profile": (NETWORK_PROFILES, "The same as networkprofile."),
    "healthmonitor": (HEALTH_MONITORS, "Health monitors: what members are asked, and how often."),
    "bgppeer": (BGP_PEERS, "BGP peers: routers that are told of VIPs."),
    "fleetdirector": (FLEET_DIRECTORS, "Directors of the fleet, which share VIPs."),
    "director": (DIRECTOR, "The director itself, as it is configured: interfaces, data plane, limits."),
    "fleet": (FLEET, "The fleet, as it is configured: its secret, other directors, the store."),
    "connectionlog": (CONNECTION_LOG, "The log of connections, as it is configured."),
    "api": (API, "The API, as it is configured: where it listens, and who may use it."),
    "bgp": (BGP, "BGP, as it is configured: the director's own side of it."),
    "doctor": (DOCTOR, "When the doctor looks at members by itself, and how it asks them."),
    "tier2": (TIER2, "The node of the second tier, as it is configured."),
}
"""What objects are called on the command line, as in the seed system."""


def __getattr__(name: str) -> "App | Callable[..., int]":
    """The commands of a noun, made when they are asked for: to read the schemas of all takes a moment. `bgp_set` is the
    one command `set` of `bgp`, and `tier2_config` all of `tier2` under another name."""
    if name in NOUNS:
        return app_of(NOUNS[name][0], name, NOUNS[name][1])
    noun, _, verb = name.rpartition("_")
    if noun in NOUNS and verb == "config":
        return app_of(NOUNS[noun][0], verb, NOUNS[noun][1])
    if noun in NOUNS and verb in VERBS:
        return command(NOUNS[noun][0], verb)
    raise AttributeError(name)

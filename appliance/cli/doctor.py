"""`onward doctor`: what of a DSR deployment is broken, and what to do about it."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter, with_object
from appliance.cli.orders import ConfigOption, OrderError, SocketOption, ask, refused, where
from appliance.cli.output import Exit, complain, paint, print_json, table

PATIENCE_S = 120.0
FOUND = 10
"""Exit code: something is broken."""


Document = Mapping[str, Any]

app = App(name="doctor", help_formatter=HelpFormatter(), help_format="plaintext")
with_object(app, "doctor")


@app.default
def doctor(
    service: str | None = None,
    member: str | None = None,
    /,
    *,
    report: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    client: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    last: Annotated[bool, Parameter(negative="")] = False,
    everything: Annotated[bool, Parameter(name=["--all", "-a"], negative="")] = False,
    config: ConfigOption = None,
    socket: SocketOption = None,
    output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Let a running director find out what of its members' DSR paths is broken, and say how to mend it.

    It asks every VIP and port through each member's DSR path, tries the size of the way, asks segments who answers for
    VIPs and next hops, and takes members' own view where `onward agent` runs there or a report of theirs is given. That
    takes some seconds, and changes nothing.

    Exit codes: 0 nothing is broken; 10 something is; 1 it could not look; 2 wrong usage; 3 no director answers; 5 there
    is no such virtual service or member.

    Parameters
    ----------
    service
        Only this virtual service.
    member
        Only this member, as POOL/MEMBER or its name.
    report
        POOL/MEMBER=FILE: what `onward agent --once` has printed there, or the JSON of a check of its set-up; - is
        standard input. May be repeated.
    client
        FILE with what `onward client` has printed where clients are; - is standard input. May be repeated.
    last
        Show what is known from earlier runs, and look at nothing.
    everything
        Show what is well or unknown, too.
    output
        A table, or JSON.
    """
    try:
        reports = dict(_report(text) for text in report)
        path = where(socket, config)
        if last:
            document = ask(path, "GET", "/v1/doctor")
        else:
            clients = [_read(file, "--client", "onward client") for file in client]
            body = {"service": service or "", "member": member or "", "reports": reports, "clients": clients}
            document = ask(path, "POST", "/v1/doctor", body, timeout_s=PATIENCE_S)
    except OrderError as error:
        return refused(error)
    except _UsageError as error:
        complain(str(error))
        return Exit.USAGE
    if last:
        document = _only(document, service, member)
    if output == "json":
        print_json(document)
    else:
        print(render(document, everything=everything))
    return FOUND if any(one["outcome"] == "fail" for one in document["findings"]) else Exit.OK


class _UsageError(Exception):
    """An argument is not what it should be."""


def _report(text: str) -> tuple[str, Any]:
    name, equals, file = text.partition("=")
    if not equals or "/" not in name:
        raise _UsageError(f"--report {text}: write POOL/MEMBER=FILE")
    return name, _read(file, "--report", "onward agent --once")


def _read(file: str, option: str, origin: str) -> Any:
    try:
        return json.loads(sys.stdin.read() if file == "-" else Path(file).read_text())
    except OSError as error:
        raise _UsageError(f"{option} {file}: {error.strerror or error}") from None
    except ValueError as error:
        raise _UsageError(f"{option} {file}: not what `{origin}` prints: {error}") from None


def _only(document: Document, service: str | None, member: str | None) -> dict[str, Any]:
    def wanted(one: Mapping[str, Any]) -> bool:
        name = one["member"] or ""
        return service in (None, one["service"]) and (member is None or member in (name, name.partition("/")[2]))

    return {**document, **{key: [one for one in document[key] if wanted(one)] for key in ("members", "findings")}}


def render(document: Document, *, everything: bool = False) -> str:
    """Members and whether DSR works with them, then what is broken, each with evidence and fix.

    Args:
        document: of the control socket.
        everything: also what is well or unknown.
    """
    if document["time"] is None:
        return "The doctor has not looked yet."
    rows = [
        (
            one["service"],
            one["member"],
            one["dsr_capable"],
            document["vantages"].get(one["member"], "") if one["dsr_capable"] != "yes" else "",
        )
        for one in document["members"]
    ]
    parts = [table(("SERVICE", "MEMBER", "DSR-CAPABLE", "OWN VIEW"), rows)] if rows else ["No members were looked at."]
    shown = [one for one in document["findings"] if everything or one["outcome"] == "fail"]
    parts += ["\n".join(_lines(one)) for one in sorted(shown, key=lambda one: _ORDER.index(one["outcome"]))]
    failed = sum(one["outcome"] == "fail" for one in document["findings"])
    unknown = sum(one["outcome"] == "unknown" for one in document["findings"])
    well = len(document["findings"]) - failed - unknown
    text = f"{failed} broken, {well} well, {unknown} unknown"
    if document.get("left_out"):
        text += f"; {document['left_out']} members were not looked at in this run"
    return "\n\n".join([*parts, text])


_ORDER: Sequence[str] = ("fail", "unknown", "pass")
_WORDS = {"fail": ("BROKEN", "31"), "unknown": ("unknown", "33"), "pass": ("well", "32")}


def _lines(one: Mapping[str, Any]) -> Iterator[str]:
    word, colour = _WORDS[one["outcome"]]
    whom = " ".join(filter(None, (one["service"], one["member"]))) or "this director"
    yield f"{paint(word, colour, sys.stdout)}  {one['check']}  {whom}: {one['text']}"
    for text in one["evidence"]:
        yield f"    seen: {text}"
    if one["fix"] is not None:
        yield f"    on the {one['fix']['where']}: {one['fix']['text']}"
        for command in one["fix"]["commands"]:
            yield f"        {command}"

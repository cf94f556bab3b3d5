"""`onward events`: what has happened, with cause and time."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from cyclopts import Parameter

from appliance.cli.orders import ConfigOption, OrderError, SocketOption, ask, refused, where
from appliance.cli.output import API_VERSION, Exit, Form, FormOption, complain, paint, structured, warn

LOOK_S = 0.5

_COLOURS = {"warning": "33", "error": "31", "critical": "31"}

Document = Mapping[str, Any]


def events(
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="", show_default=False)] = False,
    event: Annotated[str | None, Parameter(name="--event")] = None,
    level: Annotated[Literal["info", "warning", "error"] | None, Parameter(name="--level")] = None,
    member: Annotated[str | None, Parameter(name="--member")] = None,
    service: Annotated[str | None, Parameter(name="--service")] = None,
    vip: Annotated[str | None, Parameter(name="--vip")] = None,
    peer: Annotated[str | None, Parameter(name="--peer")] = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 100,
    output: FormOption = "table",
    as_json: Annotated[bool, Parameter(name="--json", negative="", show_default=False)] = False,
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Show what has happened at a running director lately: every change of state, with cause and time.

    What events mean stands in ARCHITECTURE.md. A director keeps the latest 2000; its log has all.

    Exit codes: 0 done; 1 refused; 3 nobody answers.

    Parameters
    ----------
    follow
        Go on with new ones, until Ctrl-C.
    event
        Only those of this name, or that begin so: member.in_rotation, member.*
    level
        Only what is so important at least.
    member
        Only those about this POOL/MEMBER.
    service
        Only those about this virtual service.
    vip
        Only those about this VIP.
    peer
        Only those about this BGP peer or director.
    limit
        The latest so many.
    as_json
        Print JSON, the same as -o json; with --follow an event a line.
    """
    form: Form = "json" if as_json else output
    wishes = {"event": event, "level": level, "member": member, "service": service, "vip": vip, "peer": peer}
    wanted = {key: value for key, value in wishes.items() if value is not None}
    try:
        path = where(socket, config)

        def look(**more: object) -> Document:
            return ask(path, "GET", f"/v1/events?{urlencode({**wanted, **more})}")

        document = look(limit=limit)
        if form != "table" and not follow:
            print(structured({"apiVersion": API_VERSION, "items": document["items"]}, form))
            return Exit.OK
        _print(document["items"], form)
        while follow:
            seen = document["last_id"]
            time.sleep(LOOK_S)
            try:
                document = look(after=seen, limit=2000)
            except OrderError as error:
                if error.code is not Exit.UNREACHABLE:
                    raise
                complain(str(error))  # it may be starting again
                continue
            if document["first_id"] > seen + 1:
                warn("some are missing here: the director keeps the latest 2000 only, or has started anew")
            _print(document["items"], form)
    except OrderError as error:
        return refused(error)
    except KeyboardInterrupt:
        pass
    return Exit.OK


def _print(items: Sequence[Document], form: Form) -> None:
    for one in items:
        print(line(one) if form == "table" else structured(one, form, on_a_line=True), flush=True)


def line(one: Document) -> str:
    """An event as text."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["at"]))
    fields = " ".join(f"{key}={_value(value)}" for key, value in one["fields"].items() if value not in ("", None))
    name = paint(f"{one['event']:<26}", _COLOURS.get(one["level"], "1"), sys.stdout)
    return f"{at}  {one['level']:<7}  {name}  {fields}".rstrip()


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() for c in text) else text

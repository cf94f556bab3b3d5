"""`onward member`: orders about members, and what is left of their flows."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter
from appliance.cli.orders import (
    ConfigOption,
    Document,
    DrainTimeout,
    OrderError,
    ReasonOption,
    SocketOption,
    ask,
    drain_body,
    give,
    refused,
    resource,
    where,
)
from appliance.cli.output import Exit, complain, print_json, table
from appliance.cli.waiting import Wait, WaitTimeout
from appliance.cli.waiting import wait as wait_for

app = App(
    name="member",
    help="Drain, stop, release or weight members; see what is left of their flows.",
    help_formatter=HelpFormatter(),
    help_format="plaintext",
)

_DIGITS = 9
"""What has more is no ratio; the director says which numbers are too large."""

AsJson = Annotated[bool, Parameter(name=["--json"], negative="")]


@app.command(name="list")
def list_members(
    pool: str | None = None,
    /,
    *,
    config: ConfigOption = None,
    socket: SocketOption = None,
    as_json: AsJson = False,
) -> int:
    """List members: state, health, ratio, what is left of their flows where flows are remembered.

    Parameters
    ----------
    pool
        Only those of this pool.
    as_json
        Print JSON.
    """
    try:
        members = ask(where(socket, config), "GET", "/v1/members")["members"]
    except OrderError as error:
        return refused(error)
    if pool is not None:
        members = [member for member in members if member["id"].partition("/")[0] == pool]
        if not members:
            complain(f"there is no pool {pool} with members in force")
            return Exit.NOT_FOUND
    if as_json:
        print_json({"members": members})
    else:
        header = ("MEMBER", "ADDRESS", "STATE", "HEALTH", "RATIO", "SHARE", "FLOWS KNOWN", "REASON")
        print(table(header, map(_row, members), right=("RATIO", "SHARE", "FLOWS KNOWN")))
    return Exit.OK


@app.command
def drain(
    member: str,
    /,
    *,
    timeout: DrainTimeout = None,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Give a member no new flows; those that it has go on.

    With the last members of a virtual service its VIP is withdrawn, unless other services need it, and what is left
    of its flows breaks. A warning says so first.

    With --wait: shows what is left until nothing is. Flows from before the drain that have been silent since are not
    known one by one: they may be there until the window closes (transition_window of the pool; where there is no fleet
    also transition_quiet).

    Exit codes: 0 done; 1 refused, or --wait-timeout is over with flows left, or the drain's own time is, and they were
    cut; 3 nobody answers; 5 no such member; 6 somebody has taken the drain back, or ordered maint, while we waited.

    Parameters
    ----------
    member
        POOL/MEMBER.
    timeout
        Seconds until what is left of its flows is cut; 0 is never. The pool's drain_timeout by default.
    wait
        Wait until the member has no flows any more.
    wait_timeout
        Seconds to wait at most.
    """
    try:
        path = where(socket, config)
        give(path, f"{resource(member)}/drain", drain_body(timeout, reason))
        print(f"{member}: takes no new flows", file=sys.stderr)
        if not wait:
            return Exit.OK
        return wait_for([member], lambda name: ask(path, "GET", f"{resource(name)}?limit=0"), wait_timeout)
    except OrderError as error:
        return refused(error)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        complain(f"{member} goes on draining; `onward member ready {member}` takes that back")
        return Exit.INTERRUPTED


@app.command
def ready(
    member: str, /, *, reason: ReasonOption = "", config: ConfigOption = None, socket: SocketOption = None
) -> int:
    """Take back a drain or a maintenance: the member gets its share of new flows again.

    Parameters
    ----------
    member
        POOL/MEMBER.
    """
    return _order(member, "ready", {"reason": reason}, "takes flows", config, socket)


@app.command
def maint(
    member: str, /, *, reason: ReasonOption = "", config: ConfigOption = None, socket: SocketOption = None
) -> int:
    """Send a member nothing at all from now on; the flows that it has break.

    With the last members of a virtual service its VIP is withdrawn, unless other services need it, and what is left
    of its flows breaks. A warning says so first.

    Parameters
    ----------
    member
        POOL/MEMBER.
    """
    return _order(member, "maint", {"reason": reason}, "gets nothing any more", config, socket)


@app.command
def weight(
    member: str,
    ratio: str,
    /,
    *,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Give a member another ratio than the configured one, until it is taken back.

    With 0 it gets no new flows.

    With the last members of a virtual service its VIP is withdrawn, unless other services need it, and what is left
    of its flows breaks. A warning says so first.

    Parameters
    ----------
    member
        POOL/MEMBER.
    ratio
        A whole number from 0, or "default" for the configured one.
    """
    if ratio != "default" and not (ratio.isdecimal() and len(ratio) <= _DIGITS):
        complain(f'{ratio[:20]} is no ratio; give a whole number from 0, or "default"')
        return Exit.USAGE
    wanted = None if ratio == "default" else int(ratio)
    said = "has its configured ratio again" if wanted is None else f"has ratio {wanted}"
    return _order(member, "weight", {"ratio": wanted, "reason": reason}, said, config, socket)


@app.command
def flows(
    member: str,
    /,
    *,
    limit: int = 20,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative="")] = False,
    config: ConfigOption = None,
    socket: SocketOption = None,
    as_json: AsJson = False,
) -> int:
    """Show the flows of a member that are remembered, and who they are.

    Where a pool places flows by hash, flows are remembered only while their slots change hands: most are not visible.

    Parameters
    ----------
    member
        POOL/MEMBER.
    limit
        How many flows to show, those that were active latest first.
    watch
        Show again every second, until Ctrl-C.
    as_json
        Print JSON.
    """
    try:
        path = where(socket, config)
        while True:
            document = ask(path, "GET", f"{resource(member)}?limit={limit}")
            if as_json:
                print(json.dumps(document), flush=True) if watch else print_json(document)
            else:
                if watch and sys.stdout.isatty():
                    print("\x1b[H\x1b[J", end="")
                print(_flows(document), flush=True)
            if not watch:
                return Exit.OK
            time.sleep(1.0)
    except OrderError as error:
        return refused(error)
    except KeyboardInterrupt:
        return Exit.OK


def _order(member: str, order: str, body: Document, said: str, config: ConfigOption, socket: SocketOption) -> int:
    try:
        give(where(socket, config), f"{resource(member)}/{order}", body)
    except OrderError as error:
        return refused(error)
    print(f"{member}: {said}", file=sys.stderr)
    return Exit.OK


def _row(member: Document) -> Sequence[object]:
    known = member["flows"]
    count = known["open"] + known["closing"]
    shown = count if count or member["state"] == "draining" else "-"
    return (
        member["id"],
        member["address"],
        member["state"] + (" (drained)" if member["drained"] and member["state"] == "draining" else ""),
        member["health"],
        member["ratio"],
        f"{member['share']:.1%}",
        shown,
        member["reason"] or "",
    )


def _flows(document: Document) -> str:
    known = document["flows"]
    total = known["open"] + known["closing"]
    head = (
        f"{document['id']}: {document['state']}, {total} flows known: {known['open']} open, {known['closing']} closing"
    )
    if not known["known"]:
        return head
    rows = [
        (
            _endpoint(flow["client"], flow["client_port"]),
            _endpoint(flow["vip"], flow["port"]),
            flow["protocol"],
            flow["state"],
            f"{flow['idle_s']:.0f}",
            f"{flow['age_s']:.0f}",
        )
        for flow in known["known"]
    ]
    header = ("CLIENT", "VIP", "PROTOCOL", "STATE", "IDLE S", "KNOWN S")
    return head + "\n" + table(header, rows, right=("IDLE S", "KNOWN S"))


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

"""`onward member`: orders about members, and what is left of their flows."""

import sys
from collections.abc import Iterator

from cyclopts import App

from appliance.cli.help import HelpFormatter
from appliance.cli.listing import DEFAULTS, Column, Document, ListOptions, NotFoundError, View, or_dash, show
from appliance.cli.orders import (
    ConfigOption,
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
from appliance.cli.output import Exit, complain
from appliance.cli.plans import ordered
from appliance.cli.waiting import Wait, WaitTimeout
from appliance.cli.waiting import wait as wait_for

app = App(
    name="member",
    help="Drain, stop, release or weight members; see what is left of their flows; add, change and remove them.",
    help_formatter=HelpFormatter(),
    help_format="plaintext",
)
app.command("appliance.cli.server:add", name="add", help="Add a member to a pool.")
app.command("appliance.cli.server:set_keys", name="set", help="Change some keys of a member, as configured.")
app.command("appliance.cli.server:remove", name="remove", help="Remove a member from a pool.")
server = App(name="server", help="The same as member.", help_formatter=HelpFormatter(), help_format="plaintext")
server.command(app, name="*")

_DIGITS = 9
"""What has more is no ratio; the director says which numbers are too large."""


@app.command(name="list")
def list_members(
    pool: str | None = None,
    /,
    *,
    config: ConfigOption = None,
    socket: SocketOption = None,
    options: ListOptions = DEFAULTS,
) -> int:
    """List members: state, health, ratio, what is left of their flows where flows are remembered.

    Parameters
    ----------
    pool
        Only those of this pool.
    """

    def members() -> Document:
        found = ask(where(socket, config), "GET", "/v1/members")["members"]
        if pool is not None:
            found = [member for member in found if member["id"].partition("/")[0] == pool]
            if not found:
                raise NotFoundError(f"there is no pool {pool} with members in force")
        return {"members": found}

    return show(MEMBERS, options, members)


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
    config: ConfigOption = None,
    socket: SocketOption = None,
    options: ListOptions = DEFAULTS,
) -> int:
    """Show the flows of a member that are remembered, and who they are.

    Where a pool places flows by hash, flows are remembered only while their slots change hands: most are not visible.

    Parameters
    ----------
    member
        POOL/MEMBER.
    limit
        How many flows to show, those that were active latest first.
    """
    return show(FLOWS, options, lambda: ask(where(socket, config), "GET", f"{resource(member)}?limit={limit}"))


def _order(member: str, order: str, body: Document, said: str, config: ConfigOption, socket: SocketOption) -> int:
    try:
        give(where(socket, config), f"{resource(member)}/{order}", body)
    except OrderError as error:
        return refused(error)
    print(f"{member}: {said}", file=sys.stderr)
    return Exit.OK


def _state(member: Document) -> str:
    drained = member["drained"] and member["state"] == "draining"
    return str(member["state"]) + (" (drained)" if drained else "")


def _known(member: Document) -> int | None:
    count = int(member["flows"]["open"] + member["flows"]["closing"])
    return count if count or member["state"] == "draining" else None


def _ratio(member: Document) -> tuple[int, str]:
    """To sort by, and to show."""
    return member["ratio"], _marked(member["ratio"], member, "ratio", None)


def _marked(text: object, member: Document, key: str, as_configured: object) -> str:
    """With a `*` where an operator has ordered it."""
    order = member["order"]
    return f"{text}*" if order is not None and order[key] != as_configured else str(text)


def _below(document: Document) -> Iterator[str]:
    if any(ordered(member) for member in document["members"]):
        yield ""
        yield "* ordered by an operator, beside the configuration; `onward reload --reset-runtime` takes all of it back"


MEMBERS = View(
    columns=(
        Column("MEMBER", lambda member: member["id"]),
        Column("ADDRESS", lambda member: member["address"]),
        Column("STATE", lambda member: _marked(_state(member), member, "state", "ready")),
        Column("HEALTH", lambda member: member["health"]),
        Column("RATIO", _ratio, lambda ratio: ratio[1], right=True),
        Column("SHARE", lambda member: member["share"], lambda share: f"{share:.1%}", right=True),
        Column("FLOWS KNOWN", _known, or_dash, right=True),
        Column("ORDERED", ordered, or_dash, wide=True),
        Column("REASON", lambda member: member["reason"] or ""),
    ),
    rows=lambda document: document["members"],
    name=lambda member: str(member["id"]),
    below=_below,
)


def _flows_above(document: Document) -> Iterator[str]:
    known = document["flows"]
    total = known["open"] + known["closing"]
    yield (
        f"{document['id']}: {document['state']}, {total} flows known: {known['open']} open, {known['closing']} closing"
    )


FLOWS = View(
    columns=(
        Column("CLIENT", lambda flow: _endpoint(flow["client"], flow["client_port"])),
        Column("VIP", lambda flow: _endpoint(flow["vip"], flow["port"])),
        Column("PROTOCOL", lambda flow: flow["protocol"]),
        Column("STATE", lambda flow: flow["state"]),
        Column("IDLE S", lambda flow: flow["idle_s"], lambda seconds: f"{seconds:.0f}", right=True),
        Column("KNOWN S", lambda flow: flow["age_s"], lambda seconds: f"{seconds:.0f}", right=True),
    ),
    rows=lambda document: document["flows"]["known"],
    name=lambda flow: _endpoint(flow["client"], flow["client_port"]),
    above=_flows_above,
)


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

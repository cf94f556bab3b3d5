"""`onward node`: orders about a machine, in all pools that it is a member of."""

import sys
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

from cyclopts import App

from appliance.cli.help import HelpFormatter
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
from appliance.cli.waiting import Wait, WaitTimeout
from appliance.cli.waiting import wait as wait_for

app = App(
    name="node",
    help="The same for a machine, in all pools that it is a member of.",
    help_formatter=HelpFormatter(),
    help_format="plaintext",
)


@app.command
def drain(
    address: str,
    /,
    *,
    timeout: DrainTimeout = None,
    wait: Wait = False,
    wait_timeout: WaitTimeout = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Give the members with an address no new flows, in all pools.

    With the last members of a virtual service its VIP is withdrawn, unless other services need it, and what is left
    of its flows breaks. A warning says so first.

    With --wait: shows what is left until nothing is, as `onward member drain --wait` does, with the same exit codes.

    Parameters
    ----------
    address
        The members' own address.
    timeout
        Seconds until what is left of their flows is cut; 0 is never. The pools' drain_timeout by default.
    wait
        Wait until none of the members has flows any more.
    wait_timeout
        Seconds to wait at most.
    """
    try:
        path = where(socket, config)
        members = _give(path, address, "drain", drain_body(timeout, reason))
        if not wait:
            return Exit.OK
        return wait_for(members, lambda name: ask(path, "GET", f"{resource(name)}?limit=0"), wait_timeout)
    except OrderError as error:
        return refused(error)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        complain(f"{address} goes on draining; `onward node ready {address}` takes that back")
        return Exit.INTERRUPTED


@app.command
def ready(
    address: str, /, *, reason: ReasonOption = "", config: ConfigOption = None, socket: SocketOption = None
) -> int:
    """Take back drains and maintenances of the members with an address.

    Parameters
    ----------
    address
        The members' own address.
    """
    return _order(address, "ready", {"reason": reason}, config, socket)


@app.command
def maint(
    address: str, /, *, reason: ReasonOption = "", config: ConfigOption = None, socket: SocketOption = None
) -> int:
    """Send the members with an address nothing at all from now on.

    With the last members of a virtual service its VIP is withdrawn, unless other services need it, and what is left
    of its flows breaks. A warning says so first.

    Parameters
    ----------
    address
        The members' own address.
    """
    return _order(address, "maint", {"reason": reason}, config, socket)


def _order(address: str, order: str, body: dict[str, object], config: ConfigOption, socket: SocketOption) -> int:
    try:
        _give(where(socket, config), address, order, body)
    except OrderError as error:
        return refused(error)
    return Exit.OK


def _give(path: Path, address: str, order: str, body: dict[str, object]) -> list[str]:
    """Returns the members that it is for.

    Raises:
        OrderError: it is no address, or as `give`.
    """
    try:
        ip_address(address)
    except ValueError:
        raise OrderError(f"{address} is not an IP address; give the members' own", Exit.USAGE) from None
    members: list[str] = give(path, f"/v1/nodes/{quote(address, safe='')}/{order}", body)["members"]
    print(f"{order}: {', '.join(members)}", file=sys.stderr)
    return members

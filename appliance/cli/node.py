"""`onward node`: orders about a machine, in all pools that it is a member of."""

import sys

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
    refused,
    where,
)
from appliance.cli.output import Exit

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
    reason: ReasonOption = "",
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Give the members with an address no new flows, in all pools.

    Parameters
    ----------
    address
        The members' own address.
    timeout
        Seconds until what is left of their flows is cut; 0 is never. The pools' drain_timeout by default.
    """
    return _order(address, "drain", drain_body(timeout, reason), config, socket)


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

    Parameters
    ----------
    address
        The members' own address.
    """
    return _order(address, "maint", {"reason": reason}, config, socket)


def _order(address: str, order: str, body: dict[str, object], config: ConfigOption, socket: SocketOption) -> int:
    try:
        members = ask(where(socket, config), "POST", f"/v1/nodes/{address}/{order}", body)["members"]
    except OrderError as error:
        return refused(error)
    print(f"{order}: {', '.join(members)}", file=sys.stderr)
    return Exit.OK

"""`onward node`: orders about a machine, in all pools that it is a member of."""

import sys
from typing import Annotated

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter
from appliance.cli.member import Reason
from appliance.cli.orders import ConfigOption, OrderError, SocketOption, ask, refused, where
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
    timeout: Annotated[float | None, Parameter(name="--timeout")] = None,
    reason: Reason = "",
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
    reason
        A note for the log.
    config
        Configuration file of the director to ask.
    socket
        Control socket of the director to ask.
    """
    body: dict[str, object] = {"reason": reason}
    if timeout is not None:
        body["timeout_s"] = timeout or None
    return _order(address, "drain", body, config, socket)


@app.command
def ready(address: str, /, *, reason: Reason = "", config: ConfigOption = None, socket: SocketOption = None) -> int:
    """Take back drains and maintenances of the members with an address.

    Parameters
    ----------
    address
        The members' own address.
    reason
        A note for the log.
    config
        Configuration file of the director to ask.
    socket
        Control socket of the director to ask.
    """
    return _order(address, "ready", {"reason": reason}, config, socket)


@app.command
def maint(address: str, /, *, reason: Reason = "", config: ConfigOption = None, socket: SocketOption = None) -> int:
    """Send the members with an address nothing at all from now on.

    Parameters
    ----------
    address
        The members' own address.
    reason
        A note for the log.
    config
        Configuration file of the director to ask.
    socket
        Control socket of the director to ask.
    """
    return _order(address, "maint", {"reason": reason}, config, socket)


def _order(address: str, order: str, body: dict[str, object], config: ConfigOption, socket: SocketOption) -> int:
    try:
        members = ask(where(socket, config), "POST", f"/v1/nodes/{address}/{order}", body)["members"]
    except OrderError as error:
        return refused(error)
    print(f"{order}: {', '.join(members)}", file=sys.stderr)
    return Exit.OK

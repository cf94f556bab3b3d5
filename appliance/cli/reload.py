"""`onward reload`."""

from typing import Annotated

from cyclopts import Parameter

from appliance.cli.orders import (
    CHANGE_TIMEOUT_S,
    ConfigOption,
    OrderError,
    ReasonOption,
    SocketOption,
    ask,
    refused,
    resource,
    where,
)
from appliance.cli.plans import orders_at, show_outcome

REFUSED = (409, 422, 500, 503)
"""Statuses whose documents say what became of a change."""


def reload(
    *,
    dry_run: Annotated[bool, Parameter(name="--dry-run", negative="")] = False,
    reset_runtime: Annotated[bool, Parameter(name="--reset-runtime", negative="", show_default=False)] = False,
    json: Annotated[bool, Parameter(name="--json", negative="", show_default=False)] = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Let a running director read its configuration again: the file, and `conf.d/*.toml` beside it.

    It is applied whole or not at all. Exit code 4 when something in it is wrong, 1 when it could not be put into force
    or kept; then what was in force still is. 8 when no answer came: `onward config history` says whether it was taken.

    What operators have ordered of members (`onward member drain`, `maint`, `weight`) is no part of the configuration
    and stays, also over restarts, stops and reboots.

    Parameters
    ----------
    dry_run
        Say what would happen, and do nothing.
    reset_runtime
        Take such orders back as well, when the configuration is in force: members are as it says.
    json
        Print JSON.
    """
    try:
        body = {"dry_run": dry_run, "reason": reason}
        path = where(socket, config)
        outcome = ask(path, "POST", "/v1/config/reload", body, timeout_s=CHANGE_TIMEOUT_S, also=REFUSED)
        if dry_run or reset_runtime:
            outcome |= {"orders": orders_at(path), "orders_reset": reset_runtime}
        if reset_runtime and outcome["ok"] and not dry_run:
            for one in outcome["orders"]:
                ask(path, "PATCH", resource(one["member"]), {"state": "ready", "ratio": None, "reason": reason})
    except OrderError as error:
        return refused(error)
    return show_outcome(outcome, json=json)

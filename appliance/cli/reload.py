"""`onward reload`."""

from typing import Annotated

from cyclopts import Parameter

from appliance.cli.orders import ConfigOption, OrderError, ReasonOption, SocketOption, ask, refused, where
from appliance.cli.plans import show_outcome

TIMEOUT_S = 120.0
REFUSED = (409, 422, 500)
"""Statuses whose documents say what became of a change."""


def reload(
    *,
    dry_run: Annotated[bool, Parameter(name="--dry-run", negative="")] = False,
    json: Annotated[bool, Parameter(name="--json", negative="", show_default=False)] = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Let a running director read its configuration again: the file, and `conf.d/*.toml` beside it.

    It is applied whole or not at all. Exit code 4 when something in it is wrong, 1 when it could not be put into force
    or kept; then what was in force still is.

    Parameters
    ----------
    dry_run
        Say what would happen, and do nothing.
    json
        Print JSON.
    """
    try:
        body = {"dry_run": dry_run, "reason": reason}
        path = where(socket, config)
        outcome = ask(path, "POST", "/v1/config/reload", body, timeout_s=TIMEOUT_S, also=REFUSED)
    except OrderError as error:
        return refused(error)
    return show_outcome(outcome, json=json)
